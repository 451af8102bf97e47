package check

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/evenkeel/evenkeel/internal/event"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/pdb"
	"github.com/evenkeel/evenkeel/policy"
)

// oldest is the first minor version of Kubernetes with preStop.sleep.
const oldest = 30

// Judge decides over an installation, in the order in which its parts need each other.
// Where none is installed, the first failure is all that there is to say.
func Judge(s *State) []Result {
	results := []Result{versions(s), webhook(s)}
	if s.Configurations.Err == nil && len(s.Configurations.Value) == 0 {
		return results
	}
	read := []Result{replicas(s), bundle(s), certificates(s), leader(s), budgets(s)}
	if s.ReadOnly {
		return append(results, read...)
	}
	return append(append(append(results, rights(s)), read...), trial(s))
}

// JudgeBefore decides whether evenkeel can be installed.
func JudgeBefore(s *State) []Result {
	return []Result{versions(s), absent(s), mayInstall(s)}
}

// unread is the result where a question could not be answered.
func unread(name, what string, err error) Result {
	r := Result{Check: name, Status: Unknown, Text: what + " can't be read: " + err.Error(), Advice: "Look whether " +
		"the API server answers, and run the check again."}
	if apierrors.IsForbidden(err) {
		r.Text = what + " may not be read by this user."
		r.Advice = "Run the check as a user who may, such as one with the ClusterRole view and get, list on it."
	}
	return r
}

func versions(s *State) Result {
	const name = "versions"
	switch {
	case s.APIServer.Err != nil:
		return unread(name, "The version of the API server", s.APIServer.Err)
	case !s.APIServer.Value.AtLeast(oldest):
		return Result{name, Failed, fmt.Sprintf("The API server is %s; evenkeel needs 1.%d.", s.APIServer.Value, oldest),
			"Upgrade Kubernetes, or let evenkeel use the images' own sleep with --allow-exec-sleep."}
	case s.OldestKubelet.Err != nil:
		return unread(name, fmt.Sprintf("The API server is %s. The versions of the "+
			"kubelets", s.APIServer.Value), s.OldestKubelet.Err)
	case s.OldestKubelet.Value == patches.Version{}:
		return Result{name, Warning,
			fmt.Sprintf("The API server is %s, and there is no node.", s.APIServer.Value), "Add nodes: evenkeel runs on them."}
	case !s.OldestKubelet.Value.AtLeast(oldest):
		return Result{name, Failed,
			fmt.Sprintf("The oldest kubelet is %s; the sleep needs 1.%d.", s.OldestKubelet.Value, oldest),
			"Upgrade that node, or let evenkeel use the images' own sleep with --allow-exec-sleep."}
	}
	return Result{name, OK,
		fmt.Sprintf("API server %s, oldest kubelet %s.", s.APIServer.Value, s.OldestKubelet.Value), ""}
}

// absent says before an installation whether there is one already.
func absent(s *State) Result {
	const name = "webhook"
	switch {
	case s.Configurations.Err != nil:
		return unread(name, "Webhook configurations", s.Configurations.Err)
	case len(s.Configurations.Value) > 0:
		return Result{name, Warning, "evenkeel is installed already, as " + s.Configurations.Value[0].Name + ".",
			"Run evenkeel check without --pre. To apply deploy/ is an upgrade."}
	}
	return Result{name, OK, "No evenkeel is installed yet.", ""}
}

func mayInstall(s *State) Result {
	const name = "rights"
	switch {
	case s.Missing.Err != nil:
		return unread(name, "What this user may do", s.Missing.Err)
	case len(s.Missing.Value) > 0:
		return Result{name, Failed,
			"This user may not " + written(s.Missing.Value) + ".",
			"Install evenkeel as a user with the ClusterRole cluster-admin."}
	}
	return Result{name, OK, "This user may create all that deploy/ holds.", ""}
}

// lastConfiguration is the webhook configuration beside evenkeel's other one that the API server calls
// after those of others.
const lastConfiguration = "zzz-evenkeel"

func webhook(s *State) Result {
	const name = "webhook"
	list := slices.DeleteFunc(slices.Clone(s.Configurations.Value),
		func(c admissionregistrationv1.MutatingWebhookConfiguration) bool { return c.Name == lastConfiguration })
	switch {
	case s.Configurations.Err != nil:
		return unread(name, "Webhook configurations", s.Configurations.Err)
	case len(list) == 0:
		return Result{name, Failed,
			"There is no webhook configuration with the label app.kubernetes.io/name=evenkeel: nothing gets defaults.",
			"Install evenkeel: kubectl apply -k deploy/, or helm install. evenkeel check --pre says whether that can work."}
	case len(list) > 1:
		var names []string
		for i := range list {
			names = append(names, list[i].Name)
		}
		return Result{name, Warning,
			"There are several webhook configurations: " + strings.Join(names, ", ") + ".",
			"Delete the one that is left from another installation."}
	case len(list[0].Webhooks) == 0:
		return Result{name, Failed,
			"The webhook configuration " + list[0].Name + " has no webhook.", "Apply deploy/ again, or run helm upgrade."}
	case len(s.Late) > 0 && len(list) < len(s.Configurations.Value):
		return Result{name, Warning,
			fmt.Sprintf("The API server calls %s after %s: a Pod that it changes may be refused for what evenkeel added.",
				s.Late[0], lastConfiguration),
			"Give that webhook configuration a name before " + lastConfiguration + "."}
	}
	failurePolicy := admissionregistrationv1.Ignore
	if p := list[0].Webhooks[0].FailurePolicy; p != nil {
		failurePolicy = *p
	}
	return Result{name, OK,
		fmt.Sprintf("The API server calls Service %s/evenkeel, failurePolicy %s.", s.Namespace, failurePolicy), ""}
}

// written lists rights for people.
func written(rights []Right) string {
	const most = 4
	var parts []string
	for i, r := range rights {
		if i == most {
			parts = append(parts, fmt.Sprintf("%d more", len(rights)-most))
			break
		}
		resource := r.Resource
		if r.Group != "" {
			resource += "." + r.Group
		}
		parts = append(parts, r.Verb+" "+resource)
	}
	return strings.Join(parts, ", ")
}

func rights(s *State) Result {
	const name = "rights"
	switch {
	case s.Denied.Err != nil:
		return unread(name, "What evenkeel's account may do", s.Denied.Err)
	case len(s.Denied.Value) > 0:
		return Result{name, Failed, "evenkeel's account may not " + written(s.Denied.Value) + ".",
			"Apply the ClusterRole, Role and bindings of deploy/base/rbac.yaml again, or run helm upgrade."}
	}
	return Result{name, OK, "evenkeel's account may do what it needs.", ""}
}

func replicas(s *State) Result {
	const name = "replicas"
	d := s.Deployment.Value
	switch {
	case s.Deployment.Err != nil:
		return unread(name, "The Deployment of evenkeel", s.Deployment.Err)
	case d == nil:
		return Result{name, Failed,
			"Namespace " + s.Namespace + " has no Deployment of evenkeel.", "Apply deploy/ again, or run helm upgrade."}
	}
	wanted := int32(1)
	if d.Spec.Replicas != nil {
		wanted = *d.Spec.Replicas
	}
	ready := d.Status.ReadyReplicas
	look := fmt.Sprintf("Run kubectl -n %s describe pods, and look into the log.", s.Namespace)
	switch {
	case ready == 0:
		return Result{name, Failed,
			fmt.Sprintf("None of %d replicas is ready: workloads are admitted without defaults, or refused with "+
				"failurePolicy Fail.", wanted), look}
	case ready < wanted:
		return Result{name, Warning, fmt.Sprintf("%d of %d replicas are ready.", ready, wanted), look}
	case wanted == 1:
		return Result{name, Warning, "There is one replica: while it restarts, workloads are admitted without defaults.",
			fmt.Sprintf("Run kubectl -n %s scale deployment %s --replicas=3, and set it where it is installed "+
				"from.", s.Namespace, d.Name)}
	case s.Pods.Err != nil:
		return unread(name, fmt.Sprintf("%d of %d replicas are ready. Their pods", ready, wanted), s.Pods.Err)
	}
	nodes := map[string]bool{}
	for i := range s.Pods.Value {
		if p := &s.Pods.Value[i]; p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil {
			nodes[p.Spec.NodeName] = true
		}
	}
	if len(nodes) == 1 {
		return Result{name, Warning,
			fmt.Sprintf("All %d replicas are on one node.", ready), "Delete one of the pods once another node has room."}
	}
	return Result{name, OK, fmt.Sprintf("%d of %d are ready, on %d nodes.", ready, wanted, len(nodes)), ""}
}

// certificatesIn returns the certificates of a text in PEM.
func certificatesIn(text []byte) []*x509.Certificate {
	var list []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return list
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			list = append(list, c)
		}
	}
}

// bundles returns the certificates of the caBundle of each webhook.
func bundles(s *State) (names []string, certificates [][]*x509.Certificate) {
	for i := range s.Configurations.Value {
		for k := range s.Configurations.Value[i].Webhooks {
			w := &s.Configurations.Value[i].Webhooks[k]
			names, certificates = append(names, w.Name), append(certificates, certificatesIn(w.ClientConfig.CABundle))
		}
	}
	return names, certificates
}

// trusts reports whether a bundle has all that is needed to verify what is signed: one of
// the authorities itself, or one that has signed it.
func trusts(bundle, signed []*x509.Certificate) bool {
	return slices.ContainsFunc(signed, func(c *x509.Certificate) bool {
		return slices.ContainsFunc(bundle, func(authority *x509.Certificate) bool {
			return authority.Equal(c) || c.CheckSignatureFrom(authority) == nil
		})
	})
}

func bundle(s *State) Result {
	const name = "caBundle"
	if s.Configurations.Err != nil {
		return unread(name, "Webhook configurations", s.Configurations.Err)
	}
	for _, e := range s.Resets.Value {
		if s.Now.Sub(e.LastTimestamp.Time) < event.CertificatesResetAgain+time.Minute {
			return Result{name, Failed, fmt.Sprintf("%s %s, %s ago: %s.", e.InvolvedObject.Kind, e.InvolvedObject.Name,
				s.Now.Sub(e.LastTimestamp.Time).Round(time.Second), strings.TrimSuffix(e.Message, ".")),
				"Let that tool pass over the field. This is said until ten minutes after the last time."}
		}
	}
	names, certificates := bundles(s)
	for i := range names {
		if len(certificates[i]) == 0 {
			return Result{name, Failed,
				"Webhook " + names[i] + " has no certificate in its caBundle: the API server trusts nobody.",
				"evenkeel writes it once a replica leads: look at the leader below and into the log. With certificates of a " +
					"Secret, set certificates.caBundle."}
		}
	}
	if s.Resets.Err != nil {
		return unread(name, "Events about the caBundle", s.Resets.Err)
	}
	if s.Signed.Err != nil {
		return unread(name, "The certificates to compare the caBundle with", s.Signed.Err)
	}
	signed := certificatesIn(s.Signed.Value)
	for i := range names {
		if !trusts(certificates[i], signed) {
			return Result{name, Failed,
				"The caBundle of webhook " + names[i] + " is not that of evenkeel's certificates: the API server doesn't " +
					"trust it.",
				"Restart evenkeel, which writes it: kubectl -n " + s.Namespace + " rollout restart deployment evenkeel. " +
					"With certificates of a Secret, set certificates.caBundle to the CA of that Secret."}
		}
	}
	return Result{name, OK, "The API server trusts evenkeel's certificates.", ""}
}

// certificates looks at the lifetimes of what the API server trusts.
func certificates(s *State) Result {
	const name = "certificates"
	if s.Configurations.Err != nil {
		return unread(name, "Webhook configurations", s.Configurations.Err)
	}
	var last *x509.Certificate
	_, lists := bundles(s)
	for _, c := range slices.Concat(lists...) {
		if last == nil || c.NotAfter.After(last.NotAfter) {
			last = c
		}
	}
	if last == nil {
		return Result{name, Failed, "There is none.", "See caBundle above."}
	}
	left := last.NotAfter.Sub(s.Now)
	text := fmt.Sprintf("The authority lasts until %s.", last.NotAfter.UTC().Format(time.DateOnly))
	switch {
	case left <= 0:
		return Result{name, Failed,
			"The authority has ended on " + last.NotAfter.UTC().Format(time.DateOnly) + ": the API server trusts nobody.",
			"Look into the log why it was not replaced: mostly rights on the Secret or on the webhook configuration."}
	case left < last.NotAfter.Sub(last.NotBefore)/4:
		return Result{name, Warning,
			text + " It should have been replaced by now.", "Look into the leader's log: mostly rights on the Secret, or " +
				"no leader."}
	}
	return Result{name, OK, text, ""}
}

func leader(s *State) Result {
	const name = "leader"
	advice := fmt.Sprintf("Look at kubectl -n %s get lease evenkeel -o yaml and into the log: mostly rights on the "+
		"Lease, or no replica runs.", s.Namespace)
	l := s.Lease.Value
	switch {
	case s.Lease.Err != nil:
		return unread(name, "The Lease of evenkeel", s.Lease.Err)
	case l == nil:
		return Result{name, Failed, "There is no Lease: nobody leads, so nobody writes budgets or certificates.", advice}
	case l.Spec.HolderIdentity == nil || *l.Spec.HolderIdentity == "" || l.Spec.RenewTime == nil:
		return Result{name, Failed,
			"The Lease has no holder: nobody leads, so nobody writes budgets or certificates.", advice}
	}
	duration := 15 * time.Second
	if l.Spec.LeaseDurationSeconds != nil {
		duration = time.Duration(*l.Spec.LeaseDurationSeconds) * time.Second
	}
	if since := s.Now.Sub(l.Spec.RenewTime.Time); since > 2*duration {
		return Result{name, Failed,
			fmt.Sprintf("The leader %s has been away for %s.", *l.Spec.HolderIdentity, since.Round(time.Second)), advice}
	}
	return Result{name, OK, "It is " + *l.Spec.HolderIdentity + ".", ""}
}

func budgets(s *State) Result {
	const name = "budgets"
	if s.Budgets.Err != nil {
		return unread(name, "PodDisruptionBudgets", s.Budgets.Err)
	}
	aside, waiting := 0, 0
	for i := range s.Budgets.Value {
		switch b := &s.Budgets.Value[i]; {
		case b.Annotations[pdb.AsideAnnotation] != "":
			aside++
		case !inForce(b, s.Now):
			waiting++
		}
	}
	n := len(s.Budgets.Value)
	switch {
	case waiting > 0:
		return Result{name, Failed,
			fmt.Sprintf("%d of %d are not in force: the disruption controller has not looked at them.", waiting, n),
			"Look whether kube-controller-manager runs. Until then every eviction of their pods is refused."}
	case aside > 0:
		return Result{name, Warning,
			fmt.Sprintf("%d of %d have stepped aside, since nothing could be evicted for longer than their "+
				"patience.", aside, n),
			"Look why their pods don't get ready: evenkeel audit -A names the workloads."}
	}
	return Result{name, OK, fmt.Sprintf("%d are in force.", n), ""}
}

// settling is how long the disruption controller has for a new budget.
const settling = 30 * time.Second

// inForce reports whether the disruption controller has looked at a budget as it is, or still
// has time to.
func inForce(b *policyv1.PodDisruptionBudget, now time.Time) bool {
	return b.Status.ObservedGeneration >= b.Generation || now.Sub(b.CreationTimestamp.Time) < settling
}

func trial(s *State) Result {
	const name = "trial"
	t := s.Trial.Value
	switch {
	case s.Trial.Err == nil && t.Namespace == "":
		return Result{name, Warning,
			"No namespace is opted in, so nothing gets defaults.",
			"Opt one in: kubectl label namespace NAME evenkeel.dev/inject=enabled"}
	case apierrors.IsForbidden(s.Trial.Err), errors.As(s.Trial.Err, new(*url.Error)):
		return unread(name, "Namespaces, or what the creation of a Deployment gives,", s.Trial.Err)
	case s.Trial.Err != nil:
		return Result{name, Failed, "The creation of a Deployment (a dry run) was refused: " + s.Trial.Err.Error(),
			"Read the message: a quota, a policy, or with failurePolicy Fail evenkeel itself, which the lines above are " +
				"about."}
	}
	if record := t.Created.Spec.Template.Annotations[policy.InjectedAnnotation]; record == "" {
		return Result{name, Failed,
			"A Deployment that is created in namespace " + t.Namespace + " (a dry run) comes back without defaults.",
			"Mend what fails above. If nothing does, look whether the API server reaches the pods: a NetworkPolicy, a " +
				"firewall, or a node network (hostNetwork in the chart)."}
	}
	return Result{name, OK,
		"A Deployment that is created in namespace " + t.Namespace + " (a dry run) comes back with its defaults.", ""}
}

package check

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/internal/event"
	"github.com/evenkeel/evenkeel/patches"
)

const (
	nameLabel        = "app.kubernetes.io/name=evenkeel"
	managedByLabel   = "app.kubernetes.io/managed-by=evenkeel"
	defaultNamespace = "evenkeel-system"
	leaseName        = "evenkeel"
	mostAtOnce       = 500 // objects of one answer
)

// Scope says what to look at.
type Scope struct {
	// Before asks whether evenkeel can be installed, and otherwise how it does.
	Before bool
	// TrialNamespace is where to try a creation; "" is the first that is opted in.
	TrialNamespace string
	// ReadOnly leaves out what is asked by a creation, even of nothing: the rights of evenkeel and the trial.
	ReadOnly bool
	Now      time.Time
}

// Read asks a cluster. It changes nothing: what it creates is a dry run. What it may not read
// stands as an error beside the question.
func Read(ctx context.Context, client kubernetes.Interface, scope Scope) *State {
	r := reader{client: client, State: State{Now: scope.Now, ReadOnly: scope.ReadOnly, Namespace: defaultNamespace}}
	r.versions(ctx)
	configurations, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
	if r.Configurations.Err = err; err == nil {
		for _, c := range configurations.Items {
			if c.Labels["app.kubernetes.io/name"] == "evenkeel" {
				r.Configurations.Value = append(r.Configurations.Value, c)
			} else if c.Name > lastConfiguration && slices.ContainsFunc(c.Webhooks, seesNewPods) {
				r.Late = append(r.Late, c.Name)
			}
		}
	}
	for i := range r.Configurations.Value {
		for k := range r.Configurations.Value[i].Webhooks {
			if s := r.Configurations.Value[i].Webhooks[k].ClientConfig.Service; s != nil {
				r.Namespace = s.Namespace
			}
		}
	}
	if scope.Before {
		r.Missing.Value, r.Missing.Err = r.missing(ctx)
		return &r.State
	}
	r.installation(ctx)
	r.Signed.Value, r.Signed.Err = r.signed(ctx)
	r.Resets.Value, r.Resets.Err = r.resets(ctx)
	leases := client.CoordinationV1().Leases(r.Namespace)
	r.Lease.Value, r.Lease.Err = optional(leases.Get(ctx, leaseName, metav1.GetOptions{}))
	r.Budgets.Value, r.Budgets.Err = r.budgets(ctx)
	if scope.ReadOnly {
		return &r.State
	}
	r.Denied.Value, r.Denied.Err = r.denied(ctx)
	r.Trial.Value, r.Trial.Err = r.trial(ctx, scope.TrialNamespace)
	return &r.State
}

// seesNewPods reports whether a webhook is called when a Pod is created.
func seesNewPods(w admissionregistrationv1.MutatingWebhook) bool {
	return slices.ContainsFunc(w.Rules, func(r admissionregistrationv1.RuleWithOperations) bool {
		return hasAny(r.Operations, admissionregistrationv1.Create, admissionregistrationv1.OperationAll) &&
			hasAny(r.APIGroups, "", "*") && hasAny(r.Resources, "pods", "*", "*/*")
	})
}

// hasAny reports whether a list has one of some values.
func hasAny[T comparable](list []T, values ...T) bool {
	return slices.ContainsFunc(list, func(v T) bool { return slices.Contains(values, v) })
}

// reader is a State in the making.
type reader struct {
	State
	client kubernetes.Interface
}

// optional returns nil for an object that doesn't exist.
func optional[T appsv1.Deployment | coordinationv1.Lease](object *T, err error) (*T, error) {
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return object, nil
}

func (r *reader) versions(ctx context.Context) {
	version, err := r.client.Discovery().ServerVersion()
	if err == nil {
		r.APIServer.Value, err = patches.ParseVersion(version.GitVersion)
	}
	r.APIServer.Err = err
	nodes, err := r.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if r.OldestKubelet.Err = err; err != nil {
		return
	}
	var cluster patches.Cluster
	for i := range nodes.Items {
		cluster = cluster.With(&nodes.Items[i])
	}
	r.OldestKubelet.Value = cluster.OldestKubelet
}

// installation reads evenkeel's own Deployment and pods.
func (r *reader) installation(ctx context.Context) {
	list := metav1.ListOptions{LabelSelector: nameLabel}
	deployments, err := r.client.AppsV1().Deployments(r.Namespace).List(ctx, list)
	if r.Deployment.Err = err; err == nil && len(deployments.Items) > 0 {
		r.Deployment.Value = &deployments.Items[0]
	}
	pods, err := r.client.CoreV1().Pods(r.Namespace).List(ctx, list)
	if r.Pods.Err = err; err == nil {
		r.Pods.Value = pods.Items
	}
}

// argument returns the value of a flag of evenkeel, or its default.
func (r *reader) argument(name, value string) string {
	if d := r.Deployment.Value; d != nil {
		for _, c := range d.Spec.Template.Spec.Containers {
			for _, a := range c.Args {
				if text, ok := strings.CutPrefix(a, "--"+name+"="); ok {
					value = text
				}
			}
		}
	}
	return value
}

// signed returns the certificates that evenkeel serves with or that sign those: of the
// Secret with its authorities, or of the one that its files come from.
func (r *reader) signed(ctx context.Context) ([]byte, error) {
	name := r.argument("authority-secret", "evenkeel-authority")
	if r.argument("tls-cert-file", "") != "" {
		for _, v := range r.Deployment.Value.Spec.Template.Spec.Volumes {
			if v.Secret != nil {
				name = v.Secret.SecretName
			}
		}
	}
	secret, err := r.client.CoreV1().Secrets(r.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("the Secret %s doesn't exist: evenkeel makes it once a replica leads", name)
	}
	if err != nil {
		return nil, err
	}
	var text []byte
	for _, key := range slices.Sorted(maps.Keys(secret.Data)) {
		text = append(append(text, secret.Data[key]...), '\n')
	}
	return text, nil
}

// resets lists the Events about certificates that somebody undoes, which the API server keeps for an hour: those about
// the Secret, in its namespace, and about the webhooks, in the namespace default.
func (r *reader) resets(ctx context.Context) ([]corev1.Event, error) {
	list, err := r.client.CoreV1().Events("").List(ctx,
		metav1.ListOptions{FieldSelector: "reason=" + event.CertificatesReset, Limit: mostAtOnce})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// account returns the name of evenkeel's service account.
func (r *reader) account() string {
	name := "evenkeel"
	if d := r.Deployment.Value; d != nil && d.Spec.Template.Spec.ServiceAccountName != "" {
		name = d.Spec.Template.Spec.ServiceAccountName
	}
	return "system:serviceaccount:" + r.Namespace + ":" + name
}

// attributes are the right as the API server is asked for it.
func (r Right) attributes() *authorizationv1.ResourceAttributes {
	return &authorizationv1.ResourceAttributes{Namespace: r.Namespace, Verb: r.Verb, Group: r.Group, Resource: r.Resource}
}

// denied returns the rights that evenkeel's account lacks.
func (r *reader) denied(ctx context.Context) ([]Right, error) {
	var denied []Right
	for _, right := range needed(r.Namespace) {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: r.account(),
			Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + r.Namespace,
				"system:authenticated"},
			ResourceAttributes: right.attributes(),
		}}
		answer, err := r.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		if err != nil {
			return nil, err
		}
		if !answer.Status.Allowed {
			denied = append(denied, right)
		}
	}
	return denied, nil
}

// missing returns the rights that the user lacks for an installation.
func (r *reader) missing(ctx context.Context) ([]Right, error) {
	var missing []Right
	for _, right := range installing(r.Namespace) {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: right.attributes(),
		}}
		answer, err := r.client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		if err != nil {
			return nil, err
		}
		if !answer.Status.Allowed {
			missing = append(missing, right)
		}
	}
	return missing, nil
}

// budgets lists evenkeel's budgets of the whole cluster.
func (r *reader) budgets(ctx context.Context) ([]policyv1.PodDisruptionBudget, error) {
	var all []policyv1.PodDisruptionBudget
	options := metav1.ListOptions{LabelSelector: managedByLabel, Limit: mostAtOnce}
	for {
		page, err := r.client.PolicyV1().PodDisruptionBudgets("").List(ctx, options)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if options.Continue = page.Continue; options.Continue == "" {
			return all, nil
		}
	}
}

// trial creates a Deployment of two replicas in an opted-in namespace, as a dry run.
func (r *reader) trial(ctx context.Context, namespace string) (Trial, error) {
	t := Trial{Namespace: namespace}
	if namespace == "" {
		installed, err := audit.Installed(ctx, r.client)
		if err != nil {
			return t, err
		}
		namespaces, err := r.client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
		if err != nil {
			return t, err
		}
		for i := range namespaces.Items {
			n := &namespaces.Items[i]
			if n.DeletionTimestamp == nil && installed.OptsIn(n.Labels) {
				t.Namespace = n.Name
				break
			}
		}
		if t.Namespace == "" {
			return t, nil
		}
	}
	replicas := int32(2)
	labels := map[string]string{"app": "evenkeel-check"}
	app := corev1.Container{Name: "app", Image: "evenkeel-check", Ports: []corev1.ContainerPort{{ContainerPort: 8080}}}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{GenerateName: "evenkeel-check-"}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas,
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec: corev1.PodSpec{Containers: []corev1.Container{app}}},
	}}
	var err error
	dryRun := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	t.Created, err = r.client.AppsV1().Deployments(t.Namespace).Create(ctx, d, dryRun)
	return t, err
}

// Warn adds to what an audit looks at what fails in the evenkeel of the cluster, by reading alone. Where none is
// installed and no namespace is opted in, nothing is expected of it.
func Warn(ctx context.Context, client kubernetes.Interface, state *audit.State, there *audit.Installation) {
	if len(there.Webhooks) == 0 && (there.Hidden || !expected(state)) {
		return
	}
	state.Warnings = append(state.Warnings, failures(ctx, client, time.Now())...)
}

// failures says what fails, but for the parts that an audit speaks of itself.
func failures(ctx context.Context, client kubernetes.Interface, now time.Time) []string {
	var texts []string
	for _, r := range Judge(Read(ctx, client, Scope{ReadOnly: true, Now: now})) {
		if r.Status == Failed && r.Check != "versions" && r.Check != "budgets" {
			texts = append(texts, "evenkeel check, "+r.Check+": "+r.Text+" "+r.Advice)
		}
	}
	return texts
}

// expected reports whether a namespace is opted in.
func expected(state *audit.State) bool {
	for _, n := range state.Namespaces {
		if n.OptedIn {
			return true
		}
	}
	return false
}

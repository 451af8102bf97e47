package check

import (
	"crypto/x509"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"

	"github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/internal/keypair"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/pdb"
	"github.com/evenkeel/evenkeel/policy"
)

var now = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// authority returns a certificate in PEM that ends so long after now, of a lifetime of 100 days.
func authority(t *testing.T, left time.Duration) []byte {
	t.Helper()
	pair, err := keypair.New(&x509.Certificate{NotAfter: now.Add(left), NotBefore: now.Add(left - 100*24*time.Hour),
		IsCA: true, BasicConstraintsValid: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return pair.CertificatePEM()
}

// healthy returns the state of a cluster in which all is well.
func healthy(t *testing.T) *State {
	ca := authority(t, 90*24*time.Hour)
	hook := func(name string) admissionregistrationv1.MutatingWebhook {
		return admissionregistrationv1.MutatingWebhook{Name: name,
			ClientConfig: admissionregistrationv1.WebhookClientConfig{CABundle: ca}}
	}
	three, holder := int32(3), "evenkeel-0"
	pod := func(node string) corev1.Pod {
		return corev1.Pod{Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	}
	s := &State{Now: now, Namespace: "evenkeel-system"}
	s.APIServer.Value, s.OldestKubelet.Value = patches.Version{Major: 1, Minor: 36}, patches.Version{Major: 1, Minor: 35}
	s.Configurations.Value = []admissionregistrationv1.MutatingWebhookConfiguration{
		{ObjectMeta: metav1.ObjectMeta{Name: "evenkeel"},
			Webhooks: []admissionregistrationv1.MutatingWebhook{hook("workloads.evenkeel.dev"), hook("pods.evenkeel.dev")}},
		{ObjectMeta: metav1.ObjectMeta{Name: lastConfiguration},
			Webhooks: []admissionregistrationv1.MutatingWebhook{hook("refused-pods.evenkeel.dev")}}}
	s.Deployment.Value = &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "evenkeel"},
		Spec: appsv1.DeploymentSpec{Replicas: &three}, Status: appsv1.DeploymentStatus{ReadyReplicas: 3}}
	s.Pods.Value = []corev1.Pod{pod("a"), pod("b"), pod("c")}
	s.Signed.Value = ca
	s.Lease.Value = &coordinationv1.Lease{
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, RenewTime: &metav1.MicroTime{Time: now}}}
	s.Budgets.Value = make([]policyv1.PodDisruptionBudget, 2)
	s.Trial.Value = Trial{Namespace: "shop",
		Created: &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{policy.InjectedAnnotation: "x"}}}}}}
	return s
}

var forbidden = apierrors.NewForbidden(schema.GroupResource{Resource: "things"}, "", nil)

func TestEachFailureHasItsLineAndItsAdvice(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*State)
		check  string
		status Status
		text   string // part of the text
		advice string // part of the advice
	}{
		"nothing is installed": {func(s *State) { s.Configurations.Value = nil }, "webhook", Failed,
			"no webhook configuration", "kubectl apply -k deploy/"},
		"an API server that is too old": {func(s *State) { s.APIServer.Value.Minor = 29 }, "versions", Failed,
			"1.29", "Upgrade"},
		"a kubelet that is too old": {func(s *State) { s.OldestKubelet.Value.Minor = 28 }, "versions", Failed, "1.28",
			"Upgrade that node"},
		"a user without rights": {func(s *State) {
			s.Configurations = Fact[[]admissionregistrationv1.MutatingWebhookConfiguration]{Err: forbidden}
		}, "webhook", Unknown, "may not be read", "as a user who may"},
		"a webhook behind evenkeel's last one": {func(s *State) { s.Late = []string{"zzzz"} }, "webhook", Warning,
			"calls zzzz after zzz-evenkeel", "name before"},
		"an account without rights": {func(s *State) { s.Denied.Value = needed("x")[:9] }, "rights", Failed,
			"list namespaces, watch namespaces, list deployments.apps, watch deployments.apps, 5 more", "rbac.yaml"},
		"no replica is ready": {func(s *State) { s.Deployment.Value.Status.ReadyReplicas = 0 },
			"replicas", Failed, "None of 3", "describe pods"},
		"one replica": {
			func(s *State) { *s.Deployment.Value.Spec.Replicas = 1; s.Deployment.Value.Status.ReadyReplicas = 1 }, "replicas",
			Warning, "one replica", "--replicas=3"},
		"all replicas on one node": {
			func(s *State) { s.Pods.Value[1].Spec.NodeName, s.Pods.Value[2].Spec.NodeName = "a", "a" }, "replicas", Warning,
			"on one node", "Delete one"},
		"an empty caBundle": {
			func(s *State) { s.Configurations.Value[0].Webhooks[1].ClientConfig.CABundle = nil }, "caBundle", Failed,
			"pods.evenkeel.dev has no certificate", "leader"},
		"a caBundle of somebody else": {func(s *State) { s.Signed.Value = authority(t, time.Hour) },
			"caBundle", Failed, "is not that of evenkeel's", "rollout restart"},
		"a caBundle that somebody resets": {func(s *State) {
			s.Resets.Value = []corev1.Event{reset(s, 20*time.Minute), reset(s, 2*time.Minute)}
		}, "caBundle", Failed, "MutatingWebhookConfiguration evenkeel, 2m0s ago: argocd takes out", "pass over"},
		"an authority that has ended": {func(s *State) { reissue(t, s, -time.Hour) }, "certificates", Failed,
			"has ended on 2026-11-30", "log"},
		"an authority that is late": {func(s *State) { reissue(t, s, 20*24*time.Hour) }, "certificates",
			Warning, "should have been replaced", "log"},
		"a leader that is away": {func(s *State) {
			s.Lease.Value.Spec.RenewTime.Time = now.Add(-time.Minute)
		}, "leader", Failed, "away for 1m0s", "get lease"},
		"a Lease that nobody holds": {func(s *State) { *s.Lease.Value.Spec.HolderIdentity = "" }, "leader",
			Failed, "no holder", "get lease"},
		"no Lease": {func(s *State) { s.Lease.Value = nil }, "leader", Failed, "no Lease", "get lease"},
		"a budget that nobody has looked at": {func(s *State) { s.Budgets.Value[0].Generation = 1 }, "budgets",
			Failed, "1 of 2 are not in force", "kube-controller-manager"},
		"a budget that stepped aside": {
			func(s *State) { s.Budgets.Value[0].Annotations = map[string]string{pdb.AsideAnnotation: "x"} }, "budgets", Warning,
			"1 of 2 have stepped aside", "audit"},
		"no namespace is opted in": {func(s *State) { s.Trial.Value = Trial{} }, "trial", Warning,
			"No namespace", "kubectl label namespace"},
		"a creation that comes back without defaults": {func(s *State) {
			s.Trial.Value.Created.Spec.Template.Annotations = nil
		}, "trial", Failed, "without defaults", "NetworkPolicy"},
		"a creation that is refused": {func(s *State) { s.Trial.Err = os.ErrDeadlineExceeded }, "trial",
			Failed, "refused", "quota"},
		"an API server that doesn't answer": {
			func(s *State) { s.Trial.Err = &url.Error{Err: os.ErrDeadlineExceeded} }, "trial", Unknown,
			"can't be read", "API server answers"},
	} {
		t.Run(name, func(t *testing.T) {
			s := healthy(t)
			c.change(s)
			results := Judge(s)
			for _, r := range results {
				switch {
				case r.Check != c.check:
					if r.Status != OK && c.text != "has ended on 2026-11-30" && c.status != Unknown {
						t.Errorf("%s is %s as well: %s", r.Check, r.Status, r.Text)
					}
				case r.Status != c.status || !strings.Contains(r.Text, c.text) || !strings.Contains(r.Advice, c.advice):
					t.Errorf("%+v; want %s, %q and %q", r, c.status, c.text, c.advice)
				}
			}
			if got := Worst(results); got != c.status {
				t.Errorf("all in all it is %s, want %s", got, c.status)
			}
		})
	}
}

// reset is an Event so long ago.
func reset(s *State, ago time.Duration) corev1.Event {
	return corev1.Event{Message: "argocd takes out what evenkeel has written here, 3 times by now",
		LastTimestamp:  metav1.NewTime(s.Now.Add(-ago)),
		InvolvedObject: corev1.ObjectReference{Kind: "MutatingWebhookConfiguration", Name: "evenkeel"}}
}

// reissue gives the webhooks and evenkeel another authority.
func reissue(t *testing.T, s *State, left time.Duration) {
	ca := authority(t, left)
	s.Signed.Value = ca
	for _, configuration := range s.Configurations.Value {
		for i := range configuration.Webhooks {
			configuration.Webhooks[i].ClientConfig.CABundle = ca
		}
	}
}

func TestWhereAllIsWellEveryLineIsOK(t *testing.T) {
	s := healthy(t)
	s.Resets.Value = []corev1.Event{reset(s, 20*time.Minute)} // long over
	results := Judge(s)
	if len(results) != 9 {
		t.Errorf("%d lines, want 9", len(results))
	}
	for _, r := range results {
		if r.Status != OK || r.Advice != "" || !strings.HasSuffix(r.Text, ".") {
			t.Errorf("%+v", r)
		}
	}
}

func TestBeforeAnInstallationItSaysWhatTheUserLacks(t *testing.T) {
	s := healthy(t)
	s.Configurations.Value = nil
	if got := Worst(JudgeBefore(s)); got != OK {
		t.Errorf("%s, want ok", got)
	}
	s.Missing.Value = installing("x")[:1]
	results := JudgeBefore(s)
	if r := results[2]; r.Status != Failed || !strings.Contains(r.Text, "may not create namespaces") {
		t.Errorf("%+v", r)
	}
}

// What is asked for is what deploy/ grants, but for the kinds that are there to be changed.
func TestTheRightsAreThoseOfTheClusterRole(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "deploy", "base", "rbac.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	granted := map[Right]bool{}
	for part := range strings.SplitSeq(string(text), "\n---\n") {
		var role rbacv1.ClusterRole // a Role has the same rules
		if err := yaml.Unmarshal([]byte(part), &role); err != nil {
			t.Fatal(err)
		}
		for _, rule := range role.Rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						granted[Right{Group: group, Resource: resource, Verb: verb, Namespace: role.Namespace}] = true
					}
				}
			}
		}
	}
	rights := needed("evenkeel-system")
	for _, r := range rights {
		if !granted[r] {
			t.Errorf("check asks for %+v, which deploy/base/rbac.yaml doesn't grant", r)
		}
	}
	if slices.Contains(rights, Right{Resource: "secrets", Verb: "get", Namespace: "evenkeel-system"}) {
		t.Error("with certificates of a Secret evenkeel needs no right on Secrets")
	}
}

func TestACheckThatOnlyReadsSaysNothingOfWhatItDidNotTry(t *testing.T) {
	s := healthy(t)
	s.ReadOnly = true
	for _, r := range Judge(s) {
		if r.Check == "rights" || r.Check == "trial" {
			t.Errorf("it says %+v", r)
		}
	}
}

// An audit must say why nothing is added, and must not create anything to find out.
func TestAnAuditWarnsWhereTheCheckFails(t *testing.T) {
	name := map[string]string{"app.kubernetes.io/name": "evenkeel"}
	s := healthy(t)
	in := metav1.ObjectMeta{Name: "evenkeel", Namespace: s.Namespace, Labels: name}
	configuration := s.Configurations.Value[0].DeepCopy()
	configuration.Labels = name
	s.Deployment.Value.ObjectMeta, s.Lease.Value.ObjectMeta = in, in
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "evenkeel-authority", Namespace: s.Namespace},
		Data: map[string][]byte{"ca.crt": s.Signed.Value}}
	other := configuration.DeepCopy()
	other.Webhooks[1].ClientConfig.CABundle = authority(t, 1000*24*time.Hour)
	well := []runtime.Object{configuration, s.Deployment.Value, secret, s.Lease.Value}
	optedIn := map[string]audit.Namespace{"shop": {OptedIn: true}}
	for name, c := range map[string]struct {
		objects    []runtime.Object
		namespaces map[string]audit.Namespace
		there      *audit.Installation // nil for one that is installed
		want       string              // part of the only warning
	}{
		"all is well":                      {well, nil, nil, ""},
		"the caBundle is of somebody else": {append([]runtime.Object{other}, well[1:]...), nil, nil, "caBundle: "},
		"there is no leader":               {well[:3], nil, nil, "leader: "},
		"the webhook is missing":           {nil, optedIn, &audit.Installation{}, "webhook: There is no"},
		"nobody asked for evenkeel":        {nil, nil, &audit.Installation{}, ""},
		"webhooks may not be read":         {nil, optedIn, &audit.Installation{Hidden: true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset(c.objects...)
			state := &audit.State{Namespaces: c.namespaces}
			if c.there == nil {
				state.Warnings = failures(t.Context(), client, now)
			} else {
				Warn(t.Context(), client, state, c.there)
			}
			want := 1
			if c.want == "" {
				want = 0
			}
			if len(state.Warnings) != want || !strings.Contains(strings.Join(state.Warnings, ""), c.want) {
				t.Errorf("warnings %q, want %q", state.Warnings, c.want)
			}
			for _, a := range client.Actions() {
				if a.GetVerb() != "get" && a.GetVerb() != "list" {
					t.Errorf("it does %s %s", a.GetVerb(), a.GetResource().Resource)
				}
			}
		})
	}
}

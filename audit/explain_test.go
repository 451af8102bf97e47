package audit

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	applier "gopkg.in/evanphx/json-patch.v4"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
)

// TestExplainBudget holds a budget whose pods the disruption controller has not counted yet, which allows no eviction,
// apart from one that is used up.
func TestExplainBudget(t *testing.T) {
	app := map[string]string{"app": "web"}
	one := intstr.FromInt32(1)
	budget := policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "web-evenkeel", Generation: 2},
		Spec:       policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &one, Selector: &metav1.LabelSelector{MatchLabels: app}},
		Status: policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 2, CurrentHealthy: 2, DesiredHealthy: 2,
			ExpectedPods: 3},
	}
	for observed, want := range map[int64]string{
		2: "web-evenkeel: maxUnavailable 1; 2 of 3 pods are healthy, 2 have to be, so 0 may be evicted now",
		1: "web-evenkeel: maxUnavailable 1; its pods have not been counted since it was last written, so none may be " +
			"evicted now",
	} {
		budget.Status.ObservedGeneration = observed
		e := explanation{pods: []string{"web-1"}, Question: Question{State: &State{
			Pods: []Pod{{Name: "web-1", Labels: app}}, Budgets: []policyv1.PodDisruptionBudget{budget},
		}}}
		var said strings.Builder
		e.budget(func(format string, args ...any) { fmt.Fprintf(&said, format, args...) })
		if got := said.String(); got != "\nBudget:\n  "+want+"\n" {
			t.Errorf("generation 2, observed %d: said %q, want %q", observed, got, want)
		}
	}
}

// installed returns the webhook and the Deployment of an evenkeel that serves with these arguments.
// The webhook selects Namespaces as the installation in deploy/ does, or by the label of selector.
func installed(selector map[string]string, arguments ...string) []stub {
	name := map[string]string{"app.kubernetes.io/name": "evenkeel"}
	ignore := admissionregistrationv1.Ignore
	hook := admissionregistrationv1.MutatingWebhook{Name: "workloads.evenkeel.dev", FailurePolicy: &ignore,
		ClientConfig: admissionregistrationv1.WebhookClientConfig{CABundle: []byte("x"),
			Service: &admissionregistrationv1.ServiceReference{Namespace: "evenkeel-system", Name: "evenkeel"}},
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: selector, MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: corev1.LabelMetadataName, Operator: metav1.LabelSelectorOpNotIn,
				Values: []string{"kube-system", "evenkeel-system"}}}},
		ObjectSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: policy.InjectLabel, Operator: metav1.LabelSelectorOpNotIn, Values: []string{policy.Disabled}}}},
		Rules: []admissionregistrationv1.RuleWithOperations{
			{Rule: admissionregistrationv1.Rule{Resources: []string{"deployments", "statefulsets"}}}}}
	own := serving("evenkeel-system", "evenkeel", func(d *appsv1.Deployment) {
		d.Labels = name
		d.Spec.Template.Spec.Containers[0].Args = append([]string{"serve"}, arguments...)
		d.Status.ReadyReplicas = 2
	})
	return []stub{{"deployments", own},
		{"mutatingwebhookconfigurations", &admissionregistrationv1.MutatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: "evenkeel", Labels: name},
			Webhooks:   []admissionregistrationv1.MutatingWebhook{hook}}}}
}

// injected returns the Deployment as the webhook leaves it, with changes afterwards.
func injected(t *testing.T, d *appsv1.Deployment, change ...func(*appsv1.Deployment)) *appsv1.Deployment {
	t.Helper()
	version := patches.Version{Major: 1, Minor: 36}
	before := raw(t, d)
	result := rules(t).Injector.Review(patches.Request{Operation: patches.Create, Object: before,
		Cluster: patches.Cluster{APIServer: version, OldestKubelet: version}})
	patch, err := applier.DecodePatch(result.Patch)
	if err != nil {
		t.Fatal(err)
	}
	after, err := patch.Apply(before)
	if err != nil {
		t.Fatal(err)
	}
	done := &appsv1.Deployment{}
	if err := json.Unmarshal(after, done); err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(done)
	}
	return done
}

// explainIn asks an API server, as the command does.
func explainIn(t *testing.T, a *api, flags map[string]string, namespace, kind, name string) string {
	t.Helper()
	client := a.start(t)
	installation, err := Installed(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	by := rules(t)
	by.Flags = Flags{Given: flags, Of: "evenkeel serve", Hidden: installation.Hidden}
	scope := Scope{Source: "test", Namespace: namespace, Installation: installation}
	text, err := Ask(t.Context(), client, scope, by, Target{kind, name})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// holds reports whether a line of an explanation holds text, its columns joined by one space.
func holds(text, line string) bool {
	for l := range strings.Lines(text) {
		if strings.Contains(strings.Join(strings.Fields(l), " "), line) {
			return true
		}
	}
	return false
}

func TestExplainTellsWhatStandsFromWhatIsWanted(t *testing.T) {
	sleep := func(value string) func(*appsv1.Deployment) {
		return func(d *appsv1.Deployment) { d.Annotations = map[string]string{policy.Prefix + "pre-stop-sleep": value} }
	}
	disabled := func(d *appsv1.Deployment) { d.Labels = map[string]string{policy.InjectLabel: policy.Disabled} }
	custom := map[string]string{"team": "shop"}
	for _, c := range []struct {
		name       string
		namespace  stub
		deployment *appsv1.Deployment
		install    []stub
		flags      map[string]string
		forbidden  []string
		want, not  []string
	}{
		{"everything stands and is wanted", kept("shop", enabled), injected(t, serving("shop", "web")),
			installed(enabled), nil, nil,
			[]string{"shop/Deployment/web: evenkeel added anti-affinity, pre-stop-sleep, readiness-probe",
				"pre-stop-sleep web stands sleep 10 s, by evenkeel", "wanted the same (pre-stop-sleep=10s, built-in)"},
			[]string{"arrives"}},
		{"a setting that was changed arrives with the next change of the template", kept("shop", enabled),
			injected(t, serving("shop", "web"), sleep("20s")), installed(enabled), nil, nil,
			[]string{`pre-stop-sleep web stands {"sleep":{"seconds":10}}, by evenkeel`,
				"wanted sleep 20 s (pre-stop-sleep=20s, annotation of the workload)",
				"shop/Deployment/web: evenkeel added anti-affinity, readiness-probe; evenkeel would change pre-stop-sleep; it " +
					"lacks disruption-budget",
				`pre-stop-sleep web differs {"sleep":{"seconds":10}} stands and would become: sleep 20 s`,
				"pre-stop-sleep stands grace period 40 s, by evenkeel",
				"arrives with the next change of the pod template, such as kubectl rollout restart"},
			[]string{"Nothing: it has all"}},
		{"a default that was turned off goes with the next change of the template", kept("shop", enabled),
			injected(t, serving("shop", "web"), sleep("off")), installed(enabled), nil, nil,
			[]string{`pre-stop-sleep web stands {"sleep":{"seconds":10}}, by evenkeel`,
				"wanted nothing (pre-stop-sleep=off, annotation of the workload)",
				"arrives with the next change of the pod template"}, []string{"Nothing: it has all"}},
		{"what somebody wrote is theirs", kept("shop", enabled), serving("shop", "web", func(d *appsv1.Deployment) {
			d.Spec.Template.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
				ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(80)}}}
			d.ManagedFields = []metav1.ManagedFieldsEntry{
				{Manager: "helm", Operation: "Update", FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(
					`{"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"web\"}":{"f:readinessProbe":{}}}}}}}`)}}
		}), installed(enabled), nil, nil,
			[]string{`readiness-probe web stands {"tcpSocket":{"port":80}}, by helm`,
				"wanted what stands, since it is not evenkeel's"}, nil},
		{"a flag of the evenkeel in the cluster is a source", kept("shop", enabled), serving("shop", "web"),
			installed(enabled, "--readiness-probe=off"),
			map[string]string{"readiness-probe": "off"}, nil, []string{"(readiness-probe=off, flag of evenkeel serve)"}, nil},
		{"flags that may not be read are not said to be built-in", kept("shop", enabled), serving("shop", "web"),
			installed(enabled), nil, []string{"mutatingwebhookconfigurations"},
			[]string{"built-in, unless a flag of evenkeel serve says otherwise: its flags may not be read",
				"not known: webhook configurations may not be listed"}, nil},
		{"an injected workload that opted out keeps what stands", kept("shop", enabled),
			injected(t, serving("shop", "web"), sleep("20s"), disabled), installed(enabled), nil, nil,
			[]string{"shop/Deployment/web: evenkeel added anti-affinity, pre-stop-sleep, readiness-probe",
				"no: the workload or its pod template carries the label",
				`pre-stop-sleep web stands {"sleep":{"seconds":10}}, by evenkeel`, "wanted sleep 20 s",
				"arrives never, as long as the label evenkeel.dev/inject: disabled stands",
				"not called: no webhook selects it"}, nil},
		{"a workload that opted out from the beginning has nothing", kept("shop", enabled), serving("shop", "web", disabled),
			installed(enabled), nil, nil,
			[]string{"evenkeel leaves out anti-affinity, pre-stop-sleep, readiness-probe", "pre-stop-sleep web stands nothing",
				"wanted sleep 10 s", "arrives never"},
			[]string{"it lacks anti-affinity"}},
		{"kube-system is not to be labelled", kept("kube-system", map[string]string{corev1.LabelMetadataName: "kube-system"}),
			serving("kube-system", "web"), installed(enabled), nil, nil,
			[]string{"no: evenkeel never looks after kube-system", "arrives never, as long as the namespace is not opted in"},
			[]string{"kubectl label namespace"}},
		{"nor is evenkeel's own namespace",
			kept("evenkeel-system", map[string]string{corev1.LabelMetadataName: "evenkeel-system"}),
			serving("evenkeel-system", "web"),
			installed(enabled), nil, nil, []string{"no: evenkeel never looks after the namespace that it runs in"},
			[]string{"kubectl label namespace"}},
		{"a namespace that a label opts in is to be labelled", kept("shop", nil), serving("shop", "web"),
			installed(enabled), nil, nil,
			[]string{"no: namespace shop has no label evenkeel.dev/inject",
				"kubectl label namespace shop evenkeel.dev/inject=enabled"}, nil},
		{"a namespace that the label does not opt in is not", kept("shop", nil), serving("shop", "web"),
			installed(custom, "--namespace-selector=team=shop"), nil, nil,
			[]string{"no: the webhook's selector does not take namespace shop, with the label evenkeel.dev/inject: " +
				"enabled neither"}, []string{"kubectl label namespace"}},
		{"a namespace of a selector of one's own is opted in", kept("shop", custom), serving("shop", "web"),
			installed(custom, "--namespace-selector", "team=shop"), nil, nil,
			[]string{"yes: the webhook looks after namespace shop"}, []string{"none is kept here", "kept here"}},
		{"budgets go by the flag", kept("shop", custom), serving("shop", "web"), installed(custom), nil, nil,
			[]string{"none is kept here: the namespace does not match --namespace-selector=evenkeel.dev/inject=enabled of " +
				"evenkeel serve"}, nil},
		{"budgets that are turned off are not kept", kept("shop", enabled), serving("shop", "web"),
			installed(enabled, "--budgets=false"), nil, nil,
			[]string{"none is kept here: evenkeel serve runs with --budgets=false"}, nil},
		{"without evenkeel it says so", kept("shop", nil), serving("shop", "web"), nil, nil, nil,
			[]string{"none: evenkeel is not installed in this cluster", "Install evenkeel"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &api{objects: append(slices.Clone(c.install), c.namespace, stub{"deployments", c.deployment}),
				forbidden: c.forbidden}
			text := explainIn(t, a, c.flags, c.namespace.object.(*corev1.Namespace).Name, "Deployment", "web")
			for _, want := range c.want {
				if !holds(text, want) {
					t.Errorf("lacks %q", want)
				}
			}
			for _, not := range c.not {
				if holds(text, not) {
					t.Errorf("says %q", not)
				}
			}
			if t.Failed() {
				t.Log("\n" + text)
			}
		})
	}
}

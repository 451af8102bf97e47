package audit

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/policy"
)

// controlled returns the metadata of an object of shop with a controller.
func controlled(name, kind, owner string) metav1.ObjectMeta {
	yes := true
	return metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{"app": "web"},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: owner, Controller: &yes}}}
}

// shop returns the objects of a Deployment with a pod, and a ReplicaSet of its own.
func shop() []stub {
	template := serving("shop", "web").Spec.Template
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"topology.kubernetes.io/zone": "z"}}}
	node.Status.NodeInfo.KubeletVersion = "v1.33.4"
	older := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}}
	older.Status.NodeInfo.KubeletVersion = "v1.31.0"
	alone := &appsv1.ReplicaSet{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "ReplicaSet"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "alone"}}
	alone.Spec.Template = template
	pod := &corev1.Pod{ObjectMeta: controlled("web-1-x", "ReplicaSet", "web-1"), Spec: template.Spec}
	pod.Spec.NodeName = "a"
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning,
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	return []stub{kept("shop", enabled), {"nodes", node}, {"nodes", older}, {"deployments", serving("shop", "web")},
		{"replicasets",
			&appsv1.ReplicaSet{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "ReplicaSet"},
				ObjectMeta: controlled("web-1", "Deployment", "web")}},
		{"replicasets", alone}, {"pods", pod}}
}

func TestReadFindsWhatBelongsTogether(t *testing.T) {
	client := (&api{objects: append(shop(), installed(enabled)...)}).start(t)
	installation, err := Installed(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	for _, scope := range []Scope{{Source: "test", Namespace: "shop", Installation: installation},
		{Source: "test", Installation: installation}} {
		state, err := Read(t.Context(), client, scope)
		if err != nil {
			t.Fatal(err)
		}
		if got := state.Cluster.APIServer.String() + " " + state.Cluster.OldestKubelet.String(); got != "1.36 1.31" {
			t.Errorf("versions %s, want 1.36 1.31", got)
		}
		if len(state.Nodes) != 2 || len(state.Warnings) > 0 || !state.Namespaces["shop"].OptedIn {
			t.Errorf("%d nodes, warnings %q, namespaces %v", len(state.Nodes), state.Warnings, state.Namespaces)
		}
		report := Run(*state, rules(t))
		want := map[string][]string{"shop/Deployment/web": {"web-1-x"}}
		if diff := cmp.Diff(want, report.PodNames); diff != "" {
			t.Errorf("pods (-want +got):\n%s", diff)
		}
		text := string(Table{}.Text(report))
		for _, line := range []string{"shop/Deployment/web", "shop/ReplicaSet/alone",
			"What the loss of one node takes down now:", "Findings:", "one-node(a)"} {
			if !strings.Contains(text, line) {
				t.Errorf("the table lacks %q:\n%s", line, text)
			}
		}
		if colored := string(Table{Color: true}.Text(report)); strings.Count(colored, "\x1b[31mmissing") < 3 {
			t.Errorf("what is missing is not red:\n%q", colored)
		}
	}
}

func TestALabelThatOptsNobodyInIsWarnedOf(t *testing.T) {
	for value, want := range map[string]string{
		"true":         `Namespace shop: namespace evenkeel.dev/inject="true" has no effect; allowed: enabled`,
		policy.Enabled: "", policy.Disabled: "",
	} {
		client := (&api{objects: []stub{kept("shop", map[string]string{policy.InjectLabel: value})}}).start(t)
		for _, namespace := range []string{"", "shop"} {
			state, err := Read(t.Context(), client, Scope{Namespace: namespace, Installation: &Installation{}})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(strings.Join(state.Warnings, "\n"), "Namespace shop: "); got != (want != "") ||
				!strings.Contains(strings.Join(state.Warnings, "\n"), want) {
				t.Errorf("the label is %q: warnings %q, want %q", value, state.Warnings, want)
			}
		}
	}
}

func TestWhatMayNotBeReadBecomesAWarning(t *testing.T) {
	for name, c := range map[string]struct {
		plural, warning string
		err             bool
	}{
		"nodes":       {"nodes", "nodes may not be read, so zones are not known", false},
		"budgets":     {"poddisruptionbudgets", "PodDisruptionBudgets may not be read", false},
		"autoscalers": {"horizontalpodautoscalers", "HorizontalPodAutoscalers may not be read", false},
		"namespaces":  {"namespaces", "Namespaces may not be read, so none is taken to be opted in", false},
		"pods":        {"pods", "", true},
		"workloads":   {"statefulsets", "", true},
	} {
		client := (&api{objects: shop(), forbidden: []string{c.plural}}).start(t)
		for _, namespace := range []string{"", "shop"} {
			state, err := Read(t.Context(), client, Scope{Namespace: namespace, Installation: &Installation{}})
			if (err != nil) != c.err || err != nil && !apierrors.IsForbidden(err) {
				t.Errorf("%s of namespace %q: %v, want an error: %v", name, namespace, err, c.err)
				continue
			}
			if !c.err && !strings.Contains(strings.Join(state.Warnings, "; "), c.warning) {
				t.Errorf("%s of namespace %q: warnings %q, want %q", name, namespace, state.Warnings, c.warning)
			}
		}
	}
	_, err := Read(t.Context(), (&api{}).start(t), Scope{Namespace: "nowhere", Installation: &Installation{}})
	if !apierrors.IsNotFound(err) {
		t.Errorf("a namespace that does not exist: %v", err)
	}
	if _, err := Installed(t.Context(), (&api{broken: true}).start(t)); err == nil || errors.Is(err, t.Context().Err()) {
		t.Errorf("an API server that fails: %v", err)
	}
}

func TestExplainFindsAPodByItsWorkload(t *testing.T) {
	a := &api{objects: append(shop(), installed(enabled)...)}
	if text := explainIn(t, a, nil, "shop", "Pod", "web-1-x"); !strings.HasPrefix(text,
		"Pod web-1-x belongs to shop/Deployment/web") {
		t.Errorf("a pod is explained by: %s", text)
	}
	if text := explainIn(t, a, nil, "shop", "ReplicaSet", "web-1"); !strings.HasPrefix(text,
		"ReplicaSet web-1 belongs to shop/Deployment/web") {
		t.Errorf("a ReplicaSet is explained by: %s", text)
	}
	state, err := Read(t.Context(), a.start(t), Scope{Namespace: "shop", Installation: &Installation{}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ kind, name, want string }{
		{"Deployment", "wbe", `deployment "wbe" does not exist; did you mean "web"?`},
		{"Pod", "nothing-like-it", `pod "nothing-like-it" does not exist; there are: web-1-x`},
	} {
		_, err := Explain(
			Question{Target: Target{c.kind, c.name}, State: state, Rules: rules(t), Installation: &Installation{}})
		if err == nil || err.Error() != c.want {
			t.Errorf("%s %s: %v, want %s", c.kind, c.name, err, c.want)
		}
	}
}

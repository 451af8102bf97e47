package audit

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// service returns a Service in the namespace shop.
func service(name string, selector map[string]string) stub {
	return stub{"services", &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec: corev1.ServiceSpec{Selector: selector}}}
}

func TestAServiceIsExplainedByItsWorkloads(t *testing.T) {
	a := &api{objects: append(installed(enabled), kept("shop", enabled), service("front", map[string]string{"app": "web"}),
		service("none", map[string]string{"app": "nobody"}), service("outside", nil),
		stub{"deployments", serving("shop", "web")}, stub{"deployments", serving("shop", "db")})}
	text := explainIn(t, a, nil, "shop", kindService, "front")
	if !holds(text, "Service front leads to the pods of shop/Deployment/web.") || holds(text, "Deployment/db") {
		t.Errorf("said\n%s", text)
	}
	client := a.start(t)
	installation, err := Installed(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"none":    `service "none" selects the pods of no workload`,
		"outside": `service "outside" has no selector`,
		"fromt":   `did you mean "front"?`,
	} {
		scope := Scope{Namespace: "shop", Installation: installation}
		_, err := Ask(t.Context(), client, scope, rules(t), Target{kindService, name})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", name, err, want)
		}
	}
}

func TestASelectorLeavesOthersOutOfTheReport(t *testing.T) {
	web, db := labels.Set{"app": "web"}, labels.Set{"app": "db"}
	state := State{Nodes: map[string]Node{"a": {Zone: "1"}, "b": {Zone: "2"}}}
	for _, set := range []labels.Set{web, db} {
		state.Pods = append(state.Pods,
			Pod{Namespace: "shop", Name: set["app"], Labels: set, Node: "a", Phase: "Running", Ready: true,
				JSON: []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{"containers":[{"name":"x"}]}}`)})
	}
	by := rules(t)
	by.Selector = labels.SelectorFromSet(web)
	r := Run(state, by)
	if len(r.Workloads) != 1 || r.Workloads[0].Name != "web" || r.Summary.Workloads != 1 || len(r.Nodes) != 1 ||
		len(r.Nodes[0].Workloads) != 1 {
		t.Errorf("report %+v, nodes %v", r.Summary, r.Nodes)
	}
}

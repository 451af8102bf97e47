package audit

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	report "github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/corpus"
)

var resources = map[string]schema.GroupVersionResource{
	"Pod":         {Version: "v1", Resource: "pods"},
	"Deployment":  {Group: "apps", Version: "v1", Resource: "deployments"},
	"StatefulSet": {Group: "apps", Version: "v1", Resource: "statefulsets"},
	"DaemonSet":   {Group: "apps", Version: "v1", Resource: "daemonsets"},
	"ReplicaSet":  {Group: "apps", Version: "v1", Resource: "replicasets"},
}

// TestAuditSaysWhatTheWebhookThenDoes creates the workloads of the corpus in a namespace that is
// not opted in, opts it in, audits it, and then has the webhook at every workload: Deployments,
// StatefulSets and DaemonSets are restarted, pods made anew. What is there afterwards and was not
// before is what audit said is missing; and then audit has nothing left to say.
func TestAuditSaysWhatTheWebhookThenDoes(t *testing.T) {
	ns, second := namespace(t, nil), namespace(t, optedIn)
	config := shared.RESTConfig()
	config.WarningHandler, config.QPS, config.Burst = rest.NoWarnings{}, 200, 400
	client, err := dynamic.NewForConfig(config)
	check.Must(t, err)
	objects, unread, err := corpus.Load()
	check.Must(t, err)
	for _, what := range unread {
		t.Logf("not read, as kubectl would not: %s", what)
	}
	before := map[string]*unstructured.Unstructured{}
	for i, o := range corpus.Workloads(objects, slices.Collect(maps.Keys(resources))...) {
		object := plain(o, fmt.Sprintf("w%d", i))
		stored, err := client.Resource(resources[o.GetKind()]).Namespace(ns).Create(t.Context(), object,
			metav1.CreateOptions{})
		if err != nil {
			t.Logf("%s is not valid without us: %v", o, err)
			continue
		}
		before[o.GetKind()+"/"+stored.GetName()] = stored
	}
	// A pod that is made once the namespace is opted in has its defaults, and its ReplicaSet is told by it.
	check.Eventually(t, "the pods of the ReplicaSets", func() error {
		for name := range before {
			if name, is := strings.CutPrefix(name, "ReplicaSet/"); is {
				rs, err := shared.Client.AppsV1().ReplicaSets(ns).Get(t.Context(), name, metav1.GetOptions{})
				if err == nil && rs.Status.Replicas < *rs.Spec.Replicas {
					err = fmt.Errorf("%s has %d of %d", name, rs.Status.Replicas, *rs.Spec.Replicas)
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
	var budgets []string // that audit says are missing, which the controller makes as soon as the namespace is opted in
	for _, w := range audit(t, "-n", ns).Workloads {
		if slices.ContainsFunc(w.Defaults,
			func(d report.Default) bool { return d.Default == "disruption-budget" && d.State == report.StateMissing }) {
			budgets = append(budgets, w.Kind+"/"+w.Name)
		}
	}
	slices.Sort(budgets)
	optIn(t, ns)

	audited := map[string][]string{}
	for _, w := range audit(t, "-n", ns).Workloads {
		lacks := []string{}
		for _, d := range w.Defaults {
			if d.State == report.StateMissing && d.Default != "disruption-budget" {
				lacks = append(lacks, strings.TrimSpace(d.Default+" "+d.Container))
			}
		}
		slices.Sort(lacks)
		audited[w.Kind+"/"+w.Name] = lacks
		if !w.OptedIn {
			t.Errorf("%s is not taken to be opted in", w.ID())
		}
	}
	added := 0
	for name, object := range before {
		done, undone, ok := review(t, client, object, ns, second)
		if !ok {
			continue
		}
		want := difference(undone, done)
		added += len(want)
		if diff := cmp.Diff(want, audited[name]); diff != "" {
			t.Errorf("%s (-webhook +audit):\n%s", name, diff)
		}
	}
	t.Logf("%d workloads, %d defaults added", len(before), added)
	if len(before) < 20 || added < 50 {
		t.Errorf("%d workloads with %d defaults show little", len(before), added)
	}
	check.Eventually(t, "the budgets that audit said were missing", func() error {
		list, err := shared.Client.PolicyV1().PodDisruptionBudgets(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		var made []string
		for _, b := range list.Items {
			made = append(made, b.OwnerReferences[0].Kind+"/"+b.OwnerReferences[0].Name)
		}
		slices.Sort(made)
		if diff := cmp.Diff(made, budgets); diff != "" || len(made) < 5 {
			return fmt.Errorf("%d budgets (-controller +audit):\n%s", len(made), diff)
		}
		return nil
	})
	check.Eventually(t, "audit of what the webhook has done", func() error {
		for _, w := range audit(t, "-n", ns).Workloads {
			for _, d := range w.Defaults {
				if w.Kind != "Pod" && w.Kind != "ReplicaSet" && d.State == report.StateMissing {
					return fmt.Errorf("%s still lacks %s %s", w.ID(), d.Default, d.Container)
				}
			}
		}
		return nil
	})
}

// plain returns a copy under another name that any cluster can run.
func plain(o corpus.Object, name string) *unstructured.Unstructured {
	object := o.DeepCopy()
	object.SetNamespace("")
	object.SetGenerateName("")
	object.SetName(name)
	object.SetOwnerReferences(nil)
	if o.GetKind() == "DaemonSet" { // or a restart goes through thirty nodes one after the other
		object.Object["spec"].(map[string]any)["updateStrategy"] =
			map[string]any{"type": "RollingUpdate", "rollingUpdate": map[string]any{"maxUnavailable": "100%"}}
	}
	for _, path := range [][]string{{"spec"}, {"spec", "template", "spec"}} {
		unstructured.RemoveNestedField(object.Object, append(slices.Clone(path), "serviceAccountName")...)
		unstructured.RemoveNestedField(object.Object, append(slices.Clone(path), "serviceAccount")...)
		unstructured.RemoveNestedField(object.Object, append(slices.Clone(path), "priorityClassName")...)
	}
	return object
}

// review has the webhook at an object, and returns what it has then and what it has without.
func review(t *testing.T, client dynamic.Interface, object *unstructured.Unstructured, ns,
	second string) (done, undone *unstructured.Unstructured, ok bool) {
	t.Helper()
	kind := object.GetKind()
	dryRun := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	fresh := func(o *unstructured.Unstructured) *unstructured.Unstructured {
		o = o.DeepCopy()
		o.SetNamespace(second)
		o.SetResourceVersion("")
		o.SetUID("")
		unstructured.RemoveNestedField(o.Object, "spec", "nodeName")
		unstructured.RemoveNestedField(o.Object, "status")
		return o
	}
	switch kind {
	case "Pod":
		done, err := client.Resource(resources["Pod"]).Namespace(second).Create(t.Context(), fresh(object), dryRun)
		check.Must(t, err)
		return done, object, true
	case "DaemonSet", "ReplicaSet": // by their next pod
		body := fresh(object)
		template, _, err := unstructured.NestedMap(object.Object, "spec", "template")
		check.Must(t, err)
		body.Object = map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"],
			"spec": template["spec"]}
		body.SetNamespace(second)
		body.SetGenerateName(object.GetName() + "-")
		controller := true
		body.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: object.GetAPIVersion(), Kind: kind,
			Name: object.GetName(), UID: object.GetUID(), Controller: &controller}})
		done, err := client.Resource(resources["Pod"]).Namespace(second).Create(t.Context(), body, dryRun)
		check.Must(t, err)
		if kind == "DaemonSet" {
			restart(t, client, object, ns)
		}
		return done, body, true
	}
	return restart(t, client, object, ns), object, true
}

// restart does what kubectl rollout restart does.
func restart(t *testing.T, client dynamic.Interface, object *unstructured.Unstructured,
	ns string) *unstructured.Unstructured {
	t.Helper()
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{
		"annotations": map[string]string{"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}}}}})
	check.Must(t, err)
	done, err := client.Resource(resources[object.GetKind()]).Namespace(ns).Patch(t.Context(), object.GetName(),
		types.MergePatchType, patch, metav1.PatchOptions{})
	check.Must(t, err)
	return done
}

// difference returns the defaults that done has and undone has not.
func difference(undone, done *unstructured.Unstructured) []string {
	before := defaults(undone)
	added := []string{}
	for what := range defaults(done) {
		if !before[what] {
			added = append(added, what)
		}
	}
	slices.Sort(added)
	return added
}

// defaults returns which of the defaults a workload has, by container. A grace period that was raised for the sleep has
// none.
func defaults(o *unstructured.Unstructured) map[string]bool {
	path := []string{"spec", "template", "spec"}
	if o.GetKind() == "Pod" {
		path = []string{"spec"}
	}
	found := map[string]bool{}
	if _, ok, _ := unstructured.NestedMap(o.Object, append(slices.Clone(path), "affinity", "podAntiAffinity")...); ok {
		found["anti-affinity"] = true
	}
	record, _, _ := unstructured.NestedString(o.Object,
		append(slices.Clone(path[:len(path)-1]), "metadata", "annotations", "evenkeel.dev/injected")...)
	if strings.Contains(","+record, ",grace-period=") {
		found["pre-stop-sleep"] = true
	}
	containers, _, _ := unstructured.NestedSlice(o.Object, append(slices.Clone(path), "containers")...)
	for _, c := range containers {
		container, _ := c.(map[string]any)
		name, _ := container["name"].(string)
		if _, ok, _ := unstructured.NestedMap(container, "lifecycle", "preStop"); ok {
			found["pre-stop-sleep "+name] = true
		}
		if _, ok := container["readinessProbe"]; ok {
			found["readiness-probe "+name] = true
		}
	}
	return found
}

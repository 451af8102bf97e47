package pdb

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
)

// TestDrainOfAllNodes drains thirty nodes at once, with kubectl, over a hundred workloads
// with budgets and a hundred without. Ten empty nodes take the pods.
func TestDrainOfAllNodes(t *testing.T) {
	const workloads = 100
	// The set-up makes some eight hundred pods. What is drained, and what comes in its place, meets the defaults.
	check.Must(t, shared.RestartControllerManager(cluster.FastControllers()...))
	defaults := sync.OnceFunc(func() { restartControllers(t, shared) })
	defer defaults()
	start(t, nil)
	with, without := namespace(t, nil), namespace(t, nil)
	patch(t, "", "namespaces", without, `{"metadata":{"labels":{"evenkeel.dev/inject":null}}}`)
	total := 0
	for _, ns := range []string{with, without} {
		for i := range workloads {
			replicas := int32(2 + i%4)
			total += int(replicas)
			create(t, ns, deployment(fmt.Sprintf("web%d", i), replicas, func(d *appsv1.Deployment) {
				if replicas == 2 {
					onOneNode(d, fmt.Sprintf("node-%d", i%30))
				}
			}))
		}
	}
	create(t, with, deployment("crashing", 2, func(d *appsv1.Deployment) { d.Spec.Template.Labels["crashing"] = "true" }))
	ready := func(ns string) map[string]int {
		list, err := shared.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
		check.Must(t, err)
		counts := map[string]int{}
		for i := range list.Items {
			if check.Ready(&list.Items[i]) {
				counts[list.Items[i].Labels["app"]]++
			}
		}
		return counts
	}
	sum := func(counts map[string]int) (n int) {
		for v := range maps.Values(counts) {
			n += v
		}
		return n
	}
	check.Eventually(t, "pods", func() error {
		if n := sum(ready(with)) + sum(ready(without)); n != total+2 {
			return fmt.Errorf("%d of %d ready", n, total+2)
		}
		return nil
	})
	check.Eventually(t, "budgets that have counted their pods", func() error {
		list, err := shared.Client.PolicyV1().PodDisruptionBudgets(with).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		allow := 0
		for _, b := range list.Items {
			if b.Status.DisruptionsAllowed == 1 && b.Status.CurrentHealthy == b.Status.ExpectedPods {
				allow++
			}
		}
		if allow != workloads+1 {
			return fmt.Errorf("%d of %d", allow, workloads+1)
		}
		return nil
	})
	crashing, err := shared.Client.CoreV1().Pods(with).List(t.Context(),
		metav1.ListOptions{LabelSelector: "crashing=true"})
	check.Must(t, err)
	for _, p := range crashing.Items {
		_, err := shared.Client.CoreV1().Pods(with).Patch(t.Context(), p.Name, types.StrategicMergePatchType,
			[]byte(`{"status":{"conditions":[{"type":"Ready","status":"False","reason":"CrashLoopBackOff"}]}}`),
			metav1.PatchOptions{}, "status")
		check.Must(t, err)
	}

	defaults()

	nodes, err := shared.Client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	check.Must(t, err)
	_, err = shared.AddNodes(t.Context(), 10, cluster.NodeSpec{NamePrefix: "spare"})
	check.Must(t, err)
	t.Cleanup(func() {
		for _, n := range nodes.Items {
			_, err := shared.Client.CoreV1().Nodes().Patch(context.Background(), n.Name, types.MergePatchType,
				[]byte(`{"spec":{"unschedulable":null}}`), metav1.PatchOptions{})
			check.Must(t, err)
		}
	})
	least := map[string]func() map[string]int{with: follow(t, with), without: follow(t, without)}

	var drains sync.WaitGroup
	const together = 3 // nodes of one kubectl, which drains them one after the other
	for i := 0; i < len(nodes.Items); i += together {
		args := []string{"drain", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=150s"}
		for _, n := range nodes.Items[i:min(i+together, len(nodes.Items))] {
			args = append(args, n.Name)
		}
		drains.Go(func() {
			cmd, err := shared.KubectlCommand(t.Context(), args...)
			if err != nil {
				t.Error(err)
				return
			}
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Run(); err != nil {
				lines := strings.Split(out.String(), "\n")
				t.Errorf("kubectl drain: %v\n%s", err, strings.Join(lines[max(0, len(lines)-20):], "\n"))
			}
			if strings.Contains(out.String(), "more than one PodDisruptionBudget") ||
				strings.Contains(out.String(), "InternalError") {
				t.Errorf("a drain met an internal error:\n%s", out.String())
			}
		})
	}
	drains.Wait()

	lost := 0
	for _, n := range least[without]() {
		if n == 0 {
			lost++
		}
	}
	for name, n := range least[with]() {
		if n == 0 && name != "crashing" {
			t.Errorf("%s had no ready pod during the drain", name)
		}
	}
	t.Logf("without budgets %d of %d workloads had no ready pod at some time during the drain", lost, workloads)
	if lost == 0 {
		t.Error("the drain took no workload without budgets, so it shows nothing")
	}
}

// onOneNode has the scheduler prefer a node for all pods, as happens where nodes are unevenly full:
// its drain takes them all at once, if nothing holds it up.
func onOneNode(d *appsv1.Deployment, node string) {
	d.Spec.Template.Spec.Affinity = &corev1.Affinity{
		NodeAffinity: &corev1.NodeAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 100,
				Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname,
					Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}}}},
		PodAffinity: &corev1.PodAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 100,
				PodAffinityTerm: corev1.PodAffinityTerm{LabelSelector: d.Spec.Selector, TopologyKey: corev1.LabelHostname}}}},
	}
}

// follow watches the pods of a namespace and returns a function that stops and returns
// the lowest number of ready pods that each workload had, at any version of any pod.
func follow(t *testing.T, ns string) func() map[string]int {
	t.Helper()
	list, err := shared.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
	check.Must(t, err)
	w, err := shared.Client.CoreV1().Pods(ns).Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	check.Must(t, err)
	ready, now, least := map[string]bool{}, map[string]int{}, map[string]int{}
	see := func(p *corev1.Pod, is bool) {
		app := p.Labels["app"]
		if ready[p.Name] != is {
			ready[p.Name] = is
			if is {
				now[app]++
			} else {
				now[app]--
			}
		}
		least[app] = min(least[app], now[app])
	}
	for i := range list.Items {
		see(&list.Items[i], check.Ready(&list.Items[i]))
	}
	maps.Copy(least, now)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for event := range w.ResultChan() {
			if p, ok := event.Object.(*corev1.Pod); ok {
				see(p, event.Type != watch.Deleted && check.Ready(p))
			}
		}
	}()
	return func() map[string]int {
		w.Stop()
		<-done
		return least
	}
}

// Package spread counts how many workloads the loss of one node, or of one zone, would take down entirely, without
// evenkeel and with it: with the real scheduler, in situations that clusters get into.
package spread

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
	"github.com/evenkeel/evenkeel/policy"
)

// all asks for every situation. Without it only the one with the greatest difference is gone through.
var all = flag.Bool("all", false, "go through every situation with both means of spreading (20 minutes), not one")

// workloads is how many Deployments are created in each situation, of 2 to 5 replicas in turn.
const workloads = 60

// packing is a scheduler profile that fills nodes one after another, as clusters that scale in do.
const packing = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
  - plugins:
      multiPoint:
        enabled: [{name: NodeResourcesFit, weight: 3}]
    pluginConfig:
      - name: NodeResourcesFit
        args:
          scoringStrategy:
            type: MostAllocated
            resources: [{name: cpu, weight: 1}, {name: memory, weight: 1}]
`

// situation is a state that a cluster is in when workloads are created.
type situation struct {
	name      string
	scheduler string // configuration
	prepare   func(*world)
	// then happens after the Deployments are ready, nil for a rolling update.
	then     string
	thenDo   func(*world)
	replicas func(i int) int32
	// with says how evenkeel runs.
	with installation.Options
	// none is set where no workload may be in one place with evenkeel, and always where some have to
	// be in one zone without it, or else the situation shows nothing.
	none, always bool
}

// world is the cluster of one situation.
type world struct {
	*testing.T
	*cluster.Cluster
	nodes     []string // in three zones in turn
	namespace string
	evenkeel  *installation.Installation // nil without
}

func TestSpread(t *testing.T) {
	twoToFive := func(i int) int32 { return int32(2 + i%4) }
	for _, s := range []situation{
		{name: "an even, empty cluster", prepare: func(*world) {}, replicas: twoToFive, none: true},
		{name: "27 nodes four fifths full, 3 fresh ones in one zone", prepare: func(w *world) { fillBut(w, 3) },
			replicas: twoToFive, none: true, always: true},
		{name: "29 nodes four fifths full, one that came back empty", prepare: func(w *world) { fillBut(w, 1) },
			replicas: twoToFive, none: true},
		{name: "a scheduler profile that packs nodes (MostAllocated, weight 3)", scheduler: packing, prepare: uneven,
			replicas: twoToFive},
		{name: "two zones' Spot nodes gone, fresh ones in one of them", prepare: func(w *world) { fillBut(w, 0) },
			then: "the loss", thenDo: replaceZones, replicas: twoToFive},
		{name: "scaled in from 10 replicas to 2", prepare: func(*world) {}, then: "scaling in", thenDo: scaleIn,
			replicas: func(int) int32 { return 10 }, none: true,
			with: installation.Options{Deploy: "deploy/scale-in", Flags: []string{"--scale-in=keep-zones"}}},
	} {
		if !s.always && !*all {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			lost := map[policy.Spread][2]count{}
			ways := []policy.Spread{"", policy.SpreadAntiAffinity}
			if *all {
				ways = append(ways, policy.SpreadTopology)
			}
			var mu sync.Mutex
			t.Run("ways", func(t *testing.T) {
				for _, means := range ways {
					t.Run(cmp.Or(string(means), "without"), func(t *testing.T) {
						t.Parallel() // what they wait for are the limits of the controllers, not the processor
						counts := s.run(t, means)
						mu.Lock()
						defer mu.Unlock()
						lost[means] = counts
					})
				}
			})
			if t.Failed() {
				return
			}
			then := s.then
			if then == "" {
				then = "a rolling update"
			}
			without, terms, constraints := lost[""], lost[policy.SpreadAntiAffinity], lost[policy.SpreadTopology]
			// A row of docs/proof/spread.md: all replicas in one zone, and on one node.
			for i, when := range []string{"on creation", "after " + then} {
				t.Logf("| %s, %s | %d → %d → %d | %d → %d → %d |", s.name, when, without[i].zone, terms[i].zone,
					constraints[i].zone, without[i].node, terms[i].node, constraints[i].node)
			}
			if s.always && without[0].zone == 0 {
				t.Error("without evenkeel no zone holds a workload entirely on creation: this situation shows nothing")
			}
			for _, means := range ways[1:] {
				for i, c := range lost[means] {
					if c.node > without[i].node || c.zone > without[i].zone {
						t.Errorf("%s made it worse: %+v without, %+v with", means, without[i], c)
					}
					if s.none && (c.zone > 0 || c.node > 0) {
						t.Errorf("with %s one zone holds %d and one node %d of %d workloads entirely, want none", means, c.zone,
							c.node, workloads)
					}
				}
			}
		})
	}
}

// count is how many workloads have all of their pods on one node, or in one zone.
type count struct{ node, zone int }

// run goes through a situation on a cluster of its own, without evenkeel where the means of spreading is "".
func (s *situation) run(t *testing.T, means policy.Spread) (lost [2]count) {
	ctx := t.Context()
	c, err := cluster.Start(ctx, cluster.Config{Log: os.Stderr, SchedulerConfig: s.scheduler})
	check.Must(t, err)
	defer func() { check.Must(t, c.Stop()) }()
	w := &world{T: t, Cluster: c, namespace: "shop"}
	w.nodes, err = c.AddNodes(ctx, 30, cluster.NodeSpec{})
	check.Must(t, err)
	labels := map[string]string{}
	if means != "" {
		options := s.with
		options.Flags = append(slices.Clone(options.Flags), "--spread="+string(means))
		w.evenkeel, err = installation.Install(ctx, c, options)
		check.Must(t, err)
		labels["evenkeel.dev/inject"] = "enabled"
	}
	w.makeNamespace("filler", nil)
	w.makeNamespace(w.namespace, labels)
	s.prepare(w)
	for i := range workloads {
		w.create(fmt.Sprintf("w-%d", i), s.replicas(i))
	}
	w.waitReady()
	lost[0] = w.count()
	if s.thenDo != nil {
		s.thenDo(w)
	} else {
		w.each(`{"spec":{"template":{"metadata":{"annotations":{"restarted":"now"}}}}}`)
	}
	w.waitReady()
	lost[1] = w.count()
	return lost
}

// fillBut fills all nodes but so many of the first zone to four fifths.
func fillBut(w *world, fresh int) {
	for i, node := range w.nodes {
		if i%3 == 0 && fresh > 0 {
			fresh--
			continue
		}
		w.fill(node, "6400m", "25Gi")
	}
}

// uneven fills nodes to between a tenth and six tenths.
func uneven(w *world) {
	for i, node := range w.nodes {
		tenths := 1 + i%6
		w.fill(node, fmt.Sprintf("%dm", 800*tenths), fmt.Sprintf("%dMi", 3276*tenths))
	}
}

// replaceZones takes the nodes of two zones away at once, and adds fresh ones in the first of them, on which the
// controllers' new pods have room.
func replaceZones(w *world) {
	ctx := w.Context()
	_, err := w.AddNodes(ctx, 10, cluster.NodeSpec{Zones: []string{"zone-a"}, NamePrefix: "fresh"})
	check.Must(w, err)
	zero := int64(0)
	for i, node := range w.nodes {
		if i%3 == 2 {
			continue
		}
		check.Must(w, w.Client.CoreV1().Nodes().Delete(ctx, node, metav1.DeleteOptions{}))
		pods, err := w.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx,
			metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
		check.Must(w, err)
		for _, p := range pods.Items {
			check.Must(w,
				w.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero}))
		}
	}
}

// scaleIn has the ReplicaSet controller choose which pods go: it looks at their deletion cost, at
// how many share a node and at their age, never at zones or affinity. One half is scaled in by
// hand, the other by an autoscaler.
func scaleIn(w *world) {
	ctx := w.Context()
	if w.evenkeel != nil {
		defer w.foreignCost()()
		w.waitMarked(w.namespace, workloads, 3)
	}
	for i := range workloads {
		name := fmt.Sprintf("w-%d", i)
		if i%2 == 0 {
			_, err := w.Client.AppsV1().Deployments(w.namespace).UpdateScale(ctx, name, &autoscalingv1.Scale{
				ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: w.namespace}, Spec: autoscalingv1.ScaleSpec{Replicas: 2}},
				metav1.UpdateOptions{})
			check.Must(w, err)
			continue
		}
		one := int32(1) // what is above the most comes down without a metric
		_, err := w.Client.AutoscalingV2().HorizontalPodAutoscalers(w.namespace).Create(ctx,
			&autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: name},
				Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MinReplicas: &one, MaxReplicas: 2,
					ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: name}}},
			metav1.CreateOptions{})
		check.Must(w, err)
	}
	check.Eventually(w, "every Deployment is scaled in", func() error {
		list, err := w.Client.AppsV1().Deployments(w.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, d := range list.Items {
			if *d.Spec.Replicas != 2 {
				return fmt.Errorf("%s is to have %d replicas", d.Name, *d.Spec.Replicas)
			}
		}
		return nil
	})
}

// costOf is what the ReplicaSet controller reads.
const costOf = "controller.kubernetes.io/pod-deletion-cost"

// waitMarked waits until so many Deployments have so many pods each that go last.
func (w *world) waitMarked(namespace string, deployments, each int) {
	w.Helper()
	check.Eventually(w, "a pod of each zone is marked", func() error {
		pods, err := w.Client.CoreV1().Pods(namespace).List(w.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		marked, whole := map[string]int{}, 0
		for _, p := range pods.Items {
			if marked[p.Labels["app"]] += len(p.Annotations[costOf]); p.Annotations[costOf] != "" &&
				marked[p.Labels["app"]] == each {
				whole++
			}
		}
		if whole != deployments {
			return fmt.Errorf("%d of %d Deployments are marked", whole, deployments)
		}
		return nil
	})
	writes, err := w.evenkeel.Metric(w.Context(), "evenkeel_scale_in_writes_total", `result="ok"`)
	check.Must(w, err)
	w.Logf("%.0f pods written for %d Deployments", writes, deployments)
	if most := float64(2 * deployments * each); writes > most {
		w.Errorf("%.0f pods written, want %.0f at most", writes, most)
	}
}

// foreignCost makes a Deployment of which somebody else gives a pod a cost. The function that it
// returns checks that evenkeel has left it alone since.
func (w *world) foreignCost() (verify func()) {
	w.Helper()
	ctx, own := w.Context(), *w
	own.namespace = "costs"
	w.makeNamespace(own.namespace, map[string]string{"evenkeel.dev/inject": "enabled"})
	own.create("own", 6)
	own.waitReady()
	pods, err := w.Client.CoreV1().Pods(own.namespace).List(ctx, metav1.ListOptions{})
	check.Must(w, err)
	mine := pods.Items[0].Name
	_, err = w.Client.CoreV1().Pods(own.namespace).Patch(ctx, mine, types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"`+costOf+`":"7"}}}`), metav1.PatchOptions{})
	check.Must(w, err)
	return func() {
		check.Eventually(w, "the Deployment with a cost of somebody else has no other", func() error {
			pods, err := w.Client.CoreV1().Pods(own.namespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				return err
			}
			for _, p := range pods.Items {
				want := map[bool]string{true: "7"}[p.Name == mine]
				if got := p.Annotations[costOf]; got != want {
					return fmt.Errorf("pod %s costs %q, want %q", p.Name, got, want)
				}
			}
			return nil
		})
	}
}

func (w *world) makeNamespace(name string, labels map[string]string) {
	w.Helper()
	_, err := w.Client.CoreV1().Namespaces().Create(w.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
	check.Must(w, err)
	check.Eventually(w, "service account of namespace "+name, func() error {
		_, err := w.Client.CoreV1().ServiceAccounts(name).Get(w.Context(), "default", metav1.GetOptions{})
		return err
	})
}

// fill puts a pod with these requests on a node, past the scheduler.
func (w *world) fill(node, cpu, memory string) {
	w.Helper()
	_, err := w.Client.CoreV1().Pods("filler").Create(w.Context(),
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "on-" + node},
			Spec: corev1.PodSpec{NodeName: node,
				Containers: []corev1.Container{{Name: "filler", Image: "filler", Resources: requests(cpu, memory)}}}},
		metav1.CreateOptions{})
	check.Must(w, err)
}

func requests(cpu, memory string) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu),
			corev1.ResourceMemory: resource.MustParse(memory)}}
}

func (w *world) create(name string, replicas int32) {
	w.Helper()
	labels := map[string]string{"app": name}
	_, err := w.Client.AppsV1().Deployments(w.namespace).Create(w.Context(),
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
					Spec: corev1.PodSpec{Containers: []corev1.Container{{
						Name: "web", Image: "web", Ports: []corev1.ContainerPort{{ContainerPort: 80}},
						Resources: requests("50m", "64Mi")}}}}}}, metav1.CreateOptions{})
	check.Must(w, err)
}

// each sends a merge patch to every Deployment.
func (w *world) each(patch string) {
	w.Helper()
	if !json.Valid([]byte(patch)) {
		w.Fatalf("patch %s is no JSON", patch)
	}
	for i := range workloads {
		_, err := w.Client.AppsV1().Deployments(w.namespace).Patch(w.Context(), fmt.Sprintf("w-%d", i), types.MergePatchType,
			[]byte(patch), metav1.PatchOptions{})
		check.Must(w, err)
	}
}

// waitReady waits until every Deployment is rolled out and no pod too many is left.
func (w *world) waitReady() {
	w.Helper()
	check.Eventually(w, "all Deployments are rolled out", func() error {
		list, err := w.Client.AppsV1().Deployments(w.namespace).List(w.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		want := 0
		for _, d := range list.Items {
			want += int(*d.Spec.Replicas)
			if d.Status.ObservedGeneration < d.Generation || d.Status.UpdatedReplicas != *d.Spec.Replicas ||
				d.Status.AvailableReplicas != *d.Spec.Replicas {
				return fmt.Errorf("%s has %d of %d replicas", d.Name, d.Status.AvailableReplicas, *d.Spec.Replicas)
			}
		}
		pods, err := w.Client.CoreV1().Pods(w.namespace).List(w.Context(), metav1.ListOptions{})
		if err == nil && len(pods.Items) != want {
			err = fmt.Errorf("%d pods, want %d", len(pods.Items), want)
		}
		return err
	})
}

// count looks where the pods are.
func (w *world) count() count {
	w.Helper()
	nodes, err := w.Client.CoreV1().Nodes().List(w.Context(), metav1.ListOptions{})
	check.Must(w, err)
	zones := map[string]string{}
	for _, n := range nodes.Items {
		zones[n.Name] = n.Labels[corev1.LabelTopologyZone]
	}
	pods, err := w.Client.CoreV1().Pods(w.namespace).List(w.Context(), metav1.ListOptions{})
	check.Must(w, err)
	onNodes, inZones := map[string]map[string]bool{}, map[string]map[string]bool{}
	for _, p := range pods.Items {
		app := p.Labels["app"]
		if onNodes[app] == nil {
			onNodes[app], inZones[app] = map[string]bool{}, map[string]bool{}
		}
		onNodes[app][p.Spec.NodeName] = true
		inZones[app][zones[p.Spec.NodeName]] = true
	}
	var c count
	for app := range onNodes {
		if len(onNodes[app]) == 1 {
			c.node++
		}
		if len(inZones[app]) == 1 {
			c.zone++
		}
	}
	return c
}

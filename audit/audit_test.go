package audit

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/pdb"
	"github.com/evenkeel/evenkeel/policy"
)

func rules(t *testing.T) Rules {
	t.Helper()
	injector, err := patches.New(patches.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	return Rules{Injector: injector, Budgets: pdb.Rules{Base: policy.Default(), Bounds: policy.DefaultBounds()}}
}

// state makes a cluster of six nodes in three zones with one opted-in namespace.
func state() State {
	s := State{Source: "test", Cluster: patches.Cluster{APIServer: patches.Version{Major: 1, Minor: 36}},
		Namespaces: map[string]Namespace{"in": {OptedIn: true}, "out": {}}, Nodes: map[string]Node{}}
	for i := range 6 {
		s.Nodes[fmt.Sprint("node-", i)] = Node{Zone: fmt.Sprint("zone-", i%3)}
	}
	return s
}

// deploy adds a Deployment and a ready pod on each of the nodes.
func deploy(t *testing.T, s *State, namespace, name string, replicas int32, nodes ...string) {
	t.Helper()
	labels := map[string]string{"app": name}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec: corev1.PodSpec{Containers: []corev1.Container{
			{Name: "web", Image: "web", Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}}}
	d := appsv1.Deployment{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: template}}
	controller := true
	rs := appsv1.ReplicaSet{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "ReplicaSet"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace,
			Name: name + "-1",
			OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "apps/v1", Kind: "Deployment", Name: name, Controller: &controller}}}}
	for _, object := range []any{d, rs} {
		raw, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		o, err := NewObject(namespace, "", raw)
		if err != nil {
			t.Fatal(err)
		}
		s.Objects = append(s.Objects, o)
	}
	for i, node := range nodes {
		pod := corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace,
				Name: fmt.Sprint(name, "-1-", i), Labels: labels,
				OwnerReferences: []metav1.OwnerReference{
					{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: name + "-1", Controller: &controller}}},
			Spec: template.Spec,
			Status: corev1.PodStatus{Phase: corev1.PodRunning,
				Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
		pod.Spec.NodeName = node
		raw, err := json.Marshal(pod)
		if err != nil {
			t.Fatal(err)
		}
		p, err := NewPod(raw)
		if err != nil {
			t.Fatal(err)
		}
		s.Pods = append(s.Pods, p)
	}
}

// found returns the findings of a workload without those about defaults.
func found(t *testing.T, r *Report, id string) []string {
	t.Helper()
	for _, w := range r.Workloads {
		if w.ID() != id {
			continue
		}
		codes := []string{}
		for _, f := range w.Findings {
			switch f.Code {
			case MissingAntiAffinity, MissingPreStopSleep, MissingReadinessProbe, MissingBudget:
			default:
				codes = append(codes, string(f.Code)+" "+f.Object)
			}
		}
		return codes
	}
	t.Fatalf("no workload %s", id)
	return nil
}

func TestTheLossOfANodeOrZone(t *testing.T) {
	for name, c := range map[string]struct {
		replicas int32
		nodes    []string
		change   func(*State)
		want     []string
	}{
		"replicas in two zones survive the loss of one": {2, []string{"node-0", "node-1"}, nil, []string{}},
		"replicas on one node go with it and its zone": {2, []string{"node-0", "node-0"}, nil,
			[]string{"one-node node-0", "one-zone zone-0"}},
		"replicas on two nodes of a zone go with it": {2, []string{"node-0", "node-3"}, nil, []string{"one-zone zone-0"}},
		"one replica goes with its node": {1, []string{"node-4"}, nil,
			[]string{"one-node node-4", "one-zone zone-1", "single-replica "}},
		"replicas that are not ready keep nothing up": {2, []string{"node-0", "node-1"},
			func(s *State) { s.Pods[1].Ready = false }, []string{"one-node node-0", "one-zone zone-0"}},
		"replicas that terminate keep nothing up": {2, []string{"node-0", "node-1"},
			func(s *State) { s.Pods[0].Terminating = true }, []string{"one-node node-1", "one-zone zone-1"}},
		"a node without a zone may be in any": {2, []string{"node-0", "node-3"},
			func(s *State) { s.Nodes["node-3"] = Node{} }, []string{}},
		"nodes without zones may be in two": {2, []string{"node-0", "node-3"},
			func(s *State) { s.Nodes["node-0"], s.Nodes["node-3"] = Node{}, Node{} }, []string{}},
		"a cluster of one zone has no zone to lose alone": {2, []string{"node-0", "node-3"}, func(s *State) {
			for name := range s.Nodes {
				s.Nodes[name] = Node{Zone: "only"}
			}
		}, []string{}},
		"without nodes nothing is said of zones": {2, []string{"node-0", "node-0"}, func(s *State) { s.Nodes = nil },
			[]string{"one-node node-0"}},
		"what is down already can't be taken down": {2, []string{"node-0", "node-1"},
			func(s *State) { s.Pods[0].Ready, s.Pods[1].Ready = false, false }, []string{"none-ready "}},
		"what is scaled to zero is nobody's trouble": {0, nil, nil, []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			s := state()
			deploy(t, &s, "out", "web", c.replicas, c.nodes...)
			if c.change != nil {
				c.change(&s)
			}
			r := Run(s, rules(t))
			if diff := cmp.Diff(c.want, found(t, r, "out/Deployment/web")); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatNamespacesHaveMissed(t *testing.T) {
	s := state()
	deploy(t, &s, "in", "web", 2, "node-0", "node-1")
	deploy(t, &s, "out", "web", 2, "node-0", "node-1")
	r := Run(s, rules(t))
	if diff := cmp.Diff([]string{"missed-injection "}, found(t, r, "in/Deployment/web")); diff != "" {
		t.Errorf("an opted-in namespace (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{}, found(t, r, "out/Deployment/web")); diff != "" {
		t.Errorf("a namespace that is not (-want +got):\n%s", diff)
	}
	if n := r.Workloads[0].BarePods; n != 2 {
		t.Errorf("%d bare pods, want 2", n)
	}
	if r.Summary.Findings[MissingBudget] != 2 || r.Summary.Complete != 0 || r.Summary.Workloads != 2 {
		t.Errorf("summary %+v", r.Summary)
	}
}

// TestWhatTheAPIServerWouldRefuse is the truth table of refusal. e2e/audit has the API
// server evict.
func TestWhatTheAPIServerWouldRefuse(t *testing.T) {
	number := func(n int) *intstr.IntOrString { v := intstr.FromInt(n); return &v }
	budget := func(change ...func(*policyv1.PodDisruptionBudget)) *policyv1.PodDisruptionBudget {
		b := &policyv1.PodDisruptionBudget{Spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: number(1)},
			Status: policyv1.PodDisruptionBudgetStatus{ExpectedPods: 3, DesiredHealthy: 2, CurrentHealthy: 3,
				DisruptionsAllowed: 1}}
		for _, f := range change {
			f(b)
		}
		return b
	}
	used := func(b *policyv1.PodDisruptionBudget) { b.Status.CurrentHealthy, b.Status.DisruptionsAllowed = 2, 0 }
	strict := func(b *policyv1.PodDisruptionBudget) {
		used(b)
		b.Spec.MaxUnavailable, b.Spec.MinAvailable, b.Status.DesiredHealthy = nil, number(3), 3
	}
	percent := intstr.FromString("70%")
	ready := Pod{Phase: "Running", Ready: true}
	always, ifHealthy := policyv1.AlwaysAllow, policyv1.IfHealthyBudget
	for name, c := range map[string]struct {
		pod     Pod
		wanted  int
		budgets []*policyv1.PodDisruptionBudget
		want    Code
	}{
		"no budget":                  {ready, 3, nil, ""},
		"a budget with room":         {ready, 3, []*policyv1.PodDisruptionBudget{budget()}, ""},
		"a budget that is used up":   {ready, 3, []*policyv1.PodDisruptionBudget{budget(used)}, DrainWaits},
		"a budget that takes all":    {ready, 3, []*policyv1.PodDisruptionBudget{budget(strict)}, DrainBlocked},
		"one that more pods satisfy": {ready, 4, []*policyv1.PodDisruptionBudget{budget(strict)}, DrainWaits},
		"a percentage, rounded up": {ready, 3,
			[]*policyv1.PodDisruptionBudget{
				budget(strict, func(b *policyv1.PodDisruptionBudget) { b.Spec.MinAvailable = &percent })}, DrainBlocked},
		"nothing said": {ready, 3,
			[]*policyv1.PodDisruptionBudget{budget(strict, func(b *policyv1.PodDisruptionBudget) { b.Spec.MinAvailable = nil })},
			DrainBlocked},
		"two budgets with room":    {ready, 3, []*policyv1.PodDisruptionBudget{budget(), budget()}, BudgetsOverlap},
		"two budgets, pod pending": {Pod{Phase: "Pending"}, 3, []*policyv1.PodDisruptionBudget{budget(), budget()}, ""},
		"used up, pod succeeded": {Pod{Phase: "Succeeded", Ready: true}, 3,
			[]*policyv1.PodDisruptionBudget{budget(used)}, ""},
		"used up, pod failed": {Pod{Phase: "Failed", Ready: true}, 3, []*policyv1.PodDisruptionBudget{budget(used)}, ""},
		"used up, pod terminating": {Pod{Phase: "Running", Ready: true, Terminating: true}, 3,
			[]*policyv1.PodDisruptionBudget{budget(used)}, ""},
		"used up, pod not ready": {Pod{Phase: "Running"}, 3, []*policyv1.PodDisruptionBudget{budget(used)}, ""},
		"too few ready, pod not ready": {Pod{Phase: "Running"}, 3,
			[]*policyv1.PodDisruptionBudget{budget(strict)}, DrainBlocked},
		"likewise, but always allowed": {Pod{Phase: "Running"}, 3,
			[]*policyv1.PodDisruptionBudget{
				budget(strict, func(b *policyv1.PodDisruptionBudget) { b.Spec.UnhealthyPodEvictionPolicy = &always })}, ""},
		"none wanted, pod not ready": {Pod{Phase: "Running"}, 3,
			[]*policyv1.PodDisruptionBudget{
				budget(strict, func(b *policyv1.PodDisruptionBudget) { b.Status.DesiredHealthy = 0 })}, DrainBlocked},
		"healthy ones by default": {Pod{Phase: "Running"}, 3,
			[]*policyv1.PodDisruptionBudget{
				budget(strict, func(b *policyv1.PodDisruptionBudget) { b.Spec.UnhealthyPodEvictionPolicy = &ifHealthy })},
			DrainBlocked},
		"more pods than are wanted": {ready, 1,
			[]*policyv1.PodDisruptionBudget{budget(strict, func(b *policyv1.PodDisruptionBudget) { b.Status.ExpectedPods = 4 })},
			DrainWaits},
		"a status that is behind": {ready, 3,
			[]*policyv1.PodDisruptionBudget{budget(func(b *policyv1.PodDisruptionBudget) { b.Generation = 2 })},
			BudgetNotInForce},
		"two of two and one may go": {ready, 2,
			[]*policyv1.PodDisruptionBudget{budget(used, func(b *policyv1.PodDisruptionBudget) { b.Status.ExpectedPods = 2 })},
			DrainWaits},
		"a single replica that is kept": {ready, 1,
			[]*policyv1.PodDisruptionBudget{
				budget(strict,
					func(b *policyv1.PodDisruptionBudget) { b.Spec.MinAvailable, b.Status.ExpectedPods = number(1), 1 })},
			DrainBlocked},
	} {
		t.Run(name, func(t *testing.T) {
			if got := refusal(&c.pod, c.budgets, c.wanted); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestDrainsNameBudgetsPodsAndNodes(t *testing.T) {
	s := state()
	deploy(t, &s, "out", "web", 2, "node-0", "node-1")
	all := intstr.FromString("100%")
	s.Budgets = []policyv1.PodDisruptionBudget{{ObjectMeta: metav1.ObjectMeta{Namespace: "out", Name: "all"},
		Spec:   policyv1.PodDisruptionBudgetSpec{MinAvailable: &all, Selector: &metav1.LabelSelector{}},
		Status: policyv1.PodDisruptionBudgetStatus{ExpectedPods: 2, DesiredHealthy: 2, CurrentHealthy: 2}}}
	r := Run(s, rules(t))
	want := []Drain{{Namespace: "out", Code: DrainBlocked, Budgets: []string{"all"}, Workloads: []string{"Deployment/web"},
		Nodes: []string{"node-0", "node-1"}, Pods: []string{"web-1-0", "web-1-1"}}}
	if diff := cmp.Diff(want, r.Drains); diff != "" {
		t.Errorf("drains (-want +got):\n%s", diff)
	}
}

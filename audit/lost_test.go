package audit

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/evenkeel/evenkeel/policy"
)

// put puts a running and ready pod of an owner on a node.
func put(t *testing.T, s *State, owner Owner, name, node string, change ...func(*Pod)) {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Pod",
		"metadata": map[string]any{"namespace": "out", "name": name, "labels": map[string]string{"app": "web"}},
		"spec":     map[string]any{"containers": []any{map[string]any{"name": "a", "image": "a"}}}})
	if err != nil {
		t.Fatal(err)
	}
	p := Pod{Namespace: "out", Name: name, Labels: map[string]string{"app": "web"}, Node: node, Phase: "Running",
		Ready: true, Owner: owner, JSON: raw}
	for _, f := range change {
		f(&p)
	}
	s.Pods = append(s.Pods, p)
}

// add adds a workload of the namespace out.
func add(t *testing.T, s *State, text string) {
	t.Helper()
	o, err := NewObject("out", "", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	s.Objects = append(s.Objects, o)
}

// ids returns the workloads that the loss of each node would take down.
func ids(domains []Domain) map[string][]string {
	byName := map[string][]string{}
	for _, d := range domains {
		byName[d.Name] = d.Workloads
	}
	return byName
}

// TestWhatCountsAsLostWithANode holds which pods keep a workload up and which workloads are lost.
func TestWhatCountsAsLostWithANode(t *testing.T) {
	daemon := `{"apiVersion":"apps/v1","kind":"DaemonSet","metadata":{"name":"agent"},"spec":{"template":{"spec":{}}}}`
	set := `{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"db"},"spec":{"replicas":2,` +
		`"template":{"spec":{}}}}`
	for name, c := range map[string]struct {
		object string
		owner  Owner
		nodes  []string
		change func(*Pod)
		lost   map[string][]string
		codes  []string // of the findings about the owner; nil where it is no workload
	}{
		"a DaemonSet on one node serves that node, and nothing is lost with it": {
			daemon, Owner{"apps/v1", "DaemonSet", "agent"}, []string{"node-0"}, nil, map[string][]string{}, []string{}},
		"a StatefulSet on one node is lost with it": {
			set, Owner{"apps/v1", "StatefulSet", "db"}, []string{"node-0", "node-0"}, nil,
			map[string][]string{"node-0": {"out/StatefulSet/db"}}, []string{"one-node node-0", "one-zone zone-0"}},
		"pods of a Job serve nobody, and the Job is no workload": {
			"", Owner{"batch/v1", "Job", "migrate"}, []string{"node-0"}, nil, map[string][]string{}, nil},
		"static pods are their node's": {
			"", Owner{"v1", "Node", "node-0"}, []string{"node-0"}, nil, map[string][]string{}, nil},
		"pods that have succeeded serve nobody": {
			set, Owner{"apps/v1", "StatefulSet", "db"}, []string{"node-0"}, func(p *Pod) { p.Phase = "Succeeded" },
			map[string][]string{}, []string{"none-ready "}},
		"pods that have failed serve nobody": {
			set, Owner{"apps/v1", "StatefulSet", "db"}, []string{"node-0"}, func(p *Pod) { p.Phase = "Failed" },
			map[string][]string{}, []string{"none-ready "}},
		"a pod that is ready, but not running, serves nobody": {
			set, Owner{"apps/v1", "StatefulSet", "db"}, []string{"node-0"}, func(p *Pod) { p.Phase = "Pending" },
			map[string][]string{}, []string{"none-ready "}},
		"a pod of an unknown controller is lost with its node, as a single replica": {
			"", Owner{"example.com/v1", "Game", "chess"}, []string{"node-0"}, nil,
			map[string][]string{"node-0": {"out/Game/chess"}},
			[]string{"one-node node-0", "one-zone zone-0", "single-replica "}},
		"two pods of an unknown controller on two nodes are no single replica": {
			"", Owner{"example.com/v1", "Game", "chess"}, []string{"node-0", "node-1"}, nil, map[string][]string{}, []string{}},
		"a pod of an unknown DaemonSet is no single replica": {
			"", Owner{"example.com/v1", "DaemonSet", "agent"}, []string{"node-0"}, nil, map[string][]string{}, []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			s := state()
			if c.object != "" {
				add(t, &s, c.object)
			}
			for i, node := range c.nodes {
				pod := c.owner.Name + "-" + string(rune('0'+i))
				if c.change != nil {
					put(t, &s, c.owner, pod, node, c.change)
				} else {
					put(t, &s, c.owner, pod, node)
				}
			}
			r := Run(s, rules(t))
			if diff := cmp.Diff(c.lost, ids(r.Nodes)); diff != "" {
				t.Errorf("lost with a node (-want +got):\n%s", diff)
			}
			if c.codes == nil {
				if len(r.Workloads) > 0 {
					t.Errorf("%s is taken for a workload", r.Workloads[0].ID())
				}
				return
			}
			unfinished := 0
			for _, p := range s.Pods {
				if p.Phase == "Running" || p.Phase == "Pending" {
					unfinished++
				}
			}
			if n := r.Workloads[0].Pods; n != unfinished {
				t.Errorf("%d pods are counted, want the %d that have not finished", n, unfinished)
			}
			if diff := cmp.Diff(c.codes, found(t, r, "out/"+c.owner.Kind+"/"+c.owner.Name)); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPodsThatFinishedHoldUpNoDrain holds that only pods that run are asked about.
func TestPodsThatFinishedHoldUpNoDrain(t *testing.T) {
	none := intstr.FromInt32(0)
	s := state()
	put(t, &s, Owner{"batch/v1", "Job", "migrate"}, "migrate", "node-0")
	put(t, &s, Owner{}, "done", "node-0", func(p *Pod) { p.Phase = "Succeeded" })
	put(t, &s, Owner{}, "runs", "node-1")
	s.Budgets = []policyv1.PodDisruptionBudget{{ObjectMeta: metav1.ObjectMeta{Namespace: "out", Name: "none"},
		Spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &none, Selector: &metav1.LabelSelector{}}}}
	r := Run(s, rules(t))
	if len(r.Drains) != 1 || !cmp.Equal(r.Drains[0].Pods, []string{"runs"}) {
		t.Errorf("drains %+v, want one, held up by the pod that runs", r.Drains)
	}
}

// TestWhatABudgetLetsGo is the truth table of allowance.
func TestWhatABudgetLetsGo(t *testing.T) {
	number := func(n int32) *intstr.IntOrString { v := intstr.FromInt32(n); return &v }
	text := func(s string) *intstr.IntOrString { v := intstr.FromString(s); return &v }
	for name, c := range map[string]struct {
		spec policyv1.PodDisruptionBudgetSpec
		n    int
		want int
	}{
		"says nothing":                             {policyv1.PodDisruptionBudgetSpec{}, 5, 0},
		"one may be away":                          {policyv1.PodDisruptionBudgetSpec{MaxUnavailable: number(1)}, 5, 1},
		"more may be away than there are":          {policyv1.PodDisruptionBudgetSpec{MaxUnavailable: number(9)}, 5, 5},
		"a percentage may be away, rounded up":     {policyv1.PodDisruptionBudgetSpec{MaxUnavailable: text("30%")}, 5, 2},
		"what may be away is no number":            {policyv1.PodDisruptionBudgetSpec{MaxUnavailable: text("some")}, 5, 0},
		"two have to be there":                     {policyv1.PodDisruptionBudgetSpec{MinAvailable: number(2)}, 5, 3},
		"more have to be there than there are":     {policyv1.PodDisruptionBudgetSpec{MinAvailable: number(9)}, 5, 0},
		"a percentage has to be there, rounded up": {policyv1.PodDisruptionBudgetSpec{MinAvailable: text("30%")}, 5, 3},
		"what has to be there is no number":        {policyv1.PodDisruptionBudgetSpec{MinAvailable: text("some")}, 5, 0},
		"both are given, of which the first counts": {
			policyv1.PodDisruptionBudgetSpec{MaxUnavailable: number(1), MinAvailable: number(0)}, 5, 1},
	} {
		if got := allowance(&c.spec, c.n); got != c.want {
			t.Errorf("%s: %d of %d may go, want %d", name, got, c.n, c.want)
		}
	}
}

// TestWhichBudgetsGuardAPod holds how selectors are read: as the API server reads them.
func TestWhichBudgetsGuardAPod(t *testing.T) {
	budget := func(name string, selector *metav1.LabelSelector) policyv1.PodDisruptionBudget {
		return policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name},
			Spec: policyv1.PodDisruptionBudgetSpec{Selector: selector}}
	}
	elsewhere := budget("elsewhere", &metav1.LabelSelector{})
	elsewhere.Namespace = "b"
	guards := newGuards([]policyv1.PodDisruptionBudget{elsewhere,
		budget("z-everything", &metav1.LabelSelector{}), budget("nothing", nil),
		budget("broken", &metav1.LabelSelector{MatchLabels: map[string]string{"not a key!": "x"}}),
		budget("others", &metav1.LabelSelector{MatchLabels: map[string]string{"app": "other"}}),
		budget("ours", &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}),
	})
	if got := budgetNames(guards["a"].of(map[string]string{"app": "web"})); got != "ours, z-everything" {
		t.Errorf("budgets %q, want the one with the label and the one for everything, by name", got)
	}
}

// TestWhatTellsWorkloadsApart holds the conditions that decide over one workload.
func TestWhatTellsWorkloadsApart(t *testing.T) {
	const deployment = `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"%s},"spec":{"replicas":%d,` +
		`"template":{"spec":{}}}}`
	one := int32(1)
	autoscaler := func(s *State) {
		a := autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "out"}}
		a.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1",
			Kind: "Deployment", Name: "web"}
		a.Spec.MinReplicas = &one
		s.Autoscalers = append(s.Autoscalers, a)
	}
	for name, c := range map[string]struct {
		arrange func(*State)
		id      string
		want    []string
	}{
		"an autoscaler may leave one replica": {func(s *State) {
			add(t, s, fmt.Sprintf(deployment, "", 3))
			autoscaler(s)
		}, "out/Deployment/web", []string{"single-replica ", "none-ready "}},
		"an autoscaler leaves what is scaled to zero": {func(s *State) {
			add(t, s, fmt.Sprintf(deployment, "", 0))
			autoscaler(s)
		}, "out/Deployment/web", []string{}},
		"pods are their Deployment's owner's, through two more owners": {func(s *State) {
			owned := `,"ownerReferences":[{"apiVersion":"example.com/v1","kind":"Shop","name":"shop","controller":true}]`
			add(t, s, fmt.Sprintf(deployment, owned, 1))
			add(t, s, `{"apiVersion":"apps/v1","kind":"ReplicaSet","metadata":{"name":"web-1","ownerReferences":[`+
				`{"apiVersion":"apps/v1","kind":"Deployment","name":"web","controller":true}]},"spec":{}}`)
			put(t, s, Owner{"apps/v1", "ReplicaSet", "web-1"}, "web-1-a", "node-0")
			put(t, s, Owner{"apps/v1", "ReplicaSet", "web-1"}, "web-1-b", "node-1")
		}, "out/Shop/shop", []string{}},
		"a pod without a controller comes back nowhere": {func(s *State) { put(t, s, Owner{}, "lone", "node-0") },
			"out/Pod/lone", []string{"bare-pod ", "one-node node-0", "one-zone zone-0"}},
		"a pod that is to end is not expected back": {func(s *State) {
			put(t, s, Owner{}, "once", "node-0", func(p *Pod) {
				p.JSON = []byte(strings.Replace(string(p.JSON), `"spec":{`, `"spec":{"restartPolicy":"Never",`, 1))
			})
		}, "out/Pod/once", []string{"one-node node-0", "one-zone zone-0"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := state()
			c.arrange(&s)
			got, want := found(t, Run(s, rules(t)), c.id), slices.Clone(c.want)
			slices.Sort(got)
			slices.Sort(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPodsThatTheWebhookPassesOverAreNotBare holds that the label of done pods counts.
func TestPodsThatTheWebhookPassesOverAreNotBare(t *testing.T) {
	s := state()
	for name, labels := range map[string]map[string]string{
		"done": {policy.DefaultedLabel: "true", policy.TemplateHash: "a"}, "bare": nil,
		"forged": {policy.DefaultedLabel: "true"},
	} {
		put(t, &s, Owner{"example.com/v1", "Game", "chess"}, name, "node-0", func(p *Pod) { p.Labels = labels })
	}
	if r := Run(s, rules(t)); r.Workloads[0].BarePods != 2 {
		t.Errorf("%d bare pods, want the one without the label and the one on which somebody wrote it",
			r.Workloads[0].BarePods)
	}
}

// TestAnUnknownNumberOfReplicasCountsForNothing has a budget over a Deployment and a custom resource.
func TestAnUnknownNumberOfReplicasCountsForNothing(t *testing.T) {
	two := intstr.FromInt32(2)
	s := state()
	add(t, &s, `{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"db"},"spec":{"replicas":3,`+
		`"template":{"spec":{}}}}`)
	put(t, &s, Owner{"apps/v1", "StatefulSet", "db"}, "db-0", "node-0")
	put(t, &s, Owner{"example.com/v1", "Game", "chess"}, "chess", "node-1")
	s.Budgets = []policyv1.PodDisruptionBudget{{ObjectMeta: metav1.ObjectMeta{Namespace: "out", Name: "two"},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &two, Selector: &metav1.LabelSelector{}}}}
	if r := Run(s, rules(t)); len(r.Drains) != 1 || r.Drains[0].Code != DrainWaits {
		t.Errorf("drains %+v, want one that waits until three pods are ready", r.Drains)
	}
}

// TestZonesThatAreNotKnownAreSaid holds when an audit can't tell what the loss of a zone takes down.
func TestZonesThatAreNotKnownAreSaid(t *testing.T) {
	for name, c := range map[string]struct {
		zones []string // of the nodes
		want  string
	}{
		"nodes without zones":        {[]string{"", ""}, "no label topology.kubernetes.io/zone"},
		"nodes in one zone":          {[]string{"a", "a"}, "all nodes are in one zone"},
		"nodes in two zones":         {[]string{"a", "b"}, ""},
		"a single node in no zone":   {[]string{""}, ""},
		"nothing is known of nodes":  {nil, ""},
		"two nodes, one has no zone": {[]string{"a", ""}, "all nodes are in one zone"},
	} {
		s := state()
		s.Nodes = map[string]Node{}
		for i, zone := range c.zones {
			s.Nodes[fmt.Sprint("node-", i)] = Node{Zone: zone}
		}
		warnings := strings.Join(Run(s, rules(t)).Warnings, "\n")
		if !strings.Contains(warnings, c.want) || c.want == "" && warnings != "" {
			t.Errorf("%s: warnings %q, want %q", name, warnings, c.want)
		}
	}
}

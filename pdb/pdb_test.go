package pdb

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/evenkeel/evenkeel/policy"
)

// deployment returns a Deployment whose pods carry app=NAME and the labels, and are
// selected by app=NAME.
func deployment(name string, replicas int32, labels ...string) Workload {
	w := Workload{APIVersion: "apps/v1", Kind: "Deployment", Name: name, UID: types.UID("uid-" + name), Replicas: replicas,
		Selector: selector("app", name), TemplateLabels: map[string]string{"app": name}}
	for i := 0; i < len(labels); i += 2 {
		w.TemplateLabels[labels[i]] = labels[i+1]
	}
	return w
}

func selector(labels ...string) *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	for i := 0; i < len(labels); i += 2 {
		metav1.AddLabelToSelector(s, labels[i], labels[i+1])
	}
	return s
}

func with(w Workload, change func(*Workload)) Workload {
	change(&w)
	return w
}

func asks(w Workload, setting string) Workload {
	w.Setting = &setting
	return w
}

func statefulSet(w Workload) Workload {
	w.Kind = "StatefulSet"
	return w
}

func foreign(name string, s *metav1.LabelSelector) Budget { return Budget{Name: name, Selector: s} }

func optedIn(workloads ...Workload) Namespace {
	return Namespace{Name: "shop", OptedIn: true, Workloads: workloads}
}

func rules() Rules { return Rules{Base: policy.Default(), Bounds: policy.DefaultBounds()} }

// line says a decision in one line.
func line(d Decision) string {
	s := fmt.Sprintf("%s/%s %s", d.Workload.Kind, d.Workload.Name, d.Code)
	if d.Other != "" {
		s += " (" + d.Other + ")"
	}
	if b := d.Budget; b != nil {
		s += ": " + b.Name
		if b.MinAvailable != nil {
			s += " minAvailable=" + b.MinAvailable.String()
		}
		if b.MaxUnavailable != nil {
			s += " maxUnavailable=" + b.MaxUnavailable.String()
		}
	}
	return s
}

func TestDesired(t *testing.T) {
	expression := &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
		{Key: "app", Operator: metav1.LabelSelectorOpIn, Values: []string{"web", "shop"}}}}
	not := &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
		{Key: "tier", Operator: metav1.LabelSelectorOpDoesNotExist}}}
	hpa := func(least int32) Autoscaler {
		return Autoscaler{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", MinReplicas: least}
	}
	namespace := func(n Namespace, change func(*Namespace)) Namespace { change(&n); return n }
	off := "off"
	cases := map[string]struct {
		namespace Namespace
		want      []string
	}{
		"gives two replicas a budget of one": {optedIn(deployment("web", 2)),
			[]string{"Deployment/web applied: web-evenkeel maxUnavailable=10%"}},
		"gives one replica none":                {optedIn(deployment("web", 1)), []string{"Deployment/web below-two"}},
		"gives no replica none":                 {optedIn(deployment("web", 0)), []string{"Deployment/web below-two"}},
		"decides nothing where nobody opted in": {Namespace{Workloads: []Workload{deployment("web", 2)}}, nil},
		"leaves alone who opted out": {
			optedIn(with(deployment("web", 2), func(w *Workload) { w.OptedOut = true })), []string{"Deployment/web opted-out"}},
		"leaves alone who says off": {optedIn(asks(deployment("web", 2), "off")), []string{"Deployment/web off"}},
		"takes the namespace's word": {
			namespace(optedIn(deployment("web", 2)), func(n *Namespace) { n.Setting = &off }), []string{"Deployment/web off"}},
		"takes the workload's word over the namespace's": {
			namespace(optedIn(asks(deployment("web", 4), "maxUnavailable=2")), func(n *Namespace) { n.Setting = &off }),
			[]string{"Deployment/web applied: web-evenkeel maxUnavailable=2"}},
		"takes the pod template's word over the workload": {
			optedIn(with(asks(deployment("web", 4), "off"),
				func(w *Workload) { v := "minAvailable=1"; w.TemplateSetting = &v })),
			[]string{"Deployment/web applied: web-evenkeel minAvailable=1"}},

		"takes the autoscaler's minimum for the floor": {
			namespace(optedIn(deployment("web", 5)), func(n *Namespace) { n.Autoscalers = []Autoscaler{hpa(1)} }),
			[]string{"Deployment/web below-two"}},
		"takes the autoscaler's minimum above spec.replicas": {
			namespace(optedIn(deployment("web", 1)), func(n *Namespace) { n.Autoscalers = []Autoscaler{hpa(3)} }),
			[]string{"Deployment/web applied: web-evenkeel maxUnavailable=10%"}},
		"knows an autoscaler that scales to zero": {
			namespace(optedIn(deployment("web", 5)), func(n *Namespace) { n.Autoscalers = []Autoscaler{hpa(0)} }),
			[]string{"Deployment/web below-two"}},
		"knows that an autoscaler leaves zero replicas alone": {
			namespace(optedIn(deployment("web", 0)), func(n *Namespace) { n.Autoscalers = []Autoscaler{hpa(3)} }),
			[]string{"Deployment/web below-two"}},
		"takes the lowest of two autoscalers": {
			namespace(optedIn(deployment("web", 5)), func(n *Namespace) { n.Autoscalers = []Autoscaler{hpa(4), hpa(1)} }),
			[]string{"Deployment/web below-two"}},
		"passes over an autoscaler of another kind": {
			namespace(optedIn(statefulSet(deployment("web", 2))), func(n *Namespace) { n.Autoscalers = []Autoscaler{hpa(1)} }),
			[]string{"StatefulSet/web applied: web-evenkeel maxUnavailable=10%"}},
		"takes an autoscaler that names another version": {
			namespace(optedIn(deployment("web", 2)),
				func(n *Namespace) { a := hpa(1); a.APIVersion = "apps/v1beta2"; n.Autoscalers = []Autoscaler{a} }),
			[]string{"Deployment/web below-two"}},
		"writes a percentage as it is": {optedIn(asks(deployment("web", 4), "maxUnavailable=25%")),
			[]string{"Deployment/web applied: web-evenkeel maxUnavailable=25%"}},
		"rounds one percent of two up to one": {optedIn(asks(deployment("web", 2), "maxUnavailable=1%")),
			[]string{"Deployment/web applied: web-evenkeel maxUnavailable=1%"}},
		"rounds 51 percent of two up to two, and refuses": {optedIn(asks(deployment("web", 2), "maxUnavailable=51%")),
			[]string{"Deployment/web would-take-all: web-evenkeel maxUnavailable=10%"}},
		"refuses a minimum that leaves nothing to evict": {optedIn(asks(deployment("web", 3), "minAvailable=3")),
			[]string{"Deployment/web would-block-drains: web-evenkeel maxUnavailable=10%"}},
		"refuses a percentage that leaves nothing to evict": {optedIn(asks(deployment("web", 3), "minAvailable=67%")),
			[]string{"Deployment/web would-block-drains: web-evenkeel maxUnavailable=10%"}},
		"takes a percentage that leaves one to evict": {optedIn(asks(deployment("web", 3), "minAvailable=66%")),
			[]string{"Deployment/web applied: web-evenkeel minAvailable=66%"}},
		"refuses a maximum that takes all": {optedIn(asks(deployment("web", 3), "maxUnavailable=3")),
			[]string{"Deployment/web would-take-all: web-evenkeel maxUnavailable=10%"}},
		"refuses a minimum of nothing": {optedIn(asks(deployment("web", 3), "minAvailable=0")),
			[]string{"Deployment/web would-take-all: web-evenkeel maxUnavailable=10%"}},
		"says that a value can't be parsed": {optedIn(asks(deployment("web", 3), "minavailable=1")),
			[]string{"Deployment/web unusable-value: web-evenkeel maxUnavailable=10%"}},
		"gives a quorum of two the default": {optedIn(asks(statefulSet(deployment("db", 2)), "quorum")),
			[]string{"StatefulSet/db quorum-of-two: db-evenkeel maxUnavailable=10%"}},
		"gives a quorum of three one": {optedIn(asks(statefulSet(deployment("db", 3)), "quorum")),
			[]string{"StatefulSet/db applied: db-evenkeel maxUnavailable=1"}},
		"gives a quorum of four one": {optedIn(asks(statefulSet(deployment("db", 4)), "quorum")),
			[]string{"StatefulSet/db applied: db-evenkeel maxUnavailable=1"}},
		"gives a quorum of seven three": {optedIn(asks(statefulSet(deployment("db", 7)), "quorum")),
			[]string{"StatefulSet/db applied: db-evenkeel maxUnavailable=3"}},
		"reads a nil selector as nothing": {
			optedIn(with(deployment("web", 2), func(w *Workload) { w.Selector = nil })), []string{"Deployment/web no-selector"}},
		"does not trust an invalid selector": {
			optedIn(with(deployment("web", 2), func(w *Workload) { w.Selector = selector("no label", "x") })),
			[]string{"Deployment/web no-selector"}},
		"takes an empty selector for the whole namespace": {
			optedIn(with(deployment("all", 2), func(w *Workload) { w.Selector = selector() }), deployment("web", 2)),
			[]string{"Deployment/all applied: all-evenkeel maxUnavailable=10%",
				"Deployment/web overlapping-selector (Deployment/all)"}},
		"says that the scale may not be read": {
			optedIn(Workload{APIVersion: "argoproj.io/v1alpha1", Kind: "Rollout", Name: "web", NoAccess: true}),
			[]string{"Rollout/web no-access"}},
		"yields to another's budget for the template": {
			namespace(optedIn(deployment("web", 2)),
				func(n *Namespace) { n.Budgets = []Budget{foreign("theirs", selector("app", "web"))} }),
			[]string{"Deployment/web other-budget (theirs)"}},
		"yields to another's budget with expressions": {
			namespace(optedIn(deployment("web", 2)), func(n *Namespace) { n.Budgets = []Budget{foreign("theirs", expression)} }),
			[]string{"Deployment/web other-budget (theirs)"}},
		"yields to another's budget for the whole namespace": {
			namespace(optedIn(deployment("web", 2)), func(n *Namespace) { n.Budgets = []Budget{foreign("theirs", selector())} }),
			[]string{"Deployment/web other-budget (theirs)"}},
		"passes over another's budget that selects nothing": {
			namespace(optedIn(deployment("web", 2)), func(n *Namespace) { n.Budgets = []Budget{foreign("theirs", nil)} }),
			[]string{"Deployment/web applied: web-evenkeel maxUnavailable=10%"}},
		"passes over another's budget for others": {
			namespace(optedIn(deployment("web", 2, "tier", "front")),
				func(n *Namespace) { n.Budgets = []Budget{foreign("theirs", not)} }),
			[]string{"Deployment/web applied: web-evenkeel maxUnavailable=10%"}},
		"yields to another's budget for one pod": {namespace(optedIn(deployment("web", 2)), func(n *Namespace) {
			n.Budgets = []Budget{foreign("theirs", selector("pod", "1"))}
			n.Pods = []Pods{{Labels: map[string]string{"app": "web", "pod": "1"}}}
		}), []string{"Deployment/web other-budget (theirs)"}},
		"yields where another's budget has the name": {
			namespace(optedIn(deployment("web", 2)),
				func(n *Namespace) { n.Budgets = []Budget{foreign("web-evenkeel", selector("app", "other"))} }),
			[]string{"Deployment/web name-taken (web-evenkeel)"}},
		"is not in the way of itself": {namespace(optedIn(deployment("web", 2)), func(n *Namespace) {
			n.Budgets = []Budget{{Name: "web-evenkeel", Ours: true, Selector: selector("app", "web")}}
		}), []string{"Deployment/web applied: web-evenkeel maxUnavailable=10%"}},
		"gives one of two same selectors a budget": {
			optedIn(with(deployment("blue", 2),
				func(w *Workload) { w.Selector = selector("app", "web"); w.TemplateLabels = w.Selector.MatchLabels }),
				deployment("web", 2)),
			[]string{"Deployment/blue applied: blue-evenkeel maxUnavailable=10%",
				"Deployment/web overlapping-selector (Deployment/blue)"}},
		"gives the wider of two selectors the budget": {optedIn(with(deployment("canary", 2), func(w *Workload) {
			w.Selector = selector("app", "web", "track", "canary")
			w.TemplateLabels = w.Selector.MatchLabels
		}), deployment("web", 2)),
			[]string{"Deployment/canary overlapping-selector (Deployment/web)",
				"Deployment/web applied: web-evenkeel maxUnavailable=10%"}},
		"sees an overlap that only a pod shows": {
			namespace(optedIn(deployment("api", 2),
				with(deployment("web", 2),
					func(w *Workload) { w.Selector = selector("tier", "front"); w.TemplateLabels = w.Selector.MatchLabels })),
				func(n *Namespace) { n.Pods = []Pods{{Labels: map[string]string{"app": "api", "tier": "front"}}} }),
			[]string{"Deployment/api applied: api-evenkeel maxUnavailable=10%",
				"Deployment/web overlapping-selector (Deployment/api)"}},
		"lets nobody yield to one without a budget": {
			optedIn(with(deployment("blue", 1),
				func(w *Workload) { w.Selector = selector("app", "web"); w.TemplateLabels = w.Selector.MatchLabels }),
				deployment("web", 2)),
			[]string{"Deployment/blue below-two", "Deployment/web applied: web-evenkeel maxUnavailable=10%"}},
		"tells two kinds of the same name apart": {
			optedIn(statefulSet(
				with(deployment("web", 2),
					func(w *Workload) { w.Selector = selector("app", "db"); w.TemplateLabels = w.Selector.MatchLabels })),
				deployment("web", 2)),
			[]string{"Deployment/web applied: web-evenkeel maxUnavailable=10%",
				"StatefulSet/web applied: web-evenkeel-statefulset.apps maxUnavailable=10%"}},
		"counts pods where a Job's stand among them": {namespace(optedIn(deployment("web", 3)), func(n *Namespace) {
			n.Pods = []Pods{{Labels: map[string]string{"app": "web", "job": "migrate"}, Unscalable: true}}
		}), []string{"Deployment/web unscalable-pods: web-evenkeel minAvailable=2"}},
		"needs no scale for a minimum that is a number": {
			namespace(optedIn(asks(deployment("web", 3), "minAvailable=1")),
				func(n *Namespace) { n.Pods = []Pods{{Labels: map[string]string{"app": "web"}, Unscalable: true}} }),
			[]string{"Deployment/web applied: web-evenkeel minAvailable=1"}},
		"leaves the last of a quota, and goes by replicas": {
			namespace(optedIn(deployment("a", 2), deployment("b", 5), deployment("c", 3)),
				func(n *Namespace) { n.Room = room(3) }),
			[]string{"Deployment/a quota", "Deployment/b applied: b-evenkeel maxUnavailable=10%",
				"Deployment/c applied: c-evenkeel maxUnavailable=10%"}},
		"makes no budget where a quota admits one": {
			namespace(optedIn(deployment("web", 2)), func(n *Namespace) { n.Room = room(1) }), []string{"Deployment/web quota"}},
		"keeps what stands where a quota is used up": {
			namespace(optedIn(deployment("a", 2), deployment("web", 2)), func(n *Namespace) {
				n.Room, n.Budgets = room(0), []Budget{{Name: "web-evenkeel", Ours: true, Selector: selector("app", "web")}}
			}), []string{"Deployment/a quota", "Deployment/web applied: web-evenkeel maxUnavailable=10%"}},
		"says that the API server refuses a budget": {
			namespace(optedIn(deployment("web", 2)), func(n *Namespace) { n.Refused = map[string]bool{"web-evenkeel": true} }),
			[]string{"Deployment/web refused"}},
		"keeps a budget whose change is refused": {namespace(optedIn(deployment("web", 2)), func(n *Namespace) {
			n.Refused, n.Budgets = map[string]bool{"web-evenkeel": true},
				[]Budget{{Name: "web-evenkeel", Ours: true, Selector: selector("app", "web")}}
		}), []string{"Deployment/web applied: web-evenkeel maxUnavailable=10%"}},
		"passes over the template of a workload without pods": {
			namespace(optedIn(deployment("web", 2),
				with(deployment("old", 0), func(w *Workload) { w.TemplateLabels = map[string]string{"app": "web", "old": "1"} })),
				func(n *Namespace) { n.Budgets = []Budget{foreign("theirs", selector("old", "1"))} }),
			[]string{"Deployment/old below-two", "Deployment/web applied: web-evenkeel maxUnavailable=10%"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, d := range Desired(c.namespace, rules()) {
				got = append(got, line(d))
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func room(n int) *int { return &n }

func TestTheDefaultGrowsWithTheWorkload(t *testing.T) {
	for replicas, want := range map[int]int{2: 1, 3: 1, 10: 1, 11: 2, 100: 10, 300: 30} {
		d := Desired(optedIn(deployment("web", int32(replicas))), rules())[0]
		if got := disruptionsAllowed(t, d.Budget, replicas); got != want {
			t.Errorf("%d of %d may go, want %d", got, replicas, want)
		}
	}
}

func TestDesiredWritesEverythingDown(t *testing.T) {
	w := deployment("web", 3)
	w.Selector.MatchExpressions = []metav1.LabelSelectorRequirement{
		{Key: "tier", Operator: metav1.LabelSelectorOpDoesNotExist}}
	want := &Budget{Name: "web-evenkeel", Ours: true, Selector: w.Selector, MaxUnavailable: value(builtIn()),
		AlwaysAllow: true,
		Owners:      []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: "uid-web"}}}
	if diff := cmp.Diff(want, Desired(optedIn(w), rules())[0].Budget); diff != "" {
		t.Error(diff)
	}
}

func TestNamesAreValidAndDifferent(t *testing.T) {
	long := strings.Repeat("a", 240)
	seen := map[string]bool{}
	for _, name := range []string{"web", "a.b", long, long + "b", long[:230] + ".bcd-efgh-ijklm", strings.Repeat("a", 253),
		strings.Repeat("a", 252) + "b"} {
		for _, kind := range []string{"Deployment", "StatefulSet", strings.Repeat("K", 63)} {
			got := budgetName(&Workload{APIVersion: strings.Repeat("g", 60) + ".example/v1", Kind: kind, Name: name}, seen)
			if problems := validation.IsDNS1123Subdomain(got); len(problems) > 0 || seen[got] {
				t.Errorf("%q: %v, used twice: %v", got, problems, seen[got])
			}
			seen[got] = true
		}
	}
}

func TestDiff(t *testing.T) {
	decisions := Desired(optedIn(deployment("web", 2)), rules())
	stands := *decisions[0].Budget
	stands.UID, stands.ResourceVersion = "1", "7"
	change := func(f func(*Budget)) Budget { b := stands; f(&b); return b }
	cases := map[string]struct {
		existing []Budget
		want     changes
	}{
		"creates what is missing":          {nil, changes{create: []Budget{*decisions[0].Budget}}},
		"writes nothing where all is well": {[]Budget{stands}, changes{}},
		"puts a changed amount back": {[]Budget{change(func(b *Budget) { b.MaxUnavailable = number(2) })},
			changes{update: []Budget{stands}}},
		"puts a changed selector back": {[]Budget{change(func(b *Budget) { b.Selector = selector() })},
			changes{update: []Budget{stands}, reselects: true}},
		"puts the eviction policy back": {[]Budget{change(func(b *Budget) { b.AlwaysAllow = false })},
			changes{update: []Budget{stands}}},
		"puts the owner back": {[]Budget{change(func(b *Budget) { b.Owners = nil })}, changes{update: []Budget{stands}}},
		"makes the budget of a new workload anew": {
			[]Budget{change(func(b *Budget) { b.Owners = []metav1.OwnerReference{{UID: "old"}} })},
			changes{remove: []Budget{change(func(b *Budget) { b.Owners = []metav1.OwnerReference{{UID: "old"}} })},
				create: []Budget{*decisions[0].Budget}}},
		"removes ours that nobody wants": {
			[]Budget{stands, change(func(b *Budget) { b.Name = "old-evenkeel" })},
			changes{remove: []Budget{change(func(b *Budget) { b.Name = "old-evenkeel" })}}},
		"leaves alone another's that nobody wants": {[]Budget{stands, foreign("old-evenkeel", nil)}, changes{}},
		"leaves alone another's under our name":    {[]Budget{foreign("web-evenkeel", nil)}, changes{}},
		"waits for ours that is being deleted already": {
			[]Budget{change(func(b *Budget) { b.Terminating = true; b.Selector = nil })}, changes{}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, diff(c.existing, decisions), cmp.AllowUnexported(changes{}),
				cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestEveryCodeHasAReason(t *testing.T) {
	seen := map[Code]bool{}
	for _, r := range Reasons() {
		if seen[r.Code] || r.Text == "" || r.Outcome == "" || r.Code.Reason() != r {
			t.Errorf("bad row %+v", r)
		}
		seen[r.Code] = true
	}
}

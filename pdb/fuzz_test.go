package pdb

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// draw makes choices out of the bytes of a fuzzer.
type draw struct{ bytes []byte }

// below returns a number from 0 to n-1; 0 when the bytes have run out.
func (d *draw) below(n int) int {
	if len(d.bytes) == 0 {
		return 0
	}
	b := d.bytes[0]
	d.bytes = d.bytes[1:]
	return int(b) % n
}

func (d *draw) labels() map[string]string {
	set := map[string]string{}
	for _, key := range []string{"app", "tier", "track"} {
		if v := d.below(4); v > 0 {
			set[key] = string(rune('a' + v))
		}
	}
	return set
}

func (d *draw) selector(most map[string]string) *metav1.LabelSelector {
	if d.below(16) == 15 {
		return nil
	}
	s := &metav1.LabelSelector{}
	for _, key := range slices.Sorted(maps.Keys(most)) {
		switch d.below(5) {
		case 1, 2:
			metav1.AddLabelToSelector(s, key, most[key])
		case 3:
			s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: key,
				Operator: metav1.LabelSelectorOpIn, Values: []string{most[key], "b"}})
		case 4:
			s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: key,
				Operator: metav1.LabelSelectorOpExists})
		}
	}
	return s
}

// namespace returns any namespace.
func (d *draw) namespace() Namespace {
	n := Namespace{OptedIn: true}
	settings := []string{"", "off", "quorum", "maxUnavailable=1", "maxUnavailable=2", "maxUnavailable=7",
		"maxUnavailable=1%", "maxUnavailable=50%",
		"maxUnavailable=100%", "minAvailable=0", "minAvailable=1", "minAvailable=2", "minAvailable=4", "minAvailable=34%",
		"minAvailable=99%", "nonsense"}
	setting := func() *string {
		if v := settings[d.below(len(settings))]; v != "" {
			return &v
		}
		return nil
	}
	n.Setting = setting()
	for i := range d.below(6) {
		w := deployment(fmt.Sprint("w", d.below(8)), int32(d.below(7)))
		w.Kind = []string{"Deployment", "StatefulSet", "Rollout"}[i%3]
		w.Name += fmt.Sprint("-", i/3)
		w.TemplateLabels = d.labels()
		w.Selector = d.selector(w.TemplateLabels)
		w.Setting, w.TemplateSetting = setting(), setting()
		w.OptedOut = d.below(8) == 7
		if w.Kind == "Rollout" && d.below(2) == 1 {
			w.TemplateLabels = nil
		}
		n.Workloads = append(n.Workloads, w)
		if d.below(4) == 3 {
			n.Autoscalers = append(n.Autoscalers, Autoscaler{APIVersion: w.APIVersion, Kind: w.Kind, Name: w.Name,
				MinReplicas: int32(d.below(5))})
		}
	}
	for i := range d.below(4) {
		b := Budget{Name: fmt.Sprint("theirs", i), Selector: d.selector(d.labels())}
		if len(n.Workloads) > 0 && d.below(3) == 2 {
			b.Name = n.Workloads[d.below(len(n.Workloads))].Name + "-evenkeel"
			b.Ours = d.below(2) == 1
		}
		// No two objects of a kind have one name.
		if !slices.ContainsFunc(n.Budgets, func(other Budget) bool { return other.Name == b.Name }) {
			n.Budgets = append(n.Budgets, b)
		}
	}
	for range d.below(8) {
		n.Pods = append(n.Pods, Pods{Labels: d.labels(), Unscalable: d.below(8) == 7})
	}
	return n
}

// FuzzDesired checks the rules that stand above everything else, by reading budgets
// as the API server and the disruption controller do, not as the code under test.
func FuzzDesired(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		n := (&draw{bytes: data}).namespace()
		decisions := Desired(n, rules())
		if again := Desired(n, rules()); cmp.Diff(decisions, again) != "" {
			t.Fatal("not the same again")
		}
		if len(decisions) != len(n.Workloads) {
			t.Fatalf("%d decisions for %d workloads", len(decisions), len(n.Workloads))
		}

		selectors := map[string]labels.Selector{} // of all budgets afterwards
		ours := map[string]bool{}
		for _, b := range after(n.Budgets, diff(n.Budgets, decisions)) {
			s, err := metav1.LabelSelectorAsSelector(b.Selector)
			if err != nil {
				t.Fatal(err)
			}
			if _, twice := selectors[b.Name]; twice {
				t.Fatalf("two budgets %s", b.Name)
			}
			selectors[b.Name], ours[b.Name] = s, b.Ours
		}
		pods := n.Pods
		for _, w := range n.Workloads {
			if w.Replicas > 0 && w.TemplateLabels != nil {
				pods = append(pods, Pods{Labels: w.TemplateLabels})
			}
		}
		for _, p := range pods {
			var by []string
			some := false
			for name, s := range selectors {
				if s.Matches(labels.Set(p.Labels)) {
					by = append(by, name)
					some = some || ours[name]
				}
			}
			if some && len(by) > 1 {
				t.Fatalf("pod %v is under %v", p.Labels, by)
			}
		}

		for _, d := range decisions {
			if (d.Budget != nil) == (d.Code.Reason().Outcome == OutcomeSkipped) {
				t.Fatalf("%s, with a budget: %v", d.Code, d.Budget != nil)
			}
			if d.Budget == nil {
				continue
			}
			floor := int(d.Workload.Replicas)
			for _, a := range n.Autoscalers {
				if a.Kind == d.Workload.Kind && a.Name == d.Workload.Name {
					floor = int(a.MinReplicas)
				}
			}
			for at := floor; at < floor+5; at++ {
				least, most := 1, at-1
				if got := disruptionsAllowed(t, d.Budget, at); got < least || got > most {
					t.Fatalf("%s: %d of %d may go, floor %d", line(d), got, at, floor)
				}
			}
		}
	})
}

// after returns the budgets that there are after the changes.
func after(existing []Budget, c changes) []Budget {
	var left []Budget
	for _, b := range existing {
		gone := false
		for _, other := range append(c.remove, c.update...) {
			gone = gone || other.Name == b.Name
		}
		if !gone {
			left = append(left, b)
		}
	}
	return append(append(left, c.update...), c.create...)
}

// disruptionsAllowed works out status.disruptionsAllowed as the disruption controller
// does, for a budget over n pods that are all healthy.
func disruptionsAllowed(t *testing.T, b *Budget, n int) int {
	t.Helper()
	spec := policyv1.PodDisruptionBudgetSpec{MinAvailable: b.MinAvailable, MaxUnavailable: b.MaxUnavailable}
	scaled := func(v *intstr.IntOrString) int {
		number, err := intstr.GetScaledValueFromIntOrPercent(v, n, true)
		if err != nil {
			t.Fatal(err)
		}
		return number
	}
	switch {
	case spec.MinAvailable != nil && spec.MaxUnavailable != nil:
		t.Fatal("both minAvailable and maxUnavailable")
	case spec.MinAvailable != nil:
		return max(0, n-scaled(spec.MinAvailable))
	case spec.MaxUnavailable != nil:
		return min(n, scaled(spec.MaxUnavailable))
	}
	t.Fatal("neither minAvailable nor maxUnavailable")
	return 0
}

package pdb

import (
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func requirement(key string, operator metav1.LabelSelectorOperator, values ...string) *metav1.LabelSelector {
	return &metav1.LabelSelector{
		MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: operator, Values: values}}}
}

// crowd returns n Deployments, number i with the selector that the function gives.
func crowd(n int, of func(i int) *metav1.LabelSelector) Namespace {
	namespace := optedIn()
	for i := range n {
		w := deployment(fmt.Sprintf("web%05d", i), 2)
		w.Selector = of(i)
		namespace.Workloads = append(namespace.Workloads, w)
	}
	return namespace
}

func all(int) *metav1.LabelSelector { return &metav1.LabelSelector{} }

// allButNext selects the pods of all workloads but one.
func allButNext(i int) *metav1.LabelSelector {
	return requirement("app", metav1.LabelSelectorOpNotIn, fmt.Sprintf("web%05d", i+1))
}

// exclusive selects as allButNext does, and requires the key that all pods have.
func exclusive(i int) *metav1.LabelSelector {
	s := allButNext(i)
	s.MatchExpressions = append(s.MatchExpressions, requirement("app", metav1.LabelSelectorOpExists).MatchExpressions...)
	return s
}

// pairs selects the pods of two workloads.
func pairs(i int) *metav1.LabelSelector {
	return requirement("app", metav1.LabelSelectorOpIn, fmt.Sprintf("web%05d", i), fmt.Sprintf("web%05d", i+1))
}

func TestOverlapsAreBounded(t *testing.T) {
	cases := map[string]struct {
		namespace Namespace
		want      map[Code]int
	}{
		"a few that all select everything": {crowd(maxShared, all), map[Code]int{Applied: 1, SkipOverlap: maxShared - 1}},
		"many that all select everything": {crowd(500, all),
			map[Code]int{Applied: 1, SkipOverlap: maxShared - 1, SkipCrowded: 500 - maxShared}},
		"more than are compared":                  {crowd(maxTried+1, all), map[Code]int{SkipCrowded: maxTried + 1}},
		"more than are compared, each with a key": {crowd(maxTried+1, exclusive), map[Code]int{SkipCrowded: maxTried + 1}},
		"many that overlap in pairs":              {crowd(3000, pairs), map[Code]int{Applied: 1500, SkipOverlap: 1500}},
		"many of which each selects all but another": {crowd(500, allButNext),
			map[Code]int{Applied: 1, SkipOverlap: maxShared - 1, SkipCrowded: 500 - maxShared}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			count := func() map[Code]int {
				counts := map[Code]int{}
				for _, d := range Desired(c.namespace, rules()) {
					counts[d.Code]++
				}
				return counts
			}
			if diff := cmp.Diff(c.want, count()); diff != "" {
				t.Error(diff)
			}
			workloads := c.namespace.Workloads
			rand.New(rand.NewPCG(1, 1)).Shuffle(len(workloads),
				func(i, j int) { workloads[i], workloads[j] = workloads[j], workloads[i] })
			if diff := cmp.Diff(c.want, count()); diff != "" {
				t.Errorf("in another order: %s", diff)
			}
		})
	}
}

func TestForeignBudgetsThatAreTooManyToCompareWin(t *testing.T) {
	n := optedIn(deployment("web", 2))
	for i := range maxTried + 1 {
		n.Budgets = append(n.Budgets, foreign(fmt.Sprint("theirs", i), allButNext(i)))
	}
	if got := line(Desired(n, rules())[0]); got != "Deployment/web crowded" {
		t.Errorf("got %s", got)
	}
}

// 5,000 selectors of which each selects the pods of all workloads but one took over a gigabyte.
func TestTheMemoryOfDesiredIsLinear(t *testing.T) {
	used := func(n int, of func(int) *metav1.LabelSelector) float64 {
		namespace := crowd(n, of)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		decisions := Desired(namespace, rules())
		logger := logrus.New()
		logger.SetOutput(io.Discard)
		newEvents(fake.NewClientset(), logrus.NewEntry(logger)).decided("shop", decisions)
		runtime.ReadMemStats(&after)
		return float64(after.TotalAlloc-before.TotalAlloc) / float64(n)
	}
	for name, of := range map[string]func(int) *metav1.LabelSelector{"all": all, "all but next": allButNext,
		"with a key": exclusive, "pairs": pairs} {
		few, many := used(500, of), used(5000, of)
		t.Logf("%s: %.0f bytes for each of 500, %.0f for each of 5,000", name, few, many)
		if many > 2*few+4096 {
			t.Errorf("%s: %.0f bytes for each of 500 workloads, and %.0f for each of 5,000", name, few, many)
		}
	}
}

package audit

import (
	"cmp"
	"slices"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// guards are the budgets of a namespace, with their selectors.
type guards []guard

type guard struct {
	budget   *policyv1.PodDisruptionBudget
	selector labels.Selector
}

func newGuards(budgets []policyv1.PodDisruptionBudget) map[string]guards {
	byNamespace := map[string]guards{}
	for i := range budgets {
		b := &budgets[i]
		s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector) // nil selects nothing, empty everything
		if err != nil {
			continue // as the API server does
		}
		byNamespace[b.Namespace] = append(byNamespace[b.Namespace], guard{b, s})
	}
	return byNamespace
}

// of returns the budgets that select a pod with these labels.
func (g guards) of(set map[string]string) []*policyv1.PodDisruptionBudget {
	var found []*policyv1.PodDisruptionBudget
	for _, guard := range g {
		if guard.selector.Matches(labels.Set(set)) {
			found = append(found, guard.budget)
		}
	}
	slices.SortFunc(found, func(a, b *policyv1.PodDisruptionBudget) int { return cmp.Compare(a.Name, b.Name) })
	return found
}

// refusal returns why the API server would refuse to evict a pod now, "" where it
// would not, by the rules of its own eviction
// (kubernetes/pkg/registry/core/pod/storage/eviction.go):
//
//	pod pending, finished or terminating          evicted
//	no budget                                     evicted
//	two budgets or more                           BudgetsOverlap (500)
//	pod not ready, policy AlwaysAllow             evicted
//	pod not ready, enough others are              evicted
//	the budget's status is behind its spec        BudgetNotInForce (429)
//	a disruption is allowed                       evicted
//	none would be with all wanted pods ready      DrainBlocked (429)
//	otherwise                                     DrainWaits (429)
func refusal(p *Pod, budgets []*policyv1.PodDisruptionBudget, wanted int) Code {
	switch {
	case p.Terminating, p.Phase == "Pending", p.Phase == "Succeeded", p.Phase == "Failed", len(budgets) == 0:
		return ""
	case len(budgets) > 1:
		return BudgetsOverlap
	}
	spec, status := &budgets[0].Spec, &budgets[0].Status
	if !p.Ready {
		if spec.UnhealthyPodEvictionPolicy != nil && *spec.UnhealthyPodEvictionPolicy == policyv1.AlwaysAllow ||
			status.CurrentHealthy >= status.DesiredHealthy && status.DesiredHealthy > 0 {
			return ""
		}
	}
	switch {
	case status.ObservedGeneration < budgets[0].Generation:
		return BudgetNotInForce
	case status.DisruptionsAllowed > 0:
		return ""
	case allowance(spec, max(wanted, int(status.ExpectedPods))) == 0:
		return DrainBlocked
	}
	return DrainWaits
}

// allowance returns how many of n ready pods a budget lets go, as the disruption
// controller reckons (getExpectedPodCount in
// kubernetes/pkg/controller/disruption/disruption.go): percentages go up, and a
// budget that says nothing lets nothing go.
func allowance(spec *policyv1.PodDisruptionBudgetSpec, n int) int {
	switch {
	case spec.MaxUnavailable != nil:
		most, err := intstr.GetScaledValueFromIntOrPercent(spec.MaxUnavailable, n, true)
		if err != nil {
			return 0
		}
		return min(most, n)
	case spec.MinAvailable != nil:
		least, err := intstr.GetScaledValueFromIntOrPercent(spec.MinAvailable, n, true)
		if err != nil {
			return 0
		}
		return max(0, n-least)
	}
	return 0
}

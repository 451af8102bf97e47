package audit

import (
	"fmt"
	"strings"
	"testing"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// TestExplainBudget holds a budget whose pods the disruption controller has not counted yet, which allows no eviction,
// apart from one that is used up.
func TestExplainBudget(t *testing.T) {
	app := map[string]string{"app": "web"}
	one := intstr.FromInt32(1)
	budget := policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "web-evenkeel", Generation: 2},
		Spec:       policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &one, Selector: &metav1.LabelSelector{MatchLabels: app}},
		Status:     policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 2, CurrentHealthy: 2, DesiredHealthy: 2, ExpectedPods: 3},
	}
	for observed, want := range map[int64]string{
		2: "web-evenkeel: maxUnavailable 1; 2 of 3 pods are healthy, 2 have to be, so 0 may be evicted now",
		1: "web-evenkeel: maxUnavailable 1; its pods have not been counted since it was last written, so none may be evicted now",
	} {
		budget.Status.ObservedGeneration = observed
		e := explanation{pods: []string{"web-1"}, Question: Question{State: &State{
			Pods: []Pod{{Name: "web-1", Labels: app}}, Budgets: []policyv1.PodDisruptionBudget{budget},
		}}}
		var said strings.Builder
		e.budget(func(format string, args ...any) { fmt.Fprintf(&said, format, args...) })
		if got := said.String(); got != "\nBudget:\n  "+want+"\n" {
			t.Errorf("generation 2, observed %d: said %q, want %q", observed, got, want)
		}
	}
}

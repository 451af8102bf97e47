package pdb

import (
	"strconv"

	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/evenkeel/evenkeel/policy"
)

// amount is minAvailable or maxUnavailable of a budget; one of them is nil.
type amount struct{ minAvailable, maxUnavailable *intstr.IntOrString }

// builtIn fits every workload from two replicas on: one in ten, rounded up.
func builtIn() policy.Budget { return policy.Default().DisruptionBudget }

// allowed returns how many of n healthy pods the budget lets go, from 0 to n. It
// rounds as the disruption controller does, which takes percentages of both kinds
// up (getExpectedPodCount in kubernetes/pkg/controller/disruption/disruption.go).
func allowed(b policy.Budget, n int) int {
	value := b.Value
	if b.Percent {
		value = (n*b.Value + 99) / 100
	}
	switch b.Kind {
	case policy.BudgetMinAvailable:
		value = n - value
	case policy.BudgetQuorum:
		value = (n - 1) / 2
	}
	return max(0, min(value, n))
}

// refusal returns the code of the reason why a budget can't be used at n replicas,
// or Applied.
//
//	allowed(n)   quorum   code
//	0            no       AdjustedBlocks: no drain would finish
//	0            yes      AdjustedQuorum: n is 2
//	1 … n-1      any      Applied
//	n            any      AdjustedTakesAll
//
// What holds at the lowest number of replicas holds for every larger one: both the
// pods that may go and those that stay grow with n.
func refusal(b policy.Budget, n int) Code {
	switch a := allowed(b, n); {
	case a == 0 && b.Kind == policy.BudgetQuorum:
		return AdjustedQuorum
	case a == 0:
		return AdjustedBlocks
	case a == n:
		return AdjustedTakesAll
	}
	return Applied
}

// choose returns the first of the wanted budget, the default in force and the
// built-in one that can be used at n replicas, at least 2, and why it is not the
// wanted one.
func choose(wanted, base policy.Budget, n int) (policy.Budget, Code) {
	code := refusal(wanted, n)
	if code == Applied {
		return wanted, code
	}
	if base.Kind != policy.BudgetOff && refusal(base, n) == Applied {
		return base, code
	}
	return builtIn(), code
}

// write returns the budget as the API has it. countPods is set where Kubernetes
// can't work out the number of expected pods: then only a minAvailable that is a
// number means anything to it.
func write(b policy.Budget, n int, countPods bool) amount {
	switch {
	case countPods && (b.Kind != policy.BudgetMinAvailable || b.Percent):
		return amount{minAvailable: number(n - allowed(b, n))}
	case b.Kind == policy.BudgetQuorum:
		return amount{maxUnavailable: number(allowed(b, n))}
	case b.Kind == policy.BudgetMinAvailable:
		return amount{minAvailable: value(b)}
	}
	return amount{maxUnavailable: value(b)}
}

func number(n int) *intstr.IntOrString {
	v := intstr.FromInt32(int32(n)) // at most spec.replicas
	return &v
}

func value(b policy.Budget) *intstr.IntOrString {
	if !b.Percent {
		return number(b.Value)
	}
	v := intstr.FromString(strconv.Itoa(b.Value) + "%")
	return &v
}

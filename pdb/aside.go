package pdb

import (
	"time"

	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/evenkeel/evenkeel/policy"
)

// AsideAnnotation stands on a budget of ours that has stepped aside, and says since
// when (RFC 3339). It stands on the budget, so that the next leader knows it too.
const AsideAnnotation = policy.Prefix + "stepped-aside"

// maxStay is how long a budget that has stepped aside stays so at least, unless
// its patience is shorter.
const maxStay = time.Minute

// stepAside changes the budget of d into one that permits every eviction where the
// one that exists has refused evictions for longer than patience. The budget
// returns when all replicas are healthy, and the budget wanted would let one of
// them go. No patience means that it never steps aside.
//
// A budget steps aside at most once in its patience, since it has to refuse for as
// long again after each return.
func (d *Decision) stepAside(have *Budget, wanted policy.Budget, patience time.Duration, unscalable bool,
	now time.Time) {
	if have == nil || patience == 0 || now.IsZero() || !ownedBy(have, owner(d.Workload)) {
		return
	}
	since := have.Aside
	switch {
	case !since.IsZero():
		replicas := d.Workload.Replicas
		if have.Healthy >= replicas && refusal(wanted, int(replicas)) != AdjustedBlocks {
			back := since.Add(min(patience, maxStay))
			if !now.Before(back) {
				return
			}
			d.Next = back
		}
	case have.RefusesSince.IsZero():
		return
	default:
		if end := have.RefusesSince.Add(patience); now.Before(end) {
			d.Next = end
			return
		}
		since = now.Truncate(time.Second) // as the annotation has it
	}
	all := intstr.FromString("100%")
	d.Code, d.Asked, d.Other = SteppedAside, "", ""
	d.Budget.Aside, d.Budget.MaxUnavailable, d.Budget.MinAvailable = since, &all, nil
	if unscalable {
		d.Budget.MaxUnavailable, d.Budget.MinAvailable = nil, number(0)
	}
}

// refusesSince returns since when the API server refuses evictions because of a
// budget, or no time: where there are no pods, none is refused. The disruption
// controller and the API server both keep the condition
// (kubernetes/pkg/controller/disruption, registry/core/pod/storage/eviction.go).
func refusesSince(b *policyv1.PodDisruptionBudget) time.Time {
	if b.Status.ExpectedPods == 0 {
		return time.Time{}
	}
	c := meta.FindStatusCondition(b.Status.Conditions, policyv1.DisruptionAllowedCondition)
	if c == nil || c.Status != metav1.ConditionFalse {
		return time.Time{}
	}
	return c.LastTransitionTime.Time
}

// asideSince returns since when a budget has stepped aside, or no time.
func asideSince(b *policyv1.PodDisruptionBudget) time.Time {
	since, err := time.Parse(time.RFC3339, b.Annotations[AsideAnnotation])
	if err != nil {
		return time.Time{}
	}
	return since
}

// keepStatus keeps of a status what stepAside depends on, and nothing while a
// budget permits evictions, so that a namespace isn't looked at for each status.
func keepStatus(kept, b *policyv1.PodDisruptionBudget) {
	if text, ok := b.Annotations[AsideAnnotation]; ok {
		kept.Annotations = map[string]string{AsideAnnotation: text[:min(len(text), 64)]}
		kept.Status.CurrentHealthy = b.Status.CurrentHealthy
		return
	}
	if since := refusesSince(b); !since.IsZero() {
		kept.Status.ExpectedPods = 1 // some
		kept.Status.Conditions = []metav1.Condition{{Type: policyv1.DisruptionAllowedCondition,
			Status: metav1.ConditionFalse, LastTransitionTime: metav1.NewTime(since)}}
	}
}

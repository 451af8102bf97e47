// Package scalein lets a workload keep its zones when it is scaled in.
//
// The ReplicaSet controller chooses the pods that go by readiness, the annotation
// controller.kubernetes.io/pod-deletion-cost, how many share a node, and age (ActivePodsWithRanks
// in k8s.io/kubernetes/pkg/controller). It knows nothing of zones. So the leader gives one ready
// pod of each zone a cost, and those pods go last.
//
// Changes decides, and is pure. controller.go watches and writes.
package scalein

import (
	"cmp"
	"slices"
	"time"

	"github.com/evenkeel/evenkeel/policy"
)

const (
	// CostAnnotation is what the ReplicaSet controller reads: pods of a lower cost go first, and 0
	// is the cost of pods without one.
	CostAnnotation = "controller.kubernetes.io/pod-deletion-cost"
	// MarkAnnotation notes the cost that evenkeel wrote. Any other cost is somebody else's.
	MarkAnnotation = policy.DeletionCostAnnotation
	// cost is what a pod that is to go last costs.
	cost = "1"
	// few is the number of pods up to which there is nothing to choose.
	few = 2
	// maxMarks bounds the pods of a workload that are marked, in zones.
	maxMarks = 8
)

// Pod is what a decision needs to know of an active pod.
type Pod struct {
	Name string
	// Zone is that of its node, "" where it has none or is not known.
	Zone    string
	Ready   bool
	Created time.Time
	// Cost and Mark are the values of CostAnnotation and MarkAnnotation, "" without.
	Cost, Mark string
}

// Change is one pod to write: it gets the cost, or loses it.
type Change struct {
	Pod  string
	Mark bool
}

// Outcome says what became of a workload. It is a closed set.
type Outcome string

// The outcomes.
const (
	// Kept means that one pod of each zone goes last.
	Kept Outcome = "kept"
	// TooFew means that there is nothing to choose.
	TooFew Outcome = "too-few"
	// OneZone means that the ready pods are in one zone, or in none that is known.
	OneZone Outcome = "one-zone"
	// ForeignCost means that somebody else decides which pods go.
	ForeignCost Outcome = "foreign-cost"
	// Off means that the workload or its namespace is not opted in.
	Off Outcome = "off"
)

// Changes returns what to write so that the oldest ready pod of each zone goes last. It is pure.
//
//	opted in | a foreign cost | active pods | zones of ready pods | outcome      | marks of ours
//	no       | any            | any         | any                 | off          | go
//	yes      | yes            | any         | any                 | foreign-cost | go
//	yes      | no             | 2 or less   | any                 | too-few      | stay as they are
//	yes      | no             | 3 or more   | 1 or none           | one-zone     | stay as they are
//	yes      | no             | 3 or more   | 2 or more           | kept         | one in each zone
//
// A pod that has the mark already comes before an older one, since each move takes two writes.
func Changes(pods []Pod, optedIn bool) ([]Change, Outcome) {
	keep, outcome := map[string]string{}, Kept // name by zone
	switch {
	case !optedIn:
		outcome = Off
	case slices.ContainsFunc(pods, Pod.foreign):
		outcome = ForeignCost
	case len(pods) <= few:
		return nil, TooFew
	default:
		for _, p := range slices.SortedFunc(slices.Values(pods), before) {
			if _, taken := keep[p.Zone]; p.Ready && p.Zone != "" && !taken && len(keep) < maxMarks {
				keep[p.Zone] = p.Name
			}
		}
		if len(keep) < 2 {
			return nil, OneZone
		}
	}
	var changes []Change
	for _, p := range pods {
		if wanted := p.Zone != "" && keep[p.Zone] == p.Name; wanted != p.ours() {
			changes = append(changes, Change{Pod: p.Name, Mark: wanted})
		}
	}
	slices.SortFunc(changes, func(a, b Change) int { return cmp.Compare(a.Pod, b.Pod) })
	return changes, outcome
}

// before orders the pods of a zone: marked ones, then older ones.
func before(a, b Pod) int {
	marked := func(p Pod) int {
		if p.ours() {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(marked(a), marked(b)), a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name))
}

// ours reports whether evenkeel has given p its cost.
func (p Pod) ours() bool { return p.Mark != "" && p.Cost == p.Mark }

// foreign reports whether somebody else has: wrote a cost, or changed or removed ours.
func (p Pod) foreign() bool { return p.Cost != p.Mark }

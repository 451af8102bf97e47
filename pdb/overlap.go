package pdb

import (
	"cmp"
	"encoding/binary"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Whoever may create workloads may write any selector. These bounds keep the time and
// the memory of Desired linear in the number of workloads.
const (
	// maxTried is how many selectors the labels of a pod are compared with. Those that
	// require a label that the pod doesn't have count for nothing.
	maxTried = 1000
	// maxShared is how many workloads may compete for the budget of a pod.
	maxShared = 64
)

// overlap is which pods candidates share, by number of the candidate.
type overlap struct {
	foreign    []string  // the name of another's budget that selects a pod of it, or ""
	unscalable []bool    // whether it selects pods without scale
	crowded    []bool    // whether it is beyond a bound
	covers     []int     // how many pod templates it selects
	groups     [][]int32 // numbers of the groups that it is in
	winners    []int     // by group, of candidates that select the same pods: the one with the budget, or -1
}

// overlaps compares selectors over the labels of pods and of the pod templates of
// workloads that are to have pods, so that it holds before pods exist.
func overlaps(n Namespace, candidates []*Decision) *overlap {
	o := &overlap{foreign: make([]string, len(candidates)), unscalable: make([]bool, len(candidates)),
		crowded: make([]bool, len(candidates)), covers: make([]int, len(candidates)),
		groups: make([][]int32, len(candidates))}
	selectors := make([]*metav1.LabelSelector, len(candidates))
	for i, d := range candidates {
		selectors[i] = d.Workload.Selector
	}
	ours := newSelectorIndex(selectors)
	var foreign []*metav1.LabelSelector
	var names []string
	for _, b := range n.Budgets {
		if !b.Ours {
			foreign, names = append(foreign, b.Selector), append(names, b.Name)
		}
	}
	theirs := newSelectorIndex(foreign)

	known := map[string]bool{} // groups, by their members
	look := func(set map[string]string, template, unscalable bool) {
		if ours.tries(set) > maxTried {
			ours.each(set, func(i int) { o.crowded[i] = true })
			return
		}
		selecting := ours.matching(set)
		if len(selecting) == 0 {
			return
		}
		other := ""
		crowded := theirs.tries(set) > maxTried
		if !crowded {
			for _, j := range theirs.matching(set) {
				if other == "" || names[j] < other {
					other = names[j]
				}
			}
		}
		for _, i := range selecting {
			if other != "" && (o.foreign[i] == "" || other < o.foreign[i]) {
				o.foreign[i] = other
			}
			o.unscalable[i] = o.unscalable[i] || unscalable
			o.crowded[i] = o.crowded[i] || crowded
			if template {
				o.covers[i]++
			}
		}
		if len(selecting) > 1 {
			o.group(selecting, known)
		}
	}
	for i := range n.Workloads {
		if w := &n.Workloads[i]; w.Replicas > 0 && w.TemplateLabels != nil {
			look(w.TemplateLabels, true, false)
		}
	}
	for _, p := range n.Pods {
		look(p.Labels, false, p.Unscalable)
	}
	return o
}

// group notes that candidates select the same pod. Of very many, only the first may
// compete for the budget.
func (o *overlap) group(selecting []int, known map[string]bool) {
	slices.Sort(selecting)
	if len(selecting) > maxShared {
		for _, i := range selecting[maxShared:] {
			o.crowded[i] = true
		}
		selecting = selecting[:maxShared]
	}
	var key []byte
	for _, i := range selecting {
		key = binary.AppendUvarint(key, uint64(i))
	}
	if known[string(key)] {
		return
	}
	known[string(key)] = true
	for _, i := range selecting {
		o.groups[i] = append(o.groups[i], int32(len(o.winners))) // one for each workload and pod at most
	}
	o.winners = append(o.winners, -1)
}

// order returns the candidates in the order in which they get budgets: those that
// select the most workloads first, since their budget protects the others' pods too.
func (o *overlap) order() []int {
	order := make([]int, len(o.covers))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(o.covers[b], o.covers[a]) })
	return order
}

// winner returns the first candidate with a budget that shares a pod with candidate
// i, or -1.
func (o *overlap) winner(i int) int {
	first := -1
	for _, g := range o.groups[i] {
		if w := o.winners[g]; w >= 0 && (first < 0 || w < first) {
			first = w
		}
	}
	return first
}

// win records that candidate i has a budget.
func (o *overlap) win(i int) {
	for _, g := range o.groups[i] {
		o.winners[g] = i
	}
}

package pdb

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// pair is a label that a selector requires.
type pair struct{ key, value string }

// selectorIndex finds the selectors that match a set of labels without trying all:
// a namespace may hold 10,000 workloads, and 10,000² comparisons take a minute.
type selectorIndex struct {
	selectors []labels.Selector
	byPair    map[pair][]int
	rest      []int // that require no single pair
}

// newSelectorIndex compiles selectors with the API's own code. As policy/v1 reads
// them, nil selects nothing and the empty selector everything. What can't be
// compiled selects nothing, as in the disruption controller, which gives such a
// budget up.
func newSelectorIndex(selectors []*metav1.LabelSelector) *selectorIndex {
	x := &selectorIndex{selectors: make([]labels.Selector, len(selectors)), byPair: map[pair][]int{}}
	uses := map[pair]int{}
	required := make([][]pair, len(selectors))
	for i, s := range selectors {
		compiled, err := metav1.LabelSelectorAsSelector(s)
		if err != nil {
			compiled = labels.Nothing()
		}
		x.selectors[i] = compiled
		requirements, selectable := compiled.Requirements()
		if !selectable {
			continue
		}
		for _, r := range requirements {
			if values := r.ValuesUnsorted(); len(values) == 1 && (r.Operator() == selection.In || r.Operator() == selection.Equals) {
				p := pair{r.Key(), values[0]}
				required[i] = append(required[i], p)
				uses[p]++
			}
		}
	}
	for i, pairs := range required {
		if len(pairs) == 0 {
			x.rest = append(x.rest, i)
			continue
		}
		rarest := pairs[0]
		for _, p := range pairs {
			if uses[p] < uses[rarest] {
				rarest = p
			}
		}
		x.byPair[rarest] = append(x.byPair[rarest], i)
	}
	return x
}

// matching returns the numbers of the selectors that select a pod with these
// labels, in no order.
func (x *selectorIndex) matching(set map[string]string) []int {
	var found []int
	try := func(candidates []int) {
		for _, i := range candidates {
			if x.selectors[i].Matches(labels.Set(set)) {
				found = append(found, i)
			}
		}
	}
	try(x.rest)
	for key, value := range set {
		try(x.byPair[pair{key, value}])
	}
	return found
}

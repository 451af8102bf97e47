package pdb

import (
	"slices"

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
	byPair    map[pair]*file
	byKey     map[string]*file // that require a key, and no value or very many
	rest      *file            // that require nothing
}

// file holds numbers of selectors.
type file struct {
	numbers []int
	done    bool // each has been called for these
}

// maxValues is how many values of one key a selector is filed under.
const maxValues = 16

// newSelectorIndex compiles selectors with the API's own code. As policy/v1 reads
// them, nil selects nothing and the empty selector everything. What can't be
// compiled selects nothing, as in the disruption controller, which gives such a
// budget up.
func newSelectorIndex(selectors []*metav1.LabelSelector) *selectorIndex {
	x := &selectorIndex{selectors: make([]labels.Selector, len(selectors)), byPair: map[pair]*file{},
		byKey: map[string]*file{}, rest: &file{}}
	uses := map[pair]int{}
	for i, s := range selectors {
		compiled, err := metav1.LabelSelectorAsSelector(s)
		if err != nil {
			compiled = labels.Nothing()
		}
		x.selectors[i] = compiled
		requirements, _ := compiled.Requirements()
		for _, r := range requirements {
			if values := r.ValuesUnsorted(); isIn(r) && len(values) == 1 {
				uses[pair{r.Key(), values[0]}]++
			}
		}
	}
	for i, s := range x.selectors {
		if requirements, selectable := s.Requirements(); selectable {
			x.add(i, requirements, uses)
		}
	}
	return x
}

func isIn(r labels.Requirement) bool {
	return r.Operator() == selection.In || r.Operator() == selection.Equals
}

// add files a selector under the pair that it requires and the fewest others do, else
// under the pairs of which it requires one, else under a key.
func (x *selectorIndex) add(i int, requirements labels.Requirements, uses map[pair]int) {
	var best []pair
	key := ""
	for _, r := range requirements {
		switch values := r.ValuesUnsorted(); {
		case isIn(r) && len(values) <= maxValues:
			var pairs []pair
			for _, v := range values {
				pairs = append(pairs, pair{r.Key(), v})
			}
			if best == nil || len(pairs) < len(best) || len(pairs) == 1 && len(best) == 1 && uses[pairs[0]] < uses[best[0]] {
				best = pairs
			}
		case isIn(r), r.Operator() == selection.Exists:
			key = r.Key()
		}
	}
	switch {
	case best != nil:
		for _, p := range best {
			if x.byPair[p] == nil {
				x.byPair[p] = &file{}
			}
			x.byPair[p].numbers = append(x.byPair[p].numbers, i)
		}
	case key != "":
		if x.byKey[key] == nil {
			x.byKey[key] = &file{}
		}
		x.byKey[key].numbers = append(x.byKey[key].numbers, i)
	default:
		x.rest.numbers = append(x.rest.numbers, i)
	}
}

// files returns the files that may hold selectors which match a set of labels.
func (x *selectorIndex) files(set map[string]string) []*file {
	found := []*file{x.rest}
	for key, value := range set {
		found = append(found, x.byPair[pair{key, value}], x.byKey[key])
	}
	return slices.DeleteFunc(found, func(f *file) bool { return f == nil })
}

// tries returns how many selectors matching would try.
func (x *selectorIndex) tries(set map[string]string) int {
	n := 0
	for _, f := range x.files(set) {
		n += len(f.numbers)
	}
	return n
}

// each calls do for the selectors that matching would try, unless it was called for
// them before.
func (x *selectorIndex) each(set map[string]string, do func(i int)) {
	for _, f := range x.files(set) {
		if f.done {
			continue
		}
		f.done = true
		for _, i := range f.numbers {
			do(i)
		}
	}
}

// matching returns the numbers of the selectors that select a pod with these
// labels, in no order.
func (x *selectorIndex) matching(set map[string]string) []int {
	var found []int
	for _, f := range x.files(set) {
		for _, i := range f.numbers {
			if x.selectors[i].Matches(labels.Set(set)) {
				found = append(found, i)
			}
		}
	}
	return found
}

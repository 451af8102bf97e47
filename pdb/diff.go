package pdb

import (
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// changes are the writes that lead from the existing budgets to the wanted ones.
// What goes goes first: it may select pods that another one is to select.
type changes struct {
	remove []Budget // with UID and ResourceVersion of what exists
	update []Budget // likewise
	create []Budget
	// reselects is set where an update changes a selector.
	reselects bool
}

// diff compares the budgets that exist in a namespace with those that decisions
// want. Only ours are ever removed or updated. One that belongs to another workload
// than before, of the same name for example, is removed and made anew, so that the
// garbage collector can't take it for an orphan. One that is being deleted already
// is waited for.
func diff(existing []Budget, decisions []Decision) changes {
	wanted := make(map[string]*Budget, len(decisions))
	for i := range decisions {
		if b := decisions[i].Budget; b != nil {
			wanted[b.Name] = b
		}
	}
	var c changes
	seen := make(map[string]bool, len(existing))
	for i := range existing {
		have := &existing[i]
		want := wanted[have.Name]
		seen[have.Name] = true
		switch {
		case !have.Ours || have.Terminating:
		case want == nil:
			c.remove = append(c.remove, *have)
		case !ownedBy(have, want.Owners[0]):
			c.remove = append(c.remove, *have)
			c.create = append(c.create, *want)
		case !same(have, want):
			updated := *want
			updated.UID, updated.ResourceVersion = have.UID, have.ResourceVersion
			c.update = append(c.update, updated)
			c.reselects = c.reselects || !equality.Semantic.DeepEqual(have.Selector, want.Selector)
		}
	}
	for i := range decisions {
		if b := decisions[i].Budget; b != nil && !seen[b.Name] {
			c.create = append(c.create, *b)
		}
	}
	return c
}

// ownedBy reports whether nobody but the owner could have made b: a reference to
// something else of ours would let the garbage collector delete it. A reference that
// is missing is put back.
func ownedBy(b *Budget, owner metav1.OwnerReference) bool {
	return len(b.Owners) == 0 ||
		slices.ContainsFunc(b.Owners, func(o metav1.OwnerReference) bool { return o.UID == owner.UID })
}

// same reports whether an existing budget of ours says what the wanted one says.
func same(have, want *Budget) bool {
	return have.Instance == want.Instance && have.AlwaysAllow == want.AlwaysAllow && have.Aside.Equal(want.Aside) &&
		equality.Semantic.DeepEqual(have.MinAvailable, want.MinAvailable) &&
		equality.Semantic.DeepEqual(have.MaxUnavailable, want.MaxUnavailable) &&
		equality.Semantic.DeepEqual(have.Selector, want.Selector) &&
		slices.ContainsFunc(have.Owners, func(o metav1.OwnerReference) bool {
			return equality.Semantic.DeepEqual(o, want.Owners[0])
		})
}

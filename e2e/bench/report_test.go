package main

import (
	"math"
	"testing"
)

// TestASlowRoundCountsLikeAnyOther has two sides of which one takes half of what the other does, on
// a machine that is three times as slow in some rounds.
func TestASlowRoundCountsLikeAnyOther(t *testing.T) {
	half, whole := &side{}, &side{}
	measured := map[*side][]used{}
	for _, slow := range []float64{1, 3, 1, 1, 2} {
		measured[half] = append(measured[half], used{server: 4 * slow, webhook: slow, allocated: 7})
		measured[whole] = append(measured[whole], used{server: 10 * slow})
	}
	got := evened(measured)
	for i := range 5 {
		h, w := got[half][i], got[whole][i]
		if math.Abs(h.server-6.4) > 1e-9 || math.Abs(h.webhook-1.6) > 1e-9 || math.Abs(w.server-16) > 1e-9 ||
			h.allocated != 7 {
			t.Errorf("round %d: %+v and %+v; on the average machine it is 6.4 and 1.6 ms of 16 ms", i, h, w)
		}
	}
	if measured[half][1].server != 12 {
		t.Error("what was measured has changed")
	}
}

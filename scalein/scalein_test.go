package scalein

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// at is a time so many minutes after some morning.
func at(minutes int) time.Time {
	return time.Date(2026, 1, 1, 8, minutes, 0, 0, time.UTC)
}

// ready returns a pod of a zone, made at a minute.
func ready(name, zone string, minute int) Pod {
	return Pod{Name: name, Zone: zone, Ready: true, Created: at(minute)}
}

func (p Pod) notReady() Pod              { p.Ready = false; return p }
func (p Pod) marked() Pod                { p.Cost, p.Mark = cost, cost; return p }
func (p Pod) with(cost, mark string) Pod { p.Cost, p.Mark = cost, mark; return p }

func TestChanges(t *testing.T) {
	three := []Pod{ready("a", "x", 1), ready("b", "y", 2), ready("c", "y", 3)}
	for _, test := range []struct {
		name     string
		pods     []Pod
		optedOut bool
		want     []Change
		outcome  Outcome
	}{
		{"marks the oldest pod of each zone", three, false, []Change{{"a", true}, {"b", true}}, Kept},
		{"writes nothing where the marks are right", []Pod{three[0].marked(), three[1].marked(), three[2]}, false, nil, Kept},
		{"leaves a mark on a younger pod, since moving it takes two writes",
			[]Pod{three[0].marked(), three[1], three[2].marked()}, false, nil, Kept},
		{"moves a mark from a pod that is not ready", []Pod{three[0].marked(), three[1].marked().notReady(), three[2]}, false,
			[]Change{{"b", false}, {"c", true}}, Kept},
		{"takes the second mark of a zone away", []Pod{three[0].marked(), three[1].marked(), three[2].marked()}, false,
			[]Change{{"c", false}}, Kept},
		{"orders pods of one age by name", []Pod{ready("b", "x", 1), ready("a", "x", 1), ready("c", "y", 1)}, false,
			[]Change{{"a", true}, {"c", true}}, Kept},
		{"passes over pods of unknown zones", []Pod{ready("a", "", 1), three[1], ready("d", "z", 4)}, false,
			[]Change{{"b", true}, {"d", true}}, Kept},
		{"passes over pods that are not ready", []Pod{three[0].notReady(), ready("d", "x", 4), three[1]}, false,
			[]Change{{"b", true}, {"d", true}}, Kept},
		{"has nothing to choose from two pods", three[:2], false, nil, TooFew},
		{"leaves marks on two pods, for when there are more again", []Pod{three[0].marked(), three[1].marked()},
			false, nil, TooFew},
		{"has nothing to keep in one zone", []Pod{three[1], three[2], ready("d", "y", 4)}, false, nil, OneZone},
		{"has nothing to keep without zones", []Pod{ready("a", "", 1), ready("b", "", 1), ready("c", "", 1)},
			false, nil, OneZone},
		{"leaves a workload alone of which a pod has a cost of somebody else",
			[]Pod{three[0], three[1], three[2].with("5", "")}, false, nil, ForeignCost},
		{"takes its own marks away beside a cost of somebody else",
			[]Pod{three[0].marked(), three[1].marked(), three[2].with("5", "")}, false,
			[]Change{{"a", false}, {"b", false}}, ForeignCost},
		{"takes a cost for somebody else's that was changed", []Pod{three[0].with("7", "1"), three[1].marked(), three[2]},
			false, []Change{{"b", false}}, ForeignCost},
		{"takes a cost for somebody else's that was removed", []Pod{three[0].with("", "1"), three[1], three[2]}, false,
			nil, ForeignCost},
		{"takes its marks away from what is not opted in", []Pod{three[0].marked(), three[1].with("5", ""), three[2]}, true,
			[]Change{{"a", false}}, Off},
		{"takes its marks away from two pods that are not opted in", []Pod{three[0].marked(), three[1]}, true,
			[]Change{{"a", false}}, Off},
		{"does nothing without pods", nil, false, nil, TooFew},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, outcome := Changes(test.pods, !test.optedOut)
			if diff := gocmp.Diff(test.want, got); diff != "" || outcome != test.outcome {
				t.Errorf("outcome %s, want %s; changes (-want +got):\n%s", outcome, test.outcome, diff)
			}
		})
	}
}

// apply does what changes say.
func apply(pods []Pod, changes []Change) {
	for _, c := range changes {
		p := &pods[slices.IndexFunc(pods, func(p Pod) bool { return p.Name == c.Pod })]
		if p.Cost, p.Mark = "", ""; c.Mark {
			*p = p.marked()
		}
	}
}

// scaleIn takes the pods away that the ReplicaSet controller would: those that are not ready, then
// those of a lower cost, and then any.
func scaleIn(pods []Pod, replicas int, random *rand.Rand) []Pod {
	random.Shuffle(len(pods), func(i, j int) { pods[i], pods[j] = pods[j], pods[i] })
	rank := func(p Pod) int {
		n, _ := strconv.Atoi(p.Cost)
		if p.Ready {
			n += 1000
		}
		return n
	}
	slices.SortStableFunc(pods, func(a, b Pod) int { return cmp.Compare(rank(b), rank(a)) })
	return pods[:min(replicas, len(pods))]
}

// TestEveryScaleInKeepsAsManyZonesAsItCan makes pods at random, marks them, and scales them in to
// any number. Afterwards they are in as many zones as their number and the zones allow. Changes are
// made once: a second look writes nothing.
func TestEveryScaleInKeepsAsManyZonesAsItCan(t *testing.T) {
	for seed := range uint64(500) {
		random := rand.New(rand.NewPCG(seed, 0))
		zones := 1 + random.IntN(5)
		var pods []Pod
		for i := range 3 + random.IntN(20) {
			p := ready(fmt.Sprintf("p-%d", i), fmt.Sprintf("z-%d", random.IntN(zones)), random.IntN(60))
			p.Ready = random.IntN(5) > 0
			if random.IntN(4) == 0 {
				p = p.marked()
			}
			pods = append(pods, p)
		}
		changes, _ := Changes(pods, true)
		apply(pods, changes)
		if again, _ := Changes(pods, true); len(again) > 0 {
			t.Fatalf("seed %d: a second look writes %v after %v", seed, again, changes)
		}
		spread := func(pods []Pod) int {
			in := map[string]bool{}
			for _, p := range pods {
				if p.Ready {
					in[p.Zone] = true
				}
			}
			return len(in)
		}
		before := spread(pods)
		left := scaleIn(slices.Clone(pods), few+random.IntN(5), random)
		if got, want := spread(left), min(before, len(left)); got != want {
			t.Fatalf("seed %d: %d zones are left of %d, with %d pods: %v", seed, got, before, len(left), left)
		}
	}
}

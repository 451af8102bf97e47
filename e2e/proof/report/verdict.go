package report

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

const (
	// EvenShare is each pod's, in percent, after the scale-out of scenario 7 to four, and shareWithin
	// how far from it one may be.
	EvenShare, shareWithin = 25.0, 5.0
	// installWithin is the time from the beginning of an installation to the first pod with defaults.
	installWithin = 15 * time.Second
)

// Verdict returns an error that names what evenkeel promises and this run didn't show, or nil.
func (r *Report) Verdict() error {
	var broken []string
	fail := func(format string, args ...any) { broken = append(broken, fmt.Sprintf(format, args...)) }
	r.judgeFailures(fail)
	r.judgeEffects(fail)
	for _, i := range r.Installed {
		if i.Took > installWithin {
			fail("the first pod got its defaults %.1f s after the beginning of %s", i.Took.Seconds(), i.Command)
		}
	}
	for _, id := range r.Wanted {
		for repetition := 1; repetition <= r.Runs; repetition++ {
			if !r.has(id, repetition) {
				fail("%s is missing, run %d", id, repetition)
			}
		}
	}
	if len(broken) == 0 {
		return nil
	}
	return errors.New("this is not proved: " + strings.Join(broken, "; "))
}

// judgeFailures looks at what failed with evenkeel and should not have, and whether what should
// have failed without did.
func (r *Report) judgeFailures(fail func(string, ...any)) {
	shown, failures := false, 0
	for _, row := range r.rows() {
		if !promised(row.ID) {
			continue
		}
		if n := row.sides[With].unexcepted(); n > 0 {
			fail("%s: %d of %d requests failed with evenkeel (%s)", row.Title, n, row.sides[With].Sent,
				causes(row.sides[With].Causes))
		}
		shown, failures = true, failures+row.sides[Without].Failed
		if row.ID == "1d" && row.sides[With].Cut == 0 {
			fail("%s: no connection was cut without recycling, which therefore shows nothing", row.Title)
		}
	}
	if shown && failures == 0 {
		fail("no request failed without evenkeel, so that the run shows nothing")
	}
}

// judgeEffects looks at what scenarios are to show besides failures.
func (r *Report) judgeEffects(fail func(string, ...any)) {
	losses, whole := 0, 0
	for _, o := range r.Outcomes {
		where := fmt.Sprintf("%s, run %d", o.Scenario.Title, o.Repetition)
		for _, request := range o.Disputed {
			fail("%s: the servers' logs don't agree with the clients: %s", where, request)
		}
		if l := o.Lost; l != nil {
			losses, whole = losses+1, whole+l.Whole[Without]
			if l.Whole[With] > 0 {
				fail("%s: %d of %d workloads lost all replicas with evenkeel", where, l.Whole[With], l.Workloads)
			}
		}
		if o.Shares != nil && len(o.Shares[With]) == 0 {
			fail("%s: no pod is new", where)
		}
		for _, share := range o.Shares[With] {
			if math.Abs(share-EvenShare) > shareWithin {
				fail("%s: a new pod has %.1f %% of the requests with recycling, which is more than %.0f points from even", where,
					share, shareWithin)
			}
		}
		if u := o.Upgrade; u != nil && u.Kept > 0 {
			fail("%s: %d pods of evenkeel were not replaced", where, u.Kept)
		}
		if u := o.Upgrade; u != nil && u.Undefaulted > 0 {
			fail("%s: %d pods got no defaults", where, u.Undefaulted)
		}
		if o.Took[With] == Never {
			fail("%s: it did not end with evenkeel", where)
		}
	}
	if losses > 0 && whole == 0 {
		fail("no workload lost all replicas without evenkeel, so that the loss of a node shows nothing")
	}
}

// has says whether a repetition of a scenario gave an outcome.
func (r *Report) has(id string, repetition int) bool {
	for _, o := range r.Outcomes {
		if o.Scenario.ID == id && o.Repetition == repetition {
			return true
		}
	}
	return false
}

// unexcepted returns how many failures no exception names.
func (s *Summary) unexcepted() int { return s.Failed - s.Cut - s.Raced - s.Undone }

// promised says whether no request may fail in a scenario: in 1 to 5 and 8.
func promised(id string) bool { return strings.ContainsAny(id[:1], "123458") }

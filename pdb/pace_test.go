package pdb

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// disruption plays the disruption controller, with the rate limit of client-go: burst at once, then rate a second.
type disruption struct {
	rate, burst float64
	tokens      float64
	queue       []string
}

// step returns what comes into force within a step of time.
func (d *disruption) step(step time.Duration) []string {
	d.tokens = min(d.burst, d.tokens+d.rate*step.Seconds())
	n := min(len(d.queue), int(d.tokens))
	d.tokens -= float64(n)
	done := d.queue[:n]
	d.queue = d.queue[n:]
	return done
}

// simulate writes n budgets, and returns how long the slowest waited, and how long all took.
func simulate(
	p *pace, d *disruption, n int, begin time.Time, limit time.Duration,
) (slowest, took time.Duration, written int) {
	const step = 10 * time.Millisecond
	since := map[string]time.Time{}
	now := begin
	for counted := 0; counted < n && now.Sub(begin) < limit; now = now.Add(step) {
		for written < n && p.may(now) {
			key := fmt.Sprint(written)
			p.wait(key, now)
			since[key] = now
			d.queue = append(d.queue, key)
			written++
		}
		for _, key := range d.step(step) {
			slowest = max(slowest, now.Sub(since[key]))
			p.counted(key, now)
			counted++
		}
	}
	return slowest, now.Sub(begin), written
}

func TestThePaceIsThatOfTheDisruptionController(t *testing.T) {
	cases := map[string]struct {
		rate, burst float64
		budgets     int
	}{
		"as it comes":                     {20, 30, 2000},
		"a slow one":                      {5, 10, 300},
		"one whose limit was raised":      {100, 200, 5000},
		"one that is busy with much else": {10, 30, 1000},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			slowest, took, _ := simulate(newPace(MaxWaiting), &disruption{rate: c.rate, burst: c.burst, tokens: c.burst},
				c.budgets, noon, time.Hour)
			limit := time.Duration(float64(c.budgets) / c.rate * float64(time.Second))
			t.Logf("the slowest waited %v; all took %v, the limit of the controller %v", slowest, took, limit)
			if slowest > 2*time.Second {
				t.Errorf("a budget waited %v", slowest)
			}
			if took > limit*11/10 {
				t.Errorf("%v for %d budgets, of which the limit allows %v", took, c.budgets, limit)
			}
		})
	}
}

// The control: all at once, as it was.
func TestWithoutAPaceBudgetsWaitForLong(t *testing.T) {
	slowest, _, _ := simulate(newPace(1<<30), &disruption{rate: 20, burst: 30, tokens: 30}, 2000, noon, time.Hour)
	if slowest < time.Minute {
		t.Errorf("the slowest waited %v only, so the test of the pace shows nothing", slowest)
	}
}

func TestADisruptionControllerThatDoesNotAnswerSlowsDownAndStopsNothing(t *testing.T) {
	p := newPace(MaxWaiting)
	_, _, written := simulate(p, &disruption{}, 10_000, noon, 10*time.Minute)
	if written < 300 || written > 1000 {
		t.Errorf("%d budgets written in ten minutes", written)
	}
	if len(p.waiting) > MaxWaiting {
		t.Errorf("%d budgets are remembered", len(p.waiting))
	}
	if _, took, _ := simulate(p, &disruption{rate: 20, burst: 30}, 2000, noon.Add(time.Hour),
		time.Hour); took > 2*time.Minute {
		t.Errorf("%v for 2,000 budgets after it answers again", took)
	}
}

func TestWhatIsGoneHoldsNobodyUp(t *testing.T) {
	p := newPace(1)
	var may []bool
	for _, do := range []func(){
		func() { p.wait("a", noon) },
		func() { p.drop("a") },
		func() { p.wait("b", noon) },
		func() { p.counted("somebody else's", noon) },
		func() { p.counted("b", noon) },
	} {
		do()
		may = append(may, p.may(noon))
	}
	if want := []bool{false, true, false, false, true}; !slices.Equal(may, want) {
		t.Errorf("may write: %v, want %v", may, want)
	}
}

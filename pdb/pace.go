package pdb

import "time"

// The API server refuses to evict the pods of a budget that is new or changed until the
// disruption controller has counted them: one budget after the other, 20 a second
// unless somebody raises --kube-api-qps. So no more budgets are written than it can
// take in soon.
const (
	// MaxWaiting is how many budgets may wait for the disruption controller at a time.
	MaxWaiting = 40
	// minWaiting is how many may wait whatever happens.
	minWaiting = 4
	// wantedWait is how long a budget should wait.
	wantedWait = time.Second
	// giveUp is after how long a budget that still waits no longer holds others up. A
	// disruption controller that doesn't answer slows us down and never stops us.
	giveUp = 5 * time.Second
)

// pace says how many budgets may be written now. It adapts to how fast those before
// came into force:
//
//	came into force          and as many waited as may     then the window
//	within wantedWait        yes                           grows by a quarter
//	within wantedWait        no                            stays
//	later                    any                           shrinks towards what fits
//	not within giveUp        any                           is halved
//
// It is no more than a decision: time comes in as an argument. It is not safe for
// concurrent use.
type pace struct {
	most    float64
	window  float64
	waiting map[string]wait // by namespace/name of the budget
}

// wait is a budget that waits for the disruption controller.
type wait struct {
	since time.Time
	ahead int // that waited with it, itself included
}

// newPace returns a pace under which at most so many budgets wait. It begins with a
// quarter.
func newPace(most int) *pace {
	return &pace{most: float64(most), window: float64(max(most/4, min(minWaiting, most))), waiting: map[string]wait{}}
}

// may reports whether another budget may be written now.
func (p *pace) may(now time.Time) bool {
	if float64(len(p.waiting)+1) <= p.window {
		return true
	}
	late := false
	for key, w := range p.waiting {
		if now.Sub(w.since) >= giveUp {
			delete(p.waiting, key)
			late = true
		}
	}
	if late {
		p.set(p.window / 2)
	}
	return float64(len(p.waiting)+1) <= p.window
}

// wait notes that a budget waits from now on.
func (p *pace) wait(key string, now time.Time) {
	p.waiting[key] = wait{since: now, ahead: len(p.waiting) + 1}
}

// waits reports whether a budget is counted among those that wait.
func (p *pace) waits(key string) bool {
	_, ok := p.waiting[key]
	return ok
}

// drop notes that a budget doesn't wait any more, for a reason that says nothing about
// the disruption controller.
func (p *pace) drop(key string) { delete(p.waiting, key) }

// counted notes that a budget has come into force.
func (p *pace) counted(key string, now time.Time) {
	w, ok := p.waiting[key]
	if !ok {
		return
	}
	delete(p.waiting, key)
	switch waited := now.Sub(w.since); {
	case waited > wantedWait:
		fits := p.window * wantedWait.Seconds() / waited.Seconds()
		p.set(p.window + (fits-p.window)/4)
	case float64(w.ahead+1) > p.window:
		p.set(p.window + .25)
	}
}

func (p *pace) set(window float64) {
	p.window = min(p.most, max(window, min(minWaiting, p.most)))
}

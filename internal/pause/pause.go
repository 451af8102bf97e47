// Package pause runs the loops of a leader, and waits between two looks.
package pause

import (
	"context"
	"time"
)

// For waits for d, or returns when ctx ends.
func For(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// Loop is what a leader does again and again.
type Loop struct {
	Ready    func() error // nil when it can begin
	Interval time.Duration
	// Pause waits between two times; nil means For.
	Pause func(context.Context, time.Duration)
}

// Run waits for Ready, and calls do at once and then in intervals, until ctx ends. Behind one that
// took long it pauses nine times as long, so that do never takes more than a tenth of the time.
func (l Loop) Run(ctx context.Context, do func()) {
	if l.Pause == nil {
		l.Pause = For
	}
	for l.Ready() != nil && ctx.Err() == nil {
		l.Pause(ctx, time.Second/5)
	}
	for ctx.Err() == nil {
		start := time.Now()
		do()
		l.Pause(ctx, max(l.Interval, 9*time.Since(start)))
	}
}

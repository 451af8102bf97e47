package pause

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestForEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	For(ctx, time.Hour) // or the test never ends
	For(t.Context(), time.Nanosecond)
}

// TestALoopTakesATenthOfTheTimeAtMost does something that takes no time, then something that takes
// longer than a ninth of the interval.
func TestALoopTakesATenthOfTheTimeAtMost(t *testing.T) {
	const interval = 90 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	asked, done := 0, 0
	var pauses []time.Duration
	Loop{Interval: interval, Ready: func() error {
		if asked++; asked == 2 {
			return nil
		}
		return errors.New("not yet")
	}, Pause: func(_ context.Context, d time.Duration) {
		if pauses = append(pauses, d); len(pauses) == 3 {
			cancel()
		}
	}}.Run(ctx, func() {
		if done++; done == 2 {
			time.Sleep(2 * interval / 9)
		}
	})
	if done != 2 || len(pauses) != 3 || pauses[0] != time.Second/5 || pauses[1] < interval || pauses[2] < 2*interval {
		t.Errorf("done %d times, pauses of %v", done, pauses)
	}
}

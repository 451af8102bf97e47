// Package pause waits between two looks of a loop that a leader runs.
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

package main

import (
	"context"
	"time"
)

// rolling is a rolling update to a new image at the defaults of maxSurge and maxUnavailable.
func (e *env) rolling(ctx context.Context, s scenario, repetition int, targets []target, kinds []string) (*outcome, error) {
	return e.observe(ctx, s, repetition, targets, func(ctx context.Context) error {
		if err := e.update(ctx, kinds, otherImage); err != nil {
			return err
		}
		return e.waitComplete(ctx, kinds...)
	})
}

// steady is the time without any operation; a failure in it makes everything void.
func (e *env) steady(ctx context.Context, d time.Duration, targets []target) (*outcome, error) {
	return e.observe(ctx, scenario{ID: "0", Title: "Steady state"}, 1, targets, func(ctx context.Context) error { return pause(ctx, d) })
}

// Package check holds what the end-to-end tests say most often.
package check

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Limit is how long Eventually waits: long, since a busy machine is no failure of what is tested.
const Limit = 2 * time.Minute

// Must fails the test at once when there is an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Eventually calls try until it returns nil, and fails the test at once, with what was waited for
// and the last error, when it still returns one after Limit.
func Eventually(t testing.TB, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(Limit)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not after %v: %s: %v", Limit, what, err)
		}
		time.Sleep(50 * time.Millisecond) // between two looks
	}
}

// Ready reports whether a pod is ready and stays.
func Ready(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

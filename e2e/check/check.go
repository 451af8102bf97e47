// Package check holds what the end-to-end tests say most often.
package check

import (
	"testing"
	"time"
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

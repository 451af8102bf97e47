// Package withdraw notices what admission can't know beforehand, and has it taken back: a guessed
// readiness probe with which no pod ever gets ready, and a workload that is made anew again and
// again, as by an operator that doesn't know evenkeel's additions.
//
// What is noticed stands as notes in a ConfigMap of evenkeel's own namespace, which every replica
// reads and the leader alone writes. Nothing is ever changed by a note itself: what is created or
// changed next does without, so that a restart, an undo and a manifest that is applied again all
// heal. A note ends when a port or a probe of the workload changes, when its annotation asks for a
// probe, and with the workload.
package withdraw

import (
	"time"
)

// Pod is what is known of one pod of the current revision of a workload.
type Pod struct {
	// EverReady is set where the pod is ready or has been.
	EverReady bool
	// Up is since when all ordinary containers of the pod run, the zero time where one doesn't.
	Up time.Time
	// Unready is set where a container with a guessed probe has started and is not ready.
	Unready bool
}

// Failed reports whether the guess was wrong:
//
//	a pod was ever ready | a pod is up and unready for less than patience | one for longer | failed
//	yes                  | any                                            | any            | no
//	no                   | yes                                            | any            | not yet
//	no                   | no                                             | no             | no
//	no                   | no                                             | yes            | yes
//
// A pod whose containers wait or crash says nothing about its probe.
func Failed(pods []Pod, patience time.Duration, now time.Time) bool {
	failed, waits := false, false
	for _, p := range pods {
		switch {
		case p.EverReady:
			return false
		case p.Up.IsZero() || !p.Unready:
		case now.Sub(p.Up) < patience:
			waits = true
		default:
			failed = true
		}
	}
	return failed && !waits
}

// leaderPatience is how many times as long as Failed Partly waits.
const leaderPatience = 5

// Partly reports whether the guess was wrong for some pods, as it is for a port that only the leader
// opens: one pod is or was ready, and another one has been up and unready for five times patience.
func Partly(pods []Pod, patience time.Duration, now time.Time) bool {
	ready, never := false, false
	for _, p := range pods {
		ready = ready || p.EverReady
		never = never || !p.EverReady && p.Unready && !p.Up.IsZero() && now.Sub(p.Up) >= leaderPatience*patience
	}
	return ready && never
}

// Within which time how many times a workload is made anew before it is left alone.
const (
	maxMade    = 3
	madeWithin = time.Hour
)

// made are the times at which a workload was made anew, the oldest first.
type made [maxMade]time.Time

// again adds a time and reports whether the workload is to be left alone.
func (m *made) again(now time.Time) bool {
	copy(m[:], m[1:])
	m[maxMade-1] = now
	return !m[0].IsZero() && now.Sub(m[0]) <= madeWithin
}

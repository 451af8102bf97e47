package replicas

import (
	"errors"
	"flag"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/evenkeel/evenkeel/e2e/check"
)

var (
	killing = flag.Duration("killing", 10*time.Second, "how long TestKillsBlockNobody kills a replica every five "+
		"seconds; 5m is the long form")
	rolling = flag.Int("rolling-restarts", 1, "how often TestRollingRestartsLeaveNothingOut restarts all replicas; 50 "+
		"is the long form")
)

// TestKillsBlockNobody kills one of three replicas every five seconds, with whatever it is
// answering. A review that is cut off can't be asked again, so that few Deployments go without
// their defaults; none may fail, and the scan finds every one of them.
func TestKillsBlockNobody(t *testing.T) {
	s := start(t, "killed")
	load := startLoad(t, 200, true)
	begin := time.Now()
	kills := 0
	for ; time.Since(begin) < *killing; kills++ {
		i := kills % len(s.replicas)
		next := time.Now().Add(5 * time.Second)
		check.Must(t, s.replicas[i].Signal(syscall.SIGKILL))
		s.replicas[i].Stop() // it is gone already; its address stays in the Service, as for a while it would
		check.Must(t, s.replicas[i].Start(t.Context()))
		time.Sleep(time.Until(next)) // the rhythm that is promised
	}
	r, length := load.stop(t), time.Since(begin).Round(time.Second)
	t.Logf("SUMMARY kills: %d in %v; %v; all without defaults found by the scan %v later", kills, length, r,
		found(t, s, load.namespace, r.bare).Round(time.Millisecond))
	// A replica that has just been started listens before it has a certificate, and this Service does not wait for it to
	// be ready; what must not be is a certificate that the API server doesn't trust.
	if len(r.failed) > 0 || slices.ContainsFunc(r.calls,
		func(line string) bool { return strings.Contains(line, "x509:") }) {
		t.Errorf("want none to fail, and no certificate to be distrusted: %v %.400q",
			errors.Join(r.failed[:min(len(r.failed), 3)]...), r.calls[:min(len(r.calls), 3)])
	}
	if int64(len(r.bare))*20 > r.sent {
		t.Error("want 5 % without defaults at most")
	}
}

// TestRollingRestartsLeaveNothingOut restarts one replica after the other, as a rollout does. The control kills
// all three.
func TestRollingRestartsLeaveNothingOut(t *testing.T) {
	s := start(t, "rolled", "--drain-timeout=5s")
	load := startLoad(t, 200, false)
	begin := time.Now()
	for range *rolling {
		for i, replica := range s.replicas {
			s.route(t, i, false) // the endpoint goes first; the preStop sleep is there for that
			replica.Stop()
			check.Must(t, replica.Start(t.Context()))
			s.route(t, i, true)
		}
	}
	r := load.stop(t)
	t.Logf("SUMMARY rolling restarts: %d of three replicas in %v; %v", *rolling, time.Since(begin).Round(time.Second), r)
	if r.harmed() {
		t.Errorf("want every Deployment with its defaults: %v %.300q", errors.Join(r.failed[:min(len(r.failed), 3)]...),
			r.calls[:min(len(r.calls), 3)])
	}

	load = startLoad(t, 200, false)
	for _, replica := range s.replicas {
		check.Must(t, replica.Signal(syscall.SIGKILL))
	}
	for _, replica := range s.replicas {
		replica.Stop()
		check.Must(t, replica.Start(t.Context()))
	}
	if r := load.stop(t); !r.harmed() {
		t.Errorf("control: all three were killed, and nothing was lost: %v", r)
	}
}

package recycle

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/evenkeel/evenkeel/internal/traffic"
)

// replica is one of three servers behind one address. startReplica is the one place to change for
// another server than this module's.
type replica struct{ *process }

// startReplica starts a server that answers POST /echo over TLS and GET /readyz, and ends on SIGTERM.
func startReplica(t *testing.T, args ...string) replica {
	t.Helper()
	return replica{startFast(t, append([]string{"-tls", "-delay=10ms", "-max-requests=1000", "-max-age=1m"}, args...)...)}
}

// TestRestartsLoseNoReview sends 500 reviews a second, whatever happens, as kube-apiserver would:
// HTTP/1.1 over TLS, at most 25 idle connections that are kept for 90 seconds. One of three
// replicas behind one address restarts after the other. With Drain not one review fails. The
// controls restart as often and have to fail, or this load would prove nothing.
func TestRestartsLoseNoReview(t *testing.T) {
	restarts := pick(10, 100)
	for name, args := range map[string][]string{
		// A cap of 4 seconds was too short on a machine with 15 times more to do than it could.
		withDrain: {"-stop=drain", "-drain=20s", "-drain-quiet=500ms"},
		"control: Shutdown once the balancer has let go": {"-stop=shutdown", "-shutdown-after=1s", "-drain=4s"},
		"control: Shutdown at once":                      {"-stop=shutdown", "-drain=4s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begin, clean := time.Now(), name == withDrain
			sent, failures := restartUnderLoad(t, restarts, args, clean)
			t.Logf("%d restarts, %d reviews at %.0f per second, %d failed: %v", restarts, sent,
				float64(sent)/time.Since(begin).Seconds(), len(failures), counts(failures))
			if clean && len(failures) > 0 {
				t.Error("reviews failed")
			}
			if !clean && len(failures) == 0 {
				t.Error("the control has lost nothing: this load proves nothing")
			}
		})
	}
}

// withDrain is the arm whose restarts are to be clean: each ends with exit code 0.
const withDrain = "with Drain"

// restartUnderLoad restarts so often under load. It returns how many reviews were sent and the
// errors of those that failed. Where restarts are to be clean, one that ends with another exit code
// than 0 is an error.
func restartUnderLoad(t *testing.T, restarts int, args []string, clean bool) (int64, []string) {
	t.Helper()
	replicas := []replica{startReplica(t, args...), startReplica(t, args...), startReplica(t, args...)}
	addresses := func() []string {
		var list []string
		for _, r := range replicas {
			list = append(list, r.address)
		}
		return list
	}
	b := balance(t, true, addresses()...)

	client := &http.Client{
		Timeout: 30 * time.Second, // the longest that a webhook may have; an overloaded machine isn't what is tested
		Transport: &http.Transport{
			TLSClientConfig:     &tls.Config{InsecureSkipVerify: true},
			MaxIdleConnsPerHost: 25,
			IdleConnTimeout:     90 * time.Second,
		},
	}
	defer client.CloseIdleConnections()
	body := bytes.Repeat([]byte("review "), 9_400/7)
	var sent atomic.Int64
	var mu sync.Mutex
	var failures []string
	stop := traffic.Send(500, 0, func() {
		sent.Add(1)
		got, err := fetch(t.Context(), client, http.MethodPost, "https://"+b.Address+"/echo", bytes.NewReader(body))
		if err == nil && !bytes.Equal(got, body) {
			err = fmt.Errorf("got %d bytes", len(got))
		}
		if err != nil {
			mu.Lock()
			defer mu.Unlock()
			failures = append(failures, err.Error())
		}
	})

	time.Sleep(time.Second) // the client has its connections
	for i := range restarts {
		victim := i % len(replicas)
		done := make(chan struct{})
		go func() { // the balancer learns that a replica isn't ready a little later
			defer close(done)
			time.Sleep(time.Duration(100+rand.IntN(300)) * time.Millisecond)
			b.Set(slices.Delete(addresses(), victim, victim+1)...)
		}()
		if err := replicas[victim].terminate(t); err != nil && clean {
			t.Errorf("restart %d: the server ended with %v\n%s", i+1, err, replicas[victim].stderr.String())
		}
		<-done
		replicas[victim] = startReplica(t, args...)
		b.Set(addresses()...)
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond) // the next restart doesn't wait for the client
	}
	stop()
	return sent.Load(), failures
}

// balance starts a balancer that ends with the test.
func balance(t *testing.T, random bool, backends ...string) *traffic.Balancer {
	t.Helper()
	b, err := traffic.Balance(random, backends...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// counts returns how often each text is there, without the ports.
func counts(list []string) map[string]int {
	n := make(map[string]int)
	for _, s := range list {
		n[anyPort.ReplaceAllString(s, ":PORT")]++
	}
	return n
}

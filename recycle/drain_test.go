package recycle

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// drain starts Drain and returns its result's channel.
func drain(t *testing.T, s *testServer, cap time.Duration) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), cap)
	t.Cleanup(cancel)
	go func() { done <- s.recycler.Drain(ctx) }()
	eventually(t, "the server drains", s.recycler.Draining)
	return done
}

// TestDrainGoesOnAcceptingWhereNobodyWasConnected has a server that nobody has connected to for
// long: load balancers know as little of its drain as of a busy one's.
func TestDrainGoesOnAcceptingWhereNobodyWasConnected(t *testing.T) {
	s := serve(t, http1, Options{DrainQuiet: 500 * time.Millisecond}, remote)
	begin := time.Now()
	done := drain(t, s, time.Minute)
	mustFetch(t, s, "/")
	if err := <-done; err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took < 500*time.Millisecond {
		t.Errorf("stopped listening after %v, want at least the quiet time", took)
	}
}

func TestDrainGoesOnAnswering(t *testing.T) {
	for _, p := range everyProtocol {
		t.Run(string(p), func(t *testing.T) {
			s := serve(t, p, Options{DrainQuiet: 200 * time.Millisecond}, remote)
			first := mustFetch(t, s, "/")
			done := drain(t, s, time.Minute)
			seen := map[string]bool{first: true}
			for range 5 { // new connections, since each answer ends one
				seen[mustFetch(t, s, "/")] = true
			}
			if p == http1 || p == http1TLS {
				if len(seen) != 5 { // the first answer during the drain still comes over the first connection
					t.Errorf("6 requests, 5 of them during the drain, took %d connections, want 5", len(seen))
				}
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			for _, closed := range s.ended(t, 2) {
				if closed.Reason != Drain {
					t.Errorf("reason %v, want drain", closed.Reason)
				}
			}
			if _, err := fetch(t.Context(), s.client, http.MethodGet, s.URL, nil); err == nil {
				t.Error("the server still answers after Drain")
			}
		})
	}
}

func TestDrainTellsIdleHTTP2(t *testing.T) {
	s := serve(t, http2TLS, Options{DrainQuiet: time.Millisecond}, remote)
	mustFetch(t, s, "/")
	select {
	case err := <-drain(t, s, time.Hour):
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("an idle HTTP/2 connection keeps the server from stopping")
	}
}

func TestDrainClosesWhatIdlesAtItsCap(t *testing.T) {
	s := serve(t, http1, Options{}, remote)
	w := dial(t, s)
	w.do(t, "GET", "/")
	if err := <-drain(t, s, 100*time.Millisecond); err != nil {
		t.Error(err)
	}
	w.mustEnd(t)
}

func TestDrainLetsRequestsFinishAfterItsCap(t *testing.T) {
	release := make(chan struct{})
	var begun atomic.Bool
	s := serve(t, http1, Options{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		begun.Store(true)
		<-release
		_, _ = io.WriteString(w, "done")
	}))
	answer := make(chan string)
	go func() {
		body, err := fetch(t.Context(), s.client, http.MethodGet, s.URL, nil)
		if err != nil {
			t.Error(err)
		}
		answer <- string(body)
	}()
	eventually(t, "the request is being answered", begun.Load)
	done := drain(t, s, 10*time.Millisecond)
	time.Sleep(100 * time.Millisecond) // past the cap
	close(release)
	if got := <-answer; got != "done" {
		t.Errorf("got %q", got)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

package webhook

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/evenkeel/evenkeel/patches"
)

// TestAReviewEndsWithTheTimeoutOfItsCaller holds what becomes of ?timeout=: a deadline where a
// review could wait for longer than that, and none where it could not.
func TestAReviewEndsWithTheTimeoutOfItsCaller(t *testing.T) {
	for name, c := range map[string]struct {
		query string
		want  time.Duration // 0 for no deadline
	}{
		"no timeout":                            {"", 0},
		"the least that kube-apiserver says":    {"timeout=1s", 0},
		"the least that is longer than we wait": {"timeout=251ms", 0},
		"as long as we wait":                    {"timeout=250ms", 250 * time.Millisecond},
		"shorter than we wait":                  {"timeout=100ms", 100 * time.Millisecond},
		"beside other parameters":               {"dryRun=All&timeout=100ms", 100 * time.Millisecond},
		"before other parameters":               {"timeout=100ms&dryRun=All", 100 * time.Millisecond},
		"escaped":                               {"timeout=%31%300ms", 100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			ctx, cancel, _, err := deadline(httptest.NewRequest(http.MethodPost, "/mutate?"+c.query, nil))
			if err != nil {
				t.Fatal(err)
			}
			defer cancel()
			end, limited := ctx.Deadline()
			if limited != (c.want > 0) || limited && (end.Before(began.Add(c.want)) || end.After(time.Now().Add(c.want))) {
				t.Errorf("deadline %v after %v (set: %v), want %v", end.Sub(began), began, limited, c.want)
			}
		})
	}
}

// TestTheDeadlineOfTheCallerReachesTheNamespace holds that what may wait is given the deadline.
func TestTheDeadlineOfTheCallerReachesTheNamespace(t *testing.T) {
	injector, err := patches.New(patches.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	limited := false
	handler, err := Handler(Config{Injector: injector, Log: logrus.NewEntry(logger), Registerer: prometheus.NewRegistry(),
		Namespace: func(ctx context.Context, _ string) map[string]string {
			_, limited = ctx.Deadline()
			return nil
		},
		OptedOut: func(string, string, string) bool { return false },
		Services: func(string) *patches.Services { return nil },
		Cluster:  func() patches.Cluster { return patches.Cluster{} }})
	if err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]bool{"timeout=200ms": true, "timeout=10s": false} {
		status, body := post(handler, reviewOf(podJSON), func(r *http.Request) { r.URL.RawQuery = query })
		answered(t, status, body)
		if limited != want {
			t.Errorf("?%s: the Namespace is asked for with a deadline: %v, want %v", query, limited, want)
		}
	}
}

// TestLargeBuffersAreNotKept fills buffers of both sides of the bound. A pool may drop what it is
// given at any time, with the race detector on purpose, so it is asked often.
func TestLargeBuffersAreNotKept(t *testing.T) {
	var pool bodies
	again := 0
	for range 100 {
		small, large := bytes.NewBuffer(make([]byte, 0, maxKept)), bytes.NewBuffer(make([]byte, 0, maxKept+1))
		pool.put(large)
		if pool.take() == large {
			t.Fatalf("a buffer of %d bytes is kept", large.Cap())
		}
		small.WriteString("what was there before")
		pool.put(small)
		if got := pool.take(); got == small {
			again++
			if got.Len() > 0 {
				t.Fatalf("a buffer is used again with %q in it", got)
			}
		}
	}
	if again == 0 {
		t.Error("no buffer is used again")
	}
}

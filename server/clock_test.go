package server

import (
	"context"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"

	"github.com/evenkeel/evenkeel/patches"
)

func TestAClockThatIsWrongDoesNotLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, apiServer := &clock{}, time.Duration(0)
		transport := c.compare(roundTripper(func(*http.Request) (*http.Response, error) {
			date := time.Now().Add(apiServer).UTC().Format(http.TimeFormat)
			return &http.Response{Header: http.Header{"Date": {date}}}, nil
		}))
		logger := logrus.New()
		var lines strings.Builder
		logger.SetOutput(&lines)
		early, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		c.wait(early, logrus.NewEntry(logger))
		if early.Err() == nil {
			t.Error("it leads before the API server has answered")
		}
		ask := func(offset time.Duration) {
			apiServer = offset
			if _, err := transport.RoundTrip(&http.Request{}); err != nil {
				t.Fatal(err)
			}
		}
		for offset, want := range map[time.Duration]string{
			0: "", 23 * time.Hour: "", -23 * time.Hour: "",
			-40 * 24 * time.Hour: "960h0m0s ahead of the API server's", 25 * time.Hour: "25h0m0s behind the API server's",
		} {
			ask(offset)
			err := c.right()
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("the API server's clock is %s off: %v, want %q", offset, err, want)
			}
		}
		leaf := &x509.Certificate{NotBefore: time.Now().Add(-30 * 24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
		for offset, accepted := range map[time.Duration]bool{0: true, -29 * 24 * time.Hour: true, -31 * 24 * time.Hour: false,
			23 * time.Hour: true, 25 * time.Hour: false} {
			ask(offset)
			if err := c.accepts(leaf); (err == nil) != accepted {
				t.Errorf("the API server's clock is %s off: %v, want it accepted: %v", offset, err, accepted)
			}
		}
		ask(-40 * 24 * time.Hour)
		over := make(chan struct{})
		go func() { c.wait(t.Context(), logrus.NewEntry(logger)); close(over) }()
		time.Sleep(time.Minute)
		select {
		case <-over:
			t.Error("it leads with a clock that is 40 days ahead")
		default:
		}
		ask(0)
		<-over
		if n := strings.Count(lines.String(), "level=warning"); n != 1 {
			t.Errorf("%d warnings, want one:\n%s", n, lines.String())
		}
		logger.SetOutput(io.Discard)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		ask(-40 * 24 * time.Hour)
		c.wait(ended, logrus.NewEntry(logger)) // returns with its context
	})
}

// TestOnlyTheRightClockStandsForElection runs all of evenkeel against an API server that says nothing but what time
// it is.
func TestOnlyTheRightClockStandsForElection(t *testing.T) {
	for name, offset := range map[string]time.Duration{"right": 0, "40 days ahead": -40 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			var answers atomic.Int64
			stands := make(chan struct{}, 1000)
			api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.Path, "/leases") {
					stands <- struct{}{}
				}
				answers.Add(1)
				w.Header().Set("Date", time.Now().Add(offset).UTC().Format(http.TimeFormat))
				w.WriteHeader(http.StatusForbidden)
			}))
			t.Cleanup(api.Close)
			ctx, cancel := context.WithCancel(t.Context())
			over := make(chan error, 1)
			go func() {
				over <- Run(ctx, Config{Version: "v1", Policy: patches.DefaultConfig(), REST: &rest.Config{Host: api.URL},
					Namespace: "evenkeel-system", NamespaceSelector: labels.Everything(), Log: silentLog(),
					Listen: "127.0.0.1:0", MetricsListen: "127.0.0.1:0", DrainTimeout: time.Second, Budgets: true,
					ScanInterval: time.Minute,
					Authorities:  Authorities{Secret: "s", WebhookConfigurations: []string{"w"}, Service: "evenkeel"}})
			}()
			var stood bool
			select {
			case <-stands:
				stood = true
			case <-time.After(4 * time.Second): // forty looks at its clock
			}
			cancel()
			if err := <-over; err != nil {
				t.Error(err)
			}
			if stood != (offset == 0) || answers.Load() == 0 {
				t.Errorf("it stands for election: %v, after %d answers", stood, answers.Load())
			}
		})
	}
}

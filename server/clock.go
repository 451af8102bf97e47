package server

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/evenkeel/evenkeel/internal/pause"
)

// maxSkew is how far this replica's clock may be from the API server's for it to lead: the leader makes
// certificates, which begin 30 days before, and says when they end.
const maxSkew = 24 * time.Hour

// clock compares this replica's clock with the API server's, by the Date of its answers (RFC 9110,
// section 6.6.1).
type clock struct {
	answered atomic.Bool
	ahead    atomic.Int64 // of the latest answer with a Date, as a time.Duration
}

// compare returns a transport that looks at the answers of next.
func (c *clock) compare(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		response, err := next.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
			c.ahead.Store(int64(time.Since(date)))
		}
		c.answered.Store(true)
		return response, nil
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// right returns an error that says how far the clocks are apart where that is too far to lead.
func (c *clock) right() error {
	ahead := time.Duration(c.ahead.Load())
	if ahead.Abs() <= maxSkew {
		return nil
	}
	direction := "ahead of"
	if ahead < 0 {
		direction = "behind"
	}
	return fmt.Errorf("the clock of this replica is %s %s the API server's, so it does not lead; allowed: %s",
		ahead.Abs().Round(time.Minute), direction, maxSkew)
}

// accepts returns an error where the API server, by its own clock, does not accept a certificate yet, or
// no longer.
func (c *clock) accepts(certificate *x509.Certificate) error {
	theirs := time.Now().Add(-time.Duration(c.ahead.Load()))
	if theirs.Before(certificate.NotBefore) || theirs.After(certificate.NotAfter) {
		return fmt.Errorf("by the API server's clock, at %s, the serving certificate isn't valid: it is from %s to %s",
			theirs.UTC().Format(time.RFC3339), certificate.NotBefore.Format(time.RFC3339),
			certificate.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// wait returns when the API server has answered and the clocks are close enough to lead, or with ctx.
func (c *clock) wait(ctx context.Context, log *logrus.Entry) {
	warned := ""
	for ctx.Err() == nil {
		err := c.right()
		if err == nil && c.answered.Load() {
			return
		}
		if err != nil && err.Error() != warned {
			log.Warn(err)
			warned = err.Error()
		}
		pause.For(ctx, 100*time.Millisecond)
	}
}

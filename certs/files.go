package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
)

// filesPeriod is how often the files are read. They are small, and comparing
// bytes works on every file system, unlike notifications (a mounted Secret is a
// symlink that is swapped).
const filesPeriod = 5 * time.Second

// Files is a certificate and key in two PEM files, read again when they change.
type Files struct {
	certFile, keyFile string
	log               *logrus.Entry
	period            time.Duration

	pair            atomic.Pointer[tls.Certificate]
	certPEM, keyPEM []byte
	lastError       string
	expiryWarnedFor *tls.Certificate
	now             func() time.Time
}

// NewFiles returns the certificate of two PEM files. The files need not be there
// yet: Ready says so until they are.
func NewFiles(certFile, keyFile string, log *logrus.Entry) (*Files, error) {
	if certFile == "" || keyFile == "" {
		return nil, errors.New("certificate file and key file are both needed")
	}
	return &Files{certFile: certFile, keyFile: keyFile, log: log, period: filesPeriod, now: time.Now}, nil
}

// Run reads the files now and again until ctx ends. When a pair can't be read or
// does not fit together, as happens while it is being replaced, the old one stays.
func (f *Files) Run(ctx context.Context) { every(ctx, f.period, f.poll) }

// every does something now and then in intervals, until ctx ends.
func every(ctx context.Context, period time.Duration, do func()) {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		do()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// poll reads the files and logs what came of it, an error that lasts only once.
func (f *Files) poll() {
	changed, err := f.read()
	switch {
	case err != nil && err.Error() != f.lastError:
		f.log.WithError(err).Error("certificate not loaded")
		f.lastError = err.Error()
	case err == nil:
		f.lastError = ""
	}
	if pair := f.pair.Load(); changed {
		f.log.WithFields(logrus.Fields{"subject": pair.Leaf.Subject.String(), "notAfter": pair.Leaf.NotAfter}).Info(
			"certificate loaded")
	} else if pair != nil && f.now().After(pair.Leaf.NotAfter) && f.expiryWarnedFor != pair {
		f.log.WithField("notAfter", pair.Leaf.NotAfter).Error("certificate expired")
		f.expiryWarnedFor = pair
	}
}

// read loads the files and reports whether they hold a new pair.
func (f *Files) read() (changed bool, err error) {
	certPEM, err := os.ReadFile(f.certFile)
	if err != nil {
		return false, fmt.Errorf("read certificate: %w", err)
	}
	keyPEM, err := os.ReadFile(f.keyFile)
	if err != nil {
		return false, fmt.Errorf("read key: %w", err)
	}
	if bytes.Equal(certPEM, f.certPEM) && bytes.Equal(keyPEM, f.keyPEM) {
		return false, nil
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return false, fmt.Errorf("match certificate %s and key %s: %w", f.certFile, f.keyFile, err)
	}
	f.certPEM, f.keyPEM = certPEM, keyPEM
	f.pair.Store(&pair)
	return true, nil
}

// Register registers the metric of when the certificate ends.
func (f *Files) Register(registerer prometheus.Registerer) error {
	return registerExpiry(registerer, "evenkeel_certificate", "the serving certificate", 0, func() *x509.Certificate {
		if pair := f.pair.Load(); pair != nil {
			return pair.Leaf
		}
		return nil
	})
}

// Certificate is a tls.Config.GetCertificate.
func (f *Files) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if pair := f.pair.Load(); pair != nil {
		return pair, nil
	}
	return nil, errors.New("no certificate loaded yet")
}

// Ready returns an error that says why there is no certificate to serve with.
func (f *Files) Ready() error {
	pair := f.pair.Load()
	switch {
	case pair == nil:
		return fmt.Errorf("no certificate loaded yet from %s and %s", f.certFile, f.keyFile)
	case f.now().After(pair.Leaf.NotAfter):
		return fmt.Errorf("certificate expired at %s", pair.Leaf.NotAfter.Format(time.RFC3339))
	}
	return nil
}

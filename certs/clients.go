package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
)

// Clients decides which clients get an answer: those with a certificate that an
// authority in a PEM file has signed. The file is read again when it changes.
// kube-apiserver calls webhooks with the certificate that the kubeconfig file of its
// AdmissionConfiguration names, and with none otherwise.
type Clients struct {
	file  string
	names []string
	log   *logrus.Entry
	now   func() time.Time

	authorities atomic.Pointer[x509.CertPool]
	content     []byte
	lastError   string
}

// NewClients returns who is answered: clients that an authority in the file has signed
// a certificate for and, where names are given, that has one of these common names.
// The file need not be there yet: Ready says so until it is, and nobody is answered.
func NewClients(file string, names []string, log *logrus.Entry) (*Clients, error) {
	if file == "" {
		return nil, errors.New("a file with the clients' authorities is needed")
	}
	if slices.Contains(names, "") {
		return nil, errors.New("a client's name is empty; allowed: the common name of a certificate")
	}
	return &Clients{file: file, names: names, log: log, now: time.Now}, nil
}

// Run reads the file now and again until ctx ends. While it can't be read, or holds no
// certificate, what it held before stays in force.
func (c *Clients) Run(ctx context.Context) { every(ctx, filesPeriod, c.poll) }

func (c *Clients) poll() {
	changed, err := c.read()
	switch {
	case err != nil && err.Error() != c.lastError:
		c.log.WithError(err).Error("authorities of clients not loaded")
		c.lastError = err.Error()
	case err == nil:
		c.lastError = ""
	}
	if changed {
		c.log.WithField("file", c.file).Info("authorities of clients loaded")
	}
}

func (c *Clients) read() (changed bool, err error) {
	content, err := os.ReadFile(c.file)
	if err != nil {
		return false, fmt.Errorf("read authorities of clients: %w", err)
	}
	if bytes.Equal(content, c.content) {
		return false, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return false, fmt.Errorf("read authorities of clients: %s holds no certificate in PEM", c.file)
	}
	c.content = content
	c.authorities.Store(pool)
	return true, nil
}

// Ready returns an error that says why nobody can be answered.
func (c *Clients) Ready() error {
	if c.authorities.Load() == nil {
		return fmt.Errorf("no authorities of clients loaded yet from %s", c.file)
	}
	return nil
}

// Require makes a server ask for a certificate, and end each connection, resumed ones
// included, whose client has none that is good.
func (c *Clients) Require(config *tls.Config) {
	config.ClientAuth = tls.RequireAnyClientCert
	config.VerifyConnection = c.verify
}

func (c *Clients) verify(state tls.ConnectionState) error {
	authorities := c.authorities.Load()
	if authorities == nil {
		return errors.New("no authorities of clients loaded yet")
	}
	intermediates := x509.NewCertPool()
	for _, certificate := range state.PeerCertificates[1:] {
		intermediates.AddCert(certificate)
	}
	client := state.PeerCertificates[0]
	if _, err := client.Verify(x509.VerifyOptions{Roots: authorities, Intermediates: intermediates, CurrentTime: c.now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return fmt.Errorf("verify client: %w", err)
	}
	if name := client.Subject.CommonName; len(c.names) > 0 && !slices.Contains(c.names, name) {
		return fmt.Errorf("verify client: the name %.100q is not allowed; allowed: %s", name, strings.Join(c.names, ", "))
	}
	return nil
}

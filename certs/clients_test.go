package certs

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/evenkeel/evenkeel/internal/keypair"
)

// signer signs certificates.
type signer struct{ *keypair.Pair }

func newSigner(t *testing.T, name string) signer {
	t.Helper()
	pair, err := keypair.New(&x509.Certificate{Subject: pkix.Name{CommonName: name},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return signer{pair}
}

func (a signer) client(t *testing.T, name string, change ...func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: name},
		NotAfter:    time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, f := range change {
		f(template)
	}
	pair, err := keypair.New(template, a.Pair)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pair.TLS()
	return &certificate
}

func TestOnlyKnownClientsAreAnswered(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "ca.crt")
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	clients, err := NewClients(file, []string{"apiserver", "apiserver-2"}, logrus.NewEntry(logger))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
	clients.Require(server.TLS)
	server.StartTLS()
	t.Cleanup(server.Close)

	old, next, stranger := newSigner(t, "old"), newSigner(t, "next"), newSigner(t, "stranger")
	good := old.client(t, "apiserver")
	sessions := map[*tls.Certificate]tls.ClientSessionCache{}
	answered := func(certificate *tls.Certificate) bool {
		if sessions[certificate] == nil {
			sessions[certificate] = tls.NewLRUClientSessionCache(1)
		}
		// Insecure, since it is about the other side.
		config := &tls.Config{InsecureSkipVerify: true, ClientSessionCache: sessions[certificate]}
		if certificate != nil {
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		defer client.CloseIdleConnections()
		response, err := client.Get(server.URL)
		if err != nil {
			return false
		}
		return response.Body.Close() == nil
	}

	if clients.Ready() == nil || answered(good) {
		t.Error("somebody is answered before there is an authority")
	}
	put(t, dir, "ca.crt", []byte("no certificate"))
	clients.poll()
	if clients.Ready() == nil {
		t.Error("a file without a certificate will do")
	}
	put(t, dir, "ca.crt", old.CertificatePEM())
	clients.poll()
	if err := clients.Ready(); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		certificate *tls.Certificate
		want        bool
	}{
		"good":                      {good, true},
		"good, with the other name": {old.client(t, "apiserver-2"), true},
		"none":                      {nil, false},
		"another's":                 {stranger.client(t, "apiserver"), false},
		"another name":              {old.client(t, "kubelet"), false},
		"expired": {old.client(t, "apiserver",
			func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), false},
		"for servers only": {old.client(t, "apiserver", func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}), false},
	} {
		if got := answered(c.certificate); got != c.want {
			t.Errorf("%s: answered: %v, want %v", name, got, c.want)
		}
	}

	put(t, dir, "ca.crt", []byte("half of a certi"))
	clients.poll()
	if !answered(good) {
		t.Error("a broken file took the old authorities away")
	}
	put(t, dir, "ca.crt", next.CertificatePEM())
	clients.poll()
	if answered(good) { // it has a session to resume
		t.Error("a client of an authority that is gone is answered, since its session is resumed")
	}
	if !answered(next.client(t, "apiserver")) {
		t.Error("a client of the new authority is not answered")
	}
}

func TestClientsWithoutAFileOrNameAreRefused(t *testing.T) {
	for _, names := range [][]string{nil, {""}} {
		file := ""
		if names != nil {
			file = "ca.crt"
		}
		if _, err := NewClients(file, names, nil); err == nil {
			t.Errorf("file %q and names %q will do", file, names)
		}
	}
}

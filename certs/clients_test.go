package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

// signer signs certificates.
type signer struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newSigner(t *testing.T, name string) signer {
	t.Helper()
	a := signer{}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	pair := a.sign(t, template)
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatal("no ECDSA key")
	}
	return signer{pair.Leaf, key}
}

func (a signer) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

// sign returns a certificate with a key of its own, of the authority or, where that has none yet, of itself.
func (a signer) sign(t *testing.T, template *x509.Certificate) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, by := a.certificate, a.key
	if parent == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func (a signer) client(t *testing.T, name string, change ...func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		NotAfter:    time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, f := range change {
		f(template)
	}
	return a.sign(t, template)
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
	put(t, dir, "ca.crt", old.pem())
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
	put(t, dir, "ca.crt", next.pem())
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

package certs

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/evenkeel/evenkeel/internal/keypair"
)

// write writes a new self-signed pair for name into dir.
func write(t *testing.T, dir, name string, notAfter time.Time) {
	t.Helper()
	pair, err := keypair.New(&x509.Certificate{Subject: pkix.Name{CommonName: name}, NotAfter: notAfter}, nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pair.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, "tls.crt", pair.CertificatePEM())
	put(t, dir, "tls.key", key)
}

func put(t *testing.T, dir, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func newFiles(t *testing.T, dir string) *Files {
	t.Helper()
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	f, err := NewFiles(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), logrus.NewEntry(logger))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// serves returns the name in the certificate that is served now, or "".
func serves(f *Files) string {
	pair, err := f.Certificate(nil)
	if err != nil {
		return ""
	}
	return pair.Leaf.Subject.CommonName
}

func TestServesTheNewPairAfterItChanged(t *testing.T) {
	dir, later := t.TempDir(), time.Now().Add(time.Hour)
	f := newFiles(t, dir)
	f.poll()
	if f.Ready() == nil || serves(f) != "" {
		t.Error("ready without a certificate")
	}
	write(t, dir, "first", later)
	f.poll()
	if err := f.Ready(); err != nil || serves(f) != "first" {
		t.Errorf("serves %q, ready: %v; want the first pair", serves(f), err)
	}
	write(t, dir, "second", later)
	f.poll()
	if serves(f) != "second" {
		t.Errorf("serves %q, want the second pair", serves(f))
	}
}

func TestTheOldPairStaysWhileTheFilesAreUnusable(t *testing.T) {
	later := time.Now().Add(time.Hour)
	for name, spoil := range map[string]func(t *testing.T, dir string){
		"the certificate is gone":  func(t *testing.T, dir string) { remove(t, dir, "tls.crt") },
		"the key is gone":          func(t *testing.T, dir string) { remove(t, dir, "tls.key") },
		"the certificate is empty": func(t *testing.T, dir string) { put(t, dir, "tls.crt", nil) },
		"the certificate is half": func(t *testing.T, dir string) {
			put(t, dir, "tls.crt", []byte("-----BEGIN CERTIFICATE-----\nMIIB"))
		},
		"the key belongs to another one": func(t *testing.T, dir string) {
			other := t.TempDir()
			write(t, other, "other", later)
			key, err := os.ReadFile(filepath.Join(other, "tls.key"))
			if err != nil {
				t.Fatal(err)
			}
			put(t, dir, "tls.key", key)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "first", later)
			f := newFiles(t, dir)
			f.poll()
			spoil(t, dir)
			f.poll()
			if err := f.Ready(); err != nil || serves(f) != "first" {
				t.Errorf("serves %q, ready: %v; want the first pair still", serves(f), err)
			}
			write(t, dir, "mended", later)
			f.poll()
			if serves(f) != "mended" {
				t.Errorf("serves %q, want the mended pair", serves(f))
			}
		})
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func TestIsNotReadyWithAnExpiredCertificate(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "first", time.Now().Add(time.Hour))
	f := newFiles(t, dir)
	f.poll()
	f.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	if f.Ready() == nil {
		t.Error("ready with a certificate that expired an hour ago")
	}
}

func TestNeedsBothFiles(t *testing.T) {
	if _, err := NewFiles("tls.crt", "", nil); err == nil {
		t.Error("no error without a key file")
	}
}

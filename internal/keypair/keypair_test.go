package keypair

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"
)

func TestAPairIsSignedByTheOther(t *testing.T) {
	end := time.Now().Add(time.Hour)
	authority, err := New(&x509.Certificate{NotAfter: end, IsCA: true, BasicConstraintsValid: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := New(&x509.Certificate{NotAfter: end, DNSNames: []string{"example.com"}}, authority)
	if err != nil {
		t.Fatal(err)
	}
	key, err := pair.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(pair.CertificatePEM(), key); err != nil {
		t.Errorf("certificate and key don't fit: %v", err)
	}
	known, strange := x509.NewCertPool(), x509.NewCertPool()
	known.AddCert(authority.Leaf)
	strange.AddCert(pair.Leaf)
	if _, err := pair.TLS().Leaf.Verify(x509.VerifyOptions{DNSName: "example.com", Roots: known}); err != nil {
		t.Errorf("not signed by the authority: %v", err)
	}
	if _, err := authority.Leaf.Verify(x509.VerifyOptions{Roots: strange}); err == nil {
		t.Error("an authority that signed itself is trusted by another")
	}
}

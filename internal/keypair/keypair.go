// Package keypair makes keys and certificates.
package keypair

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
)

// A Pair is a certificate and its private key.
type Pair struct {
	Leaf *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// New makes a key and a certificate of that template for it, signed by another pair, or by itself
// where that is nil. A certificate without a serial number gets one.
func New(template *x509.Certificate, by *Pair) (*Pair, error) {
	// P-256 is quick to sign with: kube-apiserver resumes no TLS session.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	if template.SerialNumber == nil {
		template.SerialNumber = big.NewInt(1)
	}
	if by == nil {
		by = &Pair{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.Leaf, key.Public(), by.Key)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read own certificate: %w", err)
	}
	return &Pair{leaf, key}, nil
}

// TLS returns the pair as servers and clients take it.
func (p *Pair) TLS() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{p.Leaf.Raw}, PrivateKey: p.Key, Leaf: p.Leaf}
}

// CertificatePEM returns the certificate as a PEM block.
func (p *Pair) CertificatePEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Leaf.Raw})
}

// KeyPEM returns the private key as a PEM block.
func (p *Pair) KeyPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(p.Key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/evenkeel/evenkeel/internal/keypair"
)

// backdate is how long before its making a certificate begins to be valid, so that a clock that is
// ahead doesn't matter: an authority or certificate that its maker's clock puts into the future would
// be refused by the API server until then, of all replicas, while its maker counts as ready. What it
// may sign for, and when it ends, stays the same.
const backdate = 30 * 24 * time.Hour

// maxAuthorities bounds the Secret and the bundle. A rotation needs two.
const maxAuthorities = 4

// fingerprint tells authorities apart.
type fingerprint [sha256.Size]byte

// authority is a certificate authority. Without a key it is only trusted.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (a authority) id() fingerprint { return sha256.Sum256(a.cert.Raw) }

// made returns when an authority was made, by the clock of its maker.
func (a authority) made() time.Time { return a.cert.NotBefore.Add(backdate) }

// valid reports whether certificates of this authority can be verified now.
func (a authority) valid(now time.Time) bool {
	return !now.Before(a.cert.NotBefore) && now.Before(a.cert.NotAfter)
}

// usable reports whether the authority can sign now.
func (a authority) usable(now time.Time) bool { return a.key != nil && a.valid(now) }

// authorityName is the subject of every authority for a host.
func authorityName(host string) string { return "evenkeel CA for " + host }

// newAuthority makes an authority that may sign for host and for nothing else.
func newAuthority(host string, now time.Time, lifetime time.Duration) (authority, error) {
	serial, err := serialNumber()
	if err != nil {
		return authority{}, fmt.Errorf("make authority: %w", err)
	}
	pair, err := keypair.New(&x509.Certificate{
		SerialNumber:                serial,
		Subject:                     pkix.Name{CommonName: authorityName(host)},
		NotBefore:                   now.Add(-backdate),
		NotAfter:                    ceil(now.Add(lifetime)),
		IsCA:                        true,
		BasicConstraintsValid:       true,
		MaxPathLenZero:              true,
		KeyUsage:                    x509.KeyUsageCertSign,
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         []string{host},
	}, nil)
	if err != nil {
		return authority{}, fmt.Errorf("make authority: %w", err)
	}
	return authority{cert: pair.Leaf, key: pair.Key}, nil
}

// sign makes a serving certificate for host, whose key exists nowhere else. It ends
// with the authority at the latest.
func (a authority) sign(host string, now time.Time, lifetime time.Duration) (*tls.Certificate, error) {
	serial, err := serialNumber()
	if err != nil {
		return nil, fmt.Errorf("make serving certificate: %w", err)
	}
	notAfter := ceil(now.Add(lifetime))
	if a.cert.NotAfter.Before(notAfter) {
		notAfter = a.cert.NotAfter
	}
	pair, err := keypair.New(&x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: commonName(host)},
		DNSNames:     []string{host},
		NotBefore:    now.Add(-backdate),
		NotAfter:     notAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, &keypair.Pair{Leaf: a.cert, Key: a.key})
	if err != nil {
		return nil, fmt.Errorf("make serving certificate: %w", err)
	}
	certificate := pair.TLS()
	return &certificate, nil
}

// commonName returns the host where X.509 has room for it.
func commonName(host string) string {
	if len(host) > 64 {
		return "evenkeel"
	}
	return host
}

// ceil rounds up to the whole second, which is what X.509 can say.
func ceil(t time.Time) time.Time { return t.Add(time.Second - 1).Truncate(time.Second) }

func serialNumber() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

const (
	certificateBlock = "CERTIFICATE"
	keyBlock         = "PRIVATE KEY"
)

// encode writes authorities as PEM: each certificate, followed by its key.
func encode(authorities []authority) ([]byte, error) {
	var out bytes.Buffer
	for _, a := range authorities {
		_ = pem.Encode(&out, &pem.Block{Type: certificateBlock, Bytes: a.cert.Raw}) // a buffer takes everything
		if a.key == nil {
			continue
		}
		der, err := x509.MarshalPKCS8PrivateKey(a.key)
		if err != nil {
			return nil, fmt.Errorf("encode authority: %w", err)
		}
		_ = pem.Encode(&out, &pem.Block{Type: keyBlock, Bytes: der})
	}
	return out.Bytes(), nil
}

// bundle returns the certificates alone, as the API server takes them.
func bundle(authorities []authority) []byte {
	var out bytes.Buffer
	for _, a := range authorities {
		_ = pem.Encode(&out, &pem.Block{Type: certificateBlock, Bytes: a.cert.Raw})
	}
	return out.Bytes()
}

// decode reads what encode or bundle wrote, newest first. What is no authority of
// ours for host is left out, and the error says why; the rest is good all the same.
func decode(content []byte, host string) (authorities []authority, err error) {
	var problems []error
	seen := map[fingerprint]bool{}
	open := false // the last certificate may get a key
	for len(content) > 0 {
		var block *pem.Block
		if block, content = pem.Decode(content); block == nil {
			problems = append(problems, errors.New("something that is not PEM"))
			break
		}
		switch block.Type {
		case certificateBlock:
			a := authority{}
			if a.cert, err = x509.ParseCertificate(block.Bytes); err == nil {
				err = ours(a.cert, host)
			}
			open = err == nil
			if err != nil {
				problems = append(problems, err)
			} else if !seen[a.id()] {
				seen[a.id()] = true
				authorities = append(authorities, a)
			} else {
				open = false
			}
		case keyBlock:
			if !open {
				continue
			}
			open = false
			last := &authorities[len(authorities)-1]
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				problems = append(problems, err)
				continue
			}
			own, ok := key.(*ecdsa.PrivateKey)
			if !ok || !own.PublicKey.Equal(last.cert.PublicKey) {
				problems = append(problems, errors.New("a key that does not fit its certificate"))
				continue
			}
			last.key = own
		default:
			problems = append(problems, errors.New("a PEM block that is neither certificate nor key"))
		}
	}
	newestFirst(authorities)
	return authorities, errors.Join(problems...)
}

// ours returns an error that says why a certificate is no authority that evenkeel
// made for host.
func ours(cert *x509.Certificate, host string) error {
	switch {
	case cert.Subject.CommonName != authorityName(host):
		return errors.New("a certificate of somebody else")
	case !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 || !slices.Equal(cert.PermittedDNSDomains, []string{host}):
		return errors.New("a certificate that may not sign for " + host)
	case cert.CheckSignatureFrom(cert) != nil:
		return errors.New("a certificate that is not its own issuer")
	}
	return nil
}

// newestFirst sorts by the time of making. What was made in the same second has
// some order, the same for everybody.
func newestFirst(authorities []authority) {
	slices.SortFunc(authorities, func(a, b authority) int {
		if c := b.cert.NotBefore.Compare(a.cert.NotBefore); c != 0 {
			return c
		}
		return bytes.Compare(a.cert.Raw, b.cert.Raw)
	})
}

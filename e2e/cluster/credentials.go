package cluster

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/evenkeel/evenkeel/internal/keypair"
)

// admin is the name of the user who may do everything.
const admin = "admin"

// writeCredentials writes the key pair of service accounts, a certificate authority (ca.crt,
// ca.key), the API server's certificate (server.crt, server.key), which is for address too if there
// is one, and its token file, and returns each user's token. The components are the users that
// RBAC's bootstrap roles are made for; kwok is an administrator.
func writeCredentials(dir, address string) (map[string]string, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("make service account key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("encode service account key: %w", err)
	}
	authority, server, err := makeCertificates(address)
	if err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	authorityKey, err1 := authority.KeyPEM()
	serverKey, err2 := server.KeyPEM()
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	users := map[string]string{}
	var tokens strings.Builder
	for _, user := range []struct{ name, username, group string }{
		{admin, "kubernetes-admin", "system:masters"},
		{Kwok, "kwok-controller", "system:masters"},
		{ControllerManager, "system:kube-controller-manager", ""},
		{Scheduler, "system:kube-scheduler", ""},
	} {
		users[user.name] = rand.Text()
		fmt.Fprintf(&tokens, "%s,%s,%s,%q\n", users[user.name], user.username, user.name, user.group)
	}
	for name, content := range map[string][]byte{
		"ca.crt":     authority.CertificatePEM(),
		"ca.key":     authorityKey,
		"server.crt": server.CertificatePEM(),
		"server.key": serverKey,
		"sa.key":     pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		"sa.pub":     pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
		"tokens.csv": []byte(tokens.String()),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return nil, fmt.Errorf("write credentials: %w", err)
		}
	}
	return users, nil
}

// makeCertificates makes a certificate authority and a certificate of the API server by it, valid for a day.
func makeCertificates(address string) (authority, server *keypair.Pair, err error) {
	from, to := time.Now().Add(-time.Minute), time.Now().Add(24*time.Hour)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "kube-apiserver"}, NotBefore: from, NotAfter: to,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc.cluster.local"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 96, 0, 1)}, // the second is the Service "kubernetes"
	}
	if ip := net.ParseIP(address); ip != nil {
		leaf.IPAddresses = append(leaf.IPAddresses, ip)
	} else if address != "" {
		return nil, nil, fmt.Errorf("address %q: not an IP address", address)
	}
	authority, err = keypair.New(&x509.Certificate{
		Subject: pkix.Name{CommonName: "evenkeel-test"}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}, nil)
	if err != nil {
		return nil, nil, err
	}
	server, err = keypair.New(leaf, authority)
	return authority, server, err
}

// kubeconfig returns the path of a user's kubeconfig file.
func (c *Cluster) kubeconfig(user string) string { return c.path(user + ".kubeconfig") }

func (c *Cluster) writeKubeconfig(user, server, token string) error {
	config := clientcmdapi.NewConfig()
	config.Clusters["evenkeel"] = &clientcmdapi.Cluster{Server: server, CertificateAuthority: c.CAFile}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts["evenkeel"] = &clientcmdapi.Context{Cluster: "evenkeel", AuthInfo: user}
	config.CurrentContext = "evenkeel"
	if err := clientcmd.WriteToFile(*config, c.kubeconfig(user)); err != nil {
		return fmt.Errorf("write kubeconfig of %s: %w", user, err)
	}
	return nil
}

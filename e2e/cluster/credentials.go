package cluster

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// admin is the name of the user who may do everything.
const admin = "admin"

// writeCredentials writes the key pair of service accounts and the token file of the API server, and returns each
// user's token. The components are the users that RBAC's bootstrap roles are made for; kwok is an administrator.
func writeCredentials(dir string) (map[string]string, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("make service account key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("encode service account key: %w", err)
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

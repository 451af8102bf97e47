package abuse

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

// TestOnlyTheAPIServerIsAnswered gives the API server a client certificate, and evenkeel the authority that signed it.
func TestOnlyTheAPIServerIsAnswered(t *testing.T) {
	ctx := t.Context()
	if os.Getenv("KUBECONFIG") != "" {
		t.Skip("KUBECONFIG names an existing cluster, whose API server can't be given a certificate")
	}
	dir, strange := t.TempDir(), t.TempDir()
	ca, err := installation.WriteCertificate(dir, "kube-apiserver", time.Hour)
	check.Must(t, err)
	_, err = installation.WriteCertificate(strange, "kube-apiserver", time.Hour)
	check.Must(t, err)
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		check.Must(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	kubeconfig := file("webhooks.kubeconfig", fmt.Sprintf(`
apiVersion: v1
kind: Config
users: [{name: "*", user: {client-certificate: %q, client-key: %q}}]`,
		filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")))
	c, err := cluster.Start(ctx, cluster.Config{Log: os.Stderr, Components: []string{},
		Flags: map[string][]string{cluster.APIServer: {
			"--admission-control-config-file=" + file("admission.yaml", fmt.Sprintf(`
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
  - name: MutatingAdmissionWebhook
    configuration: {apiVersion: apiserver.config.k8s.io/v1, kind: WebhookAdmissionConfiguration, kubeConfigFile: %q}`,
				kubeconfig))}}})
	check.Must(t, err)
	t.Cleanup(func() { check.Must(t, c.Stop()) })
	evenkeel, err := installation.Prepare(ctx, c, installation.Options{Flags: []string{"--client-ca-file=" +
		file("ca.crt", string(ca))}})
	check.Must(t, err)
	t.Cleanup(evenkeel.Stop)
	check.Must(t, evenkeel.Register(ctx))
	namespace, err := c.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "shop-", Labels: map[string]string{"evenkeel.dev/inject": "enabled"}}}, metav1.CreateOptions{})
	check.Must(t, err)

	check.Must(t, evenkeel.Start(ctx, "--client-name=kube-apiserver"))
	check.Eventually(t, "the API server is answered", func() error {
		injected, err := create(ctx, c, namespace.Name)
		check.Must(t, err)
		if !injected {
			return errors.New("a Deployment without defaults")
		}
		return nil
	})
	pair := func(dir string) *tls.Certificate {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
		check.Must(t, err)
		return &pair
	}
	for name, client := range map[string]struct {
		certificate *tls.Certificate
		answered    bool
	}{
		"the API server's certificate":    {pair(dir), true},
		"no certificate":                  {&tls.Certificate{}, false},
		"one of somebody else, same name": {pair(strange), false},
	} {
		// Insecure, since it is about the client's side.
		transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return client.certificate, nil
			}}}
		response, err := (&http.Client{Transport: transport}).Post("https://"+evenkeel.Address+"/mutate", "application/json",
			strings.NewReader(review("{}")))
		if err == nil {
			check.Must(t, response.Body.Close())
		}
		if answered := err == nil; answered != client.answered {
			t.Errorf("with %s: answered: %v (%v), want %v", name, answered, err, client.answered)
		}
		transport.CloseIdleConnections()
	}

	// The control: under another name the API server itself is a stranger.
	evenkeel.Stop()
	check.Must(t, evenkeel.Start(ctx, "--client-name=somebody-else"))
	if injected, err := create(ctx, c, namespace.Name); err != nil || injected {
		t.Errorf("error %v, injected: %v; want a Deployment without defaults", err, injected)
	}
}

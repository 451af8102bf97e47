package admission

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

// fake is a webhook that answers whatever a test wants.
type fake struct {
	server  *httptest.Server
	service string
	ca      []byte
}

// review is a request to a fake.
type review struct {
	uid    string
	object []byte
}

// answer returns an AdmissionReview that allows the request with a patch.
func (r review) answer(patch string) string {
	return fmt.Sprintf(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":%q,`+
		`"allowed":true,"patchType":"JSONPatch","patch":%q}}`,
		r.uid, base64.StdEncoding.EncodeToString([]byte(patch)))
}

// startFake starts a webhook whose answers are what respond returns.
func startFake(t *testing.T, respond func(review) string) *fake {
	return startHandler(t, 24*time.Hour, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.Request == nil {
			http.Error(w, "no review", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, respond(review{string(body.Request.UID), body.Request.Object.Raw}))
	}))
}

func startHandler(t *testing.T, lifetime time.Duration, handler http.Handler) *fake {
	t.Helper()
	dir := t.TempDir()
	service := "fake-" + strings.ToLower(rand.Text()[:8])
	ca, err := installation.WriteCertificate(dir, installation.Host(service), lifetime)
	check.Must(t, err)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	check.Must(t, err)
	f := &fake{server: httptest.NewUnstartedServer(handler), service: service, ca: ca}
	f.server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	f.server.StartTLS()
	t.Cleanup(func() {
		f.server.CloseClientConnections()
		f.server.Close()
	})
	return f
}

// register lets the API server call the fake as it calls evenkeel, in a configuration and a Service of its own, until
// the test ends. When it returns, the API server has called it.
func (f *fake) register(t *testing.T, name string, change func(*admissionregistrationv1.MutatingWebhookConfiguration)) {
	t.Helper()
	ctx := t.Context()
	configuration, err := installation.Configuration(ctx, shared.Cluster)
	check.Must(t, err)
	configuration.Name = name
	for w := range configuration.Webhooks {
		// so that metrics tell it from evenkeel
		configuration.Webhooks[w].Name = f.service + "." + configuration.Webhooks[w].Name
	}
	change(configuration)
	check.Must(t, installation.Register(ctx, shared.Cluster, configuration,
		installation.Target{Service: f.service, Address: f.server.Listener.Addr().String(), CA: f.ca}))
	t.Cleanup(func() {
		check.Must(t, shared.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(context.Background(),
			name, metav1.DeleteOptions{}))
	})
	namespace := optedIn(t, nil)
	check.Eventually(t, "the API server calls the fake", func() error {
		_, err := shared.Client.AppsV1().Deployments(namespace).Create(ctx, deployment("web", 0),
			metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if f.calls(t) == 0 {
			return fmt.Errorf("it has not, and the request got: %w", errors.Join(err, errors.New("no answer of the fake")))
		}
		return nil
	})
}

// calls returns how often the API server has called the fake, whatever came of it.
func (f *fake) calls(t *testing.T) float64 {
	t.Helper()
	return samples(t, "apiserver_admission_webhook_request_total", `name="`+f.service+".")
}

package cluster_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/internal/keypair"
)

// testWebhookService has the API server call a webhook of this process by the name of a Service.
func testWebhookService(t *testing.T, c *cluster.Cluster) {
	ctx := t.Context()
	pair, ca := servingCertificate(t, "hook.webhooks.svc")
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int32
	server := &http.Server{
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{pair}},
		ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var review admissionv1.AdmissionReview
			if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Request == nil {
				http.Error(w, "no review", http.StatusBadRequest)
				return
			}
			calls.Add(1)
			review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
			_ = json.NewEncoder(w).Encode(review) // the API server would see it
		}),
	}
	go func() { _ = server.ServeTLS(listener, "", "") }() // ends with Close
	defer server.Close()

	number := int32(port(listener))
	for range 2 { // the second call replaces the Service
		if err := c.WebhookService(ctx, "webhooks", "hook", int(number)); err != nil {
			t.Fatal(err)
		}
	}
	fail, none := admissionregistrationv1.Fail, admissionregistrationv1.SideEffectClassNone
	configurations := c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	_, err = configurations.Create(ctx, &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "hook"},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name: "hook.example.com",
			ClientConfig: admissionregistrationv1.WebhookClientConfig{
				Service:  &admissionregistrationv1.ServiceReference{Namespace: "webhooks", Name: "hook", Port: &number},
				CABundle: ca,
			},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule: admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"},
					Resources: []string{"configmaps"}},
			}},
			NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: "webhooks"}},
			FailurePolicy:           &fail,
			SideEffects:             &none,
			AdmissionReviewVersions: []string{"v1"},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := configurations.Delete(ctx, "hook", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}()
	// No failure once the API server has heard of the webhook.
	check.Eventually(t, "the webhook is called", func() error {
		_, err := c.Client.CoreV1().ConfigMaps("webhooks").Create(ctx,
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "probe-"}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatalf("create an object that the webhook sees: %v", err)
		}
		if calls.Load() == 0 {
			return errors.New("the webhook wasn't called")
		}
		return nil
	})
}

// servingCertificate makes a self-signed certificate for one name, and returns it also in PEM.
func servingCertificate(t *testing.T, name string) (tls.Certificate, []byte) {
	pair, err := keypair.New(&x509.Certificate{
		DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return pair.TLS(), pair.CertificatePEM()
}

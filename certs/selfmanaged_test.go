package certs

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// exported returns the value of the only series of a metric whose labels have all of these values.
func exported(t *testing.T, registry *prometheus.Registry, name string, values ...string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			matching := 0
			for _, l := range m.GetLabel() {
				for _, v := range values {
					if l.GetValue() == v {
						matching++
					}
				}
			}
			if f.GetName() == name && matching == len(values) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("there is no metric %s with %v", name, values)
	return 0
}

func newSelfManaged(t *testing.T, api http.HandlerFunc) (*SelfManaged, *prometheus.Registry) {
	t.Helper()
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	registry := prometheus.NewRegistry()
	client := kubernetes.NewForConfigOrDie(
		&rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
	s, err := NewSelfManaged(
		SelfManagedConfig{Client: client, Namespace: "n", Secret: "s", WebhookConfigurations: []string{"w"}, Host: "a.b.svc",
			Lifetimes: Lifetimes{Leaf: time.Hour}, Log: logrus.NewEntry(logrus.New()), Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	return s, registry
}

// An alert compares what is left with the whole lifetime, of which what lies before a certificate's making is no part.
func TestMetricsSayWhenCertificateAndAuthorityWereMadeAndEnd(t *testing.T) {
	s, registry := newSelfManaged(t, http.NotFound)
	now := time.Now().Truncate(time.Second)
	s.now = func() time.Time { return now.Add(24 * time.Hour) }
	if n := exported(t, registry, "evenkeel_certificate_authority_expiry_timestamp_seconds"); n != 0 {
		t.Errorf("without an authority one ends at %v", n)
	}
	a, err := newAuthority("a.b.svc", now, 90*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	content, err := encode([]authority{a})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.replica.observe(0, content, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Certificate(nil); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]time.Time{
		"evenkeel_certificate_start_timestamp_seconds":            now.Add(24 * time.Hour),
		"evenkeel_certificate_expiry_timestamp_seconds":           now.Add(25 * time.Hour),
		"evenkeel_certificate_authority_start_timestamp_seconds":  now,
		"evenkeel_certificate_authority_expiry_timestamp_seconds": now.Add(90 * 24 * time.Hour),
	} {
		if got := exported(t, registry, name); got != float64(want.Unix()) {
			t.Errorf("%s: %v, want %v", name, got, want.Unix())
		}
	}
}

func TestWhatKeepsAnAuthorityFromBeingWrittenIsCounted(t *testing.T) {
	for object, denied := range map[string]string{"bundle": "/mutatingwebhookconfigurations/", "secret": "/secrets/"} {
		s, registry := newSelfManaged(t, func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, denied) {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(`{"apiVersion":"admissionregistration.k8s.io/v1","kind":"MutatingWebhookConfiguration"}`))
		})
		if _, err := s.step(t.Context()); err == nil {
			t.Errorf("%s: no error", object)
		}
		if n := exported(t, registry, "evenkeel_certificate_writes_total", object, "error"); n != 1 {
			t.Errorf("%s: %v errors are counted, want 1", object, n)
		}
	}
}

// An upgrade brings a configuration that the leader, of the version before, writes no bundle to: a new
// replica is ready all the same.
func TestABundleThatIsYetToBeWrittenCountsInTheFirstConfigurationAlone(t *testing.T) {
	configuration := &admissionregistrationv1.MutatingWebhookConfiguration{
		Webhooks: make([]admissionregistrationv1.MutatingWebhook, 2)}
	configuration.Webhooks[0].ClientConfig.CABundle = []byte("a")
	if n := len(appendBundles(nil, 0, configuration)); n != 2 {
		t.Errorf("%d bundles of the first configuration count, want 2", n)
	}
	if n := len(appendBundles(nil, 1, configuration)); n != 1 {
		t.Errorf("%d bundles of another configuration count, want 1", n)
	}
}

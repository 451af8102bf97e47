package admission

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

// TestAReviewIsPartOfTheAPIServersTrace has an API server that traces everything, and whose own collector isn't there.
func TestAReviewIsPartOfTheAPIServersTrace(t *testing.T) {
	ctx := t.Context()
	ours(t) // an existing cluster's API server can't be told to trace
	spans := make(chan *tracepb.Span, 1000)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var data tracepb.TracesData
		body, err := io.ReadAll(r.Body)
		if err = errors.Join(err, proto.Unmarshal(body, &data)); err != nil {
			t.Errorf("what was sent is no OTLP: %v", err)
		}
		for _, batch := range data.GetResourceSpans() {
			for _, scope := range batch.GetScopeSpans() {
				for _, span := range scope.GetSpans() {
					spans <- span
				}
			}
		}
	}))
	defer collector.Close()
	config := filepath.Join(t.TempDir(), "tracing.yaml")
	check.Must(t, os.WriteFile(config, []byte("apiVersion: apiserver.config.k8s.io/v1beta1\nkind: TracingConfiguration\n"+
		"endpoint: 127.0.0.1:1\nsamplingRatePerMillion: 1000000\n"), 0o600))
	c, err := cluster.Start(ctx, cluster.Config{Log: os.Stderr, Components: []string{}, APIServerVersion: *apiServer,
		Flags: map[string][]string{cluster.APIServer: {"--tracing-config-file=" + config}}})
	check.Must(t, err)
	t.Cleanup(func() { check.Must(t, c.Stop()) })
	evenkeel, err := installation.Install(ctx, c, installation.Options{Program: shared.program,
		Wrapper: []string{"env", "OTEL_EXPORTER_OTLP_ENDPOINT=" + collector.URL}})
	check.Must(t, err)
	namespace, err := c.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "shop-", Labels: map[string]string{"evenkeel.dev/inject": "enabled"}}}, metav1.CreateOptions{})
	check.Must(t, err)
	check.Eventually(t, "a Deployment gets its defaults", func() error {
		d, err := c.Client.AppsV1().Deployments(namespace.Name).Create(ctx, deployment("web", 2),
			metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		check.Must(t, err)
		if lacks := missing(d.ObjectMeta, d.Spec.Template.Spec); lacks == everything {
			return errors.New("it lacks " + lacks)
		}
		return nil
	})
	evenkeel.Stop() // which sends what is left
	close(spans)
	for span := range spans {
		facts := map[string]string{}
		for _, a := range span.GetAttributes() {
			facts[a.GetKey()] = a.GetValue().GetStringValue()
		}
		if len(span.GetTraceId()) != 16 || len(span.GetParentSpanId()) != 8 {
			t.Errorf("a span with trace %x and parent %x, want those of the API server", span.GetTraceId(),
				span.GetParentSpanId())
		}
		if facts["evenkeel.outcome"] == "patched" && facts["k8s.namespace.name"] == namespace.Name &&
			facts["k8s.deployment.name"] == "web" {
			return
		}
		t.Logf("%s %v", span.GetName(), facts)
	}
	t.Errorf("no span of the Deployment; evenkeel's log:\n%s", evenkeel.Log())
}

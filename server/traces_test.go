package server

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/webhook"
)

// receiver is a collector that keeps what it is sent.
type receiver struct {
	*httptest.Server
	answer int

	mu       sync.Mutex
	requests []*http.Request
	batches  []*tracepb.ResourceSpans
}

// newReceiver starts a receiver, and points the environment to it.
func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{answer: http.StatusOK}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		body := io.Reader(request.Body)
		var err error
		if request.Header.Get("Content-Encoding") == "gzip" {
			body, err = gzip.NewReader(body)
		}
		var data tracepb.TracesData
		if err == nil {
			var text []byte
			if text, err = io.ReadAll(body); err == nil {
				err = proto.Unmarshal(text, &data)
			}
		}
		if err != nil {
			t.Errorf("what was sent is no OTLP: %v", err)
		}
		r.requests = append(r.requests, request)
		r.batches = append(r.batches, data.GetResourceSpans()...)
		w.WriteHeader(r.answer)
	}))
	t.Cleanup(r.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", r.URL)
	return r
}

// spans returns each span that arrived as lines of text, without what is random or a time.
func (r *receiver) spans() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for _, batch := range r.batches {
		for _, scope := range batch.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				line := []string{
					fmt.Sprintf("%s %s trace=%x parent=%x status=%s", span.GetName(), span.GetKind(), span.GetTraceId(),
						span.GetParentSpanId(), span.GetStatus().GetMessage())}
				for _, a := range span.GetAttributes() {
					line = append(line, fmt.Sprint(a.GetKey(), "=", a.GetValue().GetStringValue(), a.GetValue().GetIntValue()))
				}
				if state := span.GetTraceState(); state != "" {
					line = append(line, "tracestate="+state)
				}
				slices.Sort(line[1:])
				all = append(all, strings.Join(line, "\n"))
			}
		}
	}
	return all
}

const (
	parent    = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
)

// reviewed answers reviews as serve does, each with the traceparent given, and flushes.
func reviewed(t *testing.T, logs io.Writer, traceparents map[string]string, bodies ...string) {
	t.Helper()
	logger := logrus.New()
	logger.SetOutput(logs)
	traces, err := newTraces(t.Context(), "v1", logrus.NewEntry(logger))
	if err != nil {
		t.Fatal(err)
	}
	injector, err := patches.New(patches.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	config := webhook.Config{
		Injector:   injector,
		Namespace:  func(context.Context, string) map[string]string { return nil },
		OptedOut:   func(string, string, string) bool { return false },
		Services:   func(string) *patches.Services { return nil },
		Cluster:    func() patches.Cluster { return patches.Cluster{APIServer: patches.Version{Major: 1, Minor: 36}} },
		Log:        silentLog(),
		Registerer: prometheus.NewRegistry(),
		Tracer:     traces.Tracer("test"),
	}
	handler, err := webhook.Handler(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range bodies {
		r := httptest.NewRequest(http.MethodPost, "/mutate?timeout=2s", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		for name, value := range traceparents {
			r.Header.Set(name, value)
		}
		handler.ServeHTTP(httptest.NewRecorder(), r)
	}
	if err := traces.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func traceReviewOf(namespace, kind, name string) string {
	pod := `{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"web","ports":[{"containerPort":80}]}]}}`
	apiVersion, spec := "apps/v1", `{"selector":{"matchLabels":{"app":"web"}},"template":`+pod+`}`
	if kind == "Service" {
		apiVersion, spec = "v1", "{}"
	}
	return fmt.Sprintf(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u-1",`+
		`"namespace":%q,"operation":"CREATE",`+
		`"object":{"apiVersion":%q,"kind":%q,"metadata":{"name":%q,"labels":{"secret":"of a tenant"}},"spec":%s}}}`,
		namespace, apiVersion, kind, name, spec)
}

func TestAReviewIsASpanOfTheAPIServersTrace(t *testing.T) {
	collector := newReceiver(t)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc,x-tenant=a")
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.cluster.name=test")
	reviewed(t, io.Discard, map[string]string{"traceparent": parent, "tracestate": "a=anybodys-text"},
		traceReviewOf("shop", "Deployment", "web"), traceReviewOf("shop", "Service", "web"),
		traceReviewOf("shop", "Deployment", strings.Repeat("é", 300)), "{}")
	const head = "review SPAN_KIND_SERVER trace=0af7651916cd43dd8448eb211c80319c parent=b7ad6b7169203331 status=\n"
	want := []string{
		head +
			"evenkeel.kind=Deployment0\nevenkeel.operation=CREATE0\nevenkeel.outcome=patched0\n" +
			"k8s.deployment.name=web0\nk8s.namespace.name=shop0",
		head + "evenkeel.kind=other0\nevenkeel.operation=CREATE0\nevenkeel.outcome=unchanged0\nk8s.namespace.name=shop0",
		head + "evenkeel.kind=Deployment0\nevenkeel.operation=CREATE0\nevenkeel.outcome=patched0\nk8s.deployment.name=" +
			strings.Repeat("é", 126) + "0\nk8s.namespace.name=shop0", head + "error.type=shape0\nhttp.response.status_code=400",
	}
	if diff := cmp.Diff(want, collector.spans()); diff != "" {
		t.Errorf("spans (-want +sent):\n%s", diff)
	}
	from := map[string]string{}
	for _, a := range collector.batches[0].GetResource().GetAttributes() {
		from[a.GetKey()] = a.GetValue().GetStringValue()
	}
	if from["service.name"] != "evenkeel" || from["k8s.cluster.name"] != "test" || from["service.version"] == "" {
		t.Errorf("the spans come from %v", from)
	}
	request := collector.requests[0]
	if request.URL.Path != "/v1/traces" || request.Header.Get("Authorization") != "Bearer abc" ||
		request.Header.Get("X-Tenant") != "a" {
		t.Errorf("sent to %s with %v", request.URL, request.Header)
	}
}

func TestOnlyWhatTheCallerSamplesIsTraced(t *testing.T) {
	for _, c := range []struct {
		name, traceparent, sampler string
		traced                     bool
	}{
		{"a sampled parent", parent, "", true},
		{"a parent that isn't sampled", unsampled, "", false},
		{"no parent", "", "", false},
		{"a parent that can't be read", "00-0-0-01", "", false},
		{"no parent, and a sampler that takes all", "", "parentbased_always_on", true},
		{"a sampled parent, and a sampler that takes none", parent, "always_off", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			collector := newReceiver(t)
			t.Setenv("OTEL_TRACES_SAMPLER", c.sampler)
			reviewed(t, io.Discard, map[string]string{"traceparent": c.traceparent}, traceReviewOf("shop", "Deployment", "web"))
			if n := len(collector.spans()); (n == 1) != c.traced || n > 1 {
				t.Errorf("%d spans, want some: %v", n, c.traced)
			}
		})
	}
}

func TestWithoutACollectorThereIsNothing(t *testing.T) {
	for name, environment := range map[string]map[string]string{
		"by default":    nil,
		"disabled":      {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", "OTEL_SDK_DISABLED": "true"},
		"exporter none": {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", "OTEL_TRACES_EXPORTER": "none"},
		"sampler alone": {"OTEL_TRACES_SAMPLER": "always_on"},
	} {
		t.Run(name, func(t *testing.T) {
			for key, value := range environment {
				t.Setenv(key, value)
			}
			if traces, err := newTraces(t.Context(), "v1", silentLog()); traces != nil || err != nil {
				t.Errorf("%v, %v; want nothing", traces, err)
			}
		})
	}
}

func TestAnEnvironmentThatCannotBeIsRefusedByItsName(t *testing.T) {
	for name, value := range map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT":           "collector:4318",
		"OTEL_TRACES_SAMPLER":                   "alwayson",
		"OTEL_TRACES_SAMPLER_ARG":               "NaN",
		"OTEL_EXPORTER_OTLP_PROTOCOL":           "grpc",
		"OTEL_EXPORTER_OTLP_COMPRESSION":        "zip",
		"OTEL_EXPORTER_OTLP_TIMEOUT":            "10s",
		"OTEL_EXPORTER_OTLP_HEADERS":            "a=%zz",
		"OTEL_EXPORTER_OTLP_CERTIFICATE":        "/nowhere",
		"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "/nowhere",
		"OTEL_RESOURCE_ATTRIBUTES":              "cluster",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4318")
			if name == "OTEL_TRACES_SAMPLER_ARG" {
				t.Setenv("OTEL_TRACES_SAMPLER", "traceidratio")
			}
			t.Setenv(name, value)
			if traces, err := newTraces(t.Context(), "v1", silentLog()); traces != nil || err == nil ||
				!strings.Contains(err.Error(), name) {
				t.Errorf("error %v, want one that names the variable", err)
			}
		})
	}
}

// What the collector answers, or that it isn't there, is a line in the log and nothing else.
func TestACollectorThatRefusesIsLoggedOnceAMinute(t *testing.T) {
	collector := newReceiver(t)
	collector.answer = http.StatusServiceUnavailable
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
	var logs bytes.Buffer
	reviewed(t, &logs, map[string]string{"traceparent": parent}, traceReviewOf("shop", "Deployment", "a"),
		traceReviewOf("shop", "Deployment", "b"))
	if len(collector.requests) != 2 || strings.Count(logs.String(), "\n") != 1 ||
		!strings.Contains(logs.String(), "answered 503") {
		t.Errorf("%d requests, log:\n%s", len(collector.requests), logs.String())
	}
}

// A collector that takes a connection and never answers holds up neither reviews nor, for longer than told, the end.
func TestACollectorThatHangsHoldsNobodyUp(t *testing.T) {
	release := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer hanging.Close()
	defer close(release)
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", hanging.URL+"/here")
	t.Setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "100000")
	t.Setenv("OTEL_TRACES_SAMPLER", "always_on")
	t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
	traces, err := newTraces(t.Context(), "v1", silentLog())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tracer := traces.Tracer("test")
	for range 1000 { // more than may wait
		_, span := tracer.Start(ctx, "review")
		span.End()
	}
	flush, end := context.WithTimeout(ctx, 10*time.Millisecond)
	defer end()
	if err := traces.Shutdown(flush); err == nil || ctx.Err() != nil {
		t.Errorf("error %v, want that the time is over", err)
	}
}

package webhook

import (
	"context"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.41.0"
	"go.opentelemetry.io/otel/trace"
)

// traced makes a span of each request, a child of the API server's own where that says
// one (W3C Trace Context, which kube-apiserver sends once it has a
// TracingConfiguration). Handler leaves it out where nobody asks for traces.
//
// kubewebhook's tracing.Tracer would begin after the body is read, and see a review that
// is nothing but a uid.
type traced struct {
	next   http.Handler
	tracer trace.Tracer
}

// ServeHTTP implements http.Handler. A tracestate is not read: it can be 16 KiB of
// anybody's text, evenkeel calls nobody whom it could pass it on to, and thousands of
// spans may wait in memory.
func (t *traced) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	if parent := r.Header.Get("Traceparent"); parent != "" {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": parent})
	}
	ctx, span := t.tracer.Start(ctx, "review", trace.WithSpanKind(trace.SpanKindServer))
	defer span.End()
	if span.IsRecording() {
		r = r.WithContext(ctx)
	}
	t.next.ServeHTTP(w, r)
}

// traceReview says in the span of a review, if it has one, what became of it. Beside names,
// which are clipped, there is nothing of a tenant's in it.
func traceReview(ctx context.Context, facts reviewFacts, namespace, name string) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	attributes := []attribute.KeyValue{
		attribute.String("evenkeel.kind", facts.kind),
		attribute.String("evenkeel.operation", facts.operation),
		attribute.String("evenkeel.outcome", facts.outcome),
		semconv.K8SNamespaceName(traceable(namespace)),
	}
	named := map[string]func(string) attribute.KeyValue{"Pod": semconv.K8SPodName, "Deployment": semconv.K8SDeploymentName,
		"StatefulSet": semconv.K8SStatefulSetName}
	if key, known := named[facts.kind]; known && name != "" { // a Pod to be named by the API server has none yet
		attributes = append(attributes, key(traceable(name)))
	}
	span.SetAttributes(attributes...)
	if facts.outcome == failed {
		span.SetStatus(codes.Error, "admitted unchanged")
	}
}

// traceRejection says in the span of a request, if it has one, why it was no review.
func traceRejection(ctx context.Context, no *rejection) {
	trace.SpanFromContext(ctx).SetAttributes(semconv.HTTPResponseStatusCode(no.status),
		semconv.ErrorTypeKey.String(no.reason))
}

// tracePanic says in the span of a review, if it has one, that there was a panic.
func tracePanic(ctx context.Context) {
	trace.SpanFromContext(ctx).SetStatus(codes.Error, "panic, admitted unchanged")
}

// traceable bounds a tenant's string and leaves out what is no UTF-8: a single string that
// isn't keeps a whole batch of spans, other people's too, from being written as protobuf.
func traceable(s string) string { return strings.ToValidUTF8(clip(s), "") }

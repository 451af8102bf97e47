// Package webhook is the HTTPS edge of admission: it guards, reads, answers,
// counts and logs admission reviews, and knows the few facts of the cluster that
// a review needs without asking the API server for them.
//
// A request passes guard.go, which closes kubewebhook's holes and cuts the
// objects out of the review, then kubewebhook's handler, which reads and answers
// the slim envelope that is left, then reviewer, which asks patches for the patch.
// This file is the only one that knows kubewebhook.
package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	kwhttp "github.com/slok/kubewebhook/v2/pkg/http"
	"github.com/slok/kubewebhook/v2/pkg/model"
	"go.opentelemetry.io/otel/trace"

	"github.com/evenkeel/evenkeel/patches"
)

// Config is what a Handler needs.
type Config struct {
	Injector *patches.Injector
	// Namespace returns the annotations of a Namespace, nil where it is not known.
	// It must not ask the API server.
	Namespace func(ctx context.Context, name string) map[string]string
	// OptedOut reports whether a workload carries the label that opts it out. It must
	// not ask the API server.
	OptedOut func(namespace, kind, name string) bool
	// Ran reports whether a revision of the workload with this UID has a pod template with
	// this fingerprint. It must not ask the API server; nil where nothing is known.
	Ran func(uid string, template uint64) bool
	// Services returns the Services of a Namespace, nil where none is known. It must not ask
	// the API server.
	Services func(namespace string) *patches.Services
	// Noted returns what was noticed of a workload. It must not ask the API server; nil where
	// nothing is known.
	Noted func(namespace, kind, name string) (patches.Note, bool)
	// Cluster returns the versions of the cluster.
	Cluster func() patches.Cluster
	// Limits bound what is done at once; nil means NewLimits().
	Limits     *Limits
	Log        *logrus.Entry
	Registerer prometheus.Registerer
	// Tracer makes a span of each request; nil makes none.
	Tracer trace.Tracer
}

// Handler returns the handler of admission reviews (admission.k8s.io/v1), or an
// error that says what the configuration lacks.
func Handler(config Config) (http.Handler, error) {
	if config.Injector == nil || config.Namespace == nil || config.OptedOut == nil || config.Services == nil ||
		config.Cluster == nil || config.Log == nil || config.Registerer == nil {
		return nil, errors.New("webhook configuration is incomplete")
	}
	metrics, err := newMetrics(config.Registerer)
	if err != nil {
		return nil, err
	}
	inner, err := kwhttp.HandlerFor(kwhttp.HandlerConfig{Webhook: &reviewer{config: config, metrics: metrics}})
	if err != nil {
		return nil, fmt.Errorf("make review handler: %w", err)
	}
	if config.Limits == nil {
		config.Limits = NewLimits()
	}
	handler := &guard{next: inner, log: config.Log, metrics: metrics, limits: config.Limits}
	if config.Tracer == nil {
		return handler, nil
	}
	return &traced{next: handler, tracer: config.Tracer}, nil
}

// reviewer implements kubewebhook's webhook.Webhook.
type reviewer struct {
	config  Config
	metrics *metrics
}

// ID returns the name of the webhook.
func (*reviewer) ID() string { return "evenkeel" }

// Kind returns that the webhook mutates.
func (*reviewer) Kind() model.WebhookKind { return model.WebhookKindMutating }

// Review answers one review. It never returns an error, since that would be an
// answer of 500: what goes wrong is an empty patch with a warning.
func (r *reviewer) Review(ctx context.Context, review model.AdmissionReview) (model.AdmissionResponse, error) {
	start := time.Now()
	e := envelopeOf(ctx)
	namespace := string(e.namespace)
	request := patches.Request{
		Operation:  e.operation,
		ObjectRead: e.object,
		OldRead:    e.oldObject,
		Cluster:    r.config.Cluster(),
		Ran:        r.config.Ran,
		Whole:      e.whole,
		Late:       e.late,
		Services:   r.config.Services(namespace),
		OptedOut:   func(kind, name string) bool { return r.config.OptedOut(namespace, kind, name) },
	}
	if r.config.Noted != nil {
		request.Noted = func(kind, name string) (patches.Note, bool) { return r.config.Noted(namespace, kind, name) }
	}
	if request.Operation == patches.Create || request.Operation == patches.Update {
		request.Namespace = r.config.Namespace(ctx, namespace)
	}
	result := r.config.Injector.Review(request)
	facts := factsOf(request.Operation, &result)
	r.metrics.observe(facts, &result, time.Since(start))
	if r.config.Tracer != nil {
		traceReview(ctx, facts, namespace, result.Name)
	}
	r.log(review.ID, namespace, request.Operation, &result)
	return &model.MutatingAdmissionResponse{JSONPatchPatch: result.Patch, Warnings: warnings(&result)}, nil
}

// log writes a line per review at debug level, and one at error level for what
// went wrong in evenkeel itself.
func (r *reviewer) log(uid, namespace string, operation patches.Operation, result *patches.Result) {
	level := logrus.DebugLevel
	if result.Err != nil {
		level = logrus.ErrorLevel
	}
	if !r.config.Log.Logger.IsLevelEnabled(level) {
		return
	}
	entry := r.config.Log.WithFields(logrus.Fields{
		"uid":       clip(uid),
		"kind":      clip(result.Kind),
		"namespace": clip(namespace),
		"name":      clip(result.Name),
		"operation": string(operation),
		"patched":   len(result.Operations) > 0,
	})
	if result.Err != nil {
		entry.WithField("cause", clip(result.Err.Error())).Error("admitted unchanged")
		return
	}
	for _, d := range result.Decisions {
		entry.WithFields(logrus.Fields{"default": d.Default, "container": clip(d.Container), "skip": string(d.Skip)}).
			Debug("decided")
	}
	for _, p := range result.Problems {
		entry.WithField("problem", p.String()).Debug("annotation not used as written")
	}
}

// clip bounds a tenant's string for the log.
func clip(s string) string {
	if len(s) > 253 { // the longest name that the API allows
		return s[:253]
	}
	return s
}

// maxWarnings caps the warnings of one answer. kube-apiserver passes on 4 KiB of
// them in all.
const maxWarnings = 12

// warnings returns what the author of the object should know: every problem, and
// every skip that can be mended.
func warnings(result *patches.Result) []string {
	var all []string
	for _, p := range result.Problems {
		all = append(all, "evenkeel: "+p.String())
	}
	for _, d := range result.Decisions {
		reason := d.Skip.Reason()
		if !reason.Warn {
			continue
		}
		place := ""
		if d.Container != "" {
			place = " to container " + strconv.QuoteToASCII(clip(d.Container)) // not validated yet
		}
		all = append(all, fmt.Sprintf("evenkeel: %s not added%s (%s): %s", d.Default, place, d.Skip, reason.Text))
	}
	return all[:min(len(all), maxWarnings)]
}

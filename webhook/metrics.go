package webhook

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/evenkeel/evenkeel/internal/collectors"
	"github.com/evenkeel/evenkeel/patches"
)

// metrics are the metrics of admission. Every label value comes from a closed set.
type metrics struct {
	reviews  counters
	defaults counters
	problems *prometheus.CounterVec
	rejects  *prometheus.CounterVec
	panics   prometheus.Counter
	duration prometheus.Histogram
}

// counters are the counters of a metric with three labels. Each is looked up once
// by Prometheus and from then on in a map, which costs a fifth and allocates nothing.
type counters struct {
	vec *prometheus.CounterVec

	mu     sync.RWMutex
	byName map[[3]string]prometheus.Counter
}

func (c *counters) with(values [3]string) prometheus.Counter {
	c.mu.RLock()
	counter, ok := c.byName[values]
	c.mu.RUnlock()
	if ok {
		return counter
	}
	return c.lookUp(values)
}

func (c *counters) lookUp(values [3]string) prometheus.Counter {
	counter := c.vec.WithLabelValues(values[:]...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byName == nil {
		c.byName = map[[3]string]prometheus.Counter{}
	}
	c.byName[values] = counter
	return counter
}

func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		reviews: counters{vec: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_admission_reviews_total",
			Help: "Admission reviews answered, by kind and operation of the object and by what became of it: patched, " +
				"unchanged or failed.",
		}, []string{"kind", "operation", "outcome"})},
		defaults: counters{vec: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_admission_defaults_total",
			Help: "Decisions over a default, per container where it concerns containers, by kind of the object and by skip " +
				"code, which is empty where the default was added.",
		}, []string{"default", "kind", "skip"})},
		problems: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_admission_problems_total",
			Help: "Labels and annotations that could not be used as written, by kind of problem.",
		}, []string{"code"}),
		rejects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_admission_rejected_requests_total",
			Help: "HTTP requests that are no admission review, by what was wrong with them.",
		}, []string{"reason"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "evenkeel_admission_panics_total",
			Help: "Panics in reviews; the object was admitted unchanged.",
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "evenkeel_admission_duration_seconds",
			Help:    "Time to decide over one review, without reading and answering it.",
			Buckets: []float64{.000025, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .05, .25, 1},
		}),
	}
	return m, collectors.Register(registerer, m.reviews.vec, m.defaults.vec, m.problems, m.rejects, m.panics, m.duration)
}

// The outcomes of a review.
const (
	patched   = "patched"
	unchanged = "unchanged"
	failed    = "failed"
)

// reviewFacts say of a review what metrics and traces tell apart. Each value comes from a
// closed set.
type reviewFacts struct{ kind, operation, outcome string }

func factsOf(operation patches.Operation, result *patches.Result) reviewFacts {
	f := reviewFacts{kind: "other", operation: "other", outcome: unchanged}
	switch result.Kind {
	case "Pod", "Deployment", "StatefulSet":
		f.kind = result.Kind
	}
	if operation == patches.Create || operation == patches.Update {
		f.operation = string(operation)
	}
	switch {
	case result.Err != nil:
		f.outcome = failed
	case len(result.Operations) > 0:
		f.outcome = patched
	}
	return f
}

// observe counts one review.
func (m *metrics) observe(facts reviewFacts, result *patches.Result, took time.Duration) {
	m.reviews.with([3]string{facts.kind, facts.operation, facts.outcome}).Inc()
	for _, d := range result.Decisions {
		m.defaults.with([3]string{d.Default, facts.kind, string(d.Skip)}).Inc()
	}
	for _, p := range result.Problems {
		m.problems.WithLabelValues(string(p.Code)).Inc()
	}
	m.duration.Observe(took.Seconds())
}

func (m *metrics) rejected(reason string) { m.rejects.WithLabelValues(reason).Inc() }

func (m *metrics) panicked() { m.panics.Inc() }

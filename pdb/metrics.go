package pdb

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/evenkeel/evenkeel/internal/collectors"
)

// metrics are what Prometheus sees. Label values come from closed sets: codes,
// outcomes and operations.
type metrics struct {
	reconcile prometheus.Histogram
	writes    *prometheus.CounterVec
	errors    prometheus.Counter

	mu     sync.Mutex
	counts map[string]map[Code]int // workloads by namespace and code
	depth  func() int
	// pending returns how many budgets are held and how many wait for the disruption
	// controller.
	pending func() (held, waiting int)
	leader  bool
}

var workloadsDescription = prometheus.NewDesc("evenkeel_budget_workloads",
	"Workloads of opted-in namespaces, by what was decided about their budget: applied, adjusted or skipped, and the "+
		"code of the reason. Zero where another replica leads.",
	[]string{"outcome", "code"}, nil)

var pendingDescription = prometheus.NewDesc("evenkeel_budgets_not_in_force",
	"Budgets that are needed and not in force, by state: held (not written yet, so that the disruption controller "+
		"can follow) "+
		"and waiting (written, and the disruption controller has not counted their pods, so that evictions are refused).",
	[]string{"state"}, nil)

func newMetrics(registerer prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		reconcile: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "evenkeel_budget_reconcile_seconds",
			Help:    "How long it took to look at a namespace and write its budgets, in seconds.",
			Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10, 30}}),
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "evenkeel_budget_writes_total",
			Help: "Writes of budgets, by operation (create, update, delete) and result (ok, conflict, error)."},
			[]string{"operation", "result"}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{Name: "evenkeel_budget_errors_total",
			Help: "How often the budgets of a namespace could not be worked out or written, but for conflicts; it is " +
				"tried again."}),
		counts: map[string]map[Code]int{},
	}
	for _, operation := range []string{"create", "update", "delete"} {
		for _, result := range []string{"ok", "conflict", "error"} {
			m.writes.WithLabelValues(operation, result)
		}
	}
	depth := prometheus.NewGaugeFunc(
		prometheus.GaugeOpts{Name: "evenkeel_budget_queue_depth", Help: "Namespaces that wait to be looked at."},
		func() float64 {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.depth == nil {
				return 0
			}
			return float64(m.depth())
		})
	leader := prometheus.NewGaugeFunc(
		prometheus.GaugeOpts{Name: "evenkeel_budget_leader",
			Help: "1 where this replica holds the Lease, has listed what it needs, and writes budgets, else 0."},
		func() float64 {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.leader {
				return 1
			}
			return 0
		})
	return m, collectors.Register(registerer, m.reconcile, m.writes, m.errors, depth, leader, m)
}

// Describe implements prometheus.Collector.
func (*metrics) Describe(descriptions chan<- *prometheus.Desc) {
	descriptions <- workloadsDescription
	descriptions <- pendingDescription
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(samples chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	held, waiting := 0, 0
	if m.pending != nil {
		held, waiting = m.pending()
	}
	samples <- prometheus.MustNewConstMetric(pendingDescription, prometheus.GaugeValue, float64(held), "held")
	samples <- prometheus.MustNewConstMetric(pendingDescription, prometheus.GaugeValue, float64(waiting), "waiting")
	sums := map[Code]int{}
	for _, namespace := range m.counts {
		for code, n := range namespace {
			sums[code] += n
		}
	}
	for _, r := range reasons {
		samples <- prometheus.MustNewConstMetric(workloadsDescription, prometheus.GaugeValue, float64(sums[r.Code]),
			string(r.Outcome), string(r.Code))
	}
}

// decided records the decisions about a namespace.
func (m *metrics) decided(namespace string, decisions []Decision) {
	counts := map[Code]int{}
	for i := range decisions {
		counts[decisions[i].Code]++
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(counts) == 0 {
		delete(m.counts, namespace)
		return
	}
	m.counts[namespace] = counts
}

// lead records that budgets are kept from now on, with the depth of the queue and what
// is not in force, or not any more, with nil.
func (m *metrics) lead(depth func() int, pending func() (held, waiting int)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leader, m.depth, m.pending = depth != nil, depth, pending
	clear(m.counts)
}

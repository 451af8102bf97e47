package pdb

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// quotaResource is what a ResourceQuota calls the number of budgets of a namespace.
const quotaResource corev1.ResourceName = "count/poddisruptionbudgets.policy"

// quotaFacts is what is kept of a ResourceQuota.
type quotaFacts struct {
	// counts is set where the quota bounds the number of budgets.
	counts     bool
	hard, used int
}

// trimQuota reads a ResourceQuota. One with scopes never counts a budget
// (apiserver/pkg/quota/v1/generic: MatchesNoScopeFunc).
func trimQuota(q *corev1.ResourceQuota) quotaFacts {
	hard, ok := q.Spec.Hard[quotaResource]
	if !ok || len(q.Spec.Scopes) > 0 || q.Spec.ScopeSelector != nil {
		return quotaFacts{}
	}
	used := q.Status.Used[quotaResource]
	return quotaFacts{counts: true, hard: int(hard.Value()), used: int(used.Value())}
}

// room returns how many budgets the quotas of a namespace still admit, or nil for any
// number. What we have written lately may be missing from the status of a quota.
func (t *term) room(namespace string, budgets int) (*int, error) {
	quotas, err := values[quotaFacts](t.quotas, namespace)
	if err != nil {
		return nil, err
	}
	var least *int
	for _, q := range quotas {
		left := max(0, q.value.hard-max(q.value.used, budgets))
		if q.value.counts && (least == nil || left < *least) {
			least = &left
		}
	}
	return least, nil
}

// How long a budget that the API server refuses is left alone: at first, and at most.
const (
	firstPause = 10 * time.Second
	maxPause   = 10 * time.Minute
)

// denial is a budget that the API server has refused.
type denial struct {
	until time.Time
	pause time.Duration // before until
}

// next returns the denial after another one. Each lasts twice as long.
func (r denial) next(now time.Time) denial {
	pause := max(firstPause, min(2*r.pause, maxPause))
	return denial{until: now.Add(pause), pause: pause}
}

// deny records that the API server has refused a budget.
func (t *term) deny(namespace, name string, err error) {
	t.metrics.errors.Inc()
	t.log.WithError(err).WithField("namespace", namespace).Warn("budget refused; trying again later")
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.denied[namespace] == nil {
		t.denied[namespace] = map[string]denial{}
	}
	t.denied[namespace][name] = t.denied[namespace][name].next(t.config.Now())
	t.changed(namespace) // the decision says so
}

// accept forgets that a budget was refused.
func (t *term) accept(namespace, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.denied[namespace], name)
	if len(t.denied[namespace]) == 0 {
		delete(t.denied, namespace)
	}
}

// isDenied reports whether the API server has refused a budget lately.
func (t *term) isDenied(namespace, name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.config.Now().Before(t.denied[namespace][name].until)
}

// denials returns the names of the budgets that were refused lately, and when the
// first of them is to be tried again, or no time. One that nobody has tried again for
// long is forgotten.
func (t *term) denials(namespace string, now time.Time) (map[string]bool, time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var names map[string]bool
	var first time.Time
	for name, r := range t.denied[namespace] {
		switch {
		case now.Before(r.until):
			if names == nil {
				names = map[string]bool{}
			}
			names[name] = true
			if first.IsZero() || r.until.Before(first) {
				first = r.until
			}
		case now.Sub(r.until) > maxPause:
			delete(t.denied[namespace], name)
		}
	}
	return names, first
}

// forget drops what is remembered of a namespace that is being deleted.
func (t *term) forget(namespace string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.denied, namespace)
	delete(t.unseen, namespace)
}

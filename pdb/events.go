package pdb

import (
	"context"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/evenkeel/evenkeel/internal/event"
)

// The reasons of Events.
const (
	eventCreated  = "BudgetCreated"
	eventAdjusted = "BudgetAdjusted"
	eventChanged  = "BudgetChanged"
	eventSkipped  = "BudgetSkipped"
	eventShared   = "BudgetShared"
)

// events tells the authors of workloads what was decided, when it changes. The name
// of an Event is made of what it says, so that another leader, or the same one
// after a restart, does not say it again while the API server keeps it (an hour).
// Events are a courtesy: where the API server does not take them they are lost,
// and nothing waits for them.
type events struct {
	client kubernetes.Interface
	log    *logrus.Entry
	queue  chan *event.Event

	mu   sync.Mutex
	seed maphash.Seed
	said map[string]map[uint64]uint64 // by namespace and a hash of the workload's UID: one of the decision last seen
}

func newEvents(client kubernetes.Interface, log *logrus.Entry) *events {
	return &events{client: client, log: log, queue: make(chan *event.Event, 20_000), seed: maphash.MakeSeed(),
		said: map[string]map[uint64]uint64{}}
}

// decided queues Events for the decisions about a namespace that differ from those
// before. What a leader finds when it begins is told only where it is a warning.
func (e *events) decided(namespace string, decisions []Decision) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before, known := e.said[namespace]
	now := make(map[uint64]uint64, len(decisions))
	var holders holders
	for i := range decisions {
		d := &decisions[i]
		reason, message := d.event()
		workload := maphash.String(e.seed, string(d.Workload.UID))
		now[workload] = maphash.String(e.seed, reason+message)
		row := d.Code.Reason()
		if before[workload] == now[workload] || row.Quiet || !known && !row.Warn || row.Outcome == OutcomeApplied {
			continue
		}
		kind := corev1.EventTypeNormal
		if row.Warn {
			kind = corev1.EventTypeWarning
		}
		e.add(namespace, d.Workload, kind, reason, message)
		if d.Code != SkipOverlap {
			continue
		}
		if w := holders.find(decisions, d.Other); w != nil {
			e.add(namespace, w, kind, eventShared, fmt.Sprintf(
				"the selector also selects pods of %s/%s, which gets no PodDisruptionBudget of its own", d.Workload.Kind,
				d.Workload.Name))
		}
	}
	if len(now) == 0 {
		delete(e.said, namespace)
		return
	}
	e.said[namespace] = now
}

// holders are the workloads with a budget, by kind/name. Few namespaces need them.
type holders map[string]*Workload

func (h *holders) find(decisions []Decision, name string) *Workload {
	if *h == nil {
		*h = holders{}
		for i := range decisions {
			if w := decisions[i].Workload; decisions[i].Budget != nil {
				(*h)[w.Kind+"/"+w.Name] = w
			}
		}
	}
	return (*h)[name]
}

// wrote queues an Event for a budget that was created or changed. An adjusted one has
// its Event from decided.
func (e *events) wrote(namespace string, d *Decision, created bool) {
	if d.Code != Applied {
		return
	}
	reason := eventChanged
	if created {
		reason = eventCreated
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.add(namespace, d.Workload, corev1.EventTypeNormal, reason, d.Budget.String())
}

// event returns reason and message of the Event for a decision.
func (d *Decision) event() (reason, message string) {
	row := d.Code.Reason()
	message = string(d.Code) + ": " + row.Text
	if d.Other != "" {
		message += " It is " + d.Other + "."
	}
	if d.Asked != "" {
		message += " Asked for: " + d.Asked + "."
	}
	switch row.Outcome {
	case OutcomeApplied:
		return eventCreated, d.Budget.String()
	case OutcomeAdjusted:
		return eventAdjusted, message + " The budget: " + d.Budget.String()
	}
	return eventSkipped, message
}

// String returns name and amount of a budget.
func (b *Budget) String() string {
	if b.MinAvailable != nil {
		return "PodDisruptionBudget " + b.Name + ", minAvailable " + b.MinAvailable.String()
	}
	return "PodDisruptionBudget " + b.Name + ", maxUnavailable " + b.MaxUnavailable.String()
}

// add queues one Event.
func (e *events) add(namespace string, w *Workload, kind, reason, message string) {
	next := &event.Event{Controller: "budgets", Type: kind, Reason: reason, Message: message,
		About: corev1.ObjectReference{APIVersion: w.APIVersion, Kind: w.Kind, Namespace: namespace, Name: w.Name, UID: w.UID},
		Key:   w.APIVersion + w.Kind + string(w.UID) + reason + message, At: time.Now()}
	select {
	case e.queue <- next:
	default:
		e.log.Debug("too many events")
	}
}

// run sends queued Events until ctx ends.
func (e *events) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case next := <-e.queue:
			if err := next.Send(ctx, e.client); err != nil {
				e.log.WithError(err).Debug("event not written")
			}
		}
	}
}

package certs

import (
	"bytes"
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/internal/event"
)

// A tool that applies what it has in Git again and again takes out what evenkeel has written, and the
// API server trusts no replica until it is written again. evenkeel can't win that, so it says it loudly:
// when that has happened contestTimes within contestPeriod, and again after that time.
const (
	contestTimes  = 3
	contestPeriod = event.CertificatesResetAgain
)

// contest notes how often somebody undoes what was written to an object. It reads no clock.
type contest struct {
	written []byte // last, nil before
	undone  []time.Time
	said    time.Time
}

// wanted takes note of what stands in the object and what should: undone is set where that was written
// already, loud where it is time to say so.
func (c *contest) wanted(stands, wanted []byte, now time.Time) (undone, loud bool) {
	if bytes.Equal(stands, wanted) || c.written == nil || !bytes.Equal(c.written, wanted) {
		return false, false
	}
	c.undone = append(c.undone, now)
	for len(c.undone) > 0 && (len(c.undone) > contestTimes || now.Sub(c.undone[0]) > contestPeriod) {
		c.undone = c.undone[1:]
	}
	if loud = len(c.undone) == contestTimes && (c.said.IsZero() || now.Sub(c.said) >= contestPeriod); loud {
		c.said = now
	}
	return true, loud
}

// other returns the field manager, not one of ours, that has written an object last, for people.
func other(fields []metav1.ManagedFieldsEntry) string {
	var last metav1.ManagedFieldsEntry
	for _, f := range fields {
		if f.Manager != manager && f.Time != nil && (last.Time == nil || last.Time.Before(f.Time)) {
			last = f
		}
	}
	if last.Manager == "" {
		return "somebody"
	}
	return last.Manager[:min(len(last.Manager), 128)]
}

// contested says in the log, a metric and an Event that what was written to object is undone again and
// again.
func (s *SelfManaged) contested(
	ctx context.Context, object string, undone, loud bool, of corev1.ObjectReference, fields []metav1.ManagedFieldsEntry,
) {
	if undone {
		s.resets.WithLabelValues(object).Inc()
	}
	if !loud {
		return
	}
	message := fmt.Sprintf(
		"%s takes out what evenkeel has written here, %d times by now: until it is back, the API server trusts no replica "+
			"and admits workloads without defaults. Let that tool pass over it: docs/how-to/argo-cd.md",
		other(fields), contestTimes)
	s.config.Log.WithField("object", object).Error(message)
	now := s.now()
	e := event.Event{Controller: "certificates", Type: corev1.EventTypeWarning, Reason: event.CertificatesReset,
		Message: message, About: of, Key: message + now.String(), At: now}
	if err := e.Send(ctx, s.client); err != nil {
		s.config.Log.WithError(err).Debug("event not written")
	}
}

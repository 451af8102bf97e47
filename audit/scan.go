package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unique"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/evenkeel/evenkeel/internal/collectors"
	"github.com/evenkeel/evenkeel/internal/event"
	"github.com/evenkeel/evenkeel/internal/list"
	"github.com/evenkeel/evenkeel/internal/pause"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
)

// ScanConfig says how a Scan works.
type ScanConfig struct {
	// Client reaches the API server. It should not limit its requests itself: a scan makes one for each
	// page of objects, and the API server's own flow control holds against more.
	Client   kubernetes.Interface
	Injector *patches.Injector
	// Ready returns an error while Cluster and OptedOut don't know yet.
	Ready func() error
	// Cluster returns the versions of the cluster.
	Cluster func() patches.Cluster
	// OptedOut reports whether a workload carries the label that opts it out.
	OptedOut func(namespace, kind, name string) bool
	// Services returns the Services of a Namespace, nil where none is known.
	Services func(namespace string) *patches.Services
	// NamespaceSelector selects the opted-in Namespaces. Those named in Except are
	// passed over, as in the webhook configuration.
	NamespaceSelector labels.Selector
	Except            []string
	// Interval is the time from one scan to the next, at least 1 s. One that takes long
	// is followed by a pause nine times as long, so that scanning never takes more than
	// a tenth of the time.
	Interval   time.Duration
	Log        *logrus.Entry
	Registerer prometheus.Registerer
}

// Scan finds what admission has missed: Deployments, StatefulSets and pods of
// opted-in namespaces that lack what they would get today, since they are older than
// that, or since evenkeel was away when they were made and failurePolicy Ignore let
// them pass. It counts them in the gauge evenkeel_missed_injections and writes one
// Event per workload. It never touches them: that would restart what runs.
//
// Objects are read one at a time and not kept, so that memory does not grow with the
// cluster. Pods whose template was done are not even listed, by the labels that the
// webhook configuration passes them over by.
type Scan struct {
	config  ScanConfig
	metrics *scanMetrics
	pause   func(ctx context.Context, d time.Duration)
}

// MissReason says what can be told of why something was missed. It is a closed set.
type MissReason string

// The values of MissReason.
const (
	// MissNoRecord is for what carries no trace of evenkeel: it was made before the
	// namespace was opted in, or while evenkeel was away.
	MissNoRecord MissReason = "no-record"
	// MissOlderRecord is for what evenkeel added something to, and would add more today:
	// settings or evenkeel have changed since.
	MissOlderRecord MissReason = "older-record"
)

// NewScan returns a Scan, or an error that says what config lacks.
func NewScan(config ScanConfig) (*Scan, error) {
	switch {
	case config.Client == nil || config.Injector == nil || config.Ready == nil || config.Cluster == nil ||
		config.OptedOut == nil || config.Services == nil || config.NamespaceSelector == nil ||
		config.Log == nil || config.Registerer == nil:
		return nil, errors.New("scan for missed injections: the configuration is incomplete")
	case config.Interval < time.Second:
		return nil, fmt.Errorf("scan for missed injections: an interval of %s is too short; allowed: 1s or more",
			config.Interval)
	}
	m, err := newScanMetrics(config.Registerer)
	if err != nil {
		return nil, err
	}
	return &Scan{config: config, metrics: m}, nil
}

// Lead scans at once and then in intervals, until ctx ends.
func (s *Scan) Lead(ctx context.Context) error {
	defer s.metrics.found(nil)
	said, seed := map[uint64]bool{}, maphash.MakeSeed()
	before := -1
	pause.Loop{Ready: s.config.Ready, Interval: s.config.Interval, Pause: s.pause}.Run(ctx, func() {
		missed, err := s.once(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			s.metrics.scans.WithLabelValues("error").Inc()
			s.config.Log.WithError(err).Warn("scan for missed injections not finished; trying again")
		default:
			s.metrics.scans.WithLabelValues("ok").Inc()
			s.metrics.last.SetToCurrentTime()
			s.metrics.found(missed.counts)
			if missed.objects != before {
				s.config.Log.WithFields(logrus.Fields{"objects": missed.objects, "workloads": len(missed.workloads)}).
					Info("missed injections changed")
			}
			before = missed.objects
			said = s.tell(ctx, missed.workloads, said, seed)
		}
	})
	return nil
}

// missedInjections is the outcome of one scan.
type missedInjections struct {
	objects   int
	counts    map[missKey]int
	workloads map[types.UID]*missedWorkload
}

// missKey are the labels of the gauge.
type missKey struct {
	name, kind string
	reason     MissReason
}

// missedWorkload is what one Event is about. There may be one for every workload of
// the cluster.
type missedWorkload struct {
	apiVersion, kind, namespace, name string
	lacks                             uint8 // a bit for each of allDefaults
	template                          bool  // or only pods
}

// once scans the cluster.
func (s *Scan) once(ctx context.Context) (*missedInjections, error) {
	namespaces, err := list.OptedIn(ctx, s.config.Client, s.config.NamespaceSelector, s.config.Except)
	if err != nil {
		return nil, err
	}
	m := &missedInjections{counts: map[missKey]int{}, workloads: map[types.UID]*missedWorkload{}}
	deployments := map[types.NamespacedName]types.UID{}
	few := []string{""} // or all in one list
	if len(namespaces) <= maxNamespaceLists {
		few = slices.Sorted(maps.Keys(namespaces))
	}
	const notOut = policy.InjectLabel + "!=" + policy.Disabled
	const untouched = policy.DefaultedLabel + "!=true," + notOut
	const labelled = policy.DefaultedLabel + "=true,!" + policy.TemplateHash + ",!" + policy.RevisionHash + "," + notOut
	for _, l := range []list.Listing{
		{Resource: list.Deployments, Selector: notOut},
		{Resource: list.StatefulSets, Selector: notOut},
		{Resource: list.Pods, Selector: untouched},
		{Resource: list.Pods, Selector: labelled},
	} {
		for _, l.Namespace = range few {
			if _, err := l.Each(ctx, s.config.Client,
				func(raw []byte) error { return s.look(m, l.Kind, raw, namespaces, deployments) }); err != nil {
				return nil, err
			}
		}
	}
	return m, nil
}

// maxNamespaceLists is up to how many namespaces are listed one by one; more, and the
// whole cluster is listed at once, what is not opted in included.
const maxNamespaceLists = 20

// scannedMeta is what a scan reads of an ObjectMeta: above all not managedFields,
// which are most of it.
type scannedMeta struct {
	Name              string                  `json:"name"`
	Namespace         string                  `json:"namespace"`
	UID               types.UID               `json:"uid"`
	Labels            map[string]string       `json:"labels"`
	Annotations       map[string]string       `json:"annotations"`
	DeletionTimestamp *string                 `json:"deletionTimestamp"`
	OwnerReferences   []metav1.OwnerReference `json:"ownerReferences"`
}

// look reviews one object.
func (s *Scan) look(
	m *missedInjections, kind string, raw []byte, namespaces map[string]map[string]string,
	deployments map[types.NamespacedName]types.UID,
) error {
	var o struct {
		Metadata scannedMeta `json:"metadata"`
		Spec     struct {
			Template struct {
				Metadata struct {
					Annotations map[string]string `json:"annotations"`
				} `json:"metadata"`
			} `json:"template"`
		} `json:"spec"`
		Status struct {
			Phase string `json:"phase"`
		} `json:"status"`
	}
	if err := json.Unmarshal(raw, &o); err != nil {
		return fmt.Errorf("read %s: %w", kind, err)
	}
	meta := &o.Metadata
	annotations, optedIn := namespaces[meta.Namespace]
	if !optedIn || meta.DeletionTimestamp != nil || o.Status.Phase == "Succeeded" || o.Status.Phase == "Failed" {
		return nil
	}
	meta.Namespace = unique.Make(meta.Namespace).Value()
	if kind == "Deployment" {
		deployments[types.NamespacedName{Namespace: meta.Namespace, Name: meta.Name}] = meta.UID
	}
	_, recorded := meta.Annotations[policy.InjectedAnnotation]
	if kind == "Pod" && policy.Done(meta.Labels, recorded) {
		return nil
	}
	result := s.config.Injector.Review(
		patches.Request{Operation: patches.Create, Object: raw, Namespace: annotations, Cluster: s.config.Cluster(),
			Services: s.config.Services(meta.Namespace),
			OptedOut: func(kind, name string) bool { return s.config.OptedOut(meta.Namespace, kind, name) }})
	if len(result.Operations) == 0 {
		return nil
	}
	record := o.Spec.Template.Metadata.Annotations[policy.InjectedAnnotation]
	if kind == "Pod" {
		record = meta.Annotations[policy.InjectedAnnotation]
	}
	reason := MissNoRecord
	if record != "" {
		reason = MissOlderRecord
	}
	lacks := uint8(0)
	for i, name := range allDefaults() {
		if slices.ContainsFunc(result.Decisions, func(d patches.Decision) bool { return d.Default == name && d.Changes }) {
			lacks |= 1 << i
			m.counts[missKey{name, kind, reason}]++
		}
	}
	if lacks == 0 { // but the label on its template
		return nil
	}
	m.objects++
	found, uid := workloadOf(kind, meta, deployments)
	w := m.workloads[uid]
	if w == nil {
		w = &found
		m.workloads[uid] = w
	}
	w.template = w.template || kind != "Pod"
	w.lacks |= lacks
	return nil
}

// workloadOf returns what the Event over an object is about: the object itself, or
// the controller of a Pod, and for a ReplicaSet of a Deployment, which is named
// after it and the template's hash, that Deployment.
func workloadOf(
	kind string, meta *scannedMeta, deployments map[types.NamespacedName]types.UID,
) (missedWorkload, types.UID) {
	if kind != "Pod" {
		return missedWorkload{apiVersion: "apps/v1", kind: kind, namespace: meta.Namespace, name: meta.Name}, meta.UID
	}
	i := slices.IndexFunc(meta.OwnerReferences,
		func(o metav1.OwnerReference) bool { return o.Controller != nil && *o.Controller })
	if i < 0 {
		return missedWorkload{apiVersion: "v1", kind: kind, namespace: meta.Namespace, name: meta.Name}, meta.UID
	}
	c := meta.OwnerReferences[i]
	if hash := meta.Labels["pod-template-hash"]; hash != "" && c.Kind == "ReplicaSet" {
		if name, ok := strings.CutSuffix(c.Name, "-"+hash); ok {
			if uid, found := deployments[types.NamespacedName{Namespace: meta.Namespace, Name: name}]; found {
				return missedWorkload{apiVersion: "apps/v1", kind: "Deployment", namespace: meta.Namespace, name: name}, uid
			}
		}
	}
	return missedWorkload{apiVersion: c.APIVersion, kind: c.Kind, namespace: meta.Namespace, name: c.Name}, c.UID
}

// tell writes an Event for each workload that was not told of before in these words,
// and returns what has been said of those that are still missed. The name of an Event
// is made of what it says, so that the next leader does not say it again while the API
// server keeps it (an hour). Events are a courtesy: one that is not taken is tried
// again with the next scan.
func (s *Scan) tell(
	ctx context.Context, workloads map[types.UID]*missedWorkload, said map[uint64]bool, seed maphash.Seed,
) map[uint64]bool {
	const together = 8
	var mu sync.Mutex
	now := make(map[uint64]bool, len(workloads))
	var group errgroup.Group
	group.SetLimit(together)
	for uid, w := range workloads {
		message := w.message()
		words := maphash.String(seed, string(uid)+message)
		if said[words] {
			mu.Lock()
			now[words] = true
			mu.Unlock()
			continue
		}
		group.Go(func() error {
			if err := w.event(uid, message).Send(ctx, s.config.Client); err != nil {
				s.config.Log.WithError(err).Debug("event not written")
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			now[words] = true
			return nil
		})
	}
	_ = group.Wait() // its functions return no error
	return now
}

// allDefaults are all defaults that may be missing.
func allDefaults() []string { return append(patches.Defaults(), patches.Optional()...) }

// message says what is missing and what to do about it.
func (w *missedWorkload) message() string {
	var lacks []string
	for i, name := range allDefaults() {
		if w.lacks&(1<<i) != 0 {
			lacks = append(lacks, name)
		}
	}
	names := strings.Join(lacks, ", ")
	switch {
	case w.kind == "Pod":
		return "the pod lacks " + names + ", which it would get if it were made anew"
	case w.template:
		return fmt.Sprintf("the pod template lacks %s; kubectl rollout restart %s/%s adds it", names,
			strings.ToLower(w.kind), w.name)
	}
	return "pods of an earlier time lack " + names + "; new ones get it"
}

func (w *missedWorkload) event(uid types.UID, message string) event.Event {
	const reason = "InjectionMissed"
	return event.Event{Controller: "scan", Type: corev1.EventTypeWarning, Reason: reason, Message: message,
		About: corev1.ObjectReference{APIVersion: w.apiVersion, Kind: w.kind, Namespace: w.namespace, Name: w.name, UID: uid},
		Key:   string(uid) + reason + message, At: time.Now()}
}

// scanMetrics are what Prometheus sees. Label values come from closed sets.
type scanMetrics struct {
	scans *prometheus.CounterVec
	last  prometheus.Gauge
	gauge *prometheus.GaugeVec
}

func newScanMetrics(registerer prometheus.Registerer) (*scanMetrics, error) {
	m := &scanMetrics{
		scans: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "evenkeel_missed_injections_scans_total",
			Help: "Scans for missed injections by this replica, by result: ok or error."}, []string{"result"}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{Name: "evenkeel_missed_injections_last_scan_timestamp_seconds",
			Help: "When this replica last finished a scan for missed injections, in Unix time; 0 for never."}),
		gauge: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "evenkeel_missed_injections",
			Help: "Objects of opted-in namespaces that lack a default which they would get today, by default, kind of the " +
				"object, and reason: no-record (older than the label on the namespace, or evenkeel was away) or older-record " +
				"(settings have changed since). Zero where another replica leads."},
			[]string{"default", "kind", "reason"}),
	}
	for _, result := range []string{"ok", "error"} {
		m.scans.WithLabelValues(result)
	}
	m.found(nil)
	return m, collectors.Register(registerer, m.scans, m.last, m.gauge)
}

// found sets the gauge, zeros included.
func (m *scanMetrics) found(counts map[missKey]int) {
	for _, name := range allDefaults() {
		for _, kind := range []string{"Deployment", "StatefulSet", "Pod"} {
			for _, reason := range []MissReason{MissNoRecord, MissOlderRecord} {
				m.gauge.WithLabelValues(name, kind, string(reason)).Set(float64(counts[missKey{name, kind, reason}]))
			}
		}
	}
}

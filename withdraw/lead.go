package withdraw

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
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

// Config says how a Watch works.
type Config struct {
	Client   kubernetes.Interface
	Injector *patches.Injector
	Notes    *Notes
	// NamespaceSelector selects the opted-in Namespaces. Those named in Except are
	// passed over, as in the webhook configuration.
	NamespaceSelector labels.Selector
	Except            []string
	// Patience is how long a container with a guessed probe may be up without ever getting
	// ready; 0 for ever.
	Patience   time.Duration
	Log        *logrus.Entry
	Registerer prometheus.Registerer
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// interval is the time from one look at the workloads to the next.
const interval = 15 * time.Second

// Watch looks for guesses that were wrong. Of all replicas only the leader should call Lead.
type Watch struct {
	config Config
	noted  *prometheus.GaugeVec
	errors prometheus.Counter
	// seen is which workloads there are, by what they are.
	seen map[Key]sighting
}

// sighting is what is remembered of a workload from one look to the next.
type sighting struct {
	uid        types.UID
	containers uint64
	gone       time.Time // when it was first missed, or the zero time
	made       made
}

// maxSeen bounds the workloads that are remembered, some 200 bytes each.
const maxSeen = 100_000

// New returns a Watch, or an error that says what config lacks.
func New(config Config) (*Watch, error) {
	if config.Client == nil || config.Injector == nil || config.Notes == nil || config.NamespaceSelector == nil ||
		config.Log == nil || config.Registerer == nil {
		return nil, errors.New("watch for wrong guesses: the configuration is incomplete")
	}
	if config.Patience < 0 {
		return nil, fmt.Errorf("watch for wrong guesses: a patience of %s is negative", config.Patience)
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	w := &Watch{config: config, seen: map[Key]sighting{},
		noted: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "evenkeel_noted_workloads",
			Help: "Workloads to which evenkeel no longer adds something, by code: probe-never-succeeds (no guessed probe), " +
				"or reset-again (nothing at all). Zero where another replica leads."}, []string{"code"}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{Name: "evenkeel_note_errors_total",
			Help: "Looks for wrong guesses of this replica that failed."}),
	}
	w.count(nil)
	return w, collectors.Register(config.Registerer, w.noted, w.errors)
}

// Lead looks at once and then in intervals, until ctx ends.
func (w *Watch) Lead(ctx context.Context) error {
	defer w.count(nil)
	w.seen = map[Key]sighting{}
	pause.Loop{Ready: w.config.Notes.Ready, Interval: interval}.Run(ctx, func() {
		if err := w.once(ctx); err != nil && ctx.Err() == nil {
			w.errors.Inc()
			w.config.Log.WithError(err).Warn("look for wrong guesses not finished; trying again")
		}
		w.count(w.config.Notes.all())
	})
	return nil
}

func (w *Watch) count(notes map[Key]Note) {
	counts := map[patches.Skip]int{patches.SkipProbeFailed: 0, patches.SkipResetAgain: 0}
	for _, n := range notes {
		counts[n.Code]++
	}
	for code, n := range counts {
		w.noted.WithLabelValues(string(code)).Set(float64(n))
	}
}

// workload is what is read of a Deployment or StatefulSet.
type workload struct {
	Metadata struct {
		Name              string            `json:"name"`
		Namespace         string            `json:"namespace"`
		UID               types.UID         `json:"uid"`
		Annotations       map[string]string `json:"annotations"`
		DeletionTimestamp *string           `json:"deletionTimestamp"`
	} `json:"metadata"`
	Spec struct {
		Selector *metav1.LabelSelector `json:"selector"`
		Replicas *int                  `json:"replicas"`
		Template struct {
			Metadata struct {
				Annotations map[string]string `json:"annotations"`
			} `json:"metadata"`
		} `json:"template"`
	} `json:"spec"`
	Status struct {
		ReadyReplicas  int    `json:"readyReplicas"`
		UpdateRevision string `json:"updateRevision"`
		Conditions     []struct {
			Type   string `json:"type"`
			Reason string `json:"reason"`
		} `json:"conditions"`
	} `json:"status"`

	kind string
	raw  []byte
}

func (o *workload) key() Key {
	return Key{Namespace: o.Metadata.Namespace, Kind: o.kind, Name: o.Metadata.Name}
}

// record returns what was added to the pod template.
func (o *workload) record() string {
	return o.Spec.Template.Metadata.Annotations[policy.InjectedAnnotation]
}

// stuck reports whether a revision with a probe of ours may never have got ready: some pods aren't,
// and the Deployment has never been complete with this template.
func (o *workload) stuck() bool {
	wanted := 1
	if o.Spec.Replicas != nil {
		wanted = *o.Spec.Replicas
	}
	probed := strings.Contains(o.record(), "/"+patches.DefaultReadinessProbe+"=")
	if !probed || o.kind == "StatefulSet" && o.Status.ReadyReplicas >= wanted {
		return false
	}
	for _, c := range o.Status.Conditions {
		if c.Type == "Progressing" && c.Reason == "NewReplicaSetAvailable" {
			return false
		}
	}
	return wanted > 0
}

// look is what one look finds out.
type look struct {
	notes   map[Key]Note
	changed bool
	there   map[Key]bool
	stuck   []*workload
}

// once looks at all workloads of the opted-in namespaces.
func (w *Watch) once(ctx context.Context) error {
	namespaces, err := list.OptedIn(ctx, w.config.Client, w.config.NamespaceSelector, w.config.Except)
	if err != nil {
		return err
	}
	l := &look{notes: w.config.Notes.all(), there: map[Key]bool{}}
	for _, r := range []list.Resource{list.Deployments, list.StatefulSets} {
		_, err := list.Listing{Resource: r}.Each(ctx, w.config.Client, func(raw []byte) error {
			o := &workload{kind: r.Kind}
			if err := json.Unmarshal(raw, o); err != nil {
				return fmt.Errorf("read %s: %w", r.Kind, err)
			}
			annotations, optedIn := namespaces[o.Metadata.Namespace]
			if !optedIn || o.Metadata.DeletionTimestamp != nil {
				return nil
			}
			return w.see(ctx, l, o, raw, annotations)
		})
		if err != nil {
			return err
		}
	}
	for _, o := range l.stuck {
		if err := w.judge(ctx, l, o, namespaces[o.Metadata.Namespace]); err != nil {
			return err
		}
	}
	w.forget(l)
	if !l.changed {
		return nil
	}
	return w.config.Notes.write(ctx, l.notes)
}

// see looks at one workload as it is listed.
func (w *Watch) see(ctx context.Context, l *look, o *workload, raw []byte, namespace map[string]string) error {
	key := o.key()
	l.there[key] = true
	note, noted := l.notes[key]
	before, known := w.seen[key]
	stuck := w.config.Patience > 0 && o.stuck()
	remade := known && before.uid != o.Metadata.UID && o.record() != ""
	var guess patches.Guess
	if noted || stuck || remade || !known && o.record() != "" {
		var err error
		if guess, err = w.config.Injector.Guess(raw, namespace); err != nil {
			return nil //nolint:nilerr // what can't be read gets nothing either, and a review says why
		}
	}
	switch {
	case !known && (o.record() == "" || len(w.seen) >= maxSeen):
	case !known:
		w.seen[key] = sighting{uid: o.Metadata.UID, containers: guess.Fingerprint}
	case remade && before.containers == guess.Fingerprint:
		leave := before.made.again(w.config.Now())
		before.uid, before.gone = o.Metadata.UID, time.Time{}
		w.seen[key] = before
		if leave && !noted {
			w.note(ctx, l, o, patches.SkipResetAgain, guess)
		}
	case remade:
		w.seen[key] = sighting{uid: o.Metadata.UID, containers: guess.Fingerprint}
	case !before.gone.IsZero():
		before.gone = time.Time{}
		w.seen[key] = before
	}
	switch {
	case noted && (note.Containers != guess.Fingerprint || note.Code == patches.SkipProbeFailed && guess.Asked):
		delete(l.notes, key)
		l.changed = true
	case !noted && stuck && len(guess.Containers) > 0:
		o.raw = slices.Clone(raw)
		l.stuck = append(l.stuck, o)
	}
	return nil
}

// forget drops what is known of workloads that are gone for an hour: before that, they may be made
// anew.
func (w *Watch) forget(l *look) {
	now := w.config.Now()
	for key := range l.notes {
		if _, known := w.seen[key]; !known && !l.there[key] {
			w.seen[key] = sighting{gone: now}
		}
	}
	for key, s := range w.seen {
		switch {
		case l.there[key]:
		case s.gone.IsZero():
			s.gone = now
			w.seen[key] = s
		case now.Sub(s.gone) > madeWithin:
			delete(w.seen, key)
			if _, noted := l.notes[key]; noted {
				delete(l.notes, key)
				l.changed = true
			}
		}
	}
}

// judge looks at the pods of a workload that is stuck.
func (w *Watch) judge(ctx context.Context, l *look, o *workload, namespace map[string]string) error {
	guess, err := w.config.Injector.Guess(o.raw, namespace)
	if err != nil || len(guess.Containers) == 0 {
		return nil //nolint:nilerr // as in see
	}
	label, revision, err := w.revision(ctx, o)
	if err != nil || revision == "" {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(o.Spec.Selector)
	if err != nil {
		return nil //nolint:nilerr // the API server takes none that can't be read
	}
	var pods []Pod
	ofRevision := list.Listing{Resource: list.Pods, Namespace: o.Metadata.Namespace,
		Selector: join(selector, label, revision)}
	_, err = ofRevision.Each(ctx, w.config.Client, func(raw []byte) error {
		var p corev1.Pod
		if err := json.Unmarshal(raw, &p); err != nil {
			return fmt.Errorf("read Pod: %w", err)
		}
		if p.DeletionTimestamp == nil && len(pods) < maxPods {
			pods = append(pods, FromPod(&p, guess.Containers))
		}
		return nil
	})
	if err != nil {
		return err
	}
	now := w.config.Now()
	// A Deployment that is stuck was never complete; a StatefulSet may have been.
	if Failed(pods, w.config.Patience, now) || o.kind == "Deployment" && Partly(pods, w.config.Patience, now) {
		w.note(ctx, l, o, patches.SkipProbeFailed, guess)
	}
	return nil
}

// maxPods is how many pods of one revision are looked at.
const maxPods = 1000

// join adds a requirement to a selector.
func join(selector labels.Selector, label, value string) string {
	text := selector.String()
	if text != "" {
		text += ","
	}
	return text + label + "=" + value
}

// revision returns the label and its value that the pods of the current revision have: the one that a
// StatefulSet updates to, or that of the ReplicaSet whose revision is the Deployment's.
func (w *Watch) revision(ctx context.Context, o *workload) (label, value string, err error) {
	if o.kind == "StatefulSet" {
		return "controller-revision-hash", o.Status.UpdateRevision, nil
	}
	const number = "deployment.kubernetes.io/revision"
	selector, err := metav1.LabelSelectorAsSelector(o.Spec.Selector)
	if err != nil {
		return "", "", nil //nolint:nilerr // as in judge
	}
	sets := list.Listing{Resource: list.ReplicaSets, Namespace: o.Metadata.Namespace,
		Selector: selector.String(), Metadata: true}
	_, err = sets.Each(ctx, w.config.Client, func(raw []byte) error {
		var r metav1.PartialObjectMetadata
		if err := json.Unmarshal(raw, &r); err != nil {
			return fmt.Errorf("read ReplicaSet: %w", err)
		}
		owner := metav1.GetControllerOf(&r)
		if owner != nil && owner.UID == o.Metadata.UID && r.Annotations[number] == o.Metadata.Annotations[number] {
			value = r.Labels["pod-template-hash"]
		}
		return nil
	})
	return "pod-template-hash", value, err
}

// FromPod returns what is known of a pod, of which these containers have a guessed probe.
//
// A pod is unready from its first status on, at the latest when its init containers are done. So one
// that has been unready since then has never been ready
// (the condition's time changes with its status alone, kubernetes/pkg/kubelet/status).
func FromPod(p *corev1.Pod, guessed []string) Pod {
	var ready, initialized *corev1.PodCondition
	for i := range p.Status.Conditions {
		switch c := &p.Status.Conditions[i]; c.Type {
		case corev1.PodReady:
			ready = c
		case corev1.PodInitialized:
			initialized = c
		}
	}
	if ready == nil || initialized == nil || initialized.Status != corev1.ConditionTrue {
		return Pod{}
	}
	found := Pod{EverReady: ready.Status == corev1.ConditionTrue ||
		ready.LastTransitionTime.After(initialized.LastTransitionTime.Time)}
	up := len(p.Status.ContainerStatuses) == len(p.Spec.Containers)
	for i := range p.Status.ContainerStatuses {
		c := &p.Status.ContainerStatuses[i]
		if c.State.Running == nil {
			up = false
			continue
		}
		if at := c.State.Running.StartedAt.Time; at.After(found.Up) {
			found.Up = at
		}
		if slices.Contains(guessed, c.Name) && !c.Ready && c.Started != nil && *c.Started {
			found.Unready = true
		}
	}
	if !up {
		found.Up = time.Time{}
	}
	return found
}

// note notes something of a workload, and tells its author.
func (w *Watch) note(ctx context.Context, l *look, o *workload, code patches.Skip, guess patches.Guess) {
	n := Note{Key: o.key(), Code: code, Containers: guess.Fingerprint, Since: w.config.Now()}
	l.notes[n.Key], l.changed = n, true
	w.config.Log.WithFields(logrus.Fields{"kind": n.Kind, "namespace": n.Namespace, "name": n.Name,
		"code": string(code)}).Info("nothing more is guessed for a workload")
	reason, message := "ProbeNeverSucceeds", probeMessage(n.Key, guess.Containers)
	if code == patches.SkipResetAgain {
		reason, message = "ResetAgain", "it was made anew three times within an hour from a template without "+
			"evenkeel's additions, so evenkeel leaves it alone until a port or probe of it changes"
	}
	e := event.Event{Controller: "withdraw", Type: corev1.EventTypeWarning, Reason: reason, Message: message,
		About: corev1.ObjectReference{APIVersion: "apps/v1", Kind: n.Kind, Namespace: n.Namespace, Name: n.Name,
			UID: o.Metadata.UID},
		Key: string(o.Metadata.UID) + reason + message, At: n.Since}
	if err := e.Send(ctx, w.config.Client); err != nil {
		w.config.Log.WithError(err).Debug("event not written")
	}
}

// probeMessage says what was wrong and what helps.
func probeMessage(key Key, containers []string) string {
	workload := strings.ToLower(key.Kind) + "/" + key.Name
	names := strings.Join(containers, ", ")
	if len(names) > 200 {
		names = fmt.Sprint(len(containers), " of them")
	}
	return "pods of this revision run and never got ready with the readiness probe that evenkeel guessed for container " +
		names + ", so it is not guessed again: kubectl rollout restart " + workload +
		" takes it out, and kubectl annotate " + workload + " " + policy.Prefix + policy.SettingReadinessProbe +
		"=tcp:PORT asks for the right one"
}

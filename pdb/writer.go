package pdb

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1apply "k8s.io/client-go/applyconfigurations/meta/v1"
	policyv1apply "k8s.io/client-go/applyconfigurations/policy/v1"
)

// maxHeld is how many writes are held until their turn comes, a kilobyte each. Of more,
// those of the workloads with the most replicas; the namespaces of the others are
// looked at again when there is room.
const maxHeld = 2000

// hold is a write of a budget that is held until its turn comes.
type hold struct {
	namespace string
	decision  Decision
	budget    Budget // with UID of what exists where it is an update
}

func (h *hold) key() string { return h.namespace + "/" + h.budget.Name }

// before orders holds: a budget that steps aside first, since a drain has waited for it
// long enough, then by replicas, of which the most can be lost.
func (h *hold) before(other *hold) int {
	weight := func(h *hold) int32 {
		if !h.budget.Aside.IsZero() {
			return math.MaxInt32
		}
		return h.decision.Workload.Replicas
	}
	return cmp.Or(cmp.Compare(weight(other), weight(h)), cmp.Compare(h.key(), other.key()))
}

// writer holds the writes of budgets until the pace lets them go. Reconcile offers what
// a namespace needs, and whatever it offered before is forgotten.
type writer struct {
	pace    *pace
	now     func() time.Time
	changed func(namespace string) // has a namespace looked at again
	wake    chan struct{}

	mu      sync.Mutex
	held    []hold             // in the order of before
	more    map[string]int     // by namespace, what is needed and not held
	writing map[string]writing // by key
	pending map[string]string  // by key, the resource version of what waits for the disruption controller
	waiting int                // budgets of ours that the cache shows as not in force
}

// writing is a budget that is being written.
type writing struct {
	namespace string
	offered   bool // the namespace was looked at meanwhile
	touched   bool // the cache has shown a change meanwhile
}

func newWriter(most int, now func() time.Time, changed func(namespace string)) *writer {
	if most == 0 {
		most = MaxWaiting
	}
	return &writer{pace: newPace(most), now: now, changed: changed, wake: make(chan struct{}, 1),
		more: map[string]int{}, writing: map[string]writing{}, pending: map[string]string{}}
}

// offer replaces what is held for a namespace. Beside that, it needs so many writes
// later.
func (w *writer) offer(namespace string, holds []hold, later int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = slices.DeleteFunc(w.held, func(h hold) bool { return h.namespace == namespace })
	delete(w.more, namespace)
	if later > 0 {
		w.more[namespace] = later
	}
	for key, now := range w.writing {
		if now.namespace == namespace {
			now.offered = true
			w.writing[key] = now
		}
	}
	for _, h := range holds {
		if _, now := w.writing[h.key()]; !now {
			w.held = append(w.held, h)
		}
	}
	slices.SortFunc(w.held, func(a, b hold) int { return a.before(&b) })
	for _, h := range w.held[min(len(w.held), maxHeld):] {
		w.more[h.namespace]++
	}
	w.held = slices.Delete(w.held, min(len(w.held), maxHeld), len(w.held))
	w.poke()
}

// poke has run look whether something may be written.
func (w *writer) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// next returns what is to be written now.
func (w *writer) next() (hold, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	if len(w.held) == 0 || !w.pace.may(now) {
		return hold{}, false
	}
	h := w.held[0]
	w.held = slices.Delete(w.held, 0, 1)
	w.pace.wait(h.key(), now)
	w.writing[h.key()] = writing{namespace: h.namespace}
	return h, true
}

// run writes what is held until ctx ends, and returns when the last write is over.
func (w *writer) run(ctx context.Context, write func(context.Context, hold)) {
	var group sync.WaitGroup
	defer group.Wait()
	tick := time.NewTicker(time.Second) // for what a disruption controller that doesn't answer holds up
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-tick.C:
		}
		for h, ok := w.next(); ok; h, ok = w.next() {
			group.Go(func() { write(ctx, h) })
		}
	}
}

// shown is what the cache shows of a budget that was just stored: nothing yet, or as it
// was stored or later, whether it is in force, and whether it says the same.
type shown struct{ yet, inForce, same bool }

// wrote notes that a write is over. stored is nil where nothing was written.
func (w *writer) wrote(h *hold, stored *policyv1.PodDisruptionBudget, look func() shown) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := h.key()
	was := w.writing[key]
	delete(w.writing, key)
	var cache shown
	if stored != nil {
		cache = look() // under the lock, so that shows misses nothing
	}
	switch {
	case stored == nil, counted(stored):
		w.pace.drop(key)
	case cache.yet && cache.inForce:
		w.pace.counted(key, w.now())
	default:
		w.pending[key] = stored.ResourceVersion
	}
	if was.offered || was.touched && !(cache.yet && cache.same) {
		w.changed(h.namespace)
	}
	w.catchUp(h.namespace)
	w.poke()
}

// catchUp has namespaces looked at again of which not everything is held.
func (w *writer) catchUp(namespace string) {
	if len(w.more) == 0 {
		return
	}
	holds := map[string]bool{}
	for i := range w.held {
		holds[w.held[i].namespace] = true
	}
	for _, now := range w.writing {
		holds[now.namespace] = true
	}
	for other := range w.more {
		if !holds[other] && (other == namespace || len(w.held) < maxHeld/2) {
			delete(w.more, other)
			w.changed(other)
		}
	}
}

// shows notes what the cache shows of a budget: whether it waits for the disruption
// controller, now and before. It reports whether the budget is being written.
func (w *writer) shows(key, resourceVersion string, before, waits, gone bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting += number01(waits && !gone) - number01(before)
	now, writes := w.writing[key]
	if writes {
		now.touched = true
		w.writing[key] = now
		return true
	}
	since, pending := w.pending[key]
	switch {
	case gone:
		delete(w.pending, key)
		w.pace.drop(key)
	case waits:
		if !pending && !w.pace.waits(key) && !before { // of the leader before us, or somebody has changed it
			w.pending[key] = resourceVersion
			w.pace.wait(key, w.now())
		}
	case pending && !older(resourceVersion, since):
		delete(w.pending, key)
		w.pace.counted(key, w.now())
	}
	w.poke()
	return false
}

func number01(is bool) int {
	if is {
		return 1
	}
	return 0
}

// notInForce returns how many budgets are needed and not written yet, and how many are
// written and wait for the disruption controller.
func (w *writer) notInForce() (held, waiting int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	held = len(w.held)
	for _, n := range w.more {
		held += n
	}
	return held, w.waiting
}

// counted reports whether the disruption controller has counted the pods of a budget
// since it was last changed.
func counted(b *policyv1.PodDisruptionBudget) bool {
	return b.Status.ObservedGeneration >= b.Generation
}

// apply removes what is to go, and has the writer hold the rest. What is new is offered
// after changes of a selector, since what changes may select pods that something new
// is to select.
func (t *term) apply(ctx context.Context, namespace string, decisions []Decision, c changes) error {
	if err := each(c.remove, func(b Budget) error { return t.remove(ctx, namespace, b) }); err != nil {
		return err
	}
	workloads := make(map[string]*Decision, len(c.create)+len(c.update))
	for i := range decisions {
		if b := decisions[i].Budget; b != nil {
			workloads[b.Name] = &decisions[i]
		}
	}
	offered, later := c.update, len(c.create)
	if !c.reselects {
		offered, later = append(offered, c.create...), 0
	}
	var holds []hold
	for _, b := range offered {
		if t.isDenied(namespace, b.Name) {
			continue
		}
		d := *workloads[b.Name]
		w := *d.Workload // the others of the namespace are not to be kept
		w.TemplateLabels = nil
		d.Workload = &w
		holds = append(holds, hold{namespace: namespace, decision: d, budget: b})
	}
	t.writer.offer(namespace, holds, later)
	return nil
}

// remove deletes a budget.
func (t *term) remove(ctx context.Context, namespace string, b Budget) error {
	err := t.client.PolicyV1().PodDisruptionBudgets(namespace).Delete(ctx, b.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &b.UID, ResourceVersion: &b.ResourceVersion}})
	if apierrors.IsNotFound(err) {
		err = nil
	}
	t.count("delete", err)
	if err != nil {
		return fmt.Errorf("delete budget: %w", err)
	}
	t.wrote(namespace, b, true)
	t.log.WithFields(logrus.Fields{"namespace": namespace, "name": b.Name}).Debug("budget deleted")
	return nil
}

// write creates or changes a budget whose turn has come.
func (t *term) write(ctx context.Context, h hold) {
	operation := "create"
	now, err := t.current(h.namespace, h.budget.Name)
	switch {
	case err == nil && now == nil && h.budget.UID == "":
	case err == nil && now != nil && now.UID == h.budget.UID && now.Ours && !same(now, &h.budget):
		operation = "update"
		h.budget.ResourceVersion = now.ResourceVersion // its status changes all the time
	default: // the namespace was looked at before the last write was over, or somebody was faster
		t.writer.wrote(&h, nil, nil)
		t.changed(h.namespace)
		return
	}
	stored, err := t.store(ctx, operation, h)
	if err != nil {
		t.failed(ctx, h, err)
		t.writer.wrote(&h, nil, nil)
		return
	}
	t.accept(h.namespace, h.budget.Name)
	t.retries.Forget(h.namespace)
	b := FromBudget(stored)
	b.ResourceVersion = stored.ResourceVersion
	t.wrote(h.namespace, b, false)
	t.events.wrote(h.namespace, &h.decision, operation == "create")
	t.log.WithFields(logrus.Fields{"namespace": h.namespace, "name": b.Name, "operation": operation,
		"code": h.decision.Code}).Debug("budget written")
	t.writer.wrote(&h, stored, func() shown { return t.shown(h.namespace, stored) })
	if !b.Aside.IsZero() {
		t.changed(h.namespace) // for when it returns
	}
}

// store writes a budget.
func (t *term) store(ctx context.Context, operation string, h hold) (*policyv1.PodDisruptionBudget, error) {
	apply := func(operation string, b Budget) (*policyv1.PodDisruptionBudget, error) {
		stored, err := t.client.PolicyV1().PodDisruptionBudgets(h.namespace).Apply(ctx, configuration(h.namespace, b),
			metav1.ApplyOptions{FieldManager: Manager, Force: true})
		t.count(operation, err)
		return stored, err
	}
	stored, err := apply(operation, h.budget)
	if operation != "update" || !apierrors.IsInvalid(err) {
		return stored, err
	}
	// Somebody has put minAvailable beside our maxUnavailable, or the other way round; a
	// field of another manager does not go by applying ours.
	if err := t.remove(ctx, h.namespace, h.budget); err != nil {
		return nil, err
	}
	b := h.budget
	b.UID, b.ResourceVersion = "", ""
	return apply("create", b)
}

// failed has a write that failed tried again: soon where the API server could not do
// it, after a while where it refused.
func (t *term) failed(ctx context.Context, h hold, err error) {
	entry := t.log.WithError(err).WithField("namespace", h.namespace)
	switch {
	case ctx.Err() != nil:
		return
	case apierrors.IsForbidden(err):
		t.deny(h.namespace, h.budget.Name, err)
		return
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		entry.Debug("somebody else was faster")
	default:
		t.metrics.errors.Inc()
		entry.Warn("budget not written; trying again")
	}
	t.queue.AddAfter(h.namespace, t.retries.When(h.namespace))
}

// current returns a budget as the cache and what was written since have it, or nil.
func (t *term) current(namespace, name string) (*Budget, error) {
	object, _, err := t.budgets.GetIndexer().GetByKey(namespace + "/" + name)
	if err != nil {
		return nil, fmt.Errorf("read cache: %w", err)
	}
	t.mu.Lock()
	w, written := t.unseen[namespace][name]
	t.mu.Unlock()
	s, ok := object.(*budgetObject)
	switch {
	case written && w.removed:
		return nil, nil
	case written && (!ok || older(s.resourceVersion, w.budget.ResourceVersion)):
		return &w.budget, nil
	case !ok:
		return nil, nil
	}
	b, err := t.read(s)
	return &b, err
}

// shown returns what the cache shows of a budget that was just stored.
func (t *term) shown(namespace string, stored *policyv1.PodDisruptionBudget) shown {
	object, _, err := t.budgets.GetIndexer().GetByKey(namespace + "/" + stored.Name)
	s, ok := object.(*budgetObject)
	if err != nil || !ok || older(s.resourceVersion, stored.ResourceVersion) {
		return shown{}
	}
	kept, err := packBudget(&t.rules)(stored)
	same, ok := kept.(*budgetObject)
	return shown{yet: true, inForce: !s.value.waits, same: err == nil && ok && same.value.packed == s.value.packed}
}

// configuration returns what is applied. UID and ResourceVersion of what exists make
// the API server refuse when that has changed meanwhile, in the hands of somebody
// who takes it over, for example. Without them the resource version is 0, which
// makes it refuse where anything of the name exists.
func configuration(namespace string, b Budget) *policyv1apply.PodDisruptionBudgetApplyConfiguration {
	spec := policyv1apply.PodDisruptionBudgetSpec().WithSelector(selectorConfiguration(b.Selector)).
		WithUnhealthyPodEvictionPolicy(policyv1.AlwaysAllow)
	spec.MinAvailable, spec.MaxUnavailable = b.MinAvailable, b.MaxUnavailable
	a := policyv1apply.PodDisruptionBudget(b.Name, namespace).WithSpec(spec).
		WithLabels(map[string]string{ManagedByLabel: Manager})
	if b.Instance != "" {
		a = a.WithLabels(map[string]string{InstanceLabel: b.Instance})
	}
	if !b.Aside.IsZero() {
		a = a.WithAnnotations(map[string]string{AsideAnnotation: b.Aside.UTC().Format(time.RFC3339)})
	}
	for _, o := range b.Owners {
		a = a.WithOwnerReferences(metav1apply.OwnerReference().WithAPIVersion(o.APIVersion).WithKind(o.Kind).
			WithName(o.Name).WithUID(o.UID))
	}
	if b.UID == "" {
		return a.WithResourceVersion("0")
	}
	return a.WithUID(b.UID).WithResourceVersion(b.ResourceVersion)
}

func selectorConfiguration(s *metav1.LabelSelector) *metav1apply.LabelSelectorApplyConfiguration {
	a := metav1apply.LabelSelector().WithMatchLabels(s.MatchLabels)
	for _, r := range s.MatchExpressions {
		a = a.WithMatchExpressions(metav1apply.LabelSelectorRequirement().WithKey(r.Key).WithOperator(r.Operator).
			WithValues(r.Values...))
	}
	return a
}

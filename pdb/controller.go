package pdb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/evenkeel/evenkeel/internal/list"
	"github.com/evenkeel/evenkeel/policy"
)

// Config says how a Controller works.
type Config struct {
	// Client, Metadata and Dynamic reach the API server. They need no rate limits: the
	// API server's own flow control holds against too much.
	Client   kubernetes.Interface
	Metadata metadata.Interface
	Dynamic  dynamic.Interface
	// Instance tells the budgets of this installation from those of another in the same
	// cluster: the namespace that evenkeel runs in. Budgets of an earlier version, which
	// say no instance, are ours too. "" takes the budgets of every instance for ours.
	Instance string
	// Base and Bounds are the operator's settings.
	Base   policy.Policy
	Bounds policy.Bounds
	// NamespaceSelector selects the opted-in Namespaces; nil means
	// policy.InjectLabel=policy.Enabled.
	NamespaceSelector labels.Selector
	// Except are names of Namespaces that get no budgets whatever their labels, as
	// evenkeel is never called for them.
	Except []string
	Log    *logrus.Entry
	// MaxWaiting is how many budgets that are new or changed may wait for the disruption
	// controller at a time, at most; 0 means the constant of the same name.
	MaxWaiting int
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Registerer takes the metrics; nil means none.
	Registerer prometheus.Registerer
}

// Controller keeps the budgets of all opted-in namespaces as Desired says. Of all
// replicas only the leader should call Lead; the others keep no caches.
type Controller struct {
	config   Config
	rules    Rules
	client   kubernetes.Interface
	metadata metadata.Interface
	dynamic  dynamic.Interface
	metrics  *metrics
	log      *logrus.Entry
	selector labels.Selector

	unsynced atomic.Bool // leads, and its caches are not complete yet
}

// New returns a Controller, or an error that says what is missing in config.
func New(config Config) (*Controller, error) {
	switch {
	case config.Client == nil || config.Metadata == nil || config.Dynamic == nil:
		return nil, errors.New("budget controller: a client is missing")
	case config.Log == nil:
		return nil, errors.New("budget controller: no log is configured")
	}
	c := &Controller{config: config, rules: Rules{Base: config.Base, Bounds: config.Bounds, Instance: config.Instance},
		client: config.Client, metadata: config.Metadata, dynamic: config.Dynamic, log: config.Log,
		selector: config.NamespaceSelector}
	if c.config.Now == nil {
		c.config.Now = time.Now
	}
	if c.selector == nil {
		c.selector = labels.SelectorFromSet(labels.Set{policy.InjectLabel: policy.Enabled})
	}
	var err error
	if c.metrics, err = newMetrics(config.Registerer); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return c, nil
}

// Synced reports whether the controller does its work: it leads and its caches are
// complete, or it stands by.
func (c *Controller) Synced() bool { return !c.unsynced.Load() }

// delays of the queue. What changes together is looked at together.
const (
	settle     = 20 * time.Millisecond
	settlePods = 300 * time.Millisecond // of which there are many, mostly of a known kind
	lookAgain  = time.Second            // where more had to be looked up than is at once
	workers    = 4
	deleters   = 16 // at once, of each worker
)

// term is one term of leadership: its caches, its queue, and what it wrote.
type term struct {
	*Controller
	namespaces, deployments, statefulSets, autoscalers, budgets, pods, quotas cache.SharedIndexInformer

	kinds   *kinds
	queue   workqueue.TypedRateLimitingInterface[string]
	retries workqueue.TypedRateLimiter[string] // of writes, by namespace
	writer  *writer
	events  *events

	// synced returns the resource version that the cache of budgets has come to.
	synced func() string

	mu     sync.Mutex
	unseen map[string]map[string]unseen // by namespace and name of the budget
	denied map[string]map[string]denial // likewise
}

// unseen is a write that the cache does not show yet.
type unseen struct {
	budget  Budget
	removed bool
	at      time.Time
}

// lostAfter is how long a write may be missing from a cache that has come further. Its
// budget is gone then: somebody deleted it in a gap of the watch, of which a cache that
// never had it tells nothing.
const lostAfter = 30 * time.Second

func newTerm(c *Controller) *term {
	limiter := func() workqueue.TypedRateLimiter[string] {
		return workqueue.NewTypedItemExponentialFailureRateLimiter[string](50*time.Millisecond, 10*time.Second)
	}
	t := &term{Controller: c, unseen: map[string]map[string]unseen{}, denied: map[string]map[string]denial{},
		events: newEvents(c.client, c.log), queue: workqueue.NewTypedRateLimitingQueue(limiter()), retries: limiter()}
	t.writer = newWriter(c.config.MaxWaiting, func() time.Time { return c.config.Now() }, t.changed)
	return t
}

// Lead keeps the budgets until ctx ends, and returns when the last write is over.
func (c *Controller) Lead(ctx context.Context) error {
	c.unsynced.Store(true)
	defer c.unsynced.Store(false)
	t := newTerm(c)
	defer t.queue.ShutDown()
	defer c.metrics.lead(nil, nil)

	var group errgroup.Group
	defer func() { _ = group.Wait() }() // its functions return no error
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	run := func(f func(context.Context)) { group.Go(func() error { f(ctx); return nil }) }

	if err := t.watch(); err != nil {
		return err
	}
	discovery := memory.NewMemCacheClient(c.client.Discovery())
	t.kinds = &kinds{client: c.client, discovery: c.client.Discovery(),
		mapper: restmapper.NewDeferredDiscoveryRESTMapper(discovery), dynamic: c.dynamic, metadata: c.metadata,
		changed: t.changed, run: run, known: map[schema.GroupKind]*kind{}, replicaSets: map[types.UID]above{}}
	all := []cache.SharedIndexInformer{t.namespaces, t.deployments, t.statefulSets, t.autoscalers, t.budgets, t.pods,
		t.quotas}
	var synced []cache.InformerSynced
	for _, informer := range all {
		run(informer.RunWithContext)
		synced = append(synced, informer.HasSynced)
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return ctx.Err()
	}
	c.unsynced.Store(false)
	// Not before: a leader that may not list what it needs does nothing, and an alert has to see it.
	c.metrics.lead(t.queue.Len, t.writer.notInForce)
	c.log.Debug("caches complete")
	run(t.events.run)
	run(func(ctx context.Context) { t.writer.run(ctx, t.write) })
	for range workers {
		run(t.work)
	}
	<-ctx.Done()
	t.queue.ShutDown()
	return nil
}

// watch makes the informers.
func (t *term) watch() error {
	partial := func(resource list.Resource) watches {
		source := t.metadata.Resource(corev1.SchemeGroupVersion.WithResource(resource.Plural))
		return func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return source.Watch(ctx, o) }
	}
	var errs [7]error
	t.namespaces, errs[0] = inform[metav1.PartialObjectMetadata](t.client,
		list.Listing{Resource: list.Namespaces, Selector: t.selector.String(), Metadata: true},
		partial(list.Namespaces), trim(trimNamespace), handler[namespaceFacts](t.changed))
	changedPods := func(namespace string) { t.queue.AddAfter(namespace, settlePods) }
	t.pods, errs[1] = inform[metav1.PartialObjectMetadata](t.client, list.Listing{Resource: list.Pods, Metadata: true},
		partial(list.Pods), trim(trimPod), handler[podFacts](changedPods))
	t.deployments, errs[2] = inform[appsv1.Deployment](t.client, list.Listing{Resource: list.Deployments},
		t.client.AppsV1().Deployments("").Watch, pack(keepDeployment), handler[packed](t.changed))
	t.statefulSets, errs[3] = inform[appsv1.StatefulSet](t.client, list.Listing{Resource: list.StatefulSets},
		t.client.AppsV1().StatefulSets("").Watch, pack(keepStatefulSet), handler[packed](t.changed))
	t.autoscalers, errs[4] = inform[autoscalingv2.HorizontalPodAutoscaler](t.client,
		list.Listing{Resource: list.Autoscalers}, t.client.AutoscalingV2().HorizontalPodAutoscalers("").Watch,
		trim[*autoscalingv2.HorizontalPodAutoscaler](FromAutoscaler), handler[Autoscaler](t.changed))
	t.budgets, errs[5] = inform[policyv1.PodDisruptionBudget](t.client, list.Listing{Resource: list.Budgets},
		t.client.PolicyV1().PodDisruptionBudgets("").Watch, packBudget(&t.rules),
		cache.ResourceEventHandlerFuncs{
			AddFunc:    func(object any) { t.sees(nil, object, false) },
			UpdateFunc: func(before, after any) { t.sees(before, after, false) },
			DeleteFunc: func(object any) { t.sees(nil, object, true) },
		})
	quotas := list.Resource{APIVersion: "v1", Kind: "ResourceQuota", Plural: "resourcequotas", Client: list.Core}
	t.quotas, errs[6] = inform[corev1.ResourceQuota](t.client, list.Listing{Resource: quotas},
		t.client.CoreV1().ResourceQuotas("").Watch, trim[*corev1.ResourceQuota](trimQuota), handler[quotaFacts](t.changed))
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	t.synced = t.budgets.LastSyncResourceVersion
	return nil
}

// watches watches a resource.
type watches = func(context.Context, metav1.ListOptions) (watch.Interface, error)

// inform makes an informer that holds no more than one whole object, and stores what transform makes
// of it.
func inform[T any, O interface {
	*T
	runtime.Object
}](
	client kubernetes.Interface, l list.Listing, source watches, transform cache.TransformFunc,
	handlers ...cache.ResourceEventHandler,
) (cache.SharedIndexInformer, error) {
	objects := l.Watched(client, list.Transformed[T, O](transform), source)
	informer := cache.NewSharedIndexInformer(objects, O(new(T)), 0, indexers())
	err := informer.SetTransform(transform)
	for _, h := range handlers {
		_, added := informer.AddEventHandler(h)
		err = errors.Join(err, added)
	}
	if err != nil {
		return nil, fmt.Errorf("set up informers: %w", err)
	}
	return informer, nil
}

func (t *term) changed(namespace string) { t.queue.AddAfter(namespace, settle) }

// work looks at one namespace after the other until the queue is shut down.
func (t *term) work(ctx context.Context) {
	for {
		namespace, shutdown := t.queue.Get()
		if shutdown {
			return
		}
		start := time.Now()
		err := t.reconcile(ctx, namespace)
		t.metrics.reconcile.Observe(time.Since(start).Seconds())
		switch {
		case err == nil:
			t.queue.Forget(namespace)
		case ctx.Err() == nil:
			entry := t.log.WithError(err).WithField("namespace", namespace)
			if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
				entry.Debug("somebody else was faster")
			} else {
				t.metrics.errors.Inc()
				entry.Warn("budgets of a namespace not written; trying again")
			}
			t.queue.AddRateLimited(namespace)
		}
		t.queue.Done(namespace)
	}
}

// reconcile leads the budgets of a namespace to what Desired says.
func (t *term) reconcile(ctx context.Context, name string) error {
	n, err := t.list(ctx, name)
	if err != nil {
		return err
	}
	if n == nil {
		t.metrics.decided(name, nil)
		t.writer.offer(name, nil, 0)
		t.forget(name)
		return nil
	}
	var again time.Time
	n.Refused, again = t.denials(name, n.Now)
	if !again.IsZero() {
		t.queue.AddAfter(name, again.Sub(n.Now))
	}
	decisions := Desired(*n, t.rules)
	t.metrics.decided(name, decisions)
	t.events.decided(name, decisions)
	for i := range decisions {
		if next := decisions[i].Next; !next.IsZero() {
			t.queue.AddAfter(name, next.Sub(n.Now))
		}
	}
	return t.apply(ctx, name, decisions, diff(n.Budgets, decisions))
}

// list returns what is in a namespace, or nil for one that is being deleted.
func (t *term) list(ctx context.Context, name string) (*Namespace, error) {
	n := &Namespace{Name: name, Now: t.config.Now()}
	object, exists, err := t.namespaces.GetIndexer().GetByKey(name)
	if err != nil {
		return nil, fmt.Errorf("read cache: %w", err)
	}
	if facts, ok := object.(*stored[namespaceFacts]); ok && exists {
		if facts.value.terminating {
			return nil, nil
		}
		n.OptedIn = !slices.Contains(t.config.Except, name)
		n.Setting, n.Patience = facts.value.setting, facts.value.patience
	}
	if n.Budgets, err = t.existing(name); err != nil || !n.OptedIn {
		return n, err
	}

	deploymentNames := map[string]bool{}
	for _, kind := range []struct {
		informer cache.SharedIndexInformer
		unpack   func(packed) (w Workload, terminating bool, err error)
	}{{t.deployments, packed.deployment}, {t.statefulSets, packed.statefulSet}} {
		all, err := values[packed](kind.informer, name)
		if err != nil {
			return nil, err
		}
		n.Workloads = slices.Grow(n.Workloads, len(all))
		for _, s := range all {
			if kind.informer == t.deployments {
				deploymentNames[s.name] = true
			}
			w, terminating, err := kind.unpack(s.value)
			if err != nil {
				return nil, err
			}
			if !terminating {
				n.Workloads = append(n.Workloads, w)
			}
		}
	}
	autoscalers, err := values[Autoscaler](t.autoscalers, name)
	if err != nil {
		return nil, err
	}
	for _, a := range autoscalers {
		n.Autoscalers = append(n.Autoscalers, a.value)
	}

	if n.Room, err = t.room(name, len(n.Budgets)); err != nil {
		return nil, err
	}

	// Kinds that a budget of ours belongs to are known even while there are no pods.
	for i := range n.Budgets {
		b := &n.Budgets[i]
		if !b.Ours || len(b.Owners) == 0 {
			continue
		}
		if r := (reference{apiVersion: b.Owners[0].APIVersion, kind: b.Owners[0].Kind}); r.groupKind() != deploymentKind &&
			r.groupKind() != statefulKind {
			if _, err := t.kinds.find(ctx, r); err != nil {
				return nil, err
			}
		}
	}
	pods, err := values[podFacts](t.pods, name)
	if err != nil {
		return nil, err
	}
	noAccess := map[string]Workload{}
	looked := map[podFacts]bool{}
	may := &lookups{left: maxLookups}
	for _, p := range pods {
		if looked[p.value] {
			continue
		}
		looked[p.value] = true
		class := p.value.Value()
		labels := decode(class.labels)
		owner, scalable, err := t.kinds.owner(ctx, name, class.controller, labels["pod-template-hash"],
			func(name string) bool { return deploymentNames[name] }, may)
		if err != nil {
			return nil, err
		}
		n.Pods = append(n.Pods, Pods{Labels: labels, Unscalable: !scalable})
		if owner.kind == "" {
			continue
		}
		if known, err := t.kinds.find(ctx, owner); err != nil {
			return nil, err
		} else if known.noAccess {
			noAccess[owner.kind+"/"+owner.name] = Workload{APIVersion: owner.apiVersion, Kind: owner.kind, Name: owner.name,
				UID: owner.uid, NoAccess: true}
		}
	}
	if may.short {
		t.queue.AddAfter(name, lookAgain)
	}
	custom, err := t.kinds.workloads(ctx, name)
	if err != nil {
		return nil, err
	}
	n.Workloads = append(n.Workloads, custom...)
	n.Workloads = slices.AppendSeq(n.Workloads, maps.Values(noAccess))
	return n, nil
}

// existing returns the budgets of a namespace: the cache, and what was written since.
func (t *term) existing(namespace string) ([]Budget, error) {
	cached, err := values[budgetFacts](t.budgets, namespace)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	waiting := maps.Clone(t.unseen[namespace])
	budgets := make([]Budget, 0, len(cached))
	for _, s := range cached {
		b, err := t.read(s)
		if err != nil {
			return nil, err
		}
		if w, ok := waiting[b.Name]; ok {
			delete(waiting, b.Name)
			if w.removed && w.budget.UID == b.UID {
				continue
			}
			if !w.removed && older(b.ResourceVersion, w.budget.ResourceVersion) {
				b = w.budget
			}
		}
		budgets = append(budgets, b)
	}
	now := t.config.Now()
	for name, w := range waiting {
		switch {
		case w.removed:
		case now.Sub(w.at) >= lostAfter && reached(t.synced(), w.budget.ResourceVersion):
			t.drop(namespace, name)
		default:
			budgets = append(budgets, w.budget)
			t.queue.AddAfter(namespace, lostAfter)
		}
	}
	slices.SortFunc(budgets, func(a, b Budget) int { return strings.Compare(a.Name, b.Name) })
	return budgets, nil
}

// read returns a budget as the cache has it.
func (t *term) read(s *budgetObject) (Budget, error) {
	b, err := s.value.packed.budget()
	b.ResourceVersion = s.resourceVersion
	b.Ours = b.Ours && t.rules.owns(b.Instance)
	return b, err
}

// older reports whether resource version a is before b.
func older(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order < 0
}

// reached reports whether a cache that stands at resource version a has come to b.
func reached(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order >= 0
}

// wrote remembers a write until the cache shows it, so that nothing is written twice.
func (t *term) wrote(namespace string, b Budget, removed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	// The cache may have been faster than the answer; it is changed before saw is called.
	object, exists, err := t.budgets.GetIndexer().GetByKey(namespace + "/" + b.Name)
	if s, ok := object.(*budgetObject); err == nil &&
		(removed && !exists || ok && !removed && !older(s.resourceVersion, b.ResourceVersion)) {
		return
	}
	if t.unseen[namespace] == nil {
		t.unseen[namespace] = map[string]unseen{}
	}
	t.unseen[namespace][b.Name] = unseen{budget: b, removed: removed, at: t.config.Now()}
	t.queue.AddAfter(namespace, lostAfter)
}

// drop forgets a write; mu is held.
func (t *term) drop(namespace, name string) {
	delete(t.unseen[namespace], name)
	if len(t.unseen[namespace]) == 0 {
		delete(t.unseen, namespace)
	}
}

// sees takes in what the cache shows of a budget, before is nil for one that comes, and
// has its namespace looked at unless it is our own write or nothing that matters.
func (t *term) sees(before, after any, gone bool) {
	if tombstone, ok := after.(cache.DeletedFinalStateUnknown); ok {
		after = tombstone.Obj
	}
	s, ok := after.(*budgetObject)
	if !ok {
		return
	}
	b, known := before.(*budgetObject)
	ours := t.saw(s, gone)
	waited := known && b.value.waits || gone && s.value.waits
	if t.writer.shows(s.namespace+"/"+s.name, s.resourceVersion, waited, s.value.waits, gone) || ours {
		return
	}
	if gone || !known || b.value.packed != s.value.packed {
		t.changed(s.namespace)
	}
}

// saw forgets a write that the cache shows, or that something after it has undone, and
// reports whether the cache shows just the write.
func (t *term) saw(s *budgetObject, gone bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	w, ok := t.unseen[s.namespace][s.name]
	if !ok {
		return false
	}
	b, err := s.value.packed.budget()
	before := w.removed && w.budget.UID == b.UID || !w.removed && older(s.resourceVersion, w.budget.ResourceVersion)
	if err != nil || !gone && before {
		return false
	}
	if gone && !w.removed && w.budget.UID != b.UID {
		return false // the one before it went
	}
	t.drop(s.namespace, s.name)
	return gone == w.removed && w.budget.UID == b.UID && (gone || s.resourceVersion == w.budget.ResourceVersion)
}

// each calls write for all budgets, several at once, and returns the first error.
func each(budgets []Budget, write func(Budget) error) error {
	var group errgroup.Group
	group.SetLimit(deleters)
	for _, b := range budgets {
		group.Go(func() error { return write(b) })
	}
	return group.Wait()
}

// count counts a write.
func (t *term) count(operation string, err error) {
	result := "ok"
	switch {
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		result = "conflict"
	case err != nil:
		result = "error"
	}
	t.metrics.writes.WithLabelValues(operation, result).Inc()
}

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
	metav1apply "k8s.io/client-go/applyconfigurations/meta/v1"
	policyv1apply "k8s.io/client-go/applyconfigurations/policy/v1"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/evenkeel/evenkeel/internal/list"
	"github.com/evenkeel/evenkeel/policy"
)

// Config says how a Controller works.
type Config struct {
	// REST says how to reach the API server. Its rate limits are taken off: there is
	// one write per budget, and the API server's own flow control holds against more.
	REST *rest.Config
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
	case config.REST == nil:
		return nil, errors.New("budget controller: no API server is configured")
	case config.Log == nil:
		return nil, errors.New("budget controller: no log is configured")
	}
	c := &Controller{config: config, rules: Rules{Base: config.Base, Bounds: config.Bounds}, log: config.Log, selector: config.NamespaceSelector}
	if c.config.Now == nil {
		c.config.Now = time.Now
	}
	if c.selector == nil {
		c.selector = labels.SelectorFromSet(labels.Set{policy.InjectLabel: policy.Enabled})
	}
	unlimited := rest.CopyConfig(config.REST)
	unlimited.QPS, unlimited.RateLimiter = -1, nil
	plain := rest.CopyConfig(unlimited) // custom resources have no protobuf
	plain.ContentType, plain.AcceptContentTypes = "", ""
	var err error
	if c.client, err = kubernetes.NewForConfig(unlimited); err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	if c.metadata, err = metadata.NewForConfig(unlimited); err != nil {
		return nil, fmt.Errorf("make metadata client: %w", err)
	}
	if c.dynamic, err = dynamic.NewForConfig(plain); err != nil {
		return nil, fmt.Errorf("make dynamic client: %w", err)
	}
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
	workers    = 4
	writers    = 16 // at once, of each worker
)

// term is one term of leadership: its caches, its queue, and what it wrote.
type term struct {
	*Controller
	namespaces, deployments, statefulSets, autoscalers, budgets, pods cache.SharedIndexInformer

	kinds  *kinds
	queue  workqueue.TypedRateLimitingInterface[string]
	events *events

	mu     sync.Mutex
	unseen map[string]map[string]unseen // by namespace and name of the budget
}

// unseen is a write that the cache does not show yet.
type unseen struct {
	budget  Budget
	removed bool
}

// Lead keeps the budgets until ctx ends, and returns when the last write is over.
func (c *Controller) Lead(ctx context.Context) error {
	c.unsynced.Store(true)
	defer c.unsynced.Store(false)
	t := &term{Controller: c, unseen: map[string]map[string]unseen{}, events: newEvents(c.client, c.log)}
	t.queue = workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](50*time.Millisecond, 10*time.Second))
	defer t.queue.ShutDown()
	defer c.metrics.lead(nil)

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
		changed: t.changed, run: run, known: map[schema.GroupKind]*kind{}, replicaSets: map[types.UID]reference{}}
	all := []cache.SharedIndexInformer{t.namespaces, t.deployments, t.statefulSets, t.autoscalers, t.budgets, t.pods}
	var synced []cache.InformerSynced
	for _, informer := range all {
		run(informer.RunWithContext)
		synced = append(synced, informer.HasSynced)
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return ctx.Err()
	}
	c.unsynced.Store(false)
	c.metrics.lead(t.queue.Len) // not before: a leader that may not list what it needs does nothing, and an alert has to see it
	c.log.Debug("caches complete")
	run(t.events.run)
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
	var errs [6]error
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
		t.client.PolicyV1().PodDisruptionBudgets("").Watch, pack(keepBudget),
		cache.ResourceEventHandlerFuncs{ // before the one that has the namespace looked at
			AddFunc:    func(object any) { t.saw(object, false) },
			UpdateFunc: func(_, object any) { t.saw(object, false) },
			DeleteFunc: func(object any) { t.saw(object, true) },
		}, handler[packed](t.changed))
	return errors.Join(errs[:]...)
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

// reconcile makes the budgets of a namespace what Desired says.
func (t *term) reconcile(ctx context.Context, name string) error {
	n, err := t.list(ctx, name)
	if err != nil {
		return err
	}
	if n == nil {
		t.metrics.decided(name, nil)
		return nil
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

	// Kinds that a budget of ours belongs to are known even while there are no pods.
	for i := range n.Budgets {
		b := &n.Budgets[i]
		if !b.Ours || len(b.Owners) == 0 {
			continue
		}
		if r := (reference{apiVersion: b.Owners[0].APIVersion, kind: b.Owners[0].Kind}); r.groupKind() != deploymentKind && r.groupKind() != statefulKind {
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
	for _, p := range pods {
		if looked[p.value] {
			continue
		}
		looked[p.value] = true
		class := p.value.Value()
		labels := decode(class.labels)
		owner, scalable, err := t.kinds.owner(ctx, name, class.controller, labels["pod-template-hash"], func(name string) bool { return deploymentNames[name] })
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
			noAccess[owner.kind+"/"+owner.name] = Workload{APIVersion: owner.apiVersion, Kind: owner.kind, Name: owner.name, UID: owner.uid, NoAccess: true}
		}
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
	cached, err := values[packed](t.budgets, namespace)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	unseen := maps.Clone(t.unseen[namespace])
	budgets := make([]Budget, 0, len(cached))
	for _, s := range cached {
		b, err := s.value.budget()
		if err != nil {
			return nil, err
		}
		b.ResourceVersion = s.resourceVersion
		if w, ok := unseen[b.Name]; ok {
			delete(unseen, b.Name)
			if w.removed && w.budget.UID == b.UID {
				continue
			}
			if !w.removed && older(b.ResourceVersion, w.budget.ResourceVersion) {
				b = w.budget
			}
		}
		budgets = append(budgets, b)
	}
	for _, w := range unseen {
		if !w.removed {
			budgets = append(budgets, w.budget)
		}
	}
	slices.SortFunc(budgets, func(a, b Budget) int { return strings.Compare(a.Name, b.Name) })
	return budgets, nil
}

// older reports whether resource version a is before b.
func older(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order < 0
}

// wrote remembers a write until the cache shows it, so that nothing is written twice.
func (t *term) wrote(namespace string, b Budget, removed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	// The cache may have been faster than the answer; it is changed before saw is called.
	object, exists, err := t.budgets.GetIndexer().GetByKey(namespace + "/" + b.Name)
	if s, ok := object.(*stored[packed]); err == nil && (removed && !exists || ok && !removed && !older(s.resourceVersion, b.ResourceVersion)) {
		return
	}
	if t.unseen[namespace] == nil {
		t.unseen[namespace] = map[string]unseen{}
	}
	t.unseen[namespace][b.Name] = unseen{budget: b, removed: removed}
}

// saw forgets a write that the cache shows, or that something after it has undone.
func (t *term) saw(object any, gone bool) {
	if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = tombstone.Obj
	}
	s, ok := object.(*stored[packed])
	if !ok {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	w, ok := t.unseen[s.namespace][s.name]
	if !ok {
		return
	}
	b, err := s.value.budget()
	if err != nil || !gone && (w.removed && w.budget.UID == b.UID || !w.removed && older(s.resourceVersion, w.budget.ResourceVersion)) {
		return
	}
	if gone && !w.removed && w.budget.UID != b.UID {
		return // the one before it went
	}
	delete(t.unseen[s.namespace], s.name)
	if len(t.unseen[s.namespace]) == 0 {
		delete(t.unseen, s.namespace)
	}
}

// apply makes the changes: what goes, then what changes, then what is new, since
// what goes may select pods that something new is to select. An error does not keep
// the other writes from being made, but those of a later step.
func (t *term) apply(ctx context.Context, namespace string, decisions []Decision, c changes) error {
	workloads := make(map[string]*Decision, len(c.create)+len(c.update))
	for i := range decisions {
		if b := decisions[i].Budget; b != nil {
			workloads[b.Name] = &decisions[i]
		}
	}
	remove := func(b Budget) error {
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
	store := func(operation string, b Budget) error {
		stored, err := t.client.PolicyV1().PodDisruptionBudgets(namespace).Apply(ctx, configuration(namespace, b),
			metav1.ApplyOptions{FieldManager: Manager, Force: true})
		t.count(operation, err)
		if operation == "update" && apierrors.IsInvalid(err) {
			// Somebody has put minAvailable beside our maxUnavailable, or the other way
			// round; a field of another manager does not go by applying ours.
			if err := remove(b); err != nil {
				return err
			}
			b.UID, b.ResourceVersion = "", ""
			stored, err = t.client.PolicyV1().PodDisruptionBudgets(namespace).Apply(ctx, configuration(namespace, b),
				metav1.ApplyOptions{FieldManager: Manager, Force: true})
			t.count("create", err)
		}
		if err != nil {
			return fmt.Errorf("%s budget: %w", operation, err)
		}
		b = FromBudget(stored)
		b.ResourceVersion = stored.ResourceVersion
		t.wrote(namespace, b, false)
		d := workloads[b.Name]
		t.events.wrote(namespace, d, operation == "create")
		t.log.WithFields(logrus.Fields{"namespace": namespace, "name": b.Name, "operation": operation, "code": d.Code}).Debug("budget written")
		return nil
	}
	for _, step := range []struct {
		budgets []Budget
		write   func(Budget) error
	}{
		{c.remove, remove},
		{c.update, func(b Budget) error { return store("update", b) }},
		{c.create, func(b Budget) error { return store("create", b) }},
	} {
		if err := each(step.budgets, step.write); err != nil {
			return err
		}
	}
	return nil
}

// each calls write for all budgets, several at once, and returns the first error.
func each(budgets []Budget, write func(Budget) error) error {
	var group errgroup.Group
	group.SetLimit(writers)
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

// configuration returns what is applied. UID and ResourceVersion of what exists make
// the API server refuse when that has changed meanwhile, in the hands of somebody
// who takes it over, for example. Without them the resource version is 0, which
// makes it refuse where anything of the name exists.
func configuration(namespace string, b Budget) *policyv1apply.PodDisruptionBudgetApplyConfiguration {
	spec := policyv1apply.PodDisruptionBudgetSpec().WithSelector(selectorConfiguration(b.Selector)).WithUnhealthyPodEvictionPolicy(policyv1.AlwaysAllow)
	spec.MinAvailable, spec.MaxUnavailable = b.MinAvailable, b.MaxUnavailable
	a := policyv1apply.PodDisruptionBudget(b.Name, namespace).WithLabels(map[string]string{ManagedByLabel: Manager}).WithSpec(spec)
	if !b.Aside.IsZero() {
		a = a.WithAnnotations(map[string]string{AsideAnnotation: b.Aside.UTC().Format(time.RFC3339)})
	}
	for _, o := range b.Owners {
		a = a.WithOwnerReferences(metav1apply.OwnerReference().WithAPIVersion(o.APIVersion).WithKind(o.Kind).WithName(o.Name).WithUID(o.UID))
	}
	if b.UID == "" {
		return a.WithResourceVersion("0")
	}
	return a.WithUID(b.UID).WithResourceVersion(b.ResourceVersion)
}

func selectorConfiguration(s *metav1.LabelSelector) *metav1apply.LabelSelectorApplyConfiguration {
	a := metav1apply.LabelSelector().WithMatchLabels(s.MatchLabels)
	for _, r := range s.MatchExpressions {
		a = a.WithMatchExpressions(metav1apply.LabelSelectorRequirement().WithKey(r.Key).WithOperator(r.Operator).WithValues(r.Values...))
	}
	return a
}

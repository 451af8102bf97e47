package scalein

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	"unique"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/evenkeel/evenkeel/internal/collectors"
	"github.com/evenkeel/evenkeel/policy"
)

// Config says how a Controller works.
type Config struct {
	Client   kubernetes.Interface
	Metadata metadata.Interface
	// NamespaceSelector selects the opted-in Namespaces; those named in Except are passed over.
	NamespaceSelector labels.Selector
	Except            []string
	// OptedOut reports whether a workload carries the label that opts it out.
	OptedOut func(namespace, kind, name string) bool
	Log      *logrus.Entry
	// Registerer takes the metrics.
	Registerer prometheus.Registerer
}

// The paces of writing. The documentation of the annotation advises against frequent updates
// (https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#pod-deletion-cost).
const (
	// settle is how long a workload is left alone after a change of its pods.
	settle = 3 * time.Second
	// again is the shortest time between two times that one workload is written to.
	again = time.Minute
	// perSecond is how many pods are written in a second, of all workloads together.
	perSecond = 20
	workers   = 2
)

// Controller marks the pods that go last. Of all replicas only the leader should call Lead.
type Controller struct {
	config Config
	writes *prometheus.CounterVec

	settle, again time.Duration
	limiter       *rate.Limiter
	now           func() time.Time
}

// New returns a Controller, or an error that says what is missing in config.
func New(config Config) (*Controller, error) {
	if config.Client == nil || config.Metadata == nil || config.NamespaceSelector == nil || config.OptedOut == nil ||
		config.Log == nil || config.Registerer == nil {
		return nil, errors.New("scale-in controller: the configuration is incomplete")
	}
	c := &Controller{config: config, settle: settle, again: again, now: time.Now,
		limiter: rate.NewLimiter(perSecond, 1),
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_scale_in_writes_total",
			Help: "Pods whose deletion cost was written, by what became of the request: ok, conflict or error.",
		}, []string{"result"})}
	return c, collectors.Register(config.Registerer, c.writes)
}

// podFacts is what is kept of a pod. There may be very many.
type podFacts struct {
	namespace, name, resourceVersion, node, set, hash string
	uid                                               types.UID
	created                                           int64 // in seconds, as the API keeps it
	active, ready, disabled                           bool
	cost, mark                                        string
}

// GetObjectMeta lets informers find namespace and name. It implements metav1.ObjectMetaAccessor.
func (p *podFacts) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: p.namespace, Name: p.name, ResourceVersion: p.resourceVersion}
}

// maxCost bounds what is kept of a cost. The API takes an int32; what is longer is somebody else's.
const maxCost = 16

// trimPod keeps of a pod what decisions need. A pod that no ReplicaSet controls has no set.
func trimPod(object any) (any, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	short := func(s string) string { return strings.Clone(s[:min(len(s), maxCost)]) }
	p := &podFacts{namespace: unique.Make(pod.Namespace).Value(), name: pod.Name,
		resourceVersion: pod.ResourceVersion, uid: pod.UID, created: pod.CreationTimestamp.Unix(),
		node: unique.Make(pod.Spec.NodeName).Value(),
		active: pod.DeletionTimestamp == nil &&
			pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed,
		disabled: pod.Labels[policy.InjectLabel] == policy.Disabled,
		cost:     short(pod.Annotations[CostAnnotation]), mark: short(pod.Annotations[MarkAnnotation])}
	for _, condition := range pod.Status.Conditions {
		p.ready = p.ready || condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue
	}
	if owner := metav1.GetControllerOfNoCopy(pod); owner != nil && owner.Kind == "ReplicaSet" {
		p.set, p.hash = unique.Make(owner.Name).Value(), unique.Make(pod.Labels["pod-template-hash"]).Value()
	}
	return p, nil
}

// nodeFacts is what is kept of a Node.
type nodeFacts struct{ name, zone string }

// GetObjectMeta implements metav1.ObjectMetaAccessor.
func (n *nodeFacts) GetObjectMeta() metav1.Object { return &metav1.ObjectMeta{Name: n.name} }

func trimNode(object any) (any, error) {
	if m, ok := object.(*metav1.PartialObjectMetadata); ok {
		return &nodeFacts{name: m.Name, zone: unique.Make(m.Labels[corev1.LabelTopologyZone]).Value()}, nil
	}
	return object, nil
}

// The indexes of the cache of pods.
const (
	bySet  = "set"
	byNode = "node"
)

// term is one term of leadership.
type term struct {
	*Controller
	namespaces, nodes, pods cache.SharedIndexInformer
	queue                   workqueue.TypedRateLimitingInterface[string] // namespace/set
	wrote                   chan map[string]time.Time                    // by the same key, when; shared by the workers
}

// Lead marks pods until ctx ends, and returns when the last write is over.
func (c *Controller) Lead(ctx context.Context) error {
	slower := workqueue.NewTypedItemExponentialFailureRateLimiter[string](c.settle, time.Minute)
	t := &term{Controller: c, wrote: make(chan map[string]time.Time, 1),
		queue: workqueue.NewTypedRateLimitingQueue(slower)}
	t.wrote <- map[string]time.Time{}
	defer t.queue.ShutDown()
	var group errgroup.Group
	defer func() { _ = group.Wait() }() // its functions return no error
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := t.watch(); err != nil {
		return err
	}
	for _, informer := range []cache.SharedIndexInformer{t.namespaces, t.nodes, t.pods} {
		group.Go(func() error { informer.RunWithContext(ctx); return nil })
	}
	if !cache.WaitForCacheSync(ctx.Done(), t.namespaces.HasSynced, t.nodes.HasSynced, t.pods.HasSynced) {
		return ctx.Err()
	}
	for range workers {
		group.Go(func() error { t.work(ctx); return nil })
	}
	<-ctx.Done()
	t.queue.ShutDown()
	return nil
}

// watch makes the informers.
func (t *term) watch() error {
	partial := func(resource string, selector labels.Selector) cache.SharedIndexInformer {
		return metadatainformer.NewFilteredMetadataInformer(t.config.Metadata,
			corev1.SchemeGroupVersion.WithResource(resource), metav1.NamespaceAll, 0, cache.Indexers{},
			func(o *metav1.ListOptions) { o.LabelSelector = selector.String() }).Informer()
	}
	t.namespaces = partial("namespaces", t.config.NamespaceSelector)
	t.nodes = partial("nodes", labels.Everything())
	t.pods = informers.NewSharedInformerFactory(t.config.Client, 0).Core().V1().Pods().Informer()
	err := errors.Join(t.pods.SetTransform(trimPod), t.nodes.SetTransform(trimNode), t.pods.AddIndexers(cache.Indexers{
		bySet:  index(func(p *podFacts) string { return p.key() }),
		byNode: index(func(p *podFacts) string { return p.node }),
	}))
	_, err1 := t.pods.AddEventHandler(handler(func(p *podFacts) { t.changed(p) }))
	_, err2 := t.nodes.AddEventHandler(handler(func(n *nodeFacts) { t.each(byNode, n.name) }))
	_, err3 := t.namespaces.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    t.namespace,
		DeleteFunc: t.namespace,
	})
	if err := errors.Join(err, err1, err2, err3); err != nil {
		return fmt.Errorf("set up informers: %w", err)
	}
	return nil
}

// key names the workload of a pod, "" for none that is looked at.
func (p *podFacts) key() string {
	if p.set == "" {
		return ""
	}
	return p.namespace + "/" + p.set
}

func index(of func(*podFacts) string) cache.IndexFunc {
	return func(object any) ([]string, error) {
		if p, ok := object.(*podFacts); ok && p.set != "" && of(p) != "" {
			return []string{of(p)}, nil
		}
		return nil, nil
	}
}

// handler calls changed for each object that comes, goes, or changes in what is kept of it.
func handler[T any](changed func(*T)) cache.ResourceEventHandlerFuncs {
	look := func(object any) {
		if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = tombstone.Obj
		}
		if o, ok := object.(*T); ok {
			changed(o)
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: look, DeleteFunc: look, UpdateFunc: func(before, after any) {
		if !reflect.DeepEqual(plain(before), plain(after)) {
			look(after)
		}
	}}
}

// plain returns what is kept of an object without its resource version, which changes with
// anything.
func plain(object any) any {
	if p, ok := object.(*podFacts); ok {
		without := *p
		without.resourceVersion = ""
		return without
	}
	return object
}

func (t *term) changed(p *podFacts) {
	if key := p.key(); key != "" {
		t.queue.AddAfter(key, t.settle)
	}
}

func (t *term) each(index, value string) {
	pods, err := t.pods.GetIndexer().ByIndex(index, value)
	if err != nil {
		t.config.Log.WithError(err).Error("cache not read")
	}
	for _, object := range pods {
		if p, ok := object.(*podFacts); ok {
			t.changed(p)
		}
	}
}

// namespace looks at all workloads of a Namespace that was opted in or out.
func (t *term) namespace(object any) {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object)
	if err == nil {
		t.each(cache.NamespaceIndex, key)
	}
}

// work looks at one workload after the other until the queue is shut down.
func (t *term) work(ctx context.Context) {
	for {
		key, shutdown := t.queue.Get()
		if shutdown {
			return
		}
		wait, err := t.reconcile(ctx, key)
		switch {
		case err == nil && wait > 0:
			t.queue.Forget(key)
			t.queue.AddAfter(key, wait)
		case err == nil:
			t.queue.Forget(key)
		case ctx.Err() == nil:
			entry := t.config.Log.WithError(err).WithField("namespace", strings.Split(key, "/")[0])
			if apierrors.IsConflict(err) {
				entry.Debug("somebody else was faster")
			} else {
				entry.Warn("deletion cost of pods not written; trying again")
			}
			t.queue.AddRateLimited(key)
		}
		t.queue.Done(key)
	}
}

// reconcile writes what Changes says of one workload, or returns how long to wait with it.
func (t *term) reconcile(ctx context.Context, key string) (wait time.Duration, err error) {
	objects, err := t.pods.GetIndexer().ByIndex(bySet, key)
	if err != nil {
		return 0, fmt.Errorf("read cache: %w", err)
	}
	facts := map[string]*podFacts{}
	var pods []Pod
	optedIn := len(objects) > 0
	for _, object := range objects {
		p, ok := object.(*podFacts)
		if !ok || !p.active {
			continue
		}
		facts[p.name] = p
		pods = append(pods, Pod{Name: p.name, Zone: t.zone(p.node), Ready: p.ready, Created: time.Unix(p.created, 0),
			Cost: p.cost, Mark: p.mark})
		optedIn = optedIn && !p.disabled && t.optedIn(p)
	}
	changes, outcome := Changes(pods, optedIn)
	wrote := <-t.wrote
	last := wrote[key]
	switch {
	case len(objects) == 0:
		delete(wrote, key)
	case len(changes) == 0:
	case t.now().Sub(last) < t.again:
		wait = t.again - t.now().Sub(last)
	default:
		wrote[key] = t.now()
	}
	t.wrote <- wrote
	if len(changes) == 0 || wait > 0 {
		return wait, nil
	}
	for _, change := range changes {
		if err := t.write(ctx, facts[change.Pod], change.Mark); err != nil {
			wrote := <-t.wrote
			wrote[key] = last // it is still to be written
			t.wrote <- wrote
			return 0, err
		}
	}
	first := facts[changes[0].Pod]
	t.config.Log.WithFields(logrus.Fields{"namespace": first.namespace, "replicaSet": first.set, "pods": len(changes),
		"outcome": string(outcome)}).Debug("deletion cost written")
	return 0, nil
}

// zone returns the zone of a node, "" where it is not known.
func (t *term) zone(node string) string {
	object, exists, err := t.nodes.GetIndexer().GetByKey(node)
	if n, ok := object.(*nodeFacts); ok && exists && err == nil {
		return n.zone
	}
	return ""
}

// optedIn reports whether the namespace of a pod is opted in, and its workload not opted out.
func (t *term) optedIn(p *podFacts) bool {
	_, exists, err := t.namespaces.GetIndexer().GetByKey(p.namespace)
	if err != nil || !exists || slices.Contains(t.config.Except, p.namespace) ||
		t.config.OptedOut(p.namespace, "ReplicaSet", p.set) {
		return false
	}
	deployment, ok := strings.CutSuffix(p.set, "-"+p.hash)
	return !ok || p.hash == "" || !t.config.OptedOut(p.namespace, "Deployment", deployment)
}

// write gives a pod the cost, or takes ours back, where nobody has changed the pod meanwhile.
func (t *term) write(ctx context.Context, p *podFacts, mark bool) error {
	if err := t.limiter.Wait(ctx); err != nil {
		return err
	}
	annotations := map[string]any{CostAnnotation: nil, MarkAnnotation: nil}
	if mark {
		annotations = map[string]any{CostAnnotation: cost, MarkAnnotation: cost}
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": p.uid, "resourceVersion": p.resourceVersion, "annotations": annotations}})
	if err != nil {
		return fmt.Errorf("encode patch: %w", err)
	}
	_, err = t.config.Client.CoreV1().Pods(p.namespace).Patch(ctx, p.name, types.MergePatchType, patch,
		metav1.PatchOptions{FieldManager: "evenkeel-scale-in"})
	result := "ok"
	switch {
	case apierrors.IsNotFound(err): // it is gone, which the cache will show
		return nil
	case apierrors.IsConflict(err):
		result = "conflict"
	case err != nil:
		result = "error"
	}
	t.writes.WithLabelValues(result).Inc()
	if err != nil {
		return fmt.Errorf("write deletion cost: %w", err)
	}
	return nil
}

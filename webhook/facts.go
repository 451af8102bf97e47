package webhook

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/evenkeel/evenkeel/internal/list"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
)

// Facts is what admission knows of the cluster: the annotations of opted-in
// Namespaces and the versions of API server and kubelets. Informers keep it up to
// date, so that no review waits for an API call.
type Facts struct {
	log        *logrus.Entry
	client     kubernetes.Interface
	namespaces cache.SharedIndexInformer
	nodes      cache.SharedIndexInformer
	// optedOut are the workloads with the label that opts them out, by kind.
	optedOut map[string]cache.SharedIndexInformer
	waiting  atomic.Int64 // reviews that wait for a Namespace

	mu sync.Mutex
	// servers are the versions of the latest answers, since an upgrade runs two
	// versions of the API server behind one address.
	servers []patches.Version
	// nodeFacts has the oldest kubelet, its node, and whether all nodes have a zone.
	nodeFacts patches.Cluster
	warned    string // the old node of the last warning
}

// versionPeriod is how often the API server is asked for its version, and
// versionMemory how many answers count.
const (
	versionPeriod = time.Minute
	versionMemory = 5
)

// NewFacts returns the facts of a cluster. selector selects the Namespaces that the webhook
// configuration calls us for.
func NewFacts(
	client kubernetes.Interface, metadataClient metadata.Interface, selector labels.Selector, log *logrus.Entry,
) (*Facts, error) {
	f := &Facts{log: log, client: client}
	partial := func(
		group schema.GroupVersion, resource list.Resource, selector string, trim cache.TransformFunc,
	) cache.SharedIndexInformer {
		source := metadataClient.Resource(group.WithResource(resource.Plural))
		l := list.Listing{Resource: resource, Selector: selector, Metadata: true}
		return cache.NewSharedIndexInformer(l.Watched(client, list.Transformed[metav1.PartialObjectMetadata](trim),
			func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return source.Watch(ctx, o) }),
			&metav1.PartialObjectMetadata{}, 0, cache.Indexers{})
	}
	f.namespaces = partial(corev1.SchemeGroupVersion, list.Namespaces, selector.String(), trimNamespace)
	f.optedOut = map[string]cache.SharedIndexInformer{}
	for _, resource := range []list.Resource{list.Deployments, list.StatefulSets, list.ReplicaSets} {
		informer := partial(appsv1.SchemeGroupVersion, resource, policy.InjectLabel+"="+policy.Disabled, trimWorkload)
		if err := informer.SetTransform(trimWorkload); err != nil {
			return nil, fmt.Errorf("set up informers: %w", err)
		}
		f.optedOut[resource.Kind] = informer
	}
	f.nodes = cache.NewSharedIndexInformer(list.Listing{Resource: list.Nodes}.Watched(client,
		list.Transformed[corev1.Node](trimNode), client.CoreV1().Nodes().Watch), &corev1.Node{}, 0, cache.Indexers{})
	if err := errors.Join(f.namespaces.SetTransform(trimNamespace), f.nodes.SetTransform(trimNode)); err != nil {
		return nil, fmt.Errorf("set up informers: %w", err)
	}
	_, err := f.nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { f.lookAtNodes() },
		UpdateFunc: func(before, after any) {
			if kubeletVersion(before) != kubeletVersion(after) || hasZone(before) != hasZone(after) {
				f.lookAtNodes()
			}
		},
		DeleteFunc: func(any) { f.lookAtNodes() },
	})
	if err != nil {
		return nil, fmt.Errorf("set up informers: %w", err)
	}
	return f, nil
}

// trimNamespace keeps name and annotations of ours.
func trimNamespace(object any) (any, error) {
	m, err := meta.Accessor(object)
	if err != nil {
		return object, nil //nolint:nilerr // a tombstone, which client-go handles itself
	}
	trimmed := &metav1.PartialObjectMetadata{
		ObjectMeta: metav1.ObjectMeta{Name: m.GetName(), ResourceVersion: m.GetResourceVersion()}}
	for key, value := range m.GetAnnotations() {
		if strings.HasPrefix(key, policy.Prefix) {
			metav1.SetMetaDataAnnotation(&trimmed.ObjectMeta, key, value)
		}
	}
	return trimmed, nil
}

// trimWorkload keeps namespace and name.
func trimWorkload(object any) (any, error) {
	m, err := meta.Accessor(object)
	if err != nil {
		return object, nil //nolint:nilerr // a tombstone, which client-go handles itself
	}
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: m.GetNamespace(), Name: m.GetName(),
		ResourceVersion: m.GetResourceVersion()}}, nil
}

// zoned is what is kept of the labels of a node that counts as one with a zone: one map for all.
var zoned = map[string]string{corev1.LabelTopologyZone: "known"}

// trimNode keeps name, kubelet version and whether the node has a zone; of a virtual node only the name.
func trimNode(object any) (any, error) {
	node, ok := object.(*corev1.Node)
	if !ok {
		return object, nil
	}
	trimmed := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node.Name, ResourceVersion: node.ResourceVersion}}
	if !patches.Virtual(node) {
		trimmed.Status.NodeInfo.KubeletVersion = node.Status.NodeInfo.KubeletVersion
		if patches.Zoned(node) {
			trimmed.Labels = zoned
		}
	}
	return trimmed, nil
}

func kubeletVersion(object any) string {
	if node, ok := object.(*corev1.Node); ok {
		return node.Status.NodeInfo.KubeletVersion
	}
	return ""
}

func hasZone(object any) bool {
	node, ok := object.(*corev1.Node)
	return ok && patches.Zoned(node)
}

// lookAtNodes finds the oldest kubelet, and whether all nodes have a zone. A node that has not
// reported a version yet does not count.
func (f *Facts) lookAtNodes() {
	var oldest patches.Cluster
	for _, object := range f.nodes.GetStore().List() {
		if node, ok := object.(*corev1.Node); ok {
			oldest = oldest.With(node)
		}
	}
	f.mu.Lock()
	changed := f.nodeFacts.OldestKubelet != oldest.OldestKubelet
	f.nodeFacts = oldest
	f.mu.Unlock()
	if changed {
		f.log.WithField("kubelet", oldest.OldestKubelet.String()).Info("oldest kubelet changed")
	}
	f.warn()
}

// warn says once what an old node does to the whole cluster.
func (f *Facts) warn() {
	c := f.Cluster()
	node := ""
	if c.Warning() != "" {
		node = c.OldestNode
	}
	f.mu.Lock()
	news := node != f.warned && node != ""
	f.warned = node
	f.mu.Unlock()
	if news {
		f.log.WithFields(logrus.Fields{"node": node, "kubelet": c.OldestKubelet.String()}).
			Warn("an old kubelet keeps all containers of the cluster from sleeping before they stop")
	}
}

// Run keeps the facts up to date until ctx ends.
func (f *Facts) Run(ctx context.Context) {
	var group wait.Group
	group.StartWithContext(ctx, f.namespaces.RunWithContext)
	group.StartWithContext(ctx, f.nodes.RunWithContext)
	for _, informer := range f.optedOut {
		group.StartWithContext(ctx, informer.RunWithContext)
	}
	group.StartWithContext(ctx, func(ctx context.Context) {
		// Until the first answer, ask more often: we are not ready without.
		if wait.PollUntilContextCancel(ctx, time.Second, true,
			func(ctx context.Context) (bool, error) { return f.askVersion(ctx), nil }) == nil {
			wait.UntilWithContext(ctx, func(ctx context.Context) { f.askVersion(ctx) }, versionPeriod)
		}
	})
	group.Wait()
}

// serverVersion asks the API server for its version until ctx ends. ServerVersion takes no
// context, so it is left behind then; it ends by client-go's own timeout.
func (f *Facts) serverVersion(ctx context.Context) (*version.Info, error) {
	var info *version.Info
	answered := make(chan error, 1)
	go func() {
		var err error
		info, err = f.client.Discovery().ServerVersion()
		answered <- err
	}()
	select {
	case err := <-answered:
		return info, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// askVersion asks the API server for its version and reports whether it answered.
func (f *Facts) askVersion(ctx context.Context) bool {
	info, err := f.serverVersion(ctx)
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		f.log.WithError(err).Warn("ask for API server version")
		return false
	}
	v, err := patches.ParseVersion(info.GitVersion)
	if err != nil {
		f.log.WithError(err).Error("read API server version")
		return false
	}
	f.mu.Lock()
	f.servers = append(f.servers, v)
	if len(f.servers) > versionMemory {
		f.servers = f.servers[1:]
	}
	f.mu.Unlock()
	f.warn()
	return true
}

// Cluster returns the oldest API server of the latest answers, and what the nodes say.
func (f *Facts) Cluster() patches.Cluster {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.nodeFacts
	for i, v := range f.servers {
		if i == 0 || v.Before(c.APIServer) {
			c.APIServer = v
		}
	}
	return c
}

// namespaceLag is how long a review waits for a Namespace that the API server
// called us for and that the informer has not seen yet.
const namespaceLag = 250 * time.Millisecond

// maxWaiting is how many reviews wait so at once. The others go on without, so that
// nobody fills all places by naming Namespaces that don't exist.
const maxWaiting = maxReviews / 2

// Namespace returns the annotations under our prefix of an opted-in Namespace. For
// one that is not known yet it waits a moment: it was labelled just now.
func (f *Facts) Namespace(ctx context.Context, name string) map[string]string {
	if annotations, ok := f.namespace(name); ok {
		return annotations
	}
	defer f.waiting.Add(-1)
	if f.waiting.Add(1) > maxWaiting {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, namespaceLag)
	defer cancel()
	var annotations map[string]string
	_ = wait.PollUntilContextCancel(ctx, 5*time.Millisecond, false, func(context.Context) (found bool, _ error) {
		annotations, found = f.namespace(name)
		return found, nil
	}) // still unknown: the operator's defaults hold
	return annotations
}

func (f *Facts) namespace(name string) (map[string]string, bool) {
	object, ok, err := f.namespaces.GetStore().GetByKey(name)
	if err != nil || !ok {
		return nil, false
	}
	m, err := meta.Accessor(object)
	if err != nil {
		return nil, false
	}
	return m.GetAnnotations(), true
}

// OptedOut reports whether a Deployment, StatefulSet or ReplicaSet carries the
// label that opts it out.
func (f *Facts) OptedOut(namespace, kind, name string) bool {
	informer, ok := f.optedOut[kind]
	if !ok {
		return false
	}
	_, found, err := informer.GetStore().GetByKey(namespace + "/" + name)
	return err == nil && found
}

// Ready returns an error that says what is still missing.
func (f *Facts) Ready() error {
	switch {
	case !f.namespaces.HasSynced():
		return errors.New("namespaces are not listed yet")
	case !f.nodes.HasSynced():
		return errors.New("nodes are not listed yet")
	case f.Cluster().APIServer == patches.Version{}:
		return errors.New("version of the API server is not known yet")
	}
	for kind, informer := range f.optedOut {
		if !informer.HasSynced() {
			return fmt.Errorf("opted-out workloads of kind %s are not listed yet", kind)
		}
	}
	return nil
}

package pdb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/evenkeel/evenkeel/internal/list"
)

// kinds finds workloads of kinds other than Deployment and StatefulSet by the owner
// chain of the pods, as the disruption controller does, and watches the kinds that
// have a scale subresource from then on. One ReplicaSet is looked up per
// template of such a workload, so that the controller needs no cache of all
// ReplicaSets.
type kinds struct {
	client    kubernetes.Interface
	discovery discovery.DiscoveryInterface
	mapper    meta.ResettableRESTMapper
	dynamic   dynamic.Interface
	metadata  metadata.Interface
	changed   func(namespace string)
	run       func(run func(context.Context)) // as a part of the term of leadership

	mu          sync.Mutex
	known       map[schema.GroupKind]*kind
	reset       time.Time // when all kinds were last asked for
	replicaSets map[types.UID]above
}

// above is what is known of a ReplicaSet: whether it exists, and its controller. Both
// never change for the better: UIDs are not used twice.
type above struct {
	controller reference
	exists     bool
}

// kind is a kind of pod owners.
type kind struct {
	// scalable is set where the kind has a scale subresource.
	scalable bool
	// noAccess is set where we may not list it.
	noAccess bool
	// informer is nil unless scalable and not noAccess.
	informer cache.SharedIndexInformer
	resource schema.GroupVersionResource
	// until is when to look again, for kinds without an informer.
	until time.Time

	mu     sync.Mutex
	scales map[types.UID]scale
}

// scale is the answer of a scale subresource for one generation of its object.
type scale struct {
	generation int64
	replicas   int32
	selector   *metav1.LabelSelector
}

// How long it is taken for granted that a kind has no scale, or may not be read.
const kindPeriod = time.Minute

// How long the objects of a kind may take to be listed. A kind that may be listed but
// not watched takes for ever.
const syncTimeout = 10 * time.Second

// The most ReplicaSets that are remembered: some 100 bytes each. And how many are
// looked up at a look at a namespace: whoever may write a pod may make up its owner.
const (
	maxReplicaSets = 50_000
	maxLookups     = 100
)

// maxUID is the longest UID of anything that exists.
const maxUID = 36

// lookups counts what may still be looked up, and notes that more would have been.
type lookups struct {
	left  int
	short bool
}

// The most kinds that are remembered to be none that has a scale: an owner reference
// may name any. And how often at most the API server is asked for all kinds that it
// has, since one of those may have come.
const (
	maxKinds    = 1000
	resetPeriod = 5 * time.Second
)

var (
	deploymentKind = schema.GroupKind{Group: "apps", Kind: "Deployment"}
	statefulKind   = schema.GroupKind{Group: "apps", Kind: "StatefulSet"}
	replicaSetKind = schema.GroupKind{Group: "apps", Kind: "ReplicaSet"}
)

func (r reference) groupKind() schema.GroupKind {
	return schema.GroupKind{Group: groupOf(r.apiVersion), Kind: r.kind}
}

// owner returns the workload that pods with controller c belong to, the zero value
// for none that is looked for this way, and whether c has a scale. hash is the label
// pod-template-hash of the pods; isDeployment says whether the namespace has a
// Deployment of a name. Beyond what may be looked up, pods count as those of nobody.
func (k *kinds) owner(ctx context.Context, namespace string, c reference, hash string, isDeployment func(string) bool,
	may *lookups) (reference, bool, error) {
	switch gk := c.groupKind(); {
	case c.kind == "", gk == statefulKind, gk == deploymentKind:
		return reference{}, true, nil // pods of nobody are passed over by the disruption controller
	case gk == schema.GroupKind{Group: "batch", Kind: "Job"}, gk == schema.GroupKind{Group: "apps", Kind: "DaemonSet"},
		gk == schema.GroupKind{Kind: "Node"}:
		return reference{}, false, nil
	case gk == replicaSetKind:
		if name, ok := strings.CutSuffix(c.name, "-"+hash); ok && isDeployment(name) {
			return reference{}, true, nil
		}
		set, err := k.replicaSet(ctx, namespace, c, may)
		switch {
		case errors.Is(err, errLater):
			return reference{}, true, nil
		case err != nil || !set.exists:
			return reference{}, false, err
		case set.controller.groupKind() == deploymentKind:
			return reference{}, true, nil
		case set.controller.kind != "":
			known, err := k.find(ctx, set.controller)
			if err != nil {
				return reference{}, false, err
			}
			if known.scalable {
				return set.controller, true, nil
			}
		}
	}
	known, err := k.find(ctx, c)
	if err != nil || !known.scalable {
		return reference{}, false, err
	}
	return c, true, nil
}

// errLater says that too much was looked up at once.
var errLater = errors.New("later")

// replicaSet returns what is known of a ReplicaSet, errLater where it is to be looked
// up and may not be.
func (k *kinds) replicaSet(ctx context.Context, namespace string, r reference, may *lookups) (above, error) {
	if len(r.uid) > maxUID {
		return above{}, nil
	}
	k.mu.Lock()
	set, ok := k.replicaSets[r.uid]
	k.mu.Unlock()
	if ok {
		return set, nil
	}
	if may.left == 0 {
		may.short = true
		return above{}, errLater
	}
	may.left--
	m, err := k.metadata.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "replicasets"}).
		Namespace(namespace).Get(ctx, r.name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return above{}, fmt.Errorf("look up ReplicaSet: %w", err)
	}
	if err == nil && m.UID == r.uid {
		set = above{controller: controllerOf(m), exists: true}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.replicaSets) >= maxReplicaSets {
		clear(k.replicaSets)
	}
	k.replicaSets[r.uid] = set
	return set, nil
}

// find returns what is known of the kind of an owner, and begins to watch it where it
// has a scale.
func (k *kinds) find(ctx context.Context, r reference) (*kind, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	gk := r.groupKind()
	if known := k.known[gk]; known != nil && (known.informer != nil || time.Now().Before(known.until)) {
		return known, nil
	}
	if _, retry := k.known[gk]; retry && time.Since(k.reset) > resetPeriod {
		k.mapper.Reset()
		k.reset = time.Now()
	}
	found, err := k.discover(ctx, gk, r.apiVersion)
	if err != nil {
		return nil, fmt.Errorf("look for the scale of %s: %w", gk, err)
	}
	found.until = time.Now().Add(kindPeriod)
	if len(k.known) >= maxKinds {
		maps.DeleteFunc(k.known, func(_ schema.GroupKind, other *kind) bool { return other.informer == nil })
	}
	k.known[gk] = found
	return found, nil
}

func (k *kinds) discover(ctx context.Context, gk schema.GroupKind, apiVersion string) (*kind, error) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return &kind{}, nil // an owner reference may say anything; nothing has such a version
	}
	mapping, err := k.mapper.RESTMapping(gk, gv.Version)
	if meta.IsNoMatchError(err) {
		return &kind{}, nil
	} else if err != nil {
		return nil, err
	}
	resources, err := k.discovery.ServerResourcesForGroupVersion(mapping.Resource.GroupVersion().String())
	if err != nil {
		return nil, err
	}
	found := &kind{resource: mapping.Resource, scales: map[types.UID]scale{}}
	for _, r := range resources.APIResources {
		found.scalable = found.scalable || r.Name == mapping.Resource.Resource+"/scale"
	}
	if !found.scalable || mapping.Scope.Name() != meta.RESTScopeNameNamespace {
		return &kind{}, nil
	}
	_, err = k.dynamic.Resource(mapping.Resource).List(ctx, metav1.ListOptions{Limit: 1})
	if apierrors.IsForbidden(err) {
		found.noAccess = true
		return found, nil
	} else if err != nil {
		return nil, err
	}
	custom := list.Resource{APIVersion: mapping.Resource.GroupVersion().String(), Kind: mapping.GroupVersionKind.Kind,
		Plural: mapping.Resource.Resource}
	source := k.dynamic.Resource(mapping.Resource)
	found.informer, err = inform[unstructured.Unstructured](k.client, list.Listing{Resource: custom},
		func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return source.Watch(ctx, o) },
		trim(trimCustom), handler[workloadFacts](k.changed))
	if err != nil {
		return nil, err
	}
	stop := make(chan struct{})
	k.run(func(ctx context.Context) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() {
			select {
			case <-stop:
				cancel()
			case <-ctx.Done():
			}
		}()
		found.informer.RunWithContext(ctx)
	})
	soon, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	if !cache.WaitForCacheSync(soon.Done(), found.informer.HasSynced) {
		close(stop) // other namespaces wait meanwhile
		found.informer, found.noAccess = nil, true
	}
	return found, ctx.Err()
}

// workloads returns the workloads of a namespace of all kinds that are watched.
func (k *kinds) workloads(ctx context.Context, namespace string) ([]Workload, error) {
	k.mu.Lock()
	var watched []*kind
	for _, known := range k.known {
		if known.informer != nil {
			watched = append(watched, known)
		}
	}
	k.mu.Unlock()
	var all []Workload
	for _, known := range watched {
		objects, err := values[workloadFacts](known.informer, namespace)
		if err != nil {
			return nil, err
		}
		for _, o := range objects {
			w := o.value.Workload
			if o.value.terminating || w.Kind == replicaSetKind.Kind && o.value.owned {
				continue
			}
			s, err := known.scaleOf(ctx, k.dynamic, namespace, &o.value)
			switch {
			case apierrors.IsNotFound(err):
				continue // deleted just now
			case apierrors.IsForbidden(err):
				w.NoAccess = true
			case err != nil:
				return nil, fmt.Errorf("read scale: %w", err)
			}
			w.Replicas, w.Selector = s.replicas, s.selector
			all = append(all, w)
		}
	}
	return all, nil
}

// scaleOf asks for the scale of an object, once per generation as soon as it has a
// selector, which some controllers fill in later.
func (k *kind) scaleOf(
	ctx context.Context, client dynamic.Interface, namespace string, w *workloadFacts,
) (scale, error) {
	k.mu.Lock()
	s, ok := k.scales[w.UID]
	k.mu.Unlock()
	if ok && s.generation == w.generation && s.selector != nil {
		return s, nil
	}
	u, err := client.Resource(k.resource).Namespace(namespace).Get(ctx, w.Name, metav1.GetOptions{}, "scale")
	if err != nil {
		return scale{}, err
	}
	replicas, _, err := unstructured.NestedInt64(u.Object, "spec", "replicas")
	if err != nil {
		return scale{}, err
	}
	text, _, err := unstructured.NestedString(u.Object, "status", "selector")
	if err != nil {
		return scale{}, err
	}
	s = scale{generation: w.generation, replicas: int32(max(0, min(replicas, 1<<31-1)))}
	if text != "" && len(text) <= maxKept {
		s.selector, err = metav1.ParseToLabelSelector(text)
		if err != nil {
			s.selector = nil // the workload's decision says so
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.scales) >= maxReplicaSets {
		clear(k.scales)
	}
	k.scales[w.UID] = s
	return s, nil
}

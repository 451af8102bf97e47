package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"

	"github.com/sirupsen/logrus"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/evenkeel/evenkeel/internal/list"
	"github.com/evenkeel/evenkeel/patches"
)

// Revisions knows which pod templates ran: those of the ReplicaSets of Deployments and of the
// ControllerRevisions of StatefulSets, the only places where kubectl rollout undo takes one from. It
// keeps 64 bits of each, made of the workload's UID and the template, and nothing else: some 20 bytes
// a revision.
type Revisions struct {
	sets [2]*revisionSet
}

// maxRevisions bounds the revisions that are known of each kind. A cluster of 100,000 Deployments with
// the ten revisions that they keep by default has as many. Others count as not known.
const maxRevisions = 1 << 20

// NewRevisions returns the revisions that are read with these clients.
func NewRevisions(client kubernetes.Interface, changes dynamic.Interface, log *logrus.Entry) *Revisions {
	return &Revisions{sets: [...]*revisionSet{
		newRevisionSet(client, changes, log, list.ReplicaSets, "Deployment", "spec", "template"),
		newRevisionSet(client, changes, log, list.ControllerRevisions, "StatefulSet", "data", "spec", "template"),
	}}
}

// Run keeps the revisions up to date until ctx ends.
func (r *Revisions) Run(ctx context.Context) {
	var group sync.WaitGroup
	for _, set := range r.sets {
		group.Go(func() { set.reflector.RunWithContext(ctx) })
	}
	group.Wait()
}

// Ready returns an error as long as not all revisions were listed.
func (r *Revisions) Ready() error {
	for _, set := range r.sets {
		set.mu.RLock()
		listed := set.listed
		set.mu.RUnlock()
		if !listed {
			return fmt.Errorf("%s are not listed yet", set.resource.Plural)
		}
	}
	return nil
}

// Ran reports whether a revision of the workload with this UID has a pod template with this fingerprint
// (patches.FingerprintTemplate). It asks nobody.
func (r *Revisions) Ran(uid string, template uint64) bool {
	key := revisionKey(uid, template)
	for _, set := range r.sets {
		set.mu.RLock()
		_, ran := set.known[key]
		set.mu.RUnlock()
		if ran {
			return true
		}
	}
	return false
}

// revisionSet are the revisions of one kind. It implements cache.ReflectorStore.
type revisionSet struct {
	resource  list.Resource
	owner     string   // kind of the workload
	template  []string // where the pod template is
	client    kubernetes.Interface
	log       *logrus.Entry
	reflector *cache.Reflector

	mu     sync.RWMutex
	known  map[uint64]struct{}
	listed bool
}

func newRevisionSet(
	client kubernetes.Interface, changes dynamic.Interface, log *logrus.Entry, resource list.Resource, owner string,
	template ...string,
) *revisionSet {
	s := &revisionSet{resource: resource, owner: owner, template: template, client: client, log: log}
	source := changes.Resource(appsv1.SchemeGroupVersion.WithResource(resource.Plural))
	objects := list.Listing{Resource: resource, Most: maxRevisions}.Watched(client, s.keep,
		func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			w, err := source.Watch(ctx, options)
			if err != nil {
				return nil, err
			}
			return watch.Filter(w, s.trim), nil
		})
	s.reflector = cache.NewReflectorWithOptions(unstreamed{objects}, &metav1.PartialObjectMetadata{}, s,
		cache.ReflectorOptions{Name: resource.Plural, TypeDescription: resource.Plural})
	return s
}

// unstreamed is never listed by a stream, of which the reflector keeps all until its end.
type unstreamed struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported is how client-go asks.
func (unstreamed) IsWatchListSemanticsUnSupported() bool { return true }

// keep returns an object with nothing but its key, nil for one that is no revision.
func (s *revisionSet) keep(raw []byte) (runtime.Object, error) {
	var o unstructured.Unstructured
	if err := json.Unmarshal(raw, &o.Object); err != nil {
		return nil, fmt.Errorf("read %s: %w", s.resource.Kind, err)
	}
	if key, ok := s.key(&o); ok {
		return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{GenerateName: key}}, nil
	}
	return nil, nil
}

// trim makes what is kept of an object out of a watch event.
func (s *revisionSet) trim(event watch.Event) (watch.Event, bool) {
	o, ok := event.Object.(*unstructured.Unstructured)
	if !ok || event.Type == watch.Error {
		return event, true
	}
	kept := &metav1.PartialObjectMetadata{
		ObjectMeta: metav1.ObjectMeta{ResourceVersion: o.GetResourceVersion(), Annotations: o.GetAnnotations()}}
	if event.Type != watch.Bookmark {
		kept.Annotations = nil
	}
	kept.GenerateName, _ = s.key(o)
	event.Object = kept
	return event, true
}

// key returns the key of a revision as text, false for an object that is none.
func (s *revisionSet) key(o *unstructured.Unstructured) (string, bool) {
	owner := metav1.GetControllerOf(o)
	if owner == nil || owner.Kind != s.owner {
		return "", false
	}
	template, found, err := unstructured.NestedMap(o.Object, s.template...)
	if !found || err != nil {
		return "", false
	}
	raw, err := json.Marshal(template)
	if err != nil {
		return "", false
	}
	print, err := patches.FingerprintTemplate(raw)
	if err != nil {
		return "", false
	}
	return strconv.FormatUint(revisionKey(string(owner.UID), print), 16), true
}

// revisionKey mixes the UID of a workload into a fingerprint, by FNV-1a.
func revisionKey(uid string, template uint64) uint64 {
	for i := range len(uid) {
		template = (template ^ uint64(uid[i])) * 1099511628211
	}
	return template
}

// Add implements cache.ReflectorStore.
func (s *revisionSet) Add(object any) error {
	key, ok := keyOf(object)
	s.mu.Lock()
	defer s.mu.Unlock()
	if ok && len(s.known) < maxRevisions {
		s.known[key] = struct{}{}
	}
	return nil
}

// Update implements cache.ReflectorStore. A template that was there before stays known until the next
// list: a controller never changes one.
func (s *revisionSet) Update(object any) error { return s.Add(object) }

// Delete implements cache.ReflectorStore.
func (s *revisionSet) Delete(object any) error {
	key, ok := keyOf(object)
	s.mu.Lock()
	defer s.mu.Unlock()
	if ok {
		delete(s.known, key)
	}
	return nil
}

// Replace implements cache.ReflectorStore.
func (s *revisionSet) Replace(objects []any, _ string) error {
	known := make(map[uint64]struct{}, len(objects))
	for _, o := range objects {
		if key, ok := keyOf(o); ok {
			known[key] = struct{}{}
		}
	}
	if len(known) >= maxRevisions {
		s.log.WithField("resource", s.resource.Plural).
			Warn("more revisions than are remembered; going back to the others is not told from a new template")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known, s.listed = known, true
	return nil
}

// Resync implements cache.ReflectorStore.
func (*revisionSet) Resync() error { return nil }

func keyOf(object any) (uint64, bool) {
	kept, ok := object.(*metav1.PartialObjectMetadata)
	if !ok {
		return 0, false
	}
	key, err := strconv.ParseUint(kept.GenerateName, 16, 64)
	return key, err == nil
}

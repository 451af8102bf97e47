package webhook

import (
	"context"
	"errors"
	"sync"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/evenkeel/evenkeel/internal/list"
	"github.com/evenkeel/evenkeel/patches"
)

// Services knows the Services of the cluster, as far as they say which ports of pods serve: some 500
// bytes of each, 5 MiB with 10,000. It keeps those of all Namespaces, so that nothing has to be listed
// when one is opted in.
type Services struct {
	client    kubernetes.Interface
	log       *logrus.Entry
	reflector *cache.Reflector

	mu          sync.RWMutex
	byNamespace patches.ServicesByNamespace
	count       int
	listed      bool
	fresh       patches.ServicesByNamespace // from list to Replace, which the reflector calls in turn
}

// maxServices bounds the Services that are known. Others count as not there.
const maxServices = 100_000

// NewServices returns the Services that are read with this client.
func NewServices(client kubernetes.Interface, log *logrus.Entry) *Services {
	s := &Services{client: client, log: log, byNamespace: patches.ServicesByNamespace{}}
	s.reflector = cache.NewReflectorWithOptions(unstreamed{&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, _ metav1.ListOptions) (runtime.Object, error) { return s.list(ctx) },
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return client.CoreV1().Services(metav1.NamespaceAll).Watch(ctx, options)
		},
	}}, &corev1.Service{}, s, cache.ReflectorOptions{Name: "services", TypeDescription: "services"})
	return s
}

// Run keeps the Services up to date until ctx ends.
func (s *Services) Run(ctx context.Context) { s.reflector.RunWithContext(ctx) }

// Ready returns an error as long as not all Services were listed.
func (s *Services) Ready() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.listed {
		return errors.New("services are not listed yet")
	}
	return nil
}

// Of returns the Services of a Namespace, nil where none is known. It asks nobody.
func (s *Services) Of(namespace string) *patches.Services {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.byNamespace[namespace]
}

// list reads all Services page by page, and keeps what is needed of them for Replace: the reflector
// gets none of them.
func (s *Services) list(ctx context.Context) (runtime.Object, error) {
	fresh, count := patches.ServicesByNamespace{}, 0
	version, err := list.Listing{Resource: list.Services}.Each(ctx, s.client, func(raw []byte) error {
		if count++; count > maxServices {
			return nil
		}
		return fresh.Add(raw, "")
	})
	if count > maxServices {
		s.log.WithField("services", count).Warn("more Services than are remembered; the others are no evidence for probes")
	}
	s.fresh = fresh
	return &corev1.ServiceList{ListMeta: metav1.ListMeta{ResourceVersion: version}}, err
}

// Replace implements cache.ReflectorStore with what list has read.
func (s *Services) Replace([]any, string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byNamespace, s.count, s.listed = s.fresh, 0, true
	s.fresh = nil
	for _, services := range s.byNamespace {
		s.count += services.Len()
	}
	return nil
}

// Add implements cache.ReflectorStore.
func (s *Services) Add(object any) error {
	service, ok := object.(*corev1.Service)
	if !ok {
		return nil
	}
	s.change(service.Namespace, func(of *patches.Services) {
		if s.count < maxServices || of.Has(service.Name) {
			of.Put(service)
		}
	})
	return nil
}

// Update implements cache.ReflectorStore.
func (s *Services) Update(object any) error { return s.Add(object) }

// Delete implements cache.ReflectorStore.
func (s *Services) Delete(object any) error {
	if service, ok := object.(*corev1.Service); ok {
		s.change(service.Namespace, func(of *patches.Services) { of.Delete(service.Name) })
	}
	return nil
}

// change changes the Services of a Namespace, and forgets a Namespace without any.
func (s *Services) change(namespace string, do func(*patches.Services)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	services := s.byNamespace.Of(namespace)
	before := services.Len()
	do(services)
	s.count += services.Len() - before
	if services.Len() == 0 {
		delete(s.byNamespace, namespace)
	}
}

// Resync implements cache.ReflectorStore.
func (*Services) Resync() error { return nil }

package list

import (
	"context"
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Kept is a list of what is kept of objects. Copies share the items, which nobody changes.
type Kept struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []runtime.Object
}

// DeepCopyObject implements runtime.Object.
func (k *Kept) DeepCopyObject() runtime.Object {
	c := *k
	return &c
}

// Watched returns how an informer gets objects. An API server that streams lists (1.34 and later by
// default, WatchList) sends them one by one. From any other a client-go informer would take all in one
// answer: a tenant's 600 ReplicaSets of 250 KB don't fit into 128 MiB. Here such a list is read by Each,
// and keep makes at once of each object what is kept, nil for nothing.
func (l Listing) Watched(
	client kubernetes.Interface, keep func(raw []byte) (runtime.Object, error),
	changes func(context.Context, metav1.ListOptions) (watch.Interface, error),
) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, _ metav1.ListOptions) (runtime.Object, error) {
			kept := &Kept{}
			var err error
			kept.ResourceVersion, err = l.Each(ctx, client, func(raw []byte) error {
				o, err := keep(raw)
				if err == nil && o != nil && (l.Most == 0 || len(kept.Items) < l.Most) {
					kept.Items = append(kept.Items, o)
				}
				return err
			})
			return kept, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.LabelSelector = l.Selector
			return changes(ctx, options)
		},
	}
}

// Transformed returns a keep for Watched: what transform, which has to leave alone what it has
// transformed, makes of an object of type T.
func Transformed[T any, O interface {
	*T
	runtime.Object
}](transform cache.TransformFunc) func(raw []byte) (runtime.Object, error) {
	return func(raw []byte) (runtime.Object, error) {
		object := O(new(T))
		if err := json.Unmarshal(raw, object); err != nil {
			return nil, fmt.Errorf("read object: %w", err)
		}
		kept, err := transform(object)
		if err != nil {
			return nil, err
		}
		o, ok := kept.(runtime.Object)
		if !ok {
			return nil, fmt.Errorf("read object: what is kept of a %T is no object", object)
		}
		return o, nil
	}
}

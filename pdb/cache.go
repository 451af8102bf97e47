package pdb

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"unique"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/evenkeel/evenkeel/policy"
)

// stored is what an informer keeps of an object: its place and the few fields that
// decisions depend on. A whole Deployment takes some 16 KiB, a stored one less than
// one.
type stored[T any] struct {
	namespace, name, resourceVersion string
	value                            T
}

// GetObjectMeta lets informers find namespace, name and resource version. It
// implements metav1.ObjectMetaAccessor.
func (s *stored[T]) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: s.namespace, Name: s.name, ResourceVersion: s.resourceVersion}
}

// trim returns a transform for informers that stores what read returns. What is
// trimmed already, and what client-go puts into the place of a deletion that it
// missed, stay as they are.
func trim[O metav1.Object, T any](read func(O) T) cache.TransformFunc {
	return func(object any) (any, error) {
		o, ok := object.(O)
		if !ok {
			return object, nil
		}
		return &stored[T]{namespace: unique.Make(o.GetNamespace()).Value(), name: o.GetName(), resourceVersion: o.GetResourceVersion(), value: read(o)}, nil
	}
}

// handler calls changed with the namespace of each object that comes, goes, or
// changes in what is stored of it.
func handler[T any](changed func(namespace string)) cache.ResourceEventHandlerFuncs {
	namespace := func(object any) {
		if tombstone, ok := object.(cache.DeletedFinalStateUnknown); ok {
			object = tombstone.Obj
		}
		if s, ok := object.(*stored[T]); ok {
			changed(cmp.Or(s.namespace, s.name)) // a Namespace is in none
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: namespace, DeleteFunc: namespace, UpdateFunc: func(before, after any) {
		b, ok1 := before.(*stored[T])
		a, ok2 := after.(*stored[T])
		if !ok1 || !ok2 || !reflect.DeepEqual(b.value, a.value) {
			namespace(after)
		}
	}}
}

func indexers() cache.Indexers {
	return cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}
}

// values returns what an informer stores of a namespace.
func values[T any](informer cache.SharedIndexInformer, namespace string) ([]*stored[T], error) {
	objects, err := informer.GetIndexer().ByIndex(cache.NamespaceIndex, namespace)
	if err != nil {
		return nil, fmt.Errorf("read cache: %w", err)
	}
	all := make([]*stored[T], 0, len(objects))
	for _, o := range objects {
		if s, ok := o.(*stored[T]); ok {
			all = append(all, s)
		}
	}
	return all, nil
}

// namespaceFacts is what is stored of a Namespace.
type namespaceFacts struct {
	terminating bool
	setting     *string
}

func trimNamespace(m *metav1.PartialObjectMetadata) namespaceFacts {
	return namespaceFacts{terminating: m.DeletionTimestamp != nil, setting: setting(m.Annotations)}
}

// setting returns the only annotation that matters here, or nil.
func setting(annotations map[string]string) *string {
	if v, ok := annotations[policy.Prefix+policy.SettingDisruptionBudget]; ok {
		v = strings.Clone(v[:min(len(v), 4096)])
		return &v
	}
	return nil
}

func optedOut(labels ...map[string]string) bool {
	for _, l := range labels {
		if l[policy.InjectLabel] == policy.Disabled {
			return true
		}
	}
	return false
}

// workloadFacts is a Workload and what the controller needs beside it.
type workloadFacts struct {
	Workload
	terminating bool
	// owned is set where another object controls this one.
	owned bool
	// generation is set for objects whose scale has to be asked for.
	generation int64
}

// FromDeployment returns what a decision needs to know of a Deployment.
func FromDeployment(d *appsv1.Deployment) Workload {
	return workload("Deployment", &d.ObjectMeta, d.Spec.Replicas, d.Spec.Selector, &d.Spec.Template.ObjectMeta)
}

// FromStatefulSet returns what a decision needs to know of a StatefulSet.
func FromStatefulSet(s *appsv1.StatefulSet) Workload {
	return workload("StatefulSet", &s.ObjectMeta, s.Spec.Replicas, s.Spec.Selector, &s.Spec.Template.ObjectMeta)
}

func workload(kind string, m *metav1.ObjectMeta, replicas *int32, selector *metav1.LabelSelector, template *metav1.ObjectMeta) Workload {
	w := Workload{APIVersion: "apps/v1", Kind: kind, Name: m.Name, UID: m.UID, Replicas: 1, Selector: selector,
		TemplateLabels: template.Labels, OptedOut: optedOut(m.Labels, template.Labels),
		Setting: setting(m.Annotations), TemplateSetting: setting(template.Annotations)}
	if replicas != nil {
		w.Replicas = *replicas
	}
	if w.TemplateLabels == nil {
		w.TemplateLabels = map[string]string{}
	}
	if selector != nil && equality.Semantic.DeepEqual(selector.MatchLabels, w.TemplateLabels) {
		w.TemplateLabels = selector.MatchLabels // one map, not two
	}
	return w
}

func trimDeployment(d *appsv1.Deployment) workloadFacts {
	return workloadFacts{Workload: FromDeployment(d), terminating: d.DeletionTimestamp != nil}
}

func trimStatefulSet(s *appsv1.StatefulSet) workloadFacts {
	return workloadFacts{Workload: FromStatefulSet(s), terminating: s.DeletionTimestamp != nil}
}

// trimCustom reads an object of any kind with a scale subresource. Where it has a
// pod template, that stands in spec.template, as in all kinds known to us; what it
// says of replicas and selector is for the scale to tell.
func trimCustom(u *unstructured.Unstructured) workloadFacts {
	w := Workload{APIVersion: u.GetAPIVersion(), Kind: u.GetKind(), Name: u.GetName(), UID: u.GetUID(), Setting: setting(u.GetAnnotations())}
	labels, found, err := unstructured.NestedStringMap(u.Object, "spec", "template", "metadata", "labels")
	if found && err == nil {
		w.TemplateLabels = labels
	}
	annotations, _, err := unstructured.NestedStringMap(u.Object, "spec", "template", "metadata", "annotations")
	if err == nil {
		w.TemplateSetting = setting(annotations)
	}
	w.OptedOut = optedOut(u.GetLabels(), labels)
	return workloadFacts{Workload: w, terminating: u.GetDeletionTimestamp() != nil, owned: metav1.GetControllerOf(u) != nil,
		generation: u.GetGeneration()}
}

// FromAutoscaler returns what a decision needs to know of a HorizontalPodAutoscaler.
func FromAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) Autoscaler {
	t := h.Spec.ScaleTargetRef
	a := Autoscaler{APIVersion: t.APIVersion, Kind: t.Kind, Name: t.Name, MinReplicas: 1}
	if h.Spec.MinReplicas != nil {
		a.MinReplicas = *h.Spec.MinReplicas
	}
	return a
}

// FromBudget returns what a decision needs to know of a PodDisruptionBudget.
func FromBudget(b *policyv1.PodDisruptionBudget) Budget {
	return Budget{Name: b.Name, Ours: b.Labels[ManagedByLabel] == Manager, Selector: b.Spec.Selector,
		MinAvailable: b.Spec.MinAvailable, MaxUnavailable: b.Spec.MaxUnavailable,
		AlwaysAllow: b.Spec.UnhealthyPodEvictionPolicy != nil && *b.Spec.UnhealthyPodEvictionPolicy == policyv1.AlwaysAllow,
		Owners:      b.OwnerReferences, UID: b.UID, Terminating: b.DeletionTimestamp != nil}
}

// podFacts is what is stored of a pod: its labels and its controller. Pods of one
// ReplicaSet have the same, and share them.
type podFacts = unique.Handle[podClass]

// podClass is what pods have in common.
type podClass struct {
	labels     string // by encode
	controller reference
}

// encode writes labels as one string that is the same for the same labels. The API
// takes no control characters in labels.
func encode(labels map[string]string) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		b.WriteString(key + "\x00" + labels[key] + "\x00")
	}
	return b.String()
}

// decode is the inverse of encode.
func decode(text string) map[string]string {
	labels := map[string]string{}
	for text != "" {
		var key, value string
		key, text, _ = strings.Cut(text, "\x00")
		value, text, _ = strings.Cut(text, "\x00")
		labels[key] = value
	}
	return labels
}

// reference is an owner reference that controls.
type reference struct {
	apiVersion, kind, name string
	uid                    types.UID
}

func controllerOf(o metav1.Object) reference {
	if c := metav1.GetControllerOfNoCopy(o); c != nil {
		return reference{c.APIVersion, c.Kind, c.Name, c.UID}
	}
	return reference{}
}

func trimPod(m *metav1.PartialObjectMetadata) podFacts {
	return unique.Make(podClass{labels: encode(m.Labels), controller: controllerOf(m)})
}

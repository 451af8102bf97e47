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
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/evenkeel/evenkeel/policy"
)

// stored is what an informer keeps of an object: its place and the few fields that
// decisions depend on. A whole Deployment takes some 16 KiB, a stored one half of
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

// GetObjectKind implements runtime.Object, so that a list can have it as an item.
func (*stored[T]) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject implements runtime.Object. What is stored is never changed.
func (s *stored[T]) DeepCopyObject() runtime.Object {
	c := *s
	return &c
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
		return &stored[T]{namespace: unique.Make(o.GetNamespace()).Value(), name: o.GetName(),
			resourceVersion: o.GetResourceVersion(), value: read(o)}, nil
	}
}

// packed is what is kept of an object of which there may be very many: the object
// itself, but with few fields set, as protobuf. The maps and pointers of a selector
// and an owner reference alone take three times as much.
type packed string

// pack returns a transform for informers that stores what keep returns.
func pack[O metav1.Object](keep func(O) proto) cache.TransformFunc {
	return func(object any) (any, error) {
		o, ok := object.(O)
		if !ok {
			return object, nil
		}
		data, err := keep(o).Marshal()
		if err != nil {
			return nil, fmt.Errorf("store object: %w", err)
		}
		return &stored[packed]{namespace: unique.Make(o.GetNamespace()).Value(), name: o.GetName(),
			resourceVersion: o.GetResourceVersion(), value: packed(data)}, nil
	}
}

// maxKept bounds what is kept of one object, in bytes. Labels, selectors and owner
// references of any length can be written by whoever may write a pod, in namespaces
// that are not opted in too. An object with more is kept without them, and so gets no
// budget and is selected by none.
const maxKept = 8 << 10

// maxReference bounds a reference to another object, in bytes: the API lets it say
// anything, and a longer one can mean nothing that exists.
const maxReference = 1 << 10

// proto is an object of the API that writes itself as protobuf, and reads itself.
type proto interface {
	Marshal() ([]byte, error)
	Unmarshal(data []byte) error
	Size() int
}

// unpack sets object to what was kept.
func (p packed) unpack(object proto) error {
	if err := object.Unmarshal([]byte(p)); err != nil {
		return fmt.Errorf("read cache: %w", err)
	}
	return nil
}

// keepMeta returns the metadata that decisions depend on.
func keepMeta(m *metav1.ObjectMeta, label string) metav1.ObjectMeta {
	kept := metav1.ObjectMeta{Name: m.Name, UID: m.UID, DeletionTimestamp: m.DeletionTimestamp}
	if v, ok := m.Labels[label]; ok {
		kept.Labels = map[string]string{label: v}
	}
	if v := setting(m.Annotations); v != nil {
		kept.Annotations = map[string]string{policy.Prefix + policy.SettingDisruptionBudget: *v}
	}
	if v := patience(m.Annotations); v != nil {
		metav1.SetMetaDataAnnotation(&kept, policy.Prefix+policy.SettingBudgetPatience, *v)
	}
	return kept
}

// keepTemplate returns what decisions depend on of a pod template: its metadata with
// all labels.
func keepTemplate(t *corev1.PodTemplateSpec) corev1.PodTemplateSpec {
	kept := corev1.PodTemplateSpec{ObjectMeta: keepMeta(&t.ObjectMeta, policy.InjectLabel)}
	kept.Labels = t.Labels
	return kept
}

func keepDeployment(d *appsv1.Deployment) proto {
	kept := &appsv1.Deployment{ObjectMeta: keepMeta(&d.ObjectMeta, policy.InjectLabel),
		Spec: appsv1.DeploymentSpec{Replicas: d.Spec.Replicas, Selector: d.Spec.Selector,
			Template: keepTemplate(&d.Spec.Template)}}
	if kept.Size() > maxKept {
		kept.Spec.Selector, kept.Spec.Template = nil, corev1.PodTemplateSpec{}
	}
	return kept
}

func keepStatefulSet(s *appsv1.StatefulSet) proto {
	kept := &appsv1.StatefulSet{ObjectMeta: keepMeta(&s.ObjectMeta, policy.InjectLabel),
		Spec: appsv1.StatefulSetSpec{Replicas: s.Spec.Replicas, Selector: s.Spec.Selector,
			Template: keepTemplate(&s.Spec.Template)}}
	if kept.Size() > maxKept {
		kept.Spec.Selector, kept.Spec.Template = nil, corev1.PodTemplateSpec{}
	}
	return kept
}

func keepBudget(b *policyv1.PodDisruptionBudget) proto {
	kept := &policyv1.PodDisruptionBudget{ObjectMeta: keepMeta(&b.ObjectMeta, ManagedByLabel), Spec: b.Spec}
	kept.Annotations, kept.OwnerReferences = nil, b.OwnerReferences
	if b.Labels[ManagedByLabel] == Manager {
		if instance, ok := b.Labels[InstanceLabel]; ok {
			kept.Labels[InstanceLabel] = instance
		}
		keepStatus(kept, b)
	}
	if kept.Size() > maxKept {
		kept.Spec.Selector, kept.OwnerReferences = nil, nil
	}
	return kept
}

// budgetFacts is what is stored of a budget. What waits for the disruption controller
// decides nothing, and changes often.
type budgetFacts struct {
	packed
	// waits is set for one of ours whose pods the disruption controller has not counted
	// since it was last changed.
	waits bool
}

// budgetObject is a stored budget.
type budgetObject = stored[budgetFacts]

// packBudget is pack for budgets; the rules say which are ours.
func packBudget(rules *Rules) cache.TransformFunc {
	keep := pack(keepBudget)
	return func(object any) (any, error) {
		b, ok := object.(*policyv1.PodDisruptionBudget)
		if !ok {
			return object, nil
		}
		kept, err := keep(b)
		if err != nil {
			return nil, err
		}
		s := kept.(*stored[packed])
		ours := b.Labels[ManagedByLabel] == Manager && rules.owns(b.Labels[InstanceLabel])
		return &budgetObject{namespace: s.namespace, name: s.name, resourceVersion: s.resourceVersion,
			value: budgetFacts{packed: s.value, waits: ours && !counted(b)}}, nil
	}
}

// deployment returns a stored Deployment, and whether it is being deleted.
func (p packed) deployment() (w Workload, terminating bool, err error) {
	var d appsv1.Deployment
	err = p.unpack(&d)
	return FromDeployment(&d), d.DeletionTimestamp != nil, err
}

// statefulSet is deployment for a StatefulSet.
func (p packed) statefulSet() (w Workload, terminating bool, err error) {
	var s appsv1.StatefulSet
	err = p.unpack(&s)
	return FromStatefulSet(&s), s.DeletionTimestamp != nil, err
}

// budget returns a stored budget, without its resource version.
func (p packed) budget() (Budget, error) {
	var b policyv1.PodDisruptionBudget
	err := p.unpack(&b)
	return FromBudget(&b), err
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
	terminating       bool
	setting, patience *string
}

func trimNamespace(m *metav1.PartialObjectMetadata) namespaceFacts {
	return namespaceFacts{terminating: m.DeletionTimestamp != nil, setting: setting(m.Annotations),
		patience: patience(m.Annotations)}
}

// setting returns the annotation that asks for a budget, or nil.
func setting(annotations map[string]string) *string {
	return annotation(annotations, policy.SettingDisruptionBudget)
}

// patience returns the annotation that says how long a budget may refuse, or nil.
func patience(annotations map[string]string) *string {
	return annotation(annotations, policy.SettingBudgetPatience)
}

func annotation(annotations map[string]string, name string) *string {
	if v, ok := annotations[policy.Prefix+name]; ok {
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

func workload(
	kind string, m *metav1.ObjectMeta, replicas *int32, selector *metav1.LabelSelector, template *metav1.ObjectMeta,
) Workload {
	name := m.Name
	if name == "" { // in a manifest, and a budget needs a name
		name = strings.TrimRight(m.GenerateName, "-.")
	}
	w := Workload{APIVersion: "apps/v1", Kind: kind, Name: name, UID: m.UID, Replicas: 1, Selector: selector,
		TemplateLabels: template.Labels, OptedOut: optedOut(m.Labels, template.Labels),
		Setting: setting(m.Annotations), Patience: patience(m.Annotations), TemplateSetting: setting(template.Annotations)}
	if replicas != nil {
		w.Replicas = *replicas
	}
	if w.TemplateLabels == nil {
		w.TemplateLabels = map[string]string{}
	}
	return w
}

// trimCustom reads an object of any kind with a scale subresource. Where it has a
// pod template, that stands in spec.template, as in all kinds known to us; what it
// says of replicas and selector is for the scale to tell.
func trimCustom(u *unstructured.Unstructured) workloadFacts {
	w := Workload{APIVersion: u.GetAPIVersion(), Kind: u.GetKind(), Name: u.GetName(), UID: u.GetUID(),
		Setting: setting(u.GetAnnotations()), Patience: patience(u.GetAnnotations())}
	labels, found, err := unstructured.NestedStringMap(u.Object, "spec", "template", "metadata", "labels")
	if found && err == nil && len(encode(labels)) <= maxKept {
		w.TemplateLabels = labels
	}
	annotations, _, err := unstructured.NestedStringMap(u.Object, "spec", "template", "metadata", "annotations")
	if err == nil {
		w.TemplateSetting = setting(annotations)
	}
	w.OptedOut = optedOut(u.GetLabels(), labels)
	return workloadFacts{Workload: w, terminating: u.GetDeletionTimestamp() != nil,
		owned: metav1.GetControllerOf(u) != nil, generation: u.GetGeneration()}
}

// FromAutoscaler returns what a decision needs to know of a HorizontalPodAutoscaler.
func FromAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) Autoscaler {
	t := h.Spec.ScaleTargetRef
	if len(t.APIVersion)+len(t.Kind)+len(t.Name) > maxReference {
		return Autoscaler{}
	}
	a := Autoscaler{APIVersion: t.APIVersion, Kind: t.Kind, Name: t.Name, MinReplicas: 1}
	if h.Spec.MinReplicas != nil {
		a.MinReplicas = *h.Spec.MinReplicas
	}
	return a
}

// FromBudget returns what a decision needs to know of a PodDisruptionBudget.
func FromBudget(b *policyv1.PodDisruptionBudget) Budget {
	return Budget{Name: b.Name, Ours: b.Labels[ManagedByLabel] == Manager, Instance: b.Labels[InstanceLabel],
		Selector: b.Spec.Selector, MinAvailable: b.Spec.MinAvailable, MaxUnavailable: b.Spec.MaxUnavailable,
		AlwaysAllow: b.Spec.UnhealthyPodEvictionPolicy != nil && *b.Spec.UnhealthyPodEvictionPolicy == policyv1.AlwaysAllow,
		Owners:      b.OwnerReferences, Aside: asideSince(b), RefusesSince: refusesSince(b), Healthy: b.Status.CurrentHealthy,
		UID: b.UID, Terminating: b.DeletionTimestamp != nil}
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
	c := metav1.GetControllerOfNoCopy(o)
	if c != nil && len(c.APIVersion)+len(c.Kind)+len(c.Name)+len(c.UID) <= maxReference {
		return reference{c.APIVersion, c.Kind, c.Name, c.UID}
	}
	return reference{}
}

func trimPod(m *metav1.PartialObjectMetadata) podFacts {
	labels := encode(m.Labels)
	if len(labels) > maxKept {
		labels = ""
	}
	return unique.Make(podClass{labels: labels, controller: controllerOf(m)})
}

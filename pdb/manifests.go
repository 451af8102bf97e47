package pdb

import (
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/evenkeel/evenkeel/policy"
)

// ManifestDecision is a Decision about a workload of a manifest.
type ManifestDecision struct {
	Namespace string // "" where the manifest names none
	Decision
	// Manifest is the budget to write, or nil. It does not carry ManagedByLabel, since
	// whoever applies a manifest owns what is in it: to a Controller it is a budget of
	// somebody else, which wins.
	Manifest *policyv1.PodDisruptionBudget
}

// Manifests decides about the Deployments and StatefulSets among objects, without a
// cluster: HorizontalPodAutoscalers and PodDisruptionBudgets among them count, and
// Namespaces' annotations. Every namespace counts as opted in unless its Namespace
// is among the objects and opts out by label. Objects of other kinds are passed
// over. The decisions are sorted by namespace, kind and name.
func Manifests(objects []runtime.Object, rules Rules) []ManifestDecision {
	namespaces := map[string]*Namespace{}
	in := func(name string) *Namespace {
		n := namespaces[name]
		if n == nil {
			n = &Namespace{Name: name, OptedIn: true}
			namespaces[name] = n
		}
		return n
	}
	for _, object := range objects {
		switch o := object.(type) {
		case *corev1.Namespace:
			n := in(o.Name)
			n.OptedIn = o.Labels[policy.InjectLabel] != policy.Disabled
			n.Setting, n.Patience = setting(o.Annotations), patience(o.Annotations)
		case *appsv1.Deployment:
			n := in(o.Namespace)
			n.Workloads = append(n.Workloads, FromDeployment(o))
		case *appsv1.StatefulSet:
			n := in(o.Namespace)
			n.Workloads = append(n.Workloads, FromStatefulSet(o))
		case *autoscalingv2.HorizontalPodAutoscaler:
			n := in(o.Namespace)
			n.Autoscalers = append(n.Autoscalers, FromAutoscaler(o))
		case *policyv1.PodDisruptionBudget:
			n := in(o.Namespace)
			b := FromBudget(o)
			b.Ours = false // what stands in a manifest is its author's
			n.Budgets = append(n.Budgets, b)
		}
	}
	var all []ManifestDecision
	for _, n := range namespaces {
		for _, d := range Desired(*n, rules) {
			all = append(all, ManifestDecision{Namespace: n.Name, Decision: d, Manifest: manifest(n.Name, d.Budget)})
		}
	}
	slices.SortStableFunc(all, func(a, b ManifestDecision) int { return strings.Compare(a.Namespace, b.Namespace) })
	return all
}

func manifest(namespace string, b *Budget) *policyv1.PodDisruptionBudget {
	if b == nil {
		return nil
	}
	always := policyv1.AlwaysAllow
	return &policyv1.PodDisruptionBudget{TypeMeta: metav1.TypeMeta{APIVersion: "policy/v1", Kind: "PodDisruptionBudget"},
		ObjectMeta: metav1.ObjectMeta{Name: b.Name, Namespace: namespace},
		Spec: policyv1.PodDisruptionBudgetSpec{Selector: b.Selector, MinAvailable: b.MinAvailable,
			MaxUnavailable:             b.MaxUnavailable,
			UnhealthyPodEvictionPolicy: &always}}
}

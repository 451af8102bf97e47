package pdb

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestPodsOfOneReplicaSetShareWhatIsStored(t *testing.T) {
	yes := true
	pod := func(name, app string) *metav1.PartialObjectMetadata {
		return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name,
			Labels: map[string]string{"app": app, "empty": "", "a/b": "c"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-1", UID: "1",
				Controller: &yes}}}}
	}
	first := trimPod(pod("a", "web"))
	if trimPod(pod("b", "web")) != first || trimPod(pod("b", "api")) == first {
		t.Error("not shared, or shared with others")
	}
	if diff := cmp.Diff(pod("a", "web").Labels, decode(first.Value().labels)); diff != "" {
		t.Error(diff)
	}
	if want := (reference{"apps/v1", "ReplicaSet", "web-1", "1"}); first.Value().controller != want {
		t.Errorf("controller %v", first.Value().controller)
	}
}

// TestWhatIsStoredDecidesAsTheObjectDoes reads workloads and budgets before and after they were stored.
func TestWhatIsStoredDecidesAsTheObjectDoes(t *testing.T) {
	two, now, yes, always, percent := int32(2), metav1.NewTime(time.Unix(1_800_000_000, 0)), true, policyv1.AlwaysAllow,
		intstr.FromString("25%")
	metas := []metav1.ObjectMeta{
		{Name: "web", UID: "1", Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"note": "long"}},
		{Name: "web", UID: "2", Labels: map[string]string{"evenkeel.dev/inject": "disabled"},
			Annotations: map[string]string{"evenkeel.dev/disruption-budget": "off"}},
		{Name: "web", UID: "3", Annotations: map[string]string{"evenkeel.dev/disruption-budget": ""}, DeletionTimestamp: &now,
			Labels: map[string]string{ManagedByLabel: Manager},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: "1",
				Controller: &yes}}},
	}
	selectors := []*metav1.LabelSelector{nil, {}, {MatchLabels: map[string]string{"app": "web", "tier": ""}},
		{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpIn,
			Values: []string{"a", "b"}}, {Key: "x", Operator: metav1.LabelSelectorOpExists}}}}
	store := func(transform func(any) (any, error), object any) packed {
		kept, err := transform(object)
		if err != nil {
			t.Fatal(err)
		}
		return kept.(*stored[packed]).value
	}
	type read struct {
		Workload    Workload
		Terminating bool
	}
	check := func(what string, got, want any, err error) {
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-object +stored):\n%s", what, err, diff)
		}
	}
	for i, meta := range metas {
		for j, selector := range selectors {
			for k, replicas := range []*int32{nil, &two} {
				what := fmt.Sprintf("metadata %d, selector %d, replicas %d", i, j, k)
				template := corev1.PodTemplateSpec{ObjectMeta: metas[(i+1)%len(metas)], Spec: corev1.PodSpec{NodeName: "a"}}
				d := &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: replicas, Selector: selector,
					Template: template}}
				w, terminating, err := store(pack(keepDeployment), d).deployment()
				check("Deployment of "+what, read{w, terminating}, read{FromDeployment(d), meta.DeletionTimestamp != nil}, err)
				s := &appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Replicas: replicas, Selector: selector,
					Template: template}}
				w, terminating, err = store(pack(keepStatefulSet), s).statefulSet()
				check("StatefulSet of "+what, read{w, terminating}, read{FromStatefulSet(s), meta.DeletionTimestamp != nil}, err)
				b := &policyv1.PodDisruptionBudget{ObjectMeta: meta,
					Spec: policyv1.PodDisruptionBudgetSpec{Selector: selector, MaxUnavailable: &percent}}
				if k == 1 {
					b.Spec.UnhealthyPodEvictionPolicy = &always
				}
				budget, err := store(pack(keepBudget), b).budget()
				check("budget of "+what, budget, FromBudget(b), err)
			}
		}
	}
}

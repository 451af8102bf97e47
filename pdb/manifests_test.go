package pdb

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestManifestsDecideAsTheControllerDoes(t *testing.T) {
	web := func(namespace, name string, replicas *int32) *appsv1.Deployment {
		labels := map[string]string{"app": name}
		return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec: appsv1.DeploymentSpec{Replicas: replicas,
				Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}}}}
	}
	two := int32(2)
	got := Manifests([]runtime.Object{
		web("", "web", &two),
		web("", "single", nil),
		web("shop", "web", &two),
		web("shop", "api", &two),
		web("quiet", "web", &two),
		&corev1.Namespace{
			ObjectMeta: metav1.ObjectMeta{Name: "quiet", Labels: map[string]string{"evenkeel.dev/inject": "disabled"}}},
		&autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "api"},
			Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
				ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "api"}}},
		&policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", Labels: map[string]string{ManagedByLabel: Manager}},
			Spec:       policyv1.PodDisruptionBudgetSpec{Selector: selector("app", "web")}},
		&corev1.Service{},
	}, rules())
	var lines []string
	for _, d := range got {
		lines = append(lines, d.Namespace+": "+line(d.Decision))
		if d.Manifest != nil &&
			(d.Manifest.Labels != nil || d.Manifest.OwnerReferences != nil || d.Manifest.Name != d.Budget.Name) {
			t.Errorf("the manifest says more than the budget: %+v", d.Manifest)
		}
	}
	want := []string{": Deployment/single below-two", ": Deployment/web applied: web-evenkeel maxUnavailable=10%",
		"shop: Deployment/api below-two", "shop: Deployment/web other-budget (web)"}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
}

package pdb

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/dynamic"

	"github.com/evenkeel/evenkeel/e2e/check"
)

// budget makes a budget of somebody else.
func foreignBudget(t *testing.T, namespace, name string, selector *metav1.LabelSelector) {
	t.Helper()
	one := intstr.FromInt32(1)
	_, err := shared.Client.PolicyV1().PodDisruptionBudgets(namespace).Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: selector, MaxUnavailable: &one}}, metav1.CreateOptions{})
	check.Must(t, err)
}

func autoscaler(t *testing.T, namespace, target string, least int32) {
	t.Helper()
	h := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: target},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: target},
			MinReplicas:    &least, MaxReplicas: 10,
			Metrics: []autoscalingv2.MetricSpec{
				{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
					Metric: autoscalingv2.MetricIdentifier{Name: "queue"},
					Target: autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: one()}}}}}}
	_, err := shared.Client.AutoscalingV2().HorizontalPodAutoscalers(namespace).Create(t.Context(), h,
		metav1.CreateOptions{})
	check.Must(t, err)
}

// ours returns the names of our budgets of a namespace, with their amounts.
func ours(ctx context.Context, namespace string) ([]string, error) {
	list, err := shared.Client.PolicyV1().PodDisruptionBudgets(namespace).List(ctx,
		metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=evenkeel"})
	if err != nil {
		return nil, err
	}
	found := []string{}
	for _, b := range list.Items {
		s := b.Name
		if b.Spec.MinAvailable != nil {
			s += " min " + b.Spec.MinAvailable.String()
		}
		if b.Spec.MaxUnavailable != nil {
			s += " max " + b.Spec.MaxUnavailable.String()
		}
		found = append(found, s)
	}
	return found, nil
}

// stand waits until our budgets of the namespace are exactly these.
func stand(t *testing.T, namespace string, want ...string) {
	t.Helper()
	if want == nil {
		want = []string{}
	}
	check.Eventually(t, "budgets", func() error {
		got, err := ours(t.Context(), namespace)
		if err != nil {
			return err
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("(-want +got)\n%s", diff)
		}
		return nil
	})
}

// evictions evicts the pods with app=name one after the other, each asked about by a dry run
// first, and fails the test at any answer other than yes and not now. It returns how
// many went before the answer was not now. New pods come while old ones go.
func evictions(t *testing.T, namespace, name string, replicas int) int {
	t.Helper()
	var before []corev1.Pod
	check.Eventually(t, "ready pods of "+name, func() error {
		if before = pods(t, namespace, name); len(before) != replicas {
			return fmt.Errorf("%d of %d", len(before), replicas)
		}
		return nil
	})
	// The disruption controller has to have counted these pods.
	check.Eventually(t, "status of the budgets", func() error {
		list, err := shared.Client.PolicyV1().PodDisruptionBudgets(namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, b := range list.Items {
			s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
			if err != nil {
				return err
			}
			selected, err := shared.Client.CoreV1().Pods(namespace).List(t.Context(),
				metav1.ListOptions{LabelSelector: s.String()})
			if err != nil {
				return err
			}
			healthy := 0
			for i := range selected.Items {
				if check.Ready(&selected.Items[i]) {
					healthy++
				}
			}
			if b.Status.ObservedGeneration != b.Generation || int(b.Status.CurrentHealthy) != healthy {
				return fmt.Errorf("%s has seen %d of %d pods", b.Name, b.Status.CurrentHealthy, healthy)
			}
		}
		return nil
	})
	evicted := 0
	for _, p := range before {
		switch err := evict(t.Context(), namespace, p.Name, true); {
		case err == nil:
		case apierrors.IsTooManyRequests(err):
			continue
		default:
			t.Fatalf("evict %s: %d: %v", p.Name, status(err), err)
		}
		if err := evict(t.Context(), namespace, p.Name, false); err == nil {
			evicted++
		} else if !apierrors.IsTooManyRequests(err) {
			t.Fatalf("evict %s: %d: %v", p.Name, status(err), err)
		} else {
			break
		}
	}
	return evicted
}

// canEvict checks that a drain makes progress: some pod of the workload can be evicted, and
// no answer is other than yes and not now.
func canEvict(t *testing.T, namespace, name string, replicas int) {
	t.Helper()
	n := evictions(t, namespace, name, replicas)
	if n == 0 {
		t.Errorf("%s: nothing could be evicted: a drain would never finish", name)
	}
}

// TestDecisions goes through the decision table, with evictions for real.
func TestDecisions(t *testing.T) {
	start(t, nil)

	t.Run("floors", func(t *testing.T) {
		t.Parallel()
		ns := namespace(t, nil)
		for n := range int32(6) {
			create(t, ns, deployment(fmt.Sprint("web", n), n))
		}
		stand(t, ns, "web2-evenkeel max 10%", "web3-evenkeel max 10%", "web4-evenkeel max 10%", "web5-evenkeel max 10%")
		for n := range 6 {
			if n > 0 {
				canEvict(t, ns, fmt.Sprint("web", n), n)
			}
		}
		patch(t, ns, "deployments", "web5", `{"spec":{"replicas":1}}`)
		patch(t, ns, "deployments", "web1", `{"spec":{"replicas":2}}`)
		patch(t, ns, "deployments", "web2", `{"spec":{"replicas":0}}`)
		stand(t, ns, "web1-evenkeel max 10%", "web3-evenkeel max 10%", "web4-evenkeel max 10%")
		check.Must(t, shared.Client.AppsV1().Deployments(ns).Delete(t.Context(), "web3", metav1.DeleteOptions{}))
		stand(t, ns, "web1-evenkeel max 10%", "web4-evenkeel max 10%")
	})

	t.Run("autoscalers", func(t *testing.T) {
		t.Parallel()
		ns := namespace(t, nil)
		create(t, ns, deployment("web", 3))
		stand(t, ns, "web-evenkeel max 10%")
		autoscaler(t, ns, "web", 1)
		stand(t, ns)
		canEvict(t, ns, "web", 3)
		patch(t, ns, "horizontalpodautoscalers", "web", `{"spec":{"minReplicas":2}}`)
		stand(t, ns, "web-evenkeel max 10%")
		patch(t, ns, "horizontalpodautoscalers", "web", `{"spec":{"minReplicas":0}}`)
		stand(t, ns)
		check.Must(t,
			shared.Client.AutoscalingV2().HorizontalPodAutoscalers(ns).Delete(t.Context(), "web", metav1.DeleteOptions{}))
		stand(t, ns, "web-evenkeel max 10%")
	})

	t.Run("values", func(t *testing.T) {
		t.Parallel()
		ns := namespace(t, nil)
		for name, value := range map[string]string{"a": "maxUnavailable=1%", "b": "maxUnavailable=50%",
			"c": "minAvailable=50%", "d": "minAvailable=4",
			"e": "minAvailable=99%", "f": "maxUnavailable=100%", "g": "minAvailable=2", "h": "off", "i": "most"} {
			create(t, ns, deployment(name, 4, func(d *appsv1.Deployment) {
				d.Annotations = map[string]string{"evenkeel.dev/disruption-budget": value}
			}))
		}
		_, err := shared.Client.AppsV1().StatefulSets(ns).Create(t.Context(),
			statefulSet("db", 5, map[string]string{"evenkeel.dev/disruption-budget": "quorum"}), metav1.CreateOptions{})
		check.Must(t, err)
		stand(t, ns, "a-evenkeel max 1%", "b-evenkeel max 50%", "c-evenkeel min 50%", "d-evenkeel max 10%",
			"db-evenkeel max 2", "e-evenkeel max 10%", "f-evenkeel max 10%", "g-evenkeel min 2", "i-evenkeel max 10%")
		for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i"} {
			canEvict(t, ns, name, 4)
		}
		canEvict(t, ns, "db", 5)
		for name, code := range map[string]string{"d": "would-block-drains", "e": "would-block-drains", "f": "would-take-all",
			"i": "unusable-value"} {
			check.Eventually(t, "event on "+name, func() error {
				list, err := shared.Client.CoreV1().Events(ns).List(t.Context(),
					metav1.ListOptions{FieldSelector: "involvedObject.name=" + name + ",reason=BudgetAdjusted"})
				if err != nil || len(list.Items) != 1 || !strings.HasPrefix(list.Items[0].Message, code+": ") {
					return fmt.Errorf("%v, %v", list.Items, err)
				}
				return nil
			})
		}
		patch(t, ns, "deployments", "d", `{"metadata":{"annotations":{"evenkeel.dev/disruption-budget":"minAvailable=3"}}}`)
		patch(t, ns, "deployments", "h", `{"metadata":{"annotations":{"evenkeel.dev/disruption-budget":null}}}`)
		stand(t, ns, "a-evenkeel max 1%", "b-evenkeel max 50%", "c-evenkeel min 50%", "d-evenkeel min 3", "db-evenkeel max 2",
			"e-evenkeel max 10%", "f-evenkeel max 10%", "g-evenkeel min 2", "h-evenkeel max 10%", "i-evenkeel max 10%")
	})

	t.Run("budgets of others", func(t *testing.T) {
		t.Parallel()
		ns := namespace(t, nil)
		foreignBudget(t, ns, "before", &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: "app", Operator: metav1.LabelSelectorOpIn, Values: []string{"web", "shop"}}}})
		foreignBudget(t, ns, "taken-evenkeel", &metav1.LabelSelector{MatchLabels: map[string]string{"app": "nobody"}})
		for _, name := range []string{"web", "api", "taken"} {
			create(t, ns, deployment(name, 2))
		}
		stand(t, ns, "api-evenkeel max 10%")
		canEvict(t, ns, "web", 2)
		check.Must(t, shared.Client.PolicyV1().PodDisruptionBudgets(ns).Delete(t.Context(), "before", metav1.DeleteOptions{}))
		stand(t, ns, "api-evenkeel max 10%", "web-evenkeel max 10%")
		foreignBudget(t, ns, "everything", &metav1.LabelSelector{})
		stand(t, ns)
		for _, name := range []string{"web", "api", "taken"} {
			n := evictions(t, ns, name, 2)
			t.Logf("%s: %d evicted under the budget of somebody else", name, n)
		}
		check.Must(t,
			shared.Client.PolicyV1().PodDisruptionBudgets(ns).Delete(t.Context(), "everything", metav1.DeleteOptions{}))
		stand(t, ns, "api-evenkeel max 10%", "web-evenkeel max 10%")
		b, err := shared.Client.PolicyV1().PodDisruptionBudgets(ns).Get(t.Context(), "taken-evenkeel", metav1.GetOptions{})
		check.Must(t, err)
		if b.Generation != 1 || len(b.OwnerReferences) > 0 || len(b.Labels) > 0 {
			t.Errorf("a budget of somebody else was changed: %+v", b)
		}
	})

	t.Run("hands on our budgets", func(t *testing.T) {
		t.Parallel()
		ns := namespace(t, nil)
		for _, name := range []string{"web", "api", "db"} {
			create(t, ns, deployment(name, 3))
		}
		stand(t, ns, "api-evenkeel max 10%", "db-evenkeel max 10%", "web-evenkeel max 10%")
		patch(t, ns, "poddisruptionbudgets", "web-evenkeel", `{"spec":{"maxUnavailable":3}}`)
		patch(t, ns, "poddisruptionbudgets", "api-evenkeel", `{"spec":{"maxUnavailable":null,"minAvailable":3}}`)
		check.Must(t,
			shared.Client.PolicyV1().PodDisruptionBudgets(ns).Delete(t.Context(), "db-evenkeel", metav1.DeleteOptions{}))
		stand(t, ns, "api-evenkeel max 10%", "db-evenkeel max 10%", "web-evenkeel max 10%")
		patch(t, ns, "poddisruptionbudgets", "web-evenkeel",
			`{"metadata":{"labels":{"app.kubernetes.io/managed-by":null}},"spec":{"maxUnavailable":2}}`)
		stand(t, ns, "api-evenkeel max 10%", "db-evenkeel max 10%")
		patch(t, ns, "deployments", "web", `{"spec":{"replicas":1}}`)
		patch(t, ns, "deployments", "db", `{"spec":{"replicas":1}}`)
		stand(t, ns, "api-evenkeel max 10%")
		b, err := shared.Client.PolicyV1().PodDisruptionBudgets(ns).Get(t.Context(), "web-evenkeel", metav1.GetOptions{})
		check.Must(t, err)
		if b.Spec.MaxUnavailable.IntValue() != 2 {
			t.Errorf("a budget that was taken over was changed: %+v", b)
		}
	})

	t.Run("shared pods", func(t *testing.T) {
		t.Parallel()
		ns := namespace(t, nil)
		create(t, ns, deployment("web", 2))
		create(t, ns, deployment("canary", 2, func(d *appsv1.Deployment) {
			d.Spec.Selector.MatchLabels["app"] = "web"
			d.Spec.Selector.MatchLabels["track"] = "canary"
			d.Spec.Template.Labels = d.Spec.Selector.MatchLabels
		}))
		stand(t, ns, "web-evenkeel max 10%")
		canEvict(t, ns, "web", 4)
		for _, name := range []string{"web", "canary"} {
			check.Eventually(t, "event on "+name, func() error {
				list, err := shared.Client.CoreV1().Events(ns).List(t.Context(),
					metav1.ListOptions{FieldSelector: "type=Warning,involvedObject.name=" + name})
				if err != nil || len(list.Items) == 0 {
					return fmt.Errorf("%d events, %v", len(list.Items), err)
				}
				return nil
			})
		}
		check.Must(t, shared.Client.AppsV1().Deployments(ns).Delete(t.Context(), "web", metav1.DeleteOptions{}))
		stand(t, ns, "canary-evenkeel max 10%")
		_, err := shared.Client.AppsV1().StatefulSets(ns).Create(t.Context(), statefulSet("canary", 2, nil),
			metav1.CreateOptions{})
		check.Must(t, err)
		stand(t, ns, "canary-evenkeel max 10%", "canary-evenkeel-statefulset.apps max 10%")
	})

	t.Run("pods of a job", func(t *testing.T) {
		t.Parallel()
		ns := namespace(t, nil)
		create(t, ns, deployment("web", 3))
		_, err := shared.Client.BatchV1().Jobs(ns).Create(t.Context(),
			&batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "migrate"}, Spec: batchv1.JobSpec{
				Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web", "job": "migrate"}},
					Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever,
						Containers: []corev1.Container{{Name: "migrate", Image: "web"}}}}}}, metav1.CreateOptions{})
		check.Must(t, err)
		stand(t, ns, "web-evenkeel min 2")
		check.Eventually(t, "an eviction", func() error {
			for _, p := range pods(t, ns, "web") {
				if p.Labels["job"] == "" {
					return evict(t.Context(), ns, p.Name, false)
				}
			}
			return fmt.Errorf("no pod")
		})
	})

	t.Run("opting in and out", func(t *testing.T) {
		t.Parallel()
		ns := namespace(t, nil)
		create(t, ns, deployment("web", 2))
		create(t, ns,
			deployment("api", 2, func(d *appsv1.Deployment) { d.Spec.Template.Labels["evenkeel.dev/inject"] = "disabled" }))
		stand(t, ns, "web-evenkeel max 10%")
		canEvict(t, ns, "api", 2)
		patch(t, ns, "deployments", "web", `{"metadata":{"labels":{"evenkeel.dev/inject":"disabled"}}}`)
		stand(t, ns)
		patch(t, ns, "deployments", "web", `{"metadata":{"labels":{"evenkeel.dev/inject":null}}}`)
		stand(t, ns, "web-evenkeel max 10%")
		patch(t, "", "namespaces", ns, `{"metadata":{"labels":{"evenkeel.dev/inject":null}}}`)
		stand(t, ns)
		patch(t, "", "namespaces", ns,
			`{"metadata":{"labels":{"evenkeel.dev/inject":"enabled"},`+
				`"annotations":{"evenkeel.dev/disruption-budget":"minAvailable=1"}}}`)
		stand(t, ns, "web-evenkeel min 1")
	})

	t.Run("quotas", func(t *testing.T) {
		t.Parallel()
		ns := namespace(t, nil)
		const counted = "count/poddisruptionbudgets.policy"
		allow := func(n string) {
			q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "budgets"},
				Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{counted: resource.MustParse(n)}}}
			_, err := shared.Client.CoreV1().ResourceQuotas(ns).Update(t.Context(), q, metav1.UpdateOptions{})
			if apierrors.IsNotFound(err) {
				_, err = shared.Client.CoreV1().ResourceQuotas(ns).Create(t.Context(), q, metav1.CreateOptions{})
			}
			check.Must(t, err)
			check.Eventually(t, "quota that is counted", func() error {
				q, err := shared.Client.CoreV1().ResourceQuotas(ns).Get(t.Context(), "budgets", metav1.GetOptions{})
				if hard := q.Status.Hard[counted]; err != nil || hard.String() != n {
					return fmt.Errorf("%s, %v", hard.String(), err)
				}
				return nil
			})
		}
		allow("3")
		for i := range int32(4) {
			create(t, ns, deployment(fmt.Sprint("web", 3-i), 5-i))
		}
		stand(t, ns, "web2-evenkeel max 10%", "web3-evenkeel max 10%")
		// takes the last
		foreignBudget(t, ns, "theirs", &metav1.LabelSelector{MatchLabels: map[string]string{"app": "theirs"}})
		check.Eventually(t, "a quota that counts it, or there would be room for two", func() error {
			q, err := shared.Client.CoreV1().ResourceQuotas(ns).Get(t.Context(), "budgets", metav1.GetOptions{})
			if used := q.Status.Used[counted]; err != nil || used.String() != "3" {
				return fmt.Errorf("%s, %v", used.String(), err)
			}
			return nil
		})
		allow("5")
		stand(t, ns, "web1-evenkeel max 10%", "web2-evenkeel max 10%", "web3-evenkeel max 10%")
		allow("9")
		stand(t, ns, "web0-evenkeel max 10%", "web1-evenkeel max 10%", "web2-evenkeel max 10%", "web3-evenkeel max 10%")
	})

	t.Run("long names", func(t *testing.T) {
		t.Parallel()
		ns := namespace(t, nil)
		name := strings.Repeat("a", 250)
		create(t, ns, deployment(name, 2, func(d *appsv1.Deployment) {
			d.Spec.Selector.MatchLabels = map[string]string{"app": "long"}
			d.Spec.Template.Labels = d.Spec.Selector.MatchLabels
		}))
		check.Eventually(t, "budget", func() error {
			got, err := ours(t.Context(), ns)
			if err != nil || len(got) != 1 {
				return fmt.Errorf("%v, %v", got, err)
			}
			return nil
		})
	})

	t.Run("a workload of another kind", func(t *testing.T) {
		t.Parallel()
		rollouts(t)
	})
}

// rollouts tests a kind that the API server has only by a CustomResourceDefinition:
// the shape of Argo's Rollout, whose pods belong to ReplicaSets.
func rollouts(t *testing.T) {
	client, err := dynamic.NewForConfig(shared.RESTConfig())
	check.Must(t, err)
	object := func() map[string]any {
		return map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}
	}
	crd := &unstructured.Unstructured{
		Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
			"metadata": map[string]any{"name": "rollouts.argoproj.io"},
			"spec": map[string]any{"group": "argoproj.io", "scope": "Namespaced",
				"names": map[string]any{"kind": "Rollout", "plural": "rollouts", "singular": "rollout"},
				"versions": []any{map[string]any{"name": "v1alpha1", "served": true, "storage": true,
					"schema": map[string]any{
						"openAPIV3Schema": map[string]any{"type": "object",
							"properties": map[string]any{"spec": map[string]any{"type": "object",
								"x-kubernetes-preserve-unknown-fields": true,
								"properties":                           map[string]any{"replicas": map[string]any{"type": "integer"}}},
								"status": object()}}},
					"subresources": map[string]any{"status": map[string]any{},
						"scale": map[string]any{"specReplicasPath": ".spec.replicas",
							"statusReplicasPath": ".status.HPAReplicas", "labelSelectorPath": ".status.selector"}}}}}}}
	definitions := client.Resource(
		schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	_, err = definitions.Create(t.Context(), crd, metav1.CreateOptions{})
	check.Must(t, err)
	t.Cleanup(func() {
		check.Must(t, definitions.Delete(context.Background(), "rollouts.argoproj.io", metav1.DeleteOptions{}))
	})
	ns := namespace(t, nil)
	resource := client.Resource(schema.GroupVersionResource{
		Group: "argoproj.io", Version: "v1alpha1", Resource: "rollouts"}).Namespace(ns)
	var rollout *unstructured.Unstructured
	check.Eventually(t, "the kind is served", func() error {
		rollout, err = resource.Create(t.Context(),
			&unstructured.Unstructured{Object: map[string]any{"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout",
				"metadata": map[string]any{"name": "web"},
				"spec": map[string]any{"replicas": int64(3),
					"template": map[string]any{"metadata": map[string]any{"labels": map[string]any{"app": "web"}}}}}},
			metav1.CreateOptions{})
		return err
	})
	// What Argo's controller would do.
	yes, three := true, int32(3)
	labels := map[string]string{"app": "web", "rollouts-pod-template-hash": "5d4f"}
	_, err = shared.Client.AppsV1().ReplicaSets(ns).Create(t.Context(),
		&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web-5d4f",
			OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "argoproj.io/v1alpha1", Kind: "Rollout", Name: "web", UID: rollout.GetUID(), Controller: &yes}}},
			Spec: appsv1.ReplicaSetSpec{Replicas: &three, Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: template(labels)}}, metav1.CreateOptions{})
	check.Must(t, err)
	rollout.Object["status"] = map[string]any{"selector": "app=web", "HPAReplicas": int64(3)}
	rollout, err = resource.UpdateStatus(t.Context(), rollout, metav1.UpdateOptions{})
	check.Must(t, err)
	stand(t, ns, "web-evenkeel max 10%")
	canEvict(t, ns, "web", 3)

	scale := func(n int64) {
		rollout, err = resource.Get(t.Context(), "web", metav1.GetOptions{})
		check.Must(t, err)
		check.Must(t, unstructured.SetNestedField(rollout.Object, n, "spec", "replicas"))
		_, err = resource.Update(t.Context(), rollout, metav1.UpdateOptions{})
		check.Must(t, err)
	}
	scale(1)
	stand(t, ns)
	scale(4)
	stand(t, ns, "web-evenkeel max 10%")
	check.Must(t, resource.Delete(t.Context(), "web", metav1.DeleteOptions{}))
	stand(t, ns)
}

func one() *resource.Quantity { q := resource.MustParse("1"); return &q }

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// replicas is how many pods a rollout has.
const replicas = 10

// rollout is what the creation of a Deployment and of its pods cost.
type rollout struct {
	took    time.Duration // until the Deployment has all of its pods, the median of a round
	used    used
	reviews float64 // that evenkeel answered
}

// rollouts creates a number of Deployments in a side, one after another, sees each have all of its
// pods and every pod the defaults, and deletes them all.
func (s *servers) rollouts(ctx context.Context, side *side, deployments int) (rollout, error) {
	// that were made when those before were deleted, see deleteRollouts
	if err := s.deletePods(ctx, side.namespace); err != nil {
		return rollout{}, err
	}
	reviewed, err := s.evenkeel.Metric(ctx, "evenkeel_admission_reviews_total")
	if err != nil {
		return rollout{}, err
	}
	var took []float64
	used, err := s.measure(ctx, side, deployments, func() error {
		for range deployments {
			s.rolledOut++
			start := time.Now()
			if err := s.rollOut(ctx, side.namespace, fmt.Sprintf("checkout-%d", s.rolledOut)); err != nil {
				return err
			}
			took = append(took, float64(time.Since(start)))
		}
		time.Sleep(200 * time.Millisecond) // events are written, and what evenkeel's controller does, it has done
		return nil
	})
	if err != nil {
		return rollout{}, err
	}
	reviewedAfter, err := s.evenkeel.Metric(ctx, "evenkeel_admission_reviews_total")
	if err != nil {
		return rollout{}, err
	}
	measured := rollout{took: time.Duration(median(took)), used: used,
		reviews: (reviewedAfter - reviewed) / float64(deployments)}
	pods, err := s.Client.CoreV1().Pods(side.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return rollout{}, err
	}
	if len(pods.Items) != deployments*replicas {
		return rollout{}, fmt.Errorf("%d pods, want %d", len(pods.Items), deployments*replicas)
	}
	for i := range pods.Items {
		if has := hasDefaults(&pods.Items[i]); has == (side.name == nothing) {
			return rollout{}, fmt.Errorf("pod %s has the defaults: %v", pods.Items[i].Name, has)
		}
	}
	want := 0.0
	if side.ours {
		want = 1
	}
	if measured.reviews != want {
		return rollout{}, fmt.Errorf("evenkeel answered %g reviews per Deployment of %d replicas, want %g", measured.reviews,
			replicas, want)
	}
	return measured, s.deleteRollouts(ctx, side.namespace)
}

// rollOut creates a Deployment and waits until it has all of its pods.
func (s *servers) rollOut(ctx context.Context, namespace, name string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	shape := workload{kind: "Deployment", bytes: reference.bytes, containers: reference.containers}
	deployment, ok := shape.typed("1.0", shape.variables()).(*appsv1.Deployment)
	if !ok {
		return errors.New("no Deployment was made")
	}
	deployment.Name, deployment.Namespace, deployment.ManagedFields = name, "", nil
	*deployment.Spec.Replicas = replicas
	labels := map[string]string{"app.kubernetes.io/name": name}
	deployment.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	deployment.Spec.Template.Labels = labels
	client := s.Client.AppsV1().Deployments(namespace)
	created, err := client.Create(ctx, deployment, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create Deployment: %w", err)
	}
	changes, err := client.Watch(ctx, metav1.ListOptions{ResourceVersion: created.ResourceVersion,
		FieldSelector: "metadata.name=" + name})
	if err != nil {
		return fmt.Errorf("watch Deployment: %w", err)
	}
	defer changes.Stop()
	for change := range changes.ResultChan() {
		if d, ok := change.Object.(*appsv1.Deployment); ok && change.Type == watch.Modified &&
			d.Status.UnavailableReplicas == replicas && d.Status.UpdatedReplicas == replicas {
			return nil
		}
	}
	return fmt.Errorf("deployment %s has not got its pods: %w", name, ctx.Err())
}

// hasDefaults reports whether a pod has all three defaults. Its grace period is 40 s where evenkeel
// has raised that of its template, and 30 s with policies, which see the pod alone and, as evenkeel
// does there, leave it.
func hasDefaults(pod *corev1.Pod) bool {
	if a := pod.Spec.Affinity; a == nil || a.PodAntiAffinity == nil ||
		len(a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution) != 2 {
		return false
	}
	for _, c := range pod.Spec.Containers {
		if c.Lifecycle == nil || c.Lifecycle.PreStop == nil || c.Lifecycle.PreStop.Sleep == nil || c.ReadinessProbe == nil {
			return false
		}
	}
	return true
}

// deleteRollouts deletes what rollouts left, owners first, since nothing collects garbage here.
func (s *servers) deleteRollouts(ctx context.Context, namespace string) error {
	err := errors.Join(
		s.Client.AppsV1().Deployments(namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}),
		s.Client.AppsV1().ReplicaSets(namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}),
		s.Client.PolicyV1().PodDisruptionBudgets(namespace).DeleteCollection(ctx, metav1.DeleteOptions{},
			metav1.ListOptions{}))
	if err != nil {
		return fmt.Errorf("delete rollouts: %w", err)
	}
	// until kube-controller-manager has noticed, mostly: it makes new pods for those that are deleted
	time.Sleep(100 * time.Millisecond)
	return s.deletePods(ctx, namespace)
}

// measureRollouts goes through rounds of rollouts, in which the sides take turns, each round in
// another order. A first round is not counted.
func (s *servers) measureRollouts(ctx context.Context, rounds, deployments int) error {
	s.garbage = garbage{most: map[*side]float64{}}
	var sides []*side
	for _, side := range s.sides {
		if side.rollouts {
			sides = append(sides, side)
		}
	}
	for n := range rounds + 1 {
		for _, i := range rand.Perm(len(sides)) {
			side := sides[i]
			measured, err := s.rollouts(ctx, side, deployments)
			if err != nil {
				return fmt.Errorf("%s: %w", side.name, err)
			}
			if n > 0 {
				side.deployments = append(side.deployments, measured)
			}
		}
	}
	return nil
}

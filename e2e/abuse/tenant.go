package abuse

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// FillTenant makes 600 ReplicaSets of 250 KB and 80 Deployments of 1 MB in a namespace, none of which asks for a pod.
func FillTenant(ctx context.Context, client kubernetes.Interface, namespace string) error {
	labels, none := map[string]string{"app": "large"}, int32(0)
	selector := &metav1.LabelSelector{MatchLabels: labels}
	template := func(argument string) corev1.PodTemplateSpec {
		return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web", Args: []string{argument}}}}}
	}
	var group errgroup.Group
	group.SetLimit(4)
	for i := range 600 {
		group.Go(func() error {
			_, err := client.AppsV1().ReplicaSets(namespace).Create(ctx, &appsv1.ReplicaSet{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("large-%d", i),
					Annotations: map[string]string{"x": strings.Repeat("x", 250_000)}},
				Spec: appsv1.ReplicaSetSpec{Replicas: &none, Selector: selector, Template: template("x")}},
				metav1.CreateOptions{})
			return err
		})
	}
	for i := range 80 {
		group.Go(func() error {
			_, err := client.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("large-%d", i)},
				Spec: appsv1.DeploymentSpec{Replicas: &none, Selector: selector,
					Template: template(strings.Repeat("x", 1_000_000))}}, metav1.CreateOptions{})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("fill namespace %s: %w", namespace, err)
	}
	return nil
}

package admission

import (
	"errors"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/check"
)

// TestServeKeepsBudgets sees the budget controller at work as a part of evenkeel serve, with the rights of deploy/.
func TestServeKeepsBudgets(t *testing.T) {
	ctx := t.Context()
	namespace := optedIn(t, nil)
	for _, d := range []struct {
		name     string
		replicas int32
	}{{"two", 2}, {"one", 1}} {
		_, err := shared.Client.AppsV1().Deployments(namespace).Create(ctx, deployment(d.name, d.replicas),
			metav1.CreateOptions{})
		check.Must(t, err)
	}
	budgets := shared.Client.PolicyV1().PodDisruptionBudgets(namespace)
	check.Eventually(t, "the budget of the Deployment with two replicas", func() error {
		b, err := budgets.Get(ctx, "two-evenkeel", metav1.GetOptions{})
		if err == nil && b.Spec.MaxUnavailable.String() != "10%" {
			t.Fatalf("maxUnavailable %v, want 10%%", b.Spec.MaxUnavailable)
		}
		return err
	})
	check.Must(t, shared.Client.AppsV1().Deployments(namespace).Delete(ctx, "two", metav1.DeleteOptions{}))
	check.Eventually(t, "no budget without its Deployment", func() error {
		list, err := budgets.List(ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 {
			err = errors.New(list.Items[0].Name + " is still there")
		}
		return err
	})
}

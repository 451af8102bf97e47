package abuse

import (
	"os"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/cgroup"
	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

// TestLargeObjectsOfATenantFitIntoMemory starts evenkeel in 128 MiB beside an API server that
// doesn't stream lists, as up to 1.33, and that holds 600 ReplicaSets of 250 KB and 80 Deployments
// of 1 MB in a namespace that isn't opted in.
func TestLargeObjectsOfATenantFitIntoMemory(t *testing.T) {
	ctx := t.Context()
	if os.Getenv("KUBECONFIG") != "" {
		t.Skip("KUBECONFIG names an existing cluster, and nobody fills that")
	}
	c, err := cluster.Start(ctx, cluster.Config{Log: os.Stderr, Components: []string{},
		Flags: map[string][]string{cluster.APIServer: {"--feature-gates=WatchList=false"}}})
	check.Must(t, err)
	t.Cleanup(func() { check.Must(t, c.Stop()) })
	for _, namespace := range []string{"tenant", "shop"} {
		labels := map[string]string{}
		if namespace == "shop" {
			labels["evenkeel.dev/inject"] = "enabled"
		}
		_, err := c.Client.CoreV1().Namespaces().Create(ctx,
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace, Labels: labels}}, metav1.CreateOptions{})
		check.Must(t, err)
	}
	check.Must(t, FillTenant(ctx, c.Client, "tenant"))
	var wrapper []string
	limited, err := cgroup.New(MemoryLimit)
	if err != nil {
		t.Logf("NOT LIMITED: the memory of evenkeel, for which it takes Linux and root: %v", err)
	} else {
		wrapper = limited.Wrapper()
		t.Cleanup(func() { check.Must(t, limited.Remove()) })
	}
	begin := time.Now()
	evenkeel, err := installation.Install(ctx, c,
		installation.Options{Wrapper: wrapper, Flags: []string{"--scan-interval=1s"}})
	check.Must(t, err)
	t.Cleanup(evenkeel.Stop)
	pid := c.PIDs()["evenkeel"]
	three, labels := int32(3), map[string]string{"app": "web"}
	_, err = c.Client.AppsV1().Deployments("shop").Create(ctx,
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"},
			Spec: appsv1.DeploymentSpec{Replicas: &three, Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
					Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}}}}}, metav1.CreateOptions{})
	check.Must(t, err)
	check.Eventually(t, "a budget, for which the leader has listed everything", func() error {
		_, err := c.Client.PolicyV1().PodDisruptionBudgets("shop").Get(ctx, "web-evenkeel", metav1.GetOptions{})
		return err
	})
	t.Logf("all lists read %v after the start; memory at most %s",
		time.Since(begin).Round(time.Millisecond), peak(limited))
	if now := c.PIDs()["evenkeel"]; now != pid {
		t.Errorf("evenkeel ended: process %d is %d now; the end of its log:\n%.2000s", pid, now,
			evenkeel.Log()[max(0, len(evenkeel.Log())-2000):])
	}
}

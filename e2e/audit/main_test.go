// Package audit tests evenkeel audit, explain and the scan for missed injections on a real control plane: what they say
// is compared with what the webhook then does, what lost nodes and zones then take down, and what evictions then meet.
package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	report "github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

// shared is the control plane of the tests of this package, with nine nodes in three zones, and
// evenkeel as deploy/ runs it.
var shared struct {
	*cluster.Cluster
	evenkeel *installation.Installation
}

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx := context.Background()
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	c, err := cluster.Start(ctx, cluster.Config{Log: os.Stderr})
	if err != nil {
		return fail(err)
	}
	defer func() { _ = c.Stop() }()
	shared.Cluster = c
	if _, err := c.AddNodes(ctx, 9, cluster.NodeSpec{}); err != nil {
		return fail(err)
	}
	if shared.evenkeel, err = installation.Install(ctx, c, installation.Options{}); err != nil {
		return fail(err)
	}
	return m.Run()
}

// evenkeel runs a command of evenkeel's against the cluster and returns what it wrote and its exit code.
func evenkeel(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, err bytes.Buffer
	cmd := exec.CommandContext(t.Context(), shared.evenkeel.Program, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+shared.Kubeconfig)
	cmd.Stdout, cmd.Stderr = &out, &err
	if failure := cmd.Run(); failure != nil && cmd.ProcessState == nil {
		t.Fatal(failure)
	}
	return out.String(), err.String(), cmd.ProcessState.ExitCode()
}

// audit runs evenkeel audit -o json.
func audit(t *testing.T, args ...string) *report.Report {
	t.Helper()
	stdout, stderr, code := evenkeel(t, append([]string{"audit", "-o", "json"}, args...)...)
	if code != 0 {
		t.Fatalf("audit: exit code %d: %s", code, stderr)
	}
	var r report.Report
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatalf("audit: %v in %s", err, stdout)
	}
	return &r
}

// has reports whether a workload has a finding.
func has(w *report.Workload, code report.Code) bool {
	return slices.ContainsFunc(w.Findings, func(f report.Finding) bool { return f.Code == code })
}

// namespace makes a namespace that goes with the test.
func namespace(t *testing.T, labels map[string]string) string {
	t.Helper()
	n, err := shared.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "audit-", Labels: labels}}, metav1.CreateOptions{})
	check.Must(t, err)
	t.Cleanup(func() {
		check.Must(t, shared.Client.CoreV1().Namespaces().Delete(context.Background(), n.Name, metav1.DeleteOptions{}))
	})
	check.Eventually(t, "the namespace's service account", func() error {
		_, err := shared.Client.CoreV1().ServiceAccounts(n.Name).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return n.Name
}

var optedIn = map[string]string{"evenkeel.dev/inject": "enabled"}

func optIn(t *testing.T, name string) {
	t.Helper()
	_, err := shared.Client.CoreV1().Namespaces().Patch(t.Context(), name, types.MergePatchType,
		[]byte(`{"metadata":{"labels":{"evenkeel.dev/inject":"enabled"}}}`), metav1.PatchOptions{})
	check.Must(t, err)
}

func deployment(name string, replicas int32, change ...func(*appsv1.Deployment)) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{Replicas: &replicas,
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web",
				Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}}}}}
	for _, f := range change {
		f(d)
	}
	return d
}

func create(t *testing.T, namespace string, d *appsv1.Deployment) {
	t.Helper()
	_, err := shared.Client.AppsV1().Deployments(namespace).Create(t.Context(), d, metav1.CreateOptions{})
	check.Must(t, err)
}

// ready returns how many pods of each app are ready.
func ready(t *testing.T, namespace string) map[string]int {
	t.Helper()
	list, err := shared.Client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
	check.Must(t, err)
	counts := map[string]int{}
	for i := range list.Items {
		if check.Ready(&list.Items[i]) {
			counts[list.Items[i].Labels["app"]]++
		}
	}
	return counts
}

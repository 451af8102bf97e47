package admission

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/check"
)

// tolerated says how long a pod tolerates which taints, without those of the scheduler.
func tolerated(spec corev1.PodSpec) string {
	var all []string
	for _, t := range spec.Tolerations {
		seconds := "ever"
		if t.TolerationSeconds != nil {
			seconds = fmt.Sprint(*t.TolerationSeconds)
		}
		all = append(all, strings.TrimPrefix(t.Key, "node.kubernetes.io/")+" "+seconds)
	}
	return strings.Join(all, ", ")
}

// TestNodeLossReachesThePods follows the setting from the Namespace into the pods, where Kubernetes
// adds 300 s otherwise, and away again. A manifest that is sent again changes nothing, whatever it
// says of tolerations.
func TestNodeLossReachesThePods(t *testing.T) {
	namespace := optedIn(t, map[string]string{"evenkeel.dev/node-loss": "30s"})
	gpu := []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpExists}}
	own := deployment("own", 1, func(d *appsv1.Deployment) { d.Spec.Template.Spec.Tolerations = gpu })
	plain := deployment("plain", 1)
	asking := statefulSet("asking", 1,
		func(s *appsv1.StatefulSet) { s.Annotations = map[string]string{"evenkeel.dev/node-loss": "1m"} })
	for name, test := range map[string]struct {
		object           metav1.Object
		kind, want, then string
	}{
		"plain": {plain, "Deployment", "not-ready 30, unreachable 30", "not-ready 300, unreachable 300"},
		"own": {own, "Deployment", "dedicated ever, not-ready 300, unreachable 300",
			"dedicated ever, not-ready 300, unreachable 300"},
		"silent": {statefulSet("silent", 1), "StatefulSet", "not-ready 300, unreachable 300",
			"not-ready 300, unreachable 300"},
		"asking": {asking, "StatefulSet", "not-ready 60, unreachable 60", "not-ready 60, unreachable 60"},
	} {
		pod := func(t *testing.T, want string) {
			t.Helper()
			check.Eventually(t, "a pod that tolerates "+want, func() error {
				pods, err := shared.Client.CoreV1().Pods(namespace).List(t.Context(),
					metav1.ListOptions{LabelSelector: "app=" + name})
				if err != nil || len(pods.Items) != 1 {
					return errors.Join(err, fmt.Errorf("%d pods", len(pods.Items)))
				}
				if got := tolerated(pods.Items[0].Spec); got != want {
					return fmt.Errorf("it tolerates %s", got)
				}
				return nil
			})
		}
		t.Run(name, func(t *testing.T) {
			kubectl(t, test.object, "apply", "-n", namespace, "-f", "-")
			pod(t, test.want)
			_, before := stored(t, namespace, test.kind, name)
			kubectl(t, test.object, "apply", "-n", namespace, "-f", "-")
			kubectl(t, test.object, "replace", "-n", namespace, "-f", "-")
			if _, after := stored(t, namespace, test.kind, name); cmp.Diff(before, after) != "" {
				t.Errorf("the manifest sent again changes the template (-before +after):\n%s", cmp.Diff(before, after))
			}
			kubectl(t, map[string]any{
				"metadata": map[string]any{
					"annotations": map[string]any{
						"evenkeel.dev/node-loss": map[bool]any{true: "1m", false: "off"}[name == "asking"]}}},
				"patch", test.kind, name, "-n", namespace, "--patch-file", "/dev/stdin")
			kubectl(t, nil, "rollout", "restart", test.kind+"/"+name, "-n", namespace)
			pod(t, test.then)
		})
	}
}

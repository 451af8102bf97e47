package pdb

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/evenkeel/evenkeel/e2e/check"
)

// TestABudgetStepsAsideForADrain evicts pods as a drain does, again and again, where a budget
// would refuse for ever: the replacements have nowhere to go, or one pod is broken for good.
// Without patience the same evictions never end.
func TestABudgetStepsAsideForADrain(t *testing.T) {
	const patience = 10 * time.Second
	start(t, func(s *settings) { s.Base.BudgetPatience = patience })
	pinned := func(node string) func(*appsv1.Deployment) {
		return func(d *appsv1.Deployment) {
			d.Spec.Template.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
		}
	}
	for _, off := range []bool{false, true} {
		annotations := map[string]string(nil)
		if off {
			annotations = map[string]string{"evenkeel.dev/budget-patience": "off"}
		}
		ns := namespace(t, annotations)
		create(t, ns, deployment("pinned", 2, pinned("node-3")))
		create(t, ns, deployment("broken", 3))
		counted := func(name string, replicas int32) {
			check.Eventually(t, "budget that has counted its pods", func() error {
				b, err := shared.Client.PolicyV1().PodDisruptionBudgets(ns).Get(t.Context(), name+"-evenkeel", metav1.GetOptions{})
				if err == nil && b.Status.CurrentHealthy != replicas {
					err = fmt.Errorf("%d of %d healthy", b.Status.CurrentHealthy, replicas)
				}
				return err
			})
		}
		counted("pinned", 2)
		counted("broken", 3)

		onNode, some := pods(t, ns, "pinned"), pods(t, ns, "broken")
		cordon(t, onNode[0].Spec.NodeName, true)
		defer cordon(t, onNode[0].Spec.NodeName, false)
		_, err := shared.Client.CoreV1().Pods(ns).Patch(t.Context(), some[0].Name, types.StrategicMergePatchType,
			[]byte(`{"status":{"conditions":[{"type":"Ready","status":"False"}]}}`), metav1.PatchOptions{}, "status")
		check.Must(t, err)
		counted("broken", 2)

		left := map[string]bool{onNode[0].Name: true, onNode[1].Name: true, some[1].Name: true}
		begin := time.Now()
		for len(left) > 0 && time.Since(begin) < patience+time.Minute && (!off || time.Since(begin) < 3*patience) {
			for name := range left {
				if s := status(evict(t.Context(), ns, name, false)); s == 201 || s == 404 {
					delete(left, name)
				}
			}
			time.Sleep(200 * time.Millisecond) // as a drain does, which waits 5 s
		}
		t.Logf("patience off: %v; %d evictions left after %v", off, len(left), time.Since(begin))
		if off && len(left) != 2 || !off && len(left) != 0 {
			t.Errorf("patience off: %v; %d evictions left", off, len(left))
		}
		if off {
			return
		}
		cordon(t, onNode[0].Spec.NodeName, false)
		check.Eventually(t, "budget that has returned", func() error {
			b, err := shared.Client.PolicyV1().PodDisruptionBudgets(ns).Get(t.Context(), "pinned-evenkeel", metav1.GetOptions{})
			if err == nil && (b.Spec.MaxUnavailable.String() == "100%" || len(b.Annotations) > 0) {
				err = fmt.Errorf("maxUnavailable %v, %v", b.Spec.MaxUnavailable, b.Annotations)
			}
			return err
		})
	}
}

func cordon(t *testing.T, node string, is bool) {
	t.Helper()
	_, err := shared.Client.CoreV1().Nodes().Patch(t.Context(), node, types.MergePatchType,
		fmt.Appendf(nil, `{"spec":{"unschedulable":%v}}`, is), metav1.PatchOptions{})
	check.Must(t, err)
}

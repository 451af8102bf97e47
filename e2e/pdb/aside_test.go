package pdb

import (
	"context"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
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
	for off, nodes := range map[bool][2]string{false: {"node-3", "node-5"}, true: {"node-6", "node-8"}} {
		t.Run(fmt.Sprint("patience off: ", off), func(t *testing.T) {
			t.Parallel() // both wait, each on nodes of its own
			annotations := map[string]string(nil)
			if off {
				annotations = map[string]string{"evenkeel.dev/budget-patience": "off"}
			}
			ns := namespace(t, annotations)
			create(t, ns, deployment("pinned", 2, pinned(nodes[0])))
			create(t, ns, deployment("broken", 3))
			createOnLocalVolumes(t, ns, "db", nodes[1])
			budgets := shared.Client.PolicyV1().PodDisruptionBudgets(ns)
			counted := func(name string, replicas int32) {
				check.Eventually(t, "budget that has counted its pods", func() error {
					b, err := budgets.Get(t.Context(), name+"-evenkeel", metav1.GetOptions{})
					if err == nil && b.Status.CurrentHealthy != replicas {
						err = fmt.Errorf("%d of %d healthy", b.Status.CurrentHealthy, replicas)
					}
					return err
				})
			}
			counted("pinned", 2)
			counted("broken", 3)
			counted("db", 2)

			onNode, some, onVolumes := pods(t, ns, "pinned"), pods(t, ns, "broken"), pods(t, ns, "db")
			for _, node := range []string{onNode[0].Spec.NodeName, onVolumes[0].Spec.NodeName} {
				cordon(t, node, true)
				defer cordon(t, node, false)
			}
			_, err := shared.Client.CoreV1().Pods(ns).Patch(t.Context(), some[0].Name, types.StrategicMergePatchType,
				[]byte(`{"status":{"conditions":[{"type":"Ready","status":"False"}]}}`), metav1.PatchOptions{}, "status")
			check.Must(t, err)
			counted("broken", 2)

			left := map[string]types.UID{some[1].Name: some[1].UID} // of a StatefulSet, the next pod has the same name
			for _, p := range append(onNode, onVolumes...) {
				left[p.Name] = p.UID
			}
			begin := time.Now()
			for len(left) > 0 && time.Since(begin) < patience+time.Minute && (!off || time.Since(begin) < 2*patience) {
				for name, uid := range left {
					p, err := shared.Client.CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{})
					if apierrors.IsNotFound(err) || err == nil && p.UID != uid || status(evict(t.Context(), ns, name, false)) == 201 {
						delete(left, name)
					}
				}
				time.Sleep(200 * time.Millisecond) // as a drain does, which waits 5 s
			}
			t.Logf("patience off: %v; %d evictions left after %v", off, len(left), time.Since(begin))
			if off && len(left) != 3 || !off && len(left) != 0 {
				t.Errorf("patience off: %v; %d evictions left", off, len(left))
			}
			if off {
				return
			}
			for name, node := range map[string]string{"pinned": onNode[0].Spec.NodeName, "db": onVolumes[0].Spec.NodeName} {
				cordon(t, node, false)
				check.Eventually(t, "budget that has returned", func() error {
					b, err := budgets.Get(t.Context(), name+"-evenkeel", metav1.GetOptions{})
					if err == nil && (b.Spec.MaxUnavailable.String() == "100%" || len(b.Annotations) > 0) {
						err = fmt.Errorf("maxUnavailable %v, %v", b.Spec.MaxUnavailable, b.Annotations)
					}
					return err
				})
			}
		})
	}
}

// createOnLocalVolumes makes a StatefulSet of two whose volumes are on one node.
func createOnLocalVolumes(t *testing.T, ns, name, node string) {
	t.Helper()
	wait, none := storagev1.VolumeBindingWaitForFirstConsumer, "kubernetes.io/no-provisioner"
	class, err := shared.Client.StorageV1().StorageClasses().Create(t.Context(), &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: ns}, Provisioner: none, VolumeBindingMode: &wait}, metav1.CreateOptions{})
	check.Must(t, err)
	t.Cleanup(func() {
		check.Must(t,
			shared.Client.StorageV1().StorageClasses().Delete(context.Background(), class.Name, metav1.DeleteOptions{}))
	})
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	once := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	for i := range 2 {
		v, err := shared.Client.CoreV1().PersistentVolumes().Create(t.Context(), &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", ns, i)},
			Spec: corev1.PersistentVolumeSpec{Capacity: size, AccessModes: once, StorageClassName: class.Name,
				PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/volume"}},
				NodeAffinity: &corev1.VolumeNodeAffinity{
					Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
						MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname,
							Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}}}}}}, metav1.CreateOptions{})
		check.Must(t, err)
		t.Cleanup(func() {
			check.Must(t,
				shared.Client.CoreV1().PersistentVolumes().Delete(context.Background(), v.Name, metav1.DeleteOptions{}))
		})
	}
	s := statefulSet(name, 2, nil)
	s.Spec.Template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: once, StorageClassName: &class.Name,
			Resources: corev1.VolumeResourceRequirements{Requests: size}}}}
	_, err = shared.Client.AppsV1().StatefulSets(ns).Create(t.Context(), s, metav1.CreateOptions{})
	check.Must(t, err)
}

func cordon(t *testing.T, node string, is bool) {
	t.Helper()
	_, err := shared.Client.CoreV1().Nodes().Patch(t.Context(), node, types.MergePatchType,
		fmt.Appendf(nil, `{"spec":{"unschedulable":%v}}`, is), metav1.PatchOptions{})
	check.Must(t, err)
}

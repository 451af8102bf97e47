package audit

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	report "github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/e2e/check"
)

// TestWhatWasMissedIsFound creates workloads while evenkeel is away, under failurePolicy Ignore.
// Within 30 s of its return the gauge counts them all, each has an Event, and audit names them;
// none of them is touched; and when they have been restarted, nothing is left.
func TestWhatWasMissedIsFound(t *testing.T) {
	ns := namespace(t, optedIn)
	ctx := t.Context()
	const deployments, bare = 40, 5
	shared.evenkeel.Stop()
	pods := 0
	for i := range deployments {
		replicas := int32(i % 4)
		pods += int(replicas)
		create(t, ns, deployment(fmt.Sprintf("web%d", i), replicas))
	}
	labels := map[string]string{"app": "set"}
	template := deployment("set", 2).Spec.Template
	_, err := shared.Client.AppsV1().StatefulSets(ns).Create(ctx,
		&appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "set"}, Spec: appsv1.StatefulSetSpec{
			PodManagementPolicy: appsv1.ParallelPodManagement, Replicas: new(int32),
			Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template}}, metav1.CreateOptions{})
	check.Must(t, err)
	for i := range bare {
		_, err := shared.Client.CoreV1().Pods(ns).Create(ctx,
			&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("bare%d", i), Labels: labels}, Spec: template.Spec},
			metav1.CreateOptions{})
		check.Must(t, err)
	}
	// What must not be found: opted out, of a Job, and complete.
	create(t, ns,
		deployment("out", 1, func(d *appsv1.Deployment) { d.Labels = map[string]string{"evenkeel.dev/inject": "disabled"} }))
	job := template.DeepCopy()
	job.Spec.RestartPolicy = corev1.RestartPolicyNever
	_, err = shared.Client.BatchV1().Jobs(ns).Create(ctx,
		&batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "job"}, Spec: batchv1.JobSpec{Template: *job}},
		metav1.CreateOptions{})
	check.Must(t, err)
	create(t, ns, deployment("own", 1, func(d *appsv1.Deployment) {
		spec := &d.Spec.Template.Spec
		spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{}}
		spec.Containers[0].Lifecycle = &corev1.Lifecycle{
			PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 3}}}
		spec.Containers[0].ReadinessProbe = &corev1.Probe{
			ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{}}}
		spec.Containers[0].ReadinessProbe.TCPSocket.Port.IntVal = 80
	}))
	check.Eventually(t, "pods", func() error {
		n := 0
		for app, r := range ready(t, ns) {
			if strings.HasPrefix(app, "web") {
				n += r
			}
		}
		if n != pods {
			return fmt.Errorf("%d of %d are ready", n, pods)
		}
		return nil
	})

	check.Must(t, shared.evenkeel.Start(ctx, "--scan-interval=3s")) // so that the end of the test need not wait for 20 s
	returned := time.Now()
	var took time.Duration
	check.Eventually(t, "the gauge", func() error {
		for kind, want := range map[string]int{"Deployment": deployments, "StatefulSet": 1, "Pod": pods + bare} {
			for _, name := range []string{"anti-affinity", "pre-stop-sleep", "readiness-probe"} {
				want := want
				if name == "readiness-probe" { // none is guessed for peers, nor for pods whose siblings have none
					want = map[string]int{"Deployment": deployments, "Pod": bare}[kind]
				}
				n, err := shared.evenkeel.Metric(ctx, "evenkeel_missed_injections", `default="`+name+`"`, `kind="`+kind+`"`,
					`reason="no-record"`)
				if err != nil || int(n) != want {
					return fmt.Errorf("%v of %d: %s of kind %s (%w)", n, want, name, kind, err)
				}
			}
		}
		return nil
	})
	check.Eventually(t, "an Event per workload", func() error {
		list, err := shared.Client.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "reason=InjectionMissed"})
		if err != nil {
			return err
		}
		told := map[string]int{}
		for _, e := range list.Items {
			told[e.InvolvedObject.Kind]++
			if e.InvolvedObject.UID == "" {
				t.Errorf("the Event on %s has no uid", e.InvolvedObject.Name)
			}
		}
		if told["Deployment"] != deployments || told["StatefulSet"] != 1 || told["Pod"] != bare || len(told) != 3 {
			return fmt.Errorf("%v", told)
		}
		return nil
	})
	took = time.Since(returned)
	t.Logf("%d workloads and %d pods found %.1f s after the return", deployments+1+bare, pods+bare, took.Seconds())
	if took > 30*time.Second {
		t.Errorf("found %s after the return, promised are 30s", took)
	}
	said := map[string]int{}
	for _, w := range audit(t, "-n", ns).Workloads {
		if has(w, report.MissedInjection) {
			said[w.Kind]++
		}
	}
	if said["Deployment"] != deployments || said["StatefulSet"] != 1 || said["Pod"] != bare || len(said) != 3 {
		t.Errorf("audit names %v", said)
	}
	list, err := shared.Client.AppsV1().Deployments(ns).List(ctx, metav1.ListOptions{})
	check.Must(t, err)
	for _, d := range list.Items {
		if d.Generation != 1 {
			t.Errorf("%s was touched", d.Name)
		}
		if !strings.HasPrefix(d.Name, "web") {
			continue
		}
		_, err := shared.Client.AppsV1().Deployments(ns).Patch(ctx, d.Name, types.MergePatchType,
			[]byte(`{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":"now"}}}}}`),
			metav1.PatchOptions{})
		check.Must(t, err)
	}
	check.Must(t, shared.Client.AppsV1().StatefulSets(ns).Delete(ctx, "set", metav1.DeleteOptions{}))
	for i := range bare {
		check.Must(t,
			shared.Client.CoreV1().Pods(ns).Delete(context.Background(), fmt.Sprintf("bare%d", i), metav1.DeleteOptions{}))
	}
	check.Eventually(t, "a gauge of zero", func() error {
		n, err := shared.evenkeel.Metric(ctx, "evenkeel_missed_injections")
		if err != nil || n != 0 {
			return fmt.Errorf("%v (%w)", n, err)
		}
		return nil
	})
}

// TestAForgedLabelHidesNoPod writes the label of a template that was done on bare pods: the webhook
// is called all the same, and the scan finds what was made while evenkeel was away. A pod that was
// injected has the label too, and is not found.
func TestAForgedLabelHidesNoPod(t *testing.T) {
	ns := namespace(t, optedIn)
	ctx := t.Context()
	pod := func(name string, labels map[string]string) *corev1.Pod {
		t.Helper()
		labels["app"] = "bare"
		stored, err := shared.Client.CoreV1().Pods(ns).Create(ctx,
			&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
				Spec: deployment("bare", 1).Spec.Template.Spec}, metav1.CreateOptions{})
		check.Must(t, err)
		return stored
	}
	for name, labels := range map[string]map[string]string{"forged": {"evenkeel.dev/defaulted": "true"}, "bare": {}} {
		if pod(name, labels).Annotations["evenkeel.dev/injected"] == "" {
			t.Errorf("the pod %s gets no defaults", name)
		}
	}
	shared.evenkeel.Stop()
	pod("forged-meanwhile", map[string]string{"evenkeel.dev/defaulted": "true"})
	check.Must(t, shared.evenkeel.Start(ctx, "--scan-interval=3s"))
	check.Eventually(t, "an Event on the pod that was made meanwhile, and on no other", func() error {
		list, err := shared.Client.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "reason=InjectionMissed"})
		if err != nil {
			return err
		}
		if len(list.Items) != 1 || list.Items[0].InvolvedObject.Name != "forged-meanwhile" {
			return fmt.Errorf("%d Events", len(list.Items))
		}
		return nil
	})
	for _, w := range audit(t, "-n", ns).Workloads {
		if w.Name == "forged-meanwhile" && !has(w, report.MissedInjection) {
			t.Error("audit doesn't name it")
		}
	}
}

package surge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/surge"
)

// row is a row of the truth table of evenkeel's decision about an eviction.
type row struct {
	code    string
	refused bool
	change  func(namespace string, d *appsv1.Deployment)
	// then happens before the eviction of the pod that it returns, nil for nothing and the
	// Deployment's pod.
	then func(t *testing.T, namespace string, pod *corev1.Pod) *corev1.Pod
	// later happens some seconds after the first eviction, without which no other succeeds.
	later func(ctx context.Context, namespace string, pod *corev1.Pod) error
}

// nowhere is a node selector that no node fits.
const nowhere = `{"spec":{"template":{"spec":{"nodeSelector":{"nowhere":"yes"}}}}}`

// table returns each row that an API server lets happen, but for deadline, which has a test of its
// own. No row needs a cordoned node, so all can be there at once.
func (w *world) table() []row {
	off := map[string]string{"evenkeel.dev/drain": "off"}
	disabled := map[string]string{"evenkeel.dev/inject": "disabled"}
	first := intstr.FromInt32(1)
	pinned := func(namespace string, d *appsv1.Deployment) {
		d.Spec.Template.Spec.NodeSelector = map[string]string{only(namespace): "yes"}
	}
	return []row{
		{code: "surging", refused: true},
		{code: "waiting", refused: true,
			change: func(namespace string, d *appsv1.Deployment) {
				pinned(namespace, d)
				d.Spec.Template.Spec.Containers[0].Ports[0].HostPort = 80 // there is one on each node
			},
			then: func(t *testing.T, _ string, pod *corev1.Pod) *corev1.Pod {
				w.evict(t, pod)
				return pod
			},
			later: func(ctx context.Context, namespace string, pod *corev1.Pod) error {
				return w.label(ctx, w.others(pod.Spec.NodeName)[0], only(namespace), "yes")
			}},
		{code: "off", change: func(_ string, d *appsv1.Deployment) { d.Annotations = off }},
		{code: "off", change: func(_ string, d *appsv1.Deployment) { d.Spec.Template.Annotations = off }},
		{code: "opted-out", change: func(_ string, d *appsv1.Deployment) { d.Labels = disabled }},
		{code: "other-owner", then: func(t *testing.T, namespace string, _ *corev1.Pod) *corev1.Pod {
			return w.bare(t, namespace, nil)
		}},
		{code: "ending", then: func(t *testing.T, namespace string, pod *corev1.Pod) *corev1.Pod {
			w.status(t, pod, `{"phase":"Failed"}`) // kwok leaves no pod that is being deleted
			w.other(t, namespace, pod)
			return pod
		}},
		{code: "not-ready", then: func(t *testing.T, _ string, pod *corev1.Pod) *corev1.Pod {
			w.status(t, pod, `{"conditions":[{"type":"Ready","status":"False"}]}`)
			return pod
		}},
		{code: "several-replicas", change: func(_ string, d *appsv1.Deployment) {
			two := int32(2)
			d.Spec.Replicas = &two
			d.Annotations = map[string]string{"evenkeel.dev/disruption-budget": "off"} // which would refuse as well
		}},
		{code: "not-last", then: func(t *testing.T, namespace string, pod *corev1.Pod) *corev1.Pod {
			w.bare(t, namespace, map[string]string{"app": "web"}) // which the Deployment selects
			return pod
		}},
		{code: "paused", then: func(t *testing.T, namespace string, pod *corev1.Pod) *corev1.Pod {
			_, err := w.kubectl(t, "rollout", "pause", "deployment/web", "-n", namespace)
			check.Must(t, err)
			return pod
		}},
		{code: "rolling-out", then: func(t *testing.T, namespace string, pod *corev1.Pod) *corev1.Pod {
			_, err := w.Client.AppsV1().Deployments(namespace).Patch(t.Context(), "web", types.MergePatchType,
				[]byte(nowhere), metav1.PatchOptions{})
			check.Must(t, err)
			w.other(t, namespace, pod)
			return pod
		}},
		{code: "no-surge", change: func(_ string, d *appsv1.Deployment) {
			d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		}},
		{code: "no-surge", change: func(_ string, d *appsv1.Deployment) {
			d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &first, MaxUnavailable: &first}
		}},
		{code: "one-node-volume", change: func(_ string, d *appsv1.Deployment) {
			d.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
		}},
		{code: "again", change: pinned,
			then: func(t *testing.T, namespace string, pod *corev1.Pod) *corev1.Pod {
				w.evict(t, pod)
				w.other(t, namespace, pod)
				w.settled(t, namespace, "web")
				check.Eventually(t, "the first pod is gone", func() error {
					if n := len(w.pods(t, namespace, "web")); n != 1 {
						return fmt.Errorf("%d pods", n)
					}
					return nil
				})
				return &w.pods(t, namespace, "web")[0]
			}},
		{code: "unknown", then: func(t *testing.T, namespace string, pod *corev1.Pod) *corev1.Pod {
			w.forbid(t, namespace)
			return pod
		}},
	}
}

// bare makes a pod that belongs to nobody, and returns it when it is ready.
func (w *world) bare(t *testing.T, namespace string, labels map[string]string) (pod *corev1.Pod) {
	t.Helper()
	_, err := w.Client.CoreV1().Pods(namespace).Create(t.Context(),
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bare", Labels: labels},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}}}, metav1.CreateOptions{})
	check.Must(t, err)
	check.Eventually(t, "the bare pod is ready", func() (err error) {
		if pod, err = w.Client.CoreV1().Pods(namespace).Get(t.Context(), "bare", metav1.GetOptions{}); err != nil {
			return err
		}
		if !check.Ready(pod) {
			return errors.New("it isn't")
		}
		return nil
	})
	return pod
}

// only is the label of the nodes that a pinned Deployment may use.
func only(namespace string) string { return "only-" + namespace }

// label gives a node a label, or takes it with nil.
func (w *world) label(ctx context.Context, node, key string, value any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]any{key: value}}})
	if err != nil {
		return err
	}
	_, err = w.Client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

// status changes the status of a pod.
func (w *world) status(t *testing.T, pod *corev1.Pod, status string) {
	t.Helper()
	_, err := w.Client.CoreV1().Pods(pod.Namespace).Patch(t.Context(), pod.Name, types.StrategicMergePatchType,
		[]byte(`{"status":`+status+`}`), metav1.PatchOptions{}, "status")
	check.Must(t, err)
}

// forbid has a policy of somebody refuse evenkeel's restart of Deployments.
func (w *world) forbid(t *testing.T, namespace string) {
	t.Helper()
	ctx, admission := t.Context(), w.Client.AdmissionregistrationV1()
	_, err := admission.ValidatingAdmissionPolicies().Create(ctx, &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: namespace}, Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionregistrationv1.MatchResources{
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}},
				ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
					RuleWithOperations: admissionregistrationv1.RuleWithOperations{
						Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Update},
						Rule: admissionregistrationv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"},
							Resources: []string{"deployments"}}}}}},
			Validations: []admissionregistrationv1.Validation{{
				Expression: "!('evenkeel.dev/surged' in object.metadata.?annotations.orValue({}))"}}}},
		metav1.CreateOptions{})
	check.Must(t, err)
	_, err = admission.ValidatingAdmissionPolicyBindings().Create(ctx,
		&admissionregistrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: namespace},
			Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: namespace,
				ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny}}},
		metav1.CreateOptions{})
	check.Must(t, err)
	t.Cleanup(func() {
		ctx := context.Background()
		check.Must(t, errors.Join(
			admission.ValidatingAdmissionPolicyBindings().Delete(ctx, namespace, metav1.DeleteOptions{}),
			admission.ValidatingAdmissionPolicies().Delete(ctx, namespace, metav1.DeleteOptions{})))
	})
	check.Eventually(t, "the policy refuses", func() error {
		_, err := w.Client.AppsV1().Deployments(namespace).Patch(ctx, "web", types.MergePatchType,
			[]byte(`{"metadata":{"annotations":{"evenkeel.dev/surged":"x"}}}`),
			metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil {
			return errors.New("it does not")
		}
		return nil
	})
}

// scene is a row that has been brought about.
type scene struct {
	row
	namespace string
	pod       *corev1.Pod
	before    *appsv1.Deployment
}

// bring brings a row about in a namespace of its own.
func (w *world) bring(t *testing.T, r row) scene {
	t.Helper()
	s := scene{row: r, namespace: w.namespace(t, true)}
	if r.code == "one-node-volume" {
		w.claim(t, s.namespace)
	}
	node := w.nodes[int(s.namespace[len(s.namespace)-1])%len(w.nodes)]
	check.Must(t, w.label(t.Context(), node, only(s.namespace), "yes"))
	t.Cleanup(func() {
		for _, node := range w.nodes {
			check.Must(t, w.label(context.Background(), node, only(s.namespace), nil))
		}
	})
	s.before = w.create(t, s.namespace, "web", func(d *appsv1.Deployment) {
		if r.change != nil {
			r.change(s.namespace, d)
		}
	})
	s.pod = &w.pods(t, s.namespace, "web")[0]
	if r.then != nil {
		s.pod = r.then(t, s.namespace, s.pod)
		var err error
		s.before, err = w.Client.AppsV1().Deployments(s.namespace).Get(t.Context(), "web", metav1.GetOptions{})
		check.Must(t, err)
	}
	return s
}

// verify looks at what the eviction has left of the Deployment.
func (w *world) verify(t *testing.T, s scene) {
	t.Helper()
	after, err := w.Client.AppsV1().Deployments(s.namespace).Get(t.Context(), "web", metav1.GetOptions{})
	check.Must(t, err)
	asBefore(t, s.before, after)
	note := after.Annotations["evenkeel.dev/surged"]
	if !s.refused && note != s.before.Annotations["evenkeel.dev/surged"] {
		t.Errorf("%s: a surge was begun: %s", s.code, note)
	}
	if s.refused && !strings.Contains(note, string(s.pod.UID)) {
		t.Errorf("%s: the surge is for another pod: %s", s.code, note)
	}
	events, err := w.Client.CoreV1().Events(s.namespace).List(t.Context(), metav1.ListOptions{})
	check.Must(t, err)
	told := false
	for _, e := range events.Items {
		told = told || strings.Contains(e.Message, "eviction of pod "+s.pod.Name+": "+s.code+":")
	}
	if want := slices.Contains([]string{"surging", "paused", "rolling-out", "no-surge", "one-node-volume", "again",
		"unknown"}, s.code); told != want {
		t.Errorf("%s: an Event says why: %t, want %t", s.code, told, want)
	}
}

// rows brings about one row after the other, and evicts once.
func rows(t *testing.T, w *world) {
	for _, r := range w.table() {
		t.Run(r.code, func(t *testing.T) {
			s := w.bring(t, r)
			counted := w.counted(t, s.code)
			want := map[bool]int{true: http.StatusTooManyRequests, false: http.StatusCreated}[s.refused]
			code, text := w.evict(t, s.pod)
			if code != want {
				t.Errorf("the answer is %d %s, want %d", code, text, want)
			}
			if n := w.counted(t, s.code) - counted; n != 1 {
				t.Errorf("%v evictions got the code %s", n, s.code)
			}
			w.verify(t, s)
		})
	}
}

// drained is the label of the pods that a client drains, with the client.
const drained = "drained"

// clients brings all rows about at once, and has each kind of client drain their pods.
func clients(t *testing.T, w *world) {
	w.evenkeel.Stop()
	check.Must(t, w.evenkeel.Start(t.Context(), "--log-level=debug")) // says each decision
	for _, client := range []struct {
		name  string
		drain func(t *testing.T, w *world, client string)
	}{
		{"kubectl", kubectlDrains}, {"back-off", karpenterDrains}, {"all-at-once", evictsAll},
	} {
		t.Run(client.name, func(t *testing.T) {
			var scenes []scene
			for _, r := range w.table() {
				s := w.bring(t, r)
				_, err := w.Client.CoreV1().Pods(s.namespace).Patch(t.Context(), s.pod.Name, types.MergePatchType,
					[]byte(`{"metadata":{"labels":{"`+drained+`":"`+client.name+`"}}}`), metav1.PatchOptions{})
				check.Must(t, err)
				scenes = append(scenes, s)
			}
			least, errs := make([]func() map[string]int, len(scenes)), make([]error, len(scenes))
			before := len(w.evenkeel.Log())
			var later sync.WaitGroup
			for i, s := range scenes {
				if s.refused {
					least[i] = w.least(t, s.namespace)
				}
				if s.later != nil {
					later.Go(func() {
						for begin := time.Now(); time.Since(begin) < check.Limit; time.Sleep(time.Second) {
							if len(w.decisions(before)[s.namespace+"/"+s.pod.Name]) > 1 { // refused, and again
								break
							}
						}
						errs[i] = s.later(t.Context(), s.namespace, s.pod)
					})
				}
			}
			client.drain(t, w, client.name)
			later.Wait()
			check.Must(t, errors.Join(errs...))
			codes := w.decisions(before)
			for i, s := range scenes {
				got := codes[s.namespace+"/"+s.pod.Name]
				if len(got) == 0 || got[0] != s.code || !s.refused && slices.ContainsFunc(got, refuses) {
					t.Errorf("%s: the decisions are %v", s.code, got)
				}
				if s.later != nil && len(got) < 2 {
					t.Errorf("%s: the client did not ask again: %v", s.code, got)
				}
				if s.refused && least[i]()["web"] == 0 {
					t.Errorf("%s: there was no ready pod for a while", s.code)
				}
				p, err := w.Client.CoreV1().Pods(s.namespace).Get(t.Context(), s.pod.Name, metav1.GetOptions{})
				if !apierrors.IsNotFound(err) {
					t.Errorf("%s: the pod is not gone: %v, %+v", s.code, err, p.Status)
				}
				w.verify(t, s)
			}
		})
	}
	w.restart(t, "10m")
}

// refuses reports whether an eviction with that code is refused.
func refuses(code string) bool { return surge.Code(code).Reason().Refused }

// decisions returns what evenkeel has decided about each pod, by namespace and name, since its log
// had that length.
func (w *world) decisions(since int) map[string][]string {
	codes := map[string][]string{}
	for line := range strings.Lines(w.evenkeel.Log()[since:]) {
		var entry struct{ Namespace, Name, Code, Msg string }
		if json.Unmarshal([]byte(line), &entry) == nil && strings.HasPrefix(entry.Msg, "eviction ") {
			key := entry.Namespace + "/" + entry.Name
			codes[key] = append(codes[key], entry.Code)
		}
	}
	return codes
}

// kubectlDrains drains one node after the other.
func kubectlDrains(t *testing.T, w *world, client string) {
	t.Helper()
	for _, node := range w.nodes {
		if out, err := w.kubectl(t, "drain", node, "--timeout=2m", "--ignore-daemonsets", "--force",
			"--pod-selector="+drained+"="+client); err != nil {
			t.Errorf("drain of %s: %v\n%s", node, err, out)
		}
		_, err := w.kubectl(t, "uncordon", node)
		check.Must(t, err)
	}
}

// karpenterDrains does as Karpenter does with one node after the other: it taints the node, evicts
// its pods at the same time, and tries each again, later each time.
func karpenterDrains(t *testing.T, w *world, client string) {
	t.Helper()
	for _, node := range w.nodes {
		_, err := w.kubectl(t, "taint", "node", node, "karpenter.sh/disrupted:NoSchedule")
		check.Must(t, err)
		w.backOffAll(t, metav1.ListOptions{LabelSelector: drained + "=" + client, FieldSelector: "spec.nodeName=" + node})
		_, err = w.kubectl(t, "taint", "node", node, "karpenter.sh/disrupted-")
		check.Must(t, err)
	}
}

// evictsAll evicts the pods of all nodes at once, and cordons none.
func evictsAll(t *testing.T, w *world, client string) {
	t.Helper()
	w.backOffAll(t, metav1.ListOptions{LabelSelector: drained + "=" + client})
}

// backOffAll evicts pods at the same time, until all are gone.
func (w *world) backOffAll(t *testing.T, of metav1.ListOptions) {
	t.Helper()
	pods, err := w.Client.CoreV1().Pods(metav1.NamespaceAll).List(t.Context(), of)
	check.Must(t, err)
	var all sync.WaitGroup
	for i := range pods.Items {
		all.Go(func() { w.backOff(t, &pods.Items[i]) })
	}
	all.Wait()
}

package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

// refusedPods is the label of metrics of the API server for the webhook that comes last.
const refusedPods = `name="refused-pods.evenkeel.dev"`

// TestAPodIsTakenAfterAnotherWebhook has another webhook, called after ours, change Pods of templates
// that were done, of which evenkeel is asked no more. The API server takes them with the configuration
// that comes last, which is called for those Pods alone, and refuses them without it.
func TestAPodIsTakenAfterAnotherWebhook(t *testing.T) {
	ctx := t.Context()
	evenkeel := ours(t) // the API server of another cluster can't reach a webhook of ours
	sidecar := func(d *appsv1.Deployment) {
		always, c := corev1.ContainerRestartPolicyAlways, corev1.Container{Name: "proxy", Image: "proxy"}
		c.RestartPolicy = &always
		c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 1}}}
		d.Spec.Template.Spec.InitContainers = []corev1.Container{c}
	}
	for _, c := range []struct{ name, patch, want, refused string }{
		{"a grace period of 5 s", `[{"op":"replace","path":"/spec/terminationGracePeriodSeconds","value":5}]`,
			"grace 5, hook sleep 2, probe tcpSocket", "terminationGracePeriodSeconds"},
		{"a grace period as long as the sleep",
			`[{"op":"replace","path":"/spec/terminationGracePeriodSeconds","value":10}]`,
			"grace 10, hook sleep 5, probe tcpSocket", ""},
		{"a handler merged into the probe", `[{"op":"add","path":"/spec/containers/0/readinessProbe/httpGet",` +
			`"value":{"path":"/ready","port":8081}}]`, "grace 40, hook sleep 10, probe httpGet", "1 handler type"},
		{"a command merged into the hook", `[{"op":"add","path":"/spec/containers/0/lifecycle/preStop/exec",` +
			`"value":{"command":["true"]}}]`, "grace 40, hook exec, probe tcpSocket", "1 handler type"},
		{"nothing that is refused", `[{"op":"add","path":"/metadata/annotations/other","value":"webhook"}]`,
			"grace 40, hook sleep 10, probe tcpSocket", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			other := startFake(t, func(r review) string {
				if !strings.Contains(string(r.object), `"kind":"Pod"`) || strings.Contains(string(r.object), `"done"`) {
					return r.answer(`[]`)
				}
				return r.answer(strings.Replace(c.patch, "[", `[{"op":"add","path":"/metadata/labels/done","value":"done"},`, 1))
			})
			other.register(t, "zz-other", func(c *admissionregistrationv1.MutatingWebhookConfiguration) {
				for i := range c.Webhooks {
					c.Webhooks[i].ObjectSelector = nil
				}
			})
			namespace := optedIn(t, nil)
			const requests, failures = "apiserver_admission_webhook_request_total",
				"apiserver_admission_match_condition_evaluation_errors_total"
			calls, failed := samples(t, requests, refusedPods), samples(t, failures, refusedPods)
			d, err := shared.Client.AppsV1().Deployments(namespace).Create(ctx, deployment("web", 1, sidecar),
				metav1.CreateOptions{})
			check.Must(t, err)
			if got := missing(d.Spec.Template.ObjectMeta, d.Spec.Template.Spec); got != "" {
				t.Fatalf("the template lacks %q", got)
			}
			waitPods(t, namespace, 1)
			pods, err := shared.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
			check.Must(t, err)
			if got := podOutline(t, &pods.Items[0]); got != c.want || pods.Items[0].Labels["done"] == "" {
				t.Errorf("a Pod has %s, labels %v, want %s", got, pods.Items[0].Labels, c.want)
			}
			called := samples(t, requests, refusedPods) - calls
			if needed := c.want != "grace 40, hook sleep 10, probe tcpSocket"; called > 0 != needed {
				t.Errorf("evenkeel was called %v times for the Pod", called)
			}
			if now := samples(t, failures, refusedPods); now != failed {
				t.Errorf("the condition failed %v times", now-failed)
			}

			// Without the configuration.
			check.Must(t, shared.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(ctx, installation.Last,
				metav1.DeleteOptions{}))
			t.Cleanup(func() { check.Must(t, evenkeel.Register(context.Background())) })
			copied := pods.Items[0].DeepCopy()
			copied.ObjectMeta = metav1.ObjectMeta{GenerateName: "copy-", Labels: d.Spec.Template.Labels,
				Annotations: d.Spec.Template.Annotations, OwnerReferences: pods.Items[0].OwnerReferences}
			copied.Labels["pod-template-hash"] = pods.Items[0].Labels["pod-template-hash"] // it comes from a ReplicaSet
			copied.Spec = *d.Spec.Template.Spec.DeepCopy()
			create := func() error {
				_, err := shared.Client.CoreV1().Pods(namespace).Create(ctx, copied,
					metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
				return err
			}
			if c.refused == "" {
				check.Must(t, create())
				return
			}
			check.Eventually(t, "the Pod is refused", func() error {
				if err := create(); err == nil || !strings.Contains(err.Error(), c.refused) {
					return errors.Join(errors.New("another answer"), err)
				}
				return nil
			})
			kubectl(t, nil, "scale", "deployment/web", "--replicas=2", "-n", namespace)
			check.Eventually(t, "the ReplicaSet can't create a Pod", func() error {
				d, err := shared.Client.AppsV1().Deployments(namespace).Get(ctx, "web", metav1.GetOptions{})
				if err != nil {
					return err
				}
				for _, condition := range d.Status.Conditions {
					if condition.Type == appsv1.DeploymentReplicaFailure && strings.Contains(condition.Message, c.refused) {
						return nil
					}
				}
				return fmt.Errorf("conditions %v", d.Status.Conditions)
			})
		})
	}
}

// podOutline says what a Pod has of the grace period, the hook and the probe of its first container.
func podOutline(t *testing.T, p *corev1.Pod) string {
	t.Helper()
	hook, preStop := "", p.Spec.Containers[0].Lifecycle.PreStop
	if preStop.Exec != nil {
		hook = "exec"
	}
	if preStop.Sleep != nil {
		hook += fmt.Sprintf("sleep %d", preStop.Sleep.Seconds)
	}
	return fmt.Sprintf("grace %d, hook %s, probe %s", *p.Spec.TerminationGracePeriodSeconds, hook,
		strings.Join(handlers(t, p.Spec.Containers[0].ReadinessProbe), "+"))
}

// TestAnErrorInTheConditionRefusesNothing has the condition of the configuration that comes last fail for every Pod.
func TestAnErrorInTheConditionRefusesNothing(t *testing.T) {
	ctx := t.Context()
	evenkeel := ours(t) // the webhooks of another cluster are not ours to break
	namespace := optedIn(t, nil)
	_, err := shared.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Patch(ctx, installation.Last,
		types.JSONPatchType, []byte(`[{"op":"replace","path":"/webhooks/0/matchConditions/0/expression",`+
			`"value":"object.spec.nothing == 'there'"}]`), metav1.PatchOptions{})
	check.Must(t, err)
	t.Cleanup(func() { check.Must(t, evenkeel.Register(context.Background())) })
	failures := func() float64 {
		return samples(t, "apiserver_admission_match_condition_evaluation_errors_total", refusedPods)
	}
	before := failures()
	check.Eventually(t, "the condition fails", func() error {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "web-", Labels: map[string]string{
			"evenkeel.dev/defaulted": "true", "pod-template-hash": "a"}}}
		p.Spec, _ = bare()
		if _, err := shared.Client.CoreV1().Pods(namespace).Create(ctx, p, metav1.CreateOptions{}); err != nil {
			t.Fatalf("refused: %v", err)
		}
		if failures() == before {
			return errors.New("not in force yet")
		}
		return nil
	})
}

// TestWhatTheConditionCosts creates Pods of a template that was done, in turn with ones that the label
// evenkeel.dev/inject: disabled keeps from the condition. Nobody is called for either.
func TestWhatTheConditionCosts(t *testing.T) {
	ctx := t.Context()
	namespace := optedIn(t, nil)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "web-", Labels: map[string]string{
		"evenkeel.dev/defaulted": "true", "pod-template-hash": "a"}, Annotations: map[string]string{
		"evenkeel.dev/injected": "web/pre-stop-sleep=sleep:10,grace-period=40"}}}
	p.Spec, _ = bare()
	p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{
		Sleep: &corev1.SleepAction{Seconds: 10}}}
	p.Spec.TerminationGracePeriodSeconds = ptr(int64(40))
	for range 2 { // sidecars
		c := *p.Spec.Containers[0].DeepCopy()
		c.Name = fmt.Sprint("c-", len(p.Spec.Containers))
		c.Ports = nil
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	calls := samples(t, "apiserver_admission_webhook_request_total", refusedPods)
	evaluated := samples(t, "apiserver_admission_match_condition_evaluation_seconds_count", refusedPods)
	var took [2][]time.Duration
	for i := range 1200 {
		without := i % 2
		delete(p.Labels, "evenkeel.dev/inject")
		if without == 1 {
			p.Labels["evenkeel.dev/inject"] = "disabled"
		}
		start := time.Now()
		_, err := shared.Client.CoreV1().Pods(namespace).Create(ctx, p,
			metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		check.Must(t, err)
		took[without] = append(took[without], time.Since(start))
	}
	var median [2]time.Duration
	for k := range took {
		slices.Sort(took[k])
		median[k] = took[k][len(took[k])/2]
	}
	ratio := float64(median[0]) / float64(median[1])
	t.Logf("SUMMARY condition: creating a Pod takes %v with the condition and %v without, %.2f times as much", median[0],
		median[1], ratio)
	if ratio > 1.5 {
		t.Errorf("the condition makes the creation of a Pod %.2f times as slow, want 1.5 at most", ratio)
	}
	if n := samples(t, "apiserver_admission_webhook_request_total", refusedPods) - calls; n != 0 {
		t.Errorf("evenkeel was called %v times", n)
	}
	if n := samples(t, "apiserver_admission_match_condition_evaluation_seconds_count", refusedPods) - evaluated; n != 600 {
		t.Errorf("the condition was evaluated %v times, want 600", n)
	}
}

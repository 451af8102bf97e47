package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

func TestPatchesWorkloadsOfOptedInNamespacesOnly(t *testing.T) {
	ctx := t.Context()
	for _, namespace := range []struct{ name, lacks string }{{optedIn(t, nil), ""}, {plain(t), everything}} {
		d, err := shared.Client.AppsV1().Deployments(namespace.name).Create(ctx, deployment("web", 2), metav1.CreateOptions{})
		check.Must(t, err)
		if got := missing(d.Spec.Template.ObjectMeta, d.Spec.Template.Spec); got != namespace.lacks {
			t.Errorf("Deployment lacks %q, want %q", got, namespace.lacks)
		}
		spec, labels := bare()
		s, err := shared.Client.AppsV1().StatefulSets(namespace.name).Create(ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"},
			Spec: appsv1.StatefulSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec}}}, metav1.CreateOptions{})
		check.Must(t, err)
		if got := missing(s.Spec.Template.ObjectMeta, s.Spec.Template.Spec); got != namespace.lacks {
			t.Errorf("StatefulSet lacks %q, want %q", got, namespace.lacks)
		}
		p, err := shared.Client.CoreV1().Pods(namespace.name).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "alone", Labels: labels}, Spec: spec}, metav1.CreateOptions{})
		check.Must(t, err)
		if got := missing(p.ObjectMeta, p.Spec); got != namespace.lacks {
			t.Errorf("Pod lacks %q, want %q", got, namespace.lacks)
		}
		check.Eventually(t, "pods of the controllers", func() error {
			pods, err := shared.Client.CoreV1().Pods(namespace.name).List(ctx, metav1.ListOptions{})
			if err != nil || len(pods.Items) != 4 {
				return fmt.Errorf("%d of 4 pods: %w", len(pods.Items), errors.Join(err, errors.New("not all there")))
			}
			for _, p := range pods.Items {
				if got := missing(p.ObjectMeta, p.Spec); got != namespace.lacks {
					t.Fatalf("pod %s lacks %q, want %q", p.Name, got, namespace.lacks)
				}
			}
			return nil
		})
	}
}

func TestAnOptOutLabelMeansNotEvenCalled(t *testing.T) {
	namespace := optedIn(t, nil)
	before := reviews(t)
	_, err := shared.Client.AppsV1().Deployments(namespace).Create(t.Context(), deployment("out", 3, func(d *appsv1.Deployment) {
		d.Spec.Template.Labels["evenkeel.dev/inject"] = "disabled"
		d.Labels = map[string]string{"evenkeel.dev/inject": "disabled"}
	}), metav1.CreateOptions{})
	check.Must(t, err)
	waitPods(t, namespace, 3)
	if after := reviews(t); after != before {
		t.Errorf("%v reviews for an opted-out Deployment and its pods, want none", after-before)
	}
	_, err = shared.Client.AppsV1().Deployments(namespace).Create(t.Context(), deployment("in", 1), metav1.CreateOptions{})
	check.Must(t, err)
	if after := reviews(t); after != before+1 { // the control: the counter does count
		t.Errorf("%v reviews for a Deployment that takes part, want 1", after-before)
	}
}

// TestAnOptOutLabelOnTheWorkloadHoldsForItsPods has the label on the Deployment alone: its pods don't carry it.
func TestAnOptOutLabelOnTheWorkloadHoldsForItsPods(t *testing.T) {
	namespace := optedIn(t, nil)
	_, err := shared.Client.AppsV1().Deployments(namespace).Create(t.Context(), deployment("out", 3, func(d *appsv1.Deployment) {
		d.Labels = map[string]string{"evenkeel.dev/inject": "disabled"}
	}), metav1.CreateOptions{})
	check.Must(t, err)
	waitPods(t, namespace, 3)
	pods, err := shared.Client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
	check.Must(t, err)
	for _, p := range pods.Items {
		if got := missing(p.ObjectMeta, p.Spec); got != everything {
			t.Errorf("pod %s lacks %q, want everything", p.Name, got)
		}
	}
}

func TestPodsOfADoneTemplateAreNotReviewed(t *testing.T) {
	namespace := optedIn(t, nil)
	deployments, pods := reviews(t, `kind="Deployment"`), reviews(t, `kind="Pod"`)
	_, err := shared.Client.AppsV1().Deployments(namespace).Create(t.Context(), deployment("web", 10), metav1.CreateOptions{})
	check.Must(t, err)
	waitPods(t, namespace, 10)
	if n := reviews(t, `kind="Deployment"`) - deployments; n != 1 {
		t.Errorf("%v reviews of the Deployment, want 1 for the whole rollout", n)
	}
	if n := reviews(t, `kind="Pod"`) - pods; n != 0 {
		t.Errorf("%v reviews of its pods, want none", n)
	}
}

func waitPods(t *testing.T, namespace string, n int) {
	t.Helper()
	check.Eventually(t, "pods", func() error {
		pods, err := shared.Client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
		if err == nil && len(pods.Items) != n {
			err = fmt.Errorf("%d pods, want %d", len(pods.Items), n)
		}
		return err
	})
}

func TestAnnotationsOfTheWorkloadWinOverTheNamespaces(t *testing.T) {
	namespace := optedIn(t, map[string]string{"evenkeel.dev/pre-stop-sleep": "5s", "evenkeel.dev/anti-affinity": "off"})
	sleep := func(d *appsv1.Deployment) int64 {
		return d.Spec.Template.Spec.Containers[0].Lifecycle.PreStop.Sleep.Seconds
	}
	d, err := shared.Client.AppsV1().Deployments(namespace).Create(t.Context(), deployment("inherits", 1), metav1.CreateOptions{})
	check.Must(t, err)
	if sleep(d) != 5 || d.Spec.Template.Spec.Affinity != nil {
		t.Errorf("sleep %d s, affinity %v; want the Namespace's 5 s and none", sleep(d), d.Spec.Template.Spec.Affinity)
	}
	d, err = shared.Client.AppsV1().Deployments(namespace).Create(t.Context(), deployment("overrides", 1, func(d *appsv1.Deployment) {
		d.Annotations = map[string]string{"evenkeel.dev/pre-stop-sleep": "7s"}
		d.Spec.Template.Annotations = map[string]string{"evenkeel.dev/anti-affinity": "required"}
	}), metav1.CreateOptions{})
	check.Must(t, err)
	if sleep(d) != 7 || len(d.Spec.Template.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution) != 1 {
		t.Errorf("sleep %d s, affinity %v; want the workload's 7 s and a required term", sleep(d), d.Spec.Template.Spec.Affinity)
	}
}

func TestBadAnnotationsAreWarnedOfAndAdmitted(t *testing.T) {
	namespace := optedIn(t, nil)
	for name, c := range map[string]struct {
		key, value string
		want       []string
	}{
		"a key with a typo":       {"evenkeel.dev/pre-stop-slep", "5s", []string{"pre-stop-slep", "did you mean evenkeel.dev/pre-stop-sleep?"}},
		"an unknown key":          {"evenkeel.dev/zzzzzz", "5s", []string{"zzzzzz", "known: anti-affinity"}},
		"a value that is no enum": {"evenkeel.dev/anti-affinity", "Preferred", []string{"anti-affinity", `"Preferred"`, "preferred, required, off"}},
		"a broken duration":       {"evenkeel.dev/pre-stop-sleep", "ten", []string{`"ten"`, "whole seconds"}},
		"a clamped duration":      {"evenkeel.dev/pre-stop-sleep", "1h", []string{`"1h"`, "at most 1m0s"}},
		"a broken probe":          {"evenkeel.dev/readiness-probe", "http", []string{`"http"`, "http:PORT/PATH"}},
		"a port nobody declares":  {"evenkeel.dev/readiness-probe", "tcp:http", []string{"tcp:http", "port"}},
		"a broken budget":         {"evenkeel.dev/disruption-budget", "maxUnavailable=0", []string{"maxUnavailable=0", "minAvailable=N"}},
		"a container not there":   {"evenkeel.dev/containers", "wbe", []string{`"wbe"`, "allowed: web"}},
		"a broken topology key":   {"evenkeel.dev/topology-keys", "a b", []string{`"a b"`, "label keys"}},
		"a label as annotation":   {"evenkeel.dev/inject", "disabled", []string{"inject", "as a label"}},
	} {
		t.Run(name, func(t *testing.T) {
			client := newWarned(t)
			d, err := client.AppsV1().Deployments(namespace).Create(t.Context(), deployment("web-"+fmt.Sprint(len(name))+"-"+strings.ReplaceAll(name, " ", "-"), 1,
				func(d *appsv1.Deployment) { d.Annotations = map[string]string{c.key: c.value} }), metav1.CreateOptions{})
			check.Must(t, err)
			if d.Spec.Template.Labels["evenkeel.dev/defaulted"] != "true" {
				t.Error("the other defaults are missing")
			}
			text := strings.Join(client.warnings(), "\n")
			if len(client.warnings()) == 0 {
				t.Fatal("no warning")
			}
			for _, want := range c.want {
				if !strings.Contains(text, want) {
					t.Errorf("warnings %q don't name %q", text, want)
				}
			}
		})
	}
}

// TestHostileValuesAreAdmittedAndRefused sends the values that the unit tests of patches give to every annotation.
func TestHostileValuesAreAdmittedAndRefused(t *testing.T) {
	namespace := optedIn(t, nil)
	root, err := installation.Root()
	check.Must(t, err)
	text, err := os.ReadFile(filepath.Join(root, "patches", "testdata", "hostile-values.json"))
	check.Must(t, err)
	var values []string
	check.Must(t, json.Unmarshal(text, &values))
	client := newWarned(t)
	create := func(name, value string) *appsv1.Deployment {
		d, err := client.AppsV1().Deployments(namespace).Create(t.Context(), deployment(name, 1, func(d *appsv1.Deployment) {
			for _, setting := range []string{"anti-affinity", "pre-stop-sleep", "disruption-budget"} {
				metav1.SetMetaDataAnnotation(&d.ObjectMeta, "evenkeel.dev/"+setting, value)
			}
		}), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		check.Must(t, err)
		return d
	}
	bare, err := client.AppsV1().Deployments(namespace).Create(t.Context(), deployment("web", 1), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	check.Must(t, err)
	for _, value := range values {
		before := len(client.warnings())
		d := create("web", value)
		if diff := cmp.Diff(bare.Spec.Template, d.Spec.Template); diff != "" {
			t.Errorf("%q changes what is added:\n%s", value, diff)
		}
		if n := len(client.warnings()) - before; n != 3 {
			t.Errorf("%q gets %d warnings, want one for each annotation: %q", value, n, client.warnings()[before:])
		}
	}
}

// TestNothingMovesWhenTheSameIsAppliedAgain sends the same manifest in all the ways there are.
func TestNothingMovesWhenTheSameIsAppliedAgain(t *testing.T) {
	grace := int64(60)
	for name, manifest := range map[string]*appsv1.Deployment{
		"bare":                      deployment("web", 1),
		"with its own grace period": deployment("web", 1, func(d *appsv1.Deployment) { d.Spec.Template.Spec.TerminationGracePeriodSeconds = &grace }),
		"with half an own opinion": deployment("web", 1, func(d *appsv1.Deployment) {
			d.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{}}
		}),
		"with annotations of its own": deployment("web", 1, func(d *appsv1.Deployment) { d.Spec.Template.Annotations = map[string]string{"a": "b"} }),
	} {
		for how, again := range map[string][]string{
			"apply":                      {"apply", "-f", "-"},
			"replace":                    {"replace", "-f", "-"},
			"server-side apply":          {"apply", "--server-side", "--force-conflicts", "-f", "-"},
			"dry run":                    {"apply", "--dry-run=server", "-f", "-"},
			"apply to a dry-run replace": {"replace", "--dry-run=server", "-f", "-"},
		} {
			t.Run(how+" of a Deployment "+name, func(t *testing.T) {
				namespace := optedIn(t, nil)
				first := again
				if again[0] == "replace" || strings.HasSuffix(how, "dry run") {
					first = []string{"apply", "-f", "-"}
				}
				kubectl(t, manifest, append(first, "-n", namespace)...)
				stored := func() *appsv1.Deployment {
					d, err := shared.Client.AppsV1().Deployments(namespace).Get(t.Context(), "web", metav1.GetOptions{})
					check.Must(t, err)
					return d
				}
				before := stored()
				if before.Spec.Template.Labels["evenkeel.dev/defaulted"] != "true" {
					t.Fatal("nothing was injected at first")
				}
				for range 2 {
					kubectl(t, manifest, append(again, "-n", namespace)...)
				}
				if diff := cmp.Diff(before.Spec.Template, stored().Spec.Template); diff != "" {
					t.Errorf("the pod template moved (-before +after):\n%s", diff)
				}
			})
		}
	}
}

// TestReinvocationAddsNothing lets a second webhook change the object after us, so that the API server asks us again.
func TestReinvocationAddsNothing(t *testing.T) {
	ctx := t.Context()
	ours(t) // the API server of another cluster can't reach a webhook of ours
	other := startFake(t, func(r review) string {
		return r.answer(`[{"op":"add","path":"/metadata/annotations","value":{"other":"webhook"}}]`)
	})
	other.register(t, "zz-other", func(c *admissionregistrationv1.MutatingWebhookConfiguration) {})
	namespace := optedIn(t, nil)
	patched, unchanged := reviews(t, `kind="Deployment"`, `outcome="patched"`), reviews(t, `kind="Deployment"`, `outcome="unchanged"`)
	d, err := shared.Client.AppsV1().Deployments(namespace).Create(ctx, deployment("web", 0), metav1.CreateOptions{})
	check.Must(t, err)
	if d.Annotations["other"] != "webhook" {
		t.Fatal("the other webhook was not called")
	}
	if got := missing(d.Spec.Template.ObjectMeta, d.Spec.Template.Spec); got != "" {
		t.Errorf("lacks %q", got)
	}
	if p, u := reviews(t, `kind="Deployment"`, `outcome="patched"`)-patched, reviews(t, `kind="Deployment"`, `outcome="unchanged"`)-unchanged; p != 1 || u != 1 {
		t.Errorf("%v reviews with a patch and %v without, want 1 and, from the reinvocation, 1", p, u)
	}
}

// TestOtherOperationsNeverBreak registers evenkeel for everything that there is, which deploy/ does not.
func TestOtherOperationsNeverBreak(t *testing.T) {
	ctx := t.Context()
	evenkeel := ours(t)
	namespace := optedIn(t, nil)
	client := shared.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	check.Must(t, evenkeel.Register(ctx))
	list, err := client.List(ctx, metav1.ListOptions{})
	check.Must(t, err)
	if len(list.Items) != 1 {
		t.Fatalf("%d webhook configurations, want ours alone", len(list.Items))
	}
	everywhere := list.Items[0].DeepCopy()
	for i := range everywhere.Webhooks {
		fail := admissionregistrationv1.Fail
		everywhere.Webhooks[i].FailurePolicy = &fail // so that a failure is seen
		everywhere.Webhooks[i].ObjectSelector = nil
		everywhere.Webhooks[i].Rules = []admissionregistrationv1.RuleWithOperations{{Operations: []admissionregistrationv1.OperationType{"*"},
			Rule: admissionregistrationv1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: []string{"*/*"}}}}
	}
	_, err = client.Update(ctx, everywhere, metav1.UpdateOptions{})
	check.Must(t, err)
	t.Cleanup(func() { check.Must(t, evenkeel.Register(context.Background())) })
	check.Eventually(t, "the changed configuration", func() error {
		before := reviews(t, `operation="other"`)
		_, err := shared.Client.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "c-"}}, metav1.CreateOptions{})
		check.Must(t, err)
		check.Must(t, shared.Client.CoreV1().ConfigMaps(namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
		if reviews(t, `operation="other"`) == before {
			return errors.New("not in force yet")
		}
		return nil
	})

	d, err := shared.Client.AppsV1().Deployments(namespace).Create(ctx, deployment("web", 2), metav1.CreateOptions{})
	check.Must(t, err)
	waitPods(t, namespace, 2)
	kubectl(t, nil, "scale", "deployment/web", "--replicas=3", "-n", namespace)
	waitPods(t, namespace, 3)
	_, err = shared.Client.AppsV1().Deployments(namespace).Patch(ctx, d.Name, types.MergePatchType, []byte(`{"status":{"collisionCount":1}}`), metav1.PatchOptions{}, "status")
	check.Must(t, err)
	before := reviews(t, `operation="other"`)
	pods, err := shared.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	check.Must(t, err)
	// CONNECT: there is no container behind a fake node, but the error must not be ours.
	err = shared.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pods.Items[0].Name).SubResource("exec").
		Param("command", "true").Param("stdout", "true").Do(ctx).Error()
	if err == nil || strings.Contains(err.Error(), "webhook") {
		t.Errorf("exec: %v, want an error of the kubelet's connection", err)
	}
	if after := reviews(t, `operation="other"`); after <= before {
		t.Errorf("CONNECT was not reviewed: %v reviews before and %v after", before, after)
	}
	check.Must(t, shared.Client.AppsV1().Deployments(namespace).Delete(ctx, d.Name, metav1.DeleteOptions{}))
	waitPods(t, namespace, 0)
}

package admission

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/installation"
	"github.com/evenkeel/evenkeel/patches"
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
		s, err := shared.Client.AppsV1().StatefulSets(namespace.name).Create(ctx,
			&appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"},
				Spec: appsv1.StatefulSetSpec{ServiceName: peers, Selector: &metav1.LabelSelector{MatchLabels: labels},
					Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec}}},
			metav1.CreateOptions{})
		check.Must(t, err)
		if got := missing(s.Spec.Template.ObjectMeta, s.Spec.Template.Spec); got != namespace.lacks {
			t.Errorf("StatefulSet lacks %q, want %q", got, namespace.lacks)
		}
		p, err := shared.Client.CoreV1().Pods(namespace.name).Create(ctx,
			&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "alone", Labels: labels}, Spec: spec}, metav1.CreateOptions{})
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
	optOut := map[string]string{"evenkeel.dev/inject": "disabled"}
	for _, kind := range []string{"Deployment", "StatefulSet"} {
		for _, c := range []struct {
			name               string
			labelled, template bool
			calls              float64
		}{
			{"on itself and its pod template", true, true, 0},
			{"on its pod template alone", false, true, 1}, // for itself, which has no label, and not for its pods
			{"nowhere: the counter does count", false, false, 1},
		} {
			t.Run(kind+" with the label "+c.name, func(t *testing.T) {
				namespace := optedIn(t, nil)
				object, template := workload(kind, "web", 3)
				if c.labelled {
					object.SetLabels(optOut)
				}
				if c.template {
					maps.Copy(template.Labels, optOut)
				}
				before := reviews(t)
				kubectl(t, object, "create", "-n", namespace, "-f", "-")
				waitPods(t, namespace, 3)
				if calls := reviews(t) - before; calls != c.calls {
					t.Errorf("%v reviews of it and its pods, want %v", calls, c.calls)
				}
				_, now := stored(t, namespace, kind, "web")
				if got := missing(now.ObjectMeta, now.Spec); (got == everything) != c.template {
					t.Errorf("it lacks %q", got)
				}
			})
		}
	}
	t.Run("Pod", func(t *testing.T) {
		namespace := optedIn(t, nil)
		spec, labels := bare()
		for _, labelled := range []bool{true, false} {
			if delete(labels, "evenkeel.dev/inject"); labelled {
				maps.Copy(labels, optOut)
			}
			before := reviews(t)
			p, err := shared.Client.CoreV1().Pods(namespace).Create(t.Context(), &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{GenerateName: "alone-", Labels: labels}, Spec: spec}, metav1.CreateOptions{})
			check.Must(t, err)
			if called := reviews(t) != before; called == labelled {
				t.Errorf("called: %v, with the label: %v", called, labelled)
			}
			if got := missing(p.ObjectMeta, p.Spec); (got == everything) != labelled {
				t.Errorf("it lacks %q, with the label: %v", got, labelled)
			}
		}
	})
}

// TestAnOptOutLabelOnTheWorkloadHoldsForItsPods has the label on the Deployment alone: its pods don't carry it.
func TestAnOptOutLabelOnTheWorkloadHoldsForItsPods(t *testing.T) {
	namespace := optedIn(t, nil)
	_, err := shared.Client.AppsV1().Deployments(namespace).Create(t.Context(),
		deployment("out", 3, func(d *appsv1.Deployment) {
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
	_, err := shared.Client.AppsV1().Deployments(namespace).Create(t.Context(), deployment("web", 10),
		metav1.CreateOptions{})
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
	d, err := shared.Client.AppsV1().Deployments(namespace).Create(t.Context(), deployment("inherits", 1),
		metav1.CreateOptions{})
	check.Must(t, err)
	if sleep(d) != 5 || d.Spec.Template.Spec.Affinity != nil {
		t.Errorf("sleep %d s, affinity %v; want the Namespace's 5 s and none", sleep(d), d.Spec.Template.Spec.Affinity)
	}
	d, err = shared.Client.AppsV1().Deployments(namespace).Create(t.Context(),
		deployment("overrides", 1, func(d *appsv1.Deployment) {
			d.Annotations = map[string]string{"evenkeel.dev/pre-stop-sleep": "7s"}
			d.Spec.Template.Annotations = map[string]string{"evenkeel.dev/anti-affinity": "required"}
		}), metav1.CreateOptions{})
	check.Must(t, err)
	if sleep(d) != 7 ||
		len(d.Spec.Template.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution) != 1 {
		t.Errorf("sleep %d s, affinity %v; want the workload's 7 s and a required term", sleep(d),
			d.Spec.Template.Spec.Affinity)
	}
}

func TestBadAnnotationsAreWarnedOfAndAdmitted(t *testing.T) {
	namespace := optedIn(t, nil)
	for name, c := range map[string]struct {
		key, value string
		want       []string
	}{
		"a key with a typo": {"evenkeel.dev/pre-stop-slep", "5s",
			[]string{"pre-stop-slep", "did you mean evenkeel.dev/pre-stop-sleep?"}},
		"an unknown key": {"evenkeel.dev/zzzzzz", "5s", []string{"zzzzzz", "known: anti-affinity"}},
		"a value that is no enum": {"evenkeel.dev/anti-affinity", "Preferred",
			[]string{"anti-affinity", `"Preferred"`, "preferred, required, off"}},
		"a broken duration":  {"evenkeel.dev/pre-stop-sleep", "ten", []string{`"ten"`, "whole seconds"}},
		"a clamped duration": {"evenkeel.dev/pre-stop-sleep", "1h", []string{`"1h"`, "at most 1m0s"}},
		"a broken probe":     {"evenkeel.dev/readiness-probe", "http", []string{`"http"`, "http:PORT/PATH"}},
		"a port nobody declares": {"evenkeel.dev/readiness-probe", "tcp:http",
			[]string{"readiness-probe", "port", "unknown-port"}},
		"a broken budget":       {"evenkeel.dev/disruption-budget", "maxUnavailable=0", []string{"disruption-budget"}},
		"a container not there": {"evenkeel.dev/containers", "wbe", []string{"evenkeel.dev/containers"}},
		"a broken topology key": {"evenkeel.dev/topology-keys", "a b", []string{`"a b"`, "label keys"}},
		"a label as annotation": {"evenkeel.dev/inject", "disabled", []string{"inject", "as a label"}},
	} {
		t.Run(name, func(t *testing.T) {
			bad := map[string]string{c.key: c.value}
			for place, create := range places(t, namespace) {
				client := newWarned(t)
				meta := create(client, bad, nil)
				if meta.Labels["evenkeel.dev/defaulted"] != "true" {
					t.Errorf("%s: the other defaults are missing", place)
				}
				text := strings.Join(client.warnings(), "\n")
				for _, want := range c.want {
					if !strings.Contains(text, want) {
						t.Errorf("%s: warnings %q don't name %q", place, text, want)
					}
				}
			}
		})
	}
	for name, c := range map[string]struct {
		key, value string
		want       []string
	}{
		"a value of the opt-out that has no effect": {"evenkeel.dev/inject", "Disabled",
			[]string{`"Disabled"`, "has no effect", "disabled"}},
		"an annotation as label": {"evenkeel.dev/pre-stop-sleep", "5s", []string{"pre-stop-sleep", "as an annotation"}},
		"an unknown key":         {"evenkeel.dev/injekt", "disabled", []string{"injekt", "is not known"}},
	} {
		t.Run(name+", as a label", func(t *testing.T) {
			for place, create := range places(t, namespace) {
				if place == "Namespace" { // its labels are for the API server's selector, and never sent to us
					continue
				}
				client := newWarned(t)
				create(client, nil, map[string]string{c.key: c.value})
				text := strings.Join(client.warnings(), "\n")
				for _, want := range c.want {
					if !strings.Contains(text, want) {
						t.Errorf("%s: warnings %q don't name %q", place, text, want)
					}
				}
			}
		})
	}
}

// places are where annotations and labels can stand. Each creates a workload with them there, or in a Namespace with
// them, without storing it, and returns the metadata of its pods.
func places(
	t *testing.T, namespace string,
) map[string]func(client *warned, annotations, labels map[string]string) metav1.ObjectMeta {
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	create := func(client *warned, namespace string, change func(*appsv1.Deployment)) metav1.ObjectMeta {
		t.Helper()
		d, err := client.AppsV1().Deployments(namespace).Create(t.Context(), deployment("web", 1, change), dry)
		check.Must(t, err)
		return d.Spec.Template.ObjectMeta
	}
	set := func(meta *metav1.ObjectMeta, annotations, labels map[string]string) {
		for key, value := range annotations {
			metav1.SetMetaDataAnnotation(meta, key, value)
		}
		for key, value := range labels {
			metav1.SetMetaDataLabel(meta, key, value)
		}
	}
	return map[string]func(*warned, map[string]string, map[string]string) metav1.ObjectMeta{
		"workload": func(client *warned, annotations, labels map[string]string) metav1.ObjectMeta {
			return create(client, namespace, func(d *appsv1.Deployment) { set(&d.ObjectMeta, annotations, labels) })
		},
		"pod template": func(client *warned, annotations, labels map[string]string) metav1.ObjectMeta {
			return create(client, namespace, func(d *appsv1.Deployment) {
				set(&d.Spec.Template.ObjectMeta, annotations, labels)
			})
		},
		"Pod": func(client *warned, annotations, labels map[string]string) metav1.ObjectMeta {
			spec, own := bare()
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "alone", Labels: own}, Spec: spec}
			set(&pod.ObjectMeta, annotations, labels)
			p, err := client.CoreV1().Pods(namespace).Create(t.Context(), pod, dry)
			check.Must(t, err)
			return p.ObjectMeta
		},
		"Namespace": func(client *warned, annotations, _ map[string]string) metav1.ObjectMeta {
			other := optedIn(t, annotations)
			var meta metav1.ObjectMeta
			check.Eventually(t, "evenkeel has heard of the Namespace", func() error {
				if meta = create(client, other, func(*appsv1.Deployment) {}); len(client.warnings()) == 0 {
					return errors.New("no warning")
				}
				return nil
			})
			return meta
		},
	}
}

// TestEverySkipCodeThatWarnsIsHeardOf has kubectl's users, through client-go's warning handler,
// hear of each code that the README marks as a warning; of internal-error in
// TestABrokenPatchNeverLeaves.
func TestEverySkipCodeThatWarnsIsHeardOf(t *testing.T) {
	namespace := optedIn(t, nil)
	cases := map[string]func(*appsv1.Deployment){
		"ambiguous-port": func(d *appsv1.Deployment) {
			d.Spec.Template.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 81}, {ContainerPort: 82}}
		},
		"unknown-port": func(d *appsv1.Deployment) {
			d.Annotations = map[string]string{"evenkeel.dev/readiness-probe": "tcp:nobody"}
		},
		"short-grace-period": func(d *appsv1.Deployment) {
			d.Spec.Template.Spec.TerminationGracePeriodSeconds = ptr[int64](0)
		},
		"selector-too-large": func(d *appsv1.Deployment) {
			values := []string{"selector-too-large"}
			for n := range 400 {
				values = append(values, fmt.Sprintf("a-value-that-is-as-long-as-a-label-may-be-%08d", n))
			}
			d.Spec.Selector.MatchExpressions = []metav1.LabelSelectorRequirement{
				{Key: "app", Operator: metav1.LabelSelectorOpIn, Values: values}}
		},
		"foreign-record": func(d *appsv1.Deployment) {
			d.Spec.Template.Annotations = map[string]string{"evenkeel.dev/injected": "everything"}
		},
		"no-room": func(d *appsv1.Deployment) { // all but 64 bytes of what the API allows
			d.Spec.Template.Annotations = map[string]string{"large": strings.Repeat("x", 256<<10-64)}
		},
		"too-many-parts": func(d *appsv1.Deployment) {
			for n := range 200 {
				d.Spec.Template.Spec.Containers = append(d.Spec.Template.Spec.Containers,
					corev1.Container{Name: fmt.Sprint("c", n), Image: "c"})
			}
		},
		"patch-too-large": func(d *appsv1.Deployment) {
			for n := range 199 {
				d.Spec.Template.Spec.Containers = append(d.Spec.Template.Spec.Containers, corev1.Container{
					Name: fmt.Sprintf("a-name-that-is-as-long-as-that-of-a-container-may-be-%08d", n), Image: "c",
					LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
						Path: "/" + strings.Repeat("long", 50), Port: intstr.FromInt32(80)}}}})
			}
		},
		"own-tolerations": func(d *appsv1.Deployment) {
			d.Annotations = map[string]string{"evenkeel.dev/node-loss": "30s"}
			d.Spec.Template.Spec.Tolerations = []corev1.Toleration{{Key: "own", Operator: corev1.TolerationOpExists}}
		},
	}
	// What the API server refuses or never sends, and what takes minutes to be noticed.
	unmade := []patches.Skip{patches.SkipInternalError, patches.SkipContainerName, patches.SkipUnreadable,
		patches.SkipDeadline, "probe-never-succeeds", "reset-again"}
	for _, reason := range patches.Reasons() {
		change, ok := cases[string(reason.Code)]
		if ok != reason.Warn && !slices.Contains(unmade, reason.Code) {
			t.Errorf("%s has a case: %v, want one: %v", reason.Code, ok, reason.Warn)
		}
		if !ok {
			continue
		}
		t.Run(string(reason.Code), func(t *testing.T) {
			client := newWarned(t)
			d := deployment(string(reason.Code), 1, change)
			_, err := client.AppsV1().Deployments(namespace).Create(t.Context(), d,
				metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			check.Must(t, err)
			if text := strings.Join(client.warnings(), "\n"); !strings.Contains(text,
				"("+string(reason.Code)+"): "+reason.Text) {
				t.Errorf("warnings %q don't say %s", text, reason.Code)
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
	bare, err := client.AppsV1().Deployments(namespace).Create(t.Context(), deployment("web", 1),
		metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
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

// TestNothingMovesWhenTheSameIsAppliedAgain sends the same manifests in all the ways there are.
func TestNothingMovesWhenTheSameIsAppliedAgain(t *testing.T) {
	var manifests []metav1.Object
	for name, change := range map[string]func(*corev1.PodTemplateSpec){
		"bare": func(*corev1.PodTemplateSpec) {},
		"with-its-own-grace-period": func(t *corev1.PodTemplateSpec) {
			t.Spec.TerminationGracePeriodSeconds = ptr[int64](60)
		},
		"with-a-short-grace-period": func(t *corev1.PodTemplateSpec) { t.Spec.TerminationGracePeriodSeconds = ptr[int64](5) },
		"with-half-an-own-opinion": func(t *corev1.PodTemplateSpec) {
			t.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{}}
		},
		"with-annotations-of-its-own": func(t *corev1.PodTemplateSpec) { t.Annotations = map[string]string{"a": "b"} },
	} {
		for _, kind := range []string{"Deployment", "StatefulSet"} {
			manifest, template := workload(kind, name, 1)
			change(template)
			manifests = append(manifests, manifest)
		}
	}
	for how, args := range map[string]struct {
		first, again []string
		// annotations is set where the way changes annotations of the workload, which are a part of a Deployment's generation
		// (k8s.io/kubernetes/pkg/registry/apps/deployment/strategy.go).
		annotations bool
	}{
		"apply": {first: applies["apply"], again: applies["apply"]},
		// without --force-conflicts
		"server-side apply": {first: applies["server-side apply"], again: applies["server-side apply"]},
		"server-side apply by force": {applies["apply"],
			[]string{"apply", "--server-side", "--force-conflicts", "-f", "-"}, true},
		"replace":            {applies["apply"], []string{"replace", "-f", "-"}, true},
		"dry run":            {first: applies["apply"], again: []string{"apply", "--dry-run=server", "-f", "-"}},
		"dry run of replace": {first: applies["apply"], again: []string{"replace", "--dry-run=server", "-f", "-"}},
	} {
		t.Run(how, func(t *testing.T) {
			namespace := optedIn(t, nil)
			type state struct {
				Generation int64
				Template   corev1.PodTemplateSpec
			}
			states := func() map[string]state {
				all := map[string]state{}
				for _, m := range manifests {
					kind := reflect.TypeOf(m).Elem().Name()
					meta, template := stored(t, namespace, kind, m.GetName())
					if args.annotations && kind == "Deployment" {
						meta.Generation = 0
					}
					all[kind+" "+m.GetName()] = state{meta.Generation, template}
				}
				return all
			}
			kubectl(t, list(manifests...), append(args.first, "-n", namespace)...)
			before := states()
			for name, s := range before {
				if s.Template.Labels["evenkeel.dev/defaulted"] != "true" {
					t.Fatalf("nothing was injected into %s at first", name)
				}
			}
			for range 2 {
				kubectl(t, list(manifests...), append(args.again, "-n", namespace)...)
			}
			if diff := cmp.Diff(before, states()); diff != "" {
				t.Errorf("something moved (-before +after):\n%s", diff)
			}
		})
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
	patched, unchanged := reviews(t, `kind="Deployment"`, `outcome="patched"`),
		reviews(t, `kind="Deployment"`, `outcome="unchanged"`)
	d, err := shared.Client.AppsV1().Deployments(namespace).Create(ctx, deployment("web", 0), metav1.CreateOptions{})
	check.Must(t, err)
	if d.Annotations["other"] != "webhook" {
		t.Fatal("the other webhook was not called")
	}
	if got := missing(d.Spec.Template.ObjectMeta, d.Spec.Template.Spec); got != "" {
		t.Errorf("lacks %q", got)
	}
	if p, u := reviews(t, `kind="Deployment"`, `outcome="patched"`)-patched,
		reviews(t, `kind="Deployment"`, `outcome="unchanged"`)-unchanged; p != 1 || u != 1 {
		t.Errorf("%v reviews with a patch and %v without, want 1 and, from the reinvocation, 1", p, u)
	}
}

// TestReinvocationSeesASidecarOfAnotherWebhook lets another webhook add a container with a port
// after us: what we added stands, a workload's sidecar gets its own, and the grace period is raised
// once.
func TestReinvocationSeesASidecarOfAnotherWebhook(t *testing.T) {
	ours(t) // the API server of another cluster can't reach a webhook of ours
	const sidecar = `{"name":"sidecar","image":"proxy","ports":[{"containerPort":9000}]}`
	other := startFake(t, func(r review) string {
		switch {
		case bytes.Contains(r.object, []byte(`"name":"sidecar"`)):
			return r.answer(`[]`)
		case bytes.Contains(r.object, []byte(`"kind":"Pod"`)):
			return r.answer(`[{"op":"add","path":"/spec/containers/-","value":` + sidecar + `}]`)
		}
		return r.answer(`[{"op":"add","path":"/spec/template/spec/containers/-","value":` + sidecar + `}]`)
	})
	other.register(t, "zz-other", func(c *admissionregistrationv1.MutatingWebhookConfiguration) {
		for i := range c.Webhooks {
			c.Webhooks[i].ObjectSelector = nil // or it would not see Pods that we have labelled
		}
	})
	namespace := optedIn(t, nil)
	d, p, errs := createBoth(t, namespace)
	check.Must(t, errors.Join(errs[:]...))
	for name, got := range map[string]corev1.PodTemplateSpec{
		"Deployment": d.Spec.Template,
		"Pod":        {ObjectMeta: p.ObjectMeta, Spec: p.Spec},
	} {
		if lacks := missing(got.ObjectMeta, got.Spec); lacks != "" {
			t.Errorf("%s: lacks %q", name, lacks)
		}
		if len(got.Spec.Containers) != 2 {
			t.Fatalf("%s: %d containers, want 2: the other webhook was not called", name, len(got.Spec.Containers))
		}
		c := got.Spec.Containers[1]
		if name == "Pod" { // whose label keeps the API server from asking again
			if c.Lifecycle != nil || c.ReadinessProbe != nil {
				t.Errorf("Pod: the sidecar has hook %v and readiness probe %v, want none", c.Lifecycle, c.ReadinessProbe)
			}
			continue
		}
		if c.Lifecycle == nil || c.Lifecycle.PreStop.Sleep == nil || c.Lifecycle.PreStop.Sleep.Seconds != 10 ||
			c.ReadinessProbe == nil || c.ReadinessProbe.TCPSocket == nil || c.ReadinessProbe.TCPSocket.Port.IntValue() != 9000 {
			t.Errorf("%s: the sidecar has hook %v and readiness probe %v, want a sleep of 10 s and its port", name, c.Lifecycle,
				c.ReadinessProbe)
		}
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
	if len(list.Items) != 2 || list.Items[1].Name != installation.Last {
		t.Fatalf("%d webhook configurations, want ours alone", len(list.Items))
	}
	everywhere := list.Items[0].DeepCopy()
	for i := range everywhere.Webhooks {
		fail := admissionregistrationv1.Fail
		everywhere.Webhooks[i].FailurePolicy = &fail // so that a failure is seen
		everywhere.Webhooks[i].ObjectSelector = nil
		everywhere.Webhooks[i].Rules = []admissionregistrationv1.RuleWithOperations{
			{Operations: []admissionregistrationv1.OperationType{"*"},
				Rule: admissionregistrationv1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"},
					Resources: []string{"*/*"}}}}
	}
	_, err = client.Update(ctx, everywhere, metav1.UpdateOptions{})
	check.Must(t, err)
	t.Cleanup(func() { check.Must(t, evenkeel.Register(context.Background())) })
	check.Eventually(t, "the changed configuration", func() error {
		before := reviews(t, `operation="other"`)
		_, err := shared.Client.CoreV1().ConfigMaps(namespace).Create(ctx,
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "c-"}}, metav1.CreateOptions{})
		check.Must(t, err)
		check.Must(t,
			shared.Client.CoreV1().ConfigMaps(namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
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
	_, err = shared.Client.AppsV1().Deployments(namespace).Patch(ctx, d.Name, types.MergePatchType,
		[]byte(`{"status":{"collisionCount":1}}`), metav1.PatchOptions{}, "status")
	check.Must(t, err)
	before := reviews(t, `operation="other"`)
	pods, err := shared.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	check.Must(t, err)
	// CONNECT: there is no container behind a fake node, but the error must not be ours.
	err = shared.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pods.Items[0].Name).
		SubResource("exec").
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

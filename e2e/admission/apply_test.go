package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/evenkeel/evenkeel/e2e/check"
)

// applies are the two ways to apply a manifest again and again.
var applies = map[string][]string{
	"apply":             {"apply", "-f", "-"},
	"server-side apply": {"apply", "--server-side", "-f", "-"},
}

// handlers returns the kinds of handlers that a probe or hook has: the API server takes one.
func handlers(t *testing.T, probe any) []string {
	t.Helper()
	raw, err := json.Marshal(probe)
	check.Must(t, err)
	var members map[string]any
	check.Must(t, json.Unmarshal(raw, &members))
	found := []string{}
	for _, kind := range []string{"exec", "grpc", "httpGet", "sleep", "tcpSocket"} {
		if members[kind] != nil {
			found = append(found, kind)
		}
	}
	return found
}

// TestAHandlerOfTheManifestTakesThePlaceOfOurs has the author of a manifest write a probe or hook
// where evenkeel has added one before. Applying merges the two, and the API server refuses two
// handlers at once.
func TestAHandlerOfTheManifestTakesThePlaceOfOurs(t *testing.T) {
	get := corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromInt32(80)}}
	run := corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}
	readiness := func(h corev1.ProbeHandler) func(*corev1.Container) {
		return func(c *corev1.Container) { c.ReadinessProbe = &corev1.Probe{ProbeHandler: h} }
	}
	none := func(*corev1.Container) {}
	type author struct {
		first, later func(*corev1.Container)
		// before and after are the handlers of readiness probe and preStop hook.
		before, after [2]string
	}
	authors := map[string]author{
		"readiness-probe-over-port": {none, readiness(get), [2]string{"tcpSocket", "sleep"}, [2]string{"httpGet", "sleep"}},
		"pre-stop-hook": {none, func(c *corev1.Container) {
			c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: run.Exec}}
		}, [2]string{"tcpSocket", "sleep"}, [2]string{"tcpSocket", "exec"}},
		"both-at-once": {none, func(c *corev1.Container) {
			readiness(run)(c)
			c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{HTTPGet: get.HTTPGet}}
		}, [2]string{"tcpSocket", "sleep"}, [2]string{"exec", "httpGet"}},
		"readiness-probe-over-liveness-probe": {func(c *corev1.Container) {
			c.LivenessProbe = &corev1.Probe{ProbeHandler: get, TimeoutSeconds: 7}
		}, readiness(run), [2]string{"httpGet", "sleep"}, [2]string{"exec", "sleep"}},
		"readiness-probe-over-startup-probe": {func(c *corev1.Container) {
			c.StartupProbe = &corev1.Probe{ProbeHandler: run}
		}, readiness(get), [2]string{"exec", "sleep"}, [2]string{"httpGet", "sleep"}},
	}
	kinds := []string{"Deployment", "StatefulSet"}
	for how, args := range applies {
		t.Run(how, func(t *testing.T) {
			namespace := optedIn(t, nil)
			// apply applies all manifests, which fails the test when one is refused, and returns their generations.
			apply := func(later bool) map[string]int64 {
				t.Helper()
				var manifests []metav1.Object
				for name, a := range authors {
					for _, kind := range kinds {
						manifest, template := workload(kind, name, 1)
						if a.first(&template.Spec.Containers[0]); later {
							a.later(&template.Spec.Containers[0])
						}
						manifests = append(manifests, manifest)
					}
				}
				kubectl(t, list(manifests...), append(args, "-n", namespace)...)
				generations := map[string]int64{}
				for name, a := range authors {
					want := a.before
					if later {
						want = a.after
					}
					for _, kind := range kinds {
						meta, now := stored(t, namespace, kind, name)
						generations[kind+" "+name] = meta.Generation
						c := now.Spec.Containers[0]
						for i, probe := range []any{c.ReadinessProbe, c.Lifecycle.PreStop} {
							if got := handlers(t, probe); !slices.Equal(got, []string{want[i]}) {
								t.Errorf("%s %s: handlers %q of %s, want %q alone", kind, name, got, []string{"readinessProbe", "preStop"}[i],
									want[i])
							}
						}
					}
				}
				return generations
			}
			apply(false)
			once := apply(true)
			if diff := cmp.Diff(once, apply(true)); diff != "" {
				t.Errorf("the same manifests change something once more (-once +twice):\n%s", diff)
			}
		})
	}
}

// TestAManifestWithItsOwnGracePeriodOutlivesEvenkeel applies a manifest again when evenkeel no
// longer looks at it: the grace period is then back at what is written, and a sleep that doesn't
// fit into it would make the API server refuse the manifest for good.
func TestAManifestWithItsOwnGracePeriodOutlivesEvenkeel(t *testing.T) {
	ctx := t.Context()
	evenkeel := ours(t)
	optOut := func(labels *map[string]string) {
		if *labels == nil {
			*labels = map[string]string{}
		}
		(*labels)["evenkeel.dev/inject"] = "disabled"
	}
	for name, c := range map[string]struct {
		gone   func()
		change func(object metav1.Object, template *corev1.PodTemplateSpec)
	}{
		"evenkeel is down":        {gone: evenkeel.Stop},
		"evenkeel is uninstalled": {gone: func() { check.Must(t, evenkeel.Uninstall(ctx)) }},
		"the workload is opted out": {change: func(object metav1.Object, _ *corev1.PodTemplateSpec) {
			labels := object.GetLabels()
			optOut(&labels)
			object.SetLabels(labels)
		}},
		"the pod template is opted out": {
			change: func(_ metav1.Object, template *corev1.PodTemplateSpec) { optOut(&template.Labels) }},
	} {
		t.Run(name, func(t *testing.T) {
			// manifests returns each kind with each grace period, which their names say.
			manifests := func(change func(metav1.Object, *corev1.PodTemplateSpec)) []metav1.Object {
				var all []metav1.Object
				for _, kind := range []string{"Deployment", "StatefulSet"} {
					for _, grace := range []int64{2, 5, 30} {
						object, template := workload(kind, fmt.Sprint("web-", grace), 1)
						template.Spec.TerminationGracePeriodSeconds = &grace
						if change != nil {
							change(object, template)
						}
						all = append(all, object)
					}
				}
				return all
			}
			each := func(namespace string, do func(what string, grace int64, spec corev1.PodSpec)) {
				for _, kind := range []string{"Deployment", "StatefulSet"} {
					for _, grace := range []int64{2, 5, 30} {
						_, template := stored(t, namespace, kind, fmt.Sprint("web-", grace))
						do(fmt.Sprintf("%s with %d s", kind, grace), grace, template.Spec)
					}
				}
			}
			namespaces := map[string]string{}
			for how, args := range applies {
				namespaces[how] = optedIn(t, nil)
				kubectl(t, list(manifests(nil)...), append(args, "-n", namespaces[how])...)
				each(namespaces[how], func(what string, _ int64, spec corev1.PodSpec) {
					if spec.Containers[0].Lifecycle == nil {
						t.Fatalf("%s got no hook", what)
					}
				})
			}
			if c.gone != nil {
				t.Cleanup(func() {
					evenkeel.Stop()
					check.Must(t, evenkeel.Start(context.Background()))
					check.Must(t, evenkeel.Register(context.Background()))
				})
				c.gone()
			}
			for how, args := range applies {
				// fails the test when one is refused
				kubectl(t, list(manifests(c.change)...), append(args, "-n", namespaces[how])...)
				each(namespaces[how], func(what string, grace int64, spec corev1.PodSpec) {
					if now := *spec.TerminationGracePeriodSeconds; now != grace {
						t.Errorf("%s: after %s the grace period is %d s, want what is written", what, how, now)
					}
				})
			}
		})
	}
}

// TestOneDefaultCanBeTakenBack sets one default to off in the pod template, and the field to null,
// which server-side apply takes for nothing. The other defaults stay.
func TestOneDefaultCanBeTakenBack(t *testing.T) {
	ways := maps.Clone(applies)
	ways["patch"] = applies["apply"]
	for how, args := range ways {
		t.Run(how, func(t *testing.T) {
			namespace := optedIn(t, nil)
			args := slices.Concat(args, []string{"-n", namespace})
			for name, null := range map[string]func(spec, container map[string]any){
				"anti-affinity":   func(spec, _ map[string]any) { spec["affinity"] = nil },
				"pre-stop-sleep":  func(_, container map[string]any) { container["lifecycle"] = nil },
				"readiness-probe": func(_, container map[string]any) { container["readinessProbe"] = nil },
			} {
				for _, kind := range []string{"Deployment", "StatefulSet"} {
					object, template := workload(kind, name, 1)
					kubectl(t, object, args...)
					metav1.SetMetaDataAnnotation(&template.ObjectMeta, "evenkeel.dev/"+name, "off")
					raw, err := json.Marshal(object)
					check.Must(t, err)
					var manifest map[string]any
					check.Must(t, json.Unmarshal(raw, &manifest))
					spec, _, err := unstructured.NestedFieldNoCopy(manifest, "spec", "template", "spec")
					check.Must(t, err)
					members := spec.(map[string]any)
					null(members, members["containers"].([]any)[0].(map[string]any))
					change := args
					if how == "patch" {
						change = []string{"patch", kind, name, "-n", namespace, "--patch-file", "/dev/stdin"}
					}
					kubectl(t, manifest, change...)

					if _, now := stored(t, namespace, kind, name); missing(now.ObjectMeta, now.Spec) != name {
						t.Errorf("%s %s lacks %q, want %q", kind, name, missing(now.ObjectMeta, now.Spec), name)
					}
				}
			}
		})
	}
}

// TestAPodCanBeAppliedAgain applies a Pod that no controller made: the API server refuses every
// change of its grace period, so a raised one would have it refuse the manifest that says another.
func TestAPodCanBeAppliedAgain(t *testing.T) {
	evenkeel := ours(t)
	spec, labels := bare()
	var pods []*corev1.Pod
	for _, grace := range []int64{0, 1, 5, 30, 60} { // 0 for none of its own
		pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("alone-", grace), Labels: labels}, Spec: *spec.DeepCopy()}
		if grace > 0 {
			pod.Spec.TerminationGracePeriodSeconds = &grace
		}
		pods = append(pods, pod)
	}
	namespaces := map[string]string{}
	apply := func(when string) {
		t.Helper()
		for how, args := range applies {
			kubectl(t, list(pods...), append(args, "-n", namespaces[how])...) // fails the test when one is refused
			for _, p := range pods {
				now, err := shared.Client.CoreV1().Pods(namespaces[how]).Get(t.Context(), p.Name, metav1.GetOptions{})
				check.Must(t, err)
				want := int64(30)
				if p.Spec.TerminationGracePeriodSeconds != nil {
					want = *p.Spec.TerminationGracePeriodSeconds
				}
				if grace := *now.Spec.TerminationGracePeriodSeconds; grace != want {
					t.Errorf("%s, %s: %s has a grace period of %d s, want %d as without evenkeel", how, when, p.Name, grace, want)
				}
				if hook := now.Spec.Containers[0].Lifecycle; want > 1 &&
					(hook == nil || hook.PreStop.Sleep == nil || hook.PreStop.Sleep.Seconds > want/2) {
					t.Errorf("%s, %s: %s has hook %v, want a sleep within half of %d s", how, when, p.Name, hook, want)
				}
			}
		}
	}
	for how := range applies {
		namespaces[how] = optedIn(t, nil)
	}
	apply("at first")
	apply("again")
	evenkeel.Stop()
	t.Cleanup(func() { check.Must(t, evenkeel.Start(context.Background())) })
	apply("while evenkeel is away")
}

// TestAWorkloadThatSwitchesAllOffHasBarePods has the annotations on the workload alone, which its pods don't carry.
func TestAWorkloadThatSwitchesAllOffHasBarePods(t *testing.T) {
	for _, kind := range []string{"Deployment", "StatefulSet"} {
		t.Run(kind, func(t *testing.T) {
			namespace := optedIn(t, nil)
			manifest, _ := workload(kind, "web", 2)
			manifest.SetAnnotations(map[string]string{"evenkeel.dev/anti-affinity": "off", "evenkeel.dev/pre-stop-sleep": "off",
				"evenkeel.dev/readiness-probe": "off"})
			kubectl(t, manifest, "apply", "-n", namespace, "-f", "-")
			waitPods(t, namespace, 2)
			pods, err := shared.Client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
			check.Must(t, err)
			for _, p := range pods.Items {
				c := p.Spec.Containers[0]
				if p.Spec.Affinity != nil || c.Lifecycle != nil || c.ReadinessProbe != nil ||
					*p.Spec.TerminationGracePeriodSeconds != 30 {
					t.Errorf("pod %s has affinity %v, hooks %v, readiness probe %v and %d s of grace, want none and 30", p.Name,
						p.Spec.Affinity, c.Lifecycle, c.ReadinessProbe, *p.Spec.TerminationGracePeriodSeconds)
				}
			}
			before, _ := stored(t, namespace, kind, "web")
			kubectl(t, manifest, "apply", "-n", namespace, "-f", "-")
			if after, _ := stored(t, namespace, kind, "web"); after.Generation != before.Generation {
				t.Errorf("applied again it has generation %d after %d", after.Generation, before.Generation)
			}
		})
	}
}

package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/evenkeel/evenkeel/e2e/check"
)

// changes are the ways in which people change a workload on the second day. Each changes the pod
// template: it takes a new image, but for the patch, which takes the hook away, the restart and the
// undo.
var changes = map[string]func(t *testing.T, w *dayTwo){
	"kubectl patch lifecycle null": func(t *testing.T, w *dayTwo) {
		own := map[string]string(nil)
		if w.where == "workload" {
			own = map[string]string{w.key(): w.annotation}
		}
		kubectl(t, map[string]any{"metadata": map[string]any{"annotations": own},
			"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": w.inTemplate()},
				"spec": map[string]any{"containers": []any{map[string]any{"name": "web", "lifecycle": nil}}}}}},
			"patch", w.kind, w.name, "-n", w.namespace, "--patch-file", "/dev/stdin")
	},
	"client-side apply": func(t *testing.T, w *dayTwo) {
		kubectl(t, w.manifest("nginx:2"), "apply", "-n", w.namespace, "-f", "-")
	},
	"server-side apply": func(t *testing.T, w *dayTwo) {
		kubectl(t, w.manifest("nginx:2"), "apply", "--server-side", "-n", w.namespace, "-f", "-")
	},
	"replace": func(t *testing.T, w *dayTwo) {
		kubectl(t, w.manifest("nginx:2"), "replace", "-n", w.namespace, "-f", "-")
	},
	"three-way merge, as Helm 3": func(t *testing.T, w *dayTwo) {
		w.merge(t, w.created, w.manifest("nginx:2"))
	},
	"rollout restart": func(t *testing.T, w *dayTwo) {
		if w.when == "in the same request" {
			w.annotateTemplate(t)
		}
		kubectl(t, nil, "rollout", "restart", w.kind+"/"+w.name, "-n", w.namespace)
	},
	"rollout undo": func(t *testing.T, w *dayTwo) {
		w.settle(t) // or the template that the annotation just changed never becomes a revision
		kubectl(t, nil, "rollout", "restart", w.kind+"/"+w.name, "-n", w.namespace)
		w.settle(t)
		kubectl(t, nil, "rollout", "undo", w.kind+"/"+w.name, "-n", w.namespace)
	},
}

// createdBy says how the workload comes to be, so that each later client finds its own traces.
func createdBy(change string) []string {
	switch change {
	case "client-side apply":
		return applies["apply"]
	case "server-side apply":
		return applies["server-side apply"]
	}
	return []string{"create", "-f", "-"}
}

// dayTwo is one workload of TestWhatStandsOnTheSecondDay.
type dayTwo struct {
	namespace, kind, name string
	where, when, change   string
	setting               string
	annotation            string // its value, or ""
	created               metav1.Object
}

func (w *dayTwo) key() string { return "evenkeel.dev/" + w.setting }

func (w *dayTwo) inTemplate() map[string]string {
	if w.where == "template" && w.annotation != "" {
		return map[string]string{w.key(): w.annotation}
	}
	return nil
}

// manifest returns the workload with the annotation where it belongs.
func (w *dayTwo) manifest(image string) metav1.Object {
	object, template := workload(w.kind, w.name, 1)
	template.Spec.Containers[0].Image = image
	if w.annotation != "" && w.where == "workload" {
		object.SetAnnotations(map[string]string{w.key(): w.annotation})
	}
	template.Annotations = w.inTemplate()
	return object
}

func (w *dayTwo) annotateTemplate(t *testing.T) {
	t.Helper()
	patch := map[string]any{}
	switch {
	case w.where == "template":
		patch["spec"] = map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": w.inTemplate()}}}
	case w.where == "workload":
		patch["metadata"] = map[string]any{"annotations": map[string]string{w.key(): w.annotation}}
	default:
		return
	}
	raw, err := json.Marshal(patch)
	check.Must(t, err)
	check.Must(t, shared.Client.AppsV1().RESTClient().Patch(types.StrategicMergePatchType).Namespace(w.namespace).
		Resource(strings.ToLower(w.kind)+"s").Name(w.name).Body(raw).Do(t.Context()).Error())
}

// merge patches with the three-way merge of two manifests and what is stored, by apimachinery, as
// Helm 3 and Argo CD's default diff do.
func (w *dayTwo) merge(t *testing.T, before, after metav1.Object) {
	t.Helper()
	var typed any = appsv1.Deployment{}
	if w.kind == "StatefulSet" {
		typed = appsv1.StatefulSet{}
	}
	meta, err := strategicpatch.NewPatchMetaFromStruct(typed)
	check.Must(t, err)
	var documents [3][]byte
	for i, o := range []any{before, after, w.current(t)} {
		documents[i], err = json.Marshal(o)
		check.Must(t, err)
	}
	patch, err := strategicpatch.CreateThreeWayMergePatch(documents[0], documents[1], documents[2], meta, true)
	check.Must(t, err)
	apps := shared.Client.AppsV1()
	if w.kind == "StatefulSet" {
		_, err = apps.StatefulSets(w.namespace).Patch(t.Context(), w.name, types.StrategicMergePatchType, patch,
			metav1.PatchOptions{FieldManager: "helm"})
	} else {
		_, err = apps.Deployments(w.namespace).Patch(t.Context(), w.name, types.StrategicMergePatchType, patch,
			metav1.PatchOptions{FieldManager: "helm"})
	}
	check.Must(t, err)
}

func (w *dayTwo) current(t *testing.T) metav1.Object {
	t.Helper()
	if w.kind == "StatefulSet" {
		s, err := shared.Client.AppsV1().StatefulSets(w.namespace).Get(t.Context(), w.name, metav1.GetOptions{})
		check.Must(t, err)
		return s
	}
	d, err := shared.Client.AppsV1().Deployments(w.namespace).Get(t.Context(), w.name, metav1.GetOptions{})
	check.Must(t, err)
	return d
}

// settle waits until the controller has made a revision of the template that stands: kubectl
// rollout undo looks for those.
func (w *dayTwo) settle(t *testing.T) {
	t.Helper()
	check.Eventually(t, "a revision of "+w.kind+" "+w.name, func() error {
		var generation, observed int64
		switch o := w.current(t).(type) {
		case *appsv1.StatefulSet:
			generation, observed = o.Generation, o.Status.ObservedGeneration
		case *appsv1.Deployment:
			generation, observed = o.Generation, o.Status.ObservedGeneration
		}
		if observed < generation {
			return fmt.Errorf("generation %d of %d is observed", observed, generation)
		}
		return nil
	})
}

// outcome says what stands of sleep and grace period, or of another setting.
func (w *dayTwo) outcome(t *testing.T) string {
	t.Helper()
	_, template := stored(t, w.namespace, w.kind, w.name)
	c, spec := template.Spec.Containers[0], template.Spec
	terms := func() string {
		if spec.Affinity == nil || spec.Affinity.PodAntiAffinity == nil {
			return "no terms"
		}
		a := spec.Affinity.PodAntiAffinity
		return fmt.Sprintf("required %d, preferred %d", len(a.RequiredDuringSchedulingIgnoredDuringExecution),
			len(a.PreferredDuringSchedulingIgnoredDuringExecution))
	}
	switch w.setting {
	case "anti-affinity", "topology-keys":
		return terms()
	case "spread":
		return fmt.Sprintf("%s, constraints %d", terms(), len(spec.TopologySpreadConstraints))
	case "readiness-probe":
		if c.ReadinessProbe == nil {
			return "no probe"
		}
		return strings.Join(handlers(t, c.ReadinessProbe), "+")
	case "node-loss":
		return "tolerates " + tolerated(spec)
	}
	sleep := "no sleep"
	if l := c.Lifecycle; l != nil && l.PreStop != nil && l.PreStop.Sleep != nil {
		sleep = fmt.Sprintf("sleep %d", l.PreStop.Sleep.Seconds)
	}
	return fmt.Sprintf("%s, grace %d", sleep, *spec.TerminationGracePeriodSeconds)
}

// daysTwo are the settings of TestWhatStandsOnTheSecondDay, with what stands afterwards. pre-stop-sleep is looked at in
// all ways and for both kinds, the others in some for Deployments.
var daysTwo = []struct {
	setting, value, want string
	ways                 []string // nil for all
}{
	{"pre-stop-sleep", "off", "no sleep, grace 30", nil},
	{"pre-stop-sleep", "20s", "sleep 20, grace 50", nil},
	{"readiness-probe", "off", "no probe", someWays},
	{"anti-affinity", "off", "no terms", someWays},
	{"anti-affinity", "required", "required 1, preferred 1", someWays},
	{"topology-keys", "kubernetes.io/hostname", "required 0, preferred 1", someWays},
	{"spread", "topology-spread", "no terms, constraints 2", someWays},
	{"node-loss", "60s", "tolerates not-ready 60, unreachable 60", someWays},
}

var someWays = []string{"client-side apply", "rollout restart", "rollout undo"}

// TestWhatStandsOnTheSecondDay sets a setting at the pod template, the workload, the Namespace and by flag; before the
// creation, with the change and before the change; and then changes the template in each way. What stands afterwards is
// the same for all ways but two:
//
//	patch lifecycle null, while the setting isn't off: nothing changes, and a warning names the annotation
//	rollout undo: what the revision had, since it ran
func TestWhatStandsOnTheSecondDay(t *testing.T) {
	evenkeel := ours(t)
	wheres := []string{"template", "workload", "namespace", "flag"}
	whens := []string{"before", "in the same request", "after"}
	var ran atomic.Int64
	wanted := 0
	for _, day := range daysTwo {
		ways, kinds := day.ways, []string{"Deployment"}
		if ways == nil {
			ways, kinds = slices.Sorted(maps.Keys(changes)), []string{"Deployment", "StatefulSet"}
		}
		for _, where := range wheres {
			for _, when := range whens {
				if when == "in the same request" && (where == "namespace" || where == "flag") {
					continue // neither is a part of the request
				}
				wanted += len(ways) * len(kinds)
				t.Run(strings.Join([]string{day.setting, day.value, "at the", where, when}, " "), func(t *testing.T) {
					namespace := optedIn(t, nil)
					annotate := func() {
						switch where {
						case "namespace":
							kubectl(t, nil, "annotate", "namespace", namespace, "evenkeel.dev/"+day.setting+"="+day.value)
							waitNamespace(t, &dayTwo{namespace: namespace, setting: day.setting}, day.want)
						case "flag":
							evenkeel.Stop()
							check.Must(t, evenkeel.Start(t.Context(), "--"+day.setting+"="+day.value))
							t.Cleanup(func() {
								evenkeel.Stop()
								check.Must(t, evenkeel.Start(context.Background()))
							})
						}
					}
					if when == "before" {
						annotate()
					}
					var all []*dayTwo
					made := map[string][]metav1.Object{} // by the arguments of kubectl
					for _, kind := range kinds {
						for i, change := range ways {
							w := &dayTwo{namespace: namespace, kind: kind, name: fmt.Sprintf("web-%d", i), where: where,
								when: when, change: change, setting: day.setting}
							if when == "before" {
								w.annotation = day.value
							}
							w.created = w.manifest("nginx")
							how := strings.Join(createdBy(change), " ")
							made[how] = append(made[how], w.created)
							all = append(all, w)
						}
					}
					for how, objects := range made {
						kubectl(t, list(objects...), append(strings.Fields(how), "-n", namespace)...)
					}
					for _, w := range all {
						w.settle(t)
					}
					if when != "before" {
						annotate()
					}
					for _, w := range all {
						t.Run(w.kind+" "+w.change, func(t *testing.T) {
							t.Parallel()
							w.annotation = day.value
							if when == "after" {
								w.annotateTemplate(t)
							}
							first := w.outcome(t)
							changes[w.change](t, w)
							ran.Add(1)
							want := day.want
							switch {
							case w.change == "rollout undo":
								want = first
							case w.change == "kubectl patch lifecycle null" && day.value == "20s" && where != "template":
								want = first
							}
							if got := w.outcome(t); got != want {
								t.Errorf("%s, want %s", got, want)
							}
						})
					}
				})
			}
		}
	}
	if n := ran.Load(); n != int64(wanted) || n == 0 {
		t.Errorf("%d changes were looked at, want %d", n, wanted)
	}
}

// waitNamespace waits until evenkeel knows the annotation of a Namespace: a creation says so.
func waitNamespace(t *testing.T, w *dayTwo, want string) {
	t.Helper()
	w.kind, w.name = "Deployment", "probe"
	deployments := shared.Client.AppsV1().Deployments(w.namespace)
	check.Eventually(t, "evenkeel to see the Namespace's annotation", func() error {
		if _, err := deployments.Create(t.Context(), deployment(w.name, 0), metav1.CreateOptions{}); err != nil {
			return err
		}
		seen := w.outcome(t)
		check.Must(t, deployments.Delete(t.Context(), w.name, metav1.DeleteOptions{}))
		if seen != want {
			return fmt.Errorf("what stands is %s", seen)
		}
		return nil
	})
}

// TestAnotherWebhookIsLivedWith has another webhook, called before or after ours, change what both
// see, on CREATE and on UPDATE. The API server takes all of it without evenkeel, and so it does
// with it.
func TestAnotherWebhookIsLivedWith(t *testing.T) {
	ours(t) // the API server of another cluster can't reach a webhook of ours
	const spec = "/spec/template/spec"
	const container = spec + "/containers/0"
	const grace = `[{"op":"replace","path":"` + spec + `/terminationGracePeriodSeconds","value":5}]`
	const get, run = `{"path":"/ready","port":8081}`, `{"command":["true"]}`
	const term = `{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"rack",` +
		`"labelSelector":{"matchLabels":{"a":"b"}}}]}`
	for _, c := range []struct {
		// order is the name of the other configuration: the API server calls webhooks in the order of these names.
		name, order string
		// patch is sent unless the object has this already; one that is called after ours waits for our part.
		patch, unless, after string
		want                 string
	}{
		{"before ours, a grace period of 5 s", "aa-other", grace, `"terminationGracePeriodSeconds":5,`, "",
			"sleep 2, grace 5, tcpSocket, 2 terms"},
		{"before ours, a probe", "aa-other",
			`[{"op":"add","path":"` + container + `/readinessProbe","value":{"httpGet":` + get + `}}]`,
			`"port":8081`, "", "sleep 10, grace 40, httpGet, 2 terms"},
		{"before ours, a hook", "aa-other",
			`[{"op":"add","path":"` + container + `/lifecycle","value":{"preStop":{"exec":` + run + `}}}]`,
			`"exec":{`, "", "no sleep, grace 30, tcpSocket, 2 terms"},
		{"before ours, an affinity", "aa-other",
			`[{"op":"add","path":"` + spec + `/affinity","value":{"podAntiAffinity":` + term + `}}]`,
			`"topologyKey":"rack"`, "", "sleep 10, grace 40, tcpSocket, 0 terms"},
		{"after ours, a grace period of 5 s", "zz-other", grace, `"terminationGracePeriodSeconds":5,`, `"readinessProbe"`,
			"sleep 2, grace 5, tcpSocket, 2 terms"},
		{"after ours, a handler merged into the probe", "zz-other",
			`[{"op":"add","path":"` + container + `/readinessProbe/httpGet","value":` + get + `}]`, `"port":8081`,
			`"readinessProbe"`, "sleep 10, grace 40, httpGet, 2 terms"},
		{"after ours, a command merged into the hook", "zz-other",
			`[{"op":"add","path":"` + container + `/lifecycle/preStop/exec","value":` + run + `}]`, `"exec":{`, `"preStop"`,
			"no sleep, grace 30, tcpSocket, 2 terms"},
		{"after ours, an affinity in the place of ours", "zz-other",
			`[{"op":"replace","path":"` + spec + `/affinity/podAntiAffinity","value":` + term + `}]`, `"topologyKey":"rack"`,
			`"podAntiAffinity"`, "sleep 10, grace 40, tcpSocket, 0 terms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			other := startFake(t, func(r review) string {
				if strings.Contains(string(r.object), c.unless) || !strings.Contains(string(r.object), c.after) {
					return r.answer(`[]`)
				}
				return r.answer(c.patch)
			})
			namespace := optedIn(t, nil)
			other.register(t, c.order, func(c *admissionregistrationv1.MutatingWebhookConfiguration) {
				c.Webhooks = slices.DeleteFunc(c.Webhooks, func(w admissionregistrationv1.MutatingWebhook) bool {
					return slices.ContainsFunc(w.Rules,
						func(r admissionregistrationv1.RuleWithOperations) bool { return slices.Contains(r.Resources, "pods") })
				})
			})
			for _, kind := range []string{"Deployment", "StatefulSet"} {
				w := &dayTwo{namespace: namespace, kind: kind, name: "web"}
				for step, image := range []string{"nginx", "nginx:2", "nginx:3"} { // a creation and two updates
					kubectl(t, w.manifest(image), "apply", "-n", namespace, "-f", "-") // fails the test when it is refused
					_, template := stored(t, namespace, kind, "web")
					terms := len(template.Spec.Affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
					got := fmt.Sprintf("%s, %s, %d terms", w.outcome(t),
						strings.Join(handlers(t, template.Spec.Containers[0].ReadinessProbe), "+"), terms)
					if got != c.want {
						t.Errorf("%s, step %d: %s, want %s", kind, step, got, c.want)
					}
				}
			}
			if other.calls(t) == 0 {
				t.Error("the other webhook was never called")
			}
		})
	}
}

// TestAHundredSyncsMoveNothing sends the same manifests a hundred times, as GitOps tools do: by
// client-side apply, by server-side apply from two managers, and by a three-way strategic merge.
// Nothing rolls, nobody conflicts, and what git says is what stands.
func TestAHundredSyncsMoveNothing(t *testing.T) {
	ctx := t.Context()
	grace := int64(30)
	for _, kind := range []string{"Deployment", "StatefulSet"} {
		namespace := optedIn(t, nil)
		w := &dayTwo{namespace: namespace, kind: kind, name: "web"}
		manifest, template := workload(kind, "web", 1)
		template.Spec.TerminationGracePeriodSeconds = &grace // as written in git
		raw, err := json.Marshal(manifest)
		check.Must(t, err)
		sync := func(manager string, force bool) {
			t.Helper()
			options := metav1.PatchOptions{FieldManager: manager, Force: &force}
			if kind == "StatefulSet" {
				_, err = shared.Client.AppsV1().StatefulSets(namespace).Patch(ctx, "web", types.ApplyPatchType, raw, options)
			} else {
				_, err = shared.Client.AppsV1().Deployments(namespace).Patch(ctx, "web", types.ApplyPatchType, raw, options)
			}
			check.Must(t, err) // a conflict is an error
		}
		sync("argocd-controller", false)
		before, stands := stored(t, namespace, kind, "web")
		if *stands.Spec.TerminationGracePeriodSeconds != grace || stands.Labels["evenkeel.dev/defaulted"] != "true" {
			t.Fatalf("%s: the grace period is %d s, labels %v", kind, *stands.Spec.TerminationGracePeriodSeconds, stands.Labels)
		}
		for range 100 {
			sync("argocd-controller", false)
			sync("flux", false)
			w.merge(t, manifest, manifest)
		}
		after, now := stored(t, namespace, kind, "web")
		if after.Generation != before.Generation {
			t.Errorf("%s: generation %d became %d", kind, before.Generation, after.Generation)
		}
		if diff := cmp.Diff(stands, now); diff != "" {
			t.Errorf("%s: the template moved (-before +after):\n%s", kind, diff)
		}
	}
	namespace := optedIn(t, nil)
	for _, kind := range []string{"Deployment", "StatefulSet"} {
		manifest, _ := workload(kind, "web", 1)
		kubectl(t, manifest, "apply", "-n", namespace, "-f", "-")
		before, _ := stored(t, namespace, kind, "web")
		for range 20 { // kubectl itself, a process each
			kubectl(t, manifest, "apply", "-n", namespace, "-f", "-")
		}
		if after, _ := stored(t, namespace, kind, "web"); after.Generation != before.Generation {
			t.Errorf("%s: generation %d became %d", kind, before.Generation, after.Generation)
		}
	}
}

// TestUndoGivesBackWhatRan goes back to a revision from before evenkeel, and to one from which a
// default was taken back.
func TestUndoGivesBackWhatRan(t *testing.T) {
	for _, kind := range []string{"Deployment", "StatefulSet"} {
		t.Run(kind, func(t *testing.T) {
			namespace := plain(t)
			w := &dayTwo{namespace: namespace, kind: kind, name: "web"}
			kubectl(t, w.manifest("nginx"), "apply", "-n", namespace, "-f", "-")
			w.settle(t)
			_, before := stored(t, namespace, kind, "web")
			kubectl(t, nil, "label", "namespace", namespace, "evenkeel.dev/inject=enabled")
			kubectl(t, nil, "rollout", "restart", kind+"/web", "-n", namespace)
			w.settle(t)
			if _, now := stored(t, namespace, kind, "web"); missing(now.ObjectMeta, now.Spec) != "" {
				t.Fatalf("lacks %q after a restart", missing(now.ObjectMeta, now.Spec))
			}
			kubectl(t, nil, "rollout", "undo", kind+"/web", "-n", namespace)
			w.settle(t)
			if _, now := stored(t, namespace, kind, "web"); cmp.Diff(before.Spec, now.Spec) != "" {
				t.Errorf("not what ran (-ran +now):\n%s", cmp.Diff(before.Spec, now.Spec))
			}
			kubectl(t, nil, "rollout", "undo", kind+"/web", "-n", namespace)
			w.settle(t)
			if _, now := stored(t, namespace, kind, "web"); missing(now.ObjectMeta, now.Spec) != "" {
				t.Errorf("lacks %q after going forward again", missing(now.ObjectMeta, now.Spec))
			}
			time.Sleep(time.Second) // or kubectl, which writes the second, finds nothing to change
			kubectl(t, nil, "rollout", "restart", kind+"/web", "-n", namespace)
			if _, now := stored(t, namespace, kind, "web"); missing(now.ObjectMeta, now.Spec) != "" {
				t.Errorf("lacks %q after a further restart", missing(now.ObjectMeta, now.Spec))
			}
		})
	}
}

// TestAWarningNamesTheAnnotation takes a default away by hand, which its setting asks for.
func TestAWarningNamesTheAnnotation(t *testing.T) {
	namespace := optedIn(t, nil)
	client := newWarned(t)
	_, err := client.AppsV1().Deployments(namespace).Create(t.Context(), deployment("web", 1), metav1.CreateOptions{})
	check.Must(t, err)
	d, err := client.AppsV1().Deployments(namespace).Patch(t.Context(), "web", types.JSONPatchType,
		[]byte(`[{"op":"remove","path":"/spec/template/spec/containers/0/readinessProbe"}]`), metav1.PatchOptions{})
	check.Must(t, err)
	if d.Generation != 1 || d.Spec.Template.Spec.Containers[0].ReadinessProbe == nil {
		t.Errorf("generation %d, probe %v", d.Generation, d.Spec.Template.Spec.Containers[0].ReadinessProbe)
	}
	if text := strings.Join(client.warnings(), "\n"); !strings.Contains(text, "evenkeel.dev/readiness-probe") {
		t.Errorf("warnings %q don't name the annotation", text)
	}
}

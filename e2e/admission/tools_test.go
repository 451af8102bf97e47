package admission

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
)

// TestADryRunShowsNoDifference compares what a server-side apply would make with what stands, as
// Argo CD's server-side diff does with IncludeMutationWebhook=true. Where it is the same, self-healing
// has nothing to do. An image that changes is the control: it is the one difference.
func TestADryRunShowsNoDifference(t *testing.T) {
	client, err := dynamic.NewForConfig(shared.RESTConfig())
	check.Must(t, err)
	for _, kind := range []string{"Deployment", "StatefulSet"} {
		namespace := optedIn(t, nil)
		manifest, template := workload(kind, "web", 1)
		resource := client.Resource(admitted[kind]).Namespace(namespace)
		// plain is an object without what says when and how often it was written.
		plain := func(o *unstructured.Unstructured, err error) map[string]any {
			t.Helper()
			check.Must(t, err)
			o.SetManagedFields(nil)
			o.SetResourceVersion("")
			o.SetGeneration(0)
			unstructured.RemoveNestedField(o.Object, "status")
			return o.Object
		}
		apply := func(dry ...string) map[string]any {
			t.Helper()
			raw, err := json.Marshal(manifest)
			check.Must(t, err)
			return plain(resource.Patch(t.Context(), "web", types.ApplyPatchType, raw,
				metav1.PatchOptions{FieldManager: "argocd-controller", Force: ptr(true), DryRun: dry}))
		}
		apply()
		(&dayTwo{namespace: namespace, kind: kind, name: "web"}).settle(t) // the controller notes the revision
		stands := plain(resource.Get(t.Context(), "web", metav1.GetOptions{}))
		if _, now := stored(t, namespace, kind, "web"); missing(now.ObjectMeta, now.Spec) != "" {
			t.Fatalf("%s: the template lacks %s", kind, missing(now.ObjectMeta, now.Spec))
		}
		if diff := cmp.Diff(stands, apply(metav1.DryRunAll)); diff != "" {
			t.Errorf("%s: the tool would show (-stands +applied):\n%s", kind, diff)
		}
		old := template.Spec.Containers[0].Image
		template.Spec.Containers[0].Image = "nginx:2"
		other := apply(metav1.DryRunAll)
		containers, _, err := unstructured.NestedFieldNoCopy(other, "spec", "template", "spec", "containers")
		check.Must(t, err)
		container := containers.([]any)[0].(map[string]any)
		if container["image"] != "nginx:2" {
			t.Errorf("%s: the tool would show the image %s, want the other one", kind, container["image"])
		}
		container["image"] = old
		if diff := cmp.Diff(stands, other); diff != "" {
			t.Errorf("%s: beside the image the tool would show (-stands +applied):\n%s", kind, diff)
		}
	}
}

// chart writes a chart with one Deployment, whose image is a value.
func chart(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	manifest := deployment("web", 2)
	manifest.Spec.Template.Spec.Containers[0].Image = "IMAGE"
	raw, err := json.Marshal(manifest)
	check.Must(t, err)
	check.Must(t, os.Mkdir(filepath.Join(dir, "templates"), 0o755))
	for name, text := range map[string]string{
		"Chart.yaml":            "apiVersion: v2\nname: web\nversion: 1.0.0\n",
		"values.yaml":           "image: nginx:1\n",
		"templates/deploy.yaml": strings.Replace(string(raw), "IMAGE", "{{ .Values.image }}", 1),
	} {
		check.Must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return dir
}

// helm runs helm itself.
func helm(t *testing.T, args ...string) {
	t.Helper()
	_, err := cluster.Run(cluster.HelmCommand(t.Context(), shared.Dir, shared.Kubeconfig, args...))
	check.Must(t, err)
}

// release is a workload of a chart, and what stood of it after the last step.
type release struct {
	namespace, lacks string
	generation       int64
	pods             []types.UID
}

// step runs helm, and then compares what it rolled with what it was to roll.
func (r *release) step(t *testing.T, name, image string, rolls bool, args ...string) {
	t.Helper()
	helm(t, append(args, "-n", r.namespace)...)
	meta, template := stored(t, r.namespace, "Deployment", "web")
	if lacks := missing(template.ObjectMeta, template.Spec); lacks != r.lacks {
		t.Errorf("%s: the template lacks %q, want %q", name, lacks, r.lacks)
	}
	if got := template.Spec.Containers[0].Image; got != image {
		t.Errorf("%s: the image is %s, want %s", name, got, image)
	}
	pods := r.rolledOut(t)
	kept := slices.ContainsFunc(pods, func(pod types.UID) bool { return slices.Contains(r.pods, pod) })
	if rolls == kept || !rolls && !slices.Equal(pods, r.pods) {
		t.Errorf("%s: the pods %v come after %v, want others: %v", name, pods, r.pods, rolls)
	}
	r.generation, r.pods = meta.Generation, pods
}

// rolledOut waits until a rollout has ended, and returns the pods.
func (r *release) rolledOut(t *testing.T) []types.UID {
	t.Helper()
	found := map[types.UID]bool{}
	check.Eventually(t, "the rollout", func() error {
		d, err := shared.Client.AppsV1().Deployments(r.namespace).Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		pods, err := shared.Client.CoreV1().Pods(r.namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		clear(found)
		for _, p := range pods.Items {
			found[p.UID] = true
		}
		want := *d.Spec.Replicas
		if s := d.Status; s.ObservedGeneration < d.Generation || s.UpdatedReplicas != want || s.Replicas != want ||
			len(found) != int(want) {
			return fmt.Errorf("%d pods, generation %d, status %+v", len(found), d.Generation, s)
		}
		return nil
	})
	return slices.Sorted(maps.Keys(found))
}

// TestHelmKeepsWhatEvenkeelAdded installs, upgrades and rolls back a release with helm itself, which
// applies on the server's side (Helm 4), by a three-way merge (Helm 3, --server-side=false of Helm 4),
// or by replacement (--force, --force-replace). Only a change of the chart's own rolls pods, and what
// evenkeel added stands after each step. A replacement takes the annotation with the revision away,
// so that the generation grows, which it does without evenkeel as well.
func TestHelmKeepsWhatEvenkeelAdded(t *testing.T) {
	dir := chart(t)
	three := []string{"--server-side=false"}
	replace := []string{"--server-side=false", "--force-replace"}
	for way, flags := range map[string]struct {
		install, upgrade []string
		lacks            string
		replaces         bool
	}{
		"server-side apply":            {},
		"forced":                       {upgrade: []string{"--force-conflicts"}},
		"three-way merge":              {install: three, upgrade: three},
		"replacement":                  {install: three, upgrade: replace, replaces: true},
		"replacement without evenkeel": {install: three, upgrade: replace, lacks: everything, replaces: true},
		"from Helm 3 to 4":             {install: three, upgrade: []string{"--server-side=true", "--force-conflicts"}},
	} {
		t.Run(way, func(t *testing.T) {
			r := &release{lacks: flags.lacks}
			if r.namespace = plain(t); r.lacks == "" {
				r.namespace = optedIn(t, nil)
			}
			upgrade := append([]string{"upgrade", "web", dir}, flags.upgrade...)
			r.step(t, "install", "nginx:1", true, append([]string{"install", "web", dir}, flags.install...)...)
			for range 3 {
				before := r.generation
				r.step(t, "the same again", "nginx:1", false, upgrade...)
				if (r.generation > before) != flags.replaces {
					t.Errorf("the same again: generation %d after %d", r.generation, before)
				}
			}
			r.step(t, "another image", "nginx:2", true, append(upgrade, "--set", "image=nginx:2")...)
			r.step(t, "rollback", "nginx:1", true, append([]string{"rollback", "web", "1"}, flags.upgrade...)...)
		})
	}
}

// TestASleepThatAClientDoesNotKnowComesBack sends back what stands as a client does that was built before
// preStop.sleep, such as Terraform's provider: with a hook without a handler. Without evenkeel the API server refuses
// that.
func TestASleepThatAClientDoesNotKnowComesBack(t *testing.T) {
	deployments := shared.Client.AppsV1().Deployments(optedIn(t, nil))
	d, err := deployments.Create(t.Context(), deployment("web", 1), metav1.CreateOptions{})
	check.Must(t, err)
	for _, image := range []string{"nginx", "nginx:2"} {
		d.Spec.Template.Spec.Containers[0].Image = image
		d.Spec.Template.Spec.Containers[0].Lifecycle.PreStop = &corev1.LifecycleHandler{}
		d.Spec.Replicas = ptr(*d.Spec.Replicas + 1)
		check.Eventually(t, "an update without a conflict", func() error {
			now, err := deployments.Get(t.Context(), "web", metav1.GetOptions{})
			check.Must(t, err)
			d.ResourceVersion = now.ResourceVersion
			now, err = deployments.Update(t.Context(), d, metav1.UpdateOptions{})
			if err == nil {
				d = now
			}
			return err
		})
		if lacks := missing(d.Spec.Template.ObjectMeta, d.Spec.Template.Spec); lacks != "" {
			t.Errorf("%s: lacks %q", image, lacks)
		}
	}
	d = deployment("web", 1)
	d.Spec.Template.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{}}
	if _, err := shared.Client.AppsV1().Deployments(plain(t)).Create(t.Context(), d, metav1.CreateOptions{}); err == nil {
		t.Error("control: the API server takes a hook without a handler")
	}
}

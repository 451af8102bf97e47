// Package flux applies and compares with the libraries of Flux' controllers, against a real API server.
package flux

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/fluxcd/pkg/ssa"
	"github.com/fluxcd/pkg/ssa/jsondiff"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

const namespace = "shop"

// manifest says nothing of what evenkeel adds. The labels are those that Flux adds to all that it applies.
const manifest = `
apiVersion: apps/v1
metadata:
  name: web
  namespace: shop
  labels: {kustomize.toolkit.fluxcd.io/name: shop, kustomize.toolkit.fluxcd.io/namespace: flux-system}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: "nginx:1", ports: [{containerPort: 80}]}
`

// TestFluxSeesNoDrift applies and compares as kustomize-controller does, and finds drift as
// helm-controller does. An image that somebody else changes is the control: it is seen, and put back
// with all that evenkeel added.
func TestFluxSeesNoDrift(t *testing.T) {
	c := openFlux(t)
	for _, kind := range []string{"Deployment", "StatefulSet"} {
		t.Run(kind, func(t *testing.T) {
			w := &workload{T: t, flux: c, manifest: &unstructured.Unstructured{}}
			check.Must(t, yaml.Unmarshal([]byte(manifest), &w.manifest.Object))
			w.manifest.SetKind(kind)

			w.apply(ssa.CreatedAction)
			stands := w.template()
			record, _, _ := unstructured.NestedString(stands, "metadata", "annotations", "evenkeel.dev/injected")
			for _, added := range []string{"anti-affinity=", "web/pre-stop-sleep=sleep:10", "web/readiness-probe=tcpSocket:"} {
				// a StatefulSet without Services gets no probe: its pods may have to find each other first
				if !strings.Contains(record, added) && (kind == "Deployment" || !strings.Contains(added, "probe")) {
					t.Errorf("the record %q has no %s", record, added)
				}
			}
			same := func(when string) {
				t.Helper()
				if diff := cmp.Diff(stands, w.template()); diff != "" {
					t.Errorf("%s, the template is another (-first +now):\n%s", when, diff)
				}
			}
			w.drift(ssa.UnchangedAction, jsondiff.DiffTypeNone)
			w.apply(ssa.UnchangedAction)
			same("applied again")

			check.Must(t, c.client.Patch(t.Context(), w.manifest.DeepCopy(), client.RawPatch(types.StrategicMergePatchType,
				[]byte(`{"spec":{"template":{"spec":{"containers":[{"name":"web","image":"nginx:drift"}]}}}}`)),
				client.FieldOwner("somebody")))
			w.drift(ssa.ConfiguredAction, jsondiff.DiffTypeUpdate)
			w.apply(ssa.ConfiguredAction)
			w.drift(ssa.UnchangedAction, jsondiff.DiffTypeNone)
			same("after a drift")
		})
	}
}

// flux is what the controllers of Flux work with.
type flux struct {
	client  client.Client
	manager *ssa.ResourceManager
}

// openFlux starts a control plane with evenkeel, or takes that of KUBECONFIG, and makes the namespace.
func openFlux(t *testing.T) *flux {
	t.Helper()
	c, err := cluster.Open(t.Context(), cluster.Config{Log: os.Stderr})
	check.Must(t, err)
	t.Cleanup(func() { check.Must(t, c.Stop()) })
	if c.Embedded {
		evenkeel, err := installation.Install(t.Context(), c, installation.Options{})
		check.Must(t, err)
		t.Cleanup(evenkeel.Stop)
	}
	_, err = c.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: namespace, Labels: map[string]string{"evenkeel.dev/inject": "enabled"}}}, metav1.CreateOptions{})
	check.Must(t, err)
	k, err := client.New(c.RESTConfig(), client.Options{})
	check.Must(t, err)
	return &flux{k, ssa.NewResourceManager(k, nil,
		ssa.Owner{Field: "kustomize-controller", Group: "kustomize.toolkit.fluxcd.io"})}
}

// workload is a manifest in the hands of Flux.
type workload struct {
	*testing.T
	*flux
	manifest *unstructured.Unstructured
}

func (w *workload) apply(want ssa.Action) {
	w.Helper()
	entry, err := w.manager.Apply(w.Context(), w.manifest.DeepCopy(), ssa.DefaultApplyOptions())
	check.Must(w, err)
	if entry.Action != want {
		w.Errorf("the apply says %s, want %s", entry.Action, want)
	}
}

// drift compares what stands with the manifest, in the ways of both controllers. The Deployment controller notes the
// revision first, or its annotation comes between a look and a dry run.
func (w *workload) drift(want ssa.Action, wantHelm jsondiff.DiffType) {
	w.Helper()
	check.Eventually(w, "the template to be observed", func() error {
		now := w.now()
		observed, _, err := unstructured.NestedInt64(now.Object, "status", "observedGeneration")
		if err == nil && observed != now.GetGeneration() {
			err = fmt.Errorf("generation %d of %d is", observed, now.GetGeneration())
		}
		return err
	})
	entry, live, merged, err := w.manager.Diff(w.Context(), w.manifest.DeepCopy(), ssa.DefaultDiffOptions())
	check.Must(w, err)
	if entry.Action != want {
		w.Errorf("kustomize-controller says %s, want %s (-live +merged):\n%s", entry.Action, want, cmp.Diff(live, merged))
	}
	diff, err := jsondiff.Unstructured(w.Context(), w.client, w.manifest.DeepCopy(),
		jsondiff.FieldOwner("helm-controller"))
	check.Must(w, err)
	if diff.Type != wantHelm {
		w.Errorf("helm-controller says %s, want %s: %s", diff.Type, wantHelm, diff.Patch)
	}
}

// now returns what stands.
func (w *workload) now() *unstructured.Unstructured {
	w.Helper()
	now := &unstructured.Unstructured{}
	now.SetGroupVersionKind(w.manifest.GroupVersionKind())
	check.Must(w, w.client.Get(w.Context(), client.ObjectKeyFromObject(w.manifest), now))
	return now
}

// template returns the pod template that stands.
func (w *workload) template() map[string]any {
	w.Helper()
	template, _, err := unstructured.NestedMap(w.now().Object, "spec", "template")
	check.Must(w, err)
	return template
}

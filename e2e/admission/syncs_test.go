package admission

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/dynamic"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/corpus"
)

var syncs = flag.Int("syncs", 10, "how often each workload of the corpus is sent again")

// synced is one workload of the corpus that is sent again and again in one way.
type synced struct {
	resource dynamic.ResourceInterface
	manifest []byte
	typed    any
	first    *unstructured.Unstructured // the manifest
}

// merge sends the three-way strategic merge of what was sent before, what is sent and what stands,
// which kubectl apply, Helm 3 and Argo CD's default diff build on. note keeps the manifest as
// kubectl does. It returns what the merge would change.
func (s *synced) merge(t *testing.T, before []byte, note bool) (patch []byte, err error) {
	sent := s.manifest
	if note {
		if sent, err = s.noted().MarshalJSON(); err != nil {
			return nil, err
		}
	}
	name := s.first.GetName()
	now, err := s.resource.Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	current, err := now.MarshalJSON()
	if err != nil {
		return nil, err
	}
	meta, err := strategicpatch.NewPatchMetaFromStruct(s.typed)
	if err != nil {
		return nil, err
	}
	if patch, err = strategicpatch.CreateThreeWayMergePatch(before, sent, current, meta, true); err != nil {
		return nil, err
	}
	_, err = s.resource.Patch(t.Context(), name, types.StrategicMergePatchType, patch,
		metav1.PatchOptions{FieldManager: "sync"})
	return patch, err
}

// noted returns the manifest with itself in the annotation of kubectl.
func (s *synced) noted() *unstructured.Unstructured {
	object := s.first.DeepCopy()
	annotations := object.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[corev1.LastAppliedConfigAnnotation] = string(s.manifest)
	object.SetAnnotations(annotations)
	return object
}

// apply is a server-side apply that doesn't force: a conflict is an error.
func (s *synced) apply(t *testing.T, manager string) (*unstructured.Unstructured, error) {
	return s.resource.Patch(t.Context(), s.first.GetName(), types.ApplyPatchType, s.manifest,
		metav1.PatchOptions{FieldManager: manager})
}

// TestTheCorpusSyncsForEver sends each Deployment and StatefulSet of the corpus again (-syncs
// times; 100 before a release), as client-side apply does, by server-side apply from two managers,
// and by a three-way merge. Nothing moves: no new generation, so no new ReplicaSet; no difference
// between what is sent and what stands; no conflict.
func TestTheCorpusSyncsForEver(t *testing.T) {
	client, err := dynamic.NewForConfig(shared.RESTConfig())
	check.Must(t, err)
	bare := plain(t)
	ways := map[string]string{}
	for _, way := range []string{"client-side apply", "server-side apply", "three-way merge"} {
		ways[way] = optedIn(t, nil)
	}
	done, injected := map[string]int{}, map[string]int{}
	var lock sync.Mutex
	var group sync.WaitGroup
	places := make(chan struct{}, 8)
	for i, object := range workloads(t, admitted) {
		if object.GetKind() == "Pod" {
			continue
		}
		if _, err := dryRun(t, object.Unstructured, bare); err != nil {
			continue // not valid without us, which TestEveryWorkloadOfTheCorpusIsAccepted says
		}
		_, err := syncForEver(t, client.Resource(admitted[object.GetKind()]).Namespace(bare), renamed(object, bare, i),
			"server-side apply", 1)
		if err != nil {
			t.Logf("%s moves or conflicts without us: %v", object, err)
			continue
		}
		for way, namespace := range ways {
			o := renamed(object, namespace, i)
			places <- struct{}{}
			group.Go(func() {
				defer func() { <-places }()
				record, err := syncForEver(t, client.Resource(admitted[o.GetKind()]).Namespace(namespace), o, way, *syncs)
				if err != nil {
					t.Errorf("%s by %s: %v", object, way, err)
				}
				lock.Lock()
				defer lock.Unlock()
				done[way]++
				if record {
					injected[way]++
				}
			})
		}
	}
	group.Wait()
	t.Logf("sent %d times again: %v; of those with something of ours: %v", *syncs, done, injected)
	for way := range ways {
		if injected[way] < 10 {
			t.Errorf("%d workloads by %s have something of ours, want at least 10", injected[way], way)
		}
	}
}

// renamed returns a workload of the corpus without pods, and with a name that is its alone.
func renamed(object corpus.Object, namespace string, i int) *unstructured.Unstructured {
	o := object.DeepCopy()
	o.SetName(fmt.Sprint("w-", i))
	o.SetNamespace(namespace)
	_ = unstructured.SetNestedField(o.Object, int64(0), "spec", "replicas") // the API server says what is no workload
	return o
}

// syncForEver reports whether anything of ours stands in the workload, and what moved.
func syncForEver(
	t *testing.T, resource dynamic.ResourceInterface, o *unstructured.Unstructured, way string, n int,
) (bool, error) {
	s := &synced{resource: resource, typed: appsv1.Deployment{}, first: o}
	if o.GetKind() == "StatefulSet" {
		s.typed = appsv1.StatefulSet{}
	}
	var err error
	if s.manifest, err = json.Marshal(o); err != nil {
		return false, err
	}
	var created *unstructured.Unstructured
	switch way {
	case "client-side apply":
		created, err = resource.Create(t.Context(), s.noted(), metav1.CreateOptions{})
	case "server-side apply":
		created, err = s.apply(t, "argocd-controller")
	default:
		created, err = resource.Create(t.Context(), o, metav1.CreateOptions{})
	}
	if err != nil {
		return false, err
	}
	for i := range n {
		patch := []byte("{}")
		switch way {
		case "client-side apply":
			patch, err = s.merge(t, s.manifest, true)
		case "server-side apply":
			if _, err = s.apply(t, "argocd-controller"); err == nil {
				_, err = s.apply(t, "flux")
			}
		default:
			patch, err = s.merge(t, s.manifest, false)
		}
		if err != nil {
			return false, err
		}
		if string(patch) != "{}" && !onlyDefaulted(patch) {
			return false, fmt.Errorf("sync %d would change %s", i, patch)
		}
	}
	after, err := resource.Get(t.Context(), s.first.GetName(), metav1.GetOptions{})
	if err != nil {
		return false, err
	}
	if after.GetGeneration() != 1 {
		return false, fmt.Errorf("generation is %d", after.GetGeneration())
	}
	before, _, _ := unstructured.NestedMap(created.Object, "spec", "template")
	now, _, _ := unstructured.NestedMap(after.Object, "spec", "template")
	if diff := cmp.Diff(before, now); diff != "" {
		return false, fmt.Errorf("the template moved (-before +after):\n%s", diff)
	}
	record, _, _ := unstructured.NestedString(now, "metadata", "annotations", "evenkeel.dev/injected")
	return record != "", nil
}

// onlyDefaulted reports whether a merge differs in nothing but what the API server drops or writes
// in another way, such as a CPU of 1000m, so that it changes nothing. The generation says whether
// it did.
func onlyDefaulted(patch []byte) bool {
	return !slices.ContainsFunc(
		[]string{"podAntiAffinity", "preStop", "readinessProbe", "terminationGracePeriodSeconds", "evenkeel.dev"},
		func(ours string) bool { return bytes.Contains(patch, []byte(ours)) })
}

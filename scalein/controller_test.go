package scalein

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"
)

// world is a cluster whose API server notes each write to a pod.
type world struct {
	client   *fake.Clientset
	tracker  clienttesting.ObjectTracker
	metadata *metadatafake.FakeMetadataClient
	optedOut map[string]bool

	mu     sync.Mutex
	writes []string
	times  []time.Time // of all writes
	refuse int         // so many writes with a conflict
}

// newWorld makes a cluster with a node in each of three zones, and the namespaces shop, which is
// opted in, and other, which isn't.
func newWorld(t *testing.T, pods ...runtime.Object) *world {
	t.Helper()
	var nodes []runtime.Object
	partial := func(kind, name string, labels map[string]string) {
		nodes = append(nodes,
			&metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: kind},
				ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}})
	}
	for _, zone := range []string{"x", "y", "z"} {
		partial("Node", "node-"+zone, map[string]string{corev1.LabelTopologyZone: zone})
	}
	partial("Namespace", "shop", map[string]string{"evenkeel.dev/inject": "enabled"})
	partial("Namespace", "kube-system", map[string]string{"evenkeel.dev/inject": "enabled"})
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	// The tracker that fake.NewClientset makes also works out managed fields, which takes minutes
	// of thousands of pods.
	w := &world{client: &fake.Clientset{},
		tracker:  clienttesting.NewObjectTracker(clientscheme.Scheme, clientscheme.Codecs.UniversalDecoder()),
		metadata: metadatafake.NewSimpleMetadataClient(scheme, nodes...), optedOut: map[string]bool{}}
	for _, p := range pods {
		if err := w.tracker.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	w.client.AddReactor("*", "*", clienttesting.ObjectReaction(w.tracker))
	w.client.AddWatchReactor("*", func(action clienttesting.Action) (bool, watch.Interface, error) {
		watcher, err := w.tracker.Watch(action.GetResource(), action.GetNamespace())
		return true, watcher, err
	})
	w.client.PrependReactor("patch", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.refuse > 0 {
			w.refuse--
			return true, nil, apierrors.NewConflict(schema.GroupResource{Resource: "pods"}, "x", errors.New("changed"))
		}
		patch := action.(clienttesting.PatchAction)
		var body struct {
			Metadata struct {
				UID, ResourceVersion string
				Annotations          map[string]*string
			}
		}
		if err := json.Unmarshal(patch.GetPatch(), &body); err != nil || body.Metadata.UID == "" ||
			len(body.Metadata.Annotations) != 2 {
			t.Errorf("patch is %s: %v", patch.GetPatch(), err)
		}
		sign := "+"
		if body.Metadata.Annotations[CostAnnotation] == nil {
			sign = "-"
		}
		w.writes = append(w.writes, sign+patch.GetNamespace()+"/"+patch.GetName())
		w.times = append(w.times, time.Now())
		object, err := w.tracker.Get(action.GetResource(), patch.GetNamespace(), patch.GetName())
		if err != nil {
			return true, nil, err
		}
		p := object.(*corev1.Pod).DeepCopy()
		for key, value := range body.Metadata.Annotations {
			if delete(p.Annotations, key); value != nil {
				metav1.SetMetaDataAnnotation(&p.ObjectMeta, key, *value)
			}
		}
		return true, p, w.tracker.Update(action.GetResource(), p, p.Namespace)
	})
	return w
}

// lead runs a controller for the rest of the test.
func (w *world) lead(t *testing.T) {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	c, err := New(
		Config{Client: w.client, Metadata: w.metadata,
			NamespaceSelector: labels.SelectorFromSet(labels.Set{"evenkeel.dev/inject": "enabled"}),
			Except:            []string{"kube-system"},
			OptedOut:          func(namespace, kind, name string) bool { return w.optedOut[namespace+"/"+kind+"/"+name] },
			Log:               logrus.NewEntry(log), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error)
	go func() { over <- c.Lead(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-over; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// written returns the writes since it was called last, sorted, after so long a time.
func (w *world) written(after time.Duration) string {
	time.Sleep(after) // of the bubble
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.Sort(w.writes)
	all := strings.Join(w.writes, " ")
	w.writes = nil
	return all
}

// pod makes a ready pod of the ReplicaSet web-1 of the Deployment web.
func pod(namespace, name, zone string, minute int, change ...func(*corev1.Pod)) *corev1.Pod {
	yes := true
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "1", ResourceVersion: "1",
			CreationTimestamp: metav1.NewTime(at(minute)), Labels: map[string]string{"pod-template-hash": "1"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web-1", Controller: &yes}}},
		Spec: corev1.PodSpec{NodeName: "node-" + zone},
		Status: corev1.PodStatus{Phase: corev1.PodRunning,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
	for _, f := range change {
		f(p)
	}
	return p
}

// four are the pods of a workload in two zones.
func four(namespace string) []runtime.Object {
	return []runtime.Object{pod(namespace, "a", "x", 1), pod(namespace, "b", "y", 2), pod(namespace, "c", "y", 3),
		pod(namespace, "d", "y", 4)}
}

func (w *world) update(t *testing.T, p *corev1.Pod) {
	t.Helper()
	if _, err := w.client.CoreV1().Pods(p.Namespace).Update(t.Context(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestTheControllerWritesWhatChangesSays(t *testing.T) {
	set := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.OwnerReferences[0].Name = name; p.Name += name }
	}
	for _, test := range []struct {
		name string
		pods []runtime.Object
		do   func(t *testing.T, w *world)
		want string
	}{
		{"marks a pod of each zone", four("shop"), nil, "+shop/a +shop/b"},
		{"marks nothing in a namespace that is not opted in", four("other"), nil, ""},
		{"marks nothing in a namespace that is never looked at", four("kube-system"), nil, ""},
		{"tells one ReplicaSet from another",
			[]runtime.Object{pod("shop", "a", "x", 1), pod("shop", "b", "y", 1), pod("shop", "c", "y", 1, set("two")),
				pod("shop", "d", "x", 1, set("two"))}, nil, ""},
		{"passes over pods that no ReplicaSet controls",
			[]runtime.Object{pod("shop", "a", "x", 1, func(p *corev1.Pod) { p.OwnerReferences[0].Kind = "StatefulSet" }),
				pod("shop", "b", "y", 1), pod("shop", "c", "y", 1)}, nil, ""},
		{"does not count pods that end",
			[]runtime.Object{pod("shop", "a", "x", 1), pod("shop", "b", "y", 1), pod("shop", "c", "y", 1, func(p *corev1.Pod) {
				p.Status.Phase = corev1.PodFailed
			})}, nil, ""},
		{"leaves a workload alone that is opted out", four("shop"),
			func(_ *testing.T, w *world) { w.optedOut["shop/Deployment/web"] = true }, ""},
		{"leaves a ReplicaSet alone that is opted out", four("shop"),
			func(_ *testing.T, w *world) { w.optedOut["shop/ReplicaSet/web-1"] = true }, ""},
		{"leaves a workload alone whose pods are opted out",
			append(four("shop"), pod("shop", "e", "z", 9, func(p *corev1.Pod) {
				p.Labels["evenkeel.dev/inject"] = "disabled"
			})), nil, ""},
		{"leaves a workload alone of which a pod has a cost",
			append(four("shop"), pod("shop", "e", "z", 9, func(p *corev1.Pod) {
				p.Annotations = map[string]string{CostAnnotation: "5"}
			})), nil, ""},
		{"tries again after a conflict", four("shop"), func(_ *testing.T, w *world) { w.refuse = 1 }, "+shop/a +shop/b"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, test.pods...)
				if test.do != nil {
					test.do(t, w)
				}
				w.lead(t)
				if got := w.written(10 * time.Minute); got != test.want {
					t.Errorf("wrote %q, want %q", got, test.want)
				}
			})
		})
	}
}

// TestAWorkloadIsWrittenToOnceAMinuteAtMost takes the readiness of the pod that is marked, and
// gives the others theirs, every ten seconds for half an hour.
func TestAWorkloadIsWrittenToOnceAMinuteAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, four("shop")...)
		w.lead(t)
		if got := w.written(time.Minute); got != "+shop/a +shop/b" {
			t.Fatalf("wrote %q", got)
		}
		const minutes = 30
		for range minutes * 6 {
			for _, name := range []string{"b", "c", "d"} {
				p, err := w.client.CoreV1().Pods("shop").Get(t.Context(), name, metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				p.Status.Conditions[0].Status = corev1.ConditionTrue
				if p.Annotations[CostAnnotation] != "" {
					p.Status.Conditions[0].Status = corev1.ConditionFalse
				}
				w.update(t, p)
			}
			time.Sleep(10 * time.Second)
		}
		if writes := strings.Fields(w.written(0)); len(writes) < minutes || len(writes) > 2*(minutes+1) {
			t.Errorf("%d writes in %d minutes: %v", len(writes), minutes, writes)
		}
	})
}

// TestAThousandWorkloadsAreWrittenInTheirTime has 1,000 workloads in three zones: 3,000 writes, 20
// in any second, and none in the hour after.
func TestAThousandWorkloadsAreWrittenInTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pods []runtime.Object
		for i := range 1000 {
			for j := range 4 {
				pods = append(pods,
					pod("shop", fmt.Sprintf("w-%d-%d", i, j), []string{"x", "y", "z", "z"}[j], j, func(p *corev1.Pod) {
						p.OwnerReferences[0].Name = fmt.Sprintf("w-%d-1", i)
					}))
			}
		}
		w := newWorld(t, pods...)
		w.lead(t)
		if writes := strings.Fields(w.written(time.Hour)); len(writes) != 3000 {
			t.Errorf("%d writes, want 3000", len(writes))
		}
		if took := w.times[len(w.times)-1].Sub(w.times[0]); took < 148*time.Second || took > 160*time.Second {
			t.Errorf("3000 writes took %v, want 150 s at 20 in a second", took)
		}
		for i := range w.times[perSecond:] {
			if took := w.times[i+perSecond].Sub(w.times[i]); took < time.Second-time.Millisecond {
				t.Fatalf("%d writes took %v", perSecond+1, took)
			}
		}
		if got := w.written(time.Hour); got != "" {
			t.Errorf("wrote %d pods more", len(strings.Fields(got)))
		}
	})
}

func TestAForeignCostThatComesLaterEndsOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, four("shop")...)
		w.lead(t)
		if got := w.written(5 * time.Minute); got != "+shop/a +shop/b" {
			t.Fatalf("wrote %q", got)
		}
		w.update(t, pod("shop", "d", "y", 4, func(p *corev1.Pod) { p.Annotations = map[string]string{CostAnnotation: "-5"} }))
		if got := w.written(5 * time.Minute); got != "-shop/a -shop/b" {
			t.Errorf("wrote %q", got)
		}
		p, err := w.client.CoreV1().Pods("shop").Get(t.Context(), "d", metav1.GetOptions{})
		if err != nil || p.Annotations[CostAnnotation] != "-5" {
			t.Errorf("the cost of somebody else is %q: %v", p.Annotations[CostAnnotation], err)
		}
	})
}

func TestANodeThatGetsAZoneIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, pod("shop", "a", "late", 1), pod("shop", "b", "y", 1), pod("shop", "c", "y", 2))
		w.lead(t)
		if got := w.written(5 * time.Minute); got != "" {
			t.Fatalf("wrote %q", got)
		}
		nodes := w.metadata.Resource(corev1.SchemeGroupVersion.WithResource("nodes")).(metadatafake.MetadataClient)
		if _, err := nodes.CreateFake(
			&metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
				ObjectMeta: metav1.ObjectMeta{
					Name: "node-late", Labels: map[string]string{corev1.LabelTopologyZone: "late"}}},
			metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := w.written(5 * time.Minute); got != "+shop/a +shop/b" {
			t.Errorf("wrote %q", got)
		}
	})
}

func TestNewRefusesAConfigurationThatLacksAnything(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("takes an empty configuration")
	}
}

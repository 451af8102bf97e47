package webhook

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/version"
	fakediscovery "k8s.io/client-go/discovery/fake"
	"k8s.io/client-go/kubernetes/fake"
	fakemetadata "k8s.io/client-go/metadata/fake"

	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
)

func node(name, kubelet string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	n.Status.NodeInfo.KubeletVersion = kubelet
	return n
}

// factsIn returns facts of a cluster with an API server of that version, two nodes, the opted-in
// Namespace shop and the opted-out Deployment shop/web.
func factsIn(t *testing.T, gitVersion string) (*Facts, *fake.Clientset) {
	t.Helper()
	client := fake.NewClientset(node("new", "v1.34.1"), node("old", "v1.29.9"), node("joining", ""))
	client.Discovery().(*fakediscovery.FakeDiscovery).FakedServerVersion = &version.Info{GitVersion: gitVersion}
	scheme := fakemetadata.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	objects := fakemetadata.NewSimpleMetadataClient(scheme,
		&metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
			ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{policy.InjectLabel: policy.Enabled},
				Annotations: map[string]string{policy.Prefix + "anti-affinity": "off", "team": "shop"}}},
		&metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web",
				Labels: map[string]string{policy.InjectLabel: policy.Disabled}}})
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	selector := labels.SelectorFromSet(labels.Set{policy.InjectLabel: policy.Enabled})
	f, err := NewFacts(client, objects, selector, logrus.NewEntry(logger))
	if err != nil {
		t.Fatal(err)
	}
	return f, client
}

// eventually waits for a condition, far longer than it takes.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after 20 s", what)
		}
	}
}

func TestFactsAreReadyWhenEverythingIsKnown(t *testing.T) {
	f, client := factsIn(t, "v1.33.2-gke.100")
	if err := f.Ready(); err == nil || !strings.Contains(err.Error(), "namespaces") {
		t.Errorf("before anything is known: %v, want that namespaces are not listed", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() { f.Run(ctx); close(over) }()
	eventually(t, "ready", func() bool { return f.Ready() == nil })

	eventually(t, "the oldest kubelet that has reported counts", func() bool {
		return f.Cluster() == patches.Cluster{APIServer: patches.Version{Major: 1, Minor: 33},
			OldestKubelet: patches.Version{Major: 1, Minor: 29}}
	})
	want := map[string]string{policy.Prefix + "anti-affinity": "off"}
	if d := cmp.Diff(want, f.Namespace(ctx, "shop")); d != "" {
		t.Errorf("annotations of ours alone (-want +got)\n%s", d)
	}
	if got := f.Namespace(ctx, "unknown"); got != nil {
		t.Errorf("a Namespace that does not exist has %v", got)
	}
	for _, c := range []struct {
		namespace, kind, name string
		want                  bool
	}{
		{"shop", "Deployment", "web", true},
		{"shop", "StatefulSet", "web", false},
		{"shop", "Job", "web", false},
		{"other", "Deployment", "web", false},
	} {
		if got := f.OptedOut(c.namespace, c.kind, c.name); got != c.want {
			t.Errorf("%s %s/%s is opted out: %v", c.kind, c.namespace, c.name, got)
		}
	}
	if err := client.CoreV1().Nodes().Delete(ctx, "old", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a node that is gone no longer counts", func() bool { return f.Cluster().OldestKubelet.Minor == 34 })
	if _, err := client.CoreV1().Nodes().Update(ctx, node("new", "v1.35.0"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an upgraded kubelet counts", func() bool { return f.Cluster().OldestKubelet.Minor == 35 })
	cancel()
	<-over
}

func TestTheOldestOfTheLatestAnswersIsTheAPIServersVersion(t *testing.T) {
	f, client := factsIn(t, "")
	ask := func(gitVersion string) {
		client.Discovery().(*fakediscovery.FakeDiscovery).FakedServerVersion = &version.Info{GitVersion: gitVersion}
		f.askVersion(t.Context())
	}
	ask("unreadable")
	if v := f.Cluster().APIServer; v != (patches.Version{}) {
		t.Errorf("%s, want unknown", v)
	}
	ask("v1.32.0")
	for n := range versionMemory {
		if v := f.Cluster().APIServer; v.Minor != 32 {
			t.Errorf("after %d newer answers it is %s, want 1.32", n, v)
		}
		ask("v1.33.0")
	}
	if v := f.Cluster().APIServer; v.Minor != 33 {
		t.Errorf("it is %s, want 1.33", v)
	}
}

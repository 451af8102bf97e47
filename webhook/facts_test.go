package webhook

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
)

func node(name, kubelet string) string {
	return fmt.Sprintf(`{"metadata":{"name":%q,"resourceVersion":"6"},"status":{"nodeInfo":{"kubeletVersion":%q}}}`, name,
		kubelet)
}

// change is a watch event over a Node.
func change(kind, node string) string {
	return fmt.Sprintf(`{"type":%q,"object":{"apiVersion":"v1","kind":"Node",%s}`, kind, node[1:])
}

const nodesPath = "/api/v1/nodes"

// factsIn returns facts of a cluster with an API server of that version, three nodes, the opted-in
// Namespace shop and the opted-out Deployment shop/web.
func factsIn(t *testing.T, gitVersion string) (*Facts, *api) {
	t.Helper()
	virtual := strings.Replace(node("virtual", "v1.19.0"), `{"name"`, `{"labels":{"type":"virtual-kubelet"},"name"`, 1)
	tainted := strings.Replace(node("tainted", "v1.18.0"), `"status"`,
		`"spec":{"taints":[{"key":"virtual-kubelet.io/provider","value":"azure","effect":"NoSchedule"}]},"status"`, 1)
	const partial = `{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadata","metadata":`
	a := newAPI(t, gitVersion, map[string][]string{
		nodesPath: {node("new", "v1.34.1"), node("old", "v1.29.9"), node("joining", ""), virtual, tainted},
		"/api/v1/namespaces": {partial +
			`{"name":"shop","annotations":{"evenkeel.dev/anti-affinity":"off","team":"shop"}}}`},
		"/apis/apps/v1/deployments":  {partial + `{"name":"web","namespace":"shop"}}`},
		"/apis/apps/v1/statefulsets": nil, "/apis/apps/v1/replicasets": nil,
	})
	client, objects := a.clients(t)
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	selector := labels.SelectorFromSet(labels.Set{policy.InjectLabel: policy.Enabled})
	f, err := NewFacts(client, objects, selector, logrus.NewEntry(logger))
	if err != nil {
		t.Fatal(err)
	}
	return f, a
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
	f, a := factsIn(t, "v1.33.2-gke.100")
	if err := f.Ready(); err == nil || !strings.Contains(err.Error(), "namespaces") {
		t.Errorf("before anything is known: %v, want that namespaces are not listed", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() { f.Run(ctx); close(over) }()
	eventually(t, "ready", func() bool { return f.Ready() == nil })

	eventually(t, "the oldest kubelet that has reported counts", func() bool {
		return f.Cluster() == patches.Cluster{APIServer: patches.Version{Major: 1, Minor: 33},
			OldestKubelet: patches.Version{Major: 1, Minor: 29}, OldestNode: "old", NoZones: true}
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
	a.events[nodesPath] <- change("DELETED", node("old", "v1.29.9"))
	eventually(t, "a node that is gone no longer counts", func() bool { return f.Cluster().OldestKubelet.Minor == 34 })
	a.events[nodesPath] <- change("MODIFIED", node("new", "v1.35.0"))
	eventually(t, "an upgraded kubelet counts", func() bool { return f.Cluster().OldestKubelet.Minor == 35 })
	cancel()
	<-over
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.whole) > 0 || a.pages[nodesPath] < 3 {
		t.Errorf("listed in one answer: %q; nodes in %d pages, want 3", a.whole, a.pages[nodesPath])
	}
}

func TestANodeWithoutAZoneIsKnown(t *testing.T) {
	f, a := factsIn(t, "v1.33.2")
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() { f.Run(ctx); close(over) }()
	labelled := func(name, taint, labels string) string {
		return fmt.Sprintf(
			`{"metadata":{"name":%q,"resourceVersion":"7","labels":{%s}},"spec":{"taints":[{"key":%q,"effect":"NoSchedule"}]},`+
				`"status":{"nodeInfo":{"kubeletVersion":"v1.34.1"}}}`, name, labels, taint)
	}
	const zone = `"topology.kubernetes.io/zone":"a"`
	eventually(t, "nodes have no zone", func() bool { return f.Cluster().NoZones })
	for _, name := range []string{"old", "new"} {
		a.events[nodesPath] <- change("MODIFIED", labelled(name, "none", zone))
	}
	eventually(t, "all nodes have one", func() bool { return !f.Cluster().NoZones })
	for _, taint := range []string{"node-role.kubernetes.io/control-plane",
		"node.cloudprovider.kubernetes.io/uninitialized"} {
		a.events[nodesPath] <- change("ADDED", labelled(taint[:5], taint, ""))
	}
	a.events[nodesPath] <- change("ADDED", labelled("last", "none", zone))
	eventually(t, "the last node is known", func() bool {
		_, known, _ := f.nodes.GetStore().GetByKey("last") // the store is in memory
		return known
	})
	if f.Cluster().NoZones {
		t.Error("a node of the control plane or one that isn't labelled yet counts")
	}
	a.events[nodesPath] <- change("MODIFIED", labelled("last", "none", ""))
	eventually(t, "one node has lost its zone", func() bool { return f.Cluster().NoZones })
	cancel()
	<-over
}

func TestAnOldNodeThatKeepsTheClusterFromSleepingIsAWarning(t *testing.T) {
	f, a := factsIn(t, "v1.33.2")
	var lines lockedBuffer
	f.log.Logger.SetOutput(&lines)
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() { f.Run(ctx); close(over) }()
	eventually(t, "the warning names the node and its version", func() bool {
		return strings.Contains(lines.text(), "level=warning") && strings.Contains(lines.text(), "kubelet=1.29 node=old")
	})
	a.events[nodesPath] <- change("DELETED", node("old", "v1.29.9"))
	eventually(t, "the node no longer counts", func() bool { return f.Cluster().OldestKubelet.Minor == 34 })
	cancel()
	<-over
	if n := strings.Count(lines.text(), "level=warning"); n != 1 {
		t.Errorf("%d warnings, want one:\n%s", n, lines.text())
	}
}

// lockedBuffer is a buffer that a log writes while a test reads.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestTheOldestOfTheLatestAnswersIsTheAPIServersVersion(t *testing.T) {
	f, a := factsIn(t, "")
	ask := func(gitVersion string) {
		a.setVersion(gitVersion)
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

package pdb

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"

	"github.com/evenkeel/evenkeel/policy"
)

func newController(t *testing.T, host string) *Controller {
	t.Helper()
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	c, err := New(Config{REST: &rest.Config{Host: host}, Base: policy.Default(), Bounds: policy.DefaultBounds(), Except: []string{"kube-system"},
		Log: logrus.NewEntry(logger), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// exported returns the value of a metric without labels.
func exported(t *testing.T, c *Controller, name string) float64 {
	t.Helper()
	families, err := c.config.Registerer.(*prometheus.Registry).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

// unstarted returns a term whose caches hold what a test puts there.
func unstarted(t *testing.T) *term {
	t.Helper()
	c := newController(t, "localhost")
	tm := &term{Controller: c, unseen: map[string]map[string]unseen{}, events: newEvents(c.client, c.log), kinds: &kinds{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]())}
	t.Cleanup(tm.queue.ShutDown)
	if err := tm.watch(); err != nil {
		t.Fatal(err)
	}
	return tm
}

// Whoever holds the Lease and can't list does nothing, and the alert over it reads this gauge.
func TestALeaderWithoutItsCachesIsNone(t *testing.T) {
	asked := make(chan struct{}, 1000)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		w.WriteHeader(http.StatusForbidden)
	}))
	defer api.Close()
	c := newController(t, api.URL)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- c.Lead(ctx) }()
	for range 6 { // each of the informers
		<-asked
	}
	if leader := exported(t, c, "evenkeel_budget_leader"); leader != 0 || c.Synced() {
		t.Errorf("leader: %v, synced: %v, and nothing could be listed", leader, c.Synced())
	}
	cancel()
	<-ended
}

func TestWhatGoesWrongBeforeAWriteIsCounted(t *testing.T) {
	tm := unstarted(t)
	for _, err := range []error{
		tm.namespaces.GetIndexer().Add(&stored[namespaceFacts]{name: "shop"}),
		tm.budgets.GetIndexer().Add(&stored[packed]{namespace: "shop", name: "broken", value: "\xff"}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	tm.queue.Add("shop")
	go tm.work(t.Context())
	for begin := time.Now(); exported(t, tm.Controller, "evenkeel_budget_errors_total") == 0; time.Sleep(time.Millisecond) {
		if time.Since(begin) > time.Minute {
			t.Fatal("a namespace whose budgets can't be read counts as none")
		}
	}
}

func TestTheLabelOptsNobodyInWhoIsNeverCalledFor(t *testing.T) {
	tm := unstarted(t)
	for name, optedIn := range map[string]bool{"shop": true, "kube-system": false} {
		if err := tm.namespaces.GetIndexer().Add(&stored[namespaceFacts]{name: name}); err != nil {
			t.Fatal(err)
		}
		n, err := tm.list(t.Context(), name)
		if err != nil || n.OptedIn != optedIn {
			t.Errorf("%s is opted in: %v (%v), want %v", name, n.OptedIn, err, optedIn)
		}
	}
}

// Whoever may write a pod fills no more of the leader's memory with it than anybody else.
func TestWhatIsKeptOfOneObjectIsBounded(t *testing.T) {
	huge := map[string]string{"app": "web"}
	for i := range 10_000 {
		huge[fmt.Sprintf("example.com/label-%d", i)] = strings.Repeat("x", 63)
	}
	long, yes, two := strings.Repeat("x", 1<<20), true, int32(2)
	selector := &metav1.LabelSelector{MatchLabels: huge}
	m := metav1.ObjectMeta{Name: "web", Labels: huge, Annotations: map[string]string{"evenkeel.dev/disruption-budget": long},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: long, Name: "x", UID: "1", Controller: &yes}}}
	template := corev1.PodTemplateSpec{ObjectMeta: m}
	for _, kept := range []proto{
		keepDeployment(&appsv1.Deployment{ObjectMeta: m, Spec: appsv1.DeploymentSpec{Replicas: &two, Selector: selector, Template: template}}),
		keepStatefulSet(&appsv1.StatefulSet{ObjectMeta: m, Spec: appsv1.StatefulSetSpec{Replicas: &two, Selector: selector, Template: template}}),
		keepBudget(&policyv1.PodDisruptionBudget{ObjectMeta: m, Spec: policyv1.PodDisruptionBudgetSpec{Selector: selector}}),
	} {
		if n := kept.Size(); n > maxKept {
			t.Errorf("%T: %d bytes are kept", kept, n)
		}
	}
	pod := trimPod(&metav1.PartialObjectMetadata{ObjectMeta: m}).Value()
	if n := len(pod.labels) + len(pod.controller.kind); n > maxKept {
		t.Errorf("pod: %d bytes are kept", n)
	}
	a := FromAutoscaler(&autoscalingv2.HorizontalPodAutoscaler{Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: long}}})
	if len(a.Name) > maxReference {
		t.Errorf("autoscaler: %d bytes are kept", len(a.Name))
	}
}

// noKinds is an API server without any kind. It counts how often it was asked anew.
type noKinds struct {
	meta.RESTMapper
	resets int
}

func (*noKinds) RESTMapping(gk schema.GroupKind, _ ...string) (*meta.RESTMapping, error) {
	return nil, &meta.NoKindMatchError{GroupKind: gk}
}
func (n *noKinds) Reset() { n.resets++ }

func TestKindsThatDoNotExistAreForgottenAndNotAskedForAllTheTime(t *testing.T) {
	mapper := &noKinds{}
	k := &kinds{mapper: mapper, known: map[schema.GroupKind]*kind{}}
	for range 2 {
		for i := range 3 * maxKinds {
			r := reference{apiVersion: "example.com/v1", kind: fmt.Sprintf("Kind%d", i)}
			if _, err := k.find(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if known := k.known[r.groupKind()]; known != nil {
				known.until = time.Time{} // a minute is over
			}
			if _, err := k.find(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(k.known) > maxKinds {
		t.Errorf("%d kinds are remembered", len(k.known))
	}
	if mapper.resets == 0 || mapper.resets > 10 {
		t.Errorf("all kinds were asked for %d times at once, want one or a few", mapper.resets)
	}
}

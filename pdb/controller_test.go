package pdb

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
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
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/metadata"
	metadatafake "k8s.io/client-go/metadata/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"

	"github.com/evenkeel/evenkeel/policy"
)

func newController(t *testing.T, host string) *Controller {
	t.Helper()
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	config := &rest.Config{Host: host}
	c, err := New(Config{Client: kubernetes.NewForConfigOrDie(config), Metadata: metadata.NewForConfigOrDie(config),
		Dynamic: dynamic.NewForConfigOrDie(config), Base: policy.Default(), Bounds: policy.DefaultBounds(),
		Except: []string{"kube-system"}, Log: logrus.NewEntry(logger), Registerer: prometheus.NewRegistry()})
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
	tm := newTerm(c)
	tm.kinds = &kinds{}
	t.Cleanup(tm.queue.ShutDown)
	if err := tm.watch(); err != nil {
		t.Fatal(err)
	}
	return tm
}

// reconcile looks at the namespace shop and writes what may be written at once.
func reconcile(t *testing.T, tm *term) {
	t.Helper()
	if err := tm.reconcile(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	for h, ok := tm.writer.next(); ok; h, ok = tm.writer.next() {
		tm.write(t.Context(), h)
	}
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
	for range 7 { // each of the informers
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
		tm.budgets.GetIndexer().Add(&budgetObject{namespace: "shop", name: "broken", value: budgetFacts{packed: "\xff"}}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	tm.queue.Add("shop")
	go tm.work(t.Context())
	for begin := time.Now(); exported(t, tm.Controller,
		"evenkeel_budget_errors_total") == 0; time.Sleep(time.Millisecond) {
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
	m := metav1.ObjectMeta{Name: "web", Labels: huge,
		Annotations:     map[string]string{"evenkeel.dev/disruption-budget": long},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: long, Name: "x", UID: "1", Controller: &yes}}}
	template := corev1.PodTemplateSpec{ObjectMeta: m}
	for _, kept := range []proto{
		keepDeployment(
			&appsv1.Deployment{ObjectMeta: m,
				Spec: appsv1.DeploymentSpec{Replicas: &two, Selector: selector, Template: template}}),
		keepStatefulSet(
			&appsv1.StatefulSet{ObjectMeta: m,
				Spec: appsv1.StatefulSetSpec{Replicas: &two, Selector: selector, Template: template}}),
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

// madeUp returns pods whose ReplicaSets don't exist, as whoever may write a pod can write them.
func madeUp(t *testing.T, tm *term, from, to int) {
	t.Helper()
	yes := true
	for i := from; i < to; i++ {
		name := fmt.Sprint("web-", i)
		kept, err := trim[*metav1.PartialObjectMetadata](trimPod)(&metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: name, Labels: map[string]string{"app": "web"},
			OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: name, UID: types.UID(name), Controller: &yes}}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := tm.pods.GetIndexer().Add(kept); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOwnersThatDoNotExistAreLookedUpOnceAndNotAllAtOnce(t *testing.T) {
	tm := unstarted(t)
	client := metadatafake.NewSimpleMetadataClient(metadatafake.NewTestScheme())
	tm.kinds = &kinds{metadata: client, mapper: &noKinds{}, known: map[schema.GroupKind]*kind{},
		replicaSets: map[types.UID]above{}}
	optedInDeployment(t, tm, "web")
	madeUp(t, tm, 0, 300)
	before := 0
	for i := range 5 {
		if _, err := tm.list(t.Context(), "shop"); err != nil {
			t.Fatal(err)
		}
		asked := len(client.Actions()) - before
		before += asked
		if want := min(maxLookups, max(0, 300-i*maxLookups)); asked != want {
			t.Errorf("look %d: %d ReplicaSets were looked up, want %d", i, asked, want)
		}
	}
	if _, err := tm.kinds.replicaSet(t.Context(), "shop",
		reference{kind: "ReplicaSet", name: "web", uid: types.UID(strings.Repeat("x", 1000))},
		&lookups{left: 1}); err != nil || len(client.Actions()) != before {
		t.Error("a UID that nothing can have was looked up")
	}
}

// A budget that somebody deletes before the cache has shown it, in a gap of the watch after which the cache is
// listed anew, never shows up there.
func TestABudgetThatIsDeletedInAGapOfTheWatchIsMadeAgain(t *testing.T) {
	tm := unstarted(t)
	client := fake.NewClientset()
	tm.client = client
	now, cache := noon, "5"
	tm.config.Now, tm.synced = func() time.Time { return now }, func() string { return cache }
	optedInDeployment(t, tm, "web")
	writes := func() int {
		client.ClearActions()
		reconcile(t, tm)
		return len(client.Actions())
	}
	client.PrependReactor("patch", "poddisruptionbudgets", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true,
			&policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "web-evenkeel", UID: "1", ResourceVersion: "7",
				Labels: map[string]string{ManagedByLabel: Manager}}}, nil
	})
	if n := writes(); n != 1 {
		t.Fatalf("%d writes, want 1", n)
	}
	b := Desired(optedIn(deployment("web", 2)), rules())[0].Budget
	b.ResourceVersion = "7"
	tm.unseen["shop"]["web-evenkeel"] = unseen{budget: *b, at: noon} // as wanted, which the answer above is not
	now = now.Add(time.Hour)
	if n := len(mustExist(t, tm)); n != 1 {
		t.Errorf("%d budgets while the cache is behind the write, want 1", n)
	}
	cache = "8"
	if n := len(mustExist(t, tm)); n != 0 {
		t.Errorf("%d budgets after the cache has come further, want none", n)
	}
	if n := writes(); n != 1 {
		t.Errorf("%d writes after the budget was deleted, want 1", n)
	}
	if n := len(mustExist(t, tm)); n != 1 {
		t.Errorf("%d budgets right after the write, want 1", n)
	}
}

func mustExist(t *testing.T, tm *term) []Budget {
	t.Helper()
	budgets, err := tm.existing("shop")
	if err != nil {
		t.Fatal(err)
	}
	return budgets
}

func TestBudgetsOfAnotherInstallationAreSomebodyElses(t *testing.T) {
	tm := unstarted(t)
	tm.rules.Instance = "evenkeel"
	for name, instance := range map[string]string{"own": "evenkeel", "older": "", "other": "evenkeel-two"} {
		labels := map[string]string{ManagedByLabel: Manager}
		if instance != "" {
			labels[InstanceLabel] = instance
		}
		kept, err := packBudget(&tm.rules)(
			&policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: labels}})
		if err != nil {
			t.Fatal(err)
		}
		if err := tm.budgets.GetIndexer().Add(kept); err != nil {
			t.Fatal(err)
		}
	}
	var removed []string
	for _, b := range diff(mustExist(t, tm), nil).remove {
		removed = append(removed, b.Name)
	}
	if want := []string{"older", "own"}; !slices.Equal(removed, want) {
		t.Errorf("%v are removed, want %v", removed, want)
	}
	d := Desired(optedIn(deployment("web", 2)), tm.rules)
	if got := configuration("shop", *d[0].Budget).Labels[InstanceLabel]; got != "evenkeel" {
		t.Errorf("the budget is labelled %q", got)
	}
	older := *d[0].Budget
	older.Instance = ""
	if c := diff([]Budget{older}, d); len(c.update) != 1 {
		t.Error("a budget of an earlier version gets no label")
	}
}

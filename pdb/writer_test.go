package pdb

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/util/workqueue"
)

// api plays API server, cache and disruption controller for the budgets of the namespace shop.
type api struct {
	t       *testing.T
	tm      *term
	version int
	stored  map[string]*policyv1.PodDisruptionBudget
	writes  []string
	during  func() // happens before a write is answered
}

func newAPI(t *testing.T) *api {
	t.Helper()
	a := &api{t: t, tm: unstarted(t), stored: map[string]*policyv1.PodDisruptionBudget{}}
	client := fake.NewClientset()
	client.PrependReactor("patch", "poddisruptionbudgets",
		func(action clienttesting.Action) (bool, runtime.Object, error) {
			name := action.(clienttesting.PatchAction).GetName()
			b := &policyv1.PodDisruptionBudget{}
			if old := a.stored[name]; old != nil {
				b = old.DeepCopy()
			}
			b.Namespace, b.Name, b.UID, b.Labels = "shop", name, "1", map[string]string{ManagedByLabel: Manager}
			b.Generation++
			a.writes = append(a.writes, name)
			answer := a.store(b)
			if a.during != nil {
				a.during()
			}
			return true, answer, nil
		})
	a.tm.client = client
	a.tm.events = newEvents(client, a.tm.log)
	if err := a.tm.namespaces.GetIndexer().Add(&stored[namespaceFacts]{name: "shop"}); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *api) store(b *policyv1.PodDisruptionBudget) *policyv1.PodDisruptionBudget {
	a.version++
	b.ResourceVersion = strconv.Itoa(a.version)
	a.stored[b.Name] = b
	return b
}

// show has the cache show a budget as it is stored.
func (a *api) show(name string) {
	a.t.Helper()
	kept, err := packBudget(&a.tm.rules)(a.stored[name].DeepCopy())
	if err != nil {
		a.t.Fatal(err)
	}
	index := a.tm.budgets.GetIndexer()
	before, exists, err := index.GetByKey("shop/" + name)
	if err == nil {
		err = index.Add(kept)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	if !exists {
		before = nil
	}
	a.tm.sees(before, kept, false)
}

// count has the disruption controller count the pods of a budget.
func (a *api) count(name string) {
	b := a.stored[name].DeepCopy()
	b.Status.ObservedGeneration = b.Generation
	a.store(b)
	a.show(name)
}

// hold offers writes of budgets of workloads with so many replicas.
func (a *api) hold(replicas ...int32) {
	var holds []hold
	for i, n := range replicas {
		w := deployment(fmt.Sprint("web", i), n)
		d := Desired(optedIn(w), a.tm.rules)[0]
		holds = append(holds, hold{namespace: "shop", decision: d, budget: *d.Budget})
	}
	a.tm.writer.offer("shop", holds, 0)
}

// write writes what may be written, and returns the names.
func (a *api) write() []string {
	a.writes = nil
	for h, ok := a.tm.writer.next(); ok; h, ok = a.tm.writer.next() {
		a.tm.write(a.t.Context(), h)
	}
	return a.writes
}

func (a *api) writesNext(what string, want ...string) {
	a.t.Helper()
	if got := a.write(); !slices.Equal(got, want) {
		a.t.Errorf("%s: %v are written, want %v", what, got, want)
	}
}

func TestWritesGoByReplicasAndWaitForTheDisruptionController(t *testing.T) {
	a := newAPI(t)
	a.tm.writer.pace = newPace(2)
	now := noon
	a.tm.config.Now = func() time.Time { return now }
	a.hold(2, 7, 3, 9, 4)
	a.writesNext("at first", "web3-evenkeel", "web1-evenkeel")
	a.show("web3-evenkeel")
	a.writesNext("while the disruption controller hasn't counted")
	if held, waiting := a.tm.writer.notInForce(); held != 3 || waiting != 1 {
		t.Errorf("%d held and %d waiting, want 3 and 1", held, waiting)
	}
	a.count("web3-evenkeel")
	a.writesNext("when it has counted one", "web4-evenkeel")
	a.count("web1-evenkeel") // which the cache shows only now
	a.writesNext("when it has counted two", "web2-evenkeel")
	now = now.Add(giveUp)
	a.writesNext("when it hasn't answered for long", "web0-evenkeel")
}

func TestABudgetThatStepsAsideGoesFirst(t *testing.T) {
	a := newAPI(t)
	a.tm.writer.pace = newPace(1)
	aside := deployment("aside", 2)
	d := Desired(optedIn(aside), a.tm.rules)[0]
	d.Budget.Aside = noon
	big := Desired(optedIn(deployment("big", 300)), a.tm.rules)[0]
	a.tm.writer.offer("shop", []hold{{namespace: "shop", decision: big, budget: *big.Budget},
		{namespace: "shop", decision: d, budget: *d.Budget}}, 0)
	a.writesNext("first", "aside-evenkeel")
}

// A namespace of thousands can't be looked at for each of its writes.
func TestOwnWritesCauseNoLook(t *testing.T) {
	cases := map[string]struct {
		do   func(a *api)
		want int
	}{
		"the cache shows the write": {
			func(a *api) { a.write(); a.show("web0-evenkeel"); a.count("web0-evenkeel") }, 0},
		"the cache shows only what came after": {func(a *api) { a.write(); a.count("web0-evenkeel") }, 1},
		"somebody changes it afterwards": {
			func(a *api) { a.write(); a.show("web0-evenkeel"); a.change("web0-evenkeel") }, 1},
		"somebody changes it at once": {func(a *api) { a.write(); a.change("web0-evenkeel") }, 1},
		"the namespace is looked at while it is written": {func(a *api) {
			h, _ := a.tm.writer.next()
			a.hold(2)
			a.tm.write(a.t.Context(), h)
		}, 1},
		"the cache is faster than the answer": {func(a *api) {
			h, _ := a.tm.writer.next()
			a.during = func() { a.show("web0-evenkeel"); a.count("web0-evenkeel") }
			a.tm.write(a.t.Context(), h)
		}, 0},
		"somebody is faster than the answer": {func(a *api) {
			h, _ := a.tm.writer.next()
			a.during = func() { a.show("web0-evenkeel"); a.change("web0-evenkeel") }
			a.tm.write(a.t.Context(), h)
		}, 1},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			a := newAPI(t)
			looks := &looks{TypedRateLimitingInterface: a.tm.queue}
			a.tm.queue = looks
			a.hold(2)
			c.do(a)
			if looks.soon != c.want {
				t.Errorf("%d looks, want %d", looks.soon, c.want)
			}
			if len(a.tm.writer.writing) > 0 {
				t.Errorf("%v left behind", a.tm.writer.writing)
			}
		})
	}
}

// looks counts the looks at namespaces that are wanted at once.
type looks struct {
	workqueue.TypedRateLimitingInterface[string]
	soon int
}

func (l *looks) AddAfter(namespace string, after time.Duration) {
	if after == settle {
		l.soon++
	}
	l.TypedRateLimitingInterface.AddAfter(namespace, after)
}

// change has somebody change a budget.
func (a *api) change(name string) {
	b := a.stored[name].DeepCopy()
	b.Generation++
	b.Spec.MaxUnavailable = number(7)
	a.store(b)
	a.show(name)
}

func TestOfManyWritesOnlyTheFirstAreHeld(t *testing.T) {
	looked := map[string]int{}
	w := newWriter(0, func() time.Time { return noon }, func(namespace string) { looked[namespace]++ })
	offer := func(namespace string, n int, replicas int32) {
		var holds []hold
		for i := range n {
			workload := deployment(fmt.Sprint("web", i), replicas)
			holds = append(holds,
				hold{namespace: namespace, decision: Decision{Workload: &workload}, budget: Budget{Name: fmt.Sprint("web", i)}})
		}
		w.offer(namespace, holds, 0)
	}
	offer("small", maxHeld, 2)
	offer("large", maxHeld, 9)
	if held, _ := w.notInForce(); len(w.held) != maxHeld || held != 2*maxHeld {
		t.Errorf("%d held of %d", len(w.held), held)
	}
	for range maxHeld {
		if w.held[0].namespace != "large" {
			t.Fatal("writes of workloads with few replicas are held instead of others")
		}
		h := w.held[0]
		w.held = w.held[1:]
		w.wrote(&h, nil, nil)
	}
	if looked["small"] != 1 {
		t.Errorf("the namespace whose writes had no place was looked at %d times, want once", looked["small"])
	}
	offer("small", 1, 2)
	w.offer("small", nil, 0)
	if held, _ := w.notInForce(); held != 0 {
		t.Errorf("%d held of a namespace that needs nothing any more", held)
	}
}

func TestWhatIsNewWaitsForChangesOfSelectors(t *testing.T) {
	a := newAPI(t)
	decisions := Desired(optedIn(deployment("new", 2), deployment("old", 2)), a.tm.rules)
	old := *decisions[1].Budget
	old.UID, old.ResourceVersion = "1", "1"
	c := changes{update: []Budget{old}, create: []Budget{*decisions[0].Budget}, reselects: true}
	if err := a.tm.apply(t.Context(), "shop", decisions, c); err != nil {
		t.Fatal(err)
	}
	if held, _ := a.tm.writer.notInForce(); len(a.tm.writer.held) != 1 || held != 2 {
		t.Errorf("%d held of %d, want one of two", len(a.tm.writer.held), held)
	}
	looks := 0
	a.tm.writer.changed = func(string) { looks++ }
	h, _ := a.tm.writer.next()
	a.tm.writer.wrote(&h, nil, nil)
	if looks != 1 {
		t.Errorf("the namespace is looked at %d times after the change, want once", looks)
	}
}

func TestTheGaugeOfBudgetsNotInForce(t *testing.T) {
	a := newAPI(t)
	a.tm.metrics.lead(a.tm.queue.Len, a.tm.writer.notInForce)
	a.stored["web0-evenkeel"] = &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web0-evenkeel", UID: "1",
			Generation: 1, ResourceVersion: "1", Labels: map[string]string{ManagedByLabel: Manager}}}
	waiting := func() int {
		_, n := a.tm.writer.notInForce()
		return n
	}
	a.show("web0-evenkeel")
	if waiting() != 1 || len(a.tm.writer.pace.waiting) != 1 {
		t.Errorf("%d waiting of a leader before us, want 1", waiting())
	}
	a.count("web0-evenkeel")
	if waiting() != 0 || len(a.tm.writer.pace.waiting) != 0 {
		t.Errorf("%d waiting, want none", waiting())
	}
	a.change("web0-evenkeel")
	object, _, err := a.tm.budgets.GetIndexer().GetByKey("shop/web0-evenkeel")
	if err != nil || waiting() != 1 {
		t.Errorf("%d waiting after a change, want 1 (%v)", waiting(), err)
	}
	a.tm.sees(nil, object, true)
	if waiting() != 0 || len(a.tm.writer.pace.waiting) != 0 || len(a.tm.writer.pending) != 0 {
		t.Errorf("%d waiting after it went, want none", waiting())
	}
	if got := exported(t, a.tm.Controller, "evenkeel_budgets_not_in_force"); got != 0 {
		t.Errorf("the gauge says %v", got)
	}
}

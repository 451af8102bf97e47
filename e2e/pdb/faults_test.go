package pdb

import (
	"fmt"
	"slices"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/evenkeel/evenkeel/e2e/check"
)

// disorder makes a namespace in which budgets are to be created, changed and deleted,
// and one stands that is somebody else's.
func disorder(t *testing.T) string {
	t.Helper()
	ns := namespace(t, nil)
	for _, name := range []string{"web-evenkeel", "orphan-evenkeel"} {
		b := &policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/managed-by": "evenkeel"}},
			Spec: policyv1.PodDisruptionBudgetSpec{
				Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}}}
		_, err := shared.Client.PolicyV1().PodDisruptionBudgets(ns).Create(t.Context(), b, metav1.CreateOptions{})
		check.Must(t, err)
	}
	create(t, ns, deployment("web", 2))
	create(t, ns, deployment("api", 3))
	create(t, ns, deployment("theirs", 2))
	foreignBudget(t, ns, "theirs", &metav1.LabelSelector{MatchLabels: map[string]string{"app": "theirs"}})
	return ns
}

// order checks that everything stands in the end, and nothing of somebody else's was
// touched.
func order(t *testing.T, ns string) {
	t.Helper()
	stand(t, ns, "api-evenkeel max 10%", "web-evenkeel max 10%")
	b, err := shared.Client.PolicyV1().PodDisruptionBudgets(ns).Get(t.Context(), "theirs", metav1.GetOptions{})
	check.Must(t, err)
	if b.Generation != 1 || len(b.Labels) > 0 || len(b.OwnerReferences) > 0 {
		t.Errorf("the budget of somebody else was touched: %+v", b)
	}
}

func settled(c *controller) func() error {
	return func() error {
		if !c.Synced() {
			return fmt.Errorf("not synced")
		}
		return nil
	}
}

// TestLeaderDiesAtEachCall ends the leader at its first, second, … call: the API server
// does what it was asked, and the answer is lost. Another replica makes it good. It is over
// when ten leaders in a row have died after everything was written: the order of calls varies.
func TestLeaderDiesAtEachCall(t *testing.T) {
	for n, late := 1, 0; late < 10; n++ {
		if n > 100 {
			t.Fatal("a reconcile that takes more than 100 calls")
		}
		ns := disorder(t)
		lease := fmt.Sprint("each-", n)
		first := &transport{dieAt: n}
		died := make(chan struct{})
		first.died = func() { close(died) }
		a := start(t, func(c *settings) { c.LeaseName, c.Identity = lease, "first"; first.through(c) })
		select {
		case <-died: // after the work come the renewals of the lease
		case <-time.After(check.Limit):
			t.Fatalf("call %d: still alive", n)
		}
		got, err := ours(t.Context(), ns)
		check.Must(t, err)
		if slices.Equal(got, []string{"api-evenkeel max 10%", "web-evenkeel max 10%"}) && !first.diedWriting() {
			late++
		} else {
			late = 0
		}
		a.stop()
		b := start(t, func(c *settings) { c.LeaseName, c.Identity = lease, "second" })
		order(t, ns)
		b.stop()
		check.Must(t, shared.Client.CoreV1().Namespaces().Delete(t.Context(), ns, metav1.DeleteOptions{}))
	}
}

func TestAPIServerRestarts(t *testing.T) {
	c := start(t, nil)
	ns := disorder(t)
	order(t, ns)
	check.Must(t, shared.StopAPIServer(t.Context()))
	check.Must(t, shared.StartAPIServer(t.Context()))
	patch(t, ns, "deployments", "web", `{"spec":{"replicas":1}}`)
	stand(t, ns, "api-evenkeel max 10%")
	patch(t, ns, "deployments", "web", `{"spec":{"replicas":2}}`)
	order(t, ns)
	check.Eventually(t, "caches", settled(c))
}

func TestWatchesAreDropped(t *testing.T) {
	tr := &transport{}
	start(t, tr.through)
	ns := disorder(t)
	order(t, ns)
	for i := range 3 {
		if n := tr.drop(); n == 0 {
			t.Fatal("no watch to drop")
		}
		patch(t, ns, "deployments", "web", fmt.Sprintf(`{"spec":{"replicas":%d}}`, i%2+1))
		if i%2 == 0 {
			stand(t, ns, "api-evenkeel max 10%")
		} else {
			order(t, ns)
		}
	}
	patch(t, ns, "deployments", "web", `{"spec":{"replicas":2}}`)
	order(t, ns)
}

func TestStorms(t *testing.T) {
	for _, status := range []int{409, 429} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			tr := &transport{refuse: 8, status: status}
			start(t, tr.through)
			ns := disorder(t)
			order(t, ns)
			tr.mu.Lock()
			defer tr.mu.Unlock()
			if tr.refuse > 0 {
				t.Errorf("only %d of 8 writes refused", 8-tr.refuse)
			}
		})
	}
}

// TestLeaseClockJumps writes times into the Lease that a clock which is wrong by a day
// would have written.
func TestLeaseClockJumps(t *testing.T) {
	for _, jump := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		t.Run(jump.String(), func(t *testing.T) {
			name := fmt.Sprint("jump-", time.Now().UnixNano())
			one, ghost := int32(1), "ghost"
			then := metav1.NewMicroTime(time.Now().Add(jump))
			_, err := shared.Client.CoordinationV1().Leases("default").Create(t.Context(),
				&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name},
					Spec: coordinationv1.LeaseSpec{HolderIdentity: &ghost, LeaseDurationSeconds: &one, AcquireTime: &then,
						RenewTime: &then}}, metav1.CreateOptions{})
			check.Must(t, err)
			a, b := &transport{}, &transport{}
			start(t, func(c *settings) { c.LeaseName, c.Identity = name, "a"; a.through(c) })
			start(t, func(c *settings) { c.LeaseName, c.Identity = name, "b"; b.through(c) })
			ns := disorder(t)
			order(t, ns)
			lease, err := shared.Client.CoordinationV1().Leases("default").Get(t.Context(), name, metav1.GetOptions{})
			check.Must(t, err)
			lease.Spec.RenewTime = &then
			_, err = shared.Client.CoordinationV1().Leases("default").Update(t.Context(), lease, metav1.UpdateOptions{})
			if err == nil { // else the leader was faster, which it may be
				patch(t, ns, "deployments", "web", `{"spec":{"replicas":1}}`)
				stand(t, ns, "api-evenkeel max 10%")
			}
			if a.writes() > 0 && b.writes() > 0 {
				t.Errorf("both have written: %d and %d", a.writes(), b.writes())
			}
		})
	}
}

func TestOneOfTwoReplicasWrites(t *testing.T) {
	a, b := &transport{}, &transport{}
	lease := fmt.Sprint("two-", time.Now().UnixNano())
	first := start(t, func(c *settings) { c.LeaseName, c.Identity = lease, "a"; a.through(c) })
	ns := disorder(t)
	order(t, ns)
	start(t, func(c *settings) { c.LeaseName, c.Identity = lease, "b"; b.through(c) })
	for i := range 6 {
		patch(t, ns, "deployments", "web", fmt.Sprintf(`{"spec":{"replicas":%d}}`, i%2+1))
		if i%2 == 0 {
			stand(t, ns, "api-evenkeel max 10%")
		} else {
			order(t, ns)
		}
	}
	if a.writes() == 0 || b.writes() > 0 {
		t.Errorf("the leader wrote %d times, the other %d times", a.writes(), b.writes())
	}
	before := a.writes()
	first.stop()
	patch(t, ns, "deployments", "web", `{"spec":{"replicas":1}}`)
	stand(t, ns, "api-evenkeel max 10%")
	if a.writes() != before || b.writes() == 0 {
		t.Errorf("after the change of leaders the first wrote %d times, the second %d times", a.writes()-before, b.writes())
	}
}

// TestTwoInstallationsLeaveEachOtherAlone runs two installations that look after different namespaces.
// Without a label that says whose a budget is, each deletes the other's again and again.
func TestTwoInstallationsLeaveEachOtherAlone(t *testing.T) {
	a, b := &transport{}, &transport{}
	namespaces := map[string]*transport{}
	for team, tr := range map[string]*transport{"a": a, "b": b} {
		ns := namespace(t, nil)
		namespaces[ns] = tr
		patch(t, "", "namespaces", ns, fmt.Sprintf(`{"metadata":{"labels":{"team":%q}}}`, team))
		create(t, ns, deployment("web", 2))
		start(t, func(c *settings) {
			c.Instance, c.NamespaceSelector = "evenkeel-"+team, labels.SelectorFromSet(labels.Set{"team": team})
			tr.through(c)
		})
	}
	for ns := range namespaces {
		stand(t, ns, "web-evenkeel max 10%")
	}
	writes := func() (n int) { // what earlier tests left behind aside
		for ns := range namespaces {
			for _, tr := range []*transport{a, b} {
				n += tr.count("PATCH ", ns, "/poddisruptionbudgets/") + tr.count("DELETE ", ns, "/poddisruptionbudgets/")
			}
		}
		return n
	}
	for range 50 { // 190 writes in ten seconds without the label
		time.Sleep(100 * time.Millisecond)
		if n := writes(); n != 2 {
			t.Fatalf("%d writes for two budgets", n)
		}
	}
}

// TestSomebodyElseIsFaster makes a budget somebody else's in the last moment before we write.
func TestSomebodyElseIsFaster(t *testing.T) {
	t.Run("under the name that we create", func(t *testing.T) {
		ns := namespace(t, nil)
		tr := &transport{before: func() {
			foreignBudget(t, ns, "web-evenkeel", &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}})
		}}
		start(t, tr.through)
		create(t, ns, deployment("web", 2))
		untouched(t, ns, tr, "1")
	})
	t.Run("taking over what we change", func(t *testing.T) {
		ns := namespace(t, nil)
		first := start(t, nil)
		create(t, ns, deployment("web", 2))
		stand(t, ns, "web-evenkeel max 10%")
		first.stop()
		patch(t, ns, "deployments", "web",
			`{"spec":{"replicas":4},"metadata":{"annotations":{"evenkeel.dev/disruption-budget":"maxUnavailable=2"}}}`)
		tr := &transport{before: func() {
			patch(t, ns, "poddisruptionbudgets", "web-evenkeel", `{"metadata":{"labels":null,"ownerReferences":null}}`)
		}}
		start(t, tr.through)
		untouched(t, ns, tr, "10%")
	})
	t.Run("taking over what we delete", func(t *testing.T) {
		ns := namespace(t, nil)
		first := start(t, nil)
		create(t, ns, deployment("web", 2))
		stand(t, ns, "web-evenkeel max 10%")
		first.stop()
		patch(t, ns, "deployments", "web", `{"spec":{"replicas":1}}`)
		tr := &transport{before: func() {
			patch(t, ns, "poddisruptionbudgets", "web-evenkeel", `{"metadata":{"labels":null,"ownerReferences":null}}`)
		}}
		start(t, tr.through)
		untouched(t, ns, tr, "10%")
	})
}

// untouched waits for the first write and a while longer, and checks that web-evenkeel
// is somebody else's and as it was.
func untouched(t *testing.T, ns string, tr *transport, amount string) {
	t.Helper()
	check.Eventually(t, "a write", func() error {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		if tr.answered == 0 {
			return fmt.Errorf("none is answered")
		}
		return nil
	})
	b, err := shared.Client.PolicyV1().PodDisruptionBudgets(ns).Get(t.Context(), "web-evenkeel", metav1.GetOptions{})
	check.Must(t, err)
	if b.Generation != 1 || len(b.Labels) > 0 || len(b.OwnerReferences) > 0 || b.Spec.MaxUnavailable.String() != amount {
		t.Errorf("the budget of somebody else was touched: %+v", b)
	}
}

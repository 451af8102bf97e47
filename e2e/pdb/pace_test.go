package pdb

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/policy"
)

var paced = flag.Int("paced", 200,
	"number of workloads for TestNoEvictionWaitsLongForABudgetOfOurs: 2000 is the whole measurement")

// TestNoEvictionWaitsLongForABudgetOfOurs opts in workloads of two pods, all at once, and changes
// the default over all of them, under a controller manager with its defaults. Meanwhile random pods
// are asked for, twenty times a second, by a client that does not retry. The control writes all
// budgets at once:
//
//	cd e2e && go test ./pdb -run TestNoEvictionWaitsLong -v -timeout 30m -paced 2000
func TestNoEvictionWaitsLongForABudgetOfOurs(t *testing.T) {
	// The set-up makes thousands of pods. What is measured runs with the defaults.
	c, err := cluster.Start(t.Context(),
		cluster.Config{Log: os.Stderr, Flags: map[string][]string{cluster.ControllerManager: cluster.FastControllers()}})
	check.Must(t, err)
	defer func() { check.Must(t, c.Stop()) }()
	_, err = c.AddNodes(t.Context(), *paced/50+2, cluster.NodeSpec{})
	check.Must(t, err)
	p := &paceTest{t: t, cluster: c, namespaces: []string{"shop0", "shop1", "shop2", "shop3"}}
	p.setUp()

	limit := time.Duration(*paced) * time.Second / 20
	for _, arm := range []struct {
		name string
		most int
	}{{"paced", 0}, {"all at once", 1 << 30}} {
		running := p.start(arm.most, policy.Default().DisruptionBudget)
		opted := p.measure(arm.name+", opted in", 1, func() { p.optIn(`"enabled"`) })
		running.stop()
		changed := p.measure(arm.name+", another default", 2, func() {
			running = p.start(arm.most, policy.Budget{Kind: policy.BudgetMaxUnavailable, Value: 1})
		})
		p.optIn("null")
		check.Eventually(t, "no budgets", func() error {
			list, err := c.Client.PolicyV1().PodDisruptionBudgets("").List(t.Context(), metav1.ListOptions{Limit: 1})
			if err == nil && len(list.Items) > 0 {
				err = fmt.Errorf("there are some")
			}
			return err
		})
		running.stop()
		for _, r := range []result{opted, changed} {
			if arm.most > 0 {
				if r.slowest < 2*time.Second || r.longest < 2*time.Second {
					t.Errorf("%s: all at once, a budget waited %v and an eviction %v only, so this shows nothing", r.name,
						r.slowest, r.longest)
				}
				continue
			}
			if r.slowest > 2*time.Second || r.longest > 2*time.Second {
				t.Errorf("%s: a budget waited %v, an eviction %v; allowed: 2 s", r.name, r.slowest, r.longest)
			}
			if r.took > limit*11/10+2*time.Second {
				t.Errorf("%s: in force after %v; the disruption controller's limit allows %v", r.name, r.took, limit)
			}
		}
	}
}

// paceTest is a cluster with many workloads of two pods.
type paceTest struct {
	t          *testing.T
	cluster    *cluster.Cluster
	namespaces []string
}

// pod is a pod, and the namespace/name of its budget.
type pod struct{ namespace, name, budget string }

func (p *paceTest) setUp() {
	t, ctx := p.t, p.t.Context()
	for _, name := range p.namespaces {
		_, err := p.cluster.Client.CoreV1().Namespaces().Create(ctx,
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		check.Must(t, err)
	}
	var group errgroup.Group
	group.SetLimit(8)
	for i := range *paced {
		group.Go(func() error {
			_, err := p.cluster.Client.AppsV1().Deployments(p.namespaces[i%len(p.namespaces)]).Create(ctx,
				deployment(fmt.Sprint("web", i), 2), metav1.CreateOptions{})
			return err
		})
	}
	check.Must(t, group.Wait())
	for deadline := time.Now().Add(10 * time.Minute); ; time.Sleep(time.Second) { // between two looks
		if n := len(p.pods()); n == 2**paced {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("%d pods are ready", n)
		}
	}
	restartControllers(t, p.cluster)
	time.Sleep(2 * time.Second) // for the burst of its rate limit to be full again
}

// pods returns the ready pods.
func (p *paceTest) pods() []pod {
	var found []pod
	for _, ns := range p.namespaces {
		list, err := p.cluster.Client.CoreV1().Pods(ns).List(p.t.Context(), metav1.ListOptions{ResourceVersion: "0"})
		check.Must(p.t, err)
		for i := range list.Items {
			if x := &list.Items[i]; check.Ready(x) {
				found = append(found, pod{ns, x.Name, ns + "/" + x.Labels["app"] + "-evenkeel"})
			}
		}
	}
	return found
}

func (p *paceTest) start(most int, budget policy.Budget) *controller {
	return start(p.t, func(s *settings) {
		s.REST, s.MaxWaiting, s.Base.DisruptionBudget, s.LeaseDuration = p.cluster.RESTConfig(), most, budget, 15*time.Second
	})
}

func (p *paceTest) optIn(label string) {
	for _, ns := range p.namespaces {
		check.Must(p.t,
			p.cluster.Client.CoreV1().RESTClient().Patch("application/merge-patch+json").Resource("namespaces").Name(ns).
				Body(fmt.Appendf(nil, `{"metadata":{"labels":{"evenkeel.dev/inject":%s}}}`, label)).Do(p.t.Context()).Error())
	}
}

// result is what was measured: how long the slowest budget waited for the disruption controller,
// how long the unluckiest eviction would have had to wait, how many of how many were refused, and
// when all budgets were in force.
type result struct {
	name                   string
	slowest, longest, took time.Duration
	refused, asked         int
}

// measure follows the budgets from begin on until all are in force at a generation, and evicts
// random pods meanwhile, as a dry run.
func (p *paceTest) measure(name string, generation int64, begin func()) result {
	t := p.t
	r := result{name: name}
	pods := p.pods()
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(*paced)*time.Second/5+3*time.Minute)
	defer cancel()
	w, err := p.cluster.Client.PolicyV1().PodDisruptionBudgets("").Watch(ctx, metav1.ListOptions{})
	check.Must(t, err)
	defer func() { w.Stop() }()

	type refusal struct {
		budget string
		at     time.Time
	}
	var refusals []refusal
	var group sync.WaitGroup
	evicting, stop := context.WithCancel(ctx)
	defer stop()
	group.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-evicting.Done():
				return
			case <-tick.C:
			}
			x := pods[rand.IntN(len(pods))]
			e := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: x.namespace, Name: x.name},
				DeleteOptions: &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}}
			e.APIVersion, e.Kind = "policy/v1", "Eviction"
			at := time.Now()
			var code int
			err := p.cluster.Client.CoreV1().RESTClient().Post().Namespace(x.namespace).Resource("pods").Name(x.name).
				SubResource("eviction").Body(e).MaxRetries(0).Do(ctx).StatusCode(&code).Error()
			r.asked++
			switch {
			case code == http.StatusTooManyRequests:
				refusals = append(refusals, refusal{x.budget, at})
			case err != nil && evicting.Err() == nil:
				t.Errorf("evict: %v", err)
			}
		}
	})

	begin()
	written, inForce := map[string]time.Time{}, map[string]time.Time{}
	var first time.Time
	for len(inForce) < *paced {
		event, ok := <-w.ResultChan()
		if !ok && ctx.Err() == nil { // the API server ends a watch whose client is slow
			w, err = p.cluster.Client.PolicyV1().PodDisruptionBudgets("").Watch(ctx, metav1.ListOptions{})
			check.Must(t, err)
			continue
		}
		if !ok {
			t.Fatalf("%s: %d of %d budgets in force, %d written", name, len(inForce), *paced, len(written))
		}
		b, ok := event.Object.(*policyv1.PodDisruptionBudget)
		if !ok || b.Generation != generation {
			continue
		}
		key, now := b.Namespace+"/"+b.Name, time.Now()
		if first.IsZero() {
			first = now
		}
		if _, ok := written[key]; !ok {
			written[key] = now
		}
		if _, ok := inForce[key]; !ok && b.Status.ObservedGeneration >= generation {
			inForce[key] = now
			r.slowest = max(r.slowest, now.Sub(written[key]))
		}
	}
	r.took = time.Since(first)
	stop()
	group.Wait()
	r.refused = len(refusals)
	for _, x := range refusals {
		r.longest = max(r.longest, inForce[x.budget].Sub(x.at))
	}
	t.Logf("%s: %d budgets in force after %.1f s, the slowest waited %.2f s; %d of %d evictions refused, for %.2f "+
		"s at most",
		name, *paced, r.took.Seconds(), r.slowest.Seconds(), r.refused, r.asked, r.longest.Seconds())
	return r
}

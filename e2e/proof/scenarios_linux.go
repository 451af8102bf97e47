package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/evenkeel/evenkeel/e2e/installation"
	"github.com/evenkeel/evenkeel/policy"
)

// A run is one repetition of all scenarios.
type run struct {
	*env
	repetition int
	targets    []target // the fleet: every kind of server on both sides
	outcomes   []*outcome
	voided     []*outcome // runs that showed nothing, since the machine was too busy
}

// A step is a scenario and what it does.
type step struct {
	scenario
	short  bool // part of the short form
	beside bool // has servers of its own and leaves the nodes alone, so that it runs at the same time as its neighbours that do, too
	do     func(*run, context.Context, scenario) error
}

// steps returns the scenarios in the order in which they run: those that nothing may fail in first, for where the time ends, and by
// the fleet's replicas, so that it changes them rarely.
func steps() []step {
	return []step{
		{scenario{ID: "1a", Title: "Rolling update, 2 replicas"}, false, false, rollingAt(2)},
		{scenario{ID: "2a", Title: "Scaled by hand, from 2 to 6 replicas and back"}, false, false, (*run).scaleByHand},
		{scenario{ID: "2b", Title: "Scaled by a HorizontalPodAutoscaler, from 2 to 5 replicas and back"}, false, false, (*run).scaleByMetric},
		{scenario{ID: "5a", Title: "One node drained"}, true, false, drainOf(1)},
		{scenario{ID: "5b", Title: "Two nodes drained at once"}, false, false, drainOf(2)},
		{scenario{ID: "1b", Title: "Rolling update, 3 replicas"}, true, false, rollingAt(3)},
		{scenario{ID: "3", Title: "One pod of each deleted by hand, three times"}, false, false, (*run).deletePods},
		{scenario{ID: "4", Title: "Resources changed, then every pod evicted in turn"}, false, false, (*run).vertical},
		{scenario{ID: "5c", Title: "All nodes drained one after another"}, false, false, (*run).upgradeNodes},
		{scenario{ID: "8", Title: "Rolling update while evenkeel is upgraded itself"}, false, false, (*run).upgradeEvenkeel},
		{scenario{ID: "1c", Title: "Rolling update, 10 replicas"}, false, false, rollingAt(10)},
		{scenario{ID: "6", Title: "A node, and with it its zone, lost without warning", Clients: []string{newConnection, http1}}, false, false, (*run).loseNode},
		{scenario{ID: "7", Title: "Scale-out from 2 to 4 replicas under persistent connections", Clients: []string{http1, http2, grpcClient}}, false, true, (*run).scaleOut},
		{scenario{ID: "9a", Title: "Wrong: a preStop hook longer than the grace period"}, false, true, (*run).longHook},
		{scenario{ID: "9b", Title: "Wrong: minAvailable as high as the replicas, and a drain"}, false, true, (*run).tightBudget},
		{scenario{ID: "9c", Title: "Wrong: required anti-affinity with as many replicas as nodes"}, false, true, (*run).tightAffinity},
	}
}

// observe runs an operation under the load of the fleet.
func (r *run) observe(ctx context.Context, s scenario, operate func(context.Context, *outcome) error) error {
	_, err := r.observeOn(ctx, s, r.targets, operate)
	return err
}

func (r *run) observeOn(ctx context.Context, s scenario, targets []target, operate func(context.Context, *outcome) error) (*outcome, error) {
	o, err := r.env.observe(ctx, s, r.repetition, targets, operate)
	if err == nil {
		r.outcomes = append(r.outcomes, o)
	}
	return o, err
}

// settle gives the fleet a number of replicas and waits until both sides have them.
func (r *run) settle(ctx context.Context, replicas int32) error {
	err := r.update(ctx, serverKinds(), func(d *appsv1.Deployment) { d.Spec.Replicas = &replicas })
	if err != nil {
		return err
	}
	return r.waitComplete(ctx, nil, serverKinds()...)
}

func rollingAt(replicas int32) func(*run, context.Context, scenario) error {
	return func(r *run, ctx context.Context, s scenario) error {
		if err := r.settle(ctx, replicas); err != nil {
			return err
		}
		return r.observe(ctx, s, r.roll)
	}
}

// roll updates the fleet to another image.
func (r *run) roll(ctx context.Context, o *outcome) error {
	if err := r.update(ctx, serverKinds(), otherImage); err != nil {
		return err
	}
	return r.waitComplete(ctx, o, serverKinds()...)
}

func (r *run) scaleByHand(ctx context.Context, s scenario) error {
	if err := r.settle(ctx, 2); err != nil {
		return err
	}
	return r.observe(ctx, s, func(ctx context.Context, o *outcome) error {
		if err := r.settle(ctx, 6); err != nil {
			return err
		}
		two := int32(2)
		if err := r.update(ctx, serverKinds(), func(d *appsv1.Deployment) { d.Spec.Replicas = &two }); err != nil {
			return err
		}
		return r.waitComplete(ctx, o, serverKinds()...)
	})
}

func (r *run) deletePods(ctx context.Context, s scenario) error {
	if err := r.settle(ctx, 3); err != nil {
		return err
	}
	return r.observe(ctx, s, func(ctx context.Context, o *outcome) error {
		for range 3 {
			for _, side := range sides() {
				for _, kind := range serverKinds() {
					pods, err := r.readyPods(ctx, side, kind)
					if err != nil {
						return err
					}
					if len(pods) == 0 {
						continue
					}
					err = r.Client.CoreV1().Pods(side).Delete(ctx, pods[rand.IntN(len(pods))], metav1.DeleteOptions{})
					if err != nil && !apierrors.IsNotFound(err) {
						return err
					}
				}
			}
			if err := r.waitAvailable(ctx, serverKinds()...); err != nil {
				return err
			}
		}
		return r.waitComplete(ctx, o, serverKinds()...)
	})
}

// readyPods returns the names of pods that are ready and not about to go.
func (r *run) readyPods(ctx context.Context, side, kind string) ([]string, error) {
	list, err := r.Client.CoreV1().Pods(side).List(ctx, metav1.ListOptions{LabelSelector: "app=" + kind})
	if err != nil {
		return nil, err
	}
	var names []string
	for i := range list.Items {
		if phaseOf(&list.Items[i]) == ready {
			names = append(names, list.Items[i].Name)
		}
	}
	return names, nil
}

// vertical changes what the containers ask for, which rolls, and then evicts one pod after the other without waiting for its
// successor, as the Vertical Pod Autoscaler's updater does when it may evict half of the replicas.
func (r *run) vertical(ctx context.Context, s scenario) error {
	if err := r.settle(ctx, 3); err != nil {
		return err
	}
	return r.observe(ctx, s, func(ctx context.Context, o *outcome) error {
		err := r.update(ctx, serverKinds(), func(d *appsv1.Deployment) {
			requests := d.Spec.Template.Spec.Containers[0].Resources.Requests
			more := requests[corev1.ResourceCPU]
			more.Add(resource.MustParse("1m"))
			requests[corev1.ResourceCPU] = more
		})
		if err != nil {
			return err
		}
		if err := r.waitComplete(ctx, nil, serverKinds()...); err != nil {
			return err
		}
		var wait sync.WaitGroup
		failed := make(chan error, 2*len(serverKinds()))
		for _, side := range sides() {
			for _, kind := range serverKinds() {
				wait.Go(func() { failed <- r.evictAll(ctx, side, kind) })
			}
		}
		wait.Wait()
		for range 2 * len(serverKinds()) {
			err = errors.Join(err, <-failed)
		}
		if err != nil {
			return err
		}
		return r.waitComplete(ctx, o, serverKinds()...)
	})
}

// evictAll evicts the pods that there are, one after the other, and tries again where a budget says no.
func (r *run) evictAll(ctx context.Context, side, kind string) error {
	pods, err := r.readyPods(ctx, side, kind)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		err := r.wait(ctx, "an eviction", func() error {
			err := r.Client.CoreV1().Pods(side).EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod}})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
	return nil
}

// drain drains nodes at once, as kubectl does, and waits until they are empty.
func (r *run) drain(ctx context.Context, names ...string) error {
	return r.kubectl(ctx, append([]string{"drain", "--delete-emptydir-data", "--ignore-daemonsets", "--timeout=4m"}, names...)...)
}

func (r *run) uncordon(ctx context.Context, names ...string) error {
	return r.kubectl(ctx, append([]string{"uncordon"}, names...)...)
}

func drainOf(count int) func(*run, context.Context, scenario) error {
	return func(r *run, ctx context.Context, s scenario) error {
		if err := r.settle(ctx, 2); err != nil {
			return err
		}
		// The nodes that most replicas are on, of those that the drain hits hardest.
		names, err := r.busiest(ctx, count)
		if err != nil {
			return err
		}
		err = r.observe(ctx, s, func(ctx context.Context, o *outcome) error {
			var wait sync.WaitGroup
			failed := make(chan error, count)
			for _, name := range names { // each with a kubectl of its own, as two people would
				wait.Go(func() { failed <- r.drain(ctx, name) })
			}
			wait.Wait()
			var err error
			for range count {
				err = errors.Join(err, <-failed)
			}
			if err != nil {
				return err
			}
			return r.waitComplete(ctx, o, serverKinds()...)
		})
		return errors.Join(err, r.uncordon(ctx, names...))
	}
}

// busiest returns the nodes that the most pods of the fleet run on.
func (r *run) busiest(ctx context.Context, count int) ([]string, error) {
	on := map[string]int{}
	for _, side := range sides() {
		pods, err := r.Client.CoreV1().Pods(side).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		for _, pod := range pods.Items {
			on[pod.Spec.NodeName]++
		}
	}
	names := byCount(on)
	return names[:min(count, len(names))], nil
}

// upgradeNodes drains each node and takes it back before the next, as the upgrade of a cluster does.
func (r *run) upgradeNodes(ctx context.Context, s scenario) error {
	if err := r.settle(ctx, 3); err != nil {
		return err
	}
	return r.observe(ctx, s, func(ctx context.Context, o *outcome) error {
		for _, name := range r.Names {
			if err := r.drain(ctx, name); err != nil {
				return errors.Join(err, r.uncordon(ctx, name))
			}
			if err := r.uncordon(ctx, name); err != nil {
				return err
			}
		}
		return r.waitComplete(ctx, o, serverKinds()...)
	})
}

// upgradeEvenkeel rolls the fleet while evenkeel's own Deployment gets another image.
func (r *run) upgradeEvenkeel(ctx context.Context, s scenario) error {
	if err := r.settle(ctx, 3); err != nil {
		return err
	}
	return r.observe(ctx, s, func(ctx context.Context, o *outcome) error {
		err := r.kubectl(ctx, "--namespace="+installation.Namespace, "set", "image", "deployment/evenkeel",
			fmt.Sprintf("evenkeel=%s:v%d", evenkeelImage, 1+r.repetition%2))
		if err != nil {
			return err
		}
		if err := r.roll(ctx, o); err != nil {
			return err
		}
		if err := r.kubectl(ctx, "--namespace="+installation.Namespace, "rollout", "status", "deployment/evenkeel", "--timeout=3m"); err != nil {
			return err
		}
		missing, err := r.undefaulted(ctx)
		if err != nil {
			return err
		}
		o.Notes = append(o.Notes, fmt.Sprintf("%d of the pods made meanwhile in the namespace with evenkeel went without its defaults", missing))
		return nil
	})
}

// undefaulted counts pods of the side with evenkeel that it added nothing to.
func (r *run) undefaulted(ctx context.Context) (int, error) {
	pods, err := r.Client.CoreV1().Pods(with).List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	missing := 0
	for _, pod := range pods.Items {
		if pod.Annotations[policy.InjectedAnnotation] == "" {
			missing++
		}
	}
	return missing, nil
}

// own runs a scenario on servers of its own, which it removes afterwards.
func (r *run) own(ctx context.Context, make func(side string) []*appsv1.Deployment, do func(targets []target, names []string) error) (err error) {
	var targets []target
	names := map[string]bool{}
	defer func() {
		err = errors.Join(err, r.remove(ctx, slices.Collect(maps.Keys(names))...))
	}()
	for _, side := range sides() {
		for _, d := range make(side) {
			t, err := r.create(ctx, side, d)
			if err != nil {
				return err
			}
			targets = append(targets, t)
			names[d.Name] = true
		}
	}
	list := slices.Collect(maps.Keys(names))
	if err := r.waitComplete(ctx, nil, list...); err != nil {
		return err
	}
	return do(targets, list)
}

// scaleOut compares a server without limits (on the side without) with one that recycles its connections (with).
func (r *run) scaleOut(ctx context.Context, s scenario) error {
	const age = 8 * time.Second
	return r.own(ctx, func(side string) []*appsv1.Deployment {
		d := named(deployment(drains, 2), "scaled")
		if side == with {
			d.Spec.Template.Spec.Containers[0].Args = append(d.Spec.Template.Spec.Containers[0].Args, "-max-age="+age.String())
		}
		return []*appsv1.Deployment{d}
	}, func(targets []target, names []string) error {
		s.Connections, s.Rate = 64, 64
		o, err := r.observeOn(ctx, s, targets, func(ctx context.Context, o *outcome) error {
			four := int32(4)
			if err := r.update(ctx, names, func(d *appsv1.Deployment) { d.Spec.Replicas = &four }); err != nil {
				return err
			}
			if err := r.waitComplete(ctx, o, names...); err != nil {
				return err
			}
			o.Settled = time.Now().Add(age)
			return pause(ctx, 4*age)
		})
		if err != nil {
			return err
		}
		for _, side := range sides() {
			o.Notes = append(o.Notes, fmt.Sprintf("%s recycling, %s after the new pods were ready their shares are %s (even is 25 %%)", side, age, o.newShares(side)))
		}
		return nil
	})
}

// longHook has a preStop hook that takes longer than the grace period.
func (r *run) longHook(ctx context.Context, s scenario) error {
	return r.own(ctx, func(string) []*appsv1.Deployment {
		d := named(deployment(atOnce, 3), "long-hook")
		grace := int64(5)
		d.Spec.Template.Spec.TerminationGracePeriodSeconds = &grace
		d.Spec.Template.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{
			HTTPGet: &corev1.HTTPGetAction{Path: "/sleep?for=30s", Port: intstr.FromString("http")}}}
		return []*appsv1.Deployment{d}
	}, func(targets []target, names []string) error {
		_, err := r.observeOn(ctx, s, targets, func(ctx context.Context, o *outcome) error {
			if err := r.update(ctx, names, otherImage); err != nil {
				return err
			}
			return r.waitComplete(ctx, o, names...)
		})
		return err
	})
}

// tightBudget wants a budget that leaves nothing to evict: without evenkeel as an object, with it as the annotation.
func (r *run) tightBudget(ctx context.Context, s scenario) error {
	return r.own(ctx, func(side string) []*appsv1.Deployment {
		d := named(deployment(drains, 2), "tight-budget")
		if side == with {
			d.Annotations = map[string]string{policy.Prefix + policy.SettingDisruptionBudget: "minAvailable=2"}
		}
		return []*appsv1.Deployment{d}
	}, func(targets []target, names []string) (err error) {
		two := intstr.FromInt32(2)
		budgets := r.Client.PolicyV1().PodDisruptionBudgets(without)
		_, err = budgets.Create(ctx, &policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Name: names[0]},
			Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &two, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": names[0]}}},
		}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, budgets.Delete(ctx, names[0], metav1.DeleteOptions{})) }()
		_, err = r.observeOn(ctx, s, targets, func(ctx context.Context, o *outcome) error {
			for _, side := range sides() {
				pods, err := r.readyPods(ctx, side, names[0])
				if err != nil {
					return err
				}
				refused, began := 0, time.Now()
				for _, pod := range pods {
					for try := 0; ; try++ {
						err := r.Client.CoreV1().Pods(side).EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod}})
						if err == nil {
							break
						}
						if !apierrors.IsTooManyRequests(err) {
							return err
						}
						if try == 30 {
							refused++
							break
						}
						if err := pause(ctx, 500*time.Millisecond); err != nil {
							return err
						}
					}
				}
				o.Took[side] = time.Since(began)
				o.Notes = append(o.Notes, fmt.Sprintf("%s evenkeel, %d of %d evictions were still refused after 15 s", side, refused, len(pods)))
			}
			return r.waitAvailable(ctx, names...)
		})
		return err
	})
}

// tightAffinity wants each replica on a node of its own, with as many replicas as nodes, and rolls: without evenkeel as the
// term that people write, with it as the annotation.
func (r *run) tightAffinity(ctx context.Context, s scenario) error {
	const limit = 45 * time.Second // a rolling update of three replicas takes some 25 s
	return r.own(ctx, func(side string) []*appsv1.Deployment {
		d := named(deployment(drains, 3), "tight-affinity")
		if side == with {
			d.Annotations = map[string]string{policy.Prefix + policy.SettingAntiAffinity: "required"}
		} else {
			d.Spec.Template.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: corev1.LabelHostname, LabelSelector: d.Spec.Selector}}}}
		}
		return []*appsv1.Deployment{d}
	}, func(targets []target, names []string) error {
		_, err := r.observeOn(ctx, s, targets, func(ctx context.Context, o *outcome) error {
			began := time.Now()
			if err := r.update(ctx, names, otherImage); err != nil {
				return err
			}
			done := map[string]bool{}
			for time.Since(began) < limit && len(done) < 2 {
				for _, side := range sides() {
					if !done[side] && r.complete(ctx, side, names...) == nil {
						done[side], o.Took[side] = true, time.Since(began)
					}
				}
				if err := pause(ctx, 250*time.Millisecond); err != nil {
					return err
				}
			}
			for _, side := range sides() {
				end := fmt.Sprintf("had not ended after %.0f s", limit.Seconds())
				if done[side] {
					end = fmt.Sprintf("ended after %.0f s", o.Took[side].Seconds())
				}
				o.Notes = append(o.Notes, side+" evenkeel, the rolling update "+end)
			}
			return nil
		})
		return err
	})
}

// loseNode loses the node that the scheduler prefers for everything because the others are four fifths full.
func (r *run) loseNode(ctx context.Context, s scenario) (err error) {
	const workloads = 8
	if err := r.settle(ctx, 0); err != nil {
		return err
	}
	empty := r.Names[len(r.Names)-1]
	if err := r.fill(ctx, r.Names[:len(r.Names)-1]); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.unfill(ctx)) }()
	return r.own(ctx, func(string) []*appsv1.Deployment {
		var list []*appsv1.Deployment
		for i := range workloads {
			list = append(list, named(deployment(drains, 2), fmt.Sprintf("w%d", i+1)))
		}
		return list
	}, func(targets []target, names []string) error {
		lost := map[string]int{}
		for _, side := range sides() {
			for _, name := range names {
				pods, err := r.Client.CoreV1().Pods(side).List(ctx, metav1.ListOptions{LabelSelector: "app=" + name})
				if err != nil {
					return err
				}
				if !slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool { return p.Spec.NodeName != empty }) {
					lost[side]++
				}
			}
		}
		restored := false
		defer func() {
			if !restored {
				err = errors.Join(err, r.Restore(ctx, empty))
			}
		}()
		var at time.Time
		s.Rate = 5
		o, err := r.observeOn(ctx, s, targets, func(ctx context.Context, o *outcome) error {
			at = time.Now()
			r.Lose(empty)
			if err := pause(ctx, 65*time.Second); err != nil { // the node counts as lost after 50 s
				return err
			}
			restored = true
			if err := r.Restore(ctx, empty); err != nil {
				return err
			}
			return r.waitAvailable(ctx, names...)
		})
		if err != nil {
			return err
		}
		for _, side := range sides() {
			o.Notes = append(o.Notes, fmt.Sprintf("%s evenkeel, %d of %d workloads with 2 replicas had both on the lost node; the last request failed %.0f s after the loss",
				side, lost[side], workloads, o.lastFailure(side).Sub(at).Seconds()))
		}
		return nil
	})
}

// fill takes four fifths of nodes for pods that nobody talks to.
func (r *run) fill(ctx context.Context, names []string) error {
	for _, name := range names {
		node, err := r.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		filler := container("filler")
		for _, what := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			allocatable := node.Status.Allocatable[what]
			filler.Resources.Requests[what] = *resource.NewMilliQuantity(allocatable.MilliValue()/5*4-200, resource.DecimalSI)
		}
		_, err = r.Client.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "filler-" + name, Labels: map[string]string{"app": "filler"}},
			Spec:       corev1.PodSpec{NodeName: name, Containers: []corev1.Container{filler}},
		}, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("fill node %s: %w", name, err)
		}
	}
	return nil
}

func (r *run) unfill(ctx context.Context) error {
	now := int64(0)
	return r.Client.CoreV1().Pods(metav1.NamespaceDefault).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now},
		metav1.ListOptions{LabelSelector: "app=filler"})
}

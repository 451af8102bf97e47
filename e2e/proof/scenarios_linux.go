package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/evenkeel/evenkeel/e2e/installation"
	"github.com/evenkeel/evenkeel/e2e/proof/load"
	"github.com/evenkeel/evenkeel/e2e/proof/report"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
)

// A run is one repetition of all scenarios.
type run struct {
	*env
	repetition int
	targets    []load.Target // the fleet: every kind of server on both sides
	outcomes   []*report.Outcome
	voided     []*report.Outcome // runs that showed nothing, since the machine was too busy
}

// A step is a scenario and what it does.
type step struct {
	report.Scenario
	short bool // part of the short form
	// has servers of its own and leaves the nodes alone, so that it runs at the same time as its neighbours that do, too
	beside bool
	do     func(*run, context.Context, report.Scenario) error
}

// steps returns the scenarios in the order in which they run: those that nothing may fail in first,
// for where the time ends, and by the fleet's replicas, so that it changes them rarely.
func steps() []step {
	return []step{
		{report.Scenario{ID: "1a", Title: "Rolling update, 2 replicas"}, false, false, rollingAt(2)},
		{report.Scenario{ID: "2a", Title: "Scaled by hand, from 2 to 6 replicas and back"}, false, false, (*run).scaleByHand},
		{report.Scenario{ID: "2b", Title: "Scaled by a HorizontalPodAutoscaler, from 2 to 5 replicas and back"}, false, false,
			(*run).scaleByMetric},
		{report.Scenario{ID: "5a", Title: "One node drained"}, true, false, drainOf(1)},
		{report.Scenario{ID: "5b", Title: "Two nodes drained at once"}, false, false, drainOf(2)},
		{report.Scenario{ID: "1b", Title: "Rolling update, 3 replicas"}, true, false, rollingAt(3)},
		{report.Scenario{ID: "1e", Title: "A setting changed and rolled out, and taken back (with: pre-stop-sleep)"}, false,
			false, (*run).changeSetting},
		{report.Scenario{ID: "1f", Title: "Rolling update and kubectl rollout undo"}, false, false, (*run).undo},
		{report.Scenario{ID: "3", Title: "One pod of each deleted by hand, three times"}, false, false, (*run).deletePods},
		{report.Scenario{ID: "4", Title: "Resources changed, then every pod evicted as VPA's updater does"}, false, false,
			(*run).vertical},
		{report.Scenario{ID: "5c", Title: "All nodes drained one after another"}, false, false, (*run).upgradeNodes},
		{report.Scenario{ID: "5d", Title: "Single replicas, all nodes drained one after another (with: drain: surge)"}, false,
			false, (*run).drainSingles},
		{report.Scenario{ID: "8", Title: "Rolling update while evenkeel is upgraded itself"}, false, false,
			(*run).upgradeEvenkeel},
		{report.Scenario{ID: "1c", Title: "Rolling update, 10 replicas"}, false, false, rollingAt(10)},
		{report.Scenario{ID: "6", Title: "A node, and with it its zone, lost without warning for 65 s",
			Clients: []string{load.NewConnection, load.HTTP1}}, false, false, (*run).loseNode},
		{report.Scenario{ID: "6b", Title: "Single replicas, and a node lost for 150 s (with: node-loss: 30s)",
			Clients: []string{load.NewConnection, load.HTTP1}}, false, false, (*run).loseForGood},
		{report.Scenario{ID: "1d", Title: "Rolling update of servers that end at once, without and with recycling"}, false,
			false, (*run).rollAtOnce},
		{report.Scenario{ID: "7", Title: "Scale-out from 2 to 4 replicas under persistent connections",
			Clients: []string{load.HTTP1, load.HTTP2, load.GRPC}}, false, true, (*run).scaleOut},
		{report.Scenario{ID: "9a", Title: "Wrong: a preStop hook longer than the grace period"}, false, true,
			(*run).longHook},
		{report.Scenario{ID: "9b", Title: "Wrong: minAvailable as high as the replicas, and a drain (with: as evenkeel's " +
			"annotation)"}, false, true, (*run).tightBudget},
		{report.Scenario{ID: "9c", Title: "Wrong: required anti-affinity with as many replicas as nodes (with: as " +
			"evenkeel's annotation)"}, false, true, (*run).tightAffinity},
		{report.Scenario{ID: "9d", Title: "Wrong: a declared port that nobody opens, opted in, drained and restarted"}, false,
			false, (*run).wrongProbe},
	}
}

// observe runs an operation under the load of the fleet.
func (r *run) observe(ctx context.Context, s report.Scenario,
	operate func(context.Context, *report.Outcome) error) error {
	_, err := r.observeOn(ctx, s, r.targets, operate)
	return err
}

func (r *run) observeOn(ctx context.Context, s report.Scenario, targets []load.Target,
	operate func(context.Context, *report.Outcome) error) (*report.Outcome, error) {
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

func rollingAt(replicas int32) func(*run, context.Context, report.Scenario) error {
	return func(r *run, ctx context.Context, s report.Scenario) error {
		if err := r.settle(ctx, replicas); err != nil {
			return err
		}
		return r.observe(ctx, s, r.roll)
	}
}

// roll updates the fleet to another image.
func (r *run) roll(ctx context.Context, o *report.Outcome) error {
	if err := r.update(ctx, serverKinds(), otherImage); err != nil {
		return err
	}
	return r.waitComplete(ctx, o, serverKinds()...)
}

// changeSetting sets the sleep of each workload to 15 s and restarts it, and takes that back. evenkeel has to have
// followed both times.
func (r *run) changeSetting(ctx context.Context, s report.Scenario) error {
	if err := r.settle(ctx, 3); err != nil {
		return err
	}
	const setting = policy.Prefix + policy.SettingPreStopSleep
	restart := func(ctx context.Context, o *report.Outcome, value string, want int64) error {
		at := time.Now().Format(time.RFC3339Nano)
		err := r.update(ctx, serverKinds(), func(d *appsv1.Deployment) {
			delete(d.Annotations, setting)
			if value != "" {
				metav1.SetMetaDataAnnotation(&d.ObjectMeta, setting, value)
			}
			metav1.SetMetaDataAnnotation(&d.Spec.Template.ObjectMeta, "kubectl.kubernetes.io/restartedAt", at)
		})
		if err != nil {
			return err
		}
		if err := r.waitComplete(ctx, o, serverKinds()...); err != nil {
			return err
		}
		for _, kind := range serverKinds() {
			d, err := r.Client.AppsV1().Deployments(report.With).Get(ctx, kind, metav1.GetOptions{})
			if err != nil {
				return err
			}
			hook := d.Spec.Template.Spec.Containers[0].Lifecycle
			if hook == nil || hook.PreStop == nil || hook.PreStop.Sleep == nil || hook.PreStop.Sleep.Seconds != want {
				return fmt.Errorf("%s doesn't sleep for %d s after a restart", kind, want)
			}
		}
		return nil
	}
	return r.observe(ctx, s, func(ctx context.Context, o *report.Outcome) error {
		if err := restart(ctx, nil, "15s", 15); err != nil {
			return err
		}
		return restart(ctx, o, "", 10)
	})
}

// undo updates the fleet and goes back: the pod templates are then what they were.
func (r *run) undo(ctx context.Context, s report.Scenario) error {
	if err := r.settle(ctx, 3); err != nil {
		return err
	}
	templates := func() (map[string]corev1.PodTemplateSpec, error) {
		all := map[string]corev1.PodTemplateSpec{}
		for _, side := range report.Sides() {
			for _, kind := range serverKinds() {
				d, err := r.Client.AppsV1().Deployments(side).Get(ctx, kind, metav1.GetOptions{})
				if err != nil {
					return nil, err
				}
				all[side+" "+kind] = d.Spec.Template
			}
		}
		return all, nil
	}
	before, err := templates()
	if err != nil {
		return err
	}
	return r.observe(ctx, s, func(ctx context.Context, o *report.Outcome) error {
		if err := r.roll(ctx, nil); err != nil {
			return err
		}
		o.Marks = append(o.Marks, report.Mark{At: time.Now(), Text: "undo"})
		for _, side := range report.Sides() {
			for _, kind := range serverKinds() {
				if err := r.kubectl(ctx, "--namespace="+side, "rollout", "undo", "deployment/"+kind); err != nil {
					return err
				}
			}
		}
		if err := r.waitComplete(ctx, o, serverKinds()...); err != nil {
			return err
		}
		after, err := templates()
		if err != nil {
			return err
		}
		for name, template := range before {
			if !equality.Semantic.DeepEqual(template, after[name]) {
				return fmt.Errorf("%s isn't what it was after kubectl rollout undo", name)
			}
		}
		return nil
	})
}

func (r *run) scaleByHand(ctx context.Context, s report.Scenario) error {
	if err := r.settle(ctx, 2); err != nil {
		return err
	}
	return r.observe(ctx, s, func(ctx context.Context, o *report.Outcome) error {
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

func (r *run) deletePods(ctx context.Context, s report.Scenario) error {
	if err := r.settle(ctx, 3); err != nil {
		return err
	}
	return r.observe(ctx, s, func(ctx context.Context, o *report.Outcome) error {
		for range 3 {
			for _, side := range report.Sides() {
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
		if phaseOf(&list.Items[i]) == report.Ready {
			names = append(names, list.Items[i].Name)
		}
	}
	return names, nil
}

// vertical changes what the containers ask for, which rolls, and then evicts all pods as the
// Vertical Pod Autoscaler's updater does.
func (r *run) vertical(ctx context.Context, s report.Scenario) error {
	if err := r.settle(ctx, 3); err != nil {
		return err
	}
	return r.observe(ctx, s, func(ctx context.Context, o *report.Outcome) error {
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
		o.Marks = append(o.Marks, report.Mark{At: time.Now(), Text: "evictions"})
		var wait sync.WaitGroup
		failed := make(chan error, 2*len(serverKinds()))
		for _, side := range report.Sides() {
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

// evictAll evicts the pods that there are in rounds, in each as many as evictable says, and passes
// over what a budget refuses until the next one. The updater's rounds are a minute apart by default
// (--updater-interval), these ten seconds.
func (r *run) evictAll(ctx context.Context, side, kind string) error {
	d, err := r.Client.AppsV1().Deployments(side).Get(ctx, kind, metav1.GetOptions{})
	if err != nil {
		return err
	}
	old, err := r.readyPods(ctx, side, kind)
	if err != nil {
		return err
	}
	for range 30 {
		pods, err := r.Client.CoreV1().Pods(side).List(ctx, metav1.ListOptions{LabelSelector: "app=" + kind})
		if err != nil {
			return err
		}
		var left []string
		running, evicted := 0, 0
		for _, pod := range pods.Items {
			if pod.DeletionTimestamp != nil {
				continue
			}
			if pod.Status.Phase == corev1.PodRunning {
				running++
			}
			if slices.Contains(old, pod.Name) {
				left = append(left, pod.Name)
			}
		}
		for _, name := range left {
			if !evictable(int(*d.Spec.Replicas), running, evicted) {
				break
			}
			switch err := r.Client.CoreV1().Pods(side).EvictV1(ctx,
				&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name}}); {
			case err == nil:
				evicted++
			case !apierrors.IsTooManyRequests(err):
				return fmt.Errorf("evict %s %s: %w", side, name, err)
			}
		}
		if evicted == len(left) {
			return nil
		}
		if err := pause(ctx, 10*time.Second); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s %s still has pods to evict after 30 rounds", side, kind)
}

// evictable says whether the updater evicts one more pod of a workload in a round (isPodDisruptable
// of vertical-pod-autoscaler's pkg/updater/restriction): as long as more than half of the replicas
// run, and one where half of them are none. It doesn't ask whether they are ready.
func evictable(replicas, running, evicted int) bool {
	tolerated := replicas / 2 // --eviction-tolerance is 0.5
	return running-evicted > replicas-tolerated || tolerated == 0 && running == replicas && evicted == 0
}

// drain drains nodes at once, as kubectl does, and waits until they are empty.
func (r *run) drain(ctx context.Context, names ...string) error {
	return r.kubectl(ctx, append([]string{"drain", "--delete-emptydir-data", "--ignore-daemonsets", "--timeout=4m"},
		names...)...)
}

func (r *run) uncordon(ctx context.Context, names ...string) error {
	return r.kubectl(ctx, append([]string{"uncordon"}, names...)...)
}

func drainOf(count int) func(*run, context.Context, report.Scenario) error {
	return func(r *run, ctx context.Context, s report.Scenario) error {
		if err := r.settle(ctx, 2); err != nil {
			return err
		}
		// The nodes that most replicas are on, of those that the drain hits hardest.
		names, err := r.busiest(ctx, count)
		if err != nil {
			return err
		}
		err = r.observe(ctx, s, func(ctx context.Context, o *report.Outcome) error {
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
			if err := r.waitComplete(ctx, nil, serverKinds()...); err != nil {
				return err
			}
			o.Took = report.Left(r.pods.between(o.Started, time.Now()), o.Started, time.Now(), names...)
			return nil
		})
		return errors.Join(err, r.uncordon(ctx, names...))
	}
}

// busiest returns the nodes that the most pods of the fleet run on.
func (r *run) busiest(ctx context.Context, count int) ([]string, error) {
	on := map[string]int{}
	for _, side := range report.Sides() {
		pods, err := r.Client.CoreV1().Pods(side).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		for _, pod := range pods.Items {
			on[pod.Spec.NodeName]++
		}
	}
	names := report.ByCount(on)
	return names[:min(count, len(names))], nil
}

// upgradeNodes drains each node and takes it back before the next, as the upgrade of a cluster does.
func (r *run) upgradeNodes(ctx context.Context, s report.Scenario) error {
	if err := r.settle(ctx, 3); err != nil {
		return err
	}
	return r.observe(ctx, s, func(ctx context.Context, o *report.Outcome) error {
		return r.drainEach(ctx, o, serverKinds())
	})
}

// drainEach drains each node and takes it back before the next, until the servers are complete.
func (r *run) drainEach(ctx context.Context, o *report.Outcome, servers []string) error {
	var began []time.Time
	for _, name := range r.Names {
		began = append(began, time.Now())
		o.Marks = append(o.Marks, report.Mark{At: time.Now(), Text: name})
		if err := r.drain(ctx, name); err != nil {
			return errors.Join(err, r.uncordon(ctx, name))
		}
		if err := r.uncordon(ctx, name); err != nil {
			return err
		}
	}
	if err := r.waitComplete(ctx, nil, servers...); err != nil {
		return err
	}
	lives := r.pods.between(o.Started, time.Now())
	for i, to := range append(began[1:], time.Now()) {
		for side, took := range report.Left(lives, began[i], to, r.Names[i]) {
			o.Took[side] += took
		}
	}
	return nil
}

// upgradeEvenkeel rolls the fleet while evenkeel's own Deployment gets another image.
func (r *run) upgradeEvenkeel(ctx context.Context, s report.Scenario) error {
	if err := r.settle(ctx, 3); err != nil {
		return err
	}
	return r.observe(ctx, s, func(ctx context.Context, o *report.Outcome) error {
		before, err := r.evenkeelPods(ctx)
		if err != nil {
			return err
		}
		own, err := r.Client.AppsV1().Deployments(installation.Namespace).Get(ctx, "evenkeel", metav1.GetOptions{})
		if err != nil {
			return err
		}
		otherImage(own) // than it has, which differs where a void run is repeated
		err = r.kubectl(ctx, "--namespace="+installation.Namespace, "set", "image", "deployment/evenkeel",
			"evenkeel="+own.Spec.Template.Spec.Containers[0].Image)
		if err != nil {
			return err
		}
		if err := r.roll(ctx, o); err != nil {
			return err
		}
		if err := r.kubectl(ctx, "--namespace="+installation.Namespace, "rollout", "status", "deployment/evenkeel",
			"--timeout=3m"); err != nil {
			return err
		}
		after, err := r.evenkeelPods(ctx)
		if err != nil {
			return err
		}
		missing, err := r.undefaulted(ctx)
		if err != nil {
			return err
		}
		o.Upgrade = &report.Upgrade{Undefaulted: missing}
		for _, uid := range after {
			if slices.Contains(before, uid) {
				o.Upgrade.Kept++
			}
		}
		o.Notes = append(o.Notes, fmt.Sprintf("%d of evenkeel's own %d pods were replaced; %d of the pods made meanwhile "+
			"in the namespace with evenkeel went without its defaults",
			len(after)-o.Upgrade.Kept, len(after), missing))
		return nil
	})
}

// evenkeelPods returns the UIDs of evenkeel's own pods that aren't about to go.
func (r *run) evenkeelPods(ctx context.Context) ([]types.UID, error) {
	pods, err := r.Client.CoreV1().Pods(installation.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var uids []types.UID
	for _, pod := range pods.Items {
		if pod.DeletionTimestamp == nil {
			uids = append(uids, pod.UID)
		}
	}
	return uids, nil
}

// undefaulted counts pods of the side with evenkeel that it added nothing to.
func (r *run) undefaulted(ctx context.Context) (int, error) {
	pods, err := r.Client.CoreV1().Pods(report.With).List(ctx, metav1.ListOptions{})
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
func (r *run) own(ctx context.Context, make func(side string) []*appsv1.Deployment,
	do func(targets []load.Target, names []string) error) (err error) {
	var targets []load.Target
	names := map[string]bool{}
	defer func() {
		err = errors.Join(err, r.remove(ctx, slices.Collect(maps.Keys(names))...))
	}()
	for _, side := range report.Sides() {
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

// rollAtOnce rolls servers that end at once, one of which ends connections at an age. That helps
// where this age, the time that endpoints take to leave and the longest pause between two answers
// on a connection are together less than the sleep: here about 4.4 s (gRPC's jitter included), 4 s
// and 0.4 s of 10 s. Answers take 100 ms, so that most ends find one under way.
func (r *run) rollAtOnce(ctx context.Context, s report.Scenario) error {
	const age = 4 * time.Second
	s.Rate, s.Connections = 12, 4
	return r.own(ctx, func(string) []*appsv1.Deployment {
		list := []*appsv1.Deployment{named(deployment(report.AtOnce, 3), "persistent"),
			recycling(named(deployment(report.AtOnce, 3), "recycling"), age)}
		for _, d := range list {
			d.Spec.Template.Spec.Containers[0].Args = append(d.Spec.Template.Spec.Containers[0].Args, "-work=100ms")
		}
		return list
	}, func(targets []load.Target, names []string) error {
		_, err := r.observeOn(ctx, s, targets, func(ctx context.Context, o *report.Outcome) error {
			if err := r.update(ctx, names, otherImage); err != nil {
				return err
			}
			return r.waitComplete(ctx, o, names...)
		})
		return err
	})
}

// scaleOut compares a server without limits (on the side without) with one that recycles its connections (with).
func (r *run) scaleOut(ctx context.Context, s report.Scenario) error {
	const age = 8 * time.Second
	return r.own(ctx, func(side string) []*appsv1.Deployment {
		d := named(deployment(report.Drains, 2), "scaled")
		if side == report.With {
			recycling(d, age)
		}
		return []*appsv1.Deployment{d}
	}, func(targets []load.Target, names []string) error {
		s.Connections, s.Rate = 96, 64 // so many that chance puts no pod 5 points from even
		var settled time.Time
		o, err := r.observeOn(ctx, s, targets, func(ctx context.Context, o *report.Outcome) error {
			four := int32(4)
			if err := r.update(ctx, names, func(d *appsv1.Deployment) { d.Spec.Replicas = &four }); err != nil {
				return err
			}
			if err := r.waitComplete(ctx, o, names...); err != nil {
				return err
			}
			settled = time.Now().Add(age)
			o.Marks = append(o.Marks, report.Mark{At: settled, Text: "shares from here"})
			return pause(ctx, 4*age)
		})
		if err != nil {
			return err
		}
		o.Shares = map[string][]float64{}
		for _, side := range report.Sides() {
			o.Shares[side] = o.NewShares(side, settled)
			var shares []string
			for _, share := range o.Shares[side] {
				shares = append(shares, fmt.Sprintf("%.1f %%", share))
			}
			o.Notes = append(o.Notes, fmt.Sprintf("%s recycling, %s after the new pods were ready their shares are %s (even "+
				"is %.0f %%)", side, age, strings.Join(shares, " and "), report.EvenShare))
		}
		return nil
	})
}

// longHook has a preStop hook that takes longer than the grace period, the same on both sides.
func (r *run) longHook(ctx context.Context, s report.Scenario) error {
	return r.own(ctx, func(string) []*appsv1.Deployment {
		d := named(deployment(report.AtOnce, 3), "long-hook")
		grace := int64(5)
		d.Spec.Template.Spec.TerminationGracePeriodSeconds = &grace
		d.Spec.Template.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{
			HTTPGet: &corev1.HTTPGetAction{Path: "/sleep?for=30s", Port: intstr.FromString("http")}}}
		return []*appsv1.Deployment{d}
	}, func(targets []load.Target, names []string) error {
		_, err := r.observeOn(ctx, s, targets, func(ctx context.Context, o *report.Outcome) error {
			if err := r.update(ctx, names, otherImage); err != nil {
				return err
			}
			if err := r.waitComplete(ctx, o, names...); err != nil {
				return err
			}
			return r.says(ctx, o, names[0], patches.DefaultPreStopSleep)
		})
		return err
	})
}

// asked ends the name of the wrong way as evenkeel's annotation, which only the side with it has.
// Without that end it is as people write it, the same on both sides.
const asked = "-asked"

// wrong returns the wrong way on both sides, which write makes, and the annotation that asks for the same.
func wrong(name string, replicas int32, setting, value string,
	write func(*appsv1.Deployment)) func(side string) []*appsv1.Deployment {
	return func(side string) []*appsv1.Deployment {
		written := named(deployment(report.Drains, replicas), name)
		write(written)
		if side == report.Without {
			return []*appsv1.Deployment{written}
		}
		annotated := named(deployment(report.Drains, replicas), name+asked)
		annotated.Annotations = map[string]string{policy.Prefix + setting: value}
		return []*appsv1.Deployment{written, annotated}
	}
}

// tightBudget wants a budget that leaves nothing to evict.
func (r *run) tightBudget(ctx context.Context, s report.Scenario) (err error) {
	const name = "budget"
	two := intstr.FromInt32(2)
	budget := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &two,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}},
	}
	for _, side := range report.Sides() { // first, so that evenkeel never makes one of its own beside it
		budgets := r.Client.PolicyV1().PodDisruptionBudgets(side)
		if _, err := budgets.Create(ctx, budget, metav1.CreateOptions{}); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, budgets.Delete(ctx, name, metav1.DeleteOptions{})) }()
	}
	return r.own(ctx, wrong(name, 2, policy.SettingDisruptionBudget, "minAvailable=2", func(*appsv1.Deployment) {}),
		func(targets []load.Target, _ []string) error {
			_, err := r.observeOn(ctx, s, targets, func(ctx context.Context, o *report.Outcome) error {
				var wait sync.WaitGroup
				took, failed := make([]time.Duration, len(targets)), make([]error, len(targets))
				for i, t := range targets {
					wait.Go(func() { took[i], failed[i] = r.evictPatiently(ctx, t.Side, t.Server) })
				}
				wait.Wait()
				if err := errors.Join(failed...); err != nil {
					return err
				}
				for i, t := range targets {
					tell(o, t, "the evictions", took[i])
				}
				if err := r.saysOfWrong(ctx, o, name, policy.SettingDisruptionBudget); err != nil {
					return err
				}
				return r.waitAvailable(ctx, name)
			})
			return err
		})
}

// evictPatiently evicts the pods of a server one after another, each within 15 s, and returns how
// long all took, or never.
func (r *run) evictPatiently(ctx context.Context, side, server string) (time.Duration, error) {
	pods, err := r.readyPods(ctx, side, server)
	if err != nil {
		return 0, err
	}
	began, refused := time.Now(), false
	for _, pod := range pods {
		for from := time.Now(); ; {
			err := r.Client.CoreV1().Pods(side).EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod}})
			if err == nil {
				break
			}
			if !apierrors.IsTooManyRequests(err) {
				return 0, err
			}
			if time.Since(from) > 15*time.Second {
				refused = true
				break
			}
			if err := pause(ctx, 500*time.Millisecond); err != nil {
				return 0, err
			}
		}
	}
	if refused {
		return report.Never, nil
	}
	return time.Since(began), nil
}

// tell notes how long something took for one of the wrong ways. The table has the bare one, and evenkeel's annotation.
func tell(o *report.Outcome, t load.Target, what string, took time.Duration) {
	end := "did not end"
	if took != report.Never {
		end = fmt.Sprintf("ended after %.0f s", took.Seconds())
	}
	o.Notes = append(o.Notes, fmt.Sprintf("%s evenkeel, %s of %s %s", t.Side, what, t.Server, end))
	if t.Side == report.Without || strings.HasSuffix(t.Server, asked) {
		o.Took[t.Side] = took
	}
}

// tightAffinity wants each replica on a node of its own, with as many replicas as nodes, and rolls.
func (r *run) tightAffinity(ctx context.Context, s report.Scenario) error {
	const name = "affinity"
	// what never ends, and what does, some 25 s on a quiet machine
	const watched, limit = 45 * time.Second, 3 * time.Minute
	return r.own(ctx, wrong(name, 3, policy.SettingAntiAffinity, "required", func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: corev1.LabelHostname,
				LabelSelector: d.Spec.Selector}}}}
	}), func(targets []load.Target, names []string) error {
		_, err := r.observeOn(ctx, s, targets, func(ctx context.Context, o *report.Outcome) error {
			began := time.Now()
			if err := r.update(ctx, names, otherImage); err != nil {
				return err
			}
			took := make([]time.Duration, len(targets))
			ends := slices.IndexFunc(targets, func(t load.Target) bool { return t.Server == name+asked })
			for since := time.Duration(0); since < watched || since < limit && took[ends] == 0; since = time.Since(began) {
				for i, t := range targets {
					if took[i] == 0 && r.complete(ctx, t.Side, t.Server) == nil {
						took[i] = time.Since(began)
					}
				}
				if err := pause(ctx, 250*time.Millisecond); err != nil {
					return err
				}
			}
			for i, t := range targets {
				tell(o, t, "the rolling update", cmp.Or(took[i], report.Never))
			}
			return r.saysOfWrong(ctx, o, name, policy.SettingAntiAffinity)
		})
		return err
	})
}

// says notes what evenkeel says of a default of a workload, and what it finds there.
func (r *run) says(ctx context.Context, o *report.Outcome, workload, setting string) error {
	dir, err := imageDir()
	if err != nil {
		return err
	}
	explain := exec.CommandContext(ctx, filepath.Join(dir, "evenkeel"), "explain", "deploy/"+workload,
		"--namespace="+report.With, "--kubeconfig="+r.Kubeconfig)
	out, err := explain.Output()
	if err != nil {
		return fmt.Errorf("explain %s: %w", workload, err)
	}
	o.Notes = append(o.Notes, fmt.Sprintf("evenkeel explain says of %s: %s", workload,
		report.Explained(string(out), setting)))
	return nil
}

func (r *run) saysOfWrong(ctx context.Context, o *report.Outcome, name, setting string) error {
	return errors.Join(r.says(ctx, o, name, setting), r.says(ctx, o, name+asked, setting))
}

// loseNode loses the node that the scheduler prefers for everything.
func (r *run) loseNode(ctx context.Context, s report.Scenario) error {
	const workloads = 8
	const gone = 65 * time.Second // a node counts as lost after 50 s
	servers := func(string) []*appsv1.Deployment {
		var list []*appsv1.Deployment
		for i := range workloads {
			list = append(list, named(deployment(report.Drains, 2), fmt.Sprintf("w%d", i+1)))
		}
		return list
	}
	return r.onOneNode(ctx, servers, func(empty string, targets []load.Target, names []string) error {
		whole := map[string]int{}
		for _, side := range report.Sides() {
			for _, name := range names {
				pods, err := r.Client.CoreV1().Pods(side).List(ctx, metav1.ListOptions{LabelSelector: "app=" + name})
				if err != nil {
					return err
				}
				if !slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool { return p.Spec.NodeName != empty }) {
					whole[side]++
				}
			}
		}
		s.Rate = 5
		o, err := r.observeOn(ctx, s, targets, func(ctx context.Context, o *report.Outcome) error {
			o.Lost = &report.Loss{Node: empty, At: time.Now(), Whole: whole, Workloads: workloads}
			back, err := r.away(ctx, o, empty, gone)
			if err != nil {
				return err
			}
			o.Lost.Restored = back
			return r.waitAvailable(ctx, names...)
		})
		if err != nil {
			return err
		}
		for _, side := range report.Sides() {
			o.Notes = append(o.Notes, fmt.Sprintf("%s evenkeel, %d of %d workloads with 2 replicas had both on the lost "+
				"node; the last request failed %.0f s after the loss",
				side, whole[side], workloads, o.LastFailure(side).Sub(o.Lost.At).Seconds()))
		}
		o.Notes = append(o.Notes, fmt.Sprintf("the node was back %.0f s after the loss: an outage of about that length "+
			"ended with it, and would have lasted until Kubernetes makes other pods, five minutes after it counts the node "+
			"as lost", gone.Seconds()))
		return nil
	})
}

// onOneNode runs a scenario on servers of its own, all of which the scheduler would put on the last node, since the
// others are four fifths full.
func (r *run) onOneNode(ctx context.Context, make func(side string) []*appsv1.Deployment,
	do func(empty string, targets []load.Target, names []string) error) (err error) {
	if err := r.settle(ctx, 0); err != nil {
		return err
	}
	last := len(r.Names) - 1
	if err := r.fill(ctx, r.Names[:last]); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.unfill(ctx)) }()
	return r.own(ctx, make, func(targets []load.Target, names []string) error { return do(r.Names[last], targets, names) })
}

// away loses a node for a time, and returns when it began to come back.
func (r *run) away(ctx context.Context, o *report.Outcome, node string, gone time.Duration) (back time.Time,
	err error) {
	o.Marks = append(o.Marks, report.Mark{At: time.Now(), Text: "node lost"})
	r.Lose(node)
	err = pause(ctx, gone)
	back = time.Now()
	o.Marks = append(o.Marks, report.Mark{At: back, Text: "node back"})
	return back, errors.Join(err, r.Restore(ctx, node))
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
	return r.Client.CoreV1().Pods(metav1.NamespaceDefault).DeleteCollection(ctx,
		metav1.DeleteOptions{GracePeriodSeconds: &now},
		metav1.ListOptions{LabelSelector: "app=filler"})
}

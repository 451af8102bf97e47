package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/evenkeel/evenkeel/e2e/nodes"
	"github.com/evenkeel/evenkeel/e2e/proof/load"
	"github.com/evenkeel/evenkeel/e2e/proof/report"
)

// rolled measures while many Deployments of two replicas roll at once.
func (r *run) rolled(ctx context.Context, deployments int) (*report.Programming, error) {
	p := &report.Programming{Name: "endpoints", Mode: r.ProxyMode,
		What: fmt.Sprintf("%d Deployments rolling at once", deployments)}
	return p, r.own(ctx, func(side string) []*appsv1.Deployment {
		var list []*appsv1.Deployment
		for i := range deployments {
			if side == report.With {
				list = append(list, named(deployment(report.AtOnce, 2), fmt.Sprintf("d%d", i+1)))
			}
		}
		return list
	}, func(_ []load.Target, names []string) error {
		return r.measure(ctx, p, 2*deployments, func() error {
			if err := r.update(ctx, names, otherImage); err != nil {
				return err
			}
			return r.waitComplete(ctx, nil, names...)
		})
	})
}

// drained measures while pods of as many Services are evicted from one node, all at once. Each is
// replaced on another node. In each Service is a second pod, the same one in all, which stays:
// kube-proxy goes on leading to a pod that terminates as long as no other is ready.
func (r *run) drained(ctx context.Context, pods int) (_ *report.Programming, err error) {
	node, others := r.Names[0], r.Names[1:]
	stays := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "stays", Labels: map[string]string{}},
		Spec: deployment(report.AtOnce, 1).Spec.Template.Spec}
	stays.Spec.NodeName = others[0]
	var list []*appsv1.Deployment
	for i := range pods {
		d := named(deployment(report.AtOnce, 1), fmt.Sprintf("d%d", i+1))
		d.Spec.Selector.MatchLabels = map[string]string{d.Name: ""}
		d.Spec.Template.Labels[d.Name], stays.Labels[d.Name] = "", ""
		list = append(list, d)
	}
	of := r.Client.CoreV1().Pods(report.With)
	if _, err := of.Create(ctx, stays, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	defer func() {
		now := int64(0) // seconds of grace
		err = errors.Join(err, of.Delete(ctx, stays.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}),
			r.uncordon(ctx, r.Names...))
	}()
	if err := r.kubectl(ctx, append([]string{"cordon"}, others...)...); err != nil {
		return nil, err
	}
	p := &report.Programming{Name: fmt.Sprintf("endpoints-drained-%d", pods), Mode: r.ProxyMode,
		What: fmt.Sprintf("%d pods of as many Services evicted from a node at once", pods)}
	return p, r.own(ctx, func(side string) []*appsv1.Deployment {
		if side == report.Without {
			return nil
		}
		return list
	}, func(_ []load.Target, names []string) error {
		if err := errors.Join(r.uncordon(ctx, others...), r.kubectl(ctx, "cordon", node)); err != nil {
			return err
		}
		if err := r.wait(ctx, "the pod that stays", func() error {
			pod, err := of.Get(ctx, stays.Name, metav1.GetOptions{})
			if err == nil && phaseOf(pod) != report.Ready {
				err = errors.New("it isn't ready")
			}
			return err
		}); err != nil {
			return err
		}
		all, err := of.List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
		if err != nil {
			return err
		}
		return r.measure(ctx, p, pods, func() error {
			evictions := make(chan error)
			for _, pod := range all.Items {
				go func() {
					if !slices.Contains(names, pod.Labels["app"]) {
						evictions <- nil
						return
					}
					evictions <- of.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod.Name}})
				}()
			}
			var err error
			for range all.Items {
				err = errors.Join(err, <-evictions)
			}
			return err
		})
	})
}

// measure runs an operation in which pods of the side with evenkeel go, and measures when their
// addresses have left every node, that of the clients included. It is an error if fewer go than
// want, and if a node never led to one that goes: whoever reads nothing finds that all have left.
func (r *run) measure(ctx context.Context, p *report.Programming, want int, operate func() error) error {
	p.Every = 300 * time.Millisecond
	if err := r.Prefer(os.Getpid()); err != nil { // whoever looks late sees all leave late
		return err
	}
	var mu sync.Mutex
	terminating, written := map[string]time.Time{}, map[string]time.Time{} // address: since, by pod and by EndpointSlice
	left := map[string]time.Duration{}
	everywhere := map[string]bool{} // addresses that all nodes have led to

	watching, stop := context.WithCancel(ctx)
	defer stop()
	factory := informers.NewSharedInformerFactoryWithOptions(r.Client, 0, informers.WithNamespace(report.With))
	// fails only for a stopped informer
	_, _ = factory.Core().V1().Pods().Informer().AddEventHandler(
		cache.ResourceEventHandlerFuncs{UpdateFunc: func(_, now any) {
			pod, ok := now.(*corev1.Pod)
			if !ok || pod.DeletionTimestamp == nil {
				return
			}
			address := addressOf(pod, r.families[0])
			if address == "" {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if _, known := terminating[address]; !known {
				terminating[address] = time.Now()
			}
		}})
	_, _ = factory.Discovery().V1().EndpointSlices().Informer().AddEventHandler(
		cache.ResourceEventHandlerFuncs{UpdateFunc: func(_, now any) {
			slice, ok := now.(*discoveryv1.EndpointSlice)
			if !ok {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, endpoint := range slice.Endpoints {
				address, ends := endpoint.Addresses[0], endpoint.Conditions.Terminating
				if _, known := written[address]; !known && ends != nil && *ends {
					written[address] = time.Now()
				}
			}
		}})
	factory.Start(watching.Done())
	factory.WaitForCacheSync(watching.Done())
	every := append([]string{nodes.Clients}, r.Names...)
	err := r.wait(ctx, "all nodes to know the pods", func() error {
		led, err := r.led(ctx, every...)
		for _, address := range r.pods.ready() {
			if err == nil && led[address] < len(every) {
				err = fmt.Errorf("%d of %d lead to %s", led[address], len(every), address)
			}
		}
		return err
	})
	if err != nil {
		return err
	}

	var polls sync.WaitGroup
	var pollErr error
	polls.Go(func() {
		for watching.Err() == nil {
			began := time.Now()
			led, err := r.led(watching, every...)
			if err != nil {
				if watching.Err() == nil {
					pollErr = err
				}
				return
			}
			read := time.Now() // the rules may have changed right up to now: no delay is to be too short
			mu.Lock()
			for address, count := range led {
				everywhere[address] = everywhere[address] || count == len(every)
			}
			for address, since := range terminating {
				if _, done := left[address]; !done && since.Before(began) && led[address] == 0 {
					left[address] = read.Sub(since)
				}
			}
			mu.Unlock()
			took := read.Sub(began)
			p.Took = max(p.Took, took)
			// Half of the time at most, since looking takes CPU from kube-proxy. The pause's end ends the loop.
			_ = pause(watching, max(p.Every-took, took))
		}
	})
	_ = pause(ctx, 2*p.Every) // a look at all that is there
	err = operate()
	for deadline := time.Now().Add(time.Minute); err == nil && time.Now().Before(deadline); {
		mu.Lock()
		all := len(terminating) >= want && len(left) == len(terminating)
		mu.Unlock()
		if all {
			break
		}
		err = pause(ctx, p.Every)
	}
	stop()
	polls.Wait()
	if err = errors.Join(err, pollErr); err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	if len(terminating) < want {
		return fmt.Errorf("%d pods went, wanted %d: nothing is measured", len(terminating), want)
	}
	for address, since := range terminating {
		if !everywhere[address] {
			return fmt.Errorf("not all nodes ever led to %s, which went: nothing is measured", address)
		}
		if at, ok := written[address]; ok { // the one watch may be ahead of the other
			p.Written = append(p.Written, max(0, at.Sub(since)))
		}
		if delay, ok := left[address]; ok {
			p.Delays = append(p.Delays, delay)
		} else {
			p.Left++
		}
	}
	slices.Sort(p.Delays)
	slices.Sort(p.Written)
	return nil
}

// led returns the addresses that nodes lead connections to, and how many of the nodes do.
func (e *env) led(ctx context.Context, names ...string) (map[string]int, error) {
	all := map[string]int{}
	var mu sync.Mutex
	var wait sync.WaitGroup
	var failed error
	for _, name := range names {
		wait.Go(func() {
			rules, err := e.rules(ctx, name)
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
			for address := range destinations(rules) {
				all[address]++
			}
		})
	}
	wait.Wait()
	return all, failed
}

// rules returns what kube-proxy has told the kernel of a node about the family that clients use.
func (e *env) rules(ctx context.Context, node string) ([]byte, error) {
	save, table := "iptables-save", "ip"
	if e.families[0] == corev1.IPv6Protocol {
		save, table = "ip6tables-save", "ip6"
	}
	read := map[string][]string{nodes.IPTables: {save, "-t", "nat"},
		nodes.NFTables: {"nft", "list", "table", table, "kube-proxy"}}[e.ProxyMode]
	cmd, err := e.Command(ctx, node, read...)
	if err != nil {
		return nil, err
	}
	out, err := cmd.Output()
	if err != nil {
		if ended := new(exec.ExitError); errors.As(err, &ended) {
			err = fmt.Errorf("%w: %s", err, ended.Stderr)
		}
		return nil, fmt.Errorf("read the rules of %s: %w", node, err)
	}
	return out, nil
}

// What follows the target of a rule that changes the destination. Beside it, rules and sets name
// addresses of pods in conditions, which lead nobody there.
var (
	target      = regexp.MustCompile(`--to-destination |dnat `)
	destination = regexp.MustCompile(`([0-9]+(?:\.[0-9]+){3}|[0-9a-f]*(?::[0-9a-f]*){2,})\]?(?::| \. )[0-9]+`)
)

// destinations returns the addresses that rules lead to, as iptables-save and nft write them:
//
//	-A KUBE-SEP-WPB -p tcp -m tcp -j DNAT --to-destination 10.244.0.5:8080
//	meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.244.0.5 . 8080, 1 : 10.244.16.9 . 8080 }
//	meta l4proto tcp dnat to 10.244.0.5:8080
//	-A KUBE-SEP-WPB -p tcp -m tcp -j DNAT --to-destination [fd00:244::5]:8080
//
// A chain of nftables that nothing leads to any more counts until kube-proxy empties it, which it
// does at the same time.
func destinations(rules []byte) map[string]bool {
	found := map[string]bool{}
	for line := range bytes.Lines(rules) {
		at := target.FindIndex(line)
		if at == nil {
			continue
		}
		for _, match := range destination.FindAllSubmatch(line[at[1]:], -1) {
			found[string(match[1])] = true
		}
	}
	return found
}

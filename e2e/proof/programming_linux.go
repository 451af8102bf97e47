package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/evenkeel/evenkeel/e2e/nodes"
	"github.com/evenkeel/evenkeel/e2e/proof/load"
	"github.com/evenkeel/evenkeel/e2e/proof/report"
)

// programRules rolls many Deployments at once and measures when the addresses of the pods that go
// have left the iptables rules of every node, that of the clients included.
func (r *run) programRules(ctx context.Context, deployments int) (*report.Programming, error) {
	const every = 300 * time.Millisecond
	p := &report.Programming{Deployments: deployments, Every: every}
	var mu sync.Mutex
	terminating := map[string]time.Time{} // address: since
	left := map[string]time.Duration{}

	watching, stop := context.WithCancel(ctx)
	defer stop()
	factory := informers.NewSharedInformerFactoryWithOptions(r.Client, 0, informers.WithNamespace(report.With))
	// fails only for a stopped informer
	_, _ = factory.Core().V1().Pods().Informer().AddEventHandler(
		cache.ResourceEventHandlerFuncs{UpdateFunc: func(_, now any) {
			pod, ok := now.(*corev1.Pod)
			if !ok || pod.DeletionTimestamp == nil || pod.Status.PodIP == "" {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if _, known := terminating[pod.Status.PodIP]; !known {
				terminating[pod.Status.PodIP] = time.Now()
			}
		}})
	factory.Start(watching.Done())
	factory.WaitForCacheSync(watching.Done())

	var polls sync.WaitGroup
	var pollErr error
	polls.Go(func() {
		for watching.Err() == nil {
			began := time.Now()
			present, err := r.programmed(watching)
			if err != nil {
				if watching.Err() == nil {
					pollErr = err
				}
				return
			}
			read := time.Now() // the rules may have changed right up to now: no delay is to be too short
			mu.Lock()
			for address, since := range terminating {
				if _, done := left[address]; !done && since.Before(began) && !present[address] {
					left[address] = read.Sub(since)
				}
			}
			mu.Unlock()
			_ = pause(watching, every-time.Since(began)) // its end ends the loop
		}
	})

	err := r.own(ctx, func(side string) []*appsv1.Deployment {
		if side == report.Without {
			return nil
		}
		var list []*appsv1.Deployment
		for i := range deployments {
			list = append(list, named(deployment(report.AtOnce, 2), fmt.Sprintf("d%d", i+1)))
		}
		return list
	}, func(_ []load.Target, names []string) error {
		if err := r.update(ctx, names, otherImage); err != nil {
			return err
		}
		if err := r.waitComplete(ctx, nil, names...); err != nil {
			return err
		}
		stop()
		return nil
	})
	stop()
	polls.Wait()
	for address := range terminating {
		if delay, ok := left[address]; ok {
			p.Delays = append(p.Delays, delay)
		} else {
			p.Left++
		}
	}
	slices.Sort(p.Delays)
	return p, errors.Join(err, pollErr)
}

// programmed returns the addresses that any node leads connections to.
func (e *env) programmed(ctx context.Context) (map[string]bool, error) {
	all := map[string]bool{}
	var mu sync.Mutex
	var wait sync.WaitGroup
	var failed error
	for _, name := range append([]string{nodes.Clients}, e.Names...) {
		wait.Go(func() {
			found, err := rules(ctx, e, name)
			mu.Lock()
			defer mu.Unlock()
			failed = errors.Join(failed, err)
			maps.Copy(all, found)
		})
	}
	wait.Wait()
	return all, failed
}

// rules returns the addresses that a node leads connections to.
func rules(ctx context.Context, e *env, node string) (map[string]bool, error) {
	destination := regexp.MustCompile(`--to-destination ([0-9.]+):`)
	cmd, err := e.Command(ctx, node, "iptables-save", "-t", "nat")
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
	found := map[string]bool{}
	for _, match := range destination.FindAllSubmatch(out, -1) {
		found[string(match[1])] = true
	}
	return found, nil
}

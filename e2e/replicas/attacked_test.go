package replicas

import (
	"context"
	"errors"
	"flag"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/abuse"
	"github.com/evenkeel/evenkeel/e2e/cgroup"
	"github.com/evenkeel/evenkeel/e2e/check"
)

var attacked = flag.Duration("attacked", 10*time.Second,
	"how long TestAllAttacksAtOnceKillNobody attacks; 10m is the long form")

// TestAllAttacksAtOnceKillNobody runs all attacks of package abuse at once against three replicas of 128 MiB, in a
// cluster in which a tenant keeps 230 MB of objects. Meanwhile Deployments are created as fast as the machine allows.
// None fails, no replica is killed, and the scan finds every Deployment that went without its defaults.
func TestAllAttacksAtOnceKillNobody(t *testing.T) {
	_, err := client.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "tenant"}}, metav1.CreateOptions{})
	check.Must(t, err)
	check.Must(t, abuse.FillTenant(t.Context(), client, "tenant"))
	t.Cleanup(func() {
		all, options := metav1.ListOptions{}, metav1.DeleteOptions{}
		check.Must(t, errors.Join(
			client.AppsV1().ReplicaSets("tenant").DeleteCollection(context.Background(), options, all),
			client.AppsV1().Deployments("tenant").DeleteCollection(context.Background(), options, all)))
	})
	var groups [3]*cgroup.Group
	var wrappers [3][]string
	for i := range groups {
		group, err := cgroup.New(abuse.MemoryLimit)
		if err != nil {
			t.Logf("NOT LIMITED: the memory of evenkeel, for which it takes Linux and root: %v", err)
			break
		}
		groups[i], wrappers[i] = group, group.Wrapper()
		t.Cleanup(func() { check.Must(t, group.Remove()) })
	}
	s := startWrapped(t, "attacked", wrappers, "--scan-interval=1s")
	before := shared.PIDs()
	load := startLoad(t, 200, true)

	attacking, stop := context.WithTimeout(t.Context(), *attacked)
	defer stop()
	var all sync.WaitGroup
	attacks := abuse.Attacks(abuse.Sizes{Idle: 1000, Slow: 500, Large: 50})
	for _, name := range slices.Sorted(maps.Keys(attacks)) {
		all.Go(func() { t.Logf("%s: %d tries", name, attacks[name](attacking, s.replicas...)) })
	}
	all.Wait()
	r := load.stop(t)
	for i, group := range groups {
		if group != nil {
			peak, err := group.Peak()
			check.Must(t, err)
			t.Logf("replica %d: memory at most %d MiB", i, peak>>20)
		}
	}
	t.Logf("SUMMARY attacks: %d kinds at once for %v; %v; all without defaults found by the scan %v later", len(attacks),
		*attacked, r, found(t, s, load.namespace, r.bare).Round(time.Millisecond))
	if len(r.failed) > 0 {
		t.Errorf("want none to fail: %v", errors.Join(r.failed[:min(len(r.failed), 3)]...))
	}
	for name, pid := range shared.PIDs() {
		if pid != before[name] {
			t.Errorf("%s ended: process %d is %d now", name, before[name], pid)
		}
	}
}

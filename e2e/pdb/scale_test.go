package pdb

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
)

var scales = flag.String("scale", "100,200",
	"numbers of Deployments for TestScale, comma-separated: 1000,10000 is the whole measurement")

// TestScale measures how the controller grows with the number of Deployments:
//
//	cd e2e && go test ./pdb -run TestScale -v -timeout 30m -scale 1000,10000
func TestScale(t *testing.T) {
	var perDeployment []float64
	for text := range strings.SplitSeq(*scales, ",") {
		n, err := strconv.Atoi(text)
		check.Must(t, err)
		perDeployment = append(perDeployment, scale(t, n))
	}
	first, last := perDeployment[0], perDeployment[len(perDeployment)-1]
	if last > 1.5*first {
		t.Errorf("memory per Deployment grows from %.0f to %.0f bytes: more than linear", first, last)
	}
}

// scale returns the bytes of memory per Deployment.
func scale(t *testing.T, n int) float64 {
	c, err := cluster.Start(t.Context(), cluster.Config{Log: os.Stderr, Components: []string{cluster.ControllerManager},
		Flags: map[string][]string{
			cluster.ControllerManager: {
				"--controllers=disruption-controller,serviceaccount-controller,root-ca-certificate-publisher-controller"}}})
	check.Must(t, err)
	defer func() { check.Must(t, c.Stop()) }()
	const namespaces = 20
	var group errgroup.Group
	group.SetLimit(16)
	for i := range namespaces {
		_, err := c.Client.CoreV1().Namespaces().Create(t.Context(),
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("shop", i),
				Labels: map[string]string{"evenkeel.dev/inject": "enabled"}}}, metav1.CreateOptions{})
		check.Must(t, err)
	}
	for i := range n {
		group.Go(func() error {
			_, err := c.Client.AppsV1().Deployments(fmt.Sprint("shop", i%namespaces)).Create(t.Context(),
				deployment(fmt.Sprint("web", i), 3), metav1.CreateOptions{})
			return err
		})
	}
	check.Must(t, group.Wait())

	before := live()
	tr := &transport{}
	began := time.Now()
	running := start(t, func(config *settings) {
		config.REST = c.RESTConfig()
		config.LeaseDuration = 15 * time.Second
		tr.through(config)
	})
	remaining := func() int {
		list, err := c.Client.PolicyV1().PodDisruptionBudgets("").List(t.Context(), metav1.ListOptions{Limit: 1})
		check.Must(t, err)
		left := len(list.Items)
		if list.RemainingItemCount != nil {
			left += int(*list.RemainingItemCount)
		}
		return left
	}
	for deadline := time.Now().Add(time.Minute + time.Duration(n)*time.Second/10); remaining() < n; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d budgets", remaining(), n)
		}
		time.Sleep(200 * time.Millisecond) // between two looks
	}
	written := time.Since(began)
	check.Eventually(t, "budgets in force", func() error {
		list, err := c.Client.PolicyV1().PodDisruptionBudgets("").List(t.Context(), metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return err
		}
		for i := range list.Items {
			if b := &list.Items[i]; b.Status.ObservedGeneration < b.Generation {
				return fmt.Errorf("%s is not", b.Name)
			}
		}
		return nil
	})
	took := time.Since(began)
	writes := tr.writes()
	events := func() int { return tr.count("POST ", "/events") }
	for said := -1; said != events(); { // Events are sent one after the other
		said = events()
		time.Sleep(time.Second) // it takes less to send one
	}
	quiet, watches := tr.count(), tr.count("watch=true")
	idle := 10 * time.Second
	time.Sleep(idle) // what is measured is what happens when nothing does
	calls := tr.count() - quiet
	leases := 0
	tr.mu.Lock()
	for _, call := range tr.calls[quiet:] {
		if strings.Contains(call, "/leases/") {
			leases++
		}
	}
	tr.calls = nil
	tr.mu.Unlock()
	used := live() - before
	t.Logf("%d Deployments: all budgets written after %.1f s and in force after %.1f s, %d writes of budgets, %d other "+
		"calls per minute beside %d for the Lease, %d watches, %.1f MiB live",
		n, written.Seconds(), took.Seconds(), writes, (calls-leases)*6, leases*6, watches, used/(1<<20))
	if writes != n {
		t.Errorf("%d writes for %d budgets", writes, n)
	}
	if calls-leases != 0 {
		t.Errorf("%d calls while nothing happened", calls-leases)
	}
	if n <= 10_000 && used > 20<<20 {
		t.Errorf("%.1f MiB for %d Deployments; allowed: 20 MiB", used/(1<<20), n)
	}
	running.stop()
	return used / float64(n)
}

// live returns the bytes on the heap that are in use.
func live() float64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

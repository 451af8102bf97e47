package abuse

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/cgroup"
	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

var (
	length = flag.Duration("length", 4*time.Second, "how long each attack goes on; 60s is the long form")
	idle   = flag.Int("idle", 1000, "idle connections; 10000 is the long form")
	slow   = flag.Int("slow", 500, "slow requests at once; 2000 is the long form")
	bound  = flag.Duration("p99", 5*time.Second, "in which 99 of 100 Deployments have to be created meanwhile")
	large  = flag.Int("large", 50, "reviews of 8 MiB at once")
)

// TestAbuseHarmsNobody runs each attack in turn.
func TestAbuseHarmsNobody(t *testing.T) {
	ctx := t.Context()
	if os.Getenv("KUBECONFIG") != "" {
		t.Skip("KUBECONFIG names an existing cluster, and nobody attacks that")
	}
	c, err := cluster.Start(ctx, cluster.Config{Log: os.Stderr, Components: []string{}})
	check.Must(t, err)
	t.Cleanup(func() { check.Must(t, c.Stop()) })
	var wrapper []string
	group, err := cgroup.New(MemoryLimit)
	if err != nil {
		t.Logf("NOT LIMITED: the memory of evenkeel, for which it takes Linux and root: %v", err)
	} else {
		wrapper = group.Wrapper()
		t.Cleanup(func() { check.Must(t, group.Remove()) })
	}
	evenkeel, err := installation.Install(ctx, c, installation.Options{Wrapper: wrapper})
	check.Must(t, err)
	t.Cleanup(evenkeel.Stop)
	pid := c.PIDs()["evenkeel"]
	namespace, err := c.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "shop-", Labels: map[string]string{"evenkeel.dev/inject": "enabled"}}}, metav1.CreateOptions{})
	check.Must(t, err)
	check.Eventually(t, "evenkeel adds defaults", func() error {
		injected, err := create(ctx, c, namespace.Name)
		check.Must(t, err)
		if !injected {
			return errors.New("it added none")
		}
		return nil
	})
	for name, attack := range Attacks(Sizes{Idle: *idle, Slow: *slow, Large: *large}) {
		t.Run(name, func(t *testing.T) {
			attacking, stop := context.WithTimeout(ctx, *length)
			defer stop()
			var tried atomic.Int64
			var done sync.WaitGroup
			log := len(evenkeel.Log())
			done.Go(func() { tried.Store(attack(attacking, evenkeel)) })
			var took []time.Duration
			bare, failed := 0, 0 // the latter: probes of the kubelet's, in a row
			for attacking.Err() == nil {
				begin := time.Now()
				injected, err := create(ctx, c, namespace.Name)
				check.Must(t, err)
				took = append(took, time.Since(begin))
				if !injected {
					bare++
				}
				if err := probe(attacking, evenkeel.MetricsAddress); err == nil || attacking.Err() != nil {
					failed = 0
				} else if failed++; failed == 3 { // which would end the container, or leave it without traffic
					t.Errorf("three probes in a row failed: %v", err)
				}
				time.Sleep(20 * time.Millisecond) // a modest cluster
			}
			done.Wait()
			slices.Sort(took)
			logged := len(evenkeel.Log()) - log
			t.Logf("%d tries; %d Deployments created in %v (median) and %v (p99), %d of them without defaults; %d KiB of log "+
				"in %v; memory at most %s", tried.Load(), len(took),
				took[len(took)/2].Round(time.Millisecond), took[len(took)*99/100].Round(time.Millisecond), bare, logged>>10,
				*length, peak(group))
			for _, reason := range []string{"overload", "unreadable-body"} {
				if n, err := evenkeel.Metric(ctx, "evenkeel_admission_rejected_requests_total", `reason="`+reason+`"`); err == nil {
					t.Logf("%.0f requests were turned away so far: %s", n, reason)
				}
			}
			if now := c.PIDs()["evenkeel"]; now != pid {
				t.Fatalf("evenkeel ended: process %d is %d now; the end of its log:\n%.2000s", pid, now,
					evenkeel.Log()[max(0, len(evenkeel.Log())-2000):])
			}
			// 1 MiB a minute, and in a shorter time its share behind the burst that is let through at once.
			const burst = 64 << 10
			if allowed := burst + length.Minutes()*(1<<20-burst); float64(logged) > allowed {
				t.Errorf("%d KiB of log in %v, want at most %d", logged>>10, *length, int(allowed)>>10)
			}
			if p99 := took[len(took)*99/100]; p99 > *bound {
				t.Errorf("one Deployment in a hundred took longer than %v, want %v at most", p99, *bound)
			}
			if bare*20 > len(took) {
				t.Errorf("%d of %d without defaults, want 5 %% at most", bare, len(took))
			}
		})
	}
}

// peak returns the most memory that a control group ever held.
func peak(group *cgroup.Group) string {
	if group == nil {
		return "unknown"
	}
	n, err := group.Peak()
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

// probe asks as the kubelet does: over a connection of its own, for as long as deploy/ lets it.
func probe(ctx context.Context, address string) error {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/livez", nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

func create(ctx context.Context, c *cluster.Cluster, namespace string) (injected bool, err error) {
	labels := map[string]string{"app": "web"}
	d, err := c.Client.AppsV1().Deployments(namespace).Create(ctx,
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"},
			Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
					Spec: corev1.PodSpec{
						Containers: []corev1.Container{
							{Name: "web", Image: "web", Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}}}}},
		metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return false, errors.Join(err)
	}
	return d.Spec.Template.Annotations["evenkeel.dev/injected"] != "", nil
}

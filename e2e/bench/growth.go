package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/evenkeel/evenkeel/e2e/cgroup"
	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

// The cluster that evenkeel is measured in.
const (
	nodes       = 10
	namespaces  = 100
	memoryLimit = 128 << 20 // bytes, that of deploy/
)

// grown is what evenkeel needs in a cluster with a number of Deployments that it has never seen.
type grown struct {
	deployments int
	admission   bool            // alone, without budgets and scans
	ready       []time.Duration // from the start of the process until it is ready, each time it was started
	budgets     time.Duration   // from its start until each Deployment has its budget
	scans       int             // that were finished
	peak        int             // bytes at most, from its start until the last budget is written and the first scan done
	killed      bool            // for the memory limit
}

// measureGrowth starts evenkeel as deploy/ runs it, with its memory limit, in a cluster with more and more Deployments.
func measureGrowth(ctx context.Context, log io.Writer, sizes []int) (_ []grown, err error) {
	// Of the controllers only the one that budgets wait for, without its limit of 20 a second: what is measured is memory,
	// and how long all budgets take under the limit is known without measuring.
	flags := append(cluster.FastControllers(),
		"--controllers=disruption-controller,serviceaccount-controller,root-ca-certificate-publisher-controller")
	control, err := cluster.Start(ctx, cluster.Config{Log: log, Components: []string{cluster.ControllerManager},
		Flags: map[string][]string{cluster.ControllerManager: flags}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, control.Stop()) }()
	program, err := installation.Build(ctx, control.Dir)
	if err != nil {
		return nil, err
	}
	for i := range nodes {
		_, err := control.Client.CoreV1().Nodes().Create(ctx,
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("node-", i)},
				Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KubeletVersion: cluster.Version}}},
			metav1.CreateOptions{})
		if err != nil {
			return nil, fmt.Errorf("create node: %w", err)
		}
	}
	for i := range namespaces {
		_, err := control.Client.CoreV1().Namespaces().Create(ctx,
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: shop(i),
				Labels: map[string]string{"evenkeel.dev/inject": "enabled"}}}, metav1.CreateOptions{})
		if err != nil {
			return nil, fmt.Errorf("create namespace: %w", err)
		}
	}
	alone, err := growTo(ctx, control, program, 0, "--budgets=false", "--scan-interval=0")
	if err != nil {
		return nil, err
	}
	alone.admission = true
	all := []grown{alone}
	there := 0
	for _, size := range sizes {
		err := each(ctx, size-there, func(ctx context.Context, i int) error {
			_, err := control.Client.AppsV1().Deployments(shop(there+i)).Create(ctx, middling(fmt.Sprint("web-", there+i)),
				metav1.CreateOptions{})
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("create Deployments: %w", err)
		}
		there = size
		g, err := growTo(ctx, control, program, size)
		if err != nil {
			return nil, err
		}
		all = append(all, g)
	}
	return all, nil
}

func shop(i int) string { return fmt.Sprint("shop-", i%namespaces) }

// growTo measures one evenkeel from its start.
func growTo(
	ctx context.Context, control *cluster.Cluster, program string, deployments int, flags ...string,
) (g grown, err error) {
	g.deployments = deployments
	group, err := cgroup.New(memoryLimit)
	if err != nil {
		return g, fmt.Errorf("measure memory, as root: %w", err)
	}
	defer func() { err = errors.Join(err, group.Remove()) }()
	name := fmt.Sprintf("evenkeel-%d-%d", deployments, len(flags))
	evenkeel, err := installation.Prepare(ctx, control,
		installation.Options{Name: name, Program: program, Wrapper: group.Wrapper(), Flags: flags})
	if err != nil {
		return g, err
	}
	if err := evenkeel.Register(ctx); err != nil {
		return g, err
	}
	defer func() { err = errors.Join(err, evenkeel.Uninstall(ctx)) }()
	for range 5 {
		evenkeel.Stop()
		start := time.Now()
		if err := evenkeel.Start(ctx); err != nil {
			return g, err
		}
		g.ready = append(g.ready, time.Since(start))
		if deployments > 0 {
			break // its work begins here
		}
	}
	slices.Sort(g.ready)
	start, pid := time.Now().Add(-g.ready[0]), control.PIDs()[name]
	const reviews = 500
	for deadline := time.Now().Add(10 * time.Minute); ; {
		if g.killed = control.PIDs()[name] != pid; g.killed {
			break
		}
		left, err := unbudgeted(ctx, control, deployments)
		if err != nil {
			return g, err
		}
		if g.budgets == 0 && left == 0 {
			g.budgets = time.Since(start)
		}
		if g.budgets != 0 {
			n, err := evenkeel.Metric(ctx, "evenkeel_missed_injections_scans_total", `result="ok"`)
			if err != nil {
				return g, err
			}
			if g.scans = int(n); g.scans > 0 || len(flags) > 0 {
				break
			}
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return g, fmt.Errorf("%d Deployments: after %v %d have no budget, and there were %d scans", deployments,
				time.Since(start).Round(time.Second), left, g.scans)
		}
		time.Sleep(200 * time.Millisecond) // between two looks
	}
	for range reviews {
		if g.killed {
			break
		}
		if _, err := control.Client.AppsV1().Deployments(shop(0)).Create(ctx, middling("one-more"),
			metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
			return g, fmt.Errorf("create Deployment: %w", err)
		}
	}
	g.peak, err = group.Peak()
	return g, err
}

// unbudgeted returns how many more Deployments than budgets there are.
func unbudgeted(ctx context.Context, control *cluster.Cluster, deployments int) (int, error) {
	list, err := control.Client.PolicyV1().PodDisruptionBudgets("").List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return 0, fmt.Errorf("count budgets: %w", err)
	}
	left := deployments - len(list.Items)
	if list.RemainingItemCount != nil {
		left -= int(*list.RemainingItemCount)
	}
	return left, nil
}

// middling is a Deployment of some 8 KB, as kubectl apply leaves it.
func middling(name string) *appsv1.Deployment {
	replicas := int32(3)
	labels := map[string]string{"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "shop",
		"app.kubernetes.io/version": "1.2.3"}
	var variables []corev1.EnvVar
	for i := range 20 {
		variables = append(variables, corev1.EnvVar{Name: fmt.Sprint("SETTING_", i), Value: strings.Repeat("x", 40)})
	}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels,
		Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: strings.Repeat("x", 3000)}},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app.kubernetes.io/name": name}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{
					{Name: "web", Image: "registry.example/web:1.2.3", Env: variables,
						Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
						LivenessProbe: &corev1.Probe{
							ProbeHandler: corev1.ProbeHandler{
								HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}}},
					{Name: "sidecar", Image: "registry.example/sidecar:1.2.3", Env: variables}}}}}}
}

// growth reports what it needs.
func (r *report) growth(all []grown) {
	fmt.Fprintf(&r.sections, `
## Memory, and a cluster that has never seen it

One replica as deploy/ runs it, in a control group of %d MiB, in a cluster of %d nodes and %d opted-in namespaces with
more and more Deployments of 8 KB that are all new to it: each gets its budget, and the scan for missed injections
finds and reports each. Memory is the control group's peak, from the start until the last budget was written, the
first scan done, and 500 reviews answered; the start is that of the process, and ends when /readyz answers 200.

| Deployments | runs | ready after | a budget for each after | memory at most |
|--:|---|--:|--:|--:|
`, memoryLimit>>20, nodes, namespaces)
	limits := map[int]float64{0: 64, 10_000: 64, 50_000: 128}
	for _, g := range all {
		what, took, peak := "everything", "–", fmt.Sprintf("%.0f MiB", float64(g.peak)/(1<<20))
		if g.admission {
			what = "admission alone"
		} else if g.deployments > 0 {
			took = g.budgets.Round(100 * time.Millisecond).String()
		}
		if g.killed {
			peak = "killed for it"
		}
		fmt.Fprintf(&r.sections, "| %d | %s | %v | %s | %s |\n", g.deployments, what,
			g.ready[len(g.ready)/2].Round(10*time.Millisecond), took, peak)
		limit, stated := limits[g.deployments]
		if g.admission {
			limit = 24
			r.aims = append(r.aims,
				aim{what: "Ready after the start, ms", most: 300,
					ratios: []float64{float64(g.ready[len(g.ready)/2].Milliseconds())}})
		}
		if stated {
			r.aims = append(r.aims,
				aim{what: fmt.Sprintf("Memory at most with %d Deployments, %s, MiB", g.deployments, what), most: limit,
					ratios: []float64{float64(g.peak) / (1 << 20)}})
		}
		if g.deployments == 10_000 {
			r.aims = append(r.aims,
				aim{what: "10,000 budgets written after, with a disruption controller without limits, s", most: 60,
					ratios: []float64{g.budgets.Seconds()}})
		}
	}
}

// Command demo shows what evenkeel does, on a real control plane with fake nodes that it starts and ends itself: the
// manifests of examples/ in a plain namespace and in one with evenkeel's label, side by side.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

// The namespaces that are compared, and one for what filled the nodes before.
const (
	plain   = "plain"
	optedIn = "opted-in"
	others  = "others"
)

// The sizes of the demo.
const (
	busyNodes   = 9  // in three zones, four fifths full
	freshNodes  = 3  // in the last zone, empty
	deployments = 60 // of two and three replicas in turn, beside examples/
	dryRuns     = 200
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, os.Stdout, os.Stderr); err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted; nothing is left running")
		}
		fmt.Fprintln(os.Stderr, "demo:", err)
		stop()
		os.Exit(1)
	}
}

// demo is a running demonstration.
type demo struct {
	cluster  *cluster.Cluster
	evenkeel *installation.Installation
	examples string // directory
	page     page
}

// run shows everything on stdout, and the progress of what takes long on stderr.
func run(ctx context.Context, stdout, stderr io.Writer) (err error) {
	root, err := installation.Root()
	if err != nil {
		return err
	}
	d := &demo{examples: filepath.Join(root, "examples"), page: newPage(stdout)}
	d.page.title("evenkeel on a real Kubernetes %s control plane, started on this machine", cluster.Version)
	fmt.Fprintln(stderr, "The first time, the control plane is built from source, which takes about 12 minutes on two cores.")

	if d.cluster, err = cluster.Start(ctx, cluster.Config{Log: stderr}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.cluster.Stop()) }()
	if err := d.fillNodes(ctx); err != nil {
		return err
	}
	fmt.Fprintln(stderr, "building evenkeel …")
	if d.evenkeel, err = installation.Install(ctx, d.cluster, installation.Options{}); err != nil {
		return err
	}

	for _, step := range []func(context.Context) error{d.apply, d.showAdded, d.showReasons, d.showBudgets, d.showPlacement, d.showTime} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	d.page.title("What next")
	d.page.text("make cluster        a control plane like this one, to try things with kubectl\n" +
		"make build          then: bin/evenkeel inject -o diff -f YOUR-MANIFESTS/\n" +
		"README.md           how to install it")
	return nil
}

// fillNodes makes a cluster in which spread matters: busy nodes in all zones, and fresh ones in one.
func (d *demo) fillNodes(ctx context.Context) error {
	for _, name := range []string{plain, optedIn, others} {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if name == optedIn {
			namespace.Labels = map[string]string{"evenkeel.dev/inject": "enabled"}
		}
		if _, err := d.cluster.Client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("make namespace: %w", err)
		}
	}
	busy, err := d.cluster.AddNodes(ctx, busyNodes, cluster.NodeSpec{NamePrefix: "busy"})
	if err != nil {
		return err
	}
	// Four fifths of the 8 CPUs and 32 GiB that each node has.
	filler := podSpec(corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("6400m"), corev1.ResourceMemory: resource.MustParse("25Gi")})
	for _, node := range busy {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: filler}
		pod.Spec.NodeName = node
		// The controller manager makes the namespace's service account, without which no pod is admitted.
		err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
			_, err := d.cluster.Client.CoreV1().Pods(others).Create(ctx, pod, metav1.CreateOptions{})
			if err != nil && strings.Contains(err.Error(), "service account") { // the answer is a plain 403
				return false, nil
			}
			return err == nil, err
		})
		if err != nil {
			return fmt.Errorf("fill node %s: %w", node, err)
		}
	}
	_, err = d.cluster.AddNodes(ctx, freshNodes, cluster.NodeSpec{NamePrefix: "fresh", Zones: []string{"zone-c"}})
	return err
}

// apply applies examples/ to both namespaces as a user would, and shows the warnings.
func (d *demo) apply(ctx context.Context) error {
	d.page.title("1. The same manifests in two namespaces")
	d.page.text("%d nodes in three zones are four fifths full, and %d empty ones were just added to zone-c.\n"+
		"The namespaces differ in one label, evenkeel.dev/inject=enabled:", busyNodes, freshNodes)
	for _, namespace := range []string{plain, optedIn} {
		d.page.command("kubectl apply -n %s -f examples/", namespace)
		kubectl, err := d.cluster.KubectlCommand(ctx, "apply", "-n", namespace, "-f", d.examples)
		if err != nil {
			return err
		}
		var stdout, stderr bytes.Buffer
		kubectl.Stdout, kubectl.Stderr = &stdout, &stderr
		if err := kubectl.Run(); err != nil {
			return fmt.Errorf("apply examples: %w\n%s", err, stderr.String())
		}
		d.page.text("%s", strings.TrimSpace(fmt.Sprintf("%d objects created\n%s", strings.Count(stdout.String(), " created"), stderr.String())))
	}
	return nil
}

// showAdded compares what the API server stored in the two namespaces.
func (d *demo) showAdded(ctx context.Context) error {
	d.page.title("2. What evenkeel added to the nginx Deployment")
	d.page.text("Its pod template as the API server stored it, in %s compared with %s:", optedIn, plain)
	var templates [2]corev1.PodTemplateSpec
	for i, namespace := range []string{plain, optedIn} {
		deployment, err := d.cluster.Client.AppsV1().Deployments(namespace).Get(ctx, "nginx", metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("read nginx: %w", err)
		}
		templates[i] = deployment.Spec.Template
	}
	return d.page.diff(templates[0], templates[1])
}

// showReasons shows what the others got, and the offline report on what they did not get.
func (d *demo) showReasons(ctx context.Context) error {
	d.page.title("3. What the others got, and why not more")
	d.page.command("evenkeel inject -f examples/")
	inject := exec.CommandContext(ctx, d.evenkeel.Program, "inject", "-f", filepath.Base(d.examples))
	inject.Dir = filepath.Dir(d.examples)
	inject.Env = append(os.Environ(), "NO_COLOR=1")
	var report bytes.Buffer
	inject.Stderr = &report
	if err := inject.Run(); err != nil {
		return fmt.Errorf("inject examples: %w\n%s", err, report.String())
	}
	d.page.text("%s", strings.TrimSpace(strings.ReplaceAll(report.String(), "examples/", "")))
	return nil
}

// showBudgets shows the budgets that evenkeel keeps beside the workloads, once Kubernetes has counted their pods.
func (d *demo) showBudgets(ctx context.Context) error {
	d.page.title("4. How many of their pods a drain may take at once")
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		budgets, err := d.cluster.Client.PolicyV1().PodDisruptionBudgets(optedIn).List(ctx, metav1.ListOptions{})
		if err != nil || len(budgets.Items) < 5 { // of the examples that say nothing against it
			return false, err
		}
		return !slices.ContainsFunc(budgets.Items, func(b policyv1.PodDisruptionBudget) bool { return b.Status.DisruptionsAllowed == 0 }), nil
	})
	if err != nil {
		return fmt.Errorf("wait for disruption budgets: %w", err)
	}
	for _, namespace := range []string{plain, optedIn} {
		d.page.command("kubectl get pdb -n %s", namespace)
		kubectl, err := d.cluster.KubectlCommand(ctx, "get", "pdb", "-n", namespace)
		if err != nil {
			return err
		}
		out, err := kubectl.CombinedOutput()
		if err != nil {
			return fmt.Errorf("list disruption budgets: %w\n%s", err, out)
		}
		d.page.text("%s", strings.TrimSpace(string(out)))
	}
	return nil
}

// showPlacement shows where pods run, and how many workloads the loss of a zone or a node would end.
func (d *demo) showPlacement(ctx context.Context) error {
	d.page.title("5. Where the pods went")
	small := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
	for i := range deployments {
		for _, namespace := range []string{plain, optedIn} {
			_, err := d.cluster.Client.AppsV1().Deployments(namespace).Create(ctx,
				deployment(fmt.Sprintf("app-%02d", i), int32(2+i%2), small), metav1.CreateOptions{})
			if err != nil {
				return fmt.Errorf("make deployment: %w", err)
			}
		}
	}
	zones, err := d.zones(ctx)
	if err != nil {
		return err
	}
	var rows [][]string
	var lost []string
	for _, namespace := range []string{plain, optedIn} {
		placed, err := d.placement(ctx, namespace)
		if err != nil {
			return err
		}
		rows = append(rows, d.placementRow(namespace, placed["nginx"], zones))
		perZone, perNode := 0, 0
		for name, nodes := range placed {
			if !strings.HasPrefix(name, "app-") {
				continue
			}
			inZones := map[string]bool{}
			for _, node := range nodes {
				inZones[zones[node]] = true
			}
			slices.Sort(nodes)
			if len(inZones) == 1 {
				perZone++
			}
			if len(slices.Compact(nodes)) == 1 {
				perNode++
			}
		}
		lost = append(lost, fmt.Sprintf("%-9s %2d to the loss of one zone, %d to the loss of one node", namespace, perZone, perNode))
	}
	d.page.table([]string{"nginx in", "zone-a", "zone-b", "zone-c"}, rows)
	d.page.text("Of %d more Deployments of two or three replicas, how many would lose all of them at once:\n%s", deployments, strings.Join(lost, "\n"))
	d.page.text("Fresh nodes beside busy ones, as after a scale-out or an upgrade, are where it matters most. While all nodes\n" +
		"are equally busy, the scheduler spreads by itself.")
	return nil
}

// zones returns the zone of each node.
func (d *demo) zones(ctx context.Context) (map[string]string, error) {
	nodes, err := d.cluster.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	zones := map[string]string{}
	for _, node := range nodes.Items {
		zones[node.Name] = node.Labels[corev1.LabelTopologyZone]
	}
	return zones, nil
}

// placement returns the nodes of each Deployment's pods, once all of them run.
func (d *demo) placement(ctx context.Context, namespace string) (map[string][]string, error) {
	var placed map[string][]string
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
		list, err := d.cluster.Client.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		placed = map[string][]string{}
		for _, deployment := range list.Items {
			if deployment.Status.ReadyReplicas != *deployment.Spec.Replicas {
				return false, nil
			}
			pods, err := d.cluster.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{
				LabelSelector: labels.SelectorFromSet(deployment.Spec.Selector.MatchLabels).String()})
			if err != nil {
				return false, err
			}
			for _, pod := range pods.Items {
				placed[deployment.Name] = append(placed[deployment.Name], pod.Spec.NodeName)
			}
		}
		return true, nil
	})
	if err != nil {
		return nil, fmt.Errorf("wait for pods in %s: %w", namespace, err)
	}
	return placed, nil
}

func (d *demo) placementRow(namespace string, nodes []string, zones map[string]string) []string {
	row := []string{namespace, "", "", ""}
	slices.Sort(nodes)
	for _, node := range nodes {
		column := 1 + slices.Index([]string{"zone-a", "zone-b", "zone-c"}, zones[node])
		row[column] = strings.TrimSpace(row[column] + " " + node)
	}
	return row
}

// showTime counts the calls so far, and times creations with and without evenkeel.
func (d *demo) showTime(ctx context.Context) error {
	d.page.title("6. What it cost")
	forWorkloads, err := d.evenkeel.Metric(ctx, "evenkeel_admission_reviews_total", `operation="CREATE"`)
	if err != nil {
		return err
	}
	forPods, err := d.evenkeel.Metric(ctx, "evenkeel_admission_reviews_total", `operation="CREATE"`, `kind="Pod"`)
	if err != nil {
		return err
	}
	pods, err := d.cluster.Client.CoreV1().Pods(optedIn).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	d.page.text("In %s the API server called evenkeel for %.0f new workloads, and for %.0f of their %d pods.\n"+
		"Those belong to the DaemonSet and to the Deployment that opted out; the others carry the label\n"+
		"evenkeel.dev/defaulted, which says that their template was done.", optedIn, forWorkloads-forPods, forPods, len(pods.Items))

	took := map[string][]time.Duration{}
	small := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m")}
	for range dryRuns {
		for _, namespace := range []string{plain, optedIn} {
			start := time.Now()
			_, err := d.cluster.Client.AppsV1().Deployments(namespace).Create(ctx, deployment("timed", 2, small),
				metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			if err != nil {
				return fmt.Errorf("time a creation: %w", err)
			}
			took[namespace] = append(took[namespace], time.Since(start))
		}
	}
	var rows [][]string
	for _, namespace := range []string{plain, optedIn} {
		slices.Sort(took[namespace])
		at := func(percent int) string {
			return fmt.Sprintf("%.1f ms", took[namespace][(len(took[namespace])-1)*percent/100].Seconds()*1000)
		}
		rows = append(rows, []string{namespace, at(50), at(99)})
	}
	d.page.text("Time to create a Deployment, as kubectl would see it, %d dry runs each in turn:", dryRuns)
	d.page.table([]string{"", "median", "99 %"}, rows)
	return nil
}

// deployment returns a Deployment that says nothing about high availability.
func deployment(name string, replicas int32, requests corev1.ResourceList) *appsv1.Deployment {
	set := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: set},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: set}, Spec: podSpec(requests)},
		},
	}
}

func podSpec(requests corev1.ResourceList) corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{
		Name: "app", Image: "example.com/app:1", Ports: []corev1.ContainerPort{{ContainerPort: 8080}},
		Resources: corev1.ResourceRequirements{Requests: requests},
	}}}
}

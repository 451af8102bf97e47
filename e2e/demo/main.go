// Command demo shows what evenkeel does, on a real control plane with fake nodes that it starts and ends itself: the
// loss of a zone without and with it, what it adds and why, and what happens while it is away.
package main

import (
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
	"github.com/evenkeel/evenkeel/e2e/manifests"
)

// The namespaces that are compared: two with the Deployments that lose a zone, one with examples/,
// and one for what filled the nodes before.
const (
	plain   = "plain"
	optedIn = "opted-in"
	shop    = "shop" // opted in, too
	others  = "others"
)

// The sizes of the demo.
const (
	busyNodes   = 9  // in three zones, four fifths full
	freshNodes  = 3  // in the last zone, empty
	deployments = 60 // of two and three replicas in turn
)

// assetsVariable names a directory with etcd, kube-apiserver and others that are there already, as
// setup-envtest has it.
const assetsVariable = "KUBEBUILDER_ASSETS"

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
	program  string // evenkeel
	root     string // directory of the repository
	page     page
}

// run shows everything on stdout, and the progress of what takes long on stderr.
func run(ctx context.Context, stdout, stderr io.Writer) (err error) {
	root, err := installation.Root()
	if err != nil {
		return err
	}
	d := &demo{root: root, page: newPage(stdout)}
	dir, err := os.MkdirTemp("", "evenkeel-demo-")
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	fmt.Fprintln(stderr, "building evenkeel …")
	if d.program, err = installation.Build(ctx, dir); err != nil {
		return err
	}
	if err := d.whileItBuilds(ctx); err != nil {
		return err
	}
	if d.cluster, err = cluster.Start(ctx, cluster.Config{Log: stderr, Assets: os.Getenv(assetsVariable)}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.cluster.Stop()) }()
	if err := d.fillNodes(ctx); err != nil {
		return err
	}
	options := installation.Options{Program: d.program, Flags: []string{"--scan-interval=1s"}}
	if d.evenkeel, err = installation.Install(ctx, d.cluster, options); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{d.showLoss, d.showAdded, d.showReasons, d.breakIt} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	d.page.title("What next")
	d.page.text("make cluster        a control plane like this one, to try things with kubectl\n" +
		"make build          then: bin/evenkeel inject -o diff YOUR-MANIFESTS/\n" +
		"README.md           how to install it")
	return nil
}

// whileItBuilds shows what needs no cluster, where there is one to be built first.
func (d *demo) whileItBuilds(ctx context.Context) error {
	wanted := cluster.Unbuilt(os.Getenv(assetsVariable), cluster.Etcd, cluster.APIServer, cluster.ControllerManager,
		cluster.Scheduler, cluster.Kwok, cluster.Kubectl)
	stale, err := cluster.Stale(wanted...)
	if err != nil || len(stale) == 0 {
		return err
	}
	d.page.text("A real Kubernetes is built now: %s. This needs none:", strings.Join(stale, ", "))
	return d.run(ctx, "inject", "-q", "-o", "diff", "examples/nginx.yaml")
}

// run runs evenkeel as a user would, in the directory of the repository, and shows what it writes.
func (d *demo) run(ctx context.Context, args ...string) error {
	command := exec.CommandContext(ctx, d.program, args...)
	command.Dir = d.root
	command.Env = append(os.Environ(), "NO_COLOR=1")
	if d.cluster != nil {
		command.Env = append(command.Env, "KUBECONFIG="+d.cluster.Kubeconfig)
	}
	return d.show("evenkeel "+strings.Join(args, " "), command)
}

// kubectl does the same with kubectl.
func (d *demo) kubectl(ctx context.Context, args ...string) error {
	command, err := d.cluster.KubectlCommand(ctx, args...)
	if err != nil {
		return err
	}
	command.Dir = d.root
	return d.show("kubectl "+strings.Join(args, " "), command)
}

func (d *demo) show(title string, command *exec.Cmd) error {
	d.page.command("%s", title)
	out, err := command.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", title, err, out)
	}
	d.page.text("%s", strings.TrimSpace(string(out)))
	return nil
}

// fillNodes makes a cluster in which spread matters: busy nodes in all zones, and fresh ones in one.
func (d *demo) fillNodes(ctx context.Context) error {
	for _, name := range []string{plain, optedIn, shop, others} {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if name == optedIn || name == shop {
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
	filler := podSpec(
		corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("6400m"),
			corev1.ResourceMemory: resource.MustParse("25Gi")})
	for _, node := range busy {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: filler}
		pod.Spec.NodeName = node
		// The controller manager makes the namespace's service account, without which no pod is admitted.
		err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, time.Minute, true,
			func(ctx context.Context) (bool, error) {
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

// showLoss shows how many workloads the loss of a zone would end, without and with evenkeel.
func (d *demo) showLoss(ctx context.Context) error {
	version, err := d.cluster.Client.Discovery().ServerVersion()
	if err != nil {
		return fmt.Errorf("ask for the version: %w", err)
	}
	small := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m"),
		corev1.ResourceMemory: resource.MustParse("64Mi")}
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
	lost := map[string]int{}
	for _, namespace := range []string{plain, optedIn} {
		placed, err := d.placement(ctx, namespace)
		if err != nil {
			return err
		}
		for _, nodes := range placed {
			in := map[string]bool{}
			for _, node := range nodes {
				in[zones[node]] = true
			}
			if len(in) == 1 {
				lost[namespace]++
			}
		}
	}
	d.page.title("1. What the loss of one zone would take down (Kubernetes %s, started on this machine)",
		version.GitVersion)
	d.page.text("without evenkeel   %2d of %d Deployments\nwith evenkeel      %2d of %d Deployments",
		lost[plain], deployments, lost[optedIn], deployments)
	d.page.text("The same Deployments of two or three replicas stand in two namespaces, which differ in one label,\n"+
		"evenkeel.dev/inject=enabled. %d nodes in three zones were four fifths full, and %d fresh ones had just "+
		"come to one\n"+
		"zone, as after a scale-out or an upgrade. While all nodes are equally busy, the scheduler spreads by itself.",
		busyNodes, freshNodes)
	return nil
}

// showAdded applies examples/ as a user would, and compares one of them with what the API server stored.
func (d *demo) showAdded(ctx context.Context) error {
	d.page.title("2. What evenkeel added")
	if err := d.kubectl(ctx, "apply", "-n", shop, "-f", "examples/"); err != nil {
		return err
	}
	var templates [2]corev1.PodTemplateSpec
	deployments := d.cluster.Client.AppsV1()
	stored, err := deployments.Deployments(shop).Get(ctx, "nginx", metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read nginx: %w", err)
	}
	file, err := os.ReadFile(filepath.Join(d.root, "examples", "nginx.yaml"))
	if err != nil {
		return err
	}
	objects, err := manifests.Read(file)
	if err != nil {
		return fmt.Errorf("read examples/nginx.yaml: %w", err)
	}
	written, err := manifests.As[appsv1.Deployment](objects[0])
	if err != nil {
		return err
	}
	bare, err := deployments.Deployments(plain).Create(ctx, written,
		metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return fmt.Errorf("create nginx without evenkeel (a dry run): %w", err)
	}
	templates[0], templates[1] = bare.Spec.Template, stored.Spec.Template
	d.page.text("The pod template of nginx as the API server stores it, in %s compared with %s:", shop, plain)
	if err := d.page.diff(templates[0], templates[1]); err != nil {
		return err
	}
	d.page.text("And a budget for each workload that never has fewer than two replicas:")
	err = wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, time.Minute, true,
		func(ctx context.Context) (bool, error) {
			budgets, err := d.cluster.Client.PolicyV1().PodDisruptionBudgets(shop).List(ctx, metav1.ListOptions{})
			if err != nil || len(budgets.Items) < 5 { // of the examples that say nothing against it
				return false, err
			}
			return !slices.ContainsFunc(budgets.Items,
				func(b policyv1.PodDisruptionBudget) bool { return b.Status.DisruptionsAllowed == 0 }), nil
		})
	if err != nil {
		return fmt.Errorf("wait for disruption budgets: %w", err)
	}
	return d.kubectl(ctx, "get", "pdb", "-n", shop)
}

// showReasons shows how well the workloads are protected, and why.
func (d *demo) showReasons(ctx context.Context) error {
	d.page.title("3. How well they are protected, and why")
	d.page.text("evenkeel runs as a process of this machine here, and not as a Deployment. audit warns of that.")
	if err := d.run(ctx, "audit", "-n", shop); err != nil {
		return err
	}
	return d.run(ctx, "explain", "deploy/checkout", "-n", shop)
}

// breakIt ends evenkeel, creates a workload, and lets evenkeel find what it has missed.
func (d *demo) breakIt(ctx context.Context) error {
	d.page.title("4. Now I break it")
	d.page.text("evenkeel is ended. Nobody is kept from deploying, and this Deployment gets nothing:")
	d.evenkeel.Stop()
	if err := d.kubectl(ctx, "create", "deployment", "late", "-n", shop, "--image=example.com/late:1", "--port=8080",
		"--replicas=2"); err != nil {
		return err
	}
	d.page.text("evenkeel is started again. Its scan finds what it has missed, and touches nothing:")
	if err := d.evenkeel.Start(ctx); err != nil {
		return err
	}
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, time.Minute, true,
		func(ctx context.Context) (bool, error) {
			events, err := d.cluster.Client.CoreV1().Events(shop).List(ctx,
				metav1.ListOptions{FieldSelector: "reason=InjectionMissed"})
			return err == nil && len(events.Items) > 0, err
		})
	if err != nil {
		return fmt.Errorf("wait for the scan: %w", err)
	}
	if err := d.kubectl(ctx, "get", "events", "-n", shop, "--field-selector=reason=InjectionMissed",
		"-o=custom-columns=OBJECT:.involvedObject.name,REASON:.reason,MESSAGE:.message"); err != nil {
		return err
	}
	d.page.text("A restart, whenever you like, adds what is missing:")
	return d.kubectl(ctx, "rollout", "restart", "deployment/late", "-n", shop)
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
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, 2*time.Minute, true,
		func(ctx context.Context) (bool, error) {
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

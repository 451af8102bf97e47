// Package pdb tests the budget controller on a real control plane, by evicting pods.
package pdb

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/lease"
	budgets "github.com/evenkeel/evenkeel/pdb"
	"github.com/evenkeel/evenkeel/policy"
)

// shared is the control plane of the tests of this package, with thirty nodes.
var shared *cluster.Cluster

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx := context.Background()
	c, err := cluster.Start(ctx, cluster.Config{Log: os.Stderr, Flags: map[string][]string{
		cluster.APIServer: {"--feature-gates=HPAScaleToZero=true"}}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = c.Stop() }()
	shared = c
	if _, err := c.AddNodes(ctx, 30, cluster.NodeSpec{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// restartControllers starts the controller manager again with these flags, and waits until it works.
func restartControllers(t *testing.T, c *cluster.Cluster, flags ...string) {
	t.Helper()
	check.Must(t, c.RestartControllerManager(flags...))
	budgets := c.Client.PolicyV1().PodDisruptionBudgets("default")
	_, err := budgets.Create(t.Context(), &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "first"}},
		metav1.CreateOptions{})
	check.Must(t, err)
	check.Eventually(t, "a disruption controller that works", func() error {
		b, err := budgets.Get(t.Context(), "first", metav1.GetOptions{})
		if err == nil && b.Status.ObservedGeneration == 0 {
			err = errors.New("not counted")
		}
		return err
	})
	check.Must(t, budgets.Delete(t.Context(), "first", metav1.DeleteOptions{}))
}

// controller is a running budget controller.
type controller struct {
	*budgets.Controller
	kill func() // without releasing the Lease where the transport is dead
	done chan struct{}
}

func (c *controller) stop() {
	c.kill()
	<-c.done
}

// settings are those of a controller, and of the election that it takes part in.
type settings struct {
	budgets.Config
	REST                *rest.Config
	LeaseName, Identity string
	LeaseDuration       time.Duration
}

// start runs a controller until the test ends. Each has a Lease of its own name unless
// change sets one.
func start(t *testing.T, change func(*settings)) *controller {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	if testing.Verbose() {
		log.SetOutput(os.Stderr)
	}
	config := settings{REST: shared.RESTConfig(),
		Config:    budgets.Config{Base: policy.Default(), Bounds: policy.DefaultBounds(), Log: logrus.NewEntry(log)},
		LeaseName: fmt.Sprintf("lease-%d", time.Now().UnixNano()), Identity: "a", LeaseDuration: time.Second}
	if change != nil {
		change(&config)
	}
	config.REST.ContentType = "application/vnd.kubernetes.protobuf" // as serve has it
	config.REST.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	config.Client, config.Metadata = kubernetes.NewForConfigOrDie(config.REST), metadata.NewForConfigOrDie(config.REST)
	config.Dynamic = dynamic.NewForConfigOrDie(config.REST)
	c, err := budgets.New(config.Config)
	check.Must(t, err)
	election, err := lease.New(
		lease.Config{Client: config.Client, Namespace: "default", Name: config.LeaseName, Identity: config.Identity,
			Duration: config.LeaseDuration, Log: config.Log})
	check.Must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	running := &controller{Controller: c, kill: cancel, done: make(chan struct{})}
	go func() {
		defer close(running.done)
		err := election.Run(ctx, func(ctx context.Context) {
			if err := c.Lead(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(running.stop)
	return running
}

// namespace makes an opted-in namespace that goes with the test.
func namespace(t *testing.T, annotations map[string]string) string {
	t.Helper()
	n, err := shared.Client.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "budgets-",
			Labels: map[string]string{policy.InjectLabel: policy.Enabled}, Annotations: annotations}}, metav1.CreateOptions{})
	check.Must(t, err)
	t.Cleanup(func() {
		if err := shared.Client.CoreV1().Namespaces().Delete(context.Background(), n.Name,
			metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	check.Eventually(t, "service account", func() error {
		_, err := shared.Client.CoreV1().ServiceAccounts(n.Name).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return n.Name
}

func template(labels map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}}}
}

func deployment(name string, replicas int32, change ...func(*appsv1.Deployment)) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{Replicas: &replicas,
		Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template(labels)}}
	for _, f := range change {
		f(d)
	}
	return d
}

func statefulSet(name string, replicas int32, annotations map[string]string) *appsv1.StatefulSet {
	labels := map[string]string{"app": name}
	return &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations},
		Spec: appsv1.StatefulSetSpec{Replicas: &replicas,
			PodManagementPolicy: appsv1.ParallelPodManagement, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: template(labels)}}
}

func create(t *testing.T, namespace string, d *appsv1.Deployment) {
	t.Helper()
	_, err := shared.Client.AppsV1().Deployments(namespace).Create(t.Context(), d, metav1.CreateOptions{})
	check.Must(t, err)
}

func patch(t *testing.T, namespace, resource, name, body string) {
	t.Helper()
	client := shared.Client.AppsV1().RESTClient()
	switch resource {
	case "poddisruptionbudgets":
		client = shared.Client.PolicyV1().RESTClient()
	case "horizontalpodautoscalers":
		client = shared.Client.AutoscalingV2().RESTClient()
	case "namespaces", "pods":
		client = shared.Client.CoreV1().RESTClient()
	}
	check.Must(t,
		client.Patch(types.MergePatchType).NamespaceIfScoped(namespace, resource != "namespaces").
			Resource(resource).Name(name).
			Body([]byte(body)).Do(t.Context()).Error())
}

// pods returns the ready pods with app=name.
func pods(t *testing.T, namespace, name string) []corev1.Pod {
	t.Helper()
	list, err := shared.Client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + name})
	check.Must(t, err)
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return !check.Ready(&p) })
}

// evict evicts a pod, or asks whether it could be.
func evict(ctx context.Context, namespace, pod string, dryRun bool) error {
	e := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: pod}}
	if dryRun {
		e.DeleteOptions = &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}
	}
	return shared.Client.PolicyV1().Evictions(namespace).Evict(ctx, e)
}

// status returns the HTTP status of an answer.
func status(err error) int {
	var s apierrors.APIStatus
	switch {
	case err == nil:
		return 201
	case errors.As(err, &s):
		return int(s.Status().Code)
	}
	return -1
}

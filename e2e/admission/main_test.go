// Package admission tests the webhook through a real API server, with the real controllers behind it.
package admission

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

// shared is the control plane of all tests of this package, and evenkeel as deploy/ runs it.
var shared struct {
	*cluster.Cluster
	evenkeel *installation.Installation // nil on an existing cluster
	program  string                     // evenkeel, for its inject command
}

var apiServer = flag.String("api-server", "",
	"version of the API server to test with, such as v1.33.13; "+cluster.Version+" if empty")

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx := context.Background()
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	c, err := cluster.Open(ctx, cluster.Config{Log: os.Stderr, APIServerVersion: *apiServer})
	if err != nil {
		return fail(err)
	}
	defer func() { _ = c.Stop() }()
	shared.Cluster = c
	dir, err := os.MkdirTemp("", "evenkeel-admission-")
	if err != nil {
		return fail(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if shared.program, err = installation.Build(ctx, dir); err != nil {
		return fail(err)
	}
	if !c.Embedded {
		fmt.Fprintln(os.Stderr,
			"KUBECONFIG is set: testing the evenkeel that is installed in that cluster; what needs one of our own is skipped")
		return m.Run()
	}
	if _, err := c.AddNodes(ctx, 30, cluster.NodeSpec{}); err != nil {
		return fail(err)
	}
	if shared.evenkeel, err = installation.Install(ctx, c, installation.Options{}); err != nil {
		return fail(err)
	}
	return m.Run()
}

// ours returns the evenkeel that this package runs. On an existing cluster, where it can't be
// stopped, replaced or asked for its metrics, it skips the test, which TestMain has announced.
func ours(t *testing.T) *installation.Installation {
	t.Helper()
	if shared.evenkeel == nil {
		t.Skip("KUBECONFIG names an existing cluster, and this needs an evenkeel of our own")
	}
	return shared.evenkeel
}

// optedIn and plain make a namespace for one test.
func optedIn(t *testing.T, annotations map[string]string) string {
	return makeNamespace(t, map[string]string{"evenkeel.dev/inject": "enabled"}, annotations)
}

func plain(t *testing.T) string { return makeNamespace(t, nil, nil) }

func makeNamespace(t *testing.T, labels, annotations map[string]string) string {
	t.Helper()
	namespace, err := shared.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Labels: labels, Annotations: annotations}},
		metav1.CreateOptions{})
	check.Must(t, err)
	t.Cleanup(func() {
		check.Must(t,
			shared.Client.CoreV1().Namespaces().Delete(context.Background(), namespace.Name, metav1.DeleteOptions{}))
	})
	_, err = shared.Client.CoreV1().Services(namespace.Name).Create(t.Context(),
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: peers},
			Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, PublishNotReadyAddresses: true}}, metav1.CreateOptions{})
	check.Must(t, err)
	check.Eventually(t, "the namespace's service account", func() error {
		_, err := shared.Client.CoreV1().ServiceAccounts(namespace.Name).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return namespace.Name
}

// peers is the governing Service of the StatefulSets of a test: their pods find each other before they are ready.
const peers = "peers"

// bare returns a pod spec without opinions, and the labels of it.
func bare() (corev1.PodSpec, map[string]string) {
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "nginx",
		Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}}, map[string]string{"app": "web"}
}

func deployment(name string, replicas int32, change ...func(*appsv1.Deployment)) *appsv1.Deployment {
	spec, labels := bare()
	labels["app"] = name
	d := &appsv1.Deployment{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: maps.Clone(labels)},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec}}}
	for _, f := range change {
		f(d)
	}
	return d
}

func statefulSet(name string, replicas int32, change ...func(*appsv1.StatefulSet)) *appsv1.StatefulSet {
	spec, labels := bare()
	labels["app"] = name
	s := &appsv1.StatefulSet{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "StatefulSet"},
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.StatefulSetSpec{ServiceName: peers, Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: maps.Clone(labels)},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec}}}
	for _, f := range change {
		f(s)
	}
	return s
}

// workload returns a Deployment or StatefulSet, and its template for a test to change.
func workload(kind, name string, replicas int32) (object metav1.Object, template *corev1.PodTemplateSpec) {
	if kind == "StatefulSet" {
		s := statefulSet(name, replicas)
		return s, &s.Spec.Template
	}
	d := deployment(name, replicas)
	return d, &d.Spec.Template
}

// stored reads a Deployment or StatefulSet, and its template.
func stored(t *testing.T, namespace, kind, name string) (metav1.ObjectMeta, corev1.PodTemplateSpec) {
	t.Helper()
	if kind == "StatefulSet" {
		s, err := shared.Client.AppsV1().StatefulSets(namespace).Get(t.Context(), name, metav1.GetOptions{})
		check.Must(t, err)
		return s.ObjectMeta, s.Spec.Template
	}
	d, err := shared.Client.AppsV1().Deployments(namespace).Get(t.Context(), name, metav1.GetOptions{})
	check.Must(t, err)
	return d.ObjectMeta, d.Spec.Template
}

func ptr[T any](value T) *T { return &value }

// missing returns what a pod or pod template lacks of the three defaults, as one line, and "record"
// where the record doesn't say exactly which of them stand.
func missing(meta metav1.ObjectMeta, spec corev1.PodSpec) string {
	var lacks []string
	grace := int64(40)
	if meta.Name != "" { // a Pod's is never raised, but by its template
		grace = *spec.TerminationGracePeriodSeconds
	}
	c, record := spec.Containers[0], meta.Annotations["evenkeel.dev/injected"]
	exact := meta.Labels["evenkeel.dev/defaulted"] == "true"
	for _, d := range []struct {
		name, recorded string
		stands         bool
	}{
		{"anti-affinity", "anti-affinity=", spec.Affinity != nil && spec.Affinity.PodAntiAffinity != nil &&
			len(spec.Affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 2},
		{"pre-stop-sleep", c.Name + "/pre-stop-sleep=sleep:10",
			c.Lifecycle != nil && c.Lifecycle.PreStop != nil && c.Lifecycle.PreStop.Sleep != nil &&
				c.Lifecycle.PreStop.Sleep.Seconds == 10 && *spec.TerminationGracePeriodSeconds == grace},
		{"readiness-probe", c.Name + "/readiness-probe=tcpSocket:",
			c.ReadinessProbe != nil && c.ReadinessProbe.TCPSocket != nil && c.ReadinessProbe.TCPSocket.Port.IntValue() == 80},
	} {
		if !d.stands {
			lacks = append(lacks, d.name)
		}
		exact = exact && d.stands == strings.Contains(record, d.recorded)
	}
	if !exact {
		lacks = append(lacks, "record")
	}
	return strings.Join(lacks, ",")
}

const everything = "anti-affinity,pre-stop-sleep,readiness-probe,record"

// reviews returns how many reviews evenkeel has answered whose metric labels hold the parts.
func reviews(t *testing.T, parts ...string) float64 {
	t.Helper()
	n, err := ours(t).Metric(t.Context(), "evenkeel_admission_reviews_total", parts...)
	check.Must(t, err)
	return n
}

// samples returns the sum of the samples of a metric of the API server whose line holds all of the parts.
func samples(t *testing.T, name string, parts ...string) float64 {
	t.Helper()
	text, err := shared.Client.RESTClient().Get().AbsPath("/metrics").DoRaw(t.Context())
	check.Must(t, err)
	n, err := installation.Sum(string(text), name, parts...)
	check.Must(t, err)
	return n
}

// warned is a client and the warnings that it was sent.
type warned struct {
	*kubernetes.Clientset
	mu   sync.Mutex
	text []string
}

// HandleWarningHeader is a rest.WarningHandler.
func (w *warned) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, text)
}

func (w *warned) warnings() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text
}

func newWarned(t *testing.T) *warned {
	t.Helper()
	w := &warned{}
	config := shared.RESTConfig()
	config.WarningHandler = w
	client, err := kubernetes.NewForConfig(config)
	check.Must(t, err)
	w.Clientset = client
	return w
}

var _ rest.WarningHandler = &warned{}

// list puts objects into one manifest.
func list[T any](items ...T) map[string]any {
	return map[string]any{"apiVersion": "v1", "kind": "List", "items": items}
}

// kubectl runs the command with an object as its input. What another one wrote between the read and
// the write of kubectl replace is no failure of ours: it is asked again, as the API server advises.
func kubectl(t *testing.T, stdin any, args ...string) string {
	t.Helper()
	input, err := json.Marshal(stdin)
	check.Must(t, err)
	for attempt := 1; ; attempt++ {
		cmd, err := shared.KubectlCommand(t.Context(), args...)
		check.Must(t, err)
		if stdin != nil {
			cmd.Stdin = bytes.NewReader(input)
		}
		out, err := cmd.CombinedOutput()
		if err == nil {
			return string(out)
		}
		if attempt == 10 || !bytes.Contains(out, []byte("the object has been modified")) {
			t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

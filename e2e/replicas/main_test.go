// Package replicas tests what an installation of three replicas promises, behind one address and through a real API
// server: certificates that change unnoticed, and restarts that nobody sees.
package replicas

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
	"github.com/evenkeel/evenkeel/internal/traffic"
)

var (
	shared  *cluster.Cluster
	client  *kubernetes.Clientset // of shared, for the load: it speaks protobuf, which costs both sides less than JSON
	program string                // evenkeel
)

// A busy machine is no failure of what is tested, and so that nothing has to be excused, the API
// server waits longer for an answer than deploy/ says.
var timeout = flag.Int("timeout-seconds", 10, "timeoutSeconds of the webhooks; 2, as in deploy/, is the long form")

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Getenv("KUBECONFIG") != "" {
		fmt.Fprintln(os.Stderr, "KUBECONFIG is set: an existing cluster can't call evenkeel here; nothing of this package "+
			"is tested")
		return 0
	}
	// etcd and the API server inherit it, evenkeel does not: what collecting garbage less often saves
	// is there for reviews.
	_ = os.Setenv("GOGC", "400")
	// Nothing but the API server: what is created stays what it is. It chooses among the endpoints of
	// a Service itself, as it does where no kube-proxy runs beside it.
	c, err := cluster.Start(context.Background(), cluster.Config{Log: os.Stderr, Components: []string{},
		Flags: map[string][]string{
			cluster.APIServer: {"--enable-aggregator-routing"}}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = c.Stop() }()
	_ = os.Unsetenv("GOGC")
	shared = c
	config := c.RESTConfig()
	config.ContentType, config.WarningHandler = runtime.ContentTypeProtobuf, rest.NoWarnings{}
	if client, err = kubernetes.NewForConfig(config); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if program, err = installation.Build(context.Background(), c.Dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// service is several replicas behind one Service. The API server itself chooses among the endpoints that are ready and
// connects to one of them, with nothing in between that would take CPU time.
type service struct {
	replicas []*installation.Installation
}

// start starts replicas with the flags, registers them, and waits until all are ready. They end with the test.
func start(t *testing.T, name string, flags ...string) *service {
	t.Helper()
	return startWrapped(t, name, [3][]string{}, flags...)
}

// startWrapped is start with a command for each replica that its process is run by.
func startWrapped(t *testing.T, name string, wrappers [3][]string, flags ...string) *service {
	t.Helper()
	s := new(service)
	for i, wrapper := range wrappers {
		replica, err := installation.Prepare(t.Context(), shared,
			installation.Options{Name: fmt.Sprintf("%s-%d", name, i), Program: program, Wrapper: wrapper,
				Flags: append([]string{"--lease-duration=2s", "--budgets=false"}, flags...)})
		check.Must(t, err)
		s.replicas = append(s.replicas, replica)
		t.Cleanup(replica.Stop)
	}
	configuration, err := installation.Configuration(t.Context(), shared)
	check.Must(t, err)
	for i := range configuration.Webhooks {
		seconds := int32(*timeout) //nolint:gosec // 30 at most, or the API server refuses it
		configuration.Webhooks[i].TimeoutSeconds = &seconds
	}
	check.Must(t, installation.Register(t.Context(), shared, configuration,
		installation.Target{Service: installation.Service, Address: s.replicas[0].Address}))
	t.Cleanup(func() {
		check.Must(t, shared.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(context.Background(),
			configuration.Name, metav1.DeleteOptions{}))
	})
	s.publish(t)
	for i := range s.replicas {
		check.Must(t, s.replicas[i].Start(t.Context()))
		s.route(t, i, true)
	}
	return s
}

// publish makes the Service, which leads to this machine by its name, one with an endpoint for each
// replica. None is ready.
func (s *service) publish(t *testing.T) {
	t.Helper()
	services := client.CoreV1().Services(installation.Namespace)
	object, err := services.Get(t.Context(), installation.Service, metav1.GetOptions{})
	check.Must(t, err)
	object.Spec = corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: object.Spec.Ports[0].Port}}}
	_, err = services.Update(t.Context(), object, metav1.UpdateOptions{})
	check.Must(t, err)
	slices := client.DiscoveryV1().EndpointSlices(installation.Namespace)
	for i := range s.replicas {
		_, err := slices.Create(t.Context(), s.endpoint(t, i, false), metav1.CreateOptions{})
		check.Must(t, err)
		t.Cleanup(func() {
			check.Must(t, slices.Delete(context.Background(), s.endpoint(t, i, false).Name, metav1.DeleteOptions{}))
		})
	}
}

// route makes the endpoint of a replica ready or takes that back. The API server hears of it a moment later.
func (s *service) route(t *testing.T, i int, ready bool) {
	t.Helper()
	_, err := client.DiscoveryV1().EndpointSlices(installation.Namespace).Update(t.Context(), s.endpoint(t, i, ready),
		metav1.UpdateOptions{})
	check.Must(t, err)
}

// endpoint returns the EndpointSlice of a replica. Each has its own, as each has another port.
func (s *service) endpoint(t *testing.T, i int, ready bool) *discoveryv1.EndpointSlice {
	t.Helper()
	address, err := netip.ParseAddrPort(s.replicas[i].Address)
	check.Must(t, err)
	port := int32(address.Port())
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", installation.Service, i),
			Labels: map[string]string{discoveryv1.LabelServiceName: installation.Service}},
		AddressType: discoveryv1.AddressTypeFQDN, // as an IPv4 address, a loopback one would be refused
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{address.Addr().String()},
			Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		Ports: []discoveryv1.EndpointPort{{Port: &port}},
	}
}

// newConnections are flags by which each review comes over a TLS connection of its own.
func newConnections(flags ...string) []string {
	return append([]string{"--recycle-requests=1", "--recycle-age=0"}, flags...)
}

// kill kills a replica that has no connection any more, whatever else it does, starts another in its place, and waits
// until that one is ready. Each review has to come over a connection of its own.
func (s *service) kill(t *testing.T, i int) {
	t.Helper()
	s.route(t, i, false)
	// Where the others had so many connections and this one had none, the API server knows: else it
	// would have chosen this one for a third of them.
	const enough = 60
	mine, others := s.closed(t, i)
	check.Eventually(t, "the replica has no connection", func() error {
		m, o := s.closed(t, i)
		if m != mine {
			mine, others = m, o
		}
		if o-others < enough {
			return fmt.Errorf("connections come: %v, and %v to others", m, o-others)
		}
		if n := connections(t, s.replicas[i].Address); n > 0 {
			return fmt.Errorf("%d left", n)
		}
		return nil
	})
	check.Must(t, s.replicas[i].Signal(syscall.SIGKILL))
	s.replicas[i].Stop()
	check.Must(t, s.replicas[i].Start(t.Context()))
	s.route(t, i, true)
}

// closed returns how many connections of a replica and of all others have ended.
func (s *service) closed(t *testing.T, i int) (mine, others float64) {
	t.Helper()
	for n, replica := range s.replicas {
		count, err := replica.Metric(t.Context(), "evenkeel_connections_closed_total")
		check.Must(t, err)
		if n == i {
			mine = count
		} else {
			others += count
		}
	}
	return mine, others
}

// connections returns how many connections to the address the kernel holds that have not ended on
// either side, accepted or not. Elsewhere than on Linux it knows of none.
func connections(t *testing.T, address string) int {
	t.Helper()
	at, err := netip.ParseAddrPort(address)
	check.Must(t, err)
	table, err := os.ReadFile("/proc/net/tcp")
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	check.Must(t, err)
	const local, state = 1, 3 // columns
	const timeWait, listening = "06", "0A"
	n, port := 0, fmt.Appendf(nil, ":%04X ", at.Port())
	for line := range bytes.Lines(table) {
		if !bytes.Contains(line, port) { // most of them
			continue
		}
		f := strings.Fields(string(line))
		if strings.HasSuffix(f[local], strings.TrimSpace(string(port))) && f[state] != timeWait && f[state] != listening {
			n++
		}
	}
	return n
}

// load creates Deployments in an opted-in namespace at a fixed rate.
type load struct {
	end       func()
	begin     time.Time
	sent      atomic.Int64
	late      atomic.Int64 // that took longer than deploy/ gives evenkeel for an answer
	mu        sync.Mutex
	took      []time.Duration
	failed    []error
	bare      []string // names of those that came back without defaults
	namespace string
	stored    bool
	log       int64 // size of the API server's log at the start
}

// startLoad creates Deployments without storing them or, with stored, for real; then those that have their defaults are
// deleted again but for one in fifty, so that the cluster does not grow with the length of the test.
func startLoad(t *testing.T, rate int, stored bool) *load {
	t.Helper()
	namespace, err := shared.Client.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			GenerateName: "load-", Labels: map[string]string{"evenkeel.dev/inject": "enabled"}}}, metav1.CreateOptions{})
	check.Must(t, err)
	l := &load{namespace: namespace.Name}
	check.Eventually(t, "evenkeel adds defaults", func() error {
		if _, injected, err := l.create(t.Context()); err != nil || !injected {
			return fmt.Errorf("not yet: %w", errors.Join(err))
		}
		return nil
	})
	l.stored = stored
	info, err := os.Stat(filepath.Join(shared.LogDir, cluster.APIServer+".log"))
	check.Must(t, err)
	l.log, l.begin = info.Size(), time.Now()
	l.end = traffic.Send(rate, 200, func() { l.one(context.Background()) })
	t.Cleanup(func() {
		l.end()
		// What is stored would be found by the scans of the tests that follow.
		check.Must(t, shared.Client.AppsV1().Deployments(namespace.Name).DeleteCollection(context.Background(),
			metav1.DeleteOptions{}, metav1.ListOptions{}))
	})
	return l
}

// one creates one Deployment and writes down what became of it.
func (l *load) one(ctx context.Context) {
	const deployed = 2 * time.Second // timeoutSeconds in deploy/
	begin := time.Now()
	name, injected, err := l.create(ctx)
	took := time.Since(begin)
	if took > deployed {
		l.late.Add(1)
	}
	if n := l.sent.Add(1); l.stored && injected && n%50 != 0 {
		err = client.AppsV1().Deployments(l.namespace).Delete(ctx, name, metav1.DeleteOptions{})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took = append(l.took, took)
	switch {
	case err != nil:
		l.failed = append(l.failed, err)
	case !injected:
		l.bare = append(l.bare, name)
	}
}

func (l *load) create(ctx context.Context) (name string, injected bool, err error) {
	labels := map[string]string{"app": "web"}
	var options metav1.CreateOptions
	if !l.stored {
		options.DryRun = []string{metav1.DryRunAll}
	}
	d, err := client.AppsV1().Deployments(l.namespace).Create(ctx,
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{GenerateName: "web-"},
			Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
					Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web",
						Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}}}}},
		options)
	if err != nil {
		return "", false, err
	}
	return d.Name, d.Spec.Template.Annotations["evenkeel.dev/injected"] != "", nil
}

// result is what became of a load.
type result struct {
	length     time.Duration
	sent, late int64
	p99        time.Duration
	bare       []string
	failed     []error
	calls      []string // that failed, as the API server logged them
	distrust   int      // of those, for the certificate
}

func (r result) String() string {
	return fmt.Sprintf("%d created, %.0f per second, %d failed, %d without defaults (%.3f %%), %d took more than 2 s, "+
		"99 in 100 at most %v; %d calls failed in the API server's log, %d of them for the certificate",
		r.sent, float64(r.sent)/r.length.Seconds(), len(r.failed), len(r.bare),
		100*float64(len(r.bare))/float64(max(r.sent, 1)), r.late, r.p99.Round(time.Millisecond), len(r.calls), r.distrust)
}

// harmed reports whether anything failed or went without defaults, for whatever reason.
func (r result) harmed() bool { return len(r.failed) > 0 || len(r.calls) > 0 || len(r.bare) > 0 }

// stop ends the load.
func (l *load) stop(t *testing.T) result {
	t.Helper()
	l.end()
	r := result{length: time.Since(l.begin), sent: l.sent.Load(), late: l.late.Load(), bare: l.bare, failed: l.failed}
	slices.Sort(l.took)
	if n := len(l.took); n > 0 {
		r.p99 = l.took[n*99/100]
	}
	content, err := os.ReadFile(filepath.Join(shared.LogDir, cluster.APIServer+".log"))
	check.Must(t, err)
	for line := range strings.Lines(string(content[l.log:])) {
		if !strings.Contains(line, "failed calling webhook") {
			continue
		}
		r.calls = append(r.calls, line)
		if strings.Contains(line, "x509:") || strings.Contains(line, "tls:") {
			r.distrust++
		}
	}
	return r
}

// found waits until the gauge counts so many Deployments of the whole cluster, compares what the
// Events and evenkeel audit name with the names, and returns how long that took. 30 s are promised
// from the moment on that replicas run and stay.
func found(t *testing.T, s *service, namespace string, names []string) time.Duration {
	t.Helper()
	ctx, begin := t.Context(), time.Now()
	want := slices.Sorted(slices.Values(names))
	check.Eventually(t, "the gauge counts what was missed", func() error {
		for _, name := range []string{"anti-affinity", "pre-stop-sleep", "readiness-probe"} {
			sum := 0.0
			for _, replica := range s.replicas { // zero where another leads
				n, err := replica.Metric(ctx, "evenkeel_missed_injections", `default="`+name+`"`, `kind="Deployment"`,
					`reason="no-record"`)
				if err != nil {
					return err
				}
				sum += n
			}
			if int(sum) != len(want) {
				return fmt.Errorf("%v of %d: %s", sum, len(want), name)
			}
		}
		return nil
	})
	check.Eventually(t, "there is an Event on each", func() error {
		list, err := shared.Client.CoreV1().Events(namespace).List(ctx,
			metav1.ListOptions{FieldSelector: "reason=InjectionMissed"})
		if err != nil {
			return err
		}
		told := map[string]bool{}
		for _, e := range list.Items {
			told[e.InvolvedObject.Name] = true
		}
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(told)), cmpopts.EquateEmpty()); diff != "" {
			return fmt.Errorf("(-want +got):\n%s", diff)
		}
		return nil
	})
	took := time.Since(begin)
	if took > 30*time.Second {
		t.Errorf("found after %v, promised are 30 s", took)
	}
	command := exec.CommandContext(ctx, program, "audit", "-o", "json", "-n", namespace)
	command.Env = append(os.Environ(), "KUBECONFIG="+shared.Kubeconfig)
	out, err := command.Output()
	check.Must(t, err)
	var report audit.Report
	check.Must(t, json.Unmarshal(out, &report))
	var said []string
	for _, w := range report.Workloads {
		if slices.ContainsFunc(w.Findings, func(f audit.Finding) bool { return f.Code == audit.MissedInjection }) {
			said = append(said, w.Name)
		}
	}
	slices.Sort(said)
	if diff := cmp.Diff(want, said, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("what evenkeel audit names (-want +got):\n%s", diff)
	}
	return took
}

// Package replicas tests what an installation of three replicas promises, behind one address and through a real API
// server: certificates that change unnoticed, and restarts that nobody sees.
package replicas

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

var (
	shared  *cluster.Cluster
	program string // evenkeel
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Getenv("KUBECONFIG") != "" {
		fmt.Fprintln(os.Stderr, "KUBECONFIG is set: an existing cluster can't call evenkeel here; nothing of this package is tested")
		return 0
	}
	// Nothing but the API server: what is created is created with dryRun.
	c, err := cluster.Start(context.Background(), cluster.Config{Log: os.Stderr, Components: []string{}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = c.Stop() }()
	shared = c
	if program, err = installation.Build(context.Background(), c.Dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// service is several replicas behind one address, as pods behind a Service.
type service struct {
	listener net.Listener
	replicas []*installation.Installation
	up       []atomic.Bool
	open     []atomic.Int64 // connections
	next     atomic.Int64
}

// start starts replicas with the flags, registers them, and waits until all are ready. They end with the test.
func start(t *testing.T, name string, flags ...string) *service {
	t.Helper()
	const n = 3
	s := &service{up: make([]atomic.Bool, n), open: make([]atomic.Int64, n)}
	var err error
	s.listener, err = net.Listen("tcp4", "127.0.0.1:0")
	check.Must(t, err)
	t.Cleanup(func() { _ = s.listener.Close() })
	for i := range n {
		replica, err := installation.Prepare(t.Context(), shared, installation.Options{Name: fmt.Sprintf("%s-%d", name, i), Program: program, Flags: append([]string{
			"--lease-duration=2s", "--budgets=false"}, flags...)})
		check.Must(t, err)
		s.replicas = append(s.replicas, replica)
		t.Cleanup(replica.Stop)
	}
	configuration, err := installation.Configuration(t.Context(), shared)
	check.Must(t, err)
	check.Must(t, installation.Register(t.Context(), shared, configuration, installation.Target{Service: installation.Service, Address: s.listener.Addr().String()}))
	t.Cleanup(func() {
		check.Must(t, shared.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(context.Background(), configuration.Name, metav1.DeleteOptions{}))
	})
	for i := range n {
		check.Must(t, s.replicas[i].Start(t.Context()))
		s.up[i].Store(true)
	}
	go func() {
		for {
			client, err := s.listener.Accept()
			if err != nil {
				return
			}
			go s.pass(client)
		}
	}()
	return s
}

func (s *service) pass(client net.Conn) {
	defer func() { _ = client.Close() }()
	for range 100 * len(s.replicas) {
		i := int(s.next.Add(1)) % len(s.replicas)
		s.open[i].Add(1)
		if !s.up[i].Load() {
			s.open[i].Add(-1)
			continue
		}
		defer s.open[i].Add(-1)
		server, err := net.Dial("tcp", s.replicas[i].Address)
		if err != nil {
			return
		}
		var both sync.WaitGroup
		both.Go(func() { _, _ = io.Copy(server, client); _ = server.(*net.TCPConn).CloseWrite() })
		both.Go(func() { _, _ = io.Copy(client, server); _ = client.(*net.TCPConn).CloseWrite() })
		both.Wait()
		_ = server.Close()
		return
	}
}

// newConnections are flags by which each review comes over a TLS connection of its own.
func newConnections(flags ...string) []string {
	return append([]string{"--recycle-requests=1", "--recycle-age=0"}, flags...)
}

// kill kills a replica that has no connection any more, whatever else it does, starts another in its place, and waits
// until that one is ready.
func (s *service) kill(t *testing.T, i int) {
	t.Helper()
	s.up[i].Store(false)
	check.Eventually(t, "the replica has no connection", func() error {
		if n := s.open[i].Load(); n > 0 {
			return fmt.Errorf("%d left", n)
		}
		return nil
	})
	check.Must(t, s.replicas[i].Signal(syscall.SIGKILL))
	s.replicas[i].Stop()
	check.Must(t, s.replicas[i].Start(t.Context()))
	s.up[i].Store(true)
}

// load creates Deployments in an opted-in namespace without storing them, at a fixed rate.
type load struct {
	cancel    context.CancelFunc
	done      sync.WaitGroup
	sent      atomic.Int64
	bare      atomic.Int64 // that came back without defaults
	mu        sync.Mutex
	failed    []error
	namespace string
	log       int64 // size of the API server's log at the start
}

func startLoad(t *testing.T, rate int) *load {
	t.Helper()
	namespace, err := shared.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "load-", Labels: map[string]string{"evenkeel.dev/inject": "enabled"}}}, metav1.CreateOptions{})
	check.Must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel, namespace: namespace.Name}
	check.Eventually(t, "evenkeel adds defaults", func() error {
		if injected, err := l.create(ctx); err != nil || !injected {
			return fmt.Errorf("not yet: %w", errors.Join(err))
		}
		return nil
	})
	info, err := os.Stat(filepath.Join(shared.LogDir, cluster.APIServer+".log"))
	check.Must(t, err)
	l.log = info.Size()
	l.done.Go(func() {
		ticker := time.NewTicker(time.Second / time.Duration(rate))
		defer ticker.Stop()
		var requests sync.WaitGroup
		defer requests.Wait()
		slots := make(chan struct{}, 200)
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			slots <- struct{}{}
			requests.Go(func() {
				defer func() { <-slots }()
				injected, err := l.create(context.WithoutCancel(ctx))
				l.sent.Add(1)
				switch {
				case err != nil:
					l.mu.Lock()
					l.failed = append(l.failed, err)
					l.mu.Unlock()
				case !injected:
					l.bare.Add(1)
				}
			})
		}
	})
	t.Cleanup(func() { cancel(); l.done.Wait() })
	return l
}

func (l *load) create(ctx context.Context) (injected bool, err error) {
	labels := map[string]string{"app": "web"}
	d, err := shared.Client.AppsV1().Deployments(l.namespace).Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web", Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}}}}},
		metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return false, err
	}
	return d.Spec.Template.Annotations["evenkeel.dev/injected"] != "", nil
}

// result is what became of a load.
type result struct {
	sent, bare int64
	failed     []error
	calls      []string // that failed, as the API server logged them
	distrust   int      // of those, for the certificate
	late       int      // of those, since evenkeel did not answer within two seconds, as on a machine that has too much to do
}

func (r result) String() string {
	return fmt.Sprintf("%d created, %d failed, %d without defaults, %d calls failed in the API server's log, %d of them for the certificate and %d for the time", r.sent, len(r.failed), r.bare,
		len(r.calls), r.distrust, r.late)
}

// harmed reports whether anything failed, or went without defaults for another reason than that the machine was slow.
func (r result) harmed() bool {
	return len(r.failed) > 0 || r.distrust > 0 || len(r.calls) > r.late || r.bare > int64(r.late)
}

// stop ends the load.
func (l *load) stop(t *testing.T) result {
	t.Helper()
	l.cancel()
	l.done.Wait()
	r := result{sent: l.sent.Load(), bare: l.bare.Load(), failed: l.failed}
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
		if strings.Contains(line, "context deadline exceeded") {
			r.late++
		}
	}
	return r
}

// Package cluster starts a real Kubernetes control plane on this machine, without containers or anything installed:
// etcd, kube-apiserver, kube-controller-manager and kube-scheduler built from their Go modules, and kwok, which plays
// the kubelets of fake nodes. Several can run at once. It ends with Stop, and also when its process is killed.
//
// Open uses the cluster that KUBECONFIG names instead, if it is set.
package cluster

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"
)

// ErrEmbeddedOnly is what an operation returns that an existing cluster doesn't offer: restarting its API server,
// adding fake nodes to it, letting it call a webhook on this machine.
var ErrEmbeddedOnly = errors.New(
	"only the embedded control plane can do this, and KUBECONFIG names an existing cluster; unset it")

// FastControllers are flags with which the controller manager makes and deletes objects as fast as the API server takes
// them. Without them it runs with its defaults, as on other people's clusters: 20 calls a second of each controller,
// bursts of 30. A test that uses them says why.
func FastControllers() []string { return []string{"--kube-api-qps=500", "--kube-api-burst=1000"} }

// Config says what to start. Its zero value is a whole cluster without nodes.
type Config struct {
	// Components beside etcd and the API server, which always run: any of ControllerManager, Scheduler and Kwok. Nil
	// means all three, an empty slice none. Without the controller manager nothing creates the ServiceAccount "default"
	// of a namespace, which the API server wants before it admits a Pod.
	Components []string

	// Flags are added to a component's own, by its name: {APIServer: {"--feature-gates=…", "--v=2"}}.
	Flags map[string][]string

	// SchedulerConfig is a KubeSchedulerConfiguration in YAML; empty means the built-in profile. Its clientConnection
	// and leaderElection are filled in.
	SchedulerConfig string

	// APIServerVersion is the version of the API server, such as "v1.33.13"; empty means Version.
	// Another one takes minutes to build, the first time. The other components are always of Version,
	// which a controller manager newer than its API server isn't supported for: what they do to
	// workloads is enough to test admission. The scheduler acts as that of the API server's version,
	// since it would wait for ever for kinds that an older one doesn't serve (resource.k8s.io/v1
	// before 1.34).
	APIServerVersion string

	// Address is an address of this machine, other than a loopback one, at which real nodes and their pods reach the API
	// server; it then listens on all addresses, and the Service "kubernetes" leads to this one. Empty means loopback only.
	Address string

	// LogDir is where each component's output goes, as NAME.log; it is made if necessary and kept. Empty means a
	// directory that Stop removes.
	LogDir string

	// Assets is a directory with programs that are taken as they are, by their names, instead of being built: that of
	// KUBEBUILDER_ASSETS holds etcd, kube-apiserver and kubectl. Their version is then whatever it is. Empty means none.
	Assets string

	// Log gets the progress of builds and the news that a component ended by itself. Nil discards it.
	Log io.Writer
}

// Cluster is a running control plane, or a handle on an existing one.
type Cluster struct {
	Dir        string                // private temporary directory, which Stop removes
	Kubeconfig string                // path of a kubeconfig file whose user may do everything
	CAFile     string                // path of the certificates, in PEM, that the API server is verified with
	LogDir     string                // directory of the components' logs; empty for an existing cluster
	BinDir     string                // directory of the built programs; empty for an existing cluster
	Embedded   bool                  // false for an existing cluster
	Client     *kubernetes.Clientset // made from RESTConfig

	config        Config
	rest          *rest.Config
	ports         *portBlock
	reaper        *reaper
	apiServerPath string
	apiServer     []string // its flags, for a restart
	// controllerManager are its flags without those of Config, likewise.
	controllerManager []string

	mu        sync.Mutex
	processes map[string]*process
	stopped   bool
	nodes     int // fake nodes made so far, for their names
}

// Open returns a handle on the cluster that the environment variable KUBECONFIG names or, if it isn't set, starts the
// embedded one. What an existing cluster can't do returns ErrEmbeddedOnly; Components, Flags and SchedulerConfig aren't
// looked at for it.
func Open(ctx context.Context, config Config) (*Cluster, error) {
	if os.Getenv(clientcmd.RecommendedConfigPathEnvVar) == "" {
		return Start(ctx, config)
	}
	return existing(ctx, config)
}

// Start builds what isn't built yet, starts the components on free loopback ports and waits until the API server is
// ready (at most three minutes, on a busy machine) and, with a controller manager, the namespace "default" can take
// Pods. When it returns an error, which holds the end of the guilty component's log, nothing is left running.
func Start(ctx context.Context, config Config) (_ *Cluster, err error) {
	if config.Log == nil {
		config.Log = io.Discard
	}
	if config.Components == nil {
		config.Components = []string{ControllerManager, Scheduler, Kwok}
	}
	names := append([]string{Etcd, APIServer}, config.Components...)
	for _, name := range config.Components {
		if !slices.Contains([]string{ControllerManager, Scheduler, Kwok}, name) {
			return nil, fmt.Errorf("component %q: allowed are %s, %s and %s", name, ControllerManager, Scheduler, Kwok)
		}
	}
	for name := range config.Flags {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("flags for %q: not among the components %s", name, strings.Join(names, ", "))
		}
	}
	bin, err := Build(ctx, config.Log, Unbuilt(config.Assets, names...)...)
	if err != nil {
		return nil, err
	}

	apiServer := cmp.Or(asset(config.Assets, APIServer), filepath.Join(bin, APIServer))
	if v := config.APIServerVersion; v != "" && v != Version {
		if apiServer, err = buildAPIServer(ctx, config.Log, v); err != nil {
			return nil, err
		}
	}

	c := &Cluster{BinDir: bin, Embedded: true, apiServerPath: apiServer, config: config, processes: map[string]*process{}}
	if c.Dir, err = os.MkdirTemp("", "evenkeel-cluster-"); err != nil {
		return nil, fmt.Errorf("make cluster directory: %w", err)
	}
	if c.reaper, err = startReaper(c.Dir); err != nil {
		return nil, errors.Join(err, os.RemoveAll(c.Dir))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	if c.ports, err = reservePorts(); err != nil {
		return nil, err
	}
	if c.LogDir, err = filepath.Abs(config.LogDir); err != nil {
		return nil, err
	}
	if config.LogDir == "" {
		c.LogDir = filepath.Join(c.Dir, "logs")
	}
	if err := os.MkdirAll(c.LogDir, 0o755); err != nil {
		return nil, fmt.Errorf("make log directory: %w", err)
	}
	if err := c.startAll(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// startAll starts the components in the order in which they need each other.
func (c *Cluster) startAll(ctx context.Context) error {
	users, err := writeCredentials(c.Dir, c.config.Address)
	if err != nil {
		return err
	}
	if err := c.writeSchedulerConfig(); err != nil {
		return err
	}
	etcdURL, peerURL := "http://127.0.0.1:"+c.ports.take(), "http://127.0.0.1:"+c.ports.take()
	if err := c.start(Etcd,
		"--data-dir="+c.path("etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls="+etcdURL, "--advertise-client-urls="+etcdURL,
		"--listen-peer-urls="+peerURL, "--initial-advertise-peer-urls="+peerURL, "--initial-cluster=default="+peerURL,
	); err != nil {
		return err
	}

	port := c.ports.take()
	c.CAFile = c.path("ca.crt")
	server := "https://127.0.0.1:" + port
	for user, token := range users {
		if err := c.writeKubeconfig(user, server, token); err != nil {
			return err
		}
	}
	c.Kubeconfig = c.kubeconfig(admin)
	if err := c.connect(); err != nil {
		return err
	}
	c.apiServer = []string{
		"--etcd-servers=" + etcdURL,
		"--bind-address=127.0.0.1", "--secure-port=" + port,
		"--tls-cert-file=" + c.path("server.crt"), "--tls-private-key-file=" + c.path("server.key"),
		"--client-ca-file=" + c.CAFile,
		// Endpoints of the Service "kubernetes" may not be loopback addresses, and fake nodes don't need any.
		"--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
		"--token-auth-file=" + c.path("tokens.csv"), "--authorization-mode=RBAC", "--allow-privileged=true",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + c.path("sa.pub"), "--service-account-signing-key-file=" + c.path("sa.key"),
		"--service-cluster-ip-range=10.96.0.0/16",
		"--shutdown-watch-termination-grace-period=3s", // else the controllers' watches hold up StopAPIServer until it kills
	}
	if c.config.Address != "" { // the last of two flags wins
		c.apiServer = append(c.apiServer, "--bind-address=0.0.0.0", "--advertise-address="+c.config.Address,
			"--endpoint-reconciler-type=lease")
	}
	if err := c.start(APIServer, c.apiServer...); err != nil {
		return err
	}
	if err := c.waitReady(ctx); err != nil {
		return err
	}
	if err := c.startOthers(); err != nil {
		return err
	}
	if slices.Contains(c.config.Components, ControllerManager) {
		return c.waitDefaultNamespace(ctx)
	}
	return nil
}

// startOthers starts what talks to the API server.
func (c *Cluster) startOthers() error {
	for _, name := range c.config.Components {
		config := c.kubeconfig(name)
		var flags []string
		switch name {
		case ControllerManager:
			flags = []string{
				"--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
				"--bind-address=127.0.0.1", "--secure-port=" + c.ports.take(), "--cert-dir=" + c.path("certs-controller-manager"),
				"--leader-elect=false", "--use-service-account-credentials=true", "--root-ca-file=" + c.CAFile,
				"--cluster-signing-cert-file=" + c.CAFile, "--cluster-signing-key-file=" + c.path("ca.key"),
				"--service-account-private-key-file=" + c.path("sa.key"),
			}
			c.controllerManager = flags
		case Scheduler:
			flags = []string{
				"--config=" + c.path("scheduler.yaml"), "--authentication-kubeconfig=" + config,
				"--authorization-kubeconfig=" + config, "--bind-address=127.0.0.1", "--secure-port=" + c.ports.take(),
				"--cert-dir=" + c.path("certs-scheduler"),
			}
			if parts := strings.Split(strings.TrimPrefix(c.config.APIServerVersion, "v"), "."); len(parts) > 1 {
				flags = append(flags, "--emulated-version="+parts[0]+"."+parts[1])
			}
		case Kwok:
			file := c.path("kwok.yaml")
			if err := os.WriteFile(file, []byte(stages()), 0o600); err != nil {
				return fmt.Errorf("write kwok stages: %w", err)
			}
			flags = []string{
				"--kubeconfig=" + config, "--config=" + file, "--manage-all-nodes=true", "--node-lease-duration-seconds=40",
			}
		}
		if err := c.start(name, flags...); err != nil {
			return err
		}
	}
	return nil
}

// start starts one component with these flags and those of the Config, and watches over it.
func (c *Cluster) start(name string, flags ...string) error {
	program := cmp.Or(asset(c.config.Assets, name), filepath.Join(c.BinDir, name))
	if name == APIServer {
		program = c.apiServerPath
	}
	return c.StartProgram(name, slices.Concat([]string{program}, flags, c.config.Flags[name])...)
}

// StartProgram starts a program beside the components, a webhook for example: it ends with the cluster, its output goes
// to LogDir as NAME.log, and PIDs lists it. No other running program may have that name.
func (c *Cluster) StartProgram(name string, command ...string) error {
	if c.reaper == nil {
		return fmt.Errorf("start %s: %w", name, ErrEmbeddedOnly)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return errors.New("the cluster is stopped")
	}
	if p := c.processes[name]; p != nil && !p.exited() {
		return fmt.Errorf("start %s: it is running already", name)
	}
	p, err := startProcess(name, filepath.Join(c.LogDir, name+".log"), command...)
	if err != nil {
		return err
	}
	c.processes[name] = p
	if err := c.reaper.watch(p.pid); err != nil {
		return fmt.Errorf("tell reaper of %s: %w", name, err)
	}
	go func() {
		<-p.done
		c.reaper.forget(p.pid)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.processes[name] == p { // nobody stopped it
			fmt.Fprintf(c.config.Log, "%v\n", p.exitError())
		}
	}()
	return nil
}

// process returns a running component, or nil.
func (c *Cluster) process(name string) *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.processes[name]
}

// stopProcess ends a component and doesn't complain if it isn't running.
func (c *Cluster) stopProcess(name string, signal syscall.Signal, grace time.Duration) {
	c.mu.Lock()
	p := c.processes[name]
	delete(c.processes, name)
	c.mu.Unlock()
	if p != nil {
		p.stop(signal, grace)
	}
}

// RestartControllerManager ends the controller manager and starts it again with these flags beside its own: a test may
// need many objects at once, and then a controller manager with its defaults.
func (c *Cluster) RestartControllerManager(flags ...string) error {
	if c.reaper == nil {
		return fmt.Errorf("restart %s: %w", ControllerManager, ErrEmbeddedOnly)
	}
	c.stopProcess(ControllerManager, syscall.SIGTERM, 10*time.Second)
	program := filepath.Join(c.BinDir, ControllerManager)
	return c.StartProgram(ControllerManager, slices.Concat([]string{program}, c.controllerManager, flags)...)
}

// StopProgram sends the signal to a program that StartProgram started, waits, and kills it after grace. It does nothing
// when the program doesn't run.
func (c *Cluster) StopProgram(name string, signal syscall.Signal, grace time.Duration) {
	c.stopProcess(name, signal, grace)
}

// PIDs returns the process id of each running component by its name; for an existing cluster none.
func (c *Cluster) PIDs() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	pids := map[string]int{}
	for name, p := range c.processes {
		if !p.exited() {
			pids[name] = p.pid
		}
	}
	return pids
}

// RESTConfig returns a configuration for client-go without a client-side rate limit, of a user who may do everything.
// It is a copy; the caller may change it.
func (c *Cluster) RESTConfig() *rest.Config { return rest.CopyConfig(c.rest) }

// StopAPIServer ends the API server as an upgrade does, by SIGTERM, and waits for it (ten seconds, then it is killed).
// What it stored stays in etcd.
func (c *Cluster) StopAPIServer(context.Context) error {
	if !c.Embedded {
		return fmt.Errorf("stop API server: %w", ErrEmbeddedOnly)
	}
	c.stopProcess(APIServer, syscall.SIGTERM, 10*time.Second)
	return nil
}

// StartAPIServer starts the API server again, after StopAPIServer, at the same address with the same data and
// certificate, and waits until it is ready.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	if !c.Embedded {
		return fmt.Errorf("start API server: %w", ErrEmbeddedOnly)
	}
	if err := c.start(APIServer, c.apiServer...); err != nil {
		return err
	}
	return c.waitReady(ctx)
}

// Stop kills every component, waits until it is gone, and removes the directory. The second call does nothing. An
// existing cluster keeps running.
func (c *Cluster) Stop() error {
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return nil
	}
	c.stopped = true
	processes := c.processes
	c.processes = nil
	c.mu.Unlock()

	var wait sync.WaitGroup
	for _, p := range processes {
		wait.Go(func() { p.stop(syscall.SIGKILL, 0) }) // the data goes too: nothing to shut down in order
	}
	wait.Wait()
	if c.ports != nil {
		_ = c.ports.guard.Close()
	}
	var err error
	if c.reaper != nil {
		err = c.reaper.finish()
	}
	return errors.Join(err, os.RemoveAll(c.Dir))
}

// KubectlCommand returns a kubectl command for the cluster, of the same version as the embedded control plane, with
// caches of its own; the caller sets its input and output and runs it. It builds kubectl if necessary.
func (c *Cluster) KubectlCommand(ctx context.Context, args ...string) (*exec.Cmd, error) {
	kubectl := asset(c.config.Assets, Kubectl)
	if kubectl == "" {
		bin, err := Build(ctx, c.config.Log, Kubectl)
		if err != nil {
			return nil, err
		}
		kubectl = filepath.Join(bin, Kubectl)
	}
	cmd := exec.CommandContext(ctx, kubectl, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig, "KUBECACHEDIR="+c.path("kubectl-cache"))
	return cmd, nil
}

// HelmCommand returns a helm command for the cluster of a kubeconfig, or for none if that is "". What helm keeps, such
// as its caches and plugins, is in dir. It builds helm if necessary.
func HelmCommand(ctx context.Context, dir, kubeconfig string, args ...string) (*exec.Cmd, error) {
	bin, err := Build(ctx, os.Stderr, Helm)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(bin, Helm), args...)
	home := filepath.Join(dir, "helm")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+cmp.Or(kubeconfig, os.DevNull), "HELM_CACHE_HOME="+home,
		"HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	return cmd, nil
}

// Run runs what KubectlCommand or HelmCommand returned, and returns its standard output. The error of a command that
// fails holds all that it wrote, and of its arguments only the first: what tests look for in an error isn't their own.
func Run(cmd *exec.Cmd, err error) (string, error) {
	if err != nil {
		return "", err
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s%s", filepath.Base(cmd.Path), cmd.Args[1], err, out, &stderr)
	}
	return string(out), err
}

// Apply runs kubectl apply with a manifest as its input.
func (c *Cluster) Apply(ctx context.Context, manifest string, args ...string) error {
	cmd, err := c.KubectlCommand(ctx, append([]string{"apply", "--filename=-"}, args...)...)
	if err == nil {
		cmd.Stdin = strings.NewReader(manifest)
	}
	_, err = Run(cmd, err)
	return err
}

// WebhookService makes a Service through which the API server reaches a webhook that listens on this machine's loopback
// interface: a MutatingWebhookConfiguration names it, with the same port, in clientConfig.service, and the webhook's
// certificate is for NAME.NAMESPACE.svc. The namespace is made if it doesn't exist, an existing Service is replaced.
func (c *Cluster) WebhookService(ctx context.Context, namespace, name string, port int) error {
	if !c.Embedded {
		return fmt.Errorf("make webhook service: %w", ErrEmbeddedOnly)
	}
	_, err := c.Client.CoreV1().Namespaces().Create(ctx,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make namespace %s: %w", namespace, err)
	}
	services := c.Client.CoreV1().Services(namespace)
	err = services.Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete service %s/%s: %w", namespace, name, err)
	}
	_, err = services.Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Type:         corev1.ServiceTypeExternalName,
			ExternalName: "localhost",
			Ports:        []corev1.ServicePort{{Port: int32(port)}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make service %s/%s: %w", namespace, name, err)
	}
	return nil
}

// waitReady polls /readyz until it answers 200, the API server or etcd ends, or three minutes have passed.
func (c *Cluster) waitReady(ctx context.Context) error {
	err := c.poll(ctx, func(ctx context.Context) error {
		return c.Client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
	if err != nil {
		return fmt.Errorf("wait until the API server is ready: %w", err)
	}
	return nil
}

// waitDefaultNamespace waits until the controllers have made what a Pod in the namespace "default" needs.
func (c *Cluster) waitDefaultNamespace(ctx context.Context) error {
	err := c.poll(ctx, func(ctx context.Context) error {
		_, err := c.Client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		if err != nil {
			return err
		}
		_, err = c.Client.CoreV1().ConfigMaps("default").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for the service account of the namespace default: %w", err)
	}
	return nil
}

// poll tries for three minutes at most, and no longer than every component runs.
func (c *Cluster) poll(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		c.mu.Lock()
		processes := slices.Collect(maps.Values(c.processes))
		c.mu.Unlock()
		for _, p := range processes {
			if p.exited() {
				return p.exitError()
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if p := c.process(APIServer); p != nil {
				return fmt.Errorf("%w; last: %w; the end of the API server's log:\n%s", ctx.Err(), err, p.lastLines())
			}
			return fmt.Errorf("%w; last: %w", ctx.Err(), err)
		}
	}
}

// connect loads the kubeconfig.
func (c *Cluster) connect() error {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return fmt.Errorf("load kubeconfig: %w", err)
	}
	config.QPS, config.Burst = -1, -1 // no limit
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	c.rest, c.Client = config, client
	return nil
}

func (c *Cluster) path(elements ...string) string {
	return filepath.Join(append([]string{c.Dir}, elements...)...)
}

// writeSchedulerConfig completes the configured KubeSchedulerConfiguration and writes it to scheduler.yaml.
func (c *Cluster) writeSchedulerConfig() error {
	config := map[string]any{
		"apiVersion": "kubescheduler.config.k8s.io/v1",
		"kind":       "KubeSchedulerConfiguration",
	}
	if err := yaml.UnmarshalStrict([]byte(c.config.SchedulerConfig), &config); err != nil {
		return fmt.Errorf("read SchedulerConfig: %w", err)
	}
	config["clientConnection"] = map[string]any{"kubeconfig": c.kubeconfig(Scheduler), "qps": 500, "burst": 1000}
	config["leaderElection"] = map[string]any{"leaderElect": false}
	content, err := yaml.Marshal(config)
	if err != nil {
		return err
	}
	return os.WriteFile(c.path("scheduler.yaml"), content, 0o600)
}

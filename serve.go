package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/certs"
	"github.com/evenkeel/evenkeel/lease"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/pdb"
	"github.com/evenkeel/evenkeel/policy"
	"github.com/evenkeel/evenkeel/recycle"
	"github.com/evenkeel/evenkeel/webhook"
)

// serveOptions are the flags of serve.
type serveOptions struct {
	policy            policyFlags
	listen            string
	metricsListen     string
	certFile, keyFile string
	clientCAFile      string
	clientNames       []string
	kubeconfig        string
	namespaceSelector string
	logLevel          string
	drainTimeout      time.Duration
	recycleRequests   int
	recycleAge        time.Duration
	budgets           bool
	scanInterval      time.Duration
	namespace         string
	leaseDuration     time.Duration
	authorities       authorityFlags
}

func newServeCommand() *cobra.Command {
	o := &serveOptions{}
	command := &cobra.Command{
		Use:   "serve",
		Short: "Run the admission webhook and the budget controller",
		Long: `Run the admission webhook and the controller of disruption budgets.

Reviews are answered over HTTPS at /mutate. /livez, /readyz and /metrics are
answered over plain HTTP on a port of their own. On SIGTERM the server reports
that it is not ready, goes on answering, asks its clients to go, and exits when no
connection is left.

With OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, reviews
that the API server traces are traced, over OTLP in protobuf over HTTP. The other
standard variables of OpenTelemetry apply.`,
		Args: noArguments,
		RunE: func(command *cobra.Command, _ []string) error {
			return o.run(command.Context(), command.ErrOrStderr())
		},
	}
	fs := command.Flags()
	fs.StringVar(&o.listen, "listen", ":8443", "`address` of the webhook, HTTPS")
	fs.StringVar(&o.metricsListen, "metrics-listen", ":8080", "`address` of /livez, /readyz and /metrics, HTTP")
	fs.StringVar(&o.certFile, "tls-cert-file", "", "PEM `file` with the serving certificate, read again when it changes; without it evenkeel makes its own")
	fs.StringVar(&o.keyFile, "tls-key-file", "", "PEM `file` with its key")
	fs.StringVar(&o.clientCAFile, "client-ca-file", "", "PEM `file` with the authorities that sign the API server's client certificate, read again when it changes; without it whoever reaches the port is answered")
	fs.StringSliceVar(&o.clientNames, "client-name", nil, "common `name` that a client's certificate has to have, with --client-ca-file; repeat it, or separate names by commas; without it any will do")
	o.authorities.register(fs)
	fs.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig `file`; without it the pod's service account, or else KUBECONFIG")
	fs.StringVar(&o.namespaceSelector, "namespace-selector", policy.InjectLabel+"="+policy.Enabled,
		"label `selector` of the opted-in Namespaces; the same as in the webhook configuration. kube-system and --namespace never are")
	fs.StringVar(&o.logLevel, "log-level", "info", "`level` of the log: debug (a line per review), info, warning, error")
	fs.DurationVar(&o.drainTimeout, "drain-timeout", 25*time.Second, "how long to go on answering after SIGTERM at most; less than the pod's grace period without its preStop sleep")
	fs.IntVar(&o.recycleRequests, "recycle-requests", 1000, "requests after which a connection is closed, so that new replicas get their share; 0 is no limit")
	fs.DurationVar(&o.recycleAge, "recycle-age", 5*time.Minute, "age at which a connection is closed; 0 is no limit")
	fs.BoolVar(&o.budgets, "budgets", true, "keep a PodDisruptionBudget for each workload that can have one; one replica works, by leader election")
	fs.DurationVar(&o.scanInterval, "scan-interval", 20*time.Second, "time between two scans for workloads and pods that admission has missed; 0 is none")
	fs.StringVar(&o.namespace, "namespace", "evenkeel-system", "`namespace` that evenkeel runs in: that of its Lease, its Service and its Secret")
	fs.DurationVar(&o.leaseDuration, "lease-duration", 15*time.Second, "how long a leader that died holds the others up; at least 1s")
	o.policy.register(fs)
	return command
}

// leaseName is the Lease that the replicas elect a leader by.
const leaseName = "evenkeel"

// authorityFlags are the flags of self-managed certificates.
type authorityFlags struct {
	secret, webhookConfiguration, service string
	lifetimes                             certs.Lifetimes
}

func (a *authorityFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&a.secret, "authority-secret", "evenkeel-authority", "`name` of the Secret with the certificate authorities that evenkeel makes")
	fs.StringVar(&a.webhookConfiguration, "webhook-configuration", "evenkeel", "`name` of the MutatingWebhookConfiguration that gets their caBundle")
	fs.StringVar(&a.service, "service", "evenkeel", "`name` of the Service that the API server calls")
	fs.DurationVar(&a.lifetimes.Authority, "authority-lifetime", 365*24*time.Hour, "how long a certificate authority lasts; it is replaced when two thirds are over")
	fs.DurationVar(&a.lifetimes.Leaf, "certificate-lifetime", 24*time.Hour, "how long a serving certificate lasts; it is replaced when two thirds are over")
	fs.DurationVar(&a.lifetimes.Settle, "settle-time", time.Minute, "how long an authority stands in the caBundle before anybody serves with it")
}

// certificates is where the serving certificate comes from.
type certificates interface {
	Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Ready() error
}

// run serves until ctx ends and the drain after it is done.
func (o *serveOptions) run(ctx context.Context, logs io.Writer) error {
	config, err := o.policy.config()
	if err != nil {
		return err
	}
	level, err := logrus.ParseLevel(o.logLevel)
	if err != nil {
		return usageError{fmt.Errorf("--log-level=%q is no level; allowed: debug, info, warning, error", o.logLevel)}
	}
	selector, err := labels.Parse(o.namespaceSelector)
	if err != nil {
		return usageError{fmt.Errorf("--namespace-selector=%q is no label selector: %w", o.namespaceSelector, err)}
	}
	logger := logrus.New()
	logger.SetLevel(level)
	if level < logrus.DebugLevel {
		logs = newBoundedLog(logs)
	}
	logger.SetOutput(logs)
	logger.SetFormatter(&logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano})
	log := logrus.NewEntry(logger)

	var clients *certs.Clients
	switch {
	case o.clientCAFile != "":
		if clients, err = certs.NewClients(o.clientCAFile, o.clientNames, log); err != nil {
			return usageError{err}
		}
	case len(o.clientNames) > 0:
		return usageError{errors.New("--client-name without --client-ca-file: nothing says who may give out that name")}
	}

	webhook.KeepHeap(ctx, webhook.MinHeap)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	injector, err := patches.New(config)
	if err != nil {
		return usageError{err}
	}
	restConfig, err := o.restConfig()
	if err != nil {
		return err
	}
	facts, err := webhook.NewFacts(restConfig, selector, log)
	if err != nil {
		return fmt.Errorf("watch the cluster: %w", err)
	}
	var serving certificates
	var keepServing func(context.Context)
	var lead []func(context.Context) error // what the leader does
	if o.certFile != "" || o.keyFile != "" {
		files, err := certs.NewFiles(o.certFile, o.keyFile, log)
		if err != nil {
			return usageError{err}
		}
		if err := files.Register(registry); err != nil {
			return err
		}
		serving, keepServing = files, files.Run
	} else {
		own, err := certs.NewSelfManaged(certs.SelfManagedConfig{REST: restConfig, Namespace: o.namespace, Secret: o.authorities.secret,
			WebhookConfiguration: o.authorities.webhookConfiguration, Host: o.authorities.service + "." + o.namespace + ".svc",
			Lifetimes: o.authorities.lifetimes, Log: log, Registerer: registry})
		if err != nil {
			return usageError{err}
		}
		serving, keepServing = own, own.Run
		lead = append(lead, own.Lead)
	}
	reviews := webhook.Config{Injector: injector, Namespace: facts.Namespace, OptedOut: facts.OptedOut, Cluster: facts.Cluster,
		Log: log, Registerer: registry}
	traces, err := newTraces(ctx, log)
	if err != nil {
		return usageError{err}
	}
	if traces != nil {
		reviews.Tracer = traces.Tracer("github.com/evenkeel/evenkeel/webhook")
	}
	handler, err := webhook.Handler(reviews)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/mutate", handler)
	server := reviewServer(mux, serving.Certificate, log)
	if clients != nil {
		clients.Require(server.TLSConfig)
	}
	recycler, err := recycle.Wrap(server, recycle.Options{MaxRequests: o.recycleRequests, MaxAge: o.recycleAge,
		OnClose: countClosed(registry)})
	if err != nil {
		return usageError{fmt.Errorf("recycle connections: %w", err)}
	}
	except := []string{metav1.NamespaceSystem, o.namespace} // as in the webhook configuration
	if o.budgets {
		budgets, err := pdb.New(pdb.Config{REST: restConfig, Base: config.Base, Bounds: config.Bounds, NamespaceSelector: selector, Except: except,
			Log: log, Registerer: registry})
		if err != nil {
			return fmt.Errorf("keep budgets: %w", err)
		}
		lead = append(lead, budgets.Lead)
	}
	if o.scanInterval != 0 {
		scan, err := audit.NewScan(audit.ScanConfig{REST: restConfig, Injector: injector, Ready: facts.Ready, Cluster: facts.Cluster, OptedOut: facts.OptedOut,
			NamespaceSelector: selector, Except: except, Interval: o.scanInterval, Log: log, Registerer: registry})
		if err != nil {
			return usageError{err}
		}
		lead = append(lead, scan.Lead)
	}
	hostname, err := os.Hostname() // in a pod its name
	if err != nil {
		return fmt.Errorf("find own name for leader election: %w", err)
	}
	election, err := lease.New(lease.Config{REST: restConfig, Namespace: o.namespace, Name: leaseName, Identity: fmt.Sprintf("%s-%d", hostname, os.Getpid()),
		Duration: o.leaseDuration, Log: log})
	if err != nil {
		return usageError{err}
	}
	ready := func() error {
		if recycler.Draining() {
			return errors.New("draining")
		}
		if clients != nil && clients.Ready() != nil {
			return clients.Ready()
		}
		return errors.Join(serving.Ready(), facts.Ready())
	}
	registerState(registry, ready)
	metricsServer := newServer(operations(ready, registry), log)
	metricsServer.IdleTimeout = 10 * time.Second // the kubelet opens a connection for each probe, and Prometheus opens another

	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listen for reviews: %w", err)
	}
	metricsListener, err := net.Listen("tcp", o.metricsListen)
	if err != nil {
		_ = listener.Close()
		return fmt.Errorf("listen for metrics: %w", err)
	}
	limited, err := webhook.LimitConnections(listener, server, webhook.PortWebhook, registry)
	if err != nil {
		return err
	}
	limitedMetrics, err := webhook.LimitConnections(metricsListener, metricsServer, webhook.PortMetrics, registry)
	if err != nil {
		return err
	}
	v, _ := build()
	log.WithFields(logrus.Fields{"version": v, "address": listener.Addr().String(), "metricsAddress": metricsListener.Addr().String()}).Info("serving")

	// What a review needs goes on until the drain is done: background ends last.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, failed := errgroup.WithContext(background)
	group.Go(func() error { keepServing(background); return nil })
	group.Go(func() error { facts.Run(background); return nil })
	if clients != nil {
		group.Go(func() error { clients.Run(background); return nil })
	}
	if len(lead) > 0 {
		group.Go(func() error {
			return election.Run(background, func(ctx context.Context) { together(ctx, lead, log) })
		})
	}
	group.Go(func() error { return serveUntilClosed(server.ServeTLS(limited, "", "")) })
	group.Go(func() error { return serveUntilClosed(metricsServer.Serve(limitedMetrics)) })
	group.Go(func() error {
		defer stop()
		select {
		case <-ctx.Done():
		case <-failed.Done(): // a server could not serve
		}
		log.Info("draining")
		drain, cancel := context.WithTimeout(background, o.drainTimeout)
		defer cancel()
		err := recycler.Drain(drain)
		_ = metricsServer.Close()
		return err
	})
	err = group.Wait()
	if traces != nil {
		flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
		defer cancel()
		if err := traces.Shutdown(flush); err != nil {
			log.WithError(err).Warning("spans dropped")
		}
	}
	log.Info("stopped")
	return err
}

// together calls all functions at once, logs their errors, and returns when all are
// over. An error of one does not end the others.
func together(ctx context.Context, functions []func(context.Context) error, log *logrus.Entry) {
	var group sync.WaitGroup
	for _, f := range functions {
		group.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				log.WithError(err).Error("part of the leader's work not done")
			}
		})
	}
	group.Wait()
}

// restConfig returns how to reach the API server.
func (o *serveOptions) restConfig() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig() // tries the service account too
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	config.UserAgent = "evenkeel"
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	return config, nil
}

// reviewServer returns the server of reviews. It speaks HTTP/1.1 alone, as
// kube-apiserver does to webhooks behind a Service: what one connection can have going
// on is bounded by the number of connections then, and not by 250 streams of each.
func reviewServer(handler http.Handler, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error), log *logrus.Entry) *http.Server {
	server := newServer(handler, log)
	server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: certificate}
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP1(true)
	return server
}

// newServer returns an HTTP server with limits that hold against slow and greedy
// clients. kube-apiserver drops a connection that idles for 90 s, so ours wait
// longer: the side that closes first loses no request.
func newServer(handler http.Handler, log *logrus.Entry) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second, // within a cluster a review takes milliseconds
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       120 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          stdlog.New(httpErrors{log}, "", 0),
	}
}

// httpErrors writes what net/http has to say about a connection to the debug log.
type httpErrors struct{ log *logrus.Entry }

func (h httpErrors) Write(line []byte) (int, error) {
	h.log.WithField("cause", string(line[:min(len(line), 200)])).Debug("connection")
	return len(line), nil
}

func serveUntilClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve: %w", err)
}

// maxScrapes bounds the answers to /metrics that are being made. Each takes some
// hundred KiB, and compressing it would take a MiB.
const maxScrapes = 8

// operations answers the kubelet's probes and Prometheus. Whoever reaches the port is
// answered, so that what an answer takes is bounded.
func operations(ready func() error, registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes, DisableCompression: true}))
	return mux
}

// registerState registers what can be known of a replica before it has done
// anything: which build it is, and whether it can serve.
func registerState(registry *prometheus.Registry, ready func() error) {
	v, _ := build()
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "evenkeel_build_info",
		Help: "Always 1, with the version of evenkeel and the version of Go that built it.",
	}, []string{"version", "go"})
	info.WithLabelValues(v, runtime.Version()).Set(1)
	registry.MustRegister(info, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "evenkeel_ready",
		Help: "1 where this replica can serve, as /readyz says, else 0.",
	}, func() float64 {
		if ready() != nil {
			return 0
		}
		return 1
	}))
}

// countClosed returns a hook that counts connections that have ended.
func countClosed(registry *prometheus.Registry) func(recycle.Closed) {
	closed := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "evenkeel_connections_closed_total",
		Help: "Connections to the webhook that have ended, by the reason that the server had to end them: requests, age, drain, or other.",
	}, []string{"reason"})
	registry.MustRegister(closed)
	return func(c recycle.Closed) { closed.WithLabelValues(c.Reason.String()).Inc() }
}

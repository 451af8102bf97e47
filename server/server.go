// Package server is evenkeel in a cluster: the admission webhook, the work of the leader, and
// the port for probes and metrics, put together from a Config.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/sirupsen/logrus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/certs"
	"github.com/evenkeel/evenkeel/lease"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/pdb"
	"github.com/evenkeel/evenkeel/recycle"
	"github.com/evenkeel/evenkeel/scalein"
	"github.com/evenkeel/evenkeel/surge"
	"github.com/evenkeel/evenkeel/webhook"
	"github.com/evenkeel/evenkeel/withdraw"
)

// leaseName is the Lease that the replicas elect a leader by.
const leaseName = "evenkeel"

// Config says how to serve.
type Config struct {
	// Version is the version of this binary, for the log, the metrics and the traces.
	Version string
	// Policy is the operator's configuration.
	Policy patches.Config
	// REST says how to reach the API server.
	REST *rest.Config
	// Namespace is the namespace that evenkeel runs in.
	Namespace string
	// NamespaceSelector selects the opted-in Namespaces.
	NamespaceSelector labels.Selector
	Log               *logrus.Entry

	// Listen is the address of the webhook, MetricsListen that of probes and metrics.
	Listen, MetricsListen string
	// CertFile and KeyFile hold the serving certificate. Without both, evenkeel makes its own.
	CertFile, KeyFile string
	// Authorities says where evenkeel keeps the authorities that it makes.
	Authorities Authorities
	// ClientCAFile holds the authorities of client certificates; "" accepts every client.
	ClientCAFile string
	// ClientNames are the common names that a client may have; none accepts every name.
	ClientNames []string
	// Recycle says when a connection is closed, so that new replicas get their share.
	Recycle recycle.Options
	// DrainTimeout is the longest time to go on answering after ctx has ended.
	DrainTimeout time.Duration

	// Budgets turns the budget controller on.
	Budgets bool
	// Surge answers reviews of evictions at /evict; SurgePatience is how long a drain may be held.
	Surge         bool
	SurgePatience time.Duration
	// KeepZones turns on the controller that keeps the zones of workloads that are scaled in.
	KeepZones bool
	// ScanInterval is the time between two scans; 0 turns them off.
	ScanInterval time.Duration
	// ProbePatience is how long a container with a guessed probe may be up without ever getting
	// ready before the probe is withdrawn; 0 for ever.
	ProbePatience time.Duration
	// LeaseDuration is how long a leader that died holds the others up.
	LeaseDuration time.Duration
}

// Authorities names the objects that self-managed certificates live in.
type Authorities struct {
	Secret, Service string
	// WebhookConfigurations are the names of those that get the bundle.
	WebhookConfigurations []string
	Lifetimes             certs.Lifetimes
}

// InvalidError is an error in the Config, as opposed to a failure of the machine or cluster.
type InvalidError struct{ error }

// Unwrap returns the cause.
func (e InvalidError) Unwrap() error { return e.error }

// certificates is where the serving certificate comes from.
type certificates interface {
	Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Ready() error
	Run(context.Context)
}

// server is everything that runs, put together but not started.
type server struct {
	config    Config
	registry  *prometheus.Registry
	facts     *webhook.Facts
	revisions *webhook.Revisions
	limits    *webhook.Limits
	clock     *clock
	services  *webhook.Services
	notes     *withdraw.Notes
	serving   certificates
	clients   *certs.Clients           // nil accepts every client
	traces    *sdktrace.TracerProvider // nil makes none
	election  *lease.Election
	lead      []func(context.Context) error // the work of the leader
	reviews   *http.Server
	recycler  *recycle.Recycler
	metrics   *http.Server
}

// Run serves until ctx ends and the drain after it is done.
func Run(ctx context.Context, config Config) error {
	webhook.KeepHeap(ctx, webhook.MinHeap)
	s, err := assemble(ctx, config)
	if err != nil {
		return err
	}
	reviews, metrics, err := s.listen()
	if err != nil {
		return err
	}
	return s.run(ctx, reviews, metrics)
}

// assemble makes all parts. It opens no port and calls no API.
func assemble(ctx context.Context, config Config) (*server, error) {
	s := &server{config: config, registry: prometheus.NewRegistry(), limits: webhook.NewLimits(), clock: &clock{}}
	s.registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	// No part waits for the requests of another: the API server's own limits are enough.
	unlimited := rest.CopyConfig(config.REST)
	unlimited.QPS = -1
	unlimited.Wrap(s.clock.compare)
	client, err := kubernetes.NewForConfig(unlimited)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	objects, err := metadata.NewForConfig(unlimited)
	if err != nil {
		return nil, fmt.Errorf("make metadata client: %w", err)
	}
	changes, err := dynamic.NewForConfig(unlimited)
	if err != nil {
		return nil, fmt.Errorf("make dynamic client: %w", err)
	}
	s.revisions = webhook.NewRevisions(client, changes, config.Log)
	s.services = webhook.NewServices(client, config.Log)
	if s.notes, err = withdraw.NewNotes(client, config.Namespace); err != nil {
		return nil, err
	}
	if s.facts, err = webhook.NewFacts(client, objects, config.NamespaceSelector, config.Log); err != nil {
		return nil, fmt.Errorf("watch the cluster: %w", err)
	}
	injector, err := patches.New(config.Policy)
	if err != nil {
		return nil, InvalidError{err}
	}
	if err := s.addCertificates(client); err != nil {
		return nil, err
	}
	if s.traces, err = newTraces(ctx, config.Version, config.Log); err != nil {
		return nil, InvalidError{err}
	}
	if err := s.addReviews(client, injector); err != nil {
		return nil, err
	}
	if err := s.addLeader(clients{client, objects, changes}, injector); err != nil {
		return nil, err
	}
	registerState(s.registry, config.Version, s.ready)
	s.metrics = newServer(operations(s.ready, s.registry), config.Log)
	s.metrics.IdleTimeout = 10 * time.Second // the kubelet opens a connection for each probe, and so does Prometheus
	return s, nil
}

// addCertificates sets up the serving certificate and what clients must show.
func (s *server) addCertificates(client kubernetes.Interface) error {
	c := s.config
	switch {
	case c.ClientCAFile != "":
		var err error
		if s.clients, err = certs.NewClients(c.ClientCAFile, c.ClientNames, c.Log); err != nil {
			return InvalidError{err}
		}
	case len(c.ClientNames) > 0:
		return InvalidError{errors.New("--client-name without --client-ca-file: nothing says who may give out that name")}
	}
	if c.CertFile != "" || c.KeyFile != "" {
		files, err := certs.NewFiles(c.CertFile, c.KeyFile, c.Log)
		if err != nil {
			return InvalidError{err}
		}
		s.serving = files
		return files.Register(s.registry)
	}
	own, err := certs.NewSelfManaged(certs.SelfManagedConfig{Client: client, Namespace: c.Namespace,
		Secret: c.Authorities.Secret, WebhookConfigurations: c.Authorities.WebhookConfigurations,
		Host:      c.Authorities.Service + "." + c.Namespace + ".svc",
		Lifetimes: c.Authorities.Lifetimes, Log: c.Log, Registerer: s.registry})
	if err != nil {
		return InvalidError{err}
	}
	s.serving = own
	s.lead = append(s.lead, own.Lead)
	return nil
}

// addReviews sets up the webhook's server.
func (s *server) addReviews(client kubernetes.Interface, injector *patches.Injector) error {
	config := webhook.Config{Injector: injector, Namespace: s.facts.Namespace, OptedOut: s.facts.OptedOut,
		Ran: s.revisions.Ran, Services: s.services.Of, Noted: s.notes.Of,
		Cluster: s.facts.Cluster, Limits: s.limits, Log: s.config.Log, Registerer: s.registry}
	if s.traces != nil {
		config.Tracer = s.traces.Tracer("github.com/evenkeel/evenkeel/webhook")
	}
	handler, err := webhook.Handler(config)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/mutate", handler)
	if c := s.config; c.Surge {
		evictions, err := surge.New(
			surge.Config{Client: client, Namespace: s.facts.Namespace, Base: c.Policy.Base, Bounds: c.Policy.Bounds,
				Patience: c.SurgePatience, Log: c.Log, Registerer: s.registry})
		if err != nil {
			return InvalidError{err}
		}
		mux.Handle("/evict", evictions)
	}
	s.reviews = reviewServer(mux, s.serving.Certificate, s.config.Log)
	if s.clients != nil {
		s.clients.Require(s.reviews.TLSConfig)
	}
	options := s.config.Recycle
	options.OnClose = countClosed(s.registry)
	if s.recycler, err = recycle.Wrap(s.reviews, options); err != nil {
		return InvalidError{fmt.Errorf("recycle connections: %w", err)}
	}
	return nil
}

// clients reach the API server.
type clients struct {
	typed    kubernetes.Interface
	metadata metadata.Interface
	dynamic  dynamic.Interface
}

// addLeader sets up the work of the leader and the election.
func (s *server) addLeader(reach clients, injector *patches.Injector) error {
	c := s.config
	except := []string{metav1.NamespaceSystem, c.Namespace} // as in the webhook configuration
	if c.Budgets {
		budgets, err := pdb.New(pdb.Config{Client: reach.typed, Metadata: reach.metadata, Dynamic: reach.dynamic,
			Instance: c.Namespace, Base: c.Policy.Base, Bounds: c.Policy.Bounds,
			NamespaceSelector: c.NamespaceSelector, Except: except, Log: c.Log, Registerer: s.registry})
		if err != nil {
			return fmt.Errorf("keep budgets: %w", err)
		}
		s.lead = append(s.lead, budgets.Lead)
	}
	if c.KeepZones {
		zones, err := scalein.New(
			scalein.Config{Client: reach.typed, Metadata: reach.metadata, NamespaceSelector: c.NamespaceSelector,
				Except: except, OptedOut: s.facts.OptedOut, Log: c.Log, Registerer: s.registry})
		if err != nil {
			return fmt.Errorf("keep zones: %w", err)
		}
		s.lead = append(s.lead, zones.Lead)
	}
	if c.ScanInterval != 0 {
		scan, err := audit.NewScan(audit.ScanConfig{Client: reach.typed, Injector: injector,
			Ready:   func() error { return errors.Join(s.facts.Ready(), s.services.Ready()) },
			Cluster: s.facts.Cluster, OptedOut: s.facts.OptedOut, Services: s.services.Of,
			NamespaceSelector: c.NamespaceSelector,
			Except:            except, Interval: c.ScanInterval, Log: c.Log, Registerer: s.registry})
		if err != nil {
			return InvalidError{err}
		}
		s.lead = append(s.lead, scan.Lead)
	}
	watch, err := withdraw.New(withdraw.Config{Client: reach.typed, Injector: injector, Notes: s.notes,
		NamespaceSelector: c.NamespaceSelector, Except: except, Patience: c.ProbePatience, Log: c.Log,
		Registerer: s.registry})
	if err != nil {
		return InvalidError{err}
	}
	s.lead = append(s.lead, watch.Lead)
	hostname, err := os.Hostname() // in a pod its name
	if err != nil {
		return fmt.Errorf("find own name for leader election: %w", err)
	}
	s.election, err = lease.New(lease.Config{Client: reach.typed, Namespace: c.Namespace, Name: leaseName,
		Identity: fmt.Sprintf("%s-%d", hostname, os.Getpid()), Duration: c.LeaseDuration, Log: c.Log})
	if err != nil {
		return InvalidError{err}
	}
	return nil
}

// ready returns an error that says why this replica cannot serve.
func (s *server) ready() error {
	if s.recycler.Draining() {
		return errors.New("draining")
	}
	if s.clients != nil && s.clients.Ready() != nil {
		return s.clients.Ready()
	}
	if err := s.serving.Ready(); err != nil {
		return errors.Join(err, s.clock.right())
	}
	certificate, err := s.serving.Certificate(nil)
	if err != nil {
		return err
	}
	return errors.Join(s.clock.accepts(certificate.Leaf), s.facts.Ready(), s.revisions.Ready(), s.services.Ready(),
		s.notes.Ready(), s.limits.Ready())
}

// listen opens both ports.
func (s *server) listen() (reviews, metrics net.Listener, err error) {
	open := func(what, address string, server *http.Server, port webhook.Port) (net.Listener, error) {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("listen for %s: %w", what, err)
		}
		return webhook.LimitConnections(listener, server, port, s.registry)
	}
	if reviews, err = open("reviews", s.config.Listen, s.reviews, webhook.PortWebhook); err != nil {
		return nil, nil, err
	}
	if metrics, err = open("metrics", s.config.MetricsListen, s.metrics, webhook.PortMetrics); err != nil {
		_ = reviews.Close()
		return nil, nil, err
	}
	return reviews, metrics, nil
}

// run starts everything, and returns when ctx has ended and the drain is done.
func (s *server) run(ctx context.Context, reviews, metrics net.Listener) error {
	log := s.config.Log
	log.WithFields(logrus.Fields{"version": s.config.Version, "address": reviews.Addr().String(),
		"metricsAddress": metrics.Addr().String()}).Info("serving")

	// What a review needs goes on until the drain is done: background ends last.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, failed := errgroup.WithContext(background)
	group.Go(func() error { s.serving.Run(background); return nil })
	group.Go(func() error { s.facts.Run(background); return nil })
	group.Go(func() error { s.revisions.Run(background); return nil })
	group.Go(func() error { s.services.Run(background); return nil })
	group.Go(func() error { s.notes.Run(background); return nil })
	if s.clients != nil {
		group.Go(func() error { s.clients.Run(background); return nil })
	}
	if len(s.lead) > 0 {
		group.Go(func() error {
			s.clock.wait(background, log)
			return s.election.Run(background, func(ctx context.Context) { together(ctx, s.lead, log) })
		})
	}
	group.Go(func() error { return serveUntilClosed(s.reviews.ServeTLS(reviews, "", "")) })
	group.Go(func() error { return serveUntilClosed(s.metrics.Serve(metrics)) })
	group.Go(func() error {
		defer stop()
		select {
		case <-ctx.Done():
		case <-failed.Done(): // a server could not serve
		}
		log.Info("draining")
		drain, cancel := context.WithTimeout(background, s.config.DrainTimeout)
		defer cancel()
		err := s.recycler.Drain(drain)
		_ = s.metrics.Close()
		return err
	})
	err := group.Wait()
	if s.traces != nil {
		flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
		defer cancel()
		if err := s.traces.Shutdown(flush); err != nil {
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

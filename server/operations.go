package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sirupsen/logrus"

	"github.com/evenkeel/evenkeel/recycle"
)

// reviewServer returns the server of reviews. It speaks HTTP/1.1 alone, as
// kube-apiserver does to webhooks behind a Service: what one connection can have going
// on is bounded by the number of connections then, and not by 250 streams of each.
func reviewServer(
	handler http.Handler, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error), log *logrus.Entry,
) *http.Server {
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
	mux.Handle("/metrics", promhttp.HandlerFor(registry,
		promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes, DisableCompression: true}))
	return mux
}

// registerState registers what can be known of a replica before it has done
// anything: which build it is, and whether it can serve.
func registerState(registry *prometheus.Registry, version string, ready func() error) {
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "evenkeel_build_info",
		Help: "Always 1, with the version of evenkeel and the version of Go that built it.",
	}, []string{"version", "go"})
	info.WithLabelValues(version, runtime.Version()).Set(1)
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
		Help: "Connections to the webhook that have ended, by the reason that the server had to end them: " +
			"requests, age, drain, or other.",
	}, []string{"reason"})
	registry.MustRegister(closed)
	return func(c recycle.Closed) { closed.WithLabelValues(c.Reason.String()).Inc() }
}

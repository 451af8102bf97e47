package webhook

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What one process takes on at once. It holds memory below 128 MiB whoever calls:
// maxConnections of about 40 KiB each and the first freeBody bytes of a body on each
// of them, largeBodies, and a few times as much to decide over them. What is more is
// shed at once with 429 and Retry-After, rather than kept waiting: kube-apiserver
// asks again within the timeout of the webhook, over another connection and so maybe
// another replica.
const (
	maxReviews = 32
	freeBody   = 64 << 10
	// largeBodies bounds the buffers of bodies above freeBody together: one of the
	// largest.
	largeBodies = 2 * maxBody
)

// limiter bounds what is done at once.
type limiter struct {
	reviews atomic.Int64 // being decided over
	large   atomic.Int64 // bytes of the buffers of large bodies
}

func shed() error {
	return &rejection{"overload", http.StatusTooManyRequests, "too much at once; try again"}
}

// begin takes a place for a review that was read; end gives it back.
func (l *limiter) begin() bool {
	if l.reviews.Add(1) > maxReviews {
		l.reviews.Add(-1)
		return false
	}
	return true
}

func (l *limiter) end() { l.reviews.Add(-1) }

// reserve takes n bytes for large bodies, or none if there are not as many left.
func (l *limiter) reserve(n int64) bool {
	if l.large.Add(n) > largeBodies {
		l.large.Add(-n)
		return false
	}
	return true
}

func (l *limiter) release(n int64) { l.large.Add(-n) }

// read reads all of from into a buffer. Memory is taken as bytes arrive, so that
// somebody who tells of a large body and never sends it takes none. It returns what
// it has reserved, which is the caller's to release, also with an error.
func (l *limiter) read(into *bytes.Buffer, from io.Reader) (reserved int64, err error) {
	for size := freeBody; ; size *= 2 {
		if size > maxBody/2 {
			size = maxBody + 1 // which is what no body has
		}
		if size > freeBody {
			need := int64(size) // beside the buffer that it replaces
			if !l.reserve(need) {
				return reserved, shed()
			}
			into.Grow(size - into.Len() + bytes.MinRead)
			l.release(reserved) // the smaller buffer is garbage now
			reserved = need
		}
		_, err := into.ReadFrom(io.LimitReader(from, int64(size-into.Len())))
		if err != nil || into.Len() < size {
			return reserved, err
		}
	}
}

// Port is a port that evenkeel listens on: a closed set, since it is a metric label.
type Port string

// The values of Port.
const (
	// PortWebhook is where the API server sends reviews.
	PortWebhook Port = "webhook"
	// PortMetrics is where the kubelet probes and Prometheus scrapes.
	PortMetrics Port = "metrics"
)

// The most connections of each port. Those of the second take some 20 KiB each.
const (
	maxConnections        = 512
	maxMetricsConnections = 128
)

// connections is a listener that keeps no more than a number of connections open.
// When one more comes, another one has to go: of the address with the most
// connections the one that has been idle for longest, so that somebody who opens
// thousands ends his own. Where all of that address's are busy, the new one goes if
// it is of that address too.
type connections struct {
	net.Listener
	port    Port
	max     int
	ended   *prometheus.CounterVec
	mu      sync.Mutex
	open    map[*connection]struct{}
	perHost map[string]int
}

type connection struct {
	net.Conn
	listener *connections
	host     string
	since    time.Time // of the state
	busy     bool      // in a request
	once     sync.Once
}

// LimitConnections returns a listener for server that keeps a bounded number of
// connections open, as many as are right for the port, and makes server tell it which
// are busy. It has to be called before the server serves. The listeners of all ports
// of a registerer share one metric.
func LimitConnections(listener net.Listener, server *http.Server, port Port, registerer prometheus.Registerer) (net.Listener, error) {
	if listener == nil || server == nil || registerer == nil {
		return nil, errors.New("limit connections: a listener, a server and a registerer are needed")
	}
	most, ok := map[Port]int{PortWebhook: maxConnections, PortMetrics: maxMetricsConnections}[port]
	if !ok {
		return nil, fmt.Errorf("limit connections: %q is no port; allowed: %s, %s", port, PortWebhook, PortMetrics)
	}
	ended := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "evenkeel_connections_shed_total",
		Help: "Connections ended or refused since there were too many, by port (webhook or metrics) and by what they were: idle, busy or new.",
	}, []string{"port", "state"})
	if err := registerer.Register(ended); err != nil {
		var before prometheus.AlreadyRegisteredError
		if !errors.As(err, &before) {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
		if ended, ok = before.ExistingCollector.(*prometheus.CounterVec); !ok {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	l := &connections{Listener: listener, port: port, max: most, ended: ended, open: map[*connection]struct{}{}, perHost: map[string]int{}}
	for _, state := range []string{"idle", "busy", "new"} {
		ended.WithLabelValues(string(port), state)
	}
	before := server.ConnState
	server.ConnState = func(nc net.Conn, state http.ConnState) {
		l.changed(nc, state)
		if before != nil {
			before(nc, state)
		}
	}
	return l, nil
}

// Accept returns the next connection that may stay.
func (l *connections) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &connection{Conn: nc, listener: l, host: host(nc.RemoteAddr()), since: time.Now()}
		victim := l.add(c)
		if victim != nil {
			_ = victim.Close()
		}
		if victim != c {
			return c, nil
		}
	}
}

func host(address net.Addr) string {
	if tcp, ok := address.(*net.TCPAddr); ok {
		return tcp.IP.String()
	}
	return ""
}

// add takes note of a connection, and returns the one that has to go for it, if any.
func (l *connections) add(c *connection) *connection {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[c] = struct{}{}
	l.perHost[c.host]++
	if len(l.open) <= l.max {
		return nil
	}
	crowd := c.host
	for host, n := range l.perHost {
		if n > l.perHost[crowd] {
			crowd = host
		}
	}
	var idle, busy *connection
	for other := range l.open {
		switch {
		case other.host != crowd || other == c:
		case other.busy && (busy == nil || other.since.Before(busy.since)):
			busy = other
		case !other.busy && (idle == nil || other.since.Before(idle.since)):
			idle = other
		}
	}
	switch {
	case idle != nil:
		l.ended.WithLabelValues(string(l.port), "idle").Inc()
		return idle
	case crowd == c.host || busy == nil:
		l.ended.WithLabelValues(string(l.port), "new").Inc()
		return c
	}
	l.ended.WithLabelValues(string(l.port), "busy").Inc()
	return busy
}

// changed takes note of whether a connection is in a request. One whose TLS
// handshake goes on counts as idle.
func (l *connections) changed(nc net.Conn, state http.ConnState) {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	c, ok := nc.(*connection)
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c.busy, c.since = state == http.StateActive, time.Now()
}

// Close ends the connection.
func (c *connection) Close() error {
	c.once.Do(func() {
		l := c.listener
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.open, c)
		if l.perHost[c.host]--; l.perHost[c.host] == 0 {
			delete(l.perHost, c.host)
		}
	})
	return c.Conn.Close()
}

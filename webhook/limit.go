package webhook

import (
	"bytes"
	"context"
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
// maxConnections of about 40 KiB each and the first freeBody bytes of a body and freeAnswer of an
// answer on each of them, largeBytes, and a few times as much to decide over them. What is more is
// shed at once with 429 and Retry-After, rather than kept waiting: kube-apiserver
// asks again within the timeout of the webhook, over another connection and so maybe
// another replica.
const (
	// maxReviews is what reviews may cost together while they are decided over: 1 for a small one.
	maxReviews = 32
	freeBody   = 64 << 10
	freeAnswer = 16 << 10
	// largeBytes bounds the buffers of bodies above freeBody, and of answers above freeAnswer,
	// together: one of the largest bodies.
	largeBytes = 2*maxBody + freeBody
)

// cost returns what a review with a body of so many bytes is expected to cost: memory and time grow
// with the size. No review takes more than half of all.
func cost(size int) int64 { return min(1+int64(size)/freeBody, maxReviews/2) }

// Limits bounds what is done at once, and each address's share of it. The zero value is none: use
// NewLimits.
type Limits struct {
	reviews shares // being decided over
	large   shares // bytes of large bodies and answers
	now     func() time.Time

	mu    sync.Mutex
	since time.Time // the first review that was shed since one was begun, zero for none
	last  time.Time // the last one that was shed
}

// NewLimits returns limits that hold in 128 MiB.
func NewLimits() *Limits {
	return &Limits{reviews: newShares(maxReviews, maxReviews/4), large: newShares(largeBytes, 0), now: time.Now}
}

func shed() error {
	return &rejection{"overload", http.StatusTooManyRequests, "too much at once; try again"}
}

// begin takes places for a review that was read; end gives them back.
func (l *Limits) begin(address string, cost int64) bool {
	taken := l.reviews.take(address, cost)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case taken:
		l.since = time.Time{}
	default:
		l.last = l.now()
		if l.since.IsZero() {
			l.since = l.last
		}
	}
	return taken
}

func (l *Limits) end(address string, cost int64) { l.reviews.give(address, cost) }

// patience is how long reviews may be shed, without one that is begun, before the replica says that it
// can't take any; and how long after the last one it says so.
const patience = 5 * time.Second

// Ready returns an error when no review has found a place for a while.
func (l *Limits) Ready() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if !l.since.IsZero() && now.Sub(l.since) >= patience && now.Sub(l.last) < patience {
		return errors.New("takes no reviews: all places are taken")
	}
	return nil
}

// read reads all of from into a buffer. Memory is taken as bytes arrive, so that
// somebody who tells of a large body and never sends it takes none. It returns what
// it has reserved, which is the caller's to give back, also with an error.
func (l *Limits) read(address string, into *bytes.Buffer, from io.Reader) (reserved int64, err error) {
	for size := freeBody; ; size *= 2 {
		if size > maxBody/2 {
			size = maxBody + 1 // which is what no body has
		}
		if size > freeBody {
			need := int64(size) // beside the buffer that it replaces
			if !l.large.take(address, need) {
				return reserved, shed()
			}
			into.Grow(size - into.Len() + bytes.MinRead)
			l.large.give(address, reserved) // the smaller buffer is garbage now
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
// When one more comes, another one has to go:
//
//   - Addresses that have sent a valid review, the API servers, keep theirs as long as others have
//     some and they don't fill more than half.
//   - Where an address has more than an eighth of all, one of the address with the most, so that
//     somebody who opens thousands ends his own.
//   - Among those, the one that has been idle for longest; where all are busy, the new one if it is of
//     that address too, else the one that is busy for longest.
type connections struct {
	net.Listener
	port    Port
	max     int
	ended   *prometheus.CounterVec
	mu      sync.Mutex
	open    map[*connection]struct{}
	perHost map[string]int
	// known are addresses that have sent a valid review, and when they did last.
	known map[string]time.Time
}

// maxKnown is how many addresses are known.
const maxKnown = 256

type connection struct {
	net.Conn
	listener *connections
	host     string
	since    time.Time // of the state
	busy     bool      // in a request
	once     sync.Once
	// renewed is when the address was noted as known, in seconds since 1970.
	renewed atomic.Int64
}

// LimitConnections returns a listener for server that keeps a bounded number of
// connections open, as many as are right for the port, and makes server tell it which
// are busy. It has to be called before the server serves. The listeners of all ports
// of a registerer share one metric.
func LimitConnections(
	listener net.Listener, server *http.Server, port Port, registerer prometheus.Registerer,
) (net.Listener, error) {
	if listener == nil || server == nil || registerer == nil {
		return nil, errors.New("limit connections: a listener, a server and a registerer are needed")
	}
	most, ok := map[Port]int{PortWebhook: maxConnections, PortMetrics: maxMetricsConnections}[port]
	if !ok {
		return nil, fmt.Errorf("limit connections: %q is not a port; allowed: %s, %s", port, PortWebhook, PortMetrics)
	}
	ended := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "evenkeel_connections_shed_total",
		Help: "Connections ended or refused since there were too many, by port (webhook or metrics) and by what they were: " +
			"idle, busy or new.",
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
	l := &connections{Listener: listener, port: port, max: most, ended: ended,
		open: map[*connection]struct{}{}, perHost: map[string]int{}, known: map[string]time.Time{}}
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
	beforeContext := server.ConnContext
	server.ConnContext = func(ctx context.Context, nc net.Conn) context.Context {
		if beforeContext != nil {
			ctx = beforeContext(ctx, nc)
		}
		return withConnection(ctx, nc)
	}
	return l, nil
}

type connectionKey struct{}

func withConnection(ctx context.Context, nc net.Conn) context.Context {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	if c, ok := nc.(*connection); ok {
		return context.WithValue(ctx, connectionKey{}, c)
	}
	return ctx
}

// connectionOf returns the connection of a request, nil where it is none of ours.
func connectionOf(r *http.Request) *connection {
	c, _ := r.Context().Value(connectionKey{}).(*connection)
	return c
}

// reviewed notes that a valid review has come over the connection.
func (c *connection) reviewed(now time.Time) {
	if c == nil || c.renewed.Swap(now.Unix()) == now.Unix() {
		return
	}
	l := c.listener
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.known[c.host]; !ok && len(l.known) >= maxKnown {
		oldest := ""
		for host, at := range l.known {
			if oldest == "" || at.Before(l.known[oldest]) {
				oldest = host
			}
		}
		delete(l.known, oldest)
	}
	l.known[c.host] = now
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
		return network(tcp.IP)
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
	crowd, spare := l.crowd(c)
	var idle, busy *connection
	for other := range l.open {
		switch {
		case other == c || !spare(other.host) || crowd != "" && other.host != crowd:
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

// crowd returns which addresses have to spare a connection for c, and the one of them that has too
// many, "" where none has.
func (l *connections) crowd(c *connection) (crowd string, spare func(host string) bool) {
	known := 0
	for host := range l.known {
		known += l.perHost[host]
	}
	spare = func(string) bool { return true }
	if known <= l.max/2 {
		spare = func(host string) bool {
			_, ok := l.known[host]
			return !ok
		}
	}
	for host, n := range l.perHost {
		if spare(host) && n > l.max/8 && (crowd == "" || n > l.perHost[crowd] || n == l.perHost[crowd] && host == c.host) {
			crowd = host
		}
	}
	return crowd, spare
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

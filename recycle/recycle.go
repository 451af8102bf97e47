// Package recycle ends persistent connections after a number of requests or at an age, so that
// clients connect anew and are spread over every replica there is by then. A client that keeps its
// connections stays on the replicas that existed when it connected: replicas that autoscaling adds
// later get nothing from it until something makes it connect again.
//
// [Wrap] does it for any [http.Server], and so for gin, echo, chi and everything else that is an [http.Handler]:
//
//	server := &http.Server{Addr: ":8080", Handler: router}
//	recycler, err := recycle.Wrap(server, recycle.Options{MaxRequests: 1000, MaxAge: 5 * time.Minute})
//
// A connection that has reached a limit is told to go in the way its protocol has for it, which loses no request:
//
//   - HTTP/1.x: the next answer carries "Connection: close" (RFC 9112, section 9.6), and the
//     connection is closed after it. A connection that idles waits for its next answer: cutting it
//     would race with a request on its way.
//   - HTTP/2, over TLS and without (h2c): GOAWAY with NO_ERROR (RFC 9113, section 6.8) with the
//     next answer, or by itself where there is none for a second, so that an idle connection is
//     told at its age as well. Streams that the server has seen are finished, the client sends
//     later ones over a new connection.
//   - What a handler has taken over (hijacked, upgraded, WebSocket) and what was asked for with
//     CONNECT is left alone.
//
// Limits differ from connection to connection by [Options.Jitter], so that connections opened
// together don't close together.
//
// [Recycler.Drain] does the same to all connections at once, for a server that is about to stop.
// [NewListener] is for servers that aren't an [http.Server].
//
// # Limits
//
// A handler that serves HTTP/2 itself on a hijacked connection (golang.org/x/net/http2/h2c) isn't
// seen: use [http.Server.Protocols] with [http.Protocols.SetUnencryptedHTTP2] instead. Where
// golang.org/x/net/http2.ConfigureServer has set up HTTP/2, GOAWAY is sent with the next answer,
// and an idle connection isn't told.
//
// Every HTTP/2 connection is served by an [http.Server] of its own, which has the settings of the
// wrapped one and is what [http.ServerContextKey] leads to. [http.Server.SetKeepAlivesEnabled]
// doesn't reach it: use [Recycler.Drain]. With Go 1.27, HTTP/2 over TLS from a listener whose
// connections aren't [*tls.Conn] isn't served, as with Go 1.26.
//
// Go's HTTP/2 server sends a single GOAWAY that names the last stream it has seen. A request that
// was already on its way is not processed, and clients are to send it again over a new connection,
// whatever its method. Go's client does unless the request has a body that can't be read twice:
// [http.Request.GetBody] is set by [http.NewRequest] for bytes.Buffer, bytes.Reader and
// strings.Reader, and missing for anything else. curl 7.88 does not.
//
// A client that pipelines and then takes more than half a second to read the last answer of a
// connection may lose its end.
package recycle

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultJitter is the jitter of an Options that names none: limits are drawn between 80 % and 100
// % of their value. It is as wide as the ±10 % that gRPC applies to its MaxConnectionAge.
const DefaultJitter = 0.2

// NoJitter is the value of [Options.Jitter] that gives every connection exactly the same limits,
// for tests and for servers with few clients. With many, connections that were opened together, by
// a deploy or a load balancer's return, close together.
const NoJitter = -1

// Options says when connections are told to go. The zero value sets no limit: only [Recycler.Drain]
// ends connections then.
type Options struct {
	// MaxRequests is the number of requests (HTTP/2: streams) after which a connection is told to go;
	// the last of them is answered as any other. HTTP/2 streams that are open at that moment come on
	// top. 0 means no limit, negative values are an error.
	MaxRequests int

	// MaxAge is the time from accept after which a connection is told to go. 0 means no limit,
	// negative values are an error.
	MaxAge time.Duration

	// Jitter is the part of both limits, from 0 to below 1, by which they are shortened at random, for
	// each connection and limit anew: with MaxRequests 1000 and Jitter 0.2, a connection gets between
	// 800 and 1000 requests. 0 means [DefaultJitter]; [NoJitter] switches it off. Other values are an
	// error.
	Jitter float64

	// DrainQuiet is the time that has to have passed without any connection before [Recycler.Drain]
	// stops listening, since load balancers still send new ones for a while. 0 means one second,
	// negative values are an error.
	DrainQuiet time.Duration

	// OnClose, if set, is called once for each connection that has ended, hijacked ones excepted, from
	// the connection's own goroutine: it must not block and may be called concurrently.
	OnClose func(Closed)
}

// Closed describes a connection that has ended.
type Closed struct {
	// Reason is why the server told the connection to go; Other if it did not.
	Reason Reason
	// Requests is the number of requests (HTTP/2: streams) that were handled on it.
	Requests int64
	// Age is the time from accept to end.
	Age time.Duration
}

// Reason is why a connection was told to go. The set is closed, so that it can be the label of a metric.
type Reason int32

// The reasons there are.
const (
	// Other means that this package did not end the connection: the client did, or an idle timeout, or an error.
	Other Reason = iota
	// Requests means that Options.MaxRequests was reached.
	Requests
	// Age means that Options.MaxAge was reached.
	Age
	// Drain means that the server is about to stop.
	Drain
)

// String returns "other", "requests", "age" or "drain".
func (r Reason) String() string {
	switch r {
	case Requests:
		return "requests"
	case Age:
		return "age"
	case Drain:
		return "drain"
	}
	return "other"
}

// Recycler watches the connections of one server. Its methods may be called concurrently.
type Recycler struct {
	server  *http.Server
	handler http.Handler // nil means http.DefaultServeMux, as in http.Server
	options Options

	draining atomic.Bool

	mu       sync.Mutex
	conns    map[net.Conn]*conn
	lastSeen time.Time // when a connection was last added or removed, or Drain began

	// The clock and the random source, replaced by tests.
	now       func() time.Time
	afterFunc func(time.Duration, func()) stopper
	random    func() float64 // uniform in [0, 1)
}

// stopper is what is needed of a time.Timer.
type stopper interface{ Stop() bool }

// connKey is the context key of a *conn.
type connKey struct{}

// Wrap makes server recycle its connections, over HTTP/1.x and HTTP/2. It replaces Handler,
// ConnContext, ConnState and, for HTTP/2, TLSNextProto by functions that call what they find there:
// set those before, and start the server (Serve, ServeTLS, ListenAndServe, ListenAndServeTLS)
// after.
//
// The error says which option can't be used and what is allowed; server is unchanged then.
func Wrap(server *http.Server, options Options) (*Recycler, error) {
	if server == nil {
		return nil, errors.New("recycle: no server to wrap: the first argument is nil")
	}
	if _, ok := server.Handler.(*Recycler); ok {
		return nil, errors.New("recycle: this server is wrapped already: call Wrap once for each server")
	}
	options, err := options.complete()
	if err != nil {
		return nil, err
	}

	r := &Recycler{
		server:    server,
		handler:   server.Handler,
		options:   options,
		conns:     make(map[net.Conn]*conn),
		now:       time.Now,
		afterFunc: func(d time.Duration, f func()) stopper { return time.AfterFunc(d, f) },
		random:    rand.Float64,
	}
	server.Handler = r

	userContext := server.ConnContext
	server.ConnContext = func(ctx context.Context, nc net.Conn) context.Context {
		if userContext != nil {
			ctx = userContext(ctx, nc)
		}
		return context.WithValue(ctx, connKey{}, r.open(nc))
	}

	userState := server.ConnState
	server.ConnState = func(nc net.Conn, state http.ConnState) {
		if userState != nil {
			userState(nc, state)
		}
		switch state {
		case http.StateClosed:
			r.closed(nc)
		case http.StateHijacked:
			r.forget(nc)
		}
	}

	r.takeOverHTTP2()
	return r, nil
}

// complete checks options and fills in the defaults.
func (o Options) complete() (Options, error) {
	if o.MaxRequests < 0 {
		return o, fmt.Errorf("recycle: MaxRequests is %d: allowed are 0 (no limit) and above", o.MaxRequests)
	}
	if o.MaxAge < 0 {
		return o, fmt.Errorf("recycle: MaxAge is %v: allowed are 0 (no limit) and above", o.MaxAge)
	}
	if o.DrainQuiet < 0 {
		return o, fmt.Errorf("recycle: DrainQuiet is %v: allowed are 0 (one second) and above", o.DrainQuiet)
	}
	if o.DrainQuiet == 0 {
		o.DrainQuiet = time.Second
	}
	switch {
	case o.Jitter == NoJitter:
		o.Jitter = 0
	case o.Jitter == 0:
		o.Jitter = DefaultJitter
	case o.Jitter > 0 && o.Jitter < 1:
	default:
		return o, fmt.Errorf("recycle: Jitter is %v: allowed are 0 (which means %v), above 0 to below 1, and NoJitter",
			o.Jitter, DefaultJitter)
	}
	return o, nil
}

// drawRequests returns a connection's own limit of requests, 0 for none.
func drawRequests(limit int, jitter, random float64) int64 {
	return int64(limit) - int64(random*jitter*float64(limit))
}

// drawAge returns a connection's own age limit, 0 for none.
func drawAge(limit time.Duration, jitter, random float64) time.Duration {
	return limit - time.Duration(random*jitter*float64(limit))
}

// conn is what is known of one connection.
type conn struct {
	opened time.Time
	limit  int64 // requests, 0 for no limit
	timer  stopper

	requests atomic.Int64
	reason   atomic.Int32 // a Reason; anything but Other means: told to go

	http2 atomic.Pointer[http2Conn] // nil unless it speaks HTTP/2
}

// open begins the watch over a connection.
func (r *Recycler) open(nc net.Conn) *conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &conn{
		opened: r.now(),
		limit:  drawRequests(r.options.MaxRequests, r.options.Jitter, r.random()),
	}
	r.conns[nc] = c
	r.lastSeen = c.opened
	if r.options.MaxAge > 0 {
		age := drawAge(r.options.MaxAge, r.options.Jitter, r.random())
		c.timer = r.afterFunc(age, func() { c.tell(Age) })
	}
	return c
}

// forget ends the watch over a connection. It returns nil if there was none.
func (r *Recycler) forget(nc net.Conn) *conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.conns[nc]
	if c == nil {
		return nil
	}
	delete(r.conns, nc)
	r.lastSeen = r.now()
	if c.timer != nil {
		c.timer.Stop()
	}
	return c
}

// closed is called when a connection has ended.
func (r *Recycler) closed(nc net.Conn) {
	c := r.forget(nc)
	if c == nil || r.options.OnClose == nil {
		return
	}
	r.options.OnClose(Closed{
		Reason:   Reason(c.reason.Load()),
		Requests: c.requests.Load(),
		Age:      r.now().Sub(c.opened),
	})
}

// tell marks the connection as told to go, for the first reason there was: its next answer says so.
// Over HTTP/2 it gets GOAWAY even if there is none. It doesn't block.
func (c *conn) tell(reason Reason) {
	c.reason.CompareAndSwap(int32(Other), int32(reason))
	if h := c.http2.Load(); h != nil {
		h.goAwaySoon()
	}
}

// ServeHTTP counts the request and answers it with the handler that the server had.
func (r *Recycler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	handler := r.handler
	if handler == nil {
		handler = http.DefaultServeMux
	}
	c, _ := req.Context().Value(connKey{}).(*conn)
	if c == nil { // not from the wrapped server
		handler.ServeHTTP(w, req)
		return
	}

	if n := c.requests.Add(1); c.limit > 0 && n >= c.limit {
		c.tell(Requests)
	} else if r.draining.Load() {
		c.tell(Drain)
	}
	if Reason(c.reason.Load()) == Other || req.Method == http.MethodConnect {
		handler.ServeHTTP(w, req)
		return
	}
	last := &lastResponse{ResponseWriter: w}
	handler.ServeHTTP(last, req)
	last.finish()
}

package recycle

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"
)

// ListenerOptions says when connections of a [NewListener] are due.
type ListenerOptions struct {
	// MaxRequests, MaxAge and Jitter mean what they mean in Options. Requests are what the server passes to Conn.Last.
	MaxRequests int
	MaxAge      time.Duration
	Jitter      float64

	// CutIdle, if above 0, ends a connection past its MaxAge from outside, when nothing has been read
	// or written for so long and what was last seen is the server's own writing: its next Read returns
	// io.EOF, as if the client had closed. It is for protocols without a way to say goodbye. A request
	// that arrives in that very moment is lost, so choose more than the clients' longest pause between
	// the requests of a burst. 0 means never; negative values are an error.
	CutIdle time.Duration
}

// NewListener returns a listener for servers that aren't an [http.Server]. It accepts from inner,
// and each connection it accepts is a [*Conn], which knows when it is due. What is due isn't
// closed, since only the server knows where a request ends and how its protocol says goodbye:
//
//	if nc.(*recycle.Conn).Last() {
//		// answer this request with whatever means "connect anew for the next one"
//	}
//
// Below a TLS listener, the connection is what NetConn of the tls.Conn returns. For an [http.Server] use [Wrap].
//
// The error says which option can't be used and what is allowed.
func NewListener(inner net.Listener, options ListenerOptions) (net.Listener, error) {
	if inner == nil {
		return nil, errors.New("recycle: no listener to accept from: the first argument is nil")
	}
	common, err := Options{MaxRequests: options.MaxRequests, MaxAge: options.MaxAge, Jitter: options.Jitter}.complete()
	if err != nil {
		return nil, err
	}
	if options.CutIdle < 0 {
		return nil, fmt.Errorf("recycle: CutIdle is %v: allowed are 0 (never) and above", options.CutIdle)
	}
	if options.CutIdle > 0 && options.MaxAge == 0 {
		return nil, fmt.Errorf("recycle: CutIdle is %v without MaxAge: it applies to connections past their age",
			options.CutIdle)
	}
	options.Jitter = common.Jitter
	return &listener{Listener: inner, options: options, now: time.Now, random: rand.Float64}, nil
}

type listener struct {
	net.Listener
	options ListenerOptions

	// The clock and the random source, replaced by tests.
	now    func() time.Time
	random func() float64
}

// Accept waits for the next connection and returns it as a *Conn.
func (l *listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &Conn{
		Conn:  nc,
		now:   l.now,
		limit: drawRequests(l.options.MaxRequests, l.options.Jitter, l.random()),
	}
	if l.options.MaxAge > 0 {
		c.due = l.now().Add(drawAge(l.options.MaxAge, l.options.Jitter, l.random()))
		if l.options.CutIdle > 0 {
			c.cutIdle = l.options.CutIdle
			c.lastWrite.Store(c.due.UnixNano())
			c.timer = time.AfterFunc(math.MaxInt64, c.cutIfIdle) // started only below: cutIfIdle needs c.timer
			c.timer.Reset(time.Until(c.due))
		}
	}
	return c, nil
}

// Conn is a connection that knows when it is due. Its methods may be called concurrently.
type Conn struct {
	net.Conn
	now   func() time.Time
	limit int64     // requests, 0 for no limit
	due   time.Time // zero for no limit

	requests atomic.Int64

	cutIdle   time.Duration // 0: never
	timer     *time.Timer
	lastWrite atomic.Int64 // Unix nanoseconds; 0 during a write, and while the client's bytes are the last that were seen
	cut       atomic.Bool
	closed    atomic.Bool
}

// Last counts one request and reports whether its answer should be the last on this connection.
func (c *Conn) Last() bool {
	n := c.requests.Add(1)
	return (c.limit > 0 && n >= c.limit) || (!c.due.IsZero() && !c.now().Before(c.due))
}

// Read reads from the connection. It returns io.EOF on a connection that was cut by ListenerOptions.CutIdle.
func (c *Conn) Read(p []byte) (int, error) {
	if c.cutIdle == 0 {
		return c.Conn.Read(p)
	}
	if c.cut.Load() { // the server may have set a new deadline meanwhile
		return 0, io.EOF
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.lastWrite.Store(0)
	} else if err != nil && c.cut.Load() {
		err = io.EOF
	}
	return n, err
}

// Write writes to the connection.
func (c *Conn) Write(p []byte) (int, error) {
	if c.cutIdle == 0 {
		return c.Conn.Write(p)
	}
	c.lastWrite.Store(0) // a write that blocks isn't idling
	n, err := c.Conn.Write(p)
	c.lastWrite.Store(time.Now().UnixNano())
	return n, err
}

// NetConn returns the connection that the inner listener has accepted, for what can't be done
// through net.Conn, such as closing one direction.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Close closes the connection.
func (c *Conn) Close() error {
	c.closed.Store(true)
	if c.timer != nil {
		c.timer.Stop()
	}
	return c.Conn.Close()
}

// cutIfIdle has a waiting Read of the server return, if the connection idles, and looks again later otherwise.
func (c *Conn) cutIfIdle() {
	if c.closed.Load() {
		return
	}
	last := c.lastWrite.Load()
	idle := time.Duration(0)
	if last != 0 {
		idle = time.Since(time.Unix(0, last))
	}
	if last != 0 && idle >= c.cutIdle {
		c.cut.Store(true)
		_ = c.SetReadDeadline(time.Unix(1, 0)) // in the past; an error means that the connection is gone
		return
	}
	c.timer.Reset(c.cutIdle - idle)
}

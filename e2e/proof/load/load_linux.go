package load

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
)

// ClientKinds returns the kinds of clients.
func ClientKinds() []string { return []string{NewConnection, HTTP1, HTTP2, GRPC} }

// A Config says what the load process does until its standard input ends.
type Config struct {
	Targets     []Target
	Clients     []string
	Rate        float64 // requests per second of each client on each target
	Connections int     // of each persistent client to each target
	Addresses   []string
	Lane        int // of load processes that run at the same time, 0 to 3
}

// Run sends requests at fixed times, whether earlier ones are answered or not, and writes a record for each as a line.
func Run(stdin io.Reader, stdout io.Writer) error {
	decoder := json.NewDecoder(stdin)
	var c Config
	if err := decoder.Decode(&c); err != nil {
		return fmt.Errorf("read configuration of load: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		defer stop()
		_, _ = io.Copy(io.Discard, stdin) // until the parent closes it or ends
	}()
	debug.SetGCPercent(800) // the heap is small, and the CPU is shared with what is being tested
	sources := newSources(c.Addresses, c.Lane)
	var mu sync.Mutex
	out := bufio.NewWriterSize(stdout, 1<<16)
	encoder := json.NewEncoder(out)

	var pairs, requests sync.WaitGroup
	interval := time.Duration(float64(time.Second) / c.Rate)
	ids := newIDs(c.Lane)
	for t, target := range c.Targets {
		for k, kind := range c.Clients {
			do, err := newClient(kind, target, c.Connections, sources)
			if err != nil {
				return err
			}
			pairs.Go(func() {
				due := time.Now().Add(rand.N(interval))
				for ctx.Err() == nil {
					time.Sleep(time.Until(due))
					scheduled := due
					requests.Go(func() {
						limited, cancel := context.WithDeadline(context.Background(), scheduled.Add(RequestTimeout))
						defer cancel()
						id := ids()
						over, err := do(limited, id)
						r := Record{ID: id, Due: scheduled.UnixMicro(), Target: t, Client: k,
							Latency: time.Since(scheduled).Microseconds(), Pod: over.pod}
						if !over.opened.IsZero() {
							r.Opened = over.opened.UnixMicro()
						}
						if err != nil {
							r.Cause, r.Detail = cause(err), err.Error()
						}
						mu.Lock()
						defer mu.Unlock()
						_ = encoder.Encode(r) // a parent that doesn't read any more has ended
					})
					due = due.Add(interval)
				}
			})
		}
	}
	pairs.Wait()
	requests.Wait()
	return out.Flush()
}

// newIDs returns a function that returns another id each time, which no other process of load returns.
func newIDs(lane int) func() string {
	var n atomic.Uint64
	prefix := fmt.Sprintf("%x-%d-", time.Now().UnixNano(), lane)
	return func() string { return prefix + strconv.FormatUint(n.Add(1), 10) }
}

// A request with an id is made by one client; it returns what is known of the connection that it went over.
type request func(ctx context.Context, id string) (connection, error)

// A connection is what is known of one; the zero value means that there was none.
type connection struct {
	opened time.Time
	pod    string // that answers on it, as its last answer said; empty before the first
}

func newClient(kind string, t Target, connections int, sources *sources) (request, error) {
	web := net.JoinHostPort(t.IP, "80")
	switch kind {
	case NewConnection:
		return func(ctx context.Context, id string) (connection, error) {
			c, err := dialHTTP1(ctx, web, sources)
			if err != nil {
				return connection{}, err
			}
			defer c.Close()
			err = c.do(ctx, id, true)
			return c.known, err
		}, nil
	case HTTP1:
		pool := &pool{size: connections, address: web, sources: sources}
		return pool.do, nil
	case HTTP2:
		return roundRobin(connections, func() (request, error) { return newHTTP2(web, sources), nil })
	case GRPC:
		return roundRobin(connections, func() (request, error) { return newGRPC(net.JoinHostPort(t.IP, "9090"), sources) })
	}
	return nil, fmt.Errorf("client %q: allowed are %s", kind, strings.Join(ClientKinds(), ", "))
}

// roundRobin makes several clients of one connection each take turns.
func roundRobin(n int, make func() (request, error)) (request, error) {
	var clients []request
	for range n {
		c, err := make()
		if err != nil {
			return nil, err
		}
		clients = append(clients, c)
	}
	var turn atomic.Uint64
	return func(ctx context.Context, id string) (connection, error) {
		return clients[turn.Add(1)%uint64(n)](ctx, id)
	}, nil
}

// sources hands out source addresses with ports. With 16 addresses and 50,000 ports each, and no
// more than 500 connections per second, a port comes back after 26 minutes: conntrack remembers a
// connection's addresses for two, and would lead a new connection with the same ones to the old
// pod.
type sources struct {
	addresses []string
	next      atomic.Uint64
}

const (
	firstSourcePort    = 10_000
	sourcePorts        = 50_000
	mostConnectionsPer = 500 // second
)

// newSources begins where no earlier process can have come to, and a quarter of all ports ahead of the lane before.
func newSources(addresses []string, lane int) *sources {
	s := &sources{addresses: addresses}
	s.next.Store(uint64(time.Now().UnixMilli())*mostConnectionsPer/1000 +
		uint64(lane*len(addresses)*sourcePorts/4)) //nolint:gosec // a time and a small number
	return s
}

// dial passes over a port that something on this host listens at: nothing has been sent yet, and no
// server has any part in it.
func (s *sources) dial(ctx context.Context, address string) (net.Conn, error) {
	for {
		n := s.next.Add(1)
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{
			IP:   net.ParseIP(s.addresses[n%uint64(len(s.addresses))]),
			Port: firstSourcePort + int(n/uint64(len(s.addresses))%sourcePorts),
		}}
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			return nil, &connectError{err}
		}
		return conn, nil
	}
}

// A connectError is what went wrong before there was a connection.
type connectError struct{ error }

func (e *connectError) Unwrap() error { return e.error }

// An http1Conn is a connection of an HTTP/1.1 client. Not net/http's, which sends a request a
// second time, unseen, where the connection broke under the first.
type http1Conn struct {
	net.Conn
	reader *bufio.Reader
	known  connection
	last   bool // the server has said that it closes
}

func dialHTTP1(ctx context.Context, address string, sources *sources) (*http1Conn, error) {
	conn, err := sources.dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return &http1Conn{Conn: conn, reader: bufio.NewReader(conn), known: connection{opened: time.Now()}}, nil
}

func (c *http1Conn) do(ctx context.Context, id string, last bool) error {
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return err
		}
	}
	more := ""
	if last {
		more = "Connection: close\r\n"
	}
	if _, err := io.WriteString(c,
		"GET / HTTP/1.1\r\nHost: proof\r\n"+RequestID+": "+id+"\r\n"+more+"\r\n"); err != nil {
		return err
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return err
	}
	c.last = response.Close
	pod, err := readAnswer(response)
	if err == nil {
		c.known.pod = pod
	}
	return err
}

// readAnswer returns the pod that an answer names.
func readAnswer(response *http.Response) (string, error) {
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%w %d", errStatus, response.StatusCode)
	}
	return string(body), nil
}

var (
	errStatus  = errors.New("status")
	errRetried = errors.New("the server never processed the request, and gRPC sent it again")
)

// closed says whether the server has closed the connection, as far as it is known here already:
// what any client looks at before it uses an idle connection again.
func (c *http1Conn) closed() bool {
	tcp, ok := c.Conn.(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return true
	}
	closed := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		closed = n == 0 && err == nil || err != nil && !errors.Is(err, syscall.EAGAIN)
		return true
	})
	return closed || err != nil
}

// A pool keeps a number of persistent connections, and opens more while all of them are busy.
type pool struct {
	size    int
	address string
	sources *sources

	mu   sync.Mutex
	idle []*http1Conn
	busy int
}

func (p *pool) do(ctx context.Context, id string) (connection, error) {
	c, err := p.take(ctx)
	defer func() { p.give(c, err == nil) }()
	if err != nil {
		return connection{}, err
	}
	err = c.do(ctx, id, false)
	return c.known, err
}

func (p *pool) take(ctx context.Context) (*http1Conn, error) {
	p.mu.Lock()
	p.busy++
	for len(p.idle) > 0 && len(p.idle)+p.busy > p.size {
		c := p.idle[0]
		p.idle = p.idle[1:]
		if !c.closed() && c.SetDeadline(time.Time{}) == nil {
			p.mu.Unlock()
			return c, nil
		}
		_ = c.Close()
	}
	p.mu.Unlock()
	return dialHTTP1(ctx, p.address, p.sources)
}

func (p *pool) give(c *http1Conn, usable bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy--
	switch {
	case c == nil:
	case usable && !c.last && len(p.idle) < p.size:
		p.idle = append(p.idle, c)
	default:
		_ = c.Close()
	}
}

// Links are the connections that one client of HTTP/2 or gRPC has opened, by their own addresses, which none has twice.
type links struct {
	sources *sources
	mu      sync.Mutex
	known   map[string]*connection
}

// dial opens a connection and remembers when.
func (l *links) dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := l.sources.dial(ctx, address)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known == nil {
		l.known = map[string]*connection{}
	}
	l.known[conn.LocalAddr().String()] = &connection{opened: time.Now()}
	return conn, nil
}

// of returns what is known of the connection with an address of its own, after a pod has answered on it, if one has.
func (l *links) of(own, pod string) connection {
	l.mu.Lock()
	defer l.mu.Unlock()
	link := l.known[own]
	if link == nil {
		return connection{}
	}
	if pod != "" {
		link.pod = pod
	}
	return *link
}

// newHTTP2 returns a client with one connection of Go's own HTTP/2 client, which notices by pings
// when nobody is there any more. Its requests have a body that it can't read twice, so that it
// sends none a second time.
func newHTTP2(address string, sources *sources) request {
	links := &links{sources: sources}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return links.dial(ctx, address) },
		Protocols:   new(http.Protocols),
		HTTP2:       &http.HTTP2Config{SendPingTimeout: 2 * time.Second, PingTimeout: 3 * time.Second},
	}
	transport.Protocols.SetUnencryptedHTTP2(true)
	return func(ctx context.Context, id string) (connection, error) {
		var own sent
		ctx = httptrace.WithClientTrace(ctx,
			&httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { own.over(c.Conn.LocalAddr()) }})
		body := struct{ io.Reader }{strings.NewReader("?")}
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/", body)
		if err != nil {
			return connection{}, err
		}
		r.ContentLength = 1
		r.Header.Set(RequestID, id)
		response, err := transport.RoundTrip(r)
		if err != nil {
			return links.of(own.last(), ""), err
		}
		pod, err := readAnswer(response)
		return links.of(own.last(), pod), err
	}
}

// newGRPC returns a client with one connection of gRPC. It sends a request again by itself where
// the server has not looked at it; that is an error here. It isn't where the connection was known
// to end before anything was sent, which no client counts.
func newGRPC(address string, sources *sources) (request, error) {
	links := &links{sources: sources}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableRetry(),
		grpc.WithContextDialer(links.dial), grpc.WithStatsHandler(sentWatch{}),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 3 * time.Second}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}))
	if err != nil {
		return nil, err
	}
	client := grpc_health_v1.NewHealthClient(conn)
	return func(ctx context.Context, id string) (connection, error) {
		var own sent
		var header metadata.MD
		ctx = metadata.AppendToOutgoingContext(context.WithValue(ctx, sentKey{}, &own), RequestID, id)
		_, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.Header(&header))
		over := links.of(own.last(), strings.Join(header.Get("pod"), ""))
		if addresses := own.all(); err == nil && len(addresses) > 1 {
			return links.of(addresses[0], ""), errRetried // the connection that it was refused on
		}
		return over, err
	}, nil
}

// Sent are the own addresses of the connections that one request was sent over, one after another.
type sent struct {
	mu        sync.Mutex
	addresses []string
}

func (s *sent) over(own net.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addresses = append(s.addresses, own.String())
}

func (s *sent) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.addresses)
}

// last returns the last address, or none.
func (s *sent) last() string {
	if all := s.all(); len(all) > 0 {
		return all[len(all)-1]
	}
	return ""
}

// sentWatch notes in a request's context each time that gRPC sends its header.
type sentWatch struct{}

type sentKey struct{}

func (sentWatch) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (sentWatch) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if header, ok := s.(*stats.OutHeader); ok {
		if own, ok := ctx.Value(sentKey{}).(*sent); ok {
			own.over(header.LocalAddr)
		}
	}
}
func (sentWatch) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (sentWatch) HandleConn(context.Context, stats.ConnStats)                       {}

// cause sorts an error into one of the causes. Where an error has no type of its own (gRPC's and
// HTTP/2's), its text decides.
func cause(err error) string {
	var connecting *connectError
	var network net.Error
	text := err.Error()
	switch {
	case errors.Is(err, errRetried), strings.Contains(text, "graceful shutdown GOAWAY"):
		// and no other, after which the server may have seen it
		return CauseUndone
	case errors.Is(err, errStatus):
		return causeStatus
	case errors.Is(err, syscall.ECONNREFUSED), strings.Contains(text, "connection refused"):
		return CauseRefused
	case errors.Is(err, syscall.EHOSTUNREACH), strings.Contains(text, "no route to host"):
		return causeNoRoute
	case errors.As(err, &connecting) && errors.As(err, &network) && network.Timeout(),
		strings.Contains(text, "while dialing") && strings.Contains(text, "i/o timeout"):
		return CauseConnect
	case errors.As(err, &connecting):
		return causeOtherConn
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		strings.Contains(text, "connection reset by peer"), strings.Contains(text, "broken pipe"):
		return CauseReset
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), strings.Contains(text, "EOF"),
		strings.Contains(text, "transport is closing"),
		strings.Contains(text, "after connection loss"), strings.Contains(text, "GOAWAY and closed the connection"):
		return CauseClosed
	case strings.Contains(text, "client connection lost"), strings.Contains(text, "keepalive ping"):
		return causeLost
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout(),
		strings.Contains(text, "DeadlineExceeded"):
		return CauseTimeout
	}
	return causeOther
}

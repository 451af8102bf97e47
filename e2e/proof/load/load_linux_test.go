package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
)

func TestCauses(t *testing.T) {
	timeout := &net.OpError{Op: "dial", Err: context.DeadlineExceeded}
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"a port that nobody listens at": {&connectError{fmt.Errorf("dial: %w", syscall.ECONNREFUSED)},
			CauseRefused},
		"a host that is gone": {&connectError{fmt.Errorf("dial: %w", syscall.EHOSTUNREACH)},
			causeNoRoute},
		"a host that doesn't answer":               {&connectError{timeout}, CauseConnect},
		"a connection that is reset":               {fmt.Errorf("read: %w", syscall.ECONNRESET), CauseReset},
		"a connection that ends before its answer": {io.ErrUnexpectedEOF, CauseClosed},
		"an answer that doesn't come":              {context.DeadlineExceeded, CauseTimeout},
		"a status that isn't 200":                  {fmt.Errorf("%w 503", errStatus), causeStatus},
		"a request that gRPC sent twice":           {errRetried, CauseUndone},
		"a GOAWAY before the request was processed": {errors.New("http2: Transport: cannot retry err [http2: " +
			"Transport received Server's graceful shutdown GOAWAY] after Request.Body was written"), CauseUndone},
		"a GOAWAY after which the connection ended": {errors.New("http2: server sent GOAWAY and closed the " +
			"connection; LastStreamID=7, ErrCode=NO_ERROR"), CauseClosed},
		"a GOAWAY that is an error": {errors.New("http2: Transport received GOAWAY from server " +
			"ErrCode:PROTOCOL_ERROR"), causeOther},
		"anything else, which is counted all the same":  {io.ErrShortBuffer, causeOther},
		"a source port that is taken, as no connection": {&connectError{syscall.EADDRINUSE}, causeOtherConn},
	} {
		t.Run(name, func(t *testing.T) {
			if got := cause(tt.err); got != tt.want {
				t.Errorf("%v is %q, want %q", tt.err, got, tt.want)
			}
		})
	}
}

func TestSourcesNeverComeBackWithinConntracksTime(t *testing.T) {
	s := newSources([]string{"127.0.0.1", "127.0.0.2"}, 0)
	seen := map[string]bool{}
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	for range 50 {
		conn, err := s.dial(t.Context(), server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		address := conn.LocalAddr().String()
		_ = conn.Close()
		if seen[address] {
			t.Fatalf("%s was used twice", address)
		}
		seen[address] = true
	}
	if again := 16 * sourcePorts / 4 / mostConnectionsPer * time.Second; again < 120*time.Second {
		t.Errorf("with 16 addresses a port comes back after %v, in the next lane", again)
	}
}

// TestAPortInUseIsPassedOver has something listen at the port that would be next: kube-proxy's own
// did, on the host of the clients.
func TestAPortInUseIsPassedOver(t *testing.T) {
	s := newSources([]string{"127.0.0.1"}, 0)
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	var listener net.Listener
	for listener == nil {
		n := s.next.Load() + 1
		l, err := net.Listen("tcp", fmt.Sprintf("0.0.0.0:%d", firstSourcePort+n%sourcePorts))
		if err != nil {
			s.next.Add(1)
			continue
		}
		listener = l
	}
	defer func() { _ = listener.Close() }()
	conn, err := s.dial(t.Context(), server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

// TestABrokenConnectionIsAFailure has a server that ends every connection instead of the second
// answer: what a client that tries again would hide.
func TestABrokenConnectionIsAFailure(t *testing.T) {
	requests := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests++
		if requests == 2 {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, "pod")
	}))
	defer server.Close()
	p := &pool{size: 1, address: server.Listener.Addr().String(), sources: newSources([]string{"127.0.0.11"}, 0)}
	for i, want := range []string{"", CauseClosed, ""} {
		over, err := p.do(t.Context(), "1")
		got := ""
		if err != nil {
			got = cause(err)
		}
		if got != want || over.pod != "pod" || over.opened.IsZero() {
			t.Errorf("request %d: %+v %v", i+1, over, err)
		}
	}
	if requests != 3 {
		t.Errorf("the server saw %d requests for 3", requests)
	}
}

func TestAnIdleConnectionThatTheServerClosedIsNotUsed(t *testing.T) {
	server := httptest.NewServer(
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "pod") }))
	defer server.Close()
	p := &pool{size: 1, address: server.Listener.Addr().String(), sources: newSources([]string{"127.0.0.12"}, 0)}
	if _, err := p.do(t.Context(), "1"); err != nil {
		t.Fatal(err)
	}
	server.CloseClientConnections()
	deadline := time.Now().Add(5 * time.Second)
	for !p.idle[0].closed() {
		if time.Now().After(deadline) {
			t.Fatal("the end of the connection is never seen")
		}
		time.Sleep(time.Millisecond) // the interval of the polling
	}
	if _, err := p.do(t.Context(), "1"); err != nil {
		t.Errorf("after the server closed an idle connection: %v", err)
	}
}

func TestClientsThatDoNotExist(t *testing.T) {
	if _, err := newClient("HTTP/3", Target{IP: "127.0.0.1"}, 1, newSources([]string{"127.0.0.13"}, 0)); err == nil ||
		!strings.Contains(err.Error(), HTTP2) {
		t.Errorf("error is %v, want one that says what is allowed", err)
	}
}

// TestAConnectionWithoutAnAnswerHasNoPod has a server that answers the first request and then ends
// every connection under its own first one: the pod that answered before has no part in that,
// whichever client it is.
func TestAConnectionWithoutAnAnswerHasNoPod(t *testing.T) {
	for i, kind := range []string{HTTP1, HTTP2, GRPC} {
		t.Run(kind, func(t *testing.T) {
			var requests atomic.Int32
			start := func() (address string, end func()) {
				if kind == GRPC {
					return serveGRPC(t, &requests)
				}
				server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					if requests.Add(1) > 1 {
						panic(http.ErrAbortHandler)
					}
					_, _ = io.WriteString(w, "pod")
				}))
				server.Config.Protocols = new(http.Protocols)
				server.Config.Protocols.SetHTTP1(true)
				server.Config.Protocols.SetUnencryptedHTTP2(true)
				server.Start()
				t.Cleanup(server.Close)
				return server.Listener.Addr().String(), server.CloseClientConnections
			}
			address, end := start()
			do, err := clientOf(kind, address, newSources([]string{fmt.Sprintf("127.0.0.%d", 21+i)}, 0))
			if err != nil {
				t.Fatal(err)
			}
			first, err := do(t.Context(), "1")
			if err != nil || first.pod != "pod" || first.opened.IsZero() {
				t.Fatalf("the first request: %+v, %v", first, err)
			}
			end()
			deadline := time.Now().Add(10 * time.Second)
			for requests.Load() < 2 {
				again, err := do(t.Context(), "1")
				if requests.Load() == 2 && (err == nil || again.pod != "" || !again.opened.After(first.opened)) {
					t.Errorf("on a new connection: %+v, %v", again, err)
				}
				if time.Now().After(deadline) {
					t.Fatal("no request comes through again")
				}
			}
		})
	}
}

// clientOf is newClient for one connection to any address.
func clientOf(kind, address string, sources *sources) (request, error) {
	switch kind {
	case HTTP1:
		return (&pool{size: 1, address: address, sources: sources}).do, nil
	case HTTP2:
		return newHTTP2(address, sources), nil
	}
	return newGRPC(address, sources)
}

// serveGRPC serves gRPC and returns what ends its connections. From the second request on it ends that of the request.
func serveGRPC(t *testing.T, requests *atomic.Int32) (address string, end func()) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	kept := &keptConns{Listener: listener}
	server := grpc.NewServer(
		grpc.UnaryInterceptor(
			func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
				if requests.Add(1) > 1 {
					kept.end()
					return nil, errors.New("too late")
				}
				_ = grpc.SetHeader(ctx, metadata.Pairs("pod", "pod"))
				return handler(ctx, request)
			}))
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	go func() { _ = server.Serve(kept) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String(), kept.end
}

// keptConns is a listener that can end what it has accepted.
type keptConns struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func (k *keptConns) Accept() (net.Conn, error) {
	conn, err := k.Listener.Accept()
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		k.conns = append(k.conns, conn)
	}
	return conn, err
}

func (k *keptConns) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, conn := range k.conns {
		_ = conn.Close()
	}
	k.conns = nil
}

// TestARequestCountsAsRepeatedOnlyIfItWasSent has gRPC's own news of its attempts: a header is the
// first thing that leaves the client.
func TestARequestCountsAsRepeatedOnlyIfItWasSent(t *testing.T) {
	own := func(port int) net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port} }
	for name, tt := range map[string]struct {
		news []stats.RPCStats
		want int
	}{
		"sent once": {[]stats.RPCStats{&stats.Begin{}, &stats.OutHeader{LocalAddr: own(1)}}, 1},
		"never left, then sent": {[]stats.RPCStats{&stats.Begin{}, &stats.Begin{IsTransparentRetryAttempt: true},
			&stats.OutHeader{LocalAddr: own(2)}}, 1},
		"refused, and sent anew": {[]stats.RPCStats{&stats.Begin{}, &stats.OutHeader{LocalAddr: own(1)},
			&stats.Begin{IsTransparentRetryAttempt: true}, &stats.OutHeader{LocalAddr: own(2)}}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			var s sent
			ctx := context.WithValue(t.Context(), sentKey{}, &s)
			for _, news := range tt.news {
				sentWatch{}.HandleRPC(ctx, news)
			}
			if got := s.all(); len(got) != tt.want || s.last() != got[len(got)-1] {
				t.Errorf("sent over %v, want %d", got, tt.want)
			}
		})
	}
}

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestCauses(t *testing.T) {
	timeout := &net.OpError{Op: "dial", Err: context.DeadlineExceeded}
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"a port that nobody listens at":                 {&connectError{fmt.Errorf("dial: %w", syscall.ECONNREFUSED)}, causeRefused},
		"a host that is gone":                           {&connectError{fmt.Errorf("dial: %w", syscall.EHOSTUNREACH)}, causeNoRoute},
		"a host that doesn't answer":                    {&connectError{timeout}, causeConnect},
		"a connection that is reset":                    {fmt.Errorf("read: %w", syscall.ECONNRESET), causeReset},
		"a connection that ends before its answer":      {io.ErrUnexpectedEOF, causeClosed},
		"an answer that doesn't come":                   {context.DeadlineExceeded, causeTimeout},
		"a status that isn't 200":                       {fmt.Errorf("%w 503", errStatus), causeStatus},
		"a request that gRPC sent twice":                {errRetried, causeUndone},
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

// TestAPortInUseIsPassedOver has something listen at the port that would be next: kube-proxy's own did, on the host of the clients.
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

// TestABrokenConnectionIsAFailure has a server that ends every connection instead of the second answer: what a client that
// tries again would hide.
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
	for i, want := range []string{"", causeClosed, ""} {
		pod, err := p.do(t.Context())
		got := ""
		if err != nil {
			got = cause(err)
		}
		if got != want || pod != "pod" && i != 2 {
			t.Errorf("request %d: %q %v", i+1, pod, err)
		}
	}
	if requests != 3 {
		t.Errorf("the server saw %d requests for 3", requests)
	}
}

func TestAnIdleConnectionThatTheServerClosedIsNotUsed(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "pod") }))
	defer server.Close()
	p := &pool{size: 1, address: server.Listener.Addr().String(), sources: newSources([]string{"127.0.0.12"}, 0)}
	if _, err := p.do(t.Context()); err != nil {
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
	if _, err := p.do(t.Context()); err != nil {
		t.Errorf("after the server closed an idle connection: %v", err)
	}
}

func TestClientsThatDoNotExist(t *testing.T) {
	if _, err := newClient("HTTP/3", target{IP: "127.0.0.1"}, 1, newSources([]string{"127.0.0.13"}, 0)); err == nil || !strings.Contains(err.Error(), http2) {
		t.Errorf("error is %v, want one that says what is allowed", err)
	}
}

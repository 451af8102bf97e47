// Command server is what the tests of this module speak to: a server that recycles its connections,
// over HTTP/1.1 and HTTP/2, with TLS and without, with gRPC and WebSockets. Its first line on
// standard output says where it listens. It answers:
//
//	/          the name from -name
//	/echo      the request's body, after -delay at most
//	/stream    ?n= blocks of 1,000 bytes, flushed one by one
//	/slow      ?n= blocks of 1,000,000 bytes, and nothing but these
//	/ws        a WebSocket that echoes
//	/readyz    200, or 503 while draining
//	/stats     what it has seen so far, as JSON (see Stats)
//	gRPC       grpc.health.v1.Health
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/evenkeel/evenkeel/internal/keypair"
	"github.com/evenkeel/evenkeel/recycle"
	"github.com/gorilla/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// Stats is what /stats answers. server_test.go has its counterpart.
type Stats struct {
	Requests int64            // handled so far
	Closed   map[string]int64 // connections that have ended, by recycle.Reason
	Mallocs  uint64           // heap objects allocated so far
}

type config struct {
	listen, name, stop string
	tls, plain         bool
	delay, drain       time.Duration
	quiet              time.Duration
	recycle            recycle.Options
}

func main() {
	var c config
	flag.StringVar(&c.listen, "listen", "127.0.0.1:0", "`address`")
	flag.StringVar(&c.name, "name", "", "what / answers")
	flag.StringVar(&c.stop, "stop", "drain", "what SIGTERM does: drain, or shutdown as http.Server does it")
	flag.BoolVar(&c.tls, "tls", false, "listen with TLS and a certificate made up on the spot")
	flag.BoolVar(&c.plain, "plain", false, "don't recycle")
	flag.DurationVar(&c.delay, "delay", 0, "longest time that /echo takes")
	flag.DurationVar(&c.drain, "drain", 20*time.Second, "longest time to drain")
	flag.DurationVar(&c.recycle.DrainQuiet, "drain-quiet", 0, "time without connections that ends draining")
	flag.DurationVar(&c.quiet, "shutdown-after", 0, "time between not being ready and shutdown")
	flag.IntVar(&c.recycle.MaxRequests, "max-requests", 0, "limit")
	flag.DurationVar(&c.recycle.MaxAge, "max-age", 0, "limit")
	flag.Float64Var(&c.recycle.Jitter, "jitter", 0, "of the limits")
	flag.Parse()
	if err := run(c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(c config) error {
	var requests atomic.Int64
	var mu sync.Mutex
	closed := make(map[string]int64)
	c.recycle.OnClose = func(e recycle.Closed) {
		mu.Lock()
		defer mu.Unlock()
		closed[e.Reason.String()]++
	}
	var stopping atomic.Bool

	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, c.name) })
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if c.delay > 0 {
			time.Sleep(rand.N(c.delay))
		}
		_, _ = w.Write(body)
	})
	blocks := func(size int, flush bool) http.HandlerFunc {
		block := []byte(strings.Repeat("x", size))
		return func(w http.ResponseWriter, r *http.Request) {
			n, _ := strconv.Atoi(r.URL.Query().Get("n"))
			for range n {
				_, _ = w.Write(block)
				if flush {
					_ = http.NewResponseController(w).Flush()
				}
			}
		}
	}
	mux.HandleFunc("/stream", blocks(1_000, true))
	mux.HandleFunc("/slow", blocks(1_000_000, false))
	upgrader := websocket.Upgrader{}
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		for {
			kind, message, err := ws.ReadMessage()
			if err != nil || ws.WriteMessage(kind, message) != nil {
				return
			}
		}
	})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if stopping.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/stats", func(w http.ResponseWriter, _ *http.Request) {
		var memory runtime.MemStats
		runtime.ReadMemStats(&memory)
		mu.Lock()
		defer mu.Unlock()
		_ = json.NewEncoder(w).Encode(Stats{requests.Load(), closed, memory.Mallocs})
	})
	grpcServer := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(grpcServer, health.NewServer())

	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
				grpcServer.ServeHTTP(w, r)
				return
			}
			mux.ServeHTTP(w, r)
		}),
		ErrorLog:    log.New(io.Discard, "", 0), // clients of a load test break handshakes off
		IdleTimeout: 2 * time.Minute,
		Protocols:   new(http.Protocols),
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	server.Protocols.SetUnencryptedHTTP2(true)

	var recycler *recycle.Recycler
	if !c.plain {
		var err error
		if recycler, err = recycle.Wrap(server, c.recycle); err != nil {
			return err
		}
	}

	listener, err := net.Listen("tcp", c.listen)
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())

	stopped := make(chan error, 1)
	go func() {
		sigterm, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		<-sigterm.Done()
		stop()
		stopping.Store(true)
		ctx, cancel := context.WithTimeout(context.Background(), c.drain)
		defer cancel()
		if c.stop == "drain" {
			stopped <- recycler.Drain(ctx)
			return
		}
		time.Sleep(c.quiet)
		stopped <- server.Shutdown(ctx)
	}()

	if c.tls {
		server.TLSConfig, err = selfSigned()
		if err != nil {
			return err
		}
		err = server.ServeTLS(listener, "", "")
	} else {
		err = server.Serve(listener)
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

// selfSigned makes up a certificate for loopback.
func selfSigned() (*tls.Config, error) {
	pair, err := keypair.New(&x509.Certificate{NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, nil)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{pair.TLS()}}, nil
}

// Command server is what the proof's clients speak to: HTTP/1.1 and HTTP/2 without TLS at -http,
// gRPC's health service at -grpc. Each answer takes -work, or as long as the query ?for= says, and
// names the pod. With -answers, the id of each request that is answered is written to a file.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	"github.com/evenkeel/evenkeel/e2e/proof/load"
	"github.com/evenkeel/evenkeel/recycle"
)

type config struct {
	http, grpc  string
	start, work time.Duration
	stop        string
	maxAge      time.Duration
	answers     string
}

func main() {
	var c config
	flag.StringVar(&c.http, "http", ":8080", "`address` for HTTP/1.1 and HTTP/2 without TLS")
	flag.StringVar(&c.grpc, "grpc", "", "`address` for gRPC; empty means none")
	flag.DurationVar(&c.start, "start", 0, "time from the start of the program until it listens")
	flag.DurationVar(&c.work, "work", 20*time.Millisecond, "time that an answer takes")
	flag.StringVar(&c.stop, "stop", "shutdown", "what SIGTERM does: at-once, shutdown (as net/http and gRPC do it) or "+
		"drain (as package recycle does it)")
	flag.DurationVar(&c.maxAge, "max-age", 0, "age at which package recycle ends a connection; 0 means never")
	flag.StringVar(&c.answers, "answers", "", "`directory` of a file, named after the pod, with the id of each request "+
		"that is answered (Request-Id), one a line; empty means none")
	flag.Parse()
	if err := run(c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(c config) error {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	switch c.stop {
	case "at-once", "shutdown", "drain":
	default:
		return fmt.Errorf("-stop=%s: allowed are at-once, shutdown and drain", c.stop)
	}
	select {
	case <-time.After(c.start):
	case <-ctx.Done():
		return nil
	}
	pod, err := os.Hostname()
	if err != nil {
		return err
	}

	answered, err := c.log(pod)
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	rpc, err := startGRPC(c, pod, answered, failed)
	if err != nil {
		return err
	}
	server := &http.Server{
		Addr: c.http, ReadHeaderTimeout: time.Minute, Protocols: new(http.Protocols),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			work := c.work
			if d, err := time.ParseDuration(r.URL.Query().Get("for")); err == nil {
				work = d
			}
			time.Sleep(work)
			if err := answered(r.Header.Get(load.RequestID)); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			_, _ = io.WriteString(w, pod)
		}),
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	var recycler *recycle.Recycler
	if c.stop == "drain" || c.maxAge > 0 {
		if recycler, err = recycle.Wrap(server, recycle.Options{MaxAge: c.maxAge}); err != nil {
			return err
		}
	}
	go func() { failed <- server.ListenAndServe() }()

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	note()
	if c.stop == "at-once" {
		os.Exit(0)
	}
	end, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	stopped := make(chan struct{})
	go func() {
		rpc.GracefulStop()
		close(stopped)
	}()
	if c.stop == "drain" {
		err = recycler.Drain(end)
	}
	if shutdown := server.Shutdown(end); err == nil {
		err = shutdown
	}
	select {
	case <-stopped:
	case <-end.Done():
		rpc.Stop()
	}
	return err
}

// log returns a function that notes that a request is about to be answered. What is written is there
// however the process ends: nothing is kept back in it.
func (c config) log(pod string) (func(id string) error, error) {
	if c.answers == "" {
		return func(string) error { return nil }, nil
	}
	file, err := os.OpenFile(filepath.Join(c.answers, pod), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return func(id string) error {
		if id == "" { // a probe
			return nil
		}
		_, err := file.WriteString(id + "\n")
		return err
	}, nil
}

// note leaves the time at which SIGTERM came, in microseconds since 1970, as the message that the
// API shows of an ended container. Outside of one, where the kubelet has made no file for it,
// nothing is written.
func note() {
	file, err := os.OpenFile("/dev/termination-log", os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return
	}
	defer file.Close()
	fmt.Fprint(file, time.Now().UnixMicro())
}

// startGRPC serves gRPC's health service, whose answers name the pod in the header "pod".
func startGRPC(c config, pod string, answered func(id string) error, failed chan<- error) (*grpc.Server, error) {
	server := grpc.NewServer(
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: c.maxAge, MaxConnectionAgeGrace: time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second}),
		grpc.UnaryInterceptor(
			func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
				time.Sleep(c.work)
				id := strings.Join(metadata.ValueFromIncomingContext(ctx, load.RequestID), "")
				if err := answered(id); err != nil {
					return nil, err
				}
				if err := grpc.SetHeader(ctx, metadata.Pairs("pod", pod)); err != nil {
					return nil, err
				}
				return handler(ctx, request)
			}))
	if c.grpc == "" {
		return server, nil
	}
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	listener, err := net.Listen("tcp", c.grpc)
	if err != nil {
		return nil, err
	}
	go func() { failed <- server.Serve(listener) }()
	return server, nil
}

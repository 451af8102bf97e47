package recycle

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
)

type protocol int

const (
	http1 protocol = iota
	http2
	h2c
)

// newClient returns a client with a pool of connections of its own. It doesn't check the test
// server's made-up certificate.
func newClient(p protocol) *http.Client {
	transport := &http.Transport{
		MaxIdleConnsPerHost: 100,
		Protocols:           new(http.Protocols),
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: true},
	}
	transport.Protocols.SetHTTP1(p == http1)
	transport.Protocols.SetHTTP2(p == http2)
	transport.Protocols.SetUnencryptedHTTP2(p == h2c)
	return &http.Client{Transport: transport}
}

// load runs work n times by workers at once and fails the test for each error.
func load(t *testing.T, workers, n int, work func(i int) error) {
	t.Helper()
	var next, failed atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				i := int(next.Add(1))
				if i > n {
					return
				}
				if err := work(i); err != nil && failed.Add(1) <= 5 {
					t.Errorf("request %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	if f := failed.Load(); f > 0 {
		t.Errorf("%d of %d failed", f, n)
	}
}

// echo posts a body of i bytes, modulo something, and wants it back.
func echo(t *testing.T, client *http.Client, url string) func(i int) error {
	return func(i int) error {
		body := bytes.Repeat([]byte{byte('a' + i%26)}, i*37%5000)
		got, err := fetch(t.Context(), client, http.MethodPost, url+"/echo", bytes.NewReader(body))
		if err == nil && !bytes.Equal(got, body) {
			err = fmt.Errorf("sent %d bytes, got %d", len(body), len(got))
		}
		return err
	}
}

// TestNoResponseFails sends requests of every kind of client over connections that are recycled all
// the time. The servers have the race detector on. In the long form there are more than a million
// requests.
func TestNoResponseFails(t *testing.T) {
	var requests, connections atomic.Int64
	report := func(t *testing.T, p *process, scheme string, least int64) {
		t.Helper()
		s := p.stats(t, scheme)
		for deadline := time.Now().Add(10 * time.Second); s.recycled() < least &&
			time.Now().Before(deadline); s = p.stats(t, scheme) {
			time.Sleep(50 * time.Millisecond) // they end half a second after their last answer
		}
		requests.Add(s.Requests)
		connections.Add(s.recycled())
		t.Logf("%d requests, %d recycled connections: %v", s.Requests, s.recycled(), s.Closed)
		if s.recycled() < least {
			t.Errorf("only %d connections were recycled: this proves nothing", s.recycled())
		}
	}

	t.Run("Go over HTTP/1.1", func(t *testing.T) {
		p := start(t, "-max-requests=40", "-max-age=2s") // well below 3,000 requests over 32 connections, however they fall
		load(t, 32, pick(3_000, 200_000), echo(t, newClient(http1), "http://"+p.address))
		report(t, p, "http", 20)
	})
	t.Run("Go over HTTP/2 with TLS", func(t *testing.T) {
		p := start(t, "-tls", "-max-requests=200", "-max-age=2s")
		load(t, 32, pick(2_000, 100_000), echo(t, newClient(http2), "https://"+p.address))
		report(t, p, "https", 5)
	})
	t.Run("Go over HTTP/2 without TLS", func(t *testing.T) {
		p := start(t, "-max-requests=200", "-max-age=2s")
		load(t, 32, pick(2_000, 150_000), echo(t, newClient(h2c), "http://"+p.address))
		report(t, p, "http", 5)
	})
	t.Run("gRPC over h2c", func(t *testing.T) {
		p := start(t, "-max-requests=200", "-max-age=2s")
		connection, err := grpc.NewClient("passthrough:"+p.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		client := grpc_health_v1.NewHealthClient(connection)
		load(t, 16, pick(1_000, 100_000), func(int) error {
			answer, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
			if err == nil && answer.Status != grpc_health_v1.HealthCheckResponse_SERVING {
				err = fmt.Errorf("status %v", answer.Status)
			}
			return err
		})
		report(t, p, "http", 5)
	})
	t.Run("curl with --http2", func(t *testing.T) {
		p := start(t, "-tls", "-max-requests=5", "-name=hello")
		curl := tool(t, "curl", "curl")
		for range pick(2, 50) {
			curlMany(t, curl, 100, "--http2", "-k", "https://"+p.address+"/echo")
		}
		report(t, p, "https", 10)
	})
	t.Run("curl over HTTP/1.1", func(t *testing.T) {
		p := start(t, "-max-requests=5")
		curl := tool(t, "curl", "curl")
		for range pick(2, 50) {
			curlMany(t, curl, 100, "--http1.1", "http://"+p.address+"/echo")
		}
		report(t, p, "http", 10)
	})
	t.Run("a client that pipelines", func(t *testing.T) {
		p := start(t, "-max-requests=50", "-name=hello")
		n := pipeline(t, p.address, pick(2_000, 100_000))
		if n == 0 {
			t.Error("every answer came before the next question was sent: this proves nothing")
		}
		t.Logf("%d questions were asked again because their connection ended before their turn", n)
		report(t, p, "http", 20)
	})
	t.Run("streams and uploads in flight", func(t *testing.T) {
		for _, protocol := range []protocol{http1, http2, h2c} {
			// 24 requests over eight connections at a time can't all stay below three, however fast the machine is.
			args, scheme := []string{"-max-requests=3", "-max-age=300ms"}, "http"
			if protocol == http2 {
				args, scheme = append(args, "-tls"), "https"
			}
			p := start(t, args...)
			client := newClient(protocol)
			load(t, 8, pick(24, 2_000), func(i int) error {
				if i%2 == 0 {
					got, err := fetch(t.Context(), client, http.MethodGet, scheme+"://"+p.address+"/stream?n=500", nil)
					if err == nil && len(got) != 500_000 {
						err = fmt.Errorf("a stream was cut after %d bytes", len(got))
					}
					return err
				}
				body := bytes.Repeat([]byte("0123456789"), 100_000)
				got, err := fetch(t.Context(), client, http.MethodPost, scheme+"://"+p.address+"/echo", bytes.NewReader(body))
				if err == nil && !bytes.Equal(got, body) {
					err = fmt.Errorf("sent %d bytes, got %d", len(body), len(got))
				}
				return err
			})
			report(t, p, scheme, 2)
		}
	})
	t.Run("WebSockets", func(t *testing.T) {
		p := start(t, "-max-requests=1", "-max-age=50ms")
		load(t, 16, pick(16, 160), func(int) error {
			ws, _, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+p.address+"/ws", nil)
			if err != nil {
				return err
			}
			defer ws.Close()
			for i := range 100 { // half a second, ten times the age
				message := strconv.Itoa(i)
				if err := ws.WriteMessage(websocket.TextMessage, []byte(message)); err != nil {
					return err
				}
				if _, got, err := ws.ReadMessage(); err != nil || string(got) != message {
					return fmt.Errorf("sent %q, got %q: %w", message, got, err)
				}
				time.Sleep(5 * time.Millisecond) // people don't type faster
			}
			return nil
		})
		report(t, p, "http", 0)
	})
	t.Run("wrk", func(t *testing.T) { // asks what is missing to a million
		p := start(t, "-max-requests="+pick("20", "100"), "-name=hello")
		wrk := tool(t, "wrk", "wrk")
		for round := 0; round == 0 || (long() && round < 40 &&
			requests.Load()+p.stats(t, "http").Requests < 1_010_000); round++ {
			out := run(t, wrk, "-t2", "-c32", "-d"+pick("1s", "30s"), "http://"+p.address+"/")
			if strings.Contains(out, "Socket errors") || strings.Contains(out, "Non-2xx") {
				t.Errorf("wrk has met errors:\n%s", out)
			}
		}
		report(t, p, "http", 5)
	})
	t.Logf("together: %d requests, %d recycled connections", requests.Load(), connections.Load())
	if want := pick(int64(8_000), 1_000_000); requests.Load() < want {
		t.Errorf("only %d requests, want %d", requests.Load(), want)
	}
}

// run runs a program that has to succeed, and returns what it printed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// curlMany has one curl process send n requests over the connections that it keeps.
func curlMany(t *testing.T, curl string, n int, args ...string) {
	t.Helper()
	url := args[len(args)-1]
	arguments := append([]string{"-sS", "--fail", "--data", "hello", "-w", "|%{http_code} %{num_connects}\n"},
		args[:len(args)-1]...)
	for range n {
		arguments = append(arguments, url)
	}
	out := run(t, curl, arguments...)
	if got := strings.Count(out, "hello|200 "); got != n {
		t.Errorf("%d of %d answers are right:\n%s", got, n, out)
	}
}

// pipeline asks n questions, up to eight ahead of their answers, and asks again those that the end
// of a connection has left without an answer. Each answer has to arrive whole. It returns how many
// were asked again.
func pipeline(t *testing.T, address string, n int) int {
	t.Helper()
	again := 0
	for answered := 0; answered < n; {
		nc, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.SetDeadline(time.Now().Add(time.Minute))
		reader := bufio.NewReader(nc)
		for asked, open := 0, true; open; {
			for ; asked < 8; asked++ {
				// An error means that the connection has ended; the answers tell when.
				_, _ = io.WriteString(nc, "GET / HTTP/1.1\r\nHost: test\r\n\r\n")
			}
			response, err := http.ReadResponse(reader, nil)
			if err != nil {
				t.Fatalf("after %d answers: %v", answered, err)
			}
			body, err := io.ReadAll(response.Body)
			if err != nil || string(body) != "hello" {
				t.Fatalf("answer %d is %q: %v", answered, body, err)
			}
			answered++
			asked--
			if response.Close {
				again += asked
				open = false
			}
		}
		nc.Close()
	}
	return again
}

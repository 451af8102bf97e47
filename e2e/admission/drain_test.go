package admission

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

var (
	restarts = flag.Int("restarts", 4, "how often TestRestartsOfEvenkeelLoseNoReview restarts a replica; 100 is "+
		"the long form")
	reviewsARate = flag.Int("reviews-per-second", 500,
		"how many reviews a second TestRestartsOfEvenkeelLoseNoReview sends")
)

// TestRestartsOfEvenkeelLoseNoReview restarts one of three replicas behind one address after the
// other, under the load of a client like kube-apiserver's: HTTP/1.1, 25 idle connections that are
// kept for 90 seconds, 10 seconds for an answer. The control kills them.
func TestRestartsOfEvenkeelLoseNoReview(t *testing.T) {
	ours(t) // on another cluster there is none to restart
	for _, c := range []struct {
		name   string
		signal syscall.Signal
		loses  bool
	}{
		{"SIGTERM", syscall.SIGTERM, false},
		{"control: SIGKILL", syscall.SIGKILL, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := t.Context()
			replicas := make([]*installation.Installation, 3)
			for i := range replicas {
				var err error
				replicas[i], err = installation.Prepare(ctx, shared.Cluster, installation.Options{
					Name: fmt.Sprintf("replica-%d-%d", i, c.signal), Flags: []string{"--drain-timeout=20s"}})
				check.Must(t, err)
				check.Must(t, replicas[i].Start(ctx))
				t.Cleanup(replicas[i].Stop)
			}
			balancer := balance(t, replicas)
			load := startLoad(balancer, optedIn(t, nil), *reviewsARate)
			count := *restarts
			if c.loses {
				count = min(count, 10)
			}
			for n := range count {
				replica := replicas[n%3]
				if c.signal == syscall.SIGKILL {
					check.Must(t, replica.Signal(syscall.SIGKILL))
				}
				begin := time.Now()
				replica.Stop()
				t.Logf("ended after %v", time.Since(begin).Round(time.Millisecond))
				check.Must(t, replica.Start(ctx))
				check.Eventually(t, "the balancer sends to the replica again", func() error {
					if !balancer.ready(n % 3) {
						return errors.New("not yet")
					}
					return nil
				})
			}
			load.stop()
			t.Logf("%d restarts, %d reviews, the slowest took %v, %d failed: %v", count, load.sent,
				load.slowest.Round(time.Millisecond),
				len(load.failed), load.failed[:min(len(load.failed), 5)])
			if load.sent < 100 {
				t.Errorf("%d reviews, want at least 100", load.sent)
			}
			if loses := len(load.failed) > 0; loses != c.loses {
				t.Errorf("%d reviews failed, want some: %v", len(load.failed), c.loses)
			}
		})
	}
}

// balancer hands each connection to the next replica that is ready, as a Service does.
type balancer struct {
	listener net.Listener
	replicas []*installation.Installation
	healthy  []atomic.Bool
	next     atomic.Int64
}

func balance(t *testing.T, replicas []*installation.Installation) *balancer {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	check.Must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	b := &balancer{listener: listener, replicas: replicas, healthy: make([]atomic.Bool, len(replicas))}
	t.Cleanup(func() { cancel(); _ = listener.Close() })
	for i, replica := range replicas {
		b.healthy[i].Store(true)
		go func() {
			for ctx.Err() == nil {
				response, err := http.Get("http://" + replica.MetricsAddress + "/readyz") //nolint:noctx // ends with the test
				b.healthy[i].Store(err == nil && response.StatusCode == http.StatusOK)
				if err == nil {
					_ = response.Body.Close()
				}
				time.Sleep(50 * time.Millisecond) // the period of a readiness probe, shortened
			}
		}()
	}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go b.pass(client)
		}
	}()
	return b
}

func (b *balancer) ready(i int) bool { return b.healthy[i].Load() }

func (b *balancer) pass(client net.Conn) {
	defer func() { _ = client.Close() }()
	for range 2 * len(b.replicas) {
		i := int(b.next.Add(1)) % len(b.replicas)
		if !b.ready(i) {
			continue
		}
		server, err := net.Dial("tcp", b.replicas[i].Address)
		if err != nil {
			return // as with a Service: the client sees it
		}
		var both sync.WaitGroup
		both.Go(func() { _, _ = io.Copy(server, client); _ = server.(*net.TCPConn).CloseWrite() })
		both.Go(func() { _, _ = io.Copy(client, server); _ = client.(*net.TCPConn).CloseWrite() })
		both.Wait()
		_ = server.Close()
		return
	}
}

// load sends reviews at a fixed rate, however long the answers take.
type load struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	mu     sync.Mutex
	sent   int
	failed []string
	// slowest is the longest that an answer took.
	slowest time.Duration
}

func startLoad(b *balancer, namespace string, rate int) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: true}, // three certificates behind one address
		MaxIdleConnsPerHost: 25, IdleConnTimeout: 90 * time.Second}}
	body := `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","operation":"CREATE",` +
		`"namespace":"` + namespace +
		`","object":{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"app":"a"}},"spec":{"containers":[{"name":"a",` +
		`"ports":[{"containerPort":80}]}]}}}}`
	l.done.Go(func() {
		defer client.CloseIdleConnections()
		ticker := time.NewTicker(time.Second / time.Duration(rate))
		defer ticker.Stop()
		var requests sync.WaitGroup
		defer requests.Wait()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			requests.Go(func() {
				begin := time.Now()
				err := sendReview(client, b.listener.Addr().String(), body)
				l.mu.Lock()
				defer l.mu.Unlock()
				if err != nil {
					l.failed = append(l.failed, err.Error())
				}
				l.slowest = max(l.slowest, time.Since(begin))
				l.sent++
			})
		}
	})
	return l
}

func sendReview(client *http.Client, address, body string) error {
	// Like kube-apiserver's client: the body can be read again, the request is a POST and not retried once it was sent.
	response, err := client.Post("https://"+address+"/mutate?timeout=10s", "application/json",
		bytes.NewReader([]byte(body))) //nolint:noctx // has a timeout
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if !json.Valid(answer) || response.StatusCode != http.StatusOK || !strings.Contains(string(answer), `"allowed":true`) {
		return fmt.Errorf("answer %d %.100s", response.StatusCode, answer)
	}
	return nil
}

func (l *load) stop() {
	l.cancel()
	l.done.Wait()
}

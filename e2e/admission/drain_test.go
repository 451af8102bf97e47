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
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/installation"
	"github.com/evenkeel/evenkeel/internal/traffic"
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

// balancer sends connections to the replicas that are ready, as a Service does.
type balancer struct {
	*traffic.Balancer

	mu      sync.Mutex
	healthy []bool
}

func balance(t *testing.T, replicas []*installation.Installation) *balancer {
	t.Helper()
	addresses := make([]string, len(replicas))
	for i, replica := range replicas {
		addresses[i] = replica.Address
	}
	spread, err := traffic.Balance(false, addresses...)
	check.Must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	b := &balancer{Balancer: spread, healthy: make([]bool, len(replicas))}
	t.Cleanup(func() { cancel(); _ = b.Close() })
	for i, replica := range replicas {
		b.healthy[i] = true
		go func() {
			for ctx.Err() == nil {
				response, err := http.Get("http://" + replica.MetricsAddress + "/readyz") //nolint:noctx // ends with the test
				b.set(i, err == nil && response.StatusCode == http.StatusOK, addresses)
				if err == nil {
					_ = response.Body.Close()
				}
				time.Sleep(50 * time.Millisecond) // the period of a readiness probe, shortened
			}
		}()
	}
	return b
}

// set writes down whether a replica is ready.
func (b *balancer) set(i int, ready bool, addresses []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.healthy[i] = ready
	var backends []string
	for i, address := range addresses {
		if b.healthy[i] {
			backends = append(backends, address)
		}
	}
	b.Set(backends...)
}

func (b *balancer) ready(i int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.healthy[i]
}

// load sends reviews at a fixed rate, however long the answers take.
type load struct {
	stop   func()
	mu     sync.Mutex
	sent   int
	failed []string
	// slowest is the longest that an answer took.
	slowest time.Duration
}

func startLoad(b *balancer, namespace string, rate int) *load {
	l := &load{}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: true}, // three certificates behind one address
		MaxIdleConnsPerHost: 25, IdleConnTimeout: 90 * time.Second}}
	body := `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","operation":"CREATE",` +
		`"namespace":"` + namespace +
		`","object":{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"app":"a"}},"spec":{"containers":[{"name":"a",` +
		`"ports":[{"containerPort":80}]}]}}}}`
	stop := traffic.Send(rate, 0, func() {
		begin := time.Now()
		err := sendReview(client, b.Address, body)
		l.mu.Lock()
		defer l.mu.Unlock()
		if err != nil {
			l.failed = append(l.failed, err.Error())
		}
		l.slowest = max(l.slowest, time.Since(begin))
		l.sent++
	})
	l.stop = func() { stop(); client.CloseIdleConnections() }
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

package recycle

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// balancer spreads connections over backends, as a Service does: it looks at nothing but the
// connection, and tries none twice.
type balancer struct {
	address string
	random  bool // choose at random, as kube-proxy's iptables rules do, instead of in turn, as IPVS does

	mu       sync.Mutex
	backends []string
	next     int
}

func startBalancer(t *testing.T, random bool, backends ...string) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{address: l.Addr().String(), random: random, backends: backends}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close() })
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go b.forward(client.(*net.TCPConn))
		}
	})
	return b
}

// set replaces the backends for connections to come.
func (b *balancer) set(backends ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backends = append([]string(nil), backends...)
}

func (b *balancer) pick() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.random {
		return b.backends[rand.IntN(len(b.backends))]
	}
	b.next++
	return b.backends[b.next%len(b.backends)]
}

// forward copies both directions until each has ended.
func (b *balancer) forward(client *net.TCPConn) {
	defer client.Close()
	nc, err := net.DialTimeout("tcp", b.pick(), 5*time.Second)
	if err != nil {
		_ = client.SetLinger(0) // the client sees what it would see without a balancer: a reset
		return
	}
	server := nc.(*net.TCPConn)
	defer server.Close()
	var wg sync.WaitGroup
	for _, way := range [][2]*net.TCPConn{{server, client}, {client, server}} {
		wg.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_ = way[0].CloseWrite()
		})
	}
	wg.Wait()
}

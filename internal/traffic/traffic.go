// Package traffic is what servers of tests get: requests at a steady rate, over connections that a
// balancer spreads.
package traffic

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"
)

// Send calls request so often a second, each time in a goroutine of its own, however long an answer
// takes. Where most is positive, it waits while so many have not returned. The function that it
// returns ends that and waits for all requests; it may be called once more.
func Send(rate, most int, request func()) (stop func()) {
	var sender, requests sync.WaitGroup
	ended := make(chan struct{})
	slots := make(chan struct{}, max(most, 0))
	sender.Go(func() {
		ticker := time.NewTicker(time.Second / time.Duration(rate))
		defer ticker.Stop()
		for {
			select {
			case <-ended:
				return
			case <-ticker.C:
			}
			if most > 0 {
				slots <- struct{}{}
			}
			requests.Go(func() {
				request()
				if most > 0 {
					<-slots
				}
			})
		}
	})
	var once sync.Once
	return func() {
		once.Do(func() { close(ended) })
		sender.Wait()
		requests.Wait()
	}
}

// Balancer spreads connections over backends, as a Service does: it looks at nothing but the
// connection, and tries none twice.
type Balancer struct {
	Address string

	listener net.Listener
	random   bool

	mu       sync.Mutex
	backends []string
	next     int
}

// Balance listens on a port of 127.0.0.1. It chooses backends at random, as the rules of kube-proxy for
// iptables do, or in turn, as IPVS does.
func Balance(random bool, backends ...string) (*Balancer, error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start balancer: %w", err)
	}
	b := &Balancer{Address: listener.Addr().String(), listener: listener, random: random, backends: backends}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			go b.forward(client.(*net.TCPConn))
		}
	}()
	return b, nil
}

// Close takes no more connections.
func (b *Balancer) Close() error { return b.listener.Close() }

// Set replaces the backends for connections to come.
func (b *Balancer) Set(backends ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backends = slices.Clone(backends)
}

// pick returns a backend, or "" where there is none.
func (b *Balancer) pick() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch n := len(b.backends); {
	case n == 0:
		return ""
	case b.random:
		return b.backends[rand.IntN(n)]
	default:
		b.next++
		return b.backends[b.next%n]
	}
}

// forward copies both directions until each has ended.
func (b *Balancer) forward(client *net.TCPConn) {
	defer func() { _ = client.Close() }()
	connection, err := net.DialTimeout("tcp", b.pick(), 5*time.Second)
	if err != nil {
		_ = client.SetLinger(0) // the client sees what it would see without a balancer: a reset
		return
	}
	server := connection.(*net.TCPConn)
	defer func() { _ = server.Close() }()
	var both sync.WaitGroup
	for _, way := range [][2]*net.TCPConn{{server, client}, {client, server}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_ = way[0].CloseWrite()
		})
	}
	both.Wait()
}

package traffic

import (
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

func TestSendDoesNotWaitForAnswers(t *testing.T) {
	var now, most atomic.Int64
	hold := make(chan struct{})
	for limit, want := range map[int]int64{0: 20, 3: 3} {
		now.Store(0)
		most.Store(0)
		stop := Send(1000, limit, func() {
			most.Store(max(most.Load(), now.Add(1)))
			<-hold
			now.Add(-1)
		})
		for deadline := time.Now().Add(10 * time.Second); most.Load() < want && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond) // polls
		}
		time.Sleep(20 * time.Millisecond) // for one too many
		if got := most.Load(); got < want || limit > 0 && got > want {
			t.Errorf("limit %d: %d requests at once, want %d", limit, got, want)
		}
		close(hold)
		stop()
		stop()
		if now.Load() != 0 {
			t.Errorf("limit %d: %d requests are on their way after the end", limit, now.Load())
		}
		hold = make(chan struct{})
	}
}

func TestABalancerSpreadsConnections(t *testing.T) {
	server := func(name string) string {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, name)
				_ = c.Close()
			}
		}()
		return l.Addr().String()
	}
	a, b := server("a"), server("b")
	balancer, err := Balance(false, a, b)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = balancer.Close() }()
	answers := func() string {
		all := ""
		for range 4 {
			c, err := net.Dial("tcp", balancer.Address)
			if err != nil { // a reset, which may come as early as that
				continue
			}
			text, _ := io.ReadAll(c) // a reset is no answer
			_ = c.Close()
			all += string(text)
		}
		return all
	}
	if got := answers(); got != "abab" && got != "baba" {
		t.Errorf("in turn: %q", got)
	}
	if balancer.Set(b); answers() != "bbbb" {
		t.Error("an old backend is still used")
	}
	if balancer.Set(); answers() != "" {
		t.Error("an answer without a backend")
	}
}

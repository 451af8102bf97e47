package server

import (
	"context"
	"net"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"

	"github.com/evenkeel/evenkeel/patches"
)

// silentAPI accepts connections and never answers. It returns its address, and a channel that
// gets a value for each connection.
func silentAPI(t *testing.T) (string, <-chan struct{}) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	accepted := make(chan struct{}, 100)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = conn.Close() })
			accepted <- struct{}{}
		}
	}()
	return listener.Addr().String(), accepted
}

func TestServeEndsWhileTheAPIServerAcceptsAndDoesNotAnswer(t *testing.T) {
	address, accepted := silentAPI(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	over := make(chan error, 1)
	go func() {
		over <- Run(ctx, Config{Version: "v1", Policy: patches.DefaultConfig(), REST: &rest.Config{Host: "http://" + address},
			Namespace: "evenkeel-system", NamespaceSelector: labels.Everything(), Log: silentLog(),
			Listen: "127.0.0.1:0", MetricsListen: "127.0.0.1:0", DrainTimeout: time.Second, Budgets: true,
			ScanInterval: time.Minute,
			Authorities:  Authorities{Secret: "s", WebhookConfigurations: []string{"w"}, Service: "evenkeel"}})
	}()
	// Over HTTP/1.1 each request that waits has a connection of its own: the version, the Lease,
	// Namespaces, Nodes, three kinds of opted-out workloads, the Secret and the configuration.
	for n := range 9 {
		select {
		case <-accepted:
		case err := <-over:
			t.Fatalf("it ended by itself: %v", err)
		case <-time.After(10 * time.Second):
			t.Fatalf("%d requests wait, want 9", n)
		}
	}
	cancel()
	select {
	case err := <-over:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second): // client-go gives up after 32 s
		t.Fatal("it has not ended 5 s after it was told to")
	}
}

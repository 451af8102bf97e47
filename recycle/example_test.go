package recycle_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	"github.com/evenkeel/evenkeel/recycle"
)

// A server that is in use: two lines more than without, and a Drain where Shutdown was.
func Example() {
	server := &http.Server{Addr: ":8080", IdleTimeout: 2 * time.Minute}
	recycler, err := recycle.Wrap(server, recycle.Options{MaxRequests: 1000, MaxAge: 5 * time.Minute})
	if err != nil {
		log.Fatal(err)
	}

	stopped := make(chan error)
	go func() {
		sigterm, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		<-sigterm.Done()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		stopped <- recycler.Drain(ctx)
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		log.Fatal(err)
	}
	if err := <-stopped; err != nil {
		log.Fatal(err)
	}
}

// The third answer is a connection's last.
func ExampleWrap() {
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello")
	})}
	if _, err := recycle.Wrap(server, recycle.Options{MaxRequests: 3, Jitter: recycle.NoJitter}); err != nil {
		fmt.Println(err)
		return
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()

	for range 4 {
		response, err := http.Get("http://" + listener.Addr().String())
		if err != nil {
			fmt.Println(err)
			return
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		fmt.Println(string(body), "close:", response.Close)
	}
	// Output:
	// hello close: false
	// hello close: false
	// hello close: true
	// hello close: false
}

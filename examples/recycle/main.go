// Command recycle is a small gin server that recycles its connections: after 1,000 requests or five
// minutes a client is told to connect anew, and so finds replicas that were added meanwhile. On
// SIGTERM it goes on answering until its clients have left.
//
// Everything about recycling is in the two marked places.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/evenkeel/evenkeel/recycle"
	"github.com/gin-gonic/gin"
)

func main() {
	address := flag.String("address", ":8080", "`address` to listen on")
	maxRequests := flag.Int("max-requests", 1000, "`number` of requests after which a connection is closed; 0: never")
	maxAge := flag.Duration("max-age", 5*time.Minute, "`time` after which a connection is closed; 0: never")
	jitter := flag.Float64("jitter", recycle.DefaultJitter, "`part` of both by which they are shortened at random; "+
		"-1: none")
	drain := flag.Duration("drain", 20*time.Second, "longest `time` to go on answering after SIGTERM")
	flag.Parse()

	err := run(*address, *drain, recycle.Options{MaxRequests: *maxRequests, MaxAge: *maxAge, Jitter: *jitter})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run serves until SIGTERM or an interrupt, and for at most drain after it.
func run(address string, drain time.Duration, options recycle.Options) error {
	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	router.Use(gin.Recovery())
	server := &http.Server{Addr: address, Handler: router, ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout: 2 * time.Minute}

	recycler, err := recycle.Wrap(server, options) // the first place: before the server starts
	if err != nil {
		return err
	}

	host, _ := os.Hostname() // empty if unknown: it is only there to be looked at
	router.GET("/", func(c *gin.Context) { c.String(http.StatusOK, "hello from %s\n", host) })
	router.GET("/readyz", func(c *gin.Context) {
		if recycler.Draining() {
			c.String(http.StatusServiceUnavailable, "draining\n")
			return
		}
		c.String(http.StatusOK, "ok\n")
	})

	stopped := make(chan error, 1)
	go func() {
		sigterm, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
		<-sigterm.Done()
		stop() // a second signal ends the process at once
		ctx, cancel := context.WithTimeout(context.Background(), drain)
		defer cancel()
		stopped <- recycler.Drain(ctx) // the second place: instead of server.Shutdown(ctx)
	}()

	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

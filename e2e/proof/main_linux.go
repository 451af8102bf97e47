// Command proof runs real traffic through every situation in which replicas come and go, on three real nodes, without and
// with evenkeel, and reports what clients saw.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/evenkeel/evenkeel/e2e/installation"
	"github.com/evenkeel/evenkeel/e2e/nodes"
)

type options struct {
	logs   string
	steady time.Duration
	rate   float64
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "load" { // the process that makes the requests
		if err := load(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "load:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.StringVar(&o.logs, "log-dir", "", "directory for the programs' logs, kept afterwards; default is a temporary one")
	flag.DurationVar(&o.steady, "steady", 20*time.Second, "time without any operation, in which no request may fail")
	flag.Float64Var(&o.rate, "rate", 10, "requests per second of each client on each server")
	flag.Parse()
	err := nodes.Main(prepare, func(ctx context.Context) error { return run(ctx, o) })
	if ended := new(exec.ExitError); err != nil && !errors.As(err, &ended) { // a copy of this program has said it
		fmt.Fprintln(os.Stderr, "proof:", err)
	}
	if err != nil {
		os.Exit(1)
	}
}

// imageDir is where images are.
func imageDir() (string, error) {
	root, err := installation.Root()
	return filepath.Join(root, "e2e", "bin", "proof-images"), err
}

func prepare(ctx context.Context) error {
	if err := nodes.Prepare(ctx, os.Stderr); err != nil {
		return err
	}
	dir, err := imageDir()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	_, err = images(ctx, dir)
	return err
}

func run(ctx context.Context, o options) (err error) {
	dir, err := imageDir()
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil {
		return err
	}
	began := time.Now()
	c, err := nodes.Start(ctx, nodes.Config{Images: files, LogDir: o.logs, Log: os.Stderr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	fmt.Fprintf(os.Stderr, "three nodes are ready after %.0f s\n", time.Since(began).Seconds())
	e := &env{Cluster: c, log: os.Stderr, rate: o.rate}
	if err := e.tagImages(); err != nil {
		return err
	}
	if err := e.makeNamespaces(ctx); err != nil {
		return err
	}
	if err := e.install(ctx); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "evenkeel is installed after %.0f s\n", time.Since(began).Seconds())
	e.pods = e.watchPods(ctx)
	targets, err := e.deploy(ctx, serverKinds(), 2)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "servers are ready after %.0f s\n", time.Since(began).Seconds())
	if _, err := e.steady(ctx, o.steady, targets); err != nil {
		return err
	}
	for _, replicas := range []int32{2, 3} {
		if err := e.scaleTo(ctx, serverKinds(), replicas); err != nil {
			return err
		}
		outcome, err := e.rolling(ctx, scenario{ID: "1", Title: fmt.Sprintf("Rolling update, %d replicas", replicas)}, 1, targets, serverKinds())
		if err != nil {
			return err
		}
		for _, r := range outcome.Records {
			if r.Cause != "" && targets[r.Target].Side == with {
				fmt.Fprintln(os.Stderr, r, targets[r.Target])
			}
		}
	}
	return nil
}

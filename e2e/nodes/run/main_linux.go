// Command run keeps a cluster of three real nodes running until Ctrl-C: see package nodes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/evenkeel/evenkeel/e2e/nodes"
)

func main() {
	count := flag.Int("nodes", 3, "number of nodes, 1 to 9, each in a zone of its own")
	logs := flag.String("log-dir", "", "directory for the programs' logs, kept afterwards; default is a temporary one")
	mode := flag.String("proxy-mode", nodes.IPTables, "mode of kube-proxy, iptables or nftables")
	dual := flag.Bool("dual-stack", false, "give nodes, pods and Services that ask for it an IPv6 address too")
	flag.Parse()
	err := nodes.Main(
		func(ctx context.Context) error { return nodes.Prepare(ctx, os.Stderr) },
		func(ctx context.Context) error {
			return run(ctx, nodes.Config{Count: *count, ProxyMode: *mode, DualStack: *dual, LogDir: *logs,
				Log: os.Stderr})
		},
	)
	if err != nil && !errors.Is(err, nodes.ErrInside) {
		fmt.Fprintln(os.Stderr, "nodes:", err)
	}
	if err != nil {
		os.Exit(1)
	}
}

func run(ctx context.Context, config nodes.Config) (err error) {
	c, err := nodes.Start(ctx, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	kubectl, err := c.KubectlCommand(ctx)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	fmt.Fprintf(os.Stderr, "%d nodes run until Ctrl-C. In another terminal:\n\n  nsenter --target $(cat %s) --all env "+
		"KUBECONFIG=%s %s get nodes -L topology.kubernetes.io/zone\n\n",
		len(c.Names), nodes.PIDFile, c.Kubeconfig, kubectl.Path)
	<-ctx.Done()
	return nil
}

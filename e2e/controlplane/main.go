// Command controlplane starts the embedded control plane with fake nodes, prints the path of a kubeconfig file on
// stdout, and runs until it is interrupted; then nothing of it is left.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/evenkeel/evenkeel/e2e/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "controlplane:", err)
		}
		stop()
		os.Exit(1)
	}
}

// run starts the cluster, prints its kubeconfig and waits for the end of the context.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	flags := flag.NewFlagSet("controlplane", flag.ContinueOnError)
	flags.SetOutput(stderr)
	nodes := flags.Int("nodes", 6, "number of fake nodes, 0 to 5000")
	zones := flags.String("zones", "zone-a,zone-b,zone-c", "comma-separated zones that the nodes take turns in")
	kubelet := flags.String("kubelet-version", cluster.Version, "version that the fake nodes' kubelets report; the "+
		"control plane is "+cluster.Version)
	buildOnly := flags.Bool("build", false, "only build the programs, with progress, and start nothing")
	logs := flags.String("log-dir", "", "directory for the components' logs, kept afterwards; default is a temporary one")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; only flags are allowed, see -help", flags.Arg(0))
	}
	if *nodes < 0 || *nodes > 5000 {
		return fmt.Errorf("-nodes=%d: allowed are 0 to 5000", *nodes)
	}
	if *buildOnly {
		_, err := cluster.Build(ctx, stderr, cluster.Etcd, cluster.APIServer, cluster.ControllerManager, cluster.Scheduler,
			cluster.Kwok, cluster.Kubectl)
		return err
	}

	c, err := cluster.Start(ctx, cluster.Config{LogDir: *logs, Log: stderr})
	if err != nil {
		return interrupted(ctx, err)
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	if _, err := c.AddNodes(ctx, *nodes, cluster.NodeSpec{Zones: strings.Split(*zones, ","),
		KubeletVersion: *kubelet}); err != nil {
		return interrupted(ctx, err)
	}
	kubectl, err := c.KubectlCommand(ctx)
	if err != nil {
		return interrupted(ctx, err)
	}
	fmt.Fprintln(stdout, c.Kubeconfig)
	fmt.Fprintf(stderr, "Kubernetes %s with %d fake nodes runs until Ctrl-C. In another terminal:\n\n  export "+
		"KUBECONFIG=%s\n  %s get nodes -L topology.kubernetes.io/zone\n\n",
		cluster.Version, *nodes, c.Kubeconfig, kubectl.Path)
	<-ctx.Done()
	return nil
}

// interrupted returns nil if the error is only that the user wanted to stop.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the user wanted it to end
	}
	return err
}

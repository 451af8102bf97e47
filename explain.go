package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/evenkeel/evenkeel/audit"
)

const explainHelp = `Say why evenkeel did, or did not, add something to a workload of a cluster: whether
its namespace is opted in and a webhook selects it, what became of each default and
why, what of it stands, by whose hand, what is wanted now and when that arrives, where
each setting came from, what leads traffic to its pods and how long a sleep that
needs, how its budget stands, and what to do next.

Kinds: deployment (deploy), statefulset (sts), daemonset (ds), replicaset (rs),
replicationcontroller (rc), pod (po), service (svc). A pod is explained by what it
belongs to, and a Service by the workloads whose pods it selects.

Given a code, such as ambiguous-port, it says what the code means, why the rule is
there, and what to do; that needs no cluster.`

// explainOptions are the flags of explain.
type explainOptions struct {
	cluster clusterFlags
	policy  policyFlags
}

func newExplainCommand(program string) *cobra.Command {
	o := &explainOptions{}
	command := &cobra.Command{
		Use:     "explain KIND/NAME|CODE",
		Short:   "Say why something was, or was not, added to a workload, or what a code means",
		Long:    explainHelp,
		Example: "  " + program + " explain deploy/web -n shop\n  " + program + " explain ambiguous-port",
		RunE:    o.run,
	}
	fs := command.Flags()
	fs.SortFlags = false
	o.cluster.register(fs)
	o.policy.register(fs)
	return command
}

func (o *explainOptions) run(command *cobra.Command, args []string) error {
	if len(args) == 0 || len(args) > 2 {
		return usageError{errors.New("name one workload as KIND/NAME, as in deploy/web, or a code")}
	}
	ask := o.workload
	if len(args) == 1 && !strings.Contains(args[0], "/") {
		ask = o.code
	}
	text, err := ask(command.Context(), args)
	if err != nil {
		return err
	}
	_, err = command.OutOrStdout().Write(text)
	return err
}

// code tells the story of a code, without a cluster.
func (o *explainOptions) code(_ context.Context, args []string) ([]byte, error) {
	text, err := audit.Tell(args[0])
	if err != nil {
		return nil, usageError{err}
	}
	return text, nil
}

// workload asks the cluster.
func (o *explainOptions) workload(ctx context.Context, args []string) ([]byte, error) {
	target, err := audit.ParseTarget(args)
	if err != nil {
		return nil, usageError{err}
	}
	c, err := o.cluster.connect(ctx, &o.policy)
	if err != nil {
		return nil, err
	}
	text, err := audit.Ask(ctx, c.Client, c.Scope, c.rules, target)
	if err != nil {
		return nil, c.Explain(ctx, c.Scope.Namespace, err)
	}
	return text, nil
}

package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/evenkeel/evenkeel/check"
)

const checkHelp = `Say whether the evenkeel of a cluster works, one line for each part, and what to do
where it doesn't: versions, the webhook and whom it trusts, the rights and replicas of
evenkeel, its certificates and its leader, the budgets that are in force, and whether
a Deployment that is created comes back with its defaults (a dry run; nothing is
changed).

With --pre it says whether evenkeel can be installed.

Exit codes: 0 all is well, perhaps with warnings, 1 something fails, 2 something could
not be looked at, or the command line can't be used.`

const checkExamples = `  # Can it be installed, and does it work?
  {{program}} check --pre
  kubectl apply -k deploy/ && {{program}} check --wait 2m`

// checkOptions are the flags of check.
type checkOptions struct {
	before  bool
	reads   bool
	wait    time.Duration
	cluster clusterFlags
}

func newCheckCommand(program string) *cobra.Command {
	o := &checkOptions{}
	command := &cobra.Command{
		Use:     "check [--pre]",
		Short:   "Say whether the evenkeel of a cluster works, and what to do where it doesn't",
		Long:    checkHelp,
		Example: strings.ReplaceAll(checkExamples, "{{program}}", program),
		Args:    noArguments,
		RunE:    o.run,
	}
	fs := command.Flags()
	fs.SortFlags = false
	fs.BoolVar(&o.before, "pre", false, "Say whether evenkeel can be installed.")
	fs.BoolVar(&o.reads, "read-only", false,
		"Leave out the rights of evenkeel and the dry run, which are asked by a creation.")
	fs.DurationVar(&o.wait, "wait", 0, "How long to wait at most until nothing fails.")
	o.cluster.register(fs)
	fs.Lookup("namespace").Usage = "`NAMESPACE` to try a creation in, instead of the first that is opted in."
	return command
}

func (o *checkOptions) run(command *cobra.Command, _ []string) error {
	if o.wait < 0 {
		return usageError{fmt.Errorf("--wait=%s is less than nothing; allowed: 0s or longer, as in 2m", o.wait)}
	}
	c, err := o.cluster.Find()
	if err != nil {
		return err
	}
	scope := check.Scope{Before: o.before, ReadOnly: o.reads, TrialNamespace: o.cluster.Overrides.Context.Namespace}
	results, err := check.Run(command.Context(), c.Client, scope, o.wait)
	if err != nil {
		return err
	}
	out := command.OutOrStdout()
	if _, err := out.Write(check.Text(c.Source, results, colored(out))); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	switch check.Worst(results) {
	case check.Failed:
		return errMissing
	case check.Unknown:
		return errUnknown
	}
	return nil
}

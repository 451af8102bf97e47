package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/evenkeel/evenkeel/check"
	"github.com/evenkeel/evenkeel/internal/words"
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
	fs.DurationVar(&o.wait, "wait", 0, "How long to wait at most until nothing fails.")
	o.cluster.register(fs)
	fs.Lookup("namespace").Usage = "`NAMESPACE` to try a creation in, instead of the first that is opted in."
	return command
}

func (o *checkOptions) run(command *cobra.Command, _ []string) error {
	if o.wait < 0 {
		return usageError{fmt.Errorf("--wait=%s is less than nothing; allowed: 0s or longer, as in 2m", o.wait)}
	}
	c, err := o.cluster.client()
	if err != nil {
		return err
	}
	scope := check.Scope{Before: o.before, TrialNamespace: o.cluster.overrides.Context.Namespace}
	results, err := untilWell(command.Context(), o.wait, func(ctx context.Context) []check.Result {
		scope.Now = time.Now()
		state := check.Read(ctx, c.client, scope)
		if o.before {
			return check.JudgeBefore(state)
		}
		return check.Judge(state)
	})
	if err != nil {
		return err
	}
	out := command.OutOrStdout()
	if _, err := out.Write(checkText(c.source, results, colored(out))); err != nil {
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

// untilWell looks until nothing fails, or until it has waited for long enough.
func untilWell(ctx context.Context, atMost time.Duration,
	look func(context.Context) []check.Result) ([]check.Result, error) {
	const pause = 2 * time.Second
	deadline := time.Now().Add(atMost)
	results := look(ctx)
	for check.Worst(results) == check.Failed && time.Now().Add(pause).Before(deadline) {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
		results = look(ctx)
	}
	return results, nil
}

// checkText writes a line for each result, and one for what to do.
func checkText(source string, results []check.Result, colored bool) []byte {
	colors := map[check.Status]string{check.OK: words.Green, check.Failed: words.Red}
	var b bytes.Buffer
	fmt.Fprintf(&b, "evenkeel in %s\n\n", words.Printable(source))
	for _, r := range results {
		status := fmt.Sprintf("%-8s", r.Status)
		if colored {
			status = words.Paint(cmp.Or(colors[r.Status], words.Yellow), status)
		}
		fmt.Fprintf(&b, "%s %-13s %s\n", status, r.Check, words.Printable(r.Text))
		if r.Advice != "" {
			fmt.Fprintf(&b, "%22s %s\n", "", "-> "+words.Printable(r.Advice))
		}
	}
	count := func(s check.Status) int {
		return len(slices.DeleteFunc(slices.Clone(results), func(r check.Result) bool { return r.Status != s }))
	}
	fmt.Fprintf(&b, "\n%d ok, %d failed, %d with a warning, %d unknown\n",
		count(check.OK), count(check.Failed), count(check.Warning), count(check.Unknown))
	return b.Bytes()
}

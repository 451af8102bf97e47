package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/check"
	"github.com/evenkeel/evenkeel/findings"
)

const auditHelp = `Say how well workloads are protected now, in a cluster or in manifests.

For each workload: what it has of the defaults, what evenkeel would add, what it
skips and why, which workloads the loss of one node or zone would take down now,
which drains are blocked and by which budget, and what has one replica only. Nothing
is changed.

The cluster, context and namespace are those of kubectl, which KUBECONFIG, --context
and --namespace change. The flags of the evenkeel that runs there count, unless given
here. Given files, it looks at manifests instead, without a cluster: 16 MiB at most,
all together, and 3 MiB for one document.

Output formats (-o):
  table  for people
  json   for machines; members are added, never renamed
  html   one page that needs nothing else, for people who decide
  github, sarif, junit  the findings, for CI

Codes for --fail-on, or "any" for all of them:
`

const auditExamples = `  # The namespace at hand, and the whole cluster
  {{program}} audit
  {{program}} audit -A

  # Manifests
  {{program}} audit manifests/

  # Fail a pipeline when something can be interrupted by one drain.
  {{program}} audit manifests/ --fail-on single-replica,drain-blocked`

// auditOptions are the flags of audit.
type auditOptions struct {
	input       inputFlags
	format      formatFlag
	failOn      []string
	baseline    string
	all         bool
	selector    string
	kubeVersion kubeVersionFlag
	cluster     clusterFlags
	policy      policyFlags
}

func newAuditCommand(program string) *cobra.Command {
	o := &auditOptions{}
	help := auditHelp
	for _, e := range audit.Codes() {
		help += fmt.Sprintf("  %-26s %s\n", e.Code, e.Text)
	}
	command := &cobra.Command{
		Use:     "audit [-n NAMESPACE | -A | [-f] FILE|DIRECTORY|-...]",
		Short:   "Say which workloads a lost node, a lost zone or a drain would interrupt, and what is missing",
		Long:    help + "\nExit codes: 0 done, 1 --fail-on found something, 2 the command line or the input can't be used.",
		Example: strings.ReplaceAll(auditExamples, "{{program}}", program),
		RunE:    o.run,
	}
	fs := command.Flags()
	fs.SortFlags = false
	fs.BoolVarP(&o.all, "all-namespaces", "A", false, "Look at all namespaces.")
	o.input.register(fs)
	fs.Lookup("filename").Usage = "`FILE` or directory of manifests to look at instead of a cluster, " +
		"or - for standard input; may be repeated."
	o.format.register(command, slices.Concat(audit.Formats, findings.Formats))
	fs.StringSliceVar(&o.failOn, "fail-on", nil, "Exit with 1 when one of these `CODES`, comma-separated, is found.")
	fs.StringVar(&o.baseline, "baseline", "",
		"With --fail-on, count only what this `FILE`, a report of -o json, doesn't have.")
	o.kubeVersion.register(fs)
	fs.StringVarP(&o.selector, "selector", "l", "", "Label `SELECTOR` of the workloads to report.")
	o.cluster.register(fs)
	o.cluster.Instead = ", or name files of manifests"
	o.policy.register(fs)
	complete(command, "fail-on", audit.Choices())
	return command
}

func (o *auditOptions) run(command *cobra.Command, args []string) error {
	o.input.files = append(o.input.files, args...)
	selector, err := o.check()
	if err != nil {
		return err
	}
	var report *audit.Report
	if len(o.input.files) > 0 {
		err = interruptible(command.Context(), func() (err error) {
			report, err = o.manifests(command, selector)
			return err
		})
	} else {
		report, err = o.live(command.Context(), selector)
	}
	if err != nil {
		return err
	}
	return o.write(command, report)
}

// check checks the flags, and returns the selector.
func (o *auditOptions) check() (labels.Selector, error) {
	if err := o.format.check(); err != nil {
		return nil, err
	}
	for _, code := range o.failOn {
		if err := oneOf("fail-on", "code", code, audit.Choices()); err != nil {
			return nil, err
		}
	}
	files := len(o.input.files) > 0
	switch {
	case files && o.all:
		return nil, usageError{errors.New("--all-namespaces is about a cluster, and files are manifests; give one of them")}
	case !files && slices.Contains(findings.Formats, o.format.output):
		return nil, usageError{fmt.Errorf("--output=%s is about lines of manifests; name files", o.format.output)}
	case o.baseline != "" && len(o.failOn) == 0:
		return nil, usageError{errors.New("--baseline says what --fail-on doesn't count; give --fail-on as well")}
	}
	selector, err := labels.Parse(o.selector)
	if err != nil {
		return nil, usageError{fmt.Errorf("--selector=%q is not a label selector: %w", o.selector, err)}
	}
	return selector, nil
}

// manifests audits the files.
func (o *auditOptions) manifests(command *cobra.Command, selector labels.Selector) (*audit.Report, error) {
	cluster, err := o.kubeVersion.cluster()
	if err != nil {
		return nil, err
	}
	rules, err := o.policy.rules()
	if err != nil {
		return nil, err
	}
	files, err := o.input.read(command)
	if err != nil {
		return nil, err
	}
	state, err := audit.Manifests(command.Context(), files, audit.ManifestScope{Cluster: cluster,
		Namespace: o.cluster.Overrides.Context.Namespace, Injector: rules.Injector})
	if err != nil {
		return nil, err
	}
	rules.Selector = selector
	return audit.Run(*state, rules), nil
}

// live audits the cluster.
func (o *auditOptions) live(ctx context.Context, selector labels.Selector) (*audit.Report, error) {
	c, err := o.cluster.connect(ctx, &o.policy)
	if err != nil {
		return nil, err
	}
	if o.all {
		c.Scope.Namespace = ""
	}
	state, err := audit.Read(ctx, c.Client, c.Scope)
	if err != nil {
		return nil, c.Explain(ctx, c.Scope.Namespace, err)
	}
	check.Warn(ctx, c.Client, state, c.Installation)
	c.rules.Selector = selector
	return audit.Run(*state, c.rules), nil
}

// write writes the report, and returns errMissing where --fail-on says so.
func (o *auditOptions) write(command *cobra.Command, report *audit.Report) error {
	stdout := command.OutOrStdout()
	text, err := report.Encode(o.format.output, colored(stdout))
	if slices.Contains(findings.Formats, o.format.output) {
		text, err = encodeFindings(findings.OfAudit(report), o.format.output)
	}
	if err == nil {
		_, err = stdout.Write(text)
	}
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	counts := report.Summary.Findings
	if o.baseline != "" {
		earlier, err := os.ReadFile(o.baseline)
		if err != nil {
			return usageError{fmt.Errorf("--baseline: %w", err)}
		}
		if counts, err = report.Since(earlier); err != nil {
			return usageError{fmt.Errorf("--baseline=%s %w", o.baseline, err)}
		}
	}
	if found := audit.Found(o.failOn, counts); len(found) > 0 {
		_, _ = fmt.Fprintf(command.ErrOrStderr(), "--fail-on found %s\n", strings.Join(found, ", ")) // nobody left to tell
		return errMissing
	}
	return nil
}

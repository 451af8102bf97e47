package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/findings"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/pdb"
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
	files       []string
	output      string
	failOn      []string
	baseline    string
	ignore      []string
	all         bool
	kubeVersion string
	selector    string
	only        labels.Selector
	cluster     clusterFlags
	policy      policyFlags
}

// auditFormats are the values of --output.
var auditFormats = slices.Concat([]string{"table", "json", "html"}, findings.Formats)

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
	fs.StringArrayVarP(&o.files, "filename", "f", nil, "`FILE` or directory of manifests to look at instead of a cluster, or - for standard input; may be repeated.")
	fs.StringVarP(&o.output, "output", "o", "table", "`FORMAT` of the output: "+strings.Join(auditFormats, ", ")+".")
	fs.StringSliceVar(&o.failOn, "fail-on", nil, "Exit with 1 when one of these `CODES`, comma-separated, is found.")
	fs.StringVar(&o.baseline, "baseline", "", "With --fail-on, count only what this `FILE`, a report of -o json, doesn't have.")
	fs.StringArrayVar(&o.ignore, "ignore", nil, "`GLOB` of manifests or directories to pass over; may be repeated.")
	fs.StringVar(&o.kubeVersion, "kube-version", defaultKubeVersion, "Kubernetes `VERSION` of the oldest API server or node that the manifests are for.")
	fs.StringVarP(&o.selector, "selector", "l", "", "Label `SELECTOR` of the workloads to report.")
	o.cluster.register(fs)
	o.cluster.instead = ", or name files of manifests"
	o.policy.register(fs)
	_ = command.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(auditFormats, cobra.ShellCompDirectiveNoFileComp)) // fails for an unknown flag only
	_ = command.RegisterFlagCompletionFunc("fail-on", cobra.FixedCompletions(auditCodes(), cobra.ShellCompDirectiveNoFileComp))
	return command
}

// auditCodes are the values of --fail-on.
func auditCodes() []string {
	codes := []string{"any"}
	for _, e := range audit.Codes() {
		codes = append(codes, string(e.Code))
	}
	return codes
}

func (o *auditOptions) run(command *cobra.Command, args []string) error {
	o.files = append(o.files, args...)
	if !slices.Contains(auditFormats, o.output) {
		return usageError{fmt.Errorf("--output=%q is no format; allowed: %s", o.output, strings.Join(auditFormats, ", "))}
	}
	for _, code := range o.failOn {
		if !slices.Contains(auditCodes(), code) {
			return usageError{fmt.Errorf("--fail-on=%q is no code; allowed: %s", code, strings.Join(auditCodes(), ", "))}
		}
	}
	if len(o.files) > 0 && o.all {
		return usageError{errors.New("--all-namespaces is about a cluster, and files are manifests; give one of them")}
	}
	if len(o.files) == 0 && slices.Contains(findings.Formats, o.output) {
		return usageError{fmt.Errorf("--output=%s is about lines of manifests; name files", o.output)}
	}
	if o.baseline != "" && len(o.failOn) == 0 {
		return usageError{errors.New("--baseline says what --fail-on doesn't count; give --fail-on as well")}
	}
	var report *audit.Report
	var err error
	if o.only, err = labels.Parse(o.selector); err != nil {
		return usageError{fmt.Errorf("--selector=%q is not a label selector: %w", o.selector, err)}
	}
	if len(o.files) > 0 {
		err = interruptible(command.Context(), func() (err error) {
			report, err = o.manifests(command.Context(), command.InOrStdin())
			return err
		})
	} else {
		report, err = o.live(command.Context())
	}
	if err != nil {
		return err
	}
	return o.write(command, report)
}

// manifests audits the files.
func (o *auditOptions) manifests(ctx context.Context, stdin io.Reader) (*audit.Report, error) {
	cluster, err := clusterOf(o.kubeVersion)
	if err != nil {
		return nil, err
	}
	config, err := o.policy.config()
	if err != nil {
		return nil, err
	}
	rules, err := rulesOf(config)
	if err != nil {
		return nil, err
	}
	rules.Flags.Given, rules.Selector = o.policy.given(), o.only
	files, err := readManifests(ctx, o.files, stdin)
	if err != nil {
		return nil, err
	}
	if files, err = without(files, o.ignore); err != nil {
		return nil, err
	}
	state, err := audit.Manifests(ctx, files, audit.ManifestScope{Cluster: cluster,
		Namespace: o.cluster.overrides.Context.Namespace, Injector: rules.Injector})
	if err != nil {
		return nil, err
	}
	return audit.Run(*state, rules), nil
}

// rulesOf returns what an audit goes by.
func rulesOf(config patches.Config) (audit.Rules, error) {
	injector, err := patches.New(config)
	if err != nil {
		return audit.Rules{}, usageError{err}
	}
	return audit.Rules{Injector: injector, Budgets: pdb.Rules{Base: config.Base, Bounds: config.Bounds}}, nil
}

// live audits the cluster.
func (o *auditOptions) live(ctx context.Context) (*audit.Report, error) {
	c, err := o.cluster.connect(ctx, &o.policy)
	if err != nil {
		return nil, err
	}
	c.rules.Selector = o.only
	scope := audit.Scope{Source: c.source, Namespace: c.namespace, Installation: c.installation}
	if o.all {
		scope.Namespace = ""
	}
	state, err := audit.Read(ctx, c.client, scope)
	if err != nil {
		return nil, c.explained(ctx, scope.Namespace, err)
	}
	return audit.Run(*state, c.rules), nil
}

// write writes the report, and returns errMissing where --fail-on says so.
func (o *auditOptions) write(command *cobra.Command, report *audit.Report) error {
	stdout := command.OutOrStdout()
	if err := writeReport(stdout, o.output, report); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if o.baseline != "" {
		var err error
		if report, err = sinceBaseline(o.baseline, report); err != nil {
			return err
		}
	}
	var found []string
	for _, e := range audit.Codes() {
		if n := report.Summary.Findings[e.Code]; n > 0 && (slices.Contains(o.failOn, "any") || slices.Contains(o.failOn, string(e.Code))) {
			found = append(found, fmt.Sprintf("%s (%d)", e.Code, n))
		}
	}
	if len(found) > 0 {
		_, _ = fmt.Fprintf(command.ErrOrStderr(), "--fail-on found %s\n", strings.Join(found, ", ")) // nobody left to tell
		return errMissing
	}
	return nil
}

// writeReport writes a report in a format.
func writeReport(w io.Writer, format string, report *audit.Report) error {
	var text []byte
	var err error
	switch format {
	case "github", "sarif", "junit":
		return writeFindings(w, auditFindings(report), format)
	case "json":
		text, err = json.MarshalIndent(report, "", "  ")
		text = append(text, '\n')
	case "html":
		text, err = audit.Page(report, time.Now())
	default:
		text = audit.Table{Color: colored(w)}.Text(report)
	}
	if err == nil {
		_, err = w.Write(text)
	}
	return err
}

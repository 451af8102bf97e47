package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	policyv1 "k8s.io/api/policy/v1"
	kjson "sigs.k8s.io/json"

	"github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/pdb"
	"github.com/evenkeel/evenkeel/policy"
)

const auditHelp = `Say how well workloads are protected now, in manifests.

For each workload: what it has of the defaults, what evenkeel would add, what it
skips and why, which budgets block drains, and what has one replica only. Nothing is
changed.

Output formats (-o):
  table  for people
  json   for machines; members are added, never renamed

Codes for --fail-on, or "any" for all of them:
`

const auditExamples = `  # Manifests
  {{program}} audit -f manifests/

  # Fail a pipeline when something can be interrupted by one drain.
  {{program}} audit -f manifests/ --fail-on single-replica,drain-blocked`

// auditOptions are the flags of audit.
type auditOptions struct {
	files       []string
	output      string
	failOn      []string
	kubeVersion string
	namespace   string
	policy      policyFlags
}

// auditFormats are the values of --output.
var auditFormats = []string{"table", "json"}

func newAuditCommand(program string) *cobra.Command {
	o := &auditOptions{}
	help := auditHelp
	for _, e := range audit.Codes() {
		help += fmt.Sprintf("  %-26s %s\n", e.Code, e.Text)
	}
	command := &cobra.Command{
		Use:     "audit -f FILE|DIRECTORY|-...",
		Short:   "Say which workloads a lost node, a lost zone or a drain would interrupt, and what is missing",
		Long:    help + "\nExit codes: 0 done, 1 --fail-on found something, 2 the command line or the input can't be used.",
		Example: strings.ReplaceAll(auditExamples, "{{program}}", program),
		Args:    noArguments,
		RunE:    o.run,
	}
	fs := command.Flags()
	fs.SortFlags = false
	fs.StringArrayVarP(&o.files, "filename", "f", nil, "`FILE` or directory of manifests to look at, or - for standard input; may be repeated.")
	fs.StringVarP(&o.output, "output", "o", "table", "`FORMAT` of the output: "+strings.Join(auditFormats, ", ")+".")
	fs.StringSliceVar(&o.failOn, "fail-on", nil, "Exit with 1 when one of these `CODES`, comma-separated, is found.")
	fs.StringVarP(&o.namespace, "namespace", "n", "", "`NAMESPACE` of manifests that name none.")
	fs.StringVar(&o.kubeVersion, "kube-version", defaultKubeVersion, "Kubernetes `VERSION` of the oldest API server or node that the manifests are for.")
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

func (o *auditOptions) run(command *cobra.Command, _ []string) error {
	if !slices.Contains(auditFormats, o.output) {
		return usageError{fmt.Errorf("--output=%q is no format; allowed: %s", o.output, strings.Join(auditFormats, ", "))}
	}
	for _, code := range o.failOn {
		if !slices.Contains(auditCodes(), code) {
			return usageError{fmt.Errorf("--fail-on=%q is no code; allowed: %s", code, strings.Join(auditCodes(), ", "))}
		}
	}
	if len(o.files) == 0 {
		return usageError{errors.New("no input; name files or directories with -f, or - for standard input")}
	}
	i, err := (&injectOptions{output: "json", kubeVersion: o.kubeVersion, namespace: o.namespace, policy: o.policy}).injection()
	if err != nil {
		return err
	}
	if err := i.read(command.Context(), o.files, command.InOrStdin()); err != nil {
		return err
	}
	state, err := i.auditState()
	if err != nil {
		return err
	}
	if err := i.review(); err != nil { // names all that can't be read, as inject does
		return err
	}
	report := audit.Run(*state, audit.Rules{Injector: i.injector, Budgets: pdb.Rules{Base: i.config.Base, Bounds: i.config.Bounds}})
	return o.write(command, report)
}

// write writes the report, and returns errMissing where --fail-on says so.
func (o *auditOptions) write(command *cobra.Command, report *audit.Report) error {
	stdout := command.OutOrStdout()
	if err := writeReport(stdout, o.output, report); err != nil {
		return fmt.Errorf("write report: %w", err)
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
	case "json":
		text, err = json.MarshalIndent(report, "", "  ")
		text = append(text, '\n')
	default:
		text = audit.Table{Color: colored(w)}.Text(report)
	}
	if err == nil {
		_, err = w.Write(text)
	}
	return err
}

// auditState returns what an audit looks at in manifests.
func (i *injection) auditState() (*audit.State, error) {
	state := &audit.State{Source: "manifests", Offline: true, Cluster: i.cluster, Namespaces: map[string]audit.Namespace{}}
	for _, m := range i.manifests {
		for _, d := range m.documents {
			for _, o := range d.objects() {
				if err := i.addObject(state, m, o); err != nil {
					return nil, fmt.Errorf("%s:%d: %s: %w", m.name, o.line(), title(o), err)
				}
			}
		}
	}
	return state, nil
}

// addObject adds one object of a manifest.
func (i *injection) addObject(state *audit.State, m *manifest, o *object) error {
	namespace := cmp.Or(o.Metadata.Namespace, i.namespace)
	switch o.APIVersion + " " + o.Kind {
	case "v1 Namespace":
		labels := texts(o.Metadata.Labels)
		state.Namespaces[o.Metadata.Name] = audit.Namespace{OptedIn: labels[policy.InjectLabel] == policy.Enabled,
			Disabled: labels[policy.InjectLabel] == policy.Disabled, Annotations: texts(o.Metadata.Annotations)}
	case "policy/v1 PodDisruptionBudget":
		var b policyv1.PodDisruptionBudget
		if err := kjson.UnmarshalCaseSensitivePreserveInts(o.value, &b); err != nil {
			return err
		}
		b.Namespace = namespace
		state.Budgets = append(state.Budgets, b)
	case "autoscaling/v2 HorizontalPodAutoscaler", "autoscaling/v1 HorizontalPodAutoscaler":
		var h autoscalingv2.HorizontalPodAutoscaler // scaleTargetRef and minReplicas are the same in both
		if err := kjson.UnmarshalCaseSensitivePreserveInts(o.value, &h); err != nil {
			return err
		}
		h.Namespace = namespace
		state.Autoscalers = append(state.Autoscalers, h)
	default:
		if i.injector.Review(patches.Request{Operation: patches.Create, Object: o.value, Offline: true}).Decisions[0].Skip == patches.SkipKind {
			return nil
		}
		workload, err := audit.NewObject(namespace, m.name+":"+strconv.Itoa(o.line()), o.value)
		if err != nil {
			return cmp.Or(mistyped(o), err)
		}
		state.Objects = append(state.Objects, workload)
	}
	return nil
}

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/evenkeel/evenkeel/findings"
	"github.com/evenkeel/evenkeel/inject"
	"github.com/evenkeel/evenkeel/internal/words"
)

const injectHelp = `Add high-availability defaults to manifests, as the webhook does in a cluster.

Reads YAML and JSON from files, from directories with everything below them
(*.yaml, *.yml, *.json; hidden ones are passed over) and, for "-", from standard
input: 16 MiB at most, all together, and 3 MiB for one document, which takes up to
1 GiB of memory. In a directory it reads regular files, and follows links only to
files in the same directory. Writes manifests to standard output and a report to
standard error: for each workload and default whether it was added, or the code of
the reason why not.

Every workload is looked at, whether or not its Namespace opted in, except those
with the label evenkeel.dev/inject=disabled on themselves, their pod template or
their Namespace. Annotations of the Namespaces among the input count for the
workloads in them; --namespace says where those are that name none.

What is not changed comes out byte for byte, and so does what is no Kubernetes
object. What is added is added as text, so comments and formatting stay. Nothing is
written unless all input could be read, and holds no value that the API server would
refuse because of its type.

Output formats (-o):
  yaml   all input, with the additions (JSON input stays JSON)
  json   all objects as JSON, one after the other
  patch  one line of JSON for each object that something is added to: source, line,
         apiVersion, kind, namespace, name, and its JSON Patch (RFC 6902)
  diff   a unified diff of each file

Exit codes: 0 done, 1 --check found something missing, 2 the command line or the
input can't be used.`

const injectExamples = `  # What would be added?
  {{program}} inject -o diff deploy.yaml

  # Add it on the way into the cluster.
  helm template my-chart | {{program}} inject - | kubectl apply -f -

  # Fail a pipeline when a manifest lacks a default.
  {{program}} inject --check manifests/

  # Write it into the files.
  {{program}} inject --write manifests/

  # As the cluster at hand would have it.
  {{program}} inject --kube-version 1.31 --pre-stop-sleep 15s -f deploy.yaml`

// injectOptions are the flags of inject.
type injectOptions struct {
	input       inputFlags
	format      formatFlag
	check       bool
	quiet       bool
	kubeVersion kubeVersionFlag
	namespace   string
	withBudgets bool
	write       bool
	policy      policyFlags
}

func newInjectCommand(program string) *cobra.Command {
	var o injectOptions
	command := &cobra.Command{
		Use:     "inject [-f] FILE|DIRECTORY|-...",
		Short:   "Add the defaults to manifests, or check that nothing is missing",
		Long:    injectHelp,
		Example: strings.ReplaceAll(injectExamples, "{{program}}", program),
		RunE: func(command *cobra.Command, args []string) error {
			o.input.files = append(o.input.files, args...)
			return interruptible(command.Context(), func() error { return o.run(command) })
		},
	}
	fs := command.Flags()
	fs.SortFlags = false
	o.input.register(fs)
	o.format.register(command, inject.Formats)
	fs.BoolVar(&o.check, "check", false,
		"Change nothing, and exit with 1 when something is missing. Prints manifests only with --output.")
	fs.BoolVarP(&o.quiet, "quiet", "q", false, "No report; warnings and errors only.")
	o.kubeVersion.register(fs)
	fs.StringVarP(&o.namespace, "namespace", "n", "", "`NAMESPACE` of objects that name none.")
	fs.BoolVar(&o.withBudgets, "with-budgets", false,
		"Print a PodDisruptionBudget for each Deployment and StatefulSet that lacks one, behind the input.")
	fs.BoolVarP(&o.write, "write", "w", false, "Write the files that change, instead of printing all.")
	o.policy.register(fs)
	fs.Lookup("output").Usage += " With --check also " + strings.Join(findings.Formats, ", ") + "."
	return command
}

func (o *injectOptions) run(command *cobra.Command) error {
	config, err := o.config()
	if err != nil {
		return err
	}
	files, err := o.input.read(command)
	if err != nil {
		return err
	}
	result, err := inject.Run(command.Context(), files, config)
	if invalid := (inject.InvalidError{}); errors.As(err, &invalid) {
		return usageError{err}
	}
	if err != nil {
		return err
	}
	output := o.format.output
	if o.write || o.check && !command.Flags().Changed("output") {
		output = ""
	}
	if err := writeResult(command, result, output, inject.Style{Check: o.check, Quiet: o.quiet}); err != nil {
		return err
	}
	if o.write {
		names, err := result.Write()
		for _, name := range names {
			_, _ = fmt.Fprintf(command.ErrOrStderr(), "wrote %s\n", name) // nobody left to tell
		}
		return err
	}
	if o.check && len(result.Workloads)+result.Others+result.Foreign == 0 {
		return usageError{errors.New("--check was given nothing to check: the input is empty")}
	}
	if o.check && result.Missing() {
		return errMissing
	}
	return nil
}

// writeResult writes the report, and the manifests or what is missing from them in a format, "" for neither.
func writeResult(command *cobra.Command, result *inject.Result, format string, style inject.Style) error {
	stdout, stderr := command.OutOrStdout(), command.ErrOrStderr()
	style.Color = colored(stderr)
	if _, err := stderr.Write(result.Report(style)); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	var text []byte
	var err error
	switch {
	case format == "":
	case slices.Contains(findings.Formats, format):
		text, err = encodeFindings(findings.OfInject(result), format)
	default:
		text, err = result.Encode(format)
	}
	if err != nil {
		return err
	}
	if format == "diff" && colored(stdout) {
		text = words.Diff(text)
	}
	if _, err := stdout.Write(text); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// config checks the flags.
func (o *injectOptions) config() (inject.Config, error) {
	c := inject.Config{Namespace: o.namespace, WithBudgets: o.withBudgets}
	if o.check {
		o.format.allowed = slices.Concat(inject.Formats, findings.Formats)
	}
	if err := o.format.check(); err != nil {
		return c, err
	}
	output := o.format.output
	switch {
	case o.write && o.check:
		return c, usageError{errors.New("--check changes nothing, and --write changes files; give one of them")}
	case o.write && (o.withBudgets || output != "yaml"):
		return c, usageError{errors.New("--write changes files in place; it goes with neither --output nor --with-budgets")}
	case o.write && slices.Contains(o.input.files, "-"):
		return c, usageError{errors.New("--write changes files in place, and standard input has none")}
	case o.withBudgets && (output == "patch" || output == "diff"):
		return c, usageError{fmt.Errorf("--with-budgets adds objects, which --output=%s has no place for; "+
			"allowed: yaml, json", output)}
	}
	var err error
	if c.Cluster, err = o.kubeVersion.cluster(); err != nil {
		return c, err
	}
	c.Patches, err = o.policy.config()
	return c, err
}

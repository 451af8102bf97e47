package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/evenkeel/evenkeel/findings"
	"github.com/evenkeel/evenkeel/inject"
	"github.com/evenkeel/evenkeel/internal/words"
	"github.com/evenkeel/evenkeel/manifest"
	"github.com/evenkeel/evenkeel/patches"
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

// defaultKubeVersion is what manifests are for unless somebody says otherwise: the
// version from which all that evenkeel adds is generally available.
const defaultKubeVersion = "1.33"

// injectOptions are the flags of inject.
type injectOptions struct {
	files       []string
	output      string
	check       bool
	quiet       bool
	kubeVersion string
	namespace   string
	withBudgets bool
	write       bool
	ignore      []string
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
			return interruptible(command.Context(), func() error { return o.run(command, args) })
		},
	}
	fs := command.Flags()
	fs.SortFlags = false
	registerFiles(fs, &o.files, &o.output)
	fs.BoolVar(&o.check, "check", false,
		"Change nothing, and exit with 1 when something is missing. Prints manifests only with --output.")
	fs.BoolVarP(&o.quiet, "quiet", "q", false, "No report; warnings and errors only.")
	fs.StringVar(&o.kubeVersion, "kube-version", defaultKubeVersion,
		"Kubernetes `VERSION` of the oldest API server or node that the manifests are for.")
	fs.StringVarP(&o.namespace, "namespace", "n", "", "`NAMESPACE` of objects that name none.")
	fs.BoolVar(&o.withBudgets, "with-budgets", false,
		"Print a PodDisruptionBudget for each Deployment and StatefulSet that lacks one, behind the input.")
	fs.BoolVarP(&o.write, "write", "w", false, "Write the files that change, instead of printing all.")
	fs.StringArrayVar(&o.ignore, "ignore", nil,
		"`GLOB` of files or directories to pass over, by path or name; may be repeated.")
	o.policy.register(fs)
	fs.Lookup("output").Usage += " With --check also " + strings.Join(findings.Formats, ", ") + "."
	completeFormats(command)
	return command
}

// registerFiles adds the flags of the input and the output to fs.
func registerFiles(fs *pflag.FlagSet, files *[]string, output *string) {
	fs.StringArrayVarP(files, "filename", "f", nil,
		"`FILE` or directory to read, or - for standard input; may be repeated.")
	fs.StringVarP(output, "output", "o", "yaml", "`FORMAT` of the output: yaml, json, patch or diff.")
}

// completeFormats lets the shell complete --output.
func completeFormats(command *cobra.Command) {
	_ = command.RegisterFlagCompletionFunc("output", // fails for an unknown flag only
		cobra.FixedCompletions(inject.Formats, cobra.ShellCompDirectiveNoFileComp))
}

// checkFormat returns an error for an --output that is no format.
func checkFormat(output string) error {
	if slices.Contains(inject.Formats, output) {
		return nil
	}
	return usageError{fmt.Errorf("--output=%q is no format; allowed: %s", output, strings.Join(inject.Formats, ", "))}
}

func (o *injectOptions) run(command *cobra.Command, args []string) error {
	config, err := o.config(args)
	if err != nil {
		return err
	}
	files, err := readManifests(command.Context(), append(slices.Clone(o.files), args...), command.InOrStdin())
	if err != nil {
		return err
	}
	if files, err = without(files, o.ignore); err != nil {
		return err
	}
	result, err := inject.Run(command.Context(), files, config)
	if invalid := (inject.InvalidError{}); errors.As(err, &invalid) {
		return usageError{err}
	}
	if err != nil {
		return err
	}
	stdout, stderr := command.OutOrStdout(), command.ErrOrStderr()
	report := result.Report(inject.Style{Color: colored(stderr), Check: o.check, Quiet: o.quiet})
	if _, err := stderr.Write(report); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	switch {
	case slices.Contains(findings.Formats, o.output):
		err = writeFindings(stdout, injectFindings(result), o.output)
	case o.write:
		err = writeInPlace(stderr, result)
	case !o.check || command.Flags().Changed("output"):
		err = writeResult(stdout, result, o.output)
	}
	if err != nil {
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

// writeResult writes the manifests in a format.
func writeResult(stdout io.Writer, result *inject.Result, format string) error {
	text, err := result.Encode(format)
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
func (o *injectOptions) config(args []string) (inject.Config, error) {
	c := inject.Config{Namespace: o.namespace, WithBudgets: o.withBudgets}
	if !o.check || !slices.Contains(findings.Formats, o.output) {
		if err := checkFormat(o.output); err != nil {
			return c, err
		}
	}
	switch {
	case o.write && o.check:
		return c, usageError{errors.New("--check changes nothing, and --write changes files; give one of them")}
	case o.write && (o.withBudgets || o.output != "yaml"):
		return c, usageError{errors.New("--write changes files in place; it goes with neither --output nor --with-budgets")}
	case o.write && (slices.Contains(o.files, "-") || slices.Contains(args, "-")):
		return c, usageError{errors.New("--write changes files in place, and standard input has none")}
	}
	if o.withBudgets && (o.output == "patch" || o.output == "diff") {
		return c, usageError{fmt.Errorf("--with-budgets adds objects, which --output=%s has no place for; allowed: yaml, json", o.output)}
	}
	var err error
	if c.Cluster, err = clusterOf(o.kubeVersion); err != nil {
		return c, err
	}
	c.Patches, err = o.policy.config()
	return c, err
}

// clusterOf returns the cluster that manifests are for by --kube-version.
func clusterOf(kubeVersion string) (patches.Cluster, error) {
	v, err := patches.ParseVersion(kubeVersion)
	if err != nil {
		return patches.Cluster{}, usageError{fmt.Errorf("--kube-version: %w", err)}
	}
	return patches.Cluster{APIServer: v, OldestKubelet: v}, nil
}

// readManifests reads what the command line names.
func readManifests(ctx context.Context, names []string, stdin io.Reader) ([]*manifest.File, error) {
	if len(names) == 0 {
		return nil, usageError{errors.New("no input; name files or directories, or - for standard input")}
	}
	if first := slices.Index(names, "-"); first >= 0 && slices.Contains(names[first+1:], "-") {
		return nil, usageError{errors.New(`"-" is given twice, but standard input can be read only once`)}
	}
	return manifest.ReadPaths(ctx, names, stdin)
}

// colored reports whether w is a terminal whose user wants colors (https://no-color.org).
func colored(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

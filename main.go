// Command evenkeel gives Kubernetes workloads high-availability defaults: as an
// admission webhook (evenkeel serve) and over manifests (evenkeel inject); and says
// how well they are protected (evenkeel audit).
//
// Exit codes: 0, all is well; 1, "inject --check", "audit --fail-on" or "check" found
// something; 2, the command line or the input can't be used, or a command failed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/evenkeel/evenkeel/findings"
	"github.com/evenkeel/evenkeel/internal/words"
)

// version and commit are set by the linker: -ldflags "-X main.version=v1.2.3 -X
// main.commit=0123abc". Without it, what the Go toolchain noted is shown.
var version, commit string

// The exit codes, for scripts.
const (
	exitDone    = 0
	exitMissing = 1 // "inject --check", "audit --fail-on" or "check" found something
	exitFailed  = 2 // wrong usage, unusable input, or a failure
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run executes the command line args, the program's name first, and returns the
// exit code. It ends when ctx is cancelled.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRootCommand(args[0])
	root.SetArgs(args[1:])
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	command, err := root.ExecuteContextC(ctx)
	var usage usageError
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errMissing):
		return exitMissing
	case errors.Is(err, errUnknown):
		return exitFailed
	}
	for _, failure := range words.Separate(err) {
		fmt.Fprintf(stderr, "Error: %s\n", words.Lines(strings.TrimSpace(failure.Error())))
	}
	if errors.As(err, &usage) || command == root { // cobra's own "unknown command"
		_, _ = fmt.Fprintf(stderr, "Run '%s --help' for usage.\n", command.CommandPath())
	}
	return exitFailed
}

// interruptible runs work, and returns when ctx ends, even while work does not look at ctx: parsing
// can't be interrupted. What still runs then ends with the program.
func interruptible(ctx context.Context, work func() error) error {
	done := make(chan error, 1)
	go func() { done <- work() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errors.New("interrupted")
	}
}

// colored reports whether w is a terminal whose user wants colors (https://no-color.org).
func colored(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

// encodeFindings writes findings in a format of CI.
func encodeFindings(r *findings.Report, format string) ([]byte, error) {
	r.Version, _ = build()
	return r.Encode(format)
}

// usageError is a mistake in the command line, after which a pointer to --help is
// of use.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

const rootHelp = `evenkeel gives Kubernetes workloads high-availability defaults: replicas on
different nodes and zones, a pause before shutdown, and a readiness probe. It adds
only what is missing and never changes what you wrote.

To see what it would add to your manifests, without any cluster:

  {{program}} inject -o diff -f manifests/

In a cluster it runs as an admission webhook ("serve") and looks after every
workload of the namespaces with the label evenkeel.dev/inject=enabled.

Exit codes: 0 all is well, 1 "inject --check", "audit --fail-on" or "check" found
something, 2 the command line or the input can't be used, or the command failed.`

// newRootCommand returns the whole command tree for a program of that name or
// path. A name such as kubectl-evenkeel is shown as kubectl does: kubectl evenkeel.
func newRootCommand(program string) *cobra.Command {
	name := displayName(program)
	v, _ := build()
	root := &cobra.Command{
		Use:           "evenkeel",
		Version:       v,
		Short:         "High-availability defaults for Kubernetes workloads",
		Long:          strings.ReplaceAll(rootHelp, "{{program}}", name),
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: name},
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(newHelpCommand())
	root.SetUsageFunc(wrapped(root.UsageFunc()))
	root.AddCommand(
		newServeCommand(),
		newInjectCommand(name),
		newUninjectCommand(name),
		newAuditCommand(name),
		newExplainCommand(name),
		newCheckCommand(name),
		newVersionCommand(),
	)
	return root
}

// wrapped returns usage with the flags wrapped at 100 columns. Cobra's own way to do that is a
// text/template, for which the linker keeps every method of every API type: 20 MB.
func wrapped(usage func(*cobra.Command) error) func(*cobra.Command) error {
	return func(command *cobra.Command) error {
		out := command.OutOrStderr()
		var text strings.Builder
		command.SetOut(&text)
		defer command.SetOut(out)
		if err := usage(command); err != nil {
			return err
		}
		flags := command.LocalFlags()
		long, short := strings.TrimSpace(flags.FlagUsages()), strings.TrimSpace(flags.FlagUsagesWrapped(100))
		_, err := io.WriteString(out, strings.Replace(text.String(), long, short, 1))
		return err
	}
}

// displayName returns how a user calls the program of that path.
func displayName(program string) string {
	name := strings.TrimSuffix(filepath.Base(program), ".exe")
	if plugin, ok := strings.CutPrefix(name, "kubectl-"); ok {
		return "kubectl " + strings.ReplaceAll(plugin, "_", "-")
	}
	return "evenkeel"
}

// newHelpCommand returns a help command that, unlike cobra's own, takes an unknown
// command for a mistake.
func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "Show help for a command",
		ValidArgsFunction: func(command *cobra.Command, args []string, _ string) (
			[]cobra.Completion, cobra.ShellCompDirective) {
			var names []cobra.Completion
			if len(args) == 0 {
				for _, c := range command.Root().Commands() {
					names = append(names, c.Name())
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(command *cobra.Command, args []string) error {
			about, _, err := command.Root().Find(args)
			if err != nil {
				return usageError{err}
			}
			return about.Help()
		},
	}
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print version, commit and Go version",
		Args:  noArguments,
		RunE: func(command *cobra.Command, _ []string) error {
			v, c := build()
			_, err := fmt.Fprintf(command.OutOrStdout(), "evenkeel %s\ncommit %s\n%s %s/%s\n",
				v, c, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// build returns the version and commit of this binary, "unknown" for what nobody
// noted.
func build() (string, string) {
	v, c := version, commit
	if info, ok := debug.ReadBuildInfo(); ok {
		if v == "" {
			v = strings.Trim(info.Main.Version, "()")
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && c == "" {
				c = s.Value
			}
		}
	}
	for _, s := range []*string{&v, &c} {
		if *s == "" {
			*s = "unknown"
		}
	}
	return v, c
}

// noArguments refuses arguments as a mistake of usage.
func noArguments(command *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usageError{fmt.Errorf("unexpected argument %q: %s takes none", args[0], command.CommandPath())}
}

// errMissing is the outcome of "inject --check" when something is missing, of
// "audit --fail-on" when something is found, and of "check" when something fails.
var errMissing = errors.New("something is missing")

// errUnknown is the outcome of "check" when something could not be looked at.
var errUnknown = errors.New("something could not be looked at")

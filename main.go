// Command evenkeel gives Kubernetes workloads high-availability defaults: as an
// admission webhook (evenkeel serve) and over manifests (evenkeel inject); and says
// how well they are protected (evenkeel audit).
//
// Exit codes: 0, all is well; 1, "inject --check" or "audit --fail-on" found
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
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
)

// version and commit are set by the linker: -ldflags "-X main.version=v1.2.3 -X
// main.commit=0123abc". Without it, what the Go toolchain noted is shown.
var version, commit string

// The exit codes, for scripts.
const (
	exitDone    = 0
	exitMissing = 1 // "inject --check" or "audit --fail-on" found something
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
	}
	failures := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok { // of errors.Join
		failures = joined.Unwrap()
	}
	for _, failure := range failures {
		_, _ = fmt.Fprintf(stderr, "Error: %s\n", strings.TrimSpace(failure.Error())) // nobody left to tell
	}
	if errors.As(err, &usage) || command == root { // cobra's own "unknown command"
		_, _ = fmt.Fprintf(stderr, "Run '%s --help' for usage.\n", command.CommandPath())
	}
	return exitFailed
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

Exit codes: 0 all is well, 1 "inject --check" or "audit --fail-on" found something,
2 the command line or the input can't be used, or the command failed.`

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
	root.SetUsageFunc(usage)
	root.AddCommand(
		newServeCommand(),
		newInjectCommand(name),
		newAuditCommand(name),
		newExplainCommand(name),
		newVersionCommand(),
	)
	return root
}

// usage prints how to call a command, in cobra's order and 100 columns. Cobra's own
// way to another width is a text/template, which calls methods by name: the linker
// would have to keep every method of every API type, 20 MB of them, unless some
// other template (that of audit's page) makes it do so anyway.
func usage(command *cobra.Command) error {
	var text strings.Builder
	text.WriteString("Usage:")
	if command.Runnable() {
		fmt.Fprintf(&text, "\n  %s", command.UseLine())
	}
	if command.HasAvailableSubCommands() {
		fmt.Fprintf(&text, "\n  %s [command]", command.CommandPath())
	}
	if command.HasExample() {
		fmt.Fprintf(&text, "\n\nExamples:\n%s", command.Example)
	}
	if command.HasAvailableSubCommands() {
		text.WriteString("\n\nAvailable Commands:")
		for _, c := range command.Commands() {
			if c.IsAvailableCommand() || c.Name() == "help" {
				fmt.Fprintf(&text, "\n  %-*s %s", c.NamePadding(), c.Name(), c.Short)
			}
		}
	}
	if command.HasAvailableLocalFlags() {
		fmt.Fprintf(&text, "\n\nFlags:\n%s", strings.TrimRight(command.LocalFlags().FlagUsagesWrapped(100), " \n"))
	}
	if command.HasAvailableInheritedFlags() {
		fmt.Fprintf(&text, "\n\nGlobal Flags:\n%s", strings.TrimRight(command.InheritedFlags().FlagUsagesWrapped(100), " \n"))
	}
	if command.HasAvailableSubCommands() {
		fmt.Fprintf(&text, "\n\nUse \"%s [command] --help\" for more information about a command.", command.CommandPath())
	}
	text.WriteString("\n")
	_, err := io.WriteString(command.OutOrStderr(), text.String())
	return err
}

// displayName returns how a user calls the program of that path.
func displayName(program string) string {
	name := strings.TrimSuffix(filepath.Base(program), ".exe")
	if plugin, ok := strings.CutPrefix(name, "kubectl-"); ok {
		return "kubectl " + strings.ReplaceAll(plugin, "_", "-")
	}
	return "evenkeel"
}

// flagError says what is wrong with a flag: its name, the value, and what is
// allowed or resembles it.
func flagError(command *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	var invalid *pflag.InvalidValueError
	switch {
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() == "":
		if near := nearestFlag(command, unknown.GetSpecifiedName()); near != "" {
			err = fmt.Errorf("%w; did you mean --%s?", err, near)
		}
	case errors.As(err, &invalid):
		err = fmt.Errorf("--%s=%q %w", invalid.GetFlag().Name, invalid.GetValue(), invalid.Unwrap())
	}
	return usageError{err}
}

// nearestFlag returns the flag of command that name resembles most, or "".
func nearestFlag(command *cobra.Command, name string) string {
	var flags []string
	command.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			flags = append(flags, f.Name)
		}
	})
	return nearest(name, flags)
}

// nearest returns the candidate that name resembles most, or "" when none is close.
// The measure is the one that cobra has for commands. A name of more than 64 bytes, which
// would take long, is a slip of nothing.
func nearest(name string, candidates []string) string {
	if len(name) > 64 {
		return ""
	}
	commands := &cobra.Command{}
	for _, c := range candidates {
		commands.AddCommand(&cobra.Command{Use: c, Run: func(*cobra.Command, []string) {}})
	}
	for distance := 1; distance <= 3; distance++ {
		commands.SuggestionsMinimumDistance = distance
		if near := commands.SuggestionsFor(name); len(near) > 0 {
			return near[0]
		}
	}
	return ""
}

// newHelpCommand returns a help command that, unlike cobra's own, takes an unknown
// command for a mistake.
func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "Show help for a command",
		ValidArgsFunction: func(command *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
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
	hint := ""
	if command.Flags().ShorthandLookup("f") != nil {
		hint = "; manifests are given with -f"
	}
	return usageError{fmt.Errorf("unexpected argument %q: %s takes none%s", args[0], command.CommandPath(), hint)}
}

// policyFlags are the flags of the operator's configuration, shared by serve and
// inject: one for each row of policy.Settings that has a flag, and the bounds.
type policyFlags struct {
	flags          *pflag.FlagSet
	maxPreStop     seconds
	maxGrace       seconds
	allowExecSleep bool
}

// register adds the flags to fs.
func (p *policyFlags) register(fs *pflag.FlagSet) {
	p.flags = fs
	defaults := patches.DefaultConfig()
	p.maxPreStop, p.maxGrace = seconds(defaults.Bounds.MaxPreStopSleep), seconds(defaults.MaxGracePeriod)
	for _, s := range policy.Settings() {
		if s.Flag {
			fs.String(s.Name, s.Default, s.Effect+" Allowed: "+s.Allowed()+".")
		}
	}
	fs.Var(&p.maxPreStop, "max-pre-stop-sleep", "Longest preStop sleep that an annotation or flag may ask for.")
	fs.Var(&p.maxGrace, "max-grace-period", "Up to where terminationGracePeriodSeconds is raised to make room for the sleep.")
	fs.BoolVar(&p.allowExecSleep, "allow-exec-sleep", false,
		"Use \"exec: sleep N\" where the cluster does not know preStop.sleep (before 1.30). Images without a sleep command then get SIGTERM at once.")
}

// config returns the configuration that the flags ask for. An error names the
// flag, its value and what is allowed.
func (p *policyFlags) config() (patches.Config, error) {
	c := patches.DefaultConfig()
	c.Bounds.MaxPreStopSleep = time.Duration(p.maxPreStop)
	c.MaxGracePeriod = time.Duration(p.maxGrace)
	c.AllowExecSleep = p.allowExecSleep
	c.Base.PreStopSleep = min(c.Base.PreStopSleep, c.Bounds.MaxPreStopSleep)
	for _, s := range policy.Settings() {
		if f := p.flags.Lookup(s.Name); s.Flag && f.Changed {
			if err := c.Base.Set(s.Name, f.Value.String(), c.Bounds); err != nil {
				return patches.Config{}, usageError{err}
			}
		}
	}
	return c, nil
}

// seconds is the value of a flag: a duration in whole seconds, at least 1 s.
type seconds time.Duration

func (s *seconds) String() string { return time.Duration(*s).String() }

func (s *seconds) Type() string { return "duration" }

func (s *seconds) Set(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second || d%time.Second != 0 {
		return errors.New("is no duration in whole seconds; allowed: at least 1s, as in 60s or 10m")
	}
	*s = seconds(d)
	return nil
}

// errMissing is the outcome of "inject --check" when something is missing, and of
// "audit --fail-on" when something is found.
var errMissing = errors.New("something is missing")

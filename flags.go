package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/internal/connect"
	"github.com/evenkeel/evenkeel/internal/words"
	"github.com/evenkeel/evenkeel/manifest"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
)

// clusterFlags say which cluster, user and namespace a command is about: those of
// kubectl, by the same code of client-go.
type clusterFlags struct{ connect.Config }

// connection is a cluster and the evenkeel in it.
type connection struct {
	*connect.Cluster
	audit.Scope
	rules audit.Rules
}

// connect reaches the cluster, and finds out by what flags evenkeel runs there; those
// of own that were given on the command line win.
func (c *clusterFlags) connect(ctx context.Context, own *policyFlags) (*connection, error) {
	cluster, err := c.Find()
	if err != nil {
		return nil, err
	}
	there, err := audit.Installed(ctx, cluster.Client)
	if err != nil {
		return nil, cluster.Explain(ctx, "", err)
	}
	if err := own.adopt(there); err != nil {
		return nil, err
	}
	rules, err := own.rules()
	if err != nil {
		return nil, err
	}
	rules.Flags.Of, rules.Flags.Hidden = "evenkeel serve", there.Hidden
	scope := audit.Scope{Source: cluster.Source, Namespace: cluster.Namespace, Installation: there}
	return &connection{cluster, scope, rules}, nil
}

// kubeconfigHelp says where a command finds its cluster, the first that there is first: the order of
// client-go's loading rules.
const kubeconfigHelp = "Kubeconfig `FILE`. Without it the files of KUBECONFIG, or else ~/.kube/config; " +
	"without any of them the service account of the pod that evenkeel runs in."

// kubectlFlags are those of kubectl that many need. The others work too, and aren't listed.
var kubectlFlags = map[string]string{
	"as":              "`USER` to act as, whom the user of the kubeconfig may impersonate.",
	"as-group":        "`GROUP` to act as a member of, with --as; may be repeated.",
	"cluster":         "`NAME` of the kubeconfig cluster to use.",
	"context":         "`NAME` of the kubeconfig context to use.",
	"namespace":       "`NAMESPACE` to look at; for manifests, that of objects that name none.",
	"request-timeout": "`DURATION` of one request at most, as in 30s; 0 is no limit.",
	"user":            "`NAME` of the kubeconfig user to use.",
}

// register adds the flags to fs.
func (c *clusterFlags) register(fs *pflag.FlagSet) {
	c.Rules = clientcmd.NewDefaultClientConfigLoadingRules()
	fs.StringVar(&c.Rules.ExplicitPath, "kubeconfig", "", kubeconfigHelp)
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	clientcmd.BindOverrideFlags(&c.Overrides, own, clientcmd.RecommendedConfigOverrideFlags(""))
	own.VisitAll(func(f *pflag.Flag) {
		usage, listed := kubectlFlags[f.Name]
		f.Usage, f.Hidden = cmp.Or(usage, f.Usage), !listed
		fs.AddFlag(f)
	})
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
	fs.Var(&p.maxGrace, "max-grace-period", "Up to where terminationGracePeriodSeconds is raised to make room for the "+
		"sleep.")
	fs.BoolVar(&p.allowExecSleep, "allow-exec-sleep", false,
		"Use \"exec: sleep N\" where the cluster does not know preStop.sleep (before 1.30). "+
			"Images without a sleep command then get SIGTERM at once.")
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
		return errors.New("is not a duration in whole seconds; allowed: at least 1s, as in 60s or 10m")
	}
	*s = seconds(d)
	return nil
}

// adopt takes over the flags that evenkeel runs with in the cluster, except for those
// that were given here. What this binary does not know it passes over.
func (p *policyFlags) adopt(installation *audit.Installation) error {
	var there policyFlags
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	flags.ParseErrorsAllowlist.UnknownFlags = true
	there.register(flags)
	if err := flags.Parse(installation.Arguments); err != nil {
		return fmt.Errorf("read the flags of the evenkeel in the cluster: %w", err)
	}
	var failure error
	flags.Visit(func(f *pflag.Flag) {
		if here := p.flags.Lookup(f.Name); here != nil && !here.Changed && failure == nil {
			failure = p.flags.Set(f.Name, f.Value.String())
		}
	})
	return failure
}

// rules returns what an audit with these flags goes by.
func (p *policyFlags) rules() (audit.Rules, error) {
	config, err := p.config()
	if err != nil {
		return audit.Rules{}, err
	}
	rules, err := audit.NewRules(config)
	if err != nil {
		return rules, usageError{err}
	}
	rules.Flags.Given = map[string]string{}
	for _, s := range policy.Settings() {
		if f := p.flags.Lookup(s.Name); s.Flag && f.Changed {
			rules.Flags.Given[s.Name] = f.Value.String()
		}
	}
	return rules, nil
}

// inputFlags say which manifests a command reads, and which of them it passes over.
type inputFlags struct{ files, ignore []string }

// register adds the flags to fs.
func (i *inputFlags) register(fs *pflag.FlagSet) {
	fs.StringArrayVarP(&i.files, "filename", "f", nil,
		"`FILE` or directory to read, or - for standard input; may be repeated.")
	fs.StringArrayVar(&i.ignore, "ignore", nil,
		"`GLOB` of files or directories to pass over, by path or name; may be repeated.")
}

// read reads the manifests.
func (i *inputFlags) read(command *cobra.Command) ([]*manifest.File, error) {
	if len(i.files) == 0 {
		return nil, usageError{errors.New("no input; name files or directories, or - for standard input")}
	}
	if first := slices.Index(i.files, "-"); first >= 0 && slices.Contains(i.files[first+1:], "-") {
		return nil, usageError{errors.New(`"-" is given twice, but standard input can be read only once`)}
	}
	files, err := manifest.ReadPaths(command.Context(), i.files, command.InOrStdin())
	if err != nil {
		return nil, err
	}
	if files, err = manifest.Without(files, i.ignore); err != nil {
		return nil, usageError{fmt.Errorf("--ignore=%w", err)}
	}
	return files, nil
}

// formatFlag is --output.
type formatFlag struct {
	output  string
	allowed []string
}

// register adds the flag to a command. The first format is the default.
func (f *formatFlag) register(command *cobra.Command, allowed []string) {
	f.allowed = allowed
	command.Flags().StringVarP(&f.output, "output", "o", allowed[0],
		"`FORMAT` of the output: "+strings.Join(allowed, ", ")+".")
	complete(command, "output", allowed)
}

// check returns an error for what is no format.
func (f *formatFlag) check() error { return oneOf("output", "format", f.output, f.allowed) }

// oneOf returns an error for a value of a flag that is not one of those allowed.
func oneOf(flag, what, value string, allowed []string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	if near := words.Nearest(value, allowed, min(words.Slips, len(value)/3)); near != "" {
		what += " (did you mean " + near + "?)"
	}
	return usageError{fmt.Errorf("--%s=%q is not a %s; allowed: %s", flag, value, what, strings.Join(allowed, ", "))}
}

// complete lets the shell complete the values of a flag that is there.
func complete(command *cobra.Command, flag string, values []string) {
	_ = command.RegisterFlagCompletionFunc(flag,
		cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// kubeVersionFlag is --kube-version: what manifests are for.
type kubeVersionFlag string

// register adds the flag to fs. The default is the version from which all that evenkeel adds is generally available.
func (v *kubeVersionFlag) register(fs *pflag.FlagSet) {
	fs.StringVar((*string)(v), "kube-version", "1.33",
		"Kubernetes `VERSION` of the oldest API server or node that the manifests are for.")
}

// cluster returns a cluster of that version.
func (v *kubeVersionFlag) cluster() (patches.Cluster, error) {
	version, err := patches.ParseVersion(string(*v))
	if err != nil {
		return patches.Cluster{}, usageError{fmt.Errorf("--kube-version: %w", err)}
	}
	return patches.Cluster{APIServer: version, OldestKubelet: version}, nil
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
	return words.Nearest(name, flags, words.Slips)
}

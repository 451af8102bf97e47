package main

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/internal/words"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
)

// clusterFlags say which cluster, user and namespace a command is about: those of
// kubectl, by the same code of client-go.
type clusterFlags struct {
	rules     *clientcmd.ClientConfigLoadingRules
	overrides clientcmd.ConfigOverrides
	instead   string // what to do without a cluster, for the error; "" for nothing
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
	c.rules = clientcmd.NewDefaultClientConfigLoadingRules()
	fs.StringVar(&c.rules.ExplicitPath, "kubeconfig", "", kubeconfigHelp)
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	clientcmd.BindOverrideFlags(&c.overrides, own, clientcmd.RecommendedConfigOverrideFlags(""))
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
		return errors.New("is no duration in whole seconds; allowed: at least 1s, as in 60s or 10m")
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

// given returns the settings whose flags were given, with their values, by name.
func (p *policyFlags) given() map[string]string {
	given := map[string]string{}
	for _, s := range policy.Settings() {
		if f := p.flags.Lookup(s.Name); s.Flag && f.Changed {
			given[s.Name] = f.Value.String()
		}
	}
	return given
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

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/evenkeel/evenkeel/policy"
	"github.com/evenkeel/evenkeel/server"
)

// serveOptions are the flags of serve. Most are fields of its server.Config.
type serveOptions struct {
	server.Config
	policy            policyFlags
	kubeconfig        string
	namespaceSelector string
	scaleIn           string
	logLevel          string
}

func newServeCommand() *cobra.Command {
	o := &serveOptions{}
	command := &cobra.Command{
		Use:   "serve",
		Short: "Run the admission webhook and the budget controller",
		Long: `Run the admission webhook and the controller of disruption budgets.

Reviews are answered over HTTPS at /mutate, and with --surge those of evictions at
/evict. /livez, /readyz and /metrics are
answered over plain HTTP on a port of their own. On SIGTERM the server reports
that it is not ready, goes on answering, asks its clients to go, and exits when no
connection is left.

With OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, reviews
that the API server traces are traced, over OTLP in protobuf over HTTP. The other
standard variables of OpenTelemetry apply.`,
		Args: noArguments,
		RunE: func(command *cobra.Command, _ []string) error {
			return o.run(command.Context(), command.ErrOrStderr())
		},
	}
	fs := command.Flags()
	fs.StringVar(&o.Listen, "listen", ":8443", "`ADDRESS` of the webhook, HTTPS.")
	fs.StringVar(&o.MetricsListen, "metrics-listen", ":8080", "`ADDRESS` of /livez, /readyz and /metrics, HTTP.")
	fs.StringVar(&o.CertFile, "tls-cert-file", "",
		"PEM `FILE` with the serving certificate. It is read again when it changes. Without it evenkeel makes its own.")
	fs.StringVar(&o.KeyFile, "tls-key-file", "", "PEM `FILE` with the key of the serving certificate.")
	fs.StringVar(&o.ClientCAFile, "client-ca-file", "",
		"PEM `FILE` with the authorities that sign the API server's client certificate. "+
			"It is read again when it changes. Without it whoever reaches the port is answered.")
	fs.StringSliceVar(&o.ClientNames, "client-name", nil,
		"Common `NAME` that a client's certificate must have, with --client-ca-file. "+
			"May be repeated, or hold several names, comma-separated. Without it any name will do.")
	registerAuthorities(fs, &o.Authorities)
	fs.StringVar(&o.kubeconfig, "kubeconfig", "",
		kubeconfigHelp)
	fs.StringVar(&o.namespaceSelector, "namespace-selector", policy.InjectLabel+"="+policy.Enabled,
		"Label `SELECTOR` of the opted-in Namespaces, the same as in the webhook configuration. "+
			"kube-system and --namespace are never opted in.")
	fs.StringVar(&o.logLevel, "log-level", "info",
		"`LEVEL` of the log: debug (a line per review), info, warning, error.")
	fs.DurationVar(&o.DrainTimeout, "drain-timeout", 25*time.Second,
		"How long to go on answering after SIGTERM at most. "+
			"Must be less than the pod's grace period without its preStop sleep.")
	fs.IntVar(&o.Recycle.MaxRequests, "recycle-requests", 1000,
		"Number of requests after which a connection is closed, so that new replicas get their share. 0 is no limit.")
	fs.DurationVar(&o.Recycle.MaxAge, "recycle-age", 5*time.Minute,
		"Age at which a connection is closed. 0 is no limit.")
	fs.BoolVar(&o.Budgets, "budgets", true,
		"Keep a PodDisruptionBudget for each workload that can have one. One replica works, by leader election.")
	fs.BoolVar(&o.Surge, "surge", false,
		"Answer reviews of evictions at /evict, for the setting drain. evenkeel needs rights of its own for it.")
	fs.DurationVar(&o.SurgePatience, "surge-patience", 10*time.Minute,
		"How long a drain may be held for one pod, with --surge. At least 1s.")
	fs.StringVar(&o.scaleIn, "scale-in", "off",
		"What decides over the pods that go when a workload is scaled in. With keep-zones one ready pod of each "+
			"zone goes last, by an annotation on pods, for which evenkeel needs a right of its own. "+
			"Allowed: keep-zones, off.")
	fs.DurationVar(&o.ScanInterval, "scan-interval", 20*time.Second,
		"Time between two scans for workloads and pods that admission has missed. 0 is none.")
	fs.DurationVar(&o.ProbePatience, "probe-patience", 2*time.Minute,
		"How long containers with a guessed readiness probe may run without any pod of the workload ever being ready. "+
			"Then the probe is withdrawn from the workload. 0 is for ever.")
	fs.StringVar(&o.Namespace, "namespace", "evenkeel-system",
		"`NAMESPACE` that evenkeel runs in: that of its Lease, its Service, its Secret and its notes.")
	fs.DurationVar(&o.LeaseDuration, "lease-duration", 15*time.Second,
		"How long a leader that died holds the others up. At least 1s.")
	o.policy.register(fs)
	return command
}

// registerAuthorities adds the flags of self-managed certificates to fs.
func registerAuthorities(fs *pflag.FlagSet, a *server.Authorities) {
	fs.StringVar(&a.Secret, "authority-secret", "evenkeel-authority",
		"`NAME` of the Secret with the certificate authorities that evenkeel makes.")
	fs.StringSliceVar(&a.WebhookConfigurations, "webhook-configuration", []string{"evenkeel", "zzz-evenkeel"},
		"`NAME,...` of the MutatingWebhookConfigurations that get their caBundle.")
	fs.StringVar(&a.Service, "service", "evenkeel", "`NAME` of the Service that the API server calls.")
	fs.DurationVar(&a.Lifetimes.Authority, "authority-lifetime", 365*24*time.Hour,
		"How long a certificate authority lasts. It is replaced when two thirds are over.")
	fs.DurationVar(&a.Lifetimes.Leaf, "certificate-lifetime", 24*time.Hour,
		"How long a serving certificate lasts. It is replaced when two thirds are over.")
	fs.DurationVar(&a.Lifetimes.Settle, "settle-time", time.Minute,
		"How long an authority stands in the caBundle before anybody serves with it.")
}

// run serves until ctx ends and the drain after it is done.
func (o *serveOptions) run(ctx context.Context, logs io.Writer) error {
	level, err := logrus.ParseLevel(o.logLevel)
	if err != nil {
		return usageError{fmt.Errorf("--log-level=%q is not a level; allowed: debug, info, warning, error", o.logLevel)}
	}
	if o.NamespaceSelector, err = labels.Parse(o.namespaceSelector); err != nil {
		return usageError{fmt.Errorf("--namespace-selector=%q is not a label selector: %w", o.namespaceSelector, err)}
	}
	switch o.scaleIn {
	case "off", "keep-zones":
		o.KeepZones = o.scaleIn == "keep-zones"
	default:
		return usageError{fmt.Errorf("--scale-in=%q is not known; allowed: keep-zones, off", o.scaleIn)}
	}
	if o.Policy, err = o.policy.config(); err != nil {
		return err
	}
	if o.REST, err = o.restConfig(); err != nil {
		return err
	}
	o.Version, _ = build()
	o.Log = server.NewLog(logs, level)
	err = server.Run(ctx, o.Config)
	if invalid := (server.InvalidError{}); errors.As(err, &invalid) {
		return usageError{err}
	}
	return err
}

// restConfig returns how to reach the API server.
func (o *serveOptions) restConfig() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.kubeconfig
	// It tries the service account too.
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		if clientcmd.IsEmptyConfig(err) {
			return nil, errors.New("no cluster is configured; set --kubeconfig, or install evenkeel in one with " +
				"kubectl apply -k deploy/")
		}
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	config.UserAgent = "evenkeel"
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	return config, nil
}

package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	kjson "sigs.k8s.io/json"

	"github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/pdb"
	"github.com/evenkeel/evenkeel/policy"
)

const explainHelp = `Say why evenkeel did, or did not, add something to a workload of a cluster: whether
its namespace is opted in and a webhook selects it, what became of each default and
why, where each setting came from, how its budget stands, and what to do next.

Kinds: deployment (deploy), statefulset (sts), daemonset (ds), replicaset (rs),
replicationcontroller (rc), pod (po). A pod is explained by what it belongs to.`

// explainOptions are the flags of explain.
type explainOptions struct {
	cluster clusterFlags
	policy  policyFlags
}

func newExplainCommand(program string) *cobra.Command {
	o := &explainOptions{}
	command := &cobra.Command{
		Use:     "explain KIND/NAME",
		Short:   "Say why something was, or was not, added to a workload",
		Long:    explainHelp,
		Example: "  " + program + " explain deploy/web -n shop",
		RunE:    o.run,
	}
	fs := command.Flags()
	fs.SortFlags = false
	o.cluster.register(fs)
	o.policy.register(fs)
	return command
}

// explainKinds are the kinds to explain, with what kubectl calls them.
var explainKinds = [...][]string{
	{"Deployment", "deployment", "deployments", "deploy"},
	{"StatefulSet", "statefulset", "statefulsets", "sts"},
	{"DaemonSet", "daemonset", "daemonsets", "ds"},
	{"ReplicaSet", "replicaset", "replicasets", "rs"},
	{"ReplicationController", "replicationcontroller", "replicationcontrollers", "rc"},
	{"Pod", "pod", "pods", "po"},
}

// parseKindName reads "KIND/NAME", or KIND and NAME as two arguments, as kubectl does.
func parseKindName(args []string) (kind, name string, err error) {
	text := strings.Join(args, "/")
	kind, name, ok := strings.Cut(text, "/")
	if !ok || kind == "" || name == "" || strings.Contains(name, "/") {
		return "", "", usageError{fmt.Errorf("%q is no workload; name one as KIND/NAME, as in deploy/web", strings.Join(args, " "))}
	}
	word, _, _ := strings.Cut(strings.ToLower(kind), ".") // deployments.apps
	var known []string
	for _, names := range explainKinds {
		if slices.Contains(names[1:], word) {
			return names[0], name, nil
		}
		known = append(known, names[1:]...)
	}
	hint := "allowed: deploy, sts, ds, rs, rc, po, and their long names"
	switch word {
	case "job", "jobs", "cronjob", "cronjobs", "cj":
		return "", "", usageError{fmt.Errorf("the pods of kind %q run to completion and serve nobody, so nothing is added to them; %s", kind, hint)}
	}
	if near := nearest(word, known); near != "" {
		hint = "did you mean " + near + "?"
	}
	return "", "", usageError{fmt.Errorf("kind %q has no pods of its own, or does not exist; %s", kind, hint)}
}

func (o *explainOptions) run(command *cobra.Command, args []string) error {
	if len(args) == 0 || len(args) > 2 {
		return usageError{errors.New("name one workload as KIND/NAME, as in deploy/web")}
	}
	kind, name, err := parseKindName(args)
	if err != nil {
		return err
	}
	ctx := command.Context()
	c, err := o.cluster.connect(ctx, &o.policy)
	if err != nil {
		return err
	}
	state, err := audit.Read(ctx, c.client, audit.Scope{Source: c.source, Namespace: c.namespace, Installation: c.installation})
	if err != nil {
		return c.explained(ctx, c.namespace, err)
	}
	report := audit.Run(*state, c.rules)
	e := explanation{connection: c, state: state, flags: &o.policy}
	if e.workload, e.pod, err = find(report, state, kind, name); err != nil {
		return fmt.Errorf("in namespace %s, %w", c.namespace, err)
	}
	e.pods = report.PodNames[e.workload.ID()]
	for i := range state.Objects {
		if x := &state.Objects[i]; x.Kind == e.workload.Kind && x.Metadata.Name == e.workload.Name {
			e.object = x
		}
	}
	if namespace, err := c.client.CoreV1().Namespaces().Get(ctx, c.namespace, metav1.GetOptions{}); err == nil {
		e.namespace = namespace
	}
	_, err = command.OutOrStdout().Write(e.text())
	return err
}

// find returns the workload of a name, and the pod where that was asked for and
// belongs to one.
func find(report *audit.Report, state *audit.State, kind, name string) (*audit.Workload, string, error) {
	var names []string
	for _, w := range report.Workloads {
		if w.Kind == kind && w.Name == name {
			return w, "", nil
		}
		if w.Kind == kind {
			names = append(names, w.Name)
		}
	}
	for id, pods := range report.PodNames {
		if kind == "Pod" && slices.Contains(pods, name) {
			for _, w := range report.Workloads {
				if w.ID() == id {
					return w, name, nil
				}
			}
		}
		if kind == "Pod" {
			names = append(names, pods...)
		}
	}
	for i := range state.Objects { // a ReplicaSet of a Deployment
		if o := &state.Objects[i]; o.Kind == kind && o.Metadata.Name == name {
			return nil, "", fmt.Errorf("%s %q belongs to another workload; ask for that", strings.ToLower(kind), name)
		}
	}
	slices.Sort(names)
	return nil, "", notFound(strings.ToLower(kind), name, slices.Compact(names))
}

// explanation is what is said of one workload.
type explanation struct {
	*connection
	state     *audit.State
	flags     *policyFlags
	workload  *audit.Workload
	pod       string
	pods      []string      // names of those of the workload
	object    *audit.Object // nil for a pod and for kinds known by their pods only
	namespace *corev1.Namespace
}

// text returns the explanation, with what to do next at the end.
func (e *explanation) text() []byte {
	var b bytes.Buffer
	w := e.workload
	var advice []string
	say := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	advise := func(format string, args ...any) {
		if text := fmt.Sprintf(format, args...); !slices.Contains(advice, text) {
			advice = append(advice, text)
		}
	}
	if e.pod != "" {
		say("Pod %s belongs to %s, which this is about.\n\n", printable(e.pod), w.ID())
	}
	say("%s: %s\n\n", w.ID(), e.verdict())

	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(cells ...string) {
		for i := range cells {
			cells[i] = printable(cells[i])
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	row("Opted in", e.optedIn(advise))
	for _, line := range e.called(advise) {
		row("Webhook", line)
	}
	row("Cluster", fmt.Sprintf("API server %s, oldest kubelet %s", e.state.Cluster.APIServer, e.state.Cluster.OldestKubelet))
	if w.Pods > 0 {
		row("Pods", fmt.Sprintf("%d running, %d ready, %d lack what they would get today", w.Pods, w.Ready, w.BarePods))
	}
	_ = table.Flush() // a Buffer doesn't fail

	say("\nDefaults:\n")
	for _, d := range w.Defaults {
		state, why := d.State, d.Detail
		switch {
		case d.State == audit.StateMissing && d.Default != policy.SettingDisruptionBudget:
			why = "would be added: " + d.Detail
		case d.Code != "" && d.State != audit.StatePresent, d.Code != "" && d.Detail == "" || d.Default == policy.SettingDisruptionBudget && d.Code != "":
			why = d.Code + ": " + reasonText(d) + suffix(d.Detail)
		}
		row("  "+d.Default, cmp.Or(d.Container, "-"), state, why)
	}
	_ = table.Flush()
	for _, p := range w.Problems {
		say("  warning: %s\n", printable(p))
	}

	say("\nSettings:\n")
	for _, s := range e.settings() {
		row("  "+s[0], s[1], s[2])
	}
	_ = table.Flush()

	e.budget(say)
	findings := slices.DeleteFunc(slices.Clone(w.Findings), func(f audit.Finding) bool {
		return strings.HasPrefix(string(f.Code), "missing-") // stands among the defaults
	})
	if len(findings) > 0 {
		say("\nFindings:\n")
		for _, f := range findings {
			what := string(f.Code)
			if f.Object != "" {
				what += " (" + f.Object + ")"
			}
			row("  "+what, f.Code.Explain().Text)
		}
		_ = table.Flush()
	}
	e.next(advise)
	say("\nWhat to do next:\n")
	if len(advice) == 0 {
		say("  Nothing: it has all that evenkeel would add.\n")
	}
	for _, a := range advice {
		say("  - %s\n", a)
	}
	return b.Bytes()
}

func suffix(detail string) string {
	if detail == "" {
		return ""
	}
	return " (" + detail + ")"
}

// reasonText returns the sentence of a skip or budget code.
func reasonText(d audit.Default) string {
	if d.Default == policy.SettingDisruptionBudget {
		return pdb.Code(d.Code).Reason().Text
	}
	return patches.Skip(d.Code).Reason().Text
}

// verdict says in one sentence how the workload stands.
func (e *explanation) verdict() string {
	by := map[string][]string{}
	for _, d := range e.workload.Defaults {
		key := d.State
		if d.State == audit.StatePresent && d.Detail == "added by evenkeel" {
			key = "added"
		}
		if !slices.Contains(by[key], d.Default) {
			by[key] = append(by[key], d.Default)
		}
	}
	var parts []string
	for _, p := range [][2]string{{"added", "evenkeel added "}, {audit.StatePresent, "it has "}, {audit.StateMissing, "it lacks "}, {audit.StateSkipped, "evenkeel leaves out "}} {
		if len(by[p[0]]) > 0 {
			parts = append(parts, p[1]+strings.Join(by[p[0]], ", "))
		}
	}
	return strings.Join(parts, "; ")
}

// optedIn says whether evenkeel looks after the workload at all.
func (e *explanation) optedIn(advise func(string, ...any)) string {
	if e.namespace == nil {
		return "not known: the Namespace may not be read"
	}
	label := e.namespace.Labels[policy.InjectLabel]
	switch {
	case slices.ContainsFunc(e.workload.Defaults, func(d audit.Default) bool { return d.Code == string(patches.SkipOptedOut) }):
		advise("It opted out by the label %s: %s on itself or its pod template; remove that to opt in.", policy.InjectLabel, policy.Disabled)
		return "no: the workload or its pod template carries the label " + policy.InjectLabel + ": " + policy.Disabled
	case e.workload.OptedIn:
		return "yes: the webhook looks after namespace " + e.namespace.Name
	case label == "":
		advise("kubectl label namespace %s %s=%s", e.namespace.Name, policy.InjectLabel, policy.Enabled)
		return "no: namespace " + e.namespace.Name + " has no label " + policy.InjectLabel
	}
	return fmt.Sprintf("no: the label %s: %s of namespace %s does not opt it in", policy.InjectLabel, label, e.namespace.Name)
}

// called says which webhooks the API server calls for the workload.
func (e *explanation) called(advise func(string, ...any)) []string {
	i := e.installation
	if len(i.Webhooks) == 0 {
		if len(i.Warnings) > 0 {
			return []string{"not known: " + i.Warnings[0]}
		}
		advise("Install evenkeel: no webhook of it is registered with this cluster.")
		return []string{"none: evenkeel is not installed in this cluster"}
	}
	resource, object := "pods", map[string]string(nil)
	switch e.workload.Kind {
	case "Deployment":
		resource = "deployments"
	case "StatefulSet":
		resource = "statefulsets"
	}
	if e.object != nil && resource != "pods" {
		object = e.object.Metadata.Labels
	}
	var namespace map[string]string
	if e.namespace != nil {
		namespace = e.namespace.Labels
	}
	var lines []string
	for k := range i.Webhooks {
		h := &i.Webhooks[k]
		if !h.Calls(resource, object, namespace) {
			continue
		}
		line := fmt.Sprintf("%s is called for %s, failurePolicy %s", h.Name, resource, h.FailurePolicy)
		if !h.Bundle {
			line += ", but without a caBundle the API server can't trust it"
			advise("Write the caBundle of webhook %s; without it nothing is ever added.", h.Name)
		}
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		lines = []string{"not called: no webhook selects it"}
	}
	switch i.Ready {
	case -1:
	case 0:
		lines = append(lines, "no replica of evenkeel is ready")
		advise("Look at evenkeel itself: kubectl -n %s get pods. None of its replicas is ready.", i.Namespace)
	default:
		lines = append(lines, fmt.Sprintf("%d replicas of evenkeel are ready", i.Ready))
	}
	return lines
}

// settings returns name, value and source of each setting.
func (e *explanation) settings() [][3]string {
	var sources []policy.Annotations
	if e.object != nil {
		var o struct {
			Metadata metav1.ObjectMeta `json:"metadata"`
			Spec     struct {
				Template struct {
					Metadata metav1.ObjectMeta `json:"metadata"`
				} `json:"template"`
			} `json:"spec"`
		}
		if kjson.UnmarshalCaseSensitivePreserveInts(e.object.JSON, &o) == nil {
			sources = append(sources, policy.Annotations{Source: policy.SourcePodTemplate, Values: o.Spec.Template.Metadata.Annotations},
				policy.Annotations{Source: policy.SourceWorkload, Values: o.Metadata.Annotations})
		}
	}
	if e.namespace != nil {
		sources = append(sources, policy.Annotations{Source: policy.SourceNamespace, Values: e.namespace.Annotations})
	}
	p, _ := policy.Resolve(e.config.Base, e.config.Bounds, sources...)
	var rows [][3]string
	for _, s := range policy.Settings() {
		value, from := cmp.Or(s.Default, "-"), "built-in"
		if f := e.flags.flags.Lookup(s.Name); s.Flag && f != nil && f.Changed {
			value, from = f.Value.String(), "flag of evenkeel serve"
		}
		for _, source := range sources {
			if source.Source == p.From(s.Name) {
				if v, ok := source.Values[s.Annotation()]; ok {
					value, from = v, "annotation of the "+string(source.Source)
				}
			}
		}
		rows = append(rows, [3]string{s.Name, value, from})
	}
	return rows
}

// budget says how the budgets of the workload stand.
func (e *explanation) budget(say func(string, ...any)) {
	var lines []string
	for i := range e.state.Budgets {
		b := &e.state.Budgets[i]
		s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil || !slices.ContainsFunc(e.state.Pods, func(p audit.Pod) bool {
			return slices.Contains(e.pods, p.Name) && s.Matches(labels.Set(p.Labels))
		}) {
			continue
		}
		amount := "nothing said"
		if b.Spec.MaxUnavailable != nil {
			amount = "maxUnavailable " + b.Spec.MaxUnavailable.String()
		} else if b.Spec.MinAvailable != nil {
			amount = "minAvailable " + b.Spec.MinAvailable.String()
		}
		if b.Status.ObservedGeneration < b.Generation {
			lines = append(lines, fmt.Sprintf("  %s: %s; its pods have not been counted since it was last written, so none may be evicted now", b.Name, amount))
			continue
		}
		lines = append(lines, fmt.Sprintf("  %s: %s; %d of %d pods are healthy, %d have to be, so %d may be evicted now", b.Name, amount,
			b.Status.CurrentHealthy, b.Status.ExpectedPods, b.Status.DesiredHealthy, b.Status.DisruptionsAllowed))
	}
	if len(lines) > 0 {
		say("\nBudget:\n%s\n", strings.Join(lines, "\n"))
	}
}

// next adds what follows from the findings.
func (e *explanation) next(advise func(string, ...any)) {
	w := e.workload
	name := strings.ToLower(w.Kind) + "/" + w.Name
	for _, f := range w.Findings {
		switch f.Code {
		case audit.MissedInjection:
			if w.Kind == "Pod" {
				advise("Make the pod anew, and it gets what it lacks.")
			} else {
				advise("kubectl -n %s rollout restart %s adds what is missing.", w.Namespace, name)
			}
		case audit.MissingAntiAffinity, audit.MissingPreStopSleep, audit.MissingReadinessProbe, audit.MissingBudget:
		default:
			advise("%s", f.Code.Explain().Advice)
		}
	}
	for _, d := range w.Defaults {
		if d.Default != policy.SettingDisruptionBudget && patches.Skip(d.Code).Reason().Warn {
			advise("%s of container %s: %s", d.Default, d.Container, patches.Skip(d.Code).Reason().Text)
		}
	}
}

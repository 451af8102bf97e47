package audit

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/evenkeel/evenkeel/internal/words"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/pdb"
	"github.com/evenkeel/evenkeel/policy"
)

// find returns the workload of a name, or the one that the object of that name belongs to.
func find(report *Report, state *State, kind, name string) (*Workload, error) {
	var names []string
	for _, w := range report.Workloads {
		if w.Kind == kind && w.Name == name {
			return w, nil
		}
		if w.Kind == kind {
			names = append(names, w.Name)
		}
	}
	for id, pods := range report.PodNames {
		if kind == "Pod" && slices.Contains(pods, name) {
			for _, w := range report.Workloads {
				if w.ID() == id {
					return w, nil
				}
			}
		}
		if kind == "Pod" {
			names = append(names, pods...)
		}
	}
	if owner := state.ownerOf(kind, name); owner.Kind != "" {
		for _, w := range report.Workloads {
			if w.Kind == owner.Kind && w.Name == owner.Name {
				return w, nil
			}
		}
		return nil, fmt.Errorf("%s %q belongs to %s %q, which has no pods now; its template is left as it is (%s)",
			strings.ToLower(kind), name, owner.Kind, owner.Name, patches.SkipOwned)
	}
	slices.Sort(names)
	return nil, words.NotFound(strings.ToLower(kind), name, slices.Compact(names))
}

// ownerOf returns what an object belongs to in the end, a Deployment for a ReplicaSet of one.
func (s *State) ownerOf(kind, name string) Owner {
	above := Owner{}
	for range 3 { // ReplicaSet, Deployment, and what owns that
		found := false
		for i := range s.Objects {
			if o := &s.Objects[i]; o.Kind == kind && o.Metadata.Name == name && o.controller().Kind != "" {
				above = o.controller()
				found = true
			}
		}
		if !found {
			break
		}
		kind, name = above.Kind, above.Name
	}
	return above
}

// Question asks why a workload has what it has.
type Question struct {
	// Target is in the namespace that State is of.
	Target
	State *State
	Rules Rules
	// Services are needed for a Target of kind Service only.
	Services []corev1.Service
	// Namespace is nil where it may not be read.
	Namespace    *corev1.Namespace
	Installation *Installation
}

// Explain says why evenkeel did, or did not, add something to a workload, and what to do next. The
// error says that there is no such workload.
func Explain(q Question) ([]byte, error) {
	report := Run(*q.State, q.Rules)
	workloads, err := q.about(report)
	if err != nil {
		return nil, err
	}
	var texts [][]byte
	for _, w := range workloads {
		e := explanation{Question: q, workload: w, pods: report.PodNames[w.ID()]}
		for i := range q.State.Objects {
			if x := &q.State.Objects[i]; x.Kind == w.Kind && x.Metadata.Name == w.Name {
				e.object = x
			}
		}
		texts = append(texts, e.text())
	}
	return bytes.Join(texts, []byte("\n\n")), nil
}

// explanation is what is said of one workload.
type explanation struct {
	Question
	workload *Workload
	pods     []string // names of those of the workload
	object   *Object  // nil for a pod and for kinds known by their pods only
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
	switch e.Kind {
	case w.Kind:
	case kindService:
		say("Service %s leads to the pods of %s.\n\n", words.Printable(e.Name), w.ID())
	case "Deployment", "StatefulSet":
		say("%s %s belongs to %s, which would put its template back, so evenkeel leaves that as it is (%s). This is about "+
			"its pods.\n\n",
			e.Kind, words.Printable(e.Name), w.ID(), patches.SkipOwned)
	default:
		say("%s %s belongs to %s, which this is about.\n\n", e.Kind, words.Printable(e.Name), w.ID())
	}
	say("%s: %s\n\n", w.ID(), e.verdict())

	var rows [][]words.Cell
	row := func(cells ...string) { rows = append(rows, words.Cells(cells...)) }
	flush := func() {
		words.Table(&b, false, rows)
		rows = nil
	}
	row("Opted in", e.optedIn(advise))
	for _, line := range e.called(advise) {
		row("Webhook", line)
	}
	if text := e.budgets(); text != "" {
		row("Budgets", text)
	}
	row("Cluster",
		fmt.Sprintf("API server %s, oldest kubelet %s", e.State.Cluster.APIServer, e.State.Cluster.OldestKubelet))
	if text := e.State.Cluster.Warning(); text != "" {
		row("", "warning: "+text)
	}
	if w.Pods > 0 {
		row("Pods", fmt.Sprintf("%d running, %d ready, %d lack what they would get today", w.Pods, w.Ready, w.BarePods))
	}
	flush()

	say("\nDefaults:\n")
	for _, d := range w.Defaults {
		state, why := d.State, d.Detail
		switch {
		case d.State == StateMissing && d.By == ByEvenkeel:
			state, why = "differs", d.Standing+" stands and would become: "+d.Wanted
		case d.State == StateMissing && d.Default != policy.SettingDisruptionBudget:
			why = "would be added: " + d.Detail
		case d.Code != "" && d.State != StatePresent,
			d.Code != "" && d.Detail == "" || d.Default == policy.SettingDisruptionBudget && d.Code != "":
			why = d.Code + ": " + reasonText(d) + suffix(d.Detail)
		}
		row("  "+d.Default, cmp.Or(d.Container, "-"), state, why)
	}
	flush()
	for _, p := range w.Problems {
		say("  warning: %s\n", words.Printable(p))
	}

	say("\nWhat stands and what is wanted:\n")
	words.Table(&b, false, e.compared())

	say("\nSettings:\n")
	for _, s := range e.settings() {
		row("  "+s[0], s[1], s[2])
	}
	flush()

	if len(w.Paths) > 0 || e.State.hidden != "" {
		stands := "there is no sleep"
		if seconds, ok := w.sleeps(); ok {
			stands = fmt.Sprintf("the sleep is %d s", seconds)
		}
		say("\nWhat leads traffic to its pods:\n")
		for _, p := range w.Paths {
			row("  "+p.Through, fmt.Sprintf("needs %d s", p.Seconds), stands, p.By)
		}
		flush()
		if e.State.hidden != "" {
			say("  warning: %s\n", e.State.hidden)
		}
	}

	e.budget(say)
	findings := slices.DeleteFunc(slices.Clone(w.Findings), func(f Finding) bool {
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
		flush()
	}
	e.next(advise)
	say("\nWhat to do next:\n")
	if len(advice) == 0 && slices.ContainsFunc(w.Defaults, func(d Default) bool { return d.Arrives != "" }) {
		say("  Nothing has to be done. What has changed arrives as said above.\n")
	} else if len(advice) == 0 {
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
func reasonText(d Default) string {
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
		if d.State == StatePresent && d.By == ByEvenkeel && d.Default != policy.SettingDisruptionBudget {
			key = "added"
		} else if d.State == StateMissing && d.By == ByEvenkeel {
			key = "differs"
		}
		if !slices.Contains(by[key], d.Default) {
			by[key] = append(by[key], d.Default)
		}
	}
	var parts []string
	for _, p := range [][2]string{{"added", "evenkeel added "}, {StatePresent, "it has "},
		{"differs", "evenkeel would change "}, {StateMissing, "it lacks "}, {StateSkipped, "evenkeel leaves out "}} {
		if len(by[p[0]]) > 0 {
			parts = append(parts, p[1]+strings.Join(by[p[0]], ", "))
		}
	}
	return strings.Join(parts, "; ")
}

// optedIn says whether evenkeel looks after the workload at all.
func (e *explanation) optedIn(advise func(string, ...any)) string {
	if e.Namespace == nil {
		return "not known: the Namespace may not be read"
	}
	n := e.Namespace
	label := n.Labels[policy.InjectLabel]
	labelled := maps.Clone(n.Labels)
	if labelled == nil {
		labelled = map[string]string{}
	}
	labelled[policy.InjectLabel] = policy.Enabled
	switch {
	case e.workload.optedOut ||
		slices.ContainsFunc(e.workload.Defaults, func(d Default) bool { return d.Code == string(patches.SkipOptedOut) }):
		advise("It opted out by the label %s: %s on itself or its pod template; remove that to opt in.", policy.InjectLabel,
			policy.Disabled)
		return "no: the workload or its pod template carries the label " + policy.InjectLabel + ": " + policy.Disabled
	case e.workload.OptedIn:
		return "yes: the webhook looks after namespace " + n.Name
	case n.Name == metav1.NamespaceSystem:
		return "no: evenkeel never looks after kube-system"
	case e.Installation.Namespace != "" && n.Name == e.Installation.Namespace:
		return "no: evenkeel never looks after the namespace that it runs in"
	case !e.Installation.OptsIn(labelled):
		return fmt.Sprintf("no: the webhook's selector does not take namespace %s, with the label %s: %s neither; see "+
			"kubectl get mutatingwebhookconfiguration -o yaml",
			n.Name, policy.InjectLabel, policy.Enabled)
	case label == "":
		advise("kubectl label namespace %s %s=%s", n.Name, policy.InjectLabel, policy.Enabled)
		return "no: namespace " + n.Name + " has no label " + policy.InjectLabel
	}
	advise("kubectl label namespace %s %s=%s --overwrite", n.Name, policy.InjectLabel, policy.Enabled)
	return fmt.Sprintf("no: the label %s: %s of namespace %s does not opt it in", policy.InjectLabel, label, n.Name)
}

// budgets says whether evenkeel serve keeps budgets in the namespace, "" where that is as for the
// webhook.
func (e *explanation) budgets() string {
	i := e.Installation
	if e.Namespace == nil || len(i.Webhooks) == 0 {
		return ""
	}
	keeps, why := i.KeepsBudgets(e.Namespace)
	switch {
	case !keeps:
		return "none is kept here: " + why
	case !e.workload.OptedIn:
		return "kept here, although no webhook is called: the namespace matches --namespace-selector of evenkeel serve"
	}
	return ""
}

// called says which webhooks the API server calls for the workload.
func (e *explanation) called(advise func(string, ...any)) []string {
	i := e.Installation
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
	if e.Namespace != nil {
		namespace = e.Namespace.Labels
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
	var raw []byte
	kind := e.workload.Kind
	if e.object != nil {
		raw = e.object.JSON
	} else if i := slices.IndexFunc(e.State.Pods, func(p Pod) bool { return slices.Contains(e.pods, p.Name) }); i >= 0 {
		raw, kind = e.State.Pods[i].JSON, "Pod"
	}
	s := readStored(raw, kind, e.State.Namespaces[e.workload.Namespace], e.Rules)
	var rows [][3]string
	for _, setting := range policy.Settings() {
		value, source := s.setting(&setting, e.Rules.Flags)
		rows = append(rows, [3]string{setting.Name, value, source})
	}
	return rows
}

// compared returns what stands of each default, what is wanted, and when that arrives.
func (e *explanation) compared() [][]words.Cell {
	var rows [][]words.Cell
	for _, d := range e.workload.Defaults {
		name := "  " + strings.TrimSpace(d.Default+" "+d.Container)
		row := func(what, text string) {
			rows = append(rows, words.Cells(name, what, text))
			name = ""
		}
		if d.Standing == "" {
			row("stands", "nothing")
		} else {
			row("stands", d.Standing+", by "+d.By)
		}
		wanted := d.Wanted
		switch {
		case wanted == "" && d.By != "" && d.By != ByEvenkeel:
			wanted = "what stands, since it is not evenkeel's"
		case wanted == "":
			wanted = "nothing"
		case wanted == d.Standing:
			wanted = "the same"
		}
		if d.Source != "" {
			wanted += " (" + d.Source + ")"
		}
		row("wanted", wanted)
		if d.Arrives != "" {
			row("arrives", d.Arrives)
		}
	}
	return rows
}

// budget says how the budgets of the workload stand.
func (e *explanation) budget(say func(string, ...any)) {
	var lines []string
	for i := range e.State.Budgets {
		b := &e.State.Budgets[i]
		s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil || !slices.ContainsFunc(e.State.Pods, func(p Pod) bool {
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
			lines = append(lines,
				fmt.Sprintf("  %s: %s; its pods have not been counted since it was last written, so none may be evicted now",
					b.Name, amount))
			continue
		}
		lines = append(lines,
			fmt.Sprintf("  %s: %s; %d of %d pods are healthy, %d have to be, so %d may be evicted now", b.Name, amount,
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
		case MissedInjection:
			if w.Kind == "Pod" {
				advise("Delete the pod and create it again to add the missing defaults.")
			} else {
				advise("kubectl -n %s rollout restart %s adds what is missing.", w.Namespace, name)
			}
		case ProbeNeverSucceeds:
			advise("kubectl -n %s rollout restart %s takes the probe out.", w.Namespace, name)
			advise("kubectl -n %s annotate %s %s%s=tcp:PORT asks for the right one.", w.Namespace, name, policy.Prefix,
				policy.SettingReadinessProbe)
		case OneNode, OneZone:
			switch {
			case f.Code == OneNode && w.boundBy != nil:
				advise("It stays on node %s by %s: let another node fit.", f.Object, strings.Join(w.boundBy, " and "))
			case w.OptedIn:
				advise("kubectl -n %s rollout restart %s spreads its pods anew.", w.Namespace, name)
			default:
				advise("%s", f.Code.Explain().Advice)
			}
		case SleepTooShort:
			advise("kubectl -n %s annotate %s %s%s=%ds asks for the sleep that the path of the traffic needs; "+
				"--max-pre-stop-sleep bounds it, and so does a grace period that somebody wrote.", w.Namespace, name,
				policy.Prefix, policy.SettingPreStopSleep, w.Paths[0].Seconds)
		case MissingAntiAffinity, MissingPreStopSleep, MissingReadinessProbe, MissingBudget:
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

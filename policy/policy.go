// Package policy says what a workload should get: it turns annotations of the
// pod template, the workload and the Namespace, the operator's flags and the
// built-in defaults into one Policy, and everything it could not use into
// Problems.
//
// The table in settings.go is the only source of a setting: its annotation, its
// flag, its parser and its row in docs/reference/settings.md. Annotations are a tenant's text
// and treated as hostile: strict parsers, no regular expressions, capped
// lengths, and a value that is not understood changes nothing.
package policy

import (
	"slices"
	"strings"
	"time"
)

const (
	// Prefix starts every label and annotation key of evenkeel.
	Prefix = "evenkeel.dev/"

	// InjectLabel opts a Namespace in (value Enabled) and a workload, or its pod
	// template, out (value Disabled). It is a label, so that the API server's
	// namespaceSelector and objectSelector filter on it without calling anybody.
	InjectLabel = Prefix + "inject"

	// Enabled is the value of InjectLabel that opts a Namespace in.
	Enabled = "enabled"

	// Disabled is the value of InjectLabel that opts a workload out.
	Disabled = "disabled"

	// InjectedAnnotation records on a pod or pod template which defaults were
	// added to it: their names, comma-separated.
	InjectedAnnotation = Prefix + "injected"

	// SurgeAnnotation notes on a Deployment the surge that evenkeel began last.
	SurgeAnnotation = Prefix + "surged"

	// DeletionCostAnnotation notes on a pod which deletion cost evenkeel gave it.
	DeletionCostAnnotation = Prefix + "deletion-cost"

	// DefaultedLabel marks a pod or pod template that defaults were added to, with
	// the value "true", for the Pod webhook's objectSelector and nothing else.
	DefaultedLabel = Prefix + "defaulted"
	// TemplateHash is the label that a Deployment puts on its pods.
	TemplateHash = "pod-template-hash"
	// RevisionHash is the label that a StatefulSet or DaemonSet puts on its pods.
	RevisionHash = "controller-revision-hash"
)

// AntiAffinity says how strictly replicas are kept apart.
type AntiAffinity string

// The values of AntiAffinity.
const (
	AntiAffinityPreferred AntiAffinity = "preferred" // every topology key is a preference
	AntiAffinityRequired  AntiAffinity = "required"  // the first key is a requirement, the rest preferences
	AntiAffinityOff       AntiAffinity = "off"
)

// Spread says what keeps replicas apart.
type Spread string

// The values of Spread.
const (
	SpreadAntiAffinity Spread = "anti-affinity"
	SpreadTopology     Spread = "topology-spread"
)

// ProbeKind is the kind of a readiness probe.
type ProbeKind string

// The values of ProbeKind.
const (
	ProbeAuto  ProbeKind = "auto" // chosen from the container's own probes and ports
	ProbeOff   ProbeKind = "off"
	ProbeTCP   ProbeKind = "tcp"
	ProbeHTTP  ProbeKind = "http"
	ProbeHTTPS ProbeKind = "https"
	ProbeGRPC  ProbeKind = "grpc"
)

// Probe is a readiness probe as an annotation or flag asks for it.
type Probe struct {
	Kind ProbeKind
	// PortNumber is 1 to 65535, or 0 where PortName is set.
	PortNumber int
	// PortName is the name of a container port, or "" where PortNumber is set.
	PortName string
	// Path is the HTTP path with its query, starting with "/"; only for ProbeHTTP
	// and ProbeHTTPS.
	Path string
	// Service is the gRPC health service, "" for the whole server; only for
	// ProbeGRPC.
	Service string
}

// BudgetKind is the kind of a disruption budget.
type BudgetKind string

// The values of BudgetKind.
const (
	BudgetMaxUnavailable BudgetKind = "maxUnavailable"
	BudgetMinAvailable   BudgetKind = "minAvailable"
	// BudgetQuorum allows as many disruptions as a majority survives:
	// floor((n-1)/2) of n replicas.
	BudgetQuorum BudgetKind = "quorum"
	BudgetOff    BudgetKind = "off"
)

// Budget is a disruption budget as an annotation or flag asks for it.
type Budget struct {
	Kind BudgetKind
	// Value is a number of pods, or 0 to 100 where Percent is set; only for
	// BudgetMaxUnavailable and BudgetMinAvailable.
	Value   int
	Percent bool
}

// Bounds are the operator's upper bounds on what a tenant may ask for.
type Bounds struct {
	// MaxPreStopSleep caps PreStopSleep. Whole seconds, at least 1 s.
	MaxPreStopSleep time.Duration
}

// DefaultBounds returns the built-in upper bounds.
func DefaultBounds() Bounds {
	return Bounds{MaxPreStopSleep: 60 * time.Second}
}

// Policy is what one workload should get.
type Policy struct {
	AntiAffinity AntiAffinity
	// Spread counts where AntiAffinity is a preference.
	Spread Spread
	// TopologyKeys are node label keys, the most important first, without
	// repetition, 1 to 8.
	TopologyKeys []string
	// PreStopSleep is in whole seconds; 0 is off.
	PreStopSleep time.Duration
	// AutoSleep lets the Services that lead to a pod lengthen PreStopSleep, up to Bounds.MaxPreStopSleep.
	AutoSleep bool
	// RaiseGracePeriod allows to raise a termination grace period that somebody wrote.
	RaiseGracePeriod bool
	ReadinessProbe   Probe
	DisruptionBudget Budget
	// BudgetPatience is how long a budget may let nothing be evicted before it steps
	// aside; zero means for ever.
	BudgetPatience time.Duration
	// DrainSurge replaces the only pod of a Deployment before a drain takes it.
	DrainSurge bool
	// NodeLoss is how long pods stay on a lost node, in whole seconds; 0 leaves that to Kubernetes.
	NodeLoss time.Duration
	// Containers are the names of the only containers that get probe and hook, or
	// nil for all that serve.
	Containers []string

	from [16]Source // by row of the table: where it was set, "" for flag or built-in
}

// From returns the source that decided the named setting, SourceFlag for flags and
// the built-in default.
func (p *Policy) From(name string) Source {
	for i := range settings {
		if settings[i].Name == name && p.from[i] != "" {
			return p.from[i]
		}
	}
	return SourceFlag
}

// Asked reports whether the named setting comes from an annotation of the
// workload or of its pod template, rather than from the Namespace, a flag or the
// built-in default: whoever wrote it knows this very workload.
func (p *Policy) Asked(name string) bool {
	from := p.From(name)
	return from == SourceWorkload || from == SourcePodTemplate
}

// Source says where annotations stand.
type Source string

// The sources of annotations, in falling precedence.
const (
	SourcePodTemplate Source = "pod template"
	SourceWorkload    Source = "workload"
	SourceNamespace   Source = "namespace"
	SourceFlag        Source = "flag"
)

// Annotations are the metadata annotations of one source. Keys without Prefix
// are passed over.
type Annotations struct {
	Source Source
	Values map[string]string
}

// Resolve returns the policy that results from base, as built in and set by
// flags, and the sources of annotations, given in falling precedence (pod
// template, workload, Namespace). A value that can't be used and a key that does
// not exist become problems and change nothing; a value above a bound is
// lowered to it, with a problem. The problems are sorted by source as given and,
// within one, known settings first in table order, then unknown keys by name.
func Resolve(base Policy, bounds Bounds, sources ...Annotations) (Policy, []Problem) {
	for _, s := range sources {
		if len(s.Values) > 0 {
			return resolve(base, bounds, sources)
		}
	}
	return base, nil // as for most workloads, whose policy is then not even copied to the heap
}

func resolve(p Policy, bounds Bounds, sources []Annotations) (Policy, []Problem) {
	var problems []Problem
	for i := len(sources) - 1; i >= 0; i-- {
		s := sources[i]
		if len(s.Values) == 0 {
			continue
		}
		found := p.apply(s, bounds)
		problems = append(found, problems...)
	}
	return p, problems
}

// apply overrides p with one source of annotations.
func (p *Policy) apply(s Annotations, bounds Bounds) []Problem {
	var problems []Problem
	for i := range settings {
		key := settings[i].Annotation()
		value, ok := s.Values[key]
		if !ok {
			continue
		}
		if s.Source == SourceNamespace && !settings[i].Flag {
			problems = append(problems, Problem{Code: ProblemMisplaced, Source: s.Source, Key: key, Value: value,
				Allowed: "on a workload or its pod template"})
			continue
		}
		clamped, err := settings[i].parse(p, value, bounds)
		if err != nil {
			problems = append(problems, Problem{Code: ProblemValue, Source: s.Source, Key: key, Value: value,
				Reason: err.Error(), Allowed: settings[i].Allowed()})
			continue
		}
		if clamped != "" {
			problems = append(problems, Problem{Code: ProblemClamped, Source: s.Source, Key: key, Value: value,
				Reason: "is above the operator's bound and lowered", Allowed: "at most " + clamped})
		}
		p.from[i] = s.Source
	}
	for _, key := range first(s.Values, func(key string) bool { return strings.HasPrefix(key, Prefix) && !known(key) }) {
		problem := Problem{Code: ProblemKey, Source: s.Source, Key: key, Value: s.Values[key], Nearest: nearest(key)}
		if key == InjectLabel || key == DefaultedLabel {
			problem = Problem{Code: ProblemMisplaced, Source: s.Source, Key: key, Value: s.Values[key],
				Allowed: "as a label"}
		}
		problems = append(problems, problem)
	}
	return problems
}

// Done reports whether a pod with these labels, and with a record or without, or its template, was looked
// at. One with DefaultedLabel that neither comes from a controller nor has a record was not: somebody wrote
// the label.
func Done(labels map[string]string, recorded bool) bool {
	_, deployed := labels[TemplateHash]
	_, revised := labels[RevisionHash]
	return labels[DefaultedLabel] == "true" && (deployed || revised || recorded)
}

// maxUnknownKeys caps the problems that unknown keys of one source cause, so
// that a tenant can't flood log and warnings.
const maxUnknownKeys = 8

// CheckLabels returns the problems of labels under our prefix: InjectLabel with a
// value other than allowed (Enabled or Disabled), and keys that are no labels of
// ours. Such a label opts nobody in or out, which its author should know.
func CheckLabels(source Source, labels map[string]string, allowed string) []Problem {
	var problems []Problem
	for _, key := range first(labels, func(key string) bool {
		return strings.HasPrefix(key, Prefix) && key != DefaultedLabel && (key != InjectLabel || labels[key] != allowed)
	}) {
		value := labels[key]
		switch {
		case key == InjectLabel:
			problems = append(problems, Problem{Code: ProblemValue, Source: source, Key: key, Value: value,
				Reason: "has no effect", Allowed: allowed})
		case known(key):
			problems = append(problems, Problem{Code: ProblemMisplaced, Source: source, Key: key, Value: value,
				Allowed: "as an annotation"})
		default:
			problems = append(problems, Problem{Code: ProblemKey, Source: source, Key: key, Value: value, Nearest: nearest(key)})
		}
	}
	return problems
}

// CheckNamespace is CheckLabels for those of a Namespace, which either opt it in or out.
func CheckNamespace(labels map[string]string) []Problem {
	allowed := Enabled
	if labels[InjectLabel] == Disabled {
		allowed = Disabled
	}
	return CheckLabels(SourceNamespace, labels, allowed)
}

// first returns the first maxUnknownKeys keys that match, sorted. It keeps no more than that at
// any time: a tenant may write hundreds of thousands.
func first(values map[string]string, match func(key string) bool) []string {
	var keys []string
	for key := range values {
		if !match(key) {
			continue
		}
		i, _ := slices.BinarySearch(keys, key)
		if i == maxUnknownKeys {
			continue
		}
		keys = slices.Insert(keys, i, key)
		keys = keys[:min(len(keys), maxUnknownKeys)]
	}
	return keys
}

// known reports whether key is an annotation that we read or write.
func known(key string) bool {
	if key == InjectedAnnotation || key == DeletionCostAnnotation || key == SurgeAnnotation {
		return true
	}
	for i := range settings {
		if settings[i].Annotation() == key {
			return true
		}
	}
	return false
}

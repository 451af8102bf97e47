// Package pdb gives each workload of an opted-in namespace a PodDisruptionBudget,
// so that draining nodes, one or all at once, never takes all pods of it, and
// always can finish.
//
// Desired decides, as a pure function of what exists in a namespace; diff says
// which writes lead there; Controller watches and writes. Manifests is the same
// decision over manifests, without a cluster.
//
// Four rules stand above everything else. A budget of somebody else is never
// changed, adopted or deleted, and always wins: with two budgets on a pod the API
// server answers every eviction with 500 (registry/core/pod/storage/eviction.go).
// No pod is under two budgets because of us. No budget of ours leaves nothing to
// evict at the floor, the lowest number of replicas. And none lets a drain take
// everything at the floor.
package pdb

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/evenkeel/evenkeel/policy"
)

const (
	// ManagedByLabel with the value Manager marks a budget as ours. Whoever removes
	// the label takes the budget over.
	ManagedByLabel = "app.kubernetes.io/managed-by"

	// Manager is the value of ManagedByLabel, and the field manager of our writes.
	Manager = "evenkeel"

	// InstanceLabel says which installation a budget of ours belongs to: the namespace
	// that it runs in.
	InstanceLabel = policy.Prefix + "instance"

	// suffix ends the name of a budget, after that of its workload.
	suffix = "-evenkeel"
)

// Workload is what a decision needs to know of a Deployment, a StatefulSet, or
// another object with a scale subresource.
type Workload struct {
	APIVersion, Kind, Name string
	UID                    types.UID
	// Replicas is spec.replicas, or 1 where that is not set, as the API defaults it.
	Replicas int32
	// Selector is spec.selector, or what the scale subresource reports. Nil selects
	// nothing, the empty selector every pod of the namespace.
	Selector *metav1.LabelSelector
	// TemplateLabels are the labels of the pod template; nil where the kind has none.
	TemplateLabels map[string]string
	// OptedOut is set by the label policy.InjectLabel with the value policy.Disabled on
	// the workload or its pod template.
	OptedOut bool
	// Setting and TemplateSetting are the annotations policy.SettingDisruptionBudget of
	// workload and pod template, or nil.
	Setting, TemplateSetting *string
	// Patience is the annotation policy.SettingBudgetPatience of the workload, or nil.
	Patience *string
	// NoAccess is set where we may not read the scale: then Replicas and Selector are
	// not known.
	NoAccess bool
}

// group returns the API group of the workload.
func (w *Workload) group() string { return groupOf(w.APIVersion) }

func groupOf(apiVersion string) string {
	group, _, ok := strings.Cut(apiVersion, "/")
	if !ok {
		return "" // v1
	}
	return group
}

// Autoscaler is what a decision needs to know of a HorizontalPodAutoscaler.
type Autoscaler struct {
	// APIVersion, Kind and Name are those of spec.scaleTargetRef.
	APIVersion, Kind, Name string
	// MinReplicas is spec.minReplicas, or 1 where that is not set, as the API defaults
	// it.
	MinReplicas int32
}

// Budget is a PodDisruptionBudget, wanted or existing.
type Budget struct {
	Name string
	// Ours is set by the label ManagedByLabel with the value Manager.
	Ours bool
	// Instance is the label InstanceLabel, or "".
	Instance string
	// Selector as policy/v1 reads it: nil selects nothing, the empty one everything.
	Selector                     *metav1.LabelSelector
	MinAvailable, MaxUnavailable *intstr.IntOrString
	// AlwaysAllow is set where pods that are not ready may always be evicted.
	AlwaysAllow bool
	// Owners are the owner references.
	Owners []metav1.OwnerReference
	// Aside is since when the budget has stepped aside and permits every eviction, or
	// no time.
	Aside time.Time

	// RefusesSince is since when an existing budget permits no eviction, or no time.
	// Healthy is the number of healthy pods, known only where Aside is set.
	RefusesSince time.Time
	Healthy      int32
	// UID, ResourceVersion and Terminating are those of an existing budget.
	UID             types.UID
	ResourceVersion string
	Terminating     bool
}

// Pods are the pods of a namespace with the same labels.
type Pods struct {
	Labels map[string]string
	// Unscalable is set where their controller has no scale: a Job, for example.
	Unscalable bool
}

// Namespace is everything in a namespace that a decision depends on. Nothing outside
// it does, since neither budgets nor selectors reach further.
type Namespace struct {
	Name string
	// OptedIn is set by the label policy.InjectLabel with the value policy.Enabled.
	OptedIn bool
	// Setting is the annotation policy.SettingDisruptionBudget, or nil.
	Setting *string
	// Patience is the annotation policy.SettingBudgetPatience, or nil.
	Patience *string
	// Now is the time; without it no budget steps aside.
	Now         time.Time
	Workloads   []Workload
	Autoscalers []Autoscaler
	// Budgets are all that exist, ours and others.
	Budgets []Budget
	// Pods need not be complete: the labels of the pod templates count too.
	Pods []Pods
	// Room is how many budgets the quotas of the namespace still admit; nil means any number.
	Room *int
	// Refused are the names of budgets that the API server has refused lately.
	Refused map[string]bool
}

// Rules are what the operator says.
type Rules struct {
	Base   policy.Policy // built-in defaults and flags
	Bounds policy.Bounds
	// Instance is what budgets of ours are labelled with; "" leaves the label out.
	Instance string
}

// owns reports whether a budget of an instance is ours.
func (r *Rules) owns(instance string) bool {
	return r.Instance == "" || instance == "" || instance == r.Instance
}

// Decision is what a workload gets, and why.
type Decision struct {
	Workload *Workload
	Code     Code
	// Budget is nil where Code is a skip.
	Budget *Budget
	// Other is the name of the budget or workload (kind/name) that Code is about, or "".
	Other string
	// Asked is the value that could not be used where Code is about one, or "".
	Asked string
	// Next is when the decision may change by time alone, or no time.
	Next time.Time
}

// Desired decides about all workloads of a namespace. The decisions are sorted by
// kind (Deployment and StatefulSet first) and name. There are none for a
// namespace that has not opted in.
//
// The first row that applies decides:
//
//	opted out                                                   SkipOptedOut
//	kind that we may not read                                   SkipNoAccess
//	setting is off                                              SkipOff
//	floor below 2                                               SkipBelowTwo
//	selector nil or invalid                                     SkipNoSelector
//	another's budget selects a pod, or template, it selects     SkipForeign
//	another's budget has the name                               SkipNameTaken
//	its selector has to be compared with too many               SkipCrowded
//	one of the remaining workloads selects the same pod         SkipOverlap for all but one
//	selects pods without scale, asks for what needs it          AdjustedUnscalable
//	value can't be parsed                                       AdjustedValue
//	value can't be used at the floor                            see refusal
//	does not exist, and the API server has refused it           SkipRefused
//	does not exist, and would take the last of a quota          SkipQuota
//	refuses evictions for longer than its patience              SteppedAside
//	otherwise                                                   Applied
func Desired(n Namespace, rules Rules) []Decision {
	if !n.OptedIn {
		return nil
	}
	floors := floors(n.Autoscalers)
	decisions := make([]Decision, len(n.Workloads))
	for i := range n.Workloads {
		decisions[i].Workload = &n.Workloads[i]
	}
	slices.SortFunc(decisions, func(a, b Decision) int { return compare(a.Workload, b.Workload) })

	var candidates []*Decision // that may get a budget
	var floor []int
	var chosen []policy.Budget
	var patience []time.Duration
	for i := range decisions {
		d := &decisions[i]
		f := floors.of(d.Workload)
		budget, patient := d.first(n, rules, f)
		if d.Code.Reason().Outcome == OutcomeSkipped {
			continue
		}
		candidates, floor, chosen = append(candidates, d), append(floor, f), append(chosen, budget)
		patience = append(patience, patient)
	}

	o := overlaps(n, candidates)
	names := make(map[string]string, len(n.Budgets)) // of others' budgets
	ours := make(map[string]*Budget, len(n.Budgets))
	for i := range n.Budgets {
		b := &n.Budgets[i]
		if b.Ours {
			ours[b.Name] = b
			continue
		}
		names[b.Name] = b.Name
	}
	taken := make(map[string]bool, len(candidates))
	for i, d := range candidates {
		name := budgetName(d.Workload, taken)
		taken[name] = true
		switch {
		case o.foreign[i] != "":
			d.Code, d.Other = SkipForeign, o.foreign[i]
		case names[name] != "":
			d.Code, d.Other = SkipNameTaken, name
		case o.crowded[i]:
			d.skip(SkipCrowded)
		default:
			d.Budget = &Budget{Name: name}
		}
	}
	for _, i := range o.order() {
		d := candidates[i]
		if d.Budget == nil {
			continue
		}
		if j := o.winner(i); j >= 0 {
			d.Code, d.Other, d.Budget = SkipOverlap, candidates[j].Workload.Kind+"/"+candidates[j].Workload.Name, nil
			d.Asked = ""
			continue
		}
		o.win(i)
		if o.unscalable[i] && (chosen[i].Kind != policy.BudgetMinAvailable || chosen[i].Percent) {
			d.Code, d.Asked = AdjustedUnscalable, ""
		}
		a := write(chosen[i], floor[i], o.unscalable[i])
		*d.Budget = Budget{Name: d.Budget.Name, Ours: true, Instance: rules.Instance, Selector: d.Workload.Selector,
			AlwaysAllow: true, MinAvailable: a.minAvailable, MaxUnavailable: a.maxUnavailable,
			Owners: []metav1.OwnerReference{owner(d.Workload)}}
		d.stepAside(ours[d.Budget.Name], chosen[i], patience[i], o.unscalable[i], n.Now)
	}
	n.admit(decisions, ours)
	return decisions
}

// admit takes back the budgets that are missing and can't be made: those that the API
// server has refused, and those that would take the last place of a quota. The places
// before it go to the workloads with the most replicas.
func (n *Namespace) admit(decisions []Decision, existing map[string]*Budget) {
	if n.Room == nil && len(n.Refused) == 0 {
		return
	}
	var missing []*Decision
	for i := range decisions {
		switch d := &decisions[i]; {
		case d.Budget == nil || existing[d.Budget.Name] != nil:
		case n.Refused[d.Budget.Name]:
			d.skip(SkipRefused)
		default:
			missing = append(missing, d)
		}
	}
	if n.Room == nil {
		return
	}
	slices.SortStableFunc(missing, func(a, b *Decision) int {
		return cmp.Compare(b.Workload.Replicas, a.Workload.Replicas)
	})
	for _, d := range missing[min(len(missing), max(0, *n.Room-1)):] {
		d.skip(SkipQuota)
	}
}

// skip takes the budget of a decision back.
func (d *Decision) skip(code Code) {
	d.Code, d.Asked, d.Other, d.Budget, d.Next = code, "", "", nil, time.Time{}
}

// first sets the code as far as the workload alone decides it, and returns the
// budget for it and its patience.
func (d *Decision) first(n Namespace, rules Rules, floor int) (policy.Budget, time.Duration) {
	w := d.Workload
	key := policy.Prefix + policy.SettingDisruptionBudget
	annotations := func(source policy.Source, value, patience *string) policy.Annotations {
		a := policy.Annotations{Source: source, Values: map[string]string{}}
		if value != nil {
			a.Values[key] = *value
		}
		if patience != nil {
			a.Values[policy.Prefix+policy.SettingBudgetPatience] = *patience
		}
		return a
	}
	p, problems := policy.Resolve(rules.Base, rules.Bounds, annotations(policy.SourcePodTemplate, w.TemplateSetting, nil),
		annotations(policy.SourceWorkload, w.Setting, w.Patience), annotations(policy.SourceNamespace, n.Setting, n.Patience))
	wanted := p.DisruptionBudget
	problems = slices.DeleteFunc(problems, func(p policy.Problem) bool { return p.Key != key })
	switch {
	case w.OptedOut:
		d.Code = SkipOptedOut
	case w.NoAccess:
		d.Code = SkipNoAccess
	case wanted.Kind == policy.BudgetOff:
		d.Code = SkipOff
	case floor < 2:
		d.Code = SkipBelowTwo
	case !usable(w.Selector):
		d.Code = SkipNoSelector
	default:
		var budget policy.Budget
		budget, d.Code = choose(wanted, rules.Base.DisruptionBudget, floor)
		if d.Code != Applied {
			d.Asked = text(wanted)
		} else if unused := overridden(p.From(policy.SettingDisruptionBudget), problems); unused != "" {
			d.Code, d.Asked = AdjustedValue, unused
		}
		return budget, p.BudgetPatience
	}
	return policy.Budget{}, 0
}

// overridden returns the problem with a value that would have decided had it been
// usable, or "": one that stands before the source that decides.
func overridden(decides policy.Source, problems []policy.Problem) string {
	precedence := []policy.Source{policy.SourcePodTemplate, policy.SourceWorkload, policy.SourceNamespace,
		policy.SourceFlag}
	for _, p := range problems {
		if slices.Index(precedence, p.Source) < slices.Index(precedence, decides) {
			return p.String()
		}
	}
	return ""
}

// text returns a budget as an annotation has it.
func text(b policy.Budget) string {
	if b.Kind == policy.BudgetQuorum || b.Kind == policy.BudgetOff {
		return string(b.Kind)
	}
	return string(b.Kind) + "=" + value(b).String()
}

// usable reports whether a selector may be that of a budget.
func usable(s *metav1.LabelSelector) bool {
	_, err := metav1.LabelSelectorAsSelector(s)
	return s != nil && err == nil
}

// owner returns the owner reference of a budget: the budget goes with the workload,
// is not adopted by it, and does not hold its deletion up.
func owner(w *Workload) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: w.APIVersion, Kind: w.Kind, Name: w.Name, UID: w.UID}
}

// rank orders kinds.
func rank(w *Workload) string {
	switch {
	case w.Kind == "Deployment" && w.group() == "apps":
		return "1"
	case w.Kind == "StatefulSet" && w.group() == "apps":
		return "2"
	}
	return "3" + w.Kind + "." + w.group()
}

func compare(a, b *Workload) int {
	return cmp.Or(strings.Compare(rank(a), rank(b)), strings.Compare(a.Name, b.Name))
}

// target is what an autoscaler scales. The version is left out: the API reads
// every one it serves.
type target struct{ group, kind, name string }

type floorTable map[target]int32

// floors returns the lowest minReplicas by target.
func floors(autoscalers []Autoscaler) floorTable {
	t := floorTable{}
	for _, a := range autoscalers {
		key := target{groupOf(a.APIVersion), a.Kind, a.Name}
		if least, ok := t[key]; !ok || a.MinReplicas < least {
			t[key] = a.MinReplicas
		}
	}
	return t
}

// of returns the lowest number of replicas that w may have. A workload scaled to
// zero by hand stays there: its autoscaler is off then
// (kubernetes/pkg/controller/podautoscaler/horizontal.go).
func (t floorTable) of(w *Workload) int {
	least, ok := t[target{w.group(), w.Kind, w.Name}]
	if !ok || w.Replicas == 0 {
		return int(w.Replicas)
	}
	return int(least)
}

// maxName is the longest name that the API takes for a budget, a DNS subdomain.
const maxName = 253

// budgetName returns the name of the budget of w: NAME-evenkeel, or where a workload
// of another kind has that one already NAME-evenkeel-KIND.GROUP. Names that would be
// too long are cut and told apart by a hash.
func budgetName(w *Workload, taken map[string]bool) string {
	name := shortened(w.Name, suffix)
	if !taken[name] {
		return name
	}
	end := suffix + "-" + strings.ToLower(w.Kind)
	if w.group() != "" {
		end += "." + w.group()
	}
	return shortened(w.Name, end)
}

func shortened(name, end string) string {
	if len(name)+len(end) <= maxName {
		return name + end
	}
	sum := sha256.Sum256([]byte(name + end))
	hash := "-" + hex.EncodeToString(sum[:4])
	if len(end) > maxName/2 {
		end = suffix // the hash tells the kind apart
	}
	return strings.TrimRight(name[:maxName-len(hash)-len(end)], "-.") + hash + end
}

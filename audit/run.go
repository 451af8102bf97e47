package audit

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/pdb"
	"github.com/evenkeel/evenkeel/policy"
	"github.com/evenkeel/evenkeel/withdraw"
)

// Report is the outcome of an audit. Its JSON is stable: members are added, never
// renamed, and Version changes when one goes.
type Report struct {
	// Version is that of this format, 1.
	Version int     `json:"version"`
	Source  string  `json:"source"`
	Summary Summary `json:"summary"`
	// Workloads are sorted by namespace, kind and name.
	Workloads []*Workload `json:"workloads"`
	// Nodes and Zones are those whose loss would take a workload down now, the most
	// workloads first.
	Nodes []Domain `json:"nodes"`
	Zones []Domain `json:"zones"`
	// Drains are the evictions that would be refused now, by namespace, code and
	// budgets.
	Drains   []Drain  `json:"drains"`
	Warnings []string `json:"warnings"`
	// PodNames are the pods of each workload, by its ID.
	PodNames map[string][]string `json:"-"`
}

// Formats are what Encode can write.
var Formats = []string{"table", "json", "html"}

// Encode returns the report in one of Formats. Color is for the table.
func (r *Report) Encode(format string, color bool) ([]byte, error) {
	switch format {
	case "json":
		text, err := json.MarshalIndent(r, "", "  ")
		return append(text, '\n'), err
	case "html":
		return Page(r, time.Now())
	}
	return Table{Color: color}.Text(r), nil
}

// Since counts the findings beyond those of an earlier report, which is given as its JSON: a workload that had a
// finding then may keep it.
func (r *Report) Since(earlier []byte) (map[Code]int, error) {
	var before Report
	if err := json.Unmarshal(earlier, &before); err != nil || before.Version != r.Version {
		return nil, errors.New("is not a report of audit -o json")
	}
	known := map[string]bool{}
	for _, w := range before.Workloads {
		for _, f := range w.Findings {
			known[w.ID()+" "+string(f.Code)] = true
		}
	}
	anew := map[Code]int{}
	for _, w := range r.Workloads {
		for _, f := range w.Findings {
			if !known[w.ID()+" "+string(f.Code)] {
				anew[f.Code]++
			}
		}
	}
	return anew, nil
}

// Summary counts.
type Summary struct {
	Workloads int `json:"workloads"`
	// Nodes and Zones are 0 where they are not known.
	Nodes int `json:"nodes"`
	Zones int `json:"zones"`
	// Complete are the workloads that lack nothing that evenkeel would add.
	Complete int `json:"complete"`
	// Findings counts the workloads with a finding, by code, zeros included.
	Findings map[Code]int `json:"findings"`
}

// Workload is what was found about one workload.
type Workload struct {
	Namespace string `json:"namespace"`
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	// Source is the place of a manifest, as FILE:LINE.
	Source string `json:"source,omitempty"`
	// OptedIn is set where evenkeel looks after the namespace.
	OptedIn bool `json:"optedIn"`
	// Replicas is how many are wanted, Floor how low an autoscaler may go; both -1
	// where that is not known.
	Replicas int `json:"replicas"`
	Floor    int `json:"floor"`
	// Pods, Ready and BarePods count running pods, those of them that are ready, and
	// those that lack what they would get if they were made today.
	Pods     int `json:"pods"`
	Ready    int `json:"ready"`
	BarePods int `json:"barePods"`
	// Defaults are the decisions, in the order of patches.Defaults and, within one, of
	// the containers; the budget comes last.
	Defaults []Default `json:"defaults"`
	Findings []Finding `json:"findings"`
	// Paths are the ways that traffic takes to its pods, as far as they can be read, the one that
	// needs the longest sleep first.
	Paths    []Path   `json:"paths,omitempty"`
	Problems []string `json:"problems,omitempty"`

	object   *Object
	missing  map[string]bool
	optedOut bool     // by label, of itself or of its pod template
	boundBy  []string // what keeps its pods on their node, where no other node fits
}

// State of a default.
const (
	StatePresent = "present"
	StateMissing = "missing" // evenkeel would add it
	StateSkipped = "skipped" // evenkeel would not add it, for the reason in Code
)

// Default is what a workload has of one default.
type Default struct {
	Default   string `json:"default"`
	Container string `json:"container,omitempty"`
	// State is StatePresent, StateMissing or StateSkipped.
	State string `json:"state"`
	// Code is the reason that evenkeel gives for not adding it, one of patches.Reasons
	// or pdb.Reasons, or "".
	Code string `json:"code,omitempty"`
	// Detail says what would be added, or who added what there is.
	Detail string `json:"detail,omitempty"`
	// Standing is what stands in the object now, shortened, "" for nothing. By is ByEvenkeel, the
	// field manager that wrote it, or "somebody else".
	Standing string `json:"standing,omitempty"`
	By       string `json:"by,omitempty"`
	// Wanted is what evenkeel would put there by the settings in force now, "" for nothing, and
	// Source says which setting decides and where it was set.
	Wanted string `json:"wanted,omitempty"`
	Source string `json:"source,omitempty"`
	// Arrives says when the object gets what is wanted, or loses what is not, "" where nothing
	// changes.
	Arrives string `json:"arrives,omitempty"`
}

// Finding is something to know of a workload.
type Finding struct {
	Code Code `json:"code"`
	// Object is the node, zone or budgets that Code is about, or "".
	Object string `json:"object,omitempty"`
}

// Domain is a node or zone and what its loss would take down.
type Domain struct {
	Name      string   `json:"name"`
	Workloads []string `json:"workloads"` // as NAMESPACE/KIND/NAME
}

// Drain is one reason why pods can't be evicted now.
type Drain struct {
	Namespace string   `json:"namespace"`
	Code      Code     `json:"code"`
	Budgets   []string `json:"budgets"`
	Workloads []string `json:"workloads"` // as KIND/NAME
	Nodes     []string `json:"nodes"`
	Pods      []string `json:"pods"`
}

// ID names the workload: NAMESPACE/KIND/NAME, or KIND/NAME where a manifest names no
// namespace.
func (w *Workload) ID() string {
	if w.Namespace == "" {
		return w.Kind + "/" + w.Name
	}
	return w.Namespace + "/" + w.Kind + "/" + w.Name
}

// place tells workloads apart.
type place struct {
	namespace string
	owner     Owner
}

// run is an audit under way.
type run struct {
	State
	rules   Rules
	objects map[place]*Object
	pods    map[place][]*Pod
	found   map[place]*Workload
	routers *routers
	served  map[string]map[*Router]bool // by node, the Services with pods there that a drain evicts
	report  *Report
}

// Run audits a state.
func Run(s State, rules Rules) *Report {
	r := &run{State: s, rules: rules, objects: map[place]*Object{}, pods: map[place][]*Pod{}, found: map[place]*Workload{},
		routers: sortRouters(s.Routers), served: map[string]map[*Router]bool{},
		report: &Report{Version: 1, Source: s.Source,
			PodNames: map[string][]string{}, Workloads: []*Workload{}, Nodes: []Domain{}, Zones: []Domain{}, Drains: []Drain{},
			Warnings: append([]string{}, s.Warnings...)}}
	replicaSets := map[place]Owner{}
	for i := range s.Objects {
		o := &s.Objects[i]
		if c := o.controller(); c.Kind != "" && !s.Offline {
			replicaSets[place{o.Namespace, o.owner()}] = c
			continue
		}
		r.objects[place{o.Namespace, o.owner()}] = o
	}
	for i := range s.Pods {
		p := &s.Pods[i]
		owner := p.Owner
		for range 3 { // ReplicaSet, Deployment, and what owns that
			above, ok := replicaSets[place{p.Namespace, owner}]
			if !ok {
				break
			}
			owner = above
		}
		switch {
		case owner.Kind == "Node", owner.Kind == "Job", p.Phase == "Succeeded", p.Phase == "Failed":
			continue // static pods are their node's, and the others serve nobody
		case owner.Kind == "":
			owner = Owner{"v1", "Pod", p.Name}
		}
		at := place{p.Namespace, owner}
		r.pods[at] = append(r.pods[at], p)
	}
	for i := range s.Objects {
		o := &s.Objects[i]
		if s.Offline || o.controller().Kind == "" {
			r.workload(o, place{o.Namespace, o.owner()})
		}
	}
	for at := range r.pods {
		if r.objects[at] == nil {
			r.workload(nil, at)
		}
	}
	sortWorkloads := func(a, b *Workload) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	}
	if !s.Offline { // manifests stay in the order of the input
		slices.SortStableFunc(r.report.Workloads, sortWorkloads)
	}
	r.budgets()
	r.domains()
	r.drains()
	r.pinned()
	r.crowded()
	if rules.Selector != nil {
		r.leave(rules.Selector)
	}
	r.findings()
	return r.report
}

// leave keeps the workloads that a selector matches, by their own labels or, where only their pods are known, by those.
func (r *run) leave(selector labels.Selector) {
	ids := map[string]bool{}
	for at, w := range r.found {
		if w.object == nil &&
			slices.ContainsFunc(r.pods[at], func(p *Pod) bool { return selector.Matches(labels.Set(p.Labels)) }) ||
			w.object != nil && selector.Matches(labels.Set(w.object.Metadata.Labels)) {
			ids[w.ID()] = true
		}
	}
	r.report.Workloads = slices.DeleteFunc(r.report.Workloads, func(w *Workload) bool { return !ids[w.ID()] })
	for _, domains := range []*[]Domain{&r.report.Nodes, &r.report.Zones} {
		*domains = slices.DeleteFunc(*domains, func(d Domain) bool {
			return !slices.ContainsFunc(d.Workloads, func(id string) bool { return ids[id] })
		})
		for i := range *domains {
			d := &(*domains)[i]
			d.Workloads = slices.DeleteFunc(d.Workloads, func(id string) bool { return !ids[id] })
		}
	}
	r.report.Drains = slices.DeleteFunc(r.report.Drains, func(d Drain) bool {
		return !slices.ContainsFunc(d.Workloads, func(name string) bool { return ids[d.Namespace+"/"+name] })
	})
}

// workload adds one workload: an object, or the controller of pods of which nothing
// else is known, or a pod without a controller.
func (r *run) workload(o *Object, at place) {
	n := r.Namespaces[at.namespace]
	w := &Workload{Namespace: at.namespace, Kind: at.owner.Kind, Name: at.owner.Name, OptedIn: n.OptedIn,
		Replicas: -1, Floor: -1, Defaults: []Default{}, Findings: []Finding{}, object: o, missing: map[string]bool{}}
	pods := r.pods[at]
	w.Pods = len(pods)
	for _, p := range pods {
		r.report.PodNames[w.ID()] = append(r.report.PodNames[w.ID()], p.Name)
		if p.serves() {
			w.Ready++
		}
	}
	if o != nil {
		w.Source = o.Source
		switch o.Kind {
		case "Deployment", "StatefulSet", "ReplicaSet", "ReplicationController":
			w.Replicas = 1
			if o.Spec.Replicas != nil {
				w.Replicas = int(*o.Spec.Replicas)
			}
			w.Floor = r.floor(o, w.Replicas)
		}
	}
	result, raw, ok := r.review(o, pods, w)
	if !ok {
		return
	}
	kind := result.Kind
	if w.optedOut {
		result.Decisions = r.optedOutDecisions(raw, r.request(w))
	}
	for _, d := range result.Decisions {
		entry := Default{Default: d.Default, Container: d.Container, State: StateSkipped, Code: string(d.Skip),
			Detail: d.Detail}
		switch {
		case w.optedOut:
			entry.Code = string(patches.SkipOptedOut)
			if d.Standing != "" || d.Skip == patches.SkipNone && !d.Changes {
				entry.State, entry.Detail = StatePresent, "added by evenkeel before the workload opted out"
			}
		case d.Skip == patches.SkipNone && !d.Changes:
			entry.State, entry.Detail = StatePresent, "added by evenkeel"
		case d.Skip == patches.SkipNone:
			entry.State = StateMissing
			w.missing[d.Default] = true
			if d.Standing != "" {
				entry.Detail += "; added by evenkeel and standing until then: " + d.Standing
			}
		case d.Changes:
			entry.State, entry.Detail = StatePresent,
				"added by evenkeel, taken back with the next change of the template: "+d.Standing
		case d.Skip == patches.SkipUserSet:
			entry.State = StatePresent
		}
		w.Defaults = append(w.Defaults, entry)
	}
	r.compare(w, raw, kind, result.Decisions)
	w.Paths = r.paths(o, pods, at)
	for _, p := range result.Problems {
		w.Problems = append(w.Problems, p.String())
	}
	if result.Err != nil {
		w.Problems = append(w.Problems, result.Err.Error())
	}
	r.report.Workloads = append(r.report.Workloads, w)
	r.found[at] = w
}

// floor returns how few replicas an autoscaler may leave of a workload. One that is
// scaled to zero by hand stays there.
func (r *run) floor(o *Object, replicas int) int {
	floor, found := replicas, false
	for i := range r.Autoscalers {
		a := &r.Autoscalers[i]
		t := pdb.FromAutoscaler(a)
		if a.Namespace != o.Namespace || t.Kind != o.Kind || t.Name != o.Metadata.Name || replicas == 0 {
			continue
		}
		if !found || int(t.MinReplicas) < floor {
			floor, found = int(t.MinReplicas), true
		}
	}
	return floor
}

// paths returns the ways of the traffic to the pods of a workload: by the labels of its template, or
// of the first of its pods where nothing else is known of it.
func (r *run) paths(o *Object, pods []*Pod, at place) []Path {
	var pod Pod
	switch { // what can't be read, the review says
	case o != nil && o.Kind == "Pod":
		pod, _ = NewPod(o.JSON)
	case o != nil:
		pod, _ = NewPod(o.podOf())
	}
	if len(pods) > 0 { // admission adds gates to pods
		pod.Gates = append(pod.Gates, pods[0].Gates...)
		if o == nil {
			pod.Labels = pods[0].Labels
		}
	}
	services := r.routers.selecting(at.namespace, pod.Labels)
	for _, p := range pods {
		if at.owner.Kind == "DaemonSet" || p.Node == "" {
			continue
		}
		if r.served[p.Node] == nil {
			r.served[p.Node] = map[*Router]bool{}
		}
		for _, s := range services {
			r.served[p.Node][s] = true
		}
	}
	return r.routers.paths(services, pod.Gates)
}

// request returns how a workload is reviewed, but for the object.
func (r *run) request(w *Workload) patches.Request {
	request := patches.Request{Operation: patches.Create, Namespace: r.Namespaces[w.Namespace].Annotations,
		Services: r.Services[w.Namespace], Cluster: r.Cluster, Offline: r.Offline,
		Noted: func(kind, name string) (patches.Note, bool) {
			n, ok := r.Notes[withdraw.Key{Namespace: w.Namespace, Kind: kind, Name: name}]
			return patches.Note{Code: n.Code, Containers: n.Containers}, ok
		}}
	if !r.Offline {
		request.OptedOut = func(kind, name string) bool {
			o := r.objects[place{w.Namespace, Owner{"apps/v1", kind, name}}]
			return o != nil && o.optedOut()
		}
	}
	return request
}

// review asks the Injector what the workload lacks, and counts its pods that do. It returns the
// object that was reviewed, and reports false for what is no workload.
//
//	manifest                         the object, as inject has it
//	Deployment, StatefulSet          the object, as the webhook has it on creation
//	any other kind                   its pods: the first that lacks something, else the first
//	any other kind without pods      the pod that its template makes
func (r *run) review(o *Object, pods []*Pod, w *Workload) (patches.Result, []byte, bool) {
	request := r.request(w)
	if r.Offline {
		request.Object = o.JSON
		result := r.rules.Injector.Review(request)
		if result.Decisions[0].Skip == patches.SkipKind {
			return result, nil, false
		}
		if r.Namespaces[w.Namespace].Disabled && result.Err == nil {
			for i, name := range patches.Defaults() {
				result.Decisions = append(result.Decisions[:i:i], patches.Decision{Default: name, Skip: patches.SkipOptedOut})
			}
			result.Problems = nil
		}
		return result, o.JSON, true
	}
	var first, lacking *patches.Result
	var firstPod, lackingPod *Pod
	for _, p := range pods {
		request.Object = p.JSON
		result := r.rules.Injector.Review(request)
		if first == nil {
			first, firstPod = &result, p
		}
		if len(result.Operations) > 0 && !policy.Done(p.Labels, p.Recorded) {
			w.BarePods++
			if lacking == nil {
				lacking, lackingPod = &result, p
			}
		}
	}
	switch {
	case o != nil && o.reviewed():
		request.Object = o.JSON
		w.optedOut = o.optedOut()
		return r.rules.Injector.Review(request), o.JSON, true
	case lacking != nil:
		return *lacking, lackingPod.JSON, true
	case first != nil:
		return *first, firstPod.JSON, true
	}
	request.Object = o.podOf()
	return r.rules.Injector.Review(request), request.Object, true
}

// budgets adds what pdb decides about the budget of each Deployment and StatefulSet.
func (r *run) budgets() {
	guards := newGuards(r.Budgets)
	namespaces := map[string]*pdb.Namespace{}
	order := map[string][]*Workload{} // as in pdb.Namespace.Workloads
	for _, w := range r.report.Workloads {
		if w.object == nil {
			continue
		}
		b, ok := w.object.budgeted()
		if !ok {
			continue
		}
		n := namespaces[w.Namespace]
		if n == nil {
			n = &pdb.Namespace{Name: w.Namespace, OptedIn: !r.Namespaces[w.Namespace].Disabled}
			if v, ok := r.Namespaces[w.Namespace].Annotations[policy.Prefix+policy.SettingDisruptionBudget]; ok {
				n.Setting = &v
			}
			namespaces[w.Namespace] = n
		}
		n.Workloads = append(n.Workloads, b)
		order[w.Namespace] = append(order[w.Namespace], w)
	}
	for i := range r.Autoscalers {
		if n := namespaces[r.Autoscalers[i].Namespace]; n != nil {
			n.Autoscalers = append(n.Autoscalers, pdb.FromAutoscaler(&r.Autoscalers[i]))
		}
	}
	ours := map[string]bool{}
	for i := range r.Budgets {
		if n := namespaces[r.Budgets[i].Namespace]; n != nil {
			b := pdb.FromBudget(&r.Budgets[i])
			b.Ours = b.Ours && !r.Offline // what stands in a manifest is its author's
			n.Budgets = append(n.Budgets, b)
			if b.Ours {
				ours[n.Name+"/"+b.Name] = true
			}
		}
	}
	for i := range r.Pods {
		p := &r.Pods[i]
		if n := namespaces[p.Namespace]; n != nil && p.Owner.Kind != "" {
			unscalable := p.Owner.Kind == "Job" || p.Owner.Kind == "DaemonSet" || p.Owner.Kind == "Node"
			n.Pods = append(n.Pods, pdb.Pods{Labels: p.Labels, Unscalable: unscalable})
		}
	}
	for _, n := range namespaces {
		of := map[*pdb.Workload]*Workload{}
		for i := range n.Workloads {
			of[&n.Workloads[i]] = order[n.Name][i]
		}
		for _, d := range pdb.Desired(*n, r.rules.Budgets) {
			w := of[d.Workload]
			entry := Default{Default: policy.SettingDisruptionBudget, State: StateSkipped, Code: string(d.Code), Detail: d.Other}
			switch {
			case d.Code == pdb.SkipForeign:
				entry.State = StatePresent
			case d.Budget != nil:
				entry.State, entry.Detail = StateMissing, d.Budget.String()
				if d.Code == pdb.Applied {
					entry.Code = ""
				}
				entry.Wanted = d.Budget.String()
				if ours[n.Name+"/"+d.Budget.Name] {
					entry.State, entry.Standing, entry.By = StatePresent, d.Budget.String(), ByEvenkeel
				} else {
					w.missing[policy.SettingDisruptionBudget] = true
				}
			}
			w.Defaults = append(w.Defaults, entry)
			if r.Offline { // with pods, their evictions say it
				r.offlineBudget(w, guards[n.Name].of(d.Workload.TemplateLabels))
			}
		}
	}
}

// offlineBudget finds what is wrong with the budgets of a workload by what they say
// alone.
func (r *run) offlineBudget(w *Workload, budgets []*policyv1.PodDisruptionBudget) {
	switch {
	case len(budgets) > 1:
		w.find(BudgetsOverlap, budgetNames(budgets))
	case len(budgets) == 1 && w.Replicas > 0 && allowance(&budgets[0].Spec, w.Replicas) == 0:
		w.find(DrainBlocked, budgets[0].Name)
	}
}

func budgetNames(budgets []*policyv1.PodDisruptionBudget) string {
	names := make([]string, len(budgets))
	for i, b := range budgets {
		names[i] = b.Name
	}
	return strings.Join(names, ", ")
}

// find adds a finding once.
func (w *Workload) find(code Code, object string) {
	f := Finding{code, object}
	if !slices.Contains(w.Findings, f) {
		w.Findings = append(w.Findings, f)
	}
}

// domains finds the nodes and zones whose loss would take a workload down now: all
// of its ready pods are there. Pods of DaemonSets serve their own node, and count
// for nothing.
func (r *run) domains() {
	nodes, zones := map[string][]string{}, map[string][]string{}
	known := map[string]bool{}
	for _, n := range r.Nodes {
		if n.Zone != "" {
			known[n.Zone] = true
		}
	}
	r.report.Summary.Nodes, r.report.Summary.Zones = len(r.Nodes), len(known)
	if len(known) < 2 && len(r.Nodes) > 1 && !r.Offline {
		text := "the nodes carry no label topology.kubernetes.io/zone, so nothing can be said of the loss of a zone"
		if len(known) == 1 {
			text = "all nodes are in one zone, whose loss takes everything down"
		}
		r.report.Warnings = append(r.report.Warnings, text)
	}
	for at, pods := range r.pods {
		w := r.found[at]
		if w == nil || w.Kind == "DaemonSet" {
			continue
		}
		on, in, spread := map[string]bool{}, map[string]bool{}, false
		for _, p := range pods {
			if p.serves() {
				on[p.Node] = true
				zone := r.Nodes[p.Node].Zone
				in[zone] = true
				spread = spread || zone == ""
			}
		}
		if len(on) == 1 {
			node := slices.Collect(maps.Keys(on))[0]
			nodes[node] = append(nodes[node], w.ID())
			w.find(OneNode, node)
		}
		if len(in) == 1 && !spread && len(known) > 1 {
			zone := slices.Collect(maps.Keys(in))[0]
			zones[zone] = append(zones[zone], w.ID())
			w.find(OneZone, zone)
		}
	}
	r.report.Nodes, r.report.Zones = sorted(nodes), sorted(zones)
}

func sorted(by map[string][]string) []Domain {
	domains := make([]Domain, 0, len(by))
	for name, workloads := range by {
		slices.Sort(workloads)
		domains = append(domains, Domain{name, workloads})
	}
	slices.SortFunc(domains, func(a, b Domain) int {
		return cmp.Or(-cmp.Compare(len(a.Workloads), len(b.Workloads)), cmp.Compare(a.Name, b.Name))
	})
	return domains
}

// drains finds the pods that can't be evicted now.
func (r *run) drains() {
	guards := newGuards(r.Budgets)
	wanted := map[*policyv1.PodDisruptionBudget]int{} // pods, by all workloads under it
	type guarded struct {
		pod     *Pod
		w       *Workload
		budgets []*policyv1.PodDisruptionBudget
	}
	var all []guarded
	for at, pods := range r.pods {
		w := r.found[at]
		counted := map[*policyv1.PodDisruptionBudget]bool{}
		for _, p := range pods {
			budgets := guards[p.Namespace].of(p.Labels)
			all = append(all, guarded{p, w, budgets})
			for _, b := range budgets {
				if !counted[b] {
					counted[b] = true
					wanted[b] += max(w.Replicas, 0)
				}
			}
		}
	}
	found := map[string]*Drain{}
	for _, g := range all {
		n := 0
		if len(g.budgets) > 0 {
			n = wanted[g.budgets[0]]
		}
		code := refusal(g.pod, g.budgets, n)
		if code == "" {
			continue
		}
		names := budgetNames(g.budgets)
		g.w.find(code, names)
		key := g.pod.Namespace + "/" + string(code) + "/" + names
		d := found[key]
		if d == nil {
			d = &Drain{Namespace: g.pod.Namespace, Code: code, Budgets: strings.Split(names, ", ")}
			found[key] = d
		}
		d.Pods = append(d.Pods, g.pod.Name)
		d.Workloads = append(d.Workloads, g.w.Kind+"/"+g.w.Name)
		if g.pod.Node != "" {
			d.Nodes = append(d.Nodes, g.pod.Node)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(found)) {
		d := found[key]
		for _, list := range []*[]string{&d.Pods, &d.Workloads, &d.Nodes} {
			slices.Sort(*list)
			*list = slices.Compact(*list)
		}
		r.report.Drains = append(r.report.Drains, *d)
	}
}

// skips reports whether a default is skipped for a reason.
func (w *Workload) skips(why patches.Skip) bool {
	return slices.ContainsFunc(w.Defaults, func(d Default) bool { return d.Code == string(why) })
}

// findings adds what follows from one workload alone, and counts all.
func (r *run) findings() {
	s := &r.report.Summary
	s.Workloads, s.Findings = len(r.report.Workloads), map[Code]int{}
	for _, e := range explanations {
		s.Findings[e.Code] = 0
	}
	for _, w := range r.report.Workloads {
		switch {
		case w.Kind == "Pod" && len(w.Defaults) > 0 && w.Defaults[0].Code == string(patches.SkipJob):
		case w.Kind == "Pod" && w.object != nil && w.object.controller().Kind != "":
		case w.Kind == "Pod":
			w.find(BarePod, "")
		case w.Floor == 1, w.Floor < 0 && w.Replicas < 0 && w.Pods == 1 && w.Kind != "DaemonSet":
			w.find(SingleReplica, "")
		}
		if w.Replicas > 0 && w.Ready == 0 && !r.Offline {
			w.find(NoneReady, "")
		}
		injectable := false
		for _, name := range append(allDefaults(), policy.SettingDisruptionBudget) {
			if w.missing[name] {
				w.find(missing(name), "")
				injectable = injectable || name != policy.SettingDisruptionBudget
			}
		}
		if seconds, ok := w.sleeps(); ok && len(w.Paths) > 0 && seconds < w.Paths[0].Seconds {
			w.find(SleepTooShort, fmt.Sprintf("%d s of %d", seconds, w.Paths[0].Seconds))
		}
		if w.skips(patches.SkipProbeFailed) {
			w.find(ProbeNeverSucceeds, "")
		}
		if w.skips(patches.SkipResetAgain) {
			w.find(ResetAgain, "")
		}
		if w.OptedIn && !r.Offline && (injectable || w.BarePods > 0) {
			w.find(MissedInjection, "")
		}
		if len(w.missing) == 0 && w.BarePods == 0 {
			s.Complete++
		}
		slices.SortStableFunc(w.Findings, func(a, b Finding) int {
			return cmp.Or(cmp.Compare(position(a.Code), position(b.Code)), cmp.Compare(a.Object, b.Object))
		})
		seen := map[Code]bool{}
		for _, f := range w.Findings {
			if !seen[f.Code] {
				seen[f.Code] = true
				s.Findings[f.Code]++
			}
		}
	}
}

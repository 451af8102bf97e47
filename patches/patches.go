// Package patches finds what is missing from a workload and returns it as JSON
// Patch operations (RFC 6902).
//
// One pure generator per default stands in a file of its own: affinity.go,
// sleep.go, probe.go, nodeloss.go, and record.go for the note of what was added. The funnel,
// Injector.Review, reads the raw object, resolves the policy, runs the generators
// and applies the result with the API server's own applier; when anything about
// it is in doubt, the answer is the empty patch.
//
// What a review finds in the object is split into what the record says that we
// added (record.go, ours.go) and what people wrote. The generators look at the
// latter alone; operations replace and remove the former alone, but for a written
// terminationGracePeriodSeconds where a setting asks to raise it. Nothing is ever
// decoded into API types, encoded and compared: that deletes every field that the
// types don't know.
package patches

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/evenkeel/evenkeel/internal/scan"
	"github.com/evenkeel/evenkeel/policy"
)

// Config is the operator's configuration of an Injector.
type Config struct {
	// Base is the policy that annotations override: built-in defaults and flags.
	Base policy.Policy
	// Bounds are upper bounds on what annotations may ask for.
	Bounds policy.Bounds
	// MaxGracePeriod is what a terminationGracePeriodSeconds is raised to at most. In
	// whole seconds, at least 1 s.
	MaxGracePeriod time.Duration
	// AllowExecSleep allows "exec: sleep N" hooks where the cluster does not know
	// preStop.sleep. A container image without a sleep command then gets SIGTERM at
	// once, as without the hook, and an Event on every termination.
	AllowExecSleep bool
}

// DefaultConfig returns the built-in configuration.
func DefaultConfig() Config {
	return Config{Base: policy.Default(), Bounds: policy.DefaultBounds(), MaxGracePeriod: 10 * time.Minute}
}

// Operation is the operation that an object is reviewed for.
type Operation string

// The operations that change anything; all others are passed over.
const (
	Create Operation = "CREATE"
	Update Operation = "UPDATE"
)

// Change is one operation of a JSON Patch (RFC 6902).
type Change struct {
	// Operation is "add", or for what evenkeel added earlier "replace" or "remove".
	// terminationGracePeriodSeconds is replaced where the API has put its default.
	Operation string `json:"op"`
	// Path is a JSON pointer (RFC 6901).
	Path string `json:"path"`
	// Value is JSON, nil where it is removed.
	Value json.RawMessage `json:"value,omitempty"`
}

// Request is one object to review.
type Request struct {
	Operation Operation
	// Object is the raw JSON object, Old the raw object before an update. They are
	// not changed and not kept.
	Object, Old []byte
	// ObjectRead and OldRead, where they are set, take the place of Object and Old.
	ObjectRead, OldRead *Reading
	// Namespace holds the annotations of the Namespace.
	Namespace map[string]string
	// Ran reports whether a revision of the workload with this UID has a pod template with this
	// fingerprint (FingerprintTemplate): then the update goes back to what ran. Nil means that
	// nothing is known.
	Ran func(uid string, template uint64) bool
	// Whole is set where the client sent the whole object (PUT) rather than a patch.
	Whole bool
	// Late reports whether the time for the review is over: then nothing is added. Nil means never.
	Late func() bool
	// OptedOut reports whether a workload of the object's Namespace carries the label
	// that opts it out, by kind and name. Its pods need not carry it. Nil means that
	// none does.
	OptedOut func(kind, name string) bool
	// Noted returns what was noticed of a workload of the object's Namespace, by kind and name; nil
	// means nothing.
	Noted func(kind, name string) (Note, bool)
	// Services are those of the object's Namespace; nil means that none is known.
	Services *Services
	Cluster  Cluster
	// Offline is set for a manifest: every kind with a pod template is looked at,
	// rather than those that the webhook is called for.
	Offline bool
}

// Decision is what became of one default of a workload, or of one container of it.
type Decision struct {
	// Default is one of Defaults or of Optional.
	Default string
	// Container is the name of the container, or "" for the whole pod.
	Container string
	// Skip is SkipNone where the default is wanted.
	Skip Skip
	// Detail says what is wanted, or "".
	Detail string
	// Standing says what of ours stands in the object, or "".
	Standing string
	// Changes is set where the patch adds, replaces or removes something of ours.
	Changes bool
}

// Result is the outcome of a review.
type Result struct {
	// Kind and Name are those of the object as it was read, "" where that failed.
	Kind, Name string
	// Operations are to be applied in order; none means that nothing is added.
	Operations []Change
	// Patch is Operations as a JSON Patch document, exactly "[]" for none.
	Patch []byte
	// Decisions are in the order of Defaults, then of Optional, and within one of the containers.
	Decisions []Decision
	Problems  []policy.Problem
	// Err says what went wrong where a decision is SkipUnreadable or
	// SkipInternalError.
	Err error
}

// Defaults returns the names of the defaults that every Result decides over, in the order of
// Decisions.
func Defaults() []string { return slices.Clone(defaults) }

// Optional returns the names of the defaults that a Result decides over only where a setting asks
// for them, or where they stand.
func Optional() []string { return slices.Clone(optional) }

// Injector reviews objects. It is safe for concurrent use.
type Injector struct {
	config     Config
	generators []generator
	proof      *proof
	// over and slept are what the report says of the base policy's anti-affinity and sleep.
	over, slept string
}

// generator adds one default: it reads in, and appends operations, decisions and
// problems to out. It is pure.
type generator func(in *input, out *output)

// New returns an Injector, or an error that says which part of the configuration
// is not allowed.
func New(config Config) (*Injector, error) {
	switch {
	case config.MaxGracePeriod < time.Second || config.MaxGracePeriod%time.Second != 0:
		return nil, fmt.Errorf("maximum grace period is %v; allowed: whole seconds, at least 1s", config.MaxGracePeriod)
	case config.Bounds.MaxPreStopSleep < time.Second || config.Bounds.MaxPreStopSleep%time.Second != 0:
		return nil, fmt.Errorf("maximum preStop sleep is %v; allowed: whole seconds, at least 1s",
			config.Bounds.MaxPreStopSleep)
	case config.Base.AntiAffinity == "":
		return nil, errors.New("base policy is empty; policy.Default returns the built-in one")
	}
	return &Injector{config: config,
		over: over(string(config.Base.AntiAffinity), config.Base.TopologyKeys), proof: &proof{},
		slept:      slept(int64(config.Base.PreStopSleep / time.Second)),
		generators: []generator{addSpread, addPreStopSleep, addReadinessProbe, addNodeLoss, addFault, addRecord}}, nil
}

// input is what a generator reads.
type input struct {
	object *object
	// ours is what stands of an earlier round or of an earlier review.
	ours    *ours
	policy  policy.Policy
	config  *Config
	cluster Cluster
	// over and slept are those of the Injector.
	over, slept string
	// offline is set for a manifest.
	offline bool
	// final is set where the update takes away part of what is ours, and the settings agree.
	final bool
	// sources are the annotations that policy came from.
	sources      [3]policy.Annotations
	evidence     evidence
	services     *Services
	selectorRoom [512]byte
	handlerRoom  [len(`{"port":65535}`)]byte
}

// review is everything that one review needs, in one allocation.
type review struct {
	input  input
	object object
	output output
}

func (in *input) pod() *podTemplate { return &in.object.pod }

// daemonSet reports whether the pods belong to a DaemonSet.
func (in *input) daemonSet() bool {
	return in.object.kind == "DaemonSet" || in.object.kind == "Pod" && in.object.meta.controller == "DaemonSet"
}

// selects reports whether probe and hook may go to container c.
func (in *input) selects(c *container) bool {
	if len(in.policy.Containers) == 0 {
		return true
	}
	for _, name := range in.policy.Containers {
		if name == c.name {
			return true
		}
	}
	return false
}

// output is what generators append to.
type output struct {
	// patch is the JSON Patch document as far as it is written, without its end.
	patch     []byte
	spans     []span
	decisions []Decision
	problems  []policy.Problem
	sources   []policy.Annotations
	// record is what stands after the patch, without what empty adds to it.
	record, empty, null []byte
	// failed is set by a generator for which nothing may be added at all.
	failed Skip

	// Room for what most workloads get.
	patchRoom    [2048]byte
	recordRoom   [256]byte
	spanRoom     [8]span
	changeRoom   [8]Change
	decisionRoom [6]Decision
}

// span says where in the patch an operation has its path and its value.
type span struct {
	operation                                       string
	start, pathStart, pathEnd, valueStart, valueEnd int
}

// slot is a place of the pod spec that a default goes to: the member leaf of the member parent of
// the object at base, or of an element of a list there.
type slot struct {
	// container, name and parentName are what the record calls the place and its parent.
	container, name, parentName     string
	base, list, index, parent, leaf string
	// parentThere is set where there is such a parent already, others where it holds
	// something else.
	parentThere, others bool
	// empty is set where the parent, or a place that is a list, stood there empty before.
	empty bool
	// was says where null stood before.
	was nulls
	// standing is the raw value of ours that stands there, or nil.
	standing []byte
	// wrapped and valueStart are for fill.
	wrapped    bool
	valueStart int
	// same is set by fill where the same value stands already.
	same bool
}

// nulls says of a place and of its parent whether null stands there, as it can in a manifest.
type nulls struct{ leaf, parent bool }

// remember adds what the record says of what stood in the slot before.
func (at *slot) remember(r record) {
	at.was.leaf = at.was.leaf || r.wasNull(at.container, at.name)
	at.was.parent = at.was.parent || r.wasNull(at.container, at.parentName)
	at.empty = at.standing == nil && at.parentThere && !at.others || r.wasEmpty(at.container, at.parentName)
}

// begin begins to write what is wanted in a slot; what is written until fill is the value.
func (o *output) begin(at *slot) {
	switch {
	case at.standing != nil:
		o.open("replace", at.base, at.list, at.index, at.parent, at.leaf)
	case at.parent == "" || at.parentThere:
		o.open("add", at.base, at.list, at.index, at.parent, at.leaf)
	default:
		o.open("add", at.base, at.list, at.index, at.parent)
		o.write(`{"`, at.leaf[1:], `":`)
		at.wrapped = true
	}
	at.valueStart = len(o.patch)
}

// fill ends what begin began, and notes what stood there before. Where the same value stands
// already, nothing is done.
func (o *output) fill(at *slot) {
	if at.empty {
		o.empty = appendPlace(o.empty, at.container, cmp.Or(at.parentName, at.name))
	}
	if at.was.leaf {
		o.null = appendPlace(o.null, at.container, at.name)
	}
	if at.was.parent {
		o.null = appendPlace(o.null, at.container, at.parentName)
	}
	value := o.patch[at.valueStart:]
	if at.standing != nil && same(at.standing, value) {
		last := len(o.spans) - 1
		o.patch, o.spans, at.same = o.patch[:o.spans[last].start], o.spans[:last], true
		return
	}
	if at.wrapped {
		o.write(`}`)
	}
	o.close()
}

// takeBack removes what stands of ours in a slot, with its parent where nothing else is left in that
// and it wasn't there before.
func (o *output) takeBack(at *slot) {
	switch {
	case at.standing == nil:
	case at.was.leaf:
		o.nullify(at.base, at.list, at.index, at.parent, at.leaf)
	case at.parent == "" && at.empty:
		o.open("replace", at.base, at.list, at.index, at.leaf)
		o.write("[]")
		o.close()
	case at.parent == "" || at.others || at.empty:
		o.remove(at.base, at.list, at.index, at.parent, at.leaf)
	case at.was.parent:
		o.nullify(at.base, at.list, at.index, at.parent)
	default:
		o.remove(at.base, at.list, at.index, at.parent)
	}
}

// add appends an operation whose value is any that encoding/json takes.
func (o *output) add(path string, value any) {
	o.open("add", path)
	o.raw(marshal(value))
	o.close()
}

func (o *output) replace(path string, value any) {
	o.open("replace", path)
	o.raw(marshal(value))
	o.close()
}

// open begins an operation; its path, of plain characters only, is in parts. What is
// written until close is its value.
func (o *output) open(operation string, path ...string) {
	o.operation(operation, path...)
	o.write(`","value":`)
	o.spans[len(o.spans)-1].valueStart = len(o.patch)
}

// remove appends an operation that has no value.
func (o *output) remove(path ...string) {
	o.operation("remove", path...)
	o.write(`"}`)
}

// nullify appends an operation that writes null again.
func (o *output) nullify(path ...string) {
	o.open("replace", path...)
	o.write("null")
	o.close()
}

// operation writes an operation up to its path.
func (o *output) operation(operation string, path ...string) {
	if o.patch == nil {
		o.patch = o.patchRoom[:0]
		o.spans = o.spanRoom[:0]
	}
	at := span{operation: operation, start: len(o.patch)}
	o.patch = append(o.patch, "[,"[min(len(o.spans), 1)])
	o.write(`{"op":"`, operation, `","path":"`)
	at.pathStart = len(o.patch)
	o.write(path...)
	at.pathEnd = len(o.patch)
	o.spans = append(o.spans, at)
}

// write appends JSON.
func (o *output) write(parts ...string) {
	for _, part := range parts {
		if o.fits(len(part)) {
			o.patch = append(o.patch, part...)
		}
	}
}

// raw appends a JSON value.
func (o *output) raw(value []byte) {
	if o.fits(len(value)) {
		o.patch = append(o.patch, value...)
	}
}

// text appends a string as JSON.
func (o *output) text(s []byte) {
	if o.fits(len(s)) {
		o.patch = scan.AppendString(o.patch, s)
	}
}

// maxPatch bounds a patch, in bytes: a Pod of 100 containers takes half of it.
const maxPatch = 64 << 10

// fits reports whether n bytes more fit into the patch. Where they don't, nothing is added at all.
func (o *output) fits(n int) bool {
	if len(o.patch)+n > maxPatch {
		o.failed = SkipPatchTooLarge
	}
	return o.failed == SkipNone
}

// integer appends a number.
func (o *output) integer(n int64) { o.patch = strconv.AppendInt(o.patch, n, 10) }

// close ends an operation.
func (o *output) close() {
	o.spans[len(o.spans)-1].valueEnd = len(o.patch)
	o.patch = append(o.patch, '}')
}

// reset forgets everything that was appended.
func (o *output) reset() {
	o.patch, o.spans, o.record, o.empty, o.null, o.failed = nil, nil, nil, nil, nil, SkipNone
	o.decisions, o.problems = o.decisionRoom[:0], nil
}

// changes ends the patch and returns it with its operations.
func (o *output) changes() ([]byte, []Change) {
	o.patch = append(o.patch, ']')
	var room [512]byte
	paths := room[:0]
	for _, at := range o.spans {
		paths = append(paths, o.patch[at.pathStart:at.pathEnd]...)
	}
	rest := string(paths)
	changes := o.changeRoom[:0]
	for _, at := range o.spans {
		n := at.pathEnd - at.pathStart
		change := Change{Operation: at.operation, Path: rest[:n]}
		if at.valueEnd > 0 {
			change.Value = json.RawMessage(o.patch[at.valueStart:at.valueEnd:at.valueEnd])
		}
		changes = append(changes, change)
		rest = rest[n:]
	}
	return o.patch, changes
}

// skip notes why a default is not wanted, for a slot of which standing is taken back, nil for none.
func (o *output) skip(name, container string, skip Skip, standing []byte) {
	o.decisions = append(o.decisions,
		Decision{Default: name, Container: container, Skip: skip, Standing: short(standing), Changes: standing != nil})
}

// applied notes that a default is wanted, in a slot that was filled.
func (o *output) applied(name, container, detail string, at *slot) {
	o.decisions = append(o.decisions,
		Decision{Default: name, Container: container, Detail: detail, Standing: short(at.standing), Changes: !at.same})
}

// short returns a raw value for people.
func short(raw []byte) string {
	const enough = 80
	if len(raw) > enough {
		return "another value"
	}
	return string(raw)
}

// problem notes that the annotation of a setting, which stands in source, can't be used.
func (o *output) problem(source policy.Source, setting, reason, allowed string) {
	key := policy.Prefix + setting
	p := policy.Problem{Code: policy.ProblemTarget, Source: source, Key: key, Reason: reason, Allowed: allowed}
	for _, s := range o.sources {
		if s.Source == source {
			p.Value = s.Values[key]
		}
	}
	o.problems = append(o.problems, p)
}

// marshal encodes a value that can't fail to be encoded.
func marshal(value any) json.RawMessage {
	if raw, ok := value.(json.RawMessage); ok {
		return raw
	}
	raw, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Errorf("encode patch value: %w", err)) // Review turns it into SkipInternalError
	}
	return raw
}

// Review returns what is missing from an object. It never fails: what can't be
// decided or applied without doubt becomes the empty patch, with the reason in
// every Decision.
func (i *Injector) Review(req Request) (result Result) {
	defer func() {
		if failure := recover(); failure != nil {
			result = nothing(Result{Kind: result.Kind, Name: result.Name}, SkipInternalError,
				fmt.Errorf("generate patch: %v", failure))
		}
	}()
	if req.Operation != Create && req.Operation != Update {
		return nothing(result, SkipOperation, nil)
	}
	reading := req.ObjectRead
	if reading == nil {
		reading = &Reading{raw: req.Object}
		reading.err = reading.review.object.parse(req.Object)
	}
	if reading.err != nil {
		return nothing(result, SkipUnreadable, fmt.Errorf("read object: object %w", reading.err))
	}
	in, o, out := &reading.review.input, &reading.review.object, &reading.review.output
	result.Kind, result.Name = o.kind, o.meta.name
	o.offline = req.Offline
	if skip := o.passOver(req); skip != SkipNone {
		return nothing(result, skip, nil)
	}
	if !o.pod.spec {
		return nothing(result, SkipUnreadable, errors.New("read object: object has no pod spec"))
	}
	switch {
	case o.tooMany():
		return nothing(result, SkipTooManyParts, nil)
	case !o.pod.named():
		return nothing(result, SkipContainerName, nil)
	case req.late():
		return nothing(result, SkipDeadline, nil)
	}
	in.object, in.ours, in.config, in.over, in.slept = o, &o.pod.ours, &i.config, i.over, i.slept
	in.cluster, in.offline = req.Cluster, req.Offline
	var old *object
	if req.Operation == Update {
		before := req.OldRead
		if before == nil {
			before = &Reading{}
			before.err = before.review.object.parse(req.Old)
		}
		if before.err != nil {
			return nothing(result, SkipUnreadable, fmt.Errorf("read old object: object %w", before.err))
		}
		if old = &before.review.object; same(old.template, o.template) {
			return nothing(result, SkipUnchangedTemplate, nil)
		}
		if old.tooMany() || !old.pod.named() { // nothing of ours stands in one that is passed over
			old = nil
		}
	}
	round, skip := o.against(old, &req)
	if skip != SkipNone {
		return nothing(result, skip, nil)
	}
	if o.note == SkipResetAgain {
		return nothing(result, SkipResetAgain, nil)
	}
	if o.owned() && round != roundKeep {
		return nothing(result, SkipOwned, nil)
	}
	in.resolve(req.Namespace, &result)
	in.services = req.Services
	in.findEvidence(req.Services)
	out.sources = in.sources[:]
	out.reset()
	switch round {
	case roundKeep:
		keep(in, old, out)
	case roundMend:
		mend(in, out)
	case roundTakenAway:
		in.final = true
		i.generate(in, out, &req)
		if restored := old.restored(o, out); len(restored) > 0 {
			in.final = false
			out.reset()
			keep(in, old, out)
			for _, name := range restored {
				out.problems = append(out.problems,
					policy.Problem{Code: policy.ProblemRestored, Source: policy.SourcePodTemplate, Key: policy.Prefix + name})
			}
		}
	default:
		i.generate(in, out, &req)
	}
	if out.failed != SkipNone {
		return nothing(result, out.failed, nil)
	}
	result.Problems = append(result.Problems, out.problems...)
	if len(out.spans) == 0 {
		result.Patch = []byte("[]")
		result.Decisions = out.decisions
		return result
	}
	patch, changes := out.changes()
	if guarded {
		if err := i.proof.applies(patch, changes, reading.raw, o); err != nil {
			return nothing(result, SkipInternalError, err)
		}
	}
	result.Operations, result.Patch, result.Decisions = changes, patch, out.decisions
	return result
}

func (i *Injector) generate(in *input, out *output, req *Request) {
	for _, generate := range i.generators {
		if generate(in, out); out.failed != SkipNone {
			return
		}
		if req.late() {
			out.failed = SkipDeadline
			return
		}
	}
}

func (r *Request) late() bool { return r.Late != nil && r.Late() }

// passOver returns why an object gets nothing at all, or SkipNone.
func (o *object) passOver(req Request) Skip {
	if !o.templated() {
		return SkipKind
	}
	switch {
	case o.meta.disabled(), o.pod.meta.disabled(), o.ownerOptedOut(req.OptedOut):
		return SkipOptedOut
	case o.meta.mirror:
		return SkipMirrorPod
	case o.kind == "Job", o.kind == "CronJob", o.meta.controller == "Job",
		o.pod.restartPolicy != "" && o.pod.restartPolicy != "Always":
		return SkipJob
	case o.pod.grouped:
		return SkipSchedulingGroup
	}
	switch {
	case req.Offline:
		return SkipNone
	case o.kind == "Pod" && req.Operation != Create:
		return SkipOperation
	case o.kind != "Pod" && o.kind != "Deployment" && o.kind != "StatefulSet":
		return SkipKind
	}
	return SkipNone
}

// owned reports whether another object has made the template, and puts it back when it changes. What
// evenkeel added to such a template before stays as long as that object sends the same again.
func (o *object) owned() bool { return o.kind != "Pod" && o.meta.controller != "" }

// ownerOptedOut reports whether the workload that a Pod belongs to is opted out: its
// controller or, for the ReplicaSet of a Deployment, which is named after it and
// the template's hash, that Deployment.
func (o *object) ownerOptedOut(optedOut func(kind, name string) bool) bool {
	if o.kind != "Pod" || o.meta.controllerName == "" || optedOut == nil {
		return false
	}
	if optedOut(o.meta.controller, o.meta.controllerName) {
		return true
	}
	hash, _ := o.meta.label(podTemplateHash)
	deployment, ok := strings.CutSuffix(o.meta.controllerName, "-"+hash)
	return ok && hash != "" && o.meta.controller == "ReplicaSet" && optedOut("Deployment", deployment)
}

// resolve finds the policy of the workload, and the problems of its annotations
// and labels.
func (in *input) resolve(namespace map[string]string, result *Result) {
	o := in.object
	pod, meta := &o.pod.meta, &o.meta
	if o.kind == "Pod" {
		pod, meta = &o.meta, &metadata{}
	}
	in.sources = [...]policy.Annotations{
		{Source: policy.SourcePodTemplate, Values: pod.annotations},
		{Source: policy.SourceWorkload, Values: meta.annotations},
		{Source: policy.SourceNamespace, Values: namespace},
	}
	unseen := in.unseen(meta)
	p, problems := policy.Resolve(in.config.Base, in.config.Bounds, in.sources[:]...)
	in.policy = p
	problems = append(problems, unseen...)
	problems = append(problems, policy.CheckLabels(policy.SourcePodTemplate, pod.ours(), policy.Disabled)...)
	problems = append(problems, policy.CheckLabels(policy.SourceWorkload, meta.ours(), policy.Disabled)...)
	for _, name := range p.Containers {
		found := false
		for i := range o.pod.containers {
			found = found || o.pod.containers[i].name == name
		}
		if !found {
			source := p.From(policy.SettingContainers)
			problems = append(problems, policy.Problem{Code: policy.ProblemTarget, Source: source,
				Key: policy.Prefix + policy.SettingContainers, Value: name, Reason: "names no container of the pod",
				Allowed: containerNames(o.pod.containers)})
		}
	}
	result.Problems = problems
}

// unseen passes over those annotations of a workload that would decide over its pods
// where admission looks at nothing but those pods, and returns them as problems.
func (in *input) unseen(meta *metadata) []policy.Problem {
	switch in.object.kind {
	case "DaemonSet", "ReplicaSet", "ReplicationController":
	default:
		return nil
	}
	var problems []policy.Problem
	seen := map[string]string{}
	for key, value := range meta.annotations {
		if slices.Contains(podSettings[:], strings.TrimPrefix(key, policy.Prefix)) {
			problems = append(problems,
				policy.Problem{Code: policy.ProblemMisplaced, Source: policy.SourceWorkload, Key: key, Value: value,
					Allowed: "on the pod template, the only thing of a " + in.object.kind + " that is looked at"})
			continue
		}
		seen[key] = value
	}
	slices.SortFunc(problems, func(a, b policy.Problem) int { return strings.Compare(a.Key, b.Key) })
	in.sources[1].Values = seen
	return problems
}

// containerNames lists the names of containers for people.
func containerNames(containers []container) string {
	var b bytes.Buffer
	for i := range containers {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(containers[i].name)
	}
	return b.String()
}

// nothing turns a result into the empty patch, every default skipped for the same
// reason.
func nothing(result Result, skip Skip, err error) Result {
	result.Operations, result.Patch, result.Err = nil, []byte("[]"), err
	result.Decisions = make([]Decision, len(defaults))
	for i, name := range defaults {
		result.Decisions[i] = Decision{Default: name, Skip: skip}
	}
	return result
}

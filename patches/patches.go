// Package patches finds what is missing from a workload and returns it as JSON
// Patch operations (RFC 6902).
//
// One pure generator per default stands in a file of its own: affinity.go,
// sleep.go, probe.go, and record.go for the note of what was added. The funnel,
// Injector.Review, reads the raw object, resolves the policy, runs the generators
// and applies the result with the API server's own applier; when anything about
// it is in doubt, the answer is the empty patch.
//
// Operations only add. The one that replaces raises
// terminationGracePeriodSeconds. Nothing is ever decoded into API types, encoded
// and compared: that deletes every field that the types don't know.
package patches

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"gomodules.xyz/jsonpatch/v2"
	applier "gopkg.in/evanphx/json-patch.v4"

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

// Request is one object to review.
type Request struct {
	Operation Operation
	// Object is the raw JSON object, Old the raw object before an update. They are
	// not changed and not kept.
	Object, Old []byte
	// Namespace holds the annotations of the Namespace.
	Namespace map[string]string
	// OptedOut reports whether a workload of the object's Namespace carries the label
	// that opts it out, by kind and name. Its pods need not carry it. Nil means that
	// none does.
	OptedOut func(kind, name string) bool
	Cluster  Cluster
	// Offline is set for a manifest: every kind with a pod template is looked at,
	// rather than those that the webhook is called for.
	Offline bool
}

// Decision is what became of one default of a workload, or of one container of it.
type Decision struct {
	// Default is one of Defaults.
	Default string
	// Container is the name of the container, or "" for the whole pod.
	Container string
	// Skip is SkipNone where the default was added.
	Skip Skip
	// Detail says what was added, or "".
	Detail string
}

// Result is the outcome of a review.
type Result struct {
	// Kind and Name are those of the object as it was read, "" where that failed.
	Kind, Name string
	// Operations are to be applied in order; none means that nothing is added.
	Operations []jsonpatch.Operation
	// Patch is Operations as a JSON Patch document, exactly "[]" for none.
	Patch []byte
	// Decisions are in the order of Defaults and, within one, of the containers.
	Decisions []Decision
	Problems  []policy.Problem
	// Err says what went wrong where a decision is SkipUnreadable or
	// SkipInternalError.
	Err error
}

// Defaults returns the names of all defaults in the order of Decisions.
func Defaults() []string { return append([]string(nil), defaults...) }

// Injector reviews objects. It is safe for concurrent use.
type Injector struct {
	config     Config
	generators []generator
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
		return nil, fmt.Errorf("maximum preStop sleep is %v; allowed: whole seconds, at least 1s", config.Bounds.MaxPreStopSleep)
	case config.Base.AntiAffinity == "":
		return nil, errors.New("base policy is empty; policy.Default returns the built-in one")
	}
	return &Injector{config: config, generators: []generator{addAntiAffinity, addPreStopSleep, addReadinessProbe, addFault, addRecord}}, nil
}

// input is what a generator reads.
type input struct {
	object  *object
	old     *object // nil on CREATE
	policy  *policy.Policy
	config  *Config
	cluster Cluster
	// sources are the annotations that policy came from.
	sources []policy.Annotations
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
	ops       []jsonpatch.Operation
	decisions []Decision
	problems  []policy.Problem
	sources   []policy.Annotations
}

func (o *output) add(path string, value any) {
	o.ops = append(o.ops, jsonpatch.Operation{Operation: "add", Path: path, Value: marshal(value)})
}

func (o *output) replace(path string, value any) {
	o.ops = append(o.ops, jsonpatch.Operation{Operation: "replace", Path: path, Value: marshal(value)})
}

func (o *output) skip(name, container string, skip Skip) {
	o.decisions = append(o.decisions, Decision{Default: name, Container: container, Skip: skip})
}

func (o *output) applied(name, container, detail string) {
	o.decisions = append(o.decisions, Decision{Default: name, Container: container, Detail: detail})
}

func (o *output) problem(source policy.Source, setting, reason, allowed string) {
	key := policy.Prefix + setting
	if source == policy.SourceFlag {
		key = "--" + setting
	}
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
	o, err := parse(req.Object)
	if err != nil {
		return nothing(result, SkipUnreadable, fmt.Errorf("read object: object %w", err))
	}
	result.Kind, result.Name = o.kind, o.meta.name
	if skip := o.passOver(req); skip != SkipNone {
		return nothing(result, skip, nil)
	}
	if !o.pod.spec {
		return nothing(result, SkipUnreadable, errors.New("read object: object has no pod spec"))
	}
	in := &input{object: o, config: &i.config, cluster: req.Cluster}
	if req.Operation == Update {
		if in.old, err = parse(req.Old); err != nil {
			return nothing(result, SkipUnreadable, fmt.Errorf("read old object: object %w", err))
		}
		if sameJSON(in.old.template, o.template) {
			return nothing(result, SkipUnchangedTemplate, nil)
		}
	}

	in.resolve(req.Namespace, &result)
	out := &output{sources: in.sources}
	if kept, ok := in.kept(); ok {
		out.ops = kept
		for _, name := range defaults {
			if recorded(&in.old.pod, name) {
				out.applied(name, "", "kept as it was")
			} else {
				out.skip(name, "", SkipUnchangedTemplate)
			}
		}
	} else {
		for _, generate := range i.generators {
			generate(in, out)
		}
	}
	result.Problems = append(result.Problems, out.problems...)
	if len(out.ops) == 0 {
		result.Patch = []byte("[]")
		result.Decisions = out.decisions
		return result
	}
	patch, err := encode(out.ops)
	if err == nil && guarded {
		err = applies(patch, req.Object)
	}
	if err != nil {
		return nothing(result, SkipInternalError, err)
	}
	result.Operations, result.Patch, result.Decisions = out.ops, patch, out.decisions
	return result
}

// kept returns the operations that keep the template of an update as it was.
func (in *input) kept() ([]jsonpatch.Operation, bool) {
	if in.old == nil {
		return nil, false
	}
	if _, ours := readRecord(in.old.pod.meta.annotations[policy.InjectedAnnotation]); !ours {
		return nil, false
	}
	return keep(in.old, in.object)
}

// passOver returns why an object gets nothing at all, or SkipNone.
func (o *object) passOver(req Request) Skip {
	if !o.templated() {
		return SkipKind
	}
	switch {
	case o.meta.labels[policy.InjectLabel] == policy.Disabled, o.pod.meta.labels[policy.InjectLabel] == policy.Disabled,
		o.ownerOptedOut(req.OptedOut):
		return SkipOptedOut
	case o.meta.mirror:
		return SkipMirrorPod
	case o.kind == "Job", o.kind == "CronJob", o.meta.controller == "Job",
		o.pod.restartPolicy != "" && o.pod.restartPolicy != "Always":
		return SkipJob
	}
	if req.Offline {
		if o.kind != "Pod" && o.meta.controller != "" {
			return SkipOwned
		}
		return SkipNone
	}
	switch {
	case o.kind == "Pod" && req.Operation != Create:
		return SkipOperation
	case o.kind != "Pod" && o.kind != "Deployment" && o.kind != "StatefulSet":
		return SkipKind
	}
	return SkipNone
}

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
	hash := o.meta.labels[podTemplateHash]
	deployment, ok := strings.CutSuffix(o.meta.controllerName, "-"+hash)
	return ok && hash != "" && o.meta.controller == "ReplicaSet" && optedOut("Deployment", deployment)
}

// resolve finds the policy of the workload, and the problems of its annotations
// and labels.
func (in *input) resolve(namespace map[string]string, result *Result) {
	o := in.object
	pod, meta := o.pod.meta, o.meta
	if o.kind == "Pod" {
		pod, meta = o.meta, metadata{}
	}
	in.sources = []policy.Annotations{
		{Source: policy.SourcePodTemplate, Values: pod.annotations},
		{Source: policy.SourceWorkload, Values: meta.annotations},
		{Source: policy.SourceNamespace, Values: namespace},
	}
	p, problems := policy.Resolve(in.config.Base, in.config.Bounds, in.sources...)
	in.policy = &p
	problems = append(problems, policy.CheckLabels(policy.SourcePodTemplate, pod.labels, policy.Disabled)...)
	problems = append(problems, policy.CheckLabels(policy.SourceWorkload, meta.labels, policy.Disabled)...)
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

// encode returns operations as a JSON Patch document.
func encode(ops []jsonpatch.Operation) ([]byte, error) {
	patch := make([]byte, 0, 2048)
	for i, op := range ops {
		value, ok := op.Value.(json.RawMessage)
		if !ok {
			return nil, fmt.Errorf("encode patch: value of %s is %T", op.Path, op.Value)
		}
		patch = append(patch, "[,"[min(i, 1)])
		patch = append(patch, `{"op":"`...)
		patch = append(patch, op.Operation...)
		patch = append(patch, `","path":"`...)
		patch = append(patch, op.Path...) // made by us of plain characters only
		patch = append(patch, `","value":`...)
		patch = append(patch, value...)
		patch = append(patch, '}')
	}
	return append(patch, ']'), nil
}

// applies reports whether the API server will be able to apply the patch. It uses
// the same applier (k8s.io/apiserver/pkg/admission/plugin/webhook/mutating/dispatcher.go),
// because a patch that does not apply fails the request even under
// failurePolicy: Ignore.
func applies(patch, object []byte) error {
	decoded, err := applier.DecodePatch(patch)
	if err != nil {
		return fmt.Errorf("read own patch: %w", err)
	}
	if _, err := decoded.Apply(object); err != nil {
		return fmt.Errorf("apply own patch: %w", err)
	}
	return nil
}

// sameJSON reports whether two documents are the same value.
func sameJSON(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, err1 := decode(a)
	y, err2 := decode(b)
	return err1 == nil && err2 == nil && reflect.DeepEqual(x, y)
}

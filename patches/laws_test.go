package patches

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gomodules.xyz/jsonpatch/v2"
	applier "gopkg.in/evanphx/json-patch.v4"
	"sigs.k8s.io/yaml"

	"github.com/evenkeel/evenkeel/internal/corpus"
	"github.com/evenkeel/evenkeel/internal/scan"
	"github.com/evenkeel/evenkeel/policy"
)

// checkLaws reviews one request and returns every law that the answer breaks.
func checkLaws(injector *Injector, req Request) error {
	before := sha256.Sum256(slices.Concat(req.Object, []byte{0}, req.Old))
	result := injector.Review(req)
	if after := sha256.Sum256(slices.Concat(req.Object, []byte{0}, req.Old)); after != before {
		return errors.New("the input was changed")
	}
	if again := injector.Review(req); !reflect.DeepEqual(again, result) {
		return fmt.Errorf("a second review of the same object answers\n%s\nrather than\n%s", describeResult(again),
			describeResult(result))
	}
	if read := reviewRead(injector, req); read != nil && !reflect.DeepEqual(*read, result) {
		return fmt.Errorf("read out of a larger document it gets\n%s\nrather than\n%s", describeResult(*read),
			describeResult(result))
	}
	if err := checkAnswer(result); err != nil {
		return err
	}
	if len(result.Operations) == 0 {
		return nil
	}
	patched, err := apply(result.Patch, req.Object)
	if err != nil {
		return err
	}
	if err := theirsStays(injector, req, patched); err != nil {
		return fmt.Errorf("%w; the patch is %s", err, result.Patch)
	}
	if err := sleepsFit(req.Object, patched); err != nil {
		return fmt.Errorf("%w; the patch is %s", err, result.Patch)
	}
	if err := uninjects(req, patched); err != nil {
		return fmt.Errorf("%w; the patch is %s", err, result.Patch)
	}
	second := req
	second.Object, second.Ran = patched, nil
	if r := injector.Review(second); string(r.Patch) != "[]" {
		return fmt.Errorf("reinvocation does %s after %s", r.Patch, result.Patch)
	}
	return goesAway(req, patched)
}

// reviewRead reviews a request as the webhook does, which reads the objects while it reads the review, or returns nil
// where they are not JSON: then there is no review.
func reviewRead(injector *Injector, req Request) *Result {
	read := func(raw []byte) (*Reading, bool) {
		s, err := scan.New(raw)
		if err != nil || len(raw) == 0 {
			return nil, len(raw) == 0
		}
		r, err := Read(&s)
		return r, err == nil && s.End() == nil
	}
	object, ok1 := read(req.Object)
	old, ok2 := read(req.Old)
	if !ok1 || !ok2 {
		return nil
	}
	req.Object, req.Old, req.ObjectRead, req.OldRead = nil, nil, object, old
	result := injector.Review(req)
	return &result
}

// checkAnswer checks what holds for a result whatever it was for.
func checkAnswer(r Result) error {
	if r.Err != nil {
		for _, d := range r.Decisions {
			if d.Skip == SkipInternalError {
				return fmt.Errorf("internal error: %w", r.Err)
			}
		}
	}
	known := map[string]bool{}
	for _, d := range r.Decisions {
		known[d.Default] = true
		if d.Skip != SkipNone && d.Skip.Reason().Text == "" {
			return fmt.Errorf("skip code %q is in no table", d.Skip)
		}
	}
	for _, name := range defaults {
		// a pod without containers has none of theirs
		if !known[name] && !(name != DefaultAntiAffinity && len(r.Decisions) > 0) {
			return fmt.Errorf("no decision says what became of %s", name)
		}
	}
	for _, p := range r.Problems {
		if text := p.String(); len(text) > 256 ||
			strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			return fmt.Errorf("problem is %d bytes long or holds control characters: %q", len(text), text)
		}
	}
	if len(r.Operations) == 0 {
		if string(r.Patch) != "[]" {
			return fmt.Errorf("patch is %q where nothing is to be done", r.Patch)
		}
		return nil
	}
	var written []map[string]json.RawMessage
	if err := json.Unmarshal(r.Patch, &written); err != nil || len(written) != len(r.Operations) {
		return fmt.Errorf("patch %q is not its %d operations: %w", r.Patch, len(r.Operations), err)
	}
	for i, op := range r.Operations {
		if op.Operation != "add" && op.Operation != "replace" && (op.Operation != "remove" || op.Value != nil) {
			return fmt.Errorf("operation %s %s is none of ours", op.Operation, op.Path)
		}
		if string(written[i]["op"]) != strconv.Quote(op.Operation) || string(written[i]["path"]) != strconv.Quote(op.Path) {
			return fmt.Errorf("operation %d is written as %s %s", i, written[i]["op"], written[i]["path"])
		}
		for j, other := range r.Operations {
			if i != j && (op.Path == other.Path || strings.HasPrefix(other.Path, op.Path+"/")) {
				return fmt.Errorf("operation path %s is a prefix of %s", op.Path, other.Path)
			}
		}
	}
	return nil
}

// apply applies a patch as the API server does.
func apply(patch, object []byte) ([]byte, error) {
	decoded, err := applier.DecodePatch(patch)
	if err != nil {
		return nil, fmt.Errorf("read patch: %w", err)
	}
	patched, err := decoded.Apply(object)
	if err != nil {
		return nil, fmt.Errorf("apply patch %s: %w", patch, err)
	}
	return patched, nil
}

// theirsStays returns an error when something that people wrote is not the same after the patch. It
// works on decoded objects, apart from the code that it checks, and knows what is ours from the record
// alone.
func theirsStays(injector *Injector, req Request, patched []byte) error {
	before, err1 := decode(req.Object)
	after, err2 := decode(patched)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	records := []record{recordIn(before)}
	if len(req.Old) > 0 {
		if old, err := decode(req.Old); err == nil {
			records = append(records, recordIn(old))
		}
	}
	p, _ := policy.Resolve(injector.config.Base, injector.config.Bounds, sourcesOf(before, req)...)
	x, y := people(before, req.Offline, records...), people(after, req.Offline, recordIn(after))
	if p.RaiseGracePeriod {
		x.grace, y.grace = "", ""
	}
	if !reflect.DeepEqual(x, y) {
		return fmt.Errorf("what people wrote is changed (-before +after):\n%s",
			cmp.Diff(x, y, cmp.AllowUnexported(written{})))
	}
	return nil
}

// uninjects returns an error when an object without a record isn't the same, member for member and null for null, after
// it was injected and uninjected. Of an update that has lost the record of the old object, what that record says is
// ours and may be gone.
func uninjects(req Request, patched []byte) error {
	before, err := decode(req.Object)
	if err != nil {
		return err
	}
	if old, err := decode(req.Old); err == nil && len(recordIn(old)) > 0 {
		return nil
	}
	template := templateIn(before)
	after, err := decode(patched)
	if err != nil || len(recordIn(after)) == 0 ||
		at(template, "metadata", "annotations", policy.InjectedAnnotation) != nil {
		return err // a label alone keeps pods from being looked at, and adds nothing
	}
	if at(template, "metadata", "labels", policy.DefaultedLabel) != nil {
		return nil // only in a manifest is it certain whose label that is
	}
	r := Uninject(patched)
	restored, err := apply(r.Patch, patched)
	if err != nil {
		return err
	}
	left, err := decode(restored)
	if err != nil {
		return err
	}
	if spec, _ := template["spec"].(map[string]any); !req.Offline &&
		spec["terminationGracePeriodSeconds"] == json.Number("30") &&
		at(templateIn(left), "spec", "terminationGracePeriodSeconds") == nil {
		delete(spec, "terminationGracePeriodSeconds") // the API's default, which nobody wrote
	}
	if !reflect.DeepEqual(left, before) {
		return fmt.Errorf("uninject leaves (-before +after):\n%s", cmp.Diff(before, left))
	}
	return nil
}

func sourcesOf(object map[string]any, req Request) []policy.Annotations {
	texts := func(o map[string]any) map[string]string {
		texts := map[string]string{}
		annotations, _ := at(o, "metadata", "annotations").(map[string]any)
		for key, value := range annotations {
			texts[key], _ = value.(string)
		}
		return texts
	}
	template := templateIn(object)
	sources := []policy.Annotations{{Source: policy.SourcePodTemplate, Values: texts(template)}}
	if object["kind"] != "Pod" {
		sources = append(sources, policy.Annotations{Source: policy.SourceWorkload, Values: texts(object)})
	}
	return append(sources, policy.Annotations{Source: policy.SourceNamespace, Values: req.Namespace})
}

// written is what people wrote.
type written struct {
	rest  map[string]any
	grace string // "" where nobody wrote one
}

func at(value any, path ...string) any {
	for _, key := range path {
		member, _ := value.(map[string]any)
		value = member[key]
	}
	return value
}

func templateIn(object map[string]any) map[string]any {
	if object["kind"] == "Pod" {
		return object
	}
	template, _ := at(object, "spec", "template").(map[string]any)
	return template
}

func recordIn(object map[string]any) record {
	text, _ := at(templateIn(object), "metadata", "annotations", policy.InjectedAnnotation).(string)
	r, _ := readRecord(text)
	return r
}

// people returns a copy of object without what records say is ours, and without parents that are empty then.
func people(object map[string]any, offline bool, records ...record) written {
	raw, err := json.Marshal(object)
	if err != nil {
		panic(err)
	}
	object, err = decode(raw)
	if err != nil {
		panic(err)
	}
	dropNulls(object)
	template := templateIn(object)
	metadata, _ := template["metadata"].(map[string]any)
	annotations, _ := metadata["annotations"].(map[string]any)
	if text, _ := annotations[policy.InjectedAnnotation].(string); text != "" {
		if _, ok := readRecord(text); ok {
			delete(annotations, policy.InjectedAnnotation)
		}
	}
	if labels, _ := metadata["labels"].(map[string]any); labels != nil {
		delete(labels, policy.DefaultedLabel)
		dropEmpty(metadata, "labels")
	}
	dropEmpty(metadata, "annotations")
	dropEmpty(template, "metadata")
	spec, _ := template["spec"].(map[string]any)
	longest := int64(0)
	for _, r := range records {
		longest = takeOut(object, spec, r)
	}
	w := written{rest: object}
	if grace, ok := spec["terminationGracePeriodSeconds"].(json.Number); ok {
		w.grace = string(grace)
		for _, r := range records {
			from, to, raised := strings.Cut(r.get("", entryGrace), "/")
			back, _ := strconv.ParseInt(from, 10, 64)
			if from == "" || raised && to != w.grace || !raised && from != w.grace ||
				clientWrote(object, !raised, "terminationGracePeriodSeconds") == w.grace {
				continue
			}
			// What a sleep of theirs needs is theirs, unless the API server refuses that sleep anyway.
			now, _ := strconv.ParseInt(w.grace, 10, 64)
			switch {
			case raised && (longest <= back || longest > now):
				w.grace = from
			case !raised && (longest <= 30 || longest > now):
				w.grace = ""
			}
			break
		}
		if w.grace == "30" && !offline && clientWrote(object, true, "terminationGracePeriodSeconds") == "" {
			w.grace = ""
		}
		delete(spec, "terminationGracePeriodSeconds")
	}
	return w
}

// takeOut deletes what r says is ours from the pod spec of object. It returns the longest native sleep that is left, in
// seconds.
func takeOut(object, spec map[string]any, r record) (longest int64) {
	affinity, _ := spec["affinity"].(map[string]any)
	if terms, ok := affinity["podAntiAffinity"].(map[string]any); ok {
		had := len(terms)
		for member, value := range terms {
			for print := range strings.SplitSeq(r.get("", DefaultAntiAffinity), ":") {
				if is(map[string]any{member: value}, print) {
					delete(terms, member)
				}
			}
		}
		if len(terms) == 0 && had > 0 {
			delete(affinity, "podAntiAffinity")
		}
	}
	dropEmpty(spec, "affinity")
	if list, ok := spec["tolerations"].([]any); ok {
		seconds := json.Number(r.get("", DefaultNodeLoss))
		own := []any{
			map[string]any{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
				"tolerationSeconds": seconds},
			map[string]any{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
				"tolerationSeconds": seconds},
		}
		if len(list) == 0 || reflect.DeepEqual(list, own) && clientWrote(object, true, "tolerations") == "" {
			delete(spec, "tolerations")
		}
	}
	if constraints, ok := spec["topologySpreadConstraints"].([]any); ok {
		prints := strings.Split(r.get("", entryTopology), ":")
		left := slices.DeleteFunc(slices.Clone(constraints), func(c any) bool {
			return slices.ContainsFunc(prints, func(print string) bool { return is(c, print) })
		})
		if spec["topologySpreadConstraints"] = left; len(left) == 0 {
			delete(spec, "topologySpreadConstraints")
		}
	}
	containers, _ := spec["containers"].([]any)
	for _, element := range containers {
		c, _ := element.(map[string]any)
		name, _ := c["name"].(string)
		lifecycle, _ := c["lifecycle"].(map[string]any)
		stop, _ := lifecycle["preStop"].(map[string]any)
		if form, seconds, ok := strings.Cut(r.get(name, DefaultPreStopSleep), ":"); ok {
			own := map[string]any{"seconds": json.Number(seconds)}
			if form == "exec" {
				own = map[string]any{"command": []any{"sleep", seconds}}
			}
			if reflect.DeepEqual(stop[form], own) && (len(stop) == 1 || handlersIn(stop) > 1) {
				delete(stop, form)
			}
			dropEmpty(lifecycle, "preStop") // one without a handler is nobody's
		}
		if seconds, ok := at(lifecycle, "preStop", "sleep", "seconds").(json.Number); ok {
			n, _ := seconds.Int64()
			longest = max(longest, n)
		}
		dropEmpty(c, "lifecycle")
		probe, _ := c["readinessProbe"].(map[string]any)
		if parts := strings.Split(r.get(name, DefaultReadinessProbe), ":"); len(parts) == 5 && is(probe[parts[0]], parts[1]) {
			own := map[string]string{"timeoutSeconds": parts[2], "periodSeconds": parts[3], "failureThreshold": parts[4],
				"successThreshold": "1"}
			whole := true
			for key, value := range probe {
				whole = whole && (key == parts[0] || fmt.Sprint(value) == own[key])
			}
			whole = whole && len(probe) >= 4
			if whole || handlersIn(probe) > 1 {
				delete(probe, parts[0])
				for key, value := range own {
					if whole || fmt.Sprint(probe[key]) == value && key != "successThreshold" && !appliedToProbe(object, name, key) {
						delete(probe, key)
					}
				}
			}
			dropEmpty(c, "readinessProbe")
		}
	}
	return longest
}

// clientWrote returns the value of a member of the pod spec that a client has left a trace of, or "". One of
// server-side apply is without a value, and says nothing where we raised what was written.
func clientWrote(object map[string]any, applied bool, member string) string {
	path := []string{"spec", member}
	if object["kind"] != "Pod" {
		path = append([]string{"spec", "template"}, path...)
	}
	text, _ := at(object, "metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration").(string)
	if applied, err := decode([]byte(text)); err == nil && at(applied, path...) != nil {
		return fmt.Sprint(at(applied, path...))
	}
	entries, _ := at(object, "metadata", "managedFields").([]any)
	if !applied {
		return ""
	}
	for _, entry := range entries {
		fields := at(entry, "fieldsV1")
		for _, key := range path {
			fields = at(fields, "f:"+key)
		}
		if at(entry, "operation") == "Apply" && fields != nil {
			return fmt.Sprint(at(object, path...))
		}
	}
	return ""
}

// appliedToProbe reports whether kubectl has applied a member of the readiness probe of a container.
func appliedToProbe(object map[string]any, container, member string) bool {
	text, _ := at(object, "metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration").(string)
	applied, err := decode([]byte(text))
	if err != nil {
		return false
	}
	containers, _ := at(templateIn(applied), "spec", "containers").([]any)
	return slices.ContainsFunc(containers,
		func(c any) bool { return at(c, "name") == container && at(c, "readinessProbe", member) != nil })
}

func handlersIn(value map[string]any) int {
	n := 0
	for key := range value {
		n += count(isHandler(key))
	}
	return n
}

// is reports whether a decoded value has a fingerprint as a record writes it.
func is(value any, print string) bool {
	raw, err := json.Marshal(value)
	return err == nil && value != nil && print != "" && hasFingerprint(raw, print)
}

func dropEmpty(parent map[string]any, key string) {
	if child, ok := parent[key].(map[string]any); ok && len(child) == 0 {
		delete(parent, key)
	}
}

func dropNulls(value any) {
	switch value := value.(type) {
	case []any:
		for _, element := range value {
			dropNulls(element)
		}
	case map[string]any:
		for key, member := range value {
			if member == nil {
				delete(value, key)
			}
			dropNulls(member)
		}
	}
}

// decode reads a JSON object with its numbers as written.
func decode(raw []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var value map[string]any
	err := d.Decode(&value)
	return value, err
}

// sleepsFit returns an error when a native sleep is longer than the grace period, unless it was before: the API
// refuses that.
func sleepsFit(before, after []byte) error {
	fits := func(raw []byte) (bool, error) {
		o, err := parse(raw)
		if err != nil {
			return false, err
		}
		for i := range o.pod.containers {
			if nativeSleepOf(o.pod.containers[i].preStop) > o.pod.graceSeconds() {
				return false, nil
			}
		}
		return true, nil
	}
	x, err1 := fits(before)
	y, err2 := fits(after)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if x && !y {
		return errors.New("a sleep is longer than the grace period")
	}
	return nil
}

// goesAway returns an error when anything of ours is left of a patched object after everything is set to off: what
// stands then is what people wrote.
func goesAway(req Request, patched []byte) error {
	off, err := newOff()
	if err != nil {
		return err
	}
	r := off.Review(Request{Operation: Create, Object: patched, Offline: true, Cluster: req.Cluster})
	if len(r.Decisions) > 0 && r.Decisions[0].Skip != SkipOff && r.Decisions[0].Skip != SkipDaemonSet {
		return nil // passed over
	}
	left, err := apply(r.Patch, patched)
	if err != nil {
		return err
	}
	object, err := decode(left)
	if err != nil {
		return err
	}
	template := templateIn(object)
	before, err := decode(patched)
	if err != nil {
		return err
	}
	asked, _ := at(templateIn(before), "metadata", "annotations").(map[string]any)
	for key := range asked {
		if strings.HasPrefix(key, policy.Prefix) && key != policy.InjectedAnnotation {
			return nil // its own annotation keeps a default on
		}
	}
	if asked, _ := at(before, "metadata", "annotations").(map[string]any); object["kind"] != "Pod" {
		for key := range asked {
			if strings.HasPrefix(key, policy.Prefix) {
				return nil
			}
		}
	}
	if text, _ := at(template, "metadata", "annotations", policy.InjectedAnnotation).(string); text != "" {
		if _, ok := readRecord(text); ok {
			return fmt.Errorf("off leaves the record %s", text)
		}
	}
	x, y := people(before, true, recordIn(before)), people(object, true, record{})
	x.grace, y.grace = strings.TrimPrefix(x.grace, "30"), strings.TrimPrefix(y.grace, "30")
	if !reflect.DeepEqual(x, y) {
		return fmt.Errorf("off leaves (-theirs +left):\n%s", cmp.Diff(x, y, cmp.AllowUnexported(written{})))
	}
	return nil
}

func newOff() (*Injector, error) {
	config := DefaultConfig()
	for _, name := range []string{policy.SettingAntiAffinity, policy.SettingPreStopSleep, policy.SettingReadinessProbe} {
		if err := config.Base.Set(name, "off", config.Bounds); err != nil {
			return nil, err
		}
	}
	return New(config)
}

// worlds are the clusters and settings that every law is checked in.
func worlds(t testing.TB) map[string]*Injector {
	t.Helper()
	injectors := map[string]*Injector{}
	for name, flags := range map[string]map[string]string{
		"built in":        {},
		"required":        {policy.SettingAntiAffinity: "required", policy.SettingPreStopSleep: "60s"},
		"topology spread": {policy.SettingSpread: "topology-spread"},
		"explicit probe":  {policy.SettingReadinessProbe: "http:http/ready", policy.SettingTopologyKeys: "rack"},
		"raise":           {policy.SettingGracePeriod: "raise", policy.SettingPreStopSleep: "20s"},
		"node loss":       {policy.SettingNodeLoss: "30s", policy.SettingPreStopSleep: "off"},
		"all off": {policy.SettingAntiAffinity: "off", policy.SettingPreStopSleep: "off",
			policy.SettingReadinessProbe: "off"},
	} {
		config := DefaultConfig()
		config.AllowExecSleep = name != "built in"
		for flag, value := range flags {
			if err := config.Base.Set(flag, value, config.Bounds); err != nil {
				t.Fatal(err)
			}
		}
		injector, err := New(config)
		if err != nil {
			t.Fatal(err)
		}
		injectors[name] = injector
	}
	return injectors
}

// fewer returns two of the worlds with -short, that is with the race detector, which makes the laws eight times as
// slow. make test goes through all of them without.
func fewer(injectors map[string]*Injector) map[string]*Injector {
	if testing.Short() {
		maps.DeleteFunc(injectors, func(name string, _ *Injector) bool {
			return name != "built in" && name != "topology spread"
		})
	}
	return injectors
}

// clusters are the kinds of clusters that make a difference.
var clusters = [...]Cluster{
	{APIServer: Version{1, 36}, OldestKubelet: Version{1, 36}},
	{APIServer: Version{1, 33}},
	{APIServer: Version{1, 29}, OldestKubelet: Version{1, 28}},
	{},
}

// variants are objects that mean the same as req, or the same with more in it,
// with a name each. Those that mean the same get the same answer.
func variants(req Request) map[string]Request {
	all := map[string]Request{}
	object, _ := decode(req.Object)
	set := at(templateIn(object), "spec", "terminationGracePeriodSeconds") != nil
	for name, change := range map[string]func(map[string]any){
		"planted": func(o map[string]any) { plant(o) },
		"defaulted": func(o map[string]any) {
			addAPIDefaults(o)
			if spec, _ := templateIn(o)["spec"].(map[string]any); req.Offline && spec != nil && !set {
				delete(spec, "terminationGracePeriodSeconds") // which somebody wrote, where it stands in a manifest
			}
		},
	} {
		changed := req
		var err1, err2 error
		changed.Object, err1 = rewrite(req.Object, change)
		if len(req.Old) > 0 {
			changed.Old, err2 = rewrite(req.Old, change)
		}
		if err1 == nil && err2 == nil {
			all[name] = changed
		}
	}
	last := req
	var err1, err2 error
	last.Object, err1 = kindLast(req.Object)
	if len(req.Old) > 0 {
		last.Old, err2 = kindLast(req.Old)
	}
	if err1 == nil && err2 == nil {
		all["kind last"] = last
	}
	return all
}

// rewrite changes a document.
func rewrite(raw []byte, change func(map[string]any)) ([]byte, error) {
	if _, err := parse(raw); err != nil { // decoding it would repair it
		return nil, err
	}
	value, err := decode(raw)
	if err != nil {
		return nil, err
	}
	change(value)
	return json.Marshal(value)
}

// kindLast writes the members of a document in the order opposite to the usual.
func kindLast(raw []byte) ([]byte, error) {
	if _, err := parse(raw); err != nil {
		return nil, err
	}
	members := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &members); err != nil {
		return nil, err
	}
	out := []byte{'{'}
	for i, key := range slices.Backward(slices.Sorted(maps.Keys(members))) {
		name, err := json.Marshal(key)
		if err != nil {
			return nil, err
		}
		out = append(append(append(out, name...), ':'), members[key]...)
		if i > 0 {
			out = append(out, ',')
		}
	}
	return append(out, '}'), nil
}

// plant adds a member that no type knows to every object at any depth, but not to
// maps of strings.
func plant(value any) {
	switch value := value.(type) {
	case []any:
		for _, element := range value {
			plant(element)
		}
	case map[string]any:
		for key, member := range value {
			switch key {
			case "labels", "annotations", "matchLabels", "nodeSelector", "managedFields":
			case "selector": // an empty one must stay empty
				inner, _ := member.(map[string]any)
				labels, _ := inner["matchLabels"].(map[string]any)
				if len(labels) > 0 {
					plant(member)
				}
			default:
				plant(member)
			}
		}
		value["plantedByTest"] = map[string]any{"deep": []any{json.Number("1.50"), "~/", nil, map[string]any{"": true}}}
	}
}

// addAPIDefaults writes out what the API server defaults before admission
// (k8s.io/kubernetes/pkg/apis/core/v1/defaults.go), as far as we look near it.
func addAPIDefaults(object map[string]any) {
	setDefault := func(o map[string]any, key string, value any) {
		if o[key] == nil {
			o[key] = value
		}
	}
	object["status"] = map[string]any{}
	template := object
	if object["kind"] != "Pod" {
		spec, _ := object["spec"].(map[string]any)
		template, _ = spec["template"].(map[string]any)
	}
	pod, ok := template["spec"].(map[string]any)
	if !ok {
		return
	}
	setDefault(pod, "terminationGracePeriodSeconds", json.Number("30"))
	setDefault(pod, "restartPolicy", "Always")
	setDefault(pod, "dnsPolicy", "ClusterFirst")
	setDefault(pod, "schedulerName", "default-scheduler")
	setDefault(pod, "securityContext", map[string]any{})
	containers, _ := pod["containers"].([]any)
	for _, element := range containers {
		c, ok := element.(map[string]any)
		if !ok {
			continue
		}
		setDefault(c, "imagePullPolicy", "IfNotPresent")
		setDefault(c, "resources", map[string]any{})
		setDefault(c, "terminationMessagePath", "/dev/termination-log")
		ports, _ := c["ports"].([]any)
		for _, element := range ports {
			if p, ok := element.(map[string]any); ok {
				setDefault(p, "protocol", "TCP")
			}
		}
		for _, name := range []string{"livenessProbe", "readinessProbe", "startupProbe"} {
			if probe, ok := c[name].(map[string]any); ok {
				for key, value := range map[string]json.Number{"timeoutSeconds": "1", "periodSeconds": "10",
					"successThreshold": "1", "failureThreshold": "3"} {
					setDefault(probe, key, value)
				}
			}
		}
	}
}

// checkAllLaws checks the laws of a request in every world, and of its variants.
func checkAllLaws(t *testing.T, injectors map[string]*Injector, req Request) {
	t.Helper()
	same := variants(req)
	for world, injector := range injectors {
		for _, cluster := range clusters {
			req.Cluster = cluster
			if err := checkLaws(injector, req); err != nil {
				t.Fatalf("%s, %+v: %v", world, cluster, err)
			}
			want := outline(injector.Review(req))
			for name, variant := range same {
				if !cluster.OldestKubelet.AtLeast(28) {
					continue // those without a known kubelet differ in nothing that matters here
				}
				variant.Cluster = cluster
				if req.Noted != nil { // it is a note about the variant's containers then
					guess, err := injector.Guess(variant.Object, nil)
					note, ok := req.Noted("", "")
					if note.Containers = guess.Fingerprint; err == nil {
						variant.Noted = func(string, string) (Note, bool) { return note, ok }
					}
				}
				if err := checkLaws(injector, variant); err != nil {
					t.Fatalf("%s, %s, %+v: %v", name, world, cluster, err)
				}
				if name == "planted" && (len(req.Old) > 0 || bytes.Contains(req.Object, []byte(policy.InjectedAnnotation))) {
					continue // what is planted into our additions makes them somebody else's
				}
				if got := outline(injector.Review(variant)); got != want {
					t.Fatalf("%s, %s, %+v: got\n%s\nwant\n%s", name, world, cluster, got, want)
				}
			}
		}
	}
}

// outline is what must not differ between objects that mean the same.
func outline(r Result) string {
	var b strings.Builder
	for _, op := range r.Operations {
		fmt.Fprintln(&b, op.Path)
	}
	for _, d := range r.Decisions {
		fmt.Fprintln(&b, d.Default, d.Container, d.Skip)
	}
	fmt.Fprintln(&b, r.Problems)
	return b.String()
}

func TestLawsHoldForEveryCase(t *testing.T) {
	injectors := fewer(worlds(t))
	for _, c := range readCases(t, "") {
		t.Run(c.sentence, func(t *testing.T) {
			t.Parallel()
			if err := checkLaws(c.injector, c.request); err != nil {
				t.Error(err)
			}
			checkAllLaws(t, injectors, c.request)
			other := c.request
			other.Offline = !other.Offline
			if !reflect.DeepEqual(c.injector.Review(other), c.injector.Review(c.request)) {
				checkAllLaws(t, injectors, other)
			}
		})
	}
}

// TestADiffFindsOnlyAdditions has another library work out what a patch has done, the one that
// other webhooks make their patches with: additions, the raised grace period, and what was null or
// our own record.
func TestADiffFindsOnlyAdditions(t *testing.T) {
	for _, c := range readCases(t, "") {
		t.Run(c.sentence, func(t *testing.T) {
			r := c.injector.Review(c.request)
			if len(r.Operations) == 0 {
				return
			}
			patched, err := apply(r.Patch, c.request.Object)
			if err != nil {
				t.Fatal(err)
			}
			found, err := jsonpatch.CreatePatch(c.request.Object, patched)
			if err != nil {
				t.Fatal(err)
			}
			if len(found) == 0 {
				t.Errorf("no difference, after %s", r.Patch)
			}
			for _, op := range found {
				replaceable := strings.HasSuffix(op.Path, "/terminationGracePeriodSeconds") ||
					strings.HasSuffix(op.Path, "/"+escapedInjected) || wasNull(t, c.request.Object, op.Path)
				if slices.ContainsFunc(r.Operations, func(o Change) bool {
					return o.Operation != "add" && (o.Path == op.Path || strings.HasPrefix(op.Path, o.Path+"/"))
				}) {
					continue // theirsStays
				}
				if op.Operation != "add" && (op.Operation != "replace" || !replaceable) {
					t.Errorf("the patch does %s %s: %s", op.Operation, op.Path, r.Patch)
				}
			}
		})
	}
}

// wasNull reports whether null stands at a path.
func wasNull(t *testing.T, object []byte, path string) bool {
	t.Helper()
	test, err := json.Marshal([]map[string]any{{"op": "test", "path": path, "value": nil}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = apply(test, object)
	return err == nil
}

func TestLawsHoldForEveryWorkloadOfTheCorpus(t *testing.T) {
	documents, injectors := wild(t), fewer(worlds(t))
	counts := map[string]int{}
	for name, raw := range documents {
		var head struct{ Kind string }
		if err := json.Unmarshal(raw, &head); err != nil {
			t.Fatal(err)
		}
		counts[head.Kind]++
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkAllLaws(t, injectors, Request{Operation: Create, Object: raw, Offline: true})
		})
	}
	t.Logf("documents of the corpus: %v", counts)
}

// wild reads the corpus as JSON documents by file, kind and name.
func wild(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := corpus.Files()
	if err != nil {
		t.Fatal(err)
	}
	documents := map[string][]byte{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, part := range strings.Split("\n"+string(text), "\n---") {
			raw, err := yaml.YAMLToJSON([]byte(part))
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			o, err := parse(raw)
			if err != nil {
				continue // comments alone
			}
			documents[fmt.Sprintf("%s %d %s %s", filepath.Base(file), i, o.kind, o.meta.name)] = raw
		}
	}
	return documents
}

// TestTheLawsHaveTeeth breaks each law with a generator that does what it forbids.
func TestTheLawsHaveTeeth(t *testing.T) {
	object := []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","labels":{"app":"web"}},` +
		`"spec":{"terminationGracePeriodSeconds":30,"newer":{"a":[1]},"containers":[{"name":"web","image":"nginx"}]}}`)
	runs := 0
	for name, broken := range map[string]generator{
		"changes a value":            func(_ *input, o *output) { o.add("/spec/containers/0/image", "other") },
		"changes what no type knows": func(_ *input, o *output) { o.add("/spec/newer", map[string]any{"a": []int{2}}) },
		"drops what no type knows":   func(_ *input, o *output) { o.add("/spec/newer", map[string]any{}) },
		"removes":                    func(_ *input, o *output) { o.remove("/spec/containers/0/image") },
		"removes a hook":             func(_ *input, o *output) { o.remove("/spec/containers/0/lifecycle/preStop/sleep") },
		"replaces":                   func(_ *input, o *output) { o.replace("/spec/containers/0/image", "nginx") },
		"inserts an element":         func(_ *input, o *output) { o.add("/spec/containers/0", map[string]any{"name": "x"}) },
		"appends an element":         func(_ *input, o *output) { o.add("/spec/containers/-", map[string]any{"name": "x"}) },
		"adds a parent and a child": func(_ *input, o *output) {
			o.add("/spec/x", map[string]any{})
			o.add("/spec/x/y", 1)
		},
		"adds twice":                       func(_ *input, o *output) { o.add("/spec/x", 1); o.add("/spec/x", 1) },
		"adds where nothing is":            func(_ *input, o *output) { o.add("/spec/x/y", 1) },
		"raises without a record":          func(in *input, o *output) { in.pod().setGrace(o, in.pod().graceSeconds()+1) },
		"lowers the grace period":          func(in *input, o *output) { in.pod().setGrace(o, 29) },
		"adds again on every run":          func(_ *input, o *output) { o.add("/spec/x", 1) },
		"answers each time in another way": func(_ *input, o *output) { runs++; o.add("/spec/x", runs) },
		"writes into the input": func(in *input, _ *output) {
			if i := bytes.Index(object, []byte("nginx")); i >= 0 {
				copy(object[i:], "xinng")
			}
		},
		"skips for no reason": func(_ *input, o *output) { o.skip(DefaultAntiAffinity, "", "because", nil) },
		"panics":              func(*input, *output) { panic("on purpose") },
	} {
		t.Run(name, func(t *testing.T) {
			injector, err := New(DefaultConfig())
			if err != nil {
				t.Fatal(err)
			}
			injector.generators = []generator{broken}
			if err := checkLaws(injector, Request{Operation: Create, Object: object}); err == nil {
				t.Error("no law is broken")
			}
		})
	}
}

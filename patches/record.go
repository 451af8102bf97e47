package patches

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/evenkeel/evenkeel/internal/scan"
	"github.com/evenkeel/evenkeel/policy"
)

// record is what the annotation evenkeel.dev/injected says that was added to a pod template: for
// each place its name and a value that tells exactly what was put there. Entries are separated by
// commas:
//
//	anti-affinity=FINGERPRINT, or FINGERPRINT:FINGERPRINT for required and preferred terms
//	topology-spread=FINGERPRINT:FINGERPRINT, one for each constraint
//	grace-period=TO, or FROM/TO where somebody had written FROM; in seconds
//	CONTAINER/pre-stop-sleep=sleep:SECONDS, or exec:SECONDS
//	node-loss=SECONDS
//	CONTAINER/readiness-probe=HANDLER:FINGERPRINT:TIMEOUT:PERIOD:FAILURES
//	empty=PARENT:PARENT for parents that stood there empty before, such as affinity: {}
//	null=PLACE:PLACE for places of a manifest that were null before, such as lifecycle: null
//	made=metadata where the template had no metadata at all
//	kept=label where a manifest had the label evenkeel.dev/defaulted itself
//
// So nothing is ever recognised by its timings or by arithmetic.
type record []entry

// entry is one place. container is "" for the whole pod.
type entry struct{ container, name, value string }

// The names of entries that are no defaults.
const (
	entryGrace    = "grace-period"
	entryTopology = "topology-spread"
	entryEmpty    = "empty"
	entryNull     = "null"
	entryMade     = "made"
	entryKept     = "kept"
)

// maxRecord bounds a record, in bytes and in entries: two for each container, and seven.
const (
	maxRecord  = 64 << 10
	maxEntries = 2*maxContainers + 7
)

// readRecord reads a record. ok is false for text that is no record of ours, which is then
// somebody else's.
func readRecord(text string) (r record, ok bool) {
	if text == "" || len(text) > maxRecord || strings.Count(text, ",") >= maxEntries {
		return nil, false
	}
	r = make(record, 0, strings.Count(text, ",")+1)
	for part := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(part, "=")
		e := entry{name: key, value: value}
		if i := strings.LastIndexByte(key, '/'); i >= 0 {
			e.container, e.name = key[:i], key[i+1:]
		}
		if !e.valid() || r.get(e.container, e.name) != "" {
			return nil, false
		}
		r = append(r, e)
	}
	return r, true
}

// valid reports whether e is an entry that we write.
func (e entry) valid() bool {
	switch {
	case e.container != "" && e.name == DefaultPreStopSleep:
		form, seconds, _ := strings.Cut(e.value, ":")
		return (form == "sleep" || form == "exec") && isCount(seconds)
	case e.container != "" && e.name == DefaultReadinessProbe:
		parts := strings.Split(e.value, ":")
		return len(parts) == 5 && slices.Contains(handlerKinds[:], parts[0]) && isFingerprint(parts[1]) &&
			isCount(parts[2]) && isCount(parts[3]) && isCount(parts[4])
	case e.container != "":
		return false
	case e.name == DefaultAntiAffinity:
		return areFingerprints(e.value, 2)
	case e.name == entryTopology:
		return areFingerprints(e.value, maxConstraints)
	case e.name == entryGrace:
		from, to, written := strings.Cut(e.value, "/")
		return isCount(from) && (!written || isCount(to))
	case e.name == DefaultNodeLoss:
		return isCount(e.value)
	}
	switch e.name {
	case entryEmpty, entryNull:
		return e.value != ""
	case entryMade:
		return e.value == "metadata"
	}
	return e.name == entryKept && e.value == "label"
}

func isCount(s string) bool {
	_, err := strconv.ParseUint(s, 10, 31)
	return err == nil
}

func areFingerprints(s string, most int) bool {
	for print := range strings.SplitSeq(s, ":") {
		if !isFingerprint(print) {
			return false
		}
	}
	return len(s) < most*17
}

func isFingerprint(s string) bool {
	_, err := strconv.ParseUint(s, 16, 64)
	return err == nil && len(s) == 16
}

// get returns the value of an entry, "" without one.
func (r record) get(container, name string) string {
	for i := range r {
		if r[i].name == name && r[i].container == container {
			return r[i].value
		}
	}
	return ""
}

// has reports whether the record names a default.
func (r record) has(name string) bool {
	return slices.ContainsFunc(r, func(e entry) bool { return e.name == name })
}

// wasEmpty reports whether a parent stood there empty before.
func (r record) wasEmpty(container, parent string) bool {
	return r.lists(entryEmpty, container, parent)
}

// wasNull reports whether null stood in a place before.
func (r record) wasNull(container, place string) bool { return r.lists(entryNull, container, place) }

func (r record) lists(entry, container, name string) bool {
	list := r.get("", entry)
	return list != "" && slices.Contains(strings.Split(list, ":"), string(appendPlace(nil, container, name)))
}

// note appends an entry to the record of out.
func (o *output) note(container, name string, value ...string) {
	if o.record == nil {
		o.record = o.recordRoom[:0]
	}
	if len(o.record) > 0 {
		o.record = append(o.record, ',')
	}
	if container != "" {
		o.record = append(append(o.record, container...), '/')
	}
	o.record = append(append(o.record, name...), '=')
	for _, v := range value {
		o.record = append(o.record, v...)
	}
}

// noteFingerprint appends an entry whose value is the fingerprint of a value of ours.
func (o *output) noteFingerprint(container, name, before string, value []byte, after ...string) {
	if o.failed != SkipNone { // the value isn't whole
		return
	}
	o.note(container, name, before)
	o.record = appendFingerprint(o.record, value)
	for _, a := range after {
		o.record = append(o.record, a...)
	}
}

// appendFingerprint appends the fingerprint of a value of ours, in 16 hexadecimal digits.
func appendFingerprint(b, value []byte) []byte {
	print, err := Fingerprint(value)
	if err != nil {
		panic(fmt.Errorf("read own value: %w", err)) // Review turns it into SkipInternalError
	}
	return appendPrint(b, print)
}

func appendPrint(b []byte, print uint64) []byte {
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, "0123456789abcdef"[print>>shift&15])
	}
	return b
}

// appendPlace appends a place of a container, or of the pod for "", to a list of the record.
func appendPlace(list []byte, container, name string) []byte {
	if len(list) > 0 {
		list = append(list, ':')
	}
	if container != "" {
		list = append(append(list, container...), '/')
	}
	return append(list, name...)
}

// maxAnnotationBytes is the API's limit on the annotations of one object, 256 KiB
// (TotalAnnotationSizeLimitB in apimachinery).
const maxAnnotationBytes = 256 << 10

// addRecord notes on the pod or pod template what stands there of ours: the annotation
// evenkeel.dev/injected, which says it exactly, and the label evenkeel.dev/defaulted for the Pod
// webhook's objectSelector. Where nothing of ours stands, neither does.
//
// The label alone is written where nothing is added since the workload's own annotations say so,
// which its pods don't carry: they would get everything.
func addRecord(in *input, out *output) {
	labelled := len(out.record) > 0 || in.unseenByPods()
	if in.final && !labelled { // tells a later round of the same request that this was decided
		_, labelled = in.pod().meta.label(policy.DefaultedLabel)
	}
	meta := &in.pod().meta
	if len(out.record) > 0 && meta.annotationBytes+len(out.record)+len(policy.InjectedAnnotation) > maxAnnotationBytes {
		out.failed = SkipNoRoom
		return
	}
	r := in.ours.record
	if len(out.record) > 0 {
		for _, parent := range [...]struct {
			name        string
			empty, null bool
		}{
			{"annotations", meta.annotated && meta.annotationCount == 0, meta.null.annotations},
			{"labels", meta.labels != nil && len(meta.labels) == 0, meta.null.labels},
			{"metadata", false, meta.null.itself},
		} {
			if parent.empty || r.wasEmpty("", parent.name) {
				out.empty = appendPlace(out.empty, "", parent.name)
			}
			if parent.null || r.wasNull("", parent.name) {
				out.null = appendPlace(out.null, "", parent.name)
			}
		}
		if len(out.empty) > 0 {
			out.note("", entryEmpty, string(out.empty))
		}
		if len(out.null) > 0 {
			out.note("", entryNull, string(out.null))
		}
		if !meta.present && !meta.null.itself || r.get("", entryMade) != "" {
			out.note("", entryMade, "metadata")
		}
		if _, labelled := meta.label(policy.DefaultedLabel); labelled && in.offline && r == nil ||
			r.get("", entryKept) != "" {
			out.note("", entryKept, "label")
		}
	}
	out.setRecord(in, out.record, labelled)
}

// setRecord makes the annotation say text, "" for none, and sets or removes the label.
func (o *output) setRecord(in *input, text []byte, label bool) {
	pod, r := in.pod(), in.ours.record
	meta := &pod.meta
	stands, noted := meta.annotations[policy.InjectedAnnotation]
	_, labelled := meta.label(policy.DefaultedLabel)
	unlabel := labelled && !label && r != nil && r.get("", entryKept) == ""

	annotations, labels := meta.annotationCount, len(meta.labels)
	if noted && len(text) == 0 {
		annotations--
	}
	if unlabel {
		labels--
	}
	without := func(parent string, there bool, left int) bool { return !there || left == 0 && !r.wasEmpty("", parent) }
	switch {
	case len(text) > 0 || label:
	case !noted && !unlabel:
		return
	case r.wasNull("", "metadata") && annotations == 0 && labels == 0:
		o.nullify(pod.path, "/metadata")
		return
	case r.get("", entryMade) != "" && annotations == 0 && labels == 0:
		o.remove(pod.path, "/metadata")
		return
	}
	if !meta.present {
		o.open("add", pod.path, "/metadata")
		o.write(`{`)
		if len(text) > 0 {
			o.write(`"annotations":{"`, policy.InjectedAnnotation, `":`)
			o.text(text)
			o.write(`},`)
		}
		o.write(`"labels":{"`, policy.DefaultedLabel, `":"true"}}`)
		o.close()
		return
	}
	switch {
	case len(text) == 0 && !noted:
	case len(text) == 0 && annotations == 0 && r.wasNull("", "annotations"):
		o.nullify(pod.path, "/metadata/annotations")
	case len(text) == 0 && without("annotations", meta.annotated, annotations):
		o.remove(pod.path, "/metadata/annotations")
	case len(text) == 0:
		o.remove(pod.path, "/metadata/annotations/", escapedInjected)
	case noted && stands == string(text):
	case !meta.annotated:
		o.open("add", pod.path, "/metadata/annotations")
		o.write(`{"`, policy.InjectedAnnotation, `":`)
		o.text(text)
		o.write(`}`)
		o.close()
	default:
		o.open([...]string{"add", "replace"}[count(noted)], pod.path, "/metadata/annotations/", escapedInjected)
		o.text(text)
		o.close()
	}
	switch {
	case unlabel && labels == 0 && r.wasNull("", "labels"):
		o.nullify(pod.path, "/metadata/labels")
	case unlabel && without("labels", meta.labels != nil, labels):
		o.remove(pod.path, "/metadata/labels")
	case unlabel:
		o.remove(pod.path, "/metadata/labels/", escapedDefaulted)
	case !label || labelled:
	case meta.labels == nil:
		o.open("add", pod.path, "/metadata/labels")
		o.write(`{"`, policy.DefaultedLabel, `":"true"}`)
		o.close()
	default:
		o.open("add", pod.path, "/metadata/labels/", escapedDefaulted)
		o.write(`"true"`)
		o.close()
	}
}

// The annotation and the label in a JSON pointer.
var (
	escapedInjected  = scan.EscapePointer(policy.InjectedAnnotation)
	escapedDefaulted = scan.EscapePointer(policy.DefaultedLabel)
)

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// unseenByPods reports whether an annotation of the workload decides over its pods, which can't be
// seen when they are created.
func (in *input) unseenByPods() bool {
	return in.object.kind != "Pod" && !in.offline &&
		slices.ContainsFunc(podSettings[:], func(name string) bool { return in.policy.From(name) == policy.SourceWorkload })
}

// podSettings are the settings that decide over what a pod gets.
var podSettings = [...]string{policy.SettingAntiAffinity, policy.SettingTopologyKeys, policy.SettingSpread,
	policy.SettingPreStopSleep, policy.SettingGracePeriod, policy.SettingReadinessProbe, policy.SettingContainers}

// defaults are the names of the defaults that every result decides over, in the order of the
// decisions; optional those that come after them where a setting asks for one.
var (
	defaults = []string{DefaultAntiAffinity, DefaultPreStopSleep, DefaultReadinessProbe}
	optional = []string{DefaultNodeLoss}
)

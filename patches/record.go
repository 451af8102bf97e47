package patches

import (
	"slices"
	"strings"

	"github.com/evenkeel/evenkeel/policy"
)

// addRecord notes on the pod or pod template which defaults were added to it: the
// annotation evenkeel.dev/injected for people, the label evenkeel.dev/defaulted
// for the Pod webhook's objectSelector. Where nothing was added, nothing is noted.
//
// An earlier record is extended; a value that is no record of ours is the user's
// and stays. Where the annotations are about to be larger than the API allows, only
// the label is written; and so where nothing is added since the workload's own
// annotations say so, which its pods don't carry: they would get everything.
func addRecord(in *input, out *output) {
	if len(out.spans) == 0 && !in.unseenByPods() {
		return
	}
	pod := in.pod()
	var room [8]string
	names := room[:0]
	for _, d := range out.decisions {
		if d.Skip == SkipNone && !slices.Contains(names, d.Default) {
			names = append(names, d.Default)
		}
	}
	was, noted := pod.meta.annotations[policy.InjectedAnnotation]
	if earlier, ours := readRecord(was); noted && ours {
		for _, name := range earlier {
			if !slices.Contains(names, name) && !slices.Contains(in.gone, name) {
				names = append(names, name)
			}
		}
		if len(names) == 0 {
			names = earlier // a record that names nothing would be none
		}
		slices.SortFunc(names, func(a, b string) int { return slices.Index(defaults, a) - slices.Index(defaults, b) })
	}
	var written [64]byte // more than all names take
	record := written[:0]
	for i, name := range names {
		if i > 0 {
			record = append(record, ',')
		}
		record = append(record, name...)
	}
	annotate := !noted && pod.meta.annotationBytes <= maxAnnotationBytes
	if _, ours := readRecord(was); noted && ours && was != string(record) {
		annotate = true
	}
	_, labelled := pod.meta.label(policy.DefaultedLabel)

	const labels = `{"` + policy.DefaultedLabel + `":"true"}`
	if !pod.meta.present {
		out.open("add", pod.path, "/metadata")
		out.write(`{`)
		if len(names) > 0 {
			out.write(`"annotations":{"`, policy.InjectedAnnotation, `":`)
			out.text(record)
			out.write(`},`)
		}
		out.write(`"labels":`, labels, `}`)
		out.close()
		return
	}
	switch {
	case len(names) == 0:
	case !pod.meta.annotated:
		out.open("add", pod.path, "/metadata/annotations")
		out.write(`{"`, policy.InjectedAnnotation, `":`)
		out.text(record)
		out.write(`}`)
		out.close()
	case annotate:
		out.open("add", pod.path, "/metadata/annotations/", escape(policy.InjectedAnnotation))
		out.text(record)
		out.close()
	}
	switch {
	case pod.meta.labels == nil:
		out.open("add", pod.path, "/metadata/labels")
		out.write(labels)
		out.close()
	case !labelled:
		out.open("add", pod.path, "/metadata/labels/", escape(policy.DefaultedLabel))
		out.write(`"true"`)
		out.close()
	}
}

// unseenByPods reports whether an annotation of the workload decides over its pods,
// which can't be seen when they are created.
func (in *input) unseenByPods() bool {
	return in.object.kind != "Pod" && !in.offline && slices.ContainsFunc(podSettings[:], func(name string) bool { return in.policy.From(name) == policy.SourceWorkload })
}

// podSettings are the settings that decide over what a pod gets.
var podSettings = [...]string{policy.SettingAntiAffinity, policy.SettingTopologyKeys, policy.SettingPreStopSleep, policy.SettingReadinessProbe, policy.SettingContainers}

// maxAnnotationBytes is how large annotations may be that a record is added to: the
// API's limit of 256 KiB (apimachinery TotalAnnotationSizeLimitB) less a kibibyte.
const maxAnnotationBytes = 255 << 10

// defaults are the names of all defaults in the order of the record.
var defaults = []string{DefaultAntiAffinity, DefaultPreStopSleep, DefaultReadinessProbe}

// readRecord returns the names in a record, and false when it is none of ours.
func readRecord(record string) ([]string, bool) {
	if record == "" {
		return nil, false
	}
	names := strings.Split(record, ",")
	for _, name := range names {
		if !slices.Contains(defaults, name) {
			return nil, false
		}
	}
	return names, true
}

// recorded reports whether the record of pod says that a default was added before.
func recorded(pod *podTemplate, name string) bool {
	names, ours := readRecord(pod.meta.annotations[policy.InjectedAnnotation])
	return ours && slices.Contains(names, name)
}

// escape escapes a member name for a JSON pointer (RFC 6901).
func escape(name string) string {
	return strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
}

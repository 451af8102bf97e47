package patches

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/evenkeel/evenkeel/internal/scan"
	"github.com/evenkeel/evenkeel/policy"
)

// DefaultAntiAffinity is the name of the default that keeps replicas apart.
const DefaultAntiAffinity = policy.SettingAntiAffinity

// podTemplateHash is the label that a Deployment puts on the pods of one revision.
const podTemplateHash = policy.TemplateHash

// rolloutsHash is the label that an Argo Rollout puts on the pods of one revision.
const rolloutsHash = "rollouts-pod-template-hash"

// maxSelector caps the selector that terms repeat, in bytes.
const maxSelector = 16 << 10

// addSpread keeps the replicas of a workload on different nodes and zones, by one of
// two means and never by both; what stands of the other one is taken back. Any
// podAntiAffinity or topologySpreadConstraint of the user switches it off.
func addSpread(in *input, out *output) {
	pod := in.pod()
	terms, constraints := pod.affinitySlot(), pod.constraintSlot()
	for _, part := range pod.ours.affinityParts {
		out.remove(pod.path, "/spec/affinity/podAntiAffinity/", part)
	}
	for _, i := range slices.Backward(pod.ours.constraintParts) {
		out.remove(pod.path, constraints.leaf, "/", strconv.Itoa(i))
	}
	selector, skip := in.spread()
	switch {
	case skip != SkipNone:
		standing := terms.standing
		if standing == nil {
			standing = constraints.standing
		}
		out.skip(DefaultAntiAffinity, "", skip, standing)
		out.takeBack(&terms)
		out.takeBack(&constraints)
	case in.policy.Spread == policy.SpreadTopology && in.policy.AntiAffinity == policy.AntiAffinityPreferred:
		out.takeBack(&terms)
		in.addConstraints(out, &constraints, selector)
	default:
		in.addTerms(out, &terms, selector)
		out.takeBack(&constraints)
	}
}

// addTerms adds one preferred term per topology key, weights 100, 50 and then halving,
// or the first key as a required term.
func (in *input) addTerms(out *output, at *slot, selector json.RawMessage) {
	matchLabelKeys := ""
	if hash := in.revisionLabel(); in.cluster.matchLabelKeys() && hash != "" && !mayName(selector, hash) {
		matchLabelKeys = `,"matchLabelKeys":["` + hash + `"]`
	}
	term := func(key string) {
		out.write(`{"labelSelector":`)
		out.raw(selector)
		out.write(`,"topologyKey":`)
		out.text([]byte(key))
		out.write(matchLabelKeys, `}`)
	}
	out.begin(at)
	const required, preferred = `{"requiredDuringSchedulingIgnoredDuringExecution":[`,
		`"preferredDuringSchedulingIgnoredDuringExecution":[`
	between := "{" + preferred
	for i, key := range in.policy.TopologyKeys {
		if i == 0 && in.policy.AntiAffinity == policy.AntiAffinityRequired {
			out.write(required)
			term(key)
			out.write(`]`)
			between = "," + preferred
			continue
		}
		out.write(between, `{"weight":`)
		out.integer(int64(max(100>>i, 1)))
		out.write(`,"podAffinityTerm":`)
		term(key)
		out.write(`}`)
		between = ","
	}
	if between == "," {
		out.write(`]`)
	}
	out.write(`}`)
	out.noteTerms(out.patch[at.valueStart:])
	out.fill(at)
	detail, base := in.over, &in.config.Base
	if in.policy.AntiAffinity != base.AntiAffinity || !slices.Equal(in.policy.TopologyKeys, base.TopologyKeys) {
		detail = over(string(in.policy.AntiAffinity), in.policy.TopologyKeys)
	}
	out.applied(DefaultAntiAffinity, "", detail, at)
}

// noteTerms records the fingerprints of our terms, of the required and of the preferred ones.
func (o *output) noteTerms(value []byte) {
	if o.failed != SkipNone { // the value isn't whole
		return
	}
	o.note("", DefaultAntiAffinity, "")
	between := false
	err := memberPrints(value, func(_ []byte, print uint64) {
		if between {
			o.record = append(o.record, ':')
		}
		between = true
		o.record = appendPrint(o.record, print)
	})
	if err != nil {
		panic(fmt.Errorf("read own value: %w", err)) // Review turns it into SkipInternalError
	}
}

// spread returns the selector to keep replicas apart by, or why there is none.
func (in *input) spread() (json.RawMessage, Skip) {
	pod := in.pod()
	switch {
	case in.daemonSet():
		return nil, SkipDaemonSet
	case in.policy.AntiAffinity == policy.AntiAffinityOff:
		return nil, SkipOff
	case pod.podAntiAffinity != nil, pod.topologySpread:
		return nil, SkipUserSet
	}
	return in.selector()
}

// over says for the report what was added.
func over(mode string, keys []string) string {
	var room [128]byte
	text := append(append(room[:0], mode...), " over "...)
	for i, key := range keys {
		if i > 0 {
			text = append(text, ", "...)
		}
		text = append(text, key...)
	}
	return string(text)
}

// revisionLabel returns the label that the pods of one revision have in common, or "": a term can
// be scoped to one revision by it, so that a rolling update spreads among the new pods, and a required
// term can't deadlock it.
func (in *input) revisionLabel() string {
	if in.object.kind == "Deployment" {
		return podTemplateHash
	}
	for _, hash := range [...]string{podTemplateHash, rolloutsHash} {
		if _, ok := in.pod().meta.label(hash); ok {
			return hash
		}
	}
	return ""
}

// selector returns the label selector that selects the workload's own pods: its
// spec.selector whole, or for a Pod and a ReplicationController, whose selector is
// a plain map, one made of their labels.
func (in *input) selector() (json.RawMessage, Skip) {
	var selector json.RawMessage
	switch in.object.kind {
	case "ReplicationController":
		if labels := in.object.selector; !noSelector(labels) {
			selector = marshal(map[string]any{"matchLabels": json.RawMessage(labels)})
			break
		}
		fallthrough // the API takes the template's labels
	case "Pod":
		var room [8]label
		labels := room[:0]
		for _, l := range in.pod().meta.labels {
			if !in.pod().meta.belongsToOnePod(l) {
				labels = append(labels, l)
			}
		}
		selector = matchLabels(in.selectorRoom[:0], labels)
		if selector == nil {
			return nil, SkipNoLabels
		}
	default:
		selector = in.object.selector
		if noSelector(selector) {
			return nil, SkipNoSelector
		}
	}
	if len(selector) > maxSelector {
		return nil, SkipTooLarge
	}
	return selector, SkipNone
}

// matchLabels appends a selector of labels, sorted by their keys, to room, and returns nil without any.
func matchLabels(room []byte, labels []label) json.RawMessage {
	if len(labels) == 0 {
		return nil
	}
	slices.SortFunc(labels, func(a, b label) int { return bytes.Compare(a.key, b.key) })
	room = append(room, `{"matchLabels":{`...)
	for i, l := range labels {
		if i > 0 {
			room = append(room, ',')
		}
		room = append(scan.AppendString(room, l.key), ':')
		room = scan.AppendString(room, l.value)
	}
	return append(room, `}}`...)
}

// mayName reports whether the raw selector may have a requirement on label, which
// then can't be in matchLabelKeys too: the API rejects such a term. An escape,
// which no label needs, could hide it.
func mayName(selector []byte, label string) bool {
	if bytes.IndexByte(selector, '\\') >= 0 {
		var value any
		err := json.Unmarshal(selector, &value)
		if selector, _ = json.Marshal(value); err != nil { // what was read can be written
			return true
		}
	}
	return bytes.Contains(selector, []byte(`"`+label+`"`))
}

// noSelector reports whether the raw selector is as good as none, which selects everything or nothing: not set,
// or an object whose members are all empty.
func noSelector(selector []byte) bool {
	s, err := scan.New(selector)
	if err != nil {
		return true
	}
	empty := true
	var room [4][]byte
	keys := room[:0]
	err = s.Each(func(key []byte) error {
		if slices.ContainsFunc(keys, func(other []byte) bool { return bytes.Equal(key, other) }) ||
			len(keys) > maxSelectorMembers {
			return errTwice // which of them counts is not ours to say
		}
		keys = append(keys, key)
		value, err := s.Skip()
		if err == nil && string(value) != "null" &&
			(value[0] != '{' && value[0] != '[' || len(bytes.TrimSpace(value[1:len(value)-1])) > 0) {
			empty = false
		}
		return err
	})
	return empty || err != nil
}

// maxSelectorMembers is how many members a selector may have; the API knows two.
const maxSelectorMembers = 32

// belongsToOnePod reports whether a label of the pod m tells it from its siblings, or one revision
// from another: one that a controller is known to put on for that
// (https://kubernetes.io/docs/reference/labels-annotations-taints/), one of ours, or one with the
// pod's name, or with what its name has after that of its controller, such as an ordinal. A term
// that selects by such a label selects nobody else (strimzi/strimzi-kafka-operator labels each pod
// of StrimziPodSets so).
func (m *metadata) belongsToOnePod(l label) bool {
	switch key := string(l.key); key {
	case podTemplateHash, rolloutsHash, "controller-revision-hash", "statefulset.kubernetes.io/pod-name",
		"apps.kubernetes.io/pod-index", "strimzi.io/pod-name", "apps.kruise.io/cloneset-instance-id",
		"leaderworkerset.sigs.k8s.io/worker-index", "training.kubeflow.org/replica-index",
		corev1.LabelHostname, corev1.LabelTopologyZone, corev1.LabelTopologyRegion, // of the node that it runs on
		corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion,
		"job-name", "controller-uid":
		return true
	default:
		if strings.HasPrefix(key, "batch.kubernetes.io/") || strings.HasPrefix(key, policy.Prefix) {
			return true
		}
	}
	value := string(l.value)
	switch {
	case value == "" || value == m.controllerName:
		return false
	case value == m.name:
		return true
	}
	own := ""
	if rest, ok := strings.CutPrefix(m.name, m.controllerName+"-"); ok && m.controllerName != "" {
		own = rest
	} else if _, after := cutLast(m.name, "-"); isNumber(after) {
		own = after
	}
	if own == "" {
		return false
	}
	before, ends := strings.CutSuffix(value, own)
	switch {
	case !ends:
		return false
	case isNumber(own): // the 2 of broker-2 and of v2, not that of 12
		return before == "" || before[len(before)-1] < '0' || before[len(before)-1] > '9'
	}
	return before == "" || before[len(before)-1] == '-'
}

// cutLast cuts text around the last instance of sep; without one, both parts are "".
func cutLast(text, sep string) (before, after string) {
	i := strings.LastIndex(text, sep)
	if i < 0 {
		return "", ""
	}
	return text[:i], text[i+len(sep):]
}

func isNumber(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool { return r < '0' || r > '9' })
}

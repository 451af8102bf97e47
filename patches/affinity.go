package patches

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/evenkeel/evenkeel/policy"
)

// DefaultAntiAffinity is the name of the default that keeps replicas apart.
const DefaultAntiAffinity = policy.SettingAntiAffinity

// podTemplateHash is the label that a Deployment puts on the pods of one revision.
const podTemplateHash = "pod-template-hash"

// maxSelector caps the selector that terms repeat, in bytes.
const maxSelector = 16 << 10

// podAffinityTerm is corev1.PodAffinityTerm with the selector as the user wrote
// it, fields that our API types don't know included.
type podAffinityTerm struct {
	LabelSelector  json.RawMessage `json:"labelSelector"`
	TopologyKey    string          `json:"topologyKey"`
	MatchLabelKeys []string        `json:"matchLabelKeys,omitempty"`
}

type weightedPodAffinityTerm struct {
	Weight          int             `json:"weight"`
	PodAffinityTerm podAffinityTerm `json:"podAffinityTerm"`
}

type podAntiAffinity struct {
	Required  []podAffinityTerm         `json:"requiredDuringSchedulingIgnoredDuringExecution,omitempty"`
	Preferred []weightedPodAffinityTerm `json:"preferredDuringSchedulingIgnoredDuringExecution,omitempty"`
}

// addAntiAffinity keeps the replicas of a workload on different nodes and zones:
// one preferred term per topology key, weights 100, 50 and then halving, or the
// first key as a required term.
//
// Any podAntiAffinity or topologySpreadConstraint of the user switches it off. It
// never adds a topologySpreadConstraint itself: one on the pod switches off the
// scheduler's built-in spread (PodTopologySpread defaultConstraints).
func addAntiAffinity(in *input, out *output) {
	pod := in.pod()
	switch {
	case in.daemonSet():
		out.skip(DefaultAntiAffinity, "", SkipDaemonSet)
		return
	case in.policy.AntiAffinity == policy.AntiAffinityOff:
		out.skip(DefaultAntiAffinity, "", SkipOff)
		return
	case pod.podAntiAffinity, pod.topologySpread:
		out.skip(DefaultAntiAffinity, "", SkipUserSet)
		return
	}
	selector, skip := in.selector()
	if skip != SkipNone {
		out.skip(DefaultAntiAffinity, "", skip)
		return
	}

	term := podAffinityTerm{LabelSelector: selector}
	if in.cluster.matchLabelKeys() && in.revisioned() && !mayName(selector, podTemplateHash) {
		term.MatchLabelKeys = []string{podTemplateHash}
	}
	var rules podAntiAffinity
	for i, key := range in.policy.TopologyKeys {
		term.TopologyKey = key
		if i == 0 && in.policy.AntiAffinity == policy.AntiAffinityRequired {
			rules.Required = append(rules.Required, term)
			continue
		}
		rules.Preferred = append(rules.Preferred, weightedPodAffinityTerm{Weight: max(100>>i, 1), PodAffinityTerm: term})
	}
	if pod.affinity {
		out.add(pod.path+"/spec/affinity/podAntiAffinity", rules)
	} else {
		out.add(pod.path+"/spec/affinity", map[string]podAntiAffinity{"podAntiAffinity": rules})
	}
	out.applied(DefaultAntiAffinity, "", string(in.policy.AntiAffinity)+" over "+strings.Join(in.policy.TopologyKeys, ", "))
}

// revisioned reports whether the pods carry the label pod-template-hash, so that
// a term can be scoped to one revision: a rolling update then spreads among the
// new pods, and a required term can't deadlock it.
func (in *input) revisioned() bool {
	if in.object.kind == "Deployment" {
		return true
	}
	_, ok := in.pod().meta.labels[podTemplateHash]
	return ok
}

// selector returns the label selector that selects the workload's own pods: its
// spec.selector whole, or for a Pod and a ReplicationController, whose selector is
// a plain map, one made of their labels.
func (in *input) selector() (json.RawMessage, Skip) {
	var selector json.RawMessage
	switch in.object.kind {
	case "Pod":
		labels := map[string]string{}
		for key, value := range in.pod().meta.labels {
			if !belongsToOnePod(key) {
				labels[key] = value
			}
		}
		if len(labels) == 0 {
			return nil, SkipNoLabels
		}
		selector = marshal(map[string]any{"matchLabels": labels})
	case "ReplicationController":
		labels := json.RawMessage(in.object.selector)
		if isEmpty(labels) {
			if len(in.pod().meta.labels) == 0 {
				return nil, SkipNoLabels
			}
			labels = marshal(in.pod().meta.labels)
		}
		selector = marshal(map[string]any{"matchLabels": labels})
	default:
		selector = in.object.selector
		if isEmpty(selector) {
			return nil, SkipNoSelector
		}
	}
	if len(selector) > maxSelector {
		return nil, SkipTooLarge
	}
	return selector, SkipNone
}

// mayName reports whether the raw selector may have a requirement on label, which
// then can't be in matchLabelKeys too: the API rejects such a term. An escape,
// which no label needs, could hide it.
func mayName(selector []byte, label string) bool {
	return bytes.Contains(selector, []byte(`"`+label+`"`)) || bytes.IndexByte(selector, '\\') >= 0
}

// isEmpty reports whether the raw selector selects everything or nothing: not set,
// or an object whose members are all empty.
func isEmpty(selector []byte) bool {
	members := map[string]json.RawMessage{}
	if len(selector) == 0 || json.Unmarshal(selector, &members) != nil {
		return true
	}
	for _, value := range members {
		if text := string(bytes.Join(bytes.Fields(value), nil)); !slices.Contains([]string{"{}", "[]", "null"}, text) {
			return false
		}
	}
	return true
}

// belongsToOnePod reports whether a label is put on by a controller to tell one
// pod or one revision from another
// (https://kubernetes.io/docs/reference/labels-annotations-taints/), or by us.
func belongsToOnePod(key string) bool {
	switch key {
	case podTemplateHash, "controller-revision-hash", "statefulset.kubernetes.io/pod-name",
		"apps.kubernetes.io/pod-index", "job-name", "controller-uid":
		return true
	}
	return strings.HasPrefix(key, "batch.kubernetes.io/") || strings.HasPrefix(key, policy.Prefix)
}

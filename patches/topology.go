package patches

import (
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// addConstraints adds one soft topology spread constraint per topology key, with a skew
// of 1: the scheduler counts the workload's own pods per domain, which costs it far less
// in a large cluster than inter-pod affinity
// (https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity).
// A node that a taint keeps the pod away from isn't counted (nodeTaintsPolicy, KEP-3094).
//
// A constraint over a key that nodes don't carry would leave those nodes out of the count
// for all constraints (PodTopologySpread's scoring), so the zone is left out where nodes
// have none, unless it is the only key.
func (in *input) addConstraints(out *output, at *slot, selector json.RawMessage) {
	matchLabelKeys := ""
	if hash := in.revisionLabel(); in.cluster.matchLabelKeys() && hash != "" && !mayName(selector, hash) {
		matchLabelKeys = `"matchLabelKeys":["` + hash + `"],`
	}
	keys := in.topologyKeys()
	out.begin(at)
	var prints []byte
	between := "["
	for _, key := range keys {
		out.write(between)
		start := len(out.patch)
		out.write(`{"labelSelector":`)
		out.patch = append(out.patch, selector...)
		out.write(`,`, matchLabelKeys, `"maxSkew":1,"nodeTaintsPolicy":"Honor","topologyKey":`)
		out.text([]byte(key))
		out.write(`,"whenUnsatisfiable":"ScheduleAnyway"}`)
		if out.failed != SkipNone { // the value isn't whole
			return
		}
		if prints != nil {
			prints = append(prints, ':')
		}
		prints = appendFingerprint(prints, out.patch[start:])
		between = ","
	}
	out.write(`]`)
	out.note("", entryTopology, string(prints))
	out.fill(at)
	out.applied(DefaultAntiAffinity, "", over("topology spread", keys), at)
}

// topologyKeys returns the topology keys of the policy that nodes carry, and at least the first.
func (in *input) topologyKeys() []string {
	keys := in.policy.TopologyKeys
	if i := slices.Index(keys, corev1.LabelTopologyZone); in.cluster.NoZones && i >= 0 && len(keys) > 1 {
		return slices.Concat(keys[:i], keys[i+1:])
	}
	return keys
}

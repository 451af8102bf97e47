package patches

import (
	"encoding/json"
)

// addConstraints adds one soft topology spread constraint per topology key, with a skew
// of 1: the scheduler counts the workload's own pods per domain, which costs it far less
// in a large cluster than inter-pod affinity
// (https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity).
// A node that a taint keeps the pod away from isn't counted (nodeTaintsPolicy, KEP-3094).
//
// A constraint over a key that nodes don't carry would leave those nodes out of the count
// for all constraints (PodTopologySpread's scoring), so such a key is left out where it is
// known; with none left the first one stays.
func (in *input) addConstraints(out *output, at *slot, selector json.RawMessage) {
	matchLabelKeys := ""
	if in.cluster.matchLabelKeys() && in.revisioned() && !mayName(selector, podTemplateHash) {
		matchLabelKeys = `"matchLabelKeys":["` + podTemplateHash + `"],`
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
	if in.cluster.Lacks == nil {
		return in.policy.TopologyKeys
	}
	var keys []string
	for _, key := range in.policy.TopologyKeys {
		if !in.cluster.Lacks(key) {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		keys = in.policy.TopologyKeys[:1]
	}
	return keys
}

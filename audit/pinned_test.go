package audit

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func hostname(values ...string) *corev1.NodeSelector {
	return &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{
			Key: "kubernetes.io/hostname", Operator: corev1.NodeSelectorOpIn, Values: values}}}}}
}

func TestWhoHasNowhereToGo(t *testing.T) {
	nodes := map[string]Node{
		"a": {Labels: map[string]string{"kubernetes.io/hostname": "a", "pool": "large", "cores": "8"}},
		"b": {Labels: map[string]string{"kubernetes.io/hostname": "b", "pool": "small", "cores": "4"}},
		"c": {Labels: map[string]string{"kubernetes.io/hostname": "c", "pool": "small", "cores": "4"}, Cordoned: true},
		"d": {Labels: map[string]string{"kubernetes.io/hostname": "d", "pool": "gpu"},
			Taints: []corev1.Taint{{Key: "gpu", Effect: corev1.TaintEffectNoSchedule}}},
		"e": {Labels: map[string]string{"kubernetes.io/hostname": "e", "pool": "gpu"},
			Taints: []corev1.Taint{{Key: "slow", Effect: corev1.TaintEffectPreferNoSchedule}}},
	}
	volumes := map[string]*corev1.NodeSelector{"shop/local": hostname("a"), "shop/two": hostname("a", "b"),
		"shop/anywhere": nil}
	affinity := func(terms string) string {
		return `"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[` + terms +
			`]}}}`
	}
	volume := func(claim string) string {
		return `"volumes":[{"persistentVolumeClaim":{"claimName":"` + claim + `"}}]`
	}
	cases := map[string]struct {
		node, spec string
		want       bool
	}{
		"nothing binds it":                    {"a", `"containers":[]`, false},
		"it is on no node":                    {"", `"nodeSelector":{"pool":"large"}`, false},
		"a selector for one node":             {"a", `"nodeSelector":{"pool":"large"}`, true},
		"a selector for two, one cordoned":    {"b", `"nodeSelector":{"pool":"small"}`, true},
		"a selector for two, itself cordoned": {"c", `"nodeSelector":{"pool":"small"}`, false},
		"a taint keeps it from another":       {"e", `"nodeSelector":{"pool":"gpu"}`, true},
		"it tolerates the taint": {"e",
			`"nodeSelector":{"pool":"gpu"},"tolerations":[{"key":"gpu","operator":"Exists"}]`, false},
		"a taint that only asks": {"d", `"nodeSelector":{"pool":"gpu"}`, false},
		"affinity to one node": {"a",
			affinity(`{"matchExpressions":[{"key":"cores","operator":"Gt","values":["4"]}]}`), true},
		"affinity to one of two terms": {"a",
			affinity(`{"matchExpressions":[{"key":"pool","operator":"In","values":["large"]}]},` +
				`{"matchExpressions":[{"key":"pool","operator":"In","values":["small"]}]}`), false},
		"affinity to all but itself": {"a",
			affinity(`{"matchExpressions":[{"key":"pool","operator":"NotIn","values":["large"]}]}`), false},
		"affinity by the name of the node": {"a",
			affinity(`{"matchFields":[{"key":"metadata.name","operator":"In","values":["a"]}]}`), true},
		"affinity by an empty term": {"a", affinity(`{}`), true},
		"affinity to a node without the label": {"d",
			affinity(`{"matchExpressions":[{"key":"cores","operator":"DoesNotExist"}]}`), false},
		"affinity to nodes with the label": {"a",
			affinity(`{"matchExpressions":[{"key":"cores","operator":"Exists"}]}`), false},
		"a preference": {"a",
			`"affinity":{"nodeAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[]}}`, false},
		"a local volume":                                    {"a", volume("local"), true},
		"a volume of two nodes":                             {"a", volume("two"), false},
		"a volume of any node":                              {"a", volume("anywhere"), false},
		"a volume that isn't known":                         {"a", volume("new"), false},
		"a volume of two nodes, a selector for one of them": {"a", volume("two") + `,"nodeSelector":{"pool":"large"}`, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p := Pod{Namespace: "shop", Name: "web-1", Node: c.node, JSON: []byte(`{"spec":{` + c.spec + `}}`)}
			if got := p.pinned(nodes, volumes); got != c.want {
				t.Errorf("nowhere to go: %v, want %v", got, c.want)
			}
		})
	}
}

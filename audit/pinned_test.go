package audit

import (
	"fmt"
	"slices"
	"strings"
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
			if got := p.pinned(nodes, volumes) != nil; got != c.want {
				t.Errorf("nowhere to go: %v, want %v", got, c.want)
			}
		})
	}
}

func TestAPinnedPodSaysWhatBindsIt(t *testing.T) {
	nodes := map[string]Node{"a": {Labels: map[string]string{"pool": "large"}},
		"b": {Labels: map[string]string{"pool": "small"}}}
	p := Pod{Namespace: "shop", Name: "web-1", Node: "a", JSON: []byte(`{"spec":{"nodeSelector":{"pool":"large"},` +
		`"affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{}]}}},` +
		`"volumes":[{"persistentVolumeClaim":{"claimName":"data"}}]}}`)}
	got := strings.Join(p.pinned(nodes, map[string]*corev1.NodeSelector{"shop/data": hostname("a")}), " and ")
	want := "its node selector pool=large and its required node affinity and the volume of its claim data"
	if got != want {
		t.Errorf("bound by %q, want %q", got, want)
	}
}

func TestOneNodeIsAdvisedOfByWhatCanHelp(t *testing.T) {
	for name, c := range map[string]struct {
		optedIn bool
		boundBy []string
		want    string
	}{
		"not opted in": {false, nil, OneNode.Explain().Advice},
		"opted in":     {true, nil, "kubectl -n shop rollout restart deployment/web spreads its pods anew."},
		"bound to the node": {true, []string{"its node selector a=b"},
			"It stays on node a by its node selector a=b: let another node fit."},
		"bound, not opted in": {false, []string{"the volume of its claim c"},
			"It stays on node a by the volume of its claim c: let another node fit."},
	} {
		t.Run(name, func(t *testing.T) {
			e := explanation{workload: &Workload{Namespace: "shop", Kind: "Deployment", Name: "web", OptedIn: c.optedIn,
				boundBy: c.boundBy, Findings: []Finding{{OneNode, "a"}}}}
			var got []string
			e.next(func(format string, args ...any) { got = append(got, fmt.Sprintf(format, args...)) })
			if !slices.Equal(got, []string{c.want}) {
				t.Errorf("advice %q, want %q", got, c.want)
			}
		})
	}
}

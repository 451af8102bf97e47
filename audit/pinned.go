package audit

import (
	"bytes"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/klog/v2"
	kjson "sigs.k8s.io/json"
)

// placement is what binds a pod to nodes.
type placement struct {
	NodeSelector map[string]string   `json:"nodeSelector"`
	Affinity     *corev1.Affinity    `json:"affinity"`
	Tolerations  []corev1.Toleration `json:"tolerations"`
	Volumes      []corev1.Volume     `json:"volumes"`
}

// placement returns what binds the pod to nodes, false where nothing does.
func (p *Pod) placement() (placement, bool) {
	fields := []string{`"nodeSelector"`, `"nodeAffinity"`, `"persistentVolumeClaim"`}
	if !slices.ContainsFunc(fields, func(field string) bool { return bytes.Contains(p.JSON, []byte(field)) }) {
		return placement{}, false // as for most pods
	}
	var object struct {
		Spec placement `json:"spec"`
	}
	err := kjson.UnmarshalCaseSensitivePreserveInts(p.JSON, &object)
	return object.Spec, err == nil
}

// pinned returns what binds a pod to its node where no other node would take it:
//
//	bound to no node, or nothing binds it      nothing
//	another node fits that isn't cordoned      nothing
//	otherwise                                  node selector, node affinity and volumes of the pod
//
// A node fits that has the labels that node selector and required node affinity ask
// for, taints that the pod tolerates, and all volumes of the pod. What else the
// scheduler asks for changes from hour to hour and isn't looked at.
func (p *Pod) pinned(nodes map[string]Node, volumes map[string]*corev1.NodeSelector) (by []string) {
	if p.Node == "" {
		return nil
	}
	place, ok := p.placement()
	if !ok {
		return nil
	}
	if len(place.NodeSelector) > 0 {
		by = append(by, "its node selector "+labels.FormatLabels(place.NodeSelector))
	}
	var where []*corev1.NodeSelector
	bind := func(s *corev1.NodeSelector, what string) {
		if s != nil {
			where, by = append(where, s), append(by, what)
		}
	}
	if a := place.Affinity; a != nil && a.NodeAffinity != nil {
		bind(a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution, "its required node affinity")
	}
	for i := range place.Volumes {
		if c := place.Volumes[i].PersistentVolumeClaim; c != nil {
			bind(volumes[p.Namespace+"/"+c.ClaimName], "the volume of its claim "+c.ClaimName)
		}
	}
	for name, node := range nodes {
		if name == p.Node || node.Cordoned ||
			!labels.SelectorFromSet(place.NodeSelector).Matches(labels.Set(node.Labels)) ||
			!tolerated(node.Taints, place.Tolerations) {
			continue
		}
		elsewhere := func(s *corev1.NodeSelector) bool { return !selects(s, name, node.Labels) }
		if !slices.ContainsFunc(where, elsewhere) {
			return nil
		}
	}
	return by
}

// tolerated reports whether no taint keeps a pod away.
func tolerated(taints []corev1.Taint, tolerations []corev1.Toleration) bool {
	for i := range taints {
		if taints[i].Effect == corev1.TaintEffectPreferNoSchedule {
			continue
		}
		if !slices.ContainsFunc(tolerations, func(t corev1.Toleration) bool {
			return t.ToleratesTaint(klog.Background(), &taints[i], true)
		}) {
			return false
		}
	}
	return true
}

// selects reports whether a node selector selects a node: all requirements of one of
// its terms have to hold, and a term without any selects nothing.
func selects(s *corev1.NodeSelector, name string, set map[string]string) bool {
	return slices.ContainsFunc(s.NodeSelectorTerms, func(term corev1.NodeSelectorTerm) bool {
		return len(term.MatchExpressions)+len(term.MatchFields) > 0 &&
			meets(term.MatchExpressions, set) && meets(term.MatchFields, map[string]string{metav1.ObjectNameField: name})
	})
}

func meets(requirements []corev1.NodeSelectorRequirement, set map[string]string) bool {
	operators := map[corev1.NodeSelectorOperator]selection.Operator{corev1.NodeSelectorOpIn: selection.In,
		corev1.NodeSelectorOpNotIn: selection.NotIn, corev1.NodeSelectorOpExists: selection.Exists,
		corev1.NodeSelectorOpDoesNotExist: selection.DoesNotExist, corev1.NodeSelectorOpGt: selection.GreaterThan,
		corev1.NodeSelectorOpLt: selection.LessThan}
	for _, r := range requirements {
		requirement, err := labels.NewRequirement(r.Key, operators[r.Operator], r.Values)
		if err != nil || !requirement.Matches(labels.Set(set)) {
			return false
		}
	}
	return true
}

// pinned finds what binds workloads to their nodes, and those of two replicas or more of which a pod
// has nowhere to go when its node is drained.
func (r *run) pinned() {
	for at, pods := range r.pods {
		w := r.found[at]
		if w.Kind == "DaemonSet" {
			continue
		}
		nodes := map[string]bool{}
		for _, p := range pods {
			if !p.serves() {
				continue
			}
			if by := p.pinned(r.Nodes, r.Volumes); by != nil {
				nodes[p.Node], w.boundBy = true, by
			}
		}
		if w.Replicas < 2 {
			continue
		}
		for _, node := range slices.Sorted(maps.Keys(nodes)) {
			w.find(NowhereToGo, node)
		}
	}
}

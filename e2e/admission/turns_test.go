package admission

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/evenkeel/evenkeel/e2e/check"
)

// turn is one manifest of TestManifestsInTurn, and what stands after it was applied.
type turn struct {
	change func(template *corev1.PodTemplateSpec)
	null   string // the member of the container that the manifest sets to null
	want   string
}

// TestManifestsInTurn applies manifests of one workload one after another, as its author edits
// them. Each has a new image, so that the template changes.
func TestManifestsInTurn(t *testing.T) {
	const all = "required 0, preferred 2, sleep 10, grace 40, tcpSocket"
	bare := func(*corev1.PodTemplateSpec) {}
	annotated := func(t *corev1.PodTemplateSpec) { t.Annotations = map[string]string{"example.com/a": "b"} }
	probe := func(t *corev1.PodTemplateSpec) {
		t.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{
			HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromInt32(80)}}}
	}
	wrongKey := func(t *corev1.PodTemplateSpec) {
		t.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: "rack",
				LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}}}
	}
	for name, turns := range map[string][]turn{
		// The merge takes all annotations away, and the record with them.
		"own annotation, none, own probe": {{annotated, "", all}, {bare, "", all},
			{probe, "", "required 0, preferred 2, sleep 10, grace 40, httpGet"}, {bare, "", all}},
		"no annotations and no lifecycle, in turn": {{annotated, "", all}, {bare, "", all}, {bare, "lifecycle", all},
			{annotated, "", all},
			{bare, "lifecycle", all}, {annotated, "lifecycle", all}, {bare, "", all}},
		"own anti-affinity with a wrong key, taken out": {{bare, "", all},
			{wrongKey, "", "required 1, preferred 0, sleep 10, grace 40, tcpSocket"}, {bare, "", all}},
	} {
		for _, how := range slices.Sorted(maps.Keys(applies)) {
			for _, kind := range []string{"Deployment", "StatefulSet"} {
				t.Run(strings.Join([]string{name, how, kind}, ", "), func(t *testing.T) {
					namespace := optedIn(t, nil)
					for step, turn := range turns {
						object, template := workload(kind, "web", 1)
						template.Spec.Containers[0].Image = fmt.Sprint("nginx:", step)
						turn.change(template)
						kubectl(t, withNull(t, object, turn.null), append(slices.Clone(applies[how]), "-n", namespace)...)
						if got := whatStands(t, namespace, kind); got != turn.want {
							t.Errorf("step %d: %s, want %s", step, got, turn.want)
						}
					}
				})
			}
		}
	}
}

// withNull returns object with a member of its first container written as null.
func withNull(t *testing.T, object metav1.Object, member string) map[string]any {
	t.Helper()
	raw, err := json.Marshal(object)
	check.Must(t, err)
	var manifest map[string]any
	check.Must(t, json.Unmarshal(raw, &manifest))
	if member != "" {
		containers, _, err := unstructured.NestedFieldNoCopy(manifest, "spec", "template", "spec", "containers")
		check.Must(t, err)
		containers.([]any)[0].(map[string]any)[member] = nil
	}
	return manifest
}

// whatStands says what the template of the workload web has of anti-affinity, sleep, grace period and probe.
func whatStands(t *testing.T, namespace, kind string) string {
	t.Helper()
	_, template := stored(t, namespace, kind, "web")
	required, preferred := 0, 0
	if a := template.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		required = len(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		preferred = len(a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	w := &dayTwo{namespace: namespace, kind: kind, name: "web"}
	return fmt.Sprintf("required %d, preferred %d, %s, %s", required, preferred, w.outcome(t),
		strings.Join(handlers(t, template.Spec.Containers[0].ReadinessProbe), "+"))
}

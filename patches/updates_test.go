package patches

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/yaml"

	"github.com/evenkeel/evenkeel/policy"
)

// stored is a Deployment as an API server keeps it, with evenkeel before it. Clients change it as
// the real ones do; e2e/admission has the same through a real API server.
type stored struct {
	t         *testing.T
	flags     map[string]string
	namespace map[string]string
	object    map[string]any
	ran       map[uint64]bool
	problems  []policy.Problem
	// away is set while evenkeel isn't called.
	away bool
	// rollouts counts changes of the template.
	rollouts int
}

const plainDeployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, uid: 3f1c0c42-0000-4000-8000-000000000001}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "web:1", ports: [{containerPort: 80}]}]}
`

func fromYAML(t *testing.T, text string) map[string]any {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	object, err := decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	return object
}

func toJSON(t *testing.T, value any) []byte {
	t.Helper()
	raw, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// send lets the API server take an object, whole or as the result of a patch.
func (s *stored) send(object map[string]any, whole bool) {
	s.t.Helper()
	dropNulls(object)
	addAPIDefaults(object)
	config := DefaultConfig()
	for name, value := range s.flags {
		if err := config.Base.Set(name, value, config.Bounds); err != nil {
			s.t.Fatal(err)
		}
	}
	injector, err := New(config)
	if err != nil {
		s.t.Fatal(err)
	}
	req := Request{Operation: Create, Object: toJSON(s.t, object), Namespace: s.namespace,
		Cluster: clusters[0], Whole: whole, Ran: func(_ string, print uint64) bool { return s.ran[print] }}
	if s.object != nil {
		req.Operation, req.Old = Update, toJSON(s.t, s.object)
	}
	patched := req.Object
	if !s.away {
		if err := checkLaws(injector, req); err != nil {
			s.t.Fatal(err)
		}
		result := injector.Review(req)
		s.problems = result.Problems
		if patched, err = apply(result.Patch, req.Object); err != nil {
			s.t.Fatal(err)
		}
	}
	after, err := decode(patched)
	if err != nil {
		s.t.Fatal(err)
	}
	addAPIDefaults(after)
	print, err := FingerprintTemplate(toJSON(s.t, after["spec"].(map[string]any)["template"]))
	if err != nil {
		s.t.Fatal(err)
	}
	if s.ran == nil {
		s.ran = map[uint64]bool{}
	}
	if s.object == nil || !same(toJSON(s.t, templateIn(s.object)), toJSON(s.t, templateIn(after))) {
		s.rollouts++
	}
	s.ran[print] = true
	s.object = after
}

func (s *stored) copy() map[string]any {
	object, err := decode(toJSON(s.t, s.object))
	if err != nil {
		s.t.Fatal(err)
	}
	return object
}

// patch merges YAML into the object, as kubectl patch does.
func (s *stored) patch(text string) {
	s.t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		s.t.Fatal(err)
	}
	merged, err := strategicpatch.StrategicMergePatch(toJSON(s.t, s.object), raw, appsv1.Deployment{})
	if err != nil {
		s.t.Fatal(err)
	}
	object, err := decode(merged)
	if err != nil {
		s.t.Fatal(err)
	}
	s.send(object, false)
}

const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// apply does what kubectl apply does without --server-side.
func (s *stored) apply(text string) {
	s.t.Helper()
	manifest := fromYAML(s.t, text)
	if s.object == nil {
		note(manifest, string(toJSON(s.t, fromYAML(s.t, text))))
		s.send(manifest, false)
		return
	}
	before, _ := at(s.object, "metadata", "annotations", lastApplied).(string)
	if before == "" {
		before = "{}"
	}
	plain := toJSON(s.t, manifest)
	note(manifest, string(plain))
	s.merge([]byte(before), toJSON(s.t, manifest))
}

// upgrade does what Helm 3 does: a three-way merge without a trace.
func (s *stored) upgrade(before, after string) {
	s.t.Helper()
	s.merge(toJSON(s.t, fromYAML(s.t, before)), toJSON(s.t, fromYAML(s.t, after)))
}

func (s *stored) merge(original, modified []byte) {
	s.t.Helper()
	meta, err := strategicpatch.NewPatchMetaFromStruct(appsv1.Deployment{})
	if err != nil {
		s.t.Fatal(err)
	}
	patch, err := strategicpatch.CreateThreeWayMergePatch(original, modified, toJSON(s.t, s.object), meta, true)
	if err != nil {
		s.t.Fatal(err)
	}
	s.patch(string(patch))
}

func note(manifest map[string]any, text string) {
	metadata := manifest["metadata"].(map[string]any)
	annotations, _ := metadata["annotations"].(map[string]any)
	if annotations == nil {
		annotations = map[string]any{}
		metadata["annotations"] = annotations
	}
	annotations[lastApplied] = text
}

func (s *stored) restart() {
	s.patch(fmt.Sprintf(`spec: {template: {metadata: {annotations: {kubectl.kubernetes.io/restartedAt: "%d"}}}}`,
		s.rollouts))
}

// undo does what kubectl rollout undo does with a template that was there.
func (s *stored) undo(template map[string]any) {
	object := s.copy()
	object["spec"].(map[string]any)["template"] = template
	s.send(object, false)
}

// outlineOf says what stands: the sleep, the grace period, the handler of the probe, how many terms of anti-affinity.
func (s *stored) outline() string {
	template := templateIn(s.object)
	c := at(template, "spec", "containers").([]any)[0].(map[string]any)
	parts := []string{}
	if stop, ok := at(c, "lifecycle", "preStop").(map[string]any); ok {
		for kind := range stop {
			parts = append(parts, kind+" "+fmt.Sprint(at(stop, kind, "seconds")))
		}
	}
	parts = append(parts, "grace "+fmt.Sprint(at(template, "spec", "terminationGracePeriodSeconds")))
	if probe, ok := c["readinessProbe"].(map[string]any); ok {
		for _, kind := range handlerKinds {
			if probe[kind] != nil {
				parts = append(parts, kind)
			}
		}
		parts = append(parts, "every "+fmt.Sprint(probe["periodSeconds"]))
	}
	if affinity, ok := at(template, "spec", "affinity", "podAntiAffinity").(map[string]any); ok {
		preferred, _ := affinity["preferredDuringSchedulingIgnoredDuringExecution"].([]any)
		required, _ := affinity["requiredDuringSchedulingIgnoredDuringExecution"].([]any)
		parts = append(parts, fmt.Sprintf("%d+%d terms", len(required), len(preferred)))
	}
	if tolerations, ok := at(template, "spec", "tolerations").([]any); ok {
		parts = append(parts,
			fmt.Sprintf("%d tolerations of %v s", len(tolerations), at(tolerations[0], "tolerationSeconds")))
	}
	if constraints, ok := at(template, "spec", "topologySpreadConstraints").([]any); ok {
		parts = append(parts, fmt.Sprintf("%d constraints", len(constraints)))
	}
	if len(recordIn(s.object)) == 0 {
		parts = append(parts, "no record")
	}
	return strings.Join(parts, ", ")
}

const (
	all     = "sleep 10, grace 40, tcpSocket, every 5, 0+2 terms"
	noSleep = "grace 30, tcpSocket, every 5, 0+2 terms"

	spreadByTopology = "sleep 10, grace 40, tcpSocket, every 5, 2 constraints"
)

func with(text, old, new string) string { return strings.Replace(text, old, new, 1) }

var (
	ownProbe      = with(plainDeployment, "image:", "readinessProbe: {httpGet: {path: /ready, port: 8081}}, image:")
	ownAnnotation = with(plainDeployment, "metadata: {labels", "metadata: {annotations: {a: b}, labels")
	written30     = with(plainDeployment, "spec: {containers", "spec: {terminationGracePeriodSeconds: 30, containers")
	ownConstraint = with(plainDeployment, "spec: {containers",
		"spec: {topologySpreadConstraints: [{maxSkew: 1, topologyKey: rack, whenUnsatisfiable: DoNotSchedule}], containers")
	nullLifecycle = with(plainDeployment, "image:", "lifecycle: null, image:")
	offInTemplate = with(plainDeployment, "metadata: {labels",
		"metadata: {annotations: {evenkeel.dev/pre-stop-sleep: \"off\"}, labels")
)

const takeHook = `spec: {template: {spec: {containers: [{name: web, lifecycle: null}]}}}`

func TestWhatAnUpdateLeaves(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(s *stored)
		want string
		// rollouts is how often the template changed after the creation.
		rollouts int
	}{
		{"a creation gets everything", func(s *stored) { s.apply(plainDeployment) }, all, 0},
		{"the same manifest again changes nothing",
			func(s *stored) { s.apply(plainDeployment); s.apply(plainDeployment) }, all, 0},
		{"a manifest that replaces the object changes nothing", func(s *stored) {
			s.apply(plainDeployment)
			s.send(fromYAML(s.t, plainDeployment), true)
		}, all, 0},
		{"another setting alone changes nothing", func(s *stored) {
			s.apply(plainDeployment)
			s.flags = map[string]string{"pre-stop-sleep": "20s"}
			s.namespace = map[string]string{"evenkeel.dev/anti-affinity": "off"}
			s.patch(`metadata: {annotations: {evenkeel.dev/readiness-probe: "off"}}`)
			s.send(fromYAML(s.t, plainDeployment), true)
		}, all, 0},
		{"a new flag arrives with a restart", func(s *stored) {
			s.apply(plainDeployment)
			s.flags = map[string]string{"pre-stop-sleep": "20s"}
			s.restart()
		}, "sleep 20, grace 50, tcpSocket, every 5, 0+2 terms", 1},
		{"an annotation of the workload arrives with a restart", func(s *stored) {
			s.apply(plainDeployment)
			s.patch(`metadata: {annotations: {evenkeel.dev/pre-stop-sleep: 20s}}`)
			s.restart()
		}, "sleep 20, grace 50, tcpSocket, every 5, 0+2 terms", 1},
		{"off on the workload and a restart", func(s *stored) {
			s.apply(plainDeployment)
			s.patch(`metadata: {annotations: {evenkeel.dev/pre-stop-sleep: "off"}}`)
			s.restart()
		}, noSleep, 1},
		{"off on the workload, then lifecycle null", func(s *stored) {
			s.apply(plainDeployment)
			s.patch(`metadata: {annotations: {evenkeel.dev/pre-stop-sleep: "off"}}`)
			s.patch(takeHook)
		}, noSleep, 1},
		{"off on the Namespace, then annotations and lifecycle null", func(s *stored) {
			s.apply(plainDeployment)
			s.namespace = map[string]string{"evenkeel.dev/pre-stop-sleep": "off"}
			s.patch(`spec: {template: {metadata: {annotations: null}, spec: {containers: [{name: web, lifecycle: null}]}}}`)
		}, noSleep, 1},
		{"off on the Namespace, then lifecycle null", func(s *stored) {
			s.apply(plainDeployment)
			s.namespace = map[string]string{"evenkeel.dev/pre-stop-sleep": "off"}
			s.patch(takeHook)
		}, noSleep, 1},
		{"off on the workload and lifecycle null at once", func(s *stored) {
			s.apply(plainDeployment)
			s.patch(`{metadata: {annotations: {evenkeel.dev/pre-stop-sleep: "off"}}, spec: {template: {spec: {containers: ` +
				`[{name: web, lifecycle: null}]}}}}`)
		}, noSleep, 1},
		{"off on the template, then lifecycle null", func(s *stored) {
			s.apply(plainDeployment)
			s.apply(offInTemplate)
			s.patch(takeHook)
		}, noSleep, 1},
		{"lifecycle null without a setting", func(s *stored) {
			s.apply(plainDeployment)
			s.patch(takeHook)
			if len(s.problems) != 1 || s.problems[0].Code != policy.ProblemRestored ||
				!strings.Contains(s.problems[0].String(), "evenkeel.dev/pre-stop-sleep") {
				s.t.Errorf("warns of %v", s.problems)
			}
		}, all, 0},
		{"a client that doesn't know a sleep sends a hook without a handler", func(s *stored) {
			s.apply(plainDeployment)
			s.patch(`spec: {replicas: 3, template: {spec: {containers: [{name: web, lifecycle: {preStop: {sleep: null}}}]}}}`)
		}, all, 0},
		{"the same with another image", func(s *stored) {
			s.apply(plainDeployment)
			s.patch(`spec: {template: {spec: {containers: [{name: web, image: "web:2", lifecycle: {preStop: {sleep: null}}}]}}}`)
		}, all, 1},
		{"the same with off on the Namespace", func(s *stored) {
			s.apply(plainDeployment)
			s.namespace = map[string]string{"evenkeel.dev/pre-stop-sleep": "off"}
			s.patch(`spec: {template: {spec: {containers: [{name: web, image: "web:2", lifecycle: {preStop: {sleep: null}}}]}}}`)
		}, noSleep, 1},
		{"everything off on the workload, and a restart", func(s *stored) {
			s.apply(plainDeployment)
			s.patch(`metadata: {annotations: {evenkeel.dev/pre-stop-sleep: "off", evenkeel.dev/anti-affinity: "off", ` +
				`evenkeel.dev/readiness-probe: "off"}}`)
			s.restart()
		}, "grace 30, no record", 1},
		{"annotations taken away by a merge, then an own probe", func(s *stored) {
			s.apply(ownAnnotation)
			s.apply(plainDeployment)
			s.apply(ownProbe)
		}, "sleep 10, grace 40, httpGet, every 10, 0+2 terms", 2},
		{"annotations and lifecycle taken away in turn", func(s *stored) {
			s.apply(ownAnnotation)
			for range 3 {
				s.apply(plainDeployment)
				s.apply(nullLifecycle)
				s.apply(ownAnnotation)
			}
		}, all, 6},
		{"an own probe beside ours", func(s *stored) { s.apply(plainDeployment); s.apply(ownProbe) },
			"sleep 10, grace 40, httpGet, every 10, 0+2 terms", 1},
		{"an own probe with one of our timings", func(s *stored) {
			s.apply(plainDeployment)
			s.apply(with(ownProbe, "port: 8081}", "port: 8081}, periodSeconds: 5"))
		}, "sleep 10, grace 40, httpGet, every 5, 0+2 terms", 1},
		{"an own hook beside ours", func(s *stored) {
			s.apply(plainDeployment)
			s.apply(with(plainDeployment, "image:", "lifecycle: {preStop: {httpGet: {path: /stop, port: 80}}}, image:"))
		}, "httpGet <nil>, grace 30, tcpSocket, every 5, 0+2 terms", 1},
		{"a longer sleep written over ours", func(s *stored) {
			s.apply(plainDeployment)
			s.patch(`spec: {template: {spec: {containers: [{name: web, lifecycle: {preStop: {sleep: {seconds: 35}}}}]}}}`)
		}, "sleep 35, grace 40, tcpSocket, every 5, 0+2 terms", 1},
		{"a sleep of theirs that needs the grace period of ours, and a shorter one of ours", func(s *stored) {
			two := with(plainDeployment, "containers: [",
				`containers: [{name: first, image: "a", ports: [{containerPort: 81}]}, `)
			s.apply(two)
			s.patch(`spec: {template: {spec: {containers: [{name: first, lifecycle: {preStop: {sleep: {seconds: 38}}}}]}}}`)
			s.flags = map[string]string{"pre-stop-sleep": "2s"}
			s.restart()
		}, "sleep 38, grace 40, tcpSocket, every 5, 0+2 terms", 2},
		{"a grace period of 30 that a manifest has from the start",
			func(s *stored) { s.apply(written30); s.apply(written30) }, "sleep 10, grace 30, tcpSocket, every 5, 0+2 terms", 0},
		{"a grace period of 30 that comes into the manifest",
			func(s *stored) { s.apply(plainDeployment); s.apply(written30); s.apply(written30) },
			"sleep 10, grace 30, tcpSocket, every 5, 0+2 terms", 1},
		{"a grace period that comes into the manifest with our own value, and everything off", func(s *stored) {
			s.apply(plainDeployment)
			s.apply(with(written30, "Seconds: 30", "Seconds: 40"))
			s.namespace = map[string]string{"evenkeel.dev/pre-stop-sleep": "off"}
			s.restart()
		}, "grace 40, tcpSocket, every 5, 0+2 terms", 1},
		{"Helm 3 writes 30 with each upgrade", func(s *stored) {
			s.send(fromYAML(s.t, written30), false)
			s.upgrade(written30, written30)
			s.upgrade(written30, written30)
		}, all, 0},
		{"a written grace period that the setting raises grows once", func(s *stored) {
			s.flags = map[string]string{"grace-period": "raise"}
			manifest := with(written30, "Seconds: 30", "Seconds: 45")
			for range 3 {
				s.apply(manifest)
				s.restart()
			}
		}, "sleep 10, grace 55, tcpSocket, every 5, 0+2 terms", 3},
		{"an own anti-affinity that comes and goes", func(s *stored) {
			own := with(plainDeployment, "spec: {containers",
				"spec: {affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: wrong}]}}, "+
					"containers")
			s.apply(plainDeployment)
			s.apply(own)
			s.apply(plainDeployment)
		}, all, 2},
		{"an own required term beside our preferred ones", func(s *stored) {
			own := with(plainDeployment, "spec: {containers",
				"spec: {affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: wrong}]}}, "+
					"containers")
			s.apply(plainDeployment)
			s.apply(own)
		}, "sleep 10, grace 40, tcpSocket, every 5, 1+0 terms", 1},
		{"own preferred terms beside our required one", func(s *stored) {
			own := with(plainDeployment, "spec: {containers",
				"spec: {affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: []}}, containers")
			s.flags = map[string]string{"anti-affinity": "required"}
			s.apply(plainDeployment)
			s.apply(own)
		}, "sleep 10, grace 40, tcpSocket, every 5, 0+0 terms", 1},
		{"the other means of spreading arrives with a restart", func(s *stored) {
			s.apply(plainDeployment)
			s.flags = map[string]string{"spread": "topology-spread"}
			s.apply(plainDeployment)
			s.restart()
		}, spreadByTopology, 1},
		{"and goes with one", func(s *stored) {
			s.flags = map[string]string{"spread": "topology-spread"}
			s.apply(plainDeployment)
			s.flags = nil
			s.send(fromYAML(s.t, plainDeployment), true)
			s.restart()
		}, all, 1},
		{"constraints taken away without a setting", func(s *stored) {
			s.flags = map[string]string{"spread": "topology-spread"}
			s.apply(plainDeployment)
			s.patch(`spec: {template: {spec: {topologySpreadConstraints: null}}}`)
			if len(s.problems) != 1 || s.problems[0].Code != policy.ProblemRestored ||
				!strings.Contains(s.problems[0].String(), "evenkeel.dev/anti-affinity") {
				s.t.Errorf("warns of %v", s.problems)
			}
		}, spreadByTopology, 0},
		{"constraints taken away where they are off", func(s *stored) {
			s.flags = map[string]string{"spread": "topology-spread"}
			s.apply(plainDeployment)
			s.namespace = map[string]string{"evenkeel.dev/anti-affinity": "off"}
			s.patch(`spec: {template: {spec: {topologySpreadConstraints: null}}}`)
		}, "sleep 10, grace 40, tcpSocket, every 5", 1},
		{"an own constraint beside ours", func(s *stored) {
			s.flags = map[string]string{"spread": "topology-spread"}
			s.apply(plainDeployment)
			s.apply(ownConstraint)
		}, "sleep 10, grace 40, tcpSocket, every 5, 1 constraints", 1},
		{"an own constraint that comes and goes", func(s *stored) {
			s.flags = map[string]string{"spread": "topology-spread"}
			s.apply(plainDeployment)
			s.apply(ownConstraint)
			s.apply(plainDeployment)
		}, spreadByTopology, 2},
		{"undo to a revision from before evenkeel", func(s *stored) {
			s.away = true
			s.apply(plainDeployment)
			before := templateIn(s.copy())
			s.away = false
			s.restart()
			s.undo(before)
		}, "grace 30, no record", 2},
		{"undo to a revision whose hook was taken back, while the setting asks for it again", func(s *stored) {
			s.apply(plainDeployment)
			s.namespace = map[string]string{"evenkeel.dev/pre-stop-sleep": "off"}
			s.patch(takeHook)
			before := templateIn(s.copy())
			s.namespace = nil
			s.restart()
			s.undo(before)
		}, noSleep, 3},
		{"undo to what was there before a new setting", func(s *stored) {
			s.apply(plainDeployment)
			before := templateIn(s.copy())
			s.flags = map[string]string{"pre-stop-sleep": "20s"}
			s.restart()
			s.undo(before)
		}, all, 2},
		{"a new container gets its own", func(s *stored) {
			s.apply(plainDeployment)
			s.apply(with(plainDeployment, "containers: [",
				`containers: [{name: first, image: "a", ports: [{containerPort: 81}]}, `))
		}, all, 1},
		{"a setting of node-loss arrives with a restart", func(s *stored) {
			s.apply(plainDeployment)
			s.flags = map[string]string{"node-loss": "30s"}
			s.apply(plainDeployment)
			s.restart()
			s.apply(plainDeployment)
		}, all + ", 2 tolerations of 30 s", 1},
		{"another setting of node-loss arrives with a restart", func(s *stored) {
			s.flags = map[string]string{"node-loss": "30s"}
			s.apply(plainDeployment)
			s.patch(`metadata: {annotations: {evenkeel.dev/node-loss: 1m}}`)
			s.restart()
		}, all + ", 2 tolerations of 60 s", 1},
		{"node-loss off and a restart", func(s *stored) {
			s.namespace = map[string]string{"evenkeel.dev/node-loss": "30s"}
			s.apply(plainDeployment)
			s.namespace = nil
			s.restart()
		}, all, 1},
		{"node-loss off, then tolerations null", func(s *stored) {
			s.namespace = map[string]string{"evenkeel.dev/node-loss": "30s"}
			s.apply(plainDeployment)
			s.namespace = nil
			s.patch(`spec: {template: {spec: {tolerations: null}}}`)
		}, all, 1},
		{"tolerations null without a setting", func(s *stored) {
			s.flags = map[string]string{"node-loss": "30s"}
			s.apply(plainDeployment)
			s.patch(`spec: {template: {spec: {tolerations: null}}}`)
			if len(s.problems) != 1 || s.problems[0].Code != policy.ProblemRestored ||
				!strings.Contains(s.problems[0].String(), "evenkeel.dev/node-loss") {
				s.t.Errorf("warns of %v", s.problems)
			}
		}, all + ", 2 tolerations of 30 s", 0},
		{"tolerations that come into the manifest win, and stay when the setting goes", func(s *stored) {
			s.flags = map[string]string{"node-loss": "30s"}
			own := with(plainDeployment, "spec: {containers",
				"spec: {tolerations: [{key: dedicated, operator: Exists}], containers")
			s.apply(plainDeployment)
			s.apply(own)
			s.apply(own)
			s.flags = nil
			s.restart()
		}, all + ", 1 tolerations of <nil> s", 2},
		{"tolerations that come into the manifest with our own values are theirs", func(s *stored) {
			s.flags = map[string]string{"node-loss": "30s"}
			s.apply(plainDeployment)
			s.apply(with(plainDeployment, "spec: {containers", `spec: {tolerations: [
				{key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 30},
				{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 30}], containers`))
			s.flags = nil
			s.restart()
		}, all + ", 2 tolerations of 30 s", 1},
		{"undo to what was there before node-loss", func(s *stored) {
			s.apply(plainDeployment)
			before := templateIn(s.copy())
			s.flags = map[string]string{"node-loss": "30s"}
			s.restart()
			s.undo(before)
		}, all, 2},
		{"an update while evenkeel is away, and a restart", func(s *stored) {
			s.apply(plainDeployment)
			s.away = true
			s.send(fromYAML(s.t, plainDeployment), true)
			s.away = false
			s.restart()
		}, all, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &stored{t: t}
			test.do(s)
			if got := s.outline(); got != test.want {
				t.Errorf("left is %s\nwant    %s", got, test.want)
			}
			if s.rollouts-1 != test.rollouts {
				t.Errorf("the template changed %d times after the creation, want %d", s.rollouts-1, test.rollouts)
			}
		})
	}
}

// TestAnotherWebhookAfterOurs shows that what the API server takes without evenkeel it takes with
// it: evenkeel is called again.
func TestAnotherWebhookAfterOurs(t *testing.T) {
	for name, test := range map[string]struct {
		change func(template map[string]any)
		want   string
	}{
		"sets a grace period of 5 s": {func(template map[string]any) {
			template["spec"].(map[string]any)["terminationGracePeriodSeconds"] = json.Number("5")
		}, "sleep 2, grace 5, tcpSocket, every 5, 0+2 terms"},
		"merges a handler into the probe": {func(template map[string]any) {
			c := at(template, "spec", "containers").([]any)[0].(map[string]any)
			c["readinessProbe"].(map[string]any)["httpGet"] = map[string]any{"path": "/ready", "port": json.Number("8081")}
		}, "sleep 10, grace 40, httpGet, every 10, 0+2 terms"},
		"merges a command into the hook": {func(template map[string]any) {
			c := at(template, "spec", "containers").([]any)[0].(map[string]any)
			at(c, "lifecycle", "preStop").(map[string]any)["exec"] = map[string]any{"command": []any{"true"}}
		}, "exec <nil>, grace 30, tcpSocket, every 5, 0+2 terms"},
		"sets an affinity of its own": {func(template map[string]any) {
			at(template, "spec", "affinity").(map[string]any)["podAntiAffinity"] = map[string]any{}
		}, "sleep 10, grace 40, tcpSocket, every 5, 0+0 terms"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, operation := range []Operation{Create, Update} {
				s := &stored{t: t}
				if operation == Update {
					s.apply(ownAnnotation)
				}
				s.apply(plainDeployment) // the first round
				first := s.copy()
				test.change(templateIn(first))
				if operation == Create {
					s.object, s.ran = nil, nil
				}
				s.send(first, false)
				if got := s.outline(); got != test.want {
					t.Errorf("%s leaves %s\nwant %s", operation, got, test.want)
				}
			}
		})
	}
}

// choices are what a random source or a fuzzer chooses among, a byte for each choice.
type choices []byte

// below returns the next choice, at least 0 and less than n; 0 where none is left.
func (c *choices) below(n int) int {
	if len(*c) == 0 {
		return 0
	}
	first := (*c)[0]
	*c = (*c)[1:]
	return int(first) % n
}

// TestRandomUpdatesEndWhereACreationEnds sends hundreds of random updates, with other settings,
// lost annotations and times without evenkeel between them. The record is never lost, the grace
// period never grows, and the end is that of a new Deployment. FuzzUpdates looks for updates of
// which that is not true.
func TestRandomUpdatesEndWhereACreationEnds(t *testing.T) {
	t.Parallel()
	seeds := uint64(60)
	if testing.Short() { // with the race detector, which makes it eight times as slow; make test runs all of it without
		seeds = 6
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			chosen := make(choices, 50)
			for i := range chosen {
				chosen[i] = byte(random.Uint32())
			}
			checkUpdates(t, chosen)
		})
	}
}

// FuzzUpdates sends the updates that a fuzzer chooses.
func FuzzUpdates(f *testing.F) {
	// the hook is taken away, then the annotations, then the hook
	f.Add([]byte("\x00\x01\x02\x04\x01"))
	f.Add([]byte("\x02\x06\x00\x06\x04\x06\x02\x06\x00\x06\x04")) // annotations and lifecycle in turn
	f.Add([]byte("\x00\x00\x01\x02\x00\x02\x01\x03\x00\x03\x01")) // another sleep, none, and back to both
	f.Add([]byte("\x03\x05\x00\x03\x02\x05\x02\x04\x06\x01"))     // a written grace period, and evenkeel away
	f.Add([]byte("\x01\x06\x06\x03\x00\x06\x05\x03\x01\x02\x02")) // an own probe, undone and done again
	f.Fuzz(func(t *testing.T, chosen []byte) { checkUpdates(t, chosen) })
}

// checkUpdates sends the chosen updates, 25 at most, and then one that changes what people wrote.
func checkUpdates(t *testing.T, chosen choices) {
	t.Helper()
	manifests := []string{plainDeployment, ownConstraint, ownProbe, ownAnnotation, written30, nullLifecycle, offInTemplate,
		with(plainDeployment, "web:1", "web:2"), with(ownAnnotation, "web:1", "web:3")}
	settings := []map[string]string{nil, {"pre-stop-sleep": "20s"}, {"pre-stop-sleep": "off"},
		{"anti-affinity": "required"},
		{"readiness-probe": "off"}, {"node-loss": "30s"}, {"spread": "topology-spread"}}
	s := &stored{t: t}
	s.apply(manifests[chosen.below(len(manifests))])
	var templates []map[string]any
	for i := 0; i < 25 && len(chosen) > 0; i++ {
		templates = append(templates, templateIn(s.copy()))
		switch chosen.below(9) {
		case 0:
			s.flags = settings[chosen.below(len(settings))]
		case 1:
			s.patch(takeHook)
		case 2:
			s.restart()
		case 3:
			s.undo(templates[chosen.below(len(templates))])
		case 4:
			s.patch(`spec: {template: {metadata: {annotations: null}}}`)
		case 5:
			s.away = true
			s.restart()
			s.away = false
		default:
			s.apply(manifests[chosen.below(len(manifests))])
		}
		grace, _ := at(templateIn(s.object), "spec", "terminationGracePeriodSeconds").(json.Number).Int64()
		if grace > 50 {
			t.Fatalf("the grace period grew to %d s", grace)
		}
	}
	s.ran = nil // a revision that ran would be left as it is
	last := with(ownAnnotation, "web:1", "web:last")
	s.send(fromYAML(t, last), true)
	fresh := &stored{t: t, flags: s.flags}
	fresh.send(fromYAML(t, last), true)
	for _, o := range []map[string]any{s.object, fresh.object} {
		annotations := at(templateIn(o), "metadata", "annotations").(map[string]any)
		delete(annotations, "kubectl.kubernetes.io/restartedAt")
	}
	if diff := cmp.Diff(templateIn(fresh.object), templateIn(s.object)); diff != "" {
		t.Errorf("not where a creation ends (-creation +updates):\n%s", diff)
	}
}

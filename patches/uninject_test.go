package patches

import (
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestUninjectGivesTheManifestBack injects a manifest offline, changes it as a case says, and takes
// back what the record says. That nothing of ours is left for every case and every workload of the
// corpus is one of the laws (uninjects).
func TestUninjectGivesTheManifestBack(t *testing.T) {
	nulls := `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {annotations: null, labels: {app: web}}
    spec:
      affinity: {podAntiAffinity: null}
      terminationGracePeriodSeconds: null
      containers:
      - {name: a, ports: [{containerPort: 80}], lifecycle: null, readinessProbe: null}
      - {name: b, ports: [{containerPort: 81}], lifecycle: {preStop: null, postStart: null}}
`
	for name, test := range map[string]struct {
		manifest string
		flags    map[string]string
		// change happens to the injected manifest, and to the one that has to come back.
		change func(object map[string]any)
		want   Skip
	}{
		"a plain Deployment": {manifest: plainDeployment},
		"nulls where we add": {manifest: nulls},
		"a null affinity":    {manifest: with(nulls, "affinity: {podAntiAffinity: null}", "affinity: null")},
		"metadata that is null": {manifest: with(nulls, "metadata: {annotations: null, labels: {app: web}}",
			"metadata: null")},
		"empty parents": {manifest: with(with(nulls, "affinity: {podAntiAffinity: null}", "affinity: {}"),
			"annotations: null", "annotations: {}")},
		"a manifest that has our label itself": {manifest: with(plainDeployment, "labels: {app: web}}\n    spec",
			"labels: {app: web, evenkeel.dev/defaulted: \"true\"}}\n    spec")},
		"constraints where an empty list was": {manifest: with(plainDeployment, "spec: {containers",
			"spec: {topologySpreadConstraints: [], containers"), flags: map[string]string{"spread": "topology-spread"}},
		"constraints where null was": {manifest: with(plainDeployment, "spec: {containers",
			"spec: {topologySpreadConstraints: null, containers"), flags: map[string]string{"spread": "topology-spread"}},
		"a workload that was opted out since": {manifest: plainDeployment, change: func(o map[string]any) {
			o["metadata"].(map[string]any)["labels"] = map[string]any{"evenkeel.dev/inject": "disabled"}
		}},
		"a grace period that was written since": {manifest: plainDeployment, change: func(o map[string]any) {
			templateIn(o)["spec"].(map[string]any)["terminationGracePeriodSeconds"] = "77"
		}, want: SkipUnreadable},
	} {
		t.Run(name, func(t *testing.T) {
			config := DefaultConfig()
			for name, value := range test.flags {
				if err := config.Base.Set(name, value, config.Bounds); err != nil {
					t.Fatal(err)
				}
			}
			injector, err := New(config)
			if err != nil {
				t.Fatal(err)
			}
			before := fromYAML(t, test.manifest)
			raw := toJSON(t, before)
			injected, err := apply(
				injector.Review(Request{Operation: Create, Object: raw, Offline: true, Cluster: clusters[0]}).Patch, raw)
			if err != nil {
				t.Fatal(err)
			}
			object, err := decode(injected)
			if err != nil {
				t.Fatal(err)
			}
			if len(recordIn(object)) == 0 {
				t.Fatal("nothing was injected")
			}
			if test.change != nil {
				test.change(before)
				test.change(object)
				injected = toJSON(t, object)
			}
			result := Uninject(injected)
			if test.want != SkipNone {
				if result.Decisions[0].Skip != test.want || string(result.Patch) != "[]" {
					t.Errorf("skips with %q and answers %s", result.Decisions[0].Skip, result.Patch)
				}
				return
			}
			restored, err := apply(result.Patch, injected)
			if err != nil {
				t.Fatal(err)
			}
			after, err := decode(restored)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(before, after) {
				t.Errorf("left is (-before +after):\n%s", cmp.Diff(before, after))
			}
		})
	}
}

// TestUninjectTakesNothingBackWithoutARecordOfOurs has what looks like ours and isn't, and what can't be read.
func TestUninjectTakesNothingBackWithoutARecordOfOurs(t *testing.T) {
	for name, test := range map[string]struct {
		object string
		want   Skip
	}{
		"a Deployment without a record": {
			`{"apiVersion":"apps/v1","kind":"Deployment","spec":{"template":{"spec":{"containers":[
			{"name":"web","lifecycle":{"preStop":{"sleep":{"seconds":10}}}}]}}}}`, SkipOff},
		"a record of somebody else": {
			`{"apiVersion":"v1","kind":"Pod","metadata":{"annotations":{"evenkeel.dev/injected":"yes"}},
			"spec":{"containers":[{"name":"web"}]}}`, SkipForeignRecord},
		"a kind without a pod template": {`{"apiVersion":"v1","kind":"Service"}`, SkipKind},
		"a Deployment without a spec":   {`{"apiVersion":"apps/v1","kind":"Deployment"}`, SkipUnreadable},
		"no JSON":                       {`{`, SkipUnreadable},
		"containers of one name": {`{"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"name":"a"},{"name":"a"}]}}`,
			SkipContainerName},
	} {
		t.Run(name, func(t *testing.T) {
			r := Uninject([]byte(test.object))
			if string(r.Patch) != "[]" || len(r.Operations) != 0 || r.Decisions[0].Skip != test.want {
				t.Errorf("answers %s and skips with %q, want %q", r.Patch, r.Decisions[0].Skip, test.want)
			}
		})
	}
}

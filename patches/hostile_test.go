package patches

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/evenkeel/evenkeel/policy"
)

// hostileValues returns what no setting allows as a value, however it is written, and what the
// probe alone does: its path and its service are free text.
func hostileValues(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("testdata/hostile-values.json")
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	if err := json.Unmarshal(text, &values); err != nil {
		t.Fatal(err)
	}
	if len(values) < 50 {
		t.Fatalf("only %d values", len(values))
	}
	for _, huge := range []string{"A", "a,", "9", "[", "é", "http:80/"} {
		values = append(values, strings.Repeat(huge, 5000))
	}
	return append(values, `http:8080/","privileged":true,"x":"`, "http:8080/../../<script>",
		"https:web/~1spec~1hostPID?a=${HOME}", "grpc:8080/$(id)")
}

// hostileObject is a Deployment that everything can be added to, with an annotation at itself or at its pod template.
func hostileObject(t *testing.T, annotated policy.Source, key, value string) []byte {
	t.Helper()
	annotations := map[policy.Source]map[string]string{annotated: {key: value}}
	raw, err := json.Marshal(map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment",
		"metadata": map[string]any{"name": "web", "namespace": "shop", "annotations": annotations[policy.SourceWorkload]},
		"spec": map[string]any{
			"selector": map[string]any{"matchLabels": map[string]any{"app": "web"}},
			"template": map[string]any{
				"metadata": map[string]any{"labels": map[string]any{"app": "web"},
					"annotations": annotations[policy.SourcePodTemplate]},
				"spec": map[string]any{"containers": []any{map[string]any{"name": "web", "image": "web",
					"ports": []any{map[string]any{"name": "web", "containerPort": 8080}}}}},
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestNothingOfAHostileValueGetsIntoAPatch gives every annotation that is read, and some that
// aren't, every hostile value in every place. Either the value is refused, with a problem, and the
// patch is the one without it; or it is a list of label keys, as topology keys; or it is the path
// or the service of a probe. Each is there alone.
func TestNothingOfAHostileValueGetsIntoAPatch(t *testing.T) {
	t.Parallel()
	injector, err := New(DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	review := func(place policy.Source, key, value string) (Result, error) {
		req := Request{Operation: Create, Cluster: clusters[0]}
		if place == policy.SourceNamespace {
			req.Namespace = map[string]string{key: value}
		}
		req.Object = hostileObject(t, place, key, value)
		return injector.Review(req), checkLaws(injector, req)
	}
	keys := []string{policy.Prefix + "pre-stop-slep", policy.InjectLabel, policy.DefaultedLabel}
	for _, s := range policy.Settings() {
		keys = append(keys, s.Annotation())
	}
	values := hostileValues(t)
	step := 1
	if testing.Short() { // with the race detector, which makes it eight times as slow; make test runs all of it without
		step = 7
	}
	for _, place := range []policy.Source{policy.SourcePodTemplate, policy.SourceWorkload, policy.SourceNamespace} {
		bare, err := review(place, "example.com/harmless", "yes")
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range keys {
			accepted := 0
			for i := len(values) - 1; i >= 0; i -= step {
				value := values[i]
				got, err := review(place, key, value)
				if err == nil && len(got.Problems) == 0 {
					accepted++
					err = onlyWhereItBelongs(bare, got, value)
				} else if err == nil && string(got.Patch) != string(bare.Patch) &&
					(key != policy.Prefix+policy.SettingContainers || !less(got, bare)) {
					err = fmt.Errorf("is refused (%s) and changes the patch to %s", got.Problems[0], got.Patch)
				}
				if err != nil {
					t.Errorf("%s %s=%.60q: %v", place, key, value, err)
				}
			}
			text := key == policy.Prefix+policy.SettingReadinessProbe || key == policy.Prefix+policy.SettingTopologyKeys
			if text != (accepted > 0) {
				t.Errorf("%d hostile values of %s are accepted at the %s", accepted, key, place)
			}
		}
	}
}

// less reports whether a result adds a part of another, as where a list of containers names none.
func less(got, bare Result) bool {
	whole, _ := readRecord(recordOf(bare))
	part, _ := readRecord(recordOf(got))
	for _, e := range part {
		if whole.get(e.container, e.name) != e.value {
			return false
		}
	}
	for _, op := range got.Operations {
		if !strings.Contains(op.Path, "/metadata/annotations") &&
			!slices.ContainsFunc(bare.Operations, func(other Change) bool { return cmp.Equal(op, other) }) {
			return false
		}
	}
	return len(part) > 0
}

// entriesOf returns the names of the entries of the record that a result writes.
func entriesOf(r Result) []string {
	read, _ := readRecord(recordOf(r))
	names := make([]string, len(read))
	for i, e := range read {
		names[i] = e.container + "/" + e.name
	}
	return names
}

// recordOf returns the record that a result writes.
func recordOf(r Result) string {
	for _, op := range r.Operations {
		var text string
		if strings.HasSuffix(op.Path, escapedInjected) && json.Unmarshal(op.Value, &text) == nil {
			return text
		}
		var annotations map[string]string
		if strings.HasSuffix(op.Path, "/annotations") && json.Unmarshal(op.Value, &annotations) == nil {
			return annotations[policy.InjectedAnnotation]
		}
	}
	return ""
}

// onlyWhereItBelongs says where the patch of a value differs from the one without it, but in a
// probe's path or service or in topology keys.
func onlyWhereItBelongs(bare, got Result, value string) error {
	if len(got.Operations) != len(bare.Operations) {
		return fmt.Errorf("changes the patch to %s", got.Patch)
	}
	for i, op := range got.Operations {
		_, field, _ := strings.Cut(op.Path, "/spec/template/")
		var err error
		switch field {
		case "spec/containers/0/readinessProbe":
			err = checkProbe(op.Value, value)
		case "spec/affinity":
			err = checkTerms(op.Value, value)
		case "metadata/annotations", "metadata/annotations/" + escapedInjected:
			if a, b := entriesOf(bare), entriesOf(got); !slices.Equal(a, b) || len(a) == 0 {
				err = fmt.Errorf("makes the record %s of %s", b, a)
			}
		default:
			if diff := cmp.Diff(bare.Operations[i], op); diff != "" {
				err = errors.New(diff)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkProbe says what of a probe is neither a number nor an enum nor the text after the first slash of a value.
func checkProbe(raw json.RawMessage, value string) error {
	var probe struct {
		TCPSocket *struct{ Port any }
		HTTPGet   *struct {
			Path, Scheme string
			Port         any
		}
		GRPC *struct {
			Service string
			Port    int
		}
		PeriodSeconds, TimeoutSeconds, FailureThreshold, SuccessThreshold, InitialDelaySeconds int
	}
	_, free, _ := strings.Cut(value, "/")
	switch err := strict(raw, &probe); {
	case err != nil:
		return err
	case probe.HTTPGet != nil && probe.HTTPGet.Path == "/"+free &&
		(probe.HTTPGet.Scheme == "" || probe.HTTPGet.Scheme == "HTTPS"):
	case probe.GRPC != nil && probe.GRPC.Service == free:
	case probe.TCPSocket != nil && probe.TCPSocket.Port == 8080.0: // the default: the value was another setting's
	default:
		return fmt.Errorf("makes the probe %s", raw)
	}
	return nil
}

// checkTerms says what of an affinity is neither a number nor the workload's own label nor a label
// key, of the default or of a value.
func checkTerms(raw json.RawMessage, value string) error {
	var affinity struct {
		PodAntiAffinity struct {
			PreferredDuringSchedulingIgnoredDuringExecution []struct {
				Weight          int
				PodAffinityTerm struct {
					TopologyKey    string
					MatchLabelKeys []string
					LabelSelector  struct{ MatchLabels struct{ App string } }
				}
			}
		}
	}
	if err := strict(raw, &affinity); err != nil {
		return err
	}
	for _, term := range affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
		key := term.PodAffinityTerm.TopologyKey
		if len(validation.IsQualifiedName(key)) > 0 || !strings.Contains(value+policy.Settings()[1].Default, key) ||
			term.PodAffinityTerm.LabelSelector.MatchLabels.App != "web" {
			return fmt.Errorf("makes the affinity %s", raw)
		}
	}
	return nil
}

// strict decodes JSON without fields that the target doesn't have.
func strict(raw json.RawMessage, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("%s: %w", raw, err)
	}
	return nil
}

package validation

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	applier "gopkg.in/evanphx/json-patch.v4"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"sigs.k8s.io/yaml"

	"github.com/evenkeel/evenkeel/patches"
)

// refusedPods returns the matcher of the webhook that is called for Pods of templates that were done, as the API server
// compiles it from deploy/.
func refusedPods(t testing.TB) matchconditions.Matcher {
	t.Helper()
	text, err := os.ReadFile("../../deploy/base/webhook.yaml")
	if err != nil {
		t.Fatal(err)
	}
	documents := strings.Split(string(text), "\n---\n")
	var configuration admissionregistrationv1.MutatingWebhookConfiguration
	if err := yaml.UnmarshalStrict([]byte(documents[len(documents)-1]), &configuration); err != nil {
		t.Fatal(err)
	}
	if configuration.Name != "zzz-evenkeel" || len(configuration.Webhooks[0].MatchConditions) != 1 {
		t.Fatalf("%s has %d conditions", configuration.Name, len(configuration.Webhooks[0].MatchConditions))
	}
	condition := matchconditions.MatchCondition(configuration.Webhooks[0].MatchConditions[0])
	policy := admissionregistrationv1.Ignore
	return matchconditions.NewMatcher(plugincel.NewConditionCompiler(
		environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())).CompileCondition(
		[]plugincel.ExpressionAccessor{&condition}, plugincel.OptionalVariableDeclarations{HasAuthorizer: true},
		environment.StoredExpressions), &policy, "webhook", "admit", configuration.Webhooks[0].Name)
}

// attributesOf returns what the condition sees of the creation of a Pod, as the API server makes it.
func attributesOf(t testing.TB, raw []byte) *admission.VersionedAttributes {
	t.Helper()
	internal, err := decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	kind := corev1.SchemeGroupVersion.WithKind("Pod")
	versioned, err := legacyscheme.Scheme.ConvertToVersion(internal, corev1.SchemeGroupVersion)
	if err != nil {
		t.Fatal(err)
	}
	return &admission.VersionedAttributes{VersionedKind: kind, VersionedObject: versioned,
		Attributes: admission.NewAttributesRecord(internal, nil, kind, "shop", "web",
			corev1.SchemeGroupVersion.WithResource("pods"), "", admission.Create, &metav1.CreateOptions{}, false, nil)}
}

// TestTheConditionHoldsWhereAPodWouldBeRefused changes Pods of a template that was done as another
// webhook could. Where the API server would refuse one, the condition holds, and what evenkeel answers
// makes it valid; where it holds, the Pod would be refused, or sleeps as long as its grace period.
func TestTheConditionHoldsWhereAPodWouldBeRefused(t *testing.T) {
	matcher := refusedPods(t)
	injector, err := patches.New(patches.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	version := patches.Version{Major: 1, Minor: 36}
	request := patches.Request{Operation: patches.Create,
		Cluster: patches.Cluster{APIServer: version, OldestKubelet: version}}
	request.Object = []byte(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{
		"name":"web","namespace":"shop"},"spec":{
		"selector":{"matchLabels":{"app":"web"}},"template":{"metadata":{"labels":{"app":"web"}},"spec":{
		"containers":[{"name":"web","image":"web","ports":[{"containerPort":80}],"terminationMessagePolicy":"File",
		"imagePullPolicy":"Always"},
		{"name":"log","image":"log","terminationMessagePolicy":"File","imagePullPolicy":"Always"}],
		"restartPolicy":"Always","dnsPolicy":"ClusterFirst"}}}}`)
	var done struct {
		Spec struct {
			Template struct {
				Metadata, Spec json.RawMessage
			}
		}
	}
	injected := mustApply(t, injector.Review(request).Patch, request.Object)
	if err := json.Unmarshal(injected, &done); err != nil {
		t.Fatal(err)
	}
	owned := mustApply(t, []byte(`[{"op":"add","path":"/namespace","value":"shop"},
		{"op":"add","path":"/name","value":"web-1"},
		{"op":"add","path":"/ownerReferences","value":[
		{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web","uid":"u","controller":true}]},
		{"op":"add","path":"/labels/pod-template-hash","value":"1"}]`), done.Spec.Template.Metadata)
	pod := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Pod","metadata":%s,"spec":%s}`, owned, done.Spec.Template.Spec)
	const get = `{"httpGet":{"path":"/","port":81}}`
	sidecar := `{"op":"add","path":"/spec/initContainers","value":[{"name":"proxy","image":"p","restartPolicy":"Always",` +
		`"terminationMessagePolicy":"File","imagePullPolicy":"Always",` +
		`"readinessProbe":` + get + `,"lifecycle":{"preStop":{"sleep":{"seconds":0}}}}]}`
	parts := [][]string{{""}, {"", sidecar}}
	for _, grace := range []int{0, 1, 5, 9, 10, 11, 39} {
		parts[0] = append(parts[0],
			fmt.Sprintf(`{"op":"replace","path":"/spec/terminationGracePeriodSeconds","value":%d}`, grace))
	}
	parts = append(parts,
		[]string{"", `{"op":"add","path":"/spec/containers/0/readinessProbe/httpGet","value":{"path":"/","port":81}}`,
			`{"op":"remove","path":"/spec/containers/0/readinessProbe"}`},
		[]string{"", `{"op":"add","path":"/spec/containers/0/lifecycle/preStop/exec","value":{"command":["true"]}}`,
			`{"op":"add","path":"/spec/containers/1/lifecycle/preStop/httpGet","value":{"port":81}}`,
			`{"op":"remove","path":"/spec/containers/0/lifecycle"}`},
		[]string{"", `{"op":"remove","path":"/metadata/annotations/evenkeel.dev~1injected"}`})
	refused, looked := 0, 0
	each(parts, nil, func(operations []string) {
		looked++
		raw := mustApply(t, []byte("["+strings.Join(operations, ",")+"]"), pod)
		result := matcher.Match(t.Context(), attributesOf(t, raw), nil, nil)
		why := accepted(raw)
		recorded := strings.Contains(string(raw), "evenkeel.dev/injected")
		switch {
		case result.Error != nil:
			t.Errorf("%v: the condition fails: %v", operations, result.Error)
		case why != nil && recorded && !result.Matches:
			t.Errorf("%v: refused, and the condition doesn't hold: %v", operations, why)
		case why == nil && result.Matches && !strings.Contains(fmt.Sprint(operations), `Seconds","value":10}`):
			t.Errorf("%v: the condition holds for a Pod that is taken", operations)
		}
		if !result.Matches {
			return
		}
		refused++
		again := request
		again.Object = raw
		if err := accepted(mustApply(t, injector.Review(again).Patch, raw)); err != nil {
			t.Errorf("%v: refused with what evenkeel answers: %v", operations, err)
		}
	})
	if looked != 8*2*3*4*2 || refused < 100 {
		t.Errorf("%d Pods were looked at, and the condition holds for %d", looked, refused)
	}
}

// each calls use with one of each of parts, without those that are empty.
func each(parts [][]string, chosen []string, use func([]string)) {
	if len(parts) == 0 {
		use(chosen)
		return
	}
	for _, part := range parts[0] {
		if part == "" {
			each(parts[1:], chosen, use)
		} else {
			each(parts[1:], append(chosen[:len(chosen):len(chosen)], part), use)
		}
	}
}

func mustApply(t testing.TB, patch, raw []byte) []byte {
	t.Helper()
	decoded, err := applier.DecodePatch(patch)
	if err != nil {
		t.Fatal(err)
	}
	now, err := decoded.Apply(raw)
	if err != nil {
		t.Fatalf("%v: %s", err, patch)
	}
	return now
}

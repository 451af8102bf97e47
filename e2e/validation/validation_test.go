// Package validation proves that what evenkeel adds is valid: it patches random
// workloads and hands them to the API server's own decoding, defaulting and
// validation, as its registry calls them.
package validation

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	applier "gopkg.in/evanphx/json-patch.v4"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/apps"
	_ "k8s.io/kubernetes/pkg/apis/apps/install" // the types of the API and their defaults
	appsvalidation "k8s.io/kubernetes/pkg/apis/apps/validation"
	api "k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install" // as above
	"k8s.io/kubernetes/pkg/apis/core/validation"

	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
)

// reader reads objects as the API server does, with their defaults and in their
// internal version; unknown and repeated fields are errors.
var reader = serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict).UniversalDecoder()

func decode(raw []byte) (runtime.Object, error) { return runtime.Decode(reader, raw) }

// admitted returns the bytes that the API server sends to an admission webhook.
func admitted(object runtime.Object) ([]byte, error) {
	kind := object.GetObjectKind().GroupVersionKind()
	raw, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	internal, err := decode(raw)
	if err != nil {
		return nil, err
	}
	return runtime.Encode(legacyscheme.Codecs.LegacyCodec(kind.GroupVersion()), internal)
}

// accepted returns why the API server would reject the creation of an object. It
// calls what the registry's strategies call (pkg/registry/core/pod/strategy.go,
// pkg/registry/apps/deployment/strategy.go, …/statefulset/strategy.go).
func accepted(raw []byte) error {
	object, err := decode(raw)
	if err != nil {
		return err
	}
	if m, ok := object.(metav1.Object); ok && m.GetName() == "" && m.GetGenerateName() != "" {
		m.SetName(m.GetGenerateName() + "x7k2p") // as the API server does before it validates
	}
	switch o := object.(type) {
	case *api.Pod:
		selectByMatchLabelKeys(o)
		options := podutil.GetValidationOptionsFromPodSpecAndMeta(&o.Spec, nil, &o.ObjectMeta, nil)
		options.ResourceIsPod = true
		return validation.ValidatePodCreate(o, options).ToAggregate()
	case *apps.Deployment:
		return appsvalidation.ValidateDeployment(o, podutil.GetValidationOptionsFromPodTemplate(&o.Spec.Template,
			nil)).ToAggregate()
	case *apps.StatefulSet:
		return appsvalidation.ValidateStatefulSet(o, podutil.GetValidationOptionsFromPodTemplate(&o.Spec.Template,
			nil)).ToAggregate()
	case *apps.DaemonSet:
		return appsvalidation.ValidateDaemonSet(o, podutil.GetValidationOptionsFromPodTemplate(&o.Spec.Template,
			nil)).ToAggregate()
	case *apps.ReplicaSet:
		return appsvalidation.ValidateReplicaSet(o, podutil.GetValidationOptionsFromPodTemplate(&o.Spec.Template,
			nil)).ToAggregate()
	case *api.ReplicationController:
		return validation.ValidateReplicationController(o,
			podutil.GetValidationOptionsFromPodTemplate(o.Spec.Template, nil)).ToAggregate()
	}
	return fmt.Errorf("can't validate a %T", object)
}

// selectByMatchLabelKeys writes matchLabelKeys into the selectors of
// podAntiAffinity, as the API server does before it validates a Pod (mutatePodAffinity
// in pkg/registry/core/pod/strategy.go); a key that stands there already is invalid.
func selectByMatchLabelKeys(pod *api.Pod) {
	if pod.Spec.Affinity == nil || pod.Spec.Affinity.PodAntiAffinity == nil {
		return
	}
	write := func(term *api.PodAffinityTerm) {
		for _, key := range term.MatchLabelKeys {
			if value, ok := pod.Labels[key]; ok && term.LabelSelector != nil {
				term.LabelSelector.MatchExpressions = append(term.LabelSelector.MatchExpressions,
					metav1.LabelSelectorRequirement{Key: key, Operator: metav1.LabelSelectorOpIn, Values: []string{value}})
			}
		}
	}
	rules := pod.Spec.Affinity.PodAntiAffinity
	for i := range rules.RequiredDuringSchedulingIgnoredDuringExecution {
		write(&rules.RequiredDuringSchedulingIgnoredDuringExecution[i])
	}
	for i := range rules.PreferredDuringSchedulingIgnoredDuringExecution {
		write(&rules.PreferredDuringSchedulingIgnoredDuringExecution[i].PodAffinityTerm)
	}
}

// acceptedUpdate returns why the API server would reject an update.
func acceptedUpdate(raw, old []byte) error {
	before, err1 := decode(old)
	after, err2 := decode(raw)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	for _, object := range []runtime.Object{before, after} {
		m, ok := object.(metav1.Object)
		if !ok {
			return fmt.Errorf("%T has no metadata", object)
		}
		m.SetResourceVersion("1")
	}
	switch o := after.(type) {
	case *apps.Deployment:
		was := before.(*apps.Deployment)
		return appsvalidation.ValidateDeploymentUpdate(o, was,
			podutil.GetValidationOptionsFromPodTemplate(&o.Spec.Template, &was.Spec.Template)).ToAggregate()
	case *apps.StatefulSet:
		was := before.(*apps.StatefulSet)
		return appsvalidation.ValidateStatefulSetUpdate(o, was,
			podutil.GetValidationOptionsFromPodTemplate(&o.Spec.Template, &was.Spec.Template)).ToAggregate()
	}
	return fmt.Errorf("can't validate a %T", after)
}

// acceptedDebugging returns why the API server would reject that an ephemeral
// container is added to a pod.
func acceptedDebugging(raw []byte) error {
	before, err1 := decode(raw)
	after, err2 := decode(raw)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	was, pod := before.(*api.Pod), after.(*api.Pod)
	was.Name, pod.Name = "web", "web" // which may still have to be generated
	pod.ResourceVersion, was.ResourceVersion = "1", "1"
	pod.Spec.EphemeralContainers = []api.EphemeralContainer{
		{EphemeralContainerCommon: api.EphemeralContainerCommon{Name: "debug", Image: "debug",
			ImagePullPolicy: api.PullIfNotPresent, TerminationMessagePolicy: api.TerminationMessageReadFile}}}
	options := podutil.GetValidationOptionsFromPodSpecAndMeta(&pod.Spec, &was.Spec, &pod.ObjectMeta, &was.ObjectMeta)
	options.ResourceIsPod = true
	return validation.ValidatePodEphemeralContainersUpdate(pod, was, options).ToAggregate()
}

func apply(patch, object []byte) ([]byte, error) {
	decoded, err := applier.DecodePatch(patch)
	if err != nil {
		return nil, err
	}
	return decoded.Apply(object)
}

// injector makes an Injector with random settings, and a random cluster.
func (g *generator) injector(t *testing.T) (*patches.Injector, patches.Cluster) {
	config := patches.DefaultConfig()
	config.AllowExecSleep = g.chance(2)
	config.MaxGracePeriod = time.Duration(pick(g, 1, 5, 30, 45, 600, 3600)) * time.Second
	config.Bounds.MaxPreStopSleep = time.Duration(pick(g, 1, 30, 60, 3600)) * time.Second
	for _, setting := range []struct {
		name   string
		values []string
	}{
		{policy.SettingAntiAffinity, []string{"preferred", "required", "off"}},
		{policy.SettingPreStopSleep, []string{"1s", "off"}},
		{policy.SettingGracePeriod, []string{"raise"}},
		{policy.SettingReadinessProbe, []string{"auto", "off", "tcp:http", "grpc:80", "https:port-1/x"}},
		{policy.SettingTopologyKeys, []string{"rack", "a/b,c/d"}},
		{policy.SettingNodeLoss, []string{"30s", "24h"}},
	} {
		if g.chance(4) {
			if err := config.Base.Set(setting.name, pick(g, setting.values...), config.Bounds); err != nil {
				t.Fatal(err)
			}
		}
	}
	injector, err := patches.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return injector, pick(g, patches.Cluster{APIServer: patches.Version{Major: 1, Minor: 36},
		OldestKubelet: patches.Version{Major: 1, Minor: 36}},
		patches.Cluster{APIServer: patches.Version{Major: 1, Minor: 36}},
		patches.Cluster{APIServer: patches.Version{Major: 1, Minor: 30}})
}

// number reads a positive number from the environment.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 {
		t.Fatalf("%s=%q is no positive number", name, text)
	}
	return n
}

// TestPatchedWorkloadsAreValid patches $VALIDATION_PODS random workloads, 20,000
// unless set, from the seed $VALIDATION_SEED, a new one unless set.
func TestPatchedWorkloadsAreValid(t *testing.T) {
	count, seed := number(t, "VALIDATION_PODS", 20000), number(t, "VALIDATION_SEED", uint64(time.Now().UnixNano()))
	t.Logf("VALIDATION_SEED=%d VALIDATION_PODS=%d", seed, count)
	seen := map[string]int{}
	for i := range count {
		g := &generator{Rand: rand.New(rand.NewPCG(seed, i)), port: 10000}
		if err := g.check(t, seen); err != nil {
			t.Fatalf("VALIDATION_SEED=%d, workload %d: %v", seed, i, err)
		}
	}
	t.Logf("seen: %v", seen)
	for _, what := range []string{
		"Pod", "Deployment", "StatefulSet", "added anti-affinity", "added pre-stop-sleep", "added readiness-probe",
		"not patched",
		"DaemonSet", "ReplicaSet", "ReplicationController", "manifest", "raised, and invalid without",
		"with an ephemeral container", "update", "update that is invalid without", "problem", "kept",
	} {
		if uint64(seen[what]) < count/1000 {
			t.Errorf("%s: only %d of %d workloads; the generator does not reach it", what, seen[what], count)
		}
	}
}

// check makes a workload, patches it, and returns why the API server would reject
// it.
func (g *generator) check(t *testing.T, seen map[string]int) error {
	injector, cluster := g.injector(t)
	offline := g.chance(5) // as inject sees it: without the API's defaults, and of more kinds
	var object runtime.Object
	switch n := g.IntN(8); {
	case n < 2:
		object = g.deployment()
	case n < 4:
		object = g.statefulSet()
	case n < 6 && offline:
		object = g.manifest()
	default:
		object = g.pod()
	}
	kind := object.GetObjectKind().GroupVersionKind().Kind
	seen[kind]++
	raw, err := admitted(object)
	if offline {
		seen["manifest"]++
		raw, err = json.Marshal(object)
	}
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if err := accepted(raw); err != nil {
		return fmt.Errorf("the generator made an invalid %s: %w\n%s", kind, err, raw)
	}
	namespace := map[string]string{}
	if g.chance(4) {
		key, value := g.annotation()
		namespace[key] = value
	}
	result := injector.Review(patches.Request{Operation: patches.Create, Object: raw, Namespace: namespace,
		Cluster: cluster, Offline: offline})
	if result.Err != nil {
		return fmt.Errorf("review: %w\n%s", result.Err, raw)
	}
	if len(result.Problems) > 0 {
		seen["problem"]++
	}
	if len(result.Operations) == 0 {
		seen["not patched"]++
		return nil
	}
	for _, name := range append(patches.Defaults(), patches.Optional()...) {
		for _, d := range result.Decisions {
			if d.Default == name && d.Skip == patches.SkipNone {
				seen["added "+name]++
				break
			}
		}
	}
	patched, err := apply(result.Patch, raw)
	if err != nil {
		return fmt.Errorf("apply %s: %w\n%s", result.Patch, err, raw)
	}
	if err := accepted(patched); err != nil {
		return fmt.Errorf("the patch makes it invalid: %w\n%s\n%s", err, result.Patch, raw)
	}
	if unraised, ok := withoutRaise(result, raw); ok && accepted(unraised) != nil {
		seen["raised, and invalid without"]++ // the validation sees what it is here for
	}
	if kind == "Pod" {
		if !offline && acceptedDebugging(raw) == nil {
			seen["with an ephemeral container"]++
			if err := acceptedDebugging(patched); err != nil {
				return fmt.Errorf("the patch keeps an ephemeral container out: %w\n%s\n%s", err, result.Patch, raw)
			}
		}
		return nil
	}
	for what, workload := range map[string][]byte{"before": raw, "after": patched} {
		pod, err := podOf(kind, workload)
		if err != nil {
			return err
		}
		if err := accepted(pod); err != nil {
			return fmt.Errorf("its pod is invalid %s the patch: %w\n%s\n%s", what, err, result.Patch, raw)
		}
	}
	if offline {
		return nil
	}
	return g.checkUpdate(injector, cluster, object, patched, seen)
}

// podOf makes the pod that the controllers make of a workload's template: a
// Deployment's carry the hash of the template as a label.
func podOf(kind string, workload []byte) ([]byte, error) {
	var o struct {
		Spec struct{ Template corev1.PodTemplateSpec }
	}
	if err := json.Unmarshal(workload, &o); err != nil {
		return nil, err
	}
	pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: o.Spec.Template.ObjectMeta,
		Spec: o.Spec.Template.Spec}
	pod.Name, pod.Namespace = "web-x", "default"
	if kind == "Deployment" && pod.Labels["pod-template-hash"] == "" {
		pod.Labels["pod-template-hash"] = "6d4b"
	}
	return admitted(pod)
}

// withoutRaise applies all of a patch but the raised grace period.
func withoutRaise(result patches.Result, raw []byte) ([]byte, bool) {
	var all []map[string]any
	if json.Unmarshal(result.Patch, &all) != nil {
		return nil, false
	}
	var others []map[string]any
	for _, op := range all {
		if op["op"] != "replace" {
			others = append(others, op)
		}
	}
	patch, err := json.Marshal(others)
	if err != nil || len(others) == len(all) {
		return nil, false
	}
	object, err := apply(patch, raw)
	return object, err == nil
}

// checkUpdate changes the pod template of a stored workload, once as kubectl apply
// does, which leaves our additions, and once as kubectl replace does, which sends
// the manifest.
func (g *generator) checkUpdate(injector *patches.Injector, cluster patches.Cluster, object runtime.Object, old []byte,
	seen map[string]int) error {
	var after runtime.Object
	if g.chance(2) {
		after = object
	} else {
		after = object.DeepCopyObject()
		if err := json.Unmarshal(old, after); err != nil {
			return err
		}
	}
	var template *corev1.PodTemplateSpec
	switch o := after.(type) {
	case *appsv1.Deployment:
		template = &o.Spec.Template
	case *appsv1.StatefulSet:
		template = &o.Spec.Template
	}
	if g.chance(2) {
		template.Spec.TerminationGracePeriodSeconds = ptr(pick(g, int64(0), 1, 2, 5, 10, 20, 29, 30, 60, 600))
	}
	if g.chance(3) {
		g.port = 20000
		template.Spec.Containers = append(template.Spec.Containers, g.container("added", &template.Spec, 0, false))
	}
	if g.chance(3) {
		template.Spec.Containers[0].Image += ":2"
	}
	if g.chance(4) {
		if template.Annotations == nil {
			template.Annotations = map[string]string{}
		}
		template.Annotations["evenkeel.dev/pre-stop-sleep"] = pick(g, "off", "2s", "60s")
	}
	raw, err := admitted(after)
	if err != nil {
		return fmt.Errorf("encode update: %w", err)
	}
	seen["update"]++
	plain := acceptedUpdate(raw, old)
	result := injector.Review(patches.Request{Operation: patches.Update, Object: raw, Old: old, Cluster: cluster})
	if result.Err != nil {
		return fmt.Errorf("review update: %w\n%s", result.Err, raw)
	}
	patched, err := apply(result.Patch, raw)
	if err != nil {
		return fmt.Errorf("apply %s: %w\n%s", result.Patch, err, raw)
	}
	for _, d := range result.Decisions {
		if d.Detail == "kept as it was" {
			seen["kept"]++
			same, err := sameTemplate(patched, old)
			if err != nil {
				return err
			}
			if !same {
				return fmt.Errorf("the template was not kept as it was: %s\n%s\n%s", result.Patch, raw, old)
			}
			break
		}
	}
	err = acceptedUpdate(patched, old)
	if again := injector.Review(patches.Request{Operation: patches.Update, Object: patched, Old: old,
		Cluster: cluster}); len(again.Operations) > 0 && err == nil {
		return fmt.Errorf("reinvocation adds %s after %s\n%s\n%s", again.Patch, result.Patch, raw, old)
	}
	if plain != nil && err == nil {
		seen["update that is invalid without"]++
	}
	if plain == nil && err != nil {
		return fmt.Errorf("the patch makes the update invalid: %w\n%s\n%s\n%s", err, result.Patch, raw, old)
	}
	return nil
}

// sameTemplate reports whether two workloads have the same pod template to the API
// server, and so no pods to restart.
func sameTemplate(a, b []byte) (bool, error) {
	var templates [2]any
	for i, raw := range [][]byte{a, b} {
		object, err := decode(raw)
		if err != nil {
			return false, err
		}
		switch o := object.(type) {
		case *apps.Deployment:
			templates[i] = o.Spec.Template
		case *apps.StatefulSet:
			templates[i] = o.Spec.Template
		}
	}
	return apiequality.Semantic.DeepEqual(templates[0], templates[1]), nil
}

// TestTheValidationHasTeeth shows that what evenkeel must not send is rejected.
func TestTheValidationHasTeeth(t *testing.T) {
	const pod = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","namespace":"default",
		"labels":{"app":"web","pod-template-hash":"x"}},
		"spec":{"terminationGracePeriodSeconds":5,"containers":[{"name":"web","image":"nginx"}]}}`
	raw, err := decodeAndEncode(pod)
	if err != nil {
		t.Fatal(err)
	}
	if err := accepted(raw); err != nil {
		t.Fatal(err)
	}
	for name, patch := range map[string]string{
		"a sleep longer than the grace period": `[{"op":"add","path":"/spec/containers/0/lifecycle",` +
			`"value":{"preStop":{"sleep":{"seconds":6}}}}]`,
		"a field that does not exist": `[{"op":"add","path":"/spec/containers/0/lifecycle",` +
			`"value":{"preStop":{"nap":{"seconds":1}}}}]`,
		"a probe without a handler": `[{"op":"add","path":"/spec/containers/0/readinessProbe","value":{"periodSeconds":5}}]`,
		"a probe on a port that can't be": `[{"op":"add","path":"/spec/containers/0/readinessProbe",` +
			`"value":{"tcpSocket":{"port":0}}}]`,
		"a weight of 0":   term(`"weight":0,`, `"matchLabels":{"app":"web"}`, ``),
		"a weight of 101": term(`"weight":101,`, `"matchLabels":{"app":"web"}`, ``),
		"a label key in selector and matchLabelKeys": term(`"weight":1,`, `"matchLabels":{"pod-template-hash":"x"}`,
			`,"matchLabelKeys":["pod-template-hash"]`),
	} {
		patched, err := apply([]byte(patch), raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := accepted(patched); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func term(weight, selector, more string) string {
	return `[{"op":"add","path":"/spec/affinity",` +
		`"value":{"podAntiAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{` + weight +
		`"podAffinityTerm":{"topologyKey":"zone","labelSelector":{` + selector + `}` + more + `}}]}}}]`
}

func decodeAndEncode(text string) ([]byte, error) {
	var pod corev1.Pod
	if err := json.Unmarshal([]byte(text), &pod); err != nil {
		return nil, err
	}
	return admitted(&pod)
}

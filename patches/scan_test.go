package patches

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"

	"github.com/evenkeel/evenkeel/internal/scan"
	"github.com/evenkeel/evenkeel/policy"
)

// objects are workloads that are easily read in a wrong way.
var objects = []string{
	`{"kind":"Pod","apiVersion":"v1","kind":"Job"}`,
	`{"kind":"Pod","apiVersion":"v1","spec":{},"spec":{"containers":[{}]}}`,
	`{"spec":{"containers":[{"name":"a"}]},"kind":"Pod","spec":null,"apiVersion":"v1"}`,
	`{"Kind":"Pod","kind":"Deployment","ApiVersion":"v1","apiVersion":"apps/v1"}`,
	`{"\u006bind":"Pod","apiVersion":"\u0076\u0031","spec":{"containers":[{"name":"\ud800"}]}}`,
	`{"kind":"Pod","apiVersion":"v1","metadata":{"labels":{"a":"b","a":"c"}}}`,
	`{"kind":"Pod","apiVersion":"v1","metadata":{"labels":{"a":null}}}`,
	`{"kind":"Pod","apiVersion":"v1","metadata":{"labels":{"a":1}}}`,
	`{"kind":"Pod","apiVersion":"v1","metadata":{"annotations":{"evenkeel.dev/containers":"a",` +
		`"evenkeel.dev\/containers":"b"}}}`,
	`{"kind":"Pod","apiVersion":"v1","metadata":{"annotations":{"x":1,"evenkeel.dev/containers":null}}}`,
	`{"kind":"Pod","apiVersion":"v1","metadata":{"ownerReferences":[{"kind":"Job","controller":null},` +
		`{"kind":"DaemonSet","controller":true},null]}}`,
	`{"kind":"Pod","apiVersion":"v1","metadata":{"ownerReferences":[{"kind":"Job","controller":"true"}]}}`,
	`{"kind":"Pod","apiVersion":"v1","spec":{"terminationGracePeriodSeconds":-0}}`,
	`{"kind":"Pod","apiVersion":"v1","spec":{"terminationGracePeriodSeconds":30.0}}`,
	`{"kind":"Pod","apiVersion":"v1","spec":{"terminationGracePeriodSeconds":9223372036854775808}}`,
	`{"kind":"Pod","apiVersion":"v1","spec":{"terminationGracePeriodSeconds":true}}`,
	`{"kind":"Pod","apiVersion":"v1","spec":{"containers":{}}}`,
	`{"kind":"Pod","apiVersion":"v1","spec":{"containers":[null,{}, {"ports":[null]}]}}`,
	`{"kind":"Pod","apiVersion":"v1","spec":{"containers":[{"ports":[{"containerPort":80,"protocol":"tcp"}]}]}}`,
	`{"kind":"Pod","apiVersion":"v1","spec":{"containers":[{"livenessProbe":{"httpGet":{},"exec":{}},` +
		`"startupProbe":{"grpc":null,"tcpSocket":{}}}]}}`,
	`{"kind":"Pod","apiVersion":"v1","spec":{"containers":[{"lifecycle":{"preStop":{"sleep":{"seconds":5}}}}]}}`,
	`{"kind":"Pod","apiVersion":"v1","spec":{"containers":[{"lifecycle":{"preStop":{"sleeP":{"seconds":5}}}}]}}`,
	`{"kind":"Pod","apiVersion":"v1","spec":{"containers":[{"lifecycle":{"preStop":{"exec":{"Command":["sleep","5"]},` +
		`"sleep":{"seconds":5,"SECONDS":6}}}}]}}`,
	`{"kind":"Pod","apiVersion":"v1","spec":{"os":{"name":"windows"},"nodeSelector":{"kubernetes.io/os":"linux"}}}`,
	`{"kind":"Pod","apiVersion":"v1","spec":{"affinity":{"podAntiAffinity":{}},"topologySpreadConstraints":[null]}}`,
	`{"kind":"Deployment","apiVersion":"apps/v1","spec":{"selector":{"matchLabels":{"a":"b"}},` +
		`"template":{"spec":{"restartPolicy":"Always","schedulingGroup":{"podGroupName":"a"}}}}}`,
	`{"kind":"Deployment","apiVersion":"apps/v1","spec":{"template":[]}}`,
	`{"kind":"ReplicationController","apiVersion":"v1","spec":{"selector":{"a":"b"},"template":null}}`,
	`{"kind":"CronJob","apiVersion":"batch/v1","spec":{"jobTemplate":5}}`,
	`{"kind":"List","apiVersion":"v1","items":[{}]}`,
	`{"kind":"Pod","apiVersion":"v1"} `,
	`{"kind":null,"apiVersion":null,"metadata":null,"spec":null}`,
}

// view is what parse and the API's own types must agree about.
type view struct {
	APIVersion, Kind, Name, Controller string
	Labels, Annotations                map[string]string
	Mirror                             bool
	TemplateLabels, Template           map[string]string
	Affinity, PodAntiAffinity, Spread  bool
	Grace                              *int64
	RestartPolicy                      string
	Grouped                            bool
	Windows                            bool
	Containers                         []containerView
	Selector                           any
}

type containerView struct {
	Name                         string
	Ports                        []string
	Lifecycle, PreStop, Probe    bool
	Sleep                        int64
	LivenessKind, StartupHandler string
}

// viewOf makes a view of a parsed object.
func viewOf(o *object) view {
	v := view{
		APIVersion: o.apiVersion, Kind: o.kind, Name: o.meta.name, Controller: o.meta.controller,
		Labels: labelsOf(&o.meta), Annotations: annotationsOf(&o.meta), Mirror: o.meta.mirror,
		TemplateLabels: labelsOf(&o.pod.meta), Template: annotationsOf(&o.pod.meta),
		Affinity: o.pod.affinity, PodAntiAffinity: o.pod.podAntiAffinity != nil, Spread: o.pod.topologySpread,
		Grace: o.pod.grace, RestartPolicy: o.pod.restartPolicy, Windows: o.pod.windows, Grouped: o.pod.grouped,
	}
	if !o.templated() {
		v.TemplateLabels, v.Template = nil, nil
	}
	for _, c := range o.pod.containers {
		cv := containerView{Name: c.name, Lifecycle: c.lifecycle, PreStop: c.preStop != nil, Probe: c.readinessProbe != nil,
			Sleep: nativeSleepOf(c.preStop)}
		for _, p := range c.ports {
			cv.Ports = append(cv.Ports, fmt.Sprint(string(p.name), p.number, p.tcp))
		}
		cv.LivenessKind, cv.StartupHandler = c.livenessHandler.kind, c.startupHandler.kind
		v.Containers = append(v.Containers, cv)
	}
	if len(o.selector) > 0 {
		if o.kind == "ReplicationController" {
			selector := map[string]string{}
			v.Selector = &selector
		} else {
			v.Selector = &metav1.LabelSelector{}
		}
		if err := kjson.UnmarshalCaseSensitivePreserveInts(o.selector, v.Selector); err != nil {
			v.Selector = err
		}
	}
	return v
}

// labelsOf and annotationsOf return what the API's types hold in a map.
func labelsOf(m *metadata) map[string]string {
	if m.labels == nil {
		return nil
	}
	labels := map[string]string{}
	for _, l := range m.labels {
		labels[string(l.key)] = string(l.value)
	}
	return labels
}

func annotationsOf(m *metadata) map[string]string {
	if m.annotated && m.annotations == nil {
		return map[string]string{}
	}
	return m.annotations
}

// decodeTyped makes a view of the API's own types. strict reports members that
// occur twice.
func decodeTyped(raw []byte) (v view, strict []error, err error) {
	var head metav1.TypeMeta
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &head); err != nil {
		return view{}, nil, err
	}
	into := typeOf(head)
	strict, err = kjson.UnmarshalStrict(raw, into, kjson.DisallowDuplicateFields)
	if err != nil {
		return view{}, nil, err
	}
	v = view{
		APIVersion: head.APIVersion, Kind: head.Kind, Name: into.GetName(),
		Labels: into.GetLabels(), Annotations: ourAnnotations(into.GetAnnotations()),
	}
	_, v.Mirror = into.GetAnnotations()[mirrorAnnotation]
	for _, owner := range into.GetOwnerReferences() {
		if owner.Controller != nil && *owner.Controller {
			v.Controller = owner.Kind
		}
	}
	var spec *corev1.PodSpec
	template := func(t *corev1.PodTemplateSpec) {
		spec, v.TemplateLabels, v.Template = &t.Spec, t.Labels, ourAnnotations(t.Annotations)
	}
	selector := func(s *metav1.LabelSelector) {
		if s != nil {
			v.Selector = s
		}
	}
	switch o := into.(type) {
	case *corev1.Pod:
		spec, v.TemplateLabels, v.Template = &o.Spec, v.Labels, v.Annotations
	case *corev1.ReplicationController:
		if o.Spec.Template != nil {
			template(o.Spec.Template)
		}
		if o.Spec.Selector != nil {
			v.Selector = &o.Spec.Selector
		}
	case *appsv1.Deployment:
		template(&o.Spec.Template)
		selector(o.Spec.Selector)
	case *appsv1.StatefulSet:
		template(&o.Spec.Template)
		selector(o.Spec.Selector)
	case *appsv1.DaemonSet:
		template(&o.Spec.Template)
		selector(o.Spec.Selector)
	case *appsv1.ReplicaSet:
		template(&o.Spec.Template)
		selector(o.Spec.Selector)
	case *batchv1.Job:
		template(&o.Spec.Template)
		selector(o.Spec.Selector)
	}
	if spec == nil {
		return v, strict, nil
	}
	v.Affinity = spec.Affinity != nil
	v.PodAntiAffinity = spec.Affinity != nil && spec.Affinity.PodAntiAffinity != nil
	v.Spread = len(spec.TopologySpreadConstraints) > 0
	v.Grouped = spec.SchedulingGroup != nil
	v.Grace, v.RestartPolicy = spec.TerminationGracePeriodSeconds, string(spec.RestartPolicy)
	v.Windows = spec.OS != nil && spec.OS.Name == corev1.Windows || spec.NodeSelector["kubernetes.io/os"] == "windows"
	for _, c := range spec.Containers {
		cv := containerView{Name: c.Name, Lifecycle: c.Lifecycle != nil, Probe: c.ReadinessProbe != nil}
		for _, p := range c.Ports {
			cv.Ports = append(cv.Ports,
				fmt.Sprint(p.Name, int64(p.ContainerPort), p.Protocol == "" || p.Protocol == corev1.ProtocolTCP))
		}
		if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
			cv.PreStop = true
			raw, err := json.Marshal(c.Lifecycle.PreStop)
			if err != nil {
				return v, strict, err
			}
			cv.Sleep = nativeSleepOf(raw)
		}
		cv.LivenessKind, cv.StartupHandler = handlerKind(c.LivenessProbe), handlerKind(c.StartupProbe)
		v.Containers = append(v.Containers, cv)
	}
	return v, strict, nil
}

// ourAnnotations returns the annotations with our prefix, nil where there are no annotations.
func ourAnnotations(annotations map[string]string) map[string]string {
	if annotations == nil {
		return nil
	}
	kept := map[string]string{}
	for key, value := range annotations {
		if strings.HasPrefix(key, policy.Prefix) {
			kept[key] = value
		}
	}
	return kept
}

func handlerKind(probe *corev1.Probe) string {
	if probe == nil {
		return ""
	}
	var kinds []string
	if probe.HTTPGet != nil {
		kinds = append(kinds, "httpGet")
	}
	if probe.TCPSocket != nil {
		kinds = append(kinds, "tcpSocket")
	}
	if probe.GRPC != nil {
		kinds = append(kinds, "grpc")
	}
	if probe.Exec != nil {
		kinds = append(kinds, "exec")
	}
	if len(kinds) != 1 {
		return ""
	}
	return kinds[0]
}

func TestParseReadsWhatTheAPIReads(t *testing.T) {
	for _, document := range objects {
		checkParse(t, []byte(document))
	}
	for _, c := range readCases(t, "") {
		checkParse(t, c.request.Object)
		checkParse(t, c.request.Old)
	}
	for _, raw := range wild(t) {
		checkParse(t, raw)
	}
}

func FuzzParse(f *testing.F) {
	for _, document := range objects {
		f.Add([]byte(document))
	}
	for _, c := range readCases(f, "") {
		f.Add(c.request.Object)
	}
	f.Fuzz(func(t *testing.T, raw []byte) { checkParse(t, raw) })
}

// checkParse compares parse with the API's own types: what parse accepts is JSON,
// and where the API's types can be read without doubt, parse reads the same.
func checkParse(t *testing.T, raw []byte) {
	t.Helper()
	o, err := parse(raw)
	if err == nil && !json.Valid(raw) {
		t.Fatalf("%.200q: parse takes it, but it is no JSON", raw)
	}
	want, strict, theirs := decodeTyped(raw)
	if err != nil { // a member twice that the type does not have is reason enough
		var members map[string]any
		twice, _ := kjson.UnmarshalStrict(raw, &members, kjson.DisallowDuplicateFields)
		strict = append(strict, twice...)
	}
	if theirs != nil || len(strict) > 0 || !utf8.Valid(raw) ||
		!bytes.HasPrefix(bytes.TrimLeft(raw, " \t\r\n"), []byte("{")) {
		return
	}
	if err != nil {
		t.Fatalf("%.200q: parse says %v, but the API reads it", raw, err)
	}
	if o.tooMany() { // read in part, and left as it is
		return
	}
	if diff := cmp.Diff(want, viewOf(o)); diff != "" {
		t.Errorf("%.200q: parse reads something else (-API +parse):\n%s", raw, diff)
	}
}

// FuzzReview reviews any bytes, and checks the laws where an API server could have sent them.
func FuzzReview(f *testing.F) {
	for _, c := range readCases(f, "") {
		f.Add(c.request.Object, c.request.Old, byte(len(c.sentence)))
	}
	for _, document := range objects {
		f.Add([]byte(document), []byte(nil), byte(0))
	}
	injectors := worlds(f)
	f.Fuzz(func(t *testing.T, raw, old []byte, choice byte) {
		req := Request{Operation: Create, Object: raw, Cluster: clusters[choice%4], Offline: choice&4 != 0}
		if len(old) > 0 {
			req.Operation, req.Old = Update, old
		}
		world := []string{"built in", "required", "explicit probe", "all off"}[choice>>3%4]
		if err := checkLaws(injectors[world], req); err != nil && sendable(raw) && (len(old) == 0 || sendable(old)) {
			t.Errorf("%s: %v", world, err)
		}
	})
}

// tracesNothing reports whether a document says that somebody wrote a grace period which isn't there. The API server
// keeps no such trace, and one that evenkeel adds later is taken for theirs.
func tracesNothing(document []byte) bool {
	object, err := decode(document)
	return err == nil && bytes.Contains(document, []byte("terminationGracePeriodSeconds")) &&
		at(templateIn(object), "spec", "terminationGracePeriodSeconds") == nil
}

// sendable reports whether an API server could send a document as an object: no member is there twice and, in an object
// of a type of its own, no field that the type doesn't have.
func sendable(document []byte) bool {
	var head metav1.TypeMeta
	if kjson.UnmarshalCaseSensitivePreserveInts(document, &head) != nil || head.Kind == "" {
		return false
	}
	var into any = typeOf(head)
	if _, custom := into.(*metav1.PartialObjectMetadata); custom {
		into = &map[string]any{}
	}
	strict, err := kjson.UnmarshalStrict(document, into)
	return err == nil && len(strict) == 0 && !tracesNothing(document)
}

// typeOf returns an object of a type of the API, or one of which only the metadata are known.
func typeOf(head metav1.TypeMeta) metav1.Object {
	switch head.APIVersion + " " + head.Kind {
	case "v1 Pod":
		return &corev1.Pod{}
	case "v1 ReplicationController":
		return &corev1.ReplicationController{}
	case "apps/v1 Deployment":
		return &appsv1.Deployment{}
	case "apps/v1 StatefulSet":
		return &appsv1.StatefulSet{}
	case "apps/v1 DaemonSet":
		return &appsv1.DaemonSet{}
	case "apps/v1 ReplicaSet":
		return &appsv1.ReplicaSet{}
	case "batch/v1 Job":
		return &batchv1.Job{}
	}
	return &metav1.PartialObjectMetadata{}
}

// TestAReadingIsReadAgain reviews objects after others, in the same room: nothing of those may be left in it.
func TestAReadingIsReadAgain(t *testing.T) {
	injector, err := New(DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	review := func(raw []byte, release bool) string {
		s, err := scan.New(raw)
		if err != nil {
			return err.Error()
		}
		r, err := Read(&s)
		if err != nil {
			return err.Error()
		}
		result := describeResult(injector.Review(Request{Operation: Create, ObjectRead: r, Cluster: clusters[0]}))
		if release {
			r.Release()
		}
		return result
	}
	var all [][]byte
	for _, document := range objects {
		all = append(all, []byte(document))
	}
	for _, c := range readCases(t, "") {
		all = append(all, c.request.Object)
	}
	for i, raw := range all {
		fresh := review(raw, false)
		review(all[(i+7)%len(all)], true)
		if again := review(raw, true); again != fresh {
			t.Errorf("%.300s: in used room\n%s\nbut alone\n%s", raw, again, fresh)
		}
	}
}

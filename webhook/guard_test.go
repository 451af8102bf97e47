package webhook

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	kjson "sigs.k8s.io/json"

	"github.com/evenkeel/evenkeel/patches"
)

// apiReview is what the API server's own JSON reads of what evenkeel decides on.
type apiReview struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Request    *struct {
		UID         string          `json:"uid"`
		Operation   string          `json:"operation"`
		Namespace   string          `json:"namespace"`
		SubResource string          `json:"subResource"`
		Object      json.RawMessage `json:"object"`
		OldObject   json.RawMessage `json:"oldObject"`
	} `json:"request"`
}

// envelopes are reviews that are easily read in two ways.
var envelopes = []string{
	reviewOf(podJSON),
	reviewOf(podJSON) + " ", reviewOf(podJSON) + "{}", " " + reviewOf(podJSON), "\ufeff" + reviewOf(podJSON),
	strings.Replace(reviewOf(podJSON), `"object"`, `"Object"`, 1),
	strings.Replace(reviewOf(podJSON), `"object"`, `"\u006fbject"`, 1),
	strings.Replace(reviewOf(podJSON), `"object"`, `"object":{"kind":"Secret"},"object"`, 1),
	strings.Replace(reviewOf(podJSON), `"object"`, `"\u006fbject":{"kind":"Secret"},"object"`, 1),
	strings.Replace(reviewOf(podJSON), `"request"`, `"Request":{"uid":"b"},"request"`, 1),
	strings.Replace(reviewOf(podJSON), `"request"`, `"request":null,"request"`, 1),
	strings.Replace(reviewOf(podJSON), `"uid":"u-1"`, `"uid":"u-1","uid":"u-2"`, 1),
	strings.Replace(reviewOf(podJSON), `"uid":"u-1"`, `"uid":"u\ud800\u0000<\u2028"`, 1),
	strings.Replace(reviewOf(podJSON), `"uid":"u-1"`, "\"uid\":\"\xff\"", 1),
	strings.Replace(reviewOf(podJSON), "u-1", strings.Repeat("u", 127), 1),
	strings.Replace(reviewOf(podJSON), "u-1", strings.Repeat("u", 128), 1),
	strings.Replace(reviewOf(podJSON), "u-1", strings.Repeat("u", 256), 1),
	strings.Replace(reviewOf(podJSON), "u-1", strings.Repeat("u", 257), 1),
	strings.Replace(reviewOf(podJSON), `"uid":"u-1"`, `"uid":null`, 1),
	strings.Replace(reviewOf(podJSON), `"uid":"u-1"`, `"uid":1`, 1),
	strings.Replace(reviewOf(podJSON), `"shop"`, `null`, 1),
	strings.Replace(reviewOf(podJSON), `"shop"`, `["shop"]`, 1),
	strings.Replace(reviewOf(podJSON), `"CREATE"`, `"create"`, 1),
	strings.Replace(reviewOf(podJSON), `"CREATE"`, `"\u0043REATE"`, 1),
	strings.Replace(reviewOf(podJSON), `"namespace"`, `"subResource":"status","subresource":"","namespace"`, 1),
	strings.Replace(reviewOf(podJSON), `"dryRun":false`, `"dryRun":1e999`, 1),
	reviewOf(strings.Repeat("[", 9998) + strings.Repeat("]", 9998)),
	reviewOf(strings.Repeat("[", 9999) + strings.Repeat("]", 9999)),
	reviewOf(" null "), reviewOf("1e5"), reviewOf(`"a"`), reviewOf("01"), reviewOf(`{"a":1}x`),
}

func TestEnvelopeIsReadAsTheAPIReadsIt(t *testing.T) {
	for _, body := range envelopes {
		checkEnvelope(t, []byte(body))
	}
}

func FuzzEnvelope(f *testing.F) {
	for _, body := range envelopes {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) { checkEnvelope(t, body) })
}

// checkEnvelope compares what the guard reads in a review with what sigs.k8s.io/json reads: they read the same, or the
// guard refuses it, which it does for what is no review, invalid UTF-8 and members that occur twice alone.
func checkEnvelope(t *testing.T, body []byte) {
	t.Helper()
	e := &envelope{Context: t.Context()}
	err := e.open(bytes.Clone(body))
	var want apiReview
	strict, theirs := kjson.UnmarshalStrict(body, &want, kjson.DisallowDuplicateFields)
	if err != nil {
		known := want.Request != nil && (want.Request.Operation == "CREATE" || want.Request.Operation == "UPDATE" ||
			want.Request.Operation == "DELETE" || want.Request.Operation == "CONNECT")
		if theirs == nil && len(strict) == 0 && utf8.Valid(body) && known && want.APIVersion == "admission.k8s.io/v1" &&
			want.Kind == "AdmissionReview" && want.Request.UID != "" && len(want.Request.UID) <= 256 {
			t.Errorf("%.300q: refused with %v, but the API reads it", body, err)
		}
		return
	}
	if theirs != nil || want.Request == nil {
		t.Fatalf("%.300q: accepted, but the API says %v", body, theirs)
	}
	r := want.Request
	operation := patches.Operation("")
	if r.SubResource == "" && (r.Operation == "CREATE" || r.Operation == "UPDATE") {
		operation = patches.Operation(r.Operation)
	}
	if string(e.uid) != r.UID || string(e.namespace) != r.Namespace || string(e.subResource) != r.SubResource ||
		e.operation != operation {
		t.Errorf("%.300q: read %q %q %q %q, the API reads %+v", body, e.uid, e.namespace, e.subResource, e.operation, r)
	}
	for _, raw := range []*json.RawMessage{&r.Object, &r.OldObject} {
		if string(*raw) == "null" {
			*raw = nil
		}
	}
	if !bytes.Equal(e.object.Raw(), r.Object) || !bytes.Equal(e.oldObject.Raw(), r.OldObject) {
		t.Errorf("%.300q: object %.100q, old object %.100q; the API reads %.100q and %.100q", body, e.object.Raw(),
			e.oldObject.Raw(), r.Object, r.OldObject)
	}
	slim, _, err := apiDecoder.Decode(slimOf(t, e), nil, nil)
	told := &admissionv1.AdmissionReview{Request: &admissionv1.AdmissionRequest{UID: types.UID(r.UID)}}
	told.SetGroupVersionKind(admissionv1.SchemeGroupVersion.WithKind("AdmissionReview"))
	if diff := cmp.Diff(runtime.Object(told), slim); err != nil || diff != "" {
		t.Errorf("%.300q: kubewebhook is told of something else: %v\n%s", body, err, diff)
	}
}

// apiDecoder reads what kubewebhook reads.
var apiDecoder = func() runtime.Decoder {
	scheme := runtime.NewScheme()
	if err := admissionv1.AddToScheme(scheme); err != nil {
		panic(err)
	}
	return serializer.NewCodecFactory(scheme).UniversalDeserializer()
}()

// slimOf returns what kubewebhook reads.
func slimOf(t *testing.T, e *envelope) []byte {
	t.Helper()
	var slim bytes.Buffer
	if _, err := slim.ReadFrom(e); err != nil {
		t.Fatal(err)
	}
	return slim.Bytes()
}

// TestReviewsShareNothing answers reviews of different sizes one after the other, and at the same
// time: a buffer that is used again must not show in another's answer.
func TestReviewsShareNothing(t *testing.T) {
	handler, _ := newHandler(t)
	handler.(*guard).log.Logger.SetOutput(&bytes.Buffer{})
	var bodies, want []string
	for _, name := range []string{"a", strings.Repeat("b", 63), "c", strings.Repeat("d", 30)} {
		body := reviewOf(strings.ReplaceAll(podJSON, `"web"`, `"`+name+`"`))
		status, answer := post(handler, body)
		answered(t, status, answer)
		if got := string(answered(t, status, answer).Patch); !strings.Contains(got, name+"/pre-stop-sleep=") {
			t.Fatalf("patch %s is not for %s", got, name)
		}
		bodies, want = append(bodies, body), append(want, answer)
	}
	for range 4 {
		t.Run("at the same time", func(t *testing.T) {
			t.Parallel()
			for i := range 200 {
				if _, got := post(handler, bodies[i%len(bodies)]); got != want[i%len(bodies)] {
					t.Fatalf("answer\n%s\nwant\n%s", got, want[i%len(bodies)])
				}
			}
		})
	}
}

package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	admissionv1 "k8s.io/api/admission/v1"

	"github.com/evenkeel/evenkeel/patches"
)

// newHandler returns a handler for a cluster of 1.36, and its log at debug level.
func newHandler(t testing.TB) (http.Handler, *bytes.Buffer) {
	t.Helper()
	injector, err := patches.New(patches.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	logs := &bytes.Buffer{}
	logger := logrus.New()
	logger.SetOutput(logs)
	logger.SetLevel(logrus.DebugLevel)
	handler, err := Handler(Config{
		Injector:   injector,
		Namespace:  func(context.Context, string) map[string]string { return nil },
		OptedOut:   func(string, string, string) bool { return false },
		Services:   func(string) *patches.Services { return nil },
		Cluster:    func() patches.Cluster { return patches.Cluster{APIServer: patches.Version{Major: 1, Minor: 36}} },
		Log:        logrus.NewEntry(logger),
		Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return handler, logs
}

const podJSON = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","labels":{"app":"web"}},` +
	`"spec":{"containers":[{"name":"web","ports":[{"containerPort":80}]}]}}`

// reviewOf returns a review that creates an object.
func reviewOf(object string) string {
	return `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u-1","kind":{"group":"",` +
		`"version":"v1","kind":"Pod"},` +
		`"resource":{"group":"","version":"v1","resource":"pods"},"namespace":"shop","operation":"CREATE",` +
		`"userInfo":{"username":"a"},"object":` + object + `,"oldObject":null,"dryRun":false,"options":{"a":1}}}`
}

// post sends a request and returns the answer's status and body.
func post(handler http.Handler, body string, change ...func(*http.Request)) (int, string) {
	r := httptest.NewRequest(http.MethodPost, "/mutate?timeout=2s", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for _, f := range change {
		f(r)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// answered reads the answer to a review, which must allow the request with a JSON patch that is never null.
func answered(t testing.TB, status int, body string) *admissionv1.AdmissionResponse {
	t.Helper()
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal([]byte(body), &review); err != nil || status != http.StatusOK || review.Response == nil {
		t.Fatalf("answer %d %q is no review: %v", status, body, err)
	}
	var operations []map[string]any
	if err := json.Unmarshal(review.Response.Patch, &operations); err != nil || operations == nil ||
		!review.Response.Allowed ||
		review.Response.PatchType == nil || *review.Response.PatchType != admissionv1.PatchTypeJSONPatch {
		t.Fatalf("answer %q does not allow the request with a patch: %v", body, err)
	}
	return review.Response
}

func TestAnswersAReviewWithWhatIsMissing(t *testing.T) {
	handler, _ := newHandler(t)
	status, body := post(handler, reviewOf(podJSON))
	response := answered(t, status, body)
	if response.UID != "u-1" {
		t.Errorf("uid %q, want that of the request", response.UID)
	}
	injector, err := patches.New(patches.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	want := injector.Review(patches.Request{Operation: patches.Create, Object: []byte(podJSON),
		Cluster: patches.Cluster{APIServer: patches.Version{Major: 1, Minor: 36}}})
	if len(want.Operations) == 0 {
		t.Fatal("nothing to add")
	}
	if diff := cmp.Diff(string(want.Patch), string(response.Patch)); diff != "" {
		t.Errorf("the webhook changes the patch (-patches +webhook):\n%s", diff)
	}
}

func TestAnswersTheEmptyPatchWhereNothingIsToDo(t *testing.T) {
	handler, _ := newHandler(t)
	pod := reviewOf(podJSON)
	for name, review := range map[string]string{
		"DELETE, whose object is null": strings.NewReplacer(`"CREATE"`, `"DELETE"`, podJSON, "null").Replace(pod),
		"CONNECT": strings.NewReplacer(`"CREATE"`, `"CONNECT"`, podJSON,
			`{"kind":"PodExecOptions"}`).Replace(pod),
		"a subresource":                    strings.Replace(pod, `"namespace"`, `"subResource":"status","namespace"`, 1),
		"an object that is missing":        strings.Replace(pod, `"object":`+podJSON+`,`, ``, 1),
		"an object that is a list":         reviewOf(`[1,2]`),
		"an object of no kind":             reviewOf(`{}`),
		"an object of another kind":        reviewOf(`{"apiVersion":"v1","kind":"ConfigMap"}`),
		"a pod whose containers are a map": reviewOf(`{"apiVersion":"v1","kind":"Pod","spec":{"containers":{}}}`),
		"a pod with a member twice":        reviewOf(`{"apiVersion":"v1","kind":"Pod","spec":{},"spec":{}}`),
		"a request whose kind is missing":  strings.Replace(pod, `"kind":{"group":"","version":"v1","kind":"Pod"},`, ``, 1),
	} {
		t.Run(name, func(t *testing.T) {
			status, body := post(handler, review)
			response := answered(t, status, body)
			patched := string(response.Patch) != "[]"
			if wantPatch := name == "a request whose kind is missing"; patched != wantPatch {
				t.Errorf("patch %s", response.Patch)
			}
		})
	}
}

func TestRefusesWhatIsNoReview(t *testing.T) {
	handler, logs := newHandler(t)
	const secret = "must-not-be-echoed"
	pod := reviewOf(`{"secret":"` + secret + `"}`)
	set := func(key, value string) func(*http.Request) { return func(r *http.Request) { r.Header.Set(key, value) } }
	for name, c := range map[string]struct {
		body   string
		change func(*http.Request)
		want   int
	}{
		"GET": {pod, func(r *http.Request) { r.Method = http.MethodGet }, http.StatusMethodNotAllowed},
		"PUT": {pod, func(r *http.Request) { r.Method = http.MethodPut }, http.StatusMethodNotAllowed},
		"YAML": {"apiVersion: admission.k8s.io/v1\nkind: AdmissionReview\n" + secret,
			set("Content-Type", "application/yaml"), http.StatusUnsupportedMediaType},
		"protobuf": {"k8s\x00" + secret, set("Content-Type", "application/vnd.kubernetes.protobuf"),
			http.StatusUnsupportedMediaType},
		"no content type": {pod, set("Content-Type", ""), http.StatusUnsupportedMediaType},
		"no body":         {"", nil, http.StatusBadRequest},
		"no JSON":         {secret, nil, http.StatusBadRequest},
		"half a review":   {pod[:len(pod)/2], nil, http.StatusBadRequest},
		"two reviews":     {pod + pod, nil, http.StatusBadRequest},
		"a nil request": {`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":null}`, nil,
			http.StatusBadRequest},
		"no request":   {`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`, nil, http.StatusBadRequest},
		"no kind":      {strings.Replace(pod, `"kind":"AdmissionReview",`, ``, 1), nil, http.StatusBadRequest},
		"another kind": {strings.Replace(pod, `AdmissionReview`, `ConversionReview`, 1), nil, http.StatusBadRequest},
		"an old version": {strings.Replace(pod, `admission.k8s.io/v1`, `admission.k8s.io/v1beta1`, 1), nil,
			http.StatusBadRequest},
		"no uid":                  {strings.Replace(pod, `"uid":"u-1",`, ``, 1), nil, http.StatusBadRequest},
		"a uid without end":       {strings.Replace(pod, `u-1`, strings.Repeat("u", 300), 1), nil, http.StatusBadRequest},
		"an operation of its own": {strings.Replace(pod, `CREATE`, `EXPLODE`, 1), nil, http.StatusBadRequest},
		"a request that is a number": {`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":5}`, nil,
			http.StatusBadRequest},
		"a timeout that is none": {pod, func(r *http.Request) { r.URL.RawQuery = "timeout=" + secret },
			http.StatusBadRequest},
		"a negative timeout": {pod, func(r *http.Request) { r.URL.RawQuery = "timeout=-1s" }, http.StatusBadRequest},
		"a body over 8 MiB":  {pod + strings.Repeat(" ", maxBody), nil, http.StatusRequestEntityTooLarge},
		"a body over 8 MiB, length not told": {pod + strings.Repeat(" ", maxBody), func(r *http.Request) {
			r.ContentLength, r.Body = -1, io.NopCloser(r.Body)
		}, http.StatusRequestEntityTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			change := c.change
			if change == nil {
				change = func(*http.Request) {}
			}
			status, body := post(handler, c.body, change)
			if status != c.want {
				t.Errorf("status %d, want %d (%s)", status, c.want, body)
			}
			if strings.Contains(body, secret) || strings.Contains(logs.String(), secret) {
				t.Errorf("answer or log repeats what was sent: %s", body)
			}
			if len(body) > 300 || !strings.Contains(body, "allowed: ") {
				t.Errorf("answer %q does not say shortly what is allowed", body)
			}
		})
	}
}

// TestAPanicAdmitsTheObject has the policy of a Namespace panic, which is as deep as it gets.
func TestAPanicAdmitsTheObject(t *testing.T) {
	injector, err := patches.New(patches.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	handler, err := Handler(Config{Injector: injector, Log: logrus.NewEntry(logger), Registerer: prometheus.NewRegistry(),
		Namespace: func(context.Context, string) map[string]string { panic("on purpose") },
		OptedOut:  func(string, string, string) bool { return false },
		Services:  func(string) *patches.Services { return nil },
		Cluster:   func() patches.Cluster { return patches.Cluster{} }})
	if err != nil {
		t.Fatal(err)
	}
	status, body := post(handler, reviewOf(podJSON))
	response := answered(t, status, body)
	if string(response.Patch) != "[]" || response.UID != "u-1" || len(response.Warnings) != 1 {
		t.Errorf("answer %s, want uid, the empty patch and a warning", body)
	}
}

func TestWarningsAreFewAndShort(t *testing.T) {
	handler, _ := newHandler(t)
	var annotations []string
	for i := range 100 {
		annotations = append(annotations, fmt.Sprintf(`"evenkeel.dev/unknown-%d":%q`, i, strings.Repeat("x", 10000)))
	}
	pod := strings.Replace(podJSON, `"metadata":{`, `"metadata":{"annotations":{`+strings.Join(annotations, ",")+`},`, 1)
	pod = strings.Replace(pod, `"labels":{`,
		`"labels":{`+strings.ReplaceAll(strings.Join(annotations[:10], ","), strings.Repeat("x", 10000), "x")+`,`, 1)
	status, body := post(handler, reviewOf(pod))
	response := answered(t, status, body)
	if len(response.Warnings) != 12 { // there are eight problems of each source, and a skip of each container
		t.Errorf("%d warnings, want 12", len(response.Warnings))
	}
	for _, w := range response.Warnings {
		if len(w) > 300 {
			t.Errorf("a warning of %d bytes: %s", len(w), w)
		}
	}
}

func TestWarningsHoldNoControlCharacters(t *testing.T) {
	handler, _ := newHandler(t)
	pod := `{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"web",` +
		`"ports":[{"containerPort":80,"name":"a"},{"containerPort":81,"name":"b"}]}]}}`
	pod = strings.Replace(pod, `"labels":{`, `"labels":{"evenkeel.dev/a\r\nb":"c\r\nd",`, 1)
	status, body := post(handler, reviewOf(pod))
	warnings := answered(t, status, body).Warnings
	if len(warnings) != 2 || strings.ContainsAny(strings.Join(warnings, ""), "\r\n") ||
		!strings.Contains(warnings[1], "ambiguous-port") {
		t.Errorf("warnings %q, want two without a line break", warnings)
	}
}

// FuzzBody sends any body: the answer is a review that allows the request, or a short refusal.
func FuzzBody(f *testing.F) {
	for _, seed := range []string{
		reviewOf(podJSON), "", "{}", "null", "[]", `{"request":null}`, reviewOf("null"), reviewOf("[]"),
		reviewOf(`{"spec":{}}`),
		`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"\ud800","operation":"DELETE"}}`,
		`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","Request":{"uid":"a","operation":"CREATE"}}`,
		strings.Replace(reviewOf(podJSON), `"metadata"`,
			`"metadata":{"annotations":{"evenkeel.dev/pre-stop-sleep":"\u0000"}},"metadata"`, 1),
		reviewOf(strings.Repeat("[", 20000)),
		reviewOf(`{"apiVersion":"v1","kind":"Pod","spec":` + strings.Repeat(`{"a":`, 9000) + `1` +
			strings.Repeat(`}`, 9000) + `}`),
	} {
		f.Add([]byte(seed))
	}
	handler, _ := newHandler(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		status, answer := post(handler, string(body))
		if status == http.StatusOK {
			answered(t, status, answer)
		} else if status/100 != 4 || len(answer) > 300 {
			t.Errorf("answer %d %q", status, answer)
		}
	})
}

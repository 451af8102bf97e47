package surge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	admissionv1 "k8s.io/api/admission/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/evenkeel/evenkeel/policy"
)

// world is an API server with a Deployment, its ReplicaSet and its pod.
type world struct {
	*testing.T
	client     *fake.Clientset
	handler    *Handler
	annotation map[string]string // of the Namespace
}

func newWorld(t *testing.T, change ...func(*appsv1.Deployment, *corev1.Pod)) *world {
	t.Helper()
	d, p := deployment(), pod("a")
	yes := true
	set := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", UID: "uid-web-1",
		OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "apps/v1", Kind: "Deployment", Name: "web", UID: d.UID, Controller: &yes}}}}
	p.OwnerReferences = []metav1.OwnerReference{
		{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-1", UID: set.UID, Controller: &yes}}
	for _, f := range change {
		f(d, p)
	}
	shared := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shared"},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}}}
	w := &world{T: t, client: fake.NewClientset(d, set, p, shared),
		annotation: map[string]string{"evenkeel.dev/drain": "surge"}}
	log := logrus.New()
	log.SetOutput(io.Discard)
	h, err := New(
		Config{Client: w.client, Namespace: func(context.Context, string) map[string]string { return w.annotation },
			Base:   policy.Default(),
			Bounds: policy.DefaultBounds(), Patience: patience, Log: logrus.NewEntry(log), Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	h.now = func() time.Time { return now }
	w.handler = h
	return w
}

// fails lets calls of the API server fail.
func (w *world) fails(verb, resource string, err error, times int) {
	w.client.PrependReactor(verb, resource, func(clienttesting.Action) (bool, runtime.Object, error) {
		if times == 0 {
			return false, nil, nil
		}
		times--
		return true, nil, err
	})
}

// evict posts the review of an eviction, and returns the code of the answer, 200 where it passes,
// with the message.
func (w *world) evict(eviction *policyv1.Eviction, change ...func(*admissionv1.AdmissionRequest)) (int32, string) {
	w.Helper()
	raw, err := json.Marshal(eviction)
	if err != nil {
		w.Fatal(err)
	}
	request := &admissionv1.AdmissionRequest{UID: "review", Namespace: "shop", Name: eviction.Name,
		SubResource: "eviction", Operation: admissionv1.Create,
		Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"}, Object: runtime.RawExtension{Raw: raw}}
	for _, f := range change {
		f(request)
	}
	body, err := json.Marshal(
		admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
			Request: request})
	if err != nil {
		w.Fatal(err)
	}
	recorder := httptest.NewRecorder()
	w.handler.ServeHTTP(recorder,
		httptest.NewRequestWithContext(w.Context(), http.MethodPost, "/evict", bytes.NewReader(body)))
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(recorder.Body.Bytes(), &review); err != nil || review.Response == nil ||
		review.Response.UID != "review" || review.Kind != "AdmissionReview" {
		w.Fatalf("answer is %d %s: %v", recorder.Code, recorder.Body, err)
	}
	if review.Response.Allowed {
		return http.StatusOK, ""
	}
	if r := review.Response.Result; r.Reason != metav1.StatusReasonTooManyRequests || r.Details != nil {
		w.Errorf("reason is %s with details %v, want none, which client-go would follow by itself", r.Reason, r.Details)
	}
	return review.Response.Result.Code, review.Response.Result.Message
}

func of(name string) *policyv1.Eviction {
	return &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
}

// deployment reads the Deployment.
func (w *world) deployment() *appsv1.Deployment {
	w.Helper()
	d, err := w.client.AppsV1().Deployments("shop").Get(w.Context(), "web", metav1.GetOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return d
}

// restarts returns how often the Deployment was patched.
func (w *world) restarts() int {
	n := 0
	for _, a := range w.client.Actions() {
		if a.Matches("patch", "deployments") {
			n++
		}
	}
	return n
}

// events returns reasons and messages of the Events.
func (w *world) events() string {
	w.Helper()
	list, err := w.client.CoreV1().Events("shop").List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	var all []string
	for _, e := range list.Items {
		all = append(all, e.Type+" "+e.Reason+" "+e.InvolvedObject.Kind+"/"+e.InvolvedObject.Name+": "+e.Message)
	}
	return strings.Join(all, "; ")
}

func TestAnEvictionRestartsTheDeploymentOnce(t *testing.T) {
	w := newWorld(t)
	code, text := w.evict(of("a"))
	if code != http.StatusTooManyRequests || !strings.Contains(text, "Deployment web has no other ready pod than a") ||
		!strings.Contains(text, "10m0s") {
		t.Errorf("answer is %d %s", code, text)
	}
	before, after := deployment(), w.deployment()
	if got, want := after.Annotations[Annotation], "2026-01-01T12:00:00Z uid-a node-a"; got != want {
		t.Errorf("the note is %q, want %q", got, want)
	}
	if got := after.Spec.Template.Annotations; len(got) != 1 || got[RestartedAt] != "2026-01-01T12:00:00Z" {
		t.Errorf("the template's annotations are %v", got)
	}
	after.Spec.Template.Annotations = nil
	if !equal(t, before.Spec, after.Spec) {
		t.Error("more of the Deployment is changed than the annotation of a restart")
	}
	for range 3 { // the drain asks again
		if code, _ := w.evict(of("a")); code != http.StatusTooManyRequests {
			t.Errorf("asked again it is %d", code)
		}
	}
	if n := w.restarts(); n != 1 {
		t.Errorf("restarted %d times", n)
	}
	if got, want := w.events(),
		"Normal DrainSurges Deployment/web: eviction of pod a: surging: The Deployment brings up another pod before this "+
			"one goes."; got != want {
		t.Errorf("events: %s", got)
	}
	w.handler.now = func() time.Time { return now.Add(patience) }
	if code, _ := w.evict(of("a")); code != http.StatusOK {
		t.Errorf("after the patience it is %d", code)
	}
	if got := w.events(); !strings.Contains(got, "Warning DrainPasses Deployment/web: eviction of pod a: deadline") {
		t.Errorf("events: %s", got)
	}
}

func equal(t *testing.T, a, b any) bool {
	t.Helper()
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(x, y)
}

func TestADryRunChangesNothingAndIsAnsweredTheSame(t *testing.T) {
	yes := true
	for name, test := range map[string]struct {
		eviction *policyv1.Eviction
		change   func(*admissionv1.AdmissionRequest)
	}{
		"in the request": {of("a"), func(r *admissionv1.AdmissionRequest) { r.DryRun = &yes }},
		"in the body, as kubectl drain --dry-run=server sends it": {
			&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "a"},
				DeleteOptions: &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}}, func(*admissionv1.AdmissionRequest) {}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if code, _ := w.evict(test.eviction, test.change); code != http.StatusTooManyRequests {
				t.Errorf("answer is %d", code)
			}
			for _, a := range w.client.Actions() {
				if verb := a.GetVerb(); verb != "get" && verb != "list" {
					t.Errorf("it does %s %s", verb, a.GetResource().Resource)
				}
			}
		})
	}
}

func TestEveryDoubtLetsTheEvictionPass(t *testing.T) {
	down := apierrors.NewInternalError(errors.New("down"))
	conflict := apierrors.NewConflict(schema.GroupResource{Resource: "deployments"}, "web", errors.New("changed"))
	withClaim := func(_ *appsv1.Deployment, p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{
			{VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	}
	for name, test := range map[string]struct {
		world    func(*appsv1.Deployment, *corev1.Pod)
		do       func(w *world)
		eviction *policyv1.Eviction
		tells    bool // with an Event, once it is known that the Deployment asks
	}{
		"no such pod":                  {eviction: of("none")},
		"the pod can't be read":        {do: func(w *world) { w.fails("get", "pods", down, -1) }},
		"the ReplicaSet can't be read": {do: func(w *world) { w.fails("get", "replicasets", down, -1) }},
		"the Deployment can't be read": {do: func(w *world) { w.fails("get", "deployments", down, -1) }},
		"the pods can't be listed":     {do: func(w *world) { w.fails("list", "pods", down, -1) }, tells: true},
		"the claim can't be read": {world: withClaim, tells: true,
			do: func(w *world) { w.fails("get", "persistentvolumeclaims", down, -1) }},
		"the claim is gone": {world: withClaim, tells: true},
		"the Deployment can't be restarted": {tells: true,
			do: func(w *world) { w.fails("patch", "deployments", down, -1) }},
		"somebody changes the Deployment for ever": {tells: true,
			do: func(w *world) { w.fails("patch", "deployments", conflict, -1) }},
		"there is no time": {do: func(w *world) {
			w.handler.timeout = 0
			w.fails("get", "pods", context.DeadlineExceeded, -1)
		}},
		"a panic": {do: func(w *world) {
			w.client.PrependReactor("get", "pods",
				func(clienttesting.Action) (bool, runtime.Object, error) { panic("on purpose") })
		}},
		"the selector can't be read": {tells: true, world: func(d *appsv1.Deployment, _ *corev1.Pod) {
			d.Spec.Selector = &metav1.LabelSelector{
				MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Sometimes"}}}
		}},
		"more claims than are looked at": {tells: true, world: func(_ *appsv1.Deployment, p *corev1.Pod) {
			for range maxClaims + 1 {
				withOne := corev1.Volume{
					VolumeSource: corev1.VolumeSource{
						PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "shared"}}}
				p.Spec.Volumes = append(p.Spec.Volumes, withOne)
			}
		}},
		"more pods than are looked at": {tells: true, do: func(w *world) {
			w.client.PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, &corev1.PodList{ListMeta: metav1.ListMeta{Continue: "more"}}, nil
			})
		}},
		"a setting that can't be read": {
			do: func(w *world) { w.annotation = map[string]string{"evenkeel.dev/drain": "sure"} }},
		"another pod of the same name": {eviction: &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "a"},
			DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: ptr(types.UID("other"))}}}},
	} {
		t.Run(name, func(t *testing.T) {
			change := func(*appsv1.Deployment, *corev1.Pod) {}
			if test.world != nil {
				change = test.world
			}
			w := newWorld(t, change)
			if test.do != nil {
				test.do(w)
			}
			eviction := test.eviction
			if eviction == nil {
				eviction = of("a")
			}
			if code, text := w.evict(eviction); code != http.StatusOK {
				t.Errorf("answer is %d %s", code, text)
			}
			told := ""
			if test.tells {
				told = "Warning DrainPasses Deployment/web: eviction of pod a: unknown"
			}
			if got, _, _ := strings.Cut(w.events(), ": evenkeel"); got != told {
				t.Errorf("events: %q, want %q", got, told)
			}
			if d := deployment(); name != "the Deployment can't be read" && !strings.Contains(name, "selector") &&
				!equal(t, d.Spec, w.deployment().Spec) {
				t.Error("the Deployment is changed")
			}
		})
	}
}

func ptr[T any](value T) *T { return &value }

func TestAConflictIsDecidedAnew(t *testing.T) {
	w := newWorld(t)
	w.fails("patch", "deployments",
		apierrors.NewConflict(schema.GroupResource{Resource: "deployments"}, "web", errors.New("changed")), 1)
	if code, _ := w.evict(of("a")); code != http.StatusTooManyRequests {
		t.Errorf("answer is %d", code)
	}
	if w.deployment().Annotations[Annotation] == "" {
		t.Error("nothing was begun")
	}
}

func TestThePatchIsBoundToWhatWasRead(t *testing.T) {
	w := newWorld(t)
	w.evict(of("a"))
	for _, a := range w.client.Actions() {
		if patch, ok := a.(clienttesting.PatchAction); ok {
			var body struct {
				Metadata struct{ UID, ResourceVersion string }
			}
			if err := json.Unmarshal(patch.GetPatch(), &body); err != nil || body.Metadata.UID != "uid-web" ||
				body.Metadata.ResourceVersion != "1" {
				t.Errorf("patch is %s: %v", patch.GetPatch(), err)
			}
			return
		}
	}
	t.Error("no patch")
}

func TestTheSettingOfTheWorkloadWins(t *testing.T) {
	w := newWorld(t, func(d *appsv1.Deployment, _ *corev1.Pod) {
		d.Annotations = map[string]string{"evenkeel.dev/drain": "off"}
	})
	if code, _ := w.evict(of("a")); code != http.StatusOK {
		t.Errorf("off at the Deployment: %d", code)
	}
	w = newWorld(t, func(d *appsv1.Deployment, _ *corev1.Pod) {
		d.Annotations = map[string]string{"evenkeel.dev/drain": "surge"}
	})
	w.annotation = nil
	if code, _ := w.evict(of("a")); code != http.StatusTooManyRequests {
		t.Errorf("surge at the Deployment alone: %d", code)
	}
}

func TestWhatIsNoReviewOfAnEvictionGetsNoVerdict(t *testing.T) {
	w := newWorld(t)
	for name, request := range map[string]*http.Request{
		"a GET":   httptest.NewRequest(http.MethodGet, "/evict", nil),
		"no body": httptest.NewRequest(http.MethodPost, "/evict", nil),
		"no JSON": httptest.NewRequest(http.MethodPost, "/evict", strings.NewReader("{")),
		"no request": httptest.NewRequest(http.MethodPost, "/evict",
			strings.NewReader(`{"kind":"AdmissionReview"}`)),
		"a request without ID": httptest.NewRequest(http.MethodPost, "/evict", strings.NewReader(`{"request":{}}`)),
		"a body without end": httptest.NewRequest(http.MethodPost, "/evict",
			strings.NewReader(`{"request":{"uid":"`+strings.Repeat("x", 2*maxBody)+`"}}`)),
	} {
		recorder := httptest.NewRecorder()
		w.handler.ServeHTTP(recorder, request)
		if recorder.Code < 400 || recorder.Code >= 500 {
			t.Errorf("%s gets %d", name, recorder.Code)
		}
	}
	if code, _ := w.evict(of("a"), func(r *admissionv1.AdmissionRequest) { r.SubResource = "" }); code != http.StatusOK {
		t.Errorf("a pod itself gets %d", code)
	}
	for range maxReviews {
		w.handler.places <- struct{}{}
	}
	recorder := httptest.NewRecorder()
	w.handler.ServeHTTP(recorder, httptest.NewRequest(http.MethodPost, "/evict", strings.NewReader("{}")))
	if recorder.Code != http.StatusTooManyRequests {
		t.Errorf("one too many gets %d", recorder.Code)
	}
	if n := len(w.client.Actions()); n != 0 {
		t.Errorf("the API server was asked %d times", n)
	}
}

func TestNewRefusesWhatCannotBe(t *testing.T) {
	for _, p := range []time.Duration{0, time.Millisecond, 25 * time.Hour} {
		config := newWorld(t).handler.config
		config.Patience, config.Registerer = p, prometheus.NewRegistry()
		if _, err := New(config); err == nil {
			t.Errorf("takes a patience of %v", p)
		}
	}
	if _, err := New(Config{}); err == nil {
		t.Error("takes an empty configuration")
	}
}

package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxBody is the largest review that is read, in bytes. kube-apiserver accepts
// objects of 3 MiB (limitedReadBody in k8s.io/apiserver), and an update carries two.
const maxBody = 8 << 20

// maxTimeout is the largest timeoutSeconds that a webhook configuration may have.
const maxTimeout = 30 * time.Second

// guard stands in front of kubewebhook's handler and lets nothing through but a
// well-formed review: kubewebhook panics on a review without request, echoes the
// body of one without kind, takes any method and content type, and ignores the
// caller's deadline.
type guard struct {
	next    http.Handler
	log     *logrus.Entry
	metrics *metrics
}

// rejection is the reason of an answer of 4xx: a closed set, since it is a metric
// label.
type rejection struct {
	reason string
	status int
	text   string
}

func (r *rejection) Error() string { return r.text }

// ServeHTTP answers one review, or says with a status of 4xx what was wrong with
// the request. It never repeats what it was sent.
func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel, err := deadline(r)
	if err == nil {
		defer cancel()
		var e *envelope
		if e, err = readReview(w, r); err == nil {
			g.pass(w, r.WithContext(context.WithValue(ctx, objectsKey{}, &e.objects)), e)
			return
		}
	}
	var no *rejection
	if !errors.As(err, &no) { // the caller went away or was too slow
		no = &rejection{"unreadable-body", http.StatusBadRequest, "body can't be read"}
	}
	g.metrics.rejected(no.reason)
	if no.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", http.MethodPost)
	}
	http.Error(w, no.text, no.status)
}

// pass hands the slim envelope to kubewebhook. A panic there, or in our own code
// below it, admits the object unchanged.
func (g *guard) pass(w http.ResponseWriter, r *http.Request, e *envelope) {
	defer func() {
		failure := recover()
		if failure == nil {
			return
		}
		g.metrics.panicked()
		g.log.WithFields(logrus.Fields{"cause": clip(fmt.Sprint(failure)), "stack": string(debug.Stack())}).Error("panic in review")
		patchType := admissionv1.PatchTypeJSONPatch
		answer, err := json.Marshal(admissionv1.AdmissionReview{
			TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
			Response: &admissionv1.AdmissionResponse{UID: e.slim.Request.UID, Allowed: true, PatchType: &patchType, Patch: []byte("[]"),
				Warnings: []string{"evenkeel: admitted unchanged after an internal error"}},
		})
		if err == nil {
			w.Header().Set("Content-Type", "application/json")
			_, err = w.Write(answer)
		}
		if err != nil {
			g.log.WithError(err).Error("answer review")
		}
	}()
	body, err := json.Marshal(e.slim)
	if err != nil {
		panic(err) // answered above
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	g.next.ServeHTTP(w, r)
}

// deadline returns a context that ends when kube-apiserver stops waiting, which it
// says in the query as ?timeout=2s.
func deadline(r *http.Request) (context.Context, context.CancelFunc, error) {
	timeout := maxTimeout
	if text := r.URL.Query().Get("timeout"); text != "" {
		asked, err := time.ParseDuration(text)
		if err != nil || asked <= 0 {
			return nil, nil, &rejection{"timeout", http.StatusBadRequest, "timeout is no positive duration; allowed: up to " + maxTimeout.String()}
		}
		timeout = min(timeout, asked)
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	return ctx, cancel, nil
}

// objects are the parts of a review that are kept away from kubewebhook.
type objects struct {
	object, oldObject []byte
	subResource       string
}

type objectsKey struct{}

// objectsOf returns the objects that the guard cut out of the review.
func objectsOf(ctx context.Context) *objects {
	if o, ok := ctx.Value(objectsKey{}).(*objects); ok {
		return o
	}
	return &objects{}
}

// envelope is a review taken apart.
type envelope struct {
	slim    slimReview
	objects objects
}

// slimReview is an AdmissionReview without its objects and user.
type slimReview struct {
	APIVersion string                        `json:"apiVersion"`
	Kind       string                        `json:"kind"`
	Request    *admissionv1.AdmissionRequest `json:"request"`
}

// readReview reads and checks a review.
func readReview(w http.ResponseWriter, r *http.Request) (*envelope, error) {
	if r.Method != http.MethodPost {
		return nil, &rejection{"method", http.StatusMethodNotAllowed, "method is not allowed; allowed: POST"}
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return nil, &rejection{"content-type", http.StatusUnsupportedMediaType, "content type is not supported; allowed: application/json"}
	}
	if r.ContentLength > maxBody {
		return nil, tooLarge()
	}
	var body bytes.Buffer
	body.Grow(int(max(512, min(r.ContentLength, 64<<10)) + 1))
	if _, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, maxBody)); err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return nil, tooLarge()
		}
		return nil, fmt.Errorf("read body: %w", err)
	}
	return openReview(body.Bytes())
}

func tooLarge() error {
	return &rejection{"size", http.StatusRequestEntityTooLarge, "body is too large; allowed: " + strconv.Itoa(maxBody) + " bytes"}
}

// openReview takes a review apart and checks its shape.
func openReview(body []byte) (*envelope, error) {
	shape := func(what string) error {
		return &rejection{"shape", http.StatusBadRequest, "body " + what + "; allowed: an AdmissionReview of admission.k8s.io/v1 with a request"}
	}
	var review struct {
		slimReview
		Request *struct {
			admissionv1.AdmissionRequest
			UserInfo  json.RawMessage `json:"userInfo"`
			Object    json.RawMessage `json:"object"`
			OldObject json.RawMessage `json:"oldObject"`
			Options   json.RawMessage `json:"options"`
		} `json:"request"`
	}
	if err := json.Unmarshal(body, &review); err != nil {
		return nil, shape("is not the JSON of a review")
	}
	switch {
	case review.APIVersion != "admission.k8s.io/v1" || review.Kind != "AdmissionReview":
		return nil, shape("is of another kind or version")
	case review.Request == nil:
		return nil, shape("has no request")
	case review.Request.UID == "" || len(review.Request.UID) > 256:
		return nil, shape("has a request without a uid of at most 256 bytes")
	}
	switch review.Request.Operation {
	case admissionv1.Create, admissionv1.Update, admissionv1.Delete, admissionv1.Connect:
	default:
		return nil, shape("has a request with an unknown operation")
	}
	e := &envelope{slim: slimReview{APIVersion: review.APIVersion, Kind: review.Kind, Request: &review.Request.AdmissionRequest}}
	e.objects = objects{object: review.Request.Object, oldObject: review.Request.OldObject, subResource: review.Request.SubResource}
	return e, nil
}

package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/encoding/protowire"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/evenkeel/evenkeel/internal/scan"
	"github.com/evenkeel/evenkeel/patches"
)

// maxBody is the largest review that is read, in bytes. kube-apiserver accepts
// objects of 3 MiB (limitedReadBody in k8s.io/apiserver), and an update carries two.
const maxBody = 8 << 20

// guard stands in front of kubewebhook's handler and lets nothing through but a
// well-formed review: kubewebhook panics on a review without request, echoes the
// body of one without kind, takes any method and content type, and ignores the
// caller's deadline.
type guard struct {
	next    http.Handler
	log     *logrus.Entry
	metrics *metrics
	bodies  bodies
	limits  *Limits
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
	err := g.serve(w, r)
	if err == nil {
		return
	}
	var no *rejection
	if !errors.As(err, &no) { // the caller went away or was too slow
		no = &rejection{"unreadable-body", http.StatusBadRequest, "body can't be read"}
	}
	g.metrics.rejected(no.reason)
	traceRejection(r.Context(), no)
	switch no.status {
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", http.MethodPost)
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", "1")
		w.Header().Set("Connection", "close") // the next one may be another replica's
	}
	http.Error(w, no.text, no.status)
}

// maxDecide is how long a review may take to be decided over, and writeTime how long its answer to be
// written. Within a cluster both take milliseconds.
const (
	maxDecide = time.Second
	writeTime = 2 * time.Second
)

// serve answers one review, or returns why it is none. Its place and its body are given back before
// the answer is written: who doesn't read holds nothing but the answer.
func (g *guard) serve(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel, timeout, err := deadline(r)
	if err != nil {
		return err
	}
	defer cancel()
	address := source(r)
	answer := g.bodies.take()
	defer g.bodies.put(answer)
	if err := g.decide(ctx, w, r, address, timeout, answer); err != nil {
		return err
	}
	if size := int64(answer.Len()); size > freeAnswer {
		if !g.limits.large.take(address, size) {
			return shed()
		}
		defer g.limits.large.give(address, size)
	}
	// A server that can't have a deadline has none, a test's for example.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTime))
	w.Header().Set("Content-Length", strconv.Itoa(answer.Len()))
	_, _ = w.Write(answer.Bytes()) // an error ends the connection
	return nil
}

// decide reads a review and decides over it. The answer is in answer then, and its header in w.
func (g *guard) decide(
	ctx context.Context, w http.ResponseWriter, r *http.Request, address string, timeout time.Duration,
	answer *bytes.Buffer,
) error {
	body := g.bodies.take()
	defer g.bodies.put(body)
	reserved, err := g.readBody(w, r, address, body)
	defer func() { g.limits.large.give(address, reserved) }()
	if err != nil {
		return err
	}
	cost := cost(body.Len())
	if !g.limits.begin(address, cost) {
		return shed()
	}
	defer g.limits.end(address, cost)
	now := time.Now()
	e := &envelope{Context: ctx, end: now.Add(timeout), answer: buffered{w, answer}}
	defer e.release() // the answer is made, or there is none
	if err := e.open(body.Bytes()); err != nil {
		return err
	}
	connectionOf(r).reviewed(now)
	g.pass(r, e)
	return nil
}

// buffered keeps an answer, which has the status 200: reviewer.Review returns no error, and kubewebhook
// reads nothing but the slim review, which is our own.
type buffered struct {
	http.ResponseWriter
	body *bytes.Buffer
}

// Write implements http.ResponseWriter.
func (b *buffered) Write(p []byte) (int, error) { return b.body.Write(p) }

// WriteHeader implements http.ResponseWriter.
func (b *buffered) WriteHeader(int) {}

// pass hands the slim envelope to kubewebhook. A panic there, or in our own code
// below it, admits the object unchanged.
func (g *guard) pass(r *http.Request, e *envelope) {
	w := &e.answer
	defer func() {
		failure := recover()
		if failure == nil {
			return
		}
		g.metrics.panicked()
		tracePanic(r.Context())
		g.log.WithFields(logrus.Fields{"cause": clip(fmt.Sprint(failure)), "stack": string(debug.Stack())}).
			Error("panic in review")
		patchType := admissionv1.PatchTypeJSONPatch
		answer, err := json.Marshal(admissionv1.AdmissionReview{
			TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
			Response: &admissionv1.AdmissionResponse{UID: types.UID(e.uid), Allowed: true, PatchType: &patchType,
				Patch: []byte("[]"), Warnings: []string{"evenkeel: admitted unchanged after an internal error"}},
		})
		if err == nil {
			w.body.Reset()
			w.Header().Set("Content-Type", "application/json")
			_, err = w.Write(answer)
		}
		if err != nil {
			g.log.WithError(err).Error("answer review")
		}
	}()
	r = r.WithContext(e)
	r.Body, r.ContentLength = e, int64(e.slim.Len())
	g.next.ServeHTTP(w, r)
}

// deadline returns a context that ends when kube-apiserver stops waiting, which it
// says in the query as ?timeout=2s, and how long a review may take to be decided over. It says a
// second at least, and a review waits for nothing longer than namespaceLag, so that the timer is for
// other callers.
func deadline(r *http.Request) (context.Context, context.CancelFunc, time.Duration, error) {
	text, plain := strings.CutPrefix(r.URL.RawQuery, "timeout=")
	if !plain || strings.ContainsAny(text, "&;%+") {
		text = r.URL.Query().Get("timeout")
	}
	if text != "" {
		timeout, err := time.ParseDuration(text)
		if err != nil || timeout <= 0 {
			return nil, nil, 0, &rejection{"timeout", http.StatusBadRequest,
				"timeout is not a positive duration, 10s for example; allowed: up to 30s"}
		}
		if timeout <= namespaceLag {
			ctx, cancel := context.WithTimeout(r.Context(), timeout)
			return ctx, cancel, timeout, nil
		}
		return r.Context(), func() {}, min(timeout, maxDecide), nil
	}
	return r.Context(), func() {}, maxDecide, nil
}

// bodies are buffers for the bodies of reviews, used again and again.
type bodies struct{ pool sync.Pool }

// maxKept is the largest buffer that is kept, in bytes: the rare large review must
// not stay in memory.
const maxKept = 1 << 20

func (b *bodies) take() *bytes.Buffer {
	if body, ok := b.pool.Get().(*bytes.Buffer); ok {
		body.Reset()
		return body
	}
	return &bytes.Buffer{}
}

// put takes a buffer back; nothing may refer to its bytes any more.
func (b *bodies) put(body *bytes.Buffer) {
	if body.Cap() <= maxKept {
		b.pool.Put(body)
	}
}

// readBody checks the request and reads its body. It returns what it has reserved.
func (g *guard) readBody(
	w http.ResponseWriter, r *http.Request, address string, into *bytes.Buffer,
) (reserved int64, err error) {
	if r.Method != http.MethodPost {
		return 0, &rejection{"method", http.StatusMethodNotAllowed, "method is not allowed; allowed: POST"}
	}
	if contentType := r.Header.Get("Content-Type"); contentType != "application/json" {
		if media, _, err := mime.ParseMediaType(contentType); err != nil || media != "application/json" {
			return 0, &rejection{"content-type", http.StatusUnsupportedMediaType,
				"content type is not supported; allowed: application/json"}
		}
	}
	if r.ContentLength > maxBody {
		return 0, tooLarge()
	}
	body := r.Body
	if r.ContentLength < 0 { // net/http reads no more than a length that was told
		body = http.MaxBytesReader(w, body, maxBody)
	}
	into.Grow(int(max(512, min(r.ContentLength, 64<<10)) + bytes.MinRead))
	if reserved, err = g.limits.read(address, into, body); err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return reserved, tooLarge()
		}
		return reserved, fmt.Errorf("read body: %w", err)
	}
	return reserved, nil
}

func tooLarge() error {
	return &rejection{"size", http.StatusRequestEntityTooLarge,
		"body is too large; allowed: " + strconv.Itoa(maxBody) + " bytes"}
}

// envelope is a review taken apart: what evenkeel decides on, which refers to the
// bytes of the body, and the slim review for kubewebhook. It is the context of the
// request and its body.
type envelope struct {
	context.Context

	uid                    []byte
	operation              patches.Operation
	namespace, subResource []byte
	object, oldObject      *patches.Reading
	// whole is set where the client sent the whole object rather than a patch.
	whole bool

	// end is when the time for the review is over.
	end      time.Time
	slim     bytes.Reader
	slimRoom [512]byte
	answer   buffered
}

// late reports whether the time for the review is over.
func (e *envelope) late() bool { return time.Now().After(e.end) }

func (e *envelope) release() {
	e.object.Release()
	e.oldObject.Release()
}

type envelopeKey struct{}

// Value implements context.Context.
func (e *envelope) Value(key any) any {
	if key == (envelopeKey{}) {
		return e
	}
	return e.Context.Value(key)
}

// Read and Close implement http.Request.Body.
func (e *envelope) Read(p []byte) (int, error) { return e.slim.Read(p) }

// Close does nothing.
func (*envelope) Close() error { return nil }

// envelopeOf returns the review that the guard took apart.
func envelopeOf(ctx context.Context) *envelope {
	if e, ok := ctx.Value(envelopeKey{}).(*envelope); ok {
		return e
	}
	return &envelope{}
}

// The members of a review that are read.
var (
	reviewMembers  = []string{"apiVersion", "kind", "request"}
	requestMembers = []string{"uid", "operation", "namespace", "subResource", "object", "oldObject", "options"}
	optionsMembers = []string{"kind"}
)

// open takes a review apart and checks its shape. It reads what sigs.k8s.io/json,
// and so the API server, would read in it, or refuses it: member names are compared
// exactly, and none of those that it reads may occur twice.
func (e *envelope) open(body []byte) error {
	shape := func(what string) error {
		return &rejection{"shape", http.StatusBadRequest,
			"body " + what + "; allowed: an AdmissionReview of admission.k8s.io/v1 with a request"}
	}
	var apiVersion, kind, operation []byte
	requested := false
	s, err := scan.New(body)
	if err == nil && s.Next() != '{' {
		return shape("is not the JSON of a review")
	}
	if err == nil {
		err = s.Members(reviewMembers, func(name string) (err error) {
			switch name {
			case "apiVersion":
				apiVersion, err = s.Text()
				return err
			case "kind":
				kind, err = s.Text()
				return err
			}
			requested = s.Next() == '{'
			return s.Members(requestMembers, func(name string) (err error) {
				switch name {
				case "uid":
					e.uid, err = s.Text()
				case "operation":
					operation, err = s.Text()
				case "namespace":
					e.namespace, err = s.Text()
				case "subResource":
					e.subResource, err = s.Text()
				case "object":
					e.object, err = patches.Read(&s)
				case "oldObject":
					e.oldObject, err = patches.Read(&s)
				default:
					if s.Next() != '{' {
						_, err = s.Skip()
						return err
					}
					return s.Members(optionsMembers, func(string) error {
						kind, err := s.Text()
						e.whole = string(kind) == "UpdateOptions"
						return err
					})
				}
				return err
			})
		})
	}
	if err == nil {
		err = s.End()
	}
	switch {
	case err != nil:
		return shape("is not the JSON of a review")
	case string(apiVersion) != "admission.k8s.io/v1" || string(kind) != "AdmissionReview":
		return shape("is of another kind or version")
	case !requested:
		return shape("has no request")
	case len(e.uid) == 0 || len(e.uid) > 256:
		return shape("has a request without a uid of at most 256 bytes")
	}
	switch string(operation) {
	case "CREATE":
		e.operation = patches.Create
	case "UPDATE":
		e.operation = patches.Update
	case "DELETE", "CONNECT": // nothing to do
	default:
		return shape("has a request with an unknown operation")
	}
	if len(e.subResource) > 0 {
		e.operation = "" // a scale or status is no workload
	}
	e.slim.Reset(appendSlim(e.slimRoom[:0], e.uid))
	return nil
}

// appendSlim appends a review with nothing but a uid, which is all that kubewebhook needs
// to answer one. It is in the API's own protobuf encoding (runtime.Unknown behind a magic
// number, k8s.io/apimachinery/pkg/runtime/serializer/protobuf), which kubewebhook reads in
// a tenth of the time that JSON takes it.
func appendSlim(b, uid []byte) []byte {
	const head = "k8s\x00" + "\x0a\x26" + "\x0a\x13admission.k8s.io/v1" + "\x12\x0fAdmissionReview" // typeMeta
	open := func(field protowire.Number, size int) {
		b = protowire.AppendVarint(protowire.AppendTag(b, field, protowire.BytesType), uint64(size))
	}
	request := protowire.SizeTag(1) + protowire.SizeBytes(len(uid))
	review := protowire.SizeTag(1) + protowire.SizeBytes(request)
	b = append(b, head...)
	open(2, review)  // raw
	open(1, request) // request
	open(1, len(uid))
	return append(b, uid...)
}

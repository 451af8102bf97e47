package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	applier "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
)

// call is a request to a handler that costs the benchmark itself nothing.
type call struct {
	request http.Request
	reader  bytes.Reader
	header  http.Header
	status  int
	answer  []byte
}

func (c *call) Header() http.Header         { return c.header }
func (c *call) WriteHeader(status int)      { c.status = status }
func (c *call) Write(p []byte) (int, error) { c.answer = append(c.answer, p...); return len(p), nil }
func (c *call) Read(p []byte) (int, error)  { return c.reader.Read(p) }
func (c *call) Close() error                { return nil }

// SetWriteDeadline is what a connection has; without it each answer would cost an error.
func (c *call) SetWriteDeadline(time.Time) error { return nil }

func newCall() *call {
	return &call{header: http.Header{}, request: http.Request{Method: http.MethodPost, Proto: "HTTP/1.1", ProtoMajor: 1,
		ProtoMinor: 1,
		URL:        &url.URL{Path: "/mutate", RawQuery: "timeout=10s"},
		Header:     http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, */*"}}}}
}

// post sends a review.
func (c *call) post(handler http.Handler, review []byte) {
	c.reader.Reset(review)
	c.answer, c.status = c.answer[:0], http.StatusOK
	clear(c.header)
	c.request.Body, c.request.ContentLength = c, int64(len(review))
	handler.ServeHTTP(c, &c.request)
}

// patched checks an answer and returns the object that it makes of object, without members that mean nothing.
func patched(t testing.TB, status int, answer, object []byte) any {
	t.Helper()
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(answer, &review); err != nil || status != http.StatusOK || review.Response == nil ||
		!review.Response.Allowed {
		t.Fatalf("answer %d %s does not allow the request: %v", status, answer, err)
	}
	if want := "705ab4f5-6393-11e8-b7cc-42010a800002"; string(review.Response.UID) != want {
		t.Fatalf("answer is for %q, want %q", review.Response.UID, want)
	}
	patch, err := applier.DecodePatch(review.Response.Patch)
	if err != nil || len(patch) == 0 {
		t.Fatalf("answer holds no patch: %v", err)
	}
	after, err := patch.Apply(object)
	if err != nil {
		t.Fatal(err)
	}
	var value map[string]any
	if err := json.Unmarshal(after, &value); err != nil {
		t.Fatal(err)
	}
	delete(value, "status")
	dropRecord(value)
	return value
}

func TestEveryContestantAddsTheSame(t *testing.T) {
	for _, w := range append(shapes, sizes...) {
		t.Run(w.name(), func(t *testing.T) {
			review, object := w.review()
			var want any
			for _, contestant := range contestants {
				if contestant == constantPatch && w != reference {
					continue // its patch is always the same
				}
				handler, err := handlerOf(contestant, w.kind)
				if err != nil {
					t.Fatal(err)
				}
				c := newCall()
				c.post(handler, review)
				got := patched(t, c.status, c.answer, object)
				if want == nil {
					want = got
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s adds something else (-%s +%s):\n%s", contestant, contestants[0], contestant, diff)
				}
			}
		})
	}
}

func BenchmarkHandler(b *testing.B) {
	for _, w := range append(shapes, sizes...) {
		review, object := w.review()
		for _, contestant := range contestants {
			handler, err := handlerOf(contestant, w.kind)
			if err != nil {
				b.Fatal(err)
			}
			b.Run(w.name()+"/"+contestant, func(b *testing.B) {
				c := newCall()
				c.post(handler, review)
				if contestant != constantPatch {
					patched(b, c.status, c.answer, object)
				}
				b.ReportAllocs()
				b.SetBytes(int64(len(review)))
				for b.Loop() {
					c.post(handler, review)
					if c.status != http.StatusOK {
						b.Fatalf("answer %d %s", c.status, c.answer)
					}
				}
			})
		}
	}
}

// BenchmarkApply is what kube-apiserver does with the patch of a webhook, in the same library: with
// evenkeel's, which only adds, with one that replaces the containers, where most of the Pod is, and
// with an empty one.
func BenchmarkApply(b *testing.B) {
	_, object := reference.review()
	adding, err := referencePatch()
	if err != nil {
		b.Fatal(err)
	}
	after, err := applied(adding, object)
	if err != nil {
		b.Fatal(err)
	}
	type operation struct {
		Operation string          `json:"op"`
		Path      string          `json:"path"`
		Value     json.RawMessage `json:"value"`
	}
	var operations []operation
	var pod struct {
		Spec struct {
			Containers json.RawMessage `json:"containers"`
		} `json:"spec"`
	}
	if err := errors.Join(json.Unmarshal(adding, &operations), json.Unmarshal(after, &pod)); err != nil {
		b.Fatal(err)
	}
	const containers = "/spec/containers"
	all := len(operations)
	replacing := slices.DeleteFunc(operations, func(o operation) bool { return strings.HasPrefix(o.Path, containers+"/") })
	if len(replacing) == all {
		b.Fatal("nothing is added to containers")
	}
	replacing = append(replacing, operation{"replace", containers, pod.Spec.Containers})
	for _, c := range []struct {
		name  string
		patch []byte
	}{{"adds", adding}, {"replaces the containers", encoded(replacing)}, {"empty", []byte("[]")}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := applied(c.patch, object); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

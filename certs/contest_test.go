package certs

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestWhatIsUndoneAgainAndAgainIsSaidOnceInAWhile(t *testing.T) {
	var c contest
	now := time.Unix(0, 0)
	ours, theirs := []byte("ours"), []byte("theirs")
	for _, step := range []struct {
		after        time.Duration
		stands       []byte
		write        bool
		undone, loud bool
		what         string
	}{
		{0, theirs, true, false, false, "the first write, of what nobody has undone"},
		{time.Second, ours, false, false, false, "it stands"},
		{time.Second, theirs, true, true, false, "undone once"},
		{time.Second, theirs, true, true, false, "undone twice"},
		{time.Second, theirs, true, true, true, "undone three times"},
		{time.Second, theirs, true, true, false, "undone four times, which was said"},
		{contestPeriod, theirs, true, true, false, "undone once in the next ten minutes"},
		{time.Second, theirs, true, true, false, "undone twice in those"},
		{time.Second, theirs, true, true, true, "undone three times in those"},
	} {
		now = now.Add(step.after)
		if undone, loud := c.wanted(step.stands, ours, now); undone != step.undone || loud != step.loud {
			t.Errorf("%s: undone %v and loud %v, want %v and %v", step.what, undone, loud, step.undone, step.loud)
		}
		if step.write {
			c.written = ours
		}
	}
	if undone, _ := c.wanted(theirs, []byte("a rotation"), now); undone {
		t.Error("a rotation of our own counts as undone")
	}
}

// TestABundleThatIsResetHasAnEventAndACounter lets the API server forget each bundle that is written.
func TestABundleThatIsResetHasAnEventAndACounter(t *testing.T) {
	var mu sync.Mutex
	var events []corev1.Event
	secret := `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","namespace":"n","uid":"1"}}`
	const configuration = `{"apiVersion":"admissionregistration.k8s.io/v1","kind":"MutatingWebhookConfiguration",` +
		`"metadata":{"name":"w","uid":"2",` +
		`"managedFields":[{"manager":"evenkeel-certificates","time":"2026-01-02T00:00:00Z"},{"manager":"argocd-controller",` +
		`"time":"2026-01-01T00:00:00Z"}]},"webhooks":[{"name":"a"}]}`
	s, registry := newSelfManaged(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		body, _ := io.ReadAll(r.Body)
		switch {
		case strings.HasSuffix(r.URL.Path, "/events"):
			var event corev1.Event
			if err := json.Unmarshal(body, &event); err != nil {
				t.Error(err)
			}
			events = append(events, event)
			_, _ = w.Write(body)
		case strings.Contains(r.URL.Path, "/secrets/"):
			if r.Method == http.MethodPatch {
				var written map[string]any
				if err := json.Unmarshal(body, &written); err != nil {
					t.Error(err)
				}
				kept, err := json.Marshal(
					map[string]any{"apiVersion": "v1", "kind": "Secret",
						"metadata": map[string]any{"name": "s", "namespace": "n", "uid": "1"}, "data": written["data"]})
				if err != nil {
					t.Error(err)
				}
				secret = string(kept)
			}
			_, _ = io.WriteString(w, secret)
		default:
			_, _ = io.WriteString(w, configuration)
		}
	})
	for range contestTimes + 2 { // the first write undoes nothing
		if _, err := s.step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(events) != 1 {
		t.Fatalf("%d Events, want 1", len(events))
	}
	e := events[0]
	if e.InvolvedObject.Kind != "MutatingWebhookConfiguration" || e.Namespace != "default" ||
		!strings.Contains(e.Message, "argocd-controller") || e.Reason != "CertificatesReset" {
		t.Errorf("the Event is %+v", e)
	}
	if n := exported(t, registry, "evenkeel_certificate_resets_total", "bundle"); n != contestTimes+1 {
		t.Errorf("%v resets of the bundle are counted, want %d", n, contestTimes+1)
	}
	if n := exported(t, registry, "evenkeel_certificate_resets_total", "secret"); n != 0 {
		t.Errorf("%v resets of the Secret are counted, want none", n)
	}
}

package webhook

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/evenkeel/evenkeel/patches"
)

func revision(kind, name, owner, uid, template string) string {
	field := `"spec":{"template":` + template + `}`
	if kind == "ControllerRevision" {
		field = `"data":{"spec":{"template":` + template + `}}`
	}
	return fmt.Sprintf(
		`{"apiVersion":"apps/v1","kind":%q,"metadata":{"name":%q,"namespace":"shop","resourceVersion":"5",`+
			`"ownerReferences":[{"apiVersion":"apps/v1","kind":%q,"name":"web","uid":%q,"controller":true}]},%s}`,
		kind, name, owner, uid, field)
}

// TestRevisionsKnowWhatRan lists and watches an API server that has one revision of each kind, then
// adds one and deletes one.
func TestRevisionsKnowWhatRan(t *testing.T) {
	const (
		one = `{"metadata":{"labels":{"app":"web","pod-template-hash":"abc"}},"spec":{"containers":[{"name":"web",` +
			`"image":"web:1"}]}}`
		two = `{"metadata":{"labels":{"app":"web","pod-template-hash":"def"}},"spec":{"containers":[{"name":"web",` +
			`"image":"web:2"}]}}`
		three = `{"$patch":"replace","metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"db",` +
			`"image":"db:1"}]}}`
	)
	events := make(chan string)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		sets := r.URL.Path == "/apis/apps/v1/replicasets"
		switch {
		case r.URL.Query().Get("watch") != "" && sets:
			w.(http.Flusher).Flush()
			for {
				select {
				case event := <-events:
					_, _ = io.WriteString(w, event)
					w.(http.Flusher).Flush()
				case <-r.Context().Done():
					return
				}
			}
		case r.URL.Query().Get("watch") != "":
			<-r.Context().Done()
		case sets:
			_, _ = fmt.Fprintf(w,
				`{"kind":"ReplicaSetList","apiVersion":"apps/v1","metadata":{"resourceVersion":"5"},"items":[%s,%s]}`,
				revision("ReplicaSet", "web-abc", "Deployment", "uid-1", one),
				revision("ReplicaSet", "own", "Rollout", "uid-3", two))
		default:
			_, _ = fmt.Fprintf(w,
				`{"kind":"ControllerRevisionList","apiVersion":"apps/v1","metadata":{"resourceVersion":"5"},"items":[%s]}`,
				revision("ControllerRevision", "db-1", "StatefulSet", "uid-2", three))
		}
	}))
	t.Cleanup(server.Close) // after the end of the context, which ends the watches
	config := &rest.Config{Host: server.URL}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	changes, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	r := NewRevisions(client, changes, logrus.NewEntry(log))
	if r.Ready() == nil {
		t.Error("ready before anything is listed")
	}
	go r.Run(t.Context())
	ran := func(uid, template string) bool {
		print, err := patches.FingerprintTemplate(json.RawMessage(template))
		if err != nil {
			t.Fatal(err)
		}
		return r.Ran(uid, print)
	}
	wait := func(what string, is func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(10 * time.Millisecond) { // polls
			if time.Now().After(deadline) {
				t.Fatalf("waited in vain for %s", what)
			}
		}
	}
	wait("the lists", func() bool { return r.Ready() == nil })
	for _, c := range []struct {
		uid, template string
		want          bool
	}{
		{"uid-1", one, true},
		// as a client sends it
		{"uid-1", `{"spec":{"containers":[{"image":"web:1","name":"web"}]},"metadata":{"creationTimestamp":null,` +
			`"labels":{"app":"web"}}}`, true},
		{"uid-2", one, false},
		{"uid-1", two, false},
		{"uid-2", `{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"db","image":"db:1"}]}}`, true},
		{"uid-3", two, false}, // of no Deployment
	} {
		if got := ran(c.uid, c.template); got != c.want {
			t.Errorf("%s %s ran: %v, want %v", c.uid, c.template, got, c.want)
		}
	}
	events <- `{"type":"ADDED","object":` + revision("ReplicaSet", "web-def", "Deployment", "uid-1", two) + `}`
	wait("the new revision", func() bool { return ran("uid-1", two) })
	events <- `{"type":"DELETED","object":` + revision("ReplicaSet", "web-abc", "Deployment", "uid-1", one) + `}`
	wait("the end of the old one", func() bool { return !ran("uid-1", one) })
}

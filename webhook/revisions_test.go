package webhook

import (
	"encoding/json"
	"fmt"
	"io"
	"testing"

	"github.com/sirupsen/logrus"
	"k8s.io/client-go/dynamic"

	"github.com/evenkeel/evenkeel/patches"
)

const (
	replicaSetsPath         = "/apis/apps/v1/replicasets"
	controllerRevisionsPath = "/apis/apps/v1/controllerrevisions"
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
	a := newAPI(t, "v1.33.0", map[string][]string{
		replicaSetsPath: {revision("ReplicaSet", "web-abc", "Deployment", "uid-1", one),
			revision("ReplicaSet", "own", "Rollout", "uid-3", two)},
		controllerRevisionsPath: {revision("ControllerRevision", "db-1", "StatefulSet", "uid-2", three)}})
	client, _ := a.clients(t)
	changes, err := dynamic.NewForConfig(a.config())
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
	eventually(t, "the lists", func() bool { return r.Ready() == nil })
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
	a.events[replicaSetsPath] <- `{"type":"ADDED","object":` +
		revision("ReplicaSet", "web-def", "Deployment", "uid-1", two) + `}`
	eventually(t, "the new revision", func() bool { return ran("uid-1", two) })
	a.events[replicaSetsPath] <- `{"type":"DELETED","object":` +
		revision("ReplicaSet", "web-abc", "Deployment", "uid-1", one) + `}`
	eventually(t, "the end of the old one", func() bool { return !ran("uid-1", one) })
}

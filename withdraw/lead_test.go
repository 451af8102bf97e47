package withdraw

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
)

// api is an API server that has what a test puts into it, and takes Events and the ConfigMap of notes.
type api struct {
	mu     sync.Mutex
	lists  map[string][]string // by the path's end
	events []string
	notes  string
	writes int
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	body, _ := io.ReadAll(r.Body)
	kind := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	switch {
	case r.Method == http.MethodPost && kind == "events":
		var e corev1.Event
		_ = json.Unmarshal(body, &e)
		a.events = append(a.events, e.Reason+": "+e.Message)
		_, _ = w.Write(body)
	case r.Method == http.MethodPatch && kind == ConfigMap:
		var c corev1.ConfigMap
		_ = json.Unmarshal(body, &c)
		a.notes = c.Data[dataKey]
		a.writes++
		_, _ = w.Write(body)
	// of no other revision
	case kind == "pods" && !strings.Contains(r.URL.Query().Get("labelSelector"), "pod-template-hash=2"):
		_, _ = io.WriteString(w, `{"kind":"List","apiVersion":"v1","metadata":{},"items":[]}`)
	case r.Method == http.MethodGet:
		_, _ = fmt.Fprintf(w, `{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[%s]}`,
			strings.Join(a.lists[kind], ","))
	default:
		http.Error(w, r.Method+" "+r.URL.Path, http.StatusNotFound)
	}
}

// watchOf returns a Watch of an API server, with a clock of the test's.
func watchOf(t *testing.T, a *api, now *time.Time) *Watch {
	t.Helper()
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	client, err := kubernetes.NewForConfig(
		&rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
	if err != nil {
		t.Fatal(err)
	}
	injector, err := patches.New(patches.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	notes, err := NewNotes(client, "evenkeel-system")
	if err != nil {
		t.Fatal(err)
	}
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	w, err := New(Config{Client: client, Injector: injector, Notes: notes, Patience: 2 * time.Minute,
		NamespaceSelector: labels.SelectorFromSet(labels.Set{policy.InjectLabel: policy.Enabled}),
		Except:            []string{"evenkeel-system"},
		Log:               logrus.NewEntry(logger), Registerer: prometheus.NewRegistry(),
		Now: func() time.Time { return *now }})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// deploymentOf returns a Deployment with what evenkeel adds to it.
func deploymentOf(t *testing.T, namespace, uid, container, annotations, progress string) string {
	t.Helper()
	object := fmt.Sprintf(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":%q,"uid":%q,
		"annotations":{"deployment.kubernetes.io/revision":"2"%s}},
		"spec":{"replicas":2,"selector":{"matchLabels":{"app":"web"}},
		"template":{"metadata":{"labels":{"app":"web"}},
		"spec":{"containers":[{"name":"web",%s}]}}},
		"status":{"conditions":[{"type":"Progressing","reason":%q}]}}`, namespace, uid, annotations, container, progress)
	injector, err := patches.New(patches.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	result := injector.Review(patches.Request{Operation: patches.Create, Object: []byte(object)})
	var whole map[string]any
	if err := json.Unmarshal([]byte(object), &whole); err != nil {
		t.Fatal(err)
	}
	template := whole["spec"].(map[string]any)["template"].(map[string]any)
	for _, op := range result.Operations { // as far as the test needs them
		var value any
		_ = json.Unmarshal(op.Value, &value)
		c := template["spec"].(map[string]any)["containers"].([]any)[0].(map[string]any)
		switch {
		case strings.HasSuffix(op.Path, "/readinessProbe"):
			c["readinessProbe"] = value
		case strings.HasSuffix(op.Path, "/metadata/annotations"):
			template["metadata"].(map[string]any)["annotations"] = value
		}
	}
	raw, err := json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// Members of the container web.
const (
	web        = `"image":"web:1","ports":[{"containerPort":80}]`
	otherImage = `"image":"web:2","env":[{"name":"A","value":"b"}],"ports":[{"containerPort":80}]`
	otherPort  = `"image":"web:1","ports":[{"containerPort":81}]`
)

const (
	namespaces  = `{"metadata":{"name":"shop"}}`
	replicaSets = `{"metadata":{"name":"web-2","labels":{"pod-template-hash":"2"},
		"annotations":{"deployment.kubernetes.io/revision":"2"},
		"ownerReferences":[{"kind":"Deployment","name":"web","uid":"u1","controller":true}]}},
		{"metadata":{"name":"web-1","labels":{"pod-template-hash":"1"},
		"annotations":{"deployment.kubernetes.io/revision":"1"},
		"ownerReferences":[{"kind":"Deployment","name":"web","uid":"u1","controller":true}]}}`
	unreadyPod = `{"metadata":{"name":"web-2-x"},"spec":{"containers":[{"name":"web"}]},"status":{"conditions":[
		{"type":"Initialized","status":"True","lastTransitionTime":"2026-03-01T12:00:00Z"},
		{"type":"Ready","status":"False","lastTransitionTime":"2026-03-01T12:00:00Z"}],
		"containerStatuses":[{"name":"web","ready":false,"started":true,
		"state":{"running":{"startedAt":"2026-03-01T12:00:00Z"}}}]}}`
)

func TestAGuessThatNeverSucceedsIsNotedOnce(t *testing.T) {
	const updating, done = "ReplicaSetUpdated", "NewReplicaSetAvailable"
	readyPod := strings.NewReplacer(`"False"`, `"True"`, `"ready":false`, `"ready":true`).Replace(unreadyPod)
	for name, c := range map[string]struct {
		namespace, annotations, progress, pod string
		after                                 time.Duration
		want                                  bool
	}{
		"never ready after patience":  {"shop", "", updating, unreadyPod, 2 * time.Minute, true},
		"never ready before patience": {"shop", "", updating, unreadyPod, 2*time.Minute - time.Second, false},
		"ready":                       {"shop", "", updating, readyPod, time.Hour, false},
		"a leader, and one never ready for ten minutes": {"shop", "", updating, readyPod + "," + unreadyPod, 10 * time.Minute,
			true},
		"a leader, and one never ready for less": {"shop", "", updating, readyPod + "," + unreadyPod, 9 * time.Minute, false},
		"a revision that was complete once":      {"shop", "", done, unreadyPod, time.Hour, false},
		"a probe that the workload asks for": {"shop", `,"evenkeel.dev/readiness-probe":"tcp:80"`, updating,
			unreadyPod, time.Hour, false},
		"a Namespace that is not opted in": {"other", "", updating, unreadyPod, time.Hour, false},
		"another default only, since the probe is off": {"shop", `,"evenkeel.dev/readiness-probe":"off"`, updating,
			unreadyPod, time.Hour, false},
		"a pod without statuses, as of a node that died": {"shop", "", updating,
			`{"metadata":{"name":"x"},"spec":{"containers":[{"name":"web"}]}}`, time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			now := noon.Add(c.after)
			a := &api{lists: map[string][]string{"namespaces": {namespaces}, "replicasets": {replicaSets}, "pods": {c.pod},
				"deployments": {deploymentOf(t, c.namespace, "u1", web, c.annotations, c.progress)}}}
			w := watchOf(t, a, &now)
			for range 2 {
				if err := w.once(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			_, noted := w.config.Notes.Of("shop", "Deployment", "web")
			if noted != c.want || strings.Contains(a.notes, "Deployment shop web probe-never-succeeds") != c.want ||
				a.writes != count(c.want) {
				t.Errorf("noted: %v, want %v; written %d times: %q", noted, c.want, a.writes, a.notes)
			}
			if events := strings.Join(a.events, "\n"); len(a.events) != count(c.want) ||
				c.want && (!strings.Contains(events, "kubectl rollout restart deployment/web") ||
					!strings.Contains(events, "kubectl annotate deployment/web evenkeel.dev/readiness-probe=tcp:PORT")) {
				t.Errorf("Events: %q", events)
			}
			w.count(w.config.Notes.all())
			if got := gauge(t, w, "probe-never-succeeds"); got != float64(count(c.want)) {
				t.Errorf("the gauge is %v", got)
			}
		})
	}
}

// gauge returns what evenkeel_noted_workloads has for a code.
func gauge(t *testing.T, w *Watch, code string) float64 {
	t.Helper()
	families, err := w.config.Registerer.(*prometheus.Registry).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "evenkeel_noted_workloads" && m.GetLabel()[0].GetValue() == code {
				return m.GetGauge().GetValue()
			}
		}
	}
	return -1
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestANoteEnds(t *testing.T) {
	for name, c := range map[string]struct {
		deployments []string
		later       time.Duration
		want        bool
	}{
		"not while nothing changes":  {[]string{deploymentOf(t, "shop", "u1", web, "", "")}, 24 * time.Hour, true},
		"not when the image changes": {[]string{deploymentOf(t, "shop", "u1", otherImage, "", "")}, 0, true},
		"when a port changes":        {[]string{deploymentOf(t, "shop", "u1", otherPort, "", "")}, 0, false},
		"when the workload asks for a probe": {
			[]string{deploymentOf(t, "shop", "u1", web, `,"evenkeel.dev/readiness-probe":"tcp:81"`, "")}, 0, false},
		"not as soon as the workload is gone":  {nil, 30 * time.Minute, true},
		"when the workload is gone for longer": {nil, 2 * time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			now := noon.Add(time.Hour)
			a := &api{lists: map[string][]string{"namespaces": {namespaces}, "replicasets": {replicaSets}, "pods": {unreadyPod},
				"deployments": {deploymentOf(t, "shop", "u1", web, "", "")}}}
			w := watchOf(t, a, &now)
			if err := w.once(t.Context()); err != nil {
				t.Fatal(err)
			}
			a.lists["deployments"], a.lists["pods"] = c.deployments, nil
			for range 2 {
				if err := w.once(t.Context()); err != nil {
					t.Fatal(err)
				}
				now = now.Add(c.later)
			}
			if err := w.once(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, noted := w.config.Notes.Of("shop", "Deployment", "web"); noted != c.want {
				t.Errorf("noted: %v, want %v", noted, c.want)
			}
		})
	}
}

func TestAWorkloadThatIsMadeAgainAndAgainIsLeftAlone(t *testing.T) {
	for name, c := range map[string]struct {
		containers []string
		between    time.Duration
		want       bool
	}{
		"three times within an hour":       {[]string{web, web, web, web}, 20 * time.Minute, true},
		"twice":                            {[]string{web, web, web}, 20 * time.Minute, false},
		"with other ports each time":       {[]string{web, otherPort, web, otherPort}, 20 * time.Minute, false},
		"with other images each time":      {[]string{web, otherImage, web, otherImage}, 20 * time.Minute, true},
		"three times within a longer time": {[]string{web, web, web, web}, 40 * time.Minute, false},
	} {
		t.Run(name, func(t *testing.T) {
			now := noon
			a := &api{lists: map[string][]string{"namespaces": {namespaces}}}
			w := watchOf(t, a, &now)
			for i, container := range c.containers {
				// and it is deleted
				for _, there := range [][]string{{deploymentOf(t, "shop", fmt.Sprint("u", i), container, "", "")}, nil} {
					a.lists["deployments"] = there
					if err := w.once(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				now = now.Add(c.between)
			}
			note, noted := w.config.Notes.Of("shop", "Deployment", "web")
			if noted != c.want || noted && note.Code != patches.SkipResetAgain || len(a.events) != count(c.want) {
				t.Errorf("noted: %v %v, Events %q, want %v", noted, note, a.events, c.want)
			}
		})
	}
}

func TestNewRejectsAnIncompleteConfig(t *testing.T) {
	now := noon
	whole := watchOf(t, &api{}, &now).config
	for name, change := range map[string]func(*Config){
		"no client":           func(c *Config) { c.Client = nil },
		"no log":              func(c *Config) { c.Log = nil },
		"a negative patience": func(c *Config) { c.Patience = -1 },
		"taken metrics":       func(*Config) {},
	} {
		config := whole
		change(&config)
		if _, err := New(config); err == nil {
			t.Errorf("takes %s", name)
		}
	}
}

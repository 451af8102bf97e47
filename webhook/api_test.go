package webhook

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
)

// api is an API server that doesn't stream lists, but answers them page by page, and sends events to those who watch.
type api struct {
	*httptest.Server

	mu      sync.Mutex
	version string              // of the API server
	lists   map[string][]string // items by path
	events  map[string]chan string
	pages   map[string]int // that were asked for
	whole   []string       // paths that were asked for in one answer
}

func newAPI(t *testing.T, version string, lists map[string][]string) *api {
	t.Helper()
	a := &api{version: version, lists: lists, events: map[string]chan string{}, pages: map[string]int{}}
	for path := range lists {
		a.events[path] = make(chan string)
	}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close) // after the end of the context, which ends the watches
	return a
}

func (a *api) setVersion(version string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version = version
}

// config is how clients reach it.
func (a *api) config() *rest.Config { return &rest.Config{Host: a.URL, QPS: -1} }

func (a *api) clients(t *testing.T) (kubernetes.Interface, metadata.Interface) {
	t.Helper()
	client, err := kubernetes.NewForConfig(a.config())
	if err != nil {
		t.Fatal(err)
	}
	objects, err := metadata.NewForConfig(a.config())
	if err != nil {
		t.Fatal(err)
	}
	return client, objects
}

// wholeLists are the kinds that are listed with spec and status, by path.
var wholeLists = map[string]string{
	nodesPath:               `"kind":"NodeList","apiVersion":"v1"`,
	replicaSetsPath:         `"kind":"ReplicaSetList","apiVersion":"apps/v1"`,
	controllerRevisionsPath: `"kind":"ControllerRevisionList","apiVersion":"apps/v1"`,
}

// ServeHTTP implements http.Handler.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	query := r.URL.Query()
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case r.URL.Path == "/version":
		_ = json.NewEncoder(w).Encode(map[string]string{"gitVersion": a.version})
	case query.Get("sendInitialEvents") != "": // 1.33 and before, by default
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422}`)
	case query.Get("watch") != "":
		events := a.events[r.URL.Path]
		a.mu.Unlock()
		defer a.mu.Lock()
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
	default:
		a.pages[r.URL.Path]++
		var start int
		_, _ = fmt.Sscan(query.Get("continue"), &start)
		items, next := a.lists[r.URL.Path][start:], ""
		// for which an API server before 1.34 pays no heed to a limit
		if query.Get("limit") == "" || query.Get("resourceVersion") == "0" {
			a.whole = append(a.whole, r.URL.Path)
		} else if len(items) > 1 { // pages of one object
			items, next = items[:1], fmt.Sprint(start+1)
		}
		kind := `"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1"`
		if !strings.Contains(r.Header.Get("Accept"), "PartialObjectMetadataList") {
			kind = wholeLists[r.URL.Path]
		}
		_, _ = fmt.Fprintf(w, `{%s,"metadata":{"resourceVersion":"5","continue":%q},"items":[%s]}`, kind, next,
			strings.Join(items, ","))
	}
}

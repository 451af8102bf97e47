package audit

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// api is an API server that holds objects, filters by label and refuses what is forbidden. The fake
// clientset of client-go has no REST client, by which lists are read object by object.
type api struct {
	mu        sync.Mutex
	objects   []stub
	forbidden []string // plurals
	broken    bool     // answers everything with 500
	events    []corev1.Event
}

// stub is an object of an api.
type stub struct {
	plural string
	object any // with its metadata
}

// start starts the server and returns a client of it.
func (a *api) start(t *testing.T) kubernetes.Interface {
	t.Helper()
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	client, err := kubernetes.NewForConfig(
		&rest.Config{Host: server.URL, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	answer := func(code int, value any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(value)
	}
	fail := func(code int32, reason metav1.StatusReason) {
		answer(int(code),
			metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Code: code,
				Reason: reason, Message: string(reason)})
	}
	if r.URL.Path == "/version" {
		answer(http.StatusOK, map[string]string{"gitVersion": "v1.36.1"})
		return
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(parts) == 2 && parts[0] == "apis" {
		answer(http.StatusOK, metav1.APIGroup{Name: parts[1]})
		return
	}
	parts = parts[2:] // behind api/v1
	if strings.HasPrefix(r.URL.Path, "/apis/") {
		parts = parts[1:]
	}
	namespace := ""
	if parts[0] == "namespaces" && len(parts) > 2 {
		namespace, parts = parts[1], parts[2:]
	}
	plural := parts[0]
	switch {
	case a.broken:
		fail(http.StatusInternalServerError, metav1.StatusReasonInternalError)
		return
	case slices.Contains(a.forbidden, plural):
		fail(http.StatusForbidden, metav1.StatusReasonForbidden)
		return
	case r.Method == http.MethodPost:
		var e corev1.Event
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			fail(http.StatusBadRequest, metav1.StatusReasonBadRequest)
			return
		}
		a.events = append(a.events, e)
		answer(http.StatusCreated, e)
		return
	}
	selector, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		fail(http.StatusBadRequest, metav1.StatusReasonBadRequest)
		return
	}
	items := []any{}
	for _, s := range a.objects {
		raw, _ := json.Marshal(s.object)
		var meta metav1.PartialObjectMetadata
		_ = json.Unmarshal(raw, &meta)
		switch {
		case s.plural != plural || namespace != "" && meta.Namespace != namespace:
		case len(parts) > 1 && meta.Name == parts[1]:
			answer(http.StatusOK, s.object)
			return
		case len(parts) == 1 && selector.Matches(labels.Set(meta.Labels)):
			items = append(items, s.object)
		}
	}
	if len(parts) > 1 {
		fail(http.StatusNotFound, metav1.StatusReasonNotFound)
		return
	}
	answer(http.StatusOK, map[string]any{"metadata": map[string]any{}, "items": items})
}

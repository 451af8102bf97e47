package list

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestOptedInPassesOverWhatEndsAndWhatIsExcepted has an API server that selects by itself.
func TestOptedInPassesOverWhatEndsAndWhatIsExcepted(t *testing.T) {
	selector := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		selector = r.URL.Query().Get("labelSelector")
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprint(w, `{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{},"items":[
			{"metadata":{"name":"shop","annotations":{"evenkeel.dev/pre-stop-sleep":"5s","theirs":"x"}}},
			{"metadata":{"name":"bare"}},
			{"metadata":{"name":"kube-system"}},
			{"metadata":{"name":"ends","deletionTimestamp":"2026-01-01T00:00:00Z"}}]}`)
	}))
	defer server.Close()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	got, err := OptedIn(t.Context(), client, labels.SelectorFromSet(labels.Set{"a": "b"}), []string{"kube-system"})
	if err != nil || selector != "a=b" {
		t.Errorf("error %v, selector %q", err, selector)
	}
	want := map[string]map[string]string{"shop": {"evenkeel.dev/pre-stop-sleep": "5s"}, "bare": nil}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("namespaces (-want +got):\n%s", diff)
	}
}

package webhook

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// TestServicesFollowTheAPIServer lists and watches an API server that has a Service in each of two
// Namespaces, on two pages.
func TestServicesFollowTheAPIServer(t *testing.T) {
	service := func(namespace, name string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"Service","metadata":{"namespace":%q,"name":%q,`+
			`"resourceVersion":"5"},"spec":{"selector":{"app":%q},"ports":[{"port":80}]}}`,
			namespace, name, name)
	}
	events := make(chan string)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch query := r.URL.Query(); {
		case query.Get("watch") != "":
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
		case query.Get("continue") == "":
			_, _ = fmt.Fprintf(w,
				`{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"5","continue":"next"},"items":[%s]}`,
				service("shop", "web"))
		default:
			_, _ = fmt.Fprintf(w, `{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"5"},"items":[%s]}`,
				service("bank", "api"))
		}
	}))
	t.Cleanup(server.Close) // after the end of the context, which ends the watches
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	s := NewServices(client, logrus.NewEntry(logger))
	if s.Ready() == nil || s.Of("shop") != nil {
		t.Error("ready before anything is listed")
	}
	go s.Run(t.Context())
	eventually(t, "the lists", func() bool { return s.Ready() == nil })
	has := func(namespace, name string) bool { return s.Of(namespace) != nil && s.Of(namespace).Has(name) }
	if !has("shop", "web") || !has("bank", "api") || has("shop", "api") || has("other", "web") {
		t.Error("not the Services that were listed")
	}
	events <- `{"type":"ADDED","object":` + service("shop", "db") + `}`
	eventually(t, "the new Service", func() bool { return has("shop", "db") })
	events <- `{"type":"MODIFIED","object":` + service("shop", "db") + `}`
	events <- `{"type":"DELETED","object":` + service("bank", "api") + `}`
	eventually(t, "a Namespace without Services is forgotten", func() bool { return s.Of("bank") == nil })
	if s.count != 2 {
		t.Errorf("%d Services are counted, want 2", s.count)
	}
}

// TestServicesAreBounded has one Service less than there may be.
func TestServicesAreBounded(t *testing.T) {
	s := NewServices(nil, nil)
	s.count = maxServices - 1
	for _, name := range []string{"a", "b", "a"} {
		if err := s.Add(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}); err != nil {
			t.Fatal(err)
		}
	}
	if s.count != maxServices || s.Of("shop").Has("b") {
		t.Errorf("%d Services are known, want %d", s.count, maxServices)
	}
}

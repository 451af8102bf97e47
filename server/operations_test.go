package server

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/evenkeel/evenkeel/recycle"
)

func silentLog() *logrus.Entry {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	return logrus.NewEntry(logger)
}

// A connection over HTTP/2 could have 250 reviews going on at once, and the bound on memory counts connections.
func TestReviewsAreAnsweredOverTLS13AndHTTP1Alone(t *testing.T) {
	pair := httptest.NewUnstartedServer(nil)
	pair.StartTLS() // for its certificate
	defer pair.Close()
	server := reviewServer(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) }),
		func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair.TLS.Certificates[0], nil }, silentLog())
	if _, err := recycle.Wrap(server, recycle.Options{}); err != nil { // as serve does
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.ServeTLS(listener, "", "") }()
	defer server.Close()

	for _, c := range []struct {
		offered  []string
		version  uint16
		answered bool
	}{
		{[]string{"h2", "http/1.1"}, tls.VersionTLS13, true}, // kube-apiserver, for example
		{[]string{"http/1.1"}, tls.VersionTLS13, true},
		{nil, tls.VersionTLS13, true},
		{[]string{"h2"}, tls.VersionTLS13, false},
		{[]string{"http/1.1"}, tls.VersionTLS12, false},
	} {
		conn, err := tls.Dial("tcp", listener.Addr().String(),
			&tls.Config{InsecureSkipVerify: true, NextProtos: c.offered,
				MaxVersion: c.version}) //nolint:gosec // it is about the server's side
		if (err == nil) != c.answered {
			t.Errorf("offered %v, TLS %#x: %v, want answered: %v", c.offered, c.version, err, c.answered)
		}
		if err != nil {
			continue
		}
		if p := conn.ConnectionState().NegotiatedProtocol; p == "h2" {
			t.Errorf("offered %v: %q was chosen", c.offered, p)
		}
		_ = conn.Close()
	}
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // the same
	defer client.CloseIdleConnections()
	response, err := client.Get("https://" + listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, _ := io.ReadAll(response.Body); string(body) != "HTTP/1.1" {
		t.Errorf("a client that would like HTTP/2 was answered over %s", body)
	}
}

// slowCollector is collected when it is told to be.
type slowCollector struct{ began, release chan struct{} }

func (slowCollector) Describe(chan<- *prometheus.Desc) {}

func (s slowCollector) Collect(chan<- prometheus.Metric) {
	s.began <- struct{}{}
	<-s.release
}

func TestScrapesAreBoundedAndProbesAreAnsweredMeanwhile(t *testing.T) {
	registry := prometheus.NewRegistry()
	slow := slowCollector{make(chan struct{}), make(chan struct{})}
	registry.MustRegister(slow)
	state := errors.New("draining")
	handler := operations(func() error { return state }, registry)
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	var group sync.WaitGroup
	for range maxScrapes {
		group.Go(func() {
			if code, _ := get("/metrics"); code != http.StatusOK {
				t.Errorf("a scrape within the bound: %d", code)
			}
		})
		<-slow.began
	}
	answered := make(chan int, 1)
	group.Go(func() {
		code, _ := get("/metrics")
		answered <- code
	})
	select {
	case code := <-answered:
		if code != http.StatusServiceUnavailable {
			t.Errorf("one scrape more: %d, want 503", code)
		}
	case <-slow.began:
		t.Errorf("more than %d scrapes at once", maxScrapes)
	}
	if code, _ := get("/livez"); code != http.StatusOK {
		t.Errorf("/livez meanwhile: %d", code)
	}
	if code, body := get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "draining") {
		t.Errorf("/readyz: %d %s, want 503 and the reason", code, body)
	}
	close(slow.release)
	group.Wait()
}

package webhook

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// stuck is a guard whose reviews wait until release is called.
func stuck(t *testing.T) (handler http.Handler, began chan struct{}, release func()) {
	t.Helper()
	inner, _ := newHandler(t)
	g, ok := inner.(*guard)
	if !ok {
		t.Fatal("the handler is no guard")
	}
	next := g.next
	began, wait := make(chan struct{}, 1000), make(chan struct{})
	g.next = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began <- struct{}{}
		<-wait
		next.ServeHTTP(w, r)
	})
	return g, began, sync.OnceFunc(func() { close(wait) })
}

func TestWhatIsTooMuchAtOnceIsShedAndNotQueued(t *testing.T) {
	handler, began, release := stuck(t)
	defer release()
	var group sync.WaitGroup
	for range maxReviews {
		group.Go(func() {
			status, body := post(handler, reviewOf(podJSON))
			answered(t, status, body)
		})
		<-began
	}
	r := httptest.NewRequest(http.MethodPost, "/mutate?timeout=2s", strings.NewReader(reviewOf(podJSON)))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "1" || w.Header().Get("Connection") != "close" {
		t.Errorf("one more than %d: %d %v, want 429 with Retry-After: 1 and Connection: close", maxReviews, w.Code, w.Header())
	}
	release()
	group.Wait()
	status, body := post(handler, reviewOf(podJSON)) // every place is free again
	answered(t, status, body)
}

func TestLargeBodiesShareTheirRoom(t *testing.T) {
	handler, began, release := stuck(t)
	defer release()
	large := reviewOf(`{"apiVersion":"v1","kind":"ConfigMap","x":"` + strings.Repeat("x", maxBody-1024) + `"}`)
	var group sync.WaitGroup
	group.Go(func() {
		status, body := post(handler, large)
		answered(t, status, body)
	})
	<-began
	if status, _ := post(handler, large); status != http.StatusTooManyRequests {
		t.Errorf("a second body of 8 MiB: %d, want 429", status)
	}
	group.Go(func() {
		status, body := post(handler, reviewOf(podJSON))
		answered(t, status, body)
	})
	<-began // small ones are not in the way of each other
	release()
	group.Wait()
	if g, ok := handler.(*guard); !ok || g.limiter.large.Load() != 0 || g.limiter.reviews.Load() != 0 {
		t.Error("something stays reserved")
	}
}

func TestALengthThatIsOnlyToldTakesNoRoom(t *testing.T) {
	var l limiter
	var into bytes.Buffer
	cut := errors.New("cut")
	reserved, err := l.read(&into, io.MultiReader(strings.NewReader("{}"), errorReader{cut}))
	if reserved != 0 || !errors.Is(err, cut) || into.Cap() > freeBody {
		t.Errorf("reserved %d, %d of buffer, %v", reserved, into.Cap(), err)
	}
	for _, size := range []int{0, 1, freeBody - 1, freeBody, freeBody + 1, 2 * freeBody, 1<<20 + 7, maxBody} {
		into.Reset()
		text := strings.Repeat("x", size)
		reserved, err := l.read(&into, strings.NewReader(text))
		if err != nil || into.String() != text || (reserved > 0) != (size >= freeBody) || reserved > 2*int64(size) {
			t.Errorf("%d bytes: read %d, reserved %d, %v", size, into.Len(), reserved, err)
		}
		l.release(reserved)
	}
	if l.large.Load() != 0 {
		t.Errorf("%d bytes stay reserved", l.large.Load())
	}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

// addressed is a connection from an address.
type addressed struct {
	net.Conn
	from   string
	closed bool
}

func (a *addressed) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(a.from)} }
func (a *addressed) Close() error         { a.closed = true; return nil }

// queue is a listener of given connections.
type queue struct{ next []net.Conn }

func (q *queue) Accept() (net.Conn, error) {
	if len(q.next) == 0 {
		return nil, net.ErrClosed
	}
	c := q.next[0]
	q.next = q.next[1:]
	return c, nil
}
func (*queue) Close() error   { return nil }
func (*queue) Addr() net.Addr { return &net.TCPAddr{} }

// The API server on one port, and the kubelet on the other, keep their connections.
func TestWhoOpensThousandsOfConnectionsEndsHisOwn(t *testing.T) {
	registry := prometheus.NewRegistry()
	for port, most := range map[Port]int{PortWebhook: maxConnections, PortMetrics: maxMetricsConnections} {
		t.Run(string(port), func(t *testing.T) { crowd(t, port, most, registry) })
	}
	if _, err := LimitConnections(&queue{}, &http.Server{}, "https", registry); err == nil { //nolint:gosec // never serves
		t.Error("a port that there isn't is taken")
	}
}

func crowd(t *testing.T, port Port, most int, registry *prometheus.Registry) {
	t.Helper()
	var all []*addressed
	q := &queue{}
	come := func(from string, n int) {
		for range n {
			c := &addressed{from: from}
			all, q.next = append(all, c), append(q.next, c)
		}
	}
	server := &http.Server{} //nolint:gosec // never serves
	l, err := LimitConnections(q, server, port, registry)
	if err != nil {
		t.Fatal(err)
	}
	accept := func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if a, ok := c.(*connection); ok && a.host == "10.0.0.1" {
				server.ConnState(c, http.StateActive)
			}
		}
	}
	come("10.0.0.1", 25)
	come("10.0.0.9", 10_000)
	come("10.0.0.1", 25)
	accept()
	open := map[string]int{}
	for _, c := range all {
		if !c.closed {
			open[c.from]++
		}
	}
	if open["10.0.0.1"] != 50 || open["10.0.0.9"] != most-50 {
		t.Errorf("open are %v, want all 50 of the first and %d of the second", open, most-50)
	}
	if first := all[25]; !first.closed {
		t.Error("the oldest of the crowd is still open")
	}
}

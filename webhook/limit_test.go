package webhook

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

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

// from makes a request come from the i-th of many addresses.
func from(i int) func(*http.Request) {
	return func(r *http.Request) { r.RemoteAddr = fmt.Sprintf("10.1.%d.%d:1", i/256, i%256) }
}

// deaf is a client that reads no answer.
type deaf struct {
	http.ResponseWriter
	deadline time.Time
	writing  chan struct{}
	hangUp   chan struct{}
}

func (d *deaf) SetWriteDeadline(at time.Time) error { d.deadline = at; return nil }

func (d *deaf) Write([]byte) (int, error) {
	d.writing <- struct{}{}
	<-d.hangUp
	return 0, os.ErrDeadlineExceeded
}

func TestWhoReadsNoAnswerHoldsNoPlace(t *testing.T) {
	handler, _ := newHandler(t)
	writing, hangUp := make(chan struct{}), make(chan struct{})
	var group sync.WaitGroup
	for i := range 2 * maxReviews {
		d := &deaf{ResponseWriter: httptest.NewRecorder(), writing: writing, hangUp: hangUp}
		group.Go(func() {
			r := httptest.NewRequest(http.MethodPost, "/mutate?timeout=2s", strings.NewReader(reviewOf(podJSON)))
			r.Header.Set("Content-Type", "application/json")
			from(i % 3)(r)
			began := time.Now()
			handler.ServeHTTP(d, r)
			if wait := d.deadline.Sub(began); wait <= 0 || wait > time.Minute {
				t.Errorf("the answer has %v to be written, want %v", wait, writeTime)
			}
		})
		<-writing
	}
	status, body := post(handler, reviewOf(podJSON), from(0))
	answered(t, status, body)
	close(hangUp)
	group.Wait()
}

// TestLargeAnswersShareTheRoomOfLargeBodies lets clients read none of answers of 40 KiB.
func TestLargeAnswersShareTheRoomOfLargeBodies(t *testing.T) {
	handler, _ := newHandler(t)
	g, ok := handler.(*guard)
	if !ok {
		t.Fatal("the handler is no guard")
	}
	g.limits.large.capacity = 1 << 20
	var containers []string
	for i := range 100 {
		containers = append(containers, fmt.Sprintf(`{"name":"c%d","ports":[{"containerPort":%d}]}`, i, i+1))
	}
	large := reviewOf(`{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"app":"web"}},"spec":{"containers":[` +
		strings.Join(containers, ",") + `]}}`)
	writing, hangUp := make(chan struct{}), make(chan struct{})
	var group sync.WaitGroup
	for i := range 100 {
		d := &deaf{ResponseWriter: httptest.NewRecorder(), writing: writing, hangUp: hangUp}
		group.Go(func() {
			r := httptest.NewRequest(http.MethodPost, "/mutate", strings.NewReader(large))
			r.Header.Set("Content-Type", "application/json")
			from(i)(r)
			handler.ServeHTTP(d, r)
		})
		<-writing // the answer, or that it is too much
	}
	g.limits.large.mu.Lock()
	used, holders := g.limits.large.used, len(g.limits.large.taken)
	g.limits.large.mu.Unlock()
	if holders < 10 || holders > 30 || used > 1<<20 {
		t.Errorf("%d answers of 40 KiB, %d KiB, are held in 1 MiB", holders, used>>10)
	}
	close(hangUp)
	group.Wait()
	if g.limits.large.used != 0 {
		t.Errorf("%d bytes stay reserved", g.limits.large.used)
	}
}

func TestNobodyTakesAllShares(t *testing.T) {
	s := newShares(32, 8)
	takeAll := func(address string) (n int64) {
		for s.take(address, 1) {
			n++
		}
		return n
	}
	first, second, third := takeAll("a"), takeAll("b"), takeAll("c")
	if first != 24 || second < 4 || third < 1 {
		t.Errorf("one after the other get %d, %d and %d of 32; want 24, and something for the next two", first, second, third)
	}
	for address, n := range map[string]int64{"a": first, "b": second, "c": third} {
		s.give(address, n)
	}
	if s.used != 0 || len(s.taken) != 0 {
		t.Errorf("%d stay taken, by %v", s.used, s.taken)
	}
	if s.take("a", 33) || s.take("a", 25) || !s.take("a", 24) || s.take("b", 2) || !s.take("b", 1) {
		t.Error("large ones take what is left to small ones, or less than they may")
	}
	s = newShares(32, 8)
	for i := range 100 { // as updates of 250 KB from many addresses
		s.take(fmt.Sprint(i%3), 4)
		s.take(fmt.Sprint(i), 4)
	}
	if !s.take("the API server", 1) {
		t.Error("large ones have taken all")
	}
}

func TestAReviewCostsWhatItsSizeSays(t *testing.T) {
	for size, want := range map[int]int64{0: 1, 9 << 10: 1, freeBody - 1: 1, freeBody: 2, 500 << 10: 8,
		maxBody: maxReviews / 2} {
		if got := cost(size); got != want {
			t.Errorf("%d bytes cost %d, want %d", size, got, want)
		}
	}
}

func TestAReplicaWithoutAPlaceForReviewsSaysSo(t *testing.T) {
	l := NewLimits()
	now := time.Unix(0, 0)
	l.now = func() time.Time { return now }
	full := func() {
		for i := 0; l.reviews.used < maxReviews; i++ {
			l.begin(fmt.Sprint(i), 1)
		}
	}
	full()
	for _, step := range []struct {
		after time.Duration
		do    func()
		ready bool
		state string
	}{
		{0, func() { l.begin("x", 1) }, true, "one is shed"},
		{patience - 1, func() { l.begin("x", 1) }, true, "others are shed for less than the patience"},
		{1, func() { l.begin("x", 1) }, false, "others are shed for as long as the patience"},
		{patience, func() {}, true, "nobody asks any more"},
		{1, func() { l.begin("x", 1) }, false, "somebody asks again"},
		{1, func() { l.end("0", 1); l.begin("x", 1) }, true, "a place was free"},
		{1, func() { l.begin("y", 1) }, true, "the next one is shed"},
	} {
		now = now.Add(step.after)
		step.do()
		if err := l.Ready(); (err == nil) != step.ready {
			t.Errorf("%s: ready: %v", step.state, err)
		}
	}
}

func TestWhatIsTooMuchAtOnceIsShedAndNotQueued(t *testing.T) {
	handler, began, release := stuck(t)
	defer release()
	var group sync.WaitGroup
	for i := range maxReviews {
		group.Go(func() {
			status, body := post(handler, reviewOf(podJSON), from(i))
			answered(t, status, body)
		})
		<-began
	}
	r := httptest.NewRequest(http.MethodPost, "/mutate?timeout=2s", strings.NewReader(reviewOf(podJSON)))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "1" ||
		w.Header().Get("Connection") != "close" {
		t.Errorf("one more than %d: %d %v, want 429 with Retry-After: 1 and Connection: close", maxReviews,
			w.Code, w.Header())
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
	if g, ok := handler.(*guard); !ok || g.limits.large.used != 0 || len(g.limits.large.taken) != 0 ||
		g.limits.reviews.used != 0 {
		t.Error("something stays reserved")
	}
}

func TestALengthThatIsOnlyToldTakesNoRoom(t *testing.T) {
	l := NewLimits()
	var into bytes.Buffer
	cut := errors.New("cut")
	reserved, err := l.read("a", &into, io.MultiReader(strings.NewReader("{}"), errorReader{cut}))
	if reserved != 0 || !errors.Is(err, cut) || into.Cap() > freeBody {
		t.Errorf("reserved %d, %d of buffer, %v", reserved, into.Cap(), err)
	}
	for _, size := range []int{0, 1, freeBody - 1, freeBody, freeBody + 1, 2 * freeBody, 1<<20 + 7, maxBody} {
		into.Reset()
		text := strings.Repeat("x", size)
		reserved, err := l.read("a", &into, strings.NewReader(text))
		if err != nil || into.String() != text || (reserved > 0) != (size >= freeBody) || reserved > 2*int64(size) {
			t.Errorf("%d bytes: read %d, reserved %d, %v", size, into.Len(), reserved, err)
		}
		l.large.give("a", reserved)
	}
	if l.large.used != 0 {
		t.Errorf("%d bytes stay reserved", l.large.used)
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

// TestWhoSentReviewsKeepsItsConnections opens more connections than may be, from 600 addresses:
// none of them has as many as the API server.
func TestWhoSentReviewsKeepsItsConnections(t *testing.T) {
	for name, c := range map[string]struct {
		valid      bool // whether the others send a valid review too
		slow, kept bool // whether they are in the middle of a request; whether the API server keeps all
	}{
		"idle connections": {false, false, true},
		"slow requests":    {false, true, true},
		"connections that were idle since a review":    {true, false, false},
		"slow requests of those who have sent one too": {true, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			q := &queue{}
			server := &http.Server{} //nolint:gosec // never serves
			listener, err := LimitConnections(q, server, PortWebhook, prometheus.NewRegistry())
			if err != nil {
				t.Fatal(err)
			}
			come := func(address string, state http.ConnState, valid bool) *addressed {
				a := &addressed{from: address}
				q.next = append(q.next, a)
				nc, err := listener.Accept()
				if err != nil {
					return a // refused
				}
				server.ConnState(nc, http.StateActive)
				if valid {
					r := httptest.NewRequest(http.MethodPost, "/", nil)
					connectionOf(r.WithContext(server.ConnContext(t.Context(), nc))).reviewed(time.Now())
				}
				server.ConnState(nc, state)
				return a
			}
			var api []*addressed
			for range 25 {
				api = append(api, come("10.0.0.1", http.StateIdle, true))
			}
			for i := range 2000 {
				state := http.StateIdle
				if c.slow {
					state = http.StateActive
				}
				come(fmt.Sprintf("10.1.%d.%d", i%600/256, i%600%256), state, c.valid)
			}
			open := 0
			for _, a := range api {
				if !a.closed {
					open++
				}
			}
			if c.kept != (open == len(api)) {
				t.Errorf("the API server has %d of %d connections, want all: %v", open, len(api), c.kept)
			}
			if a := come("10.0.0.1", http.StateIdle, true); a.closed {
				t.Error("the API server can't open another one")
			}
		})
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

package recycle

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// protocol is how the tests' clients speak to the tests' servers.
type protocol string

const (
	http1    protocol = "HTTP/1.1"
	http1TLS protocol = "HTTP/1.1 over TLS"
	http2TLS protocol = "HTTP/2 over TLS"
	h2c      protocol = "HTTP/2 without TLS"
)

var everyProtocol = []protocol{http1, http1TLS, http2TLS, h2c}

// testServer is a wrapped server on loopback.
type testServer struct {
	*httptest.Server
	recycler *Recycler
	client   *http.Client

	mu     sync.Mutex
	closed []Closed
}

// serve makes the test parallel and starts a wrapped server that ends with it. Any of change may
// alter the server before it is wrapped.
func serve(t *testing.T, p protocol, options Options, handler http.Handler, change ...func(*http.Server)) *testServer {
	t.Helper()
	t.Parallel()
	s := &testServer{Server: httptest.NewUnstartedServer(handler)}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.EnableHTTP2 = p == http2TLS
	if p == h2c {
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetHTTP1(true)
		s.Config.Protocols.SetUnencryptedHTTP2(true)
	}
	for _, f := range change {
		f(s.Config)
	}
	given := options.OnClose
	options.OnClose = func(c Closed) {
		if given != nil {
			given(c)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.closed = append(s.closed, c)
	}
	var err error
	s.recycler, err = Wrap(s.Config, options)
	if err != nil {
		t.Fatal(err)
	}
	if p == http1 || p == h2c {
		s.Start()
	} else {
		s.StartTLS()
	}
	s.client = s.newClient(p)
	t.Cleanup(s.Close)
	t.Cleanup(s.client.CloseIdleConnections)
	return s
}

// newClient returns a client with a connection pool of its own.
func (s *testServer) newClient(p protocol) *http.Client {
	transport := s.Client().Transport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 100
	if p == h2c {
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	return &http.Client{Transport: transport}
}

// ended returns the connections that have ended, when there are at least n.
func (s *testServer) ended(t *testing.T, n int) []Closed {
	t.Helper()
	var closed []Closed
	eventually(t, fmt.Sprintf("%d connections have ended", n), func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		closed = append(closed[:0], s.closed...)
		return len(closed) >= n
	})
	return closed
}

// eventually waits until condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not so after 20 seconds: %s", what)
		}
		time.Sleep(time.Millisecond) // the interval of a poll
	}
}

// fetch sends a request and returns the body of its answer.
func fetch(ctx context.Context, client *http.Client, method, url string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	return got, err
}

func mustFetch(t *testing.T, s *testServer, path string) string {
	t.Helper()
	body, err := fetch(t.Context(), s.client, http.MethodGet, s.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// remote answers with the address of the client's end of the connection.
var remote = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RemoteAddr) })

// wire is a connection on which a test reads and writes HTTP/1.1 itself.
type wire struct {
	net.Conn
	*bufio.Reader
}

func dial(t *testing.T, s *testServer) *wire {
	t.Helper()
	nc, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(30 * time.Second))
	return &wire{Conn: nc, Reader: bufio.NewReader(nc)}
}

func (w *wire) Read(p []byte) (int, error) { return w.Reader.Read(p) }

// do sends a request without a body and returns its answer, body read.
func (w *wire) do(t *testing.T, method, path string) *http.Response {
	t.Helper()
	fmt.Fprintf(w, "%s %s HTTP/1.1\r\nHost: test\r\n\r\n", method, path)
	response, err := http.ReadResponse(w.Reader, &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Fatal(err)
	}
	return response
}

// mustEnd fails the test unless the server closes the connection.
func (w *wire) mustEnd(t *testing.T) {
	t.Helper()
	if n, err := io.Copy(io.Discard, w); n != 0 || err != nil {
		t.Fatalf("wanted the end of the connection, got %d bytes and %v", n, err)
	}
}

func TestWrapTellsConnectionsToGoAfterMaxRequests(t *testing.T) {
	for _, p := range everyProtocol {
		t.Run(string(p), func(t *testing.T) {
			s := serve(t, p, Options{MaxRequests: 5, Jitter: NoJitter}, remote)
			var order []string
			requests := make(map[string]int)
			for range 20 {
				address := mustFetch(t, s, "/")
				if requests[address]++; requests[address] == 1 {
					order = append(order, address)
				}
			}
			if len(order) != 4 {
				t.Errorf("20 requests took %d connections, want 4: %v", len(order), requests)
			}
			for _, closed := range s.ended(t, 3)[:3] {
				if diff := cmp.Diff(Closed{Reason: Requests, Requests: 5}, Closed{closed.Reason, closed.Requests, 0}); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

func TestHTTP1SaysCloseInTheLastAnswerOnly(t *testing.T) {
	s := serve(t, http1, Options{MaxRequests: 3, Jitter: NoJitter}, remote)
	w := dial(t, s)
	var closes []bool
	for range 3 {
		closes = append(closes, w.do(t, "GET", "/").Close)
	}
	if diff := cmp.Diff([]bool{false, false, true}, closes); diff != "" {
		t.Error(diff)
	}
	w.mustEnd(t)
}

func TestHTTP1WaitsForItsNextAnswerAtItsAge(t *testing.T) {
	s := serve(t, http1, Options{MaxAge: time.Hour}, remote)
	w := dial(t, s)
	if w.do(t, "GET", "/").Close {
		t.Error("the answer before the age says close")
	}
	s.recycler.tellAll(Age) // as the timer does
	_ = w.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := w.Conn.Read(make([]byte, 1)); !isTimeout(err) {
		t.Fatalf("the idle connection was cut: %v", err)
	}
	_ = w.SetReadDeadline(time.Now().Add(30 * time.Second))
	if !w.do(t, "GET", "/").Close {
		t.Error("the answer after the age doesn't say close")
	}
	w.mustEnd(t)
	if got := s.ended(t, 1)[0]; got.Reason != Age || got.Requests != 2 {
		t.Errorf("got %+v, want 2 requests and the reason age", got)
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// frames speaks just enough HTTP/2 to see what a server does to a connection without requests.
type frames struct{ net.Conn }

// dialHTTP2 opens an HTTP/2 connection and sends nothing but what opens it.
func dialHTTP2(t *testing.T, p protocol, s *testServer) frames {
	t.Helper()
	nc := dial(t, s).Conn
	if p == http2TLS {
		nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	}
	f := frames{nc}
	if _, err := io.WriteString(f, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		t.Fatal(err)
	}
	return f
}

// untilGoAway returns GOAWAY's error code.
func (f frames) untilGoAway(t *testing.T) uint32 {
	t.Helper()
	for {
		var header [9]byte
		if _, err := io.ReadFull(f, header[:]); err != nil {
			t.Fatalf("no GOAWAY: %v", err)
		}
		payload := make([]byte, int(header[0])<<16|int(header[1])<<8|int(header[2]))
		if _, err := io.ReadFull(f, payload); err != nil {
			t.Fatal(err)
		}
		if header[3] == 7 {
			return binary.BigEndian.Uint32(payload[4:])
		}
	}
}

func TestHTTP2IdleIsToldAtItsAge(t *testing.T) {
	for _, p := range []protocol{http2TLS, h2c} {
		for _, age := range []time.Duration{1, 50 * time.Millisecond} { // at 1 ns it is told before it has begun
			t.Run(fmt.Sprint(p, " at ", age), func(t *testing.T) {
				s := serve(t, p, Options{MaxAge: age}, remote)
				f := dialHTTP2(t, p, s)
				if code := f.untilGoAway(t); code != 0 {
					t.Errorf("GOAWAY with error code %d, want 0", code)
				}
				if _, err := io.Copy(io.Discard, f); err != nil {
					t.Errorf("wanted a clean end of the connection, got %v", err)
				}
				if got := s.ended(t, 1)[0].Reason; got != Age {
					t.Errorf("reason %v, want age", got)
				}
			})
		}
	}
}

func TestShutdownOfTheServerStillTellsHTTP2(t *testing.T) {
	for _, p := range []protocol{http2TLS, h2c} {
		t.Run(string(p), func(t *testing.T) {
			s := serve(t, p, Options{}, remote)
			f := dialHTTP2(t, p, s)
			eventually(t, "the server speaks HTTP/2", func() bool {
				s.recycler.mu.Lock()
				defer s.recycler.mu.Unlock()
				for _, c := range s.recycler.conns {
					return c.http2.Load() != nil
				}
				return false
			})
			done := make(chan error)
			go func() { done <- s.Config.Shutdown(t.Context()) }()
			if code := f.untilGoAway(t); code != 0 {
				t.Errorf("GOAWAY with error code %d, want 0", code)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestInformationalAnswersDoNotSayClose(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusOK)
	})
	t.Run("HTTP/1.1", func(t *testing.T) {
		s := serve(t, http1, Options{MaxRequests: 1}, handler)
		w := dial(t, s)
		for _, want := range []struct {
			status int
			close  bool
		}{{103, false}, {200, true}} {
			var r *http.Response
			if want.status == 103 {
				fmt.Fprint(w, "GET / HTTP/1.1\r\nHost: test\r\n\r\n")
			}
			r, err := http.ReadResponse(w.Reader, nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.StatusCode != want.status || (r.Header.Get("Connection") == "close" || r.Close) != want.close {
				t.Errorf("got %d with close=%v, want %+v", r.StatusCode, r.Close, want)
			}
		}
	})
	t.Run("HTTP/2", func(t *testing.T) { // a Connection header is malformed there
		s := serve(t, http2TLS, Options{MaxRequests: 1}, handler)
		mustFetch(t, s, "/")
		if got := s.ended(t, 1)[0].Reason; got != Requests {
			t.Errorf("reason %v, want requests", got)
		}
	})
}

func TestUpgradedConnectionsAreLeftAlone(t *testing.T) {
	echo := func(w http.ResponseWriter, r *http.Request) {
		nc, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		fmt.Fprint(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(nc, rw)
	}
	backend := httptest.NewServer(http.HandlerFunc(echo))
	t.Cleanup(backend.Close) // after the parallel subtests
	target, _ := url.Parse(backend.URL)

	for name, handler := range map[string]http.Handler{
		"taken over by the handler":    http.HandlerFunc(echo),
		"passed on by a reverse proxy": httputil.NewSingleHostReverseProxy(target),
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, http1, Options{MaxRequests: 1, MaxAge: 10 * time.Millisecond}, handler)
			w := dial(t, s)
			fmt.Fprint(w, "GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			r, err := http.ReadResponse(w.Reader, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Header.Values("Connection"); r.StatusCode != 101 || !cmp.Equal(got, []string{"Upgrade"}) {
				t.Errorf("got %v with Connection %q", r.Status, got)
			}
			for range 20 {
				fmt.Fprint(w, "ping")
				var b [4]byte
				if _, err := io.ReadFull(w, b[:]); err != nil || string(b[:]) != "ping" {
					t.Fatalf("the upgraded connection broke: %q, %v", b, err)
				}
				time.Sleep(time.Millisecond) // let it grow older than its age
			}
			w.Close()
			eventually(t, "no connection is watched any more", func() bool {
				s.recycler.mu.Lock()
				defer s.recycler.mu.Unlock()
				return len(s.recycler.conns) == 0
			})
			if len(s.closed) != 0 {
				t.Errorf("OnClose was called for an upgraded connection: %+v", s.closed)
			}
		})
	}
}

func TestConnectIsLeftAlone(t *testing.T) {
	s := serve(t, http1, Options{MaxRequests: 1}, remote)
	if dial(t, s).do(t, http.MethodConnect, "test:80").Close {
		t.Error("an answer to CONNECT says close")
	}
}

func TestHandlersKeepTheirWriter(t *testing.T) {
	cases := map[string]func(w http.ResponseWriter) error{
		"flushes": func(w http.ResponseWriter) error {
			w.(http.Flusher).Flush()
			_, err := io.WriteString(w, "text")
			return err
		},
		"copies from a reader": func(w http.ResponseWriter) error {
			_, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader("text"))
			return err
		},
		"writes a string": func(w http.ResponseWriter) error {
			_, err := w.(io.StringWriter).WriteString("text")
			return err
		},
		"asks to be told when the client goes": func(w http.ResponseWriter) error {
			w.(http.CloseNotifier).CloseNotify() //nolint:staticcheck // SA1019: gin does
			_, err := w.Write([]byte("text"))
			return err
		},
		"sets a deadline": func(w http.ResponseWriter) error {
			if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
				return err
			}
			_, err := w.Write([]byte("text"))
			return err
		},
		"sets another Connection header": func(w http.ResponseWriter) error {
			w.Header().Set("Connection", "keep-alive")
			_, err := w.Write([]byte("text"))
			return err
		},
		"says it all in the header": func(w http.ResponseWriter) error {
			w.Header().Set("Content-Length", "4")
			w.WriteHeader(http.StatusOK)
			_, err := w.Write([]byte("text"))
			return err
		},
	}
	for name, handle := range cases {
		for _, p := range []protocol{http1, http2TLS} {
			t.Run(name+" over "+string(p), func(t *testing.T) {
				s := serve(t, p, Options{MaxRequests: 1}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					if _, ok := w.(io.ReaderFrom); !ok && p == http2TLS && name == "copies from a reader" {
						_, _ = io.WriteString(w, "text") // HTTP/2 has none, wrapped or not
						return
					}
					if err := handle(w); err != nil {
						t.Error(err)
					}
				}))
				if got := mustFetch(t, s, "/"); got != "text" {
					t.Errorf("got %q", got)
				}
				if got := s.ended(t, 1)[0].Reason; got != Requests {
					t.Errorf("reason %v, want requests", got)
				}
			})
		}
	}
	t.Run("answers with nothing", func(t *testing.T) {
		s := serve(t, http1, Options{MaxRequests: 1}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		w := dial(t, s)
		if !w.do(t, "GET", "/").Close {
			t.Error("the answer doesn't say close")
		}
	})
}

// TestPipelinedAnswersArriveWhole sends requests ahead of their answers. Those after the last
// answer aren't answered, and the client has to send them again (RFC 9112, section 9.3.2), but what
// is answered has to arrive, however large it is and slowly it is read.
func TestPipelinedAnswersArriveWhole(t *testing.T) {
	const size = 1 << 20
	for _, p := range []protocol{http1, http1TLS} {
		t.Run(string(p), func(t *testing.T) {
			s := serve(t, p, Options{MaxRequests: 3, Jitter: NoJitter},
				http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					_, _ = w.Write(make([]byte, size))
				}))
			w := dial(t, s)
			if p == http1TLS {
				w.Conn = tls.Client(w.Conn, &tls.Config{InsecureSkipVerify: true})
				w.Reader = bufio.NewReader(w.Conn)
			}
			request := "GET / HTTP/1.1\r\nHost: test\r\nX-Fill: " + strings.Repeat("x", 1000) + "\r\n\r\n"
			go func() { _, _ = io.WriteString(w.Conn, strings.Repeat(request, 40)) }()
			for i := range 3 {
				r, err := http.ReadResponse(w.Reader, nil)
				if err != nil {
					t.Fatalf("answer %d: %v", i+1, err)
				}
				if i == 2 {
					time.Sleep(100 * time.Millisecond) // a slow reader: the server has closed its side long before
				}
				if n, err := io.Copy(io.Discard, r.Body); n != size || err != nil {
					t.Fatalf("answer %d was cut after %d bytes: %v", i+1, n, err)
				}
				if r.Close != (i == 2) {
					t.Errorf("answer %d: close is %v", i+1, r.Close)
				}
			}
		})
	}
}

func TestWhatIsInFlightFinishes(t *testing.T) {
	const chunk, chunks = 32 << 10, 64
	block := bytes.Repeat([]byte("0123456789abcdef"), chunk/16)
	for _, p := range everyProtocol {
		t.Run(string(p), func(t *testing.T) {
			told := make(chan struct{})
			mux := http.NewServeMux()
			mux.HandleFunc("/download", func(w http.ResponseWriter, _ *http.Request) {
				for i := range chunks {
					if i == 1 {
						<-told
					}
					_, _ = w.Write(block)
					_ = http.NewResponseController(w).Flush()
				}
			})
			mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
				n, err := io.Copy(io.Discard, r.Body)
				fmt.Fprint(w, n, err)
			})
			s := serve(t, p, Options{MaxAge: 100 * time.Millisecond}, mux)

			var wg sync.WaitGroup
			wg.Go(func() {
				body, err := fetch(t.Context(), s.client, http.MethodGet, s.URL+"/download", nil)
				if err != nil || len(body) != chunk*chunks {
					t.Errorf("download ended after %d bytes with %v", len(body), err)
				}
			})
			wg.Go(func() {
				reader, writer := io.Pipe() // can't be sent twice
				go func() {
					for i := range chunks {
						if i == 1 {
							<-told
						}
						_, _ = writer.Write(block)
					}
					writer.Close()
				}()
				response, err := s.client.Post(s.URL+"/upload", "", reader)
				if err != nil {
					t.Error(err)
					return
				}
				defer response.Body.Close()
				got, err := io.ReadAll(response.Body)
				if want := fmt.Sprint(chunk*chunks, error(nil)); string(got) != want || err != nil {
					t.Errorf("upload answered %q and %v, want %q", got, err, want)
				}
			})
			eventually(t, "a connection with both or two with one each are told", func() bool {
				s.recycler.mu.Lock()
				defer s.recycler.mu.Unlock()
				var n int64
				for _, c := range s.recycler.conns {
					if Reason(c.reason.Load()) == Age {
						n += c.requests.Load()
					}
				}
				return n >= 2
			})
			close(told)
			wg.Wait()
		})
	}
}

// TestNoRequestFails is the short form of the proof with real clients: many at once, limits that
// are reached all the time.
func TestNoRequestFails(t *testing.T) {
	const clients, each = 8, 100
	for _, p := range everyProtocol {
		t.Run(string(p), func(t *testing.T) {
			// A connection over TLS takes a handshake, and an HTTP/2 client waits for a second when it meets
			// GOAWAY with one request twice.
			options := map[protocol]Options{
				http1:    {MaxRequests: 10, MaxAge: 100 * time.Millisecond},
				http1TLS: {MaxRequests: 50, MaxAge: time.Second},
				http2TLS: {MaxRequests: 50, MaxAge: time.Second},
				h2c:      {MaxRequests: 50, MaxAge: 100 * time.Millisecond},
			}[p]
			s := serve(t, p, options, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				_, _ = w.Write(body)
			}))
			var wg sync.WaitGroup
			for i := range clients {
				wg.Go(func() {
					body := bytes.Repeat([]byte{byte('a' + i)}, 100*i)
					for range each {
						got, err := fetch(t.Context(), s.client, http.MethodPost, s.URL, body)
						if err != nil || !bytes.Equal(got, body) {
							t.Errorf("sent %d bytes, got %d and %v", len(body), len(got), err)
						}
					}
				})
			}
			wg.Wait()
			s.client.CloseIdleConnections()
			t.Logf("%d requests over %d connections", clients*each, len(s.ended(t, 2)))
		})
	}
}

func TestJitterSpreadsBothLimits(t *testing.T) {
	draw := rand.New(rand.NewPCG(1, 2)).Float64
	var requests, ages []float64
	for range 10_000 {
		requests = append(requests, float64(drawRequests(1000, 0.2, draw())))
		ages = append(ages, drawAge(1000*time.Second, 0.2, draw()).Seconds())
	}
	for name, limits := range map[string][]float64{"requests": requests, "age": ages} {
		buckets := make([]int, 20)
		for _, l := range limits {
			if l < 800 || l > 1000 {
				t.Fatalf("%s: limit %v is not between 800 and 1000", name, l)
			}
			buckets[min(int((l-800)/10), 19)]++
		}
		for i, n := range buckets {
			if n < 350 || n > 650 { // 500 expected, standard deviation 22
				t.Errorf("%s: %d of 10000 limits between %d and %d: not even", name, n, 800+10*i, 810+10*i)
			}
		}
	}
	if got := drawRequests(1, 0.99, 0.999); got != 1 {
		t.Errorf("a limit of 1 became %d", got)
	}
	if got := drawRequests(0, 0.99, 0.999); got != 0 {
		t.Errorf("no limit became %d", got)
	}
}

func TestEachConnectionDrawsItsOwnLimits(t *testing.T) {
	var mu sync.Mutex
	var ages []time.Duration
	server := &http.Server{}
	r, err := Wrap(server, Options{MaxRequests: 1000, MaxAge: time.Hour, Jitter: 0.5})
	if err != nil {
		t.Fatal(err)
	}
	r.afterFunc = func(d time.Duration, _ func()) stopper {
		mu.Lock()
		defer mu.Unlock()
		ages = append(ages, d)
		return time.NewTimer(time.Hour)
	}
	next := 0.0
	r.random = func() float64 { next += 0.1; return next }
	var limits []int64
	for range 3 {
		nc, other := net.Pipe()
		defer nc.Close()
		defer other.Close()
		limits = append(limits, r.open(nc).limit)
	}
	if diff := cmp.Diff([]int64{950, 850, 750}, limits); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"54m0s", "48m0s", "42m0s"}, durations(ages)); diff != "" {
		t.Error(diff)
	}
}

func durations(list []time.Duration) []string {
	var text []string
	for _, d := range list {
		text = append(text, d.Round(time.Second).String())
	}
	return text
}

func TestWrapKeepsWhatTheServerHad(t *testing.T) {
	type key struct{}
	for _, p := range everyProtocol {
		t.Run(string(p), func(t *testing.T) {
			var states sync.Map
			s := serve(t, p, Options{MaxRequests: 1}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprint(w, r.Context().Value(key{}), r.ProtoMajor, r.TLS != nil)
			}), func(server *http.Server) {
				server.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
					return context.WithValue(ctx, key{}, "value")
				}
				server.ConnState = func(_ net.Conn, state http.ConnState) { states.Store(state, true) }
			})
			want := map[protocol]string{http1: "value1 false", http1TLS: "value1 true", http2TLS: "value2 true",
				h2c: "value2 false"}[p]
			if got := mustFetch(t, s, "/"); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			s.ended(t, 1)
			for _, state := range []http.ConnState{http.StateNew, http.StateActive, http.StateClosed} {
				if _, ok := states.Load(state); !ok {
					t.Errorf("the server's own ConnState has not seen %v", state)
				}
			}
		})
	}
}

func TestHTTP2KeepsTheSettingsOfTheServer(t *testing.T) {
	for _, p := range []protocol{http2TLS, h2c} {
		t.Run(string(p), func(t *testing.T) {
			s := serve(t, p, Options{}, remote, func(server *http.Server) {
				server.MaxHeaderBytes = 1000
				server.IdleTimeout = 50 * time.Millisecond
			})
			mustFetch(t, s, "/")
			if got := s.ended(t, 1)[0].Reason; got != Other {
				t.Errorf("an idle connection ended for the reason %v, want other: IdleTimeout", got)
			}
			if _, err := fetch(t.Context(), s.client, http.MethodGet, s.URL+"/"+strings.Repeat("x", 10_000), nil); err == nil {
				t.Error("a request of 10,000 bytes was answered in spite of MaxHeaderBytes 1000")
			}
		})
	}
}

func TestHTTP2StaysOffWhereItWasOff(t *testing.T) {
	off := map[string]func(*http.Server){
		"by an empty TLSNextProto": func(s *http.Server) { s.TLSNextProto = make(map[string]nextProto) },
		"by Protocols": func(s *http.Server) {
			s.Protocols = new(http.Protocols)
			s.Protocols.SetHTTP1(true)
		},
	}
	for name, change := range off {
		t.Run(name, func(t *testing.T) {
			server := &http.Server{}
			change(server)
			if _, err := Wrap(server, Options{}); err != nil {
				t.Fatal(err)
			}
			if len(server.TLSNextProto) != 0 {
				t.Errorf("Wrap has set up HTTP/2: %v", server.TLSNextProto)
			}
		})
	}
	t.Run("by GODEBUG", func(t *testing.T) {
		t.Setenv("GODEBUG", "http2server=0")
		server := &http.Server{}
		if _, err := Wrap(server, Options{}); err != nil {
			t.Fatal(err)
		}
		if len(server.TLSNextProto) != 0 {
			t.Errorf("Wrap has set up HTTP/2: %v", server.TLSNextProto)
		}
	})
}

func TestAnotherHTTP2ServerStaysInCharge(t *testing.T) {
	var called atomic.Bool
	server := &http.Server{
		TLSNextProto: map[string]nextProto{"h2": func(*http.Server, *tls.Conn, http.Handler) { called.Store(true) }}}
	if _, err := Wrap(server, Options{}); err != nil {
		t.Fatal(err)
	}
	server.TLSNextProto["h2"](nil, nil, nil)
	if !called.Load() || len(server.TLSNextProto) != 1 {
		t.Error("Wrap has replaced an HTTP/2 server that isn't net/http's")
	}
}

func TestWrapRefusesWhatItCannotUse(t *testing.T) {
	wrapped := &http.Server{}
	if _, err := Wrap(wrapped, Options{}); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		server  *http.Server
		options Options
	}{
		"no server":               {nil, Options{}},
		"a wrapped server":        {wrapped, Options{}},
		"negative requests":       {&http.Server{}, Options{MaxRequests: -1}},
		"a negative age":          {&http.Server{}, Options{MaxAge: -1}},
		"a negative quiet time":   {&http.Server{}, Options{DrainQuiet: -1}},
		"a jitter of 1":           {&http.Server{}, Options{Jitter: 1}},
		"a negative jitter":       {&http.Server{}, Options{Jitter: -0.1}},
		"a jitter without number": {&http.Server{}, Options{Jitter: math.NaN()}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if r, err := Wrap(c.server, c.options); err == nil || r != nil {
				t.Errorf("got %v and no error", r)
			} else {
				t.Log(err)
			}
			if c.server != nil && c.server != wrapped && c.server.Handler != nil {
				t.Error("the server was changed all the same")
			}
		})
	}
}

func TestARequestFromAnotherServerIsJustAnswered(t *testing.T) {
	r, err := Wrap(&http.Server{Handler: remote}, Options{MaxRequests: 1})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != 200 || w.Header().Get("Connection") != "" {
		t.Errorf("got %d with header %v", w.Code, w.Header())
	}
}

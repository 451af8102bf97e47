package pdb

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"k8s.io/client-go/rest"
)

// transport stands between a controller and the API server: it counts, and it fails.
type transport struct {
	next http.RoundTripper

	mu      sync.Mutex
	calls   []string // method, path and query of each
	dieAt   int      // the call whose answer is lost, and after which nothing gets through; 0 for never
	died    func()
	refuse  int // the next writes of budgets are answered with status
	status  int
	watches map[*watchBody]bool
	// answered is the number of writes of budgets that the API server has answered.
	answered int
	before   func() // is called once, before the first write of a budget gets through
}

var errDead = errors.New("connection lost")

// through makes the controller use the transport.
func (tr *transport) through(c *settings) {
	c.REST = rest.CopyConfig(c.REST)
	c.REST.Wrap(func(next http.RoundTripper) http.RoundTripper { tr.next = next; return tr })
}

// RoundTrip implements http.RoundTripper.
func (tr *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	write := r.Method != http.MethodGet && strings.Contains(r.URL.Path, "/poddisruptionbudgets")
	tr.mu.Lock()
	dead := tr.dieAt > 0 && len(tr.calls) >= tr.dieAt
	if !dead {
		tr.calls = append(tr.calls, r.Method+" "+r.URL.RequestURI())
	}
	dies := tr.dieAt > 0 && len(tr.calls) == tr.dieAt && !dead
	refused := write && tr.refuse > 0
	if refused {
		tr.refuse--
	}
	status := tr.status
	var before func()
	if write {
		before, tr.before = tr.before, nil
	}
	tr.mu.Unlock()
	if before != nil {
		before()
	}
	if dead {
		return nil, errDead
	}
	if refused {
		body := `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"test","reason":"` +
			map[int]string{409: "Conflict", 429: "TooManyRequests"}[status] + `","code":` + strconv.Itoa(status) + `}`
		return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}},
			Body:    io.NopCloser(bytes.NewBufferString(body)),
			Request: r, ProtoMajor: 1, ProtoMinor: 1}, nil
	}
	response, err := tr.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if write {
		tr.mu.Lock()
		tr.answered++
		tr.mu.Unlock()
	}
	if dies {
		_ = response.Body.Close() // the API server has begun to answer
		tr.died()
		tr.drop()
		return nil, errDead
	}
	if strings.Contains(r.URL.RawQuery, "watch=true") {
		body := &watchBody{ReadCloser: response.Body, from: tr}
		tr.mu.Lock()
		if tr.watches == nil {
			tr.watches = map[*watchBody]bool{}
		}
		tr.watches[body] = true
		tr.mu.Unlock()
		response.Body = body
	}
	return response, nil
}

// watchBody is an open watch.
type watchBody struct {
	io.ReadCloser
	from *transport
}

func (b *watchBody) Close() error {
	b.from.mu.Lock()
	delete(b.from.watches, b)
	b.from.mu.Unlock()
	return b.ReadCloser.Close()
}

// drop ends all watches and returns how many there were.
func (tr *transport) drop() int {
	tr.mu.Lock()
	open := tr.watches
	tr.watches = nil
	tr.mu.Unlock()
	for b := range open {
		_ = b.ReadCloser.Close()
	}
	return len(open)
}

// count returns the number of calls that hold all parts.
func (tr *transport) count(parts ...string) int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	n := 0
	for _, c := range tr.calls {
		all := true
		for _, p := range parts {
			all = all && strings.Contains(c, p)
		}
		if all {
			n++
		}
	}
	return n
}

// diedWriting tells whether the answer that was lost was that to a write of a budget.
func (tr *transport) diedWriting() bool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	last := tr.calls[tr.dieAt-1]
	return !strings.HasPrefix(last, http.MethodGet) && strings.Contains(last, "/poddisruptionbudgets")
}

// writes returns the number of writes of budgets.
func (tr *transport) writes() int {
	return tr.count("/poddisruptionbudgets/", "PATCH ") + tr.count("/poddisruptionbudgets/", "DELETE ")
}

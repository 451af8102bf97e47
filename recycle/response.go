package recycle

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
)

// lastResponse is the answer after which a connection ends: it adds "Connection: close" to the
// final header. HTTP/2 doesn't send that, but sends GOAWAY before the answer's end, so that a
// client that asks one by one knows before it asks again. A plain header set before the handler
// runs would do in most cases, but not in these: it would also stand in 1xx answers, in the 101 of
// a reverse proxy that copies headers, and a handler could take it away.
//
// It passes on every optional interface of the server's own ResponseWriter, since handlers look for them by type.
type lastResponse struct {
	http.ResponseWriter
	decided bool // the final header is written, or the connection isn't ours any more
}

// decide asks the server to close the connection, unless that is done or the answer is an upgrade.
func (w *lastResponse) decide(status int) {
	if w.decided || (status >= 100 && status <= 199 && status != http.StatusSwitchingProtocols) {
		return
	}
	w.decided = true
	if status == http.StatusSwitchingProtocols {
		return
	}
	w.Header().Set("Connection", "close")
	lingerOnClose(w.ResponseWriter)
}

// lingerOnClose makes an HTTP/1.x server close its side first and wait for half a second before it
// closes the connection wholly. Without, requests that a pipelining client has already sent after
// this one are unread data at close, for which the kernel sends RST and throws away what is still
// in the send buffer: the end of this answer (RFC 9112, section 9.6). The server does the same by
// itself after a request body over a limit, and that limit is the only handle there is: a reader of
// at most zero bytes that meets one.
func lingerOnClose(w http.ResponseWriter) {
	var b [1]byte
	// always fails: that is what it is for
	_, _ = http.MaxBytesReader(w, io.NopCloser(strings.NewReader("x")), 0).Read(b[:])
}

// finish is called after the handler has returned.
func (w *lastResponse) finish() { w.decide(http.StatusOK) }

func (w *lastResponse) WriteHeader(status int) {
	w.decide(status)
	w.ResponseWriter.WriteHeader(status)
}

func (w *lastResponse) Write(p []byte) (int, error) {
	w.decide(http.StatusOK)
	return w.ResponseWriter.Write(p)
}

func (w *lastResponse) WriteString(s string) (int, error) {
	w.decide(http.StatusOK)
	return io.WriteString(w.ResponseWriter, s)
}

func (w *lastResponse) ReadFrom(r io.Reader) (int64, error) {
	w.decide(http.StatusOK)
	return io.Copy(w.ResponseWriter, r)
}

func (w *lastResponse) Flush() { _ = w.FlushError() }

func (w *lastResponse) FlushError() error {
	w.decide(http.StatusOK)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *lastResponse) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.decided = true
	}
	return nc, rw, err
}

// CloseNotify is deprecated in net/http, but gin's writer asserts it without a check.
func (w *lastResponse) CloseNotify() <-chan bool {
	if n, ok := w.ResponseWriter.(http.CloseNotifier); ok { //nolint:staticcheck // SA1019: passed on, not used
		return n.CloseNotify()
	}
	return nil
}

func (w *lastResponse) Push(target string, options *http.PushOptions) error {
	if p, ok := w.ResponseWriter.(http.Pusher); ok {
		return p.Push(target, options)
	}
	return http.ErrNotSupported
}

// Unwrap lets http.ResponseController reach the rest.
func (w *lastResponse) Unwrap() http.ResponseWriter { return w.ResponseWriter }

package recycle

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// How an idle HTTP/2 connection is told to go, with the standard library alone.
//
// A handler can have GOAWAY sent by setting "Connection: close", but an idle connection has no
// handler. A server sends GOAWAY on Shutdown, but to all its connections. And frames can't be
// written from outside without tearing those that the server writes. What is left: each HTTP/2
// connection is served by a small server of its own, which accepts it from a listener that has
// nothing else. Shutdown of the small server sends GOAWAY to this connection alone. It has the real
// server's settings, and its handler leads to the real one's. BenchmarkOpen has the cost for each
// connection; there is none for a request.
//
// The functions that net/http itself has put into TLSNextProto are not called: from Go 1.27 on,
// what stands there closes the connection.

// The keys of TLSNextProto under which net/http hands HTTP/2 connections over, with TLS and
// without. It has to keep the second, which isn't documented, for the versions of
// golang.org/x/net/http2 that rely on it.
const (
	protoTLS         = "h2"
	protoUnencrypted = "unencrypted_http2"
)

// clientPreface begins every HTTP/2 connection (RFC 9113, section 3.4). net/http has read it when
// it hands a connection without TLS over.
const clientPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// nextProto is the type of TLSNextProto's values.
type nextProto = func(*http.Server, *tls.Conn, http.Handler)

// takeOverHTTP2 has the server's HTTP/2 connections served as described above, if net/http itself would serve HTTP/2.
func (r *Recycler) takeOverHTTP2() {
	server := r.server
	if _, ok := server.TLSNextProto[protoTLS]; ok {
		return // golang.org/x/net/http2 is in charge
	}

	// Ask net/http whether it would: the rules depend on Protocols, TLSNextProto, the cipher suites, a
	// build tag and GODEBUG.
	probe := &http.Server{Protocols: server.Protocols, TLSConfig: server.TLSConfig.Clone()}
	if server.TLSNextProto != nil {
		probe.TLSNextProto = make(map[string]nextProto)
	}
	_ = probe.ServeTLS(noListener{}, "", "") // always fails, but after HTTP/2 is set up
	if probe.TLSNextProto[protoTLS] == nil {
		return
	}

	if server.TLSNextProto == nil {
		server.TLSNextProto = make(map[string]nextProto)
	}
	server.TLSNextProto[protoTLS] = func(server *http.Server, nc *tls.Conn, handler http.Handler) {
		serveHTTP2(server, nc, handler)
	}
	server.TLSNextProto[protoUnencrypted] = func(server *http.Server, nc *tls.Conn, handler http.Handler) {
		// The *tls.Conn is an envelope here, which golang.org/x/net/http2 opens in the same way.
		if envelope, ok := nc.NetConn().(interface{ UnencryptedNetConn() net.Conn }); ok {
			serveHTTP2(server, envelope.UnencryptedNetConn(), handler)
		}
	}
	server.RegisterOnShutdown(func() {
		for _, c := range r.tellAll(Drain) {
			if h := c.http2.Load(); h != nil {
				h.goAwayNow()
			}
		}
	})
}

// serveHTTP2 serves one HTTP/2 connection, on behalf of server, until it ends.
func serveHTTP2(server *http.Server, nc net.Conn, handler http.Handler) {
	h := newHTTP2(server, nc, handler)
	if c := connOf(handler); c != nil {
		c.http2.Store(h)
		if Reason(c.reason.Load()) != Other { // told during the handshake
			h.goAwaySoon()
		}
	}
	accepted := nc
	if h.own.Protocols.UnencryptedHTTP2() {
		accepted = &prefaceConn{Conn: nc, preface: strings.NewReader(clientPreface)}
	}
	_ = h.own.Serve(&oneConn{conn: accepted}) // returns at once: there is no second connection
	<-h.ended
}

// connOf returns the connection that handler, an argument to a function in TLSNextProto, is for.
// net/http hands the connection's context down by a method of it, on which golang.org/x/net/http2
// relies as well.
func connOf(handler http.Handler) *conn {
	h, ok := handler.(interface{ BaseContext() context.Context })
	if !ok {
		return nil
	}
	c, _ := h.BaseContext().Value(connKey{}).(*conn)
	return c
}

// newHTTP2 returns what serves one HTTP/2 connection on behalf of server.
func newHTTP2(server *http.Server, nc net.Conn, handler http.Handler) *http2Conn {
	h := &http2Conn{begun: make(chan struct{}), ended: make(chan struct{})}
	begin := sync.OnceFunc(func() { close(h.begun) })
	h.own = &http.Server{
		Handler:                      handler, // leads to server.Handler
		DisableGeneralOptionsHandler: true,    // server's own rule applies
		ReadTimeout:                  server.ReadTimeout,
		ReadHeaderTimeout:            server.ReadHeaderTimeout,
		WriteTimeout:                 server.WriteTimeout,
		IdleTimeout:                  server.IdleTimeout,
		MaxHeaderBytes:               server.MaxHeaderBytes,
		ErrorLog:                     server.ErrorLog,
		HTTP2:                        server.HTTP2,
		Protocols:                    new(http.Protocols),
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew: // server has reported it
			case http.StateClosed: // server will report it
				begin()
				close(h.ended)
			default:
				begin()
				if server.ConnState != nil {
					server.ConnState(nc, state)
				}
			}
		},
	}
	setSince127(h.own, server)
	if _, ok := nc.(*tls.Conn); ok {
		h.own.Protocols.SetHTTP2(true)
	} else {
		h.own.Protocols.SetUnencryptedHTTP2(true)
	}
	if b, ok := handler.(interface{ BaseContext() context.Context }); ok {
		h.own.BaseContext = func(net.Listener) context.Context { return b.BaseContext() }
	}
	return h
}

// goAwayDelay is how long a connection that was told to go has to give an answer that carries
// GOAWAY before one is sent without.
//
// GOAWAY out of the blue can meet a request on its way. It isn't processed then, and clients are
// meant to send it again, but not all do (curl 7.88 reports an error). With an answer, it arrives
// before the client has reason to ask again. So a connection in use gets it with an answer, and one
// without an answer for so long is idle enough for such meetings to be rare.
const goAwayDelay = time.Second

// http2Conn is what serves one connection and sends GOAWAY to it.
type http2Conn struct {
	own   *http.Server
	begun chan struct{} // closed when Shutdown of own reaches the connection
	ended chan struct{} // closed when the connection has ended
	soon  sync.Once
}

// goAwayNow sends GOAWAY, unless it was sent before.
func (h *http2Conn) goAwayNow() {
	<-h.begun // before, Shutdown would keep own from serving
	noWait, cancel := context.WithCancel(context.Background())
	cancel()
	_ = h.own.Shutdown(noWait)
}

// goAwaySoon sends GOAWAY after goAwayDelay.
func (h *http2Conn) goAwaySoon() {
	h.soon.Do(func() { time.AfterFunc(goAwayDelay, h.goAwayNow) })
}

// noListener has nothing to accept.
type noListener struct{}

func (noListener) Accept() (net.Conn, error) { return nil, errors.New("nothing to accept") }
func (noListener) Close() error              { return nil }
func (noListener) Addr() net.Addr            { return &net.TCPAddr{} }

// oneConn accepts one connection, and then has nothing to accept.
type oneConn struct {
	noListener
	conn net.Conn
}

func (l *oneConn) Accept() (net.Conn, error) {
	if l.conn == nil {
		return l.noListener.Accept()
	}
	nc := l.conn
	l.conn = nil
	return nc, nil
}

// prefaceConn gives back the preface that has been read from the connection already.
type prefaceConn struct {
	net.Conn
	preface *strings.Reader
}

func (c *prefaceConn) Read(p []byte) (int, error) {
	if c.preface.Len() > 0 {
		return c.preface.Read(p)
	}
	return c.Conn.Read(p)
}

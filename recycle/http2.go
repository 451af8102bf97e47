package recycle

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// How an idle HTTP/2 connection is told to go, with the standard library alone.
//
// A handler can have GOAWAY sent by setting "Connection: close", but an idle connection has no handler. A server sends GOAWAY
// on Shutdown, but to all its connections. And frames can't be written from outside without tearing those that the server
// writes. What is left: net/http keeps a server's HTTP/2 connections in a list that belongs to the functions it has put into
// TLSNextProto, and these take the server whose handler, timeouts and hooks apply as an argument. So each HTTP/2 connection is
// served by the functions of a small server of its own, which never listens and holds nothing but this list, on behalf of the
// real one; Shutdown of the small server sends GOAWAY to this connection alone. BenchmarkOpen has the cost for each
// connection; there is none for a request.

// The entries of TLSNextProto that net/http makes have the names "h2" and, for HTTP/2 without TLS, "unencrypted_http2".
const protoTLS = "h2"

// nextProto is the type of TLSNextProto's values.
type nextProto = func(*http.Server, *tls.Conn, http.Handler)

// takeOverHTTP2 has the server's HTTP/2 connections served as described above, if net/http itself would serve HTTP/2.
func (r *Recycler) takeOverHTTP2() {
	server := r.server
	if _, ok := server.TLSNextProto[protoTLS]; ok {
		return // golang.org/x/net/http2 is in charge
	}

	// Ask net/http whether it would: the rules depend on Protocols, TLSNextProto, the cipher suites, a build tag and GODEBUG.
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
	for name := range probe.TLSNextProto {
		server.TLSNextProto[name] = func(server *http.Server, nc *tls.Conn, handler http.Handler) {
			serveHTTP2(name, server, nc, handler)
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

// serveHTTP2 serves one HTTP/2 connection until it ends.
func serveHTTP2(name string, server *http.Server, nc *tls.Conn, handler http.Handler) {
	own := newHTTP2(server)
	if c := connOf(handler); c != nil {
		h := &http2Conn{own: own, ended: make(chan struct{})}
		defer close(h.ended)
		c.http2.Store(h)
		if Reason(c.reason.Load()) != Other { // told during the handshake
			h.goAwaySoon()
		}
	}
	own.TLSNextProto[name](server, nc, handler)
}

// connOf returns the connection that handler, an argument to a function in TLSNextProto, is for. net/http hands the connection's
// context down by a method of it, on which golang.org/x/net/http2 relies as well.
func connOf(handler http.Handler) *conn {
	h, ok := handler.(interface{ BaseContext() context.Context })
	if !ok {
		return nil
	}
	c, _ := h.BaseContext().Value(connKey{}).(*conn)
	return c
}

// newHTTP2 returns a server that holds the state of one HTTP/2 connection.
func newHTTP2(server *http.Server) *http.Server {
	own := &http.Server{
		// The only settings that are taken from here; the others come from the server that the functions get.
		IdleTimeout: server.IdleTimeout,
		ReadTimeout: server.ReadTimeout,
	}
	_ = own.Serve(noListener{}) // always fails, but after HTTP/2 is set up
	return own
}

// goAwayDelay is how long a connection that was told to go has to give an answer that carries GOAWAY before one is sent without.
//
// GOAWAY out of the blue can meet a request on its way. It isn't processed then, and clients are meant to send it again, but not all do (curl
// 7.88 reports an error). With an answer, it arrives before the client has reason to ask again. So a connection in use gets it with
// an answer, and one without an answer for so long is idle enough for such meetings to be rare.
const goAwayDelay = time.Second

// http2Conn is what sends GOAWAY to one connection.
type http2Conn struct {
	own   *http.Server
	ended chan struct{} // closed when the connection has ended
	soon  sync.Once
}

// goAwayNow sends GOAWAY, unless it was sent before or the connection isn't in the list yet.
func (h *http2Conn) goAwayNow() {
	_ = h.own.Shutdown(context.Background()) // returns at once: own has no listener and no connection that HTTP/1 knows of
}

// goAwaySoon sends GOAWAY after goAwayDelay, and tries again until the connection has ended, in case it wasn't in the list.
func (h *http2Conn) goAwaySoon() {
	h.soon.Do(func() {
		go func() {
			ticker := time.NewTicker(goAwayDelay)
			defer ticker.Stop()
			for {
				select {
				case <-h.ended:
					return
				case <-ticker.C:
					h.goAwayNow()
				}
			}
		}()
	})
}

// noListener has nothing to accept.
type noListener struct{}

func (noListener) Accept() (net.Conn, error) { return nil, errors.New("nothing to accept") }
func (noListener) Close() error              { return nil }
func (noListener) Addr() net.Addr            { return &net.TCPAddr{} }

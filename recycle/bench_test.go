package recycle

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// BenchmarkHandler is what a request costs more: with a connection that isn't due, which is all but one in a thousand.
func BenchmarkHandler(b *testing.B) {
	plain := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	r, err := Wrap(&http.Server{Handler: plain}, Options{MaxRequests: 1 << 40})
	if err != nil {
		b.Fatal(err)
	}
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	ctx := context.WithValue(b.Context(), connKey{}, r.open(server))
	request := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
	w := httptest.NewRecorder()
	for name, handler := range map[string]http.Handler{"plain": plain, "recycled": r} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				handler.ServeHTTP(w, request)
			}
		})
	}
}

// BenchmarkRequest is a whole request over loopback, without and with recycling.
func BenchmarkRequest(b *testing.B) {
	for _, name := range []string{"plain", "recycled"} {
		b.Run(name, func(b *testing.B) {
			server := &http.Server{Handler: http.HandlerFunc(
				func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })}
			if name == "recycled" {
				if _, err := Wrap(server, Options{MaxRequests: 1 << 40}); err != nil {
					b.Fatal(err)
				}
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			go func() { _ = server.Serve(l) }()
			defer server.Close()
			nc, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer nc.Close()
			reader := bufio.NewReader(nc)
			b.ReportAllocs()
			for b.Loop() {
				_, _ = io.WriteString(nc, "GET / HTTP/1.1\r\nHost: test\r\n\r\n")
				for line := []byte("header"); len(line) > 2; {
					if line, err = reader.ReadSlice('\n'); err != nil {
						b.Fatal(err)
					}
				}
				if _, err := reader.Discard(len("hello")); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOpen is what a connection costs more. The watch is for each, the small server for HTTP/2 only.
func BenchmarkOpen(b *testing.B) {
	b.Run("watch", func(b *testing.B) {
		r, err := Wrap(&http.Server{}, Options{MaxRequests: 1000, MaxAge: DefaultJitter * 1e12})
		if err != nil {
			b.Fatal(err)
		}
		client, server := net.Pipe()
		defer client.Close()
		defer server.Close()
		b.ReportAllocs()
		for b.Loop() {
			r.open(server)
			r.closed(server)
		}
	})
	b.Run("small server", func(b *testing.B) {
		server := new(http.Server)
		client, nc := net.Pipe()
		defer client.Close()
		defer nc.Close()
		b.ReportAllocs()
		for b.Loop() {
			h := newHTTP2(server, nc, nil)
			_ = h.own.Serve(noListener{}) // sets up HTTP/2
		}
	})
}

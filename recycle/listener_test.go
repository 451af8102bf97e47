package recycle

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// serveLines answers each line with itself, and with "last" in front where the connection is due.
// It ends with the test.
func serveLines(t *testing.T, options ListenerOptions) string {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := NewListener(inner, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				for lines := bufio.NewScanner(nc); lines.Scan(); {
					if nc.(*Conn).Last() {
						fmt.Fprintln(nc, "last", lines.Text())
						return
					}
					fmt.Fprintln(nc, lines.Text())
				}
			}()
		}
	}()
	return l.Addr().String()
}

// ask sends lines on one connection until it ends, n at most, and returns the answers.
func ask(t *testing.T, address string, n int, pause time.Duration) []string {
	t.Helper()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(30 * time.Second))
	r := bufio.NewReader(nc)
	var answers []string
	for i := range n {
		time.Sleep(pause)
		fmt.Fprintln(nc, i)
		line, err := r.ReadString('\n')
		if err == io.EOF || errors.Is(err, syscall.ECONNRESET) { // the question came after the end
			return answers
		}
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, strings.TrimSpace(line))
	}
	return answers
}

func TestListenerCountsWhatTheServerTells(t *testing.T) {
	address := serveLines(t, ListenerOptions{MaxRequests: 3, Jitter: NoJitter})
	for range 2 {
		if diff := cmp.Diff([]string{"0", "1", "last 2"}, ask(t, address, 10, 0)); diff != "" {
			t.Error(diff)
		}
	}
}

func TestListenerTellsAtTheAge(t *testing.T) {
	address := serveLines(t, ListenerOptions{MaxAge: 50 * time.Millisecond})
	answers := ask(t, address, 1000, 5*time.Millisecond)
	if n := len(answers); n == 1000 || !strings.HasPrefix(answers[n-1], "last ") {
		t.Errorf("no end after %d answers", n)
	}
}

func TestListenerCutsOnlyWhatIdlesPastItsAge(t *testing.T) {
	cut := func(c *Conn) <-chan error {
		ended := make(chan error, 1)
		go func() {
			_, err := io.Copy(io.Discard, c)
			ended <- err
		}()
		return ended
	}
	accept := func(t *testing.T, options ListenerOptions) (*Conn, net.Conn) {
		t.Helper()
		inner, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l, err := NewListener(inner, options)
		if err != nil {
			t.Fatal(err)
		}
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close(); client.Close(); server.Close() })
		return server.(*Conn), client
	}
	options := ListenerOptions{MaxAge: 20 * time.Millisecond, CutIdle: 20 * time.Millisecond}

	t.Run("one that idles ends as if the client had closed", func(t *testing.T) {
		server, _ := accept(t, options)
		select {
		case err := <-cut(server): // io.Copy makes io.EOF nil
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Error("not cut")
		}
	})
	t.Run("one that waits for an answer stays", func(t *testing.T) {
		server, client := accept(t, options)
		fmt.Fprint(client, "question")
		select {
		case err := <-cut(server):
			t.Errorf("cut before its answer: %v", err)
		case <-time.After(200 * time.Millisecond):
		}
		fmt.Fprint(server, "answer")
		var b [6]byte
		if _, err := io.ReadFull(client, b[:]); err != nil || string(b[:]) != "answer" {
			t.Errorf("got %q, %v", b, err)
		}
	})
	t.Run("one that is cut stays so after a new deadline", func(t *testing.T) {
		server, _ := accept(t, options)
		<-cut(server)
		_ = server.SetReadDeadline(time.Time{})
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("got %v, want EOF", err)
		}
	})
}

func TestNewListenerRefusesWhatItCannotUse(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	cases := map[string]struct {
		inner   net.Listener
		options ListenerOptions
	}{
		"no listener":               {nil, ListenerOptions{}},
		"negative requests":         {inner, ListenerOptions{MaxRequests: -1}},
		"a negative cut":            {inner, ListenerOptions{MaxAge: 1, CutIdle: -1}},
		"a cut without an age":      {inner, ListenerOptions{CutIdle: time.Second}},
		"a jitter above everything": {inner, ListenerOptions{Jitter: 2}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := NewListener(c.inner, c.options); err == nil {
				t.Error("no error")
			} else {
				t.Log(err)
			}
		})
	}
}

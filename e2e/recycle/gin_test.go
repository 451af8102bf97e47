package recycle

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// lifetime asks on one connection until it ends, and returns the number of answers, and of those that said close.
func lifetime(t *testing.T, address string) (answers, closes int) {
	t.Helper()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(time.Minute))
	reader := bufio.NewReader(nc)
	for {
		// An error here means that the connection has ended; so does the one below.
		_, _ = io.WriteString(nc, "GET / HTTP/1.1\r\nHost: test\r\n\r\n")
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			return answers, closes
		}
		if _, err := io.Copy(io.Discard, response.Body); err != nil {
			t.Fatal(err)
		}
		answers++
		if response.Close {
			closes++
			if _, err := reader.ReadByte(); err != io.EOF {
				t.Errorf("after an answer that said close: %v, want the end", err)
			}
			return answers, closes
		}
	}
}

// freePort returns a port of loopback that was free a moment ago, for servers that can't tell which they got.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// startOther starts a program and waits until it accepts connections. It is ended with the test.
func startOther(t *testing.T, address, name string, args ...string) {
	t.Helper()
	command := exec.Command(name, args...)
	command.Stdout, command.Stderr = os.Stderr, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	eventually(t, name+" accepts connections", func() bool {
		nc, err := net.Dial("tcp", address)
		if err != nil {
			return false
		}
		nc.Close()
		return true
	})
}

// TestGinAndNginxBehaveAlike has nginx with keepalive_requests and the gin example answer 1,000
// requests on one connection, and then close it.
func TestGinAndNginxBehaveAlike(t *testing.T) {
	directory := t.TempDir()
	nginxAddress, ginAddress, defaults := freePort(t), freePort(t), freePort(t)
	configuration := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr error;
events {}
http {
  access_log off; client_body_temp_path %[1]s/1; proxy_temp_path %[1]s/2; fastcgi_temp_path %[1]s/3;
  uwsgi_temp_path %[1]s/4; scgi_temp_path %[1]s/5;
  server { listen %[2]s; keepalive_requests 1000; location / { return 200 "hello\n"; } }
}
`, directory, nginxAddress)
	file := filepath.Join(directory, "nginx.conf")
	if err := os.WriteFile(file, []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	startOther(t, nginxAddress, tool(t, "nginx", "nginx-light"), "-p", directory, "-e", "stderr", "-c", file)
	gin := filepath.Join(os.Getenv(binaries), "gin")
	startOther(t, ginAddress, gin, "-address", ginAddress, "-max-requests", "1000", "-jitter", "-1")
	startOther(t, defaults, gin, "-address", defaults)

	type seen struct{ Answers, Closes int }
	look := func(address string) seen {
		answers, closes := lifetime(t, address)
		return seen{answers, closes}
	}
	for range 3 {
		if diff := cmp.Diff(map[string]seen{"nginx": {1000, 1}, "gin": {1000, 1}},
			map[string]seen{"nginx": look(nginxAddress), "gin": look(ginAddress)}); diff != "" {
			t.Error(diff)
		}
	}
	lifetimes := make(map[int]bool)
	for range 5 {
		s := look(defaults)
		if s.Answers < 800 || s.Answers > 1000 || s.Closes != 1 {
			t.Errorf("the example as it stands answered %+v, want 800 to 1000 and one close", s)
		}
		lifetimes[s.Answers] = true
	}
	t.Logf("the example as it stands closed after %v", lifetimes)
	if len(lifetimes) == 1 {
		t.Error("five connections of the example have the same limit: no jitter")
	}
}

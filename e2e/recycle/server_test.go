// Package recycle proves package recycle against real clients: not one failed or truncated
// response, even shares after a scale-out, no failed review while replicas restart, the cost, and
// the same behaviour as nginx.
//
// The everyday form takes well under a minute. The long form, with the figures and plots of
// docs/concepts/recycling.md, is
//
//	RECYCLE_PROOF=long go test -C e2e/recycle -count=1 -timeout=90m -v .
//
// and writes the plots into docs/proof/ when RECYCLE_PLOTS names that directory.
package recycle

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// long reports whether the long form was asked for.
func long() bool { return os.Getenv("RECYCLE_PROOF") == "long" }

// pick returns short, or instead in the long form.
func pick[T any](short, instead T) T {
	if long() {
		return instead
	}
	return short
}

// binaries is the environment variable with the directory where TestMain puts the programs.
const binaries = "RECYCLE_BINARIES"

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	directory, err := os.MkdirTemp("", "recycle")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(directory)
	if err := os.Setenv(binaries, directory); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for name, args := range map[string][]string{
		"server":      {"./server"},
		"server-race": {"-race", "./server"},
		"gin":         {"-C", "../../examples/recycle", "."},
	} {
		build := []string{"build", "-o", filepath.Join(directory, name)}
		if args[0] == "-C" { // has to be the first flag
			build = []string{"build", args[0], args[1], "-o", filepath.Join(directory, name)}
			args = args[2:]
		}
		build = append(build, args...)
		if out, err := exec.Command("go", build...).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n%s", name, err, out)
			return 1
		}
	}
	return m.Run()
}

// tool returns the path of a program that isn't part of this repository. A test that lacks one
// fails: it can't prove anything.
func tool(t *testing.T, name, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name)
	}
	if err != nil {
		t.Fatalf("%s is needed and not installed: on Debian, apt-get install %s", name, debianPackage)
	}
	return path
}

// process is a server that runs beside the test.
type process struct {
	*exec.Cmd
	address string // host:port
	stderr  strings.Builder
	done    chan error
}

// start runs the server with -race and waits until it listens. It is killed when the test ends.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	return startBinary(t, "server-race", args...)
}

// startFast is start without the race detector, for measurements.
func startFast(t *testing.T, args ...string) *process {
	t.Helper()
	return startBinary(t, "server", args...)
}

func startBinary(t *testing.T, name string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(filepath.Join(os.Getenv(binaries), name), args...), done: make(chan error, 1)}
	p.Stderr = &p.stderr
	p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also when the test is killed
	stdout, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Process.Kill() // an error means that it has ended
		<-p.done
		if strings.Contains(p.stderr.String(), "DATA RACE") {
			t.Errorf("the race detector has found something:\n%s", p.stderr.String())
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	go func() { p.done <- p.Wait(); close(p.done) }()
	if err != nil {
		t.Fatalf("the server does not start: %v\n%s", err, p.stderr.String())
	}
	p.address = strings.TrimSpace(line)
	return p
}

// terminate sends SIGTERM and waits for the end, whose error it returns.
func (p *process) terminate(t *testing.T) error {
	t.Helper()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-p.done:
		return err
	case <-time.After(2 * time.Minute):
		t.Fatal("the server has not ended two minutes after SIGTERM")
		return nil
	}
}

// stats is the counterpart of the server's Stats.
type stats struct {
	Requests int64
	Closed   map[string]int64
	Mallocs  uint64
}

// recycled is the number of connections that the server has told to go and that have ended.
func (s stats) recycled() int64 {
	return s.Closed["requests"] + s.Closed["age"] + s.Closed["drain"]
}

// stats asks a server, over a connection of its own, what it has seen.
func (p *process) stats(t *testing.T, scheme string) stats {
	t.Helper()
	client := newClient(http1)
	defer client.CloseIdleConnections()
	body, err := fetch(t.Context(), client, http.MethodGet, scheme+"://"+p.address+"/stats", nil)
	if err != nil {
		t.Fatal(err)
	}
	var s stats
	if err := json.Unmarshal(body, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// fetch sends a request and returns its answer's body.
func fetch(ctx context.Context, client *http.Client, method, url string, body io.Reader) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, response.Status)
	}
	return got, nil
}

// eventually waits until condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not so after a minute: %s", what)
		}
		time.Sleep(5 * time.Millisecond) // the interval of a poll
	}
}

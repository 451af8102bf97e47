// Command bench measures what an admission costs over TLS, side by side: it starts each contestant as a process of its
// own, calls it as kube-apiserver calls a webhook behind a Service, over HTTP/1.1 on connections that stay open, and
// writes a table of CPU time per review, reviews per second and latencies. Contestants take turns, in rounds. Every answer
// is compared with one that was applied and found to add what the others add.
//
//	go run . [-contestant NAME=URL[,PID]]...
//
// A contestant by URL is a webhook that somebody has started by hand; with its process id its CPU time is measured, too.
// Its certificate is not verified. What it adds is its own affair, but it has to allow the request and answer the same
// every time.
package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	applier "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// contestant is a webhook that runs.
type contestant struct {
	name, url string
	pid       int // 0 where its CPU time can't be measured
	reviewed  bool
	want      []byte // its answer
	client    *http.Client
}

// figures are what was measured of a contestant on a number of connections, a value per round.
type figures struct {
	cpu, rate []float64 // µs per review, reviews per second
	latencies []time.Duration
	memory    int // KiB at most
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	serve := fs.String("serve", "", "serve reviews as this `contestant` until killed (bench starts itself so)")
	rounds := fs.Int("rounds", 5, "number of rounds")
	each := fs.Duration("each", time.Second, "time per contestant and round")
	var others []*contestant
	fs.Func("contestant", "`NAME=URL[,PID]` of a webhook that runs already", func(text string) error {
		name, rest, ok := strings.Cut(text, "=")
		url, pid, _ := strings.Cut(rest, ",")
		number, err := strconv.Atoi(cmp.Or(pid, "0"))
		if !ok || err != nil || !strings.HasPrefix(url, "https://") {
			return errors.New("allowed: NAME=https://HOST:PORT/PATH, and a process id after a comma")
		}
		others = append(others, &contestant{name: name, url: url, pid: number})
		return nil
	})
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *serve != "" {
		return serveReviews(*serve, stdout)
	}
	var all []*contestant
	for _, name := range contestants {
		c, stop, err := start(ctx, name)
		if err != nil {
			return err
		}
		defer stop()
		all = append(all, c)
	}
	all = append(all, others...)
	review, object := reference.review()
	if err := agree(all, review, object); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s, %s, %d CPUs, %s; a Pod of %s, a review of %d bytes, %d rounds of %v each\n\n", time.Now().Format(time.DateOnly), runtime.Version(),
		runtime.NumCPU(), processor(), size(len(object)), len(review), *rounds, *each)
	fmt.Fprintln(stdout, "| connections | webhook | CPU per review | to the floor | reviews per second | p50 | p99 | p99.9 | memory at most |")
	fmt.Fprintln(stdout, "|---|---|---|---|---|---|---|---|---|")
	for _, connections := range []int{1, 25, 64} {
		measured := map[*contestant]*figures{}
		for range *rounds {
			for _, c := range all {
				if measured[c] == nil {
					measured[c] = &figures{}
				}
				if err := measured[c].round(ctx, c, review, connections, *each); err != nil {
					return fmt.Errorf("%s: %w", c.name, err)
				}
			}
		}
		for _, c := range all {
			f := measured[c]
			slices.Sort(f.latencies)
			at := func(q float64) string {
				return f.latencies[int(q*float64(len(f.latencies)-1))].Round(10 * time.Microsecond).String()
			}
			used, ratio, memory := "–", "–", "–"
			if c.pid != 0 {
				used, memory = fmt.Sprintf("%.0f µs", median(f.cpu)), fmt.Sprintf("%.0f MiB", float64(f.memory)/1024)
				ratio = fmt.Sprintf("%.2f", median(f.cpu)/median(measured[all[0]].cpu))
			}
			fmt.Fprintf(stdout, "| %d | %s | %s | %s | %.0f | %s | %s | %s | %s |\n", connections, c.name, used, ratio, median(f.rate), at(.5), at(.99), at(.999), memory)
		}
	}
	return nil
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// processor returns the name of the CPU.
func processor() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	_, rest, _ := strings.Cut(string(info), "model name")
	name, _, _ := strings.Cut(rest, "\n")
	return strings.Trim(name, "\t :")
}

// start starts a contestant in a process of its own.
func start(ctx context.Context, name string) (*contestant, func(), error) {
	program, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.CommandContext(ctx, program, "-serve", name)
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil { // it ends when this closes, however we end
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", name, err)
	}
	stop := func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	var address string
	if _, err := fmt.Fscanln(out, &address); err != nil {
		stop()
		return nil, nil, fmt.Errorf("start %s: %w", name, err)
	}
	return &contestant{name: name, url: "https://" + address + "/mutate?timeout=10s", pid: cmd.Process.Pid, reviewed: name != floor}, stop, nil
}

// serveReviews serves as evenkeel serve does, with a certificate of its own, and writes its address to stdout.
func serveReviews(name string, stdout io.Writer) error {
	handler, err := handlerOf(name, reference.kind)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(stdout, listener.Addr()); err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 35 * time.Second, IdleTimeout: 120 * time.Second,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}}}}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = server.Close() // whoever started us has ended
	}()
	return server.ServeTLS(listener, "", "")
}

// agree asks every contestant once and applies its answer: those of this repository must add the same.
func agree(all []*contestant, review, object []byte) error {
	var want any
	for _, c := range all {
		c.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // a certificate made a moment ago
		answer, err := c.ask(review)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		c.want = answer
		var r admissionv1.AdmissionReview
		if err := json.Unmarshal(answer, &r); err != nil || r.Response == nil || !r.Response.Allowed {
			return fmt.Errorf("%s: answer %.300s does not allow the request: %w", c.name, answer, err)
		}
		patch, err := applier.DecodePatch(r.Response.Patch)
		if err != nil {
			return fmt.Errorf("%s: read patch: %w", c.name, err)
		}
		after, err := patch.Apply(object)
		if err != nil {
			return fmt.Errorf("%s: apply patch: %w", c.name, err)
		}
		var got map[string]any
		if err := json.Unmarshal(after, &got); err != nil {
			return fmt.Errorf("%s: read what it makes: %w", c.name, err)
		}
		delete(got, "status")
		if want == nil {
			want = got
		}
		if slices.Contains(contestants, c.name) && !reflect.DeepEqual(got, want) {
			return fmt.Errorf("%s adds something else than %s", c.name, all[0].name)
		}
	}
	return nil
}

// ask sends a review and returns the answer.
func (c *contestant) ask(review []byte) ([]byte, error) {
	response, err := c.client.Post(c.url, "application/json", bytes.NewReader(review))
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("answer %d %.200s", response.StatusCode, answer)
	}
	return answer, err
}

// sameAnswer reports whether an answer is the one that was applied: the same bytes or, where operations were in another
// order, as those of a comparison are, the same operations.
func sameAnswer(answer, want []byte) bool {
	if bytes.Equal(answer, want) {
		return true
	}
	operations := func(raw []byte) []string {
		var r admissionv1.AdmissionReview
		var patch []json.RawMessage
		if json.Unmarshal(raw, &r) != nil || r.Response == nil || !r.Response.Allowed || json.Unmarshal(r.Response.Patch, &patch) != nil {
			return nil
		}
		var all []string
		for _, operation := range patch {
			all = append(all, string(operation))
		}
		slices.Sort(all)
		return append(all, string(r.Response.UID))
	}
	got := operations(answer)
	return got != nil && slices.Equal(got, operations(want))
}

// round calls a contestant on a number of connections for a while.
func (f *figures) round(ctx context.Context, c *contestant, review []byte, connections int, each time.Duration) error {
	before, _, err := usage(c.pid)
	if err != nil {
		return err
	}
	start := time.Now()
	var group sync.WaitGroup
	var mu sync.Mutex
	var failures []error
	count := 0
	for range connections {
		group.Go(func() {
			var latencies []time.Duration
			var failure error
			for failure == nil && time.Since(start) < each && ctx.Err() == nil {
				sent := time.Now()
				var answer []byte
				if answer, failure = c.ask(review); failure == nil && !sameAnswer(answer, c.want) {
					failure = fmt.Errorf("answers something else: %.300s", answer)
				}
				latencies = append(latencies, time.Since(sent))
			}
			mu.Lock()
			defer mu.Unlock()
			f.latencies = append(f.latencies, latencies...)
			count += len(latencies)
			failures = append(failures, failure)
		})
	}
	group.Wait()
	took := time.Since(start)
	after, memory, err := usage(c.pid)
	if err := errors.Join(append(failures, err, ctx.Err())...); err != nil {
		return err
	}
	f.cpu = append(f.cpu, float64((after-before).Microseconds())/float64(count))
	f.rate = append(f.rate, float64(count)/took.Seconds())
	f.memory = max(f.memory, memory)
	return nil
}

// usage returns the CPU time of a process, and the most memory that was resident, in KiB.
func usage(pid int) (time.Duration, int, error) {
	if pid == 0 {
		return 0, 0, nil
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var ticks int64
	for _, field := range fields[11:13] { // utime and stime, of 10 ms
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, 0, err
		}
		ticks += n
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	memory := 0
	if _, rest, ok := strings.Cut(string(status), "VmHWM:"); ok {
		_, _ = fmt.Sscan(rest, &memory)
	}
	return time.Duration(ticks) * 10 * time.Millisecond, memory, nil
}

// Command bench measures what an admission costs, side by side:
//
//   - creates: Pods created in a real kube-apiserver, with nothing asked, with evenkeel serve, with
//     other webhooks, and with MutatingAdmissionPolicies that do the same;
//   - rollouts: whole Deployments, with evenkeel and with those policies;
//   - reviews: each webhook as a process of its own, called as kube-apiserver calls a webhook behind a
//     Service, over HTTP/1.1 on connections that stay open;
//   - growth: the memory of evenkeel, its start, and how fast it writes budgets in a cluster with
//     ever more Deployments;
//   - scheduler: what the real scheduler takes for a pod with nothing added, with evenkeel's terms, and
//     with its topology spread constraints.
//
// Contestants take turns, in rounds, and what each of them answers is compared with what it has to add: one that adds
// nothing looks fast. The report is Markdown with plots.
//
//	go run . [-o DIR] [-parts PART,…] [-contestant NAME=URL[,PID]]...
//
// A contestant by URL is a webhook that somebody has started by hand; with its process id its CPU
// time is measured, too. Its certificate is taken as it is; the API server calls it through a
// Service, over HTTP/1.1, where the certificate is for NAME.NAMESPACE.svc and the address a
// loopback one. What it adds to a Pod is its own affair, but it has to add something, and the same
// every time.
package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
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

	"golang.org/x/sys/unix"
	applier "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"

	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/internal/keypair"
	"github.com/evenkeel/evenkeel/webhook"
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
	pid       int    // 0 where its CPU time can't be measured
	foreign   bool   // started by hand; what it adds is its own affair
	want      []byte // its answer
	client    *http.Client
}

// figures are what was measured of a contestant on a number of connections, a value per round.
type figures struct {
	cpu, rate []float64 // µs per review, reviews per second
	latencies []time.Duration
	memory    int // KiB at most
}

// options are the flags.
type options struct {
	serve                     string
	parts                     []string
	rounds, pods, deployments int
	each                      time.Duration
	directory                 string
	others                    []*contestant
	schedules                 []schedule
}

// The parts of a run.
const (
	creates   = "creates"
	rollouts  = "rollouts"
	reviews   = "reviews"
	growth    = "growth"
	scheduler = "scheduler"
)

func allParts() []string { return []string{creates, rollouts, reviews, growth, scheduler} }

func parse(args []string) (*options, error) {
	o := &options{parts: allParts()}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.StringVar(&o.serve, "serve", "",
		"serve reviews as this `contestant` until stdin is closed (bench starts itself so)")
	fs.StringVar(&o.directory, "o", "", "`directory` to write speed.md and its plots to")
	fs.IntVar(&o.rounds, "rounds", 30, "number of rounds")
	fs.IntVar(&o.pods, "pods", 25, "Pods that are created per contestant and round, but three times as many as are "+
		"created at once at least, in fewer rounds")
	fs.IntVar(&o.deployments, "deployments", 3, "Deployments that are created per contestant and round")
	fs.DurationVar(&o.each, "each", 160*time.Millisecond, "time of reviews over TLS per contestant and round")
	fs.Func("parts", "what to measure, `PART,…` of "+strings.Join(allParts(), ", ")+" (default all)",
		func(text string) error {
			o.parts = strings.Split(text, ",")
			for _, part := range o.parts {
				if !slices.Contains(allParts(), part) {
					return fmt.Errorf("%q: allowed are %s", part, strings.Join(allParts(), ", "))
				}
			}
			return nil
		})
	o.schedules, _ = parseSchedules(defaultSchedules)
	fs.Func("scheduler", "clusters to measure the scheduler in, `NODESxPODS,…` (default "+defaultSchedules+")",
		func(text string) (err error) {
			o.schedules, err = parseSchedules(text)
			return err
		})
	fs.Func("contestant", "`NAME=URL[,PID]` of a webhook that runs already", func(text string) error {
		name, rest, ok := strings.Cut(text, "=")
		url, pid, _ := strings.Cut(rest, ",")
		number, err := strconv.Atoi(cmp.Or(pid, "0"))
		if !ok || err != nil || !strings.HasPrefix(url, "https://") {
			return errors.New("allowed: NAME=https://HOST:PORT/PATH, and a process id after a comma")
		}
		o.others = append(o.others, &contestant{name: name, url: url, pid: number, foreign: true})
		return nil
	})
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if o.rounds < 1 || o.pods < 1 || o.deployments < 1 {
		return nil, errors.New("-rounds, -pods and -deployments: allowed are numbers from 1")
	}
	return o, nil
}

// command returns what is to be typed to measure the same again.
func (o *options) command() string {
	defaults, err := parse(nil)
	if err != nil {
		return "make bench"
	}
	var flags []string
	add := func(name string, value, byDefault any) {
		if !reflect.DeepEqual(value, byDefault) {
			flags = append(flags, fmt.Sprintf("-%s %v", name, value))
		}
	}
	add("rounds", o.rounds, defaults.rounds)
	add("pods", o.pods, defaults.pods)
	add("deployments", o.deployments, defaults.deployments)
	add("each", o.each, defaults.each)
	add("scheduler", joined(o.schedules), joined(defaults.schedules))
	add("parts", strings.Join(o.parts, ","), strings.Join(defaults.parts, ","))
	for _, other := range o.others {
		add("contestant", other.name+"=URL", nil)
	}
	if flags == nil {
		return "make bench"
	}
	return fmt.Sprintf("make bench BENCH=%q", strings.Join(flags, " "))
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if o.serve != "" {
		return serveReviews(o.serve, os.Stdin, stdout)
	}
	r := &report{began: time.Now(), plots: map[string]string{}, command: o.command(),
		machine: fmt.Sprintf("%s, %s, %d CPUs, %s, Kubernetes %s", time.Now().Format(time.DateOnly), runtime.Version(),
			runtime.NumCPU(), processor(), cluster.Version)}
	if slices.Contains(o.parts, creates) || slices.Contains(o.parts, rollouts) {
		if err := o.inServer(ctx, r); err != nil {
			return err
		}
	}
	if slices.Contains(o.parts, reviews) {
		if err := o.overTLS(ctx, r); err != nil {
			return err
		}
	}
	if slices.Contains(o.parts, growth) {
		all, err := measureGrowth(ctx, os.Stderr, []int{0, 10_000, 50_000})
		if err != nil {
			return err
		}
		r.growth(all)
	}
	if slices.Contains(o.parts, scheduler) {
		var all [][]*arm
		for _, s := range o.schedules {
			arms, err := measureScheduling(ctx, os.Stderr, s)
			if err != nil {
				return fmt.Errorf("scheduler, %v: %w", s, err)
			}
			all = append(all, arms)
		}
		r.scheduling(o.schedules, all)
	}
	fmt.Fprint(stdout, r.text())
	if o.directory == "" {
		return nil
	}
	return r.write(o.directory)
}

// inServer measures in the API server.
func (o *options) inServer(ctx context.Context, r *report) error {
	webhooks, stop, err := startAll(ctx, constantPatch, stockKubewebhook)
	defer stop()
	if err != nil {
		return err
	}
	s, err := startServers(ctx, os.Stderr, append(webhooks, o.others...))
	if err != nil {
		return err
	}
	defer func() { _ = s.Stop() }()
	if slices.Contains(o.parts, creates) {
		atOnce := []int{1, 8, 32}
		if err := s.measureCreates(ctx, o.rounds, o.pods, atOnce); err != nil {
			return err
		}
		r.creates(s, o.rounds, o.pods, atOnce)
	}
	if slices.Contains(o.parts, rollouts) {
		if err := s.measureRollouts(ctx, o.rounds, o.deployments); err != nil {
			return err
		}
		r.rollouts(s, o.rounds, o.deployments)
	}
	return nil
}

// overTLS measures reviews alone.
func (o *options) overTLS(ctx context.Context, r *report) error {
	all, stop, err := startAll(ctx, contestants...)
	defer stop()
	if err != nil {
		return err
	}
	all = append(all, o.others...)
	review, object := reference.review()
	if err := agree(all, review, object); err != nil {
		return err
	}
	fmt.Fprintf(&r.sections, `
## A review over TLS

Each webhook is a process of its own and is called as kube-apiserver calls it, over HTTP/1.1 on connections that stay
open: a Pod of %s, a review of %d bytes, %d rounds of %v each.

| connections | webhook | CPU per review | to the constant patch | reviews per second | p50 | p99 `+
		`| p99.9 | memory at most |
|---|---|--:|--:|--:|--:|--:|--:|--:|
`, size(len(object)), len(review), o.rounds, o.each)
	c := chart{title: "A review over TLS: what the webhook's process takes",
		panels: []panel{{title: "CPU time", unit: "µs"}}}
	var toConstant, toStock, constantToStock []float64
	for _, connections := range []int{1, 25, 64} {
		measured := map[*contestant]*figures{}
		for range o.rounds {
			for _, c := range all {
				if measured[c] == nil {
					measured[c] = &figures{}
				}
				if err := measured[c].round(ctx, c, review, connections, o.each); err != nil {
					return fmt.Errorf("%s: %w", c.name, err)
				}
			}
		}
		took := map[string]float64{}
		for _, w := range all {
			f := measured[w]
			slices.Sort(f.latencies)
			at := func(q float64) string {
				return f.latencies[int(q*float64(len(f.latencies)-1))].Round(10 * time.Microsecond).String()
			}
			used, ratio, memory := "–", "–", "–"
			if w.pid != 0 {
				cpu := median(f.cpu)
				took[w.name] = cpu
				used, memory = fmt.Sprintf("%.0f µs", cpu), fmt.Sprintf("%.0f MiB", float64(f.memory)/1024)
				ratio = fmt.Sprintf("%.2f", cpu/took[constantPatch])
				c.rows = append(c.rows, bar{group: fmt.Sprintf("%d at once", connections), label: w.name,
					values: [][]float64{{cpu}}})
			}
			fmt.Fprintf(&r.sections, "| %d | %s | %s | %s | %.0f | %s | %s | %s | %s |\n", connections, w.name, used, ratio,
				median(f.rate), at(.5), at(.99), at(.999), memory)
		}
		toConstant, toStock = append(toConstant, took[evenkeel]/took[constantPatch]),
			append(toStock, took[stockKubewebhook]/took[evenkeel])
		constantToStock = append(constantToStock, took[stockKubewebhook]/took[constantPatch])
	}
	r.plot("speed-reviews.svg", c)
	r.aims = append(r.aims, aim{what: "Review over TLS, 1, 25, 64 connections: CPU to a constant patch's", most: 1.6,
		ratios: toConstant},
		aim{what: "Review over TLS, 1, 25, 64 connections: CPU of kubewebhook's stock mutator to evenkeel's", most: -15,
			ratios: toStock, constantPatch: constantToStock})
	return nil
}

// startAll starts contestants, and returns what ends those that were started.
func startAll(ctx context.Context, names ...string) ([]*contestant, func(), error) {
	var all []*contestant
	var stops []func()
	stop := func() {
		for _, s := range stops {
			s()
		}
	}
	for _, name := range names {
		c, end, err := start(ctx, name)
		if err != nil {
			return nil, stop, err
		}
		all, stops = append(all, c), append(stops, end)
	}
	return all, stop, nil
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
	return &contestant{name: name, url: "https://" + address + "/mutate?timeout=10s", pid: cmd.Process.Pid}, stop, nil
}

// serveReviews serves the reviews of a contestant and writes its address to stdout. It ends when stdin does.
func serveReviews(name string, stdin io.Reader, stdout io.Writer) error {
	server, listener, err := newServer(name)
	if err != nil {
		return err
	}
	if name == evenkeel {
		webhook.KeepHeap(context.Background(), webhook.MinHeap) // as evenkeel serve does
	}
	if _, err := fmt.Fprintln(stdout, listener.Addr()); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		_ = server.Close() // whoever started us has ended
	}()
	if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// newServer returns a server for a contestant with the timeouts of evenkeel serve, and with a certificate for its
// address and for a Service of its own.
func newServer(name string) (*http.Server, net.Listener, error) {
	handler, err := handlerOf(name, reference.kind)
	if err != nil {
		return nil, nil, err
	}
	pair, err := keypair.New(&x509.Certificate{NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames: []string{"localhost",
			fmt.Sprintf("%s.bench-%d.svc", strings.ReplaceAll(name, " ", "-"), os.Getpid())}}, nil)
	if err != nil {
		return nil, nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	return &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: 35 * time.Second, IdleTimeout: 120 * time.Second,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair.TLS()}}}, listener, nil
}

// agree asks every contestant once and applies its answer: those of this repository must add the same.
func agree(all []*contestant, review, object []byte) error {
	var want any
	for _, c := range all {
		c.client = &http.Client{Timeout: 10 * time.Second,
			Transport: &http.Transport{MaxIdleConnsPerHost: 64,
				TLSNextProto:    map[string]func(string, *tls.Conn) http.RoundTripper{},
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
		after, err := applied(r.Response.Patch, object)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		var got map[string]any
		if err := json.Unmarshal(after, &got); err != nil {
			return fmt.Errorf("%s: read what it makes: %w", c.name, err)
		}
		delete(got, "status")
		dropRecord(got)
		if want == nil {
			want = got
		}
		if !c.foreign && !reflect.DeepEqual(got, want) {
			return fmt.Errorf("%s adds something else than %s", c.name, all[0].name)
		}
	}
	return nil
}

// dropRecord takes out the text of the record, which evenkeel alone writes: that there is one is compared.
func dropRecord(value map[string]any) {
	for key, member := range value {
		switch member := member.(type) {
		case map[string]any:
			dropRecord(member)
		case string:
			if key == "evenkeel.dev/injected" && member != "" {
				value[key] = "a record"
			}
		}
	}
}

// applied returns what a JSON patch makes of an object, in the library that kube-apiserver has.
func applied(patch, object []byte) ([]byte, error) {
	decoded, err := applier.DecodePatch(patch)
	if err != nil {
		return nil, fmt.Errorf("read patch: %w", err)
	}
	after, err := decoded.Apply(object)
	if err != nil {
		return nil, fmt.Errorf("apply patch: %w", err)
	}
	return after, nil
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
		if json.Unmarshal(raw, &r) != nil || r.Response == nil || !r.Response.Allowed ||
			json.Unmarshal(r.Response.Patch, &patch) != nil {
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
	var cpu unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &cpu); err != nil { // as clock_getcpuclockid(3) does it
		return 0, 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	memory := 0
	if _, rest, ok := strings.Cut(string(status), "VmHWM:"); ok {
		_, _ = fmt.Sscan(rest, &memory)
	}
	return time.Duration(cpu.Nano()), memory, nil
}

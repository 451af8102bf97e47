package main

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// A scenario is one situation.
type scenario struct {
	ID, Title   string
	Clients     []string // nil means all
	Rate        float64  // requests per second of each client on each server; 0 means the usual
	Connections int      // of each persistent client to each server; 0 means 2
}

// An outcome is what clients saw in one run of a scenario.
type outcome struct {
	Scenario                       scenario
	Repetition                     int
	Began, Started, Ended, Stopped time.Time // the load and, within it, the operation
	Targets                        []target
	Clients                        []string
	Records                        []record
	Pods                           []podLife
	Sides                          map[string]*summary
	Took                           map[string]time.Duration // the operation by side, where they differ; never where it didn't end
	Notes                          []string
	Marks                          []mark
	Lost                           *loss                // of scenario 6
	Shares                         map[string][]float64 // of scenario 7: the new pods' parts of the requests, by side
	Upgrade                        *upgrade             // of scenario 8
}

// never is the time of an operation that didn't end while it was watched.
const never time.Duration = math.MaxInt64

// A mark is a moment of an operation.
type mark struct {
	At   time.Time
	Text string
}

// A loss is a node that was gone for a time.
type loss struct {
	Node         string
	At, Restored time.Time
	Whole        map[string]int // workloads with all replicas on it, by side
	Workloads    int            // on each side
}

// An upgrade is what became of pods while evenkeel was upgraded.
type upgrade struct {
	Kept        int // pods of evenkeel itself that it did not replace
	Undefaulted int // pods of the side with evenkeel that it added nothing to
}

// A target is a Service.
type target struct {
	Side, Server string
	IP           string
	Stops        string        // what SIGTERM does to its servers: stopAtOnce, stopShutdown or stopDrain
	Recycles     time.Duration // age at which its servers end connections; 0 means never
}

// What SIGTERM does, as the flag -stop of a server has it.
const (
	stopAtOnce   = "at-once"
	stopShutdown = "shutdown"
	stopDrain    = "drain"
)

// A record is one request.
type record struct {
	Due           int64  // microseconds since 1970 at which it was to start
	Target        int    // index into loadConfig.Targets
	Client        int    // index into loadConfig.Clients
	Latency       int64  // microseconds from Due to the end
	Opened        int64  // microseconds since 1970 at which its connection was established; 0 if it had none
	Pod           string // that answered on this connection, now or before; empty if none ever has
	Cause, Detail string // of a failure
}

// end returns when it was answered or known to have failed.
func (r *record) end() time.Time { return time.UnixMicro(r.Due + r.Latency) }

// A summary is what the clients of one side saw.
type summary struct {
	tally
	Cut, Raced, Undone int                         // of the failures, those that exception names
	Causes             map[string]int              // failures by cause
	Where              map[string]map[string]tally // by server and client
	Outage             time.Duration               // the longest that any client had no success for
	OutageOf           string
	P99, Slowest       time.Duration // of successes
}

// A tally counts requests.
type tally struct{ Sent, Failed int }

func (t *tally) add(other tally) {
	t.Sent += other.Sent
	t.Failed += other.Failed
}

// count adds requests of a client to a server.
func (s *summary) count(server, client string, n tally) {
	s.add(n)
	if s.Where[server] == nil {
		s.Where[server] = map[string]tally{}
	}
	sum := s.Where[server][client]
	sum.add(n)
	s.Where[server][client] = sum
}

// line says it in one.
func (s *summary) line() string {
	text := fmt.Sprintf("%d of %d failed, longest outage %.1f s, p99 %d ms", s.Failed, s.Sent, s.Outage.Seconds(), s.P99.Milliseconds())
	for _, cause := range byCount(s.Causes) {
		text += fmt.Sprintf("; %d %s", s.Causes[cause], cause)
	}
	var where []string
	for server, clients := range s.Where {
		for client, n := range clients {
			if n.Failed > 0 {
				where = append(where, fmt.Sprintf("%s/%s %d", server, client, n.Failed))
			}
		}
	}
	slices.Sort(where)
	if len(where) > 0 {
		text += " (" + strings.Join(where, ", ") + ")"
	}
	return text
}

// byCount returns the keys with the largest value first.
func byCount(counts map[string]int) []string {
	return slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
}

// count sorts the requests and sums them up.
func (o *outcome) count(records []record) {
	slices.SortFunc(records, func(a, b record) int { return cmp.Compare(a.Due, b.Due) })
	o.Records, o.Sides = records, map[string]*summary{}
	for _, side := range append(sides(), control) {
		o.Sides[side] = o.summarize(side)
	}
}

// lastFailure returns when the last request of a side failed, or the zero time.
func (o *outcome) lastFailure(side string) time.Time {
	var last time.Time
	for _, r := range o.Records {
		if r.Cause != "" && o.Targets[r.Target].Side == side && r.end().After(last) {
			last = r.end()
		}
	}
	return last
}

// newShares returns the shares of the requests of a side answered from a time on, in percent, of the pods that were made during the
// operation.
func (o *outcome) newShares(side string, from time.Time) []float64 {
	answered, all := map[string]int{}, 0
	for _, r := range o.Records {
		if r.Cause == "" && o.Targets[r.Target].Side == side && r.Due >= from.UnixMicro() {
			answered[r.Pod]++
			all++
		}
	}
	var shares []float64
	for _, life := range o.Pods {
		if life.Side == side && life.Changes[0].At.After(o.Started) {
			shares = append(shares, 100*float64(answered[life.Name])/float64(max(1, all)))
		}
	}
	return shares
}

func newSummary() *summary {
	return &summary{Causes: map[string]int{}, Where: map[string]map[string]tally{}}
}

// summarize counts the requests of one side; the records are in the order of their times.
func (o *outcome) summarize(side string) *summary {
	s := newSummary()
	type pair struct{ target, client int }
	failing := map[pair]int64{} // since when
	var latencies []int64
	for _, r := range o.Records {
		t := o.Targets[r.Target]
		if t.Side != side {
			continue
		}
		p := pair{r.Target, r.Client}
		if r.Cause == "" {
			s.count(t.Server, o.Clients[r.Client], tally{Sent: 1})
			latencies = append(latencies, r.Latency)
			delete(failing, p)
			continue
		}
		s.count(t.Server, o.Clients[r.Client], tally{Sent: 1, Failed: 1})
		s.Causes[r.Cause]++
		switch o.exception(r) {
		case cut:
			s.Cut++
		case raced:
			s.Raced++
		case undone:
			s.Undone++
		}
		if _, known := failing[p]; !known {
			failing[p] = r.Due
		}
		// Until the last of them was known to have failed.
		if outage := time.Duration(r.Due-failing[p]+r.Latency) * time.Microsecond; outage > s.Outage {
			s.Outage, s.OutageOf = outage, t.Server+", "+o.Clients[r.Client]
		}
	}
	if len(latencies) > 0 {
		slices.Sort(latencies)
		s.P99 = time.Duration(latencies[(len(latencies)-1)*99/100]) * time.Microsecond
		s.Slowest = time.Duration(latencies[len(latencies)-1]) * time.Microsecond
	}
	return s
}

// left returns how long after a time the last pod of each side was gone from nodes that were drained until another.
func left(lives []podLife, from, to time.Time, nodes ...string) map[string]time.Duration {
	took := map[string]time.Duration{}
	for _, life := range lives {
		for _, c := range life.Changes {
			if c.Phase == gone && slices.Contains(nodes, life.Node) && c.At.After(from) && c.At.Before(to) {
				took[life.Side] = max(took[life.Side], c.At.Sub(from))
			}
		}
	}
	return took
}

// explained returns what the output of evenkeel explain says of a default, and all that it finds.
func explained(text, setting string) string {
	var parts []string
	section := ""
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
		case !strings.HasPrefix(line, " "):
			section = fields[0]
		case section == "Defaults:" && fields[0] == setting, section == "Findings:":
			parts = append(parts, strings.Join(fields, " "))
		}
	}
	return strings.Join(parts, "; ")
}

// sortLives puts pods in the order of their side, server and beginning.
func sortLives(lives []podLife) {
	slices.SortFunc(lives, func(a, b podLife) int {
		return cmp.Or(cmp.Compare(a.Side, b.Side), cmp.Compare(a.Server, b.Server), a.Changes[0].At.Compare(b.Changes[0].At), cmp.Compare(a.Name, b.Name))
	})
}

// The namespaces of the two sides.
const (
	without = "without"
	with    = "with"
)

func sides() []string { return []string{without, with} }

// control is the side of a server that is no pod, and that no operation touches. Where it fails, the machine was too busy to show
// anything.
const control = "control"

// A phase is what a pod is doing.
type phase string

// The phases of a pod, in the order in which it goes through them.
const (
	pending     phase = "pending"     // not running yet
	starting    phase = "not ready"   // running, not ready yet or no more
	ready       phase = "ready"       // gets traffic
	terminating phase = "terminating" // was told to go, and may still serve
	stopped     phase = "stopped"     // no container runs any more
	gone        phase = "gone"
)

// A podLife is what became of a pod, as the API server told.
type podLife struct {
	Side, Server, Name, Node, IP string
	Changes                      []change
	Told                         time.Time // when SIGTERM reached the server, by its own note; zero if it left none
}

// terminates returns when the pod was told to go, or the zero time.
func (p *podLife) terminates() time.Time {
	for _, c := range p.Changes {
		if c.Phase == terminating {
			return c.At
		}
	}
	return time.Time{}
}

// A change is the beginning of a phase.
type change struct {
	At    time.Time
	Phase phase
}

// at returns the phase at a time, and since when.
func (p *podLife) at(t time.Time) (phase, time.Time) {
	var last change
	for _, c := range p.Changes {
		if c.At.After(t) {
			break
		}
		last = c
	}
	return last.Phase, last.At
}

// void says why a run shows nothing, or nothing: the control failed, or came near it.
func (o *outcome) void() string {
	switch s := o.Sides[control]; {
	case s.Failed > 0:
		return fmt.Sprintf("%d of %d requests to the control failed (%s)", s.Failed, s.Sent, causes(s.Causes))
	case s.Slowest > requestTimeout/2:
		return fmt.Sprintf("a request to the control took %.1f s", s.Slowest.Seconds())
	}
	return ""
}

// requestTimeout is the time within which an answer has to be there, counted from when the request was due.
const requestTimeout = 5 * time.Second

// failed returns how many requests failed on any side, the control included.
func (o *outcome) failed() int {
	return o.Sides[without].Failed + o.Sides[with].Failed + o.Sides[control].Failed
}

// The exceptions: failures that no default of a workload can prevent.
const (
	cut    = "cut"    // a persistent connection that a server without any shutdown takes with it, under a request
	raced  = "raced"  // a request on its way to a server that was closing the connection because it was idle, as net/http's Shutdown does
	undone = "undone" // a request that met a GOAWAY on its way, which the server has not processed and the client is to send again
)

const (
	// leaving is how long new connections may still be led to a pod that terminates: 90 of 100 endpoints had left every node after 3.8 s and
	// the slowest after 4.5 s (docs/proof/README.md). One that was led there later met a stale endpoint, and what becomes of it is no exception.
	leaving = 4 * time.Second
	// stopping is how long after SIGTERM a connection ends because of it: at once where the process ends, within Shutdown's second look
	// at idle connections (0.5 s) or Drain's patience with silent ones (1 s), and what a busy machine takes to tell the client.
	stopping = 2 * time.Second
	// setting is how much the clock, by which server and client note their times, may be set meanwhile.
	setting = 100 * time.Millisecond
)

// exception names the exception that a failure is by what is known of its connection and its server, or none.
//
//	server                       client          connection                         failure               exception
//	any                          any             never had an answer                any                   none
//	any                          new connection  any                                any                   none
//	recycles                     HTTP/2, gRPC    has nearly its age                 undone                undone
//	any                          any             opened while endpoints were stale  any                   none
//	any                          any             any                                not around SIGTERM    none
//	at-once, doesn't recycle     persistent      older than that                    broken or undone      cut
//	shutdown                     HTTP/1.1        older than that                    broken                raced
//	shutdown, drain              HTTP/2, gRPC    older than that                    undone                undone
func (o *outcome) exception(r record) string {
	life := o.pod(r)
	t, client := o.Targets[r.Target], o.Clients[r.Client]
	if life == nil || r.Opened == 0 || client == newConnection {
		return ""
	}
	opened := time.UnixMicro(r.Opened)
	if r.Cause == causeUndone && t.Recycles > 0 && r.end().Sub(opened) >= t.Recycles*8/10 { // a fifth less is the widest jitter
		return undone
	}
	began := life.terminates()
	if began.IsZero() || life.Told.IsZero() || opened.After(began.Add(leaving)) {
		return ""
	}
	if late := r.end().Sub(life.Told); late < -setting || late > stopping {
		return ""
	}
	broken := r.Cause == causeReset || r.Cause == causeClosed
	switch {
	case t.Stops == stopAtOnce && t.Recycles == 0 && (broken || r.Cause == causeUndone):
		return cut
	case t.Stops == stopShutdown && client == http1 && broken:
		return raced
	case t.Stops != stopAtOnce && r.Cause == causeUndone:
		return undone
	}
	return ""
}

// pod returns the pod that a request's connection is known to lead to, or nil.
func (o *outcome) pod(r record) *podLife {
	t := o.Targets[r.Target]
	for i := range o.Pods {
		if life := &o.Pods[i]; r.Pod != "" && life.Name == r.Pod && life.Side == t.Side && life.Server == t.Server {
			return life
		}
	}
	return nil
}

// The kinds of clients.
const (
	newConnection = "new connection" // for each request, HTTP/1.1
	http1         = "HTTP/1.1"       // persistent connections
	http2         = "HTTP/2"
	grpcClient    = "gRPC"
)

// The causes of failures.
const (
	causeRefused   = "connection refused"
	causeNoRoute   = "no route to host"
	causeConnect   = "no connection within 5 s"
	causeReset     = "connection reset under a request"
	causeClosed    = "connection closed under a request"
	causeLost      = "connection given up, pings unanswered"
	causeTimeout   = "no answer within 5 s"
	causeStatus    = "an error as answer"
	causeUndone    = "not processed before the server drained (GOAWAY)"
	causeOtherConn = "no connection"
	causeOther     = "other"
)

// The kinds of servers, which are also the names of their Deployments and Services.
const (
	slow       = "slow"       // listens three seconds after its start, and shuts down in order
	atOnce     = "at-once"    // is gone with SIGTERM
	drains     = "drains"     // asks its clients to leave, with package recycle, before it shuts down
	distroless = "distroless" // no shell in the image, no rights in the container; shuts down in order
	sidecar    = "sidecar"    // with a second container and a native sidecar; shuts down in order
)

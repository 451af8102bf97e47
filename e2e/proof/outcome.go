package main

import (
	"cmp"
	"fmt"
	"maps"
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
	Took                           map[string]time.Duration // the operation by side, where they differ
	Notes                          []string
	Settled                        time.Time // from when on shares are looked at
}

// A target is a Service.
type target struct {
	Side, Server string
	IP           string
}

// A record is one request.
type record struct {
	Due           int64 // microseconds since 1970 at which it was to start
	Target        int   // index into loadConfig.Targets
	Client        int   // index into loadConfig.Clients
	Latency       int64 // microseconds from Due to the end
	Pod           string
	Cause, Detail string // of a failure
}

// A summary is what the clients of one side saw.
type summary struct {
	Sent, Failed       int
	Cut, Raced, Undone int                       // of the failures, those that exception names
	Causes             map[string]int            // failures by cause
	Where              map[string]map[string]int // failures by server and client
	Outage             time.Duration             // the longest that any client had no success for
	OutageOf           string
	P99, Slowest       time.Duration // of successes
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
			where = append(where, fmt.Sprintf("%s/%s %d", server, client, n))
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
		if end := time.UnixMicro(r.Due + r.Latency); r.Cause != "" && o.Targets[r.Target].Side == side && end.After(last) {
			last = end
		}
	}
	return last
}

// newShares returns the shares of the answered requests, from Settled on, of the pods of a side that were made during the operation.
func (o *outcome) newShares(side string) string {
	answered, all := map[string]int{}, 0
	for _, r := range o.Records {
		if r.Cause == "" && o.Targets[r.Target].Side == side && r.Due >= o.Settled.UnixMicro() {
			answered[r.Pod]++
			all++
		}
	}
	var shares []string
	for _, life := range o.Pods {
		if life.Side == side && life.Changes[0].At.After(o.Started) {
			shares = append(shares, fmt.Sprintf("%.1f %%", 100*float64(answered[life.Name])/float64(max(1, all))))
		}
	}
	return strings.Join(shares, " and ")
}

// summarize counts the requests of one side; the records are in the order of their times.
func (o *outcome) summarize(side string) *summary {
	s := &summary{Causes: map[string]int{}, Where: map[string]map[string]int{}}
	type pair struct{ target, client int }
	failing := map[pair]int64{} // since when
	var latencies []int64
	for _, r := range o.Records {
		t := o.Targets[r.Target]
		if t.Side != side {
			continue
		}
		s.Sent++
		p := pair{r.Target, r.Client}
		if r.Cause == "" {
			latencies = append(latencies, r.Latency)
			delete(failing, p)
			continue
		}
		s.Failed++
		s.Causes[r.Cause]++
		switch o.exception(r) {
		case cut:
			s.Cut++
		case raced:
			s.Raced++
		case undone:
			s.Undone++
		}
		if s.Where[t.Server] == nil {
			s.Where[t.Server] = map[string]int{}
		}
		s.Where[t.Server][o.Clients[r.Client]]++
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

// exception names the exception that a failure is, or none. A failure is one only while its pod's server shuts down: with evenkeel
// that is after the sleep.
func (o *outcome) exception(r record) string {
	t, end := o.Targets[r.Target], time.UnixMicro(r.Due+r.Latency)
	kind, least := exceptional(t.Server, o.Clients[r.Client], r.Cause), time.Duration(0)
	if t.Side == with {
		least = sleep
	}
	for i := range o.Pods {
		life := &o.Pods[i]
		if life.Side != t.Side || life.Server != t.Server || life.Name != r.Pod {
			continue
		}
		for _, c := range life.Changes {
			if c.Phase == terminating && end.Sub(c.At) >= least {
				return kind
			}
		}
	}
	return ""
}

// sleep is how long a pod with evenkeel's default sleeps before its servers get SIGTERM, less a second for the news of its end to arrive.
const sleep = 9 * time.Second

// exceptional names the exception that a failure while its server shuts down is, or none.
func exceptional(server, client, cause string) string {
	switch {
	case server == atOnce && client != newConnection && (cause == causeReset || cause == causeClosed):
		return cut
	case server != atOnce && server != drains && client == http1 && (cause == causeReset || cause == causeClosed):
		return raced
	case cause == causeUndone:
		return undone
	}
	return ""
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

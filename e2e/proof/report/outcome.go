// Package report judges what clients saw, run by run, and says it as a page with plots.
package report

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/evenkeel/evenkeel/e2e/proof/load"
)

// A Scenario is one situation.
type Scenario struct {
	ID, Title   string
	Clients     []string // nil means all
	Rate        float64  // requests per second of each client on each server; 0 means the usual
	Connections int      // of each persistent client to each server; 0 means 2
}

// An Outcome is what clients saw in one run of a scenario.
type Outcome struct {
	Scenario                       Scenario
	Repetition                     int
	Began, Started, Ended, Stopped time.Time // the load and, within it, the operation
	Targets                        []load.Target
	Clients                        []string
	Records                        []load.Record
	Pods                           []PodLife
	Sides                          map[string]*Summary
	// the operation by side, where they differ; never where it didn't end
	Took    map[string]time.Duration
	Notes   []string
	Marks   []Mark
	Lost    *Loss                // of scenario 6
	Shares  map[string][]float64 // of scenario 7: the new pods' parts of the requests, by side
	Upgrade *Upgrade             // of scenario 8
	// what the clients' count and the servers' don't agree on
	Disputed []string
}

// Never is the time of an operation that didn't end while it was watched.
const Never time.Duration = math.MaxInt64

// A Mark is a moment of an operation.
type Mark struct {
	At   time.Time
	Text string
}

// A Loss is a node that was gone for a time.
type Loss struct {
	Node         string
	At, Restored time.Time
	Whole        map[string]int // workloads with all replicas on it, by side
	Workloads    int            // on each side
}

// An Upgrade is what became of pods while evenkeel was upgraded.
type Upgrade struct {
	Kept        int // pods of evenkeel itself that it did not replace
	Undefaulted int // pods of the side with evenkeel that it added nothing to
}

// A Summary is what the clients of one side saw.
type Summary struct {
	Counts
	Causes       map[string]int              // failures by cause
	Where        map[string]map[string]Tally // by server and client
	Outage       time.Duration               // the longest that any client had no success for
	OutageOf     string
	P99, Slowest time.Duration // of successes
}

// Counts are requests. The last three are by the servers' own logs (see CountAgain).
type Counts struct {
	Tally
	Cut        int `json:"cut"` // of the failures, as the next two, those that exception names
	Raced      int `json:"raced"`
	Undone     int `json:"goaway"`
	Answered   int `json:"answered"`
	Unreceived int `json:"unreceived"` // of those answered
	Disputed   int `json:"disputed"`   // of which the two counts say something else
}

func (c *Counts) add(other Counts) {
	c.Tally.add(other.Tally)
	c.Cut += other.Cut
	c.Raced += other.Raced
	c.Undone += other.Undone
	c.Answered += other.Answered
	c.Unreceived += other.Unreceived
	c.Disputed += other.Disputed
}

// A Tally counts requests.
type Tally struct {
	Sent   int `json:"sent"`
	Failed int `json:"failed"`
}

func (t *Tally) add(other Tally) {
	t.Sent += other.Sent
	t.Failed += other.Failed
}

// count adds requests of a client to a server.
func (s *Summary) count(server, client string, n Tally) {
	s.Tally.add(n)
	s.place(server, client, n)
}

// place adds them to those of that client and server alone.
func (s *Summary) place(server, client string, n Tally) {
	if s.Where[server] == nil {
		s.Where[server] = map[string]Tally{}
	}
	sum := s.Where[server][client]
	sum.add(n)
	s.Where[server][client] = sum
}

// Line says it in one.
func (s *Summary) Line() string {
	text := fmt.Sprintf("%d of %d failed, longest outage %.1f s, p99 %d ms", s.Failed, s.Sent, s.Outage.Seconds(),
		s.P99.Milliseconds())
	for _, cause := range ByCount(s.Causes) {
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

// ByCount returns the keys with the largest value first.
func ByCount(counts map[string]int) []string {
	return slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
}

// Count sorts the requests and sums them up.
func (o *Outcome) Count(records []load.Record) {
	slices.SortFunc(records, func(a, b load.Record) int { return cmp.Compare(a.Due, b.Due) })
	o.Records, o.Sides = records, map[string]*Summary{}
	for _, side := range append(Sides(), Control) {
		o.Sides[side] = o.summarize(side)
	}
}

// LastFailure returns when the last request of a side failed, or the zero time.
func (o *Outcome) LastFailure(side string) time.Time {
	var last time.Time
	for _, r := range o.Records {
		if r.Cause != "" && o.Targets[r.Target].Side == side && r.End().After(last) {
			last = r.End()
		}
	}
	return last
}

// NewShares returns the shares of the requests of a side answered from a time on, in percent, of
// the pods that were made during the operation.
func (o *Outcome) NewShares(side string, from time.Time) []float64 {
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

func newSummary() *Summary {
	return &Summary{Causes: map[string]int{}, Where: map[string]map[string]Tally{}}
}

// summarize counts the requests of one side; the records are in the order of their times.
func (o *Outcome) summarize(side string) *Summary {
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
			s.count(t.Server, o.Clients[r.Client], Tally{Sent: 1})
			latencies = append(latencies, r.Latency)
			delete(failing, p)
			continue
		}
		s.count(t.Server, o.Clients[r.Client], Tally{Sent: 1, Failed: 1})
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

// Left returns how long after a time the last pod of each side was gone from nodes that were drained until another.
func Left(lives []PodLife, from, to time.Time, nodes ...string) map[string]time.Duration {
	took := map[string]time.Duration{}
	for _, life := range lives {
		for _, c := range life.Changes {
			if c.Phase == Gone && slices.Contains(nodes, life.Node) && c.At.After(from) && c.At.Before(to) {
				took[life.Side] = max(took[life.Side], c.At.Sub(from))
			}
		}
	}
	return took
}

// Explained returns what the output of evenkeel explain says of a default, and all that it finds.
func Explained(text, setting string) string {
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

// SortLives puts pods in the order of their side, server and beginning.
func SortLives(lives []PodLife) {
	slices.SortFunc(lives, func(a, b PodLife) int {
		return cmp.Or(cmp.Compare(a.Side, b.Side), cmp.Compare(a.Server, b.Server), a.Changes[0].At.Compare(b.Changes[0].At),
			cmp.Compare(a.Name, b.Name))
	})
}

// The namespaces of the two sides.
const (
	Without = "without"
	With    = "with"
)

// Sides returns the two sides, in the order of tables and plots.
func Sides() []string { return []string{Without, With} }

// Control is the side of a server that is no pod, and that no operation touches. Where it fails,
// the machine was too busy to show anything.
const Control = "control"

// A Phase is what a pod is doing.
type Phase string

// The phases of a pod, in the order in which it goes through them.
const (
	Pending     Phase = "pending"     // not running yet
	Starting    Phase = "not ready"   // running, not ready yet or no more
	Ready       Phase = "ready"       // gets traffic
	Terminating Phase = "terminating" // was told to go, and may still serve
	Stopped     Phase = "stopped"     // no container runs any more
	Gone        Phase = "gone"
)

// A PodLife is what became of a pod, as the API server told.
type PodLife struct {
	Side, Server, Name, Node, IP string
	Changes                      []Change
	Told                         time.Time // when SIGTERM reached the server, by its own note; zero if it left none
}

// terminates returns when the pod was told to go, or the zero time.
func (p *PodLife) terminates() time.Time {
	for _, c := range p.Changes {
		if c.Phase == Terminating {
			return c.At
		}
	}
	return time.Time{}
}

// A Change is the beginning of a phase.
type Change struct {
	At    time.Time
	Phase Phase
}

// at returns the phase at a time, and since when.
func (p *PodLife) at(t time.Time) (Phase, time.Time) {
	var last Change
	for _, c := range p.Changes {
		if c.At.After(t) {
			break
		}
		last = c
	}
	return last.Phase, last.At
}

// Void says why a run shows nothing, or nothing: the control failed, or came near it.
func (o *Outcome) Void() string {
	switch s := o.Sides[Control]; {
	case s.Failed > 0:
		return fmt.Sprintf("%d of %d requests to the control failed (%s)", s.Failed, s.Sent, causes(s.Causes))
	case s.Slowest > load.RequestTimeout/2:
		return fmt.Sprintf("a request to the control took %.1f s", s.Slowest.Seconds())
	}
	return ""
}

// Failed returns how many requests failed on any side, the control included.
func (o *Outcome) Failed() int {
	return o.Sides[Without].Failed + o.Sides[With].Failed + o.Sides[Control].Failed
}

// The exceptions: failures that no default of a workload can prevent.
const (
	cut = "cut" // a persistent connection that a server without any shutdown takes with it, under a request
	// a request on its way to a server that was closing the connection because it was idle, as net/http's Shutdown does
	raced = "raced"
	// a request that met a GOAWAY on its way, which the server has not processed and the client is to send again
	undone = "undone"
)

const (
	// leaving is how long new connections may still be led to a pod that terminates: 90 of 100
	// endpoints had left every node after 3.8 s and the slowest after 4.5 s (docs/proof/README.md).
	// One that was led there later met a stale endpoint, and what becomes of it is no exception.
	leaving = 4 * time.Second
	// stopping is how long after SIGTERM a connection ends because of it: at once where the process
	// ends, within Shutdown's second look at idle connections (0.5 s) or Drain's patience with silent
	// ones (1 s), and what a busy machine takes to tell the client.
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
func (o *Outcome) exception(r load.Record) string {
	life := o.pod(r)
	t, client := o.Targets[r.Target], o.Clients[r.Client]
	if life == nil || r.Opened == 0 || client == load.NewConnection {
		return ""
	}
	opened := time.UnixMicro(r.Opened)
	// a fifth less is the widest jitter
	if r.Cause == load.CauseUndone && t.Recycles > 0 && r.End().Sub(opened) >= t.Recycles*8/10 {
		return undone
	}
	began := life.terminates()
	if began.IsZero() || life.Told.IsZero() || opened.After(began.Add(leaving)) {
		return ""
	}
	if late := r.End().Sub(life.Told); late < -setting || late > stopping {
		return ""
	}
	broken := r.Cause == load.CauseReset || r.Cause == load.CauseClosed
	switch {
	case t.Stops == load.StopAtOnce && t.Recycles == 0 && (broken || r.Cause == load.CauseUndone):
		return cut
	case t.Stops == load.StopShutdown && client == load.HTTP1 && broken:
		return raced
	case t.Stops != load.StopAtOnce && r.Cause == load.CauseUndone:
		return undone
	}
	return ""
}

// pod returns the pod that a request's connection is known to lead to, or nil.
func (o *Outcome) pod(r load.Record) *PodLife {
	t := o.Targets[r.Target]
	for i := range o.Pods {
		if life := &o.Pods[i]; r.Pod != "" && life.Name == r.Pod && life.Side == t.Side && life.Server == t.Server {
			return life
		}
	}
	return nil
}

// The kinds of servers, which are also the names of their Deployments and Services.
const (
	Slow       = "slow"       // listens three seconds after its start, and shuts down in order
	AtOnce     = "at-once"    // is gone with SIGTERM
	Drains     = "drains"     // asks its clients to leave, with package recycle, before it shuts down
	Distroless = "distroless" // no shell in the image, no rights in the container; shuts down in order
	Sidecar    = "sidecar"    // with a second container and a native sidecar; shuts down in order
)

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
	ID, Title string
	Clients   []string // nil means all
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
}

// A summary is what the clients of one side saw.
type summary struct {
	Sent, Failed int
	Causes       map[string]int            // failures by cause
	Where        map[string]map[string]int // failures by server and client
	Outage       time.Duration             // the longest that any client had no success for
	OutageOf     string
	P99          time.Duration // of successes
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

func newOutcome(s scenario, repetition int, targets []target, clients []string, records []record) *outcome {
	slices.SortFunc(records, func(a, b record) int { return cmp.Compare(a.Due, b.Due) })
	o := &outcome{Scenario: s, Repetition: repetition, Targets: targets, Clients: clients, Records: records, Sides: map[string]*summary{}, Took: map[string]time.Duration{}}
	for _, side := range []string{without, with} {
		o.Sides[side] = summarize(side, targets, clients, records)
	}
	return o
}

// summarize counts the requests of one side; the records are in the order of their times.
func summarize(side string, targets []target, clients []string, records []record) *summary {
	s := &summary{Causes: map[string]int{}, Where: map[string]map[string]int{}}
	type pair struct{ target, client int }
	failing := map[pair]int64{} // since when
	var latencies []int64
	for _, r := range records {
		t := targets[r.Target]
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
		if s.Where[t.Server] == nil {
			s.Where[t.Server] = map[string]int{}
		}
		s.Where[t.Server][clients[r.Client]]++
		if _, known := failing[p]; !known {
			failing[p] = r.Due
		}
		// Until the last of them was known to have failed.
		if outage := time.Duration(r.Due-failing[p]+r.Latency) * time.Microsecond; outage > s.Outage {
			s.Outage, s.OutageOf = outage, t.Server+", "+clients[r.Client]
		}
	}
	if len(latencies) > 0 {
		slices.Sort(latencies)
		s.P99 = time.Duration(latencies[(len(latencies)-1)*99/100]) * time.Microsecond
	}
	return s
}

// sortLives puts pods in the order of their side, server and beginning.
func sortLives(lives []podLife) {
	slices.SortFunc(lives, func(a, b podLife) int {
		return cmp.Or(cmp.Compare(a.Side, b.Side), cmp.Compare(a.Server, b.Server), a.Changes[0].At.Compare(b.Changes[0].At), cmp.Compare(a.Name, b.Name))
	})
}

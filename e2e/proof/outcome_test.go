package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// at is a time in milliseconds of the example.
func at(ms int64) int64 { return time.Unix(1000, 0).UnixMicro() + ms*1000 }

func example() *outcome {
	start := time.Unix(1000, 0)
	o := &outcome{
		Scenario: scenario{ID: "1a", Title: "Rolling <update>"}, Repetition: 1,
		Began: start, Started: start.Add(time.Second), Ended: start.Add(3 * time.Second), Stopped: start.Add(5 * time.Second),
		Targets: []target{{Side: without, Server: slow}, {Side: with, Server: slow}},
		Clients: []string{newConnection, http1},
		Took:    map[string]time.Duration{without: time.Second, with: 2 * time.Second},
		Pods: []podLife{
			{Side: without, Server: slow, Name: "slow-1", Changes: []change{{start, ready}, {start.Add(2 * time.Second), terminating}, {start.Add(3 * time.Second), gone}}},
			{Side: with, Server: slow, Name: "slow-2", Changes: []change{{start, ready}}},
		},
	}
	o.count([]record{
		{Due: at(1000), Target: 0, Client: 0, Latency: 20_000, Pod: "slow-1"},
		{Due: at(1100), Target: 0, Client: 0, Latency: 100_000, Cause: causeRefused, Detail: "refused"},
		{Due: at(1200), Target: 0, Client: 1, Latency: 30_000, Pod: "slow-1"}, // another client isn't the end of an outage
		{Due: at(2100), Target: 0, Client: 0, Latency: 500_000, Cause: causeReset, Pod: "slow-1", Detail: "reset"},
		{Due: at(3100), Target: 0, Client: 0, Latency: 20_000, Pod: "slow-3"},
		{Due: at(1500), Target: 1, Client: 0, Latency: 21_000, Pod: "slow-2"},
	})
	return o
}

func TestAnOutageLastsFromTheFirstFailureToTheEndOfTheLast(t *testing.T) {
	o := example()
	want := &summary{
		Sent: 5, Failed: 2, Causes: map[string]int{causeRefused: 1, causeReset: 1}, Where: map[string]map[string]int{slow: {newConnection: 2}},
		Outage: 1500 * time.Millisecond, OutageOf: slow + ", " + newConnection, P99: 20 * time.Millisecond, Slowest: 30 * time.Millisecond,
	}
	if diff := cmp.Diff(want, o.Sides[without]); diff != "" {
		t.Error(diff)
	}
	if s := o.Sides[with]; s.Sent != 1 || s.Failed != 0 || s.Outage != 0 {
		t.Errorf("with evenkeel: %+v", s)
	}
}

func TestEveryFailureIsExplained(t *testing.T) {
	lines := strings.Join(example().explain(without), "\n")
	for _, part := range []string{causeRefused, causeReset, "its pod was terminating for 1 s and gone 0 s later", "pods became terminating"} {
		if !strings.Contains(lines, part) {
			t.Errorf("%q is missing in:\n%s", part, lines)
		}
	}
}

func TestTheVerdictNamesWhatFailedWithEvenkeelOnly(t *testing.T) {
	r := &report{Outcomes: []*outcome{example()}}
	if err := r.verdict(); err != nil {
		t.Errorf("failures without evenkeel: %v", err)
	}
	broken := example()
	broken.Targets[0].Side = with
	broken.count(broken.Records)
	r.Outcomes = append(r.Outcomes, broken)
	if r.verdict() == nil {
		t.Error("failures with evenkeel pass")
	}
	for _, o := range r.Outcomes {
		o.Scenario.ID = "6"
	}
	if err := r.verdict(); err != nil {
		t.Errorf("a lost node: %v", err)
	}
}

func TestOnlyWhatNoDefaultCanPreventIsAnException(t *testing.T) {
	for _, tt := range []struct{ server, client, cause, want string }{
		{atOnce, http1, causeReset, cut},
		{atOnce, grpcClient, causeClosed, cut},
		{atOnce, newConnection, causeReset, ""}, // the sleep is for those
		{atOnce, http2, causeRefused, ""},
		{drains, http1, causeReset, ""},
		{slow, http2, causeUndone, undone},
		{slow, http1, causeClosed, raced},
		{slow, newConnection, causeClosed, ""},
		{slow, grpcClient, causeClosed, ""},
		{slow, http1, causeTimeout, ""},
	} {
		if got := exceptional(tt.server, tt.client, tt.cause); got != tt.want {
			t.Errorf("%s, %s, %s is %q, want %q", tt.server, tt.client, tt.cause, got, tt.want)
		}
	}
}

func TestAnExceptionIsOneOnlyWhileTheServerShutsDown(t *testing.T) {
	start := time.Unix(1000, 0)
	life := func(side string) podLife {
		return podLife{Side: side, Server: slow, Name: "slow-1", Changes: []change{{start, ready}, {start.Add(time.Second), terminating}, {start.Add(11 * time.Second), gone}}}
	}
	o := &outcome{Targets: []target{{Side: without, Server: slow}, {Side: with, Server: slow}}, Clients: []string{http2}, Pods: []podLife{life(without), life(with)}}
	for _, tt := range []struct {
		name   string
		record record
		want   string
	}{
		{"a pod that doesn't terminate", record{Due: at(500), Pod: "slow-1"}, ""},
		{"a pod that terminates at once", record{Due: at(1500), Pod: "slow-1"}, undone},
		{"a pod that still sleeps", record{Due: at(5000), Target: 1, Pod: "slow-1"}, ""},
		{"a pod that has slept", record{Due: at(11_100), Target: 1, Pod: "slow-1"}, undone},
		{"an unknown pod", record{Due: at(11_100), Target: 1}, ""},
	} {
		tt.record.Cause = causeUndone
		if got := o.exception(tt.record); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestTheReportIsWellFormed(t *testing.T) {
	dir := t.TempDir()
	r := &report{Outcomes: []*outcome{example(), example()}, Steady: example(),
		Programmed: &programming{Deployments: 50, Delays: []time.Duration{time.Second, 2 * time.Second}, Every: time.Second, Left: 1}}
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"proof-1a.svg", "proof-endpoints.svg"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		decoder := xml.NewDecoder(strings.NewReader(string(content)))
		for {
			if _, err := decoder.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if strings.Contains(string(content), "NaN") || strings.Contains(string(content), "Inf") {
			t.Errorf("%s has a number that is none", name)
		}
	}
	if table := r.markdown(); !strings.Contains(table, "| 4 of 10 | **0** of 2 | 0 | 0 | 0 |") {
		t.Errorf("both runs aren't summed up:\n%s", table)
	}
}

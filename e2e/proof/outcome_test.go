package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
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
		tally: tally{Sent: 5, Failed: 2}, Causes: map[string]int{causeRefused: 1, causeReset: 1},
		Where:  map[string]map[string]tally{slow: {newConnection: {Sent: 4, Failed: 2}, http1: {Sent: 1}}},
		Outage: 1500 * time.Millisecond, OutageOf: slow + ", " + newConnection, P99: 20 * time.Millisecond, Slowest: 30 * time.Millisecond,
	}
	if diff := cmp.Diff(want, o.Sides[without], cmp.AllowUnexported(summary{})); diff != "" {
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

// shown is what a whole run gives where all is well.
func shown() *report {
	r := &report{Runs: 1, Installed: []installed{{"kubectl apply -k", 2 * time.Second}, {"helm install", 2 * time.Second}}}
	for _, id := range []string{"1a", "1d", "6", "7", "8", "9b", "9c"} {
		o := example()
		o.Scenario.ID = id
		r.Outcomes, r.Wanted = append(r.Outcomes, o), append(r.Wanted, id)
		switch id {
		case "1d":
			fail(o, 3)
			o.Sides[with].Cut = 3
		case "6":
			o.Lost = &loss{Node: "node3", Workloads: 8, Whole: map[string]int{without: 8}}
			fail(o, 9)
		case "7":
			o.Shares = map[string][]float64{without: {0, 0}, with: {22.9, 28.2}}
		case "8":
			o.Upgrade = &upgrade{}
		case "9b", "9c":
			o.Took[without] = never
		}
	}
	return r
}

// TestTheVerdictNamesWhatIsNotProved breaks each of the things that a run is to show.
func TestTheVerdictNamesWhatIsNotProved(t *testing.T) {
	if err := shown().verdict(); err != nil {
		t.Fatalf("where all is well: %v", err)
	}
	for name, tt := range map[string]struct {
		breaks func(r *report, of func(id string) *outcome)
		want   string
	}{
		"a failure with evenkeel":                   {func(_ *report, of func(string) *outcome) { fail(of("1a"), 1) }, "1 of 2 requests failed with evenkeel"},
		"no failure without":                        {func(r *report, _ func(string) *outcome) { heal(r) }, "no request failed without evenkeel"},
		"nothing cut without recycling":             {func(_ *report, of func(string) *outcome) { of("1d").Sides[with] = newSummary() }, "no connection was cut"},
		"all replicas lost with evenkeel":           {func(_ *report, of func(string) *outcome) { of("6").Lost.Whole[with] = 1 }, "1 of 8 workloads lost all replicas"},
		"no workload lost without":                  {func(_ *report, of func(string) *outcome) { of("6").Lost.Whole[without] = 0 }, "no workload lost all replicas without"},
		"a share more than 5 points below even":     {func(_ *report, of func(string) *outcome) { of("7").Shares[with][0] = 19.9 }, "19.9 %"},
		"a share more than 5 points above even":     {func(_ *report, of func(string) *outcome) { of("7").Shares[with][1] = 30.1 }, "30.1 %"},
		"no new pod":                                {func(_ *report, of func(string) *outcome) { of("7").Shares[with] = nil }, "no pod is new"},
		"a pod without defaults":                    {func(_ *report, of func(string) *outcome) { of("8").Upgrade.Undefaulted = 1 }, "1 pods got no defaults"},
		"an upgrade that upgrades nothing":          {func(_ *report, of func(string) *outcome) { of("8").Upgrade.Kept = 2 }, "2 pods of evenkeel were not replaced"},
		"a drain that never ends with evenkeel":     {func(_ *report, of func(string) *outcome) { of("9b").Took[with] = never }, "did not end with evenkeel"},
		"an update that never ends with evenkeel":   {func(_ *report, of func(string) *outcome) { of("9c").Took[with] = never }, "did not end with evenkeel"},
		"an installation that takes more than 15 s": {func(r *report, _ func(string) *outcome) { r.Installed[1].Took = 15100 * time.Millisecond }, "15.1 s after the beginning of helm install"},
		"a repetition that there was no time for":   {func(r *report, _ func(string) *outcome) { r.Runs = 2; r.Wanted = r.Wanted[:1] }, "1a is missing, run 2"},
		"a scenario that there was no time for":     {func(r *report, _ func(string) *outcome) { r.Wanted = append(r.Wanted, "5c") }, "5c is missing, run 1"},
	} {
		t.Run(name, func(t *testing.T) {
			r := shown()
			tt.breaks(r, func(id string) *outcome {
				return r.Outcomes[slices.IndexFunc(r.Outcomes, func(o *outcome) bool { return o.Scenario.ID == id })]
			})
			if err := r.verdict(); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), ";") {
				t.Errorf("verdict is %v, want only %q", err, tt.want)
			}
		})
	}
}

// fail lets requests fail with evenkeel.
func fail(o *outcome, n int) {
	o.Sides[with].count(slow, newConnection, tally{Sent: n, Failed: n})
}

// heal lets nothing fail without evenkeel.
func heal(r *report) {
	for _, o := range r.Outcomes {
		o.Sides[without] = newSummary()
	}
}

// failing is an outcome with a pod on the side with evenkeel that was told to go after 10 s, got SIGTERM after 20 s and was gone after 22 s.
func failing(stops string, recycles time.Duration) *outcome {
	start := time.Unix(1000, 0)
	return &outcome{
		Targets: []target{{Side: with, Server: "any-name", Stops: stops, Recycles: recycles}}, Clients: []string{newConnection, http1, http2, grpcClient},
		Pods: []podLife{{Side: with, Server: "any-name", Name: "pod-1", Told: start.Add(20 * time.Second),
			Changes: []change{{start, ready}, {start.Add(10 * time.Second), terminating}, {start.Add(22 * time.Second), gone}}}},
	}
}

// TestAFailureIsAnExceptionByEvidenceOnly has for each exception what is one, and beside it what lacks one piece of the evidence.
func TestAFailureIsAnExceptionByEvidenceOnly(t *testing.T) {
	const c1, h1, h2, rpc = 0, 1, 2, 3 // indexes of the clients
	for _, tt := range []struct {
		name           string
		stops          string
		recycles       time.Duration
		client         int
		cause          string
		opened, failed int64 // milliseconds
		pod            string
		want           string
	}{
		{"a connection that ends with its server", stopAtOnce, 0, h1, causeReset, 1000, 20_010, "pod-1", cut},
		{"the same over HTTP/2", stopAtOnce, 0, h2, causeClosed, 1000, 20_010, "pod-1", cut},
		{"the same over gRPC", stopAtOnce, 0, rpc, causeClosed, 1000, 20_010, "pod-1", cut},
		{"a request that gRPC repeats as its server ends", stopAtOnce, 0, rpc, causeUndone, 1000, 20_010, "pod-1", cut},
		{"opened while endpoints were leaving", stopAtOnce, 0, h2, causeClosed, 13_900, 20_010, "pod-1", cut},
		{"opened to a stale endpoint", stopAtOnce, 0, h2, causeClosed, 14_100, 20_010, "pod-1", ""},
		{"no answer yet on this connection", stopAtOnce, 0, h2, causeClosed, 1000, 20_010, "", ""},
		{"no connection", stopAtOnce, 0, h2, causeClosed, -1_000_000, 20_010, "pod-1", ""},
		{"a pod that nobody has seen", stopAtOnce, 0, h2, causeClosed, 1000, 20_010, "pod-2", ""},
		{"a new connection", stopAtOnce, 0, c1, causeReset, 1000, 20_010, "pod-1", ""}, // the sleep is for those
		{"a pod that still sleeps", stopAtOnce, 0, h1, causeReset, 1000, 19_800, "pod-1", ""},
		{"a pod that doesn't terminate", stopAtOnce, 0, h1, causeReset, 1000, 5000, "pod-1", ""},
		{"long after its end", stopAtOnce, 0, h1, causeReset, 1000, 22_100, "pod-1", ""},
		{"another cause", stopAtOnce, 0, h1, causeTimeout, 1000, 20_010, "pod-1", ""},
		{"a server that should have recycled it", stopAtOnce, 4 * time.Second, h1, causeReset, 1000, 20_010, "pod-1", ""},
		{"a server that drains", stopDrain, 0, h1, causeReset, 1000, 20_010, "pod-1", ""},

		{"a connection that Shutdown finds idle", stopShutdown, 0, h1, causeClosed, 1000, 20_010, "pod-1", raced},
		{"the same over HTTP/2, which has GOAWAY for it", stopShutdown, 0, h2, causeClosed, 1000, 20_010, "pod-1", ""},
		{"the same before SIGTERM", stopShutdown, 0, h1, causeClosed, 1000, 19_800, "pod-1", ""},
		{"the same to a stale endpoint", stopShutdown, 0, h1, causeClosed, 14_100, 20_010, "pod-1", ""},

		{"a GOAWAY of a server that shuts down", stopShutdown, 0, h2, causeUndone, 1000, 20_010, "pod-1", undone},
		{"a GOAWAY of a server that drains", stopDrain, 0, rpc, causeUndone, 1000, 21_000, "pod-1", undone},
		{"a GOAWAY for no reason", stopDrain, 0, h2, causeUndone, 1000, 5000, "pod-1", ""},
		{"a GOAWAY at the age", stopDrain, 4 * time.Second, h2, causeUndone, 1000, 4300, "pod-1", undone},
		{"a GOAWAY long before the age", stopDrain, 4 * time.Second, h2, causeUndone, 1000, 4100, "pod-1", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := record{Due: at(tt.failed - 5), Latency: 5000, Client: tt.client, Cause: tt.cause, Pod: tt.pod}
			if tt.opened > -1_000_000 {
				r.Opened = at(tt.opened)
			}
			if got := failing(tt.stops, tt.recycles).exception(r); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
	r := record{Due: at(20_000), Latency: 5000, Opened: at(1000), Client: h1, Cause: causeReset, Pod: "pod-1"}
	o := failing(stopAtOnce, 0)
	o.Pods[0].Told = time.Time{}
	if got := o.exception(r); got != "" {
		t.Errorf("where nobody knows when SIGTERM came: %q", got)
	}
}

func TestAFailureIsListedWithItsEvidence(t *testing.T) {
	o := failing(stopAtOnce, 0)
	o.Started, o.Pods[0].Node = time.Unix(1000, 0), "node2"
	got := o.cells(record{Due: at(20_000), Latency: 100_000, Opened: at(1100), Client: 1, Cause: causeReset, Pod: "pod-1", Detail: "reset"})
	want := []string{"20.1 s", "any-name", http1, causeReset, cut, "19.0 s", "pod-1", "node2", "10.1 s", "0.1 s", "its pod was terminating for 10 s and gone 2 s later (reset)"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got = o.cells(record{Due: at(20_000), Latency: 100_000, Client: 0, Cause: causeRefused, Detail: "refused"})
	want = []string{"20.1 s", "any-name", newConnection, causeRefused, "none", "no connection", "none answered", "–", "–", "–", "pods became gone (refused)"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFailuresFromTheLossOfANodeAreItsOwn(t *testing.T) {
	o := failing(stopDrain, 0)
	o.Pods[0].Node = "node3"
	o.Lost = &loss{Node: "node3", At: time.Unix(1005, 0), Restored: time.Unix(1070, 0)}
	for _, tt := range []struct {
		failed int64
		node   string
		want   string
	}{
		{4000, "node3", "no pod changed within 3 s"},
		{6000, "node3", "it has a pod on the lost node"},
		{6000, "node2", "no pod changed within 3 s"},
		{71_000, "node3", "it has a pod on the lost node, which was back"},
	} {
		o.Pods[0].Node = tt.node
		if got := o.doing(record{Due: at(tt.failed), Cause: causeConnect}); got != tt.want {
			t.Errorf("after %d ms on %s: %q, want %q", tt.failed, tt.node, got, tt.want)
		}
	}
}

func TestADrainTakesUntilTheLastPodOfASideIsGone(t *testing.T) {
	start := time.Unix(1000, 0)
	life := func(side, node string, after time.Duration) podLife {
		return podLife{Side: side, Node: node, Changes: []change{{start.Add(-time.Minute), ready}, {start, terminating}, {start.Add(after), gone}}}
	}
	lives := []podLife{life(without, "node1", time.Second), life(without, "node1", 3*time.Second), life(with, "node1", 12*time.Second),
		life(with, "node2", 30*time.Second), life(with, "node1", 90*time.Second), life(with, "node1", -time.Second)}
	want := map[string]time.Duration{without: 3 * time.Second, with: 12 * time.Second}
	if diff := cmp.Diff(want, left(lives, start, start.Add(time.Minute), "node1")); diff != "" {
		t.Error(diff)
	}
}

func TestOnlyTheLinesAboutADefaultAndTheFindingsAreQuoted(t *testing.T) {
	text := "Deployment/a: evenkeel leaves out anti-affinity\n\nDefaults:\n  anti-affinity    -  skipped  user-set: It says so.\n  disruption-budget  -  present  a budget\n" +
		"\nSettings:\n  anti-affinity  preferred  built in\n\nFindings:\n  drain-blocked  No drain can finish.\n\nWhat to do next:\n  - Nothing.\n"
	want := "anti-affinity - skipped user-set: It says so.; drain-blocked No drain can finish."
	if got := explained(text, "anti-affinity"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestTimesThatAreNoneAreSaid(t *testing.T) {
	for _, tt := range []struct {
		outage time.Duration
		want   string
	}{{0, "none"}, {20 * time.Millisecond, "<0.1 s"}, {100 * time.Millisecond, "0.1 s"}} {
		if got := outage(&summary{Outage: tt.outage}); got != tt.want {
			t.Errorf("an outage of %v is %q, want %q", tt.outage, got, tt.want)
		}
	}
	for _, tt := range []struct {
		took []time.Duration
		want string
	}{
		{[]time.Duration{time.Second, 2 * time.Second}, "2.0 s"},
		{[]time.Duration{0, 0}, "–"},
		{[]time.Duration{25 * time.Second, never}, "never ends in 1 of 2 runs"},
		{[]time.Duration{never, never}, "never ends"},
	} {
		r := &report{}
		for _, took := range tt.took {
			o := example()
			o.Took[with] = took
			r.Outcomes = append(r.Outcomes, o)
		}
		if got := r.rows()[0].tookAtMost(with); got != tt.want {
			t.Errorf("%v is %q, want %q", tt.took, got, tt.want)
		}
	}
}

// TestANumberIsGreenWhereNothingFailed has the plots and the table agree.
func TestANumberIsGreenWhereNothingFailed(t *testing.T) {
	for want, s := range map[string]*summary{
		goodColour: {}, namedColour: {tally: tally{Failed: 2}, Cut: 1, Undone: 1}, failColour: {tally: tally{Failed: 2}, Cut: 1},
	} {
		if got := s.colour(); got != want {
			t.Errorf("%+v is %s, want %s", s, got, want)
		}
	}
}

func TestTheReportIsWellFormed(t *testing.T) {
	dir := t.TempDir()
	broken := example()
	broken.Targets[0].Side = with
	broken.count(broken.Records)
	r := &report{Outcomes: []*outcome{example(), example(), broken}, Steady: example(), Voided: []*outcome{example()},
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
	if table := r.markdown(); !strings.Contains(table, "| 4 of 10 | **2** of 8 | 0 | 0 | 0 |") || !strings.Contains(table, "1 of the runs") {
		t.Errorf("the runs aren't summed up:\n%s", table)
	}
	page, err := os.ReadFile(filepath.Join(dir, "report.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"| 2 of 7 |", "2 × slow, new connection: " + causeRefused, "(refused)", "(reset)"} {
		if !strings.Contains(string(page), part) {
			t.Errorf("%q is missing in the page", part)
		}
	}
}

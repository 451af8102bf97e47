package report

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

	"github.com/evenkeel/evenkeel/e2e/proof/load"
)

// at is a time in milliseconds of the example.
func at(ms int64) int64 { return time.Unix(1000, 0).UnixMicro() + ms*1000 }

func example() *Outcome {
	start := time.Unix(1000, 0)
	o := &Outcome{
		Scenario: Scenario{ID: "1a", Title: "Rolling <update>"}, Repetition: 1,
		Began: start, Started: start.Add(time.Second), Ended: start.Add(3 * time.Second), Stopped: start.Add(5 * time.Second),
		Targets: []load.Target{{Side: Without, Server: Slow}, {Side: With, Server: Slow}},
		Clients: []string{load.NewConnection, load.HTTP1},
		Took:    map[string]time.Duration{Without: time.Second, With: 2 * time.Second},
		Pods: []PodLife{
			{Side: Without, Server: Slow, Name: "slow-1", Changes: []Change{{start, Ready},
				{start.Add(2 * time.Second), Terminating}, {start.Add(3 * time.Second), Gone}}},
			{Side: With, Server: Slow, Name: "slow-2", Changes: []Change{{start, Ready}}},
		},
	}
	o.Count([]load.Record{
		{Due: at(1000), Target: 0, Client: 0, Latency: 20_000, Pod: "slow-1"},
		{Due: at(1100), Target: 0, Client: 0, Latency: 100_000, Cause: load.CauseRefused, Detail: "refused"},
		{Due: at(1200), Target: 0, Client: 1, Latency: 30_000, Pod: "slow-1"}, // another client isn't the end of an outage
		{Due: at(2100), Target: 0, Client: 0, Latency: 500_000, Cause: load.CauseReset, Pod: "slow-1", Detail: "reset"},
		{Due: at(3100), Target: 0, Client: 0, Latency: 20_000, Pod: "slow-3"},
		{Due: at(1500), Target: 1, Client: 0, Latency: 21_000, Pod: "slow-2"},
	})
	return o
}

func TestAnOutageLastsFromTheFirstFailureToTheEndOfTheLast(t *testing.T) {
	o := example()
	want := &Summary{
		Counts: Counts{Tally: Tally{Sent: 5, Failed: 2}}, Causes: map[string]int{load.CauseRefused: 1, load.CauseReset: 1},
		Where:  map[string]map[string]Tally{Slow: {load.NewConnection: {Sent: 4, Failed: 2}, load.HTTP1: {Sent: 1}}},
		Outage: 1500 * time.Millisecond, OutageOf: Slow + ", " + load.NewConnection, P99: 20 * time.Millisecond,
		Slowest: 30 * time.Millisecond,
	}
	if diff := cmp.Diff(want, o.Sides[Without], cmp.AllowUnexported(Summary{})); diff != "" {
		t.Error(diff)
	}
	if s := o.Sides[With]; s.Sent != 1 || s.Failed != 0 || s.Outage != 0 {
		t.Errorf("with evenkeel: %+v", s)
	}
}

func TestEveryFailureIsExplained(t *testing.T) {
	lines := strings.Join(example().Explain(Without), "\n")
	for _, part := range []string{load.CauseRefused, load.CauseReset, "its pod was terminating for 1 s and gone 0 s later",
		"pods became terminating"} {
		if !strings.Contains(lines, part) {
			t.Errorf("%q is missing in:\n%s", part, lines)
		}
	}
}

// shown is what a whole run gives where all is well.
func shown() *Report {
	r := &Report{Runs: 1, Installed: []Installed{{"kubectl apply -k", 2 * time.Second}, {"helm install", 2 * time.Second}}}
	for _, id := range []string{"1a", "1d", "6", "7", "8", "9b", "9c"} {
		o := example()
		o.Scenario.ID = id
		r.Outcomes, r.Wanted = append(r.Outcomes, o), append(r.Wanted, id)
		switch id {
		case "1d":
			fail(o, 3)
			o.Sides[With].Cut = 3
		case "6":
			o.Lost = &Loss{Node: "node3", Workloads: 8, Whole: map[string]int{Without: 8}}
			fail(o, 9)
		case "7":
			o.Shares = map[string][]float64{Without: {0, 0}, With: {22.9, 28.2}}
		case "8":
			o.Upgrade = &Upgrade{}
		case "9b", "9c":
			o.Took[Without] = Never
		}
	}
	return r
}

// TestTheVerdictNamesWhatIsNotProved breaks each of the things that a run is to show.
func TestTheVerdictNamesWhatIsNotProved(t *testing.T) {
	if err := shown().Verdict(); err != nil {
		t.Fatalf("where all is well: %v", err)
	}
	for name, tt := range map[string]struct {
		breaks func(r *Report, of func(id string) *Outcome)
		want   string
	}{
		"a failure with evenkeel": {func(_ *Report, of func(string) *Outcome) { fail(of("1a"), 1) },
			"1 of 2 requests failed with evenkeel"},
		"no failure without": {func(r *Report, _ func(string) *Outcome) { heal(r) },
			"no request failed without evenkeel"},
		"nothing cut without recycling": {
			func(_ *Report, of func(string) *Outcome) { of("1d").Sides[With] = newSummary() }, "no connection was cut"},
		"all replicas lost with evenkeel": {func(_ *Report, of func(string) *Outcome) { of("6").Lost.Whole[With] = 1 },
			"1 of 8 workloads lost all replicas"},
		"no workload lost without": {func(_ *Report, of func(string) *Outcome) {
			of("6").Lost.Whole[Without] = 0
		}, "no workload lost all replicas without"},
		"a share more than 5 points below even": {
			func(_ *Report, of func(string) *Outcome) { of("7").Shares[With][0] = 19.9 }, "19.9 %"},
		"a share more than 5 points above even": {
			func(_ *Report, of func(string) *Outcome) { of("7").Shares[With][1] = 30.1 }, "30.1 %"},
		"no new pod": {func(_ *Report, of func(string) *Outcome) { of("7").Shares[With] = nil }, "no pod is new"},
		"a pod without defaults": {
			func(_ *Report, of func(string) *Outcome) { of("8").Upgrade.Undefaulted = 1 }, "1 pods got no defaults"},
		"an upgrade that upgrades nothing": {func(_ *Report, of func(string) *Outcome) { of("8").Upgrade.Kept = 2 },
			"2 pods of evenkeel were not replaced"},
		"a drain that never ends with evenkeel": {
			func(_ *Report, of func(string) *Outcome) { of("9b").Took[With] = Never }, "did not end with evenkeel"},
		"an update that never ends with evenkeel": {
			func(_ *Report, of func(string) *Outcome) { of("9c").Took[With] = Never }, "did not end with evenkeel"},
		"an installation that takes more than 15 s": {func(r *Report, _ func(string) *Outcome) {
			r.Installed[1].Took = 15100 * time.Millisecond
		}, "15.1 s after the beginning of helm install"},
		"a repetition that there was no time for": {
			func(r *Report, _ func(string) *Outcome) { r.Runs = 2; r.Wanted = r.Wanted[:1] }, "1a is missing, run 2"},
		"a scenario that there was no time for": {
			func(r *Report, _ func(string) *Outcome) { r.Wanted = append(r.Wanted, "5c") }, "5c is missing, run 1"},
	} {
		t.Run(name, func(t *testing.T) {
			r := shown()
			tt.breaks(r, func(id string) *Outcome {
				return r.Outcomes[slices.IndexFunc(r.Outcomes, func(o *Outcome) bool { return o.Scenario.ID == id })]
			})
			if err := r.Verdict(); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), ";") {
				t.Errorf("verdict is %v, want only %q", err, tt.want)
			}
		})
	}
}

// fail lets requests fail with evenkeel.
func fail(o *Outcome, n int) {
	o.Sides[With].count(Slow, load.NewConnection, Tally{Sent: n, Failed: n})
}

// heal lets nothing fail without evenkeel.
func heal(r *Report) {
	for _, o := range r.Outcomes {
		o.Sides[Without] = newSummary()
	}
}

// failing is an outcome with a pod on the side with evenkeel that was told to go after 10 s, got
// SIGTERM after 20 s and was gone after 22 s.
func failing(stops string, recycles time.Duration) *Outcome {
	start := time.Unix(1000, 0)
	return &Outcome{
		Targets: []load.Target{{Side: With, Server: "any-name", Stops: stops, Recycles: recycles}},
		Clients: []string{load.NewConnection, load.HTTP1, load.HTTP2, load.GRPC},
		Pods: []PodLife{{Side: With, Server: "any-name", Name: "pod-1", Told: start.Add(20 * time.Second),
			Changes: []Change{{start, Ready}, {start.Add(10 * time.Second), Terminating}, {start.Add(22 * time.Second), Gone}}}},
	}
}

// TestAFailureIsAnExceptionByEvidenceOnly has for each exception what is one, and beside it what
// lacks one piece of the evidence.
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
		{"a connection that ends with its server", load.StopAtOnce, 0, h1, load.CauseReset, 1000, 20_010, "pod-1", cut},
		{"the same over HTTP/2", load.StopAtOnce, 0, h2, load.CauseClosed, 1000, 20_010, "pod-1", cut},
		{"the same over gRPC", load.StopAtOnce, 0, rpc, load.CauseClosed, 1000, 20_010, "pod-1", cut},
		{"a request that gRPC repeats as its server ends", load.StopAtOnce, 0, rpc, load.CauseUndone, 1000, 20_010,
			"pod-1", cut},
		{"opened while endpoints were leaving", load.StopAtOnce, 0, h2, load.CauseClosed, 13_900, 20_010, "pod-1", cut},
		{"opened to a stale endpoint", load.StopAtOnce, 0, h2, load.CauseClosed, 14_100, 20_010, "pod-1", ""},
		{"no answer yet on this connection", load.StopAtOnce, 0, h2, load.CauseClosed, 1000, 20_010, "", ""},
		{"no connection", load.StopAtOnce, 0, h2, load.CauseClosed, -1_000_000, 20_010, "pod-1", ""},
		{"a pod that nobody has seen", load.StopAtOnce, 0, h2, load.CauseClosed, 1000, 20_010, "pod-2", ""},
		{"a new connection", load.StopAtOnce, 0, c1, load.CauseReset, 1000, 20_010, "pod-1", ""}, // the sleep is for those
		{"a pod that still sleeps", load.StopAtOnce, 0, h1, load.CauseReset, 1000, 19_800, "pod-1", ""},
		{"a pod that doesn't terminate", load.StopAtOnce, 0, h1, load.CauseReset, 1000, 5000, "pod-1", ""},
		{"long after its end", load.StopAtOnce, 0, h1, load.CauseReset, 1000, 22_100, "pod-1", ""},
		{"another cause", load.StopAtOnce, 0, h1, load.CauseTimeout, 1000, 20_010, "pod-1", ""},
		{"a server that should have recycled it", load.StopAtOnce, 4 * time.Second, h1, load.CauseReset, 1000, 20_010,
			"pod-1", ""},
		{"a server that drains", load.StopDrain, 0, h1, load.CauseReset, 1000, 20_010, "pod-1", ""},

		{"a connection that Shutdown finds idle", load.StopShutdown, 0, h1, load.CauseClosed, 1000, 20_010, "pod-1", raced},
		{"the same over HTTP/2, which has GOAWAY for it", load.StopShutdown, 0, h2, load.CauseClosed, 1000, 20_010,
			"pod-1", ""},
		{"the same before SIGTERM", load.StopShutdown, 0, h1, load.CauseClosed, 1000, 19_800, "pod-1", ""},
		{"the same to a stale endpoint", load.StopShutdown, 0, h1, load.CauseClosed, 14_100, 20_010, "pod-1", ""},

		{"a GOAWAY of a server that shuts down", load.StopShutdown, 0, h2, load.CauseUndone, 1000, 20_010, "pod-1", undone},
		{"a GOAWAY of a server that drains", load.StopDrain, 0, rpc, load.CauseUndone, 1000, 21_000, "pod-1", undone},
		{"a GOAWAY for no reason", load.StopDrain, 0, h2, load.CauseUndone, 1000, 5000, "pod-1", ""},
		{"a GOAWAY at the age", load.StopDrain, 4 * time.Second, h2, load.CauseUndone, 1000, 4300, "pod-1", undone},
		{"a GOAWAY long before the age", load.StopDrain, 4 * time.Second, h2, load.CauseUndone, 1000, 4100, "pod-1", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := load.Record{Due: at(tt.failed - 5), Latency: 5000, Client: tt.client, Cause: tt.cause, Pod: tt.pod}
			if tt.opened > -1_000_000 {
				r.Opened = at(tt.opened)
			}
			if got := failing(tt.stops, tt.recycles).exception(r); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
	r := load.Record{Due: at(20_000), Latency: 5000, Opened: at(1000), Client: h1, Cause: load.CauseReset, Pod: "pod-1"}
	o := failing(load.StopAtOnce, 0)
	o.Pods[0].Told = time.Time{}
	if got := o.exception(r); got != "" {
		t.Errorf("where nobody knows when SIGTERM came: %q", got)
	}
}

func TestAFailureIsListedWithItsEvidence(t *testing.T) {
	o := failing(load.StopAtOnce, 0)
	o.Started, o.Pods[0].Node = time.Unix(1000, 0), "node2"
	got := o.cells(load.Record{Due: at(20_000), Latency: 100_000, Opened: at(1100), Client: 1, Cause: load.CauseReset,
		Pod: "pod-1", Detail: "reset"})
	want := []string{"20.1 s", "any-name", load.HTTP1, load.CauseReset, cut, "19.0 s", "pod-1", "node2", "10.1 s", "0.1 s",
		"its pod was terminating for 10 s and gone 2 s later (reset)"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got = o.cells(load.Record{Due: at(20_000), Latency: 100_000, Client: 0, Cause: load.CauseRefused, Detail: "refused"})
	want = []string{"20.1 s", "any-name", load.NewConnection, load.CauseRefused, "none", "no connection", "none answered",
		"–", "–", "–", "pods became gone (refused)"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFailuresFromTheLossOfANodeAreItsOwn(t *testing.T) {
	o := failing(load.StopDrain, 0)
	o.Pods[0].Node = "node3"
	o.Lost = &Loss{Node: "node3", At: time.Unix(1005, 0), Restored: time.Unix(1070, 0)}
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
		if got := o.doing(load.Record{Due: at(tt.failed), Cause: load.CauseConnect}); got != tt.want {
			t.Errorf("after %d ms on %s: %q, want %q", tt.failed, tt.node, got, tt.want)
		}
	}
}

func TestADrainTakesUntilTheLastPodOfASideIsGone(t *testing.T) {
	start := time.Unix(1000, 0)
	life := func(side, node string, after time.Duration) PodLife {
		return PodLife{Side: side, Node: node, Changes: []Change{{start.Add(-time.Minute), Ready}, {start, Terminating},
			{start.Add(after), Gone}}}
	}
	lives := []PodLife{life(Without, "node1", time.Second), life(Without, "node1", 3*time.Second),
		life(With, "node1", 12*time.Second),
		life(With, "node2", 30*time.Second), life(With, "node1", 90*time.Second), life(With, "node1", -time.Second)}
	want := map[string]time.Duration{Without: 3 * time.Second, With: 12 * time.Second}
	if diff := cmp.Diff(want, Left(lives, start, start.Add(time.Minute), "node1")); diff != "" {
		t.Error(diff)
	}
}

func TestOnlyTheLinesAboutADefaultAndTheFindingsAreQuoted(t *testing.T) {
	text := "Deployment/a: evenkeel leaves out anti-affinity\n\nDefaults:\n  anti-affinity    -  skipped  user-set: It " +
		"says so.\n  disruption-budget  -  present  a budget\n" +
		"\nSettings:\n  anti-affinity  preferred  built in\n\nFindings:\n  drain-blocked  No drain can finish.\n\nWhat to " +
		"do next:\n  - Nothing.\n"
	want := "anti-affinity - skipped user-set: It says so.; drain-blocked No drain can finish."
	if got := Explained(text, "anti-affinity"); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestTimesThatAreNoneAreSaid(t *testing.T) {
	for _, tt := range []struct {
		outage time.Duration
		want   string
	}{{0, "none"}, {20 * time.Millisecond, "<0.1 s"}, {100 * time.Millisecond, "0.1 s"}} {
		if got := outage(&Summary{Outage: tt.outage}); got != tt.want {
			t.Errorf("an outage of %v is %q, want %q", tt.outage, got, tt.want)
		}
	}
	for _, tt := range []struct {
		took []time.Duration
		want string
	}{
		{[]time.Duration{time.Second, 2 * time.Second}, "2.0 s"},
		{[]time.Duration{0, 0}, "–"},
		{[]time.Duration{25 * time.Second, Never}, "never ends in 1 of 2 runs"},
		{[]time.Duration{Never, Never}, "never ends"},
	} {
		r := &Report{}
		for _, took := range tt.took {
			o := example()
			o.Took[With] = took
			r.Outcomes = append(r.Outcomes, o)
		}
		if got := r.rows()[0].tookAtMost(With); got != tt.want {
			t.Errorf("%v is %q, want %q", tt.took, got, tt.want)
		}
	}
}

// TestANumberIsGreenWhereNothingFailed has the plots and the table agree.
func TestANumberIsGreenWhereNothingFailed(t *testing.T) {
	for want, s := range map[string]*Summary{
		goodColour: {}, namedColour: {Counts: Counts{Tally: Tally{Failed: 2}, Cut: 1, Undone: 1}},
		failColour: {Counts: Counts{Tally: Tally{Failed: 2}, Cut: 1}},
	} {
		if got := s.colour(); got != want {
			t.Errorf("%+v is %s, want %s", s, got, want)
		}
	}
}

func TestTheReportIsWellFormed(t *testing.T) {
	dir := t.TempDir()
	broken := example()
	broken.Targets[0].Side = With
	broken.Count(broken.Records)
	r := &Report{Outcomes: []*Outcome{example(), example(), broken}, Steady: example(), Voided: []*Outcome{example()},
		Programmed: []*Programming{{Name: "endpoints", What: "50 Deployments rolling at once", Mode: "nftables",
			Delays: []time.Duration{time.Second, 2 * time.Second}, Every: time.Second, Left: 1}}}
	if err := r.Write(dir); err != nil {
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
		if name == "proof-1a.svg" && strings.Count(string(content), `fill="url(#failed)"`) < 2 {
			t.Errorf("%s doesn't hatch failures", name)
		}
	}
	if table := r.Markdown(); !strings.Contains(table, "| 4 of 10 | **2** of 8 | 0 | 0 | 0 |") ||
		!strings.Contains(table, "1 of the runs") {
		t.Errorf("the runs aren't summed up:\n%s", table)
	}
	page, err := os.ReadFile(filepath.Join(dir, "report.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"| 2 of 7 |", "2 × slow, new connection: " + load.CauseRefused, "(refused)", "(reset)",
		"50 Deployments rolling at once, 3 pods went: half of their addresses had left the nftables rules"} {
		if !strings.Contains(string(page), part) {
			t.Errorf("%q is missing in the page", part)
		}
	}
}

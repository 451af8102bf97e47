package report

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/evenkeel/evenkeel/e2e/proof/load"
)

var update = flag.Bool("update", false, "write the sum of docs/proof/runs into docs/proof/README.md")

func TestEveryDisputeBetweenTheCountsIsSeen(t *testing.T) {
	o := example()
	o.Count([]load.Record{
		{ID: "received", Due: at(1), Target: 1, Pod: "slow-2"},
		{ID: "cut", Due: at(2), Target: 1, Cause: load.CauseReset},
		{ID: "refused", Due: at(3), Target: 1, Cause: load.CauseRefused},
		{ID: "never-sent", Due: at(4), Target: 1, Pod: "slow-2"},
		{ID: "of-another-pod", Due: at(5), Target: 1, Pod: "slow-2"},
		{ID: "twice", Due: at(6), Target: 1, Pod: "slow-2"},
		{ID: "twice-and-failed", Due: at(7), Target: 1, Cause: load.CauseReset},
	})
	dir := t.TempDir()
	for pod, ids := range map[string]string{"slow-2": "received\ncut\ntwice\ntwice\ntwice-and-failed\n",
		"slow-1": "of-another-pod\ntwice-and-failed\n"} {
		if err := os.WriteFile(filepath.Join(dir, pod), []byte(ids), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	answers, err := ReadAnswers(dir)
	if err != nil {
		t.Fatal(err)
	}
	o.CountAgain(answers)
	if s := o.Sides[With]; s.Answered != 5 || s.Unreceived != 1 || s.Disputed != 4 {
		t.Errorf("%d answered, %d of them not received, %d disputed; want 5, 1, 4", s.Answered, s.Unreceived, s.Disputed)
	}
	all := strings.Join(o.Disputed, "\n")
	for _, id := range []string{"never-sent", "of-another-pod", "twice", "twice-and-failed"} {
		if !strings.Contains(all, "request "+id+":") {
			t.Errorf("%s is missing in:\n%s", id, all)
		}
	}
	verdict := (&Report{Outcomes: []*Outcome{o}}).Verdict()
	if verdict == nil || !strings.Contains(verdict.Error(), "never-sent") {
		t.Errorf("the verdict is %v", verdict)
	}
}

// TestTheSumOfTheRunsIsInTheDocuments compares the table with docs/proof/runs, and writes it with -update.
func TestTheSumOfTheRunsIsInTheDocuments(t *testing.T) {
	docs := filepath.Join("..", "..", "..", "docs", "proof")
	runs, err := ReadRuns(filepath.Join(docs, "runs"))
	if err != nil || len(runs) == 0 {
		t.Fatalf("%d runs: %v", len(runs), err)
	}
	file := filepath.Join(docs, "README.md")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), "<!-- sum -->\n")
	table, after, closed := strings.Cut(rest, "<!-- /sum -->")
	if !found || !closed {
		t.Fatal("there is no place for the sum")
	}
	if want := Sum(runs); table != want && *update {
		if err := os.WriteFile(file, []byte(before+"<!-- sum -->\n"+want+"<!-- /sum -->"+after), 0o600); err != nil {
			t.Fatal(err)
		}
	} else if table != want {
		t.Errorf("the sum in %s is\n%s\nbut the runs give\n%s\ngo test ./proof/report -update writes it", file, table, want)
	}
}

func TestARunIsReadAsItWasWritten(t *testing.T) {
	r := shown()
	r.Proxy = "nftables"
	dir := t.TempDir()
	for range 2 { // after each scenario, into the same file
		if err := r.writeRun(dir); err != nil {
			t.Fatal(err)
		}
	}
	runs, err := ReadRuns(dir)
	if err != nil || len(runs) != 1 || len(runs[0].Outcomes) != len(r.Outcomes) {
		t.Fatalf("%d runs: %v", len(runs), err)
	}
	sum := Sum(append(runs, runs...))
	var sent, failed int
	for _, o := range r.Outcomes {
		if promised(o.Scenario.ID) && o.Scenario.ID != "1d" {
			sent += 2 * o.Sides[Without].Sent
			failed += 2 * o.Sides[Without].Failed
		}
	}
	if want := number(failed) + " of " + number(sent); sent == 0 || !strings.Contains(sum, want) {
		t.Errorf("the sum isn't %s:\n%s", want, sum)
	}
}

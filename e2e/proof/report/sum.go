package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A Run is what there is to add up of a report, in a file of its own.
type Run struct {
	Date     time.Time `json:"date"`
	Versions string    `json:"versions"`
	Proxy    string    `json:"proxyMode"`
	Families string    `json:"ipFamilies"`
	Command  string    `json:"command"`
	Seconds  int       `json:"seconds"`
	Outcomes []Counted `json:"outcomes"`
}

// Counted is one repetition of a scenario, with what clients saw of each side.
type Counted struct {
	ID         string            `json:"id"`
	Title      string            `json:"title"`
	Repetition int               `json:"repetition"`
	Sides      map[string]Counts `json:"sides"`
	// Failures lists each failure with evenkeel by server, client, cause, and what its pod did.
	Failures []string `json:"failures,omitempty"`
}

// writeRun writes the run into a directory, under the time at which it began.
func (r *Report) writeRun(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	run := Run{Date: r.Date.UTC().Truncate(time.Second), Versions: r.Versions, Proxy: r.Proxy, Families: r.Families,
		Command: r.Command, Seconds: int(r.Took.Seconds())}
	for _, o := range r.Outcomes {
		c := Counted{ID: o.Scenario.ID, Title: o.Scenario.Title, Repetition: o.Repetition, Sides: map[string]Counts{},
			Failures: o.Explain(With)}
		for _, side := range Sides() {
			c.Sides[side] = o.Sides[side].Counts
		}
		run.Outcomes = append(run.Outcomes, c)
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(run); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, run.Date.Format("2006-01-02T150405Z")+".json"), text.Bytes(), 0o644)
}

// ReadRuns reads the runs of a directory, the oldest first.
func ReadRuns(dir string) ([]Run, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	runs := make([]Run, len(files))
	for i, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(text, &runs[i]); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
	}
	return runs, nil
}

// Sum adds up the scenarios in which no request may fail, as a table by the mode of kube-proxy and the IP families.
func Sum(runs []Run) string {
	type sum struct {
		without, with Counts
		dates         []string
	}
	var modes []string
	sums := map[string]*sum{}
	for _, run := range runs {
		mode := run.Proxy + ", " + run.Families
		s := sums[mode]
		if s == nil {
			s = &sum{}
			sums[mode] = s
			modes = append(modes, mode)
		}
		if date := run.Date.Format(time.DateOnly); !slices.Contains(s.dates, date) {
			s.dates = append(s.dates, date)
		}
		for _, o := range run.Outcomes {
			if promised(o.ID) && o.ID != "1d" { // which has its own servers
				s.without.add(o.Sides[Without])
				s.with.add(o.Sides[With])
			}
		}
	}
	var b strings.Builder
	head(&b, "kube-proxy", "dates", "failed without", "failed with", "of these cut", "raced", "GOAWAY",
		"answered with, by the servers' logs", "received", "disputed")
	for _, mode := range modes {
		a, z := sums[mode].without, sums[mode].with
		line(&b, mode, strings.Join(sums[mode].dates, ", "), number(a.Failed)+" of "+number(a.Sent),
			"**"+number(z.Failed)+"** of "+number(z.Sent), number(z.Cut), number(z.Raced), number(z.Undone),
			number(z.Answered), number(z.Sent-z.Failed), number(z.Disputed))
	}
	return b.String()
}

package audit

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/evenkeel/evenkeel/internal/words"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
)

// figure is a number of the summary. Class is good, warn, bad or "".
type figure struct {
	Number int
	Text   string
	Class  string
}

// tag is a word with a color and an explanation.
type tag struct{ Text, Title, Class string }

// pageRow is a workload in the page.
type pageRow struct {
	Name, Source, Ready string
	States, Findings    []tag
	Problems            []string
}

// coverage is how many workloads have a default.
type coverage struct {
	Text                      string
	Present, Missing, Skipped int
	// Percent of those that have it or would get it.
	Percent int
}

// blocked is a finding over budgets in manifests.
type blocked struct {
	Code             Code
	Object, Workload string
}

// page is what markup.go shows.
type page struct {
	*Report
	Headline, Time, Scope string
	Offline               bool
	Figures               []figure
	BlockedOffline        []blocked
	Singles               []string
	Coverage              []coverage
	Rows                  []pageRow
	Legend                []tag
}

// Page returns the report as one HTML page that needs nothing else: for people who
// decide, with the summary first. The time is left out where it is zero.
func Page(r *Report, now time.Time) ([]byte, error) {
	p := page{Report: r, Offline: r.Source == SourceManifests, Headline: headline(r)}
	if !now.IsZero() {
		p.Time = now.UTC().Format("2 January 2006, 15:04 UTC")
	}
	p.Scope = words.Count(r.Summary.Workloads, "workload") + "."
	if r.Summary.Nodes > 0 {
		p.Scope = fmt.Sprintf("%s on %s in %s.", words.Count(r.Summary.Workloads, "workload"),
			words.Count(r.Summary.Nodes, "node"), words.Count(r.Summary.Zones, "zone"))
	}
	add := func(text string, class string, codes ...Code) {
		f := figure{Number: r.Count(codes...), Text: text, Class: class}
		if f.Number == 0 {
			f.Class = "good"
		}
		p.Figures = append(p.Figures, f)
	}
	if !p.Offline {
		add("down now", "bad", NoneReady)
		add("go down with one node", "bad", OneNode)
		add("go down with one zone", "bad", OneZone)
	}
	add("block drains for ever", "bad", DrainBlocked, BudgetsOverlap)
	add("have a single replica", "warn", SingleReplica, BarePod)
	lacking := figure{Number: r.Summary.Workloads - r.Summary.Complete, Text: "lack what evenkeel would add",
		Class: "warn"}
	if lacking.Number == 0 {
		lacking.Class = "good"
	}
	p.Figures = append(p.Figures, lacking)
	p.fill()
	var b bytes.Buffer
	if err := p.markup().Render(&b); err != nil {
		return nil, fmt.Errorf("write page: %w", err)
	}
	return b.Bytes(), nil
}

// headline is what to remember of the report.
func headline(r *Report) string {
	total := r.Summary.Workloads
	switch lost := r.Count(NoneReady, OneNode, OneZone); {
	case total == 0:
		return "There are no workloads here"
	case lost > 0:
		return fmt.Sprintf("%d of %s would not survive the loss of one node or zone", lost, words.Count(total, "workload"))
	case r.Count(DrainBlocked, BudgetsOverlap) > 0:
		return fmt.Sprintf("%d of %s keep nodes from being emptied", r.Count(DrainBlocked, BudgetsOverlap),
			words.Count(total, "workload"))
	case r.Count(SingleReplica, BarePod) > 0:
		return fmt.Sprintf("%d of %s have a single replica", r.Count(SingleReplica, BarePod), words.Count(total, "workload"))
	case r.Summary.Complete < total:
		return fmt.Sprintf("%d of %s lack a default that evenkeel would add", total-r.Summary.Complete,
			words.Count(total, "workload"))
	}
	return fmt.Sprintf("All %s are as well protected as evenkeel can make them", words.Count(total, "workload"))
}

// fill adds what is per workload.
func (p *page) fill() {
	names := append(patches.Defaults(), policy.SettingDisruptionBudget)
	titles := []string{"Replicas kept apart", "Pause before shutdown", "Readiness probe", "Disruption budget"}
	for i := range names {
		p.Coverage = append(p.Coverage, coverage{Text: titles[i]})
	}
	occurs := map[string]bool{}
	for _, w := range p.Workloads {
		cells := Table{}.row(w)
		row := pageRow{Name: w.ID(), Source: w.Source, Ready: cells[1].Text, Problems: w.Problems}
		for i, name := range names {
			c := stateCell(w, name)
			t := tag{Text: c.Text}
			switch t.Text {
			case "missing":
				t.Class, t.Title = "bad", details(w, name)
				p.Coverage[i].Missing++
			case "yes":
				t.Class, t.Title = "good", details(w, name)
				p.Coverage[i].Present++
			default:
				p.Coverage[i].Skipped++
				occurs[t.Text] = true
				t.Title = skipText(t.Text)
			}
			row.States = append(row.States, t)
		}
		for _, f := range w.Findings {
			if strings.HasPrefix(string(f.Code), "missing-") {
				continue // stands in the columns
			}
			occurs[string(f.Code)] = true
			t := tag{Text: string(f.Code), Title: f.Code.Explain().Text, Class: "warn"}
			if f.Object != "" {
				t.Text += " " + f.Object
			}
			switch f.Code {
			case NoneReady, OneNode, OneZone, DrainBlocked, BudgetsOverlap:
				t.Class = "bad"
			}
			row.Findings = append(row.Findings, t)
			switch {
			case f.Code == SingleReplica, f.Code == BarePod:
				p.Singles = append(p.Singles, w.ID())
			case p.Offline && (f.Code == DrainBlocked || f.Code == BudgetsOverlap):
				p.BlockedOffline = append(p.BlockedOffline, blocked{f.Code, f.Object, w.ID()})
			}
		}
		p.Rows = append(p.Rows, row)
	}
	for i := range p.Coverage {
		c := &p.Coverage[i]
		if n := c.Present + c.Missing; n > 0 {
			c.Percent = 100 * c.Present / n
		}
	}
	for _, e := range explanations {
		if occurs[string(e.Code)] {
			p.Legend = append(p.Legend, tag{Text: string(e.Code), Title: e.Text + " " + e.Advice})
		}
	}
	for _, code := range skipCodes() {
		if occurs[code] {
			p.Legend = append(p.Legend, tag{Text: code, Title: skipText(code)})
		}
	}
}

// details says what would be added, or who added what there is.
func details(w *Workload, name string) string {
	var parts []string
	for _, d := range w.Defaults {
		if d.Default == name && d.Detail != "" && d.State != StateSkipped {
			parts = append(parts, strings.TrimPrefix(d.Container+": "+d.Detail, ": "))
		}
	}
	return strings.Join(parts, "; ")
}

package audit

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
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
	// Adds says of each default that is missing what evenkeel would add.
	Adds []string

	severity severity
	worst    int // index of its first finding in explanations
}

// severity groups the workloads of the page, the most pressing first.
type severity int

const (
	severityBad severity = iota
	severityWarn
	severityMissing
	severityNone
)

// severities are the titles of the groups.
var severities = [...]string{severityBad: "Act now", severityWarn: "Look at", severityMissing: "Lack a default",
	severityNone: "Nothing found"}

// group is the workloads of one severity.
type group struct {
	Title string
	Open  bool
	Rows  []pageRow
}

// mostOpen is up to how many rows a group is shown unfolded.
const mostOpen = 200

// step is what to do next, for which workloads or namespaces, and why.
type step struct {
	Do, Why string
	For     []string
}

// mostSteps is how many steps the page names: more is no help to somebody who has to begin somewhere.
const mostSteps = 3

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
	OptedIn               string
	Steps                 []step
	Offline               bool
	Figures               []figure
	BlockedOffline        []blocked
	Singles               []string
	Coverage              []coverage
	Groups                []group
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
	p.next()
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
	var rows []pageRow
	for _, w := range p.Workloads {
		cells := Table{}.row(w)
		row := pageRow{Name: w.ID(), Source: w.Source, Ready: cells[1].Text, Problems: w.Problems, severity: severityNone}
		if len(w.Findings) > 0 {
			row.severity, row.worst = severityMissing, position(w.Findings[0].Code)
		}
		for i, name := range names {
			c := stateCell(w, name)
			t := tag{Text: c.Text}
			switch t.Text {
			case "missing":
				t.Class = "bad"
				row.Adds = append(row.Adds, titles[i]+": "+details(w, name))
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
			row.severity = min(row.severity, severityWarn)
			switch f.Code {
			case NoneReady, OneNode, OneZone, DrainBlocked, BudgetsOverlap:
				t.Class, row.severity = "bad", severityBad
			}
			row.Findings = append(row.Findings, t)
			switch {
			case f.Code == SingleReplica, f.Code == BarePod:
				p.Singles = append(p.Singles, w.ID())
			case p.Offline && (f.Code == DrainBlocked || f.Code == BudgetsOverlap):
				p.BlockedOffline = append(p.BlockedOffline, blocked{f.Code, f.Object, w.ID()})
			}
		}
		rows = append(rows, row)
	}
	slices.SortStableFunc(rows, func(a, b pageRow) int {
		return cmp.Or(cmp.Compare(a.severity, b.severity), cmp.Compare(a.worst, b.worst))
	})
	for i, title := range severities {
		g := group{Title: title}
		for _, row := range rows {
			if row.severity == severity(i) {
				g.Rows = append(g.Rows, row)
			}
		}
		if len(g.Rows) > 0 {
			g.Open = i != int(severityNone) && len(g.Rows) <= mostOpen
			p.Groups = append(p.Groups, g)
		}
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

// next says what is opted in and what to do next: about the most pressing finding of each workload, and then to get
// what evenkeel adds.
func (p *page) next() {
	namespaces, optedIn, lacking := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, w := range p.Workloads {
		namespaces[w.Namespace] = true
		switch {
		case w.OptedIn:
			optedIn[w.Namespace] = true
		case len(w.missing) > 0:
			lacking[w.Namespace] = true
		}
	}
	if !p.Offline && len(namespaces) > 0 {
		p.OptedIn = fmt.Sprintf("Opted in: %d of %s", len(optedIn), words.Count(len(namespaces), "namespace"))
		if len(optedIn) > 0 {
			p.OptedIn += " (" + few(slices.Sorted(maps.Keys(optedIn))) + ")"
		}
		p.OptedIn += "."
	}
	named := map[*Workload]bool{}
	for _, e := range explanations {
		var anew []string
		for _, w := range p.Workloads {
			if !named[w] && !strings.HasPrefix(string(e.Code), "missing-") &&
				slices.ContainsFunc(w.Findings, func(f Finding) bool { return f.Code == e.Code }) {
				anew, named[w] = append(anew, w.ID()), true
			}
		}
		if len(anew) > 0 {
			p.Steps = append(p.Steps, step{Do: e.Advice, For: anew,
				Why: fmt.Sprintf("%s, %s: %s", e.Code, words.Count(len(anew), "workload"), e.Text)})
		}
	}
	if len(lacking) > 0 {
		names := slices.Sorted(maps.Keys(lacking))
		s := step{Do: "Opt in: kubectl label namespace " + names[0] + " " + policy.InjectLabel + "=" + policy.Enabled,
			For: names,
			Why: "These namespaces have workloads that lack a default and don’t get any."}
		if p.Offline {
			s = step{Do: "Add what is missing: evenkeel inject --write FILE, or opt the namespace in.",
				Why: words.Count(p.Summary.Workloads-p.Summary.Complete, "workload") + " would get a default."}
		}
		p.Steps = append(p.Steps[:min(len(p.Steps), mostSteps-1)], s)
	}
	p.Steps = p.Steps[:min(len(p.Steps), mostSteps)]
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

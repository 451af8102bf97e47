package audit

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/evenkeel/evenkeel/internal/words"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
)

// Table is how a Report looks on a terminal.
type Table struct {
	// Color colors it with ANSI escape sequences.
	Color bool
}

// Text returns the report for people: a row for each workload, then what one node or
// zone takes down, blocked drains, why defaults are skipped, and a summary.
func (t Table) Text(r *Report) []byte {
	var b bytes.Buffer
	if len(r.Workloads) > 0 {
		rows := [][]words.Cell{words.Cells("WORKLOAD", strings.ToUpper(readyTitle(r)), "SPREAD", "STOP", "PROBE", "BUDGET",
			"FINDINGS")}
		for _, w := range r.Workloads {
			rows = append(rows, t.row(w))
		}
		words.Table(&b, t.Color, rows)
	}
	t.domains(&b, "node", r.Nodes)
	t.domains(&b, "zone", r.Zones)
	if len(r.Drains) > 0 {
		b.WriteString("\nDrains that can't finish now:\n")
		var rows [][]words.Cell
		for _, d := range r.Drains {
			rows = append(rows, append([]words.Cell{words.In(words.Red, string(d.Code))},
				words.Cells(d.Namespace+" "+strings.Join(d.Budgets, " + "), few(d.Workloads), "on "+few(d.Nodes))...))
		}
		words.Table(&b, t.Color, rows)
	}
	t.legend(&b, r)
	for _, w := range r.Workloads {
		for _, p := range w.Problems {
			t.warning(&b, w.ID()+": "+p)
		}
	}
	for _, text := range r.Warnings {
		t.warning(&b, text)
	}
	b.WriteString(r.Sentence() + "\n")
	return b.Bytes()
}

func (t Table) warning(b *bytes.Buffer, text string) {
	label := "warning:"
	if t.Color {
		label = words.Paint(words.Yellow, label)
	}
	b.WriteString(label + " " + words.Printable(text) + "\n")
}

// row is the line of one workload.
func (t Table) row(w *Workload) []words.Cell {
	ready := "-"
	switch {
	case w.Replicas >= 0 && w.Source != "":
		ready = strconv.Itoa(w.Replicas)
	case w.Replicas >= 0:
		ready = fmt.Sprintf("%d/%d", w.Ready, w.Replicas)
	case w.Source == "":
		ready = fmt.Sprintf("%d/%d", w.Ready, w.Pods)
	}
	row := words.Cells(w.ID(), ready)
	for _, name := range []string{patches.DefaultAntiAffinity, patches.DefaultPreStopSleep, patches.DefaultReadinessProbe,
		policy.SettingDisruptionBudget} {
		row = append(row, stateCell(w, name))
	}
	var findings []string
	color := ""
	for _, f := range w.Findings {
		if strings.HasPrefix(string(f.Code), "missing-") {
			continue // stands in the columns
		}
		text := string(f.Code)
		if f.Object != "" {
			text += "(" + f.Object + ")"
		}
		findings = append(findings, text)
		color = words.Yellow
	}
	return append(row, words.In(color, strings.Join(findings, " ")))
}

// stateCell sums one default of a workload up: missing from any container, else
// skipped in all, else there.
func stateCell(w *Workload, name string) words.Cell {
	c := words.In(words.Faint, "-")
	for _, d := range w.Defaults {
		switch {
		case d.Default != name:
		case d.State == StateMissing:
			return words.In(words.Red, "missing")
		case d.State == StatePresent:
			c = words.In(words.Green, "yes")
		case c.Text == "-":
			c.Text = d.Code
		}
	}
	return c
}

// domains lists what nodes or zones take down.
func (t Table) domains(b *bytes.Buffer, kind string, domains []Domain) {
	if len(domains) == 0 {
		return
	}
	const most = 10
	fmt.Fprintf(b, "\nWhat the loss of one %s takes down now:\n", kind)
	var rows [][]words.Cell
	for _, d := range domains[:min(most, len(domains))] {
		rows = append(rows, words.Cells(d.Name, strconv.Itoa(len(d.Workloads)), few(d.Workloads)))
	}
	words.Table(b, t.Color, rows)
	if len(domains) > most {
		fmt.Fprintf(b, "  and %d more (-o json has all)\n", len(domains)-most)
	}
}

// few joins the first names of a list.
func few(names []string) string {
	const most = 3
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// legend explains the codes that occur.
func (t Table) legend(b *bytes.Buffer, r *Report) {
	var skips, found [][]words.Cell
	occurs := map[string]bool{}
	for _, w := range r.Workloads {
		for _, d := range w.Defaults {
			if d.State == StateSkipped {
				occurs[d.Code] = true
			}
		}
	}
	for _, code := range skipCodes() {
		if occurs[code] {
			skips = append(skips, words.Cells("  "+code, skipText(code)))
		}
	}
	for _, e := range explanations {
		if r.Summary.Findings[e.Code] > 0 && !strings.HasPrefix(string(e.Code), "missing-") {
			found = append(found, words.Cells("  "+string(e.Code), e.Text+" "+e.Advice))
		}
	}
	if len(skips) > 0 {
		b.WriteString("\nWhy skipped:\n")
		words.Table(b, t.Color, skips)
	}
	if len(found) > 0 {
		b.WriteString("\nFindings:\n")
		words.Table(b, t.Color, found)
	}
	if len(r.Workloads) > 0 {
		b.WriteByte('\n')
	}
}

// Sentence sums the report up in one line.
func (r *Report) Sentence() string {
	s := r.Summary
	if s.Workloads == 0 {
		return "no workloads found in " + words.Printable(r.Source)
	}
	var parts []string
	for _, p := range []struct {
		codes []Code
		text  string
	}{
		{[]Code{NoneReady}, "%d down"},
		{[]Code{OneNode}, "%d on one node"},
		{[]Code{OneZone}, "%d in one zone"},
		{[]Code{SingleReplica, BarePod}, "%d with a single replica"},
		{[]Code{DrainBlocked, BudgetsOverlap}, "%d block drains for ever"},
	} {
		n := r.Count(p.codes...)
		if n > 0 {
			parts = append(parts, fmt.Sprintf(p.text, n))
		}
	}
	text := words.Count(s.Workloads, "workload") + ": "
	if lacking := s.Workloads - s.Complete; lacking > 0 {
		parts = append([]string{fmt.Sprintf("evenkeel would add something to %d", lacking)}, parts...)
	} else {
		parts = append([]string{"evenkeel has nothing to add"}, parts...)
	}
	return text + strings.Join(parts, ", ")
}

// Count returns how many workloads have a finding of one of the codes.
func (r *Report) Count(codes ...Code) int {
	n := 0
	for _, w := range r.Workloads {
		if slices.ContainsFunc(w.Findings, func(f Finding) bool { return slices.Contains(codes, f.Code) }) {
			n++
		}
	}
	return n
}

// readyTitle is the title of the replicas, in table and page.
func readyTitle(r *Report) string {
	if r.Source == SourceManifests {
		return "Replicas" // as asked for; nothing is known of pods
	}
	return "Ready"
}

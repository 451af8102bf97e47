package audit

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
)

// Table is how a Report looks on a terminal.
type Table struct {
	// Color colors it with ANSI escape sequences.
	Color bool
}

// The colors, as ANSI escape sequences.
const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	faint  = "\x1b[2m"
	plain  = "\x1b[0m"
)

// cell is text and its color, "" for none.
type cell struct{ text, color string }

// Text returns the report for people: a row for each workload, then what one node or
// zone takes down, blocked drains, why defaults are skipped, and a summary.
func (t Table) Text(r *Report) []byte {
	var b bytes.Buffer
	if len(r.Workloads) > 0 {
		rows := [][]cell{{{"WORKLOAD", ""}, {strings.ToUpper(readyTitle(r)), ""}, {"SPREAD", ""}, {"STOP", ""}, {"PROBE", ""}, {"BUDGET", ""}, {"FINDINGS", ""}}}
		for _, w := range r.Workloads {
			rows = append(rows, t.row(w))
		}
		t.write(&b, rows)
	}
	t.domains(&b, "node", r.Nodes)
	t.domains(&b, "zone", r.Zones)
	if len(r.Drains) > 0 {
		b.WriteString("\nDrains that can't finish now:\n")
		var rows [][]cell
		for _, d := range r.Drains {
			rows = append(rows, []cell{{string(d.Code), red}, {d.Namespace + " " + strings.Join(d.Budgets, " + "), ""},
				{few(d.Workloads), ""}, {"on " + few(d.Nodes), ""}})
		}
		t.write(&b, rows)
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
	b.WriteString(t.paint(cell{"warning:", yellow}) + " " + printable(text) + "\n")
}

// row is the line of one workload.
func (t Table) row(w *Workload) []cell {
	ready := "-"
	switch {
	case w.Replicas >= 0 && w.Source != "":
		ready = strconv.Itoa(w.Replicas)
	case w.Replicas >= 0:
		ready = fmt.Sprintf("%d/%d", w.Ready, w.Replicas)
	case w.Source == "":
		ready = fmt.Sprintf("%d/%d", w.Ready, w.Pods)
	}
	row := []cell{{w.ID(), ""}, {ready, ""}}
	for _, name := range []string{patches.DefaultAntiAffinity, patches.DefaultPreStopSleep, patches.DefaultReadinessProbe, policy.SettingDisruptionBudget} {
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
		color = yellow
	}
	return append(row, cell{strings.Join(findings, " "), color})
}

// stateCell sums one default of a workload up: missing from any container, else
// skipped in all, else there.
func stateCell(w *Workload, name string) cell {
	c := cell{"-", faint}
	for _, d := range w.Defaults {
		switch {
		case d.Default != name:
		case d.State == StateMissing:
			return cell{"missing", red}
		case d.State == StatePresent:
			c = cell{"yes", green}
		case c.text == "-":
			c.text = d.Code
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
	var rows [][]cell
	for _, d := range domains[:min(most, len(domains))] {
		rows = append(rows, []cell{{d.Name, ""}, {strconv.Itoa(len(d.Workloads)), ""}, {few(d.Workloads), ""}})
	}
	t.write(b, rows)
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
	var skips, found [][]cell
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
			skips = append(skips, []cell{{"  " + code, ""}, {skipText(code), ""}})
		}
	}
	for _, e := range explanations {
		if r.Summary.Findings[e.Code] > 0 && !strings.HasPrefix(string(e.Code), "missing-") {
			found = append(found, []cell{{"  " + string(e.Code), ""}, {e.Text + " " + e.Advice, ""}})
		}
	}
	if len(skips) > 0 {
		b.WriteString("\nWhy skipped:\n")
		t.write(b, skips)
	}
	if len(found) > 0 {
		b.WriteString("\nFindings:\n")
		t.write(b, found)
	}
	if len(r.Workloads) > 0 {
		b.WriteByte('\n')
	}
}

// write aligns rows.
func (t Table) write(b *bytes.Buffer, rows [][]cell) {
	var widths []int
	for _, row := range rows {
		for i := range row {
			row[i].text = printable(row[i].text)
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i].text))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, c := range row {
			line.WriteString(t.paint(c))
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text)+2))
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}

func (t Table) paint(c cell) string {
	if !t.Color || c.color == "" || c.text == "" {
		return c.text
	}
	return c.color + c.text + plain
}

// Sentence sums the report up in one line.
func (r *Report) Sentence() string {
	s := r.Summary
	if s.Workloads == 0 {
		return "no workloads found in " + printable(r.Source)
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
	text := fmt.Sprintf("%d workloads: ", s.Workloads)
	if s.Workloads == 1 {
		text = "1 workload: "
	}
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

// printable returns text with everything escaped that could steer a terminal.
func printable(text string) string {
	if strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return text
	}
	quoted := strconv.Quote(text)
	return quoted[1 : len(quoted)-1]
}

// readyTitle is the title of the replicas, in table and page.
func readyTitle(r *Report) string {
	if r.Source == SourceManifests {
		return "Replicas" // as asked for; nothing is known of pods
	}
	return "Ready"
}

package inject

import (
	"bytes"
	"fmt"

	"github.com/evenkeel/evenkeel/internal/words"
	"github.com/evenkeel/evenkeel/patches"
)

// Style is how a report looks.
type Style struct {
	// Color colors it with ANSI escape sequences.
	Color bool
	// Check words it for manifests that are only checked.
	Check bool
	// Quiet leaves out all but warnings.
	Quiet bool
}

// Report returns what a person reads about a run: the budgets, a line for each workload, default and
// container, the reasons that occurred, warnings, and a summary.
func (r *Result) Report(s Style) []byte {
	var b bytes.Buffer
	if !s.Quiet {
		r.budgetTable(&b, s)
		r.table(&b, s)
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(&b, "%s %s\n", s.paint(words.Yellow, "warning:"), w.Error())
	}
	if !s.Quiet {
		b.WriteString(r.summary(s) + "\n")
	}
	return b.Bytes()
}

func (s Style) paint(color, text string) string {
	if !s.Color {
		return text
	}
	return words.Paint(color, text)
}

// colorOf colors what became of a default.
var colorOf = map[string]string{"added": words.Green, "missing": words.Red, "skipped": words.Faint}

// table writes the decisions and explains their reason codes.
func (r *Result) table(b *bytes.Buffer, s Style) {
	var rows [][]words.Cell
	occurred := map[patches.Skip]bool{}
	for _, w := range r.Workloads {
		for _, d := range w.Result.Decisions {
			outcome, why := "added", d.Detail
			switch {
			case r.undone && d.Changes:
				outcome, why = "removed", d.Standing
			case r.undone: // nothing of ours stands there
				continue
			case d.Skip != patches.SkipNone && d.Changes:
				outcome, why = "removed", string(d.Skip)+", "+d.Standing
				occurred[d.Skip] = true
			case d.Skip != patches.SkipNone:
				outcome, why = "skipped", string(d.Skip)
				occurred[d.Skip] = true
			case !d.Changes:
				outcome = "present"
			case d.Standing != "":
				outcome, why = "changed", d.Detail+", was "+d.Standing
			case s.Check:
				outcome = "missing"
			}
			container := d.Container
			if container == "" {
				container = "-"
			}
			row := words.Cells(w.Place(), w.Title(), d.Default, container, outcome, why)
			row[4].Color = colorOf[outcome]
			rows = append(rows, row)
		}
	}
	words.Table(b, s.Color, rows)
	if len(occurred) > 0 {
		b.WriteString("\nWhy skipped:\n")
		var reasons [][]words.Cell
		for _, reason := range patches.Reasons() {
			if occurred[reason.Code] {
				reasons = append(reasons, words.Cells("  "+string(reason.Code), reason.Text))
			}
		}
		words.Table(b, false, reasons)
	}
	if len(rows) > 0 {
		b.WriteByte('\n')
	}
}

// summary returns the line at the end.
func (r *Result) summary(s Style) string {
	changed := 0
	for _, w := range r.Workloads {
		if w.Changed() {
			changed++
		}
	}
	files := words.Count(len(r.Files), "file")
	text := words.Count(len(r.Workloads), "workload") + " in " + files + ": "
	switch {
	case len(r.Workloads) == 0:
		text = "no workloads in " + files
	case r.undone && changed == 0:
		text += "nothing to take back"
	case r.undone:
		text += fmt.Sprintf("defaults taken back from %d", changed)
	case changed == 0 && r.missingBudgets() > 0:
		text += "all defaults are there"
	case changed == 0:
		text += "nothing is missing"
	case s.Check:
		text += fmt.Sprintf("something is missing from %d", changed)
	default:
		text += fmt.Sprintf("defaults added to %d", changed)
	}
	if n := r.missingBudgets(); n > 0 {
		outcome := " added"
		if s.Check {
			outcome = " missing"
		}
		text += "; " + words.Count(n, "budget") + outcome
	}
	if r.Others > 0 {
		text += "; " + words.Count(r.Others, "other object") + " left alone"
	}
	if r.Foreign > 0 {
		text += "; " + words.Count(r.Foreign, "document") + " passed over, without apiVersion and kind"
	}
	if len(r.Warnings) > 0 {
		text += "; " + words.Count(len(r.Warnings), "warning")
	}
	return text
}

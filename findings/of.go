package findings

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/inject"
)

// OfInject returns what inject would add.
func OfInject(r *inject.Result) *Report {
	var report Report
	for _, w := range r.Workloads {
		object := Finding{File: w.File, Line: w.Line(), Object: w.Title()}
		report.Looked = append(report.Looked, object)
		for _, d := range w.Result.Decisions {
			if !d.Changes {
				continue
			}
			f := object
			f.Code = "missing-" + d.Default
			f.Text = "evenkeel would " + verb(d.Skip != "", d.Standing != "") + " " + d.Default
			if d.Container != "" {
				f.Text += " of container " + d.Container
			}
			if what := cmp.Or(d.Detail, d.Standing); what != "" {
				f.Text += " (" + what + ")"
			}
			f.Text += "."
			report.Findings = append(report.Findings, f)
		}
	}
	report.explain("Run evenkeel inject --write on the file.")
	return &report
}

// verb says what becomes of a default.
func verb(skipped, stands bool) string {
	switch {
	case skipped:
		return "remove"
	case stands:
		return "change"
	}
	return "add"
}

// OfAudit returns what an audit of manifests found.
func OfAudit(r *audit.Report) *Report {
	var report Report
	for _, w := range r.Workloads {
		object := Finding{File: cmp.Or(w.Source, r.Source), Line: 1, Object: w.Kind + " " + w.Name}
		if i := strings.LastIndex(w.Source, ":"); i >= 0 {
			if line, err := strconv.Atoi(w.Source[i+1:]); err == nil {
				object.File, object.Line = w.Source[:i], line
			}
		}
		report.Looked = append(report.Looked, object)
		for _, found := range w.Findings {
			f := object
			f.Code, f.Text = string(found.Code), found.Code.Explain().Text
			if found.Object != "" {
				f.Text += " (" + found.Object + ")"
			}
			report.Findings = append(report.Findings, f)
		}
	}
	slices.SortStableFunc(report.Looked, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	report.explain("")
	return &report
}

// explain adds the rules of the codes that were found, in the order of audit. Advice takes the place of audit's, if
// there is any.
func (r *Report) explain(advice string) {
	for _, e := range audit.Codes() {
		if slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Code == string(e.Code) }) {
			r.Rules = append(r.Rules, Rule{Code: string(e.Code), Text: e.Text, Advice: cmp.Or(advice, e.Advice),
				Link: audit.Link(string(e.Code))})
		}
	}
	for _, f := range r.Findings { // inject has codes of its own, such as missing-grace-period
		if !slices.ContainsFunc(r.Rules, func(rule Rule) bool { return rule.Code == f.Code }) {
			r.Rules = append(r.Rules, Rule{Code: f.Code, Text: "A default of evenkeel is missing.", Advice: advice})
		}
	}
}

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/findings"
	"github.com/evenkeel/evenkeel/inject"
	"github.com/evenkeel/evenkeel/manifest"
)

// missingCode returns the code of audit for a default that is missing.
func missingCode(name string) string { return "missing-" + name }

// injectFindings returns what inject --check found.
func injectFindings(r *inject.Result) *findings.Report {
	var report findings.Report
	for _, w := range r.Workloads {
		object := findings.Finding{File: w.File, Line: w.Line(), Object: w.Title()}
		report.Looked = append(report.Looked, object)
		for _, d := range w.Result.Decisions {
			if !d.Changes {
				continue
			}
			f := object
			f.Code = missingCode(d.Default)
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
	explain(&report, "Run evenkeel inject --write on the file.")
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

// auditFindings returns what an audit of manifests found.
func auditFindings(r *audit.Report) *findings.Report {
	var report findings.Report
	for _, w := range r.Workloads {
		object := findings.Finding{File: cmp.Or(w.Source, r.Source), Line: 1, Object: w.Kind + " " + w.Name}
		if file, line, ok := cutLast(w.Source, ":"); ok {
			if n, err := strconv.Atoi(line); err == nil {
				object.File, object.Line = file, n
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
	slices.SortStableFunc(report.Looked, func(a, b findings.Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	explain(&report, "")
	return &report
}

// cutLast cuts text around the last separator.
func cutLast(text, separator string) (before, after string, found bool) {
	i := strings.LastIndex(text, separator)
	if i < 0 {
		return text, "", false
	}
	return text[:i], text[i+len(separator):], true
}

// explain adds the rules of the codes that were found. Advice takes the place of audit's, if there is any.
func explain(r *findings.Report, advice string) {
	r.Version, _ = build()
	for _, e := range audit.Codes() {
		if slices.ContainsFunc(r.Findings, func(f findings.Finding) bool { return f.Code == string(e.Code) }) {
			r.Rules = append(r.Rules, findings.Rule{Code: string(e.Code), Text: e.Text, Advice: cmp.Or(advice, e.Advice)})
		}
	}
	for _, f := range r.Findings { // inject has codes of its own, such as missing-grace-period
		if !slices.ContainsFunc(r.Rules, func(rule findings.Rule) bool { return rule.Code == f.Code }) {
			r.Rules = append(r.Rules, findings.Rule{Code: f.Code, Text: "A default of evenkeel is missing.", Advice: advice})
		}
	}
}

// writeFindings writes them in a format.
func writeFindings(w io.Writer, r *findings.Report, format string) error {
	text, err := r.Encode(format)
	if err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return fmt.Errorf("write findings: %w", err)
	}
	return nil
}

// without returns the files that no glob matches: neither their path, nor their name, nor that of a directory above them.
func without(files []*manifest.File, globs []string) ([]*manifest.File, error) {
	for _, glob := range globs {
		if _, err := filepath.Match(glob, ""); err != nil {
			return nil, usageError{fmt.Errorf("--ignore=%q is not a pattern; allowed: names with *, ? and [a-z]", glob)}
		}
	}
	return slices.DeleteFunc(slices.Clone(files), func(f *manifest.File) bool {
		return slices.ContainsFunc(globs, func(glob string) bool { return ignored(f.Name, glob) })
	}), nil
}

// ignored reports whether a glob matches a path, a directory above it, or the name of either.
func ignored(path, glob string) bool {
	glob = filepath.Clean(glob)
	for path = filepath.Clean(path); path != "." && path != string(filepath.Separator); path = filepath.Dir(path) {
		whole, _ := filepath.Match(glob, path) // the pattern was tried
		name, _ := filepath.Match(glob, filepath.Base(path))
		if whole || name {
			return true
		}
	}
	return false
}

// writeInPlace writes the files that changed, and says which. Standard input has no place.
func writeInPlace(stderr io.Writer, result *inject.Result) error {
	changed := map[string]bool{}
	for _, w := range result.Workloads {
		if w.Changed() {
			changed[w.File] = true
		}
	}
	for _, f := range result.Files {
		if !changed[f.Name] {
			continue
		}
		text, err := f.Text()
		if err != nil {
			return err
		}
		info, err := os.Stat(f.Name)
		if err != nil {
			return fmt.Errorf("write manifest: %w", err)
		}
		if err := os.WriteFile(f.Name, []byte(text), info.Mode().Perm()); err != nil {
			return fmt.Errorf("write manifest: %w", err)
		}
		if _, err := fmt.Fprintf(stderr, "wrote %s\n", f.Name); err != nil {
			return err
		}
	}
	return nil
}

// sinceBaseline returns the codes of --fail-on that count beyond those of an earlier report of audit -o json: a workload
// that had a finding then may keep it.
func sinceBaseline(file string, report *audit.Report) (*audit.Report, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, usageError{fmt.Errorf("--baseline: %w", err)}
	}
	var before audit.Report
	if err := json.Unmarshal(text, &before); err != nil || before.Version != report.Version {
		return nil, usageError{fmt.Errorf("--baseline=%s is not a report of audit -o json", file)}
	}
	known := map[string]bool{}
	for _, w := range before.Workloads {
		for _, f := range w.Findings {
			known[w.ID()+" "+string(f.Code)] = true
		}
	}
	anew := *report
	anew.Summary.Findings = map[audit.Code]int{}
	for _, w := range report.Workloads {
		for _, f := range w.Findings {
			if !known[w.ID()+" "+string(f.Code)] {
				anew.Summary.Findings[f.Code]++
			}
		}
	}
	return &anew, nil
}

// Package inject makes the decisions of the admission webhook over manifests: it finds what is
// missing from each workload, and writes it into the text, or takes it back.
//
// Run is one pass over all input, since Namespaces count for workloads in other files. A Result
// encodes the manifests, and says for people what was done and why not.
package inject

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/evenkeel/evenkeel/manifest"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/pdb"
	"github.com/evenkeel/evenkeel/policy"
)

// Config says what the manifests are for.
type Config struct {
	// Patches is what the flags ask for.
	Patches patches.Config
	// Cluster is the oldest that the manifests are for.
	Cluster patches.Cluster
	// Namespace is that of objects that name none.
	Namespace string
	// WithBudgets asks for the disruption budgets that workloads lack.
	WithBudgets bool
}

// Result is what came of all input.
type Result struct {
	// Files are the manifests with what was added to them.
	Files []*manifest.File
	// Workloads are the objects that were looked at.
	Workloads []*Workload
	// Others is the number of objects that are no workloads, Foreign that of documents that are no
	// objects.
	Others, Foreign int
	// Warnings are in the order of the input.
	Warnings []manifest.Remark

	// Budgets are the decisions over disruption budgets, where they were asked for.
	Budgets []pdb.ManifestDecision

	budgetFile *manifest.File // nil for none
	undone     bool           // of Undo
}

// Workload is an object with a pod template, or a Pod, and what is missing from it.
type Workload struct {
	*manifest.Object
	Result patches.Result
}

// Changed reports whether something is added to the workload.
func (w *Workload) Changed() bool { return len(w.Result.Operations) > 0 }

// Missing reports whether a workload lacks a default, or a budget where budgets are asked for.
func (r *Result) Missing() bool {
	return slices.ContainsFunc(r.Workloads, (*Workload).Changed) || r.missingBudgets() > 0
}

// missingBudgets returns how many workloads lack a budget, where budgets are asked for.
func (r *Result) missingBudgets() (n int) {
	for _, d := range r.Budgets {
		if d.Manifest != nil {
			n++
		}
	}
	return n
}

// namespaces holds what Namespaces say, by name.
type namespaces map[string]struct {
	annotations map[string]string
	disabled    bool
}

// injection is one run.
type injection struct {
	Config
	*Result
	injector *patches.Injector
	known    namespaces
	services patches.ServicesByNamespace
}

// Run finds what is missing from the workloads in files, and adds it to the files. The error joins a
// Remark for every object that can't be used; then the files are of no use. An error about the
// configuration is an InvalidError. Run ends early when ctx does.
func Run(ctx context.Context, files []*manifest.File, config Config) (*Result, error) {
	injector, err := patches.New(config.Patches)
	if err != nil {
		return nil, InvalidError{err}
	}
	i := &injection{config, &Result{Files: files}, injector, namespaces{}, patches.ServicesByNamespace{}}
	objects := make([][]*manifest.Object, len(files))
	for k, f := range files {
		objects[k] = f.Objects()
		i.Foreign += f.Foreign()
		for _, o := range objects[k] {
			switch o.APIVersion + " " + o.Kind {
			case "v1 Namespace":
				i.reviewNamespace(o)
			case "v1 Service":
				_ = i.services.Add(o.Value, config.Namespace) // what can't be read is no evidence
			}
		}
	}
	var failures []error
	for k, f := range files {
		var changes []manifest.Patch
		for _, o := range objects[k] {
			if ctx.Err() != nil {
				return nil, fmt.Errorf("look at manifests: %w", ctx.Err())
			}
			w, err := i.review(o)
			if err != nil {
				failures = append(failures, err)
			} else if w != nil && w.Changed() {
				changes = append(changes, manifest.Patch{Object: o, JSON: w.Result.Patch})
			}
		}
		anew, err := f.Apply(changes, record)
		if err != nil {
			failures = append(failures, err)
		}
		i.Warnings = append(i.Warnings, anew...)
	}
	if err := errors.Join(failures...); err != nil {
		return nil, err
	}
	i.sortWarnings()
	if config.WithBudgets {
		if err := i.addBudgets(objects); err != nil {
			return nil, err
		}
	}
	return i.Result, nil
}

// Undo takes back from the workloads in files what their records say, and nothing else: what Run has
// added, where nobody has changed it since. The error joins a Remark for every object that can't be
// used; then the files are of no use. Undo ends early when ctx does.
func Undo(ctx context.Context, files []*manifest.File) (*Result, error) {
	r := &Result{Files: files, undone: true}
	var failures []error
	for _, f := range files {
		r.Foreign += f.Foreign()
		var changes []manifest.Patch
		for _, o := range f.Objects() {
			if ctx.Err() != nil {
				return nil, fmt.Errorf("look at manifests: %w", ctx.Err())
			}
			if !takesAdditions(o) {
				r.Others++
				continue
			}
			w := &Workload{o, patches.Uninject(o.Value)}
			switch {
			case w.Result.Err != nil:
				failures = append(failures, o.Remark(o.Line(), w.Result.Err))
				continue
			case w.Result.Decisions[0].Skip == patches.SkipKind:
				r.Others++
				continue
			}
			r.Workloads = append(r.Workloads, w)
			if reason := w.Result.Decisions[0].Skip.Reason(); reason.Warn { // the record can't be used
				r.Warnings = append(r.Warnings, o.Remark(o.Line(), errors.New("nothing is taken back: "+reason.Text)))
			}
			if w.Changed() {
				changes = append(changes, manifest.Patch{Object: o, JSON: w.Result.Patch})
			}
		}
		anew, err := f.Apply(changes, record)
		if err != nil {
			failures = append(failures, err)
		}
		r.Warnings = append(r.Warnings, anew...)
	}
	r.sortWarnings()
	if err := errors.Join(failures...); err != nil {
		return nil, err
	}
	return r, nil
}

// takesAdditions reports whether there can be something to take back from an object. The template of a
// CronJob is elsewhere, and gets nothing.
func takesAdditions(o *manifest.Object) bool { return o.HasPods() && o.Kind != "CronJob" }

// record is how what Run has added is known.
var record = manifest.Record{Key: policy.InjectedAnnotation, Undo: func(o *manifest.Object) []byte {
	if takesAdditions(o) {
		if w := (Workload{o, patches.Uninject(o.Value)}); w.Changed() {
			return w.Result.Patch
		}
	}
	return nil
}}

// InvalidError is an error in the Config, as opposed to one in the manifests.
type InvalidError struct{ error }

// Unwrap returns the cause.
func (e InvalidError) Unwrap() error { return e.error }

// sortWarnings puts the warnings in the order of the input.
func (r *Result) sortWarnings() {
	order := map[string]int{}
	for k, f := range r.Files {
		order[f.Name] = k
	}
	slices.SortStableFunc(r.Warnings, func(a, b manifest.Remark) int {
		return cmp.Or(cmp.Compare(order[a.File], order[b.File]), cmp.Compare(a.Line, b.Line))
	})
}

// reviewNamespace notes what a Namespace says.
func (i *injection) reviewNamespace(o *manifest.Object) {
	n := i.known[o.Metadata.Name]
	n.annotations = o.Annotations()
	labels := o.Labels()
	n.disabled = labels[policy.InjectLabel] == policy.Disabled
	i.known[o.Metadata.Name] = n
	_, problems := policy.Resolve(i.Patches.Base, i.Patches.Bounds,
		policy.Annotations{Source: policy.SourceNamespace, Values: n.annotations})
	problems = append(problems, policy.CheckNamespace(labels)...)
	for _, p := range problems {
		i.warn(o, p)
	}
}

// review finds what is missing from an object, and counts it. It returns nil for what is no workload.
func (i *injection) review(o *manifest.Object) (*Workload, error) {
	i.Warnings = append(i.Warnings, o.Doubts()...)
	if !o.HasPods() {
		i.Others++
		return nil, nil
	}
	if err := o.Check(); err != nil {
		return nil, err
	}
	namespace := cmp.Or(o.Metadata.Namespace, i.Namespace)
	n := i.known[namespace]
	w := &Workload{o, i.injector.Review(patches.Request{Operation: patches.Create, Object: o.Value,
		Namespace: n.annotations, Services: i.services[namespace], Cluster: i.Cluster, Offline: true})}
	switch {
	case w.Result.Err != nil:
		return nil, o.Remark(o.Line(), w.Result.Err)
	case w.Result.Decisions[0].Skip == patches.SkipKind:
		i.Others++
		return nil, nil
	case n.disabled:
		w.Result = optedOut(w.Result)
	}
	i.Workloads = append(i.Workloads, w)
	for _, p := range w.Result.Problems {
		if p.Source != policy.SourceNamespace || p.Code == policy.ProblemTarget { // else told at the Namespace
			i.warn(o, p)
		}
	}
	return w, nil
}

// optedOut returns the result for a workload whose Namespace opts out.
func optedOut(r patches.Result) patches.Result {
	r = patches.Result{Kind: r.Kind, Name: r.Name, Patch: []byte("[]")}
	for _, name := range patches.Defaults() {
		r.Decisions = append(r.Decisions, patches.Decision{Default: name, Skip: patches.SkipOptedOut})
	}
	return r
}

// warn notes a problem, with the line of the label or annotation that it is about.
func (i *injection) warn(o *manifest.Object, p policy.Problem) {
	metadata := "/metadata"
	if p.Source == policy.SourcePodTemplate && o.Kind != "Pod" {
		metadata = "/spec/template/metadata"
	}
	line := o.Line()
	for _, place := range []string{"/annotations", "/labels"} {
		if at, ok := o.LineOf(metadata + place + manifest.PointerTo(p.Key)); ok {
			line = at
			break
		}
	}
	i.Warnings = append(i.Warnings, o.Remark(line, errors.New(p.String())))
}

// Formats are what Encode can write.
var Formats = []string{"yaml", "json", "patch", "diff"}

// Encode returns the output in one of Formats.
func (r *Result) Encode(format string) ([]byte, error) {
	files := r.Files
	if r.budgetFile != nil {
		files = append(slices.Clone(files), r.budgetFile)
	}
	switch format {
	case "yaml":
		return manifest.Join(files)
	case "patch":
		return r.patches()
	}
	var b bytes.Buffer
	for _, f := range files {
		if format == "json" {
			text, err := f.JSON()
			if err != nil {
				return nil, err
			}
			b.Write(text)
			continue
		}
		text, err := f.Diff()
		if err != nil {
			return nil, err
		}
		b.WriteString(text)
	}
	return b.Bytes(), nil
}

// Write writes the files that changed in place, and returns their names, those before an error too.
func (r *Result) Write() (names []string, err error) {
	changed := map[string]bool{}
	for _, w := range r.Workloads {
		changed[w.File] = changed[w.File] || w.Changed()
	}
	for _, f := range r.Files {
		if !changed[f.Name] {
			continue
		}
		text, err := f.Text()
		if err != nil {
			return names, err
		}
		info, err := os.Stat(f.Name)
		if err == nil {
			err = os.WriteFile(f.Name, []byte(text), info.Mode().Perm())
		}
		if err != nil {
			return names, fmt.Errorf("write manifest: %w", err)
		}
		names = append(names, f.Name)
	}
	return names, nil
}

// patches returns a line of JSON for each workload that something is added to.
func (r *Result) patches() ([]byte, error) {
	var b bytes.Buffer
	for _, w := range r.Workloads {
		if !w.Changed() {
			continue
		}
		line, err := json.Marshal(patchLine{Source: w.File, Line: w.Line(), APIVersion: w.APIVersion, Kind: w.Kind,
			Namespace: w.Metadata.Namespace, Name: w.FullName(), Patch: w.Result.Patch})
		if err != nil {
			return nil, fmt.Errorf("write patch: %w", err)
		}
		b.Write(line)
		b.WriteByte('\n')
	}
	return b.Bytes(), nil
}

// patchLine is one line of the format "patch".
type patchLine struct {
	Source     string          `json:"source"`
	Line       int             `json:"line"`
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Namespace  string          `json:"namespace,omitempty"`
	Name       string          `json:"name"`
	Patch      json.RawMessage `json:"patch"`
}

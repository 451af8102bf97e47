package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/aymanbagabas/go-udiff"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
)

const injectHelp = `Add high-availability defaults to manifests, as the webhook does in a cluster.

Reads YAML and JSON from files, from directories with everything below them
(*.yaml, *.yml, *.json; hidden ones are passed over) and, for "-", from standard
input. Writes manifests to standard output and a report to standard error: for
each workload and default whether it was added, or the code of the reason why not.

Every workload is looked at, whether or not its Namespace opted in, except those
with the label evenkeel.dev/inject=disabled on themselves, their pod template or
their Namespace. Annotations of the Namespaces among the input count for the
workloads in them; --namespace says where those are that name none.

What is not changed comes out byte for byte, and so does what is no Kubernetes
object. What is added is added as text, so comments and formatting stay. Nothing is
written unless all input could be read, and holds no value that the API server would
refuse because of its type.

Output formats (-o):
  yaml   all input, with the additions (JSON input stays JSON)
  json   all objects as JSON, one after the other
  patch  one line of JSON for each object that something is added to: source, line,
         apiVersion, kind, namespace, name, and its JSON Patch (RFC 6902)
  diff   a unified diff of each file

Exit codes: 0 done, 1 --check found something missing, 2 the command line or the
input can't be used.`

const injectExamples = `  # What would be added?
  {{program}} inject -o diff deploy.yaml

  # Add it on the way into the cluster.
  helm template my-chart | {{program}} inject - | kubectl apply -f -

  # Fail a pipeline when a manifest lacks a default.
  {{program}} inject --check manifests/

  # As the cluster at hand would have it.
  {{program}} inject --kube-version 1.31 --pre-stop-sleep 15s -f deploy.yaml`

// defaultKubeVersion is what manifests are for unless somebody says otherwise: the
// version from which all that evenkeel adds is generally available.
const defaultKubeVersion = "1.33"

// injectOptions are the flags of inject.
type injectOptions struct {
	files       []string
	output      string
	check       bool
	quiet       bool
	kubeVersion string
	namespace   string
	withBudgets bool
	policy      policyFlags
}

// outputFormats are the values of --output.
var outputFormats = []string{"yaml", "json", "patch", "diff"}

func newInjectCommand(program string) *cobra.Command {
	var o injectOptions
	command := &cobra.Command{
		Use:     "inject [-f] FILE|DIRECTORY|-...",
		Short:   "Add the defaults to manifests, or check that nothing is missing",
		Long:    injectHelp,
		Example: strings.ReplaceAll(injectExamples, "{{program}}", program),
		RunE:    o.run,
	}
	fs := command.Flags()
	fs.SortFlags = false
	fs.StringArrayVarP(&o.files, "filename", "f", nil, "`FILE` or directory to read, or - for standard input; may be repeated.")
	fs.StringVarP(&o.output, "output", "o", "yaml", "`FORMAT` of the output: yaml, json, patch or diff.")
	fs.BoolVar(&o.check, "check", false, "Change nothing, and exit with 1 when something is missing. Prints manifests only with --output.")
	fs.BoolVarP(&o.quiet, "quiet", "q", false, "No report; warnings and errors only.")
	fs.StringVar(&o.kubeVersion, "kube-version", defaultKubeVersion, "Kubernetes `VERSION` of the oldest API server or node that the manifests are for.")
	fs.StringVarP(&o.namespace, "namespace", "n", "", "`NAMESPACE` of objects that name none.")
	fs.BoolVar(&o.withBudgets, "with-budgets", false, "Print a PodDisruptionBudget for each Deployment and StatefulSet that lacks one, behind the input.")
	o.policy.register(fs)
	_ = command.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputFormats, cobra.ShellCompDirectiveNoFileComp)) // fails for an unknown flag only
	return command
}

func (o *injectOptions) run(command *cobra.Command, args []string) error {
	i, err := o.injection()
	if err != nil {
		return err
	}
	names := append(slices.Clone(o.files), args...)
	if len(names) == 0 {
		return usageError{errors.New("no input; name files or directories, or - for standard input")}
	}
	if err := i.read(command.Context(), names, command.InOrStdin()); err != nil {
		return err
	}
	if err := i.review(); err != nil {
		return err
	}

	stdout, stderr := command.OutOrStdout(), command.ErrOrStderr()
	r := report{color: colored(stderr), check: o.check, quiet: o.quiet}
	text := r.text(i)
	missing := slices.ContainsFunc(i.workloads, (*workload).changed)
	if o.withBudgets {
		budgets, lack, err := i.addBudgets()
		if err != nil {
			return err
		}
		if missing = missing || lack; !o.quiet {
			text = append(budgets, text...)
		}
	}
	if _, err := stderr.Write(text); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if !o.check || command.Flags().Changed("output") {
		text, err := i.encode(o.output)
		if err != nil {
			return err
		}
		if o.output == "diff" && colored(stdout) {
			text = colorDiff(text)
		}
		if _, err := stdout.Write(text); err != nil {
			return fmt.Errorf("write output: %w", err)
		}
	}
	if o.check && missing {
		return errMissing
	}
	return nil
}

// injection is one run of inject.
type injection struct {
	injector  *patches.Injector
	config    patches.Config
	cluster   patches.Cluster
	namespace string // of objects that name none

	manifests []*manifest
	workloads []*workload
	// others is the number of objects that are no workloads, foreign that of documents
	// that are no objects.
	others, foreign int
	warnings        []warning
}

// warning is something that its author should know, at a line of a manifest.
type warning struct {
	manifest *manifest
	line     int
	text     string
}

// workload is an object with a pod template, or a Pod, and what is missing from it.
type workload struct {
	*object
	manifest *manifest
	result   patches.Result
}

func (w *workload) changed() bool { return len(w.result.Operations) > 0 }

// injection checks the flags.
func (o *injectOptions) injection() (*injection, error) {
	if !slices.Contains(outputFormats, o.output) {
		return nil, usageError{fmt.Errorf("--output=%q is no format; allowed: %s", o.output, strings.Join(outputFormats, ", "))}
	}
	if o.withBudgets && (o.output == "patch" || o.output == "diff") {
		return nil, usageError{fmt.Errorf("--with-budgets adds objects, which --output=%s has no place for; allowed: yaml, json", o.output)}
	}
	v, err := patches.ParseVersion(o.kubeVersion)
	if err != nil {
		return nil, usageError{fmt.Errorf("--kube-version: %w", err)}
	}
	config, err := o.policy.config()
	if err != nil {
		return nil, err
	}
	injector, err := patches.New(config)
	if err != nil {
		return nil, usageError{err}
	}
	return &injection{injector: injector, config: config, namespace: o.namespace,
		cluster: patches.Cluster{APIServer: v, OldestKubelet: v}}, nil
}

// read reads all input. The error names every file that can't be used, and why.
func (i *injection) read(ctx context.Context, names []string, stdin io.Reader) error {
	var failures []error
	stdinRead := false
	for _, name := range names {
		if name == "-" {
			if stdinRead {
				return usageError{errors.New(`"-" is given twice, but standard input can be read only once`)}
			}
			stdinRead = true
			text, err := readAll(ctx, stdin)
			if err != nil {
				return fmt.Errorf("read standard input: %w", err)
			}
			failures = append(failures, i.add("stdin", text))
			continue
		}
		paths, err := manifestPaths(name)
		if err != nil {
			failures = append(failures, err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				failures = append(failures, fmt.Errorf("read manifest: %w", err))
				continue
			}
			failures = append(failures, i.add(path, text))
		}
	}
	return errors.Join(failures...)
}

// add adds one manifest.
func (i *injection) add(name string, text []byte) error {
	m, err := readManifest(name, string(text))
	var at lineError
	if errors.As(err, &at) {
		return fmt.Errorf("%s:%d: %w", name, at.line, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	i.manifests = append(i.manifests, m)
	return nil
}

// readAll reads until the end, or until ctx is cancelled: a read from a terminal
// can't be interrupted.
func readAll(ctx context.Context, r io.Reader) ([]byte, error) {
	type outcome struct {
		text []byte
		err  error
	}
	done := make(chan outcome, 1)
	go func() {
		text, err := io.ReadAll(r)
		done <- outcome{text, err}
	}()
	select {
	case o := <-done:
		return o.text, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// manifestPaths returns the path itself for a file, and for a directory those of
// the manifests in and below it, sorted.
func manifestPaths(name string) ([]string, error) {
	if strings.Contains(name, "://") {
		return nil, fmt.Errorf("%s: URLs are not read; use curl -fsSL URL | evenkeel inject -", name)
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("find manifests: %w", err)
	}
	if !info.IsDir() {
		return []string{name}, nil
	}
	var paths []string
	root := name + string(filepath.Separator) // so that it may be a symbolic link
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path != root && strings.HasPrefix(entry.Name(), "."):
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		case !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)):
			return nil
		}
		if info, err := os.Stat(path); err != nil || info.IsDir() { // behind a symbolic link too
			return err
		}
		paths = append(paths, path)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find manifests: %w", err)
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("%s: the directory holds no *.yaml, *.yml or *.json", name)
	}
	return paths, nil
}

// namespaces holds what Namespaces say, by name.
type namespaces map[string]struct {
	annotations map[string]string
	disabled    bool
}

// review finds what is missing and adds it to the documents. The error names every
// object that can't be used, and why.
func (i *injection) review() error {
	all := make([][]*object, 0, len(i.manifests))
	known := namespaces{}
	for _, m := range i.manifests {
		var objects []*object
		for _, d := range m.documents {
			objects = append(objects, d.objects()...)
			if d.foreign() {
				i.foreign++
			}
		}
		for _, o := range objects {
			if o.APIVersion == "v1" && o.Kind == "Namespace" {
				i.reviewNamespace(m, o, known)
			}
		}
		all = append(all, objects)
	}
	var failures []error
	for k, m := range i.manifests {
		operations := map[*document][]patches.Change{}
		var order []*document
		for _, o := range all[k] {
			w := &workload{object: o, manifest: m}
			if err := i.reviewObject(w, known); err != nil {
				failures = append(failures, err)
			}
			if !w.changed() {
				continue
			}
			if operations[o.document] == nil {
				order = append(order, o.document)
			}
			for _, op := range w.result.Operations {
				op.Path = o.path + op.Path
				operations[o.document] = append(operations[o.document], op)
			}
		}
		for _, d := range order {
			edits, formatted, err := d.apply(operations[d])
			if err != nil {
				failures = append(failures, fmt.Errorf("%s:%d: %w", m.name, d.line, err))
				continue
			}
			if !formatted {
				i.warnings = append(i.warnings, warning{m, (&object{document: d}).line(), "the additions don't fit into the text " +
					"as it is (anchors, for example), so this document was formatted anew"})
			}
			if d.value, err = i.valueOf(d, operations[d]); err != nil {
				failures = append(failures, fmt.Errorf("%s:%d: %w", m.name, d.line, err))
			}
			d.edits = edits
		}
	}
	return errors.Join(failures...)
}

// valueOf returns the value of a document with operations applied.
func (*injection) valueOf(d *document, ops []patches.Change) ([]byte, error) {
	patch, err := json.Marshal(ops)
	if err != nil {
		return nil, fmt.Errorf("encode operations: %w", err)
	}
	return patched(d.value, patch)
}

// reviewNamespace notes what a Namespace says.
func (i *injection) reviewNamespace(m *manifest, o *object, known namespaces) {
	n := known[o.Metadata.Name]
	n.annotations = texts(o.Metadata.Annotations)
	labels := texts(o.Metadata.Labels)
	n.disabled = labels[policy.InjectLabel] == policy.Disabled
	known[o.Metadata.Name] = n
	_, problems := policy.Resolve(i.config.Base, i.config.Bounds,
		policy.Annotations{Source: policy.SourceNamespace, Values: n.annotations})
	allowed := policy.Enabled
	if n.disabled {
		allowed = policy.Disabled
	}
	problems = append(problems, policy.CheckLabels(policy.SourceNamespace, labels, allowed)...)
	for _, p := range problems {
		i.warn(m, o, p)
	}
}

// texts returns the members that are strings; others the API server refuses.
func texts(values map[string]any) map[string]string {
	texts := map[string]string{}
	for key, value := range values {
		if text, ok := value.(string); ok {
			texts[key] = text
		}
	}
	return texts
}

// reviewObject finds what is missing from an object, and counts it.
func (i *injection) reviewObject(w *workload, known namespaces) error {
	namespace := w.Metadata.Namespace
	if namespace == "" {
		namespace = i.namespace
	}
	for _, doubt := range doubts(w.object) {
		i.warnings = append(i.warnings, warning{w.manifest, doubt.line, title(w.object) + ": " + doubt.Error()})
	}
	if apiVersion, t := apiType(w.Kind); t == nil || apiVersion != w.APIVersion {
		i.others++
		return nil
	}
	if err := mistyped(w.object); err != nil {
		var at lineError
		errors.As(err, &at)
		return fmt.Errorf("%s:%d: %s: %w", w.manifest.name, at.line, title(w.object), err)
	}
	n := known[namespace]
	w.result = i.injector.Review(patches.Request{Operation: patches.Create, Object: w.value, Namespace: n.annotations,
		Cluster: i.cluster, Offline: true})
	switch {
	case w.result.Err != nil:
		return fmt.Errorf("%s:%d: %s: %w", w.manifest.name, w.line(), title(w.object), w.result.Err)
	case w.result.Decisions[0].Skip == patches.SkipKind:
		i.others++
		return nil
	case n.disabled:
		w.result = patches.Result{Kind: w.result.Kind, Name: w.result.Name, Patch: []byte("[]")}
		for _, name := range patches.Defaults() {
			w.result.Decisions = append(w.result.Decisions, patches.Decision{Default: name, Skip: patches.SkipOptedOut})
		}
	}
	i.workloads = append(i.workloads, w)
	for _, p := range w.result.Problems {
		if p.Source != policy.SourceNamespace || p.Code == policy.ProblemTarget { // else told at the Namespace
			i.warn(w.manifest, w.object, p)
		}
	}
	return nil
}

// warn notes a problem, with the line of the label or annotation that it is about.
func (i *injection) warn(m *manifest, o *object, p policy.Problem) {
	metadata := o.path + "/metadata"
	if p.Source == policy.SourcePodTemplate && o.Kind != "Pod" {
		metadata = o.path + "/spec/template/metadata"
	}
	line := o.line()
	for _, place := range []string{"/annotations", "/labels"} {
		if at, ok := o.document.lineOf(metadata + place + pointerTo(p.Key)); ok {
			line = at
			break
		}
	}
	i.warnings = append(i.warnings, warning{m, line, title(o) + ": " + p.String()})
}

// title names an object for people.
func title(o *object) string {
	name := o.name()
	if o.Metadata.Namespace != "" {
		name = o.Metadata.Namespace + "/" + name
	}
	return printable(strings.TrimSuffix(o.Kind+" "+name, " "))
}

// encode returns the output in a format.
func (i *injection) encode(format string) ([]byte, error) {
	var b bytes.Buffer
	switch format {
	case "yaml":
		for k, m := range i.manifests {
			text, err := udiff.Apply(m.text())
			if err != nil {
				return nil, fmt.Errorf("write manifest: %w", err)
			}
			if k > 0 {
				text = strings.TrimPrefix(text, byteOrderMark)
			}
			if len(i.manifests) > 1 {
				text = separated(text)
			}
			if before := b.Bytes(); len(before) > 0 {
				if before[len(before)-1] != '\n' {
					b.WriteByte('\n')
				}
				if line, _, _ := strings.Cut(text, "\n"); !marker(strings.TrimRight(line, "\r"), "---") {
					b.WriteString("---\n")
				}
			}
			b.WriteString(text)
		}
	case "json":
		for _, m := range i.manifests {
			for _, d := range m.documents {
				if d.value == nil {
					continue
				}
				if err := json.Indent(&b, d.value, "", "  "); err != nil {
					return nil, fmt.Errorf("write JSON: %w", err)
				}
				b.WriteByte('\n')
			}
		}
	case "patch":
		for _, w := range i.workloads {
			if !w.changed() {
				continue
			}
			line, err := json.Marshal(patchLine{Source: w.manifest.name, Line: w.line(), APIVersion: w.APIVersion, Kind: w.Kind,
				Namespace: w.Metadata.Namespace, Name: w.name(), Patch: w.result.Patch})
			if err != nil {
				return nil, fmt.Errorf("write patch: %w", err)
			}
			b.Write(line)
			b.WriteByte('\n')
		}
	case "diff":
		for _, m := range i.manifests {
			name := "/" + strings.TrimPrefix(filepath.ToSlash(m.name), "/")
			text, edits := m.text()
			unified, err := udiff.ToUnified("a"+name, "b"+name, text, edits, udiff.DefaultContextLines)
			if err != nil {
				return nil, fmt.Errorf("write diff: %w", err)
			}
			b.WriteString(renumbered(unified))
		}
	}
	return b.Bytes(), nil
}

// separated returns the text of a manifest with a separator between the objects of a
// JSON stream: kubectl, which goes from JSON to YAML at the first separator, does so
// behind a single object only.
func separated(text string) string {
	documents, err := splitJSON(text)
	if err != nil {
		return text
	}
	var b strings.Builder
	for k, d := range documents {
		if k > 0 {
			b.WriteString("\n---")
			if !strings.HasPrefix(d.before, "\n") {
				b.WriteByte('\n')
			}
		}
		b.WriteString(d.before + d.body + d.after)
	}
	return b.String()
}

// renumbered returns a unified diff in which each hunk says rightly where it begins
// in the result: udiff v0.4.1 forgets the lines between two edits of one hunk, and
// "git apply" looks there first.
func renumbered(unified string) string {
	if unified == "" {
		return ""
	}
	hunks := strings.SplitAfterN(unified, "\n", 3) // behind the two lines that name the files
	var b strings.Builder
	b.WriteString(hunks[0] + hunks[1])
	added := 0 // lines, by the hunks so far
	for line := range strings.Lines(hunks[2]) {
		switch line[0] {
		case '+':
			added++
		case '-':
			added--
		case '@':
			var from, to string
			if _, err := fmt.Sscanf(line, "@@ -%s +%s @@", &from, &to); err != nil {
				break
			}
			begin, _, _ := strings.Cut(from, ",")
			_, length, counted := strings.Cut(to, ",")
			if number, err := strconv.Atoi(begin); err == nil && number > 0 {
				to = strconv.Itoa(number + added)
				if counted {
					to += "," + length
				}
				line = fmt.Sprintf("@@ -%s +%s @@\n", from, to)
			}
		}
		b.WriteString(line)
	}
	return b.String()
}

// patchLine is one line of "inject -o patch".
type patchLine struct {
	Source     string          `json:"source"`
	Line       int             `json:"line"`
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Namespace  string          `json:"namespace,omitempty"`
	Name       string          `json:"name"`
	Patch      json.RawMessage `json:"patch"`
}

// report is what a person reads about a run.
type report struct {
	color, check, quiet bool
}

// text returns the report: a line for each workload, default and container, the
// reasons that occurred, warnings, and a summary.
func (r report) text(i *injection) []byte {
	var b bytes.Buffer
	if !r.quiet {
		r.table(&b, i)
	}
	warnings := slices.SortedStableFunc(slices.Values(i.warnings), func(a, b warning) int {
		return cmp.Or(cmp.Compare(slices.Index(i.manifests, a.manifest), slices.Index(i.manifests, b.manifest)), cmp.Compare(a.line, b.line))
	})
	for _, w := range warnings {
		_, _ = fmt.Fprintf(&b, "%s %s:%d: %s\n", r.paint(yellow, "warning:"), printable(w.manifest.name), w.line, printable(w.text)) // a Buffer doesn't fail
	}
	if !r.quiet {
		b.WriteString(r.summary(i) + "\n")
	}
	return b.Bytes()
}

// table writes the decisions and explains their reason codes.
func (r report) table(b *bytes.Buffer, i *injection) {
	const columns = 5
	var rows [][columns + 1]string
	var widths [columns]int
	occurred := map[patches.Skip]bool{}
	for _, w := range i.workloads {
		for _, d := range w.result.Decisions {
			row := [columns + 1]string{w.manifest.name + ":" + strconv.Itoa(w.line()), title(w.object), d.Default, d.Container, "added", d.Detail}
			switch {
			case d.Skip != patches.SkipNone && d.Changes:
				row[4], row[5] = "removed", string(d.Skip)+", "+d.Standing
				occurred[d.Skip] = true
			case d.Skip != patches.SkipNone:
				row[4], row[5] = "skipped", string(d.Skip)
				occurred[d.Skip] = true
			case !d.Changes:
				row[4] = "present"
			case d.Standing != "":
				row[4], row[5] = "changed", d.Detail+", was "+d.Standing
			case r.check:
				row[4] = "missing"
			}
			if d.Container == "" {
				row[3] = "-"
			}
			for c := range row {
				row[c] = printable(row[c])
				if c < columns {
					widths[c] = max(widths[c], utf8.RuneCountInString(row[c]))
				}
			}
			rows = append(rows, row)
		}
	}
	for _, row := range rows {
		for c := range columns {
			cell := row[c]
			if c == 4 {
				cell = r.paint(map[string]string{"added": green, "missing": red, "skipped": faint}[cell], cell)
			}
			b.WriteString(cell + strings.Repeat(" ", widths[c]-utf8.RuneCountInString(row[c])+2))
		}
		b.WriteString(row[columns] + "\n")
	}
	if len(occurred) > 0 {
		b.WriteString("\nWhy skipped:\n")
		width := 0
		for code := range occurred {
			width = max(width, len(code))
		}
		for _, reason := range patches.Reasons() {
			if occurred[reason.Code] {
				_, _ = fmt.Fprintf(b, "  %-*s  %s\n", width, reason.Code, reason.Text)
			}
		}
	}
	if len(rows) > 0 {
		b.WriteByte('\n')
	}
}

// summary returns the line at the end.
func (r report) summary(i *injection) string {
	changed := 0
	for _, w := range i.workloads {
		if w.changed() {
			changed++
		}
	}
	text := fmt.Sprintf("%s in %s: ", count(len(i.workloads), "workload"), count(len(i.manifests), "file"))
	switch {
	case len(i.workloads) == 0:
		text = "no workloads in " + count(len(i.manifests), "file")
	case changed == 0:
		text += "nothing is missing"
	case r.check:
		text += fmt.Sprintf("something is missing from %d", changed)
	default:
		text += fmt.Sprintf("defaults added to %d", changed)
	}
	if i.others > 0 {
		text += "; " + count(i.others, "other object") + " left alone"
	}
	if i.foreign > 0 {
		text += "; " + count(i.foreign, "document") + " passed over, without apiVersion and kind"
	}
	if len(i.warnings) > 0 {
		text += "; " + count(len(i.warnings), "warning")
	}
	return text
}

// count says a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return strconv.Itoa(n) + " " + thing + "s"
}

// printable returns text with everything escaped that could steer a terminal.
func printable(text string) string {
	if strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return text
	}
	quoted := strconv.Quote(text)
	return quoted[1 : len(quoted)-1]
}

// The colors, as ANSI escape sequences.
const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	faint  = "\x1b[2m"
	plain  = "\x1b[0m"
)

func (r report) paint(color, text string) string {
	if !r.color {
		return text
	}
	return color + text + plain
}

// colored reports whether w is a terminal whose user wants colors
// (https://no-color.org).
func colored(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

// colorDiff colors the added and removed lines of a unified diff.
func colorDiff(text []byte) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(text) {
		color := ""
		switch line[0] {
		case '+':
			color = green
		case '-':
			color = red
		}
		if color == "" {
			b.Write(line)
			continue
		}
		b.WriteString(color + strings.TrimSuffix(string(line), "\n") + plain + "\n")
	}
	return b.Bytes()
}

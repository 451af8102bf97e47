package inject

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aymanbagabas/go-udiff"
	"github.com/google/go-cmp/cmp"
	applier "gopkg.in/evanphx/json-patch.v4"
	kyaml "sigs.k8s.io/yaml"

	"github.com/evenkeel/evenkeel/internal/corpus"
	"github.com/evenkeel/evenkeel/manifest"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
)

var update = flag.Bool("update", false, "rewrite the expectations in testdata/diffs")

// manifestTexts returns the manifests of testdata/manifests and testdata/cases and those of the corpus, by file.
func manifestTexts(t testing.TB) (texts, wild map[string]string) {
	t.Helper()
	read := func(paths []string, err error) map[string]string {
		if err != nil {
			t.Fatal(err)
		}
		into := map[string]string{}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			into[filepath.Base(path)] = string(text)
		}
		return into
	}
	texts = read(corpus.Below(filepath.Join("..", "testdata", "manifests")))
	maps.Copy(texts, read(corpus.Below(filepath.Join("..", "testdata", "cases"))))
	return texts, read(corpus.Files())
}

// config is what the command line asks for without flags.
func config() Config {
	version := patches.Version{Major: 1, Minor: 33}
	return Config{Patches: patches.DefaultConfig(), Cluster: patches.Cluster{APIServer: version, OldestKubelet: version}}
}

// run injects into one file.
func run(t testing.TB, text string) (*Result, error) {
	t.Helper()
	f, err := manifest.Read("stdin", text)
	if err != nil {
		return nil, err
	}
	return Run(t.Context(), []*manifest.File{f}, config())
}

// encoded returns a result in a format.
func encoded(t testing.TB, r *Result, format string) string {
	t.Helper()
	text, err := r.Encode(format)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestInjectKeepsItsPromisesOnEveryManifest(t *testing.T) {
	texts, wild := manifestTexts(t)
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			if _, err := run(t, text); err != nil {
				t.Error(err)
			}
			checkLaws(t, text)
		})
	}
	for name, text := range wild {
		t.Run("corpus "+name, func(t *testing.T) {
			checkLaws(t, text)
			r, err := run(t, text)
			if err != nil || len(r.Warnings) > 0 {
				t.Fatalf("%v, %v", err, r)
			}
			changes := encoded(t, r, "diff")
			for line := range strings.Lines(changes) {
				flow := strings.Contains(line, "{") // where an addition changes the line
				if strings.HasPrefix(line, "-") && !strings.HasPrefix(line, "---") && !flow &&
					!strings.Contains(line, "terminationGracePeriodSeconds") {
					t.Errorf("a line of the user's is gone: %s", line)
				}
			}
		})
	}
}

// TestEveryCaseIsDecidedAsExpected injects into what once went wrong, or nearly. The comments of each file say why it
// is there, and what its report has to say.
func TestEveryCaseIsDecidedAsExpected(t *testing.T) {
	paths, err := corpus.Below(filepath.Join("..", "testdata", "cases"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		r, err := run(t, string(text))
		if err != nil {
			t.Fatal(err)
		}
		report := strings.Join(strings.Fields(string(r.Report(Style{}))), " ") + " "
		expected := regexp.MustCompile(`(?m)^# expect: (.*)$`).FindAllStringSubmatch(string(text), -1)
		if len(expected) == 0 {
			t.Errorf("%s expects nothing", path)
		}
		for _, row := range expected {
			if !strings.Contains(report, " "+row[1]+" ") {
				t.Errorf("%s: no row %q in the report\n%s", path, row[1], r.Report(Style{}))
			}
		}
	}
}

// TestTheDiffOfEveryManifestIsAsReviewed compares what is added to the manifests of
// testdata, to the letter, with what somebody has looked at.
func TestTheDiffOfEveryManifestIsAsReviewed(t *testing.T) {
	texts, _ := manifestTexts(t)
	for name, text := range texts {
		f, err := manifest.Read("testdata/"+name, text)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Run(t.Context(), []*manifest.File{f}, config())
		if err != nil {
			t.Fatal(err)
		}
		got := encoded(t, r, "diff")
		golden := filepath.Join("..", "testdata", "diffs", name+".diff")
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o666); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), got); d != "" {
			t.Errorf("%s: (-want +got)\n%s", name, d)
		}
	}
}

// checkLaws tests what holds for inject on any input.
func checkLaws(t *testing.T, text string) {
	t.Helper()
	r, err := run(t, text)
	if err != nil {
		for _, line := range strings.Split(err.Error(), "\n") {
			if !strings.HasPrefix(line, "stdin:") {
				t.Errorf("an error without a place: %q", line)
			}
			if strings.Contains(line, "please report it") && !strings.Contains(text, policy.InjectedAnnotation) {
				t.Errorf("a text that can't be written into: %s\n%s", line, text)
			}
		}
		return
	}
	output := encoded(t, r, "yaml")
	before, err := manifest.Read("", text)
	if err != nil {
		t.Fatalf("read input: %v", err)
	}
	after, err := manifest.Read("", output)
	if err != nil {
		t.Fatalf("read output: %v\n%s", err, output)
	}
	if len(before.Documents) != len(after.Documents) {
		t.Fatalf("%d documents became %d", len(before.Documents), len(after.Documents))
	}
	oracle := newOracle(t, before)
	changed := false
	values := []any{}
	for i, d := range before.Documents {
		now := after.Documents[i]
		if now.Value != nil {
			value, err := decodeJSON(now.Value)
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, value)
		}
		want := d.Value
		if d.Value != nil {
			want = oracle.document(t, d)
		}
		if d.Value == nil || sameValue(want, d.Value) {
			if d.Before+d.Body+d.Kept+d.After != now.Before+now.Body+now.Kept+now.After {
				t.Errorf("nothing is missing from document %d, but its text changed:\n%s", i,
					udiff.Unified("before", "after", d.Body, now.Body))
			}
			continue
		}
		changed = true
		if !sameValue(want, now.Value) {
			t.Errorf("document %d has not the value that the JSON patch gives: (-want +got)\n%s", i,
				cmp.Diff(string(want), string(now.Value)))
		}
		if d.Before != now.Before || d.After != now.After {
			t.Errorf("the surroundings of document %d changed", i)
		}
		for _, comment := range comments(d.Body) {
			if !strings.Contains(now.Body, comment) && now.Kept == d.Kept {
				t.Errorf("document %d lost the comment %q", i, comment)
			}
		}
	}

	if anew(r) && len(after.Documents) == 1 && after.Documents[0].IsJSON {
		t.Errorf("JSON is formatted anew:\n%s", text)
	}
	if r.Missing() != changed {
		t.Errorf("something is missing: %v, want %v", r.Missing(), changed)
	}
	second, err := run(t, output)
	if err != nil || encoded(t, second, "yaml") != output || second.Missing() {
		t.Errorf("a second run ends with %v and changes:\n%s", err, encoded(t, second, "diff"))
	}
	undone, err := Undo(t.Context(), mustRead(t, output).Files)
	if err == nil && !strings.Contains(text, policy.InjectedAnnotation) {
		if now := encoded(t, undone, "json"); !sameStream(t, encoded(t, mustRead(t, text), "json"), now) {
			t.Errorf("uninject gives another value back:\n%s\n%s", text, now)
		} else if back := encoded(t, undone, "yaml"); back != text {
			t.Errorf("uninject gives another text back:\n%s", udiff.Unified("before", "after", text, back))
		} else if again, err := Undo(t.Context(), mustRead(t, back).Files); err != nil ||
			encoded(t, again, "yaml") != back {
			t.Errorf("uninject takes more back at the second time: %v", err)
		} else if strings.Contains(fmt.Sprint(undone.Warnings), "keeps its present format") {
			t.Errorf("uninject warns: %v", undone.Warnings)
		}
	} else if err != nil && changed {
		t.Errorf("uninject: %v", err)
	}
	if applied := applyUnified(t, encoded(t, r, "diff"), text); applied != output {
		t.Errorf("the diff gives something else:\n%s", udiff.Unified("yaml", "diff", output, applied))
	}
	inJSON := encoded(t, r, "json")
	decoder := json.NewDecoder(strings.NewReader(inJSON))
	decoder.UseNumber()
	for i := 0; ; i++ {
		var value any
		if err := decoder.Decode(&value); errors.Is(err, io.EOF) {
			if i != len(values) {
				t.Errorf("JSON output has %d documents, want %d", i, len(values))
			}
			break
		} else if err != nil {
			t.Fatalf("read JSON output: %v", err)
		}
		if i >= len(values) || !cmp.Equal(values[i], value) {
			t.Errorf("document %d of the JSON output has another value than the YAML output:\nJSON:\n%s\nYAML:\n%s",
				i, inJSON, output)
		}
	}
	if lines := encoded(t, r, "patch"); (lines != "") != changed {
		t.Errorf("patch output: %q; something is missing: %v", lines, changed)
	}
}

// sameValue reports whether two JSON documents are the same value.
func sameValue(a, b []byte) bool {
	x, err1 := decodeJSON(a)
	y, err2 := decodeJSON(b)
	return err1 == nil && err2 == nil && cmp.Equal(x, y)
}

// decodeJSON decodes a value with its numbers as written.
func decodeJSON(raw []byte) (value any, err error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	err = d.Decode(&value)
	return value, err
}

// TestUninjectGivesTheInputBack injects into each manifest and takes it back: then it is what it was,
// byte for byte. Nothing of them is formatted anew.
func TestUninjectGivesTheInputBack(t *testing.T) {
	texts, corpus := manifestTexts(t)
	exact := 0
	for name, text := range merged(texts, corpus) {
		r, err := run(t, text)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		f, err := manifest.Read("stdin", encoded(t, r, "yaml"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		undone, err := Undo(t.Context(), []*manifest.File{f})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := encoded(t, undone, "yaml")
		switch {
		case anew(r):
			t.Errorf("%s is formatted anew", name)
		case got != text:
			t.Errorf("%s: something else came back (-before +after)\n%s", name, cmp.Diff(text, got))
		default:
			exact++
		}
		again, err := Undo(t.Context(), mustRead(t, got).Files)
		if err != nil || len(encoded(t, again, "diff")) > 0 {
			t.Errorf("%s: a second time takes back more: %v", name, err)
		}
	}
	if exact < 60 {
		t.Errorf("%d manifests come back byte for byte", exact)
	}
}

// nullsEverywhere has NULL for a null at every place that inject writes to.
const nullsEverywhere = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      annotations:NULL
      labels: {app: web}
    spec:
      affinity:NULL
      tolerations:NULL
      topologySpreadConstraints:NULL
      terminationGracePeriodSeconds:NULL
      containers:
      - lifecycle:NULL
        name: a
        ports: [{containerPort: 80}]
        readinessProbe:NULL
      - name: b
        ports: [{containerPort: 81}]
        lifecycle:
          preStop:NULL
        readinessProbe:NULL
---
apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations:NULL
  labels:NULL
spec:
  containers:
  - {name: c, ports: [{containerPort: 82}]}
---
apiVersion: v1
kind: List
items:
- apiVersion: apps/v1
  kind: StatefulSet
  metadata: {name: db}
  spec:
    selector: {matchLabels: {app: db}}
    template:
      metadata:NULL
      spec:
        containers:
        - name: db
          ports: [{containerPort: 83}]
          lifecycle:
            preStop:NULL
        affinity:
          podAntiAffinity:NULL`

// TestUninjectGivesEveryNullBack has a null at every place that inject writes to, in every way to write
// it, in files of every form.
func TestUninjectGivesEveryNullBack(t *testing.T) {
	for _, spread := range []policy.Spread{policy.SpreadAntiAffinity, policy.SpreadTopology} {
		c := config()
		c.Patches.Base.Spread, c.Patches.Base.NodeLoss = spread, 60*time.Second
		for _, null := range []string{"", " null", " ~", "  Null", " NULL # why", " # null", " # why",
			" \n                 ~"} {
			for _, end := range []string{"", "\n", "\n---\n", "\n# the end"} {
				for _, newline := range []string{"\n", "\r\n"} {
					text := strings.ReplaceAll(strings.ReplaceAll(nullsEverywhere, "NULL", null)+end, "\n", newline)
					r, err := Run(t.Context(), mustRead(t, text).Files, c)
					if err != nil || anew(r) {
						t.Fatalf("null %q: %v, %v", null, err, r)
					}
					for _, w := range r.Workloads {
						if !w.Changed() {
							t.Errorf("nothing is added to %s", w.Title())
						}
					}
					undone, err := Undo(t.Context(), mustRead(t, encoded(t, r, "yaml")).Files)
					if err != nil {
						t.Fatal(err)
					}
					if got := encoded(t, undone, "yaml"); got != text {
						t.Errorf("null %q, end %q: (-before +after)\n%s", null, end, cmp.Diff(text, got))
					}
				}
			}
		}
	}
}

// TestUninjectGivesAliasesBack has aliases, anchors and merge keys where inject adds something.
func TestUninjectGivesAliasesBack(t *testing.T) {
	const head = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n"
	const selector = "  selector: {matchLabels: {app: web}}\n"
	const template = "    metadata: {labels: {app: web}}\n    spec:\n      containers:\n      - name: web\n" +
		"        ports: [{containerPort: 80}]\n"
	const labelled = selector + "  template:\n    metadata: {labels: {app: web}}\n    spec:\n"
	const pod = "  apiVersion: v1\n  kind: Pod\n  metadata:\n    name: N\n"
	const base = "      containers:\n      - &web\n        name: a # first\n        ports: &p\n" +
		"        - containerPort: 80\n        lifecycle: &l\n          postStart: {exec: {command: [\"true\"]}} # here\n"
	for name, text := range map[string]string{
		"a template that is an alias": head + "x: &t\n" + template + "spec:\n" + selector + "  template: *t # why\n",
		"a template that a merge key brings": head + "x: &s\n  template:\n  " +
			strings.ReplaceAll(template, "\n    ", "\n      ") +
			"spec:\n  <<: *s\n" + selector,
		"containers that a merge key brings": head + "x: &s\n  containers:\n  - {name: web, ports: [{containerPort: 80}]}\n" +
			"spec:\n" + labelled + "      <<: *s\n      hostNetwork: false\n",
		"a container that is an alias": head + "x: &c\n  name: web\n  ports: [{containerPort: 80}]\nspec:\n" + labelled +
			"      containers:\n      - *c # why\n      - name: b",
		"labels that are an alias": head + "spec:\n  selector:\n    matchLabels: &l\n      app: web\n" +
			"  template:\n    metadata:\n      labels: *l\n    spec:\n" +
			"      containers:\n      - {name: web, ports: [{containerPort: 80}]}\n",
		"a probe that is an alias": head + "spec:\n" + labelled +
			"      containers:\n      - name: web\n        ports: [{containerPort: 80}]\n        livenessProbe: &p\n" +
			"          httpGet: {port: 80}\n        startupProbe: *p\n",
		"a spec with an anchor that another Pod has": "apiVersion: v1\nkind: List\nitems:\n" +
			strings.ReplaceAll("- "+pod[2:]+"  spec: &s\n    containers:\n    - {name: web, ports: [{containerPort: 80}]}\n"+
				"- "+pod[2:]+"  spec: *s\n", "N", "web"),
		"an element that merges another one": head + "spec:\n" + labelled + base +
			"      - <<: *web # b is a\n        name: b\n",
		"an element that is another one, with a member above": head + "spec:\n" + labelled + base +
			"      - # the second\n        image: b\n        <<: *web\n        name: b\n        # and no more\n",
		"an element that overrides what changes": head + "spec:\n" + labelled + base +
			"      - <<: *web\n        name: b\n        lifecycle: {preStop: {sleep: {seconds: 3}}}\n" +
			"      - {name: c}\n",
		"an element that merges a list of others": head + "x: &x {image: x, args: [x, z], name: x}\nspec:\n" +
			labelled + base + "      - <<: [*x, *web] # both\n        name: b\n" +
			"      - name: c\n        ports: *p\n",
		"elements that merge one another": head + "spec:\n" + labelled + base +
			"      - &b\n        <<: *web\n        name: b\n      - <<: *b\n        name: c\n        ports: []\n" +
			"      - <<: [*b, *web]\n        name: d\n",
		"elements in braces that merge another one": head + "spec:\n" + labelled + base +
			"      - {<<: *web, name: \"b\"} # *a }\n      - { <<: [*web, *a], name: 'c' , ports: *p}\n",
		"a spec in braces": "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\n" +
			"x: &x {postStart: {sleep: {seconds: 1}}, \"y}\": '*z # {'}\nspec: {containers: [{name: a, lifecycle: *x, " +
			"ports: [{containerPort: 80}]}, {name: b, lifecycle: {<<: *x}}], \"nodeName\": '*x'} # } and\n",
		"aliases in braces": "x: &x {lifecycle: {postStart: {sleep: {seconds: 1}}}}\n" + head + "spec:\n" + labelled + base +
			"      - {name: b, lifecycle: *l, args: [\"*.x\", '*p']}\n      - {<<: *x, name: c}\n" +
			"y: [*web, {z: *web}]\nz: {z: {z: {z: *l}}}\n",
		"mappings that merge a Pod that changes": "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: &s\n" +
			"  nodeName: |\n    a\n    b\n  # the only one\n  containers: [{name: web, ports: [{containerPort: 80}]}]\n" +
			"x:\n  one:\n    <<: *s\n  two:\n    x: 1\n\n    <<:   *s\n# three\n  three: *s\n",
		"values that have what could be an anchor's in a comment": head + "x: &p\n" +
			"- containerPort: 80\ny: &y\n  name: b\n  image: b\nspec:\n" + labelled +
			"      containers:\n      - name: web\n        ports: # *p\n" +
			"        - containerPort: 80\n      - # *y\n        name: b\n        image: b\n      - <<: *y # <<\n" +
			"        name: c\n        image: # <<\n          b\n",
		"affinity that is an alias": head + "spec:\n" + labelled +
			"      containers: [{name: web, ports: [{containerPort: 80}]}]\n      affinity: *a\nx:\n- *a\n",
	} {
		text = strings.Replace(text, "kind: Deployment\n", "kind: Deployment\na: &a\n  nodeAffinity: {}\n", 1)
		for _, text := range []string{text, strings.ReplaceAll(text, "\n", "\r\n"), strings.ReplaceAll(text, "\n", "\r"),
			strings.TrimSuffix(text, "\n")} {
			r, err := run(t, text)
			if err != nil || anew(r) || !r.Missing() {
				t.Errorf("%s: %v, %v\n%s", name, err, r, text)
				continue
			}
			undone, err := Undo(t.Context(), mustRead(t, encoded(t, r, "yaml")).Files)
			if err != nil {
				t.Fatal(err)
			}
			if got := encoded(t, undone, "yaml"); got != text {
				t.Errorf("%s: (-before +after)\n%s", name, udiff.Unified("before", "after", text, got))
			}
			checkLaws(t, text)
		}
	}
}

// anew reports whether inject says that a document was formatted anew.
func anew(r *Result) bool { return strings.Contains(fmt.Sprint(r.Warnings), "formatted anew") }

// merged returns the manifests of testdata/manifests and those of the corpus, which have names in common.
func merged(texts, corpus map[string]string) map[string]string {
	into := maps.Clone(texts)
	for name, text := range corpus {
		into["corpus/"+name] = text
	}
	return into
}

// mustRead returns a manifest to which nothing was done.
func mustRead(t *testing.T, text string) *Result {
	t.Helper()
	f, err := manifest.Read("stdin", text)
	if err != nil {
		t.Fatal(err)
	}
	return &Result{Files: []*manifest.File{f}}
}

// sameStream reports whether two streams of JSON have the same values.
func sameStream(t *testing.T, a, b string) bool {
	t.Helper()
	read := func(text string) (values []any) {
		d := json.NewDecoder(strings.NewReader(text))
		for d.More() {
			var value any
			if err := d.Decode(&value); err != nil {
				t.Fatal(err)
			}
			values = append(values, value)
		}
		return values
	}
	return cmp.Equal(read(a), read(b))
}

// hunk matches the head of a hunk of a unified diff.
var hunk = regexp.MustCompile(`^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,\d+)? @@`)

// applyUnified applies a unified diff as patch(1) does, without any tolerance.
func applyUnified(t *testing.T, unified, text string) string {
	t.Helper()
	lines := strings.SplitAfter(text, "\n")
	var result []string
	at, kind := 0, byte(0)
	for line := range strings.Lines(unified) {
		content := line[1:]
		switch {
		case line[0] == '\\': // "No newline at end of file", of the line before
			if kind != '-' {
				result[len(result)-1] = strings.TrimSuffix(result[len(result)-1], "\n")
			}
		case at == 0 && len(result) == 0 && (strings.HasPrefix(line, "--- ") || strings.HasPrefix(line, "+++ ")):
		case line[0] == '@':
			match := hunk.FindStringSubmatch(line)
			start, _ := strconv.Atoi(match[1])
			if match[2] != "0" {
				start--
			}
			result = append(result, lines[at:start]...)
			at = start
			if begin, _ := strconv.Atoi(match[3]); begin != len(result)+1 && begin != 0 {
				t.Errorf("a hunk begins in line %d of the result, and says %s", len(result)+1, strings.TrimSpace(line))
			}
		case line[0] == '+':
			result = append(result, content)
		default:
			if strings.TrimSuffix(lines[at], "\n") != strings.TrimSuffix(content, "\n") {
				t.Errorf("the diff does not apply: line %d is %q, and the diff says %q", at+1, lines[at], content)
			}
			at++
			if line[0] == ' ' {
				result = append(result, content)
			}
		}
		kind = line[0]
	}
	return strings.Join(append(result, lines[at:]...), "")
}

// comment matches what is a comment wherever it stands, or text that looks like one.
var comment = regexp.MustCompile(`(?m)(?:^|[ \t])(#[^\r\n]*)`)

func comments(text string) []string {
	found := []string{}
	for _, match := range comment.FindAllStringSubmatch(text, -1) {
		found = append(found, strings.TrimSpace(match[1]))
	}
	return found
}

// oracle says what inject should make of a document, by another way: the patches of
// its objects, applied to each of them.
type oracle struct {
	injector *patches.Injector
	// namespaces are the Namespaces among the input.
	namespaces map[string]*manifest.Object
	// services are the Services among the input.
	services patches.ServicesByNamespace
}

func newOracle(t *testing.T, f *manifest.File) *oracle {
	t.Helper()
	injector, err := patches.New(patches.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	o := &oracle{injector, map[string]*manifest.Object{}, patches.ServicesByNamespace{}}
	for _, object := range f.Objects() {
		if object.APIVersion == "v1" && object.Kind == "Namespace" {
			o.namespaces[object.Metadata.Name] = object
		}
		if object.APIVersion == "v1" && object.Kind == "Service" {
			_ = o.services.Add(object.Value, "") // what can't be read is no evidence
		}
	}
	return o
}

// document returns the value that a document should have.
func (o *oracle) document(t *testing.T, d *manifest.Document) []byte {
	t.Helper()
	raw := []byte(strings.TrimSpace(d.Body))
	if !d.IsJSON { // in YAML a number such as -0 has another form than in JSON
		var err error
		if raw, err = kyaml.YAMLToJSON([]byte(d.Body)); err != nil {
			t.Fatal(err)
		}
	}
	value, err := decodeJSON(raw)
	if err != nil {
		t.Fatal(err)
	}
	raw, err = json.Marshal(o.value(t, value, "", ""))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// value returns the value that an object should have. The items of a typed list
// have the kind and apiVersion given.
func (o *oracle) value(t *testing.T, value any, apiVersion, kind string) any {
	t.Helper()
	members, ok := value.(map[string]any)
	if !ok {
		return value
	}
	bare := kind != "" && members["kind"] == nil && members["apiVersion"] == nil
	if bare {
		members["kind"], members["apiVersion"] = kind, apiVersion
		defer func() { delete(members, "kind"); delete(members, "apiVersion") }()
	}
	ownKind, _ := members["kind"].(string)
	ownVersion, _ := members["apiVersion"].(string)
	if items, ok := members["items"].([]any); ok && strings.HasSuffix(ownKind, "List") {
		for i := range items {
			items[i] = o.value(t, items[i], ownVersion, strings.TrimSuffix(ownKind, "List"))
		}
		return value
	}
	raw, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	metadata, _ := members["metadata"].(map[string]any)
	name, _ := metadata["namespace"].(string)
	version := patches.Version{Major: 1, Minor: 33}
	request := patches.Request{Operation: patches.Create, Object: raw, Offline: true, Services: o.services[name],
		Cluster: patches.Cluster{APIServer: version, OldestKubelet: version}}
	if n := o.namespaces[name]; n != nil {
		if n.Metadata.Labels[policy.InjectLabel] == policy.Disabled {
			return value
		}
		request.Namespace = n.Annotations()
	}
	patch, err := applier.DecodePatch(o.injector.Review(request).Patch)
	if err != nil {
		t.Fatal(err)
	}
	now, err := patch.Apply(raw)
	if err != nil {
		t.Fatal(err)
	}
	result, err := decodeJSON(now)
	if err != nil {
		t.Fatal(err)
	}
	if bare {
		delete(result.(map[string]any), "kind")
		delete(result.(map[string]any), "apiVersion")
	}
	return result
}

// FuzzInject tests the laws on any text.
func FuzzInject(f *testing.F) {
	texts, _ := manifestTexts(f)
	for _, text := range texts {
		f.Add(text)
	}
	for _, null := range []string{"", " ~", " # null"} {
		f.Add(strings.ReplaceAll(nullsEverywhere, "NULL", null))
	}
	f.Add("{apiVersion: v1, kind: Pod, metadata: {name: a, labels: ~, annotations: }, spec: {affinity: ~, containers: " +
		"[{name: a, ports: [{containerPort: 1}], lifecycle: {preStop: Null }, readinessProbe: }]}}")
	for _, text := range oddForms(f) {
		f.Add(text)
	}
	for _, text := range oddJSON() {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<14 {
			return
		}
		checkLaws(t, text)
	})
}

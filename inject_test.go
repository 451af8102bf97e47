package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/aymanbagabas/go-udiff"
	"github.com/google/go-cmp/cmp"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	kyaml "sigs.k8s.io/yaml"

	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
)

// manifestTexts returns the manifests of testdata and, where it is there, of the
// corpus of real projects: the directory that CORPUS names, or ../shared/corpus.
func manifestTexts(t testing.TB) (texts, corpus map[string]string) {
	t.Helper()
	texts, corpus = map[string]string{}, map[string]string{}
	read := func(into map[string]string, dir string) {
		paths, err := manifestPaths(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			into[filepath.Base(path)] = string(text)
		}
	}
	read(texts, "testdata/manifests")
	dir := os.Getenv("CORPUS")
	if dir == "" {
		dir = "../shared/corpus"
		if _, err := os.Stat(dir); err != nil {
			t.Log("NOTE: no corpus of real projects: set CORPUS to a directory of manifests. Only testdata/manifests is tested.")
			return texts, corpus
		}
	}
	read(corpus, dir)
	return texts, corpus
}

func TestReadingStandardInputEndsWhenTheCommandIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	silent, writer := io.Pipe() // that nobody writes to
	defer func() { _ = writer.Close() }()
	var stdout, stderr bytes.Buffer
	if code := run(ctx, []string{"evenkeel", "inject", "-"}, silent, &stdout, &stderr); code != exitFailed || stdout.Len() > 0 {
		t.Errorf("exit %d, stdout %q", code, &stdout)
	}
}

func TestDirectoriesAreFoundBehindSymbolicLinks(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(dir, filepath.Join(dir, ".link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte("a: 1\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a.yaml", filepath.Join(dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{dir, dir + "/", filepath.Join(dir, ".link")} {
		paths, err := manifestPaths(name)
		if want := []string{filepath.Join(name, "a.yaml"), filepath.Join(name, "b.yaml")}; err != nil || !slices.Equal(paths, want) {
			t.Errorf("%s: %v, %q, want %q", name, err, paths, want)
		}
	}
}

func TestInjectKeepsItsPromisesOnEveryManifest(t *testing.T) {
	texts, corpus := manifestTexts(t)
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			if _, report, code := cli(t, text, "evenkeel", "inject", "-"); code != exitDone {
				t.Errorf("exit %d\n%s", code, report)
			}
			checkLaws(t, text)
		})
	}
	for name, text := range corpus {
		t.Run("corpus "+name, func(t *testing.T) {
			checkLaws(t, text)
			changes, report, code := cli(t, text, "evenkeel", "inject", "-q", "-o", "diff", "-")
			if code != exitDone || report != "" {
				t.Errorf("exit %d\n%s", code, report)
			}
			for line := range strings.Lines(changes) {
				if strings.HasPrefix(line, "-") && !strings.HasPrefix(line, "---") && !strings.Contains(line, "terminationGracePeriodSeconds") {
					t.Errorf("a line of the user's is gone: %s", line)
				}
			}
		})
	}
}

// TestTheDiffOfEveryManifestIsAsReviewed compares what is added to the manifests of
// testdata, to the letter, with what somebody has looked at.
func TestTheDiffOfEveryManifestIsAsReviewed(t *testing.T) {
	paths, err := manifestPaths("testdata/manifests")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		got, _, code := cli(t, "", "evenkeel", "inject", "-q", "-o", "diff", path)
		if code != exitDone {
			t.Errorf("%s: exit %d", path, code)
		}
		golden := filepath.Join("testdata", "diffs", filepath.Base(path)+".diff")
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
			t.Errorf("%s: (-want +got)\n%s", path, d)
		}
	}
}

// checkLaws tests what holds for inject on any input.
func checkLaws(t *testing.T, text string) {
	t.Helper()
	output, report, code := cli(t, text, "evenkeel", "inject", "-")
	if code != exitDone {
		if output != "" || !strings.Contains(report, "Error: ") || code != exitFailed {
			t.Errorf("exit %d, report %q, and on stdout %q", code, report, output)
		}
		return
	}
	before, err := readManifest("", text)
	if err != nil {
		t.Fatalf("read input: %v", err)
	}
	after, err := readManifest("", output)
	if err != nil {
		t.Fatalf("read output: %v\n%s", err, output)
	}
	if len(before.documents) != len(after.documents) {
		t.Fatalf("%d documents became %d", len(before.documents), len(after.documents))
	}
	oracle := newOracle(t, before)
	changed := false
	values := []any{}
	for i, d := range before.documents {
		now := after.documents[i]
		if now.value != nil {
			value, err := decodeJSON(now.value)
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, value)
		}
		want := d.value
		if d.value != nil {
			want = oracle.document(t, d)
		}
		if d.value == nil || sameValue(want, d.value) {
			if d.before+d.body+d.after != now.before+now.body+now.after {
				t.Errorf("nothing is missing from document %d, but its text changed:\n%s", i, udiff.Unified("before", "after", d.body, now.body))
			}
			continue
		}
		changed = true
		if !sameValue(want, now.value) {
			t.Errorf("document %d has not the value that the JSON patch gives: (-want +got)\n%s", i, cmp.Diff(string(want), string(now.value)))
		}
		if d.before != now.before || d.after != now.after {
			t.Errorf("the surroundings of document %d changed", i)
		}
		for _, comment := range comments(d.body) {
			if !strings.Contains(now.body, comment) {
				t.Errorf("document %d lost the comment %q", i, comment)
			}
		}
	}

	again, _, code := cli(t, output, "evenkeel", "inject", "-")
	if code != exitDone || again != output {
		t.Errorf("a second run exits with %d and changes:\n%s", code, udiff.Unified("first", "second", output, again))
	}
	if stdout, _, code := cli(t, output, "evenkeel", "inject", "--check", "-"); code != exitDone || stdout != "" {
		t.Errorf("--check of the output exits with %d and writes %q", code, stdout)
	}
	if _, _, code := cli(t, text, "evenkeel", "inject", "--check", "-"); code != exitDone && !changed || code != exitMissing && changed {
		t.Errorf("--check of the input exits with %d; something is missing: %v", code, changed)
	}
	unified, _, _ := cli(t, text, "evenkeel", "inject", "-q", "-o", "diff", "-")
	if applied := applyUnified(t, unified, text); applied != output {
		t.Errorf("the diff gives something else:\n%s", udiff.Unified("yaml", "diff", output, applied))
	}
	encoded, _, _ := cli(t, text, "evenkeel", "inject", "-q", "-o", "json", "-")
	decoder := json.NewDecoder(strings.NewReader(encoded))
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
			t.Errorf("document %d of the JSON output has another value than the YAML output:\nJSON:\n%s\nYAML:\n%s", i, encoded, output)
		}
	}
	lines, _, _ := cli(t, text, "evenkeel", "inject", "-q", "-o", "patch", "-")
	if (lines != "") != changed {
		t.Errorf("patch output: %q; something is missing: %v", lines, changed)
	}
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
	namespaces map[string]*object
}

func newOracle(t *testing.T, m *manifest) *oracle {
	t.Helper()
	injector, err := patches.New(patches.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	o := &oracle{injector, map[string]*object{}}
	for _, d := range m.documents {
		for _, object := range d.objects() {
			if object.APIVersion == "v1" && object.Kind == "Namespace" {
				o.namespaces[object.Metadata.Name] = object
			}
		}
	}
	return o
}

// document returns the value that a document should have.
func (o *oracle) document(t *testing.T, d *document) []byte {
	t.Helper()
	raw := []byte(strings.TrimSpace(d.body))
	if !d.isJSON { // in YAML a number such as -0 has another form than in JSON
		var err error
		if raw, err = kyaml.YAMLToJSON([]byte(d.body)); err != nil {
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
	request := patches.Request{Operation: patches.Create, Object: raw, Offline: true,
		Cluster: patches.Cluster{APIServer: version, OldestKubelet: version}}
	if n := o.namespaces[name]; n != nil {
		if n.Metadata.Labels[policy.InjectLabel] == policy.Disabled {
			return value
		}
		request.Namespace = texts(n.Metadata.Annotations)
	}
	now, err := patched(raw, o.injector.Review(request).Patch)
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
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<14 {
			return
		}
		checkLaws(t, text)
	})
}

// FuzzEdit adds a member to any mapping of any document: what comes out is the value
// that the JSON patch gives, or an error.
func FuzzEdit(f *testing.F) {
	texts, _ := manifestTexts(f)
	for _, text := range texts {
		f.Add(text, uint(len(text)))
	}
	f.Fuzz(func(t *testing.T, text string, place uint) {
		if len(text) > 1<<14 {
			return
		}
		m, err := readManifest("", text)
		if err != nil {
			return
		}
		if before, edits := m.text(); before != text || len(edits) != 0 {
			t.Fatalf("the documents are not the text: %q", before)
		}
		for _, d := range m.documents {
			value, err := decodeJSON(d.value)
			if err != nil {
				continue // an empty document
			}
			pointers := mappings(nil, "", value)
			if len(pointers) == 0 {
				continue
			}
			added := json.RawMessage(`{"list":[{"a":1,"b":"10"},{"c":"yes"}],"text":"a\nb: c # d"}`)
			ops := []patches.Change{
				{Operation: "add", Path: pointers[place%uint(len(pointers))] + "/evenkeel.dev~1added", Value: added},
				{Operation: "add", Path: pointers[(place/7)%uint(len(pointers))] + "/second", Value: json.RawMessage("7")},
			}
			edits, _, err := d.apply(ops)
			if err != nil {
				continue
			}
			body, err := udiff.Apply(d.body, edits)
			if err != nil {
				t.Fatalf("apply edits: %v", err)
			}
			patch, err := json.Marshal(ops)
			if err != nil {
				t.Fatal(err)
			}
			want, err := patched(d.value, patch)
			if err != nil {
				t.Fatal(err)
			}
			now, err := readManifest("", d.before+body+d.after)
			if err != nil {
				t.Fatalf("read result: %v\n%s", err, body)
			}
			if len(now.documents) != 1 || !sameValue(now.documents[0].value, want) {
				t.Fatalf("wrong value: %s", body)
			}
		}
	})
}

// mappings returns the JSON pointers to all objects in a value, sorted.
func mappings(found []string, pointer string, value any) []string {
	switch value := value.(type) {
	case map[string]any:
		found = append(found, pointer)
		for _, key := range slices.Sorted(maps.Keys(value)) {
			found = mappings(found, pointer+"/"+strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1"), value[key])
		}
	case []any:
		for i := range value {
			found = mappings(found, pointer+"/"+strconv.Itoa(i), value[i])
		}
	}
	return found
}

// TestKubectlReadsWhatIsMadeOfSeveralFiles reads the output as kubectl does.
func TestKubectlReadsWhatIsMadeOfSeveralFiles(t *testing.T) {
	const stream, object, yaml = `{"a":1}` + "\n" + `{"a":2} {"a":3}`, `{"a":4}` + "\n", "a: 5\n---\na: 6\n"
	for name, files := range map[string][]string{
		"a JSON stream":                     {stream},
		"a JSON stream before YAML":         {stream, yaml},
		"a JSON stream behind YAML":         {yaml, stream},
		"JSON streams":                      {stream, stream},
		"a JSON object before YAML":         {object, yaml},
		"a JSON stream between JSON, YAML":  {object, stream, yaml},
		"a JSON stream of lines that end":   {stream + "\n\n", yaml},
		"JSON between separators with YAML": {object + "---\n" + object, yaml, object},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			args, want := []string{"evenkeel", "inject", "-q"}, 0
			for i, text := range files {
				path := filepath.Join(dir, strconv.Itoa(i)+".yaml")
				if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
					t.Fatal(err)
				}
				args = append(args, path)
				want += strings.Count(text, "a")
			}
			output, report, code := cli(t, "", args...)
			if code != exitDone {
				t.Fatalf("exit %d: %s", code, report)
			}
			decoder := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(output), 4096)
			read := 0
			for ; ; read++ {
				var value map[string]int
				if err := decoder.Decode(&value); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("kubectl does not read object %d: %v\n%s", read+1, err, output)
				}
			}
			if read != want {
				t.Errorf("kubectl reads %d objects, want %d:\n%s", read, want, output)
			}
		})
	}
}

// TestColorsAreForTerminalsWhoseUsersWantThem has the master of a pseudo-terminal for a terminal.
func TestColorsAreForTerminalsWhoseUsersWantThem(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo-terminal: %v", err)
	}
	t.Cleanup(func() { _ = terminal.Close() })
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	for _, c := range []struct {
		name, noColor, term string
		w                   io.Writer
		want                bool
	}{
		{"a terminal gets colors", "", "xterm", terminal, true},
		{"NO_COLOR is respected", "1", "xterm", terminal, false},
		{"NO_COLOR is respected whatever its value", "0", "xterm", terminal, false},
		{"a terminal that can do nothing gets none", "", "dumb", terminal, false},
		{"a file gets none", "", "xterm", file, false},
		{"a buffer gets none", "", "xterm", &bytes.Buffer{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("NO_COLOR", c.noColor)
			t.Setenv("TERM", c.term)
			if got := colored(c.w); got != c.want {
				t.Errorf("colors: %v, want %v", got, c.want)
			}
		})
	}
}

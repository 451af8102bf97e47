package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/aymanbagabas/go-udiff"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
)

// FuzzEdit adds a member to any mapping of any document: what comes out is the value
// that the JSON patch gives, or an error.
func FuzzEdit(f *testing.F) {
	paths, err := filepath.Glob("../testdata/manifests/*.[yj]*")
	if err != nil || len(paths) == 0 {
		f.Fatalf("no manifests: %v", err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text), uint(len(text)))
	}
	f.Fuzz(func(t *testing.T, text string, place uint) {
		if len(text) > 1<<14 {
			return
		}
		m, err := Read("", text)
		if err != nil {
			return
		}
		if before, edits := m.text(); before != text || len(edits) != 0 {
			t.Fatalf("the documents are not the text: %q", before)
		}
		for _, d := range m.Documents {
			value, err := decodeJSON(d.Value)
			if err != nil {
				continue // an empty document
			}
			pointers := mappings(nil, "", value)
			if len(pointers) == 0 {
				continue
			}
			patch, err := json.Marshal([]map[string]any{
				{"op": "add", "path": pointers[place%uint(len(pointers))] + "/evenkeel.dev~1added",
					"value": json.RawMessage(`{"list":[{"a":1,"b":"10"},{"c":"yes"}],"text":"a\nb: c # d"}`)},
				{"op": "add", "path": pointers[(place/7)%uint(len(pointers))] + "/second", "value": 7},
			})
			if err != nil {
				t.Fatal(err)
			}
			want, err := patched(d.Value, patch)
			if err != nil {
				t.Fatal(err)
			}
			changes, err := changesOf(Patch{&Object{document: d}, patch})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.write(changes, Record{}); err != nil {
				continue
			}
			body, err := udiff.Apply(d.Body, d.edits)
			if err != nil {
				t.Fatalf("apply edits: %v", err)
			}
			now, err := Read("", d.Before+body+d.After)
			if err != nil {
				t.Fatalf("read result: %v\n%s", err, body)
			}
			if len(now.Documents) != 1 || !sameValue(now.Documents[0].Value, want) {
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
			found = mappings(found, pointer+PointerTo(key), value[key])
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
			var all []*File
			want := 0
			for i, text := range files {
				f, err := Read(strconv.Itoa(i)+".yaml", text)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, f)
				want += strings.Count(text, "a")
			}
			output, err := Join(all)
			if err != nil {
				t.Fatal(err)
			}
			decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(output), 4096)
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

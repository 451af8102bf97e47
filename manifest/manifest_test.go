package manifest

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadManifest(t *testing.T) {
	for _, c := range []struct {
		name, text string
		// want holds the line and the value of each document, or what the error names.
		want []string
	}{
		{"an empty file has one empty document", "", []string{"1 "}},
		{"comments alone are an empty document", "# a\n", []string{"1 "}},
		{"a separator at the begin makes no document before it", "---\na: 1\n", []string{`2 {"a":1}`}},
		{"a short document before a separator is one", "a:\n---\n- 1\n", []string{`1 {"a":null}`, "3 [1]"}},
		{"comments before the first separator are kept apart", "# c\n---\na: 1\n", []string{"1 ", `3 {"a":1}`}},
		{"a separator at the end makes an empty document", "a: 1\n---\n", []string{`1 {"a":1}`, "3 "}},
		{"a separator may have a comment", "--- # one\na: 1\n---\t# two\nb: 2", []string{`2 {"a":1}`, `4 {"b":2}`}},
		{"a separator may end in a carriage return", "a: 1\r\n---\r\nb: 2\r\n", []string{`1 {"a":1}`, `3 {"b":2}`}},
		{"more than three dashes are no separator", "a: 1\n#\n----: 2\n", []string{`1 {"----":2,"a":1}`}},
		{"a separator with spaces before it is text", "a: x\n  ---\n", []string{`1 {"a":"x ---"}`}},
		{"a separator in a block scalar ends the document", "a: |\n  x\n---\nb: 2\n", []string{`1 {"a":"x\n"}`, `4 {"b":2}`}},
		{"a separator in quotes breaks the document", "a: \"x\n---\ny\"\n", []string{"error in line 2"}},
		{"an end marker ends a document, and comments may follow", "a: 1\n...\n# c\n---\nb: 2\n...\n",
			[]string{`1 {"a":1}`, `5 {"b":2}`}},
		{"text behind an end marker is an error", "a: 1\n...\n\nb: 2\n", []string{"error in line 4"}},
		{"text behind a separator is an error", "a: 1\n--- b\n", []string{"error in line 2"}},
		{"a directive belongs to the document behind it", "%YAML 1.1\n# c\n---\na: 1\n...\n%YAML 1.1\n---\nb: 2\n",
			[]string{`4 {"a":1}`, `8 {"b":2}`}},
		{"a directive without a separator is an error", "%YAML 1.1\na: 1\n", []string{"error in line 2"}},
		{"a directive alone is an error", "%YAML 1.1\n", []string{"error in line 1"}},
		{"a percent sign in a document is text", "a: x\n\n%YAML\n", []string{"error in line 3"}},
		{"a byte order mark is no text", "\ufeffa: 1\n", []string{`1 {"a":1}`}},
		{"a byte order mark may stand before a separator", "\ufeff---\na: 1\n", []string{`2 {"a":1}`}},
		{"null is an empty document", "null\n---\n~\n", []string{"1 ", "3 "}},
		{"any value is a document", "- 1\n---\ntext\n", []string{"1 [1]", `3 "text"`}},
		{"YAML 1.1 is read as the API does", "a: on\nb: 0x50\nc: 010\nd: 1_000\n1: x\n",
			[]string{`1 {"1":"x","a":true,"b":80,"c":8,"d":1000}`}},
		{"a merge key can be overridden", "a: &a {x: 1}\nb:\n  <<: *a\n  x: 2\n", []string{`1 {"a":{"x":1},"b":{"x":2}}`}},
		{"a key that stands twice is an error", "a: 1\n---\nb:\n  c: 1\n  d: 2\n  c: 3\n", []string{"error in line 6"}},
		{"tabs are no indentation", "a:\n\tb: 1\n", []string{"error in line 2"}},
		{"an alias needs an anchor", "a: *b\n", []string{"error in line 1"}},
		{"bytes that are no UTF-8 are an error", "a: 1\nb: \xff\n", []string{"error in line 2"}},
		{"the replacement character is text", "a: \ufffd\n", []string{"1 {\"a\":\"\ufffd\"}"}},
		{"JSON objects may follow one another", "{\"a\": 1}\n\n{\"b\": 1.0} {}\n",
			[]string{`1 {"a": 1}`, `3 {"b": 1.0}`, "3 {}"}},
		{"JSON may stand between separators", "{\"a\": 1}\n---\n{\"b\": 1.0}\n", []string{`1 {"a": 1}`, `3 {"b": 1.0}`}},
		{"a JSON key that stands twice is an error", "{\"a\": 1,\n \"a\": 2}\n", []string{"error in line 1"}},
		{"what looks like JSON may be YAML", "{a: 1}\n", []string{`1 {"a":1}`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := Read("", c.text)
			var got []string
			var at Remark
			switch {
			case errors.As(err, &at):
				got = []string{fmt.Sprintf("error in line %d", at.Line)}
			case err != nil:
				t.Fatalf("the error has no line: %v", err)
			default:
				for _, d := range m.Documents {
					got = append(got, fmt.Sprintf("%d %s", d.Line, d.Value))
				}
				if text, _ := m.text(); text != c.text {
					t.Errorf("the documents together are %q, want %q", text, c.text)
				}
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("(-want +got)\n%s%v", d, err)
			}
		})
	}
}

func TestADocumentHasABoundAndItsTreeIsNotKept(t *testing.T) {
	if _, err := Read("big.yaml", "a: 1\n---\n"+strings.Repeat("#\n", MaxDocument/2+1)); err == nil ||
		err.Error() != "big.yaml:3: the document is longer than 3 MiB; split it, or a list into its items" {
		t.Errorf("error %v", err)
	}
	f, err := Read("", "kind: K\napiVersion: v1\nmetadata:\n  name: a\n---\nkind: K\napiVersion: v1\n")
	if err != nil {
		t.Fatal(err)
	}
	o := f.Objects()[0]
	if line, ok := o.LineOf("/metadata/name"); line != 4 || !ok {
		t.Errorf("the name is in line %d, %v; want 4", line, ok)
	}
	if _, err := f.Apply([]Patch{{o, []byte(`[{"op":"add","path":"/metadata/x","value":1}]`)}}, Record{}); err != nil {
		t.Fatal(err)
	}
	for i, d := range f.Documents {
		if d.root != nil {
			t.Errorf("the tree of document %d is kept", i)
		}
	}
}

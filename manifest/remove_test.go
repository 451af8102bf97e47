package manifest

import (
	"encoding/json"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestWhatIsRemovedLeavesTheTextThatWasThere adds members to texts in every way that there is, removes
// them, and compares the bytes.
func TestWhatIsRemovedLeavesTheTextThatWasThere(t *testing.T) {
	const add = `[{"op":"add","path":"/a/x","value":{"y":[{"z":"1"}]}}]`
	const remove = `[{"op":"remove","path":"/a/x"}]`
	for _, c := range []struct{ name, text, add, remove string }{
		{"behind the last member of a mapping", "kind: K\na:\n  b: 1\nc: 2\n", add, remove},
		{"before a comment that belongs to the next member", "kind: K\na:\n  b: 1\n\n# next\nc: 2\n", add, remove},
		{"behind a comment of its own", "kind: K\na:\n  b: 1\n  # last\n", add, remove},
		{"at the end of a text without a line feed", "kind: K\na:\n  b: 1", add, remove},
		{"with carriage returns", "kind: K\r\na:\r\n  b: 1\r\nc: 2\r\n", add, remove},
		{"with carriage returns and no end", "kind: K\r\na:\r\n  b: 1", add, remove},
		{"at the end of a line with a lone carriage return", "kind: K\na:\n  b: 1\r", add, remove},
		{"with lone carriage returns", "kind: K\ra:\r  b: 1\rc: 2\r", add, remove},
		{"with lone carriage returns and no end", "kind: K\ra:\r  b: 1", add, remove},
		{"behind all that ends a line in YAML", "kind: K\u2028d: 1\u2029e: 2\u0085a: {}\rc: 2", add, remove},
		{"into an empty mapping", "kind: K\na: {}\nc: 2\n", add, remove},
		{"into an empty mapping with a comment", "kind: K\na: {} # empty\nc: 2\n", add, remove},
		{"into a mapping with a space", "kind: K\na: { }\nc: 2\n", add, remove},
		{"into a mapping with a space and a comment", "kind: K\na: { } # empty\nc: 2\n", add, remove},
		{"into a mapping behind spaces", "kind: K\na:   {}\nc: 2\n", add, remove},
		{"into a mapping behind a tab", "kind: K\na: \t{}\nc: 2\n", add, remove},
		{"into a mapping before spaces", "kind: K\na: {}  \nc: 2\n", add, remove},
		{"into a mapping over lines", "kind: K\na: {\n\n  }\nc: 2\n", add, remove},
		{"into a mapping on a line of its own", "kind: K\na:\n  {}\nc: 2\n", add, remove},
		{"into a mapping with a space in braces", "{kind: K, a: {  }}\n", add, remove},
		{"two members into a mapping with a space", "{kind: K, a: {  }}\n",
			`[{"op":"add","path":"/a/x","value":1},{"op":"add","path":"/a/y","value":2}]`,
			`[{"op":"remove","path":"/a/x"},{"op":"remove","path":"/a/y"}]`},
		{"into a JSON object with a space", "{\"kind\": \"K\",\n\t\"a\" : {\n\t}\n}\n", add, remove},
		{"into nothing", "kind: K\na:\nc: 2\n", `[{"op":"replace","path":"/a","value":{"x":1}}]`,
			`[{"op":"replace","path":"/a","value":null}]`},
		{"into nothing with a comment", "kind: K\na: # nothing\nc: 2\n", `[{"op":"replace","path":"/a","value":{"x":1}}]`,
			`[{"op":"replace","path":"/a","value":null}]`},
		{"into a mapping in braces", "{kind: K, a: {b: 1, c: 2}}\n", add, remove},
		{"into a mapping of one member in braces", "{kind: K, a: {b: 1}}\n", add, remove},
		{"into an empty mapping in braces", "{kind: K, a: {}}\n", add, remove},
		{"into null in braces", "{kind: K, a: null}\n", `[{"op":"replace","path":"/a","value":{"x":1}}]`,
			`[{"op":"replace","path":"/a","value":null}]`},
		{"into a null on a line of its own", "kind: K\na:\n  ~ # why\nc: 2\n",
			`[{"op":"replace","path":"/a","value":{"x":1}}]`, `[{"op":"replace","path":"/a","value":null}]`},
		{"a list in the place of null", "kind: K\na:   NULL   # why\nc: 2\n",
			`[{"op":"replace","path":"/a","value":[{"x":1}]}]`, `[{"op":"replace","path":"/a","value":null}]`},
		{"into every null in braces", "{kind: K, a: {b: ~, c: , d: Null, e: null }, f: ~}\n",
			`[{"op":"replace","path":"/a/b","value":{"x":1}},{"op":"replace","path":"/a/c","value":[1]},
			{"op":"replace","path":"/a/d","value":1},{"op":"replace","path":"/a/e","value":2},
			{"op":"replace","path":"/f","value":3}]`,
			`[{"op":"replace","path":"/a/b","value":null},{"op":"replace","path":"/a/c","value":null},
			{"op":"replace","path":"/a/d","value":null},{"op":"replace","path":"/a/e","value":null},
			{"op":"replace","path":"/f","value":null}]`},
		{"into JSON on one line", `{"kind":"K","a":{"b":1,"c":[{"d":"}"}]}}`, add, remove},
		{"into JSON on many lines", "{\n  \"kind\": \"K\",\n  \"a\": {\n    \"b\": 1,\n    \"c\": 2\n  }\n}\n", add, remove},
		{"into an empty JSON object", `{"kind":"K","a":{}}`, add, remove},
		{"two members into an empty JSON object", `{"kind":"K","a":{}}`,
			`[{"op":"add","path":"/a/x","value":1},{"op":"add","path":"/a/y","value":2}]`,
			`[{"op":"remove","path":"/a/x"},{"op":"remove","path":"/a/y"}]`},
		{"into a mapping that is an alias", "kind: K\nb: &b\n  c: 1\na: *b\n", add, remove},
		{"a number in the place of a number", "kind: K\na: {b: 30} # seconds\n",
			`[{"op":"replace","path":"/a/b","value":40}]`,
			`[{"op":"replace","path":"/a/b","value":30}]`},
		{"a number in the place of nothing, with a comment", "kind: K\na:\n  b:   # default\n",
			`[{"op":"replace","path":"/a/b","value":40}]`,
			`[{"op":"replace","path":"/a/b","value":null}]`},
		{"text in the place of text", "kind: K\na: {b: \"x\"} # text\n", `[{"op":"replace","path":"/a/b","value":"y"}]`,
			`[{"op":"replace","path":"/a/b","value":"x"}]`},
		{"keys in quotes", "kind: K\n\"a\":\n  'b:': 1\n", add, remove},
		{"into an object in a list", "kind: List\nitems:\n- kind: K\n  b:\n  - 1\n",
			`[{"op":"add","path":"/items/0/x","value":[1]}]`, `[{"op":"remove","path":"/items/0/x"}]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			added := applied(t, c.text, c.add)
			if added == c.text {
				t.Fatal("nothing was added")
			}
			if got := applied(t, added, c.remove); got != c.text {
				t.Errorf("before %q\nadded  %q\nafter  %q", c.text, added, got)
			}
		})
	}
}

// TestANullComesBackAsItWasWritten puts a mapping, a list and a number in the place of null, however
// it is written, with whatever follows it, and takes them out again.
func TestANullComesBackAsItWasWritten(t *testing.T) {
	looked := 0
	for _, null := range []string{"", " null", " ~", "   Null", "\tNULL", "\n    null", "\n    ~"} {
		for _, rest := range []string{"", "  ", " # why", " # null", " # # ~ twice", "\n    # null", "\n    # why"} {
			for _, around := range []string{"kind: K\na:%\n", "kind: K\na:%", "kind: K\r\na:%\r\nc: 2\r\n",
				"kind: K\ra:%\rc: 2\r",
				"kind: K\nb:\n- a:%\n  c: 2\n",
				"kind: K\nb:\n- c: 2\n  'a':%\n\n# next\n"} {
				for _, value := range []string{`{"x":{"y":[1]},"z":2}`, `[{"x":1}]`, "40"} {
					text := strings.ReplaceAll(around, "%", null+rest)
					if strings.Contains(text, "\r\n") {
						text = strings.ReplaceAll(strings.ReplaceAll(text, "\r", ""), "\n", "\r\n")
					} else if strings.Contains(text, "\r") {
						text = strings.ReplaceAll(text, "\n", "\r")
					}
					path := "/a"
					if strings.Contains(text, "b:") {
						path = "/b/0/a"
					}
					added := applied(t, text, `[{"op":"replace","path":"`+path+`","value":`+value+`}]`)
					if got := applied(t, added, `[{"op":"replace","path":"`+path+`","value":null}]`); got != text {
						t.Errorf("before %q\nadded  %q\nafter  %q", text, added, got)
					}
					looked++
				}
			}
		}
	}
	if looked != 7*7*6*3 {
		t.Errorf("%d texts were looked at", looked)
	}
}

// applied returns a text with a patch applied to its only document, as it is formatted.
func applied(t *testing.T, text, patch string) string {
	t.Helper()
	f, err := Read("", text)
	if err != nil {
		t.Fatalf("%v: %q", err, text)
	}
	anew, err := f.Apply([]Patch{{&Object{document: f.Documents[0]}, []byte(patch)}}, Record{})
	if err != nil || len(anew) > 0 {
		t.Errorf("%v, formatted anew: %v: %q", err, anew, text)
	}
	now, err := f.Text()
	if err != nil {
		t.Fatal(err)
	}
	return now
}

// TestTheLastMembersInBracesGoWithWhatStandsBeforeThem removes members that a program has sorted to the end.
func TestTheLastMembersInBracesGoWithWhatStandsBeforeThem(t *testing.T) {
	const patch = `[{"op":"remove","path":"/a/c"},{"op":"remove","path":"/a/e"},{"op":"remove","path":"/a/f"}]`
	for text, want := range map[string]string{
		"{\n  \"a\": {\n    \"b\": 1,\n    \"c\": 2,\n    \"d\": 3,\n    \"e\": [4],\n    \"f\": {}\n  }\n}\n": "{\n  " +
			"\"a\": {\n    \"b\": 1,\n    \"d\": 3\n  }\n}\n",
		"a: {b: 1, c: 2, d: '}', e: [4], f: {} } # why\n": "a: {b: 1, d: '}' } # why\n",
	} {
		if got := applied(t, text, patch); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

// TestWhatCannotBeRemovedFromTheTextIsRemovedFromTheTree removes what the author wrote, in forms that
// the text editor leaves to the tree.
func TestWhatCannotBeRemovedFromTheTextIsRemovedFromTheTree(t *testing.T) {
	for _, c := range []struct{ name, text, patch, want string }{
		{"the first member of an element of a list", "a:\n- b: 1\n  c: 2\n", `[{"op":"remove","path":"/a/0/b"}]`,
			`{"a":[{"c":2}]}`},
		{"the last two members in braces", "{a: {b: 1, c: 2, d: 3}}\n",
			`[{"op":"remove","path":"/a/c"},{"op":"remove","path":"/a/d"}]`, `{"a":{"b":1}}`},
		{"the last member in braces", "{a: {b: 1, c: '}'} }\n", `[{"op":"remove","path":"/a/c"}]`, `{"a":{"b":1}}`},
		{"a member with an anchor", "a: &x {b: 1}\nc: *x\n", `[{"op":"remove","path":"/a"}]`, `{"c":{"b":1}}`},
		{"a member of many lines", "a: |\n  x\n\n  # y\nb:\n- 1\n# z\n- 2\nc: 3\n",
			`[{"op":"remove","path":"/a"},{"op":"remove","path":"/b"}]`, `{"c":3}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := Read("", c.text)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Apply([]Patch{{&Object{document: f.Documents[0]}, []byte(c.patch)}}, Record{}); err != nil {
				t.Fatal(err)
			}
			if got := f.Documents[0].Value; !sameValue(got, []byte(c.want)) {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
	f, err := Read("", "a: 1\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, patch := range []string{`[{"op":"move","from":"/a","path":"/b"}]`, `[{"op":"remove","path":""}]`,
		`[{"op":"remove","path":"/b"}]`,
		`[{"op":"remove","path":"/a"}]`, `{`} { // a document of nothing is none
		if _, err := f.Apply([]Patch{{&Object{document: f.Documents[0]}, []byte(patch)}}, Record{}); err == nil {
			t.Errorf("%s is applied", patch)
		}
	}
}

// TestTextThatAnyReaderCouldMistakeIsQuoted adds text as key and as value, in block and in braces, and
// reads it again with YAML 1.1 and 1.2.
func TestTextThatAnyReaderCouldMistakeIsQuoted(t *testing.T) {
	for _, word := range []string{"yes", "No", "ON", "off", "y", "N", "true", "False", "null", "~", "", "1", "-1", "+1",
		"0x1f", "0o17", "017",
		"0b1", "1_000", "1e3", "1.5", ".5", "5.", ".inf", "-.INF", ".nan", "1:30", "190:20:30.15", "2001-12-14",
		"2001-12-14t21:59:43.10-05:00", "2001-12-14 21:59:43", "=", "<<", "0", "1,000", "12e03", "685.230_15e+03"} {
		for name, text := range map[string]string{"block": "kind: K\na:\n  b: 1\n", "braces": "kind: K\na: {b: 1}\n",
			"anew": "kind: K\nc: &c\n  b: 1\na: *c\nd: *c\n"} {
			f, err := Read("", text)
			if err != nil {
				t.Fatal(err)
			}
			patch := mustMarshal(t, []change{{Operation: "add", Path: "/a" + PointerTo(word), Value: mustMarshal(t, word)}})
			if _, err := f.Apply([]Patch{{&Object{document: f.Documents[0]}, patch}}, Record{}); err != nil {
				t.Errorf("%s: %q: %v", name, word, err)
				continue
			}
			now, err := f.Text()
			if err != nil {
				t.Fatal(err)
			}
			quoted := `"` + word + `": "` + word + `"`
			if !strings.Contains(now, quoted) {
				t.Errorf("%s: %q is written without quotes:\n%s", name, word, now)
			}
		}
	}
	for _, word := range []string{"yesterday", "nobody", "web-1", "app", "e3", "a.b/c", "none", "nan", "inf"} {
		if n := (&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: word}); styleOfScalar(n) != 0 {
			t.Errorf("%q is quoted", word)
		}
	}
}

func mustMarshal(t *testing.T, value any) []byte {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

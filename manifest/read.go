package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	yamlv2 "go.yaml.in/yaml/v2"
	"go.yaml.in/yaml/v3"
	kjson "sigs.k8s.io/json"
	kyaml "sigs.k8s.io/yaml"

	"github.com/evenkeel/evenkeel/internal/words"
)

// byteOrderMark may begin a file.
const byteOrderMark = "\ufeff"

// Read reads the YAML or JSON documents of a file of that name. An error is a Remark.
func Read(name, text string) (*File, error) {
	f, err := read(name, text)
	var at Remark
	if errors.As(err, &at) {
		at.File = name
		return nil, at
	}
	return f, err
}

// read reads a file. An error is a Remark that does not name it.
func read(name, text string) (*File, error) {
	if i := invalidUTF8(text); i >= 0 {
		return nil, remark(1+strings.Count(text[:i], "\n"), errors.New("is not UTF-8 text"))
	}
	documents, notJSON := splitJSON(text)
	if notJSON != nil {
		var err error
		if documents, err = splitYAML(text); err != nil {
			return nil, err
		}
	}
	documents[len(documents)-1].isLast = true
	f := &File{Name: name, Documents: documents}
	for _, d := range documents {
		if err := d.read(); err != nil {
			if filepath.Ext(name) == ".json" && notJSON != nil {
				return nil, notJSON
			}
			return nil, err
		}
		if d.Value != nil {
			f.objects = d.collect(f.objects, name, "", d.Value, Identity{})
		}
		d.root = nil
	}
	return f, nil
}

// plant makes sure that the tree of a document stands, and returns what takes it away again.
func (d *Document) plant() (fell func()) {
	if d.root != nil {
		return func() {}
	}
	d.root, _ = d.tree() // was read before
	if d.root != nil && d.root.Kind == yaml.ScalarNode && d.root.Tag == "!!null" {
		d.root = nil
	}
	return func() { d.root = nil }
}

// tree parses body.
func (d *Document) tree() (*yaml.Node, error) {
	if d.IsJSON {
		return parseJSON(d.Body), nil
	}
	return parseYAML(d.Body)
}

// parseJSON returns the tree of a valid JSON text, not all of which is YAML 1.1.
func parseJSON(text string) *yaml.Node {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	at, line, column := 0, 1, 1 // as the YAML parser counts them
	skip := func(end int) {
		for i, r := range text[at:end] {
			if column++; strings.ContainsRune(lineEnds, r) && !strings.HasPrefix(text[at+i:], "\r\n") {
				line, column = line+1, 1
			}
		}
		at = end
	}
	var next func() *yaml.Node
	next = func() *yaml.Node {
		token, _ := decoder.Token()
		skip(len(text) - len(strings.TrimLeft(text[at:], " \t\r\n,:")))
		n := &yaml.Node{Kind: yaml.ScalarNode, Line: line, Column: column}
		skip(int(decoder.InputOffset()))
		switch token := token.(type) {
		case json.Delim:
			switch token {
			case '{':
				n.Kind, n.Style = yaml.MappingNode, yaml.FlowStyle
			case '[':
				n.Kind, n.Style = yaml.SequenceNode, yaml.FlowStyle
			default:
				return nil
			}
			for inner := next(); inner != nil; inner = next() {
				n.Content = append(n.Content, inner)
			}
		case string:
			n.Tag, n.Style, n.Value = "!!str", yaml.DoubleQuotedStyle, token
		case json.Number:
			n.Tag, n.Value = "!!float", token.String()
		case bool:
			n.Tag, n.Value = "!!bool", strconv.FormatBool(token)
		case nil:
			n.Tag, n.Value = "!!null", "null"
		}
		return n
	}
	return next()
}

// MaxDocument is how long one document may be, in bytes: as long as what an API server takes in one
// request (3 MiB, k8s.io/apiserver/pkg/server/config.go). A document of another form than manifests
// have, such as a list of nothing but "a", takes more than three hundred times its length of memory.
const MaxDocument = 3 << 20

// invalidUTF8 returns the place of the first byte that is no UTF-8, or -1.
func invalidUTF8(text string) int {
	for i, r := range text {
		if r == utf8.RuneError && !strings.HasPrefix(text[i:], "\ufffd") {
			return i
		}
	}
	return -1
}

// splitJSON splits a stream of JSON objects. The error, a Remark, says why the
// text is none.
func splitJSON(text string) ([]*Document, error) {
	if trimmed := strings.TrimLeft(text, byteOrderMark+" \t\r\n"); !strings.HasPrefix(trimmed, "{") {
		return nil, remark(1, errors.New("is no JSON object"))
	}
	begins := strings.IndexByte(text, '{')
	start, text := text[:begins], text[begins:]
	before := start
	line := 1 + strings.Count(before, "\n")
	d := json.NewDecoder(strings.NewReader(text))
	var documents []*Document
	for at := 0; ; {
		var value json.RawMessage
		if err := d.Decode(&value); errors.Is(err, io.EOF) {
			documents[len(documents)-1].After = text[at:]
			return documents, nil
		} else if err != nil {
			var syntax *json.SyntaxError
			if errors.As(err, &syntax) {
				at = min(int(syntax.Offset), len(text))
			}
			return nil, remark(strings.Count(start+text[:at], "\n")+1, fmt.Errorf("read JSON: %w", err))
		}
		end := int(d.InputOffset())
		begin := end - len(value)
		before += text[at:begin]
		line += strings.Count(text[at:begin], "\n")
		documents = append(documents, &Document{Before: before, Body: text[begin:end], Line: line})
		line += strings.Count(text[begin:end], "\n")
		before, at = "", end
	}
}

// splitYAML splits a stream of YAML documents at the lines "---" and "...". By the
// specification such a line ends a document wherever it stands, inside quotes and
// block scalars too (https://yaml.org/spec/1.2.2/#rule-c-forbidden), so no parser
// is needed to find them.
func splitYAML(text string) ([]*Document, error) {
	const (
		prologue = iota // only comments and directives so far, and no separator
		body
		epilogue // behind "..."
	)
	var documents []*Document
	var start, bodyStart, bodyEnd, bodyLine, at int
	if strings.HasPrefix(text, byteOrderMark) {
		at = len(byteOrderMark)
		bodyStart = at
	}
	first := at
	state, directive := prologue, false
	line, bodyLine := 0, 1
	finish := func(end int) {
		if state != epilogue {
			bodyEnd = end
		}
		documents = append(documents, &Document{Before: text[start:bodyStart], Body: text[bodyStart:bodyEnd],
			After: text[bodyEnd:end], Line: bodyLine})
		start = end
	}
	for at < len(text) {
		end := at + strings.IndexByte(text[at:], '\n') + 1
		if end == at {
			end = len(text)
		}
		line++
		content := strings.TrimRight(text[at:end], " \t\r\n")
		blank := content == "" || strings.TrimLeft(content, " \t")[0] == '#'
		separator := marker(content, "---")
		switch {
		case separator || marker(content, "..."):
			if rest := strings.TrimLeft(content[3:], " \t"); rest != "" && rest[0] != '#' {
				return nil, remark(line,
					fmt.Errorf("%q stands behind the document separator; put it on a line of its own", words.Shorten(rest, quoted)))
			}
			switch {
			case separator:
				if state != prologue || !directive {
					if at > first {
						finish(at)
					}
				}
				state, directive, bodyStart, bodyLine = body, false, end, line+1
			case state == body:
				state, bodyEnd = epilogue, at
			case directive:
				return nil, remark(line, errors.New(`a directive needs a line "---" behind it`))
			}
		case content != "" && content[0] == '%' && state != body:
			if state == epilogue {
				finish(at)
				state, bodyStart = prologue, at
			}
			directive = true
		case blank:
		case state == epilogue:
			return nil, remark(line,
				fmt.Errorf(`%q follows a line "..."; put a line "---" between them`, words.Shorten(content, quoted)))
		case directive:
			return nil, remark(line, errors.New(`a directive needs a line "---" behind it`))
		default:
			state = body
		}
		at = end
	}
	if directive {
		return nil, remark(line, errors.New(`a directive needs a line "---" behind it`))
	}
	finish(len(text))
	return documents, nil
}

// marker reports whether a line is the marker, perhaps with something behind it.
func marker(line, mark string) bool {
	rest, ok := strings.CutPrefix(line, mark)
	return ok && (rest == "" || rest[0] == ' ' || rest[0] == '\t')
}

// read parses body, without the comments that keep another one. An error is a Remark.
func (d *Document) read() error {
	if body, kept := splitKept(d.Body); kept != "" {
		split := *d
		split.Body, split.Kept = body, kept
		if split.readBody() == nil { // else they are part of some text
			*d = split
			return nil
		}
	}
	return d.readBody()
}

// readBody parses body, once. An error is a Remark.
func (d *Document) readBody() error {
	if len(d.Body) > MaxDocument {
		return remark(d.Line,
			fmt.Errorf("the document is longer than %d MiB; split it, or a list into its items", MaxDocument>>20))
	}
	trimmed := strings.TrimSpace(d.Body)
	if d.Kept == "" && strings.HasPrefix(trimmed, "{") && json.Valid([]byte(trimmed)) {
		d.IsJSON, d.Value = true, []byte(trimmed)
		var value any
		if mistakes, err := kjson.UnmarshalStrict(d.Value, &value); err != nil || len(mistakes) > 0 {
			return remark(d.Line, joined(append(mistakes, err)))
		}
		d.root = parseJSON(d.Body)
		return nil
	}
	root, err := parseYAML(d.Body)
	if err != nil {
		return d.place(err)
	}
	if root == nil || root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil
	}
	if err := d.checkKeys(root); err != nil {
		return err
	}
	value, err := kyaml.YAMLToJSON([]byte(d.Body)) // its strict variant takes an overridden merge for a repetition
	if err != nil {
		return d.place(err)
	}
	if err := checkMembers(d.Body, value); err != nil {
		return remark(d.Line, err)
	}
	d.root, d.Value = root, value
	return nil
}

// checkMembers returns an error when value, which is text converted to JSON, has fewer members than
// text has keys: 1 and 0x1 are two keys of YAML and one of JSON, and which of them stays is chance.
func checkMembers(text string, value []byte) error {
	var before any
	if err := yamlv2.Unmarshal([]byte(text), &before); err != nil { // as the conversion reads it
		return err
	}
	after, err := decodeJSON(value)
	if err != nil {
		return err
	}
	if countMembers(before) != countMembers(after) {
		return errors.New(
			`two keys of a mapping are the same text in JSON, as 1 and 0x1, or yes and "true"; leave one of them`)
	}
	return nil
}

// countMembers counts the members of all mappings in value.
func countMembers(value any) (n int) {
	switch value := value.(type) {
	case map[any]any:
		n = len(value)
		for _, inner := range value {
			n += countMembers(inner)
		}
	case map[string]any:
		n = len(value)
		for _, inner := range value {
			n += countMembers(inner)
		}
	case []any:
		for _, inner := range value {
			n += countMembers(inner)
		}
	}
	return n
}

// checkKeys returns an error when a mapping in n has a key twice. kubectl takes the
// last one without a word.
func (d *Document) checkKeys(n *yaml.Node) error {
	lines := map[string]int{}
	for i, inner := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && inner.Kind == yaml.ScalarNode {
			if first, twice := lines[inner.Value]; twice {
				return remark(d.Line+inner.Line-1,
					fmt.Errorf("key %q stands in line %d already", words.Shorten(inner.Value, quoted), d.Line+first-1))
			}
			lines[inner.Value] = inner.Line
		}
		if err := d.checkKeys(inner); err != nil {
			return err
		}
	}
	return nil
}

// parseYAML returns the tree of the only document in text, nil for an empty one.
func parseYAML(text string) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(strings.NewReader(text))
	var first, second yaml.Node
	if err := decoder.Decode(&first); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := decoder.Decode(&second); err == nil {
		return nil, fmt.Errorf("yaml: line %d: a second document begins without a line \"---\" that ends in a line feed",
			second.Line)
	} else if !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(first.Content) == 0 {
		return nil, nil
	}
	return first.Content[0], nil
}

// place gives an error of the YAML parser its place in the manifest. The
// parser says the place in its text only, as "line N: ".
func (d *Document) place(err error) error {
	line, text := d.Line, strings.TrimPrefix(err.Error(), "error converting YAML to JSON: ")
	text = strings.TrimPrefix(text, "yaml: ")
	text = strings.TrimSpace(strings.TrimPrefix(text, "unmarshal errors:"))
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if number, message, ok := strings.Cut(rest, ": "); ok {
			if n, err := strconv.Atoi(number); err == nil && n >= 1 {
				line, text = d.Line+n-1, message
			}
		}
	}
	if strings.Contains(d.Body, "{{") {
		text += " (it looks like a template; render it first, as in: helm template CHART | evenkeel inject -)"
	}
	return remark(line, errors.New(text))
}

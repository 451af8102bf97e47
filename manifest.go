package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/aymanbagabas/go-udiff"
	yamlv2 "go.yaml.in/yaml/v2"
	"go.yaml.in/yaml/v3"
	kjson "sigs.k8s.io/json"
	kyaml "sigs.k8s.io/yaml"
)

// manifest is one input, a file or standard input. The texts of its documents,
// one after the other, are the input byte for byte.
type manifest struct {
	// name is the path as given, or "stdin".
	name      string
	documents []*document
}

// text returns the manifest as it was read, and the edits of it, in order.
func (m *manifest) text() (string, []udiff.Edit) {
	var b strings.Builder
	var edits []udiff.Edit
	for _, d := range m.documents {
		b.WriteString(d.before)
		for _, e := range d.edits {
			edits = append(edits, udiff.Edit{Start: b.Len() + e.Start, End: b.Len() + e.End, New: e.New})
		}
		b.WriteString(d.body + d.after)
	}
	return b.String(), edits
}

// document is one YAML or JSON document.
type document struct {
	// before is the separator with its line, and what precedes it; after is the end
	// marker "..." and what follows it.
	before, body, after string
	// line is the number of body's first line in its manifest, from 1.
	line int
	// value is the document as JSON, as the API would read it; nil for an empty one.
	value []byte
	// root is the tree of body with the places of everything, nil for an empty
	// document and for JSON that is no YAML.
	root *yaml.Node
	// edits change body to what it should be.
	edits []udiff.Edit
	// isJSON is set where body is JSON, and has to stay so.
	isJSON bool
}

// lineError is a mistake in a manifest at a line of it, from 1.
type lineError struct {
	line int
	err  error
}

func (e lineError) Error() string { return e.err.Error() }
func (e lineError) Unwrap() error { return e.err }

// byteOrderMark may begin a file.
const byteOrderMark = "\ufeff"

// readManifest reads YAML or JSON documents. An error is a lineError.
func readManifest(name, text string) (*manifest, error) {
	if i := invalidUTF8(text); i >= 0 {
		return nil, lineError{1 + strings.Count(text[:i], "\n"), errors.New("is not UTF-8 text")}
	}
	documents, notJSON := splitJSON(text)
	if notJSON != nil {
		var err error
		if documents, err = splitYAML(text); err != nil {
			return nil, err
		}
	}
	for _, d := range documents {
		if err := d.read(); err != nil {
			if filepath.Ext(name) == ".json" && notJSON != nil {
				return nil, notJSON
			}
			return nil, err
		}
	}
	return &manifest{name: name, documents: documents}, nil
}

// invalidUTF8 returns the place of the first byte that is no UTF-8, or -1.
func invalidUTF8(text string) int {
	for i, r := range text {
		if r == utf8.RuneError && !strings.HasPrefix(text[i:], "\ufffd") {
			return i
		}
	}
	return -1
}

// splitJSON splits a stream of JSON objects. The error, a lineError, says why the
// text is none.
func splitJSON(text string) ([]*document, error) {
	if trimmed := strings.TrimLeft(text, byteOrderMark+" \t\r\n"); !strings.HasPrefix(trimmed, "{") {
		return nil, lineError{1, errors.New("is no JSON object")}
	}
	begins := strings.IndexByte(text, '{')
	start, text := text[:begins], text[begins:]
	before := start
	line := 1 + strings.Count(before, "\n")
	d := json.NewDecoder(strings.NewReader(text))
	var documents []*document
	for at := 0; ; {
		var value json.RawMessage
		if err := d.Decode(&value); errors.Is(err, io.EOF) {
			documents[len(documents)-1].after = text[at:]
			return documents, nil
		} else if err != nil {
			var syntax *json.SyntaxError
			if errors.As(err, &syntax) {
				at = min(int(syntax.Offset), len(text))
			}
			return nil, lineError{strings.Count(start+text[:at], "\n") + 1, fmt.Errorf("read JSON: %w", err)}
		}
		end := int(d.InputOffset())
		begin := end - len(value)
		before += text[at:begin]
		line += strings.Count(text[at:begin], "\n")
		documents = append(documents, &document{before: before, body: text[begin:end], line: line})
		line += strings.Count(text[begin:end], "\n")
		before, at = "", end
	}
}

// splitYAML splits a stream of YAML documents at the lines "---" and "...". By the
// specification such a line ends a document wherever it stands, inside quotes and
// block scalars too (https://yaml.org/spec/1.2.2/#rule-c-forbidden), so no parser
// is needed to find them.
func splitYAML(text string) ([]*document, error) {
	const (
		prologue = iota // only comments and directives so far, and no separator
		body
		epilogue // behind "..."
	)
	var documents []*document
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
		documents = append(documents, &document{before: text[start:bodyStart], body: text[bodyStart:bodyEnd],
			after: text[bodyEnd:end], line: bodyLine})
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
				return nil, lineError{line, fmt.Errorf("%q stands behind the document separator; put it on a line of its own", shortened(rest))}
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
				return nil, lineError{line, errors.New(`a directive needs a line "---" behind it`)}
			}
		case content != "" && content[0] == '%' && state != body:
			if state == epilogue {
				finish(at)
				state, bodyStart = prologue, at
			}
			directive = true
		case blank:
		case state == epilogue:
			return nil, lineError{line, fmt.Errorf(`%q follows a line "..."; put a line "---" between them`, shortened(content))}
		case directive:
			return nil, lineError{line, errors.New(`a directive needs a line "---" behind it`)}
		default:
			state = body
		}
		at = end
	}
	if directive {
		return nil, lineError{line, errors.New(`a directive needs a line "---" behind it`)}
	}
	finish(len(text))
	return documents, nil
}

// marker reports whether a line is the marker, perhaps with something behind it.
func marker(line, mark string) bool {
	rest, ok := strings.CutPrefix(line, mark)
	return ok && (rest == "" || rest[0] == ' ' || rest[0] == '\t')
}

// shortened cuts text that is quoted in a message.
func shortened(text string) string {
	if len(text) > 40 {
		return strings.ToValidUTF8(text[:37], "") + "..."
	}
	return text
}

// read parses body, once. An error is a lineError.
func (d *document) read() error {
	if trimmed := strings.TrimSpace(d.body); strings.HasPrefix(trimmed, "{") && json.Valid([]byte(trimmed)) {
		d.isJSON, d.value = true, []byte(trimmed)
		var value any
		if mistakes, err := kjson.UnmarshalStrict(d.value, &value); err != nil || len(mistakes) > 0 {
			return lineError{d.line, errors.Join(append(mistakes, err)...)}
		}
		d.root, _ = parseYAML(d.body) // not all JSON is YAML 1.1: surrogate pairs
		return nil
	}
	root, err := parseYAML(d.body)
	if err != nil {
		return d.lineError(err)
	}
	if root == nil || root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil
	}
	if err := d.checkKeys(root); err != nil {
		return err
	}
	value, err := kyaml.YAMLToJSON([]byte(d.body)) // its strict variant takes an overridden merge for a repetition
	if err != nil {
		return d.lineError(err)
	}
	if err := checkMembers(d.body, value); err != nil {
		return lineError{d.line, err}
	}
	d.root, d.value = root, value
	return nil
}

// checkMembers returns an error when value, which is text converted to JSON, has fewer members than text has keys: 1 and 0x1
// are two keys of YAML and one of JSON, and which of them stays is chance.
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
		return errors.New(`two keys of a mapping are the same text in JSON, as 1 and 0x1, or yes and "true"; leave one of them`)
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
func (d *document) checkKeys(n *yaml.Node) error {
	lines := map[string]int{}
	for i, inner := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && inner.Kind == yaml.ScalarNode {
			if first, twice := lines[inner.Value]; twice {
				return lineError{d.line + inner.Line - 1, fmt.Errorf("key %q stands in line %d already", shortened(inner.Value), d.line+first-1)}
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
		return nil, fmt.Errorf("yaml: line %d: a second document begins without a line \"---\" that ends in a line feed", second.Line)
	} else if !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(first.Content) == 0 {
		return nil, nil
	}
	return first.Content[0], nil
}

// lineError gives an error of the YAML parser its place in the manifest. The
// parser says the place in its text only, as "line N: ".
func (d *document) lineError(err error) error {
	line, text := d.line, strings.TrimPrefix(err.Error(), "error converting YAML to JSON: ")
	text = strings.TrimPrefix(text, "yaml: ")
	text = strings.TrimSpace(strings.TrimPrefix(text, "unmarshal errors:"))
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if number, message, ok := strings.Cut(rest, ": "); ok {
			if n, err := strconv.Atoi(number); err == nil && n >= 1 {
				line, text = d.line+n-1, message
			}
		}
	}
	if strings.Contains(d.body, "{{") {
		text += " (it looks like a template; render it first, as in: helm template CHART | evenkeel inject -)"
	}
	return lineError{line, errors.New(text)}
}

// object is an API object: a document, or an item of a list.
type object struct {
	document *document
	// path is the JSON pointer from the document to the object, "" for the whole.
	path string
	// value is the object as JSON.
	value []byte
	identity
}

// identity is what tells one object from another.
type identity struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name         string         `json:"name"`
		GenerateName string         `json:"generateName"`
		Namespace    string         `json:"namespace"`
		Labels       map[string]any `json:"labels"`
		Annotations  map[string]any `json:"annotations"`
	} `json:"metadata"`
}

// name returns the name of the object, or its generateName with a star.
func (o *object) name() string {
	if o.Metadata.Name == "" && o.Metadata.GenerateName != "" {
		return o.Metadata.GenerateName + "*"
	}
	return o.Metadata.Name
}

// line returns the number of the line in its manifest where the object begins.
func (o *object) line() int {
	line, _ := o.document.lineOf(o.path)
	return line
}

// objects returns the API objects of a document, those in lists one by one. A
// document that is none, values of a chart for example, has none.
func (d *document) objects() []*object {
	if d.value == nil {
		return nil
	}
	return d.collect(nil, "", d.value, identity{})
}

// foreign reports whether a document is no API object: values of a chart, or the
// configuration of another program.
func (d *document) foreign() bool {
	if d.value == nil {
		return false
	}
	apiVersion, kind := typeOf(d.value)
	return kind == "" || apiVersion == "" && knownKind(kind) == ""
}

// typeOf returns the apiVersion and the kind of a JSON value, "" where they are no
// text.
func typeOf(value []byte) (apiVersion, kind string) {
	var o struct {
		APIVersion any `json:"apiVersion"`
		Kind       any `json:"kind"`
	}
	_ = kjson.UnmarshalCaseSensitivePreserveInts(value, &o) // what is no object has neither
	apiVersion, _ = o.APIVersion.(string)
	kind, _ = o.Kind.(string)
	return apiVersion, kind
}

// collect appends the objects of value to all. A typed list such as a
// DeploymentList leaves apiVersion and kind out of its items: they follow from
// those of the list.
func (d *document) collect(all []*object, path string, value []byte, fallback identity) []*object {
	if !bytes.HasPrefix(value, []byte("{")) {
		return all
	}
	o := &object{document: d, path: path, value: value}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(value, &o.identity); err != nil {
		// A part of the wrong type is found and named when the object is reviewed.
		o.APIVersion, o.Kind = typeOf(value)
	}
	if o.Kind == "" && o.APIVersion == "" && fallback.Kind != "" {
		o.Kind, o.APIVersion = fallback.Kind, fallback.APIVersion
		head, _ := json.Marshal(map[string]string{"apiVersion": o.APIVersion, "kind": o.Kind})
		if rest := value[1:]; bytes.HasPrefix(bytes.TrimLeft(rest, " \t\r\n"), []byte("}")) {
			o.value = head
		} else {
			o.value = append(append(head[:len(head)-1], ','), rest...)
		}
	}
	if o.Kind == "" || o.APIVersion == "" && knownKind(o.Kind) == "" { // else its author is told
		return all
	}
	kind, isList := strings.CutSuffix(o.Kind, "List")
	if !isList {
		return append(all, o)
	}
	var list struct {
		Items []json.RawMessage `json:"items"`
	}
	if kjson.UnmarshalCaseSensitivePreserveInts(value, &list) != nil {
		return append(all, o)
	}
	item := identity{APIVersion: o.APIVersion, Kind: kind}
	for i := range list.Items {
		all = d.collect(all, path+"/items/"+strconv.Itoa(i), list.Items[i], item)
	}
	return all
}

// lineOf returns the number of the line in its manifest where the value at a JSON
// pointer begins, and false without one: then the line is that of the nearest value
// around it.
func (d *document) lineOf(pointer string) (int, bool) {
	if d.root == nil {
		return d.line, false
	}
	line, node := d.line+d.root.Line-1, d.root
	for _, key := range pointerKeys(pointer) {
		name, value := child(node, key)
		if value == nil {
			return line, false
		}
		line, node = d.line+name.Line-1, value
	}
	return line, true
}

// child returns the node of a member and of its key, or of an element twice; nil
// without one.
func child(node *yaml.Node, key string) (name, value *yaml.Node) {
	switch node.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			if k := node.Content[i]; k.Kind == yaml.ScalarNode && k.Value == key {
				return k, node.Content[i+1]
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(key); err == nil && i >= 0 && i < len(node.Content) {
			return node.Content[i], node.Content[i]
		}
	}
	return nil, nil
}

// pointerTo returns the JSON pointer (RFC 6901) from an object to its member.
func pointerTo(key string) string {
	return "/" + strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1")
}

// pointerKeys splits a JSON pointer (RFC 6901) into its keys.
func pointerKeys(pointer string) []string {
	if pointer == "" {
		return nil
	}
	keys := strings.Split(pointer[1:], "/")
	for i, key := range keys {
		keys[i] = strings.ReplaceAll(strings.ReplaceAll(key, "~1", "/"), "~0", "~")
	}
	return keys
}

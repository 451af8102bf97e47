package manifest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/aymanbagabas/go-udiff"
	"go.yaml.in/yaml/v3"
	applier "gopkg.in/evanphx/json-patch.v4"
)

// Patch is a JSON Patch (RFC 6902) of one object of a file.
type Patch struct {
	Object *Object
	JSON   []byte
}

// Record says how additions are known.
type Record struct {
	// Key is that of a member that only objects with additions have.
	Key string
	// Undo returns the JSON Patch that takes the additions out of an object, nil for none.
	Undo func(*Object) []byte
}

// Apply applies patches to the documents of the file. It returns the remarks that a document was
// formatted anew, since the text as it is has no room for the patch, or stays so. The error joins a
// Remark for each document that a patch can't be written into.
func (f *File) Apply(patches []Patch, record Record) (anew []Remark, err error) {
	changes := map[*Document][]change{}
	var order []*Document
	var failures []error
	for _, p := range patches {
		d := p.Object.document
		more, err := changesOf(p)
		if err != nil {
			failures = append(failures, p.Object.Remark(p.Object.Line(), err))
			continue
		}
		if changes[d] == nil {
			order = append(order, d)
		}
		changes[d] = append(changes[d], more...)
	}
	for _, d := range order {
		formatted, err := d.write(changes[d], record)
		if err != nil {
			failures = append(failures, Remark{File: f.Name, Line: d.Line, Err: err})
			continue
		}
		if formatted != nil {
			anew = append(anew, Remark{File: f.Name, Line: d.begins(f), Err: formatted})
		}
	}
	return anew, errors.Join(failures...)
}

// These say that a document is not byte for byte what its author wrote.
var (
	errKept = errors.New("the additions don't fit into the text as it is (anchors, for example), " +
		"so this document was formatted anew; uninject gives its lines back, which stand at its end as comments")
	errFormatted = errors.New("the changes don't fit into the text as it is (anchors, for example), " +
		"so this document was formatted anew")
	errEdited = errors.New("this document was edited since its additions were made, so it keeps its present " +
		"format; the lines from before, at its end, are dropped")
)

// change is an operation that adds a member to an object, replaces its value, or removes it.
type change struct {
	Operation string          `json:"op"`
	Path      string          `json:"path"`
	Value     json.RawMessage `json:"value,omitempty"`

	path []string // Path, taken apart
}

// changesOf returns the operations of a patch, with paths from the document.
func changesOf(p Patch) ([]change, error) {
	var changes []change
	if err := json.Unmarshal(p.JSON, &changes); err != nil {
		return nil, fmt.Errorf("read patch: %w", err)
	}
	for i := range changes {
		c := &changes[i]
		c.Path = p.Object.path + c.Path
		c.path = pointerKeys(c.Path)
		if !slices.Contains([]string{"add", "replace", "remove"}, c.Operation) || len(c.path) == 0 {
			return nil, fmt.Errorf("operation %s %q is not known", c.Operation, c.Path)
		}
	}
	return changes, nil
}

// write applies changes, with the tree that this needs.
func (d *Document) write(changes []change, record Record) (formatted, err error) {
	defer d.plant()()
	return d.apply(changes, record)
}

// begins returns the line of the first object of a document.
func (d *Document) begins(f *File) int {
	for _, o := range f.objects {
		if o.document == d {
			return o.line
		}
	}
	return d.Line
}

// apply notes the edits of the text that apply the changes, and says where they don't keep its
// formatting. First they are written into the text, where everything else stays as it is, if need be
// with aliases written out; where that does not work out, into the tree, which keeps the comments; and
// at last the value is encoded anew, where it is JSON, or its former text is kept. Where the changes
// take the last addition out of a document that keeps its former text, that text is tried first. Each
// way is proven: the result is read again and must be the value that the JSON patch gives. None is
// trusted, so whatever YAML has in store, an addition can't end up in a wrong place.
func (d *Document) apply(changes []change, record Record) (formatted, err error) {
	patch, err := json.Marshal(changes)
	if err != nil {
		return nil, fmt.Errorf("encode operations: %w", err)
	}
	want, err := patched(d.Value, patch)
	if err != nil {
		return nil, err
	}
	member := []byte(strconv.Quote(record.Key) + ":")
	had, has := bytes.Contains(d.Value, member), bytes.Contains(want, member)
	if had && !has && d.Kept != "" {
		if edits := d.giveBack(); d.proves(edits, want) == nil {
			d.edits, d.Value = edits, want
			return nil, nil
		}
	}
	type way struct {
		write func() ([]udiff.Edit, error)
		anew  bool
	}
	ways := []way{
		{func() ([]udiff.Edit, error) { return d.contract(editText(d, changes)) }, false},
		{func() ([]udiff.Edit, error) { return editText(d, changes) }, false},
		{func() ([]udiff.Edit, error) { return expandText(d, changes) }, false},
		{func() ([]udiff.Edit, error) { return editTree(d, changes) }, true},
		{func() ([]udiff.Edit, error) { return d.encode(want) }, true},
	}
	switch {
	case d.IsJSON:
		ways = slices.Delete(ways, 3, 4)
	case had || !has: // the comments would be lost
		ways = ways[:4]
	}
	if !slices.ContainsFunc(changes, func(c change) bool { return c.Operation == "remove" }) {
		ways = ways[1:]
	}
	for _, w := range ways {
		var edits, keep []udiff.Edit
		edits, err = w.write()
		if err == nil {
			lost := w.anew || !had && has && !d.comesBack(edits, record.Undo)
			keep, formatted = d.keep(had, has, w.anew, lost)
			edits = append(edits, keep...)
			err = d.proves(edits, want)
		}
		if err == nil {
			d.edits, d.Value = edits, want
			return formatted, nil
		}
	}
	return nil, err
}

// patched applies a JSON patch to a JSON document.
func patched(value, patch []byte) ([]byte, error) {
	decoded, err := applier.DecodePatch(patch)
	if err != nil {
		return nil, fmt.Errorf("read patch: %w", err)
	}
	value, err = decoded.Apply(value)
	if err != nil {
		return nil, fmt.Errorf("apply patch: %w", err)
	}
	return value, nil
}

// proves returns an error when the edited document would not be read as the value
// want.
func (d *Document) proves(edits []udiff.Edit, want []byte) error {
	text, err := udiff.Apply(d.Body+d.Kept, edits)
	if err != nil {
		return fmt.Errorf("edit text: %w", err)
	}
	f, err := read("", d.Before+text+d.After)
	if err != nil {
		return fmt.Errorf("read result: %w", err)
	}
	if len(f.Documents) != 1 || f.Documents[0].IsJSON != d.IsJSON || !sameValue(f.Documents[0].Value, want) {
		return errNoPlace
	}
	return nil
}

// sameValue reports whether two JSON documents are the same value.
func sameValue(a, b []byte) bool {
	x, err1 := decodeJSON(a)
	y, err2 := decodeJSON(b)
	return err1 == nil && err2 == nil && reflect.DeepEqual(x, y)
}

// decodeJSON decodes a value with its numbers as written.
func decodeJSON(raw []byte) (value any, err error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	err = d.Decode(&value)
	return value, err
}

// encode replaces body with value, JSON with about the same indentation.
func (d *Document) encode(value []byte) ([]udiff.Edit, error) {
	if !d.IsJSON {
		node, err := nodeOf(json.RawMessage(value))
		if err != nil {
			return nil, err
		}
		text, err := encodeYAML(node, styleOf(d))
		return udiff.Lines(d.Body, text), err
	}
	rest := d.Body[len(strings.TrimRight(d.Body, " \t\r\n")):]
	if !strings.Contains(strings.TrimSpace(d.Body), "\n") {
		return udiff.Lines(d.Body, string(value)+rest), nil
	}
	var b bytes.Buffer
	err := json.Indent(&b, value, "", "  ")
	return udiff.Lines(d.Body, b.String()+rest), err
}

// errNoPlace says that a change can't be written.
var errNoPlace = errors.New(
	"the additions can't be written into this YAML; write out its anchors and merge keys, and please report it")

// editor writes changes into the text of a document.
type editor struct {
	text   string
	starts []int // the offset of each line
	style  style
	edits  []edit
	// merged are the aliases that have become merge keys.
	merged map[*yaml.Node]bool
	// removals are the mappings that lose members, in order.
	removals []*removal
}

// style is how the author of a document writes.
type style struct {
	indent  int  // of a mapping in a mapping, in spaces
	compact bool // elements of a sequence stand no deeper than their key
	newline string
	isJSON  bool
}

// edit replaces length bytes at offset. Of several at one offset, the one that is
// indented more comes first: it belongs to what ends there.
type edit struct {
	offset, length, indent int
	text                   string
}

// editText inserts the changes as text.
func editText(d *Document, changes []change) ([]udiff.Edit, error) {
	if d.root == nil {
		return nil, errNoPlace
	}
	e := newEditor(d)
	for _, c := range changes {
		if err := e.change(d.root, c); err != nil {
			return nil, err
		}
	}
	return e.done()
}

// lineEnds are the characters that end a line in YAML 1.1, a carriage return without a line feed among
// them.
const lineEnds = "\r\n\u0085\u2028\u2029"

// newEditor returns an editor of a document that has a tree.
func newEditor(d *Document) *editor {
	e := &editor{text: d.Body, starts: []int{0}, style: styleOf(d), merged: map[*yaml.Node]bool{}}
	for i, r := range d.Body { // as the parser counts them
		if strings.ContainsRune(lineEnds, r) && !strings.HasPrefix(d.Body[i:], "\r\n") {
			e.starts = append(e.starts, i+utf8.RuneLen(r))
		}
	}
	return e
}

// done returns the edits in order.
func (e *editor) done() ([]udiff.Edit, error) {
	if err := e.removeAll(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(e.edits, func(a, b edit) int {
		return cmp.Or(cmp.Compare(a.offset, b.offset), cmp.Compare(b.indent, a.indent))
	})
	e.removeEnd()
	edits := make([]udiff.Edit, len(e.edits))
	for i, edit := range e.edits {
		edits[i] = udiff.Edit{Start: edit.offset, End: edit.offset + edit.length, New: edit.text}
	}
	return edits, nil
}

// styleOf returns how the author of a document writes.
func styleOf(d *Document) style {
	s := style{indent: 2, compact: true, newline: "\n", isJSON: d.IsJSON}
	if strings.Contains(d.Body, "\r\n") {
		s.newline = "\r\n"
	}
	found, sequences := false, 0
	var look func(*yaml.Node)
	look = func(n *yaml.Node) {
		for i, value := range n.Content {
			if n.Kind == yaml.MappingNode && i%2 == 1 {
				key := n.Content[i-1]
				step := value.Column - key.Column
				switch {
				case value.Line == key.Line:
				case value.Kind == yaml.MappingNode && step > 0 && !found:
					s.indent, found = min(step, 8), true
				case value.Kind == yaml.SequenceNode && value.Style&yaml.FlowStyle == 0 && step > 0:
					sequences++
				case value.Kind == yaml.SequenceNode && value.Style&yaml.FlowStyle == 0:
					sequences--
				}
			}
			look(value)
		}
	}
	look(d.root)
	s.compact = sequences <= 0
	return s
}

// change finds the place of one change and notes the edit.
func (e *editor) change(root *yaml.Node, c change) error {
	var above, name *yaml.Node // the mapping around node, and node's key in it
	node := root
	for _, key := range c.path[:len(c.path)-1] {
		if node.Kind == yaml.AliasNode {
			return errNoPlace
		}
		above = node
		name, node = child(node, key)
		if node == nil {
			return errNoPlace
		}
	}
	key := c.path[len(c.path)-1]
	if node.Kind == yaml.AliasNode {
		if c.Operation != "add" {
			return errNoPlace
		}
		return e.mergeAlias(above, name, node, change{path: []string{key}, Value: c.Value})
	}
	if node.Kind != yaml.MappingNode {
		return errNoPlace
	}
	k, value := child(node, key)
	switch {
	case value == nil && c.Operation != "add":
		return errNoPlace
	case c.Operation == "remove":
		e.noteRemoval(name, node, k)
		return nil
	case value != nil:
		return e.replace(node, k, value, c.Value)
	}
	member := map[string]json.RawMessage{key: c.Value}
	switch {
	case node.Style&yaml.FlowStyle == 0:
		return e.appendBlock(node, member)
	case len(node.Content) > 0:
		return e.insertFlow(node, member)
	case e.style.isJSON || above == nil || above.Kind != yaml.MappingNode || above.Style&yaml.FlowStyle != 0:
		return e.fillFlow(node, member)
	}
	return e.fillBlock(name, node, member)
}

// offset returns the place of a node in the text. The parser counts characters.
func (e *editor) offset(n *yaml.Node) (int, error) {
	if n.Line < 1 || n.Line > len(e.starts) || n.Column < 1 {
		return 0, errNoPlace
	}
	column := 0
	for i := range e.text[e.starts[n.Line-1]:] {
		if column++; column == n.Column {
			return e.starts[n.Line-1] + i, nil
		}
	}
	return 0, errNoPlace
}

// line returns the text of a line, from 1, without its end.
func (e *editor) line(number int) string {
	end := len(e.text)
	if number < len(e.starts) {
		end = e.starts[number]
	}
	return strings.TrimRight(e.text[e.starts[number-1]:end], lineEnds)
}

// appendBlock adds a member behind the last one of a block mapping.
func (e *editor) appendBlock(node *yaml.Node, member map[string]json.RawMessage) error {
	return e.appendLines(node, func(indent int) ([]string, error) { return e.render(member, indent) })
}

// appendLines adds lines behind the last member of a block mapping.
func (e *editor) appendLines(node *yaml.Node, lines func(indent int) ([]string, error)) error {
	if len(node.Content) == 0 {
		return errNoPlace
	}
	indent := node.Content[0].Column - 1
	end := lastNode(node)
	line := end.Line
	if at, err := e.offset(end); err == nil && end.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
		line = e.lineAt(quotedEnd(e.text, at) - 1) // may go on at less indentation
	}
	last, keep := line, strings.HasSuffix(end.Value, "\n\n") // of a block scalar that keeps blank lines
	if last > len(e.starts) {
		return errNoPlace
	}
	comments := true // those right behind belong to the mapping
	for number := last + 1; number <= len(e.starts); number++ {
		line := e.line(number)
		content := strings.TrimLeft(line, " \t")
		switch depth := len(line) - len(content); {
		case content == "":
			if comments = false; keep && number < len(e.starts) {
				last = number
			}
			continue
		case depth > indent, content[0] == ']', content[0] == '}', // the rest of the last value
			depth == indent && content[0] == '#' && comments:
			last = number
			continue
		}
		break
	}
	text, err := lines(indent)
	if err == nil {
		e.insert(last, indent, text)
	}
	return err
}

// lastNode returns what begins last in n.
func lastNode(n *yaml.Node) *yaml.Node {
	last := n
	for _, inner := range n.Content {
		if end := lastNode(inner); end.Line >= last.Line {
			last = end
		}
	}
	return last
}

// insertLines adds a member of a block mapping behind a line.
func (e *editor) insertLines(number, indent int, member any) error {
	lines, err := e.render(member, indent)
	if err == nil {
		e.insert(number, indent, lines)
	}
	return err
}

// insert adds lines behind a line.
func (e *editor) insert(number, indent int, lines []string) {
	if number < len(e.starts) {
		e.edits = append(e.edits, edit{e.starts[number], 0, indent, strings.Join(lines, e.style.newline) + e.style.newline})
		return
	}
	// The last line of the text does not end in a line feed.
	e.edits = append(e.edits, edit{len(e.text), 0, indent, e.style.newline + strings.Join(lines, e.style.newline)})
}

// render returns a mapping as indented lines in the author's style.
func (e *editor) render(member any, indent int) ([]string, error) {
	node, err := nodeOf(member)
	if err != nil {
		return nil, err
	}
	text, err := encodeYAML(node, e.style)
	if err != nil {
		return nil, err
	}
	return indented(strings.Split(strings.TrimSuffix(text, "\n"), "\n"), indent), nil
}

// indented indents lines, but for empty ones.
func indented(lines []string, indent int) []string {
	for i, line := range lines {
		if line != "" {
			lines[i] = strings.Repeat(" ", indent) + line
		}
	}
	return lines
}

// nodeOf returns a JSON value as a tree in block style.
func nodeOf(value any) (*yaml.Node, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encode addition: %w", err)
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, fmt.Errorf("convert addition: %w", err)
	}
	var plain func(*yaml.Node)
	plain = func(n *yaml.Node) {
		n.Style = styleOfScalar(n)
		for _, inner := range n.Content {
			plain(inner)
		}
	}
	plain(&document)
	return document.Content[0], nil
}

// yamlWords are the scalars that a reader of YAML 1.1 or 1.2 takes for a boolean, for null, for a merge
// key or for the default value (https://yaml.org/type/), in small letters.
var yamlWords = []string{"", "y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", "<<", "=",
	".inf", "+.inf", "-.inf", ".nan"}

// numberLike matches what some reader of YAML may take for a number, a date or a time: decimal, 0x1f,
// 0o17, 017, 0b1, 1_000, 1e3, .5, 1:30, 2001-12-14 and the like. Text that it matches and that is
// none of these is quoted in vain, which does no harm.
var numberLike = regexp.MustCompile(`^[-+]?[.0-9][-+.,:_0-9a-fA-FxXoOtTzZ \t]*$`)

// styleOfScalar returns the style to write a node in: text that any reader of YAML could take for
// something else is quoted.
func styleOfScalar(n *yaml.Node) yaml.Style {
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" &&
		(slices.Contains(yamlWords, strings.ToLower(n.Value)) || numberLike.MatchString(n.Value)) {
		return yaml.DoubleQuotedStyle
	}
	return 0
}

// encodeYAML encodes a tree in a style, with plain line feeds.
func encodeYAML(node *yaml.Node, s style) (string, error) {
	var b bytes.Buffer
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(s.indent)
	if s.compact {
		encoder.CompactSeqIndent()
	}
	if err := encoder.Encode(node); err != nil {
		return "", fmt.Errorf("encode YAML: %w", err)
	}
	if err := encoder.Close(); err != nil {
		return "", fmt.Errorf("encode YAML: %w", err)
	}
	return b.String(), nil
}

// insertFlow adds a member to a flow mapping, or a JSON object, that has members:
// behind the first one, whose end is where the second begins, else before it.
func (e *editor) insertFlow(node *yaml.Node, member map[string]json.RawMessage) error {
	next := node.Content[0]
	if len(node.Content) > 2 {
		next = node.Content[2]
	}
	at, err := e.offset(next)
	if err != nil {
		return err
	}
	text, err := e.flow(member)
	if err != nil {
		return err
	}
	start := e.starts[next.Line-1]
	indent := e.text[start:at]
	if next.Line == node.Line || strings.TrimSpace(indent) != "" { // several members on one line
		separator := ", "
		if e.style.isJSON {
			separator = ","
		}
		e.edits = append(e.edits, edit{at, 0, 0, flowMember(text) + separator})
		return nil
	}
	if e.style.isJSON {
		line := e.line(node.Line)
		outer := line[:len(line)-len(strings.TrimLeft(line, " \t"))]
		step, ok := strings.CutPrefix(indent, outer)
		if !ok || step == "" {
			step = "  "
		}
		var b bytes.Buffer
		if err := json.Indent(&b, []byte(text), outer, step); err != nil {
			return fmt.Errorf("indent addition: %w", err)
		}
		text = strings.ReplaceAll(b.String(), "\n", e.style.newline)
	}
	e.edits = append(e.edits, edit{start, 0, 0, indent + flowMember(text) + "," + e.style.newline})
	return nil
}

// flowMember strips the braces of a mapping with one member.
func flowMember(text string) string {
	text = strings.TrimSpace(text)
	return strings.TrimSpace(text[1 : len(text)-1])
}

// flow returns a member as a flow mapping on one line.
func (e *editor) flow(member map[string]json.RawMessage) (string, error) {
	if e.style.isJSON {
		text, err := json.Marshal(member)
		return string(text), err
	}
	tree, err := nodeOf(member)
	if err != nil {
		return "", err
	}
	tree.Style = yaml.FlowStyle
	text, err := encodeYAML(tree, e.style)
	return strings.TrimSpace(text), err
}

// fillFlow adds the first member to an empty flow mapping inside another.
func (e *editor) fillFlow(node *yaml.Node, member map[string]json.RawMessage) error {
	at, length, err := e.empty(node)
	if err != nil {
		return err
	}
	text, err := e.flow(member)
	if err != nil {
		return err
	}
	end := e.text[at+1 : at+length] // the brace, and the space before it
	text = strings.TrimSuffix(text, "}") + end
	for i := range e.edits { // a second member of the same mapping
		if e.edits[i].offset == at && e.edits[i].length == length {
			e.edits[i].text = strings.TrimSuffix(e.edits[i].text, end) + "," + strings.TrimPrefix(text, "{")
			return nil
		}
	}
	e.edits = append(e.edits, edit{at, length, 0, text})
	return nil
}

// empty returns the place of an empty flow mapping and its length.
func (e *editor) empty(node *yaml.Node) (at, length int, err error) {
	if at, err = e.offset(node); err != nil {
		return 0, 0, err
	}
	end := strings.IndexByte(e.text[at:], '}') + 1
	if end < 2 || e.text[at] != '{' || strings.TrimSpace(e.text[at+1:at+end-1]) != "" {
		return 0, 0, errNoPlace
	}
	return at, end, nil
}

// fillBlock turns an empty flow mapping, the value of name, into a block mapping, where it stands on
// its line as "name: {}", for cutBlock to write it again.
func (e *editor) fillBlock(name, node *yaml.Node, member map[string]json.RawMessage) error {
	at, length, err := e.empty(node)
	if err != nil {
		return err
	}
	number := e.lineAt(at)
	rest := strings.TrimPrefix(e.line(number)[at-e.starts[number-1]:], "{}")
	if length > 2 || !strings.HasSuffix(e.text[:at], ": ") || rest != "" && strings.TrimSpace(rest) == "" {
		return e.fillFlow(node, member)
	}
	return e.becomeBlock(name, at, length, member)
}

// becomeBlock removes the value of name, which stands on one line, and adds a
// member in the lines behind it.
func (e *editor) becomeBlock(name *yaml.Node, at, length int, member any) error {
	number := e.lineAt(at)
	rest := strings.TrimLeft(e.line(number)[at+length-e.starts[number-1]:], " \t")
	if rest != "" && rest[0] != '#' {
		return errNoPlace
	}
	if length > 0 && e.text[at-1] == ' ' {
		at--
		length++
	}
	removal := edit{at, length, 0, ""}
	if length > 0 && !slices.Contains(e.edits, removal) { // a second member finds it done
		e.edits = append(e.edits, removal)
	}
	return e.insertLines(number, name.Column-1+e.style.indent, member)
}

// replace writes a value in the place of a number, of text or of null, or null in the place of anything.
func (e *editor) replace(around, name, value *yaml.Node, with json.RawMessage) error {
	block := around.Style&yaml.FlowStyle == 0
	if string(with) == "null" && !e.style.isJSON && value.Kind != yaml.AliasNode {
		if !block {
			return e.restoreFlowNull(name, value)
		}
		return e.restoreNull(name, value)
	}
	if value.Kind == yaml.ScalarNode &&
		value.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 && with[0] == '"' {
		return e.requote(value, with)
	}
	token := value.Value
	if value.Kind == yaml.AliasNode {
		token = "*" + value.Value
	} else if value.Kind != yaml.ScalarNode || value.Style != 0 || value.Anchor != "" {
		return errNoPlace
	}
	switch {
	case value.Tag != "!!null" || e.style.isJSON:
	case block:
		return e.replaceNull(name, value, with)
	default:
		return e.replaceFlowNull(name, value, with)
	}
	at, err := e.offset(value)
	if err != nil || token == "" || !strings.HasPrefix(e.text[at:], token) {
		return errNoPlace
	}
	if with[0] != '{' || !block {
		e.edits = append(e.edits, edit{at, len(token), 0, string(with)})
		return nil
	}
	return e.becomeBlock(name, at, len(token), with)
}

// mergeAlias adds a member to a mapping that is written as an alias, by merging
// what the alias stands for and the member: the alias's other places stay alone.
func (e *editor) mergeAlias(around, name, alias *yaml.Node, c change) error {
	if around == nil || around.Kind != yaml.MappingNode || around.Style&yaml.FlowStyle != 0 ||
		alias.Alias.Kind != yaml.MappingNode {
		return errNoPlace
	}
	if _, value := child(alias.Alias, c.path[0]); value != nil {
		return errNoPlace
	}
	at, err := e.offset(alias)
	token := "*" + alias.Value
	if err != nil || !strings.HasPrefix(e.text[at:], token) {
		return errNoPlace
	}
	number := e.lineAt(at)
	member := map[string]json.RawMessage{c.path[0]: c.Value}
	indent := name.Column - 1 + e.style.indent
	if e.merged[alias] {
		return e.insertLines(number, indent, member)
	}
	e.merged[alias] = true
	merge := strings.Repeat(" ", indent) + "<<: " + token
	if err := e.becomeBlock(name, at, len(token), member); err != nil {
		return err
	}
	last := &e.edits[len(e.edits)-1]
	if strings.HasPrefix(last.text, e.style.newline) {
		last.text = e.style.newline + merge + last.text
	} else {
		last.text = merge + e.style.newline + last.text
	}
	return nil
}

// editTree makes the changes in the tree of the document and encodes it anew.
func editTree(d *Document, changes []change) ([]udiff.Edit, error) {
	var document yaml.Node // with the comments at its end
	if err := yaml.Unmarshal([]byte(d.Body), &document); err != nil {
		return nil, fmt.Errorf("read document: %w", err)
	}
	t := &tree{document.Content[0]}
	for _, c := range changes {
		node := t.own(t.root)
		for _, key := range c.path[:len(c.path)-1] {
			if node = t.descend(node, key); node == nil {
				return nil, errNoPlace
			}
		}
		key := c.path[len(c.path)-1]
		if node.Kind != yaml.MappingNode {
			return nil, errNoPlace
		}
		if c.Operation == "remove" {
			t.remove(node, key)
			continue
		}
		value, err := nodeOf(c.Value)
		if err != nil {
			return nil, err
		}
		if node.Style&yaml.FlowStyle != 0 && len(node.Content) == 0 {
			node.Style = 0
		}
		t.set(node, key, value)
	}
	plainMerges(t.root)
	text, err := encodeYAML(&document, styleOf(d))
	if err != nil {
		return nil, err
	}
	if strings.Contains(d.Body, "\r\n") {
		text = strings.ReplaceAll(text, "\n", "\r\n")
	}
	return udiff.Lines(d.Body, text), nil
}

// plainMerges takes the tag off the merge keys, which would be written out.
func plainMerges(n *yaml.Node) {
	if n.Tag == "!!merge" {
		n.Tag = ""
	}
	for _, inner := range n.Content {
		plainMerges(inner)
	}
}

// tree is a document to be changed.
type tree struct{ root *yaml.Node }

// own makes sure that node is in one place only: an alias becomes a copy, and the
// aliases of an anchor become copies, so that a change does not show elsewhere.
func (t *tree) own(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		replaceAlias(node)
	}
	if node.Anchor != "" {
		t.release(t.root, node)
		node.Anchor = ""
	}
	return node
}

// release turns the aliases of target below n into copies.
func (t *tree) release(n, target *yaml.Node) {
	if n.Kind == yaml.AliasNode && n.Alias == target {
		replaceAlias(n)
		return
	}
	for _, inner := range n.Content {
		t.release(inner, target)
	}
}

// replaceAlias turns an alias into a copy of what it stands for. The comments stay
// its own.
func replaceAlias(alias *yaml.Node) {
	c := copyOf(alias.Alias)
	c.HeadComment, c.LineComment, c.FootComment = alias.HeadComment, alias.LineComment, alias.FootComment
	if c.Kind != yaml.ScalarNode && c.Style&yaml.FlowStyle == 0 && len(c.Content) > 0 { // a block has no line of its own
		first := c.Content[0]
		first.HeadComment = strings.TrimLeft(c.LineComment+"\n"+first.HeadComment, "\n")
		c.LineComment = ""
	}
	*alias = *c
}

// copyOf returns a deep copy without anchors; aliases in it stay.
func copyOf(n *yaml.Node) *yaml.Node {
	c := *n
	c.Anchor = ""
	c.Content = make([]*yaml.Node, len(n.Content))
	for i, inner := range n.Content {
		c.Content[i] = copyOf(inner)
	}
	return &c
}

// descend returns the member or element of node, in one place only; nil without
// one. A member that a merge key brings is copied into node, where it hides the
// merged one.
func (t *tree) descend(node *yaml.Node, key string) *yaml.Node {
	if _, value := child(node, key); value != nil {
		return t.own(value)
	}
	value := merged(node, key)
	if value == nil {
		return nil
	}
	if value.Kind == yaml.AliasNode {
		value = value.Alias
	}
	own := copyOf(value)
	t.set(node, key, own)
	return own
}

// merged returns the member that the merge key of a mapping brings, nil without one.
func merged(node *yaml.Node, key string) (found *yaml.Node) {
	eachMerged(node, func(name, value *yaml.Node) {
		if found == nil && name.Kind == yaml.ScalarNode && name.Value == key {
			found = value
		}
	})
	return found
}

// eachMerged calls use for each member that the merge key of a mapping brings. Of several with one key,
// the first counts.
func eachMerged(node *yaml.Node, use func(name, value *yaml.Node)) {
	_, merge := child(node, "<<")
	if merge == nil || node.Kind != yaml.MappingNode {
		return
	}
	sources := []*yaml.Node{merge}
	if merge.Kind == yaml.SequenceNode {
		sources = merge.Content
	}
	for _, source := range sources {
		if source.Kind == yaml.AliasNode {
			source = source.Alias
		}
		for i := 0; source.Kind == yaml.MappingNode && i+1 < len(source.Content); i += 2 {
			if source.Content[i].Value != "<<" {
				use(source.Content[i], source.Content[i+1])
			}
		}
		eachMerged(source, use)
	}
}

// set sets a member of a mapping.
func (t *tree) set(node *yaml.Node, key string, value *yaml.Node) {
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Kind == yaml.ScalarNode && node.Content[i].Value == key {
			value.HeadComment, value.LineComment, value.FootComment =
				node.Content[i+1].HeadComment, node.Content[i+1].LineComment, node.Content[i+1].FootComment
			if old := node.Content[i+1]; old.Anchor != "" {
				t.release(t.root, old)
			}
			node.Content[i+1] = value
			return
		}
	}
	name := &yaml.Node{}
	name.SetString(key)
	name.Style |= styleOfScalar(name)
	node.Content = append(node.Content, name, value)
}

// remove removes a member of a mapping.
func (t *tree) remove(node *yaml.Node, key string) {
	for i := 0; i+1 < len(node.Content); i += 2 {
		if k := node.Content[i]; k.Kind == yaml.ScalarNode && k.Value == key {
			if old := node.Content[i+1]; old.Anchor != "" {
				t.release(t.root, old)
			}
			node.Content = slices.Delete(node.Content, i, i+2)
			if len(node.Content) == 0 {
				node.Style |= yaml.FlowStyle
			}
			return
		}
	}
}

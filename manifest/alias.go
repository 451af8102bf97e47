package manifest

import (
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	"go.yaml.in/yaml/v3"
)

// Where a change leads through an alias, or through what a merge key brings, the value is written out
// in that place, and the alias stays as a comment, so that it can be written again once both are the
// same:
//
//	template: *web    template: # evenkeel: *web
//	                    metadata: ...
//	<<: *web          <<: *web
//	                  containers: # evenkeel: <<
//	                  - name: ...
//
// Where a change leads through an anchor, its aliases are written out likewise, so that they stay as
// they are, and what a merge key brings of it:
//
//   - &web            - &web
//     name: a           name: a
//     image: web        image: web
//     lifecycle: ...
//   - <<: *web        - <<: {} # evenkeel: *web
//     name: b           name: b
//     image: web # evenkeel: <<
const (
	mark       = "# evenkeel: "
	markMerged = " " + mark + "<<"
)

// mergeValue matches the aliases of a merge key on one line.
const mergeValue = `(\*[^\s]+|\[[^\]\n{]*\])`

var (
	// writtenOut matches what follows the colon of a key, or the dash of an element, that was written out.
	writtenOut = regexp.MustCompile(`^[ \t]*` + mark + `([*{\[].*)`)
	aliasName  = regexp.MustCompile(`\*([-\w]+)`)
	mergeKey   = regexp.MustCompile("^" + mergeValue)
	// writtenMerge matches the value of a merge key that was written out.
	writtenMerge = regexp.MustCompile(`^\{\} ` + mark + mergeValue)
)

// expansion is a value that is written out.
type expansion struct {
	path []string
	// name is the key, nil for an element of a list; alias is nil for a member that a merge key brings
	// into around, one of those of the merge key where that is the name, and otherwise what is written
	// out, which stands in braces where it isn't an alias.
	name, alias, around *yaml.Node
}

// expandText is editText behind which aliases that changes lead through are written out.
func expandText(d *Document, changes []change) ([]udiff.Edit, error) {
	if d.root == nil || d.IsJSON {
		return nil, errNoPlace
	}
	now := &Document{Body: d.Body, root: d.root}
	for range 10 { // what is written out may hold aliases
		edits, err := expansions(now, changes)
		if err != nil {
			return nil, err
		}
		if len(edits) == 0 {
			if edits, err = editText(now, changes); err != nil {
				return nil, err
			}
			body, err := udiff.Apply(now.Body, edits)
			return udiff.Lines(d.Body, body), err
		}
		if now.Body, err = udiff.Apply(now.Body, edits); err != nil {
			return nil, err
		}
		if now.root, err = parseYAML(now.Body); err != nil {
			return nil, err
		}
	}
	return nil, errNoPlace
}

// expansions returns the edits that write out the first aliases that changes lead through.
func expansions(d *Document, changes []change) ([]udiff.Edit, error) {
	var all []expansion
	touched := map[*yaml.Node]bool{} // anchors
	covered := func(path []string) bool {
		return slices.ContainsFunc(all, func(x expansion) bool {
			return len(x.path) <= len(path) && slices.Equal(x.path, path[:len(x.path)])
		})
	}
	for _, c := range changes {
		if covered(c.path) {
			continue
		}
		x, err := expanded(d.root, c, touched)
		if err != nil {
			return nil, err
		}
		if x != nil {
			all = append(all, *x)
		}
	}
	eachAlias(d.root, nil, func(path []string, name, alias, around *yaml.Node) {
		if !touched[alias.Alias] || covered(path) {
			return
		}
		if name != nil && name.Value == "<<" { // brings its members, too
			all = slices.DeleteFunc(all, func(x expansion) bool { return x.alias == nil && x.around == around })
		}
		all = append(all, expansion{path, name, alias, around})
	})
	e := newEditor(d)
	var flows [][]string
	for _, x := range all {
		if x.around.Style&yaml.FlowStyle != 0 {
			if x = inBraces(d.root, x.path); slices.ContainsFunc(flows, func(path []string) bool {
				return slices.Equal(path, x.path)
			}) {
				continue
			}
			flows = append(flows, x.path)
		}
		if err := e.expand(x); err != nil {
			return nil, err
		}
	}
	return e.done()
}

// inBraces returns the outermost value on a path that stands in braces, in something that doesn't.
func inBraces(root *yaml.Node, path []string) expansion {
	node := root
	for i, key := range path {
		name, value := child(node, key)
		if value == nil || node.Style&yaml.FlowStyle != 0 {
			break
		}
		if value.Style&yaml.FlowStyle != 0 {
			if node.Kind == yaml.SequenceNode {
				name = nil
			}
			return expansion{path[:i+1], name, value, node}
		}
		node = value
	}
	return expansion{path: path, around: root} // which is in braces
}

// expanded returns the first alias on the path of a change, or member that a merge key brings; nil
// without one. The anchors up to there are touched.
func expanded(root *yaml.Node, c change, touched map[*yaml.Node]bool) (*expansion, error) {
	node := root
	for i, key := range c.path[:len(c.path)-1] {
		name, value := child(node, key)
		if node.Kind == yaml.SequenceNode {
			name = nil
		}
		path := c.path[:i+1]
		switch {
		case value == nil && merged(node, key) != nil:
			return &expansion{path: path, around: node}, nil
		case value == nil:
			return nil, errNoPlace
		case value.Kind == yaml.AliasNode && i == len(c.path)-2 && c.Operation == "add" && name != nil &&
			node.Style&yaml.FlowStyle == 0:
			return nil, nil // mergeAlias
		case value.Kind == yaml.AliasNode:
			return &expansion{path, name, value, node}, nil
		case value.Anchor != "":
			touched[value] = true
		}
		node = value
	}
	return nil, nil
}

// eachAlias calls use for each alias below n, with its path, its key and what is around it. Those in the
// list of a merge key have its path.
func eachAlias(n *yaml.Node, path []string, use func(path []string, name, alias, around *yaml.Node)) {
	for i, value := range n.Content {
		var name *yaml.Node
		key := strconv.Itoa(i)
		if n.Kind == yaml.MappingNode {
			if i%2 == 0 {
				continue
			}
			name = n.Content[i-1]
			key = name.Value
		}
		inner := slices.Concat(path, []string{key})
		values := []*yaml.Node{value}
		if name != nil && key == "<<" && value.Kind == yaml.SequenceNode {
			values = value.Content
		}
		for _, value := range values {
			if value.Kind == yaml.AliasNode {
				use(inner, name, value, n)
			} else {
				eachAlias(value, inner, use)
			}
		}
	}
}

// expand writes out an alias, or what a merge key brings.
func (e *editor) expand(x expansion) error {
	if x.around.Style&yaml.FlowStyle != 0 {
		return errNoPlace
	}
	if x.name != nil && x.name.Value == "<<" {
		return e.expandMerge(x.around)
	}
	key := &yaml.Node{}
	key.SetString(x.path[len(x.path)-1])
	key.Style |= styleOfScalar(key)
	value := merged(x.around, key.Value)
	if x.alias != nil {
		value = x.alias
	}
	if value != nil && value.Kind == yaml.AliasNode {
		value = value.Alias
	}
	if value == nil || value.Kind == yaml.ScalarNode || len(value.Content) == 0 ||
		x.name == nil && x.alias != nil && value.Kind != yaml.MappingNode {
		return errNoPlace
	}
	value = copyOf(value)
	value.Style &^= yaml.FlowStyle // of the whole, not of what is in it
	tree := value
	if x.name != nil || x.alias == nil {
		tree = &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{key, value}}
	}
	lines, err := e.linesOf(tree)
	if err != nil {
		return err
	}
	if x.alias == nil {
		lines[0] += markMerged
		return e.appendLines(x.around, func(indent int) ([]string, error) { return indented(lines, indent), nil })
	}
	at, err := e.offset(x.alias)
	if err != nil {
		return err
	}
	first, oneLine := e.text[at], e.lineAt(flowEnd(e.text, at)-1) == e.lineAt(at)
	if first != '*' && (first != '{' && first != '[' || !oneLine) {
		return errNoPlace
	}
	indent := x.alias.Column - 1
	if x.name != nil {
		indent, lines = x.name.Column-1, lines[1:]
	}
	e.edits = append(e.edits, edit{at, 0, 0, mark})
	e.insert(e.lineAt(at), indent, indented(lines, indent))
	return nil
}

// expandMerge writes out all that the merge key of a mapping brings.
func (e *editor) expandMerge(around *yaml.Node) error {
	_, merge := child(around, "<<")
	at, err := e.offset(merge)
	if err != nil || !mergeKey.MatchString(e.text[at:]) {
		return errNoPlace
	}
	e.edits = append(e.edits, edit{at, 0, 0, "{} " + mark})
	var lines []string
	seen := map[string]bool{}
	eachMerged(around, func(name, value *yaml.Node) {
		if _, own := child(around, name.Value); own != nil || seen[name.Value] || err != nil {
			return
		}
		seen[name.Value] = true
		var more []string
		more, err = e.linesOf(&yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{copyOf(name), copyOf(value)}})
		if err == nil {
			more[0] += markMerged
			lines = append(lines, more...)
		}
	})
	if err != nil || len(lines) == 0 {
		return err
	}
	return e.appendLines(around, func(indent int) ([]string, error) { return indented(lines, indent), nil })
}

// linesOf returns a tree, which is a copy, as lines without comments.
func (e *editor) linesOf(tree *yaml.Node) ([]string, error) {
	uncomment(tree)
	plainMerges(tree)
	text, err := encodeYAML(tree, e.style)
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if end := strings.TrimSpace(lines[len(lines)-1]); err == nil && (end == "" || end[0] == '#') {
		err = errNoPlace // the end of a block scalar that blockEnd doesn't see
	}
	return lines, err
}

// uncomment takes the comments off a tree.
func uncomment(n *yaml.Node) {
	n.HeadComment, n.LineComment, n.FootComment = "", "", ""
	for _, inner := range n.Content {
		uncomment(inner)
	}
}

// contract returns edits that lead to a text in which what was written out is an alias again.
func (d *Document) contract(edits []udiff.Edit, err error) ([]udiff.Edit, error) {
	if err != nil || d.IsJSON {
		return edits, err
	}
	body, err := udiff.Apply(d.Body, edits)
	if err != nil {
		return nil, err
	}
	for range 10 { // what was written out may hold what was written out
		now, err := contracted(body)
		if err != nil {
			return edits, err
		}
		if now == body {
			break
		}
		body = now
		edits = udiff.Lines(d.Body, body)
	}
	return edits, nil
}

// contracted returns body with what was written out as an alias, or as nothing beside a merge key,
// where both are the same again.
func contracted(body string) (string, error) {
	root, err := parseYAML(body)
	if err != nil || root == nil {
		return body, err
	}
	e := newEditor(&Document{Body: body, root: root})
	anchors := map[string]*yaml.Node{}
	var look func(n *yaml.Node)
	look = func(n *yaml.Node) {
		if n.Anchor != "" {
			anchors[n.Anchor] = n
		}
		for i, value := range n.Content {
			var name *yaml.Node
			switch {
			case n.Kind == yaml.MappingNode && i%2 == 0:
				continue
			case n.Kind == yaml.MappingNode:
				name = n.Content[i-1]
			}
			if n.Style&yaml.FlowStyle != 0 || !e.contract(n, name, value, anchors) {
				look(value)
			}
		}
	}
	look(root)
	edits, err := e.done()
	if err != nil {
		return "", err
	}
	return udiff.Apply(body, edits)
}

// contract takes out what expand has written, and reports whether it did.
func (e *editor) contract(around, name, value *yaml.Node, anchors map[string]*yaml.Node) bool {
	if name == nil {
		return e.contractElement(value, anchors)
	}
	if strings.HasSuffix(e.line(name.Line), markMerged) {
		last, err := e.lastLine(name)
		if brought := merged(around, name.Value); err == nil && brought != nil && sameNodes(brought, value) {
			e.removeLines(name.Line, last)
			return true
		}
	}
	if name.Value == "<<" {
		return e.contractMerge(around, name, value, anchors)
	}
	at, err := e.afterKey(name)
	if err != nil || value.Kind == yaml.ScalarNode {
		return false
	}
	match := writtenOut.FindStringSubmatchIndex(e.text[at:])
	if match == nil {
		return false
	}
	if !stands(e.text[at+match[2]:at+match[3]], value, anchors) {
		return false
	}
	e.edits = append(e.edits, edit{at + match[2] - len(mark), len(mark), 0, ""})
	e.removeLines(name.Line+1, e.blockEnd(name))
	return true
}

// contractMerge gives a merge key its aliases back where the mapping has all that they bring. What is
// the same is taken out next.
func (e *editor) contractMerge(around, name, value *yaml.Node, anchors map[string]*yaml.Node) bool {
	at, err := e.offset(value)
	if err != nil {
		return false
	}
	match := writtenMerge.FindStringSubmatch(e.text[at:])
	if match == nil {
		return false
	}
	sources := &yaml.Node{Kind: yaml.SequenceNode}
	for _, alias := range strings.FieldsFunc(match[1], func(r rune) bool { return strings.ContainsRune("[*, \t]", r) }) {
		if anchors[alias] == nil {
			return false
		}
		sources.Content = append(sources.Content, anchors[alias])
	}
	whole := true
	merge := &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{name, sources}}
	eachMerged(merge, func(name, _ *yaml.Node) {
		_, own := child(around, name.Value)
		whole = whole && own != nil
	})
	if whole {
		e.edits = append(e.edits, edit{at, len("{} " + mark), 0, ""})
	}
	return whole
}

// contractElement is contract for an element of a list, whose mark stands on the line before it.
func (e *editor) contractElement(value *yaml.Node, anchors map[string]*yaml.Node) bool {
	if value.Line < 2 || value.Kind != yaml.MappingNode || len(value.Content) == 0 || value.Style&yaml.FlowStyle != 0 {
		return false
	}
	line := e.line(value.Line - 1)
	dash := strings.IndexByte(line, '-')
	if dash < 0 || strings.TrimLeft(line[:dash], " -") != "" {
		return false
	}
	match := writtenOut.FindStringSubmatchIndex(line[dash+1:])
	if match == nil {
		return false
	}
	if !stands(line[dash+1+match[2]:], value, anchors) {
		return false
	}
	at := e.starts[value.Line-2] + dash + 1 + match[2]
	e.edits = append(e.edits, edit{at - len(mark), len(mark), 0, ""})
	last := value.Line
	for i := 0; i < len(value.Content); i += 2 {
		last = max(last, e.blockEnd(value.Content[i]))
	}
	e.removeLines(value.Line, last)
	return true
}

// stands reports whether a value is what text begins with: an alias, or something in braces.
func stands(text string, value *yaml.Node, anchors map[string]*yaml.Node) bool {
	if text[0] == '*' {
		anchor := anchors[strings.Fields(text)[0][1:]]
		return anchor != nil && sameNodes(anchor, value)
	}
	text = text[:flowEnd(text, 0)]
	known := aliasName.ReplaceAllString(strings.Join(aliasName.FindAllString(text, -1), ", "), "&$1 0")
	root, err := parseYAML("- [" + known + "]\n- " + text + "\n")
	return err == nil && len(root.Content) == 2 && sameTree(root.Content[1], value)
}

// sameTree reports whether two nodes are written with the same scalars and aliases.
func sameTree(a, b *yaml.Node) bool {
	return a.Kind == b.Kind && a.Value == b.Value && (a.Kind == yaml.AliasNode || a.ShortTag() == b.ShortTag()) &&
		slices.EqualFunc(a.Content, b.Content, sameTree)
}

// sameNodes reports whether two nodes are the same value.
func sameNodes(a, b *yaml.Node) bool {
	var x, y any
	return a.Decode(&x) == nil && b.Decode(&y) == nil && reflect.DeepEqual(x, y)
}

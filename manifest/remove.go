package manifest

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// removal is a mapping that loses members.
type removal struct {
	name, node *yaml.Node // the key of the mapping and the mapping
	keys       []*yaml.Node
}

// noteRemoval notes that a mapping loses the member of a key. What is to be written depends on
// whether it keeps any.
func (e *editor) noteRemoval(name, node, key *yaml.Node) {
	for _, r := range e.removals {
		if r.node == node {
			r.keys = append(r.keys, key)
			return
		}
	}
	e.removals = append(e.removals, &removal{name, node, []*yaml.Node{key}})
}

// removeAll writes the removals: what was added by appendBlock, insertFlow, fillFlow, fillBlock and
// mergeAlias is taken out such that the text is what it was before.
func (e *editor) removeAll() error {
	for _, r := range e.removals {
		if err := e.removeMembers(r); err != nil {
			return err
		}
	}
	return nil
}

func (e *editor) removeMembers(r *removal) error {
	all, flow := len(r.node.Content) == 2*len(r.keys), r.node.Style&yaml.FlowStyle != 0
	switch {
	case all && flow:
		return e.cutFlow(r.node)
	case all && r.name == nil:
		return errNoPlace
	case all:
		return e.cutBlock(r.name, " {}")
	case flow:
		return e.removeFlow(r)
	}
	if merge := r.node.Content[1]; len(r.node.Content) == 2*len(r.keys)+2 && r.node.Content[0].Value == "<<" &&
		merge.Kind == yaml.AliasNode && r.name != nil && r.name.Line != r.node.Line {
		return e.cutBlock(r.name, " *"+merge.Value)
	}
	for _, key := range r.keys {
		last, err := e.lastLine(key)
		if err != nil {
			return err
		}
		e.removeLines(key.Line, last)
	}
	return nil
}

// lastLine returns the last line of the member of a block mapping, without the comments behind it.
func (e *editor) lastLine(key *yaml.Node) (int, error) {
	before := e.line(key.Line)[:key.Column-1]
	if strings.TrimSpace(before) != "" { // the first member of an element of a list
		return 0, errNoPlace
	}
	return e.blockEnd(key), nil
}

// blockEnd returns the last line of the value of a key in a block mapping, without the comments
// behind it.
func (e *editor) blockEnd(key *yaml.Node) int {
	last := key.Line
	for number := key.Line + 1; number <= len(e.starts); number++ {
		line := e.line(number)
		content := strings.TrimLeft(line, " \t")
		depth := len(line) - len(content)
		switch {
		case content == "" || content[0] == '#':
			continue
		case depth >= key.Column, depth == key.Column-1 && (content == "-" || strings.HasPrefix(content, "- ")):
			last = number
			continue
		}
		break
	}
	return last
}

// removeLines removes lines with their ends.
func (e *editor) removeLines(first, last int) {
	start, end := e.starts[first-1], len(e.text)
	if last < len(e.starts) {
		end = e.starts[last]
	}
	e.edits = append(e.edits, edit{start, end - start, 0, ""})
}

// removeEnd lets the line before those that are removed at the end be the last one, without an end
// of its own where the text has none.
func (e *editor) removeEnd() {
	end := len(e.text)
	for i := len(e.edits) - 1; i >= 0 && !strings.HasSuffix(e.text, "\n"); i-- {
		at := &e.edits[i]
		if at.text != "" || at.length == 0 || at.offset+at.length != end {
			break
		}
		end = at.offset
		if _, isLine := slices.BinarySearch(e.starts, end); isLine && end > 0 &&
			(i == 0 || e.edits[i-1].offset+e.edits[i-1].length != end) {
			at.offset -= len(e.style.newline)
			at.length += len(e.style.newline)
		}
	}
}

// cutBlock removes the value of a key in a block mapping, on its line and below, and writes text
// behind the colon.
func (e *editor) cutBlock(name *yaml.Node, text string) error {
	at, err := e.afterKey(name)
	if err != nil {
		return err
	}
	line := e.line(name.Line)
	end := e.starts[name.Line-1] + len(line)
	rest := e.text[at:end]
	comment := ""
	if trimmed := strings.TrimLeft(rest, " \t"); strings.HasPrefix(trimmed, "#") {
		comment = rest
	}
	e.edits = append(e.edits, edit{at, len(rest) - len(comment), 0, text})
	before := strings.TrimSpace(line[:name.Column-1])
	if before != "" && strings.Trim(before, "- ") != "" {
		return errNoPlace
	}
	last := e.blockEnd(name)
	if last > name.Line {
		e.removeLines(name.Line+1, last)
	}
	return nil
}

// afterKey returns the place behind the colon of a key.
func (e *editor) afterKey(name *yaml.Node) (int, error) {
	at, err := e.offset(name)
	if err != nil {
		return 0, err
	}
	if name.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
		at = quotedEnd(e.text, at)
	} else if strings.HasPrefix(e.text[at:], name.Value) {
		at += len(name.Value)
	}
	rest := strings.TrimLeft(e.text[at:], " \t")
	if !strings.HasPrefix(rest, ":") {
		return 0, errNoPlace
	}
	return len(e.text) - len(rest) + 1, nil
}

// flowSpan returns from where to where a value stands in flow style.
func (e *editor) flowSpan(value *yaml.Node) (at, end int, err error) {
	if at, err = e.offset(value); err != nil {
		return 0, 0, err
	}
	if end = flowEnd(e.text, at); end <= at {
		return 0, 0, errNoPlace
	}
	return at, end, nil
}

// cutFlow leaves the braces of a mapping, with the space that fillFlow found between them.
func (e *editor) cutFlow(node *yaml.Node) error {
	at, end, err := e.flowSpan(node)
	if err != nil {
		return err
	}
	space := e.text[len(strings.TrimRight(e.text[:end-1], " \t\r\n")) : end-1]
	if first, err := e.offset(node.Content[0]); err != nil || first != at+1 {
		space = ""
	}
	e.edits = append(e.edits, edit{at, end - at, 0, "{" + space + "}"})
	return nil
}

// requote writes text in the place of text in quotes.
func (e *editor) requote(value *yaml.Node, with json.RawMessage) error {
	at, err := e.offset(value)
	if err != nil {
		return err
	}
	end := quotedEnd(e.text, at)
	if end <= at {
		return errNoPlace
	}
	e.edits = append(e.edits, edit{at, end - at, 0, string(with)})
	return nil
}

// removeFlow removes members of a mapping in flow style, or of a JSON object, that keeps others: each
// up to the next one, and those behind the last that stays with what stands before them.
func (e *editor) removeFlow(r *removal) error {
	content := r.node.Content
	last := len(content) - 2
	for slices.Contains(r.keys, content[last]) {
		last -= 2
	}
	for i := 0; i < last; i += 2 {
		if !slices.Contains(r.keys, content[i]) {
			continue
		}
		at, err1 := e.offset(content[i])
		next, err2 := e.offset(content[i+2])
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		e.edits = append(e.edits, edit{at, next - at, 0, ""})
	}
	if last == len(content)-2 {
		return nil
	}
	before, err1 := e.offset(content[last+1])
	end, err2 := e.offset(content[len(content)-1])
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	before, end = flowEnd(e.text, before), flowEnd(e.text, end)
	if end < before {
		return errNoPlace
	}
	e.edits = append(e.edits, edit{before, end - before, 0, ""})
	return nil
}

// flowEnd returns the end of the value in flow style that begins at a place, before the white space
// behind it.
func flowEnd(text string, at int) int {
	depth, end := 0, at
	for i := at; i < len(text); i++ {
		switch c := text[i]; {
		case (c == '"' || c == '\'') && (i == at || strings.IndexByte(" \t\r\n,:[{", text[i-1]) >= 0):
			i = quotedEnd(text, i) - 1
			end = i + 1
		case c == '#' && i > at && strings.IndexByte(" \t\r\n", text[i-1]) >= 0:
			for i+1 < len(text) && text[i+1] != '\n' {
				i++
			}
		case c == '{' || c == '[':
			depth++
			end = i + 1
		case c == '}' || c == ']':
			if depth == 0 {
				return end
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case c == ',' && depth == 0:
			return end
		case c != ' ' && c != '\t' && c != '\r' && c != '\n':
			end = i + 1
		}
	}
	return end
}

// quotedEnd returns the end of the text in quotes that begins at a place.
func quotedEnd(text string, at int) int {
	quote := text[at]
	for i := at + 1; i < len(text); i++ {
		switch {
		case text[i] == '\\' && quote == '"':
			i++
		case text[i] == quote && quote == '\'' && i+1 < len(text) && text[i+1] == quote:
			i++
		case text[i] == quote:
			return i + 1
		}
	}
	return len(text)
}

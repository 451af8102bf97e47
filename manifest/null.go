package manifest

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// A null that a value takes the place of stays in the text, as a comment, so that it can be written
// again as its author wrote it:
//
//	affinity: null # why    affinity: # null # why
//	                          podAntiAffinity: ...
//	affinity:               affinity:
//	                          podAntiAffinity: ...
//	seconds: ~              seconds: 40 # ~
//	seconds: # null         seconds: 40 # # null
//	{a: null, b: ~, c: }    {a: 1, b: 2 # ~
//	                          , c: 3  #
//	                          }

// writtenNull matches what follows the colon of a key, or the value that took the place of null:
// the null, perhaps on a line of its own, and a "# " for each time that this was done to it.
var writtenNull = regexp.MustCompile(`^[ \t]*(?:(?:\r\n?|\n)[ \t]+)?((?:# )*(?:null|Null|NULL|~))(?:[ \t\r\n]|$)`)

// flowNull matches what follows a value that took the place of null in braces: nothing for "null".
var flowNull = regexp.MustCompile(`^ ([ \t]*)#(?: (Null|NULL|~))?\r?\n[ \t]+`)

// replaceNull writes a value in the place of null in a block mapping.
func (e *editor) replaceNull(name, null *yaml.Node, with json.RawMessage) error {
	at, err := e.afterKey(name)
	if err != nil {
		return err
	}
	separator := " "
	match := writtenNull.FindStringSubmatchIndex(e.text[at:])
	switch place, err := e.offset(null); {
	case null.Value != "" && (err != nil || match == nil || at+match[2] != place):
		return errNoPlace // behind a comment on a line of its own, for example
	case null.Value != "":
		at, separator = place, ""
		e.edits = append(e.edits, edit{at, 0, 0, "# "})
	case match != nil && !strings.ContainsAny(e.text[at:at+match[2]], lineEnds):
		e.edits = append(e.edits, edit{at + match[2], 0, 0, "# "})
	}
	if with[0] == '{' {
		return e.insertLines(e.lineAt(at), name.Column-1+e.style.indent, with)
	}
	value := separator + string(with)
	if separator == "" {
		value += " "
	}
	e.edits = append(e.edits, edit{at, 0, 1, value}) // before the "# "
	return nil
}

// restoreNull writes null again in the place of a value in a block mapping, as it was written before
// replaceNull, or else nothing.
func (e *editor) restoreNull(name, value *yaml.Node) error {
	begin, err := e.afterKey(name)
	if err != nil {
		return err
	}
	block := value.Kind != yaml.ScalarNode && value.Style&yaml.FlowStyle == 0
	if !block {
		at, err := e.offset(value)
		if err != nil {
			return err
		}
		end := at + len(value.Value)
		if value.Kind != yaml.ScalarNode {
			end = flowEnd(e.text, at)
		} else if value.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
			end = quotedEnd(e.text, at)
		}
		if match := writtenNull.FindStringSubmatchIndex(e.text[end:]); match != nil && e.text[end+match[2]] == '#' &&
			!strings.ContainsAny(e.text[end:end+match[2]], lineEnds) {
			begin, end = at, end+match[2]+len("# ")
		}
		e.edits = append(e.edits, edit{begin, end - begin, 0, ""})
		return nil
	}
	match := writtenNull.FindStringSubmatchIndex(e.text[begin:])
	first := name.Line + 1
	if match != nil && e.text[begin+match[2]] == '#' {
		e.edits = append(e.edits, edit{begin + match[2], len("# "), 0, ""})
		first = e.lineAt(begin+match[2]) + 1
	}
	if last := e.blockEnd(name); last >= first {
		e.removeLines(first, last)
	}
	return nil
}

// replaceFlowNull writes a value in the place of null in a mapping in braces.
func (e *editor) replaceFlowNull(name, null *yaml.Node, with json.RawMessage) error {
	at, err := e.offset(null)
	value, rest := string(with), ""
	if null.Value == "" {
		at, err = e.afterKey(name)
		value = " " + value
	}
	if err != nil || !strings.HasPrefix(e.text[at:], null.Value) {
		return errNoPlace
	}
	end := at + len(null.Value)
	after := e.text[end:]
	space := after[:len(after)-len(strings.TrimLeft(after, " \t"))]
	if null.Value != "null" {
		line := e.line(e.lineAt(at))
		indent := line[:len(line)-len(strings.TrimLeft(line, " "))] + strings.Repeat(" ", e.style.indent)
		rest = " " + space + strings.TrimRight("# "+null.Value, " ") + e.style.newline + indent
		end += len(space)
	} else if flowNull.MatchString(after) {
		return errNoPlace
	}
	e.edits = append(e.edits, edit{at, end - at, 0, value + rest})
	return nil
}

// restoreFlowNull writes null again in the place of a value in braces, as it was written before
// replaceFlowNull.
func (e *editor) restoreFlowNull(name, value *yaml.Node) error {
	at, end, err := e.flowSpan(value)
	if err != nil {
		return err
	}
	null := "null"
	if match := flowNull.FindStringSubmatchIndex(e.text[end:]); match != nil {
		if null = ""; match[4] >= 0 {
			null = e.text[end+match[4] : end+match[5]]
		} else if at, err = e.afterKey(name); err != nil {
			return err
		}
		null += e.text[end+match[2] : end+match[3]]
		end += match[1]
	}
	e.edits = append(e.edits, edit{at, end - at, 0, null})
	return nil
}

// lineAt returns the number of the line that holds an offset, from 1.
func (e *editor) lineAt(offset int) int {
	number, _ := slices.BinarySearch(e.starts, offset+1)
	return number
}

// Package manifest reads Kubernetes manifests and edits them byte for byte: what is not changed
// stays as its author wrote it, comments and formatting included.
//
// Read splits a file into documents and objects, and knows the line of each value. Object.Check and
// Object.Doubts say what the API server would refuse, and what its author can hardly mean. Apply
// writes JSON Patches (RFC 6902) into the text. Nothing here knows what evenkeel adds.
package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	"go.yaml.in/yaml/v3"

	"github.com/evenkeel/evenkeel/internal/words"
)

// File is one input, a file or standard input. The texts of its documents, one after the other, are
// the input byte for byte.
type File struct {
	// Name is the path as given, or "stdin".
	Name      string
	Documents []*Document

	objects []*Object
}

// Document is one YAML or JSON document.
type Document struct {
	// Before is the separator with its line, and what precedes it; Kept are the comments at the end
	// that keep the text from before it was formatted anew; After is the end marker "..." and what
	// follows it.
	Before, Body, Kept, After string
	// Line is the number of Body's first line in its file, from 1.
	Line int
	// Value is the document as JSON, as the API would read it; nil for an empty one.
	Value []byte
	// IsJSON is set where Body is JSON, and has to stay so.
	IsJSON bool

	// root is the tree of Body with the places of everything, nil for an empty document, and while
	// nothing is looked up: a tree takes a hundred times the memory of its text.
	root *yaml.Node
	// isLast is set for the last document of a file.
	isLast bool
	// edits change Body and Kept to what they should be.
	edits []udiff.Edit
}

// Remark is something to say about a line of a file: an error, or a warning.
type Remark struct {
	File string
	// Line counts from 1.
	Line int
	// Object is the title of the object that it is about, or "".
	Object string
	Err    error
}

// Error returns one line, FILE:LINE: OBJECT: what is wrong. What comes from the input cannot steer a
// terminal or begin a line of its own.
func (r Remark) Error() string {
	text := words.Printable(r.Err.Error())
	if r.Object != "" {
		text = words.Printable(r.Object) + ": " + text
	}
	return words.Printable(r.File) + ":" + strconv.Itoa(r.Line) + ": " + text
}

// Unwrap returns what is wrong, without the place.
func (r Remark) Unwrap() error { return r.Err }

// remark returns what is wrong at a line of a file that is not named yet.
func remark(line int, err error) Remark { return Remark{Line: line, Err: err} }

// quoted is how much of a text from the input is quoted in a message, in bytes.
const quoted = 40

// text returns the file as it was read, and the edits of it, in order.
func (f *File) text() (string, []udiff.Edit) {
	var b strings.Builder
	var edits []udiff.Edit
	for _, d := range f.Documents {
		b.WriteString(d.Before)
		for _, e := range d.edits {
			edits = append(edits, udiff.Edit{Start: b.Len() + e.Start, End: b.Len() + e.End, New: e.New})
		}
		b.WriteString(d.Body + d.Kept + d.After)
	}
	return b.String(), edits
}

// Text returns the file with what was applied to it.
func (f *File) Text() (string, error) {
	text, err := udiff.Apply(f.text())
	if err != nil {
		return "", fmt.Errorf("write manifest: %w", err)
	}
	return text, nil
}

// Diff returns what was applied to the file as a unified diff, "" for nothing.
func (f *File) Diff() (string, error) {
	name := "/" + strings.TrimPrefix(filepath.ToSlash(f.Name), "/")
	text, edits := f.text()
	unified, err := udiff.ToUnified("a"+name, "b"+name, text, edits, udiff.DefaultContextLines)
	if err != nil {
		return "", fmt.Errorf("write diff: %w", err)
	}
	return renumbered(unified), nil
}

// JSON returns the documents with what was applied to them as JSON, one after the other.
func (f *File) JSON() ([]byte, error) {
	var b bytes.Buffer
	for _, d := range f.Documents {
		if d.Value == nil {
			continue
		}
		if err := json.Indent(&b, d.Value, "", "  "); err != nil {
			return nil, fmt.Errorf("write JSON: %w", err)
		}
		b.WriteByte('\n')
	}
	return b.Bytes(), nil
}

// Join returns the texts of several files as one stream that kubectl reads as it reads each of them.
func Join(files []*File) ([]byte, error) {
	var b bytes.Buffer
	for k, f := range files {
		text, err := f.Text()
		if err != nil {
			return nil, err
		}
		if k > 0 {
			text = strings.TrimPrefix(text, byteOrderMark)
		}
		if len(files) > 1 {
			text = separated(text)
		}
		if before := b.Bytes(); len(before) > 0 {
			if before[len(before)-1] != '\n' {
				b.WriteByte('\n')
			}
			if line, _, _ := strings.Cut(text, "\n"); !marker(strings.TrimRight(line, "\r"), "---") {
				b.WriteString("---\n")
			}
		}
		b.WriteString(text)
	}
	return b.Bytes(), nil
}

// separated returns the text of a manifest with a separator between the objects of a
// JSON stream: kubectl, which goes from JSON to YAML at the first separator, does so
// behind a single object only.
func separated(text string) string {
	documents, err := splitJSON(text)
	if err != nil {
		return text
	}
	var b strings.Builder
	for k, d := range documents {
		if k > 0 {
			b.WriteString("\n---")
			if !strings.HasPrefix(d.Before, "\n") {
				b.WriteByte('\n')
			}
		}
		b.WriteString(d.Before + d.Body + d.After)
	}
	return b.String()
}

// renumbered returns a unified diff in which each hunk says rightly where it begins
// in the result: udiff v0.4.1 forgets the lines between two edits of one hunk, and
// "git apply" looks there first.
func renumbered(unified string) string {
	if unified == "" {
		return ""
	}
	hunks := strings.SplitAfterN(unified, "\n", 3) // behind the two lines that name the files
	var b strings.Builder
	b.WriteString(hunks[0] + hunks[1])
	added := 0 // lines, by the hunks so far
	for line := range strings.Lines(hunks[2]) {
		switch line[0] {
		case '+':
			added++
		case '-':
			added--
		case '@':
			var from, to string
			if _, err := fmt.Sscanf(line, "@@ -%s +%s @@", &from, &to); err != nil {
				break
			}
			begin, _, _ := strings.Cut(from, ",")
			_, length, counted := strings.Cut(to, ",")
			if number, err := strconv.Atoi(begin); err == nil && number > 0 {
				to = strconv.Itoa(number + added)
				if counted {
					to += "," + length
				}
				line = fmt.Sprintf("@@ -%s +%s @@\n", from, to)
			}
		}
		b.WriteString(line)
	}
	return b.String()
}

// joined returns several errors as one line.
func joined(all []error) error {
	var texts []string
	for _, err := range all {
		if err != nil {
			texts = append(texts, err.Error())
		}
	}
	return errors.New(strings.Join(texts, "; "))
}

package manifest

import (
	"strconv"
	"strings"

	"github.com/aymanbagabas/go-udiff"
)

// A document that is formatted anew, or whose text wouldn't come back for another reason, keeps it in
// comments at its end, one for each line, so that it can be given back:
//
//	# evenkeel: uninject gives the document back as it was written:
//	# evenkeel: "apiVersion: apps/v1\n"
//
// They belong to it as long as it has a record of what was added. A document without one that has such
// lines, whoever wrote them, is kept with them.
const keptHead = mark + "uninject gives the document back as it was written:"

// keptLines returns the comments that keep text.
func keptLines(text, newline string) string {
	var b strings.Builder
	b.WriteString(keptHead + newline)
	for line := range strings.Lines(text) {
		b.WriteString(mark + strconv.Quote(line) + newline)
	}
	return b.String()
}

// splitKept splits a text before the comments at its end that keep another one.
func splitKept(text string) (body, kept string) {
	at := strings.LastIndex(text, "\n"+keptHead) + 1
	if at == 0 || keptText(text[at:]) == "" {
		return text, ""
	}
	return text[:at], text[at:]
}

// keptText returns what comments keep, "" where they are something else.
func keptText(kept string) string {
	lines := strings.Split(strings.TrimRight(kept, " \t\r\n"), "\n")
	if strings.TrimSpace(lines[0]) != keptHead {
		return ""
	}
	var b strings.Builder
	for _, line := range lines[1:] {
		quoted, ours := strings.CutPrefix(strings.TrimSpace(line), mark)
		text, err := strconv.Unquote(quoted)
		if !ours || err != nil {
			return ""
		}
		b.WriteString(text)
	}
	return b.String()
}

// keep returns the edit of what the document keeps, and what to say of its format: had and has are set
// where it had and has a record, anew where its format changes, and lost where its text wouldn't come
// back otherwise.
func (d *Document) keep(had, has, anew, lost bool) (edits []udiff.Edit, formatted error) {
	if anew {
		formatted = errFormatted
	}
	kept := d.Kept
	switch {
	case d.IsJSON: // has no comments
	case had && !has && kept != "":
		kept, formatted = "", errEdited
	case !had && has && (lost || kept != ""):
		newline := styleOf(d).newline
		kept = keptLines(d.Body+d.Kept, newline)
		if anew {
			formatted = errKept
		} else if !strings.HasSuffix(d.Body, "\n") {
			kept = newline + kept
		}
	}
	if kept != d.Kept {
		edits = []udiff.Edit{{Start: len(d.Body), End: len(d.Body + d.Kept), New: kept}}
	}
	return edits, formatted
}

// comesBack reports whether the text is what it was once the additions are taken out of what edits make
// of it.
func (d *Document) comesBack(edits []udiff.Edit, undo func(*Object) []byte) bool {
	text, err := udiff.Apply(d.Body+d.Kept, edits)
	if err != nil {
		return false
	}
	f, err := read("", d.Before+text+d.After)
	if err != nil {
		return false
	}
	var patches []Patch
	for _, o := range f.objects {
		if patch := undo(o); patch != nil {
			patches = append(patches, Patch{o, patch})
		}
	}
	if _, err = f.Apply(patches, Record{}); err != nil {
		return false
	}
	text, err = f.Text()
	return err == nil && text == d.Before+d.Body+d.Kept+d.After
}

// giveBack returns the edit that makes what the document keeps its text.
func (d *Document) giveBack() []udiff.Edit {
	text := keptText(d.Kept)
	if !strings.HasSuffix(text, "\n") && !(d.isLast && d.After == "") { // a separator follows by now
		text += styleOf(d).newline
	}
	return udiff.Lines(d.Body+d.Kept, text)
}

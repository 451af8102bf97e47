// Package words is how evenkeel writes for people: text that cannot steer a terminal, numbers of
// things, the nearest word to a misspelt one, and aligned, colored tables.
package words

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Printable returns text with everything escaped that could steer a terminal or begin a new line.
func Printable(text string) string {
	if strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) < 0 {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		if unicode.IsPrint(r) && size == utf8.RuneLen(r) {
			b.WriteString(text[:size])
		} else {
			quoted := strconv.Quote(text[:size])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		text = text[size:]
	}
	return b.String()
}

// Lines returns text of several lines, each of them printable.
func Lines(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		indent := line[:len(line)-len(strings.TrimLeft(line, "\t"))]
		lines[i] = indent + Printable(line[len(indent):])
	}
	return strings.Join(lines, "\n")
}

// Shorten cuts text to at most n bytes at a rune boundary and marks the cut.
func Shorten(text string, n int) string {
	if len(text) <= n {
		return text
	}
	cut := n - len("...")
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "..."
}

// Count says a number of things.
func Count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return strconv.Itoa(n) + " " + thing + "s"
}

// longest is the longest name that Nearest compares, in bytes: a longer one takes long and is not a typo.
const longest = 64

// Slips is how many letters may be wrong in a name that a person typed.
const Slips = 3

// Nearest returns the candidate that name resembles most, in any case of letters, or "" where each
// differs in more than slips letters. A candidate that begins with name counts as one slip.
func Nearest(name string, candidates []string, slips int) string {
	if name == "" || len(name) > longest {
		return ""
	}
	name = strings.ToLower(name)
	best, fewest := "", slips+1
	for _, candidate := range candidates {
		lower := strings.ToLower(candidate)
		n := max(1, distance(name, lower))
		if strings.HasPrefix(lower, name) {
			n = 1
		}
		if n < fewest {
			best, fewest = candidate, n
		}
	}
	return best
}

// distance is the Levenshtein distance of a and b in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j+1]+1, row[j]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}

// NotFound is the error that nothing has a name. It suggests the existing name that resembles it
// most, or lists some of those that exist.
func NotFound(what, name string, existing []string) error {
	if near := Nearest(name, existing, Slips); near != "" {
		return fmt.Errorf("%s %q does not exist; did you mean %q?", what, name, near)
	}
	existing = slices.Sorted(slices.Values(existing))
	const most = 10
	switch n := len(existing); {
	case n == 0:
		return fmt.Errorf("%s %q does not exist; there is none", what, name)
	case n > most:
		return fmt.Errorf("%s %q does not exist; there are %s, and %d more", what, name,
			strings.Join(existing[:most], ", "), n-most)
	}
	return fmt.Errorf("%s %q does not exist; there are: %s", what, name, strings.Join(existing, ", "))
}

// Separate returns the errors that errors.Join has joined, or the error itself.
func Separate(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, inner := range joined.Unwrap() {
		all = append(all, Separate(inner)...)
	}
	return all
}

// Package scan reads JSON in one strict pass without building a tree: a caller
// visits the members that it knows and skips the rest, which is checked all the
// same. Admission reads both the review and the object in it this way.
//
// It accepts exactly what encoding/json, and so sigs.k8s.io/json and the API
// server's patch applier, accept, with two exceptions on the safe side: invalid
// UTF-8, which they replace, is an error, and so is a known member that occurs
// twice, of which they take the last. Member names are compared exactly, as
// sigs.k8s.io/json does. FuzzScanner holds it to that.
package scan

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strings"
	"unicode/utf8"
)

// Scanner reads one JSON document. What it returns aliases the document, but for
// text with escapes.
type Scanner struct {
	data []byte
	pos  int
	// depth is the number of objects and arrays that are open, deepest the most there
	// have been.
	depth, deepest int
}

// maxDepth is the nesting that encoding/json allows.
const maxDepth = 10000

var (
	errJSON = errors.New("is not valid JSON")
	errUTF8 = errors.New("is not valid UTF-8")
)

// New returns a scanner for one JSON document, or an error when that is not UTF-8.
func New(data []byte) (Scanner, error) {
	if !utf8.Valid(data) {
		return Scanner{}, errUTF8
	}
	return Scanner{data: data}, nil
}

// Valid returns nil for a JSON document, and how deeply it is nested.
func Valid(data []byte) (depth int, err error) {
	s, err := New(data)
	if err != nil {
		return 0, err
	}
	if err := s.value(); err != nil {
		return 0, err
	}
	return s.deepest, s.End()
}

func (s *Scanner) bad() error { return s.badAt(s.pos) }

func (s *Scanner) badAt(i int) error { return fmt.Errorf("%w at byte %d", errJSON, i) }

// Position returns the offset of the next byte to be read, for At and From.
func (s *Scanner) Position() int { return s.pos }

// At returns a scanner that reads on from a Position.
func (s *Scanner) At(position int) Scanner {
	return Scanner{data: s.data, pos: position, depth: s.depth}
}

// From returns the bytes between a Position and here.
func (s *Scanner) From(position int) []byte { return s.data[position:s.pos] }

// Deepest returns how many objects and arrays have been open at once.
func (s *Scanner) Deepest() int { return s.deepest }

// Next skips white space and returns the byte there without consuming it, or 0 at
// the end.
func (s *Scanner) Next() byte {
	s.pos = next(s.data, s.pos)
	if s.pos == len(s.data) {
		return 0
	}
	return s.data[s.pos]
}

// next returns the position of the first byte from i on that is no white space.
func next(data []byte, i int) int {
	if i < len(data) && data[i] > ' ' { // as nearly always, since the API server writes none
		return i
	}
	return afterBlanks(data, i)
}

func afterBlanks(data []byte, i int) int {
	const blanks = 1<<' ' | 1<<'\t' | 1<<'\n' | 1<<'\r'
	for i < len(data) && uint64(1)<<data[i]&blanks != 0 {
		i++
	}
	return i
}

// End returns an error when something follows the document.
func (s *Scanner) End() error {
	if s.Next() != 0 || s.pos < len(s.data) {
		return s.bad()
	}
	return nil
}

// Null consumes a null and reports whether there was one.
func (s *Scanner) Null() bool {
	if s.Next() == 'n' && bytes.HasPrefix(s.data[s.pos:], []byte("null")) {
		s.pos += len("null")
		return true
	}
	return false
}

// Members visits those members of an object that have one of the names, of which
// there are at most 32, and skips the others. visit must consume the value. A
// member visited twice is an error. A null is an object without members, as the
// API reads it.
func (s *Scanner) Members(names []string, visit func(name string) error) error {
	var seen uint32
	return s.Each(func(key []byte) error {
		for i, name := range names {
			if string(key) != name {
				continue
			}
			if seen&(1<<i) != 0 {
				return fmt.Errorf("has %q twice", name)
			}
			seen |= 1 << i
			return visit(name)
		}
		return s.value()
	})
}

// Each visits every member of an object. visit must consume the value. A null is
// an object without members.
func (s *Scanner) Each(visit func(key []byte) error) error {
	if s.Null() {
		return nil
	}
	if err := s.open('{'); err != nil {
		return err
	}
	for first := true; ; first = false {
		done, err := s.more('}', first)
		if done || err != nil {
			return err
		}
		key, err := s.String()
		if err != nil {
			return err
		}
		if err := s.colon(); err != nil {
			return err
		}
		if err := visit(key); err != nil {
			return err
		}
	}
}

// Elements visits every element of an array. visit must consume the value. A null
// is an array without elements, as the API reads it.
func (s *Scanner) Elements(visit func(index int) error) error {
	if s.Null() {
		return nil
	}
	if err := s.open('['); err != nil {
		return err
	}
	for i := 0; ; i++ {
		done, err := s.more(']', i == 0)
		if done || err != nil {
			return err
		}
		if err := visit(i); err != nil {
			return err
		}
	}
}

// open consumes the bracket that opens an object or array.
func (s *Scanner) open(bracket byte) error {
	if s.Next() != bracket || s.depth == maxDepth {
		return s.bad()
	}
	s.pos++
	s.depth++
	s.deepest = max(s.deepest, s.depth)
	return nil
}

// more consumes the comma before a further element, or the closing bracket, and
// reports whether that was the end.
func (s *Scanner) more(bracket byte, first bool) (done bool, err error) {
	switch c := s.Next(); {
	case c == bracket:
		s.pos++
		s.depth--
		return true, nil
	case first:
		return false, nil
	case c == ',':
		s.pos++
		return false, nil
	}
	return false, s.bad()
}

func (s *Scanner) colon() error {
	if s.Next() != ':' {
		return s.bad()
	}
	s.pos++
	return nil
}

// String returns the text of a string.
func (s *Scanner) String() ([]byte, error) {
	start, escaped, err := s.skipString()
	switch {
	case err != nil:
		return nil, err
	case escaped:
		return unquote(s.data[start:s.pos])
	}
	return s.data[start+1 : s.pos-1], nil
}

// unquote returns the text of a string with escapes.
func unquote(raw []byte) ([]byte, error) {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return nil, fmt.Errorf("%w: %w", errJSON, err)
	}
	return []byte(text), nil
}

// skipString consumes a string and returns where it starts and whether it has escapes.
func (s *Scanner) skipString() (start int, escaped bool, err error) {
	start = next(s.data, s.pos)
	end, escaped := stringEnd(s.data, start)
	if end == 0 {
		return 0, false, s.badAt(start)
	}
	s.pos = end
	return start, escaped, nil
}

// stringEnd returns the position after the string that starts at i and whether it has
// escapes, or 0 when there is none.
func stringEnd(data []byte, i int) (end int, escaped bool) {
	if i >= len(data) || data[i] != '"' {
		return 0, false
	}
	for i++; i < len(data); {
		if i <= len(data)-8 { // most of an object is inside of strings
			found := special(binary.LittleEndian.Uint64(data[i:]))
			if found == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(found) / 8
		}
		switch c := data[i]; {
		case c == '"':
			return i + 1, escaped
		case c == '\\':
			length := escape(data[i:])
			if length == 0 {
				return 0, false
			}
			i, escaped = i+1+length, true
		case c < ' ':
			return 0, false
		default:
			i++
		}
	}
	return 0, false
}

// special returns the top bit of the first byte of a word that is a quote, a backslash or
// a control character, and maybe those of bytes after it; 0 where there is none. Subtracting
// from each byte borrows from its top bit where it is smaller. Bytes that have that bit
// set already are none of these.
func special(word uint64) uint64 {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	quote, backslash, control := word^'"'*ones-ones, word^'\\'*ones-ones, word-' '*ones
	return (quote | backslash | control) &^ word & tops
}

// escape returns how many bytes of an escape follow its backslash, or 0 when text
// starts with none.
func escape(text []byte) int {
	if len(text) < 2 || text[0] != '\\' {
		return 0
	}
	switch text[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 1
	case 'u':
		if len(text) < 6 {
			return 0
		}
		for _, c := range text[2:6] {
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return 0
			}
		}
		return 5
	}
	return 0
}

// Text returns the text of a string, or nil for null.
func (s *Scanner) Text() ([]byte, error) {
	if s.Null() {
		return nil, nil
	}
	return s.String()
}

// Integer returns a whole number, ok false for null.
func (s *Scanner) Integer() (value int64, ok bool, err error) {
	if s.Null() {
		return 0, false, nil
	}
	raw, err := s.Skip()
	if err != nil {
		return 0, false, err
	}
	digits, negative := bytes.CutPrefix(raw, []byte("-"))
	if len(digits) == 0 {
		return 0, false, s.bad()
	}
	for _, c := range digits { // negative numbers reach one further
		if c < '0' || c > '9' || value < (math.MinInt64+int64(c-'0'))/10 {
			return 0, false, s.bad()
		}
		value = value*10 - int64(c-'0')
	}
	if negative {
		return value, true, nil
	}
	if value == math.MinInt64 {
		return 0, false, s.bad()
	}
	return -value, true, nil
}

// Boolean returns a truth value, false for null.
func (s *Scanner) Boolean() (bool, error) {
	raw, err := s.Skip()
	switch {
	case err != nil:
		return false, err
	case string(raw) == "true":
		return true, nil
	case string(raw) == "false", string(raw) == "null":
		return false, nil
	}
	return false, s.bad()
}

// Skip checks and consumes any value and returns its bytes.
func (s *Scanner) Skip() ([]byte, error) {
	s.Next()
	start := s.pos
	if err := s.value(); err != nil {
		return nil, err
	}
	return s.data[start:s.pos], nil
}

// value checks and consumes any value.
func (s *Scanner) value() error {
	switch c := s.Next(); c {
	case '{', '[':
		return s.nested(c)
	case '"':
		_, _, err := s.skipString()
		return err
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	}
	return s.number()
}

// nested checks and consumes an object or array: 64 levels in one loop, and what is
// deeper by way of value.
func (s *Scanner) nested(bracket byte) error {
	if err := s.open(bracket); err != nil {
		return err
	}
	objects := isObject(bracket) // a bit for each level that is open, the innermost lowest
	data, i, outside := s.data, s.pos, s.depth-1
	for first := true; ; {
		i = next(data, i)
		if i == len(data) {
			return s.badAt(i)
		}
		object := objects&1 == 1
		switch c := data[i]; {
		case c == ',' && !first:
			i = next(data, i+1)
		case object && c == '}', !object && c == ']':
			i++
			if s.depth--; s.depth == outside {
				s.pos = i
				return nil
			}
			objects >>= 1
			first = false
			continue
		case !first:
			return s.badAt(i)
		}
		if object {
			end, _ := stringEnd(data, i)
			if end == 0 {
				return s.badAt(i)
			}
			if i = next(data, end); i == len(data) || data[i] != ':' {
				return s.badAt(i)
			}
			i = next(data, i+1)
		}
		if end, _ := stringEnd(data, i); end > 0 {
			i, first = end, false
			continue
		}
		s.pos = i
		if first = i < len(data) && (data[i] == '{' || data[i] == '[') && s.depth < outside+64; first {
			if err := s.open(data[i]); err != nil {
				return err
			}
			objects = objects<<1 | isObject(data[i])
		} else if err := s.value(); err != nil {
			return err
		}
		i = s.pos
	}
}

// isObject returns 1 for the bracket of an object and 0 for that of an array.
func isObject(bracket byte) uint64 { return uint64(bracket>>5) & 1 } // '{' is '[' + 32

func (s *Scanner) literal(word string) error {
	if !bytes.HasPrefix(s.data[s.pos:], []byte(word)) {
		return s.bad()
	}
	s.pos += len(word)
	return nil
}

// number consumes a number as RFC 8259 defines it.
func (s *Scanner) number() error {
	s.accept('-', '-')
	if !s.accept('0', '0') && !s.digits() {
		return s.bad()
	}
	if s.accept('.', '.') && !s.digits() {
		return s.bad()
	}
	if s.accept('e', 'E') {
		s.accept('+', '-')
		if !s.digits() {
			return s.bad()
		}
	}
	return nil
}

// accept consumes one of two bytes and reports whether there was one.
func (s *Scanner) accept(a, b byte) bool {
	if s.pos < len(s.data) && (s.data[s.pos] == a || s.data[s.pos] == b) {
		s.pos++
		return true
	}
	return false
}

func (s *Scanner) digits() bool {
	start := s.pos
	for s.pos < len(s.data) && s.data[s.pos] >= '0' && s.data[s.pos] <= '9' {
		s.pos++
	}
	return s.pos > start
}

// EscapePointer escapes a member name for a JSON pointer (RFC 6901).
func EscapePointer(name string) string {
	return strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
}

// AppendString appends text as a JSON string.
func AppendString(b, text []byte) []byte {
	for _, c := range text {
		if c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, err := json.Marshal(string(text)) // with escapes
			if err != nil {
				panic(err) // a string is always encoded
			}
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), text...), '"')
}

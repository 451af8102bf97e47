package patches

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// scanner reads JSON in one strict pass without building a tree: a caller visits
// the members that it knows and skips the rest, which is checked all the same.
//
// It accepts exactly what encoding/json, and so sigs.k8s.io/json and the API
// server's patch applier, accept, with two exceptions on the safe side: invalid
// UTF-8, which they replace, is an error, and so is a member that visitors know
// and that occurs twice, of which they take the last. Member names are compared
// exactly, as sigs.k8s.io/json does.
type scanner struct {
	data []byte
	pos  int
	// depth is the number of objects and arrays that are open.
	depth int
}

// maxDepth is the nesting that encoding/json allows.
const maxDepth = 10000

var errJSON = errors.New("is not valid JSON")

// newScanner returns a scanner for one JSON document.
func newScanner(data []byte) (*scanner, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("is not valid UTF-8")
	}
	return &scanner{data: data}, nil
}

func (s *scanner) bad() error { return fmt.Errorf("%w at byte %d", errJSON, s.pos) }

// next skips white space and returns the byte there without consuming it, or 0
// at the end.
func (s *scanner) next() byte {
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; c {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

// end returns an error when something follows the document.
func (s *scanner) end() error {
	if s.next() != 0 || s.pos < len(s.data) {
		return s.bad()
	}
	return nil
}

// null consumes a null and reports whether there was one.
func (s *scanner) null() bool {
	if s.next() == 'n' && bytes.HasPrefix(s.data[s.pos:], []byte("null")) {
		s.pos += len("null")
		return true
	}
	return false
}

// object visits every member of an object. visit must consume the value. A null
// is an object without members, as the API reads it.
func (s *scanner) object(visit func(key []byte) error) error {
	if s.null() {
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
		key, err := s.stringBytes()
		if err != nil {
			return err
		}
		if s.next() != ':' {
			return s.bad()
		}
		s.pos++
		if err := visit(key); err != nil {
			return err
		}
	}
}

// array visits every element of an array. visit must consume the value. A null is
// an array without elements, as the API reads it.
func (s *scanner) array(visit func(index int) error) error {
	if s.null() {
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
func (s *scanner) open(bracket byte) error {
	if s.next() != bracket || s.depth == maxDepth {
		return s.bad()
	}
	s.pos++
	s.depth++
	return nil
}

// more consumes the comma before a further element, or the closing bracket, and
// reports whether that was the end.
func (s *scanner) more(bracket byte, first bool) (done bool, err error) {
	switch c := s.next(); {
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

// stringBytes returns the text of a string. Without escapes it aliases the
// document.
func (s *scanner) stringBytes() ([]byte, error) {
	if s.next() != '"' {
		return nil, s.bad()
	}
	start, escaped := s.pos, false
	for i := start + 1; i < len(s.data); i++ {
		switch c := s.data[i]; {
		case c == '"':
			s.pos = i + 1
			if !escaped {
				return s.data[start+1 : i], nil
			}
			var text string
			if err := json.Unmarshal(s.data[start:s.pos], &text); err != nil {
				s.pos = start
				return nil, s.bad()
			}
			return []byte(text), nil
		case c == '\\':
			escaped = true
			i++
		case c < ' ':
			s.pos = i
			return nil, s.bad()
		}
	}
	return nil, s.bad()
}

// string returns the text of a string, or "" for null.
func (s *scanner) string() (string, error) {
	if s.null() {
		return "", nil
	}
	text, err := s.stringBytes()
	return string(text), err
}

// integer returns a whole number, ok false for null.
func (s *scanner) integer() (value int64, ok bool, err error) {
	if s.null() {
		return 0, false, nil
	}
	raw, err := s.skip()
	if err != nil {
		return 0, false, err
	}
	value, err = strconv.ParseInt(string(raw), 10, 64)
	if err != nil {
		return 0, false, s.bad()
	}
	return value, true, nil
}

// boolean returns a truth value, false for null.
func (s *scanner) boolean() (bool, error) {
	raw, err := s.skip()
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

// skip checks and consumes any value and returns its bytes, which alias the
// document.
func (s *scanner) skip() ([]byte, error) {
	c := s.next()
	start := s.pos
	var err error
	switch {
	case c == '{':
		err = s.object(func([]byte) error { _, err := s.skip(); return err })
	case c == '[':
		err = s.array(func(int) error { _, err := s.skip(); return err })
	case c == '"':
		_, err = s.stringBytes()
	case c == 't':
		err = s.literal("true")
	case c == 'f':
		err = s.literal("false")
	case c == 'n':
		err = s.literal("null")
	default:
		err = s.number()
	}
	if err != nil {
		return nil, err
	}
	return s.data[start:s.pos], nil
}

func (s *scanner) literal(word string) error {
	if !bytes.HasPrefix(s.data[s.pos:], []byte(word)) {
		return s.bad()
	}
	s.pos += len(word)
	return nil
}

// number consumes a number as RFC 8259 defines it.
func (s *scanner) number() error {
	digits := func() bool {
		start := s.pos
		for s.pos < len(s.data) && s.data[s.pos] >= '0' && s.data[s.pos] <= '9' {
			s.pos++
		}
		return s.pos > start
	}
	accept := func(set string) bool {
		if s.pos < len(s.data) && bytes.IndexByte([]byte(set), s.data[s.pos]) >= 0 {
			s.pos++
			return true
		}
		return false
	}
	accept("-")
	if !accept("0") && !digits() {
		return s.bad()
	}
	if accept(".") && !digits() {
		return s.bad()
	}
	if accept("eE") {
		accept("+-")
		if !digits() {
			return s.bad()
		}
	}
	return nil
}

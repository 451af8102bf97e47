package scan

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	kjson "sigs.k8s.io/json"
)

// documents are JSON and near it, chosen by hand: what parsers disagree about.
var documents = []string{
	``, ` `, `null`, `true`, `"a"`, `0`, `{`, `}`, `{}`, `[]`, ` { } `, `{}{}`, `{} x`, `{},`, "{}\x00", "\xef\xbb\xbf{}",
	`{"a":1,}`, `{,"a":1}`, `{"a" 1}`, `{"a":}`, `{a:1}`, `{'a':1}`, `{"a":1 "b":2}`, `[1,]`, `[,1]`, `[1 2]`, `[`, `[1`,
	`{"a":[}`,
	`01`, `-`, `-0`, `-01`, `+1`, `.5`, `1.`, `1.e1`, `1e`, `1e+`, `1e5`, `1E-5`, `-0.0e-0`, `1_000`, `0x10`, `NaN`,
	`Infinity`, `-Infinity`,
	`123456789012345678901234567890`, `1e999999`, strings.Repeat("9", 5000),
	`nul`, `nulll`, `nullnull`, `tru`, `truefalse`, `[null`, `{"a":nullx}`, `NULL`, `True`,
	`"`, `"\`, `"\"`, `"\x"`, `"\u12"`, `"\u12g4"`, `"\ud800"`, `"\ud800\ud800"`, `"\udc00\ud800"`, `"\ud83d\ude00"`,
	`"\u0000"`,
	"\"\x00\"", "\"\x1f\"", "\"\x7f\"", "\"\n\"", "\"\t\"", "\"\xff\"", "\"\xc3\x28\"", "\"\xed\xa0\x80\"",
	"\"\xf4\x90\x80\x80\"", "\"\u2028\u202e\"",
	"\"a\\\nb\"", "\"\\\x00\"", "\"\\\xff\"", "// a\n{}", "{/**/}", "{}\n\n", "\v{}", "\u00a0{}",
	strings.Repeat("[", 10000) + strings.Repeat("]", 10000), strings.Repeat("[", 10001) + strings.Repeat("]", 10001),
	strings.Repeat(`{"a":`, 10000) + "1" + strings.Repeat("}", 10000),
	strings.Repeat(`{"a":`, 10001) + "1" + strings.Repeat("}", 10001),
	`{"kind":"Pod","metadata":` + strings.Repeat("[", 9999) + strings.Repeat("]", 9999) + `}`,
	`{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"":1}`, `{"a":{"a":{"a":1}}}`,
}

func TestScannerAcceptsWhatTheAPIAccepts(t *testing.T) {
	for _, document := range documents {
		checkScanner(t, []byte(document))
	}
}

func FuzzScanner(f *testing.F) {
	for _, document := range documents {
		f.Add([]byte(document))
	}
	f.Fuzz(func(t *testing.T, raw []byte) { checkScanner(t, raw) })
}

// checkScanner compares the scanner with encoding/json, which the API server's
// patch applier reads with, and with sigs.k8s.io/json, which the API server reads
// with.
func checkScanner(t *testing.T, raw []byte) {
	t.Helper()
	var got []byte
	s, err := New(raw)
	if err == nil {
		got, err = s.Skip()
	}
	if err == nil {
		err = s.End()
	}
	var plain, theirs any
	want := json.Unmarshal(raw, &plain)
	if strict := kjson.UnmarshalCaseSensitivePreserveInts(raw, &theirs); (strict == nil) != (want == nil) && want == nil {
		return // a number that no float64 holds
	}
	if want != nil && json.Valid(raw) {
		return // valid JSON, but a number that no float64 holds
	}
	if accepted := err == nil; accepted != (want == nil && utf8.Valid(raw)) {
		t.Errorf("%.80q: scanner says %v, encoding/json %v, valid UTF-8 is %t", raw, err, want, utf8.Valid(raw))
	}
	if err == nil && !bytes.Equal(got, bytes.Trim(raw, " \t\r\n")) {
		t.Errorf("%.80q: read %.80q of it", raw, got)
	}
}

func TestIntegerReadsWhatStrconvReads(t *testing.T) {
	for _, text := range []string{"0", "-0", "7", "-7", "30.0", "1e3", "9223372036854775807", "9223372036854775808",
		"-9223372036854775808",
		"-9223372036854775809", "92233720368547758070", "true", `"1"`, "[]", "{}", "18446744073709551616"} {
		s, err := New([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		got, ok, err := s.Integer()
		want, theirs := strconv.ParseInt(text, 10, 64)
		if (err == nil) != (theirs == nil) || err == nil && (got != want || !ok) {
			t.Errorf("%s: %d, %v; strconv says %d, %v", text, got, err, want, theirs)
		}
	}
	s, err := New([]byte(" null"))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.Integer(); ok || err != nil {
		t.Errorf("null: %t, %v", ok, err)
	}
}

// FuzzString compares the text of strings, escapes included.
func FuzzString(f *testing.F) {
	for _, document := range documents {
		f.Add([]byte(document))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var want string
		if err := json.Unmarshal(raw, &want); err != nil || !utf8.Valid(raw) {
			return
		}
		s, err := New(raw)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.Text(); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v; encoding/json reads %q", raw, got, err, want)
		}
	})
}

func TestMembersRefusesAKnownMemberTwice(t *testing.T) {
	for text, ok := range map[string]bool{
		`{"a":1,"b":2}`:      true,
		`{"x":1,"x":2}`:      true, // not known
		`{"a":1,"a":2}`:      false,
		`{"a":1,"\u0061":2}`: false,
		`{"a":1,"A":2}`:      true,
	} {
		s, err := New([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		err = s.Members([]string{"a", "b"}, func(string) error { _, err := s.Skip(); return err })
		if (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

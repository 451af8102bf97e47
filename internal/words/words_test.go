package words

import (
	"bytes"
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	words := []string{"anti-affinity", "topology-keys", "pre-stop-sleep", "off"}
	for _, c := range []struct {
		name, word string
		slips      int
		want       string
	}{
		{"one letter is wrong", "topologi-keys", 3, "topology-keys"},
		{"three letters are wrong", "tapologi-kays", 3, "topology-keys"},
		{"four letters are wrong", "tapalogi-kays", 3, ""},
		{"four letters may be wrong", "tapalogi-kays", 4, "topology-keys"},
		{"the case does not matter", "Anti-Affinity", 1, "anti-affinity"},
		{"the beginning of a word is near", "pre", 3, "pre-stop-sleep"},
		{"nothing resembles nothing", "", 3, ""},
		{"a name of 65 bytes is too long to be a typo", strings.Repeat("x", 65), 99, ""},
		{"the same word is the nearest", "off", 3, "off"},
	} {
		if got := Nearest(c.word, words, c.slips); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestShortenCutsAtARune(t *testing.T) {
	for text, want := range map[string]string{"short": "short", "exactly ten": "exactly...", "ééééééé": "ééé..."} {
		if got := Shorten(text, 10); got != want || len(got) > 10 {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

func TestPrintableLetsNothingSteerATerminal(t *testing.T) {
	for text, want := range map[string]string{"plain é": "plain é", "a\x1b[31mb": `a\x1b[31mb`, "a\nb": `a\nb`,
		"a\u202eb":        `a\u202eb`,
		"say \"a\"\n\xff": `say "a"\n\xff`, "\ufffd": "\ufffd"} {
		if got := Printable(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

func TestLinesStayLines(t *testing.T) {
	if got, want := Lines("a\x1b\n\n\tb"), "a\\x1b\n\n\tb"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestATableIsAlignedAndHasNoTrailingSpaces(t *testing.T) {
	rows := func() [][]Cell {
		return [][]Cell{{{"a", Red}, {"bcd", ""}, {"", ""}}, {{"é\n", ""}, {"x", ""}, {"end", Green}}}
	}
	for colored, want := range map[bool]string{
		false: "a    bcd\né\\n  x    end\n",
		true:  Red + "a" + plain + "    bcd\né\\n  x    " + Green + "end" + plain + "\n",
	} {
		var b bytes.Buffer
		Table(&b, colored, rows())
		if b.String() != want {
			t.Errorf("colored %v: %q, want %q", colored, b.String(), want)
		}
	}
}

func TestNotFoundSuggestsOrLists(t *testing.T) {
	for _, c := range []struct {
		existing []string
		want     string
	}{
		{nil, `pod "web" does not exist; there is none`},
		{[]string{"wep", "x"}, `pod "web" does not exist; did you mean "wep"?`},
		{[]string{"zzzzzz", "aaaaaa"}, `pod "web" does not exist; there are: aaaaaa, zzzzzz`},
		{strings.Split("eeeeee dddddd gggggg hhhhhh iiiiii jjjjjj kkkkkk llllll mmmmmm nnnnnn oooooo", " "),
			`pod "web" does not exist; there are dddddd, eeeeee, gggggg, hhhhhh, iiiiii, jjjjjj, kkkkkk, llllll, mmmmmm, ` +
				`nnnnnn, and 1 more`},
	} {
		if got := NotFound("pod", "web", c.existing).Error(); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

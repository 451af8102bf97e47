package patches

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evenkeel/evenkeel/policy"
)

// TestReadmeSaysWhatTheTablesSay compares the marked regions of docs/reference with
// the tables that they are made of; -update writes them.
func TestReadmeSaysWhatTheTablesSay(t *testing.T) {
	for _, r := range []struct{ document, region, table string }{
		{"settings.md", "settings", settingsTable()},
	} {
		path := filepath.Join("..", "docs", "reference", r.document)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		opening, closing := "<!-- "+r.region+" -->", "<!-- /"+r.region+" -->"
		before, rest, ok1 := strings.Cut(string(raw), opening)
		got, after, ok2 := strings.Cut(rest, closing)
		if !ok1 || !ok2 {
			t.Errorf("%s has no region between %s and %s", r.document, opening, closing)
			continue
		}
		want := "\n" + r.table
		if diff := cmp.Diff(want, got); diff != "" && !*update {
			t.Errorf("%s (-tables +%s); -update writes it:\n%s", r.region, r.document, diff)
		}
		if *update && got != want {
			if err := os.WriteFile(path, []byte(before+opening+want+closing+after), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// cell writes text into a cell of a Markdown table.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

func settingsTable() string {
	var b strings.Builder
	b.WriteString("| annotation `evenkeel.dev/…` | values | default | effect |\n|---|---|---|---|\n")
	for _, s := range policy.Settings() {
		value := "–"
		if s.Default != "" {
			value = "`" + s.Default + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", s.Name, cell(s.Values), value, cell(s.Effect))
	}
	return b.String()
}

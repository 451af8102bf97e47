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

// TestReadmeSaysWhatTheTablesSay compares the marked regions of the README with
// the tables that they are made of; -update writes them.
func TestReadmeSaysWhatTheTablesSay(t *testing.T) {
	path := filepath.Join("..", "README.md")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for region, table := range map[string]string{"settings": settingsTable(), "skip codes": reasonsTable()} {
		opening, closing := "<!-- "+region+" -->", "<!-- /"+region+" -->"
		before, rest, ok1 := strings.Cut(text, opening)
		got, after, ok2 := strings.Cut(rest, closing)
		if !ok1 || !ok2 {
			t.Errorf("README.md has no region between %s and %s", opening, closing)
			continue
		}
		want := "\n" + table
		if *update {
			text = before + opening + want + closing + after
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-tables +README.md); -update writes it:\n%s", region, diff)
		}
	}
	if *update && text != string(raw) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
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

func reasonsTable() string {
	var b strings.Builder
	b.WriteString("| code | reason | warning |\n|---|---|---|\n")
	for _, r := range Reasons() {
		warns := ""
		if r.Warn {
			warns = "yes"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", r.Code, cell(r.Text), warns)
	}
	return b.String()
}

package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evenkeel/evenkeel/pdb"
)

// readmeSection returns what stands between the markers of that name in README.md.
func readmeSection(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "<!-- "+name+" -->\n")
	inner, _, closed := strings.Cut(rest, "<!-- /"+name+" -->")
	if !found || !closed {
		t.Fatalf("README.md has no section between <!-- %s --> and <!-- /%s -->", name, name)
	}
	return inner
}

func TestTheManifestInTheREADMEIsWhatInjectMakes(t *testing.T) {
	var before, after strings.Builder
	for line := range strings.Lines(readmeSection(t, "manifest")) {
		switch {
		case strings.HasPrefix(line, "```"):
		case strings.HasPrefix(line, "+"):
			after.WriteString(line[1:])
		default:
			before.WriteString(line[1:])
			after.WriteString(line[1:])
		}
	}
	example, err := os.ReadFile(filepath.Join("examples", "nginx.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ = bytes.Cut(example, []byte("\n")) // the comment
	deployment, _, _ := strings.Cut(string(example), "---\n")
	if diff := cmp.Diff(deployment, before.String()); diff != "" {
		t.Errorf("the lines without + are not examples/nginx.yaml (-example +README):\n%s", diff)
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"evenkeel", "inject", "-"}, strings.NewReader(deployment), &stdout, &stderr); code != exitDone {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	if diff := cmp.Diff(stdout.String(), after.String()); diff != "" {
		t.Errorf("the manifest is not what inject makes (-inject +README):\n%s", diff)
	}
}

func TestTheREADMEHasEveryBudgetCode(t *testing.T) {
	var table strings.Builder
	table.WriteString("| code | reason | Warning |\n|---|---|---|\n")
	for _, reason := range pdb.Reasons() {
		warning := ""
		if reason.Warn {
			warning = "yes"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", reason.Code, reason.Text, warning)
	}
	if diff := cmp.Diff(table.String(), readmeSection(t, "budget codes")); diff != "" {
		t.Errorf("budget codes (-pdb +README):\n%s", diff)
	}
}

// Every test that a document names as proof, and every make target, is there.
func TestTheDocumentsNameWhatIsThere(t *testing.T) {
	tests := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, match := range declared.FindAllSubmatch(text, -1) {
			tests[string(match[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range []string{"README.md", "CONTRIBUTING.md", "CHANGELOG.md"} {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile("`((?:Test|Fuzz|Benchmark)\\w+)`").FindAllSubmatch(text, -1) {
			if !tests[string(match[1])] {
				t.Errorf("%s names the test %s, which doesn't exist", document, match[1])
			}
		}
		for _, match := range regexp.MustCompile("(?m)(?:`|^)make ([a-z0-9-]+)").FindAllSubmatch(text, -1) {
			if !bytes.Contains(makefile, []byte("\n"+string(match[1])+":")) {
				t.Errorf("%s names make %s, which the Makefile doesn't have", document, match[1])
			}
		}
	}
}

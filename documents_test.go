package main

import (
	"bytes"
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/evenkeel/evenkeel/audit"
	way "github.com/evenkeel/evenkeel/internal/path"
)

// contentOf returns the text of a file.
func contentOf(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// region returns what stands between the markers of that name in a document.
func region(t *testing.T, name, marker string) string {
	t.Helper()
	_, rest, found := strings.Cut(contentOf(t, name), "<!-- "+marker+" -->\n")
	inner, _, closed := strings.Cut(rest, "<!-- /"+marker+" -->")
	if !found || !closed {
		t.Fatalf("%s has no region between <!-- %s --> and <!-- /%s -->", name, marker, marker)
	}
	return inner
}

// generated compares a region of a document with what it is generated from; -update writes it.
func generated(t *testing.T, name, marker, want string) {
	t.Helper()
	got := region(t, name, marker)
	if diff := gocmp.Diff(want, got); diff != "" && !*update {
		t.Errorf("%s, %s (-code +document); go test . -update writes it:\n%s", name, marker, diff)
	}
	if *update && got != want {
		opening := "<!-- " + marker + " -->\n"
		text := strings.Replace(contentOf(t, name), opening+got, opening+want, 1)
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheREADMEHasAtMost150Lines(t *testing.T) {
	if n := strings.Count(contentOf(t, "README.md"), "\n"); n > 150 {
		t.Errorf("README.md has %d lines; what is more belongs into docs/", n)
	}
}

func TestTheManifestIsWhatInjectMakes(t *testing.T) {
	var before, after strings.Builder
	whole := region(t, "docs/start/what-it-adds.md", "manifest")
	for line := range strings.Lines(whole) {
		switch {
		case strings.HasPrefix(line, "```"):
		case strings.HasPrefix(line, "+"):
			after.WriteString(line[1:])
		default:
			before.WriteString(line[1:])
			after.WriteString(line[1:])
		}
	}
	_, example, _ := strings.Cut(contentOf(t, "examples/nginx.yaml"), "\n") // the comment
	deployment, _, _ := strings.Cut(example, "---\n")
	if diff := gocmp.Diff(deployment, before.String()); diff != "" {
		t.Errorf("the lines without + are not examples/nginx.yaml (-example +document):\n%s", diff)
	}
	var stdout, stderr bytes.Buffer
	args := []string{"evenkeel", "inject", "-"}
	if code := run(t.Context(), args, strings.NewReader(deployment), &stdout, &stderr); code != exitDone {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	if diff := gocmp.Diff(stdout.String(), after.String()); diff != "" {
		t.Errorf("the manifest is not what inject makes (-inject +document):\n%s", diff)
	}
	rest := whole
	for line := range strings.Lines(region(t, "README.md", "manifest")) {
		_, after, found := strings.Cut(rest, line)
		if !found {
			t.Errorf("README.md shortens the manifest, but %q is not in the whole one, or not in this order", line)
			continue
		}
		rest = after
	}
}

// Each code has a section of its own, which messages link to.
func TestTheDocumentsHaveEveryCode(t *testing.T) {
	const document = "docs/reference/codes.md"
	cell := strings.NewReplacer("|", `\|`)
	yes := map[bool]string{true: "yes"}
	sections := ""
	tables := map[string]string{
		audit.PartDefault: "| code | reason | warning |\n|---|---|---|\n",
		audit.PartBudget:  "| code | reason | Warning |\n|---|---|---|\n",
		audit.PartFinding: "| code | what it means | what to do |\n|---|---|---|\n",
	}
	for _, s := range audit.Stories() {
		if !strings.HasSuffix(s.Why, ".") || !strings.HasSuffix(s.Do, ".") {
			t.Errorf("%s: %q and %q are to be sentences", s.Code, s.Why, s.Do)
		}
		sections += "## " + s.Code + "\n\n"
		said := ""
		for _, m := range s.Means {
			third := yes[m.Warn]
			if m.Part == audit.PartFinding {
				third = s.Do
			}
			tables[m.Part] += fmt.Sprintf("| [`%s`](#%s) | %s | %s |\n", s.Code, s.Code, cell.Replace(m.Text),
				cell.Replace(third))
			if m.Text != said {
				sections += m.Text + "\n\n"
			}
			said = m.Text
		}
		sections += "*Why:* " + s.Why + "\n\n*What to do:* " + s.Do + "\n\n"
		if text, err := audit.Tell(s.Code); err != nil || !strings.Contains(string(text), s.Why) {
			t.Errorf("explain %s says %q, %v", s.Code, text, err)
		}
	}
	generated(t, document, "skip codes", tables[audit.PartDefault])
	generated(t, document, "budget codes", tables[audit.PartBudget])
	generated(t, document, "findings", tables[audit.PartFinding])
	generated(t, document, "stories", sections)
}

func TestTheTableOfSleepsIsTheOneOfTheCode(t *testing.T) {
	table := "| in front of the pods | how it is told | sleep | why | source |\n|---|---|--:|---|---|\n"
	for _, m := range way.All() {
		table += fmt.Sprintf("| %s | %s | %d s | %s | %s |\n", m.Name, m.Sign, m.Seconds, m.Why, m.Source)
	}
	generated(t, "docs/concepts/stop.md", "sleeps", table)
}

func TestTheAuditIsWhatAuditSays(t *testing.T) {
	const table = "evenkeel audit -f examples/nginx.yaml -f examples/worker.yaml -f examples/opted-out.yaml"
	for _, example := range []struct{ document, region, language, shown, command string }{
		{"docs/start/try-it.md", "audit", "console", "$ " + table + "\n", table},
		{"docs/reference/audit-json.md", "audit json", "json", "", "evenkeel audit -f examples/worker.yaml -o json"},
	} {
		stdout, stderr, code := cli(t, "", strings.Fields(example.command)...)
		if code != exitDone {
			t.Fatalf("%s: exit code %d: %s", example.command, code, stderr)
		}
		generated(t, example.document, example.region, "```"+example.language+"\n"+example.shown+stdout+"```\n")
	}
}

func TestTheDocumentsHaveEveryCommandAndFlag(t *testing.T) {
	var text strings.Builder
	help := func(title string, args ...string) {
		stdout, stderr, code := cli(t, "", append(args, "--help")...)
		if code != exitDone {
			t.Fatalf("%s --help: exit code %d: %s", title, code, stderr)
		}
		fmt.Fprintf(&text, "## %s\n\n```text\n%s```\n\n", title, stdout)
	}
	help("evenkeel", "evenkeel")
	for _, command := range newRootCommand("evenkeel").Commands() {
		if !command.Hidden {
			help("evenkeel "+command.Name(), "evenkeel", command.Name())
		}
	}
	generated(t, "docs/reference/cli.md", "cli", text.String())
}

// metric is what the documents say of a metric.
type metric struct{ name, kind, labels, help string }

// metrics returns what the sources declare, in the order of the names.
func metrics(t *testing.T) []metric {
	t.Helper()
	var found []metric
	files := token.NewFileSet()
	for _, name := range tracked(t, ".go") {
		if strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, "e2e/") ||
			!strings.Contains(contentOf(t, name), "prometheus") {
			continue
		}
		file, err := parser.ParseFile(files, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				found = append(found, declared(call)...)
			}
			return true
		})
	}
	slices.SortFunc(found, func(a, b metric) int { return cmp.Compare(a.name, b.name) })
	return slices.CompactFunc(found, func(a, b metric) bool { return a.name == b.name })
}

// declared returns the metrics that a call declares: of NewCounterVec and its like, of NewDesc, and of registerExpiry,
// which makes two.
func declared(call *ast.CallExpr) []metric {
	var name string
	switch f := call.Fun.(type) {
	case *ast.SelectorExpr:
		name = f.Sel.Name
	case *ast.Ident:
		name = f.Name
	}
	switch {
	case name == "registerExpiry" && len(call.Args) == 5:
		prefix, what := literal(call.Args[1]), literal(call.Args[2])
		return []metric{
			{prefix + "_start_timestamp_seconds", "gauge", "",
				"When " + what + " was made, in seconds since 1970; 0 without one."},
			{prefix + "_expiry_timestamp_seconds", "gauge", "", "When " + what + " ends, in seconds since 1970; 0 without one."},
		}
	case name == "NewDesc" && len(call.Args) == 4:
		return []metric{{literal(call.Args[0]), "gauge", labelsOf(call.Args[2:3]), literal(call.Args[1])}}
	case !regexp.MustCompile(`^New(Counter|Gauge|Histogram)(Vec|Func)?$`).MatchString(name) || len(call.Args) == 0:
		return nil
	}
	options, ok := call.Args[0].(*ast.CompositeLit)
	if !ok {
		return nil
	}
	m := metric{kind: strings.ToLower(regexp.MustCompile(`Counter|Gauge|Histogram`).FindString(name)),
		labels: labelsOf(call.Args[1:])}
	for _, element := range options.Elts {
		if pair, ok := element.(*ast.KeyValueExpr); ok {
			switch fmt.Sprint(pair.Key) {
			case "Name":
				m.name = literal(pair.Value)
			case "Help":
				m.help = literal(pair.Value)
			}
		}
	}
	if m.name == "" { // of registerExpiry
		return nil
	}
	return []metric{m}
}

// literal returns the text of a string literal, or of several with a + between them, and "" for anything else.
func literal(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, _ := strconv.Unquote(e.Value) // the parser has accepted it
		return text
	case *ast.BinaryExpr:
		return literal(e.X) + literal(e.Y)
	}
	return ""
}

// labelsOf returns the label names of a metric, if the first of the arguments is a list of them.
func labelsOf(args []ast.Expr) string {
	var names []string
	if len(args) > 0 {
		if list, ok := args[0].(*ast.CompositeLit); ok {
			for _, e := range list.Elts {
				names = append(names, "`"+literal(e)+"`")
			}
		}
	}
	return strings.Join(names, ", ")
}

func TestTheDocumentsHaveEveryMetric(t *testing.T) {
	list := metrics(t)
	if len(list) < 20 {
		t.Fatalf("only %d metrics found in the sources", len(list))
	}
	var table strings.Builder
	table.WriteString("| metric | type | labels | |\n|---|---|---|---|\n")
	for _, m := range list {
		if m.help == "" {
			t.Errorf("%s has no help that is a text", m.name)
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", m.name, m.kind, m.labels, m.help)
	}
	generated(t, "docs/reference/metrics.md", "metrics", table.String())
}

// tracked returns the files of the repository with that ending, without what is built, downloaded or made up for tests.
func tracked(t *testing.T, ending string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "bin" || entry.Name() == "testdata" || entry.Name() == ".git"):
			return fs.SkipDir
		case !entry.IsDir() && strings.HasSuffix(name, ending):
			names = append(names, filepath.ToSlash(name))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// Every test that a document names as proof, and every make target, is there.
func TestTheDocumentsNameWhatIsThere(t *testing.T) {
	tests := map[string]bool{}
	declaration := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
	for _, name := range tracked(t, "_test.go") {
		for _, match := range declaration.FindAllStringSubmatch(contentOf(t, name), -1) {
			tests[match[1]] = true
		}
	}
	makefile := contentOf(t, "Makefile")
	for _, name := range tracked(t, ".md") {
		text := contentOf(t, name)
		for _, match := range regexp.MustCompile(`\b((?:Test|Fuzz|Benchmark)[A-Z]\w+)`).FindAllStringSubmatch(text, -1) {
			if !tests[match[1]] && !strings.Contains(text, "-run "+match[1]+" ") {
				t.Errorf("%s names the test %s, which doesn't exist", name, match[1])
			}
		}
		for _, match := range regexp.MustCompile("(?m)(?:`|^)make ([a-z0-9-]+)").FindAllStringSubmatch(text, -1) {
			if !strings.Contains(makefile, "\n"+match[1]+":") {
				t.Errorf("%s names make %s, which the Makefile doesn't have", name, match[1])
			}
		}
	}
}

// slug returns the anchor that GitHub gives a heading.
func slug(heading string) string {
	heading = regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`).ReplaceAllString(heading, "$1")
	var b strings.Builder
	for _, r := range strings.ToLower(strings.TrimSpace(heading)) {
		switch {
		case r == ' ':
			b.WriteByte('-')
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			b.WriteRune(r)
		}
	}
	return b.String()
}

// anchors returns what a link into a document can name.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	fenced := false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
		}
		if heading := strings.TrimLeft(line, "#"); !fenced && heading != line && strings.HasPrefix(heading, " ") {
			found[slug(heading)] = true
		}
	}
	for _, match := range regexp.MustCompile(`<a id="([^"]*)">`).FindAllStringSubmatch(text, -1) {
		found[match[1]] = true
	}
	return found
}

func TestEveryLinkOfTheDocumentsLeadsSomewhere(t *testing.T) {
	for _, name := range tracked(t, ".md") {
		for _, match := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(contentOf(t, name), -1) {
			target, anchor, _ := strings.Cut(match[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			to := name
			if target != "" {
				to = path.Join(path.Dir(name), target)
			}
			info, err := os.Stat(to)
			switch {
			case err != nil:
				t.Errorf("%s links to %s, which doesn't exist", name, match[1])
			case anchor != "" && (info.IsDir() || !anchors(contentOf(t, to))[anchor]):
				t.Errorf("%s links to %s, and there is no such heading", name, match[1])
			}
		}
	}
}

// A reader may copy any command of the documents. Those marked "run" are run by a test, which names
// them; all others say why they aren't.
func TestEveryCommandOfTheDocumentsIsRunOrSaysWhyNot(t *testing.T) {
	var tests strings.Builder
	for _, name := range tracked(t, "_test.go") {
		if strings.HasPrefix(name, "e2e/deploy/") {
			tests.WriteString(contentOf(t, name))
		}
	}
	for _, name := range tracked(t, ".md") {
		previous := ""
		for line := range strings.Lines(contentOf(t, name)) {
			line = strings.TrimSpace(line)
			if line == "```sh" {
				run, isRun := strings.CutPrefix(strings.TrimSuffix(previous, " -->"), "<!-- run: ")
				switch {
				case isRun && !strings.Contains(tests.String(), `"`+run+`"`):
					t.Errorf("%s says that the commands %q are run, and no test of e2e/deploy names them", name, run)
				case !isRun && !strings.HasPrefix(previous, "<!-- not run: "):
					t.Errorf("%s has commands after %q without <!-- run: NAME --> or <!-- not run: WHY --> before them", name,
						previous)
				}
			}
			previous = line
		}
	}
}

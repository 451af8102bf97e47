package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestImportsGoOneWay compares what the packages import with the picture in CONTRIBUTING.md: a
// package may import those on the lines below its own. One that is missing there is an error.
func TestImportsGoOneWay(t *testing.T) {
	const module = "github.com/evenkeel/evenkeel"
	imports := importsOf(t, module)
	text, err := os.ReadFile("CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, picture, _ := strings.Cut(string(text), "\nImports go one way")
	_, picture, _ = strings.Cut(picture, "```\n")
	picture, _, _ = strings.Cut(picture, "```\n")
	lines := map[string]int{}
	for i, line := range strings.Split(picture, "\n") {
		for word := range strings.SplitSeq(line, "  ") { // or a description, of several words
			word = strings.TrimSpace(word)
			name := path.Join(module, strings.TrimPrefix(word, "main"))
			if _, isPackage := imports[name]; word != "" && isPackage || word == "internal/…" {
				lines[name] = i
			}
		}
	}
	line := func(name string) int {
		if at, there := lines[name]; there {
			return at
		}
		if at, there := lines[path.Join(module, "internal/…")]; there && strings.HasPrefix(name, module+"/internal/") {
			return at
		}
		t.Fatalf("%s is not in the picture of the imports in CONTRIBUTING.md", name)
		return 0
	}
	for name, imported := range imports {
		for _, other := range imported {
			if line(other) <= line(name) {
				t.Errorf("%s imports %s, which is not below it in the picture of the imports in CONTRIBUTING.md", name, other)
			}
		}
	}
	if len(imports) < 10 || len(imports[module]) == 0 {
		t.Errorf("found %d packages, of which the root imports %q", len(imports), imports[module])
	}
}

// importsOf returns the packages of a module below the working directory, and which others of the
// module each imports, tests left out.
func importsOf(t *testing.T, module string) map[string][]string {
	t.Helper()
	imports := map[string][]string{}
	err := filepath.WalkDir(".", func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && file != "." {
			_, err := os.Stat(filepath.Join(file, "go.mod"))
			if err == nil || entry.Name() == "testdata" || strings.HasPrefix(entry.Name(), ".") {
				return fs.SkipDir // another module, or none of ours
			}
		}
		if filepath.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		name := path.Join(module, filepath.ToSlash(filepath.Dir(file)))
		if _, known := imports[name]; !known {
			imports[name] = nil // where it imports nothing
		}
		for _, i := range parsed.Imports {
			other, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			if other == module || strings.HasPrefix(other, module+"/") {
				imports[name] = append(imports[name], other)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return imports
}

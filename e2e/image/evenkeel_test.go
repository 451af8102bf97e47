package image

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/evenkeel/evenkeel/e2e/installation"
)

var cold = flag.Bool("cold", false, "build the second time without anything that the first build left in the build "+
	"cache")

func evenkeel(t *testing.T) Options {
	t.Helper()
	root, err := installation.Root()
	if err != nil {
		t.Fatal(err)
	}
	return Options{Module: root, Package: ".", Name: "evenkeel/evenkeel:test", Program: "evenkeel",
		LinkerFlags: "-X main.version=test"}
}

// copySources copies what the Dockerfile copies, and nothing else: no Git, no tests' data of other modules.
func copySources(t *testing.T, root, to string) {
	t.Helper()
	dockerfile, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range regexp.MustCompile(`(?m)^COPY ([^-].*) \S+$`).FindAllSubmatch(dockerfile, -1) {
		for pattern := range strings.FieldsSeq(string(line[1])) {
			paths, err := filepath.Glob(filepath.Join(root, pattern))
			if err != nil || len(paths) == 0 {
				t.Fatalf("the Dockerfile copies %s, which isn't there: %v", pattern, err)
			}
			for _, path := range paths {
				target := filepath.Join(to, filepath.Base(path))
				info, err := os.Stat(path)
				if err == nil && info.IsDir() {
					err = os.CopyFS(target, os.DirFS(path))
				} else if err == nil {
					var content []byte
					if content, err = os.ReadFile(path); err == nil {
						err = os.WriteFile(target, content, 0o600)
					}
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

func build(t *testing.T, options Options) []byte {
	t.Helper()
	program, err := Build(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

func TestTwoDirectoriesGiveTheSameEvenkeel(t *testing.T) {
	options := evenkeel(t)
	first := build(t, options)
	elsewhere := t.TempDir()
	copySources(t, options.Module, elsewhere)
	options.Module = elsewhere
	if *cold {
		t.Setenv("GOCACHE", t.TempDir())
	}
	if !bytes.Equal(first, build(t, options)) {
		t.Error("evenkeel built from a copy of its sources differs from evenkeel built here")
	}
	if *cold {
		return
	}
	options.LinkerFlags = "-X main.version=other" // negative control
	if bytes.Equal(first, build(t, options)) {
		t.Error("another version gives the same bytes")
	}
}

func TestTheImageOfEvenkeelIsUnder40MB(t *testing.T) {
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := Write(t.Context(), file, evenkeel(t)); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) != 1 {
		t.Errorf("%d layers, want the one of the program", len(layers))
	}
	content, err := layers[0].Uncompressed() // tarballs hold it compressed, nodes unpacked
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	var unpacked bytes.Buffer
	if _, err := unpacked.ReadFrom(content); err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f MB to pull, %.1f MB unpacked", float64(info.Size())/1e6, float64(unpacked.Len())/1e6)
	if info.Size() > 40e6 || unpacked.Len() > 40e6 {
		t.Errorf("the image has %d bytes to pull and %d unpacked, want at most 40 MB", info.Size(), unpacked.Len())
	}
}

func TestTheBillOfMaterialsHasEveryModuleOfTheProgram(t *testing.T) {
	program := build(t, evenkeel(t))
	file := filepath.Join(t.TempDir(), "evenkeel")
	if err := os.WriteFile(file, program, 0o700); err != nil {
		t.Fatal(err)
	}
	var sbom, again bytes.Buffer
	for _, w := range []*bytes.Buffer{&sbom, &again} {
		if err := WriteSBOM(w, program, "evenkeel", "v1.2.3"); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(sbom.Bytes(), again.Bytes()) {
		t.Error("the same program gives two different bills of materials")
	}
	var bom struct {
		BOMFormat, SpecVersion string
		Components             []struct{ Name, Version, Purl string }
	}
	if err := json.Unmarshal(sbom.Bytes(), &bom); err != nil {
		t.Fatal(err)
	}
	if bom.BOMFormat != "CycloneDX" || bom.SpecVersion != "1.6" {
		t.Errorf("the format is %s %s, want CycloneDX 1.6", bom.BOMFormat, bom.SpecVersion)
	}
	listed := map[string]string{}
	for _, c := range bom.Components {
		listed[c.Name] = c.Version
		if c.Purl != "pkg:golang/"+c.Name+"@"+strings.ReplaceAll(c.Version, "+", "%2B") {
			t.Errorf("%s has the package URL %s", c.Name, c.Purl)
		}
	}
	// What Go itself says of the program.
	out, err := exec.CommandContext(t.Context(), "go", "version", "-m", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	modules := regexp.MustCompile(`(?m)^\tdep\t(\S+)\t(\S+)`).FindAllSubmatch(out, -1)
	if len(modules) < 10 || len(listed) != len(modules)+1 {
		t.Errorf("%d components, want %d modules and the standard library", len(listed), len(modules))
	}
	for _, module := range modules {
		if listed[string(module[1])] != string(module[2]) {
			t.Errorf("module %s %s is listed with the version %q", module[1], module[2], listed[string(module[1])])
		}
	}
	if listed["std"] == "" || !strings.Contains(string(out), "go"+listed["std"]) {
		t.Errorf("the standard library is listed with the version %q", listed["std"])
	}
}

func TestRefusesToListWhatIsNoGoProgram(t *testing.T) {
	if err := WriteSBOM(&bytes.Buffer{}, []byte("#!/bin/sh\n"), "script", "v1"); err == nil {
		t.Error("a script has a bill of materials")
	}
}

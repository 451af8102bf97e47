package image

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// tinyProgram makes a module with a program that does nothing.
func tinyProgram(t *testing.T) Options {
	t.Helper()
	module := t.TempDir()
	for file, content := range map[string]string{
		"go.mod":  "module tiny\n\ngo 1.26\n",
		"main.go": "package main\n\nvar version string\n\nfunc main() { println(version) }\n",
	} {
		if err := os.WriteFile(filepath.Join(module, file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Options{Module: module, Package: ".", Name: "tiny:1", Program: "tiny", LinkerFlags: "-X main.version=1"}
}

// write returns the bytes of an image.
func write(t *testing.T, options Options) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := Write(t.Context(), file, options); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestTheSameInputsGiveTheSameBytes(t *testing.T) {
	one := tinyProgram(t)
	two := tinyProgram(t) // in another directory, at another time
	first := write(t, one)
	if !bytes.Equal(first, write(t, two)) {
		t.Error("two builds of the same program differ")
	}
	two.LinkerFlags = "-X main.version=2"
	if bytes.Equal(first, write(t, two)) { // negative control
		t.Error("another version gives the same bytes")
	}
}

func TestTheImageRunsItsOnlyProgramWithoutRights(t *testing.T) {
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := Write(t.Context(), file, tinyProgram(t)); err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Config.User != User || len(config.Config.Entrypoint) != 1 || config.Config.Entrypoint[0] != "/tiny" {
		t.Errorf("configuration is %+v", config.Config)
	}
}

func TestRefusesNamesThatAreNone(t *testing.T) {
	for _, options := range []Options{{Name: "UPPER CASE", Program: "p"}, {Name: "n:1"}, {Name: "n:1", Program: "../p"}} {
		if err := Write(t.Context(), filepath.Join(t.TempDir(), "image.tar"), options); err == nil {
			t.Errorf("accepted %+v", options)
		}
	}
}

// Package image makes container images without Docker: a static Go program, alone in an image that starts it as a user
// without rights. The same inputs give the same bytes.
package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// User is the user and group id that the program runs as.
const User = "65532:65532"

// Options say what an image is made of.
type Options struct {
	// Module is the directory of the Go module, Package the main package in it, "." for the module's own.
	Module, Package string
	// Name is the image's name with its tag, and Program the name of its only file and entrypoint.
	Name, Program string
	// LinkerFlags are added to -s -w.
	LinkerFlags string
	// Arch is a GOARCH; "" means this machine's. The system is always Linux.
	Arch string
	// Labels go into the image's configuration.
	Labels map[string]string
}

// Write builds the program and writes the image to file, in the format of docker save, which "docker load" and
// "ctr images import" read.
func Write(ctx context.Context, file string, options Options) error {
	tag, err := name.NewTag(options.Name)
	if err != nil {
		return fmt.Errorf("name image: %w", err)
	}
	if options.Program == "" || filepath.Base(options.Program) != options.Program {
		return errors.New("name program: it needs a name without a directory")
	}
	program, err := Build(ctx, options)
	if err != nil {
		return err
	}
	img, err := assemble(program, options)
	if err != nil {
		return fmt.Errorf("assemble image: %w", err)
	}
	if err := tarball.WriteToFile(file, tag, img); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return nil
}

// Build returns the bytes of the program: static, without paths of this machine and without the time.
func Build(ctx context.Context, options Options) ([]byte, error) {
	if options.Arch == "" {
		options.Arch = runtime.GOARCH
	}
	dir, err := os.MkdirTemp("", "evenkeel-image-")
	if err != nil {
		return nil, fmt.Errorf("make build directory: %w", err)
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, options.Program)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -buildid= "+options.LinkerFlags, "-o", program, options.Package)
	cmd.Dir = options.Module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+options.Arch, "GOFLAGS=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build %s: %w\n%s", options.Program, err, out)
	}
	return os.ReadFile(program)
}

// assemble returns an image with one layer that holds the program.
func assemble(program []byte, options Options) (v1.Image, error) {
	if options.Arch == "" {
		options.Arch = runtime.GOARCH
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	header := &tar.Header{Name: options.Program, Mode: 0o755, Size: int64(len(program)), ModTime: time.Unix(0, 0),
		Format: tar.FormatUSTAR}
	if err := w.WriteHeader(header); err != nil {
		return nil, err
	}
	if _, err := w.Write(program); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	files, err := tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.Append(empty.Image, mutate.Addendum{
		Layer:   files,
		History: v1.History{CreatedBy: "e2e/image", Created: v1.Time{Time: time.Unix(0, 0).UTC()}},
	})
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", options.Arch
	config.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	config.Config = v1.Config{Entrypoint: []string{"/" + options.Program}, User: User, WorkingDir: "/",
		Labels: options.Labels}
	return mutate.ConfigFile(img, config)
}

// Command evenkeel writes evenkeel's own image to a file, for "docker load" or "ctr images import",
// and what it is made of.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/evenkeel/evenkeel/e2e/image"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "image:", err)
		}
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.SetOutput(stderr)
	file := flags.String("o", "evenkeel.tar", "file to write")
	name := flags.String("name", "evenkeel/evenkeel:dev", "name and tag of the image")
	version := flags.String("version", "dev", "what \"evenkeel version\" says")
	commit := flags.String("commit", "unknown", "the commit that it says")
	arch := flags.String("arch", "", "GOARCH of the image; default is this machine's")
	sbom := flags.String("sbom", "", "file to write the bill of materials to, in CycloneDX JSON")
	program := flags.String("program", "", "file to write the program itself to, as it is in the image")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; only flags are allowed, see -help", flags.Arg(0))
	}
	root, err := installation.Root()
	if err != nil {
		return err
	}
	options := image.Options{
		Module: root, Package: ".", Name: *name, Program: "evenkeel", Arch: *arch,
		LinkerFlags: fmt.Sprintf("-X main.version=%s -X main.commit=%s", *version, *commit),
		Labels: map[string]string{
			"org.opencontainers.image.title":    "evenkeel",
			"org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.version":  *version,
			"org.opencontainers.image.revision": *commit,
		},
	}
	if *sbom != "" || *program != "" {
		if err := writeProgram(ctx, options, *program, *sbom, *version); err != nil {
			return err
		}
	}
	if err := image.Write(ctx, *file, options); err != nil {
		return err
	}
	info, err := os.Stat(*file)
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "%s: %s, %.1f MB\n", *file, *name, float64(info.Size())/1e6)
	return nil
}

// writeProgram writes the program and its bill of materials, each to its file unless that is empty.
func writeProgram(ctx context.Context, options image.Options, programFile, sbomFile, version string) error {
	program, err := image.Build(ctx, options)
	if err != nil {
		return err
	}
	if programFile != "" {
		if err := os.WriteFile(programFile, program, 0o755); err != nil {
			return fmt.Errorf("write program: %w", err)
		}
	}
	if sbomFile == "" {
		return nil
	}
	var sbom bytes.Buffer
	if err := image.WriteSBOM(&sbom, program, options.Program, version); err != nil {
		return err
	}
	if err := os.WriteFile(sbomFile, sbom.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write bill of materials: %w", err)
	}
	return nil
}

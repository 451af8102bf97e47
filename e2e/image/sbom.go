package image

import (
	"bytes"
	"debug/buildinfo"
	"fmt"
	"io"
	"runtime/debug"
	"strings"

	"github.com/CycloneDX/cyclonedx-go"
)

// WriteSBOM writes what a Go program is made of, as the linker recorded it in the program itself: a
// bill of materials in CycloneDX 1.6 JSON with the Go standard library and every module by its
// package URL. The same program gives the same bytes: there is no serial number and no time. The
// error says where program is no Go program.
func WriteSBOM(w io.Writer, program []byte, name, version string) error {
	info, err := buildinfo.Read(bytes.NewReader(program))
	if err != nil {
		return fmt.Errorf("read build information of %s: %w", name, err)
	}
	main := component(cyclonedx.ComponentTypeApplication, info.Main.Path, version)
	main.Name = name
	goVersion, _, _ := strings.Cut(strings.TrimPrefix(info.GoVersion, "go"), " ")
	components := []cyclonedx.Component{component(cyclonedx.ComponentTypeLibrary, "std", goVersion)}
	for _, module := range info.Deps {
		components = append(components, library(module))
	}
	refs := make([]string, 0, len(components))
	for i := range components {
		refs = append(refs, components[i].BOMRef)
	}
	bom := cyclonedx.NewBOM()
	bom.Metadata = &cyclonedx.Metadata{Component: &main}
	bom.Components = &components
	bom.Dependencies = &[]cyclonedx.Dependency{{Ref: main.BOMRef, Dependencies: &refs}}
	encoder := cyclonedx.NewBOMEncoder(w, cyclonedx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false)
	if err := encoder.EncodeVersion(bom, cyclonedx.SpecVersion1_6); err != nil {
		return fmt.Errorf("write bill of materials: %w", err)
	}
	return nil
}

// library describes a module, or the one that replaces it.
func library(module *debug.Module) cyclonedx.Component {
	if module.Replace != nil {
		module = module.Replace
	}
	c := component(cyclonedx.ComponentTypeLibrary, module.Path, module.Version)
	if module.Sum != "" { // of the module's files, as in go.sum
		c.Properties = &[]cyclonedx.Property{{Name: "go:sum", Value: module.Sum}}
	}
	return c
}

func component(kind cyclonedx.ComponentType, path, version string) cyclonedx.Component {
	url := "pkg:golang/" + path + "@" + strings.ReplaceAll(version, "+", "%2B")
	return cyclonedx.Component{Type: kind, BOMRef: url, Name: path, Version: version, PackageURL: url}
}

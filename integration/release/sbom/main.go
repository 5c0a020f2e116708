// sbom prints a bill of materials of a Go binary, as CycloneDX 1.6 in JSON: the modules
// that are linked into it, as the binary itself names them, whatever else go.mod lists.
//
//	sbom -version v1.2.3 egress-ip_v1.2.3_linux_amd64
//
// It has neither a serial number nor a time, so that one binary has one bill.
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

func main() {
	version := flag.String("version", "", "the binary's `version`")
	flag.Parse()
	if flag.NArg() != 1 || *version == "" {
		flag.Usage()
		os.Exit(2)
	}
	if err := write(os.Stdout, flag.Arg(0), *version); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func write(w io.Writer, binary, version string) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return fmt.Errorf("read what is linked into %s: %w", binary, err)
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	encoder := cdx.NewBOMEncoder(w, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false)
	return encoder.EncodeVersion(bill(info, filepath.Base(binary), version, sha256.Sum256(data)), cdx.SpecVersion1_6)
}

// bill is in the order of the binary: by module path, the standard library last.
func bill(info *debug.BuildInfo, file, version string, sum [sha256.Size]byte) *cdx.BOM {
	main := cdx.Component{
		Type: cdx.ComponentTypeApplication, Name: path.Base(info.Main.Path), Version: version,
		PackageURL: purl(info.Main.Path, version),
		Hashes:     &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}},
		Properties: &[]cdx.Property{{Name: "file", Value: file}},
	}
	for _, s := range info.Settings {
		if s.Key == "GOOS" || s.Key == "GOARCH" || s.Key == "CGO_ENABLED" {
			*main.Properties = append(*main.Properties, cdx.Property{Name: s.Key, Value: s.Value})
		}
	}
	main.BOMRef = main.PackageURL
	components := make([]cdx.Component, 0, len(info.Deps)+1)
	refs := make([]string, 0, len(info.Deps)+1)
	add := func(name, version, goSum string) {
		c := cdx.Component{Type: cdx.ComponentTypeLibrary, Name: name, Version: version, PackageURL: purl(name, version)}
		c.BOMRef = c.PackageURL
		if goSum != "" {
			c.Properties = &[]cdx.Property{{Name: "go.sum", Value: goSum}}
		}
		components, refs = append(components, c), append(refs, c.BOMRef)
	}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		add(m.Path, m.Version, m.Sum)
	}
	add("std", strings.TrimPrefix(info.GoVersion, "go"), "")
	return &cdx.BOM{
		BOMFormat: cdx.BOMFormat, Version: 1,
		Metadata:     &cdx.Metadata{Component: &main},
		Components:   &components,
		Dependencies: &[]cdx.Dependency{{Ref: main.BOMRef, Dependencies: &refs}},
	}
}

// purl is a package URL: the type golang wants a module's path in lower case.
func purl(module, version string) string {
	return "pkg:golang/" + strings.ToLower(module) + "@" + strings.ReplaceAll(version, "+", "%2B")
}

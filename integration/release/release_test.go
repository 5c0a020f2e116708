package release

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/stretchr/testify/require"
)

var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

func binary(arch string) string { return "egress-ip_" + version + "_linux_" + arch }

func imageFile() string { return "egress-ip_" + version + "_image.tar" }

// read returns a file of the release.
func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(repository, "dist", name))
	require.NoError(t, err)
	return data
}

// list is what a folder has.
func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestReleaseTwice: a release has these files, and in another folder and kind of
// checkout it is the same to the byte.
func TestReleaseTwice(t *testing.T) {
	t.Parallel()
	files := list(t, filepath.Join(repository, "dist"))
	require.ElementsMatch(t, []string{
		"SHA256SUMS", imageFile(), binary("amd64"), binary("amd64") + ".cdx.json", binary("arm64"), binary("arm64") + ".cdx.json",
	}, files)
	require.Equal(t, files, list(t, filepath.Join(worktree, "dist")))
	for _, name := range files {
		again, err := os.ReadFile(filepath.Join(worktree, "dist", name))
		require.NoError(t, err)
		require.True(t, bytes.Equal(read(t, name), again), "%s is not the same twice", name)
	}
}

func TestSums(t *testing.T) {
	t.Parallel()
	var want strings.Builder
	for _, name := range list(t, filepath.Join(repository, "dist")) {
		if name != "SHA256SUMS" {
			fmt.Fprintf(&want, "%x  %s\n", sha256.Sum256(read(t, name)), name)
		}
	}
	require.Equal(t, want.String(), string(read(t, "SHA256SUMS")))
}

// TestBinary: static, for its machine, and with no path of the machine that built it.
func TestBinary(t *testing.T) {
	t.Parallel()
	for arch, machine := range machines {
		t.Run(arch, func(t *testing.T) {
			t.Parallel()
			data := read(t, binary(arch))
			f, err := elf.NewFile(bytes.NewReader(data))
			require.NoError(t, err)
			require.Equal(t, machine, f.Machine)
			require.Equal(t, elf.ET_EXEC, f.Type)
			for _, p := range f.Progs {
				require.NotContains(t, []elf.ProgType{elf.PT_INTERP, elf.PT_DYNAMIC}, p.Type)
			}
			require.False(t, bytes.Contains(data, []byte(filepath.Dir(repository))))
		})
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	goVersion, err := in(root, "go", "env", "GOVERSION")
	require.NoError(t, err)
	out, err := in(filepath.Join(repository, "dist"), "./"+binary(runtime.GOARCH), "version")
	require.NoError(t, err)
	first, rest, _ := strings.Cut(out, "\n")
	require.Regexp(t, "^egress-ip "+version+`, CNI .*\b1\.0\.0\b`, first)
	require.Equal(t, "commit "+commit+", "+date+"\n"+goVersion+" linux/"+runtime.GOARCH, rest)
}

// TestVersionWithoutGit: sources out of an archive have no version, and not that of a
// repository in which they happen to lie.
func TestVersionWithoutGit(t *testing.T) {
	t.Parallel()
	around := t.TempDir()
	for _, args := range [][]string{{"init", "-q"}, {"commit", "-q", "--allow-empty", "-m", "another's"}, {"tag", "v1.2.3"}} {
		_, err := in(around, "git", args...)
		require.NoError(t, err)
	}
	sources := filepath.Join(around, "sources")
	require.NoError(t, copySources(sources))
	_, err := in(sources, "make", "build")
	require.NoError(t, err)
	out, err := in(sources, "bin/egress-ip", "version")
	require.NoError(t, err)
	lines := strings.Split(out, "\n")
	require.True(t, strings.HasPrefix(lines[0], "egress-ip dev, CNI "), out)
	require.Equal(t, "commit unknown: built outside of its repository", lines[1])
}

// TestBill: the bill of materials has the modules that the binary names, and no time.
func TestBill(t *testing.T) {
	t.Parallel()
	for arch := range machines {
		t.Run(arch, func(t *testing.T) {
			t.Parallel()
			var bill cdx.BOM
			require.NoError(t, cdx.NewBOMDecoder(bytes.NewReader(read(t, binary(arch)+".cdx.json")), cdx.BOMFileFormatJSON).Decode(&bill))
			require.Empty(t, bill.SerialNumber)
			require.Empty(t, bill.Metadata.Timestamp)

			main := bill.Metadata.Component
			require.Equal(t, "pkg:golang/github.com/egress-ip/egress-ip@"+version, main.PackageURL)
			sum := sha256.Sum256(read(t, binary(arch)))
			require.Equal(t, []cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}}, *main.Hashes)
			require.Contains(t, *main.Properties, cdx.Property{Name: "GOARCH", Value: arch})

			info, err := buildinfo.Read(bytes.NewReader(read(t, binary(arch))))
			require.NoError(t, err)
			want := []string{"std " + strings.TrimPrefix(info.GoVersion, "go")}
			for _, m := range info.Deps {
				want = append(want, m.Path+" "+m.Version)
			}
			var have, refs []string
			for _, c := range *bill.Components {
				have, refs = append(have, c.Name+" "+c.Version), append(refs, c.BOMRef)
			}
			require.ElementsMatch(t, want, have)
			require.Equal(t, []cdx.Dependency{{Ref: main.BOMRef, Dependencies: &refs}}, *bill.Dependencies)

			require.True(t, slices.ContainsFunc(have, func(c string) bool { return strings.HasPrefix(c, "github.com/vishvananda/netlink ") }))
			for _, c := range have { // of tests and of tools
				require.NotContains(t, c, "testify")
				require.NotContains(t, c, "staticcheck")
			}
		})
	}
}

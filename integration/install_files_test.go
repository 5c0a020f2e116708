package integration

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestUninstallConverted: of a list that a former version made of a file of one plugin, uninstall
// removes the entry; the list stays, and what that version kept of the file.
func TestUninstallConverted(t *testing.T) {
	t.Parallel()
	const kept = "10-net.conf.before-egress-ip"
	conf := `{"cniVersion":"1.0.0","name":"pods","type":"bridge","isGateway":true}`
	n := newInstallNode(t, map[string]string{"10-net.conflist": withEntry(probeOnly), kept: conf})
	n.run(t, 0, "install") // the binary
	n.run(t, 0, "uninstall")
	require.Equal(t, bridgeList, n.read(t, "10-net.conflist"))
	require.Equal(t, conf, n.read(t, kept))
	n.requireFiles(t, kept, "10-net.conflist")
	require.NoFileExists(t, n.binary())
}

// TestInstallDryRun: it shows what would be done, and nothing is.
func TestInstallDryRun(t *testing.T) {
	t.Parallel()
	n := newInstallNode(t, map[string]string{"10-flannel.conflist": flannelList})
	before := n.all(t)
	out, _ := n.run(t, 0, "install", "--dry-run")
	require.Contains(t, out, "would have copied egress-ip to "+n.binary())
	require.Contains(t, out, "+++ "+n.conf("10-flannel.conflist"))
	require.Contains(t, out, "\n+    {\n+      \"type\": \"egress-ip\",\n")
	require.Equal(t, before, n.all(t))

	n.run(t, 0, "install")
	before = n.all(t)
	out, _ = n.run(t, 0, "uninstall", "--dry-run")
	require.Contains(t, out, "would have removed the entry from "+n.conf("10-flannel.conflist"))
	require.Contains(t, out, "\n-      \"type\": \"egress-ip\",\n")
	require.Contains(t, out, "would have removed "+n.binary())
	require.Equal(t, before, n.all(t))
	out, _ = n.run(t, 0, "install", "--dry-run")
	require.Contains(t, out, "nothing to do")
}

// TestInstallFollowsLinks: a symbolic link in the directory stays one; what it leads to is
// changed.
func TestInstallFollowsLinks(t *testing.T) {
	t.Parallel()
	n := newInstallNode(t, nil)
	target := filepath.Join(n.root, "elsewhere", "main.conflist")
	require.NoError(t, os.Mkdir(filepath.Dir(target), 0o755))
	require.NoError(t, os.WriteFile(target, []byte(bridgeList), 0o600))
	require.NoError(t, os.Symlink("../elsewhere/main.conflist", n.conf("10-net.conflist")))
	n.run(t, 0, "install")
	link, err := os.Readlink(n.conf("10-net.conflist"))
	require.NoError(t, err)
	require.Equal(t, "../elsewhere/main.conflist", link)
	require.Equal(t, withEntry(probeOnly), n.read(t, "10-net.conflist"))
	n.requireFiles(t, "10-net.conflist")
	n.run(t, 0, "uninstall")
	require.Equal(t, bridgeList, n.read(t, "10-net.conflist"))
}

// TestInstallNamedFile: --conflist is another file than the first; uninstall of that one
// leaves the binary while another file names it, and without --conflist takes out all.
func TestInstallNamedFile(t *testing.T) {
	t.Parallel()
	n := newInstallNode(t, map[string]string{"00-multus.conf": `{"type":"multus"}`, "10-a.conflist": bridgeList, "20-b.conflist": flannelList})
	_, stderr := n.run(t, 0, "install", "--conflist", n.conf("10-a.conflist"))
	require.Contains(t, stderr, "runtimes take the first file in "+n.confDir()+", 00-multus.conf, and not "+n.conf("10-a.conflist"))
	require.Contains(t, stderr, "hands it no annotations")
	n.run(t, 0, "install", "--conflist", n.conf("20-b.conflist"))
	require.Equal(t, withEntry(probeOnly), n.read(t, "10-a.conflist"))
	require.Contains(t, n.read(t, "20-b.conflist"), `"egress-ip"`)

	out, _ := n.run(t, 0, "uninstall", "--conflist", n.conf("20-b.conflist"))
	require.Contains(t, out, n.binary()+" stays: "+n.conf("10-a.conflist")+" names it")
	require.FileExists(t, n.binary())
	require.Equal(t, flannelList, n.read(t, "20-b.conflist"))

	n.run(t, 0, "install", "--conflist", n.conf("20-b.conflist"))
	n.run(t, 0, "uninstall")
	require.Equal(t, bridgeList, n.read(t, "10-a.conflist"))
	require.Equal(t, flannelList, n.read(t, "20-b.conflist"))
	n.requireFiles(t, "00-multus.conf", "10-a.conflist", "20-b.conflist")
	require.NoFileExists(t, n.binary())
}

// TestInstallBackup: it is of the list without our entry, as the main plugin last wrote
// it, and uninstall keeps one that says something else than the list then does.
func TestInstallBackup(t *testing.T) {
	t.Parallel()
	const backup = "10-net.conflist.before-egress-ip"
	n := newInstallNode(t, map[string]string{"10-net.conflist": bridgeList})
	n.run(t, 0, "install")
	n.run(t, 0, "install", "--allow", "payments")
	require.Equal(t, bridgeList, n.read(t, backup))
	changed := strings.Replace(bridgeList, "pods", "new", 1)
	n.write(t, "10-net.conflist", changed)
	n.run(t, 0, "install")
	require.Equal(t, changed, n.read(t, backup))
	n.write(t, "10-net.conflist", strings.Replace(n.read(t, "10-net.conflist"), "new", "newer", 1))
	out, _ := n.run(t, 0, "uninstall")
	require.Contains(t, out, backup+" stays")
	require.Equal(t, changed, n.read(t, backup))
}

// TestUninstallRestores: the list becomes what it was before the installation as long as it says
// the same but for the entry, however it is written by then.
func TestUninstallRestores(t *testing.T) {
	t.Parallel()
	const file, list = "10-net.conflist", "{\r\n \"cniVersion\": \"1.0.0\", \"name\":\"pods\",\n\"plugins\": [ {\"type\":\"bridge\",\"isGateway\":true} ,\t{\"mtu\":1e3,\"type\":\"tuning\"}\n] }"
	for name, meanwhile := range map[string]func(t *testing.T, n *aNode){
		"not written since": func(*testing.T, *aNode) {},
		"another entry":     func(t *testing.T, n *aNode) { n.run(t, 0, append([]string{"install"}, entryFlags...)...) },
		"formatted": func(t *testing.T, n *aNode) {
			var b bytes.Buffer
			require.NoError(t, json.Compact(&b, []byte(n.read(t, file))))
			n.write(t, file, b.String())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newInstallNode(t, map[string]string{file: list})
			n.run(t, 0, "install")
			meanwhile(t, n)
			n.run(t, 0, "uninstall")
			require.Equal(t, list, n.read(t, file))
			n.requireFiles(t, file)
		})
	}
}

// TestInstallReadOnly: what cannot be written is said with its path, and nothing has
// changed.
func TestInstallReadOnly(t *testing.T) {
	t.Parallel()
	for _, directory := range []string{"net.d", "bin"} {
		t.Run(directory, func(t *testing.T) {
			t.Parallel()
			n := newInstallNode(t, map[string]string{"10-net.conflist": bridgeList})
			require.NoError(t, os.Mkdir(filepath.Dir(n.binary()), 0o755))
			const readOnly = `mount --make-rprivate / && mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"`
			args := append([]string{"--mount", "sh", "-c", readOnly, filepath.Join(n.root, directory), filepath.Join(bin, "egress-ip")}, n.args("install")...)
			_, stderr := n.exec(t, 1, exec.Command("unshare", args...))
			require.Contains(t, stderr, filepath.Join(n.root, directory))
			require.Contains(t, stderr, "read-only file system")
			require.Equal(t, bridgeList, n.read(t, "10-net.conflist"))
			n.requireFiles(t, "10-net.conflist")
		})
	}
}

// TestInstallIsAtomic: while two versions of the binary install themselves with two
// entries, several at once, whoever reads always finds a whole list with one entry
// and a whole binary, and nothing else is ever in the directory for a runtime to read.
func TestInstallIsAtomic(t *testing.T) {
	t.Parallel()
	n := newInstallNode(t, map[string]string{"10-net.conflist": bridgeList})
	first, err := os.ReadFile(filepath.Join(bin, "egress-ip"))
	require.NoError(t, err)
	second := append(bytes.Clone(first), "newer"...)
	newer := filepath.Join(n.root, "newer")
	nettest.WriteProgram(t, newer, second)
	n.run(t, 0, "install")

	var wg sync.WaitGroup
	for i, version := range []string{newer, filepath.Join(bin, "egress-ip"), newer} {
		wg.Go(func() {
			for range 20 {
				cmd := exec.Command(version, append(n.args("install"), "--allow", []string{"a", "b", "c"}[i])...)
				if err := n.Run(cmd); err != nil {
					t.Errorf("%s: %v", cmd, err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	seen := map[string]bool{}
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		var list struct{ Plugins []struct{ Type string } }
		text := n.read(t, "10-net.conflist")
		require.NoError(t, json.Unmarshal([]byte(text), &list), text)
		require.Len(t, list.Plugins, 2)
		require.Equal(t, "egress-ip", list.Plugins[1].Type)
		program, err := os.ReadFile(n.binary())
		require.NoError(t, err)
		require.True(t, bytes.Equal(program, first) || bytes.Equal(program, second), "%d bytes", len(program))
		_, err = elf.NewFile(bytes.NewReader(program))
		require.NoError(t, err)
		paths, err := filepath.Glob(n.conf("*.conf*"))
		require.NoError(t, err)
		for _, path := range paths {
			switch filepath.Ext(path) {
			case ".conf", ".conflist", ".json":
				require.Equal(t, n.conf("10-net.conflist"), path)
			}
		}
		seen[text] = true
	}
	require.Greater(t, len(seen), 1)
	n.requireFiles(t, "10-net.conflist", "10-net.conflist.before-egress-ip")
	require.Equal(t, bridgeList, n.read(t, "10-net.conflist.before-egress-ip"))
}

// TestInstallReplaces: another version comes into the place of the existing one, even
// if it is as long.
func TestInstallReplaces(t *testing.T) {
	t.Parallel()
	n := newInstallNode(t, map[string]string{"10-net.conflist": bridgeList})
	program, err := os.ReadFile(filepath.Join(bin, "egress-ip"))
	require.NoError(t, err)
	for _, version := range []string{"older", "newer", "newest"} {
		path := filepath.Join(n.root, version)
		want := append(bytes.Clone(program), version...)
		nettest.WriteProgram(t, path, want)
		out, _ := n.exec(t, 0, exec.Command(path, n.args("install")...))
		require.Contains(t, out, "copied egress-ip to "+n.binary())
		have, err := os.ReadFile(n.binary())
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, have))
		out, _ = n.exec(t, 0, exec.Command(path, n.args("install")...))
		require.Contains(t, out, n.binary()+" is this version already")
	}
}

// TestInstallBesideWreck: what a killed installation has left unfinished does no harm.
func TestInstallBesideWreck(t *testing.T) {
	t.Parallel()
	n := newInstallNode(t, map[string]string{"10-net.conflist": bridgeList, "10-net.conflist.unfinished": "{"})
	require.NoError(t, os.Mkdir(filepath.Dir(n.binary()), 0o755))
	require.NoError(t, os.Symlink("/etc/passwd", n.binary()+".unfinished"))
	n.run(t, 0, "install")
	n.requireFiles(t, "10-net.conflist", "10-net.conflist.before-egress-ip")
	require.Equal(t, withEntry(probeOnly), n.read(t, "10-net.conflist"))
	info, err := os.Lstat(n.binary())
	require.NoError(t, err)
	require.True(t, info.Mode().IsRegular())
}

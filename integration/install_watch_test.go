package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// watchInstall starts `egress-ip install --watch` with the node's directories.
func (n *aNode) watchInstall(t testing.TB, args ...string) *watcher {
	t.Helper()
	return startKeeper(t, n.Namespace, n.args(append([]string{"install", "--watch"}, args...)...))
}

// await waits until a file of configuration says this.
func (n *aNode) await(t testing.TB, name, text string) {
	t.Helper()
	require.Eventually(t, func() bool {
		have, err := os.ReadFile(n.conf(name))
		return err == nil && string(have) == text
	}, waitFor, tick, text)
}

// renamed writes a file as the careful do.
func (n *aNode) renamed(t testing.TB, name, text string) {
	t.Helper()
	n.write(t, "temporary", text)
	require.NoError(t, os.Rename(n.conf("temporary"), n.conf(name)))
}

var flagsOfOne = []string{"--allow", "payments"}

const entryOfOne = `{"type":"egress-ip","capabilities":{"io.kubernetes.cri.pod-annotations":true},"links":[{"allow":[{"namespaces":["payments"]}]}]}`

// TestInstallWatch: what the main plugin, or somebody else, does to what is installed
// is repaired.
func TestInstallWatch(t *testing.T) {
	t.Parallel()
	const file = "10-net.conflist"
	installed := withEntry(entryOfOne)
	for name, undo := range map[string]func(t *testing.T, n *aNode){
		"written again in place": func(t *testing.T, n *aNode) { n.write(t, file, bridgeList) },
		"written half, and then the rest": func(t *testing.T, n *aNode) {
			f, err := os.OpenFile(n.conf(file), os.O_WRONLY|os.O_TRUNC, 0)
			require.NoError(t, err)
			defer f.Close()
			_, err = f.WriteString(bridgeList[:40])
			require.NoError(t, err)
			time.Sleep(200 * time.Millisecond) // time to look at the half
			require.Equal(t, bridgeList[:40], n.read(t, file))
			_, err = f.WriteString(bridgeList[40:])
			require.NoError(t, err)
		},
		"written again by renaming": func(t *testing.T, n *aNode) { n.renamed(t, file, bridgeList) },
		"with an older entry":       func(t *testing.T, n *aNode) { n.renamed(t, file, withEntry(probeOnly)) },
		"removed, and there again": func(t *testing.T, n *aNode) {
			require.NoError(t, os.Remove(n.conf(file)))
			n.write(t, file, bridgeList)
		},
		"directory removed": func(t *testing.T, n *aNode) {
			require.NoError(t, os.RemoveAll(n.confDir()))
			require.Eventually(t, func() bool {
				_, err := os.Stat(n.confDir())
				return err == nil
			}, waitFor, tick)
			n.write(t, file, bridgeList)
		},
		"binary removed": func(t *testing.T, n *aNode) { require.NoError(t, os.Remove(n.binary())) },
		"binary emptied": func(t *testing.T, n *aNode) { require.NoError(t, os.Truncate(n.binary(), 0)) },
		"directory of the binary removed": func(t *testing.T, n *aNode) {
			require.NoError(t, os.RemoveAll(filepath.Dir(n.binary())))
		},
		"refused for a while": func(t *testing.T, n *aNode) {
			n.renamed(t, file, strings.Replace(bridgeList, "bridge", "macvlan", 1))
			require.NoError(t, os.Remove(n.binary()))
			require.Eventually(t, func() bool { return n.whole() }, waitFor, tick)
			n.renamed(t, file, bridgeList)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newInstallNode(t, map[string]string{file: bridgeList})
			w := n.watchInstall(t, flagsOfOne...)
			for range 2 {
				n.await(t, file, installed)
				require.Eventually(t, n.whole, waitFor, tick)
				undo(t, n)
			}
			n.await(t, file, installed)
			require.Eventually(t, n.whole, waitFor, tick)
			w.end(t, unix.SIGTERM)
			require.Equal(t, installed, n.read(t, file))
		})
	}
}

// whole reports whether the binary in the directory runs.
func (n *aNode) whole() bool {
	return exec.Command(n.binary(), "version").Run() == nil
}

// looked waits until a look that has begun after the call is over.
func (n *aNode) looked(t testing.TB) {
	t.Helper()
	for range 2 { // the first look that puts the binary back may have begun before
		require.NoError(t, os.Remove(n.binary()))
		require.Eventually(t, n.whole, waitFor, tick)
	}
}

// TestInstallWatchKeeps: without an entry of its own it keeps the existing one, and
// what somebody makes of that; a file that comes before the first is the one from
// then on; another binary stays.
func TestInstallWatchKeeps(t *testing.T) {
	t.Parallel()
	n := newInstallNode(t, map[string]string{"10-net.conflist": withEntry(entryOfOne)})
	w := n.watchInstall(t)
	n.renamed(t, "10-net.conflist", bridgeList)
	n.await(t, "10-net.conflist", withEntry(entryOfOne))

	counting := `{"type":"egress-ip","counters":true}`
	n.renamed(t, "10-net.conflist", withEntry(counting))
	n.looked(t)
	n.write(t, "05-first.conflist", flannelList)
	require.Eventually(t, func() bool { return strings.Contains(n.read(t, "05-first.conflist"), `"counters": true`) }, waitFor, tick)
	require.Equal(t, withEntry(counting), n.read(t, "10-net.conflist"))

	other := []byte("#!/bin/sh\nexit 0\n")
	nettest.WriteProgram(t, n.binary()+".new", other)
	require.NoError(t, os.Rename(n.binary()+".new", n.binary()))
	n.write(t, "05-first.conflist", flannelList)
	require.Eventually(t, func() bool { return strings.Contains(n.read(t, "05-first.conflist"), `"counters": true`) }, waitFor, tick)
	have, err := os.ReadFile(n.binary())
	require.NoError(t, err)
	require.Equal(t, other, have)
	w.end(t, unix.SIGINT)
}

// TestInstallWatchWaits: before the node has a list of pods' network, or a directory for
// it, the binary is there and the watcher is ready; then comes the entry.
func TestInstallWatchWaits(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(n *aNode) error{
		"no directory": func(n *aNode) error { return os.Remove(n.confDir()) },
		"no list":      func(n *aNode) error { return nil },
		"loopback": func(n *aNode) error {
			return os.WriteFile(n.conf("99-loopback.conf"), []byte(`{"cniVersion":"1.0.0","name":"lo","type":"loopback"}`), 0o644)
		},
		"half of it":    func(n *aNode) error { return os.WriteFile(n.conf("10-net.conflist"), []byte(bridgeList[:40]), 0o644) },
		"a broken link": func(n *aNode) error { return os.Symlink("nowhere.conflist", n.conf("10-net.conflist")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newInstallNode(t, nil)
			require.NoError(t, before(n))
			w := n.watchInstall(t, flagsOfOne...)
			require.True(t, n.whole())
			n.renamed(t, "10-net.conflist", bridgeList)
			n.await(t, "10-net.conflist", withEntry(entryOfOne))
			w.end(t, unix.SIGTERM)
			require.Contains(t, w.stderr.String(), "waiting for the list that the entry belongs in")
		})
	}
}

// TestInstallWatchFollowsEntry: another entry in the file of --entry is taken, also as
// Kubernetes changes a ConfigMap's; an invalid one is not.
func TestInstallWatchFollowsEntry(t *testing.T) {
	t.Parallel()
	n := newInstallNode(t, map[string]string{"10-net.conflist": bridgeList})
	volume := filepath.Join(n.root, "config")
	publish := func(version, entry string) {
		require.NoError(t, os.MkdirAll(filepath.Join(volume, version), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(volume, version, "entry.json"), []byte(entry), 0o644))
		require.NoError(t, os.Symlink(version, filepath.Join(volume, "..data_tmp")))
		require.NoError(t, os.Rename(filepath.Join(volume, "..data_tmp"), filepath.Join(volume, "..data")))
	}
	publish("..1", `{"tableBase":2000}`)
	require.NoError(t, os.Symlink("..data/entry.json", filepath.Join(volume, "entry.json")))
	with := func(keys string) string { return withEntry(strings.TrimSuffix(probeOnly, "}") + keys + "}") }
	w := n.watchInstall(t, "--entry", filepath.Join(volume, "entry.json"))
	n.await(t, "10-net.conflist", with(`,"tableBase":2000`))
	publish("..2", `{"tableBase":3000}`)
	n.await(t, "10-net.conflist", with(`,"tableBase":3000`))
	publish("..3", `{"tableBases":4000}`)
	n.looked(t)
	require.Equal(t, with(`,"tableBase":3000`), n.read(t, "10-net.conflist"))
	publish("..4", `{"tableBase":5000}`)
	n.await(t, "10-net.conflist", with(`,"tableBase":5000`))
	w.end(t, unix.SIGTERM)
	require.Contains(t, w.stderr.String(), `unknown key \"tableBases\"`)
}

// TestInstallWatchFights: somebody who takes the entry out again and again is repaired
// ten times, and then less and less often, and the log says so.
func TestInstallWatchFights(t *testing.T) {
	t.Parallel()
	n := newInstallNode(t, map[string]string{"10-net.conflist": bridgeList})
	w := n.watchInstall(t, flagsOfOne...)
	n.await(t, "10-net.conflist", withEntry(entryOfOne))
	var took []time.Duration
	for range 13 {
		n.renamed(t, "10-net.conflist", bridgeList)
		since := time.Now()
		n.await(t, "10-net.conflist", withEntry(entryOfOne))
		took = append(took, time.Since(since))
	}
	require.Greater(t, took[12], 500*time.Millisecond, took) // the pause is a second at the least
	w.end(t, unix.SIGTERM)
	require.Contains(t, w.stderr.String(), "another program undoes again and again what is repaired here")
	require.Contains(t, w.stderr.String(), "put the entry into "+n.conf("10-net.conflist"))
}

// TestInstallWatchOnlyOne: while it runs, a second one for the directory and uninstall are
// refused, and a single install is told; other directories are others' business.
func TestInstallWatchOnlyOne(t *testing.T) {
	t.Parallel()
	n := newInstallNode(t, map[string]string{"10-net.conflist": bridgeList})
	w := n.watchInstall(t, flagsOfOne...)
	_, stderr := n.run(t, 4, "install", "--watch")
	require.Contains(t, stderr, "watches "+n.confDir()+" already")
	before := n.all(t)
	_, stderr = n.run(t, 1, "uninstall")
	require.Contains(t, stderr, "egress-ip install --watch is running (process ")
	require.Equal(t, before, n.all(t))
	_, stderr = n.run(t, 0, "install")
	require.Contains(t, stderr, "egress-ip install --watch is running")
	other := newInstallNode(t, map[string]string{"10-net.conflist": bridgeList})
	other.Namespace = n.Namespace
	elsewhere := other.watchInstall(t)
	elsewhere.end(t, unix.SIGTERM)
	w.end(t, unix.SIGTERM)
	n.run(t, 0, "uninstall")
}

// TestInstallWatchIsIdle: as long as nothing is touched the process does not run.
func TestInstallWatchIsIdle(t *testing.T) {
	t.Parallel()
	n := newInstallNode(t, map[string]string{"10-net.conflist": bridgeList})
	w := n.watchInstall(t)
	w.requireIdle(t)
	n.write(t, "10-net.conflist", bridgeList)
	n.await(t, "10-net.conflist", withEntry(probeOnly))
	w.requireIdle(t)
	w.end(t, unix.SIGTERM)
}

package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// failing runs the command below strace, which has system calls of a path fail as strace's
// option -e inject says; it returns what the command prints, and its exit status, -1 for a signal.
func failing(t *testing.T, n interface{ Run(*exec.Cmd) error }, path, inject string, cmd *exec.Cmd) (out string, exit int) {
	t.Helper()
	args := []string{"-f", "-qq", "-o", filepath.Join(t.TempDir(), "trace"), "-P", path, "-e", "inject=" + inject, cmd.Path}
	traced := exec.Command("strace", append(args, cmd.Args[1:]...)...)
	traced.Env, traced.Stdin = cmd.Env, cmd.Stdin
	text, err := os.CreateTemp(t.TempDir(), "output")
	require.NoError(t, err)
	defer text.Close()
	traced.Stdout, traced.Stderr = text, text
	_ = n.Run(traced) // its exit status says it
	all, err := os.ReadFile(text.Name())
	require.NoError(t, err)
	return string(all), traced.ProcessState.ExitCode()
}

// TestUninstallInterrupted: an uninstall that is killed, or fails, at any of its steps says
// so, and the next one finishes: the directory is what it was before the installation.
func TestUninstallInterrupted(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ path, failure string }{
		"killed at the removal of the copy": {"net.d/10-net.conflist.before-egress-ip", "unlinkat:signal=KILL"},
		"removal of the copy refused":       {"net.d/10-net.conflist.before-egress-ip", "unlinkat:error=EPERM"},
		"directory not synchronized":        {"net.d", "fsync:error=EIO"},
		"killed at the binary":              {"bin/egress-ip", "unlinkat:signal=KILL"},
		"copy not read":                     {"net.d/10-net.conflist.before-egress-ip", "openat:error=EIO"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newInstallNode(t, map[string]string{"10-net.conflist": bridgeList})
			n.run(t, 0, "install")
			out, exit := failing(t, n, filepath.Join(n.root, tt.path), tt.failure, exec.Command(filepath.Join(bin, "egress-ip"), n.args("uninstall")...))
			require.NotZero(t, exit, out)
			n.run(t, 0, "uninstall")
			require.Equal(t, bridgeList, n.read(t, "10-net.conflist"))
			n.requireFiles(t, "10-net.conflist")
			require.NoFileExists(t, n.binary())
			out, _ = n.run(t, 0, "uninstall")
			require.Contains(t, out, "nothing to do")
		})
	}
}

// TestUninstallCannotTell: what cannot be read of a list is an error, and not taken for what
// the list says.
func TestUninstallCannotTell(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"newfstatat:error=EIO", "openat:error=EMFILE", "read:error=EIO"} {
		for _, when := range []string{"1", "2", "3", "4", "5", "2+", "3+"} { // of one thread, which need not make all
			t.Run(call+", "+when, func(t *testing.T) {
				t.Parallel()
				n := newInstallNode(t, map[string]string{"10-net.conflist": bridgeList})
				n.run(t, 0, "install")
				inject := call + ":when=" + when
				out, exit := failing(t, n, n.conf("10-net.conflist"), inject, exec.Command(filepath.Join(bin, "egress-ip"), n.args("uninstall")...))
				require.NotContains(t, out, "names it")
				if exit != 0 {
					n.run(t, 0, "uninstall")
				}
				require.Equal(t, bridgeList, n.read(t, "10-net.conflist"))
				n.requireFiles(t, "10-net.conflist")
				require.NoFileExists(t, n.binary())
			})
		}
	}
}

package names

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The one test that changes the machine's own file: the others have mounts of
// their own over it. Namespaces without one leave it alone.
func TestSetOnTheMachine(t *testing.T) {
	t.Parallel()
	tables := map[uint32]string{1134: "enp7s0"}
	for range 2 {
		require.NoError(t, Set(tables))
		requireFile(t, file, header+"1134 egress-enp7s0\n")
	}
	pod := nettest.New(t, "node")
	for _, other := range []map[uint32]string{{1007: "eth7"}, nil, tables} {
		pod.Do(t, func() { require.NoError(t, Set(other)) })
		requireFile(t, file, header+"1134 egress-enp7s0\n")
	}
	require.NoError(t, Set(nil))
	pod.Do(t, func() { require.NoError(t, Set(tables)) })
	require.Empty(t, list(t, directory))
}

// What ip makes of names, ordinary and odd, in a network namespace with an /etc of
// its own.
func TestIPReadsTheNames(t *testing.T) {
	t.Parallel()
	tables := map[uint32]string{
		1001: "enp7s0", 1002: "a#b", 1003: "#", 1004: `"`, 1005: "würfel", 1006: "a\x85b", 1007: "abcdefghijklmno", 1<<31 - 1: "enp8s0",
	}
	given := map[uint32]string{900: "a b", 901: "a\nb", 902: "a\vb", 1 << 31: "enp9s0"}
	for id, link := range tables {
		given[id] = link
	}
	apart(t, unix.CLONE_NEWNET, func() error {
		if err := unix.Mount("none", directory, "tmpfs", 0, ""); err != nil {
			return err
		}
		if err := Set(given); err != nil {
			return err
		}
		for id, link := range tables {
			dst, number := fmt.Sprintf("10.0.%d.0/24", id%256), strconv.FormatUint(uint64(id), 10)
			if _, err := ip("route", "add", "blackhole", dst, "table", number); err != nil {
				return err
			}
			if _, err := ip("rule", "add", "priority", number, "lookup", number); err != nil {
				return err
			}
			routes, err := ip("route", "show", "table", "egress-"+link)
			if want := "blackhole " + dst + " \n"; err != nil || routes != want {
				return fmt.Errorf("routes of %q: %q, not %q: %w", link, routes, want, err)
			}
			rules, err := ip("rule", "show", "priority", number)
			if want := number + ":\tfrom all lookup egress-" + link + "\n"; err != nil || rules != want {
				return fmt.Errorf("rule of %q: %q, not %q: %w", link, rules, want, err)
			}
		}
		return nil
	})
}

// A file that cannot be written, or that may be somebody else's, is left as it is.
func TestSetIsQuiet(t *testing.T) {
	t.Parallel()
	dir := directory
	own := func() error { return unix.Mount("none", dir, "tmpfs", 0, "") }
	before, after := header+"1007 egress-eth7\n", header+"1134 egress-enp7s0\n"
	for name, tt := range map[string]struct {
		namespaces int
		mount      func() error // behind own and the first Set
		want       string       // "" is no file
	}{
		"it can be":               {0, func() error { return nil }, after},
		"a network namespace too": {unix.CLONE_NEWNET, func() error { return nil }, after},
		"read-only": {0, func() error {
			return errors.Join(
				unix.Mount(dir, dir, "", unix.MS_BIND, ""),
				unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		}, before},
		"no directory": {0, func() error { return unix.Mount("none", filepath.Dir(dir), "tmpfs", 0, "") }, ""},
		"no directory, in a network namespace": {unix.CLONE_NEWNET, func() error {
			return unix.Mount("none", filepath.Dir(dir), "tmpfs", 0, "")
		}, ""},
		"process 1 is not to be seen": {0, func() error { return unix.Mount("none", "/proc/1", "tmpfs", 0, "") }, after},
		"process 1 is not to be seen, in a network namespace": {unix.CLONE_NEWNET, func() error {
			return unix.Mount("none", "/proc/1", "tmpfs", 0, "")
		}, after},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var have []byte
			apart(t, tt.namespaces, func() error {
				if err := own(); err != nil {
					return err
				}
				if err := Set(map[uint32]string{1007: "eth7"}); err != nil {
					return err
				}
				if err := tt.mount(); err != nil {
					return err
				}
				if err := Set(map[uint32]string{1134: "enp7s0"}); err != nil {
					return err
				}
				var err error
				have, err = os.ReadFile(file)
				if tt.want == "" && errors.Is(err, unix.ENOENT) {
					return nil
				}
				return err
			})
			require.Equal(t, tt.want, string(have))
		})
	}
}

// A full disk is no obstacle to anything but names, and the caller learns of it.
func TestSetOnAFullDisk(t *testing.T) {
	t.Parallel()
	var set error
	apart(t, 0, func() error {
		if err := unix.Mount("none", directory, "tmpfs", 0, "nr_blocks=1"); err != nil {
			return err
		}
		if err := os.WriteFile(directory+"/other", []byte("full"), 0o644); err != nil {
			return err
		}
		set = Set(map[uint32]string{1134: "enp7s0"})
		return nil
	})
	require.ErrorIs(t, set, unix.ENOSPC)
	require.ErrorContains(t, set, "write the file of table names")
}

// apart calls f on a thread with mounts, and more namespaces, that are its own. The
// thread ends with f, and they with it.
func apart(t *testing.T, namespaces int, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good
		err := unix.Unshare(unix.CLONE_NEWNS | namespaces)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	require.NoError(t, <-done)
}

// ip returns what ip prints on both its outputs.
func ip(args ...string) (string, error) {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ip %v: %w: %s", args, err, out)
	}
	return string(out), nil
}

package names

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestContent(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		tables map[uint32]string
		want   string
	}{
		"none":                     {nil, ""},
		"sorted by number":         {map[uint32]string{1134: "enp7s0", 1003: "enp8s0", 20000: "eth1"}, "1003 egress-enp8s0\n1134 egress-enp7s0\n20000 egress-eth1\n"},
		"a link made again":        {map[uint32]string{1134: "enp7s0", 1150: "enp7s0", 1140: "enp7s0"}, "1150 egress-enp7s0\n"},
		"the highest number":       {map[uint32]string{1<<31 - 1: "enp7s0", 1 << 31: "enp8s0", 1<<32 - 1: "enp9s0"}, "2147483647 egress-enp7s0\n"},
		"the longest name":         {map[uint32]string{1134: "abcdefghijklmno", 1135: "abcdefghijklmnop"}, "1134 egress-abcdefghijklmno\n"},
		"no name":                  {map[uint32]string{1134: ""}, ""},
		"white space":              {map[uint32]string{1: "a b", 2: "a\tb", 3: "a\nb", 4: "a\rb", 5: "a\vb", 6: "a\fb", 7: "ok"}, "7 egress-ok\n"},
		"control characters":       {map[uint32]string{1: "a\x00b", 2: "a\x1bb", 3: "a\x7fb", 4: "ok"}, "4 egress-ok\n"},
		"odd, but a word, and one": {map[uint32]string{1: "a#b", 2: `"`, 3: "würfel", 4: "a\x85b"}, "1 egress-a#b\n2 egress-\"\n3 egress-würfel\n4 egress-a\x85b\n"},
	} {
		t.Run(name, func(t *testing.T) {
			want := tt.want
			if want != "" {
				want = header + want
			}
			require.Equal(t, want, content(named(tt.tables)))
		})
	}
}

func TestWrite(t *testing.T) {
	t.Parallel()
	f := iproute2(t)
	path := filepath.Join(f.directory(), fileName)
	step := func(tables map[uint32]string, changed bool, want string) {
		t.Helper()
		before, _ := os.ReadFile(path)
		right, err := f.hold(tables)
		require.NoError(t, err)
		require.Equal(t, changed, !right)
		have, err := f.write(tables)
		require.NoError(t, err)
		require.Equal(t, changed, have, "before:\n%s", before)
		right, err = f.hold(tables)
		require.NoError(t, err)
		require.True(t, right)
		if want == "" {
			require.Empty(t, list(t, f.directory()))
			return
		}
		requireFile(t, path, header+want)
		require.Equal(t, []string{fileName}, list(t, f.directory()))
	}
	one, two := map[uint32]string{1134: "enp7s0"}, map[uint32]string{1134: "enp7s0", 1135: "enp8s0"}
	step(nil, false, "")
	step(one, true, "1134 egress-enp7s0\n")
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o644), info.Mode())
	step(one, false, "1134 egress-enp7s0\n")
	again, err := os.Stat(path)
	require.NoError(t, err)
	require.True(t, os.SameFile(info, again))
	step(two, true, "1134 egress-enp7s0\n1135 egress-enp8s0\n")
	step(one, true, "1134 egress-enp7s0\n")

	require.NoError(t, os.WriteFile(path, []byte("somebody's edit\n"), 0o600))
	step(one, true, "1134 egress-enp7s0\n")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	step(one, true, "1134 egress-enp7s0\n")
	step(map[uint32]string{}, true, "")
}

// What a call that was killed has left goes with the next one, whether that one
// has something to write or not.
func TestUnfinished(t *testing.T) {
	t.Parallel()
	one := map[uint32]string{1134: "enp7s0"}
	for name, tt := range map[string]struct {
		before, tables map[uint32]string
		changed        bool
	}{
		"nothing to name":    {nil, nil, false},
		"something to name":  {nil, one, true},
		"nothing to change":  {one, one, false},
		"something to erase": {one, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := iproute2(t)
			_, err := f.write(tt.before)
			require.NoError(t, err)
			left := filepath.Join(f.directory(), unfinished)
			require.NoError(t, os.Symlink("nowhere/at/all", left))
			right, err := f.hold(tt.tables)
			require.NoError(t, err)
			require.False(t, right)
			changed, err := f.write(tt.tables)
			require.NoError(t, err)
			require.Equal(t, tt.changed, changed)
			require.NoFileExists(t, left)
			right, err = f.hold(tt.tables)
			require.NoError(t, err)
			require.True(t, right)
		})
	}
}

func TestTakenByOthers(t *testing.T) {
	t.Parallel()
	tables := map[uint32]string{1134: "enp7s0", 1135: "enp8s0"}
	const second = "1135 egress-enp8s0\n"
	for name, tt := range map[string]struct{ path, line, want string }{
		"the number in rt_tables":        {"etc/rt_tables", "1134 wan", second},
		"the number in another file":     {"etc/rt_tables.d/wan.conf", "# names\n\n\t1134\twan # uplink", second},
		"the number in hexadecimal":      {"etc/rt_tables.d/wan.conf", "0x46e wan", second},
		"the name for another number":    {"etc/rt_tables.d/wan.conf", "7 egress-enp7s0", second},
		"both":                           {"etc/rt_tables.d/wan.conf", "1134 egress-enp7s0", second},
		"behind a line that is no entry": {"etc/rt_tables.d/wan.conf", "default\n1134 wan", second},
		"in the distribution's":          {"usr/rt_tables", "1134 wan", second},
		"in a file of it":                {"usr/rt_tables.d/wan.conf", "1134 wan", second},
		"all":                            {"etc/rt_tables", "1134 wan\n1135 lan", ""},
		"in a comment":                   {"etc/rt_tables", "#1134 wan\n# 1134 wan", "1134 egress-enp7s0\n" + second},
		"in a file that is not read":     {"etc/rt_tables.d/README", "1134 wan", "1134 egress-enp7s0\n" + second},
		"in a file that ours hides":      {"usr/rt_tables.d/egress-ip.conf", "1134 wan", "1134 egress-enp7s0\n" + second},
	} {
		t.Run(name, func(t *testing.T) {
			f := iproute2(t)
			path := filepath.Join(filepath.Dir(f[0]), tt.path)
			require.NoError(t, os.WriteFile(path, []byte(tt.line+"\n"), 0o644))
			_, err := f.write(tables)
			require.NoError(t, err)
			if tt.want == "" {
				require.NoFileExists(t, filepath.Join(f.directory(), fileName))
			} else {
				requireFile(t, filepath.Join(f.directory(), fileName), header+tt.want)
			}
			changed, err := f.write(tables)
			require.NoError(t, err)
			require.False(t, changed)
		})
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	for _, err := range []error{unix.ENOENT, unix.EROFS, unix.EACCES, unix.EPERM} {
		require.True(t, outOfReach(fmt.Errorf("write: %w", &os.PathError{Err: err})), err)
	}
	require.False(t, outOfReach(nil))

	tables := map[uint32]string{1134: "enp7s0"}
	f := iproute2(t)
	require.NoError(t, os.Mkdir(filepath.Join(f.directory(), fileName), 0o755))
	_, err := f.hold(tables)
	require.ErrorIs(t, err, unix.EISDIR)
	require.ErrorContains(t, err, "read the file of table names")
	require.False(t, outOfReach(err))

	f = iproute2(t)
	require.NoError(t, os.MkdirAll(filepath.Join(f.directory(), unfinished, "x"), 0o755))
	_, err = f.write(tables)
	require.ErrorIs(t, err, unix.ENOTEMPTY)
	require.False(t, outOfReach(err))

	_, err = folders{t.TempDir()}.write(nil)
	require.ErrorIs(t, err, unix.ENOENT)
	require.True(t, outOfReach(err))
}

// iproute2 makes folders of iproute2's: an administrator's and a distribution's.
func iproute2(t *testing.T) folders {
	t.Helper()
	dir := t.TempDir()
	f := folders{filepath.Join(dir, "etc"), filepath.Join(dir, "usr")}
	for _, folder := range f {
		require.NoError(t, os.MkdirAll(filepath.Join(folder, directory), 0o755))
	}
	return f
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func requireFile(t *testing.T, path, want string) {
	t.Helper()
	have, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, want, string(have))
}

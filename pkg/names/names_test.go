package names

import (
	"errors"
	"fmt"
	"os"
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
			require.Equal(t, want, content(tt.tables))
		})
	}
}

// TestSet: the file is what is asked for, whatever it was, and is written only where it is not.
func TestSet(t *testing.T) {
	t.Parallel()
	one, two := map[uint32]string{1134: "enp7s0"}, map[uint32]string{1134: "enp7s0", 1135: "enp8s0"}
	apart(t, unix.CLONE_NEWNET, func() error {
		if err := unix.Mount("none", directory, "tmpfs", 0, ""); err != nil {
			return err
		}
		for i, step := range []struct {
			edit, want string
			tables     map[uint32]string
			stale      bool
		}{
			{"", "", nil, false},
			{"", header + "1134 egress-enp7s0\n", one, true},
			{"", header + "1134 egress-enp7s0\n", one, false},
			{"", header + "1134 egress-enp7s0\n1135 egress-enp8s0\n", two, true},
			{"", header + "1134 egress-enp7s0\n", one, true},
			{"somebody's edit\n", header + "1134 egress-enp7s0\n", one, true},
			{"somebody's edit, which is longer than what the file is to be by far, and has\nmore lines\nthan one\n", header + "1134 egress-enp7s0\n", one, true},
			{"", "", nil, true},
		} {
			if step.edit != "" {
				if err := os.WriteFile(file, []byte(step.edit), 0o644); err != nil {
					return err
				}
			}
			if stale := Stale(step.tables); stale != step.stale {
				return fmt.Errorf("step %d: stale: %t", i, stale)
			}
			if err := Set(step.tables); err != nil {
				return err
			}
			have, err := os.ReadFile(file)
			if step.want != string(have) || step.want == "" && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("step %d: %q, %w", i, have, err)
			}
			if info, err := os.Stat(file); err == nil && info.Mode() != 0o644 {
				return fmt.Errorf("step %d: mode %s", i, info.Mode())
			}
			if Stale(step.tables) {
				return fmt.Errorf("step %d: stale after it was set", i)
			}
		}
		return nil
	})
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

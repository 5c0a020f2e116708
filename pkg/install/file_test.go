package install

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestOverwrite: what somebody else has written since the file was read stays.
func TestOverwrite(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "10-net.conflist")
	require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
	f, err := readFile(path)
	require.NoError(t, err)
	require.NoError(t, f.overwrite([]byte("ours")))
	require.NoError(t, os.WriteFile(path, []byte("theirs"), 0o600))
	require.ErrorIs(t, f.overwrite([]byte("ours")), errChanged)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "theirs", string(text))
	require.NoError(t, os.Remove(path))
	require.ErrorIs(t, f.overwrite([]byte("ours")), errChanged)
	require.NoFileExists(t, path)
}

// TestApply: a plan that somebody else's write has made void is made again, some times;
// other errors end it, with what was done until then.
func TestApply(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for name, tt := range map[string]struct {
		errs []error // of the second step, each time
		done []string
		err  error
	}{
		"at once":         {[]error{nil}, []string{"first", "second"}, nil},
		"the third time":  {[]error{errChanged, errChanged, nil}, []string{"first", "first", "first", "second"}, nil},
		"changes forever": {[]error{errChanged, errChanged, errChanged, errChanged, errChanged}, []string{"first", "first", "first", "first", "first"}, errChanged},
		"broken":          {[]error{broken}, []string{"first"}, broken},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			made := 0
			_, done, err := apply(false, func() (Plan, error) {
				require.Less(t, made, len(tt.errs))
				result := tt.errs[made]
				made++
				var p Plan
				p.add("first", "", func() error { return nil })
				p.add("second", "", func() error { return result })
				return p, nil
			})
			require.ErrorIs(t, err, tt.err)
			require.Equal(t, tt.done, done)
			require.Len(t, tt.errs, made)
		})
	}
}

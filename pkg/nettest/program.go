package nettest

import (
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// WriteProgram writes a file that is to be run. A process that another test starts
// meanwhile would have the file open for writing, too, for a moment, and the
// kernel runs no program that is being written (ETXTBSY): so none is started meanwhile.
func WriteProgram(t testing.TB, path string, content []byte) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	require.NoError(t, os.WriteFile(path, content, 0o755))
}

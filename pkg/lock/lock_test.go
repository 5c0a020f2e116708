package lock

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

func newFile(t *testing.T) File {
	t.Helper()
	return File(filepath.Join(t.TempDir(), "egress-ip", "a.lock"))
}

func TestTake(t *testing.T) {
	t.Parallel()
	f := newFile(t)
	_, held, err := f.Holder()
	require.NoError(t, err)
	require.False(t, held)
	require.NoFileExists(t, string(f), "whoever asks makes no file")

	release, err := f.Take(time.Second)
	require.NoError(t, err)
	for path, mode := range map[string]os.FileMode{string(f): 0o600, filepath.Dir(string(f)): os.ModeDir | 0o700} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode(), path)
	}
	holder, held, err := f.Holder()
	require.NoError(t, err)
	require.True(t, held)
	require.Equal(t, os.Getpid(), holder.PID)

	begun := time.Now()
	_, err = f.Take(100 * time.Millisecond)
	var waited *HeldError
	require.ErrorAs(t, err, &waited)
	require.Equal(t, os.Getpid(), waited.Holder.PID)
	require.ErrorContains(t, err, fmt.Sprintf("process %d (%s", os.Getpid(), os.Args[0]))
	require.Less(t, time.Since(begun), 5*time.Second)

	// Whoever gave up does not keep it later, and whoever still waits has it.
	next := make(chan func())
	go func() {
		release, err := f.Take(Patience)
		if err != nil {
			release = nil
		}
		next <- release
	}()
	release()
	release = <-next
	require.NotNil(t, release)
	release()
	require.Eventually(t, func() bool {
		_, held, err := f.Holder()
		return err == nil && !held
	}, 10*time.Second, time.Millisecond)
}

// TestOneAtATime: of many that wait, one has the lock at a time, and each has it once.
func TestOneAtATime(t *testing.T) {
	t.Parallel()
	f := newFile(t)
	var waiting sync.WaitGroup
	var inside, entered atomic.Int32
	for range 50 {
		waiting.Go(func() {
			release, err := f.Take(Patience)
			if err != nil {
				t.Error(err)
				return
			}
			defer release()
			if inside.Add(1) != 1 {
				t.Error("two have it")
			}
			entered.Add(1)
			runtime.Gosched() // to one that should have to wait
			inside.Add(-1)
		})
	}
	waiting.Wait()
	require.EqualValues(t, 50, entered.Load())
}

// TestNobodyElse: a user without root can neither open the lock nor have put something in
// its place.
func TestNobodyElse(t *testing.T) {
	t.Parallel()
	const nobody = 65534
	for name, tt := range map[string]struct {
		prepare func(t *testing.T, directory, file string)
		refused string // part of the error; empty: it is corrected
	}{
		"modes that let others in": {func(t *testing.T, directory, file string) {
			require.NoError(t, os.Mkdir(directory, 0o700))
			require.NoError(t, os.WriteFile(file, nil, 0o600))
			require.NoError(t, os.Chmod(directory, 0o777))
			require.NoError(t, os.Chmod(file, 0o666))
		}, ""},
		"another's directory": {func(t *testing.T, directory, _ string) {
			require.NoError(t, os.Mkdir(directory, 0o700))
			require.NoError(t, os.Chown(directory, nobody, nobody))
		}, "belongs to uid 65534"},
		"another's file": {func(t *testing.T, directory, file string) {
			require.NoError(t, os.Mkdir(directory, 0o700))
			require.NoError(t, os.WriteFile(file, nil, 0o600))
			require.NoError(t, os.Chown(file, nobody, nobody))
		}, "belongs to uid 65534"},
		"directory is a symbolic link": {func(t *testing.T, directory, _ string) {
			require.NoError(t, os.Mkdir(directory+"2", 0o700))
			require.NoError(t, os.Symlink(directory+"2", directory))
		}, "symbolic link"},
		"directory is a file": {func(t *testing.T, directory, _ string) {
			require.NoError(t, os.WriteFile(directory, nil, 0o600))
		}, "no directory"},
		"file is a symbolic link": {func(t *testing.T, directory, file string) {
			require.NoError(t, os.Mkdir(directory, 0o700))
			require.NoError(t, os.Symlink("/dev/null", file))
		}, "symbolic link"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFile(t)
			directory := filepath.Dir(string(f))
			tt.prepare(t, directory, string(f))
			release, err := f.Take(time.Second)
			if tt.refused != "" {
				require.ErrorContains(t, err, tt.refused)
				return
			}
			require.NoError(t, err)
			defer release()
			cmd := exec.Command("cat", string(f))
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
			require.Error(t, cmd.Run())
		})
	}
}

// TestHolderAmongMany: who has a lock is found, however many locks others take and release meanwhile.
func TestHolderAmongMany(t *testing.T) {
	t.Parallel()
	f := newFile(t)
	release, err := f.Take(time.Second)
	require.NoError(t, err)
	defer release()
	var taking sync.WaitGroup
	stop := make(chan struct{})
	defer func() { close(stop); taking.Wait() }()
	for i := range 100 {
		other := File(fmt.Sprintf("%s.%d", f, i))
		taking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				release, err := other.Take(Patience)
				if err != nil {
					t.Error(err)
					return
				}
				runtime.Gosched()
				release()
			}
		})
	}
	for range 1000 / int(nettest.Within(1)) { // an emulated processor takes a second for ten
		holder, held, err := f.Holder()
		require.NoError(t, err)
		require.True(t, held)
		require.Equal(t, os.Getpid(), holder.PID)
	}
}

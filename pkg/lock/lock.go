// Package lock lets one process at a time do something. A lock is a file of root's,
// mode 0600, in [Root], mode 0700, so that only root can hold one and keep
// egress-ip from working. The kernel releases it when its process ends, however it ends.
package lock

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Root is the directory of all that egress-ip keeps until the next boot. Once made, it
// stays until then: a container in which it is mounted would never see one made later.
const Root = "/run/egress-ip"

// Patience is how long a call waits for another one: several times what any call takes,
// and a fraction of what a kubelet waits for a call.
const Patience = 10 * time.Second

// File is a lock, by its path. The file stays: one that is removed could be locked twice.
type File string

// Take locks the file, and waits for it this long at the most. The lock is held until
// release is called or the process ends. Where another process has it until then the
// error is a [HeldError].
func (f File) Take(wait time.Duration) (release func(), err error) {
	fd, err := f.open(unix.O_CREAT)
	if err != nil {
		return nil, err
	}
	switch err := flock(fd, unix.LOCK_EX|unix.LOCK_NB); err {
	case nil:
		return func() { unix.Close(fd) }, nil
	case unix.EWOULDBLOCK:
		return f.await(fd, wait)
	default:
		unix.Close(fd)
		return nil, f.failed("lock", err)
	}
}

// await waits in a thread of its own, since a system call has no deadline.
func (f File) await(fd int, wait time.Duration) (release func(), err error) {
	locked, givenUp := make(chan error), make(chan struct{})
	go func() {
		err := flock(fd, unix.LOCK_EX)
		select {
		case locked <- err:
		case <-givenUp:
			unix.Close(fd)
		}
	}()
	select {
	case err := <-locked:
		if err != nil {
			unix.Close(fd)
			return nil, f.failed("lock", err)
		}
		return func() { unix.Close(fd) }, nil
	case <-time.After(wait):
		holder, _ := f.lockedBy(fd) // without it the error says less
		close(givenUp)
		return nil, &HeldError{File: f, Holder: holder, Waited: wait}
	}
}

// Holder returns the process that has the file locked, if any has.
func (f File) Holder() (p Process, held bool, err error) {
	fd, err := f.open(0)
	if errors.Is(err, fs.ErrNotExist) {
		return Process{}, false, nil
	}
	if err != nil {
		return Process{}, false, err
	}
	defer unix.Close(fd)
	switch err := flock(fd, unix.LOCK_SH|unix.LOCK_NB); err {
	case nil:
		return Process{}, false, nil
	case unix.EWOULDBLOCK:
		p, err := f.lockedBy(fd)
		return p, true, err
	default:
		return Process{}, false, f.failed("lock", err)
	}
}

// open opens the file, whose directory must be root's alone.
func (f File) open(create int) (fd int, err error) {
	path := filepath.Dir(string(f))
	if create != 0 {
		if err := unix.Mkdir(path, 0o700); err != nil && err != unix.EEXIST {
			return -1, fmt.Errorf("create the directory of locks: %w", &fs.PathError{Op: "mkdir", Path: path, Err: err})
		}
	}
	dir, err := openOwn(unix.AT_FDCWD, path, path, unix.O_DIRECTORY, 0o700)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	return openOwn(dir, filepath.Base(string(f)), string(f), create, 0o600)
}

// openOwn opens a file or directory that no other user can use. A mode that lets others in is
// corrected: the kubelet makes what a pod mounts with 0755. It opens for reading alone: that
// suffices for a lock, also where nothing can be written.
func openOwn(at int, name, path string, flags int, mode uint32) (fd int, err error) {
	fd, err = unix.Openat(at, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|flags, mode)
	if err == unix.ENOTDIR || err == unix.ELOOP {
		return -1, fmt.Errorf("%s is a symbolic link, or no directory, and egress-ip did not make it; remove it", path)
	}
	if err != nil {
		return -1, fmt.Errorf("take a lock: %w", &fs.PathError{Op: "open", Path: path, Err: err})
	}
	var stat unix.Stat_t
	err = unix.Fstat(fd, &stat)
	if err == nil && stat.Mode&0o7777&^mode != 0 && stat.Uid == uint32(unix.Geteuid()) {
		err = unix.Fchmod(fd, mode)
	}
	if err != nil {
		err = fmt.Errorf("%s has mode %#o: %w", path, stat.Mode&0o7777, err)
	} else if stat.Uid != uint32(unix.Geteuid()) {
		err = fmt.Errorf("%s belongs to uid %d, and anybody but uid %d could keep egress-ip from working by it; remove it", path, stat.Uid, unix.Geteuid())
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func flock(fd, how int) error {
	for {
		if err := unix.Flock(fd, how); err != unix.EINTR {
			return err
		}
	}
}

func (f File) failed(op string, err error) error {
	return fmt.Errorf("take a lock: %w", &fs.PathError{Op: op, Path: string(f), Err: err})
}

// Process is one that has a lock.
type Process struct {
	PID     int    // 0: it cannot be seen from this PID namespace
	Command string // its command line
}

// HeldError says that another process did not release a lock in time.
type HeldError struct {
	File   File
	Holder Process
	Waited time.Duration
}

func (e *HeldError) Error() string {
	if e.Holder.PID == 0 {
		return fmt.Sprintf("waited %s for %s, which a process has locked that cannot be seen from this PID namespace; find it on the node with `lslocks`, and end it if it hangs", e.Waited, e.File)
	}
	return fmt.Sprintf("waited %s for %s, which process %d (%s) has locked; if it hangs, end it: kill %d", e.Waited, e.File, e.Holder.PID, e.Holder.Command, e.Holder.PID)
}

// lockedBy asks the kernel which process has the open file locked. It is asked only where
// somebody has: the file itself need not say it, and can say nothing that is not so.
func (f File) lockedBy(fd int) (Process, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return Process{}, f.failed("stat", err)
	}
	inode := fmt.Sprintf("%02x:%02x:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev), stat.Ino)
	// The kernel hands its list out by pages. What it has not come to yet it may leave out, where others release
	// their locks between two of them. It always leaves out processes of other PID namespaces.
	const most = 50
	for range most {
		pid, err := lockerOf(inode)
		switch {
		case err != nil:
			return Process{}, fmt.Errorf("read who has locked %s: %w", f, err)
		case pid > 0 && !seesOwnPIDs():
			return Process{}, nil
		case pid > 0:
			return Process{pid, commandOf(pid)}, nil
		}
	}
	return Process{}, nil
}

// lockerOf looks for an inode in the kernel's list; 0 is none. It reads a page at a time, the most that the
// kernel gives: the fewer reads, the less is left out.
func lockerOf(inode string) (pid int, err error) {
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return 0, err
	}
	defer locks.Close()
	// 3: FLOCK  ADVISORY  WRITE 4711 00:18:1234 0 EOF; one that waits has -> in between.
	lines := bufio.NewScanner(locks)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 6 && fields[1] == "FLOCK" && fields[5] == inode {
			return strconv.Atoi(fields[4])
		}
	}
	return 0, lines.Err()
}

// seesOwnPIDs reports whether /proc has the numbers of this process's PID namespace.
func seesOwnPIDs() bool {
	self, err := os.Readlink("/proc/self")
	return err == nil && self == strconv.Itoa(os.Getpid())
}

func commandOf(pid int) string {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(line) == 0 {
		return "its command cannot be read"
	}
	return string(bytes.ReplaceAll(bytes.TrimRight(line, "\x00"), []byte{0}, []byte{' '}))
}

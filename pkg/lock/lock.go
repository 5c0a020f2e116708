// Package lock lets one process at a time do something. A lock is a file of root's,
// mode 0600, in [Root], mode 0700, so that only root can hold one and keep
// egress-ip from working. The kernel releases it when its process ends, however it ends.
package lock

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
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
	err = flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		return f.await(fd, wait)
	}
	if err != nil {
		unix.Close(fd)
		return nil, f.failed("lock", err)
	}
	return func() { unix.Close(fd) }, nil
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
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	select {
	case err := <-locked:
		if err != nil {
			unix.Close(fd)
			return nil, f.failed("lock", err)
		}
		return func() { unix.Close(fd) }, nil
	case <-deadline.C:
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
	dir, err := openDirectory(filepath.Dir(string(f)), create != 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	// For reading alone: that suffices for a lock, also where nothing can be written.
	fd, err = unix.Openat(dir, filepath.Base(string(f)), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|create, 0o600)
	if err != nil {
		return -1, f.failed("open", err)
	}
	if err := requireOwn(fd, string(f), 0o600); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// openDirectory opens a directory that is this user's alone. A mode that lets others in is
// corrected: the kubelet makes what a pod mounts with 0755.
func openDirectory(path string, create bool) (fd int, err error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err = unix.Open(path, flags, 0)
	if err == unix.ENOENT && create {
		if err := unix.Mkdir(path, 0o700); err != nil && err != unix.EEXIST {
			return -1, fmt.Errorf("create the directory of locks: %w", &fs.PathError{Op: "mkdir", Path: path, Err: err})
		}
		fd, err = unix.Open(path, flags, 0)
	}
	switch {
	case err == unix.ENOTDIR || err == unix.ELOOP:
		return -1, fmt.Errorf("%s is a symbolic link, or no directory, and egress-ip did not make it; remove it", path)
	case err != nil:
		return -1, fmt.Errorf("open the directory of locks: %w", &fs.PathError{Op: "open", Path: path, Err: err})
	}
	if err := requireOwn(fd, path, 0o700); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// requireOwn makes sure that no other user can use a file or directory.
func requireOwn(fd int, path string, mode uint32) error {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if stat.Uid != uint32(unix.Geteuid()) {
		return fmt.Errorf("%s belongs to uid %d, and anybody but uid %d could keep egress-ip from working by it; remove it", path, stat.Uid, unix.Geteuid())
	}
	if stat.Mode&0o7777&^mode == 0 {
		return nil
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		return fmt.Errorf("%s has mode %#o: %w", path, stat.Mode&0o7777, &fs.PathError{Op: "chmod", Path: path, Err: err})
	}
	return nil
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

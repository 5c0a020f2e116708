package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// unfinished is what a file is called while it is written. The name is the same
// for each try, so the next one, or Discard, takes it away.
const unfinished = ".unfinished"

func write(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	data = append(data, '\n')
	err = writeFile(path+unfinished, data)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("create the folder of records: %w", err)
		}
		err = writeFile(path+unfinished, data)
	}
	if err != nil {
		return fmt.Errorf("write the record: %w", &fs.PathError{Op: "write", Path: path + unfinished, Err: err})
	}
	if err := os.Rename(path+unfinished, path); err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	return nil
}

func read(path string, v any) error { return readInto(make([]byte, 0, 2048), path, v) }

// readInto is read with a buffer to use, which may serve again.
func readInto(buffer []byte, path string, v any) error {
	data, err := readFile(buffer, path)
	if err != nil {
		return fmt.Errorf("read the record: %w", &fs.PathError{Op: "open", Path: path, Err: err})
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("record %s is damaged; remove it and what it stands for: %w", path, err)
	}
	return nil
}

// readFile is os.ReadFile without the poller, which wants six more system calls for
// each of what may be thousands of files. It reads into the buffer while that is
// large enough.
func readFile(data []byte, path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	data = data[:0]
	for {
		n, err := unix.Read(fd, data[len(data):cap(data)])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		data = data[:len(data)+n]
		if len(data) < cap(data) {
			return data, nil // a file gives less than it is asked for only at its end
		}
		data = slices.Grow(data, 512)
	}
}

// writeFile is os.WriteFile without the poller.
func writeFile(path string, data []byte) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			unix.Close(fd)
			return err
		}
		data = data[n:]
	}
	return unix.Close(fd)
}

// some returns names out of a folder, two at least where there are two.
func some(dir string) ([]string, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	// Room for . and .. and more than two of the longest names.
	buffer := make([]byte, 2048)
	n, err := unix.ReadDirent(fd, buffer)
	if err != nil {
		return nil, err
	}
	_, _, names := unix.ParseDirent(buffer[:n], -1, nil)
	return names, nil
}

// link makes a symbolic link, in place of one that is there. As a rule there is
// none, and its folder is there.
func link(target, path string) error {
	err := unix.Symlink(target, path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("create the folder of records: %w", err)
		}
		err = unix.Symlink(target, path)
	}
	if errors.Is(err, fs.ErrExist) {
		if have, err := os.Readlink(path); err == nil && have == target {
			return nil
		}
		if err := remove(path); err != nil {
			return err
		}
		err = unix.Symlink(target, path)
	}
	if err != nil {
		return fmt.Errorf("write the record: %w", &fs.PathError{Op: "symlink", Path: path, Err: err})
	}
	return nil
}

// remove removes a file or an empty folder, if it is there.
func remove(path string) error {
	err := unix.Unlink(path)
	if err == unix.EISDIR {
		err = unix.Rmdir(path)
	}
	if err != nil && !absent(err) {
		return fmt.Errorf("remove the record: %w", &fs.PathError{Op: "unlink", Path: path, Err: err})
	}
	return nil
}

// absent also covers a name that is too long to have been written.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENAMETOOLONG)
}

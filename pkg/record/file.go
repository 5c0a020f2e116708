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
// for each try, so the next one, or a resync, takes it away.
const unfinished = ".unfinished"

// write makes a file of the store say this.
func (s Store) write(dir, name string, v any) error {
	data, err := encode(v)
	if err != nil {
		return err
	}
	if err := s.prepare(dir, name, data); err != nil {
		return err
	}
	return replace(filepath.Join(s.dir, dir, name))
}

func encode(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode a record: %w", err)
	}
	return append(data, '\n'), nil
}

// prepare writes a file that still has another name, see [replace].
func (s Store) prepare(dir, name string, data []byte) error {
	dir = filepath.Join(s.dir, dir)
	path := filepath.Join(dir, name) + unfinished
	err := writeFile(path, data, unix.O_TRUNC)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("create the directory of records: %w", err)
		}
		err = writeFile(path, data, unix.O_TRUNC)
	}
	if err != nil {
		return fmt.Errorf("write the record: %w", &fs.PathError{Op: "write", Path: path, Err: err})
	}
	return nil
}

// replace gives a file that has been prepared its name. A directory of that name is
// nobody's, and goes.
func replace(path string) error {
	err := os.Rename(path+unfinished, path)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, fs.ErrExist) {
		if err = os.RemoveAll(path); err == nil {
			err = os.Rename(path+unfinished, path)
		}
	}
	if err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	return nil
}

// ErrDamaged is what a file gives that has been read to its end and says nothing.
var ErrDamaged = errors.New("damaged")

// contentError says what is wrong with such a file.
type contentError struct{ error }

func (c contentError) Is(target error) bool { return target == ErrDamaged }
func (c contentError) Unwrap() error        { return c.error }

// load reads a file of the store and decodes it. Here alone is told apart why a file gives
// nothing: it does not exist, see [absent]; it is [ErrDamaged], also where a directory has
// its name; or it could not be read this time, and may be as it should be: then the error
// is the call's, and nothing that is recorded goes because of it.
func (s Store) load(buffer []byte, path string, decode func([]byte) error) error {
	path = filepath.Join(s.dir, path)
	data, err := readFile(buffer, path)
	if err == nil {
		if err := decode(data); err != nil {
			return contentError{err}
		}
		return nil
	}
	err = &fs.PathError{Op: "read", Path: path, Err: err}
	if errors.Is(err, unix.EISDIR) {
		return contentError{err}
	}
	return err
}

// exists reports whether anything has a path.
func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if absent(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the record: %w", err)
	}
	return true, nil
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
	data = slices.Grow(data[:0], 2048)
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
		data = slices.Grow(data, len(data))
	}
}

// writeFile is os.WriteFile without the poller.
func writeFile(path string, data []byte, flag int) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC|flag, 0o600)
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

// remove removes a file or a directory with all that is in it, if it exists.
func remove(path string) error {
	err := unix.Unlink(path)
	if err == unix.EISDIR {
		err = os.RemoveAll(path)
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

func listError(s Store, err error) error {
	return fmt.Errorf("list the records: %w", &fs.PathError{Op: "open", Path: filepath.Join(s.dir, attachments), Err: err})
}

package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// encode returns the text of a file: an object, with its version first.
func encode(object any) ([]byte, error) {
	data, err := json.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("encode a record: %w", err)
	}
	return fmt.Appendf(nil, "{\"version\":%d,%s\n", Version, data[1:]), nil
}

// put makes a file of the record say this.
func (s Store) put(path string, object any) error {
	data, err := encode(object)
	if err == nil {
		err = s.prepare(path, data)
	}
	if err != nil {
		return err
	}
	return s.finish(path)
}

// prepare writes a file that still has another name, see [Store.finish].
func (s Store) prepare(path string, data []byte) error {
	path = s.path(path + unfinished)
	err := os.WriteFile(path, data, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			err = os.WriteFile(path, data, 0o600)
		}
	}
	if err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	return nil
}

// finish gives a file that has been prepared its name. A directory of that name was made by
// no egress-ip, and goes.
func (s Store) finish(path string) error {
	path = s.path(path)
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

// remove removes files, or directories with all that is in them, if they exist.
func (s Store) remove(paths ...string) error {
	for _, path := range paths {
		err := unix.Unlink(s.path(path))
		if err == unix.EISDIR {
			err = os.RemoveAll(s.path(path))
		}
		if err != nil && !absent(err) {
			return removed(&fs.PathError{Op: "unlink", Path: s.path(path), Err: err})
		}
	}
	return nil
}

func removed(err error) error {
	if err != nil {
		return fmt.Errorf("remove the record: %w", err)
	}
	return nil
}

// ErrDamaged is what a file gives that has been read to its end and says nothing.
var ErrDamaged = errors.New("damaged")

var errSetAside = errors.New("it was set aside")

// contentError says what is wrong with such a file.
type contentError struct{ error }

func (c contentError) Is(target error) bool { return target == ErrDamaged }
func (c contentError) Unwrap() error        { return c.error }

// load reads a file of the record and decodes it. Here alone is told apart why a file gives
// nothing: it does not exist, see [absent]; it is [ErrDamaged], also where a directory has
// its name; or it could not be read this time, and may be as it should be: then the error
// is the call's, and nothing that is recorded goes because of it.
func load[T any](s Store, path string, decode func([]byte) (T, error)) (v T, err error) {
	data, err := os.ReadFile(s.path(path))
	if errors.Is(err, unix.EISDIR) {
		return v, contentError{err}
	}
	if err != nil {
		return v, err
	}
	if v, err = decode(data); err != nil {
		return *new(T), contentError{err}
	}
	return v, nil
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

// absent also covers a name that is too long to have been written.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENAMETOOLONG)
}

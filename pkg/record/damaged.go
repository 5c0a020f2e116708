package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"golang.org/x/sys/unix"
)

// aside is behind the name of a file that cannot be read, once it has been set aside.
const aside = ".damaged"

var errSetAside = errors.New("it was set aside")

// DamagedError says that an attachment is recorded, but what is recorded of it cannot be
// read. Its file's name still says whose it is.
type DamagedError struct {
	name  string // of the file, in the directory of attachments
	cause error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("record %s of container %s cannot be read: %s; delete that pod, or, if it no longer exists, remove the file",
		e.Path(), e.Owner().ContainerID, e.cause)
}

func (e *DamagedError) Unwrap() error { return e.cause }

// Owner is whose file it is.
func (e *DamagedError) Owner() egress.Owner { return ownerOf(e.name) }

// Path is the file's, in the directory of the record.
func (e *DamagedError) Path() string { return filepath.Join(attachments, e.name) }

// IsAside reports whether the file has been set aside.
func (e *DamagedError) IsAside() bool { return filepath.Ext(e.name) == aside }

// SetAside gives the file a name that says what it is, so that it is in nobody's way.
func (s Store) SetAside(d *DamagedError) error {
	path := s.attachment(d.name)
	if d.IsAside() {
		return nil
	}
	if err := os.RemoveAll(path + aside); err != nil {
		return fmt.Errorf("set a damaged record aside: %w", err)
	}
	if err := os.Rename(path, path+aside); err != nil && !absent(err) {
		return fmt.Errorf("set a damaged record aside: %w", err)
	}
	return nil
}

// attachmentFile is what a file of an attachment has.
type attachmentFile struct {
	Version int `json:"version"`
	egress.Attachment
}

// decode returns the attachment that a file has; the error is a [DamagedError].
func decode(name string, data []byte) (egress.Attachment, error) {
	var f attachmentFile
	err := json.Unmarshal(data, &f)
	if err == nil && f.Owner != ownerOf(name) {
		err = fmt.Errorf("it names container %q and interface %q", f.ContainerID, f.IfName)
	}
	if err == nil {
		err = f.Attachment.Validate()
	}
	if err != nil {
		return egress.Attachment{}, &DamagedError{name, err}
	}
	return f.Attachment, nil
}

// damaging reports whether an error in reading a file is about that file alone.
func damaging(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.EISDIR)
}

package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
)

// aside is behind the name of a damaged file, once it has been set aside.
const aside = ".damaged"

var errSetAside = errors.New("it was set aside")

// DamagedError says that an attachment is recorded, but its file has been read and has none.
// Its name still says whose it is.
type DamagedError struct {
	name  string // of the file, in the directory of attachments
	cause error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("record %s of container %s is damaged: %s; delete that pod, or, if it no longer exists, remove the file",
		e.Path(), e.Owner().ContainerID, e.cause)
}

func (e *DamagedError) Unwrap() error { return e.cause }

// Owner is whose file it is.
func (e *DamagedError) Owner() egress.Owner { return ownerOf(e.name) }

// Path is the file's, in the directory of the record.
func (e *DamagedError) Path() string { return filepath.Join(attachments, e.name) }

// IsAside reports whether the file has been set aside.
func (e *DamagedError) IsAside() bool { return filepath.Ext(e.name) == aside }

// UnreadError says that an attachment is recorded, but its file could not be read this
// time. It may be as it should be, and stays.
type UnreadError struct {
	name  string
	cause error
}

func (e *UnreadError) Error() string {
	return fmt.Sprintf("record %s of container %s could not be read: %s", filepath.Join(attachments, e.name), e.Owner().ContainerID, e.cause)
}

func (e *UnreadError) Unwrap() error { return e.cause }

// Owner is whose file it is.
func (e *UnreadError) Owner() egress.Owner { return ownerOf(e.name) }

// Unknown are attachments that are recorded, but only whose they are is known.
type Unknown struct {
	Damaged []*DamagedError
	Unread  []*UnreadError
}

// Owners are whose they are.
func (u Unknown) Owners() []egress.Owner {
	var owners []egress.Owner
	for _, d := range u.Damaged {
		owners = append(owners, d.Owner())
	}
	for _, e := range u.Unread {
		owners = append(owners, e.Owner())
	}
	return owners
}

// Len is how many there are.
func (u Unknown) Len() int { return len(u.Damaged) + len(u.Unread) }

// Without leaves out those of these owners.
func (u Unknown) Without(owners []egress.Owner) Unknown {
	return Unknown{
		slices.DeleteFunc(u.Damaged, func(d *DamagedError) bool { return slices.Contains(owners, d.Owner()) }),
		slices.DeleteFunc(u.Unread, func(e *UnreadError) bool { return slices.Contains(owners, e.Owner()) }),
	}
}

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

// decode returns the attachment that a file has.
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
		return egress.Attachment{}, err
	}
	return f.Attachment, nil
}

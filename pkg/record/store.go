package record

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/lock"
	"golang.org/x/sys/unix"
)

// Root is where the records of all network namespaces are.
const Root = lock.Root

// attachments is the directory of attachments.
const attachments = "attachments"

// index are the directories in which 04f183a and before kept which attachment has which
// address and needs what.
var index = []string{"pods", "shared"}

// Store is the record of one network namespace.
type Store struct{ dir string }

// Open returns the record of the calling thread's network namespace. It creates
// nothing.
func Open() (Store, error) {
	c, err := cookie()
	if err != nil {
		return Store{}, err
	}
	return Store{filepath.Join(Root, strconv.FormatUint(c, 10))}, nil
}

// Dir is the directory of the record; it exists while anything is recorded.
func (s Store) Dir() string { return s.dir }

// Find returns the attachment of an owner; ok is false where none is recorded. The error
// is a [DamagedError] where one is but its file has none, be it set aside or not, and an
// [UnreadError] where one is whose file could not be read this time.
func (s Store) Find(o egress.Owner) (a egress.Attachment, ok bool, err error) {
	name := fileName(o)
	a, ok, err = s.readAttachment(name, nil)
	if unread := (*UnreadError)(nil); errors.As(err, &unread) {
		if is, _ := exists(s.attachment(name)); !is { // as far as can be told
			err = fmt.Errorf("read the record: %w", unread.cause)
		}
	}
	if ok || err != nil {
		return a, ok, err
	}
	is, err := exists(s.attachment(name) + aside)
	if is {
		err = &DamagedError{name + aside, errSetAside}
	}
	return a, false, err
}

// List reads every attachment, by container and interface, and says of which only the owner
// is known.
func (s Store) List() ([]egress.Attachment, Unknown, error) {
	entries, err := s.entries()
	if err != nil {
		return nil, Unknown{}, err
	}
	all := make([]egress.Attachment, 0, len(entries))
	var unknown Unknown
	buffer := make([]byte, 0, 16<<10)
	for _, e := range entries {
		a, ok, err := s.readAttachment(e.name, buffer)
		var damaged *DamagedError
		var unread *UnreadError
		switch {
		case ok:
			all = append(all, a)
		case errors.As(err, &damaged):
			unknown.Damaged = append(unknown.Damaged, damaged)
		case errors.As(err, &unread):
			unknown.Unread = append(unknown.Unread, unread)
		}
	}
	slices.SortFunc(all, func(a, b egress.Attachment) int { return a.Owner.Compare(b.Owner) })
	return all, unknown, nil
}

// readAttachment reads one of the directory's files, if it is an attachment's. The error is
// a [DamagedError] or an [UnreadError].
func (s Store) readAttachment(name string, buffer []byte) (a egress.Attachment, ok bool, err error) {
	if strings.HasSuffix(name, suffix+aside) {
		return a, false, &DamagedError{name, errSetAside}
	}
	if !strings.HasSuffix(name, suffix) {
		return a, false, nil // an unfinished write
	}
	err = s.load(buffer, filepath.Join(attachments, name), func(data []byte) (err error) {
		a, err = decode(name, data)
		return err
	})
	switch {
	case err == nil:
		return a, true, nil
	case absent(err):
		return a, false, nil
	case errors.Is(err, ErrDamaged):
		return a, false, &DamagedError{name, err}
	default:
		return a, false, &UnreadError{name, err}
	}
}

// Put records an attachment, in the place of one of the same owner, set aside or not.
func (s Store) Put(a egress.Attachment) error {
	name := fileName(a.Owner)
	data, err := encode(attachmentFile{Version, a})
	if err != nil {
		return err
	}
	if err := s.prepare(attachments, name, data); err != nil {
		return err
	}
	if err := s.copyOf(name, summary(a), data); err != nil {
		return err
	}
	path := s.attachment(name)
	if err := replace(path); err != nil {
		return err
	}
	return remove(path + aside)
}

// Remove forgets an attachment, be it set aside.
func (s Store) Remove(a egress.Attachment) error {
	path := s.attachment(fileName(a.Owner))
	for _, p := range []string{path + unfinished, path + aside, path} {
		if err := remove(p); err != nil {
			return err
		}
	}
	s.Prune()
	return nil
}

// Discard removes what a call that was killed may have left of an owner's file, and
// directories in which nothing is recorded.
func (s Store) Discard(o egress.Owner) error {
	err := remove(s.attachment(fileName(o)) + unfinished)
	s.Prune()
	return err
}

// Prune removes the directories where nothing is recorded.
func (s Store) Prune() {
	if err := unix.Rmdir(filepath.Join(s.dir, attachments)); err == unix.ENOTEMPTY {
		return
	}
	s.removeIndex()
	_ = unix.Rmdir(filepath.Join(s.dir, "tables"))
	// The copies, and what was being written of the node when its call was killed.
	for _, file := range []string{copies, clusterFile + unfinished, probeFile + unfinished, markedFile + unfinished, srcValidMark + unfinished} {
		_ = unix.Unlink(filepath.Join(s.dir, file))
	}
	_ = unix.Rmdir(s.dir) // fails while anything of the node is recorded
}

// removeIndex removes what an egress-ip of before has left.
func (s Store) removeIndex() {
	for _, dir := range index {
		path := filepath.Join(s.dir, dir)
		if err := unix.Rmdir(path); err == unix.ENOTEMPTY {
			err := os.RemoveAll(path)
			slog.Info("removed the index of an egress-ip of before", "directory", path, "error", err)
		}
	}
}

// Abandoned reports whether an owner without a record has left a file that was being
// written, or there are directories of attachments but no attachment: a call was killed
// with its record not yet written, or just removed.
func (s Store) Abandoned(o egress.Owner) bool {
	if _, err := os.Lstat(s.attachment(fileName(o)) + unfinished); err == nil {
		return true
	}
	names, err := s.names(".")
	if err != nil || len(names) == 0 {
		exists, err := s.Exists()
		return err == nil && exists
	}
	if !slices.ContainsFunc(names, func(name string) bool { return name != probeFile }) {
		return false
	}
	empty, err := s.isEmpty()
	return err == nil && empty
}

// Leftovers are what calls that were killed, or an egress-ip of before, have left of the
// record. Without the lock, a call that is under way looks like one that was killed.
func (s Store) Leftovers() ([]string, error) {
	var left []string
	for _, dir := range []string{".", attachments, "tables"} {
		names, err := s.names(dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if strings.HasSuffix(name, unfinished) || dir == "." && slices.Contains(index, name) {
				left = append(left, filepath.Join(dir, name))
			}
		}
	}
	return left, nil
}

// RemoveLeftovers removes what [Store.Leftovers] returns.
func (s Store) RemoveLeftovers(left []string) error {
	for _, path := range left {
		if err := os.RemoveAll(filepath.Join(s.dir, path)); err != nil {
			return fmt.Errorf("remove what is left of the record: %w", err)
		}
	}
	return nil
}

// Exists reports whether anything is recorded.
func (s Store) Exists() (bool, error) { return exists(s.dir) }

// Destroy removes all that is recorded.
func (s Store) Destroy() error {
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("remove the record: %w", err)
	}
	return nil
}

// names lists a directory of the record; one that does not exist is empty.
func (s Store) names(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, dir))
	if err != nil && !absent(err) {
		return nil, fmt.Errorf("list the records: %w", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

func (s Store) attachment(name string) string { return filepath.Join(s.dir, attachments, name) }

// suffix of an attachment's file.
const suffix = ".json"

// Neither a container ID nor a link's name may hold a colon or a slash.
func fileName(o egress.Owner) string { return o.ContainerID + ":" + o.IfName + suffix }

func ownerOf(name string) egress.Owner {
	name, _, _ = strings.Cut(name, suffix)
	id, ifName, _ := strings.Cut(name, ":")
	return egress.Owner{ContainerID: id, IfName: ifName}
}

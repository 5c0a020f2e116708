// Package record keeps, below [Root], /run/egress-ip, what is to exist on the node. It
// is gone with a reboot, as what the kernel has is. One directory per network
// namespace, named by its cookie (a test machine has several):
//
//	attachments/CONTAINER:IFNAME.json          an egress.Attachment
//	attachments/CONTAINER:IFNAME.json.ending   one whose DEL has begun
//	attachments/CONTAINER:IFNAME.json.damaged  a damaged one, set aside
//	copies                                     of the attachments, to read them at once
//	tables/TABLE-FAMILY.json                   an egress.Table
//	cluster.json                               the networks in the cluster sets
//	probe.json                                 a [Probe]; it stays when pods go
//	marked.json                                links of which egress-ip has set the sysctl src_valid_mark
//	src_valid_mark                             exists if an earlier version has set it for all links
//
// What attachments share, and who has a pod address, is asked of the attachments
// themselves. The copies make that quick, and decide nothing: see [Store.Records].
//
// Each file has a version, [Version]. A reader takes what it knows of a file of any
// version, also of none: so wrote the versions before. Writers hold [Store.Lock]. A file
// appears whole or not at all.
package record

import (
	"encoding/json"
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

// Version is that of the files that are written. Whoever changes what a key means gives
// it another name: an older egress-ip takes what it knows, whatever the version is.
const Version = 1

// Root is where the records of all network namespaces are.
const Root = lock.Root

const (
	attachments = "attachments"
	tables      = "tables"

	suffix     = ".json"
	ending     = ".ending"     // behind the name of a file whose attachment's DEL has begun
	aside      = ".damaged"    // behind the name of a damaged file, once it has been set aside
	unfinished = ".unfinished" // behind the name of a file while it is written; the next try replaces it
)

// index are the directories in which 04f183a and before kept which attachment has which
// address and needs what.
var index = []string{"pods", "shared"}

// Store is the record of one network namespace.
type Store struct{ dir string }

// Open returns the record of the calling thread's network namespace. It creates nothing. The
// directory is named by the kernel's number of the namespace, which it gives to no other until
// the next boot (Linux 5.14).
func Open() (Store, error) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Store{}, fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(s)
	cookie, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return Store{}, fmt.Errorf("read the network namespace's cookie: %w", err)
	}
	return Store{filepath.Join(Root, strconv.FormatUint(cookie, 10))}, nil
}

// Lock waits until no other process works on this network namespace, [lock.Patience] at
// the most, and keeps others out until unlock is called or the process ends. The file is
// beside the record and stays when that goes.
func (s Store) Lock() (unlock func(), err error) {
	return lock.File(s.dir + ".lock").Take(lock.Patience)
}

// LockOf returns the lock of a task, a word, of which there is one in each network
// namespace, in that of the calling thread.
func LockOf(task string) (lock.File, error) {
	s, err := Open()
	return lock.File(s.dir + "." + task + ".lock"), err
}

// Dir is the directory of the record; it exists while anything is recorded.
func (s Store) Dir() string { return s.dir }

// Exists reports whether anything is recorded.
func (s Store) Exists() (bool, error) { return exists(s.dir) }

// Destroy removes all that is recorded.
func (s Store) Destroy() error { return removed(os.RemoveAll(s.dir)) }

func (s Store) path(elements ...string) string {
	return filepath.Join(append([]string{s.dir}, elements...)...)
}

// Neither a container ID nor a link's name may hold a colon or a slash.
func fileName(o egress.Owner) string { return o.ContainerID + ":" + o.IfName + suffix }

func ownerOf(name string) egress.Owner {
	name, _, _ = strings.Cut(name, suffix)
	id, ifName, _ := strings.Cut(name, ":")
	return egress.Owner{ContainerID: id, IfName: ifName}
}

// Find returns the attachment of an owner; ok is false where none is recorded. The error
// is a [DamagedError] where one is but its file has none, be it set aside or not, and an
// [UnreadError] where one is whose file could not be read this time.
func (s Store) Find(o egress.Owner) (a egress.Attachment, ok bool, err error) {
	name := fileName(o)
	a, ok, err = s.readAttachment(name)
	if unread := (*UnreadError)(nil); errors.As(err, &unread) {
		if is, _ := exists(s.path(attachments, name)); !is { // as far as can be told
			err = fmt.Errorf("read the record: %w", unread.cause)
		}
	}
	if !ok && err == nil {
		a, ok, err = s.readAttachment(name + ending)
	}
	if ok || err != nil {
		return a, ok, err
	}
	is, err := exists(s.path(attachments, name+aside))
	if is {
		err = &DamagedError{fault{name + aside, errSetAside}}
	}
	return a, false, err
}

// List reads every attachment, by container and interface, and says of which only the owner
// is known.
func (s Store) List() ([]egress.Attachment, Unknown, error) {
	entries, err := s.entries(0)
	if err != nil {
		return nil, Unknown{}, err
	}
	all := make([]egress.Attachment, 0, len(entries))
	var unknown Unknown
	for _, e := range entries {
		a, ok, err := s.readAttachment(e.name)
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
func (s Store) readAttachment(name string) (a egress.Attachment, ok bool, err error) {
	if strings.HasSuffix(name, suffix+aside) {
		return a, false, &DamagedError{fault{name, errSetAside}}
	}
	hasBegun := strings.HasSuffix(name, suffix+ending)
	if !hasBegun && !strings.HasSuffix(name, suffix) {
		return a, false, nil // an unfinished write
	}
	a, err = load(s, filepath.Join(attachments, name), func(data []byte) (egress.Attachment, error) { return decode(name, data) })
	switch {
	case err == nil:
		a.Ending = hasBegun
		return a, true, nil
	case absent(err):
		return a, false, nil
	case errors.Is(err, ErrDamaged):
		return a, false, &DamagedError{fault{name, err}}
	default:
		return a, false, &UnreadError{fault{name, err}}
	}
}

// decode returns the attachment that a file has.
func decode(name string, data []byte) (a egress.Attachment, err error) {
	err = json.Unmarshal(data, &a)
	if err == nil && a.Owner != ownerOf(name) {
		err = fmt.Errorf("it names container %q and interface %q", a.ContainerID, a.IfName)
	}
	if err == nil {
		err = a.Validate()
	}
	return a, err
}

// Put records an attachment, in the place of one of the same owner, set aside or not.
func (s Store) Put(a egress.Attachment) error {
	name := fileName(a.Owner)
	data, err := encode(a)
	if err != nil {
		return err
	}
	path := filepath.Join(attachments, name)
	if err := s.prepare(path, data); err != nil {
		return err
	}
	if err := s.copyOf(name, summary(a), data); err != nil {
		return err
	}
	// One whose DEL was killed begins again.
	if err := os.Rename(s.path(path+ending), s.path(path)); err != nil && !absent(err) {
		return fmt.Errorf("write the record: %w", err)
	}
	if err := s.finish(path); err != nil {
		return err
	}
	return s.remove(path + aside)
}

// End records that the DEL of an attachment has begun, so that whatever looks at the whole
// node next finishes it. It needs no room on the file system.
func (s Store) End(o egress.Owner) error {
	path := s.path(attachments, fileName(o))
	if err := os.Rename(path, path+ending); err != nil && !absent(err) {
		return fmt.Errorf("write the record: %w", err)
	}
	return nil
}

// Remove forgets an attachment, be it set aside.
func (s Store) Remove(a egress.Attachment) error {
	path := filepath.Join(attachments, fileName(a.Owner))
	err := s.remove(path+unfinished, path+aside, path, path+ending)
	if err == nil {
		s.Prune()
	}
	return err
}

// Discard removes what a call that was killed may have left of an owner's file, and
// directories in which nothing is recorded.
func (s Store) Discard(o egress.Owner) error {
	err := s.remove(filepath.Join(attachments, fileName(o)) + unfinished)
	s.Prune()
	return err
}

// SetAside gives the file a name that says what it is.
func (s Store) SetAside(d *DamagedError) error {
	if d.IsAside() {
		return nil
	}
	path := s.path(attachments, fileName(d.Owner())+aside)
	err := os.RemoveAll(path)
	if err == nil {
		err = os.Rename(s.path(attachments, d.name), path)
	}
	if err != nil && !absent(err) {
		return fmt.Errorf("set a damaged record aside: %w", err)
	}
	return nil
}

// fault is why an attachment is recorded, but not known. Its file's name still says whose it is.
type fault struct {
	name  string // of the file, in the directory of attachments
	cause error
}

func (f *fault) Unwrap() error { return f.cause }

// Owner is whose file it is.
func (f *fault) Owner() egress.Owner { return ownerOf(f.name) }

// Path is the file's, in the directory of the record.
func (f *fault) Path() string { return filepath.Join(attachments, f.name) }

// DamagedError says that an attachment is recorded, but its file has been read and has none.
type DamagedError struct{ fault }

func (e *DamagedError) Error() string {
	return fmt.Sprintf("record %s of container %s is damaged: %s; delete that pod, or, if it no longer exists, remove the file",
		e.Path(), e.Owner().ContainerID, e.cause)
}

// IsAside reports whether the file has been set aside.
func (e *DamagedError) IsAside() bool { return filepath.Ext(e.name) == aside }

// UnreadError says that an attachment is recorded, but its file could not be read this
// time. It may be as it should be, and stays.
type UnreadError struct{ fault }

func (e *UnreadError) Error() string {
	return fmt.Sprintf("record %s of container %s could not be read: %s", e.Path(), e.Owner().ContainerID, e.cause)
}

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

// Prune removes the directories where nothing is recorded.
func (s Store) Prune() {
	if err := unix.Rmdir(s.path(attachments)); err == unix.ENOTEMPTY {
		return
	}
	s.removeIndex()
	_ = unix.Rmdir(s.path(tables))
	// The copies, and what was being written of the node when its call was killed.
	for _, file := range []string{copies, clusterFile + unfinished, probeFile + unfinished, markedFile + unfinished, srcValidMark + unfinished} {
		_ = unix.Unlink(s.path(file))
	}
	_ = unix.Rmdir(s.dir) // fails while anything of the node is recorded
}

// removeIndex removes what an egress-ip of before has left.
func (s Store) removeIndex() {
	for _, dir := range index {
		if err := unix.Rmdir(s.path(dir)); err == unix.ENOTEMPTY {
			err := os.RemoveAll(s.path(dir))
			slog.Info("removed the index of an egress-ip of before", "directory", s.path(dir), "error", err)
		}
	}
}

// Abandoned reports whether an owner without a record has left a file that was being
// written, or there are directories of attachments but no attachment: a call was killed
// with its record not yet written, or just removed.
func (s Store) Abandoned(o egress.Owner) bool {
	if is, _ := exists(s.path(attachments, fileName(o)+unfinished)); is {
		return true
	}
	if is, err := s.Exists(); err != nil || !is {
		return false
	}
	names, err := s.names(".")
	if err == nil && slices.Equal(names, []string{probeFile}) {
		return false
	}
	first, err := s.entries(1)
	return err == nil && len(first) == 0
}

// Leftovers are what calls that were killed, or an egress-ip of before, have left of the
// record. Without the lock, a call that is under way looks like one that was killed.
func (s Store) Leftovers() ([]string, error) {
	var left []string
	for _, dir := range []string{".", attachments, tables} {
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
	first, err := s.entries(1)
	if err != nil || len(first) > 0 {
		return left, err
	}
	for _, name := range []string{attachments, tables, copies} { // there is no attachment
		inside, err := os.ReadDir(s.path(name))
		if len(inside) == 0 && (err == nil || errors.Is(err, unix.ENOTDIR)) {
			left = append(left, name)
		}
	}
	return left, nil
}

// RemoveLeftovers removes what [Store.Leftovers] returns.
func (s Store) RemoveLeftovers(left []string) error { return s.remove(left...) }

// names lists a directory of the record; one that does not exist is empty.
func (s Store) names(dir string) (names []string, err error) {
	entries, err := os.ReadDir(s.path(dir))
	if err != nil && !absent(err) {
		return nil, fmt.Errorf("list the records: %w", err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

package record

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"golang.org/x/sys/unix"
)

// Root is where the records of all network namespaces are. Once made, it stays until
// the next boot: a container in which it is mounted would never see one made later, and
// a watcher there would take all that is recorded in that for nobody's.
const Root = "/run/egress-ip"

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

// Dir is the folder of the record; it is there while anything is recorded.
func (s Store) Dir() string { return s.dir }

// Find returns the attachment of an owner; ok is false where none is recorded.
func (s Store) Find(o egress.Owner) (a egress.Attachment, ok bool, err error) {
	err = read(s.attachment(o), &a)
	if absent(err) {
		return egress.Attachment{}, false, nil
	}
	return a, err == nil, err
}

// List returns every attachment, by container and interface.
func (s Store) List() ([]egress.Attachment, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "attachments"))
	if err != nil && !absent(err) {
		return nil, fmt.Errorf("list the records: %w", err)
	}
	all := make([]egress.Attachment, 0, len(entries))
	buffer := make([]byte, 0, 16<<10)
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue // an unfinished write
		}
		var a egress.Attachment
		if err := readInto(buffer, filepath.Join(s.dir, "attachments", e.Name()), &a); err != nil {
			if absent(err) {
				continue
			}
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

// Put records an attachment, then that it has its pod addresses and needs its
// shared objects.
func (s Store) Put(a egress.Attachment) error {
	if err := write(s.attachment(a.Owner), a); err != nil {
		return err
	}
	target := filepath.Join("attachments", fileName(a.Owner))
	for _, f := range a.Flows {
		if err := link(filepath.Join("..", target), filepath.Join(s.dir, "pods", f.Pod.String())); err != nil {
			return err
		}
	}
	for _, o := range Shared(a, a.Flows...) {
		if err := link(filepath.Join("..", "..", target), filepath.Join(s.dir, "shared", string(o), fileName(a.Owner))); err != nil {
			return err
		}
	}
	return nil
}

// Remove forgets an attachment, the file itself last, so that a DEL that was
// killed finds it again.
func (s Store) Remove(a egress.Attachment) error {
	if err := s.Release(a, a.Flows...); err != nil {
		return err
	}
	if err := s.Discard(a.Owner); err != nil {
		return err
	}
	if err := remove(s.attachment(a.Owner)); err != nil {
		return err
	}
	s.Prune()
	return nil
}

// Prune removes the folders where nothing is recorded; as long as there is an
// attachment they are not empty.
func (s Store) Prune() {
	for _, dir := range []string{"attachments", "pods", "shared", "tables"} {
		if err := unix.Rmdir(filepath.Join(s.dir, dir)); err == unix.ENOTEMPTY {
			return
		}
	}
	// What was being written of the node when its call was killed.
	for _, file := range []string{clusterFile, probeFile, markedFile, srcValidMark} {
		_ = unix.Unlink(filepath.Join(s.dir, file+unfinished))
	}
	_ = unix.Rmdir(s.dir) // fails while anything of the node is recorded
}

// Abandoned reports whether there are folders of attachments but no attachment: a
// call was killed with its record not yet written, or just removed.
func (s Store) Abandoned() bool {
	names, err := s.names(".")
	if err != nil || len(names) == 0 {
		return err == nil && s.Exists()
	}
	if !slices.ContainsFunc(names, func(name string) bool { return name != probeFile }) {
		return false
	}
	attachments, err := some(filepath.Join(s.dir, "attachments"))
	return absent(err) || err == nil && len(attachments) == 0
}

// Exists reports whether anything is recorded.
func (s Store) Exists() bool {
	_, err := os.Lstat(s.dir)
	return err == nil
}

// Destroy removes all that is recorded.
func (s Store) Destroy() error {
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("remove the record: %w", err)
	}
	return nil
}

// Discard removes what a Put that was killed may have left of an owner's file.
func (s Store) Discard(o egress.Owner) error { return remove(s.attachment(o) + unfinished) }

func (s Store) attachment(o egress.Owner) string {
	return filepath.Join(s.dir, "attachments", fileName(o))
}

// Neither a container ID nor a link's name may hold a colon or a slash.
func fileName(o egress.Owner) string { return o.ContainerID + ":" + o.IfName + ".json" }

func ownerOf(path string) egress.Owner {
	id, ifName, _ := strings.Cut(strings.TrimSuffix(filepath.Base(path), ".json"), ":")
	return egress.Owner{ContainerID: id, IfName: ifName}
}

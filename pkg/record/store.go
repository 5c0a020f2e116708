package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"golang.org/x/sys/unix"
)

// Root is where the records of all network namespaces are.
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
	var all []egress.Attachment
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue // an unfinished write
		}
		var a egress.Attachment
		if err := read(filepath.Join(s.dir, "attachments", e.Name()), &a); err != nil {
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
	for _, dir := range []string{"attachments", "pods", "shared", "tables", "."} {
		_ = os.Remove(filepath.Join(s.dir, dir))
	}
	_ = os.Remove(Root)
}

// Abandoned reports whether there are folders but no attachment: a call was killed
// with its record not yet written, or just removed.
func (s Store) Abandoned() bool {
	if _, err := os.Lstat(s.dir); err != nil {
		return false
	}
	dir, err := os.Open(filepath.Join(s.dir, "attachments"))
	if err != nil {
		return absent(err)
	}
	defer dir.Close()
	_, err = dir.Readdirnames(1)
	return errors.Is(err, io.EOF)
}

// Release forgets that an attachment has the flows' pod addresses, and that it
// needs the shared objects that none of its other flows needs.
func (s Store) Release(a egress.Attachment, flows ...egress.Flow) error {
	for _, f := range flows {
		owner, ok, err := s.OwnerOf(f.Pod)
		if err != nil {
			return err
		}
		if ok && owner == a.Owner {
			if err := remove(filepath.Join(s.dir, "pods", f.Pod.String())); err != nil {
				return err
			}
		}
		// An ADD that was killed may have left it, and the table may stay.
		if err := remove(s.table(f.Table, f.Family()) + unfinished); err != nil {
			return err
		}
	}
	kept := Shared(a, without(a.Flows, flows)...)
	for _, o := range Shared(a, flows...) {
		if slices.Contains(kept, o) {
			continue
		}
		if err := remove(filepath.Join(s.dir, "shared", string(o), fileName(a.Owner))); err != nil {
			return err
		}
		_ = os.Remove(filepath.Join(s.dir, "shared", string(o))) // fails while others need it
	}
	return nil
}

// Discard removes what a Put that was killed may have left of an owner's file.
func (s Store) Discard(o egress.Owner) error { return remove(s.attachment(o) + unfinished) }

// OwnerOf says which attachment has a pod address.
func (s Store) OwnerOf(pod netip.Addr) (o egress.Owner, ok bool, err error) {
	target, err := os.Readlink(filepath.Join(s.dir, "pods", pod.String()))
	if absent(err) {
		return egress.Owner{}, false, nil
	}
	if err != nil {
		return egress.Owner{}, false, fmt.Errorf("read who has %s: %w", pod, err)
	}
	return ownerOf(target), true, nil
}

// Others says which other attachments need a shared object.
func (s Store) Others(o Object, but egress.Owner) ([]egress.Owner, error) {
	dir, err := os.Open(filepath.Join(s.dir, "shared", string(o)))
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read who needs %s: %w", o, err)
	}
	defer dir.Close()
	// Two names are enough to find one that is not but's.
	names, err := dir.Readdirnames(2)
	var others []egress.Owner
	for _, n := range names {
		if owner := ownerOf(n); owner != but {
			others = append(others, owner)
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read who needs %s: %w", o, err)
	}
	return others, nil
}

// Table returns what was last written into a link's table.
func (s Store) Table(id uint32, f egress.Family) (t egress.Table, ok bool, err error) {
	err = read(s.table(id, f), &t)
	if absent(err) {
		return egress.Table{}, false, nil
	}
	return t, err == nil, err
}

// PutTable records what is about to be written into a link's table.
func (s Store) PutTable(t egress.Table) error { return write(s.table(t.Table, t.Family), t) }

// RemoveTable forgets a link's table.
func (s Store) RemoveTable(id uint32, f egress.Family) error {
	if err := remove(s.table(id, f) + unfinished); err != nil {
		return err
	}
	return remove(s.table(id, f))
}

// srcValidMark is there while egress-ip is why net.ipv4.conf.all.src_valid_mark is 1.
const srcValidMark = "src_valid_mark"

// PutSrcValidMark records that egress-ip is about to set the sysctl.
func (s Store) PutSrcValidMark() error {
	return write(filepath.Join(s.dir, srcValidMark), "set by egress-ip; it was 0")
}

// HasSrcValidMark reports whether egress-ip has set the sysctl.
func (s Store) HasSrcValidMark() bool {
	_, err := os.Lstat(filepath.Join(s.dir, srcValidMark))
	return err == nil
}

// RemoveSrcValidMark forgets that egress-ip has set the sysctl.
func (s Store) RemoveSrcValidMark() error {
	return remove(filepath.Join(s.dir, srcValidMark))
}

func (s Store) table(id uint32, f egress.Family) string {
	return filepath.Join(s.dir, "tables", fmt.Sprintf("%d-%d.json", id, f))
}

func (s Store) attachment(o egress.Owner) string {
	return filepath.Join(s.dir, "attachments", fileName(o))
}

// Neither a container ID nor a link's name may hold a colon or a slash.
func fileName(o egress.Owner) string { return o.ContainerID + ":" + o.IfName + ".json" }

func ownerOf(path string) egress.Owner {
	id, ifName, _ := strings.Cut(strings.TrimSuffix(filepath.Base(path), ".json"), ":")
	return egress.Owner{ContainerID: id, IfName: ifName}
}

func without(flows, others []egress.Flow) []egress.Flow {
	return slices.DeleteFunc(slices.Clone(flows), func(f egress.Flow) bool { return slices.Contains(others, f) })
}

// unfinished is what a file is called while it is written. The name is the same
// for each try, so the next one, or Discard, takes it away.
const unfinished = ".unfinished"

func write(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	if err := mkdir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("create the folder of records: %w", err)
	}
	if err := os.WriteFile(path+unfinished, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	if err := os.Rename(path+unfinished, path); err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	return nil
}

// mkdir tries again when Root has gone meanwhile, with another namespace's last record.
func mkdir(dir string) (err error) {
	for range 100 {
		if err = os.MkdirAll(dir, 0o700); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return err
}

func read(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the record: %w", err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("record %s is damaged; remove it and what it stands for: %w", path, err)
	}
	return nil
}

// link makes a symbolic link, in place of one that is there.
func link(target, path string) error {
	if have, err := os.Readlink(path); err == nil && have == target {
		return nil
	}
	if err := mkdir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("create the folder of records: %w", err)
	}
	if err := remove(path); err != nil {
		return err
	}
	if err := os.Symlink(target, path); err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !absent(err) {
		return fmt.Errorf("remove the record: %w", err)
	}
	return nil
}

// absent also covers a name that is too long to have been written.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENAMETOOLONG)
}

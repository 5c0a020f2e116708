package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"golang.org/x/sys/unix"
)

// copies is the file with a copy of each attachment, one a line, as its file was written:
//
//	INODE CHECKSUM CONTAINER:IFNAME.json PODADDRESS,...;SHAPE {"version":1,...}
//
// SHAPE is a hash of [egress.Attachment.Shape]; versions before this one wrote none.
//
// With 1,000 attachments, reading it takes a tenth of what it takes to open their files. A
// copy counts only while the directory has a file of that name with that inode, and its
// checksum is right; a later line takes precedence. Every other file is read itself. So
// the copies can be lost, old or damaged at any time.
const copies = "copies"

// Records are the attachments as they were recorded at one moment. An attachment is
// decoded when it is asked for.
type Records struct {
	Damaged []*DamagedError // those whose file has none

	files []recorded
	lines int  // of the copies
	stale bool // there is a file without a copy, or copies are damaged
}

// recorded is one attachment.
type recorded struct {
	entry
	pods    []byte // its pod addresses, and its shape, as in a copy
	data    []byte
	decoded *egress.Attachment
}

// Records reads the attachments. One that could not be read this time is an error.
func (s Store) Records() (*Records, error) {
	entries, err := s.entries(0)
	if err != nil {
		return nil, err
	}
	r := &Records{files: make([]recorded, 0, len(entries))}
	r.takeCopies(s, entries)
	for i := range r.files {
		f := &r.files[i]
		if f.data != nil {
			continue
		}
		a, ok, err := s.readAttachment(f.name)
		if damaged := (*DamagedError)(nil); errors.As(err, &damaged) {
			r.Damaged = append(r.Damaged, damaged)
			continue
		}
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if f.data, err = encode(a); err != nil {
			return nil, err
		}
		f.name, f.pods, f.decoded = fileName(a.Owner), summary(a), &a
		r.stale = r.stale || !a.Ending
	}
	r.files = slices.DeleteFunc(r.files, func(f recorded) bool { return f.data == nil })
	return r, nil
}

// takeCopies takes a file for each entry, with its copy if there is one.
func (r *Records) takeCopies(s Store, entries []entry) {
	position := make(map[uint64]int, len(entries))
	for i, e := range entries {
		r.files = append(r.files, recorded{entry: e})
		if strings.HasSuffix(e.name, suffix) {
			position[e.inode] = i
		}
	}
	if len(position) == 0 {
		return
	}
	data, _ := os.ReadFile(s.path(copies)) // without it they are read one by one
	for line := range bytes.Lines(data) {
		if len(line) == 1 {
			continue
		}
		r.lines++
		number, rest, _ := bytes.Cut(line, []byte{' '})
		sum, rest, _ := bytes.Cut(rest, []byte{' '})
		name, content, _ := bytes.Cut(rest, []byte{' '})
		inode, err := strconv.ParseUint(string(number), 10, 64)
		i, ok := position[inode]
		if err != nil || !ok || string(name) != r.files[i].name {
			continue
		}
		if string(sum) == checksum(rest) {
			r.files[i].pods, r.files[i].data, _ = bytes.Cut(content, []byte{' '})
		} else {
			r.stale = true
		}
	}
}

// checksum is of IEEE's polynomial: Go makes the tables of others when a program starts,
// which takes 0.2 ms, also where there is nothing to be read.
func checksum(data []byte) string { return strconv.FormatUint(uint64(crc32.ChecksumIEEE(data)), 16) }

// Empty reports whether there is no attachment, readable or not.
func (r *Records) Empty() bool { return len(r.files)+len(r.Damaged) == 0 }

// Others reports whether anything but an owner's attachment is recorded.
func (r *Records) Others(but egress.Owner) bool {
	return len(r.Damaged) > 0 || slices.ContainsFunc(r.files, func(f recorded) bool { return f.name != fileName(but) })
}

// Drop leaves out the attachment of an owner, which is about to be removed.
func (r *Records) Drop(o egress.Owner) {
	r.files = slices.DeleteFunc(r.files, func(f recorded) bool { return f.name == fileName(o) })
}

// Concerning returns, of all attachments but some owners', those that claim one of the pod
// addresses, and, of those that need the same beside what is their own, at least one.
func (r *Records) Concerning(pods []netip.Addr, but ...egress.Owner) []egress.Attachment {
	var texts [][]byte
	for _, pod := range pods {
		texts = append(texts, pod.AppendTo(nil))
	}
	without := map[string]bool{}
	for _, o := range but {
		without[fileName(o)] = true
	}
	shapes := map[string]bool{}
	var concerning []egress.Attachment
	for i := range r.files {
		f := &r.files[i]
		of, shape, _ := bytes.Cut(f.pods, []byte{';'})
		known := len(shape) > 0 && shapes[string(shape)]
		if without[f.name] || known && !slices.ContainsFunc(texts, func(pod []byte) bool { return bytes.Contains(of, pod) }) {
			continue
		}
		shapes[string(shape)] = true
		if a := f.attachment(); a != nil {
			concerning = append(concerning, *a)
		}
	}
	return concerning
}

// attachment decodes it, once.
func (f *recorded) attachment() *egress.Attachment {
	if f.decoded == nil {
		if a, err := decode(f.name, f.data); err == nil { // it was decoded before it was copied
			f.decoded = &a
		}
	}
	return f.decoded
}

// summary is what a copy says before the attachment: its pod addresses and its shape.
func summary(a egress.Attachment) []byte {
	var text []byte
	for i, f := range a.Flows {
		if i > 0 {
			text = append(text, ',')
		}
		text = f.Pod.AppendTo(text)
	}
	shape, err := a.Shape()
	if err != nil {
		return text // it speaks for itself alone
	}
	hash := fnv.New64a()
	hash.Write([]byte(shape))
	return strconv.AppendUint(append(text, ';'), hash.Sum64(), 16)
}

// Copy makes the copies complete where that is worth it. The caller holds the lock. What
// cannot be written makes calls slower, and nothing else.
func (s Store) Copy(r *Records) {
	if !r.stale && r.lines <= len(r.files)+len(r.files)/8+64 {
		return
	}
	var all bytes.Buffer
	for _, f := range r.files {
		all.Write(line(f.name, f.inode, f.pods, f.data))
	}
	// In place: a half of it is as good as none.
	if err := os.WriteFile(s.path(copies), all.Bytes(), 0o600); err != nil {
		slog.Debug("could not write the copies of the record", "error", err)
	}
	s.removeIndex()
}

// copyOf adds a copy of a file that is about to appear: from that moment on there is none
// of an earlier one with its inode.
func (s Store) copyOf(name string, pods, data []byte) error {
	var stat unix.Stat_t
	err := unix.Lstat(s.path(attachments, name+unfinished), &stat)
	if err == nil {
		// On a line of its own, also behind one of a call that was killed.
		err = appendTo(s.path(copies), append([]byte{'\n'}, line(name, stat.Ino, pods, data)...))
	}
	if err == nil {
		return nil
	}
	slog.Debug("could not add to the copies of the record", "error", err)
	return s.remove(copies)
}

func appendTo(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// line is a copy; data ends with the end of the line.
func line(name string, inode uint64, pods, data []byte) []byte {
	rest := slices.Concat([]byte(name), []byte{' '}, pods, []byte{' '}, data)
	return fmt.Appendf(nil, "%d %s %s", inode, checksum(rest), rest)
}

// entry is what a directory says of a file.
type entry struct {
	name  string
	inode uint64 // which os.ReadDir does not tell
}

// entries lists the directory of attachments, in no order, at least so many of them; 0 is all. One that
// does not exist is empty.
func (s Store) entries(atLeast int) (entries []entry, err error) {
	failed := func(err error) error {
		return fmt.Errorf("list the records: %w", &fs.PathError{Op: "open", Path: s.path(attachments), Err: err})
	}
	fd, err := unix.Open(s.path(attachments), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, failed(err)
	}
	defer unix.Close(fd)
	buffer := make([]byte, 32<<10)
	for atLeast == 0 || len(entries) < atLeast {
		n, err := unix.ReadDirent(fd, buffer)
		if err != nil {
			return nil, failed(err)
		}
		if n <= 0 {
			break
		}
		// struct linux_dirent64: the inode, an offset, the record's length, a type, the name.
		text := string(buffer[:n]) // of which the names are parts
		for at := 0; at < n; {
			left := buffer[at:n]
			length := int(binary.NativeEndian.Uint16(left[16:]))
			name, _, _ := strings.Cut(text[at+19:at+length], "\x00")
			if name != "." && name != ".." {
				entries = append(entries, entry{name, binary.NativeEndian.Uint64(left)})
			}
			at += length
		}
	}
	return entries, nil
}

package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"iter"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"golang.org/x/sys/unix"
)

// copies is the file with a copy of each attachment, one a line, as its file was written:
//
//	INODE CHECKSUM CONTAINER:IFNAME.json {"version":1,...}
//
// With 1,000 attachments, reading it takes a tenth of what it takes to open their files. A
// copy counts only while the directory has a file of that name with that inode, and its
// checksum is right; a later line takes precedence. Every other file is read itself. So
// the copies can be lost, old or damaged at any time.
const copies = "copies"

var polynomial = crc32.MakeTable(crc32.Castagnoli)

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
	data    []byte
	decoded *egress.Attachment
}

// Records reads the attachments. One that could not be read this time is an error.
func (s Store) Records() (*Records, error) {
	entries, err := s.entries()
	if err != nil {
		return nil, err
	}
	r := &Records{files: make([]recorded, 0, len(entries))}
	position := make(map[string]int, len(entries))
	for _, e := range entries {
		if strings.HasSuffix(e.name, suffix) {
			position[e.name] = len(r.files)
			r.files = append(r.files, recorded{entry: e})
		}
	}
	r.takeCopies(s, position)
	buffer := make([]byte, 0, 16<<10)
	for _, e := range entries {
		i, ok := position[e.name]
		if ok && r.files[i].data != nil {
			continue
		}
		a, ok, err := s.readAttachment(e.name, buffer)
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
		data, err := encode(attachmentFile{Version, a})
		if err != nil {
			return nil, err
		}
		r.files[i].data, r.files[i].decoded, r.stale = data, &a, true
	}
	r.files = slices.DeleteFunc(r.files, func(f recorded) bool { return f.data == nil })
	return r, nil
}

// takeCopies finds the files of which there are copies.
func (r *Records) takeCopies(s Store, position map[string]int) {
	if len(position) == 0 {
		return
	}
	data, err := readFile(make([]byte, 0, 1024*(len(position)+16)), filepath.Join(s.dir, copies))
	if err != nil {
		return // they are read one by one
	}
	for line := range bytes.Lines(data) {
		if len(line) == 1 {
			continue
		}
		r.lines++
		inode, rest, _ := bytes.Cut(line, []byte{' '})
		sum, rest, _ := bytes.Cut(rest, []byte{' '})
		name, data, _ := bytes.Cut(rest, []byte{' '})
		i, ok := position[string(name)]
		if !ok || string(inode) != strconv.FormatUint(r.files[i].inode, 10) {
			continue
		}
		if string(sum) == checksum(rest) {
			r.files[i].data = data
		} else {
			r.stale = true
		}
	}
}

func checksum(data []byte) string {
	return strconv.FormatUint(uint64(crc32.Checksum(data, polynomial)), 16)
}

// Mentioning yields the attachments whose file has this text, which may be empty, by
// container and interface or not.
func (r *Records) Mentioning(text string) iter.Seq[egress.Attachment] {
	return func(yield func(egress.Attachment) bool) {
		for i := range r.files {
			f := &r.files[i]
			if !bytes.Contains(f.data, []byte(text)) {
				continue
			}
			if f.decoded == nil {
				a, err := decode(f.name, f.data)
				if err != nil {
					continue // it was decoded before it was copied
				}
				f.decoded = &a
			}
			if !yield(*f.decoded) {
				return
			}
		}
	}
}

// Copy makes the copies complete where that is worth it. The caller holds the lock. What
// cannot be written makes calls slower, and nothing else.
func (s Store) Copy(r *Records) {
	if !r.stale && r.lines <= 2*len(r.files)+64 {
		return
	}
	var all bytes.Buffer
	for _, f := range r.files {
		all.Write(line(f.name, f.inode, f.data))
	}
	// In place: a half of it is as good as none.
	if err := writeFile(filepath.Join(s.dir, copies), all.Bytes(), unix.O_TRUNC); err != nil {
		slog.Debug("could not write the copies of the record", "error", err)
	}
	s.removeIndex()
}

// copyOf adds a copy of a file that is about to appear: from that moment on there is none
// of an earlier one with its inode.
func (s Store) copyOf(name string, data []byte) error {
	var stat unix.Stat_t
	err := unix.Lstat(s.attachment(name)+unfinished, &stat)
	if err == nil {
		// On a line of its own, also behind one of a call that was killed.
		added := slices.Concat([]byte{'\n'}, line(name, stat.Ino, data))
		err = writeFile(filepath.Join(s.dir, copies), added, unix.O_APPEND)
	}
	if err == nil {
		return nil
	}
	slog.Debug("could not add to the copies of the record", "error", err)
	return remove(filepath.Join(s.dir, copies))
}

// line is a copy; data ends with the end of the line.
func line(name string, inode uint64, data []byte) []byte {
	rest := slices.Concat([]byte(name), []byte{' '}, data)
	return slices.Concat([]byte(strconv.FormatUint(inode, 10)), []byte{' '}, []byte(checksum(rest)), []byte{' '}, rest)
}

// entry is what a directory says of a file.
type entry struct {
	name  string
	inode uint64
}

// entries lists the directory of attachments, in no order; one that does not exist is empty.
func (s Store) entries() ([]entry, error) {
	fd, err := unix.Open(filepath.Join(s.dir, attachments), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, listError(s, err)
	}
	defer unix.Close(fd)
	var entries []entry
	buffer := make([]byte, 32<<10)
	for {
		n, err := unix.ReadDirent(fd, buffer)
		if err != nil {
			return nil, listError(s, err)
		}
		if n <= 0 {
			return entries, nil
		}
		// struct linux_dirent64: the inode, an offset, the record's length, a type, the name.
		for left := buffer[:n]; len(left) > 0; {
			length := binary.NativeEndian.Uint16(left[16:])
			name, _, _ := bytes.Cut(left[19:length], []byte{0})
			if string(name) != "." && string(name) != ".." {
				entries = append(entries, entry{string(name), binary.NativeEndian.Uint64(left)})
			}
			left = left[length:]
		}
	}
}

// Empty reports whether there is no attachment, readable or not.
func (r *Records) Empty() bool { return len(r.files)+len(r.Damaged) == 0 }

// Drop leaves out the attachment of an owner, which is about to be removed.
func (r *Records) Drop(o egress.Owner) {
	r.files = slices.DeleteFunc(r.files, func(f recorded) bool { return f.name == fileName(o) })
}

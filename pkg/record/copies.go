package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"hash/fnv"
	"iter"
	"log/slog"
	"net/netip"
	"path/filepath"
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
	entries, err := s.entries()
	if err != nil {
		return nil, err
	}
	r := &Records{files: make([]recorded, 0, len(entries))}
	position := make(map[uint64]int, len(entries))
	for i, e := range entries {
		r.files = append(r.files, recorded{entry: e})
		if strings.HasSuffix(e.name, suffix) {
			position[e.inode] = i
		}
	}
	r.takeCopies(s, position)
	buffer := make([]byte, 0, 16<<10)
	for i := range r.files {
		f := &r.files[i]
		if f.data != nil {
			continue
		}
		a, ok, err := s.readAttachment(f.name, buffer)
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
		if f.data, err = encode(attachmentFile{Version, a}); err != nil {
			return nil, err
		}
		f.pods, f.decoded, r.stale = summary(a), &a, true
	}
	r.files = slices.DeleteFunc(r.files, func(f recorded) bool { return f.data == nil })
	return r, nil
}

// takeCopies finds the files of which there are copies, by their inodes.
func (r *Records) takeCopies(s Store, position map[uint64]int) {
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
		inode, rest, _ := cutNumber(line, 10)
		i, ok := position[inode]
		if !ok {
			continue
		}
		sum, rest, ok := cutNumber(rest, 16)
		name, content, _ := bytes.Cut(rest, []byte{' '})
		if string(name) != r.files[i].name {
			continue
		}
		if ok && sum == checksum(rest) {
			r.files[i].pods, r.files[i].data, _ = bytes.Cut(content, []byte{' '})
		} else {
			r.stale = true
		}
	}
}

// cutNumber returns the number with which a line begins, and what is behind the space that
// ends it.
func cutNumber(line []byte, base uint64) (n uint64, rest []byte, ok bool) {
	for i, c := range line {
		switch {
		case '0' <= c && c <= '9':
			n = n*base + uint64(c-'0')
		case 'a' <= c && c <= 'f' && base == 16:
			n = n*base + uint64(c-'a') + 10
		default:
			return n, line[i+1:], c == ' '
		}
	}
	return 0, nil, false
}

// checksum is of IEEE's polynomial: Go makes the tables of others when a program starts,
// which takes 0.2 ms, also where there is nothing to be read.
func checksum(data []byte) uint64 { return uint64(crc32.ChecksumIEEE(data)) }

// Others reports whether anything but an owner's attachment is recorded.
func (r *Records) Others(but egress.Owner) bool {
	return len(r.Damaged) > 0 || slices.ContainsFunc(r.files, func(f recorded) bool { return f.name != fileName(but) })
}

// Concerning returns, of all attachments but some owners', those that claim one of the pod
// addresses, and, of those that need the same beside what is their own, at least one.
func (r *Records) Concerning(pods []netip.Addr, but ...egress.Owner) []egress.Attachment {
	texts := make([][]byte, len(pods))
	for i, pod := range pods {
		texts[i] = pod.AppendTo(nil)
	}
	without := map[string]bool{}
	for _, o := range but {
		without[fileName(o)] = true
	}
	shapes := map[string]bool{}
	return slices.Collect(r.those(func(f *recorded) bool {
		if without[f.name] {
			return false
		}
		of, shape, _ := bytes.Cut(f.pods, []byte{';'})
		if len(shape) == 0 || !shapes[string(shape)] {
			shapes[string(shape)] = true
			return true
		}
		return slices.ContainsFunc(texts, func(pod []byte) bool { return bytes.Contains(of, pod) })
	}))
}

func (r *Records) those(match func(*recorded) bool) iter.Seq[egress.Attachment] {
	return func(yield func(egress.Attachment) bool) {
		for i := range r.files {
			f := &r.files[i]
			if !match(f) {
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
	if err := writeFile(filepath.Join(s.dir, copies), all.Bytes(), unix.O_TRUNC); err != nil {
		slog.Debug("could not write the copies of the record", "error", err)
	}
	s.removeIndex()
}

// copyOf adds a copy of a file that is about to appear: from that moment on there is none
// of an earlier one with its inode.
func (s Store) copyOf(name string, pods, data []byte) error {
	var stat unix.Stat_t
	err := unix.Lstat(s.attachment(name)+unfinished, &stat)
	if err == nil {
		// On a line of its own, also behind one of a call that was killed.
		added := slices.Concat([]byte{'\n'}, line(name, stat.Ino, pods, data))
		err = writeFile(filepath.Join(s.dir, copies), added, unix.O_APPEND)
	}
	if err == nil {
		return nil
	}
	slog.Debug("could not add to the copies of the record", "error", err)
	return remove(filepath.Join(s.dir, copies))
}

// line is a copy; data ends with the end of the line.
func line(name string, inode uint64, pods, data []byte) []byte {
	rest := slices.Concat([]byte(name), []byte{' '}, pods, []byte{' '}, data)
	return slices.Concat([]byte(strconv.FormatUint(inode, 10)), []byte{' '}, []byte(strconv.FormatUint(checksum(rest), 16)), []byte{' '}, rest)
}

// entry is what a directory says of a file.
type entry struct {
	name  string
	inode uint64
}

// entries lists the directory of attachments, in no order; one that does not exist is empty.
func (s Store) entries() ([]entry, error) {
	var entries []entry
	err := s.eachEntry(32<<10, func(e entry) bool {
		entries = append(entries, e)
		return true
	})
	return entries, err
}

// isEmpty reports whether the directory of attachments has no file.
func (s Store) isEmpty() (bool, error) {
	empty := true
	err := s.eachEntry(1<<10, func(entry) bool {
		empty = false
		return false
	})
	return empty, err
}

// eachEntry lists the directory of attachments, so many bytes at once, as long as it is told to.
func (s Store) eachEntry(size int, yield func(entry) bool) error {
	fd, err := unix.Open(filepath.Join(s.dir, attachments), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if absent(err) {
		return nil
	}
	if err != nil {
		return listError(s, err)
	}
	defer unix.Close(fd)
	buffer := make([]byte, size)
	for {
		n, err := unix.ReadDirent(fd, buffer)
		if err != nil {
			return listError(s, err)
		}
		if n <= 0 {
			return nil
		}
		// struct linux_dirent64: the inode, an offset, the record's length, a type, the name.
		text := string(buffer[:n]) // of which the names are parts
		for at := 0; at < n; {
			left := buffer[at:n]
			length := int(binary.NativeEndian.Uint16(left[16:]))
			name, _, _ := strings.Cut(text[at+19:at+length], "\x00")
			if name != "." && name != ".." && !yield(entry{name, binary.NativeEndian.Uint64(left)}) {
				return nil
			}
			at += length
		}
	}
}

// Empty reports whether there is no attachment, readable or not.
func (r *Records) Empty() bool { return len(r.files)+len(r.Damaged) == 0 }

// Drop leaves out the attachment of an owner, which is about to be removed.
func (r *Records) Drop(o egress.Owner) {
	r.files = slices.DeleteFunc(r.files, func(f recorded) bool { return f.name == fileName(o) })
}

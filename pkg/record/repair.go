package record

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"golang.org/x/sys/unix"
)

// faults are what is wrong with the folders beside attachments: links that are not
// there, by path and target, and what should not be there. A call that was killed
// leaves some.
type faults struct {
	missing map[string]string
	surplus []string
}

// Counted reports whether the folders have as many entries as the attachments ask
// for. A call that was killed leaves them otherwise, or leaves
// the kernel otherwise than recorded: so this is enough as long as neither shows.
func (s Store) Counted(all []egress.Attachment) (bool, error) {
	want := map[string]int{"attachments": len(all), "shared": 0, "pods": 0}
	for object, files := range users(all) {
		want["shared"]++
		want["shared/"+string(object)] = len(files)
	}
	pods := map[netip.Addr]struct{}{}
	for _, a := range all {
		for _, f := range a.Flows {
			pods[f.Pod] = struct{}{}
		}
	}
	want["pods"] = len(pods)
	buffer := make([]byte, 32<<10)
	for dir, count := range want {
		have, err := s.count(dir, buffer)
		if err != nil || have != count {
			return false, err
		}
	}
	unfinished, err := s.unfinished(".", "tables")
	return len(unfinished) == 0, err
}

// count returns how many entries a folder of the record has, names unread, with a
// buffer to use.
func (s Store) count(dir string, buffer []byte) (int, error) {
	fd, err := unix.Open(filepath.Join(s.dir, dir), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if absent(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("count the records: %w", err)
	}
	defer unix.Close(fd)
	count := 0
	for {
		n, err := unix.ReadDirent(fd, buffer)
		if err != nil {
			return 0, fmt.Errorf("count the records: %w", err)
		}
		if n <= 0 {
			return count - 2, nil // . and ..
		}
		for left := buffer[:n]; len(left) > 0; count++ {
			left = left[binary.NativeEndian.Uint16(left[unsafe.Offsetof(unix.Dirent{}.Reclen):]):]
		}
	}
}

// Faults says what Repair would do. Without the lock, a call that is under way
// looks like one that was killed.
func (s Store) Faults(all []egress.Attachment) ([]string, error) {
	f, err := s.faults(all)
	var lines []string
	for _, path := range slices.Sorted(maps.Keys(f.missing)) {
		lines = append(lines, "record "+path)
	}
	for _, path := range f.surplus {
		lines = append(lines, "record "+path+", which nothing needs")
	}
	return lines, err
}

// Repair makes the folders beside attachments say what the attachments do.
func (s Store) Repair(all []egress.Attachment) error {
	f, err := s.faults(all)
	if err != nil {
		return err
	}
	for path, target := range f.missing {
		if err := link(target, filepath.Join(s.dir, path)); err != nil {
			return err
		}
	}
	for _, path := range f.surplus {
		if err := remove(filepath.Join(s.dir, path)); err != nil {
			return err
		}
		_ = unix.Rmdir(filepath.Join(s.dir, filepath.Dir(path))) // fails while it is needed
	}
	return nil
}

func (s Store) faults(all []egress.Attachment) (faults, error) {
	f := faults{missing: map[string]string{}}
	owners, err := s.Owners(all)
	if err != nil {
		return faults{}, err
	}
	if err := s.podFaults(owners, &f); err != nil {
		return faults{}, err
	}
	want := users(all)
	objects, err := s.names("shared")
	if err != nil {
		return faults{}, err
	}
	for _, object := range objects {
		have, err := s.names(filepath.Join("shared", object))
		if err != nil {
			return faults{}, err
		}
		if len(have)+len(want[Object(object)]) == 0 {
			f.surplus = append(f.surplus, filepath.Join("shared", object))
			continue
		}
		if slices.Equal(have, want[Object(object)]) {
			delete(want, Object(object)) // as nearly always
			continue
		}
		for _, file := range egress.Missing(have, want[Object(object)]) {
			f.surplus = append(f.surplus, filepath.Join("shared", object, file))
		}
		want[Object(object)] = egress.Missing(want[Object(object)], have)
	}
	for object, files := range want {
		for _, file := range files {
			f.missing[filepath.Join("shared", string(object), file)] = filepath.Join("..", "..", "attachments", file)
		}
	}
	left, err := s.unfinished(".", "attachments", "tables")
	f.surplus = append(f.surplus, left...)
	return f, err
}

// unfinished returns what is left of writes that were killed.
func (s Store) unfinished(dirs ...string) ([]string, error) {
	var paths []string
	for _, dir := range dirs {
		names, err := s.names(dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if strings.HasSuffix(name, unfinished) {
				paths = append(paths, filepath.Join(dir, name))
			}
		}
	}
	return paths, nil
}

// podFaults compares the folder pods with who has which address.
func (s Store) podFaults(owners map[netip.Addr]egress.Owner, f *faults) error {
	dir := filepath.Join(s.dir, "pods")
	names, err := s.names("pods")
	if err != nil {
		return err
	}
	right := 0
	buffer := make([]byte, unix.PathMax)
	for _, name := range names {
		pod, err := netip.ParseAddr(name)
		owner, wanted := owners[pod]
		if err != nil || !wanted {
			f.surplus = append(f.surplus, filepath.Join("pods", name))
			continue
		}
		n, err := unix.Readlink(dir+"/"+name, buffer)
		if err == nil && ownerOf(string(buffer[:n])) == owner {
			right++
		} else {
			f.missing[filepath.Join("pods", name)] = filepath.Join("..", "attachments", fileName(owner))
		}
	}
	if right == len(owners) {
		return nil
	}
	for pod, owner := range owners {
		if !slices.Contains(names, pod.String()) {
			f.missing[filepath.Join("pods", pod.String())] = filepath.Join("..", "attachments", fileName(owner))
		}
	}
	return nil
}

// names lists a folder of the record; one that is not there is empty.
func (s Store) names(dir string) ([]string, error) {
	f, err := os.Open(filepath.Join(s.dir, dir))
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the records: %w", err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list the records: %w", err)
	}
	slices.Sort(names)
	return names, nil
}

// Owners says which of these attachments has each pod address: the one that the
// record names, else the newest.
func (s Store) Owners(all []egress.Attachment) (map[netip.Addr]egress.Owner, error) {
	claims := map[netip.Addr][]egress.Attachment{}
	for _, a := range all {
		for _, f := range a.Flows {
			claims[f.Pod] = append(claims[f.Pod], a)
		}
	}
	owners := make(map[netip.Addr]egress.Owner, len(claims))
	for pod, claimants := range claims {
		newest := claimants[0]
		for _, a := range claimants[1:] {
			if a.Since.After(newest.Since) {
				newest = a
			}
		}
		owners[pod] = newest.Owner
		if len(claimants) == 1 {
			continue
		}
		owner, ok, err := s.OwnerOf(pod)
		if err != nil {
			return nil, err
		}
		if ok && slices.ContainsFunc(claimants, func(a egress.Attachment) bool { return a.Owner == owner }) {
			owners[pod] = owner
		}
	}
	return owners, nil
}

// users returns the files of the attachments that need each shared object, sorted
// where the attachments are.
func users(all []egress.Attachment) map[Object][]string {
	// Most attachments need the same as another; naming that takes a while.
	type needs struct {
		egress.Flow
		priority, mask uint32
		derived        bool
		counted        bool
	}
	known := map[needs][]Object{}
	users := map[Object][]string{}
	for _, a := range all {
		file := fileName(a.Owner)
		for _, f := range a.Flows {
			n := needs{f, a.RulePriority, a.MarkMask, len(a.MainRules(f)) > 0, a.Counters}
			n.Pod = f.Address // of the same family
			objects, ok := known[n]
			if !ok {
				objects = Shared(a, f)
				known[n] = objects
			}
			for _, o := range objects {
				if files := users[o]; len(files) == 0 || files[len(files)-1] != file {
					users[o] = append(files, file)
				}
			}
		}
	}
	return users
}

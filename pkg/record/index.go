package record

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"golang.org/x/sys/unix"
)

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
		_ = unix.Rmdir(filepath.Join(s.dir, "shared", string(o))) // fails while others need it
	}
	return nil
}

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
	// Two names are enough to find one that is not but's.
	names, err := some(filepath.Join(s.dir, "shared", string(o)))
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read who needs %s: %w", o, err)
	}
	var others []egress.Owner
	for _, n := range names {
		if owner := ownerOf(n); owner != but {
			others = append(others, owner)
		}
	}
	return others, nil
}

func without(flows, others []egress.Flow) []egress.Flow {
	return slices.DeleteFunc(slices.Clone(flows), func(f egress.Flow) bool { return slices.Contains(others, f) })
}

package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/egress"
)

// What is recorded of the node itself follows from the attachments, the configuration
// and the kernel. So a file that is damaged counts as none; a resync writes it again. One
// that could not be read this time is an error.
const (
	clusterFile  = "cluster.json"
	probeFile    = "probe.json"
	markedFile   = "marked.json"
	srcValidMark = "src_valid_mark"
)

// read returns what a file of the node itself has; ok is false where it does not exist.
func read[T any](s Store, path string) (v T, ok bool, err error) {
	v, err = load(s, path, func(data []byte) (v T, err error) { return v, json.Unmarshal(data, &v) })
	if err != nil && !absent(err) {
		return v, false, fmt.Errorf("the record %s could not be read: %w", path, err)
	}
	return v, err == nil, nil
}

// readSound takes a damaged file for none.
func readSound[T any](s Store, path string) (v T, ok bool, err error) {
	v, ok, err = read[T](s, path)
	if errors.Is(err, ErrDamaged) {
		err = nil
	}
	return v, ok, err
}

// Damaged returns the files of the node itself that are damaged, with why.
func (s Store) Damaged() (map[string]error, error) {
	files := map[string]func(Store, string) error{clusterFile: try[cluster], probeFile: try[Probe], markedFile: try[marked]}
	paths, err := s.tables()
	for _, path := range paths {
		files[path] = try[egress.Table]
	}
	damaged := map[string]error{}
	for path, try := range files {
		if err := try(s, path); errors.Is(err, ErrDamaged) {
			damaged[path] = errors.Unwrap(err)
		}
	}
	return damaged, err
}

func try[T any](s Store, path string) error {
	_, _, err := read[T](s, path)
	return err
}

func table(id uint32, f egress.Family) string {
	return filepath.Join(tables, fmt.Sprintf("%d-%d%s", id, f, suffix))
}

// Table returns what was last written into a link's table.
func (s Store) Table(id uint32, f egress.Family) (t egress.Table, ok bool, err error) {
	return readSound[egress.Table](s, table(id, f))
}

// Tables returns all that is recorded of links' tables.
func (s Store) Tables() (all []egress.Table, err error) {
	paths, err := s.tables()
	for _, path := range paths {
		t, ok, err := readSound[egress.Table](s, path)
		if err != nil {
			return nil, err
		}
		if ok {
			all = append(all, t)
		}
	}
	return all, err
}

// tables returns the paths of the files of tables.
func (s Store) tables() (paths []string, err error) {
	names, err := s.names(tables)
	for _, name := range names {
		if strings.HasSuffix(name, suffix) {
			paths = append(paths, filepath.Join(tables, name))
		}
	}
	return paths, err
}

// PutTable records what is about to be written into a link's table.
func (s Store) PutTable(t egress.Table) error { return s.put(table(t.Table, t.Family), t) }

// RemoveTable forgets a link's table.
func (s Store) RemoveTable(id uint32, f egress.Family) error {
	return s.remove(table(id, f)+unfinished, table(id, f))
}

// DiscardTable removes what a PutTable that was killed may have left.
func (s Store) DiscardTable(id uint32, f egress.Family) error {
	return s.remove(table(id, f) + unfinished)
}

// cluster is what its file has.
type cluster struct {
	Networks []netip.Prefix `json:"networks"`
}

// UnmarshalJSON also takes the list that 04f183a wrote.
func (c *cluster) UnmarshalJSON(data []byte) error {
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("[")) {
		return json.Unmarshal(data, &c.Networks)
	}
	type plain cluster
	return json.Unmarshal(data, (*plain)(c))
}

// Cluster returns the networks that were last written into the cluster sets.
func (s Store) Cluster() (networks []netip.Prefix, ok bool, err error) {
	c, ok, err := readSound[cluster](s, clusterFile)
	return c.Networks, ok, err
}

// PutCluster records what is about to be written into the cluster sets.
func (s Store) PutCluster(networks []netip.Prefix) error {
	if have, ok, err := s.Cluster(); err != nil || ok && slices.Equal(have, networks) {
		return err
	}
	return s.put(clusterFile, cluster{append([]netip.Prefix{}, networks...)})
}

// RemoveCluster forgets the cluster sets.
func (s Store) RemoveCluster() error { return s.remove(clusterFile) }

// Probe is the probe table that is to exist, and whether its links are those with
// an IPv6 default route, whichever these are.
type Probe struct {
	egress.Probe
	Follow bool `json:"follow"`
	// Yields: not while somebody else's probe table exists.
	Yields bool `json:"yields"`
}

// Probe returns the probe table that is to exist; ok is false where none is. The error may
// be [ErrDamaged].
func (s Store) Probe() (p Probe, ok bool, err error) { return read[Probe](s, probeFile) }

// PutProbe records the probe table that is about to be written.
func (s Store) PutProbe(p Probe) error { return s.put(probeFile, p) }

// RemoveProbe forgets the probe table.
func (s Store) RemoveProbe() error {
	err := s.remove(probeFile)
	s.Prune()
	return err
}

// MarkedLink is a link of which egress-ip has set the sysctl src_valid_mark, which was 0.
type MarkedLink struct {
	Index int    `json:"ifindex"`
	Name  string `json:"name"` // when it was set
}

// marked is what its file has.
type marked struct {
	Links []MarkedLink `json:"links"`
}

// MarkedLinks returns the links of which egress-ip has set src_valid_mark.
func (s Store) MarkedLinks() ([]MarkedLink, error) {
	m, _, err := readSound[marked](s, markedFile)
	return m.Links, err
}

// PutMarkedLinks records the links of which egress-ip has set src_valid_mark, or is about to.
func (s Store) PutMarkedLinks(links []MarkedLink) error { return s.put(markedFile, marked{links}) }

// RemoveMarkedLinks forgets them.
func (s Store) RemoveMarkedLinks() error { return s.remove(markedFile) }

// HasSrcValidMark reports whether an earlier version has set the sysctl for every link of the node.
func (s Store) HasSrcValidMark() (bool, error) { return exists(s.path(srcValidMark)) }

// RemoveSrcValidMark forgets that egress-ip has set the sysctl for every link of the node.
func (s Store) RemoveSrcValidMark() error { return s.remove(srcValidMark) }

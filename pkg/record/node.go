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

// known decodes a file of the node itself.
func (s Store) known(path string, v any) (ok bool, err error) {
	err = s.load(nil, path, func(data []byte) error { return json.Unmarshal(data, v) })
	switch {
	case err == nil:
		return true, nil
	case absent(err):
		return false, nil
	default:
		return false, fmt.Errorf("the record %s could not be read: %w", path, err)
	}
}

// orNone takes a damaged file for none.
func orNone[T any](v T, ok bool, err error) (T, bool, error) {
	if errors.Is(err, ErrDamaged) {
		err = nil
	}
	if !ok {
		v = *new(T)
	}
	return v, ok, err
}

// Damaged returns the files of the node itself that are damaged, with why.
func (s Store) Damaged() (map[string]error, error) {
	damaged := map[string]error{}
	try := func(path string, v any) {
		if _, err := s.known(path, v); errors.Is(err, ErrDamaged) {
			damaged[path] = errors.Unwrap(err)
		}
	}
	tables, err := s.names("tables")
	for _, name := range tables {
		if strings.HasSuffix(name, suffix) {
			try(filepath.Join("tables", name), new(egress.Table))
		}
	}
	try(clusterFile, new(cluster))
	try(probeFile, new(Probe))
	try(markedFile, new(marked))
	return damaged, err
}

// tableFile is what a file of a table has.
type tableFile struct {
	Version int `json:"version"`
	egress.Table
}

// Table returns what was last written into a link's table.
func (s Store) Table(id uint32, f egress.Family) (t egress.Table, ok bool, err error) {
	return s.readTable(table(id, f))
}

func (s Store) readTable(path string) (t egress.Table, ok bool, err error) {
	ok, err = s.known(path, &t)
	return orNone(t, ok, err)
}

// PutTable records what is about to be written into a link's table.
func (s Store) PutTable(t egress.Table) error {
	dir, name := filepath.Split(table(t.Table, t.Family))
	return s.write(dir, name, tableFile{Version, t})
}

// RemoveTable forgets a link's table.
func (s Store) RemoveTable(id uint32, f egress.Family) error {
	if err := s.DiscardTable(id, f); err != nil {
		return err
	}
	return remove(filepath.Join(s.dir, table(id, f)))
}

// DiscardTable removes what a PutTable that was killed may have left.
func (s Store) DiscardTable(id uint32, f egress.Family) error {
	return remove(filepath.Join(s.dir, table(id, f)) + unfinished)
}

// Tables returns all that is recorded of links' tables.
func (s Store) Tables() ([]egress.Table, error) {
	names, err := s.names("tables")
	if err != nil {
		return nil, err
	}
	var tables []egress.Table
	for _, name := range names {
		if !strings.HasSuffix(name, suffix) {
			continue
		}
		t, ok, err := s.readTable(filepath.Join("tables", name))
		if err != nil {
			return nil, err
		}
		if ok {
			tables = append(tables, t)
		}
	}
	return tables, nil
}

func table(id uint32, f egress.Family) string {
	return filepath.Join("tables", fmt.Sprintf("%d-%d%s", id, f, suffix))
}

const clusterFile = "cluster.json"

// cluster is what its file has.
type cluster struct {
	Version  int            `json:"version"`
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
	var c cluster
	ok, err = s.known(clusterFile, &c)
	return orNone(c.Networks, ok, err)
}

// PutCluster records what is about to be written into the cluster sets.
func (s Store) PutCluster(networks []netip.Prefix) error {
	if have, ok, err := s.Cluster(); err != nil || ok && slices.Equal(have, networks) {
		return err
	}
	return s.write("", clusterFile, cluster{Version, append([]netip.Prefix{}, networks...)})
}

// RemoveCluster forgets the cluster sets.
func (s Store) RemoveCluster() error { return remove(filepath.Join(s.dir, clusterFile)) }

// Probe is the probe table that is to exist, and whether its links are those with
// an IPv6 default route, whichever these are.
type Probe struct {
	egress.Probe
	Follow bool `json:"follow"`
	// Yields: not while somebody else's probe table exists.
	Yields bool `json:"yields"`
}

// probeContent is what the file of the probe table has.
type probeContent struct {
	Version int `json:"version"`
	Probe
}

const probeFile = "probe.json"

// Probe returns the probe table that is to exist; ok is false where none is. The error may
// be [ErrDamaged].
func (s Store) Probe() (p Probe, ok bool, err error) {
	ok, err = s.known(probeFile, &p)
	return p, ok, err
}

// PutProbe records the probe table that is about to be written.
func (s Store) PutProbe(p Probe) error { return s.write("", probeFile, probeContent{Version, p}) }

// RemoveProbe forgets the probe table.
func (s Store) RemoveProbe() error {
	err := remove(filepath.Join(s.dir, probeFile))
	s.Prune()
	return err
}

// MarkedLink is a link of which egress-ip has set the sysctl src_valid_mark, which was 0.
type MarkedLink struct {
	Index int    `json:"ifindex"`
	Name  string `json:"name"` // when it was set
}

const markedFile = "marked.json"

// marked is what its file has.
type marked struct {
	Version int          `json:"version"`
	Links   []MarkedLink `json:"links"`
}

// MarkedLinks returns the links of which egress-ip has set src_valid_mark.
func (s Store) MarkedLinks() ([]MarkedLink, error) {
	var m marked
	ok, err := s.known(markedFile, &m)
	links, _, err := orNone(m.Links, ok, err)
	return links, err
}

// PutMarkedLinks records the links of which egress-ip has set src_valid_mark, or is about to.
func (s Store) PutMarkedLinks(links []MarkedLink) error {
	return s.write("", markedFile, marked{Version, links})
}

// RemoveMarkedLinks forgets them.
func (s Store) RemoveMarkedLinks() error { return remove(filepath.Join(s.dir, markedFile)) }

// srcValidMark exists where a version that set net.ipv4.conf.all.src_valid_mark has done so.
const srcValidMark = "src_valid_mark"

// HasSrcValidMark reports whether egress-ip has set the sysctl for every link of the node.
func (s Store) HasSrcValidMark() (bool, error) { return exists(filepath.Join(s.dir, srcValidMark)) }

// RemoveSrcValidMark forgets that egress-ip has set the sysctl for every link of the node.
func (s Store) RemoveSrcValidMark() error {
	return remove(filepath.Join(s.dir, srcValidMark))
}

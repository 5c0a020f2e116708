package record

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/egress"
)

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

// Tables returns all that is recorded of links' tables.
func (s Store) Tables() ([]egress.Table, error) {
	names, err := s.names("tables")
	if err != nil {
		return nil, err
	}
	var tables []egress.Table
	for _, name := range names {
		if !strings.HasSuffix(name, ".json") {
			continue // an unfinished write
		}
		var t egress.Table
		if err := read(filepath.Join(s.dir, "tables", name), &t); absent(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		tables = append(tables, t)
	}
	return tables, nil
}

const clusterFile = "cluster.json"

// Cluster returns the networks that were last written into the cluster sets.
func (s Store) Cluster() (cluster []netip.Prefix, ok bool, err error) {
	err = read(filepath.Join(s.dir, clusterFile), &cluster)
	if absent(err) {
		return nil, false, nil
	}
	return cluster, err == nil, err
}

// PutCluster records what is about to be written into the cluster sets.
func (s Store) PutCluster(cluster []netip.Prefix) error {
	have, ok, err := s.Cluster()
	if err == nil && ok && slices.Equal(have, cluster) {
		return nil
	}
	return write(filepath.Join(s.dir, clusterFile), append([]netip.Prefix{}, cluster...))
}

// RemoveCluster forgets the cluster sets.
func (s Store) RemoveCluster() error { return remove(filepath.Join(s.dir, clusterFile)) }

// Probe is the probe table that is to stand, and whether its links are those with
// an IPv6 default route, whichever these are.
type Probe struct {
	egress.Probe
	Follow bool `json:"follow"`
	// Yields: not while somebody else's probe table stands.
	Yields bool `json:"yields"`
}

const probeFile = "probe.json"

// Probe returns the probe table that is to stand; ok is false where none is.
func (s Store) Probe() (p Probe, ok bool, err error) {
	err = read(filepath.Join(s.dir, probeFile), &p)
	if absent(err) {
		return Probe{}, false, nil
	}
	return p, err == nil, err
}

// PutProbe records the probe table that is about to be written.
func (s Store) PutProbe(p Probe) error { return write(filepath.Join(s.dir, probeFile), p) }

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

// MarkedLinks returns the links of which egress-ip has set src_valid_mark.
func (s Store) MarkedLinks() (links []MarkedLink, err error) {
	if err := read(filepath.Join(s.dir, markedFile), &links); err != nil && !absent(err) {
		return nil, err
	}
	return links, nil
}

// PutMarkedLinks records the links of which egress-ip has set src_valid_mark, or is about to.
func (s Store) PutMarkedLinks(links []MarkedLink) error {
	return write(filepath.Join(s.dir, markedFile), links)
}

// RemoveMarkedLinks forgets them.
func (s Store) RemoveMarkedLinks() error { return remove(filepath.Join(s.dir, markedFile)) }

// srcValidMark exists where a version that set net.ipv4.conf.all.src_valid_mark has done so.
const srcValidMark = "src_valid_mark"

// HasSrcValidMark reports whether egress-ip has set the sysctl for every link of the node.
func (s Store) HasSrcValidMark() bool {
	_, err := os.Lstat(filepath.Join(s.dir, srcValidMark))
	return err == nil
}

// RemoveSrcValidMark forgets that egress-ip has set the sysctl for every link of the node.
func (s Store) RemoveSrcValidMark() error {
	return remove(filepath.Join(s.dir, srcValidMark))
}

func (s Store) table(id uint32, f egress.Family) string {
	return filepath.Join(s.dir, "tables", fmt.Sprintf("%d-%d.json", id, f))
}

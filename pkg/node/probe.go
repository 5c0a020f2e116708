package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/kernel"
	"github.com/egress-ip/egress-ip/pkg/record"
)

// probeView is the probe table as it is to be, and as it is.
type probeView struct {
	record.Probe // as it is to be recorded; zero: none
	have         kernel.ProbeTable
	right        bool // the kernel has exactly the table of Probe
	recorded     bool // and the record says so
	foreign      bool // the table is somebody else's
}

// lookAtProbe reads the probe table, and compares it with what is decided, which may depend on it.
func (n *Node) lookAtProbe(decide func(have egress.Probe) (record.Probe, error)) (p probeView, err error) {
	if p.have, err = n.kernel.Probe(); err != nil {
		return p, err
	}
	if p.Probe, err = decide(p.have.Probe); err != nil {
		return p, err
	}
	if p.recorded, err = n.hasProbe(p.Probe); err != nil {
		return p, err
	}
	if p.right = p.have.Right && p.Equal(p.have.Probe); !p.right {
		p.foreign, err = n.kernel.ProbeTableIsForeign()
	}
	return p, err
}

// EnsureProbe makes the probe table what the configuration says, and records it.
// Where it is already, that takes one look.
func (n *Node) EnsureProbe(c config.Probe, pods []netip.Addr) error {
	for {
		p, err := n.lookAtProbe(func(have egress.Probe) (record.Probe, error) {
			want, err := n.desireProbe(c, have, pods)
			return record.Probe{Probe: want, Follow: len(c.Links) == 0, Yields: c.Mode == config.ProbeAuto}, err
		})
		switch {
		case err != nil || p.right && p.recorded:
			return err
		case p.foreign:
			slog.Warn("somebody else uses the nftables table ip6 egress_ip_probe; it is left alone, and probes are not translated")
			return nil
		case n.unlock != nil:
			return n.writeProbe(p)
		}
		// Look again with the lock: another call may be writing it.
		if err := n.lock(); err != nil {
			return err
		}
	}
}

// hasProbe reports whether exactly this is recorded; a table that is not to exist
// has no record.
func (n *Node) hasProbe(p record.Probe) (bool, error) {
	have, ok, err := n.store.Probe()
	if errors.Is(err, record.ErrDamaged) {
		return false, nil
	}
	return ok == p.Exists() && (!ok || have.Probe.Equal(p.Probe) && have.Follow == p.Follow && have.Yields == p.Yields), err
}

// writeProbe records before it writes, and forgets after it has removed.
func (n *Node) writeProbe(p probeView) error {
	if p.Exists() {
		if err := n.store.PutProbe(p.Probe); err != nil {
			return err
		}
	}
	if !p.right {
		if err := n.kernel.SetProbe(p.Probe.Probe); err != nil {
			return err
		}
	}
	if !p.Exists() {
		return n.store.RemoveProbe()
	}
	return nil
}

// desireProbe decides what is to exist. A table that exists keeps its uplinks
// where the configuration names none; following the node's routes is resync's.
func (n *Node) desireProbe(c config.Probe, have egress.Probe, pods []netip.Addr) (egress.Probe, error) {
	if c.Mode == config.ProbeNever {
		return egress.Probe{}, nil
	}
	want := egress.Probe{Links: c.Links, Source: c.Source, Translated: c.Translated}
	if have.Exists() {
		if len(want.Links) == 0 {
			want.Links = have.Links
		}
		return want, nil
	}
	if c.Mode == config.ProbeAuto {
		if foreign, err := n.kernel.HasForeignProbe(); err != nil || foreign {
			return egress.Probe{}, err
		}
	}
	if len(want.Links) == 0 {
		var err error
		if want.Links, err = n.uplinks(); err != nil {
			return egress.Probe{}, err
		}
	}
	if !want.Exists() {
		return egress.Probe{}, nil // no link by which a probe could come
	}
	if c.Mode == config.ProbeAuto && !slices.ContainsFunc(pods, isGlobal6) {
		global, err := n.haveGlobal6(want.Links)
		if err != nil || !global {
			return egress.Probe{}, err
		}
	}
	return want, nil
}

// lookAtRecordedProbe finds out what the last ADD has installed. Where the configuration names
// no links, those with an IPv6 default route count now; while there is none, those
// of before.
func (n *Node) lookAtRecordedProbe(v *view) error {
	p, err := n.lookAtProbe(func(have egress.Probe) (record.Probe, error) {
		p, _, err := n.store.Probe()
		if errors.Is(err, record.ErrDamaged) {
			return record.Probe{Probe: have}, nil // what exists stays, until the next ADD says what is to be
		}
		if err == nil && p.Follow {
			var links []string
			if links, err = n.uplinks(); len(links) > 0 {
				p.Links = links
			}
		}
		if err == nil && p.Yields && !have.Exists() {
			var yields bool
			if yields, err = n.kernel.HasForeignProbe(); yields {
				p = record.Probe{}
			}
		}
		return p, err
	})
	if err == nil && p.right && p.have.Exists() {
		if p.right, err = n.kernel.ProbeIsHooked(); err == nil && !p.right {
			p.foreign, err = n.kernel.ProbeTableIsForeign()
		}
	}
	v.probe = p
	return err
}

// isGlobal6 takes a unique local address for global, as the kernel's scope does.
func isGlobal6(a netip.Addr) bool { return a.Is6() && a.IsGlobalUnicast() }

// uplinks returns the names of the links with an IPv6 default route in main.
func (n *Node) uplinks() ([]string, error) {
	routes, err := n.kernel.AllRoutes(egress.IPv6, egress.MainTable)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range routes {
		if r.Dst.Bits() != 0 || r.Type != egress.Unicast {
			continue
		}
		name, err := n.kernel.Name(r.Link)
		if err != nil {
			return nil, fmt.Errorf("the link of %s: %w", r, err)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func (n *Node) haveGlobal6(names []string) (bool, error) {
	links, err := n.kernel.Links(names, nil)
	if err != nil {
		return false, err
	}
	addresses, err := n.kernel.Addresses()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(addresses, func(a egress.LinkAddress) bool {
		return a.Ordinary && isGlobal6(a.Network.Addr()) &&
			slices.ContainsFunc(links, func(l egress.Link) bool { return l.Index == a.Index })
	}), nil
}

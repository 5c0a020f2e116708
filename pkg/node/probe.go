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

// EnsureProbe makes the probe table what the configuration says, and records it.
// Where it is already, that takes one look.
func (n *Node) EnsureProbe(c config.Probe, pods []netip.Addr) error {
	for {
		have, err := n.kernel.Probe()
		if err != nil {
			return err
		}
		want, err := n.desireProbe(c, have.Probe, pods)
		if err != nil {
			return err
		}
		record := record.Probe{Probe: want, Follow: len(c.Links) == 0, Yields: c.Mode == config.ProbeAuto}
		recorded, err := n.hasProbe(record)
		if err != nil {
			return err
		}
		right := have.Right && want.Equal(have.Probe)
		if right && recorded {
			return nil
		}
		if foreign, err := n.kernel.ProbeTableIsForeign(); err != nil || foreign {
			if foreign {
				slog.Warn("somebody else uses the nftables table ip6 egress_ip_probe; it is left alone, and probes are not translated")
			}
			return err
		}
		if n.unlock != nil {
			return n.writeProbe(record, right)
		}
		// Look again with the lock: another call may be writing it.
		if err := n.lock(); err != nil {
			return err
		}
	}
}

// hasProbe reports whether exactly this is recorded; a table that is not to stand
// has no record.
func (n *Node) hasProbe(p record.Probe) (bool, error) {
	have, ok, err := n.store.Probe()
	if errors.Is(err, record.ErrDamaged) {
		return false, nil
	}
	if !ok {
		return !p.Stands(), err
	}
	return p.Stands() && have.Probe.Equal(p.Probe) && have.Follow == p.Follow && have.Yields == p.Yields, nil
}

// writeProbe records before it writes, and forgets after it has removed.
func (n *Node) writeProbe(p record.Probe, right bool) error {
	if p.Stands() {
		if err := n.store.PutProbe(p); err != nil {
			return err
		}
	}
	if !right {
		if err := n.kernel.SetProbe(p.Probe); err != nil {
			return err
		}
	}
	if !p.Stands() {
		return n.store.RemoveProbe()
	}
	return nil
}

// desireProbe decides what is to stand. A table that stands keeps its uplinks
// where the configuration names none; following the node's routes is resync's.
func (n *Node) desireProbe(c config.Probe, have egress.Probe, pods []netip.Addr) (egress.Probe, error) {
	if c.Mode == config.ProbeNever {
		return egress.Probe{}, nil
	}
	want := egress.Probe{Links: c.Links, Source: c.Source, Translated: c.Translated}
	if have.Stands() {
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
	if !want.Stands() {
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

// probeView is the probe table as it is to be, and as it is.
type probeView struct {
	record.Probe // as it is to be recorded; zero: none
	have         kernel.ProbeTable
	right        bool // the kernel has exactly the table of Probe
	recorded     bool // and the record says so
	foreign      bool // the table is somebody else's
}

// lookAtProbe finds out what the last ADD has put up. Where the configuration names
// no links, those with an IPv6 default route count now; while there is none, those
// of before.
func (n *Node) lookAtProbe(v *view) (err error) {
	p := &v.probe
	if p.have, err = n.kernel.Probe(); err != nil {
		return err
	}
	recorded, ok, err := n.store.Probe()
	damaged := errors.Is(err, record.ErrDamaged)
	if err != nil && !damaged {
		return err
	}
	p.recorded = !damaged
	if damaged {
		// What exists stays, until the next ADD says what is to be.
		p.Probe, p.right = record.Probe{Probe: p.have.Probe}, p.have.Right
	} else if !ok {
		p.right = !p.have.Stands() && p.have.Right
	} else {
		p.Probe = recorded
		if p.Follow {
			links, err := n.uplinks()
			if err != nil {
				return err
			}
			if len(links) > 0 {
				p.Links = links
			}
		}
		if p.Yields && !p.have.Stands() {
			yields, err := n.kernel.HasForeignProbe()
			if err != nil {
				return err
			}
			if yields {
				p.Probe = record.Probe{}
			}
		}
		p.recorded = p.Equal(recorded.Probe)
		p.right = p.have.Right && p.Equal(p.have.Probe)
	}
	if p.right && p.have.Stands() {
		if p.right, err = n.kernel.ProbeIsHooked(); err != nil {
			return err
		}
	}
	if p.right {
		return nil
	}
	p.foreign, err = n.kernel.ProbeTableIsForeign()
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

package node

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/egress"
)

// ensureProbe makes the probe table what the configuration says. Where it is
// already, that takes one look.
func (n *Node) ensureProbe(c config.Probe, pods []netip.Addr) error {
	for {
		have, right, err := n.kernel.Probe()
		if err != nil {
			return err
		}
		want, err := n.desireProbe(c, have, pods)
		if err != nil {
			return err
		}
		if right && want.Equal(have) {
			return nil
		}
		if foreign, err := n.kernel.ProbeTableIsForeign(); err != nil || foreign {
			if foreign {
				slog.Warn("somebody else uses the nftables table ip6 egress_ip_probe; it is left alone, and probes are not translated")
			}
			return err
		}
		if n.unlock != nil {
			return n.kernel.SetProbe(want)
		}
		// Look again with the lock: another call may be writing it.
		if err := n.lock(); err != nil {
			return err
		}
	}
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

package kernel

import (
	"fmt"
	"net/netip"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// mistranslated matches connections of pods to the outside that do not have their
// egress address.
type mistranslated struct {
	egress map[netip.Addr]netip.Addr // by pod
	// Destinations that are none of egress-ip's; single addresses, there are many, as hosts.
	inside []netip.Prefix
	hosts  map[netip.Addr]bool
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (m mistranslated) MatchConntrackFlow(c *netlink.ConntrackFlow) bool {
	pod, _ := netip.AddrFromSlice(c.Forward.SrcIP)
	want, ours := m.egress[pod.Unmap()]
	if !ours {
		return false
	}
	// Answers come from where packets really go, and to what they have as their source.
	from, _ := netip.AddrFromSlice(c.Reverse.SrcIP)
	to, _ := netip.AddrFromSlice(c.Reverse.DstIP)
	from, to = from.Unmap(), to.Unmap()
	if to == want || !from.IsGlobalUnicast() || m.hosts[from] {
		return false
	}
	for _, p := range m.inside {
		if p.Contains(from) {
			return false
		}
	}
	return true
}

// DeleteMistranslated drops the connections that the flows' pods have opened to the
// outside, inside being the destinations that are not, and that do not have the
// egress address.
func (k *Kernel) DeleteMistranslated(flows []egress.Flow, inside map[egress.Family][]netip.Prefix) error {
	if count, err := connections(); err != nil || count == 0 {
		return err
	}
	for _, family := range egress.Families {
		m := mistranslated{egress: map[netip.Addr]netip.Addr{}, hosts: map[netip.Addr]bool{}}
		for _, p := range inside[family] {
			if p.IsSingleIP() {
				m.hosts[p.Addr()] = true
			} else {
				m.inside = append(m.inside, p)
			}
		}
		for _, f := range flows {
			if f.Family() == family {
				m.egress[f.Pod] = f.Address
			}
		}
		if len(m.egress) == 0 {
			continue
		}
		ct, err := k.conntrack()
		if err != nil {
			return err
		}
		if err := deleteConnections(ct, unixFamily(family), m); err != nil {
			return fmt.Errorf("delete %s connections without their egress address: %w", family, err)
		}
	}
	return nil
}

func unixFamily(f egress.Family) netlink.InetFamily { return netlink.InetFamily(family(f)) }

// conntrack returns a socket for connections, opened when first asked for.
func (k *Kernel) conntrack() (*netlink.Handle, error) {
	if k.ct == nil {
		ct, err := openHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return nil, fmt.Errorf("open a conntrack socket: %w", err)
		}
		k.ct = ct
	}
	return k.ct, nil
}

// deleteConnections drops those that match one of the filters. The dump that it begins
// with is repeated as others are, with what is left.
func deleteConnections(ct *netlink.Handle, family netlink.InetFamily, filters ...netlink.CustomConntrackFilter) error {
	_, err := dump(func() ([]struct{}, error) {
		_, err := ct.ConntrackDeleteFilters(netlink.ConntrackTable, family, filters...)
		return nil, err
	})
	return err
}

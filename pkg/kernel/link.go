package kernel

import (
	"errors"
	"fmt"
	"net"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/vishvananda/netlink"
)

// Links returns the links with these names and indexes, each once; those that
// are not there are left out.
func (k *Kernel) Links(names []string, indexes []int) ([]egress.Link, error) {
	var links []egress.Link
	seen := map[int]bool{}
	add := func(l netlink.Link, err error) error {
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err != nil {
			return err
		}
		a := l.Attrs()
		if seen[a.Index] || a.Flags&net.FlagLoopback != 0 {
			return nil
		}
		seen[a.Index] = true
		var master netlink.Link
		if a.MasterIndex != 0 {
			if master, err = k.rt().LinkByIndex(a.MasterIndex); err != nil {
				return fmt.Errorf("read its master with index %d: %w", a.MasterIndex, err)
			}
		}
		links = append(links, egress.Link{
			Name: a.Name, Index: a.Index, Table: tableOf(master), Unfit: unfit(l, master),
			Up: a.Flags&net.FlagUp != 0, Carrier: a.Flags&net.FlagRunning != 0,
		})
		return nil
	}
	for _, name := range names {
		if err := add(k.rt().LinkByName(name)); err != nil {
			return nil, fmt.Errorf("read link %s: %w", name, noAnswer(err))
		}
	}
	for _, index := range indexes {
		if seen[index] {
			continue
		}
		if err := add(k.rt().LinkByIndex(index)); err != nil {
			return nil, fmt.Errorf("read link with index %d: %w", index, noAnswer(err))
		}
	}
	return links, nil
}

// tableOf returns where the routes of a link with this master are: the table of its VRF, or main.
func tableOf(master netlink.Link) uint32 {
	if vrf, ok := master.(*netlink.Vrf); ok {
		return vrf.Table
	}
	return egress.MainTable
}

// unfit says why a link cannot carry egress; it is empty for one that can. All other kinds of
// links are taken to be able to.
func unfit(l, master netlink.Link) string {
	if _, isVRF := master.(*netlink.Vrf); master != nil && !isVRF {
		name := master.Attrs().Name
		return fmt.Sprintf("it is a port of %s, which takes what arrives by it; choose %s, or the link that has its addresses", name, name)
	}
	switch l := l.(type) {
	case *netlink.Dummy, *netlink.Ifb:
		return fmt.Sprintf("it is a %s link, which drops what it is to send; choose the link by which packets are to leave", l.Type())
	case *netlink.IPVlan:
		// What such a link sends goes through netfilter and routing once more, in the network namespace of
		// the link below, and in mode l3s so does what it receives. Connection tracking takes the
		// translated packets for those of another connection where that is this namespace.
		below := l.NetNsID < 0 // in this one
		if l.Mode == netlink.IPVLAN_MODE_L3S || l.Mode == netlink.IPVLAN_MODE_L3 && below {
			return "it is an ipvlan link in mode l3 or l3s, whose packets are tracked twice, so that answers do not reach pods; use mode l2, a macvlan link, or the link below it"
		}
	}
	return ""
}

// Name returns the name of the link with this index.
func (k *Kernel) Name(index int) (string, error) {
	l, err := k.rt().LinkByIndex(index)
	if err != nil {
		return "", fmt.Errorf("read link with index %d: %w", index, noAnswer(err))
	}
	return l.Attrs().Name, nil
}

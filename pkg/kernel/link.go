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
		table, err := k.tableOf(a)
		if err != nil {
			return err
		}
		links = append(links, egress.Link{
			Name: a.Name, Index: a.Index, Table: table,
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

// tableOf returns where the routes of a link are: the table of its VRF, or main.
func (k *Kernel) tableOf(a *netlink.LinkAttrs) (uint32, error) {
	if a.MasterIndex == 0 {
		return egress.MainTable, nil
	}
	master, err := k.rt().LinkByIndex(a.MasterIndex)
	if err != nil {
		return 0, fmt.Errorf("read its master with index %d: %w", a.MasterIndex, err)
	}
	return tableOfMaster(master), nil
}

func tableOfMaster(master netlink.Link) uint32 {
	if vrf, ok := master.(*netlink.Vrf); ok {
		return vrf.Table
	}
	return egress.MainTable
}

// Name returns the name of the link with this index.
func (k *Kernel) Name(index int) (string, error) {
	l, err := k.rt().LinkByIndex(index)
	if err != nil {
		return "", fmt.Errorf("read link with index %d: %w", index, noAnswer(err))
	}
	return l.Attrs().Name, nil
}

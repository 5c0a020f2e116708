package node

import (
	"log/slog"
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/kernel"
)

// ensureSrcValidMark lets the strict reverse path filter see marks. Without them
// it looks the way back of an inbound connection to an annotated pod up by the
// source rule, finds the egress link, and drops what came in by another. Only
// IPv4 has the filter, and only a strict one minds.
func (n *Node) ensureSrcValidMark(a egress.Attachment) error {
	needed, err := n.needsSrcValidMark(a)
	if err != nil || !needed {
		return err
	}
	return n.setSrcValidMark()
}

// needsSrcValidMark reports whether the sysctl is to be set, and is not.
func (n *Node) needsSrcValidMark(a egress.Attachment) (bool, error) {
	if !slices.ContainsFunc(a.Flows, func(f egress.Flow) bool { return f.Family() == egress.IPv4 }) {
		return false, nil
	}
	set, err := kernel.SrcValidMark()
	if err != nil || set {
		return false, err
	}
	links, err := n.networkLinks()
	if err != nil {
		return false, err
	}
	return kernel.StrictReversePath(links)
}

func (n *Node) setSrcValidMark() error {
	if err := n.store.PutSrcValidMark(); err != nil {
		return err
	}
	slog.Info("rp_filter is strict, so net.ipv4.conf.all.src_valid_mark is set to 1")
	return kernel.SetSrcValidMark(true)
}

// networkLinks returns the names of the links with an IPv4 network, which pods'
// links do not have: by those, packets come in from elsewhere.
func (n *Node) networkLinks() ([]string, error) {
	addresses, err := n.kernel.Addresses()
	if err != nil {
		return nil, err
	}
	var indexes []int
	for _, a := range addresses {
		if a.Network.Addr().Is4() && !a.Network.IsSingleIP() {
			indexes = append(indexes, a.Index)
		}
	}
	links, err := n.kernel.Links(nil, indexes)
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	return names, err
}

// resetSrcValidMark puts back what ensureSrcValidMark has changed.
func (n *Node) resetSrcValidMark() error {
	if !n.store.HasSrcValidMark() {
		return nil
	}
	if err := kernel.SetSrcValidMark(false); err != nil {
		return err
	}
	return n.store.RemoveSrcValidMark()
}

package node

import (
	"slices"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/kernel"
)

// ensureSrcValidMark lets the reverse path filter see marks, for two reasons. As
// soon as there is a rule of anybody's, the kernel looks the way back of each IPv4
// packet up, filter or not (fib_validate_source in net/ipv4/fib_frontend.c); without
// its mark that look-up walks the list of source rules. And a strict filter would
// find the egress link for an inbound connection to an annotated pod, and drop what
// came in by another. IPv6 has no such look-up.
func (n *Node) ensureSrcValidMark(a egress.Attachment) error {
	needed, err := needsSrcValidMark(a)
	if err != nil || !needed {
		return err
	}
	return n.setSrcValidMark()
}

// needsSrcValidMark reports whether the sysctl is to be set, and is not.
func needsSrcValidMark(a egress.Attachment) (bool, error) {
	if !slices.ContainsFunc(a.Flows, func(f egress.Flow) bool { return f.Family() == egress.IPv4 }) {
		return false, nil
	}
	set, err := kernel.SrcValidMark()
	return !set, err
}

func (n *Node) setSrcValidMark() error {
	if err := n.store.PutSrcValidMark(); err != nil {
		return err
	}
	return kernel.SetSrcValidMark(true)
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

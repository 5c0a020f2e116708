package node

import (
	"errors"
	"slices"
	"strings"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/kernel"
	"github.com/egress-ip/egress-ip/pkg/record"
)

// unmarkedUplinks returns the uplinks of attachments on which the reverse path filter does
// not see marks; [egress.Uplinks] says why it has to. As soon as there is a rule of
// anybody's, the kernel looks the way back of each IPv4 packet up, filter or not
// (fib_validate_source in net/ipv4/fib_frontend.c). IPv6 has no such look-up.
func (n *Node) unmarkedUplinks(attachments []egress.Attachment, addresses []egress.LinkAddress) ([]record.MarkedLink, error) {
	if len(egress.Uplinks(attachments, nil, nil)) == 0 {
		return nil, nil // no flow of IPv4
	}
	byDefault, err := n.kernel.DefaultLinks(outside[egress.IPv4])
	if err != nil {
		return nil, err
	}
	links, err := n.kernel.Links(nil, egress.Uplinks(attachments, addresses, byDefault))
	if err != nil {
		return nil, err
	}
	var unmarked []record.MarkedLink
	for _, l := range links {
		marked, err := kernel.SrcValidMark(l.Name)
		if err != nil {
			return nil, err
		}
		if !marked {
			unmarked = append(unmarked, record.MarkedLink{Index: l.Index, Name: l.Name})
		}
	}
	return unmarked, nil
}

// recordMarks records the links of which src_valid_mark is about to be set, beside those of before.
func (n *Node) recordMarks(links []record.MarkedLink) error {
	before, err := n.markedLinks()
	if err != nil {
		return err
	}
	all := append(egress.Missing(before, links), links...)
	slices.SortFunc(all, func(a, b record.MarkedLink) int { return strings.Compare(a.Name, b.Name) })
	return n.store.PutMarkedLinks(all)
}

// resetForAllLinks puts back what versions have changed that set the sysctl for every link
// of the node.
func (n *Node) resetForAllLinks() error {
	if has, err := n.store.HasSrcValidMark(); err != nil || !has {
		return err
	}
	if err := kernel.SetSrcValidMark(kernel.AllLinks, false); err != nil {
		return err
	}
	return n.store.RemoveSrcValidMark()
}

// resetSrcValidMark puts back what egress-ip has changed, on links that still exist, by
// whatever name.
func (n *Node) resetSrcValidMark() error {
	links, err := n.markedLinks()
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range links {
		errs = append(errs, kernel.SetSrcValidMark(l.Name, false))
	}
	if err := errors.Join(append(errs, n.resetForAllLinks())...); err != nil {
		return err
	}
	return n.store.RemoveMarkedLinks()
}

// markedLinks returns those of the recorded links that exist, by their names of today.
func (n *Node) markedLinks() ([]record.MarkedLink, error) {
	recorded, err := n.store.MarkedLinks()
	if err != nil {
		return nil, err
	}
	var marked []record.MarkedLink
	for _, l := range recorded {
		links, err := n.kernel.Links(nil, []int{l.Index})
		if err != nil {
			return nil, err
		}
		for _, now := range links {
			marked = append(marked, record.MarkedLink{Index: now.Index, Name: now.Name})
		}
	}
	return marked, nil
}

// lookForUnmarked finds the uplinks without src_valid_mark. It comes behind what looks at addresses.
func (n *Node) lookForUnmarked(v *view) (err error) {
	v.forAllLinks, err = n.store.HasSrcValidMark()
	v.miss(err)
	if _, err := n.store.MarkedLinks(); err != nil { // what is to be added to them
		v.miss(err)
		return nil
	}
	v.unmarked, err = n.unmarkedUplinks(v.attached, v.addresses)
	return err
}

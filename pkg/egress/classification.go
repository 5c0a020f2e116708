package egress

import (
	"fmt"
	"net/netip"
)

// Classification is what one flow has in the table inet egress_ip: which link its
// packets are for, and which source they get there. Elements of three maps make
// it, with the owner as their comment.
type Classification struct {
	Pod     netip.Addr
	Link    string
	Index   int // ifindex
	Mark    uint32
	Address netip.Addr
	Owner   string // the container ID
}

// maxComment is how long nft lets a comment be (NFTNL_UDATA_COMMENT_MAXLEN).
const maxComment = 128

// Classification returns that of the flow.
func (a Attachment) Classification(f Flow) Classification {
	return Classification{
		Pod: f.Pod, Link: f.Link, Index: f.Index, Mark: f.Mark, Address: f.Address,
		Owner: a.ContainerID[:min(len(a.ContainerID), maxComment)],
	}
}

// String gives the translation as `nft list map` prints it, without the comment.
func (c Classification) String() string {
	return fmt.Sprintf("%s . %q : %s", c.Pod, c.Link, c.Address)
}

// Classes is all that a call has to say about the table inet egress_ip.
type Classes struct {
	Mask    uint32
	Cluster []netip.Prefix // as configured, both families
	Pods    []Classification
}

// Classes returns what the flows of an attachment have there.
func (a Attachment) Classes(flows ...Flow) Classes {
	c := Classes{Mask: a.MarkMask, Cluster: a.ClusterCIDRs}
	for _, f := range flows {
		c.Pods = append(c.Pods, a.Classification(f))
	}
	return c
}

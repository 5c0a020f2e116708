package egress

import (
	"fmt"
	"net/netip"
)

// SNAT is one element of the map snat4 or snat6: packets of a pod address that
// leave by a link get the egress address as their source.
type SNAT struct {
	Pod     netip.Addr
	Link    string
	Address netip.Addr
	Owner   string // the element's comment: the container ID
}

// String gives the element as `nft list map` prints it, without the comment.
func (s SNAT) String() string {
	return fmt.Sprintf("%s . %q : %s", s.Pod, s.Link, s.Address)
}

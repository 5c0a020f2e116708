package egress

import (
	"fmt"
	"net/netip"
)

// Address is an egress address that egress-ip has put on a link, as /32 or /128.
type Address struct {
	Link    int // ifindex
	Address netip.Addr
}

// String gives the address as `ip address` prints it, with the link behind.
func (a Address) String() string { return a.Named(Unnamed) }

// Named is String with the link's name.
func (a Address) Named(name LinkName) string {
	return fmt.Sprintf("%s on %s", Host(a.Address), name(a.Link))
}

package kernel

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Kernel holds the sockets to one network namespace.
type Kernel struct {
	rt  *netlink.Handle
	nft *nftables.Conn
	ct  *netlink.Handle // opened on first use, see conntrack.go

	// For requests that the library does not know, see route_message.go and, opened on
	// first use, conntrack.go.
	routeSocket, ctSocket *nl.SocketHandle
}

// Open connects to the network namespace of the calling thread.
func Open() (*Kernel, error) {
	rt, err := openHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open an rtnetlink socket: %w", err)
	}
	// With strict checks the kernel filters dumps by table, link and type
	// itself; a node may have 100,000 routes.
	if err := rt.SetStrictCheck(true); err != nil {
		rt.Close()
		return nil, fmt.Errorf("ask rtnetlink for strict checks: %w", err)
	}
	routeSocket, err := openRouteSocket()
	if err != nil {
		rt.Close()
		return nil, err
	}
	nft, err := openNFT(nftables.AsLasting())
	if err != nil {
		// A kernel without nf_tables, or a seccomp profile that refuses it. What needs no
		// nf_tables works; for the rest each use opens a socket of its own, and says why
		// it cannot.
		nft = &nftables.Conn{}
	}
	return &Kernel{rt: rt, nft: nft, routeSocket: routeSocket}, nil
}

// Close gives the sockets back.
func (k *Kernel) Close() {
	k.rt.Close()
	k.routeSocket.Close()
	_ = k.nft.CloseLasting() // nothing is left to lose
	if k.ct != nil {
		k.ct.Close()
	}
	if k.ctSocket != nil {
		k.ctSocket.Close()
	}
}

// gone reports whether an error says that the object, or what it hangs on, is
// not there, so that a delete has nothing left to do.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) ||
		errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL)
}

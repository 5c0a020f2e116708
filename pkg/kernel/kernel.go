package kernel

import (
	"errors"
	"sync/atomic"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Kernel holds the sockets to one network namespace. Those to rtnetlink and conntrack are
// opened on first use: a plain pod's ADD needs none.
type Kernel struct {
	nft     *nftables.Conn
	silent  atomic.Bool     // a connection to nf_tables was closed because its time was over, see openNFT
	lib, ct *netlink.Handle // see rt and conntrack.go

	// For requests that the library does not know, see route_message.go and conntrack.go.
	routeSocket, ctSocket *nl.SocketHandle

	known known // of the table inet egress_ip
}

// Open connects to the network namespace of the calling thread, which is the one that is to
// use it.
func Open() *Kernel {
	k := &Kernel{}
	var err error
	if k.nft, err = k.openNFT(nftables.AsLasting()); err != nil {
		// A kernel without nf_tables, or a seccomp profile that refuses it. What needs no
		// nf_tables works; for the rest each use opens a socket of its own, and says why
		// it cannot.
		k.nft = &nftables.Conn{}
	}
	return k
}

// rt is for the library's requests to rtnetlink. Where its socket cannot be opened, each
// use opens one of its own, and says why it cannot.
func (k *Kernel) rt() *netlink.Handle {
	if k.lib == nil {
		var err error
		if k.lib, err = openHandle(unix.NETLINK_ROUTE); err != nil {
			k.lib = &netlink.Handle{}
		}
	}
	return k.lib
}

// Close gives the sockets back.
func (k *Kernel) Close() {
	_ = k.nft.CloseLasting() // nothing is left to lose
	for _, library := range []*netlink.Handle{k.lib, k.ct} {
		if library != nil {
			library.Close()
		}
	}
	for _, socket := range []*nl.SocketHandle{k.routeSocket, k.ctSocket} {
		if socket != nil {
			socket.Close()
		}
	}
}

// gone reports whether an error says that the object, or what it hangs on, is
// not there, so that a delete has nothing left to do.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) ||
		errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EADDRNOTAVAIL)
}

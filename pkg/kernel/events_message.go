package kernel

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// Which events matter is decided here and not by a socket filter: a transaction's events
// come several to a datagram, of several tables perhaps, so a filter would need a loop.
// Classic BPF has none, and before Linux 6.8 a socket has 20 KiB for its options
// (net.core.optmem_max), too little for a copy of the code for each event.

// anyMatters reports whether one of a datagram's messages matters. What cannot be read does.
func anyMatters(datagram []byte, matters func(typ uint16, body []byte) bool) bool {
	for len(datagram) > 0 {
		if len(datagram) < unix.SizeofNlMsghdr {
			return true
		}
		length := int(binary.NativeEndian.Uint32(datagram))
		if length < unix.SizeofNlMsghdr || length > len(datagram) {
			return true
		}
		if matters(binary.NativeEndian.Uint16(datagram[4:]), datagram[unix.SizeofNlMsghdr:length]) {
			return true
		}
		datagram = datagram[min((length+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), len(datagram)):]
	}
	return false
}

// routeMatters leaves out routes of table local, which say no more than addresses do.
func routeMatters(typ uint16, body []byte) bool {
	const table = 4 // of struct rtmsg
	isRoute := typ == unix.RTM_NEWROUTE || typ == unix.RTM_DELROUTE
	return !isRoute || len(body) <= table || body[table] != unix.RT_TABLE_LOCAL
}

// nftMatters leaves out events of tables that are not named as ours are, or as the one of
// the same purpose is, and the end of a transaction. In every other message of nf_tables
// the table's name is the first attribute.
func nftMatters(typ uint16, body []byte) bool {
	if typ == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWGEN {
		return false
	}
	const header = 4 // struct nfgenmsg
	if len(body) < header {
		return true
	}
	a := attributes{left: body[header:]}
	return !a.next() || slices.Contains([]string{egressTable.Name, probeTable.Name, foreignProbeTable.Name}, a.string())
}

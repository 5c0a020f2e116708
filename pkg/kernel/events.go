package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// receiveBuffer is how many bytes of events the kernel keeps for a socket, at the
// most. What is lost beyond that is an event too, so it need not be larger.
const receiveBuffer = 4 << 20

// Events tells that something has changed which may matter: links, addresses,
// routes (but those of table local), rules, and the nftables tables inet egress_ip,
// ip6 egress_ip_probe and ip6 azureSLBProbe. The rest is read and forgotten. What has
// changed it does not say: events may be lost, and the answer to any is to look at everything.
type Events struct {
	C <-chan struct{} // one value, for any number of events since the last was taken

	sockets []eventSocket
	readers sync.WaitGroup
}

type eventSocket struct {
	*netlink.Conn
	family  int
	matters func(typ uint16, body []byte) bool // one message
	groups  []uint32
}

// eventSockets are the multicast groups that tell of what egress-ip writes, and
// of what it makes that from. Neighbours are not among them: they change all day.
func eventSockets() []eventSocket {
	return []eventSocket{
		{family: unix.NETLINK_ROUTE, matters: routeMatters, groups: []uint32{
			unix.RTNLGRP_LINK,
			unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
			unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
			unix.RTNLGRP_NEXTHOP, // a nexthop object changes routes without a word about them
			unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
			unix.RTNLGRP_IPV4_NETCONF, // rp_filter
		}},
		{family: unix.NETLINK_NETFILTER, matters: nftMatters, groups: []uint32{unix.NFNLGRP_NFTABLES}},
	}
}

// Subscribe opens the sockets, in the network namespace of the calling thread;
// events count from its return on. If one of the sockets cannot be read any
// longer, broken is called; Close ends that.
func Subscribe(broken func(error)) (*Events, error) {
	e, err := subscribe(receiveBuffer)
	if err != nil {
		return nil, fmt.Errorf("subscribe to the kernel's events: %w", err)
	}
	if err := e.start(broken); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// subscribe opens the sockets, for which the kernel keeps this many bytes.
func subscribe(buffer int) (*Events, error) {
	e := &Events{}
	for _, s := range eventSockets() {
		var err error
		if s.Conn, err = netlink.Dial(s.family, nil); err == nil {
			e.sockets = append(e.sockets, s)
			err = s.SetReadBuffer(buffer)
			for _, group := range s.groups {
				err = errors.Join(err, s.JoinGroup(group))
			}
		}
		if err != nil {
			e.Close()
			return nil, err
		}
	}
	return e, nil
}

// start calls broken if a socket cannot be read any longer.
func (e *Events) start(broken func(error)) error {
	c := make(chan struct{}, 1)
	e.C = c
	for _, s := range e.sockets {
		raw, err := s.SyscallConn()
		if err != nil {
			return fmt.Errorf("read the kernel's events: %w", err)
		}
		e.readers.Go(func() {
			if err := s.read(raw, c); err != nil {
				broken(fmt.Errorf("read the kernel's events: %w", err))
			}
		})
	}
	return nil
}

// Close gives the sockets back.
func (e *Events) Close() {
	for _, s := range e.sockets {
		_ = s.Close() // nothing is left to lose
	}
	e.readers.Wait()
}

// read says that there are events until the socket is closed. It sleeps in Go's
// poller: as long as nothing happens, it costs nothing.
func (s eventSocket) read(raw syscall.RawConn, c chan<- struct{}) error {
	buffer := make([]byte, 1<<16)
	for {
		var some bool
		var err error
		closed := raw.Read(func(fd uintptr) bool {
			some, err = s.take(int(fd), buffer)
			return some || err != nil
		})
		if closed != nil {
			return nil // by Close
		}
		if err != nil {
			return err
		}
		select {
		case c <- struct{}{}:
		default: // the last one has not been taken
		}
	}
}

// take takes what the socket has, up to an event that matters, and reports whether there was
// one. It goes on for a bounded time, and then there may be.
func (s eventSocket) take(fd int, buffer []byte) (some bool, err error) {
	for range 10000 {
		// With MSG_TRUNC it says how long the datagram was, also if that did not fit.
		n, _, err := unix.Recvfrom(fd, buffer, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
			return true, nil // one was lost
		case errors.Is(err, unix.EAGAIN):
			return false, nil
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return false, err
		case n > len(buffer) || anyMatters(buffer[:n], s.matters):
			return true, nil
		}
	}
	return true, nil
}

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

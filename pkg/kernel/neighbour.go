package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"golang.org/x/sys/unix"
)

// How long WhoHas waits for an answer in all, and when it asks once more.
const (
	whoHasWait  = 200 * time.Millisecond
	whoHasAgain = 80 * time.Millisecond
)

// Claim is an address that another host has.
type Claim struct {
	egress.Address
	MAC net.HardwareAddr // nil: it did not say
}

// WhoHas asks the links whether another host has one of these addresses: by an
// ARP probe (RFC 5227), then by a request, and by neighbour solicitations. It takes
// whoHasWait where nobody has. Links without neighbour resolution are not asked.
func (k *Kernel) WhoHas(addresses []egress.Address) (*Claim, error) {
	var asked []*question
	for _, a := range addresses {
		q, err := k.ask(a)
		if q != nil {
			defer unix.Close(q.fd)
			asked = append(asked, q)
		}
		if err != nil {
			return nil, fmt.Errorf("ask who has %s: %w", a, err)
		}
	}
	if len(asked) == 0 {
		return nil, nil
	}
	begin := time.Now()
	if claim, err := await(asked, begin.Add(whoHasAgain)); err != nil || claim != nil {
		return claim, err
	}
	for _, q := range asked {
		if err := q.send(q.own); err != nil {
			return nil, fmt.Errorf("ask who has %s: %w", q.address, err)
		}
	}
	return await(asked, begin.Add(whoHasWait))
}

// question is a socket that has asked for one address.
type question struct {
	neighbours
	address egress.Address
	own     netip.Addr // the link's own address in the same network, or 0.0.0.0
}

// ask asks by a probe, which names no sender. No answer to it comes to an ipvlan link, which is given
// what is sent to its addresses; so the next one names the address that the link has.
func (k *Kernel) ask(a egress.Address) (*question, error) {
	n, err := k.openNeighbours(a)
	if err != nil || n.mac == nil {
		return nil, err
	}
	q := &question{neighbours: n, address: a, own: netip.IPv4Unspecified()}
	all, err := k.Addresses()
	for _, on := range all {
		if on.Index == a.Link && on.Network.Contains(a.Address) {
			q.own = on.Network.Addr()
			break
		}
	}
	return q, errors.Join(err, q.send(netip.IPv4Unspecified()))
}

// send asks; IPv4 says who does.
func (q *question) send(sender netip.Addr) error {
	a := q.address.Address
	if a.Is4() {
		return q.sendARP(arpRequest, sender, a)
	}
	return q.sendICMPv6(solicitedNode(a), neighbourMessage(ndSolicit, 0, a, optionSource, q.mac))
}

// await returns the first answer until a time.
func await(asked []*question, until time.Time) (*Claim, error) {
	var fds []unix.PollFd
	for _, q := range asked {
		fds = append(fds, unix.PollFd{Fd: int32(q.fd), Events: unix.POLLIN})
	}
	buffer := make([]byte, 1500)
	for {
		// On a busy machine the time may be over by now, and poll takes a negative one for "without an end".
		within := max(time.Until(until), 0)
		if _, err := unix.Poll(fds, int(within.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return nil, err
		}
		for _, q := range asked {
			for {
				n, _, err := unix.Recvfrom(q.fd, buffer, unix.MSG_DONTWAIT)
				if err != nil {
					break // no more, or the link has gone, which the next step says
				}
				if claim := q.answer(buffer[:n]); claim != nil {
					return claim, nil
				}
			}
		}
		if within == 0 {
			return nil, nil
		}
	}
}

// answer reads what came in; nil where it says nothing about the address.
func (q *question) answer(message []byte) *Claim {
	claim := &Claim{Address: q.address}
	if q.address.Address.Is4() {
		if len(message) < arpLength {
			return nil
		}
		sender, target := netip.AddrFrom4([4]byte(message[14:18])), netip.AddrFrom4([4]byte(message[24:28]))
		// Its owner, or another host that probes for it at this moment.
		if sender != q.address.Address && !(sender.IsUnspecified() && target == q.address.Address) {
			return nil
		}
		claim.MAC = slices.Clone(message[8:14])
	} else {
		if len(message) < ndLength || message[0] != ndAdvert || netip.AddrFrom16([16]byte(message[8:24])) != q.address.Address {
			return nil
		}
		if option := message[ndLength:]; len(option) >= 8 && option[0] == optionTarget {
			claim.MAC = slices.Clone(option[2:8])
		}
	}
	if slices.Equal(claim.MAC, q.mac) {
		return nil
	}
	return claim
}

// announce tells the link that an address is here now, so that neighbours which
// knew it elsewhere send here at once: an ARP announcement as request and as
// reply (there are hosts that heed only one), an unsolicited neighbour advert.
func (k *Kernel) announce(a egress.Address) error {
	n, err := k.openNeighbours(a)
	if err == nil && n.mac != nil {
		defer unix.Close(n.fd)
		if a.Address.Is4() {
			err = errors.Join(n.sendARP(arpRequest, a.Address, a.Address), n.sendARP(arpReply, a.Address, a.Address))
		} else {
			err = n.sendICMPv6(allNodes, neighbourMessage(ndAdvert, ndRouter|ndOverride, a.Address, optionTarget, n.mac))
		}
	}
	if err != nil {
		return fmt.Errorf("announce %s: %w", a, err)
	}
	return nil
}

// neighbours is a socket to the neighbours on a link, for one address family.
type neighbours struct {
	fd, link int
	mac      net.HardwareAddr // the link's own; nil: it has no neighbour resolution, and so there is no socket
}

func (k *Kernel) openNeighbours(a egress.Address) (n neighbours, err error) {
	l, err := k.rt().LinkByIndex(a.Link)
	if err != nil || l.Attrs().RawFlags&unix.IFF_NOARP != 0 || len(l.Attrs().HardwareAddr) != 6 {
		return n, err
	}
	open := icmpv6Socket
	if a.Address.Is4() {
		open = arpSocket
	}
	fd, err := open(a.Link)
	if err != nil {
		return n, err
	}
	return neighbours{fd, a.Link, l.Attrs().HardwareAddr}, nil
}

// ARP (RFC 826) for IPv4 over Ethernet.
const (
	arpLength  = 28
	arpRequest = 1
	arpReply   = 2
)

func arpSocket(link int) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ARP), Ifindex: link}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (n neighbours) sendARP(operation uint16, sender, target netip.Addr) error {
	b := binary.BigEndian.AppendUint16(nil, 1) // Ethernet
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
	b = append(b, 6, 4) // lengths of the addresses
	b = binary.BigEndian.AppendUint16(b, operation)
	b = slices.Concat(b, n.mac, sender.AsSlice(), make([]byte, 6), target.AsSlice())
	all := [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	return unix.Sendto(n.fd, b, 0, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ARP), Ifindex: n.link, Halen: 6, Addr: all})
}

// bigEndian turns a number of the host into the network's order.
func bigEndian(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// Neighbour discovery (RFC 4861).
const (
	ndLength     = 24 // without options
	ndSolicit    = 135
	ndAdvert     = 136
	ndRouter     = 0x80 // the kernel says so too, of a node that forwards
	ndOverride   = 0x20
	optionSource = 1
	optionTarget = 2
)

var allNodes = netip.MustParseAddr("ff02::1")

// solicitedNode is the group of those whose address ends in the same 24 bits (RFC 4291).
func solicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	copy(b[:], netip.MustParseAddr("ff02::1:ff00:0").AsSlice()[:13])
	return netip.AddrFrom16(b)
}

// icmpv6Socket takes in neighbour adverts of one link alone.
func icmpv6Socket(link int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return -1, err
	}
	var filter unix.ICMPv6Filter
	for i := range filter.Data {
		filter.Data[i] = ^uint32(0) // a set bit blocks its type
	}
	filter.Data[ndAdvert/32] &^= 1 << (ndAdvert % 32)
	err = errors.Join(
		unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &filter),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, link))
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// neighbourMessage leaves the checksum to the kernel.
func neighbourMessage(icmpType, flags byte, target netip.Addr, option byte, mac net.HardwareAddr) []byte {
	return slices.Concat([]byte{icmpType, 0, 0, 0, flags, 0, 0, 0}, target.AsSlice(), []byte{option, 1}, mac)
}

func (n neighbours) sendICMPv6(to netip.Addr, message []byte) error {
	return unix.Sendto(n.fd, message, 0, &unix.SockaddrInet6{Addr: to.As16(), ZoneId: uint32(n.link)})
}

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
		if err != nil {
			return nil, fmt.Errorf("ask who has %s: %w", a, err)
		}
		if q != nil {
			defer unix.Close(q.fd)
			asked = append(asked, q)
		}
	}
	if len(asked) == 0 {
		return nil, nil
	}
	begin := time.Now()
	again := begin.Add(whoHasAgain)
	for {
		now := time.Now()
		if now.Sub(begin) >= whoHasWait {
			return nil, nil
		}
		if now.After(again) {
			again = begin.Add(whoHasWait)
			for _, q := range asked {
				if err := q.send(q.own); err != nil {
					return nil, fmt.Errorf("ask who has %s: %w", q.address, err)
				}
			}
		}
		claim, err := await(asked, min(time.Until(again), time.Until(begin.Add(whoHasWait))))
		if err != nil || claim != nil {
			return claim, err
		}
	}
}

// question is a socket that has asked for one address.
type question struct {
	address egress.Address
	mac     net.HardwareAddr // the link's own
	own     netip.Addr       // the link's own address in the same network, or 0.0.0.0
	fd      int
}

func (k *Kernel) ask(a egress.Address) (*question, error) {
	mac, err := k.resolves(a.Link)
	if err != nil || mac == nil {
		return nil, err
	}
	own, err := k.ownAddress(a)
	if err != nil {
		return nil, err
	}
	q := &question{address: a, mac: mac, own: own}
	if a.Address.Is4() {
		q.fd, err = arpSocket(a.Link)
	} else {
		q.fd, err = icmpv6Socket(a.Link)
	}
	if err != nil {
		return nil, err
	}
	if err := q.send(netip.IPv4Unspecified()); err != nil {
		unix.Close(q.fd)
		return nil, err
	}
	return q, nil
}

// ownAddress returns the address that a link has in the network of another one. A probe
// names none, so no answer to it comes to an ipvlan link, which is given what is sent to
// its addresses.
func (k *Kernel) ownAddress(a egress.Address) (netip.Addr, error) {
	all, err := k.Addresses()
	i := slices.IndexFunc(all, func(on egress.LinkAddress) bool {
		return on.Index == a.Link && on.Network.Contains(a.Address)
	})
	if i < 0 {
		return netip.IPv4Unspecified(), err
	}
	return all[i].Network.Addr(), nil
}

// resolves returns the MAC of a link with neighbour resolution, nil for others.
func (k *Kernel) resolves(index int) (net.HardwareAddr, error) {
	l, err := k.rt().LinkByIndex(index)
	if err != nil {
		return nil, err
	}
	a := l.Attrs()
	if a.RawFlags&unix.IFF_NOARP != 0 || len(a.HardwareAddr) != 6 {
		return nil, nil
	}
	return a.HardwareAddr, nil
}

// send asks; IPv4 says who does.
func (q *question) send(sender netip.Addr) error {
	if q.address.Address.Is4() {
		return sendARP(q.fd, q.address.Link, arpRequest, q.mac, sender, q.address.Address)
	}
	return sendICMPv6(q.fd, q.address.Link, solicitedNode(q.address.Address),
		neighbourMessage(ndSolicit, 0, q.address.Address, optionSource, q.mac))
}

// await returns the first answer within a time.
func await(asked []*question, within time.Duration) (*Claim, error) {
	var fds []unix.PollFd
	for _, q := range asked {
		fds = append(fds, unix.PollFd{Fd: int32(q.fd), Events: unix.POLLIN})
	}
	// On a busy machine the time may be over by now, and poll takes a negative one for "without an end".
	if _, err := unix.Poll(fds, int(max(within, 0).Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
		return nil, err
	}
	for _, q := range asked {
		for {
			buffer := make([]byte, 1500)
			n, _, err := unix.Recvfrom(q.fd, buffer, unix.MSG_DONTWAIT)
			if err != nil {
				break // no more, or the link has gone, which the next step says
			}
			if claim := q.answer(buffer[:n]); claim != nil {
				return claim, nil
			}
		}
	}
	return nil, nil
}

// answer reads what came in; nil where it says nothing about the address.
func (q *question) answer(message []byte) *Claim {
	if q.address.Address.Is4() {
		if len(message) < arpLength {
			return nil
		}
		mac := net.HardwareAddr(slices.Clone(message[8:14]))
		sender, target := netip.AddrFrom4([4]byte(message[14:18])), netip.AddrFrom4([4]byte(message[24:28]))
		// Its owner, or another host that probes for it at this moment.
		has := sender == q.address.Address || sender.IsUnspecified() && target == q.address.Address
		if !has || slices.Equal(mac, q.mac) {
			return nil
		}
		return &Claim{q.address, mac}
	}
	if len(message) < ndLength || message[0] != ndAdvert || netip.AddrFrom16([16]byte(message[8:24])) != q.address.Address {
		return nil
	}
	claim := &Claim{Address: q.address}
	if option := message[ndLength:]; len(option) >= 8 && option[0] == optionTarget {
		claim.MAC = net.HardwareAddr(slices.Clone(option[2:8]))
	}
	if slices.Equal(claim.MAC, q.mac) {
		return nil
	}
	return claim
}

// Announce tells the link that an address is here now, so that neighbours which
// knew it elsewhere send here at once: an ARP announcement as request and as
// reply (there are hosts that heed only one), an unsolicited neighbour advert.
func (k *Kernel) Announce(a egress.Address) error {
	if err := k.announce(a); err != nil {
		return fmt.Errorf("announce %s: %w", a, err)
	}
	return nil
}

func (k *Kernel) announce(a egress.Address) error {
	mac, err := k.resolves(a.Link)
	if err != nil || mac == nil {
		return err
	}
	if a.Address.Is4() {
		fd, err := arpSocket(a.Link)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return errors.Join(
			sendARP(fd, a.Link, arpRequest, mac, a.Address, a.Address),
			sendARP(fd, a.Link, arpReply, mac, a.Address, a.Address))
	}
	fd, err := icmpv6Socket(a.Link)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return sendICMPv6(fd, a.Link, allNodes, neighbourMessage(ndAdvert, ndRouter|ndOverride, a.Address, optionTarget, mac))
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

func sendARP(fd, link int, operation uint16, mac net.HardwareAddr, sender, target netip.Addr) error {
	b := binary.BigEndian.AppendUint16(nil, 1) // Ethernet
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
	b = append(b, 6, 4) // lengths of the addresses
	b = binary.BigEndian.AppendUint16(b, operation)
	b = slices.Concat(b, mac, sender.AsSlice(), make([]byte, 6), target.AsSlice())
	to := &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ARP), Ifindex: link, Halen: 6}
	copy(to.Addr[:], []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	return unix.Sendto(fd, b, 0, to)
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

func sendICMPv6(fd, link int, to netip.Addr, message []byte) error {
	return unix.Sendto(fd, message, 0, &unix.SockaddrInet6{Addr: to.As16(), ZoneId: uint32(link)})
}

// solicitedNode is the group of those whose address ends in the same 24 bits (RFC 4291).
func solicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte(slices.Concat(netip.MustParseAddr("ff02::1:ff00:0").AsSlice()[:13], b[13:])))
}

// bigEndian turns a number of the host into the network's order.
func bigEndian(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

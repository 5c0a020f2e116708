package nettest

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// askTimeout is for the whole exchange.
const askTimeout = time.Second

// Ask asks the who-am-I server at an address like "203.0.113.80:8080", over "tcp" or "udp", from inside the namespace:
// the result is the source address that the server saw. UDP is one datagram, never sent again. The zone of a
// link-local address is the name of a link of this namespace. No answer Within a second is an error.
func (n *Namespace) Ask(network, address string) (netip.Addr, error) {
	return n.AskFrom(network, netip.Addr{}, address)
}

// AskFrom is Ask from a socket bound to the local address; the zero address leaves the choice to the kernel.
func (n *Namespace) AskFrom(network string, local netip.Addr, address string) (netip.Addr, error) {
	saw, err := n.ask(network, local, address)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("namespace %s: ask %s %s: %w", n.name, network, address, err)
	}
	return saw, nil
}

func (n *Namespace) ask(network string, local netip.Addr, address string) (netip.Addr, error) {
	remote, err := netip.ParseAddrPort(address)
	if err != nil {
		return netip.Addr{}, err
	}
	server, err := n.numberZone(remote.Addr())
	if err != nil {
		return netip.Addr{}, err
	}
	deadline := time.Now().Add(Within(askTimeout))
	dialer := net.Dialer{Deadline: deadline}
	if local.IsValid() {
		if local, err = n.numberZone(local); err != nil {
			return netip.Addr{}, err
		}
		dialer.LocalAddr = localAddress(network, local)
	}
	var conn net.Conn
	err = n.inside(func() (err error) {
		conn, err = dialer.Dial(network, netip.AddrPortFrom(server, remote.Port()).String())
		return err
	})
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return netip.Addr{}, err
	}
	if network == "udp" {
		if _, err := conn.Write([]byte("?")); err != nil {
			return netip.Addr{}, err
		}
	}
	answer := make([]byte, 64) // an IPv6 address as text has at most 45 bytes, and comes in one segment
	length, err := conn.Read(answer)
	if err != nil {
		return netip.Addr{}, err
	}
	return netip.ParseAddr(string(answer[:length]))
}

// numberZone replaces a link's name by its ifindex. net would look the name up in a cache that is one for all
// namespaces of the process.
func (n *Namespace) numberZone(address netip.Addr) (netip.Addr, error) {
	if address.Zone() == "" {
		return address, nil
	}
	link, err := n.netlink.LinkByName(address.Zone())
	if err != nil {
		return netip.Addr{}, fmt.Errorf("zone of %s: %w", address, err)
	}
	return address.WithZone(strconv.Itoa(link.Attrs().Index)), nil
}

func localAddress(network string, local netip.Addr) net.Addr {
	if network == "udp" {
		return net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
}

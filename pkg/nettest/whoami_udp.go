package nettest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// listenUDP opens a socket for "udp4" or "udp6" that is told which address each datagram was sent to.
func listenUDP(network, address string) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		controlErr := raw.Control(func(fd uintptr) {
			if network == "udp4" {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
			} else {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
			}
		})
		return errors.Join(controlErr, err)
	}}
	conn, err := config.ListenPacket(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// answerUDP ends when the connection is closed. It uses the system calls and not net's reads and writes: those turn
// a link-local peer's ifindex into a name through a cache that is one for all namespaces of the process.
func answerUDP(t T, conn *net.UDPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Logf("who-am-I server: %v", err)
		return
	}
	question, control := make([]byte, 64), make([]byte, 128)
	for {
		var peer unix.Sockaddr
		var controlLen int
		var err error
		closed := raw.Read(func(fd uintptr) bool {
			_, controlLen, _, peer, err = unix.Recvmsg(int(fd), question, control, 0)
			return !errors.Is(err, unix.EAGAIN)
		})
		if closed != nil {
			return
		}
		if err != nil {
			continue // EINTR, or a datagram with a bad checksum: as if it had not come
		}
		answer := []byte(socketAddress(peer).String())
		_ = raw.Control(func(fd uintptr) {
			// An answer that cannot be sent is a lost datagram: the peer times out.
			_ = unix.Sendmsg(int(fd), answer, answerFrom(control[:controlLen]), peer, unix.MSG_DONTWAIT)
		})
	}
}

// answerFrom turns the control message "sent to this address, came by that link" into "send from this address". The
// link is left out: the answer goes where the routes lead.
func answerFrom(control []byte) []byte {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO:
			return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: [4]byte(m.Data[4:8])}) // behind the ifindex
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO:
			return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: [16]byte(m.Data[:16])})
		}
	}
	return nil
}

// socketAddress is the IP address, without a zone.
func socketAddress(address unix.Sockaddr) netip.Addr {
	switch a := address.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(a.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(a.Addr).Unmap()
	}
	return netip.Addr{}
}

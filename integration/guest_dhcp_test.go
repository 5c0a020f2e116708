//go:build guest

package integration

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Messages of DHCP (RFC 2131) and their options (RFC 2132).
const (
	dhcpServerPort, dhcpClientPort = 67, 68
	dhcpHeader                     = 240 // with the cookie before the options

	dhcpDiscover, dhcpOffer, dhcpRequest, dhcpAck = 1, 2, 3, 5

	optionMask, optionRouter, optionLease, optionType, optionServer = 1, 3, 51, 53, 54
)

// serveDHCP gives the node its address on enp7s0, and the router for its default route, until the test ends.
func serveDHCP(t *testing.T, router *nettest.Namespace) {
	t.Helper()
	var fd int
	var err error
	router.Do(t, func() { fd, err = dhcpSocket(nettest.RouterSecondLink) })
	require.NoError(t, err)
	var serving sync.WaitGroup
	t.Cleanup(func() {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR) // ends the reading; it says that nobody is connected
		serving.Wait()
		unix.Close(fd)
	})
	serving.Go(func() {
		request := make([]byte, 1500)
		for {
			n, _, err := unix.Recvfrom(fd, request, 0)
			if err != nil || n == 0 {
				return
			}
			if answer := dhcpAnswer(request[:n]); answer != nil {
				_ = unix.Sendto(fd, answer, 0, dhcpPeer(request)) // the client asks again
			}
		}
	})
}

func dhcpSocket(link string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
	}
	if err == nil {
		err = unix.BindToDevice(fd, link)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: dhcpServerPort})
	}
	return fd, err
}

// dhcpPeer is where the answer goes: a client that has an address gets it there.
func dhcpPeer(request []byte) unix.Sockaddr {
	if client := [4]byte(request[12:16]); client != [4]byte{} {
		return &unix.SockaddrInet4{Port: dhcpClientPort, Addr: client}
	}
	return &unix.SockaddrInet4{Port: dhcpClientPort, Addr: [4]byte{255, 255, 255, 255}}
}

// dhcpAnswer is the offer for a discover and the acknowledgement for a request, or nil.
func dhcpAnswer(request []byte) []byte {
	kind := byte(0)
	switch dhcpType(request) {
	case dhcpDiscover:
		kind = dhcpOffer
	case dhcpRequest:
		kind = dhcpAck
	default:
		return nil
	}
	address, router := netip.MustParseAddr(nettest.SecondIPv4).As4(), netip.MustParseAddr(nettest.SecondGatewayIPv4).As4()
	answer := make([]byte, dhcpHeader, 576)
	copy(answer, request[:44]) // the transaction, and the client's hardware address
	answer[0] = 2              // a reply
	copy(answer[16:], address[:])
	copy(answer[236:], request[236:dhcpHeader])
	option := func(code byte, value ...byte) { answer = append(append(answer, code, byte(len(value))), value...) }
	option(optionType, kind)
	option(optionServer, router[:]...)
	option(optionLease, binary.BigEndian.AppendUint32(nil, 3600)...)
	option(optionMask, 255, 255, 255, 0)
	option(optionRouter, router[:]...)
	answer = append(answer, 255)
	return append(answer, make([]byte, 300-min(300, len(answer)))...)
}

// dhcpType is the value of the option of that name, 0 if there is none.
func dhcpType(request []byte) byte {
	if len(request) < dhcpHeader {
		return 0
	}
	for options := request[dhcpHeader:]; len(options) >= 2; {
		code, length := options[0], int(options[1])
		switch {
		case code == 0: // padding
			options = options[1:]
			continue
		case code == optionType && len(options) >= 3:
			return options[2]
		case len(options) < 2+length:
			return 0
		}
		options = options[2+length:]
	}
	return 0
}

package nettest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// ServeWhoAmI answers every TCP connection and every UDP datagram to the port, of both families and to any address of
// the namespace, with the peer's IP address as text. A UDP answer comes from the address that was asked.
// Cleanup stops it.
func (n *Namespace) ServeWhoAmI(t T, port uint16) {
	t.Helper()
	address := fmt.Sprintf(":%d", port)
	var tcp net.Listener
	var udp4, udp6 *net.UDPConn
	var err4, err6, errTCP error
	// The sockets stay in the namespace in which they were made, and so do the connections accepted from them.
	n.Do(t, func() {
		tcp, errTCP = (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
		udp4, err4 = listenUDP("udp4", address)
		udp6, err6 = listenUDP("udp6", address)
	})
	var serving sync.WaitGroup
	t.Cleanup(func() {
		if errTCP == nil {
			tcp.Close()
		}
		if err4 == nil {
			udp4.Close()
		}
		if err6 == nil {
			udp6.Close()
		}
		serving.Wait()
	})
	if err := errors.Join(errTCP, err4, err6); err != nil {
		t.Fatalf("namespace %s: who-am-I server on port %d: %v", n.name, port, err)
	}
	serving.Go(func() { answerTCP(t, tcp) })
	serving.Go(func() { answerUDP(t, udp4) })
	serving.Go(func() { answerUDP(t, udp6) })
}

// answerTCP ends when the listener is closed.
func answerTCP(t T, listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				t.Logf("who-am-I server: %v", err)
			}
			return
		}
		peer := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
		// The answer fits into an empty send buffer, so this never waits; that the peer is gone is the peer's affair.
		_, _ = conn.Write([]byte(peer.Unmap().WithZone("").String()))
		conn.Close()
	}
}

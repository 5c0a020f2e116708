package main

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/vishvananda/netlink"
)

// streamNode is a node between pods and a server that answer, other than those
// of a wire.
type streamNode struct {
	*node
	client *nettest.Namespace // of all pods
	server *nettest.Namespace
	// listeners of the server, by family, for as long as the node stands: one that is
	// closed lives on in processes that are forked at that moment.
	listeners map[string]net.Listener
}

// podVia is the pods' next hop for IPv4.
const podVia = "169.254.1.1"

func (e experiment) newStreamNode(s *scope, i, pods int) *streamNode {
	system := e.systems[i]
	label := fmt.Sprintf("%s, %d pods, streams", system.label, pods)
	n := &streamNode{client: nettest.New(s, label+", pods"), server: nettest.New(s, label+", server"), listeners: map[string]net.Listener{}}
	n.node = newNodeBetween(s, n.client, n.server, 0, label, pods, e.rpFilter)
	system.attach(s, n.node)
	end := n.ends[podsLink]
	via := n.Link(s, podsLink).Attrs().HardwareAddr
	err := n.client.Netlink().NeighAdd(&netlink.Neigh{
		LinkIndex: n.client.Index(s, end), State: netlink.NUD_PERMANENT, IP: net.ParseIP(podVia), HardwareAddr: via,
	})
	s.must(err)
	for _, f := range families {
		n.neighbour(s, podsLink, f.podVia, n.client.Link(s, end).Attrs().HardwareAddr)
		for _, pod := range n.sending(f) {
			n.client.AddAddress(s, end, fmt.Sprintf("%s/%d", pod, f.bits))
		}
		for link, gateway := range f.gateways {
			n.neighbour(s, link, gateway, n.server.Link(s, n.ends[link]).Attrs().HardwareAddr)
			n.server.AddAddress(s, n.ends[link], netip.PrefixFrom(netip.MustParseAddr(gateway), netip.MustParsePrefix(f.network).Bits()).String())
		}
		n.server.AddAddress(s, "lo", fmt.Sprintf("%s/%d", f.server, f.bits))
		n.listen(s, f)
		// Where nothing is translated, what a pod sends is answered all the same.
		n.server.AddRoute(s, nettest.Route{Dst: f.pods, Via: f.second, Link: n.ends[nettest.SecondLink]})
	}
	n.client.AddRoute(s, nettest.Route{Dst: defaultRoute(families[0]), Via: podVia, Link: end, OnLink: true})
	n.client.AddRoute(s, nettest.Route{Dst: defaultRoute(families[1]), Via: n.LinkLocal(s, podsLink).String(), Link: end})
	return n
}

func (n *streamNode) listen(s *scope, f family) {
	at := netip.AddrPortFrom(netip.MustParseAddr(f.server), serverPort)
	var listener net.Listener
	var err error
	n.server.Do(s, func() { listener, err = net.Listen("tcp", at.String()) })
	s.must(err)
	s.Cleanup(func() { listener.Close() })
	n.listeners[f.name] = listener
}

// sending are the pods that have streams: the last annotated one and a plain one.
func (n *streamNode) sending(f family) []netip.Addr {
	return []netip.Addr{f.pod(n.pods), f.pod(firstPlain)}
}

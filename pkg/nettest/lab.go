package nettest

import (
	"sync/atomic"
)

// What the lab is made of: the node's links and their addresses, the router's addresses on them, and the server.
const (
	PrimaryLink        = "eth0"
	PrimaryIPv4        = "192.0.2.10"
	PrimaryIPv6        = "2001:db8:1::10"
	PrimaryGatewayIPv4 = "192.0.2.1"
	PrimaryGatewayIPv6 = "2001:db8:1::1"

	SecondLink        = "enp7s0"
	SecondIPv4        = "192.168.124.10"
	SecondIPv6        = "fd00:124::10"
	SecondGatewayIPv4 = "192.168.124.1"
	SecondGatewayIPv6 = "fd00:124::1"

	ThirdLink        = "enp8s0"
	ThirdIPv4        = "192.168.125.10"
	ThirdIPv6        = "fd00:125::10"
	ThirdGatewayIPv4 = "192.168.125.1"
	ThirdGatewayIPv6 = "fd00:125::1"

	ServerIPv4        = "203.0.113.80"
	ServerIPv6        = "2001:db8:80::80"
	ServerGatewayIPv4 = "203.0.113.1"
	ServerGatewayIPv6 = "2001:db8:80::1"

	WhoAmIPort    = 8080
	ServerAskIPv4 = ServerIPv4 + ":8080" // for Ask
	ServerAskIPv6 = "[" + ServerIPv6 + "]:8080"
)

// The router's links.
const (
	RouterPrimaryLink = "primary" // to eth0
	RouterSecondLink  = "second"  // to enp7s0
	RouterThirdLink   = "third"   // to enp8s0
	RouterServersLink = "servers" // to the server
)

const (
	defaultIPv4 = "0.0.0.0/0"
	defaultIPv6 = "::/0"
)

// LabOptions choose what the lab has beside the minimum.
type LabOptions struct {
	SecondDefault bool // the node's main table has default routes by enp7s0 too (metric 200, IPv6 2048), behind eth0's (100, 1024)
	ThirdLink     bool // enp8s0 as well, with default routes (metric 300, IPv6 2049) if SecondDefault
}

// Lab is a node with two or three uplinks, a router, and a server behind it:
//
//	              eth0   192.0.2.10/24     2001:db8:1::10/64
//	[Node] =====  enp7s0 192.168.124.10/24 fd00:124::10/64   ===== [Router] ===== [Server] 203.0.113.80/24
//	              enp8s0 192.168.125.10/24 fd00:125::10/64                                 2001:db8:80::80/64
//
// The router is .1 and ::1 everywhere, and the default route by eth0 always stands. Node and router forward. The
// router has no route to pods: what leaves the node with a pod's source address gets no answer. The server runs
// ServeWhoAmI on WhoAmIPort.
type Lab struct {
	Node, Router, Server *Namespace

	pods atomic.Int32 // made so far, for the names of their links
}

// uplink is a link between node and router; a zero metric4 means no default routes.
type uplink struct {
	node, router       string // names of its ends
	ipv4, ipv6         string // the node's addresses
	gateway4, gateway6 string // the router's
	metric4, metric6   int    // of the node's default routes
}

// NewLab builds a lab that stands until Cleanup.
func NewLab(t T, opts LabOptions) *Lab {
	t.Helper()
	l := newLab(t, New(t, "node"), uplinks(opts))
	for _, u := range uplinks(opts) {
		l.configure(t, u)
	}
	return l
}

// newLab builds a lab around the node, whose uplinks have no addresses and no routes.
func newLab(t T, node *Namespace, uplinks []uplink) *Lab {
	t.Helper()
	l := &Lab{Node: node, Router: New(t, "router"), Server: New(t, "server")}
	l.Node.Forward(t)
	l.Router.Forward(t)
	for _, u := range uplinks {
		Connect(t, l.Node, u.node, l.Router, u.router)
		l.Router.AddAddress(t, u.router, u.gateway4+"/24")
		l.Router.AddAddress(t, u.router, u.gateway6+"/64")
	}
	Connect(t, l.Server, "eth0", l.Router, RouterServersLink)
	l.Router.AddAddress(t, RouterServersLink, ServerGatewayIPv4+"/24")
	l.Router.AddAddress(t, RouterServersLink, ServerGatewayIPv6+"/64")
	l.Server.AddAddress(t, "eth0", ServerIPv4+"/24")
	l.Server.AddAddress(t, "eth0", ServerIPv6+"/64")
	l.Server.AddRoute(t, Route{Dst: defaultIPv4, Via: ServerGatewayIPv4})
	l.Server.AddRoute(t, Route{Dst: defaultIPv6, Via: ServerGatewayIPv6})
	l.Server.ServeWhoAmI(t, WhoAmIPort)
	return l
}

func uplinks(opts LabOptions) []uplink {
	primary := uplink{PrimaryLink, RouterPrimaryLink, PrimaryIPv4, PrimaryIPv6, PrimaryGatewayIPv4, PrimaryGatewayIPv6, 100, 1024}
	second := uplink{SecondLink, RouterSecondLink, SecondIPv4, SecondIPv6, SecondGatewayIPv4, SecondGatewayIPv6, 200, 2048}
	third := uplink{ThirdLink, RouterThirdLink, ThirdIPv4, ThirdIPv6, ThirdGatewayIPv4, ThirdGatewayIPv6, 300, 2049}
	if !opts.SecondDefault {
		second.metric4, second.metric6 = 0, 0
		third.metric4, third.metric6 = 0, 0
	}
	if !opts.ThirdLink {
		return []uplink{primary, second}
	}
	return []uplink{primary, second, third}
}

// configure gives the node's end of an uplink its addresses and routes.
func (l *Lab) configure(t T, u uplink) {
	t.Helper()
	l.Node.AddAddress(t, u.node, u.ipv4+"/24")
	l.Node.AddAddress(t, u.node, u.ipv6+"/64")
	if u.metric4 == 0 {
		return
	}
	l.Node.AddRoute(t, Route{Dst: defaultIPv4, Via: u.gateway4, Link: u.node, Metric: u.metric4})
	l.Node.AddRoute(t, Route{Dst: defaultIPv6, Via: u.gateway6, Link: u.node, Metric: u.metric6})
}

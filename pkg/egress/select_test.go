package egress_test

import (
	"net/netip"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/stretchr/testify/require"
)

// The links of the node in these tests.
const (
	lo     = 1
	eth0   = 2
	enp7s0 = 134
	enp8s0 = 135
)

// input is what Select decides on. Every case starts from the same one: a dual
// stack pod of namespace payments, on a node with the uplink eth0 and with enp7s0
// and enp8s0 for egress, which all may use with every address.
type input struct {
	request config.Request
	config  config.Config
	node    egress.Node
}

func start() input {
	all := []config.Allow{{Namespaces: []string{"*"}, Addresses: prefixes("0.0.0.0/0", "::/0")}}
	return input{
		config.Request{PodNamespace: "payments", PodAddresses: addrs("10.244.1.5", "fd00:244::5")},
		config.Config{TableBase: 1000, Links: []config.Link{{Pattern: "enp7s0", Allow: all}, {Pattern: "enp8s0", Allow: all}}},
		egress.Node{
			Links: []egress.Link{up("eth0", eth0), up("enp7s0", enp7s0), up("enp8s0", enp8s0)},
			Addresses: []egress.LinkAddress{
				own(eth0, "10.0.0.4/24"),
				own(enp7s0, "192.168.124.2/24"),
				own(enp7s0, "fd00:124::2/64"),
				notOrdinary(enp7s0, "fe80::7/64"),
				own(enp8s0, "192.168.125.2/24"),
				notOrdinary(enp8s0, "fe80::8/64"),
			},
		},
	}
}

func up(name string, index int) egress.Link {
	return egress.Link{Name: name, Index: index, Up: true, Carrier: true, Table: egress.MainTable}
}

func own(link int, network string) egress.LinkAddress {
	return egress.LinkAddress{Index: link, Network: prefix(network), Ordinary: true}
}

func notOrdinary(link int, network string) egress.LinkAddress {
	return egress.LinkAddress{Index: link, Network: prefix(network)}
}

func ours(link int, host string) egress.LinkAddress {
	return egress.LinkAddress{Index: link, Network: egress.Host(addr(host)), Ordinary: true, Ours: true}
}

func (in *input) ask(addresses ...string) { in.request.Addresses = addrs(addresses...) }
func (in *input) askLink(link string)     { in.request.Link = link }
func (in *input) pod(addresses ...string) { in.request.PodAddresses = addrs(addresses...) }

// listed makes links list these patterns, with every address for everybody.
func (in *input) listed(patterns ...string) {
	allow := in.config.Links[0].Allow
	in.config.Links = nil
	for _, p := range patterns {
		in.config.Links = append(in.config.Links, config.Link{Pattern: p, Allow: allow})
	}
}

func (in *input) allow(allow ...config.Allow) {
	in.config.Links = []config.Link{{Pattern: "enp7s0", Allow: allow}}
}

func (in *input) has(addresses ...egress.LinkAddress) {
	in.node.Addresses = append(in.node.Addresses, addresses...)
}

func (in *input) link(name string) *egress.Link {
	for i := range in.node.Links {
		if in.node.Links[i].Name == name {
			return &in.node.Links[i]
		}
	}
	panic("no link " + name)
}

// free is the flow to a free address of enp7s0, existing the one to an address
// that it has already; on8 is a flow on enp8s0 instead.
func free(pod, address string) egress.Flow {
	return egress.Flow{Pod: addr(pod), Address: addr(address), Link: "enp7s0", Index: enp7s0, Table: 1000 + enp7s0, OwnsAddress: true}
}

func existing(pod, address string) egress.Flow {
	f := free(pod, address)
	f.OwnsAddress = false
	return f
}

func on8(f egress.Flow) egress.Flow {
	f.Link, f.Index, f.Table = "enp8s0", enp8s0, 1000+enp8s0
	return f
}

func by(f egress.Flow, gateway string) egress.Flow {
	f.Gateway = addr(gateway)
	return f
}

func TestSelect(t *testing.T) {
	for name, tt := range map[string]struct {
		given func(*input)
		want  []egress.Flow
	}{
		// Which link.
		"the link whose network holds the address": {
			func(in *input) { in.ask("192.168.125.99") },
			[]egress.Flow{on8(free("10.244.1.5", "192.168.125.99"))},
		},
		"both families": {
			func(in *input) { in.ask("192.168.124.99", "fd00:124::99") },
			[]egress.Flow{free("10.244.1.5", "192.168.124.99"), free("fd00:244::5", "fd00:124::99")},
		},
		"both families, on two links": {
			func(in *input) { in.ask("fd00:124::99", "192.168.125.99") },
			[]egress.Flow{free("fd00:244::5", "fd00:124::99"), on8(free("10.244.1.5", "192.168.125.99"))},
		},
		"a glob in the configuration": {
			func(in *input) { in.ask("192.168.125.99"); in.listed("enp*") },
			[]egress.Flow{on8(free("10.244.1.5", "192.168.125.99"))},
		},
		"the annotated link": {
			func(in *input) { in.ask("192.168.124.99"); in.askLink("enp7s0") },
			[]egress.Flow{free("10.244.1.5", "192.168.124.99")},
		},
		"the annotated link decides between two that hold the address": {
			func(in *input) {
				in.ask("192.168.124.99")
				in.askLink("enp8s0")
				in.has(own(enp8s0, "192.168.124.3/24"))
			},
			[]egress.Flow{on8(free("10.244.1.5", "192.168.124.99"))},
		},
		"an annotated glob, of which one link holds the address": {
			func(in *input) { in.ask("192.168.125.99"); in.askLink("enp*") },
			[]egress.Flow{on8(free("10.244.1.5", "192.168.125.99"))},
		},
		"an annotated glob takes one of two that hold the address": {
			func(in *input) {
				in.ask("192.168.124.99")
				in.askLink("*8s0")
				in.has(own(enp8s0, "192.168.124.3/24"))
			},
			[]egress.Flow{on8(free("10.244.1.5", "192.168.124.99"))},
		},
		"no name in the configuration": {
			func(in *input) { in.ask("192.168.124.99"); in.listed("") },
			[]egress.Flow{free("10.244.1.5", "192.168.124.99")},
		},
		"no name, the longest prefix": {
			func(in *input) {
				in.ask("192.168.124.99")
				in.listed("")
				in.has(own(enp8s0, "192.168.124.97/28"), own(eth0, "192.168.0.1/16"))
			},
			[]egress.Flow{on8(free("10.244.1.5", "192.168.124.99"))},
		},
		"no name, the longest prefix of a link with several": {
			func(in *input) {
				in.ask("192.168.124.99")
				in.listed("")
				in.has(own(enp8s0, "192.168.124.97/28"), own(enp8s0, "192.168.0.1/16"))
			},
			[]egress.Flow{on8(free("10.244.1.5", "192.168.124.99"))},
		},
		"a name wins over the longest prefix": {
			func(in *input) {
				in.ask("192.168.124.99")
				in.listed("", "enp7s0")
				in.has(own(enp8s0, "192.168.124.97/28"))
			},
			[]egress.Flow{free("10.244.1.5", "192.168.124.99")},
		},
		"a link that is not listed may hold the address, too": {
			func(in *input) { in.ask("192.168.124.99"); in.has(own(eth0, "192.168.124.3/24")) },
			[]egress.Flow{free("10.244.1.5", "192.168.124.99")},
		},
		"another link that is down is no obstacle": {
			func(in *input) { in.ask("192.168.124.99"); in.link("enp8s0").Up = false },
			[]egress.Flow{free("10.244.1.5", "192.168.124.99")},
		},
		"the table is base and index": {
			func(in *input) { in.ask("192.168.124.99"); in.config.TableBase = 20000 },
			[]egress.Flow{func() egress.Flow { f := free("10.244.1.5", "192.168.124.99"); f.Table = 20134; return f }()},
		},

		// Which pod addresses.
		"every pod address of the family": {
			func(in *input) { in.ask("192.168.124.99"); in.pod("10.244.1.5", "fd00:244::5", "10.244.1.6") },
			[]egress.Flow{free("10.244.1.5", "192.168.124.99"), free("10.244.1.6", "192.168.124.99")},
		},
		"an IPv6 address for an IPv4 pod is left alone": {
			func(in *input) { in.ask("192.168.124.99", "fd00:124::99"); in.pod("10.244.1.5") },
			[]egress.Flow{free("10.244.1.5", "192.168.124.99")},
		},
		"an IPv4 address for an IPv6 pod is left alone": {
			func(in *input) { in.ask("192.168.124.99", "fd00:124::99"); in.pod("fd00:244::5") },
			[]egress.Flow{free("fd00:244::5", "fd00:124::99")},
		},
		"an IPv6 address for an IPv4 pod is left alone, though no link holds it": {
			func(in *input) { in.ask("192.168.124.99", "fd00:9::99"); in.pod("10.244.1.5") },
			[]egress.Flow{free("10.244.1.5", "192.168.124.99")},
		},
		"an IPv4 address for an IPv6 pod is left alone, though it is not allowed": {
			func(in *input) {
				in.ask("192.168.124.99", "fd00:124::99")
				in.pod("fd00:244::5")
				in.allow(config.Allow{Namespaces: []string{"*"}, Addresses: prefixes("fd00:124::/64")})
			},
			[]egress.Flow{free("fd00:244::5", "fd00:124::99")},
		},

		// Which address.
		"an address that the link has stays there": {
			func(in *input) { in.ask("192.168.124.2") },
			[]egress.Flow{existing("10.244.1.5", "192.168.124.2")},
		},
		"an administrator's second address stays there": {
			func(in *input) { in.ask("192.168.124.99"); in.has(notOrdinary(enp7s0, "192.168.124.99/24")) },
			[]egress.Flow{existing("10.244.1.5", "192.168.124.99")},
		},
		"an address that is alone on the link stays there": {
			func(in *input) { in.ask("203.0.113.9"); in.has(own(enp7s0, "203.0.113.9/32")) },
			[]egress.Flow{existing("10.244.1.5", "203.0.113.9")},
		},
		"an address that egress-ip has put there goes with its last pod": {
			func(in *input) { in.ask("192.168.124.99"); in.has(ours(enp7s0, "192.168.124.99")) },
			[]egress.Flow{free("10.244.1.5", "192.168.124.99")},
		},
		"an address of a network of two": {
			func(in *input) {
				in.ask("192.168.9.0", "fd00:9::")
				in.has(own(enp7s0, "192.168.9.1/31"), own(enp7s0, "fd00:9::1/127"))
			},
			[]egress.Flow{free("10.244.1.5", "192.168.9.0"), free("fd00:244::5", "fd00:9::")},
		},
		"the upper address of a network of two": {
			func(in *input) { in.ask("192.168.9.1"); in.has(own(enp7s0, "192.168.9.0/31")) },
			[]egress.Flow{free("10.244.1.5", "192.168.9.1")},
		},
		"an address of a network of four": {
			func(in *input) { in.ask("192.168.9.1"); in.has(own(enp7s0, "192.168.9.2/30")) },
			[]egress.Flow{free("10.244.1.5", "192.168.9.1")},
		},
		"the broadcast address of another link's network": {
			func(in *input) { in.ask("192.168.124.111"); in.has(own(eth0, "192.168.124.97/28")) },
			[]egress.Flow{free("10.244.1.5", "192.168.124.111")},
		},
		"the last address of an IPv6 network": {
			func(in *input) { in.ask("fd00:124::ffff:ffff:ffff:ffff") },
			[]egress.Flow{free("fd00:244::5", "fd00:124::ffff:ffff:ffff:ffff")},
		},

		// The link annotation alone.
		"the link's own addresses": {
			func(in *input) { in.askLink("enp7s0") },
			[]egress.Flow{existing("10.244.1.5", "192.168.124.2"), existing("fd00:244::5", "fd00:124::2")},
		},
		"the link's own address of the pod's only family": {
			func(in *input) { in.askLink("enp7s0"); in.pod("fd00:244::5") },
			[]egress.Flow{existing("fd00:244::5", "fd00:124::2")},
		},
		"a family for which the link has no address is left alone": {
			func(in *input) { in.askLink("enp8s0") },
			[]egress.Flow{on8(existing("10.244.1.5", "192.168.125.2"))},
		},
		"own, of a family that the pod lacks, need not be allowed": {
			func(in *input) {
				in.askLink("enp7s0")
				in.pod("10.244.1.5")
				in.allow(config.Allow{Namespaces: []string{"*"}, Addresses: prefixes("192.168.124.2/32")})
			},
			[]egress.Flow{existing("10.244.1.5", "192.168.124.2")},
		},
		"the link's own address for every pod address": {
			func(in *input) { in.askLink("enp8s0"); in.pod("10.244.1.5", "10.244.1.6") },
			[]egress.Flow{on8(existing("10.244.1.5", "192.168.125.2")), on8(existing("10.244.1.6", "192.168.125.2"))},
		},
		"own, of several the first": {
			func(in *input) { in.askLink("enp8s0"); in.has(own(enp8s0, "192.168.126.2/24")) },
			[]egress.Flow{on8(existing("10.244.1.5", "192.168.125.2"))},
		},
		"own, neither deprecated nor ours": {
			func(in *input) {
				in.askLink("enp8s0")
				in.node.Addresses = []egress.LinkAddress{
					notOrdinary(enp8s0, "192.168.125.9/24"), ours(enp8s0, "192.168.125.99"), own(enp7s0, "192.168.125.3/24"), own(enp8s0, "192.168.125.2/24"),
				}
			},
			[]egress.Flow{on8(existing("10.244.1.5", "192.168.125.2"))},
		},
		"own, a glob that one link matches": {
			func(in *input) { in.askLink("*8s0") },
			[]egress.Flow{on8(existing("10.244.1.5", "192.168.125.2"))},
		},
		"own, a glob of which one link is listed": {
			func(in *input) { in.askLink("enp*"); in.listed("enp8s0") },
			[]egress.Flow{on8(existing("10.244.1.5", "192.168.125.2"))},
		},
		"own, a glob of which one link has an address to leave with": {
			func(in *input) {
				in.askLink("enp*")
				in.node.Addresses = []egress.LinkAddress{ours(enp7s0, "192.168.124.99"), notOrdinary(enp7s0, "192.168.124.2/24"), own(enp8s0, "192.168.125.2/24")}
			},
			[]egress.Flow{on8(existing("10.244.1.5", "192.168.125.2"))},
		},

		// Gateways.
		"the gateway of the family": {
			func(in *input) {
				in.ask("192.168.124.99", "fd00:124::99")
				in.config.Links[0].Gateways = addrs("fe80::1", "192.168.124.1")
				in.config.Links[1].Gateways = addrs("192.168.125.1")
			},
			[]egress.Flow{by(free("10.244.1.5", "192.168.124.99"), "192.168.124.1"), by(free("fd00:244::5", "fd00:124::99"), "fe80::1")},
		},
		"a gateway of another link": {
			func(in *input) { in.ask("192.168.125.99"); in.config.Links[0].Gateways = addrs("192.168.124.1") },
			[]egress.Flow{on8(free("10.244.1.5", "192.168.125.99"))},
		},
		"a gateway of the other family": {
			func(in *input) { in.ask("192.168.124.99"); in.config.Links[0].Gateways = addrs("fe80::1") },
			[]egress.Flow{free("10.244.1.5", "192.168.124.99")},
		},
		"the first entry with a gateway": {
			func(in *input) {
				in.ask("192.168.124.99")
				in.listed("", "enp7s0", "enp*")
				in.config.Links[1].Gateways = addrs("192.168.124.1")
				in.config.Links[2].Gateways = addrs("192.168.124.254")
			},
			[]egress.Flow{by(free("10.244.1.5", "192.168.124.99"), "192.168.124.1")},
		},

		// Who may.
		"the namespace and the address are listed": {
			func(in *input) {
				in.ask("192.168.124.99")
				in.allow(config.Allow{Namespaces: []string{"shop", "pay*"}, Addresses: prefixes("192.168.124.1/32", "192.168.124.96/28")})
			},
			[]egress.Flow{free("10.244.1.5", "192.168.124.99")},
		},
		"the second entry allows it": {
			func(in *input) {
				in.ask("192.168.124.99")
				in.allow(
					config.Allow{Namespaces: []string{"payments"}, Addresses: prefixes("192.168.124.98/32")},
					config.Allow{Namespaces: []string{"payments"}, Addresses: prefixes("192.168.124.99/32")},
				)
			},
			[]egress.Flow{free("10.244.1.5", "192.168.124.99")},
		},
		"the second link entry allows it": {
			func(in *input) {
				in.ask("192.168.124.99")
				all := in.config.Links[0].Allow
				in.listed("enp7s0", "enp*")
				in.config.Links[0].Allow, in.config.Links[1].Allow = nil, all
			},
			[]egress.Flow{free("10.244.1.5", "192.168.124.99")},
		},
		"an entry without addresses, the link's own by its name": {
			func(in *input) { in.ask("192.168.124.2"); in.allow(config.Allow{Namespaces: []string{"payments"}}) },
			[]egress.Flow{existing("10.244.1.5", "192.168.124.2")},
		},
		"an entry without addresses, the link's second own": {
			func(in *input) {
				in.ask("192.168.124.3")
				in.allow(config.Allow{Namespaces: []string{"payments"}})
				in.has(notOrdinary(enp7s0, "192.168.124.3/24"))
			},
			[]egress.Flow{existing("10.244.1.5", "192.168.124.3")},
		},
		"an entry without addresses, the link alone": {
			func(in *input) { in.askLink("enp7s0"); in.allow(config.Allow{Namespaces: []string{"payments"}}) },
			[]egress.Flow{existing("10.244.1.5", "192.168.124.2"), existing("fd00:244::5", "fd00:124::2")},
		},
		"a pod without a namespace, and *": {
			func(in *input) { in.ask("192.168.124.99"); in.request.PodNamespace = "" },
			[]egress.Flow{free("10.244.1.5", "192.168.124.99")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := start()
			tt.given(&in)

			flows, err := egress.Select(in.request, in.config, in.node)

			require.NoError(t, err)
			require.Equal(t, tt.want, flows)
		})
	}
}

func TestSelectRefuses(t *testing.T) {
	const address, link = "egress-ip.cni/address", "egress-ip.cni/link"
	for name, tt := range map[string]struct {
		given      func(*input)
		annotation string
		value      string
		want       []string
	}{
		// The configuration.
		"no links are configured": {
			func(in *input) { in.ask("192.168.124.99"); in.config.Links = nil },
			address, "192.168.124.99", []string{"has no links", "add links"},
		},
		"no links are configured, the link alone": {
			func(in *input) { in.askLink("enp7s0"); in.config.Links = nil },
			link, "enp7s0", []string{"has no links", "add links"},
		},
		"the annotated link is not listed": {
			func(in *input) { in.ask("10.0.0.99"); in.askLink("eth0") },
			link, "eth0", []string{"does not list this link", "add it"},
		},

		// The link.
		"the annotated link is missing": {
			func(in *input) { in.ask("192.168.124.99"); in.askLink("enp9s0") },
			link, "enp9s0", []string{"no such link", "name one that is"},
		},
		"the annotated link is missing, the link alone": {
			func(in *input) { in.askLink("enp9s0") },
			link, "enp9s0", []string{"no such link"},
		},
		"the annotated link is down": {
			func(in *input) { in.ask("192.168.124.99"); in.askLink("enp7s0"); in.link("enp7s0").Up = false },
			address, "192.168.124.99", []string{"enp7s0 is down", "ip link set enp7s0 up"},
		},
		"the annotated link is down, the link alone": {
			func(in *input) { in.askLink("enp7s0"); in.link("enp7s0").Up = false },
			link, "enp7s0", []string{"enp7s0 is down"},
		},
		"the annotated link is down and its IPv6 network has gone": {
			func(in *input) {
				in.ask("fd00:124::99")
				in.askLink("enp7s0")
				in.link("enp7s0").Up = false
				in.node.Addresses = in.node.Addresses[:2]
			},
			address, "fd00:124::99", []string{"enp7s0 is down"},
		},
		"the annotated link has no carrier": {
			func(in *input) { in.askLink("enp7s0"); in.link("enp7s0").Carrier = false },
			link, "enp7s0", []string{"enp7s0 has no carrier", "other end"},
		},
		"the link that holds the address is down": {
			func(in *input) {
				in.ask("192.168.124.99")
				in.link("enp7s0").Up = false
				in.link("enp7s0").Carrier = false
			},
			address, "192.168.124.99", []string{"enp7s0 is down", "ip link set enp7s0 up"},
		},
		"the link that holds the address has no carrier": {
			func(in *input) { in.ask("192.168.124.99"); in.link("enp7s0").Carrier = false },
			address, "192.168.124.99", []string{"enp7s0 has no carrier"},
		},
		"the listed link is down and its IPv6 network has gone": {
			func(in *input) {
				in.ask("fd00:124::99")
				in.link("enp7s0").Up = false
				in.node.Addresses = in.node.Addresses[:2]
			},
			address, "fd00:124::99", []string{"enp7s0 is down"},
		},
		"the only link of an annotated glob is down": {
			func(in *input) { in.askLink("*8s0"); in.link("enp8s0").Up = false },
			link, "*8s0", []string{"enp8s0 is down"},
		},
		"the annotated link is not the one that holds the address": {
			func(in *input) { in.ask("192.168.125.99"); in.askLink("enp7s0") },
			address, "192.168.125.99", []string{"enp7s0 does not hold 192.168.125.99", "192.168.124.0/24 and fd00:124::/64", "choose an address of that network"},
		},
		"the annotated link has no network at all": {
			func(in *input) {
				in.ask("192.168.125.99")
				in.askLink("enp7s0")
				in.node.Addresses = []egress.LinkAddress{own(enp7s0, "203.0.113.9/32"), notOrdinary(enp7s0, "fe80::7/64"), own(enp8s0, "192.168.125.2/24")}
			},
			address, "192.168.125.99", []string{"enp7s0 does not hold 192.168.125.99, it has no network"},
		},
		"a network with two addresses is named once": {
			func(in *input) {
				in.ask("203.0.113.9")
				in.askLink("enp8s0")
				in.node.Addresses = []egress.LinkAddress{own(enp8s0, "192.168.125.2/24"), own(enp8s0, "192.168.125.3/24")}
			},
			address, "203.0.113.9", []string{"it has 192.168.125.0/24;"},
		},
		"no listed link holds the address": {
			func(in *input) { in.ask("10.0.0.99") },
			address, "10.0.0.99", []string{"no link that may carry egress", "holds 10.0.0.99: enp7s0 has 192.168.124.0/24 and fd00:124::/64, enp8s0 has 192.168.125.0/24; choose"},
		},
		"an unlisted link that is down is not blamed": {
			func(in *input) { in.ask("203.0.113.9"); in.listed(""); in.link("eth0").Up = false },
			address, "203.0.113.9", []string{"no link that may carry egress", "eth0 has 10.0.0.0/24"},
		},
		"no link matches what is listed": {
			func(in *input) { in.ask("10.0.0.99"); in.listed("ens*", "ens3") },
			address, "10.0.0.99", []string{`holds 10.0.0.99; the configuration allows for "ens*" (links[0].name), "ens3" (links[1].name); choose another address`},
		},
		"no link matches the annotated glob": {
			func(in *input) { in.ask("192.168.124.99"); in.askLink("ens*"); in.listed("") },
			address, "192.168.124.99", []string{`"ens*" (annotation egress-ip.cni/link), any link;`},
		},
		"several listed links hold the address": {
			func(in *input) { in.ask("192.168.124.99"); in.listed("enp*"); in.has(own(enp8s0, "192.168.124.97/28")) },
			address, "192.168.124.99", []string{"the networks of enp7s0 and enp8s0 all hold 192.168.124.99", link},
		},
		"several links of an annotated glob hold the address": {
			func(in *input) {
				in.ask("192.168.124.99")
				in.askLink("enp*")
				in.listed("")
				in.has(own(enp8s0, "192.168.124.97/28"))
			},
			address, "192.168.124.99", []string{"the networks of enp7s0 and enp8s0 all hold 192.168.124.99", link},
		},
		"no name, two longest prefixes": {
			func(in *input) {
				in.ask("192.168.124.99")
				in.listed("")
				in.has(own(enp8s0, "192.168.124.3/24"), own(eth0, "192.168.0.1/16"))
			},
			address, "192.168.124.99", []string{"the networks of enp7s0 and enp8s0 all hold 192.168.124.99", link},
		},
		"the second address has no link": {
			func(in *input) { in.ask("192.168.124.99", "fd00:9::99") },
			address, "192.168.124.99,fd00:9::99", []string{"holds fd00:9::99"},
		},

		// The address.
		"the address is on the uplink": {
			func(in *input) { in.ask("10.0.0.4") },
			address, "10.0.0.4", []string{"10.0.0.4 is an address of the node's link eth0", "choose a free address"},
		},
		"the address is on a link that is not the annotated one": {
			func(in *input) { in.ask("192.168.125.2"); in.askLink("enp7s0") },
			address, "192.168.125.2", []string{"192.168.125.2 is an address of the node's link enp8s0", "choose a free address"},
		},
		"the address is on another link that is listed": {
			func(in *input) {
				in.ask("192.168.124.99")
				in.listed("")
				in.has(own(enp8s0, "192.168.124.99/16"))
			},
			address, "192.168.124.99", []string{"192.168.124.99 is an address of another link of this node, enp8s0", "choose a free address"},
		},
		"the address is on a loopback link, which is no candidate": {
			func(in *input) { in.ask("192.168.124.99"); in.has(own(lo, "192.168.124.99/32")) },
			address, "192.168.124.99", []string{"192.168.124.99 is an address of another link of this node, if1", "choose a free address"},
		},
		"the network address": {
			func(in *input) { in.ask("192.168.124.0") },
			address, "192.168.124.0", []string{"192.168.124.0 is the network address of 192.168.124.0/24", "choose a host address"},
		},
		"the IPv6 network address": {
			func(in *input) { in.ask("fd00:124::") },
			address, "fd00:124::", []string{"fd00:124:: is the network address of fd00:124::/64"},
		},
		"the broadcast address": {
			func(in *input) { in.ask("192.168.124.255") },
			address, "192.168.124.255", []string{"192.168.124.255 is the broadcast address of 192.168.124.0/24", "choose a host address"},
		},
		"the broadcast address of a network of four": {
			func(in *input) { in.ask("192.168.9.103"); in.has(own(enp7s0, "192.168.9.101/30")) },
			address, "192.168.9.103", []string{"192.168.9.103 is the broadcast address of 192.168.9.100/30"},
		},
		"the broadcast address of the link's second network": {
			func(in *input) { in.ask("192.168.124.111"); in.has(own(enp7s0, "192.168.124.97/28")) },
			address, "192.168.124.111", []string{"192.168.124.111 is the broadcast address of 192.168.124.96/28"},
		},

		// The link annotation alone.
		"the link has only addresses that it does not leave with": {
			func(in *input) {
				in.askLink("enp8s0")
				in.node.Addresses = []egress.LinkAddress{notOrdinary(enp8s0, "192.168.125.2/24"), ours(enp8s0, "192.168.125.99")}
			},
			link, "enp8s0", []string{"enp8s0 has no global address", address},
		},
		"the link has no address of the pod's family": {
			func(in *input) { in.askLink("enp8s0"); in.pod("fd00:244::5") },
			link, "enp8s0", []string{"enp8s0 has no address of a family that the pod has", address},
		},
		"a glob matches several links": {
			func(in *input) { in.askLink("enp*") },
			link, "enp*", []string{"enp7s0 and enp8s0 match it", "name one"},
		},
		"a glob matches no link": {
			func(in *input) { in.askLink("ens*") },
			link, "ens*", []string{"no link of this node", `"ens*" (annotation egress-ip.cni/link), "enp7s0" (links[0].name), "enp8s0" (links[1].name)`, "name another"},
		},
		"a glob matches only a link that is not listed": {
			func(in *input) { in.askLink("eth*") },
			link, "eth*", []string{"no link of this node"},
		},

		// Who may.
		"nothing is allowed that is not listed": {
			func(in *input) { in.ask("192.168.124.99"); in.allow() },
			address, "192.168.124.99", []string{"allows no namespace to use the link enp7s0", "add allow"},
		},
		"nothing is allowed, the link alone": {
			func(in *input) { in.askLink("enp7s0"); in.allow() },
			link, "enp7s0", []string{"allows no namespace to use the link enp7s0"},
		},
		"another entry allows another link": {
			func(in *input) { in.ask("192.168.124.99"); in.config.Links[0].Allow = nil },
			address, "192.168.124.99", []string{"allows no namespace to use the link enp7s0"},
		},
		"the namespace is not listed": {
			func(in *input) {
				in.ask("192.168.124.99")
				in.allow(config.Allow{Namespaces: []string{"shop"}, Addresses: prefixes("0.0.0.0/0")})
			},
			address, "192.168.124.99", []string{`the namespace "payments"`, "the link enp7s0", "allow[].namespaces"},
		},
		"the namespace is not known": {
			func(in *input) {
				in.ask("192.168.124.99")
				in.request.PodNamespace = ""
				in.allow(config.Allow{Namespaces: []string{"pay*"}, Addresses: prefixes("0.0.0.0/0")})
			},
			address, "192.168.124.99", []string{"a pod without a namespace", "allow[].namespaces"},
		},
		"the address is not listed": {
			func(in *input) {
				in.ask("192.168.124.99")
				in.allow(
					config.Allow{Namespaces: []string{"payments"}, Addresses: prefixes("192.168.124.0/28")},
					config.Allow{Namespaces: []string{"shop"}, Addresses: prefixes("192.168.124.99/32")},
				)
			},
			address, "192.168.124.99", []string{`the namespace "payments"`, "192.168.124.99 on the link enp7s0", "allow[].addresses"},
		},
		"the second address is not listed": {
			func(in *input) {
				in.ask("192.168.124.99", "fd00:124::99")
				in.allow(config.Allow{Namespaces: []string{"payments"}, Addresses: prefixes("192.168.124.99/32")})
			},
			address, "192.168.124.99,fd00:124::99", []string{"fd00:124::99 on the link enp7s0"},
		},
		"the link's own address is not listed": {
			func(in *input) {
				in.askLink("enp7s0")
				in.allow(config.Allow{Namespaces: []string{"payments"}, Addresses: prefixes("192.168.124.96/28")})
			},
			link, "enp7s0", []string{"192.168.124.2 on the link enp7s0", "allow[].addresses"},
		},
		"an entry without addresses, a free address": {
			func(in *input) { in.ask("192.168.124.99"); in.allow(config.Allow{Namespaces: []string{"payments"}}) },
			address, "192.168.124.99", []string{"192.168.124.99 on the link enp7s0", "allow[].addresses"},
		},
		"an entry without addresses, one that egress-ip has put there": {
			func(in *input) {
				in.ask("192.168.124.99")
				in.allow(config.Allow{Namespaces: []string{"payments"}})
				in.has(ours(enp7s0, "192.168.124.99"))
			},
			address, "192.168.124.99", []string{"192.168.124.99 on the link enp7s0", "allow[].addresses"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := start()
			tt.given(&in)

			flows, err := egress.Select(in.request, in.config, in.node)

			requireAnnotation(t, err, tt.annotation, tt.value, tt.want...)
			require.Nil(t, flows)
		})
	}
}

func TestCheckNextHops(t *testing.T) {
	f := by(free("10.244.1.5", "192.168.124.99"), "192.168.124.254")
	hop := func(link int, nextHop string) egress.Route {
		return egress.Route{Table: egress.MainTable, Dst: prefix("10.9.0.0/16"), Type: egress.Unicast, Link: link, NextHop: addr(nextHop), Weight: 1}
	}
	request := config.Request{Addresses: addrs("192.168.124.99")}

	t.Run("free", func(t *testing.T) {
		onLink := hop(enp7s0, "192.168.124.1")
		onLink.Dst, onLink.NextHop = prefix("192.168.124.99/32"), netip.Addr{}
		routes := []egress.Route{hop(enp7s0, "192.168.124.1"), onLink, hop(enp8s0, "192.168.124.99")}
		require.NoError(t, egress.CheckNextHops(request, f, routes))
		require.NoError(t, egress.CheckNextHops(request, f, nil))
	})
	t.Run("a route's next hop", func(t *testing.T) {
		err := egress.CheckNextHops(request, f, []egress.Route{hop(enp7s0, "192.168.124.1"), hop(enp7s0, "192.168.124.99")})
		requireAnnotation(t, err, "egress-ip.cni/address", "192.168.124.99", "192.168.124.99 is a next hop of the link enp7s0", "choose a free address")
	})
	t.Run("the configured gateway", func(t *testing.T) {
		err := egress.CheckNextHops(request, by(f, "192.168.124.99"), nil)
		requireAnnotation(t, err, "egress-ip.cni/address", "192.168.124.99", "192.168.124.99 is a next hop of the link enp7s0")
	})
	t.Run("the configured gateway is the link's own address", func(t *testing.T) {
		err := egress.CheckNextHops(config.Request{Link: "enp7s0"}, by(existing("10.244.1.5", "192.168.124.2"), "192.168.124.2"), nil)
		requireAnnotation(t, err, "egress-ip.cni/link", "enp7s0", "192.168.124.2 is a next hop of the link enp7s0")
	})
}

func TestCandidates(t *testing.T) {
	in := start()
	addresses := append(in.node.Addresses, own(enp8s0, "192.168.125.3/24"), own(lo, "192.168.124.99/32"))
	for name, tt := range map[string]struct {
		request config.Request
		listed  []string
		names   []string
		indexes []int
	}{
		"an address": {
			config.Request{Addresses: addrs("192.168.124.99")}, []string{"enp7s0", "enp*", "", "enp8s0"},
			[]string{"enp7s0", "enp8s0"}, []int{lo, enp7s0},
		},
		"an address a family": {
			config.Request{Addresses: addrs("fd00:124::99", "192.168.125.99")}, []string{""},
			nil, []int{enp7s0, enp8s0},
		},
		"an address that no network holds": {
			config.Request{Addresses: addrs("203.0.113.9")}, []string{"enp7s0"},
			[]string{"enp7s0"}, nil,
		},
		"an address and a link": {
			config.Request{Addresses: addrs("192.168.125.99"), Link: "enp9s0"}, []string{"enp7s0"},
			[]string{"enp9s0"}, []int{enp8s0},
		},
		"an address and a glob": {
			config.Request{Addresses: addrs("192.168.125.99"), Link: "enp*"}, []string{"enp7s0"},
			[]string{"enp7s0"}, []int{enp8s0},
		},
		"a link alone": {config.Request{Link: "enp7s0"}, []string{"enp8s0"}, []string{"enp7s0"}, nil},
		"a glob alone": {
			config.Request{Link: "enp?s0"}, []string{"enp7s0", "enp[78]s0", "enp?", `enp\*`},
			[]string{"enp7s0"}, []int{lo, eth0, enp7s0, enp8s0},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var c config.Config
			for _, p := range tt.listed {
				c.Links = append(c.Links, config.Link{Pattern: p})
			}

			names, indexes := egress.Candidates(tt.request, c, addresses)

			require.Equal(t, tt.names, names)
			require.Equal(t, tt.indexes, indexes)
		})
	}
}

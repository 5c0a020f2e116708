package main

import (
	"errors"
	"net/netip"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Azure's load balancer probes from the first; pods see the second.
var (
	probeSource     = netip.MustParseAddr("fe80::1234:5678:9abc")
	probeTranslated = netip.MustParseAddr("2603:1062:0:1:fe80:1234:5678:9abc")
)

var probeTable = &nftables.Table{Family: nftables.TableFamilyIPv6, Name: "egress_ip_probe"}

// probes is the third act: a probe with a link-local source, without and with
// the probe table.
func probes(t *teller, n *node, plain *pod) {
	n.Router.AddAddress(t, nettest.RouterPrimaryLink, probeSource.String()+"/64")
	n.Router.AddRoute(t, nettest.Route{Dst: "fd00:10:244::/64", Via: nettest.PrimaryIPv6, Link: nettest.RouterPrimaryLink})
	plain.ServeWhoAmI(t, nettest.WhoAmIPort)
	probe := func() (netip.Addr, error) {
		t.goOn()
		target := netip.AddrPortFrom(plain.IPv6, nettest.WhoAmIPort)
		return n.Router.AskFrom("tcp", probeSource.WithZone(nettest.RouterPrimaryLink), target.String())
	}

	t.heading("3. IPv6 load-balancer probes, which have a link-local source")
	t.print("   The router has %s on its link to eth0, and from it opens TCP to the plain pod.", probeSource)
	n.requireProbeTable(t, true)
	n.nft.DelTable(probeTable)
	t.must(n.nft.Flush())
	n.requireProbeTable(t, false)

	answers := n.Router.Capture(t, nettest.RouterPrimaryLink)
	arrived := plain.Capture(t, "eth0")
	_, err := probe()
	refused := answers.Count(func(p nettest.Packet) bool {
		const unreachable = 1
		return p.Protocol == unix.IPPROTO_ICMPV6 && p.ICMPType == unreachable && p.Dst == probeSource && !p.Outgoing
	})
	reached := arrived.Count(func(p nettest.Packet) bool { return p.Protocol == unix.IPPROTO_TCP && !p.Outgoing })
	answers.Stop()
	arrived.Stop()
	if err == nil || refused == 0 || reached > 0 {
		t.Fatalf("without the probe table the probe should die in the node, with an ICMPv6 unreachable to the router; "+
			"%d of these seen, %d packets reached the pod, and the probe ended: %v", refused, reached, err)
	}
	t.print("   without table ip6 egress_ip_probe:   %s; the node sent %d ICMPv6 unreachable, the pod got no packet",
		t.bad(errorText(err)), refused)

	n.detach(t, n.attach(t, "another", nil))
	n.requireProbeTable(t, true)
	saw, err := probe()
	if err != nil || saw != probeTranslated {
		t.Fatalf("with the probe table the pod should see %s as its peer; it saw %v, and the probe ended: %v", probeTranslated, saw, err)
	}
	t.print("   with it, back by the next pod's ADD: %s; the pod saw %s", t.good("answered"), saw)
	t.print("   A router must not forward a link-local source. So it is made global before routing and conntrack see")
	t.print("   it, and the answer's destination link-local again on the way out; neighbour discovery is left alone.")
}

// requireProbeTable checks whether the probe table stands.
func (n *node) requireProbeTable(t *teller, want bool) {
	_, err := n.nft.ListTableOfFamily(probeTable.Name, probeTable.Family)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		t.Fatalf("read table ip6 %s: %v", probeTable.Name, err)
	}
	if have := err == nil; have != want {
		t.Fatalf("table ip6 %s stands: %t, should be %t", probeTable.Name, have, want)
	}
}

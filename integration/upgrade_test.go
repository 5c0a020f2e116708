package integration

import (
	"fmt"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// formerTable is the table of version 0.6 (commit 04f183a) for one pod, with the ifindex of
// the egress link.
const formerTable = `
delete table inet egress_ip
table inet egress_ip {
	map unmarked { type mark : verdict
		elements = { 0x00000000 : goto others }
	}
	set cluster4 { type ipv4_addr
		flags interval
		elements = { 10.96.0.0/12, 10.244.0.0/16 }
	}
	map snat4 { type ipv4_addr . ifname : ipv4_addr
		elements = { 10.244.1.5 . "enp7s0" comment "pod" : 192.168.124.99 }
	}
	map out4 { type ipv4_addr : verdict
		elements = { 10.244.1.5 comment "pod" : goto counted_%[1]d }
	}
	map back4 { type ipv4_addr : verdict
		elements = { 10.244.1.5 comment "pod" : goto back_%[1]d }
	}
	set sent4 { type ipv4_addr
		counter
		elements = { 10.244.1.5 counter packets 0 bytes 0 comment "pod" }
	}
	set cluster6 { type ipv6_addr
		flags interval
		elements = { fd00:10:244::/56 }
	}
	map snat6 { type ipv6_addr . ifname : ipv6_addr
		elements = { fd00:10:244::5 . "enp7s0" comment "pod" : fd00:124::99 }
	}
	map out6 { type ipv6_addr : verdict
		elements = { fd00:10:244::5 comment "pod" : goto counted_%[1]d }
	}
	map back6 { type ipv6_addr : verdict
		elements = { fd00:10:244::5 comment "pod" : goto back_%[1]d }
	}
	chain prerouting {
		type filter hook prerouting priority dstnat + 10; policy accept;
		ip saddr vmap @out4
		ip daddr vmap @back4
		ip6 saddr vmap @out6
		ip6 daddr vmap @back6
		meta mark & 0xffff3fff vmap @unmarked
	}
	chain counted_%[1]d {
		ct direction reply goto others
		ip daddr @cluster4 goto others
		ip6 daddr @cluster6 goto others
		meta mark set meta mark & 0xf1ffffff | 0x01000000
	}
	chain back_%[1]d {
		ct direction original goto others
		meta mark set meta mark & 0xf1ffffff | 0x01000000
	}
	chain others {
		meta mark set meta mark | 0x0f000000
	}
	chain postrouting {
		type nat hook postrouting priority srcnat - 10; policy accept;
		ip daddr @cluster4 return
		snat ip to ip saddr . oifname map @snat4
		ip6 daddr @cluster6 return
		snat ip6 to ip6 saddr . oifname map @snat6
	}
}
`

// TestFormerTable: a table that the version before has made, whose maps have other keys, is
// replaced by the first call that changes anything; pods and their connections go on.
func TestFormerTable(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(t *testing.T, c *cluster, other *direct){
		"ADD of another pod": func(t *testing.T, _ *cluster, other *direct) { other.add(t, address("192.168.124.98,fd00:124::98")) },
		"resync": func(t *testing.T, c *cluster, _ *direct) {
			out, exit := c.egressIP(t, "resync")
			require.Zero(t, exit, out)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
			p := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
			other := c.newDirect(t, "other", "10.244.1.6", "fd00:10:244::6", egressIP(nil))
			p.add(t, both)
			before := c.command(t, "nft", "-s", "list", "table", "inet", "egress_ip")
			former := fmt.Sprintf(formerTable, c.Node.Index(t, nettest.SecondLink))
			c.load(t, former, "nft", "-f")
			// A link's table and rules of that version.
			c.command(t, "ip", "rule", "add", "priority", "5998", "fwmark", "0x1000000/0xf000000", "lookup", "main", "suppress_prefixlength", "0", "protocol", "kernel")
			p.requireSeen(t, egress4, egress6)
			_, err := p.call(t, "CHECK", both)
			require.Error(t, err)

			call(t, c, other)
			p.requireSeen(t, egress4, egress6)
			_, err = p.call(t, "CHECK", both)
			require.NoError(t, err)
			require.NotContains(t, c.command(t, "ip", "rule"), "suppress_prefixlength")
			other.del(t)
			require.Equal(t, before, c.command(t, "nft", "-s", "list", "table", "inet", "egress_ip"))

			c.load(t, former, "nft", "-f")
			p.del(t)
			c.requireNoAttachment(t)
		})
	}
}

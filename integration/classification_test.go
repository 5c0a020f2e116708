package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestClassification is what a person sees of one pod: rules and table, as nft
// and ip print them.
func TestClassification(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	d.add(t, both)
	index := c.Node.Index(t, nettest.SecondLink)

	for family, pod := range map[string]string{"-4": "10.244.1.5", "-6": "fd00:10:244::5"} {
		cluster := "" // IPv6 looks no way back up
		if family == "-4" {
			cluster = "5999:\tfrom all to 10.244.0.0/16 goto 6001 proto kernel\n5999:\tfrom all to 10.96.0.0/12 goto 6001 proto kernel\n"
		}
		require.Contains(t, c.command(t, "ip", "-d", family, "rule"), fmt.Sprintf(`
5998:	from all fwmark 0x1000000/0xf000000 lookup %[1]d proto kernel
5999:	not from all fwmark 0/0xf000000 goto 6001 proto kernel
5999:	from all iif lo goto 6001 proto kernel
%[3]s6000:	from %[2]s lookup %[1]d proto kernel
6001:	from all nop proto kernel
32766:	from all lookup main proto kernel
`, 1000+index, pod, cluster))
	}

	// nft prints what was made in one transaction in an order of its own.
	table := c.command(t, "nft", "list", "table", "inet", "egress_ip")
	for _, part := range []string{`
	set cluster4 {
		type ipv4_addr
		flags interval
		elements = { 10.96.0.0/12, 10.244.0.0/16 }
	}
`, `
	map out4 {
		type ipv4_addr : verdict
		elements = { 10.244.1.5 comment "pod" : goto out_%[1]d }
	}
`, `
	map back6 {
		type ipv6_addr : verdict
		elements = { fd00:10:244::5 comment "pod" : goto back_%[1]d }
	}
`, `
	map snat6 {
		type ipv6_addr . ifname : ipv6_addr
		elements = { fd00:10:244::5 . "enp7s0" comment "pod" : fd00:124::99 }
	}
`, `
	chain prerouting {
		type filter hook prerouting priority dstnat + 10; policy accept;
		ip saddr vmap @out4
		ip daddr vmap @back4
		ip6 saddr vmap @out6
		ip6 daddr vmap @back6
		meta mark & 0xffff3fff vmap @unmarked
	}
`, `
	map unmarked {
		type mark : verdict
		elements = { 0x00000000 : goto others }
	}
`, `
	chain output {
		type route hook output priority mangle; policy accept;
		ct state related ct direction original ct original ip saddr vmap @out4
		ct state related ct direction original ct original ip6 saddr vmap @out6
	}
`, `
	chain out_%[1]d {
		ct direction reply goto others
		ip daddr @cluster4 goto others
		ip6 daddr @cluster6 goto others
		ct state invalid fib daddr type unicast drop
		meta mark set meta mark & 0xf1ffffff | 0x01000000
	}
`, `
	chain back_%[1]d {
		ct direction original goto others
		meta mark set meta mark & 0xf1ffffff | 0x01000000
	}
`, `
	chain others {
		meta mark set meta mark | 0x0f000000
	}
`, `
	chain postrouting {
		type nat hook postrouting priority srcnat - 10; policy accept;
		ip daddr @cluster4 return
		snat ip to ip saddr . oifname map @snat4
		ip6 daddr @cluster6 return
		snat ip6 to ip6 saddr . oifname map @snat6
	}
`, `
	chain exit {
		type filter hook postrouting priority 400; policy accept;
		meta mark & 0x0f000000 == 0x0f000000 accept
		meta mark set meta mark & 0xf0ffffff
	}
`} {
		if strings.Contains(part, "%[1]d") {
			part = fmt.Sprintf(part, index)
		}
		require.Contains(t, table, part)
	}
	require.Equal(t, 7, strings.Count(table, "\tchain "))
	require.Equal(t, 9, strings.Count(table, "\tmap ")+strings.Count(table, "\tset "))
}

// TestFlush: with nftables flushed, and even with the rules around it gone, the
// source rule keeps the pod off the primary link; a later ADD puts up what is its own.
func TestFlush(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	d.add(t, both)
	d.requireSeen(t, egress4, egress6)
	primary := c.Router.Capture(t, nettest.RouterPrimaryLink)
	second := c.Router.Capture(t, nettest.RouterSecondLink)
	c.command(t, "nft", "flush", "ruleset")
	for _, server := range []string{nettest.ServerAskIPv4, nettest.ServerAskIPv6} {
		_, err := d.Ask("udp", server)
		require.Error(t, err)
	}
	toServer := func(p nettest.Packet) bool { return p.DstPort == nettest.WhoAmIPort }
	require.Zero(t, primary.Count(toServer))
	require.Equal(t, 2, second.Count(func(p nettest.Packet) bool {
		return toServer(p) && p.Protocol == unix.IPPROTO_UDP // the end of an earlier TCP connection may come late
	}))

	d.add(t, both)
	d.requireSeen(t, egress4, egress6)
	require.Zero(t, primary.Count(toServer))
}

// TestPriorities: the rules stand in their order at either end of the range, also
// when a second link comes later.
func TestPriorities(t *testing.T) {
	t.Parallel()
	for _, priority := range []int{1, 2, 32765} {
		t.Run(fmt.Sprint(priority), func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true, ThirdLink: true}, "1.0.0")
			entry := egressIP(object{"rulePriority": priority, "links": []object{{"name": "enp*", "allow": []object{{
				"namespaces": []string{"*"}, "addresses": []string{"192.168.0.0/16", "fd00::/16"},
			}}}}})
			first := c.newDirect(t, "first", "10.244.1.5", "fd00:10:244::5", entry)
			second := c.newDirect(t, "second", "10.244.1.6", "fd00:10:244::6", entry)
			first.add(t, nil)
			before := c.state(t)
			first.add(t, both)
			second.add(t, address("192.168.125.99,fd00:125::99"))
			first.requireSeen(t, egress4, egress6)
			second.requireSeen(t, "192.168.125.99", "fd00:125::99")
			_, err := first.call(t, "CHECK", both)
			require.NoError(t, err)
			first.del(t)
			second.requireSeen(t, "192.168.125.99", "fd00:125::99")
			second.del(t)
			require.Equal(t, before, c.state(t))
		})
	}
}

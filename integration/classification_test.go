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
`, `10.244.1.5 comment "pod" : goto out_%[1]d`, `192.168.124.99 : goto forged`, `
	map back6 {
		type ipv6_addr : verdict
		size 16384
		elements = { fd00:10:244::5 comment "pod" : goto back_%[1]d }
	}
`, `
	map snat6 {
		type ipv6_addr . iface_index : ipv6_addr
		elements = { fd00:10:244::5 . "enp7s0" comment "pod" : fd00:124::99 }
	}
`, `
	set exit4 {
		type ipv4_addr . iface_index
		elements = { 192.168.124.99 . "enp7s0" }
	}
`, `
	set pods6 {
		type ipv6_addr . iface_index
		elements = { fd00:10:244::5 . "veth1" comment "pod" }
	}
`, `
	map arrived4 {
		type ipv4_addr : verdict
		elements = { 192.168.124.10 : goto mark_%[1]d, 192.168.124.99 : goto mark_%[1]d }
	}
`, `
	set links {
		type iface_index
		elements = { "enp7s0" }
	}
`, `
	chain prerouting {
		type filter hook prerouting priority dstnat + 10; policy accept;
		ip saddr vmap @out4
		ip daddr vmap @back4
		ip6 saddr vmap @out6
		ip6 daddr vmap @back6
		ct state related jump related
		meta mark & 0xffff3fff vmap @unmarked
	}
`, `
	map unmarked {
		type mark : verdict
		size 1
		elements = { 0x00000000 : goto others }
	}
`, `
	chain output {
		type route hook output priority mangle; policy accept;
		ct state related jump related
		meta mark & 0x0f000000 == 0x00000000 accept
		ip saddr vmap @out4
		ip6 saddr vmap @out6
	}
`, `
	chain related {
		ct direction original ct original ip saddr vmap @out4
		ct direction original ct original ip6 saddr vmap @out6
	}
`, `
	chain out_%[1]d {
		ct direction reply goto inbound
		ip daddr @cluster4 goto inside
		ip6 daddr @cluster6 goto inside
		ct original ip saddr . iif @pods4 meta mark set meta mark & 0xf1ffffff | 0x01000000 accept
		ct original ip6 saddr . iif @pods6 meta mark set meta mark & 0xf1ffffff | 0x01000000 accept
		ct state invalid,untracked meta mark set meta mark & 0xf1ffffff | 0x01000000 accept
		iif 0 meta mark set meta mark & 0xf1ffffff | 0x01000000 accept
		goto forged
	}
`, `
	chain back_%[1]d {
		ct direction original goto inbound
		meta mark set meta mark & 0xf1ffffff | 0x01000000
	}
`, `
	chain mark_%[1]d {
		meta mark set meta mark & 0xf1ffffff | 0x01000000
	}
`, `
	chain inbound {
		ct original ip daddr vmap @arrived4
		ct original ip6 daddr vmap @arrived6
		goto others
	}
`, `
	chain inside {
		iif 0 goto others
		ct original ip saddr . iif != @pods4 goto forged
		ct original ip6 saddr . iif != @pods6 goto forged
		goto others
	}
`, `
	chain forged {
		iif 0 fib saddr type local goto others
		iif "lo" goto others
		update @forged4 { ip saddr . iif counter }
		update @forged6 { ip6 saddr . iif counter }
		drop
	}
`, `
	chain others {
		meta mark set meta mark | 0x0f000000
	}
`, `
	chain postrouting {
		type nat hook postrouting priority -199; policy accept;
		meta mark & 0x0f000000 == 0x0f000000 oif @links meta mark set meta mark & 0xf0ffffff goto unmarked
		meta mark & 0x0f000000 == 0x0f000000 goto unmarked
		snat ip to ip saddr . oif map @snat4 fully-random
		snat ip6 to ip6 saddr . oif map @snat6 fully-random
	}
`, `
	chain exit {
		type filter hook postrouting priority 2147483645; policy accept;
		meta mark & 0x0f000000 == 0x0f000000 accept
		ip saddr . oif @exit4 meta mark & 0x0f000000 != 0x00000000 meta mark set meta mark | 0x0f000000 accept
		ip6 saddr . oif @exit6 meta mark & 0x0f000000 != 0x00000000 meta mark set meta mark | 0x0f000000 accept
		meta mark & 0x0f000000 == 0x00000000 goto unmarked
		ct direction reply meta mark set meta mark | 0x0f000000 accept
		ct state invalid,untracked goto dropped
		ip daddr vmap @back4
		ip6 daddr vmap @back6
		goto dropped
	}
`, `
	chain unmarked {
		ct original ip saddr vmap @guard4
		ct state invalid,untracked ip saddr vmap @guard4
		ct original ip6 saddr vmap @guard6
		ct state invalid,untracked ip6 saddr vmap @guard6
		ct direction original ct status snat ip saddr . oif @exit4 goto dropped
		ct direction original ct status snat ip6 saddr . oif @exit6 goto dropped
	}
`, `
	chain exit_%[1]d {
		ct direction reply accept
		ip daddr @cluster4 accept
		ip saddr . oif @exit4 accept
		ip daddr vmap @back4
		ip6 daddr @cluster6 accept
		ip6 saddr . oif @exit6 accept
		ip6 daddr vmap @back6
		goto dropped
	}
`, `
	chain dropped {
		ct state invalid drop
		ct state untracked update @dropped4 { ip saddr . oif counter } drop
		meta nfproto ipv4 update @dropped4 { ct original ip saddr . oif counter }
		ct state untracked update @dropped6 { ip6 saddr . oif counter } drop
		meta nfproto ipv6 update @dropped6 { ct original ip6 saddr . oif counter }
		counter packets 0 bytes 0 drop
	}
`} {
		if strings.Contains(part, "%[1]d") {
			part = fmt.Sprintf(part, index)
		}
		require.Contains(t, table, part)
	}
	// What nft prints it takes back.
	c.load(t, "delete table inet egress_ip\n"+table, "nft", "-c", "-f")
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
	require.Zero(t, answered(d, "udp"))
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
	for _, priority := range []int{3, 32765} {
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

package integration

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
)

// attack is something that somebody on the node does, and takes back.
type attack struct {
	name       string
	begin, end string // for a shell on the node; TABLE is the number of enp7s0's table, INDEX its ifindex
	// link says that it happens to a link as a whole: not two of these at once. In place of commands
	// it may be a function.
	link bool
	do   func(t *testing.T, c *cluster) (end func())
	// may says which arrivals are the attacker's right: what is done with egress-ip's own table,
	// or behind the last place at which it can look. Until it is repaired; nil: none.
	may func(a arrival, s *sender) bool
	// alone: together with any other nothing can hold; a foreign rule before the source rules, say, when nftables is gone.
	alone bool
}

// rawOnLink: after the nftables table has been taken away, the source rule still keeps
// a pod to its link; but nothing gives it the egress address.
func rawOnLink(a arrival, s *sender) bool { return a.link == s.link() }

// foe is a foreign chain, with these rules.
func foe(name, family, kind, hook string, priority int, rules ...string) attack {
	var b strings.Builder
	fmt.Fprintf(&b, "add table %s foe\nadd chain %s foe %s { type %s hook %s priority %d; }\n", family, family, hook, kind, hook, priority)
	for _, rule := range rules {
		fmt.Fprintf(&b, "add rule %s foe %s %s\n", family, hook, rule)
	}
	return attack{
		name:  fmt.Sprintf("%s: %s %s at %s priority %d: %s", name, family, kind, hook, priority, strings.Join(rules, "; ")),
		begin: "nft '" + b.String() + "'",
		end:   fmt.Sprintf("nft delete table %s foe", family),
	}
}

// commands is an attack by commands on the node.
func commands(name, begin, end string) attack {
	return attack{name: name + ": " + begin, begin: begin, end: end}
}

// bothFamilies repeats a command, with the words for each family; -F is the option that names it.
func bothFamilies(command string, ipv4, ipv6 []string) string {
	var all []string
	for _, words := range [][]string{append([]string{"-F", "-4"}, ipv4...), append([]string{"-F", "-6"}, ipv6...)} {
		all = append(all, strings.NewReplacer(words...).Replace(command))
	}
	return strings.Join(all, "; ")
}

func pick[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

// attacks are one of each kind, with priorities, prefixes and statements drawn.
func attacks(r *rand.Rand) []attack {
	all := slices.Concat(natAttacks(r), packetAttacks(r), routeAttacks(r), ruleAttacks(r), ownAttacks(r), linkAttacks(), settingAttacks(r))
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// natAttacks translate before egress-ip does, at its priority, or behind it.
func natAttacks(r *rand.Rand) []attack {
	const pods4, pods6 = "ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16", "ip6 saddr fd00:10:244::/64 ip6 daddr != fd00:10:244::/64"
	var all []attack
	for _, priority := range []int{-199, -150, -100, -10, 0, 50, 89, 90, 91, 99, 100, 101, 150, 300} {
		all = append(all, pick(r,
			foe("masquerade", "inet", "nat", "postrouting", priority, pods4+" masquerade", pods6+" masquerade"),
			foe("masquerade", "inet", "nat", "postrouting", priority, pods4+" masquerade fully-random", pods6+" masquerade persistent"),
			foe("snat", "inet", "nat", "postrouting", priority, pods4+" snat ip to "+nettest.SecondIPv4, pods6+" snat ip6 to "+nettest.SecondIPv6),
			foe("snat", "inet", "nat", "postrouting", priority, pods4+" snat ip to 10.244.7.7", pods6+" snat ip6 to fd00:10:244::7:7"),
		))
	}
	for _, family := range []string{"ip", "ip6"} {
		all = append(all, foe("masquerade", family, "nat", "postrouting", r.IntN(289)-190, "masquerade"))
	}
	for range 3 {
		all = append(all, foe("dnat", "inet", "nat", "prerouting", pick(r, -199, -150, -101, -100, -90, 0, 300),
			"ip saddr 10.244.0.0/16 udp dport 20000-20099 dnat ip to 203.0.113.81", "ip6 saddr fd00:10:244::/64 udp dport 20000-20099 dnat ip6 to 2001:db8:80::81"))
	}
	return all
}

// packetAttacks change packets, and what conntrack makes of them.
func packetAttacks(r *rand.Rand) []attack {
	var all []attack
	for _, hook := range []string{"prerouting", "prerouting", "output"} {
		all = append(all, foe("notrack", "inet", "filter", hook, -300, pick(r, "notrack", "ip saddr 10.244.0.0/16 notrack", "meta l4proto udp notrack")))
	}
	all = append(all,
		foe("zone", "inet", "filter", "prerouting", pick(r, -300, -201), fmt.Sprintf("ct zone set %d", 1+r.IntN(100))),
		foe("zone", "inet", "filter", "prerouting", -300, "ip saddr 10.244.0.0/16 ct original zone set 7"),
		foe("forward", "inet", "filter", "forward", pick(r, -200, 0, 100), "accept"),
		foe("forward", "inet", "filter", "forward", 0, "ct state established accept", "meta l4proto udp limit rate over 500/second drop"),
	)
	for _, priority := range []int{-300, -150, 80, 89, 90, 91, 95, 99, 100} { // before the guard
		all = append(all, foe("payload", "inet", "filter", "postrouting", priority, pick(r,
			"ip saddr 10.244.1.0/24 ip saddr set 192.168.124.10", "ip6 saddr fd00:10:244::/64 ip6 saddr set fd00:124::10",
			"oifname enp7s0 udp dport 20000-20099 ip saddr set 192.0.2.10", "oifname enp7s0 udp dport 20000-20099 ip6 saddr set fd00:124::77")))
	}
	for range 2 { // behind the guard a packet is what root says
		a := foe("payload", "inet", "filter", "postrouting", pick(r, 102, 150, 300), "oifname enp7s0 udp dport 20000-20099 ip saddr set 192.168.124.10",
			"oifname enp7s0 udp dport 20000-20099 ip6 saddr set fd00:124::10")
		a.may = func(a arrival, s *sender) bool {
			return a.link == nettest.RouterSecondLink && (a.source == netip4(nettest.SecondIPv4) || a.source == netip4(nettest.SecondIPv6))
		}
		all = append(all, a)
	}
	marks := func() string {
		return pick(r, "meta mark set 0", "meta mark set 0x42", "meta mark set meta mark ^ 0x42", "meta mark set meta mark & 0xf0ffffff",
			"meta mark set meta mark | 0x4000", "meta mark set meta mark & 0xffff00ff", "meta mark set ct mark")
	}
	for _, priority := range []int{-310, -300, -201, -150, -101, -100, -91, -90, -89, -50, 0, 300} {
		all = append(all, foe("mark", "inet", "filter", "prerouting", priority, marks()))
	}
	for _, hook := range []string{"forward", "postrouting"} {
		for range 2 {
			all = append(all, foe("mark", "inet", "filter", hook, pick(r, -150, 0, 50, 95), marks()))
		}
	}
	return all
}

// routeAttacks are routes, in the link's table and elsewhere, that lead away.
func routeAttacks(r *rand.Rand) []attack {
	var all []attack
	for _, where := range []string{"TABLE", "TABLE", "TABLE", "main", "local"} {
		prefixes := [][2]string{{"default", "default"}, {"0.0.0.0/1", "::/1"}, {"128.0.0.0/1", "2000::/3"}, {"198.51.100.0/24", "2001:db8:51::/64"}, {nettest.ServerIPv4, nettest.ServerIPv6}}
		prefix := prefixes[r.IntN(len(prefixes))]
		if where == "local" { // a default there would be everybody's
			prefix = prefixes[3]
		}
		way := pick(r, [2]string{"via 192.0.2.1 dev eth0", "via 2001:db8:1::1 dev eth0"}, [2]string{"via 192.168.125.1 dev enp8s0", "via fd00:125::1 dev enp8s0"})
		metric := pick(r, "metric 1", "metric 5", "metric 4278198271")
		all = append(all, commands("route",
			bothFamilies("ip -F route prepend PREFIX WAY table "+where+" "+metric, []string{"PREFIX", prefix[0], "WAY", way[0]}, []string{"PREFIX", prefix[1], "WAY", way[1]}),
			bothFamilies("ip -F route del PREFIX WAY table "+where+" "+metric, []string{"PREFIX", prefix[0], "WAY", way[0]}, []string{"PREFIX", prefix[1], "WAY", way[1]})))
	}
	for _, kind := range []string{"throw", "unreachable", "blackhole", "prohibit"} {
		prefix := pick(r, [2]string{"default", "default"}, [2]string{"198.51.100.0/24", "2001:db8:51::/64"}, [2]string{"203.0.113.0/24", "2001:db8:80::/64"})
		all = append(all, commands("route",
			bothFamilies("ip -F route add "+kind+" PREFIX table TABLE metric 1", []string{"PREFIX", prefix[0]}, []string{"PREFIX", prefix[1]}),
			bothFamilies("ip -F route del "+kind+" PREFIX table TABLE metric 1", []string{"PREFIX", prefix[0]}, []string{"PREFIX", prefix[1]})))
	}
	all = append(all,
		commands("table flushed", "ip route flush table TABLE; ip -6 route flush table TABLE", "true"),
		commands("closing routes deleted", "ip route del unreachable default table TABLE metric 4278198272; ip -6 route del unreachable default table TABLE metric 4278198272", "true"),
	)
	return all
}

// ruleAttacks are rules that come first, between, and at priorities of egress-ip's own.
func ruleAttacks(r *rand.Rand) []attack {
	var all []attack
	for _, priority := range []int{1, 100, 5997, 5998, 5999, 6000, 6001, 30000} {
		what := pick(r, "lookup main", "not fwmark 0xca6c lookup 51820", "fwmark 0x1000000/0xf000000 lookup main", "to DST lookup main", "to DST lookup 51820",
			"from POD lookup main", "from POD lookup 51820", "ipproto udp lookup 51820", "fwmark 0/0x1 lookup 51820")
		all = append(all, commands("rule",
			bothFamilies(fmt.Sprintf("ip -F route replace default WAY table 51820; ip -F rule add pref %d %s", priority, what),
				[]string{"DST", "198.51.100.0/24", "POD", "10.244.1.0/24", "WAY", "via 192.0.2.1"}, []string{"DST", "2001:db8:51::/64", "POD", "fd00:10:244::/64", "WAY", "via 2001:db8:1::1"}),
			bothFamilies(fmt.Sprintf("ip -F rule del pref %d %s; ip -F route flush table 51820", priority, what),
				[]string{"DST", "198.51.100.0/24", "POD", "10.244.1.0/24"}, []string{"DST", "2001:db8:51::/64", "POD", "fd00:10:244::/64"})))
	}
	return append(all,
		commands("rules deleted", "ip rule del pref 6000 from 10.244.1.5; ip -6 rule del pref 6000 from fd00:10:244::5", "true"),
		commands("rules deleted", "ip rule del pref 5998 lookup TABLE; ip -6 rule del pref 5998 lookup TABLE", "true"),
		commands("rules deleted", "ip rule del pref 5999 iif lo; ip rule del pref 5999; ip -6 rule del pref 5999 iif lo; ip -6 rule del pref 5999", "true"),
		commands("rules deleted", "ip rule del pref 6001; ip -6 rule del pref 6001", "true"),
	)
}

// ownAttacks take away what is egress-ip's.
func ownAttacks(r *rand.Rand) []attack {
	all := []attack{
		commands("nftables flushed", "nft flush ruleset", "MASQUERADE"),
		commands("own table deleted", "nft delete table inet egress_ip", "true"),
	}
	for i := range all {
		all[i].may, all[i].alone = rawOnLink, true
	}
	return append(all,
		commands("own elements deleted", "nft flush map inet egress_ip snat4; nft flush map inet egress_ip snat6", "true"),
		commands("own elements deleted", "nft flush map inet egress_ip back4; nft flush map inet egress_ip back6", "true"),
		commands("own nat chain flushed", "nft flush chain inet egress_ip postrouting", "true"),
		commands("egress addresses deleted", "ip address del 192.168.124.99/32 dev enp7s0; ip address del fd00:124::99/128 dev enp7s0", "true"),
		commands("connections deleted", "conntrack -F 2>/dev/null", "true"),
		commands("pod's connections deleted", "for pod in 10.244.1.5 fd00:10:244::5; do conntrack -D -s $pod >/dev/null 2>&1 || true; done", "true"),
	)
}

// linkAttacks happen to enp7s0 as a whole.
func linkAttacks() []attack {
	all := []attack{
		{name: "link down", do: func(t *testing.T, c *cluster) func() {
			second.down(t, c)
			return func() { second.up(t, c) }
		}},
		{name: "carrier lost", do: func(t *testing.T, c *cluster) func() {
			c.Router.SetDown(t, nettest.RouterSecondLink)
			return func() {
				c.Router.SetUp(t, nettest.RouterSecondLink)
				c.Router.WaitUsable(t, nettest.RouterSecondLink)
				c.Router.AddAddress(t, nettest.RouterSecondLink, nettest.SecondGatewayIPv6+"/64")
				c.Node.WaitUsable(t, nettest.SecondLink)
			}
		}},
		commands("link renamed while up", "ip link set enp7s0 name wan0", "ip link set wan0 name enp7s0"),
		commands("link renamed while up, another has its name", "ip link set enp7s0 name wan0; ip link add enp7s0 type veth peer name peer0; ip link set peer0 up; ip link set enp7s0 up; ip address add 192.168.124.11/24 dev enp7s0",
			"ip link del enp7s0; ip link set wan0 name enp7s0"),
		{name: "two links change names", do: func(t *testing.T, c *cluster) func() {
			swap := "ip link set enp7s0 name wan0; ip link set enp8s0 name enp7s0; ip link set wan0 name enp8s0"
			c.command(t, "sh", "-ec", swap)
			return func() { c.command(t, "sh", "-ec", swap) }
		}},
		{name: "link moved to another namespace", do: func(t *testing.T, c *cluster) func() {
			away := nettest.New(t, "away")
			c.command(t, "ip", "link", "set", nettest.SecondLink, "netns", away.Path())
			return func() {
				c.on(t, away, "ip", "link", "set", nettest.SecondLink, "netns", c.Node.Path())
				c.Node.SetUp(t, nettest.SecondLink)
				c.Node.WaitUsable(t, nettest.SecondLink)
				c.Router.WaitUsable(t, nettest.RouterSecondLink)
				c.Node.AddAddress(t, second.name, second.ipv4+"/24")
				c.Node.AddAddress(t, second.name, second.ipv6+"/64")
				second.addDefaults(t, c)
			}
		}},
		{name: "link deleted and made again", do: func(t *testing.T, c *cluster) func() {
			c.Node.DeleteLink(t, nettest.SecondLink)
			return func() { second.remake(t, c) }
		}},
		commands("another link takes the addresses", "ip link add other0 type veth peer name peer0; ip link set peer0 up; ip link set other0 up; ip address add 192.168.124.12/24 dev other0", "ip link del other0"),
	}
	for i := range all {
		all[i].link = true
	}
	return all
}

// settingAttacks are settings of the node.
func settingAttacks(r *rand.Rand) []attack {
	var all []attack
	for _, s := range []struct{ key, old string }{
		{"net.ipv4.conf.all.rp_filter", "0"}, {"net.ipv4.conf.enp7s0.rp_filter", "0"}, {"net.ipv4.conf.eth0.rp_filter", "0"},
		{"net.ipv4.conf.enp7s0.src_valid_mark", "1"}, {"net.ipv4.conf.eth0.accept_local", "0"}, {"net.ipv4.conf.all.route_localnet", "0"},
		{"net.ipv4.ip_forward", "1"}, {"net.ipv6.conf.all.forwarding", "1"}, {"net.netfilter.nf_conntrack_tcp_loose", "1"},
		{"net.ipv4.fib_multipath_hash_policy", "0"}, {"net.ipv4.conf.all.send_redirects", "1"},
	} {
		value := pick(r, "0", "1")
		if strings.Contains(s.key, "rp_filter") {
			value = pick(r, "0", "1", "2")
		}
		all = append(all, commands("setting", "sysctl -qw "+s.key+"="+value, "sysctl -qw "+s.key+"="+s.old))
	}
	return all
}

// strike begins an attack. If it must succeed, a command that fails fails the test.
func (a attack) strike(t *testing.T, c *cluster, numbers *strings.Replacer, must bool) (end func()) {
	t.Helper()
	if a.do != nil {
		return a.do(t, c)
	}
	shell := func(text, flags string) (string, error) {
		var out strings.Builder
		cmd := exec.Command("sh", flags, numbers.Replace(text))
		cmd.Stdout, cmd.Stderr = &out, &out
		err := c.Node.Run(cmd)
		return out.String(), err
	}
	if out, err := shell(a.begin, "-ec"); err != nil && must {
		t.Errorf("%s: %v\n%s", a.name, err, out)
	}
	return func() {
		if a.end == "MASQUERADE" {
			c.masquerade(t)
			return
		}
		_, _ = shell(a.end, "-c") // some of it may have been taken back
	}
}

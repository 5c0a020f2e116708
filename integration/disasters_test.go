package integration

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
)

// disasters are all of them.
func disasters() []disaster {
	return slices.Concat(ruleDisasters(), routeDisasters(), nftDisasters(), chainDisasters(),
		linkDisasters(), mainDisasters(), recordDisasters())
}

// derived is a configuration that names no cluster networks.
var derived = object{"clusterCIDRs": nil}

// strict sets the reverse path filter; clearMark takes back what egress-ip does then.
func strict(t *testing.T, c *cluster) { c.Node.Sysctl(t, "net.ipv4.conf.all.rp_filter", "1") }

func clearMark(t *testing.T, c *cluster) {
	for _, link := range c.srcValidMark(t) {
		c.Node.Sysctl(t, "net.ipv4.conf."+link+".src_valid_mark", "0")
	}
}

// run runs commands on the node. TABLE is the number of enp7s0's table, INDEX its
// ifindex. A command with -FAMILY is for each of both.
func run(commands ...string) func(*testing.T, *cluster) {
	return func(t *testing.T, c *cluster) {
		numbers := strings.NewReplacer("TABLE", c.table(t), "INDEX", fmt.Sprint(c.Node.Index(t, nettest.SecondLink)))
		for _, family := range []string{"-4", "-6"} {
			for _, command := range commands {
				if family == "-6" && !strings.Contains(command, "-FAMILY") {
					continue
				}
				args := strings.Fields(numbers.Replace(strings.ReplaceAll(command, "-FAMILY", family)))
				c.command(t, args[0], args[1:]...)
			}
		}
	}
}

// inOrderOf does one after the other.
func inOrderOf(all ...func(*testing.T, *cluster)) func(*testing.T, *cluster) {
	return func(t *testing.T, c *cluster) {
		for _, do := range all {
			do(t, c)
		}
	}
}

// deleteRules deletes all rules of these priorities.
func deleteRules(first, last int, families ...string) func(*testing.T, *cluster) {
	if len(families) == 0 {
		families = []string{"-4", "-6"}
	}
	return func(t *testing.T, c *cluster) {
		for _, f := range families {
			for pref := first; pref <= last; pref++ {
				for range strings.Count(c.command(t, "ip", f, "rule", "show", "pref", fmt.Sprint(pref)), "\n") {
					c.command(t, "ip", f, "rule", "del", "pref", fmt.Sprint(pref))
				}
			}
		}
	}
}

func ruleDisasters() []disaster {
	const del, link = "ip -FAMILY rule del pref ", "5998 fwmark 0x1000000/0xf000000 lookup TABLE"
	return []disaster{
		{name: "rules deleted, link's", do: run(del + link), leaks: true},
		{name: "rules deleted, link's, IPv4", do: run(strings.Replace(del+link, "-FAMILY", "-4", 1)), leaks: true},
		{name: "rules deleted, link's, IPv6", do: run(strings.Replace(del+link, "-FAMILY", "-6", 1)), leaks: true},
		{name: "rules deleted, skipping", do: run(del + "5999 not fwmark 0/0xf000000")},
		{name: "rules deleted, node's own", do: run(del + "5999 iif lo")},
		{name: "rules deleted, source", do: run(del + "6000 lookup TABLE")},
		{name: "rules deleted, all source", do: run(del+"6000 lookup TABLE", del+"6000 lookup TABLE", del+"6000 lookup TABLE")},
		{name: "rules deleted, behind", do: run(del + "6001")},
		{name: "rules deleted, link's and source", do: run(del+link, del+"6000 lookup TABLE"), leaks: true},
		{name: "rules deleted, all", do: deleteRules(5998, 6001), leaks: true, wide: true},
		{name: "rules deleted, all, IPv4", do: deleteRules(5998, 6001, "-4"), leaks: true, wide: true},
		{name: "rules deleted, all, IPv6", do: deleteRules(5998, 6001, "-6"), leaks: true, wide: true},
		{
			name: "rules deleted, all, other priority", do: deleteRules(7008, 7011), leaks: true, wide: true,
			config: object{"rulePriority": 7010, "tableBase": 7000},
		},
		{
			name: "rules deleted, all, lowest priority", config: object{"rulePriority": 3}, leaks: true, wide: true,
			do: deleteRules(1, 4),
		},
		{
			name: "rules deleted, all, highest priority", config: object{"rulePriority": 32765}, leaks: true, wide: true,
			do: inOrderOf(deleteRules(32763, 32765), run(del+"32766 type nop")),
		},
		{
			name: "rules of ours that nothing needs",
			do: run("ip -FAMILY rule add pref 5998 fwmark 0x3000000/0xf000000 lookup TABLE proto kernel",
				"ip -FAMILY rule add pref 5999 fwmark 0x77 goto 6001 proto kernel",
				"ip rule add pref 6000 from 10.244.1.77 lookup TABLE proto kernel",
				"ip -6 rule add pref 6000 from fd00:10:244::77 lookup TABLE proto kernel"),
		},
		{name: "rules deleted, link's, no cluster networks configured", config: derived, leaks: true, do: run(del + link)},
		{name: "rules deleted, all, no cluster networks configured", config: derived, leaks: true, wide: true, do: deleteRules(5998, 6001)},
		{
			name: "rule of an earlier version", config: derived,
			do: run("ip -FAMILY rule add pref 5998 fwmark 0x1000000/0xf000000 lookup main suppress_prefixlength 0 proto kernel"),
		},
	}
}

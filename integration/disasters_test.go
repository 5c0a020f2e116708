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
	return slices.Concat(ruleDisasters(), routeDisasters(), nftDisasters(), linkDisasters(), mainDisasters(), recordDisasters())
}

// run runs commands on the node. TABLE is the number of enp7s0's table, INDEX its
// ifindex.
func run(commands ...string) func(*testing.T, *cluster) {
	return func(t *testing.T, c *cluster) {
		numbers := strings.NewReplacer("TABLE", c.table(t), "INDEX", fmt.Sprint(c.Node.Index(t, nettest.SecondLink)))
		for _, command := range commands {
			args := strings.Fields(numbers.Replace(command))
			c.command(t, args[0], args[1:]...)
		}
	}
}

// inFamilies returns the commands with each value of -FAMILY.
func inFamilies(families []string, commands ...string) []string {
	var all []string
	for _, f := range families {
		for _, command := range commands {
			all = append(all, strings.ReplaceAll(command, "-FAMILY", f))
		}
	}
	return all
}

// ofFamilies are IPv4 alone, IPv6 alone, and both.
var ofFamilies = map[string][]string{"IPv4": {"-4"}, "IPv6": {"-6"}, "both": {"-4", "-6"}}

func ruleDisasters() []disaster {
	var all []disaster
	const link = "pref 5998 fwmark 0x1000000/0xf000000 lookup TABLE"
	for family, flags := range ofFamilies {
		for _, kind := range []struct {
			name  string
			leaks bool
			rules []string
		}{
			{"link", true, []string{link}},
			{"skip", false, []string{"pref 5999 not fwmark 0/0xf000000"}},
			{"node's own", false, []string{"pref 5999 iif lo"}},
			{"source", false, []string{"pref 6000 lookup TABLE"}},
			{"all source", false, []string{"pref 6000 lookup TABLE", "pref 6000 lookup TABLE", "pref 6000 lookup TABLE"}},
			{"behind", false, []string{"pref 6001"}},
			{"link and source", true, []string{link, "pref 6000 lookup TABLE"}},
		} {
			var commands []string
			for _, rule := range kind.rules {
				commands = append(commands, "ip -FAMILY rule del "+rule)
			}
			all = append(all, disaster{
				name: fmt.Sprintf("rules deleted, %s, %s", kind.name, family), leaks: kind.leaks,
				do: run(inFamilies(flags, commands...)...),
			})
		}
		all = append(all, disaster{
			name: "rules deleted, all, " + family, leaks: true, wide: true, do: deleteRules(flags, 5998, 6001),
		}, disaster{
			name: "rules deleted, all, other priority, " + family, leaks: true, wide: true, do: deleteRules(flags, 7008, 7011),
			config: object{"rulePriority": 7010, "tableBase": 7000},
		})
	}
	derived := object{"clusterCIDRs": nil}
	each := []string{"-4", "-6"}
	return append(all, disaster{
		name: "rules of ours that nothing needs",
		do: run(append(inFamilies(each,
			"ip -FAMILY rule add pref 5998 fwmark 0x3000000/0xf000000 lookup TABLE proto kernel",
			"ip -FAMILY rule add pref 5999 fwmark 0x77 goto 6001 proto kernel"),
			"ip rule add pref 6000 from 10.244.1.77 lookup TABLE proto kernel", "ip -6 rule add pref 6000 from fd00:10:244::77 lookup TABLE proto kernel")...),
	}, disaster{
		name: "rules, main's behind the link's", config: derived,
		do: run(inFamilies(each, "ip -FAMILY rule del pref 5998 fwmark 0x1000000/0xf000000 lookup main",
			"ip -FAMILY rule add pref 5998 fwmark 0x1000000/0xf000000 lookup main suppress_prefixlength 0 proto kernel")...),
	}, disaster{
		name: "rules, a move that was killed", config: derived,
		do: run(inFamilies(each, "ip -FAMILY rule add pref 5998 fwmark 0x1000000/0xf000000 uidrange 0-4294967294 lookup TABLE proto kernel")...),
	}, disaster{
		name: "rules, a move that was killed midway", config: derived,
		do: run(inFamilies(each, "ip -FAMILY rule add pref 5998 fwmark 0x1000000/0xf000000 uidrange 0-4294967294 lookup TABLE proto kernel",
			"ip -FAMILY rule del "+link)...),
	}, disaster{
		name: "rules deleted, main's", config: derived,
		do: run(inFamilies(each, "ip -FAMILY rule del pref 5998 fwmark 0x1000000/0xf000000 lookup main")...),
	}, disaster{
		name: "rules deleted, link, main's is there", config: derived, leaks: true,
		do: run(inFamilies(each, "ip -FAMILY rule del "+link)...),
	}, disaster{
		name: "rules deleted, all, main's is there", config: derived, leaks: true, wide: true,
		do: deleteRules(each, 5998, 6001),
	}, disaster{
		name: "rules deleted, all, lowest priority", config: object{"rulePriority": 1}, leaks: true, wide: true,
		do: func(t *testing.T, c *cluster) {
			deleteRules(each, 1, 2)(t, c)
			for _, f := range each {
				c.command(t, "ip", f, "rule", "del", "pref", "0", "fwmark", "0x1000000/0xf000000")
			}
		},
	}, disaster{
		name: "rules deleted, all, highest priority", config: object{"rulePriority": 32765}, leaks: true, wide: true,
		do: func(t *testing.T, c *cluster) {
			deleteRules(each, 32763, 32765)(t, c)
		},
	})
}

// deleteRules deletes all rules of these priorities.
func deleteRules(families []string, first, last int) func(*testing.T, *cluster) {
	return func(t *testing.T, c *cluster) {
		for _, f := range families {
			for pref := first; pref <= last; pref++ {
				for strings.Contains(c.command(t, "ip", f, "rule"), fmt.Sprintf("%d:", pref)) {
					c.command(t, "ip", f, "rule", "del", "pref", fmt.Sprint(pref))
				}
			}
		}
	}
}

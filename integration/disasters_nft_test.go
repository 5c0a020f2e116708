package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// nft is a transaction.
func nft(lines ...string) func(*testing.T, *cluster) { return run("nft " + strings.Join(lines, "; ")) }

// nftDisasters are those of nftables. A pod's packets that are classified wrong leave
// by the primary link; those that are not classified at all by its source rule.
func nftDisasters() []disaster {
	masquerade := func(t *testing.T, c *cluster) { c.masquerade(t) }
	all := []disaster{
		{name: "ruleset flushed", wide: true, do: nft("flush ruleset"), daemon: masquerade},
		{name: "ruleset flushed, no cluster networks configured", wide: true, do: nft("flush ruleset"), daemon: masquerade, config: object{"clusterCIDRs": nil}},
		{name: "ruleset flushed, other priority", wide: true, do: nft("flush ruleset"), daemon: masquerade, config: object{"rulePriority": 7010, "tableBase": 7000}},
		{name: "table deleted", wide: true, do: nft("delete table inet egress_ip")},
		{name: "table flushed", wide: true, do: nft("flush table inet egress_ip")},
		{name: "table is empty", wide: true, do: nft("delete table inet egress_ip", "add table inet egress_ip")},
		{name: "probe table deleted", do: nft("delete table ip6 egress_ip_probe")},
		{name: "probe table, chain flushed", do: nft("flush chain ip6 egress_ip_probe postrouting")},
		{name: "probe table, rule added", do: nft("insert rule ip6 egress_ip_probe prerouting accept")},
		{name: "probe table, policy", do: nft("add chain ip6 egress_ip_probe prerouting { policy drop; }"), leaks: true, wide: true},
		{
			name: "elements with another pod's values",
			do: nft("delete element inet egress_ip snat4 { 10.244.1.5 . enp7s0, 10.244.1.7 . enp7s0 }",
				"add element inet egress_ip snat4 { 10.244.1.5 . enp7s0 : 192.168.124.100, 10.244.1.7 . enp7s0 : 192.168.124.99 }"),
		},
	}
	for family, of := range map[string]struct{ digit, pod, other, plain, unknown, egress, cluster, foreign string }{
		"IPv4": {"4", "10.244.1.5", "10.244.1.6", "10.244.1.10", "10.244.1.77", egress4, "10.244.0.0/16", "203.0.113.0/24"},
		"IPv6": {"6", "fd00:10:244::5", "fd00:10:244::6", "fd00:10:244::a", "fd00:10:244::77", egress6, "fd00:10:244::/56", "2001:db8:80::/64"},
	} {
		element := func(what, set, format string, args ...any) string {
			return fmt.Sprintf("%s element inet egress_ip %s%s { "+format+" }", append([]any{what, set, of.digit}, args...)...)
		}
		for _, set := range []struct{ name, key, wrong string }{
			{"out", of.pod, "goto others"},
			{"back", of.pod, "goto others"},
			{"snat", of.pod + " . enp7s0", strings.Replace(of.egress, "99", "98", 1)},
		} {
			right := map[string]string{"out": "goto out_INDEX", "back": "goto back_INDEX", "snat": of.egress}[set.name]
			leaks := set.name == "out"
			name := func(s string) string { return fmt.Sprintf("element of map %s, %s, %s", set.name, s, family) }
			all = append(all,
				disaster{name: name("deleted"), leaks: leaks, do: nft(element("delete", set.name, "%s", set.key))},
				disaster{name: name("another value"), leaks: leaks, do: nft(element("delete", set.name, "%s", set.key),
					element("add", set.name, `%s comment "first" : %s`, set.key, set.wrong))},
				disaster{name: name("another comment"), do: nft(element("delete", set.name, "%s", set.key),
					element("add", set.name, `%s comment "another" : %s`, set.key, right))},
				disaster{name: name("of nobody"), do: nft(element("add", set.name, `%s : %s`, strings.Replace(set.key, of.pod, of.unknown, 1), right))},
			)
		}
		all = append(all,
			disaster{name: "all maps flushed, " + family, leaks: true, wide: true, do: nft("flush map inet egress_ip out"+of.digit,
				"flush map inet egress_ip back"+of.digit, "flush map inet egress_ip snat"+of.digit, "flush set inet egress_ip cluster"+of.digit)},
			disaster{name: "cluster network deleted, " + family, do: nft(element("delete", "cluster", "%s", of.cluster))},
			disaster{name: "cluster network that is none, " + family, leaks: true, wide: true, do: nft(element("add", "cluster", "%s", of.foreign))},
			disaster{name: "cluster networks are others, " + family, leaks: true, wide: true, do: nft("flush set inet egress_ip cluster"+of.digit,
				element("add", "cluster", "%s", of.foreign))},
			disaster{
				name: "elements for a plain pod, " + family,
				do: nft(element("add", "out", "%s : goto out_INDEX", of.plain), element("add", "back", "%s : goto back_INDEX", of.plain),
					element("add", "snat", "%s . enp7s0 : %s", of.plain, of.egress)),
			},
		)
	}
	all = append(all,
		disaster{name: "unmarked deleted", do: nft("delete element inet egress_ip unmarked { 0 }")},
		disaster{name: "unmarked goes elsewhere", do: nft("delete element inet egress_ip unmarked { 0 }", "add element inet egress_ip unmarked { 0 : accept }")},
	)
	for _, chain := range []struct {
		name        string
		leaks, wide bool
	}{
		{"prerouting", true, true}, {"postrouting", false, true}, {"output", false, false}, {"others", false, true},
		{"out_INDEX", true, false}, {"back_INDEX", false, false},
	} {
		name, in := strings.Replace(chain.name, "INDEX", "N", 1), "inet egress_ip "+chain.name
		all = append(all,
			disaster{name: "chain " + name + " flushed", leaks: chain.leaks, wide: chain.wide, do: nft("flush chain " + in)},
			disaster{name: "chain " + name + ", rule deleted", leaks: chain.leaks, wide: chain.wide, do: func(t *testing.T, c *cluster) {
				run("nft delete rule "+in+" handle "+firstRule(t, c, chain.name))(t, c)
			}},
			disaster{name: "chain " + name + ", rule added", leaks: chain.leaks, wide: chain.wide, do: nft("insert rule " + in + " accept")},
		)
	}
	for _, name := range []string{"prerouting", "postrouting", "output"} {
		in := "inet egress_ip " + name
		all = append(all,
			disaster{name: "chain " + name + " deleted", wide: true, do: nft("flush chain "+in, "delete chain "+in)},
			disaster{name: "chain " + name + ", policy", leaks: true, wide: true, do: nft("add chain " + in + " { policy drop; }")},
			disaster{name: "chain " + name + ", priority", leaks: true, wide: true, do: func(t *testing.T, c *cluster) {
				table := c.command(t, "nft", "-s", "list", "chain", "inet", "egress_ip", name)
				priority := strings.Index(table, "priority")
				end := priority + strings.Index(table[priority:], ";")
				c.nftFile(t, "flush chain "+in+"\ndelete chain "+in+"\n"+table[:priority]+"priority 300"+table[end:])
			}},
		)
	}
	return append(all, disaster{
		name: "chains of a link that is not there",
		do:   nft("add chain inet egress_ip out_99", "add chain inet egress_ip back_99", `add element inet egress_ip out4 { 10.244.1.99 : goto out_99 }`),
	})
}

// firstRule is the handle of a chain's first rule.
func firstRule(t *testing.T, c *cluster, chain string) string {
	t.Helper()
	chain = strings.Replace(chain, "INDEX", fmt.Sprint(c.Node.Index(t, nettest.SecondLink)), 1)
	for line := range strings.Lines(c.command(t, "nft", "-a", "list", "chain", "inet", "egress_ip", chain)) {
		before, handle, ok := strings.Cut(strings.TrimSpace(line), " # handle ")
		if ok && !strings.HasSuffix(before, "{") {
			return handle
		}
	}
	require.Fail(t, "no rule", chain)
	return ""
}

// nftFile loads a ruleset.
func (c *cluster) nftFile(t *testing.T, ruleset string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ruleset.nft")
	require.NoError(t, os.WriteFile(file, []byte(ruleset), 0o600))
	c.command(t, "nft", "-f", file)
}

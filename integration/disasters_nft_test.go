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

// nft is one transaction. Lines with FIRST are for each family: FIRST and its like
// stand for addresses, N for the digit in the names of maps.
func nft(lines ...string) func(*testing.T, *cluster) {
	families := []*strings.Replacer{
		strings.NewReplacer("FIRST", "10.244.1.5", "PLAIN", "10.244.1.10", "NOBODY", "10.244.1.77",
			"EGRESS", egress4, "OTHER", other4, "PODS", "10.244.0.0/16", "WORLD", "203.0.113.0/24", "N ", "4 "),
		strings.NewReplacer("FIRST", "fd00:10:244::5", "PLAIN", "fd00:10:244::a", "NOBODY", "fd00:10:244::77",
			"EGRESS", egress6, "OTHER", other6, "PODS", "fd00:10:244::/56", "WORLD", "2001:db8:80::/64", "N ", "6 "),
	}
	var all []string
	for _, line := range lines {
		inIPv4, inIPv6 := families[0].Replace(line+" "), families[1].Replace(line+" ")
		all = append(all, inIPv4)
		if inIPv6 != inIPv4 {
			all = append(all, inIPv6)
		}
	}
	return run("nft " + strings.Join(all, "; "))
}

// masquerade is what the main plugin or kube-proxy puts back.
func masquerade(t *testing.T, c *cluster) { c.masquerade(t) }

// loadTable loads the table as nft lists it, as somebody does who has saved it.
func loadTable(t *testing.T, c *cluster) {
	file := filepath.Join(t.TempDir(), "nftables.conf")
	require.NoError(t, os.WriteFile(file, []byte("delete table inet egress_ip\n"+c.command(t, "nft", "list", "table", "inet", "egress_ip")), 0o600))
	c.command(t, "nft", "-f", file)
}

// nftDisasters are those of nftables. A pod's packets that are classified wrong leave
// by the primary link; those that are not classified at all go by its source rule.
func nftDisasters() []disaster {
	const add, del = "add element inet egress_ip ", "delete element inet egress_ip "
	return []disaster{
		{name: "table loaded again", do: loadTable},
		{name: "ruleset flushed", wide: true, do: nft("flush ruleset"), daemon: masquerade},
		{name: "ruleset flushed, no cluster networks configured", wide: true, do: nft("flush ruleset"), daemon: masquerade, config: derived},
		{
			name: "ruleset flushed, other priority", wide: true, do: nft("flush ruleset"), daemon: masquerade,
			config: object{"rulePriority": 7010, "tableBase": 7000},
		},
		{name: "table deleted", wide: true, do: nft("delete table inet egress_ip")},
		{name: "table's rules deleted", wide: true, do: nft("flush table inet egress_ip")},
		{name: "table empty", wide: true, do: nft("delete table inet egress_ip", "add table inet egress_ip")},
		{name: "probe table deleted", do: nft("delete table ip6 egress_ip_probe")},
		{name: "probe table, chain flushed", do: nft("flush chain ip6 egress_ip_probe postrouting")},
		{name: "probe table, rule added", do: nft("insert rule ip6 egress_ip_probe prerouting accept")},
		{name: "probe table, policy", do: nft("add chain ip6 egress_ip_probe prerouting { policy drop; }"), leaks: true, wide: true},

		{name: "element of out deleted", leaks: true, do: nft(del + "outN { FIRST }")},
		{name: "element of back deleted", do: nft(del + "backN { FIRST }")},
		{name: "element of snat deleted", do: nft(del + "snatN { FIRST . enp7s0 }")},
		{name: "elements of one pod deleted", leaks: true, do: nft(del+"outN { FIRST }", del+"backN { FIRST }", del+"snatN { FIRST . enp7s0 }")},
		{name: "element of out, another value", leaks: true, do: nft(del+"outN { FIRST }", add+`outN { FIRST comment "first" : goto others }`)},
		{name: "element of back, another value", do: nft(del+"backN { FIRST }", add+`backN { FIRST comment "first" : goto others }`)},
		{name: "element of snat, another value", do: nft(del+"snatN { FIRST . enp7s0 }", add+`snatN { FIRST . enp7s0 comment "first" : OTHER }`)},
		{
			name: "elements with another comment",
			do: nft(del+"outN { FIRST }", add+`outN { FIRST comment "another" : goto out_INDEX }`,
				del+"backN { FIRST }", add+"backN { FIRST : goto back_INDEX }",
				del+"snatN { FIRST . enp7s0 }", add+`snatN { FIRST . enp7s0 comment "another" : EGRESS }`),
		},
		{
			name: "elements of nobody",
			do: nft(add+"outN { NOBODY : goto out_INDEX }", add+`backN { NOBODY comment "nobody" : goto back_INDEX }`,
				add+"snatN { NOBODY . enp7s0 : EGRESS }", add+"snatN { FIRST . eth0 : EGRESS }"),
		},
		{
			name: "elements of a plain pod",
			do:   nft(add+"outN { PLAIN : goto out_INDEX }", add+"backN { PLAIN : goto back_INDEX }", add+"snatN { PLAIN . enp7s0 : EGRESS }"),
		},
		{
			name: "maps flushed", leaks: true, wide: true,
			do: nft("flush map inet egress_ip outN ", "flush map inet egress_ip backN ", "flush map inet egress_ip snatN ", "flush set inet egress_ip clusterN "),
		},
		{name: "element of exit deleted", wide: true, do: nft(del + "exitN { EGRESS . enp7s0 }")},
		{name: "element of exit for another link", do: nft(add + "exitN { EGRESS . eth0 }")},
		{name: "element of pods deleted", do: nft(del + "podsN { FIRST . veth1 }")},
		{name: "element of guard deleted", do: nft(del + "guardN { FIRST }")},
		{name: "element of arrived, another value", do: nft(del+"arrivedN { EGRESS }", add+"arrivedN { EGRESS : goto others }")},
		{name: "egress address forgeable", do: nft(del + "outN { EGRESS }")},
		{name: "cluster network deleted", do: nft(del + "clusterN { PODS }")},
		{name: "cluster network that is none", leaks: true, wide: true, do: nft(add + "clusterN { WORLD }")},
		{
			name: "cluster networks are others", leaks: true, wide: true,
			do: nft("flush set inet egress_ip clusterN ", add+"clusterN { WORLD }"),
		},
		{name: "unmarked deleted", do: nft(del + "unmarked { 0 }")},
		{name: "unmarked goes elsewhere", do: nft(del+"unmarked { 0 }", add+"unmarked { 0 : accept }")},
	}
}

func chainDisasters() []disaster {
	all := []disaster{
		{
			name: "chains of a link that is not there",
			do: nft("add chain inet egress_ip out_99", "add chain inet egress_ip back_99",
				"add element inet egress_ip out4 { 10.244.1.99 : goto out_99 }"),
		},
		{
			// The chain drops the announcement of the address.
			name: "chain output, policy, and addresses deleted", leaks: true, wide: true,
			do: inOrderOf(nft("add chain inet egress_ip output { policy drop; }"),
				run("ip address del "+egress4+"/32 dev enp7s0", "ip address del "+egress6+"/128 dev enp7s0")),
		},
		{
			name: "hooked chains deleted", wide: true,
			do: nft("delete chain inet egress_ip prerouting", "delete chain inet egress_ip output", "delete chain inet egress_ip postrouting"),
		},
	}
	for _, chain := range []struct {
		name               string
		leaks, wide, hooks bool
	}{
		{"prerouting", true, true, true}, {"postrouting", false, true, true}, {"output", false, false, true},
		{"exit", false, true, true},
		{"others", false, true, false}, {"inbound", false, false, false}, {"forged", false, false, false}, {"unmarked", false, false, false}, {"dropped", false, false, false},
		{"mark_INDEX", false, false, false}, {"exit_INDEX", false, false, false}, {"out_INDEX", true, false, false}, {"back_INDEX", false, false, false},
	} {
		name, in := "chain "+strings.Replace(chain.name, "INDEX", "N", 1), "inet egress_ip "+chain.name
		all = append(all,
			disaster{name: name + ", rule deleted", leaks: chain.leaks, wide: chain.wide, do: func(t *testing.T, c *cluster) {
				run("nft delete rule "+in+" handle "+firstRule(t, c, chain.name))(t, c)
			}},
			disaster{name: name + ", rule added", leaks: chain.leaks, wide: chain.wide, do: nft("insert rule " + in + " accept")},
		)
		if !chain.hooks {
			continue
		}
		all = append(all,
			disaster{name: name + ", policy", leaks: true, wide: true, do: nft("add chain " + in + " { policy drop; }")},
			disaster{name: name + ", priority", leaks: true, wide: true, do: func(t *testing.T, c *cluster) {
				table := c.command(t, "nft", "-s", "list", "chain", "inet", "egress_ip", chain.name)
				priority := strings.Index(table, "priority")
				end := priority + strings.Index(table[priority:], ";")
				c.nftFile(t, "delete chain "+in+"\n"+table[:priority]+"priority 300"+table[end:])
			}},
		)
	}
	return all
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

package integration

import (
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestCheck takes one thing away at a time: CHECK names it, and ADD, made again,
// puts it back.
func TestCheck(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.1.0")
	d := c.newDirect(t, "checked", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	d.add(t, both)
	whole := c.state(t)

	for _, tt := range []struct {
		name    string
		take    []string
		missing []string
	}{
		{"rule", []string{"ip", "rule", "del", "from", "10.244.1.5"}, []string{"rule 6000: from 10.244.1.5 lookup 10"}},
		{"IPv6 rule", []string{"ip", "-6", "rule", "del", "from", "fd00:10:244::5"}, []string{"rule 6000: from fd00:10:244::5 lookup 10"}},
		{"default", []string{"ip", "route", "del", "default", "metric", "200", "table", "TABLE"}, []string{"route default via 192.168.124.1"}},
		{"link route", []string{"ip", "-6", "route", "del", "fd00:124::/64", "table", "TABLE"}, []string{"route fd00:124::/64 dev"}},
		{"cluster throw", []string{"ip", "route", "del", "throw", "10.96.0.0/12", "table", "TABLE"}, []string{"route throw 10.96.0.0/12"}},
		{"pod throw", []string{"ip", "route", "del", "throw", "10.244.1.5", "table", "TABLE"}, []string{"route throw 10.244.1.5"}},
		{"closing route", []string{"ip", "route", "del", "unreachable", "default", "table", "TABLE"}, []string{"route unreachable default metric 4278198272"}},
		{"table", []string{"ip", "-6", "route", "flush", "table", "TABLE"}, []string{"route default via fd00:124::1", "route unreachable default metric 4278198272"}},
		{"address", []string{"ip", "address", "del", egress4 + "/32", "dev", "enp7s0"}, []string{"address 192.168.124.99/32 on enp7s0"}},
		{"IPv6 address", []string{"ip", "address", "del", egress6 + "/128", "dev", "enp7s0"}, []string{"address fd00:124::99/128 on enp7s0"}},
		{"element", []string{"nft", "delete element inet egress_ip snat4 { 10.244.1.5 . enp7s0 }"}, []string{`element { 10.244.1.5 . "enp7s0" : 192.168.124.99 } of map snat4`}},
		{"other element", []string{"nft", "delete element inet egress_ip snat6 { fd00:10:244::5 . enp7s0 }; add element inet egress_ip snat6 { fd00:10:244::5 . enp7s0 : fd00:124::98 }"}, []string{`element { fd00:10:244::5 . "enp7s0" : fd00:124::99 } of map snat6`}},
		{"chain", []string{"nft", "flush", "chain", "inet", "egress_ip", "postrouting"}, []string{"table inet egress_ip"}},
		{"nftables table", []string{"nft", "delete", "table", "inet", "egress_ip"}, []string{"table inet egress_ip"}},
		{"ruleset", []string{"nft", "flush", "ruleset"}, []string{"table inet egress_ip"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := d.call(t, "CHECK", both)
			require.NoError(t, err)
			require.Equal(t, whole, c.state(t))

			c.command(t, tt.take[0], withTable(c, t, tt.take[1:])...)
			_, err = d.call(t, "CHECK", both)
			for _, missing := range tt.missing {
				require.ErrorContains(t, err, jsonText(t, missing))
			}
			d.add(t, both)
		})
	}
	require.Equal(t, whole, c.state(t))

	t.Run("record", func(t *testing.T) {
		d.del(t)
		_, err := d.call(t, "CHECK", both)
		require.ErrorContains(t, err, "checked")
		require.ErrorContains(t, err, "no record")
	})
}

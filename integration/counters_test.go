package integration

import (
	"encoding/json"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/egress-ip/egress-ip/pkg/status"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// sent is what status has counted of each pod address; those that are not counted are not in it.
func (c *cluster) sent(t *testing.T) map[string]status.Counter {
	t.Helper()
	out, exit := c.egressIP(t, "status", "-o", "json")
	require.Zero(t, exit)
	var s status.Status
	require.NoError(t, json.Unmarshal([]byte(out), &s))
	sent := map[string]status.Counter{}
	for _, p := range s.Pods {
		if p.Sent != nil {
			sent[p.Address.String()] = *p.Sent
		}
	}
	return sent
}

// TestCounters: with `counters` exactly the packets that a pod sends to its link are
// counted: not those to the cluster, not its answers to others. A pod of before is
// not counted; what counts goes with the last pod that is.
func TestCounters(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
	uncounted := c.newDirect(t, "uncounted", "10.244.1.6", "fd00:10:244::6", noProbe)
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(object{"counters": true, "probeSNAT": object{"mode": "never"}}))
	uncounted.add(t, address(other4+","+other6))
	before := c.state(t)
	require.NotContains(t, before, "counted_")
	require.NotContains(t, before, "sent4")
	d.ServeWhoAmI(t, nettest.WhoAmIPort)
	d.add(t, both)
	require.Equal(t, map[string]status.Counter{"10.244.1.5": {}, "fd00:10:244::5": {}}, c.sent(t))

	second := c.Router.Capture(t, nettest.RouterSecondLink)
	d.requireSeen(t, egress4, egress6)
	uncounted.requireSeen(t, other4, other6)
	for _, pod := range []string{"10.244.1.5", "[fd00:10:244::5]"} { // an answer, and the cluster
		_, err := c.Node.Ask("udp", pod+":8080")
		require.NoError(t, err)
		_, err = uncounted.Ask("udp", pod+":8080")
		require.NoError(t, err)
	}
	var sent map[string]status.Counter
	require.Eventually(t, func() bool { // the last packets of a connection come behind its answer
		left := second.Count(func(p nettest.Packet) bool {
			return !p.Outgoing && p.EtherType == unix.ETH_P_IP && p.Src.String() == egress4 // and no answer to ARP
		})
		sent = c.sent(t)
		return left > 0 && uint64(left) == sent["10.244.1.5"].Packets
	}, waitFor, 5*tick)
	require.Len(t, sent, 2)
	require.NotZero(t, sent["fd00:10:244::5"].Packets)
	require.Greater(t, sent["10.244.1.5"].Bytes, 20*sent["10.244.1.5"].Packets)
	standing := c.state(t)

	for _, pod := range []string{d.id, uncounted.id} {
		out, exit := c.egressIP(t, "explain", pod, "--to", nettest.ServerIPv6)
		require.Zero(t, exit, out)
	}

	// A second ADD, CHECK and resync leave the counters; a flush starts them anew.
	d.add(t, both)
	_, err := d.call(t, "CHECK", both)
	require.NoError(t, err)
	out, exit := c.egressIP(t, "resync")
	require.Zero(t, exit)
	require.Equal(t, "nothing to do\n", out)
	require.Equal(t, sent, c.sent(t))
	c.command(t, "nft", "flush", "ruleset")
	_, exit = c.egressIP(t, "resync")
	require.Zero(t, exit)
	require.Equal(t, standing, c.state(t))
	require.Equal(t, map[string]status.Counter{"10.244.1.5": {}, "fd00:10:244::5": {}}, c.sent(t))

	d.del(t)
	require.Equal(t, before, c.state(t))
	out, exit = c.egressIP(t, "resync")
	require.Zero(t, exit)
	require.Equal(t, "nothing to do\n", out)
}

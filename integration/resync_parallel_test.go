package integration

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// probeless is a configuration without the probe table, like that of [numbered] pods.
var probeless = object{"probeSNAT": object{"mode": "never"}}

// TestResyncBesideCalls: while pods come and go, 16 at once, things of another pod are
// deleted and put back again and again. No call fails, and no pod loses anything by it.
func TestResyncBesideCalls(t *testing.T) {
	t.Parallel()
	s := newStricken(t, probeless, nil)
	sandbox := nettest.New(t, "sandbox").Path()
	// All egress addresses that come are there, so that no ADD waits to check them.
	for n := range 14 {
		s.Node.AddAddress(t, nettest.SecondLink, fmt.Sprintf("192.168.124.%d/24", 97+n))
	}
	s.resync(t) // connections to these addresses are answered by their link
	before := s.whole(t)
	asks := keepAsking(t, s.cluster, s.tenants[0].Namespace, egress4, egress6)
	far := s.keepFarAsking(t)
	resyncs := &asking{stop: make(chan struct{})}
	resyncs.every(0, "", func() (string, error) {
		run("ip rule del from 10.244.1.7", "ip route del throw 10.244.1.7 table TABLE",
			"nft delete element inet egress_ip snat4 { 10.244.1.7 . enp7s0 }", "nft delete element inet egress_ip out6 { fd00:10:244::8 }")(t, s.cluster)
		if _, err := s.resyncs(); err != nil {
			return "", err
		}
		_, err := s.tenants[2].call(t, "CHECK", address(other4))
		return "", err
	})
	for range 3 { // which mostly find calls under way
		resyncs.every(0, "", func() (string, error) {
			_, err := s.resyncs()
			return "", err
		})
	}
	errs := each(0, processes, processes, func(worker int) error {
		for range 6 {
			for _, command := range []string{"ADD", "CHECK", "DEL"} {
				if _, err := s.plugin(numbered(t, command, sandbox, worker, 4)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	close(resyncs.stop)
	resyncs.running.Wait()
	t.Logf("%d resyncs", resyncs.asked)
	require.Empty(t, resyncs.wrong)
	require.Empty(t, errs)
	asks.requireAll(t)
	far.requireAll(t)
	s.requireEgress(t)
	require.Equal(t, before, s.whole(t))
	s.requireNothingToDo(t)
}

// resyncs is resync for a goroutine of its own.
func (c *cluster) resyncs() (string, error) {
	cmd := exec.Command(filepath.Join(bin, "egress-ip"), "resync")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := c.Node.Run(cmd)
	if err != nil {
		err = fmt.Errorf("resync: %w\n%s", err, &out)
	}
	return out.String(), err
}

// TestResyncKilled: ADDs, DELs and resyncs are killed at random moments. A resync then
// makes the node what the record says, and a DEL leaves nothing.
func TestResyncKilled(t *testing.T) {
	t.Parallel()
	c := newNode(t)
	sandbox := nettest.New(t, "sandbox").Path()
	live := c.newDirect(t, "live", "10.244.1.2", "fd00:10:244::2", noProbe)
	live.add(t, both)
	before := c.whole(t)
	asks := keepAsking(t, c, live.Namespace, egress4, egress6)
	k := killed{cluster: c, deaths: map[string]int{}}
	addTakes, delTakes := k.measure(t, noProbe, sandbox)
	entry := egressIP(object{"links": twoLinks("", ""), "probeSNAT": object{"mode": "never"}})
	for i := range 24 {
		id, ipv4, ipv6 := fmt.Sprintf("killed-%d", i), "10.244.2.5", "fd00:10:244::2:5"
		add := call{"ADD", id, sandbox, request(t, entry, others, ipv4, ipv6), "K8S_POD_NAMESPACE=payments;K8S_POD_NAME=pod"}
		if i%2 == 0 {
			k.killAdd(t, add, ipv4, ipv6, rand.N(addTakes+addTakes/5))
		} else {
			_, err := c.plugin(add)
			require.NoError(t, err)
			k.killDel(t, id, ipv4, ipv6, rand.N(delTakes+delTakes/5))
		}
		resync := exec.Command(filepath.Join(bin, "egress-ip"), "resync")
		require.NoError(t, c.Node.Start(t, resync))
		time.Sleep(rand.N(addTakes / 2))
		_ = resync.Process.Kill() // it may have ended
		if resync.Wait() != nil {
			k.deaths["resync"]++
		}
		c.resync(t)
		require.Equal(t, "nothing to do\n", c.resync(t))
		if len(c.attachments(t)) > 1 {
			add.command = "CHECK"
			_, err := c.plugin(add)
			require.NoError(t, err)
		}
		require.NoError(t, c.bareDel(id))
		require.Equal(t, before, c.whole(t))
	}
	asks.requireAll(t)
	t.Logf("%v", k.deaths)
	require.NotZero(t, k.midway)
}

// TestResyncKilledMidway: a resync that has everything to do is killed, and the next
// one does the rest.
func TestResyncKilledMidway(t *testing.T) {
	t.Parallel()
	s := newStricken(t, nil, strict)
	before := s.whole(t)
	midway := 0
	for tries := 0; tries < 12 || midway == 0 && tries < 60; tries++ {
		everythingOfOurs(t, s.cluster)
		masquerade(t, s.cluster)
		struck := s.whole(t)
		resync := exec.Command(filepath.Join(bin, "egress-ip"), "resync")
		require.NoError(t, s.Node.Start(t, resync))
		time.Sleep(rand.N(20 * time.Millisecond))
		_ = resync.Process.Kill() // it may have ended
		_ = resync.Wait()
		if now := s.whole(t); now != struck && now != before {
			midway++
		}
		s.resync(t)
		require.Equal(t, before, s.whole(t))
	}
	s.requireNothingToDo(t)
	s.requireEgress(t)
	t.Logf("%d were killed midway", midway)
	require.NotZero(t, midway)
}

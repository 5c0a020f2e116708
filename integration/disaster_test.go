package integration

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// disaster is something that happens to a node and that egress-ip can repair.
type disaster struct {
	name string
	// config is put on top of the plugin's configuration, prepare is done to the
	// node before its pods come.
	config  object
	prepare func(*testing.T, *cluster)
	do      func(*testing.T, *cluster)
	// daemon is what others on the node put back: a network daemon the link's own
	// addresses and routes, kube-proxy its rules.
	daemon func(*testing.T, *cluster)
	// until is what the node then has, see [cluster.whole], and gone what it has no
	// more; without either, it is as it was before.
	until, gone []string
	// anew: ADDs would put up the same; so they do wherever the node is not as before.
	anew bool
	// leaks: until it is repaired packets may leave by the primary link.
	leaks bool
	// wide: the pod on the other link may be struck too.
	wide bool
	// silent: the kernel tells nobody of it, so a watcher sees it the next time it looks.
	silent bool
}

// healer makes a node whole again. It is called before a disaster; the function
// that it returns is called after that, and returns when the node is whole, or could
// be; done asks whether it is.
type healer func(t *testing.T, s *stricken) (heal func(done func() bool))

// byResync heals by calling resync once.
func byResync(t *testing.T, s *stricken) func(func() bool) {
	return func(func() bool) {
		out, exit := s.egressIP(t, "resync")
		require.Zero(t, exit)
		require.NotEqual(t, "nothing to do\n", out)
	}
}

// healBy lets every disaster happen, each to a node of its own. Once it is healed:
// what stands is what stood before, or what ADDs would put up now; all pods have their
// addresses; what was opened meanwhile has, too, and what was open before goes on;
// nothing leaves by the primary link, from the repair on or, where it need not,
// all the while; the pod on the other link misses no answer; and a resync has nothing to do.
func healBy(t *testing.T, begin healer) {
	for _, d := range disasters() {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			s := newStricken(t, d.config, d.prepare)
			d.strike(t, s, begin)
		})
	}
}

func (d disaster) strike(t *testing.T, s *stricken, begin healer) {
	before := s.whole(t)
	heal := begin(t, s)
	connections := s.establish(t)
	var asks *asking
	if !d.wide {
		asks = s.keepFarAsking(t)
	}
	during := s.watch(t)
	d.do(t, s.cluster)
	if d.silent {
		s.command(t, "ip", "rule", "add", "priority", "30000", "lookup", "main")
		s.command(t, "ip", "rule", "del", "priority", "30000")
	}
	sends := []func(){s.open(t, 5000)}
	if d.daemon != nil {
		d.daemon(t, s.cluster)
		sends = append(sends, s.open(t, 5001))
	}
	stop := s.tenants[0].keepOpening(t)
	defer stop()
	heal(func() bool { return d.isHealed(before, s.whole(t)) })
	stop()
	if !d.leaks {
		during.requireNoneByPrimary(t)
	}
	during.stop()
	s.requireHealed(t, connections, sends)
	if asks != nil {
		asks.requireAll(t)
	}
	after := s.whole(t)
	if !d.changes() {
		require.Equal(t, before, after)
	}
	for _, text := range d.until {
		require.Contains(t, after, text)
	}
	for _, text := range d.gone {
		require.NotContains(t, after, text)
	}
	s.requireNothingToDo(t)
	s.plain.requireSeen(t, nettest.PrimaryIPv4, nettest.PrimaryIPv6)
	if d.changes() || d.anew {
		s.addAnew(t)
		require.Equal(t, s.whole(t), after)
	}
}

// changes reports whether the node is to be otherwise than before.
func (d disaster) changes() bool { return len(d.until)+len(d.gone) > 0 }

func (d disaster) isHealed(before, now string) bool {
	if !d.changes() {
		return now == before
	}
	in := func(text string) bool { return strings.Contains(now, text) }
	return !slices.ContainsFunc(d.gone, in) && !slices.ContainsFunc(d.until, func(text string) bool { return !in(text) })
}

// keepFarAsking has the pod on the other link ask all the while.
func (s *stricken) keepFarAsking(t *testing.T) *asking {
	t.Helper()
	return keepAsking(t, s.cluster, s.far().Namespace, third4, third6)
}

// addAnew deletes the pods of enp7s0 and adds them again.
func (s *stricken) addAnew(t *testing.T) {
	t.Helper()
	for _, d := range s.tenants[:len(s.tenants)-1] {
		d.del(t)
	}
	for _, d := range s.tenants[:len(s.tenants)-1] {
		d.attach(t)
	}
}

// watch watches for leaks of all tenants.
func (s *stricken) watch(t *testing.T) *leaks {
	t.Helper()
	var pods []sandbox
	for _, d := range s.tenants {
		pods = append(pods, d)
	}
	return watchLeaks(t, s.cluster, pods...)
}

// requireHealed: all that tenants open, have opened while something was broken,
// and had opened before, has their address, and only that.
func (s *stricken) requireHealed(t *testing.T, connections []lasting, sends []func()) {
	t.Helper()
	leaks := s.watch(t)
	defer leaks.stop()
	far := s.Router.Capture(t, nettest.RouterThirdLink)
	defer far.Stop()
	for _, send := range sends {
		send()
	}
	s.requireEgress(t)
	for port := range len(sends) {
		for _, d := range s.tenants {
			for _, w := range d.ways() {
				require.Equal(t, w.egress, askFrom(t, d.Namespace, "udp", 5000+port, w.server), "%s, port %d", d.id, 5000+port)
			}
		}
	}
	for _, c := range connections {
		c.requireGoesOn(t)
	}
	leaks.requireNone(t)
	requireSources(t, leaks.second, egress4, egress6, other4, other6)
	requireSources(t, far, third4, third6)
}

// requireSources: what came in by the link for the server came from these addresses.
func requireSources(t *testing.T, link *nettest.Capture, from ...string) {
	t.Helper()
	right := map[netip.Addr]bool{}
	for _, a := range from {
		right[netip.MustParseAddr(a)] = true
	}
	require.Zero(t, link.Count(func(p nettest.Packet) bool {
		ours := !p.Outgoing && (p.Protocol == unix.IPPROTO_TCP || p.Protocol == unix.IPPROTO_UDP) &&
			(p.Dst.String() == nettest.ServerIPv4 || p.Dst.String() == nettest.ServerIPv6)
		if ours && !right[p.Src] {
			t.Logf("from another address: %s", p)
		}
		return ours && !right[p.Src]
	}))
}

package integration

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func netip4(text string) netip.Addr { return netip.MustParseAddr(text) }

// link is the router's end of the sender's egress link.
func (s *sender) link() string {
	switch s.name {
	case "plain":
		return nettest.RouterPrimaryLink
	case "far":
		return nettest.RouterThirdLink
	}
	return nettest.RouterSecondLink
}

// right says whether a packet of a sender has come as its annotation says.
func (s *sender) right(a arrival) bool {
	return a.link == s.link() && slices.Contains(egressOf[s.name], a.source.String())
}

var egressOf = map[string][]string{
	"first": {egress4, egress6}, "sharing": {egress4, egress6}, "four": {other4}, "six": {other6}, "far": {third4, third6},
	"plain": {nettest.PrimaryIPv4, nettest.PrimaryIPv6},
}

// egressAddresses are all of them.
var egressAddresses = []string{egress4, egress6, other4, other6, third4, third6}

// TestInvariant1LinkOrNotAtAll attacks: what is for a link leaves by that link with one of its egress addresses, or
// not at all. Pods of both families send all the while, to everywhere, and a world counts what arrives.
// Foreign chains, routes, rules, settings, and what happens to links come one after the other, two at a time, in random order;
// what an attack may do, since it is root's right, is said with it. A plain pod never has an egress address.
func TestInvariant1LinkOrNotAtAll(t *testing.T) {
	t.Parallel()
	for name, watch := range map[string]bool{"resync": false, "watcher": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seed := newSeed(t)
			s := newStricken(t, nil, nil)
			b := newBattle(t, s, seed)
			if watch {
				b.watcher = startWatcher(t, s.Node)
			}
			b.fight(t, attacks(rand.New(rand.NewPCG(seed, 1))))
		})
	}
}

// battle is a node whose pods send while it is attacked.
type battle struct {
	*stricken
	random  *rand.Rand
	world   *world
	senders []*sender
	watcher *watcher
	judged  map[arrival]int // what has arrived so far, when it was judged last
	packets int
}

func newBattle(t *testing.T, s *stricken, seed uint64) *battle {
	t.Helper()
	b := &battle{stricken: s, random: rand.New(rand.NewPCG(seed, 0)), world: newWorld(t, s.cluster)}
	for i, d := range s.tenants {
		b.senders = append(b.senders, &sender{Pod: d.Pod, name: d.id, ipv4: d.ipv4 != "", ipv6: d.ipv6 != "", number: i})
	}
	b.senders = append(b.senders, &sender{Pod: s.plain.Pod, name: "plain", ipv4: true, ipv6: true, number: 9})
	return b
}

// fight goes through the attacks, one or two at a time.
func (b *battle) fight(t *testing.T, all []attack) {
	t.Helper()
	sending := startSending(t, b.cluster, b.senders...)
	come := b.comeAndGo(t)
	b.awaitRight(t)
	b.judge(t, "before any attack", nil)
	for len(all) > 0 {
		if b.watcher != nil && b.random.IntN(8) == 0 {
			require.NoError(t, b.watcher.Process.Kill())
			_ = b.watcher.Wait() // it was killed
			b.watcher = startWatcher(t, b.Node)
		}
		now := all[:min(len(all), 1+b.random.IntN(2))]
		if len(now) == 2 && (now[0].link && now[1].link || now[0].alone || now[1].alone) {
			now = now[:1]
		}
		all = all[len(now):]
		b.round(t, now)
	}
	come.end()
	b.repair(t, nil) // a guest may have been refused and not be gone
	sending.end()
	b.requireEgress(t)
	if b.watcher != nil {
		b.watcher.end(t, unix.SIGTERM)
	}
	require.Greater(t, b.packets, 100_000)
	t.Logf("%d packets", b.packets)
}

// comeAndGo has a pod attached and detached again and again. An ADD may be refused while others
// are at it, and so may a DEL whose table is deleted below it, but not when it is repeated.
func (b *battle) comeAndGo(t *testing.T) *traffic {
	t.Helper()
	guest := b.newTenant(t, nil, "guest", "10.244.1.20", "fd00:10:244::14", egress4, egress6)
	f := &traffic{stop: make(chan struct{})}
	f.running.Go(func() {
		for {
			_, _ = guest.call(t, "ADD", both)
			time.Sleep(50 * time.Millisecond)
			if _, err := guest.call(t, "DEL", nil); err != nil {
				if _, again := guest.call(t, "DEL", nil); again != nil {
					t.Errorf("DEL: %v, and again: %v", err, again)
				}
			}
			select {
			case <-f.stop:
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	})
	t.Cleanup(f.end)
	return f
}

// round is one round of it.
func (b *battle) round(t *testing.T, now []attack) {
	t.Helper()
	numbers := strings.NewReplacer("TABLE", b.table(t), "INDEX", fmt.Sprint(b.Node.Index(t, nettest.SecondLink)))
	// What happens to the link comes last, and ends first: the others are about the link as they know it.
	now = slices.SortedStableFunc(slices.Values(now), func(x, y attack) int {
		switch {
		case x.link == y.link:
			return 0
		case x.link:
			return 1
		}
		return -1
	})
	var ends []func()
	var names []string
	for _, a := range now {
		names = append(names, a.name)
		ends = append(ends, a.strike(t, b.cluster, numbers, b.watcher == nil && len(names) == 1))
		b.pause()
	}
	if b.watcher == nil && b.random.IntN(2) == 0 { // while it is under way
		b.quietly(t, "resync")
		b.pause()
	}
	for _, end := range slices.Backward(ends) {
		end()
	}
	b.repair(t, names)
	b.judge(t, strings.Join(names, "\n  and "), now)
}

func (b *battle) pause() {
	time.Sleep(time.Duration(60+b.random.IntN(100)) * time.Millisecond)
}

// repair waits until all is as it was. What an attack has broken and nobody has repaired is no attack on what comes next.
func (b *battle) repair(t *testing.T, names []string) {
	t.Helper()
	if b.watcher == nil {
		if out, exit := b.quietly(t, "resync"); exit != 0 {
			t.Errorf("resync after %s: exit status %d\n%s", strings.Join(names, "\n  and "), exit, out)
		}
	}
	b.awaitRight(t)
}

// awaitRight waits until each sender's packets arrive rightly again, and none wrongly: connections that exist
// keep their source whatever has become of the table, so it is new ones that say that it has been repaired.
func (b *battle) awaitRight(t *testing.T) {
	t.Helper()
	waiting := time.Now()
	for {
		before := b.world.seen(t, b.cluster)
		time.Sleep(50 * time.Millisecond)
		seen := between(before, b.world.seen(t, b.cluster))
		var missing []string
		for _, s := range b.senders {
			for _, address := range egressOf[s.name] {
				arrived := 0
				for a, n := range seen {
					if s.right(a) && a.source.String() == address {
						arrived += n
					}
				}
				if arrived == 0 {
					missing = append(missing, s.name+" from "+address)
				}
			}
		}
		wrong := b.wrong(seen, nil)
		if len(missing)+len(wrong) == 0 {
			return
		}
		if time.Since(waiting) > waitFor {
			out, _ := b.quietly(t, "status")
			require.Fail(t, "it is not repaired", "nothing arrives of %v\n%v\n%s\n%s", missing, wrong, out, b.state(t))
		}
	}
}

// judge looks at what has arrived since it was called last.
func (b *battle) judge(t *testing.T, name string, now []attack) {
	t.Helper()
	all := b.world.seen(t, b.cluster)
	seen := between(b.judged, all)
	b.judged = all
	for _, n := range seen {
		b.packets += n
	}
	if wrong := b.wrong(seen, now); len(wrong) > 0 {
		t.Errorf("%s\n    %s", name, strings.Join(wrong, "\n    "))
	}
}

// wrong has a line for each arrival that is not allowed while these attacks are under way.
func (b *battle) wrong(seen map[arrival]int, now []attack) []string {
	var wrong []string
	for a, n := range seen {
		i := slices.IndexFunc(b.senders, func(s *sender) bool { return s.of(a) })
		if s := b.senders[i]; !b.allowed(a, s, now) {
			wrong = append(wrong, fmt.Sprintf("%s: %d packets %s, port %d", s.name, n, a, a.port))
		}
	}
	slices.Sort(wrong)
	return wrong
}

// allowed says whether a packet may arrive so, while these attacks are under way.
func (b *battle) allowed(a arrival, s *sender, now []attack) bool {
	if s.name == "plain" {
		return !slices.Contains(egressAddresses, a.source.String())
	}
	return s.right(a) || slices.ContainsFunc(now, func(attack attack) bool { return attack.may != nil && attack.may(a, s) })
}

// TestInvariant1NextPodAfterFlush attacks: nftables is flushed, and before a resync another pod is added, or one of the node is
// deleted. The table that is then made must not lead the packets of the others off their link; and where
// one is made, it is all of it.
func TestInvariant1NextPodAfterFlush(t *testing.T) {
	t.Parallel()
	for _, flush := range []string{"nft flush ruleset", "nft delete table inet egress_ip"} {
		for name, next := range map[string]struct {
			do     func(t *testing.T, s *stricken)
			writes bool // the table
		}{
			"ADD": {func(t *testing.T, s *stricken) {
				s.newTenant(t, nil, "next", "10.244.1.20", "fd00:10:244::14", egress4, egress6).attach(t)
			}, true},
			"ADD again": {func(t *testing.T, s *stricken) { s.tenants[1].attach(t) }, true},
			"ADD of a plain pod": {func(t *testing.T, s *stricken) {
				s.newTenant(t, nil, "next", "10.244.1.20", "fd00:10:244::14", "", "").add(t, nil)
			}, false},
			"DEL": {func(t *testing.T, s *stricken) { s.tenants[1].del(t) }, false},
		} {
			t.Run(flush+", "+name, func(t *testing.T) {
				t.Parallel()
				s := newStricken(t, nil, nil)
				b := newBattle(t, s, newSeed(t))
				b.senders = slices.DeleteFunc(b.senders, func(s *sender) bool { return s.name == "sharing" })
				sending := startSending(t, b.cluster, b.senders...)
				b.awaitRight(t)
				s.command(t, "sh", "-ec", flush)
				time.Sleep(50 * time.Millisecond)
				next.do(t, s)
				if next.writes {
					b.awaitRight(t)
					require.NotContains(t, s.resync(t), "added")
				}
				time.Sleep(100 * time.Millisecond)
				b.judge(t, flush+", then "+name, []attack{{may: rawOnLink}})
				s.resync(t)
				b.awaitRight(t)
				b.judge(t, "until a resync", []attack{{may: rawOnLink}})
				time.Sleep(50 * time.Millisecond)
				b.judge(t, "after a resync", nil)
				sending.end()
			})
		}
	}
}

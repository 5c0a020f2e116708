//go:build soak

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/egress-ip/egress-ip/pkg/status"
	"github.com/google/nftables"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// disturbance is something that happens to the node, and is over when do returns.
type disturbance struct {
	name    string
	ours    bool // there is nothing of the kind with other systems
	watched bool // the watcher runs all the while
	do      func(t *testing.T, s *soak, r *rand.Rand)

	count    int
	healed   []time.Duration // how long after its end the last packet was refused
	wrong    uint64
	bare     uint64
	unhealed int // where nobody repairs
}

// shell is a disturbance by commands on the node; TABLE is the number of the link's table.
func shell(name, script string) *disturbance {
	return &disturbance{name: name, watched: true, do: func(t *testing.T, s *soak, _ *rand.Rand) {
		_, _ = s.input("", "sh", "-c", fmt.Sprintf("TABLE=%d\n%s", s.table, script)) // what it is to delete may be gone
	}}
}

// and has somebody come later, as kube-proxy does after its rules have been flushed.
func (d *disturbance) and(later func(t *testing.T, s *soak, r *rand.Rand)) *disturbance {
	first := d.do
	d.do = func(t *testing.T, s *soak, r *rand.Rand) {
		first(t, s, r)
		s.wait(r, 100*time.Millisecond)
		later(t, s, r)
	}
	return d
}

// deleting is a disturbance that deletes the table inet egress_ip, which is there again some time later. Meanwhile the watcher's
// own table holds the pods that it knows, as long as the watcher runs.
func deleting(d *disturbance) *disturbance {
	first := d.do
	d.do = func(t *testing.T, s *soak, r *rand.Rand) {
		if !s.system.ours {
			first(t, s, r)
			return
		}
		held := ""
		if d.watched {
			held, _ = s.input("", "nft", "list", "table", "inet", "egress_ip_held") // there may be no annotated pod
		}
		s.world.reigns.begin(reign{held: held})
		s.settle()
		var waiting sync.WaitGroup
		waiting.Go(func() { s.awaitTable(t) })
		first(t, s, r)
		s.over = now()
		waiting.Wait()
	}
	return d
}

// settle waits until packets whose time was taken before have been sent, too.
func (s *soak) settle() { time.Sleep(50 * time.Millisecond) }

// awaitTable waits until the table has been deleted and written again, with the chains that have hooks, which come last,
// and says that from then on it is the table that counts.
func (s *soak) awaitTable(t *testing.T) {
	defer s.world.reigns.end()
	var conn *nftables.Conn
	var err error
	s.Node.Do(t, func() { conn, err = nftables.New(nftables.AsLasting()) })
	if err != nil {
		t.Errorf("nf_tables: %v", err)
		return
	}
	defer func() { _ = conn.CloseLasting() }()
	deleted := false
	for limit := time.Now().Add(s.patience); time.Now().Before(limit); time.Sleep(200 * time.Microsecond) {
		_, err := conn.ListChain(&nftables.Table{Family: nftables.TableFamilyINet, Name: "egress_ip"}, "exit")
		switch {
		case err == nil && deleted:
			s.diary.write("the table inet egress_ip exists again")
			return
		case errors.Is(err, unix.ENOENT) && !deleted:
			s.diary.write("the table inet egress_ip is deleted")
			deleted = true
		}
	}
	if deleted {
		t.Errorf("the table inet egress_ip does not exist %v after it was deleted", s.patience)
	}
}

func masqueradeAgain(t *testing.T, s *soak, _ *rand.Rand) { s.masquerade(t) }

// flushWithLarge is what nftables.service does at its start: the file that it loads begins with a flush.
const flushWithLarge = `{ echo "flush ruleset"; echo "table inet filter { chain unused {"
for i in $(seq 2000); do echo "meta mark 1 counter"; done; echo "}"; echo "}"; } | nft -f -`

func disturbances() []*disturbance {
	return []*disturbance{
		deleting(shell("nft flush ruleset", "nft flush ruleset")).and(masqueradeAgain),
		deleting(shell("nftables.service loads a large ruleset", flushWithLarge)).and(masqueradeAgain),
		deleting(shell("tables of nftables deleted", "nft delete table inet egress_ip; nft delete table ip nat; nft delete table ip6 nat")),
		shell("ip route flush table", "ip -4 route flush table $TABLE; ip -6 route flush table $TABLE"),
		shell("ip rule del, all of them", "for f in -4 -6; do for p in 5998 5999 6000 6001; do while ip $f rule del priority $p 2>/dev/null; do :; done; done; done"),
		shell("ip rule del, source rules", "for f in -4 -6; do while ip $f rule del priority 6000 2>/dev/null; do :; done; done"),
		shell("ip rule del, rules of marks", "for f in -4 -6; do while ip $f rule del priority 5998 2>/dev/null; do :; done; done"),
		shell("conntrack -F", "conntrack -F"),
		shell("egress addresses deleted", "for i in 6 7 8 9; do ip address del 192.168.124.9$i/32 dev enp7s0; ip address del fd00:124::9$i/128 dev enp7s0; done"),
		{name: "link down and up", do: func(t *testing.T, s *soak, r *rand.Rand) {
			second.down(t, s.cluster)
			s.wait(r, 300*time.Millisecond)
			second.up(t, s.cluster)
		}},
		{name: "carrier lost and back", do: func(t *testing.T, s *soak, r *rand.Rand) {
			s.Router.SetDown(t, nettest.RouterSecondLink)
			s.wait(r, 300*time.Millisecond)
			s.Router.SetUp(t, nettest.RouterSecondLink)
			s.Router.WaitUsable(t, nettest.RouterSecondLink)
			s.Router.AddAddress(t, nettest.RouterSecondLink, nettest.SecondGatewayIPv6+"/64")
			s.Node.WaitUsable(t, nettest.SecondLink)
		}},
		{name: "link renamed and back", do: rename},
		{name: "watcher killed and started again", ours: true, do: restartWatcher},
		deleting(&disturbance{name: "nft flush ruleset while no watcher runs", ours: true, do: func(t *testing.T, s *soak, r *rand.Rand) {
			s.stopWatcher(t)
			s.command(t, "nft", "flush", "ruleset")
			s.wait(r, 500*time.Millisecond)
			s.masquerade(t)
			s.watcher = startWatcher(t, s.Node)
		}}),
		{name: "another version and back", ours: true, do: upgrade},
	}
}

// rename renames the link and back, while it is up, or where the kernel does not allow that (before 6.2) while it is down.
func rename(t *testing.T, s *soak, r *rand.Rand) {
	_, err := s.input("", "ip", "link", "set", "enp7s0", "name", "wan0")
	if err != nil {
		second.down(t, s.cluster)
		defer second.up(t, s.cluster)
		s.command(t, "ip", "link", "set", "enp7s0", "name", "wan0")
	}
	s.wait(r, 300*time.Millisecond)
	s.command(t, "ip", "link", "set", "wan0", "name", "enp7s0")
}

func restartWatcher(t *testing.T, s *soak, r *rand.Rand) {
	s.stopWatcher(t)
	s.wait(r, 300*time.Millisecond)
	s.watcher = startWatcher(t, s.Node)
}

func (s *soak) stopWatcher(t *testing.T) {
	require.NoError(t, s.watcher.Process.Kill())
	_ = s.watcher.Wait() // it was killed
}

// upgrade replaces the binary by that of the former version, and after a while comes back. The former version does not
// understand the table of this one. So somebody deletes that, as the README says; the way back needs nothing.
func upgrade(t *testing.T, s *soak, r *rand.Rand) {
	s.stopWatcher(t)
	s.calls.Lock() // until none of this version is under way
	s.world.reigns.begin(reign{former: true})
	s.settle()
	s.use(t, formerBinary)
	_, _ = s.input("", "nft", "delete", "table", "inet", "egress_ip") // there may be no annotated pod
	_, exit := s.quietly(t, "resync")
	s.calls.Unlock()
	s.diary.write("now the former version, after a resync with exit status %d", exit)
	s.watcher = startWatcher(t, s.Node)
	s.wait(r, time.Second)
	s.stopWatcher(t)
	s.calls.Lock() // what the former version writes last is not this one's
	s.use(t, "egress-ip")
	s.diary.write("now this version")
	s.watcher = startWatcher(t, s.Node)
	s.world.reigns.end()
	s.calls.Unlock()
}

// formerBinary is commit 04f183a's.
const formerBinary = "egress-ip-former"

// use has calls be those of a binary, from now on.
func (s *soak) use(t *testing.T, binary string) {
	t.Helper()
	link := filepath.Join(t.TempDir(), "egress-ip")
	require.NoError(t, os.Symlink(filepath.Join(s.binaries, binary), link))
	require.NoError(t, os.Rename(link, filepath.Join(bin, "egress-ip")))
}

// wait is for at most so long, as the seed says.
func (s *soak) wait(r *rand.Rand, most time.Duration) {
	time.Sleep(time.Duration(r.Int64N(int64(most))))
}

// disturb disturbs, until the context is done.
func (s *soak) disturb(ctx context.Context, t *testing.T, r *rand.Rand) {
	for ctx.Err() == nil {
		round := slices.Clone(s.disturbances)
		r.Shuffle(len(round), func(i, j int) { round[i], round[j] = round[j], round[i] })
		for _, d := range round {
			s.wait(r, 500*time.Millisecond)
			if ctx.Err() != nil {
				return
			}
			s.one(ctx, t, r, d)
		}
	}
}

// one is one disturbance, until all pods' packets arrive again.
func (s *soak) one(ctx context.Context, t *testing.T, r *rand.Rand, d *disturbance) {
	wrong, bare := s.world.wrong.Load(), s.world.bare.Load()
	begin := now()
	s.diary.write("%s", d.name)
	d.do(t, s, r)
	end := now()
	if s.over > begin {
		end = s.over
	}
	s.diary.write("%s: done", d.name)
	d.count++
	defer func() { d.wrong, d.bare = d.wrong+s.world.wrong.Load()-wrong, d.bare+s.world.bare.Load()-bare }()
	patience := s.patience
	if !s.system.ours {
		patience = time.Second // nobody repairs
	}
	heal, awaited := s.awaitHealed(ctx, begin, end, patience)
	if s.system.ours && awaited == "" {
		awaited = s.awaitWhole(ctx, t)
	}
	if awaited == "" {
		d.healed = append(d.healed, heal)
		s.diary.write("%s: healed %v after it", d.name, heal)
		return
	}
	if ctx.Err() != nil {
		return
	}
	d.unhealed++
	if s.system.ours {
		t.Errorf("%s is not healed %v after it: %s", d.name, patience, awaited)
		return
	}
	s.rebuild(t)
	s.diary.write("%s: rebuilt, for nobody has repaired it", d.name)
	if _, awaited = s.awaitHealed(ctx, now(), now(), patience); awaited != "" {
		s.diary.write("rebuilt, and %s", awaited) // up to 4.15.9 nothing outside the link's network is ever reached
	}
}

// awaitWhole waits until nothing is missing. Packets may arrive before: what one disturbance takes away is not what others
// meet at once, and all at the same time is more than anything holds against.
func (s *soak) awaitWhole(ctx context.Context, t *testing.T) (awaited string) {
	for limit := time.Now().Add(s.patience); ; {
		before := slices.DeleteFunc(s.live(), func(f *flooder) bool { return f.begun.Load() == 0 })
		out, err := s.input("", filepath.Join(bin, "egress-ip"), "status", "-o", "json")
		var node status.Status
		if json.Unmarshal([]byte(out[max(0, strings.Index(out, "{")):]), &node) != nil { // it has not been able to look
			awaited = fmt.Sprintf("%v: %s", err, out)
		} else if awaited = s.missing(node, before); awaited == "" {
			return ""
		}
		if time.Now().After(limit) {
			return awaited
		}
		if !pause(ctx, nettest.Within(20*time.Millisecond)) {
			return "the end"
		}
	}
}

// missing is something that the node misses, but for pods that come or go meanwhile.
func (s *soak) missing(node status.Status, before []*flooder) string {
	all := slices.Concat(node.Missing, node.Unread)
	for _, link := range node.Links {
		all = append(all, link.Missing...)
	}
	for _, pod := range node.Pods {
		if slices.ContainsFunc(before, func(f *flooder) bool { return f.id == pod.ContainerID && !f.ended.Load() }) {
			all = append(all, pod.Missing...)
		}
	}
	if len(all) == 0 {
		return ""
	}
	return all[0]
}

// awaitHealed waits until all annotated pods' packets have arrived for a while, and says how long after the
// end of a disturbance the last gap was; or what it is waiting for.
func (s *soak) awaitHealed(ctx context.Context, begin, end int64, patience time.Duration) (time.Duration, string) {
	quiet := int64(100*time.Millisecond + 6*s.pace)
	for {
		resumed, awaited := int64(0), ""
		since := now() - quiet
		for _, f := range s.live() {
			began := f.begun.Load()
			if began == 0 || f.ended.Load() || s.system.late && began > now()-int64(2500*time.Millisecond) {
				continue
			}
			for i := range f.streams {
				stream := &f.streams[i]
				switch latest, gap := stream.latest.Load(), stream.resumed.Load(); {
				case !f.egress[i/streamsOfFamily].IsValid():
				case latest < since && began < since:
					awaited = fmt.Sprintf("nothing arrives of %s, %s", f, streamNames[i])
				case gap > since:
					awaited = fmt.Sprintf("some do not arrive of %s, %s", f, streamNames[i])
				default:
					resumed = max(resumed, gap)
				}
			}
		}
		switch {
		case since <= end:
		case awaited == "" && resumed < begin:
			return 0, ""
		case awaited == "":
			return time.Duration(max(0, resumed-end)), ""
		case now() > end+int64(patience):
			return 0, awaited
		}
		if !pause(ctx, 5*time.Millisecond) {
			return 0, "the end"
		}
	}
}

//go:build soak

package integration

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

var (
	soakFor   = flag.Duration("for", time.Minute, "how long egress-ip is measured; each of the others a tenth of it (after -args)")
	soakRate  = flag.Int("rate", 50_000, "packets a second, of all pods together (after -args)")
	soakBurst = flag.Int("burst", 1, "packets of its one connection per address family that a pod sends at a time (after -args)")
	soakPods  = flag.Int("pods", 12, "how many pods there are at a time (after -args)")
	soakLog   = flag.String("log", "", "`file` to write to what has been done, with the number of the system behind its name (after -args)")
)

// soakEgress are the egress addresses.
var soakEgress = func() (all [2][]netip.Addr) {
	for i := range 4 {
		all[0] = append(all[0], netip.MustParseAddr(fmt.Sprintf("192.168.124.9%d", 6+i)))
		all[1] = append(all[1], netip.MustParseAddr(fmt.Sprintf("fd00:124::9%d", 6+i)))
	}
	return all
}()

// soakSlow is how many times slower than a usual machine this one is.
var soakSlow = int(nettest.Within(1))

var errKilled = errors.New("the call was killed")

// soak is a node on which pods come and go and flood the world, while it is disturbed.
type soak struct {
	*cluster
	system       soakSystem
	world        *soakWorld
	diary        diary
	watcher      *watcher
	disturbances []*disturbance
	binaries     string // directory of this version's binary and of the former one's
	table        int    // of the link's routes

	pace     time.Duration // between two bursts of a stream
	patience time.Duration // for a repair
	callTime time.Duration // which a call takes, about

	calls    sync.RWMutex // held while calls are under way
	over     int64        // when the last disturbance was over that has waited for a repair itself
	schemes  sync.Mutex
	attached map[*flooder]bool // by a scheme
	late     sync.WaitGroup
	mu       sync.Mutex
	pods     []*flooder // all, also those that have ended
	refused  atomic.Uint64
	kills    atomic.Uint64
}

// TestSoak measures packets with a wrong source, of egress-ip and of others' schemes: pods flood from their first instruction,
// and a world judges each packet, while the node is disturbed in every way. With egress-ip not one may be wrong.
// `make soak` calls it.
func TestSoak(t *testing.T) {
	ctx, stop := signal.NotifyContext(t.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	seed := newSeed(t)
	fmt.Printf("seed %d\n", seed)
	var results []soakResult
	for i, system := range soakSystems {
		limit := *soakFor
		if i > 0 {
			limit /= 10
		}
		t.Run(system.name, func(t *testing.T) {
			s := newSoak(t, system)
			defer func() { // whatever has failed
				results = append(results, s.result())
				if wrong := s.world.wrong.Load(); system.ours && wrong > 0 {
					t.Errorf("%d packets with a wrong source%s", wrong, s.diary.tell())
				}
				if *soakLog != "" {
					require.NoError(t, os.WriteFile(fmt.Sprintf("%s.%d", *soakLog, i), []byte(s.diary.all()), 0o600))
				}
			}()
			s.run(ctx, t, limit, seed)
		})
		if ctx.Err() != nil {
			t.Error("interrupted")
			break
		}
	}
	printSoak(os.Stdout, results)
}

func newSoak(t *testing.T, system soakSystem) *soak {
	t.Helper()
	return &soak{
		cluster: newNode(t), system: system, attached: map[*flooder]bool{},
		pace: time.Duration(float64(time.Second) * float64((streamsOfPod+2*(*soakBurst-1))**soakPods) / float64(*soakRate)),
		// When the watcher thinks that somebody fights it, it looks every 30 s.
		patience: 40 * time.Second * time.Duration(soakSlow), callTime: 25 * time.Millisecond * time.Duration(soakSlow),
	}
}

func (s *soak) run(ctx context.Context, t *testing.T, limit time.Duration, seed uint64) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	s.prepare(t)
	random := rand.New(rand.NewPCG(seed, 0))
	var running sync.WaitGroup
	for i := range *soakPods {
		slot := rand.New(rand.NewPCG(seed, uint64(1+i)))
		running.Go(func() { s.slot(ctx, t, slot, i) })
	}
	func() {
		defer func() { // also where the node cannot even be disturbed
			running.Wait()
			s.late.Wait()
		}()
		defer cancel()
		if pause(ctx, time.Second*time.Duration(soakSlow)) {
			s.disturb(ctx, t, random)
		}
	}()
	s.finish(t)
}

// prepare makes what is there before the first pod.
func (s *soak) prepare(t *testing.T) {
	s.masquerade(t)
	s.table = 1000 + s.Node.Index(t, nettest.SecondLink)
	// Each packet opens a connection, and nobody answers.
	for key, seconds := range map[string]string{"udp_timeout": "2", "icmp_timeout": "2", "icmpv6_timeout": "2", "tcp_timeout_syn_sent": "2"} {
		s.Node.Sysctl(t, "net.netfilter.nf_conntrack_"+key, seconds)
	}
	s.world = newSoakWorld(t, s.cluster, s.diary.report)
	for _, d := range disturbances() {
		if s.system.ours || !d.ours {
			s.disturbances = append(s.disturbances, d)
		}
	}
	if !s.system.ours {
		s.rebuild(t)
		return
	}
	s.binaries = bin
	bin = t.TempDir()
	t.Cleanup(func() { bin = s.binaries })
	require.FileExists(t, filepath.Join(s.binaries, formerBinary), "make soak builds it")
	s.use(t, "egress-ip")
	s.watcher = startWatcher(t, s.Node)
}

// slot has one pod after the other, with the same two addresses in turn.
func (s *soak) slot(ctx context.Context, t *testing.T, r *rand.Rand, slot int) {
	for ctx.Err() == nil {
		t.Run("pod", func(t *testing.T) { s.life(ctx, t, r, slot) })
	}
}

// newFlooder makes a pod, as it is before its ADD.
func (s *soak) newFlooder(t *testing.T, r *rand.Rand, slot int) *flooder {
	t.Helper()
	place := 16 + 2*slot + r.IntN(2)
	f := &flooder{}
	switch r.IntN(8) {
	case 0: // a plain pod
	case 1:
		f.egress[0] = pick(r, soakEgress[0]...)
	case 2:
		f.egress[1] = pick(r, soakEgress[1]...)
	default:
		f.egress = [2]netip.Addr{pick(r, soakEgress[0]...), pick(r, soakEgress[1]...)}
	}
	s.mu.Lock()
	s.pods = append(s.pods, f)
	f.number = uint16(len(s.pods))
	s.mu.Unlock()
	f.direct = s.newDirect(t, fmt.Sprintf("soak-%d", f.number), fmt.Sprintf("10.244.1.%d", place), fmt.Sprintf("fd00:10:244::%x", place), egressIP(nil))
	s.world.pods[f.number].Store(f)
	return f
}

// life is a pod's life.
func (s *soak) life(ctx context.Context, t *testing.T, r *rand.Rand, slot int) {
	f := s.newFlooder(t, r, slot)
	f.flood(t, s.pace)
	life := time.Duration(r.ExpFloat64() * float64(6*time.Second) * float64(soakSlow))
	s.diary.write("%s: ADD %v %v", f, f.addresses, f.egress)
	err := s.add(ctx, t, f, r)
	if err == nil {
		f.start()
		s.diary.write("%s: ADD done", f)
		pause(ctx, life)
	} else {
		s.diary.write("%s: ADD: %.200v", f, err)
		s.refused.Add(1)
		pause(ctx, 50*time.Millisecond)
	}
	f.end(t)
	s.diary.write("%s: DEL", f)
	// A runtime repeats a DEL that fails.
	for range 50 {
		if err = s.del(t, f, r); err == nil {
			break
		}
		s.diary.write("%s: DEL: %.200v", f, err)
		time.Sleep(100 * time.Millisecond)
	}
	f.die(t) // what the main plugin does
	require.NoError(t, err)
	s.diary.write("%s: DEL done", f)
}

// live are the pods that have not ended.
func (s *soak) live() []*flooder {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*flooder
	for _, f := range s.pods {
		if f.direct != nil && !f.ended.Load() {
			all = append(all, f)
		}
	}
	return all
}

// finish makes sure that nothing is left, and counts.
func (s *soak) finish(t *testing.T) {
	time.Sleep(200 * time.Millisecond)
	s.world.end()
	s.world.requireAll(t)
	if s.system.ours {
		for _, f := range s.pods {
			if _, plain := f.refused(); plain > 0 {
				t.Errorf("%d packets of %s, which is plain, have not arrived: nothing that was done to the node concerns it", plain, f)
			}
		}
		s.watcher.end(t, unix.SIGTERM)
		s.requireNoAttachment(t)
		out, _ := s.quietly(t, "resync")
		require.Equal(t, "nothing to do\n", out)
	} else if s.system.late && s.world.wrong.Load() == 0 {
		t.Error("the measure has not seen the packets of a pod that has no policy yet")
	}
}

package integration

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
)

// pluginCommand is a direct call of the plugin that has not started.
func pluginCommand(call call) *exec.Cmd {
	cmd := exec.Command(filepath.Join(bin, "egress-ip"))
	cmd.Env = []string{
		"CNI_COMMAND=" + call.command, "CNI_CONTAINERID=" + call.containerID, "CNI_IFNAME=eth0",
		"CNI_NETNS=" + call.netns, "CNI_PATH=" + bin, "CNI_ARGS=" + call.args,
	}
	cmd.Stdin = strings.NewReader(call.stdin)
	return cmd
}

// kill starts a call and kills it after the delay; ended says that it had
// succeeded before.
func (c *cluster) kill(t *testing.T, call call, after time.Duration) (ended bool) {
	t.Helper()
	cmd := pluginCommand(call)
	require.NoError(t, c.Node.Start(t, cmd))
	time.Sleep(after)
	_ = cmd.Process.Kill() // it may have ended
	return cmd.Wait() == nil
}

// asking is a pod that asks the server without a pause.
type asking struct {
	stop    chan struct{}
	running sync.WaitGroup

	mu    sync.Mutex
	asked int
	wrong []string // what was lost, or came from another address
}

// keepAsking asks from now on: one UDP datagram every few milliseconds, never sent
// again, from a socket of its own and from one that stays, and over TCP, by new
// connections and by one that stays. Each answer must be an egress address.
func keepAsking(t *testing.T, c *cluster, n *nettest.Namespace, ipv4, ipv6 string) *asking {
	t.Helper()
	a := &asking{stop: make(chan struct{})}
	c.serveRepeatedly(t)
	for _, server := range []struct{ address, repeated, want string }{
		{nettest.ServerAskIPv4, nettest.ServerIPv4 + ":8081", ipv4},
		{nettest.ServerAskIPv6, "[" + nettest.ServerIPv6 + "]:8081", ipv6},
	} {
		a.every(3*time.Millisecond, server.want, func() (string, error) {
			saw, err := n.Ask("udp", server.address)
			return saw.String(), err
		})
		a.every(20*time.Millisecond, server.want, func() (string, error) {
			saw, err := n.Ask("tcp", server.address)
			return saw.String(), err
		})
		for network, address := range map[string]string{"udp": server.address, "tcp": server.repeated} {
			var conn net.Conn
			var err error
			n.Do(t, func() { conn, err = net.DialTimeout(network, address, nettest.Within(time.Second)) })
			require.NoError(t, err)
			t.Cleanup(func() { conn.Close() })
			a.every(3*time.Millisecond, server.want, func() (string, error) {
				answer := make([]byte, 64)
				if err := conn.SetDeadline(time.Now().Add(nettest.Within(time.Second))); err != nil {
					return "", err
				}
				if _, err := conn.Write([]byte("?")); err != nil {
					return "", err
				}
				length, err := conn.Read(answer)
				return string(answer[:length]), err
			})
		}
	}
	return a
}

// every asks at this pace.
func (a *asking) every(pause time.Duration, want string, ask func() (string, error)) {
	a.running.Go(func() {
		for {
			select {
			case <-a.stop:
				return
			case <-time.After(pause):
			}
			saw, err := ask()
			a.mu.Lock()
			a.asked++
			if err != nil {
				a.wrong = append(a.wrong, err.Error())
			} else if saw != want {
				a.wrong = append(a.wrong, "came from "+saw)
			}
			a.mu.Unlock()
		}
	})
}

// requireAll ends the asking: not one was lost.
func (a *asking) requireAll(t *testing.T) {
	t.Helper()
	close(a.stop)
	a.running.Wait()
	require.Empty(t, a.wrong)
	require.NotZero(t, a.asked)
	t.Logf("%d answers, all from the egress addresses", a.asked)
}

// serveRepeatedly is the who-am-I server over TCP, port 8081, which answers each
// byte of a connection, not only its start. It is started once.
func (c *cluster) serveRepeatedly(t *testing.T) {
	t.Helper()
	if c.repeats {
		return
	}
	c.repeats = true
	var listener net.Listener
	var err error
	c.Server.Do(t, func() { listener, err = net.Listen("tcp", ":8081") })
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			peer, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
			go func() {
				defer conn.Close()
				question := make([]byte, 1)
				for {
					if _, err := io.ReadFull(conn, question); err != nil {
						return
					}
					if _, err := conn.Write([]byte(peer)); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// TestKilled kills ADDs and DELs with SIGKILL at random moments. A bare DEL then
// leaves the node as it was before, and a pod on the same link with the same egress
// address never loses its path.
func TestKilled(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		alive bool // a pod that asks all the while; without it each ADD is the node's first
		late  bool // DELs come when all have been killed; pod addresses have been used again by then
	}{
		{"beside a live pod", true, false},
		{"beside a live pod, DEL late", true, true},
		{"alone", false, false},
		{"alone, DEL late", false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newNode(t)
			sandbox := nettest.New(t, "sandbox").Path()
			live := c.newDirect(t, "live", "10.244.1.2", "fd00:10:244::2", noProbe)
			var asks *asking
			if tt.alive {
				live.add(t, both)
				asks = keepAsking(t, c, live.Namespace, egress4, egress6)
			}
			// Most of an ADD's time goes to that question, and nothing of its work.
			entry := egressIP(object{"probeSNAT": object{"mode": "never"}})
			entry["links"].([]object)[0]["duplicateCheck"] = false
			before := c.state(t)
			k := killed{cluster: c, deaths: map[string]int{}}
			addTakes, delTakes := k.measure(t, entry, sandbox)
			require.Equal(t, before, c.state(t))

			var ids []string
			for i := range 60 {
				id := fmt.Sprintf("killed-%d", i)
				ipv4 := fmt.Sprintf("10.244.2.%d", 1+i%7)
				ipv6 := fmt.Sprintf("fd00:10:244::2:%d", 1+i%7)
				want := []annotations{both, others, address(egress4), address(other6)}[i%4]
				add := call{"ADD", id, sandbox, request(t, entry, want, ipv4, ipv6), "K8S_POD_NAMESPACE=payments;K8S_POD_NAME=pod"}
				// A fifth more than it takes, for the machine is not always as fast.
				after := rand.N(addTakes + addTakes/5)
				if i%8 < 4 {
					k.killAdd(t, add, ipv4, ipv6, after)
				} else {
					_, err := c.plugin(add)
					require.NoError(t, err)
					after = rand.N(delTakes + delTakes/5)
					k.killDel(t, id, ipv4, ipv6, after)
				}
				if tt.late {
					ids = append(ids, id)
					continue
				}
				require.NoError(t, c.bareDel(id))
				require.Equal(t, before, c.state(t), "%s, killed after %s", id, after)
			}
			rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
			for _, id := range ids {
				require.NoError(t, c.bareDel(id))
			}
			require.Equal(t, before, c.state(t))
			t.Logf("an ADD takes %s, a DEL %s; killed: %v", addTakes, delTakes, k.deaths)
			require.NotZero(t, k.midway)
			if tt.alive {
				asks.requireAll(t)
			}
		})
	}
}

// killed counts where in their work the calls were when they died.
type killed struct {
	*cluster
	deaths map[string]int
	midway int
}

// measure returns how long an undisturbed ADD and DEL take here and now.
func (k *killed) measure(t *testing.T, entry object, sandbox string) (addTakes, delTakes time.Duration) {
	t.Helper()
	var adds, dels []time.Duration
	for range 5 {
		start := time.Now()
		_, err := k.plugin(call{
			"ADD", "measured", sandbox, request(t, entry, both, "10.244.2.100", "fd00:10:244::2:100"),
			"K8S_POD_NAMESPACE=payments;K8S_POD_NAME=pod",
		})
		adds = append(adds, time.Since(start))
		require.NoError(t, err)
		start = time.Now()
		require.NoError(t, k.bareDel("measured"))
		dels = append(dels, time.Since(start))
	}
	return median(adds), median(dels)
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

func (k *killed) killAdd(t *testing.T, add call, ipv4, ipv6 string, after time.Duration) {
	t.Helper()
	ended := k.kill(t, add, after)
	recorded, rules := k.traces(t, add.containerID, ipv4, ipv6)
	switch {
	case ended:
		k.deaths["ADD that had succeeded"]++
	case !recorded:
		k.deaths["ADD before its record"]++
	case rules == 0:
		k.midway++
		k.deaths["ADD midway, recorded, without a source rule"]++
	default:
		k.midway++
		k.deaths["ADD midway, recorded, with a source rule"]++
	}
}

func (k *killed) killDel(t *testing.T, id, ipv4, ipv6 string, after time.Duration) {
	t.Helper()
	_, whole := k.traces(t, id, ipv4, ipv6)
	ended := k.kill(t, call{command: "DEL", containerID: id}, after)
	recorded, rules := k.traces(t, id, ipv4, ipv6)
	switch {
	case ended:
		k.deaths["DEL that had succeeded"]++
	case !recorded:
		k.deaths["DEL midway, without its record"]++
	case rules == whole:
		k.deaths["DEL with all source rules"]++
	default:
		k.midway++
		k.deaths["DEL midway, recorded"]++
	}
}

// traces says what stands of an attachment.
func (k *killed) traces(t *testing.T, id, ipv4, ipv6 string) (recorded bool, rules int) {
	t.Helper()
	_, err := os.Stat(filepath.Join(k.recordDir(t), "attachments", id+":eth0.json"))
	all, listErr := k.Node.Netlink().RuleList(netlink.FAMILY_ALL)
	require.NoError(t, listErr)
	for _, r := range all {
		if r.Src != nil && slices.Contains([]string{ipv4, ipv6}, r.Src.IP.String()) {
			rules++
		}
	}
	return err == nil, rules
}

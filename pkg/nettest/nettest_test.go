package nettest

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

var networks = []string{"tcp", "udp"}

func TestLabForwards(t *testing.T) {
	t.Parallel()
	for _, opts := range []LabOptions{{}, {SecondDefault: true}, {SecondDefault: true, ThirdLink: true}} {
		t.Run(fmt.Sprintf("%+v", opts), func(t *testing.T) {
			t.Parallel()
			lab := NewLab(t, opts)
			for _, network := range networks {
				requireAnswer(t, lab.Node, network, "", ServerAskIPv4, PrimaryIPv4)
				requireAnswer(t, lab.Node, network, "", ServerAskIPv6, PrimaryIPv6)
				requireAnswer(t, lab.Node, network, SecondIPv4, ServerAskIPv4, SecondIPv4)
				requireAnswer(t, lab.Node, network, SecondIPv6, ServerAskIPv6, SecondIPv6)
			}
		})
	}
}

func TestCaptureSeesBothDirections(t *testing.T) {
	t.Parallel()
	lab := NewLab(t, LabOptions{})
	began := time.Now()
	primary := lab.Router.Capture(t, RouterPrimaryLink)
	second := lab.Router.Capture(t, RouterSecondLink)
	isServers := func(p Packet) bool { return p.SrcPort == WhoAmIPort || p.DstPort == WhoAmIPort }
	for _, ask := range []struct{ address, server, node string }{
		{ServerAskIPv4, ServerIPv4, PrimaryIPv4}, {ServerAskIPv6, ServerIPv6, PrimaryIPv6},
	} {
		requireAnswer(t, lab.Node, "udp", "", ask.address, ask.node)
		server, node := netip.MustParseAddr(ask.server), netip.MustParseAddr(ask.node)
		require.Equal(t, 1, primary.Count(func(p Packet) bool {
			return !p.Outgoing && p.Src == node && p.Dst == server && p.DstPort == WhoAmIPort && p.Protocol == unix.IPPROTO_UDP
		}), "%v", primary.Packets())
		require.Equal(t, 1, primary.Count(func(p Packet) bool {
			return p.Outgoing && p.Src == server && p.Dst == node && p.SrcPort == WhoAmIPort && p.Protocol == unix.IPPROTO_UDP
		}), "%v", primary.Packets())
	}
	require.Equal(t, 4, primary.Count(isServers))
	require.Zero(t, second.Count(isServers))
	require.NotZero(t, primary.Count(func(p Packet) bool {
		return p.EtherType == unix.ETH_P_ARP && p.Dst == netip.MustParseAddr(PrimaryGatewayIPv4)
	}), "%v", primary.Packets())
	require.NotZero(t, primary.Count(func(p Packet) bool {
		return p.ICMPType == 135 && p.Target == netip.MustParseAddr(PrimaryGatewayIPv6)
	}), "%v", primary.Packets())

	primary.Reset()
	require.Zero(t, primary.Count(isServers))
	requireAnswer(t, lab.Node, "tcp", "", ServerAskIPv6, PrimaryIPv6)
	primary.Stop()
	require.NotZero(t, primary.Count(func(p Packet) bool { return p.Protocol == unix.IPPROTO_TCP && isServers(p) }))
	before := len(primary.Packets())
	requireAnswer(t, lab.Node, "tcp", "", ServerAskIPv6, PrimaryIPv6)
	require.Len(t, primary.Packets(), before)
	require.Len(t, primary.PacketsFrom(2), before-2)
	for _, p := range primary.Packets() {
		require.WithinRange(t, p.Time, began, time.Now())
	}

	resets := lab.Router.Capture(t, RouterPrimaryLink)
	_, err := lab.Node.Ask("tcp", ServerIPv4+":9") // nobody listens there
	require.Error(t, err)
	require.Equal(t, 1, resets.Count(func(p Packet) bool { return p.Reset }), "%v", resets.Packets())
}

func TestCaptureOutlivesLinkDown(t *testing.T) {
	t.Parallel()
	lab := NewLab(t, LabOptions{})
	second := lab.Router.Capture(t, RouterSecondLink)
	lab.Node.SetDown(t, SecondLink)
	lab.Router.SetDown(t, RouterSecondLink)
	lab.Node.SetUp(t, SecondLink)
	lab.Router.SetUp(t, RouterSecondLink)
	lab.Node.WaitUsable(t, SecondLink)
	lab.Router.WaitUsable(t, RouterSecondLink)
	second.Reset()
	lab.Router.ServeWhoAmI(t, 9090)
	requireAnswer(t, lab.Node, "udp", "", SecondGatewayIPv4+":9090", SecondIPv4)
	require.Equal(t, 2, second.Count(func(p Packet) bool { return p.Protocol == unix.IPPROTO_UDP }), "%v", second.Packets())
}

func TestCaptureSaysWhatItLost(t *testing.T) {
	t.Parallel()
	n := New(t, "n")
	n.ServeWhoAmI(t, 9090)
	f := &fatal{T: t}
	c := n.Capture(f, "lo")
	require.NoError(t, unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 0)) // the kernel's minimum
	for range 20 {
		requireAnswer(t, n, "udp", "", "127.0.0.1:9090", "127.0.0.1")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Packets()
	}()
	<-done
	require.Equal(t, 1, f.count)
	require.NoError(t, unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer))
	c.Reset()
	requireAnswer(t, n, "udp", "", "127.0.0.1:9090", "127.0.0.1")
	require.NotEmpty(t, c.Packets())
}

func TestPodReachesNode(t *testing.T) {
	t.Parallel()
	const ipv4, ipv6 = "10.244.1.5", "fd00:10:244::5"
	lab := NewLab(t, LabOptions{SecondDefault: true})
	lab.Node.ServeWhoAmI(t, 9090)
	pod := lab.PodVeth(t, ipv4, ipv6)
	other := lab.PodVeth(t, "10.244.1.6", "")
	pod.ServeWhoAmI(t, 9090)
	require.NotEqual(t, pod.HostLink, other.HostLink)
	for _, network := range networks {
		for _, node := range []string{PrimaryIPv4, SecondIPv4} {
			requireAnswer(t, pod.Namespace, network, "", node+":9090", ipv4)
		}
		for _, node := range []string{PrimaryIPv6, SecondIPv6} {
			requireAnswer(t, pod.Namespace, network, "", "["+node+"]:9090", ipv6)
		}
		requireAnswer(t, other.Namespace, network, "", ipv4+":9090", "10.244.1.6")
		requireAnswer(t, lab.Node, network, PrimaryIPv6, "["+ipv6+"]:9090", PrimaryIPv6)
	}
	_, err := pod.Ask("udp", ServerAskIPv4)
	require.Error(t, err, "the router must have no route to pods")
}

// A link-local address needs the ifindex of the namespace in which it is used.
func TestAskLinkLocal(t *testing.T) {
	t.Parallel()
	lab := NewLab(t, LabOptions{})
	lab.Node.ServeWhoAmI(t, 9090)
	const probe = "fe80::1234:5678:9abc"
	lab.Router.AddAddress(t, RouterPrimaryLink, probe+"/64")
	local := probe + "%" + RouterPrimaryLink
	node := lab.Node.LinkLocal(t, PrimaryLink).WithZone(RouterPrimaryLink)
	for _, network := range networks {
		requireAnswer(t, lab.Router, network, local, netip.AddrPortFrom(node, 9090).String(), probe)
		requireAnswer(t, lab.Router, network, local, "["+PrimaryIPv6+"]:9090", probe)
	}
}

// A neighbour finds an address only after its solicited-node group is joined, or else a second later.
func TestAddAddressIsUsableAtOnce(t *testing.T) {
	t.Parallel()
	a, b := New(t, "a"), New(t, "b")
	Connect(t, a, "eth0", b, "eth0")
	for i := range 100 {
		a.AddAddress(t, "eth0", fmt.Sprintf("2001:db8::%x/64", 0x1000+i))
		a.Do(t, func() {
			groups, err := os.ReadFile("/proc/thread-self/net/igmp6")
			require.NoError(t, err)
			require.Contains(t, string(groups), fmt.Sprintf("ff0200000000000000000001ff%06x", 0x1000+i))
		})
	}
}

func TestSysctlStaysInside(t *testing.T) {
	t.Parallel()
	const key = "net.ipv4.ip_default_ttl"
	a, b := New(t, "a"), New(t, "b")
	a.Sysctl(t, key, "71")
	b.Sysctl(t, key, "72")
	host, err := os.ReadFile(sysctlPath(key))
	require.NoError(t, err)
	require.NotContains(t, []string{"71", "72"}, strings.TrimSpace(string(host)))
	for n, want := range map[*Namespace]string{a: "71", b: "72"} {
		n.Do(t, func() {
			got, err := os.ReadFile(sysctlPath(key))
			require.NoError(t, err)
			require.Equal(t, want, strings.TrimSpace(string(got)))
		})
	}
}

func TestProcessesStartInside(t *testing.T) {
	t.Parallel()
	n := New(t, "n")
	var mounted unix.Stat_t
	require.NoError(t, unix.Stat(n.Path(), &mounted))
	cmd := exec.Command("readlink", "/proc/self/ns/net")
	var out strings.Builder
	cmd.Stdout = &out
	require.NoError(t, n.Run(cmd))
	require.Equal(t, fmt.Sprintf("net:[%d]", mounted.Ino), strings.TrimSpace(out.String()))
}

func TestDoEndsTheTestWhenACheckInsideFails(t *testing.T) {
	t.Parallel()
	n := New(t, "n")
	f := &fatal{T: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.Do(f, func() { f.Fatalf("inside") })
		t.Error("Do returned")
	}()
	<-done
	require.Equal(t, 2, f.count)
}

func TestNothingRemains(t *testing.T) {
	t.Parallel()
	outside := New(t, "outside")
	var paths []string
	t.Run("inside", func(t *testing.T) {
		lab := NewLab(t, LabOptions{ThirdLink: true})
		pod := lab.PodVeth(t, "10.244.1.5", "fd00:10:244::5")
		lab.Router.Capture(t, RouterPrimaryLink)
		pod.ServeWhoAmI(t, 9090)
		inside := []*Namespace{lab.Node, lab.Router, lab.Server, pod.Namespace}
		for i, n := range inside {
			paths = append(paths, n.Path())
			require.FileExists(t, n.Path())
			Connect(t, outside, fmt.Sprintf("to%d", i), n, "outside")
		}
		sleep := exec.Command("sleep", "600")
		require.NoError(t, pod.Start(t, sleep))
		go func() { _ = sleep.Wait() }()
	})
	require.Len(t, paths, 4)
	for i, path := range paths {
		require.NoFileExists(t, path)
		// The mount may be gone and the namespace still live, held by a socket; a veth into it goes when it does.
		require.Eventually(t, func() bool {
			_, err := outside.Netlink().LinkByName(fmt.Sprintf("to%d", i))
			return err != nil
		}, time.Minute, 10*time.Millisecond, "%s lives on", path)
	}
}

func TestParsePacketIsSafeWithAnyLength(t *testing.T) {
	t.Parallel()
	for _, first := range []byte{0x4f, 0x60, 0x00, 0xff} {
		for _, next := range []byte{0, 6, 43, 44, 58} {
			packet := make([]byte, 128)
			packet[0], packet[6], packet[9] = first, next, next
			for length := range packet {
				for _, etherType := range []uint16{unix.ETH_P_IP, unix.ETH_P_IPV6, unix.ETH_P_ARP, 0} {
					parsePacket(etherType, packet[:length])
				}
			}
		}
	}
}

func BenchmarkNewLab(b *testing.B) {
	for b.Loop() {
		NewLab(b, LabOptions{})
	}
}

// requireAnswer asks from the local address, if it is not empty, and wants to have been seen as that source.
func requireAnswer(t *testing.T, n *Namespace, network, local, address, source string) {
	t.Helper()
	var from netip.Addr
	if local != "" {
		from = netip.MustParseAddr(local)
	}
	saw, err := n.AskFrom(network, from, address)
	require.NoError(t, err)
	require.Equal(t, source, saw.String())
}

// fatal is a T whose Fatalf ends the goroutine, as that of testing does, and fails nothing.
type fatal struct {
	*testing.T
	count int
}

func (f *fatal) Fatalf(string, ...any) {
	f.count++
	runtime.Goexit()
}

package integration

import (
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The network of the links of these tests: the node's and the router's addresses, and those
// with which pods leave.
const (
	linkNode4, linkNode6     = "192.168.126.10", "fd00:126::10"
	linkRouter4, linkRouter6 = "192.168.126.1", "fd00:126::1"
	linkPod4, linkPod6       = "192.168.126.99", "fd00:126::99"
	linkTaken4, linkTaken6   = "192.168.126.98", "fd00:126::98" // the router has them, too
)

// linkKind is a kind of egress link.
type linkKind struct {
	name, far string // of the node's end, and of the router's
	// prepare makes what is below the link and the router's end, create the node's end;
	// that is done again after it has been deleted.
	prepare, create func(*testing.T, *cluster)
	bits4, bits6    string // of the node's addresses; without, /24 and /64
	noGateways      bool   // the default route needs no next hop
	noNeighbours    bool   // the link has no ARP and no neighbour discovery
	own             bool   // pods leave with the link's own address
	// down takes the way out away, other than by setting the link down, and up gives it back.
	down, up func(*testing.T, *cluster)
	// also is what else may happen to such a link while connections continue.
	also func(t *testing.T, l *linkTest, requireContinue func())
}

// linkTest is a node with such a link, an annotated pod, and a plain one.
type linkTest struct {
	linkKind
	*cluster
	pod, plain *direct
}

// onNode and onRouter run commands of ip. ROUTER is the name of the router's namespace.
func onNode(commands ...string) func(*testing.T, *cluster) {
	return func(t *testing.T, c *cluster) { c.ip(t, c.Node, commands...) }
}

func onRouter(commands ...string) func(*testing.T, *cluster) {
	return func(t *testing.T, c *cluster) { c.ip(t, c.Router, commands...) }
}

func (c *cluster) ip(t *testing.T, n *nettest.Namespace, commands ...string) {
	t.Helper()
	cmd := exec.Command("ip", "-batch", "-")
	names := strings.NewReplacer("ROUTER", filepath.Base(c.Router.Path()), "NODE", filepath.Base(c.Node.Path()))
	text := names.Replace(strings.Join(commands, "\n"))
	cmd.Stdin = strings.NewReader(text)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, n.Run(cmd), "%s\n%s", text, &out)
}

// TestLinkKinds: links of kinds that can carry egress do.
func TestLinkKinds(t *testing.T) {
	t.Parallel()
	const vxlan = "link add vx0 type vxlan id 42 dstport 4789 "
	testLinkKinds(t, map[string]linkKind{
		"bridge": bridgeLink(),
		"port of a bridge for a while": {
			name: "port1", far: "port1",
			prepare: onNode("link add br7 up type bridge"),
			create:  onNode("link add port1 up type veth peer name port1 netns ROUTER"),
			down:    onNode("link set port1 master br7"), up: onNode("link set port1 nomaster"),
		},
		"macvlan, bridge mode":  on("type macvlan mode bridge"),
		"macvlan, private mode": on("type macvlan mode private"),
		"macvlan, passthru":     on("type macvlan mode passthru"),
		"VXLAN": {
			name: "vx0", far: "vx0",
			prepare: onRouter(vxlan + "local 192.0.2.1 remote 192.0.2.10"),
			create:  onNode(vxlan + "local 192.0.2.10 remote 192.0.2.1"),
		},
	})
}

// on is a link on top of enp7s0, which loses its carrier with that. (An ipvlan link of kernels before
// 6.9 does not notice that the link below it is set down.)
func on(kind string) linkKind {
	return linkKind{
		name: "egress0", far: nettest.RouterSecondLink, create: onNode("link add link enp7s0 name egress0 " + kind),
		down: onRouter("link set second down"), up: onRouter("link set second up"),
	}
}

// bridgeLink is a bridge with a link to the router, as hosts of virtual machines have it.
func bridgeLink() linkKind {
	return linkKind{
		name: "br7", far: "port1",
		prepare: onNode("link add port1 type veth peer name port1 netns ROUTER"),
		create:  onNode("link add br7 type bridge", "link set port1 up master br7"),
		down:    onRouter("link set port1 down"), up: onRouter("link set port1 up"),
	}
}

// testLinkKinds: pods leave with their addresses, and answers arrive, small and large.
// While the link is down, pods' packets are refused; when it is back, also when it was
// deleted and created again, connections of before continue.
func testLinkKinds(t *testing.T, kinds map[string]linkKind) {
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLinkTest(t, kind)
			world := l.Server.Capture(t, "eth0")
			l.requireNoDuplicates(t)
			l.forgetNeighbours(t)
			l.pod.add(t, l.annotations())
			l.plain.add(t, nil)
			l.requireWorks(t)
			l.requireTransfers(t)

			l.serveRepeatedly(t)
			startWatcher(t, l.Node)
			conns := map[string]net.Conn{}
			for server, egress := range l.seen() {
				conn := dialTCP(t, l.pod.Namespace, "", net.JoinHostPort(server, "8081"))
				requireAnswer(t, conn, egress)
				conns[egress] = conn
			}
			requireContinue := func() {
				t.Helper()
				for egress, conn := range conns {
					requireAnswer(t, conn, egress)
				}
			}
			if l.also != nil {
				l.also(t, l, requireContinue)
			}
			for _, outage := range l.outages() {
				table := 1000 + l.Node.Index(t, l.name)
				outage.down(t, l.cluster)
				l.requireRefused(t, table)
				_, err := l.plain.call(t, "ADD", l.annotations())
				require.ErrorContains(t, err, l.name)
				outage.up(t, l.cluster)
				l.address(t)
				l.awaitHealthy(t)
				l.requireWorks(t)
				requireContinue()
			}
			l.pod.del(t)
			l.requireNoAttachment(t)
			requireSources(t, world, linkPod4, linkPod6, linkNode4, linkNode6, neighbour4, neighbour6)
			if !l.own {
				requireSources(t, world, linkPod4, linkPod6, neighbour4, neighbour6)
			}
		})
	}
}

func newLinkTest(t *testing.T, kind linkKind) *linkTest {
	t.Helper()
	l := &linkTest{linkKind: kind, cluster: newCluster(t, nettest.LabOptions{}, "1.0.0")}
	if l.prepare != nil {
		l.prepare(t, l.cluster)
	}
	l.create(t, l.cluster)
	l.address(t)
	entry := l.entry()
	l.pod = l.newDirect(t, "pod", pod4, pod6, entry)
	l.plain = l.newDirect(t, "plain", neighbour4, neighbour6, entry)
	l.Router.AddRoute(t, nettest.Route{Dst: neighbour4 + "/32", Via: nettest.PrimaryIPv4})
	l.Router.AddRoute(t, nettest.Route{Dst: neighbour6 + "/128", Via: nettest.PrimaryIPv6})
	return l
}

func (k linkKind) entry() object {
	allow := object{"namespaces": []string{"payments"}}
	if !k.own {
		allow["addresses"] = []string{"192.168.126.0/24", "fd00:126::/64"}
	}
	link := object{"name": k.name, "allow": []object{allow}}
	if !k.noGateways {
		link["gateways"] = []string{linkRouter4, linkRouter6}
	}
	return egressIP(object{"links": []object{link}})
}

func (k linkKind) annotations() annotations {
	if k.own {
		return annotations{"egress-ip.cni/link": k.name}
	}
	return address(linkPod4 + "," + linkPod6)
}

// seen is what each of the server's addresses sees the pod as.
func (k linkKind) seen() map[string]string {
	if k.own {
		return map[string]string{nettest.ServerIPv4: linkNode4, nettest.ServerIPv6: linkNode6}
	}
	return map[string]string{nettest.ServerIPv4: linkPod4, nettest.ServerIPv6: linkPod6}
}

// address does what a network daemon does: it sets both ends up, and gives them the
// addresses that they do not have.
func (l *linkTest) address(t *testing.T) {
	t.Helper()
	for _, end := range []struct {
		on         *nettest.Namespace
		link       string
		ipv4, ipv6 string
	}{
		{l.Router, l.far, linkRouter4 + "/24", linkRouter6 + "/64"},
		{l.Router, l.far, linkTaken4 + "/24", linkTaken6 + "/64"},
		{l.Node, l.name, linkNode4 + or(l.bits4, "/24"), linkNode6 + or(l.bits6, "/64")},
	} {
		if end.link == "" {
			continue // the test makes that end
		}
		if !l.own { // else its address comes first
			end.on.SetUp(t, end.link)
			l.awaitRunning(t, end.on, end.link)
		}
		for _, address := range []string{end.ipv4, end.ipv6} {
			if !slices.ContainsFunc(addressTexts(t, end.on, end.link), func(has string) bool { return has == address }) {
				end.on.AddAddress(t, end.link, address)
			}
		}
		end.on.SetUp(t, end.link)
	}
}

func or(text, otherwise string) string {
	if text != "" {
		return text
	}
	return otherwise
}

func addressTexts(t *testing.T, n *nettest.Namespace, link string) []string {
	t.Helper()
	var all []string
	for _, a := range n.Addresses(t, link) {
		all = append(all, a.String())
	}
	return all
}

// awaitRunning waits until a link can send. Many kinds of links do not say that they are
// operational, and have no IPv6 link-local address.
func (c *cluster) awaitRunning(t *testing.T, n *nettest.Namespace, link string) {
	t.Helper()
	require.Eventually(t, func() bool { return n.Link(t, link).Attrs().RawFlags&unix.IFF_RUNNING != 0 }, waitFor, tick)
}

// requireNoDuplicates: an address that another host on the link has is refused, where
// the link can be asked.
func (l *linkTest) requireNoDuplicates(t *testing.T) {
	t.Helper()
	if l.noNeighbours {
		return
	}
	for _, taken := range []string{linkTaken4, linkTaken6} {
		_, err := l.pod.call(t, "ADD", address(taken))
		require.ErrorContains(t, err, "another host on the link has "+taken)
	}
}

// forgetNeighbours has the router know the pod's addresses elsewhere: so it does when an
// address comes from another node.
func (l *linkTest) forgetNeighbours(t *testing.T) {
	t.Helper()
	if l.noNeighbours {
		return
	}
	for _, a := range []string{linkPod4, linkPod6} {
		l.ip(t, l.Router, "neighbour replace "+a+" lladdr 02:00:00:00:00:01 dev "+l.far+" nud reachable")
	}
}

// requireWorks: both pods are seen as what they are to be, and ADD's end, CHECK and status
// find nothing wrong.
func (l *linkTest) requireWorks(t *testing.T) {
	t.Helper()
	l.pod.requireSeen(t, l.seen()[nettest.ServerIPv4], l.seen()[nettest.ServerIPv6])
	l.plain.requireSeen(t, neighbour4, neighbour6)
	_, err := l.pod.call(t, "CHECK", l.annotations())
	require.NoError(t, err)
	l.status(t, 0)
}

// requireTransfers: packets larger than the link takes are no obstacle, in either
// direction.
func (l *linkTest) requireTransfers(t *testing.T) {
	t.Helper()
	listener := listenTCP(t, l.Server, 9000)
	for server := range l.seen() {
		conn := dialTCP(t, l.pod.Namespace, "", net.JoinHostPort(server, "9000"))
		transfer(t, conn, accept(t, listener))
	}
}

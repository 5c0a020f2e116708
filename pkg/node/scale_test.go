package node_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/config"
	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/egress-ip/egress-ip/pkg/node"
	"github.com/egress-ip/egress-ip/pkg/record"
	"github.com/stretchr/testify/require"
)

// TestFiveThousandPods: each pod address adds one rule, one element to each of
// its maps and its throw, and nothing more. Some of the pods are dual-stack; an
// IPv6 address takes longer, see pkg/kernel/conntrack.go.
func TestFiveThousandPods(t *testing.T) {
	t.Parallel()
	const pods, dualStack = 5000, 100
	lab := nettest.NewLab(t, nettest.LabOptions{SecondDefault: true})
	c := config.Config{
		Network: "net", RulePriority: 6000, TableBase: 1000, MarkMask: 0x0f000000,
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00:10::/32")},
		Links: []config.Link{{Pattern: nettest.SecondLink, Allow: []config.Allow{{
			Namespaces: []string{"*"}, Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.124.99/32"), netip.MustParsePrefix("fd00:124::99/128")},
		}}}},
		Probe: config.Probe{Mode: config.ProbeNever},
	}
	attach := func(from, to int) {
		lab.Node.Do(t, func() {
			for i := from; i < to; i++ {
				addresses := []netip.Addr{netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)})}
				if i < dualStack {
					addresses = append(addresses, netip.MustParseAddr(fmt.Sprintf("fd00:10:244::%x", i+1)))
				}
				n, err := node.Open()
				require.NoError(t, err)
				require.NoError(t, n.Attach(c, config.Request{
					ContainerID: fmt.Sprintf("c%d", i), IfName: "eth0", PodNamespace: "a", PodAddresses: addresses,
					Addresses: []netip.Addr{netip.MustParseAddr("192.168.124.99"), netip.MustParseAddr("fd00:124::99")},
				}))
				n.Close()
			}
		})
	}
	dir := recordDir(t, lab)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	attach(0, 1)
	one := count(t, lab)
	attach(1, pods)
	all := count(t, lab)
	for what, n := range one {
		switch what {
		case "ip -4 rule", "out4", "back4", "guard4", "snat4", "throw of a pod, IPv4":
			require.Equal(t, n+pods-1, all[what], what)
		case "ip -6 rule", "out6", "back6", "guard6", "snat6", "throw of a pod, IPv6":
			require.Equal(t, n+dualStack-1, all[what], what)
		default:
			require.Equal(t, n, all[what], what)
		}
	}
}

func recordDir(t *testing.T, lab *nettest.Lab) string {
	t.Helper()
	var store record.Store
	var err error
	lab.Node.Do(t, func() { store, err = record.Open() })
	require.NoError(t, err)
	return store.Dir()
}

// count returns how many of each kind of object the node has.
func count(t *testing.T, lab *nettest.Lab) map[string]int {
	t.Helper()
	run := func(name string, args ...string) string {
		cmd := exec.Command(name, args...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		require.NoError(t, lab.Node.Run(cmd), "%s: %s", cmd, &out)
		return out.String()
	}
	counts := map[string]int{}
	for _, family := range []string{"-4", "-6"} {
		counts["ip "+family+" rule"] = strings.Count(run("ip", family, "rule"), "\n")
		for line := range strings.Lines(run("ip", family, "route", "show", "table", "all")) {
			switch {
			case strings.HasPrefix(line, "throw 10.244."):
				counts["throw of a pod, IPv4"]++
			case strings.HasPrefix(line, "throw fd00:10:244::"):
				counts["throw of a pod, IPv6"]++
			default:
				counts["other route"]++
			}
		}
	}
	counts["address"] = strings.Count(run("ip", "-o", "address"), "\n")
	inside := ""
	for line := range strings.Lines(run("nft", "-s", "list", "ruleset")) {
		if word := strings.Fields(line); len(word) == 3 && (word[0] == "map" || word[0] == "set") {
			inside = word[1]
		}
		if strings.Contains(line, `comment "c`) || strings.Contains(line, "elements = {") {
			counts[inside] += max(strings.Count(line, `comment "c`), 1)
			continue
		}
		if !strings.Contains(line, ": goto ") { // elements that are no pod's begin a line or not
			counts["other line of nft"]++
		}
	}
	return counts
}

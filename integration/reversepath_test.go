package integration

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// filters are the reverse path filters of a node: `all`, or a link; PODLINK is the
// serving pod's.
type filters map[string]string

func (f filters) String() string {
	var values []string
	for _, link := range slices.Sorted(maps.Keys(f)) {
		values = append(values, link+" "+f[link])
	}
	return strings.Join(values, ", ")
}

// set sets them in an order in which no link copies another's.
func (f filters) set(t *testing.T, c *cluster, d *direct) {
	t.Helper()
	for link, value := range f {
		c.Node.Sysctl(t, fmt.Sprintf("net.ipv4.conf.%s.rp_filter", strings.Replace(link, "PODLINK", d.HostLink, 1)), value)
	}
}

// srcValidMark is what net.ipv4.conf.all.src_valid_mark is on the node.
func (c *cluster) srcValidMark(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(c.command(t, "cat", "/proc/sys/net/ipv4/conf/all/src_valid_mark"))
}

// reversePaths are settings of the filter: of all's and the link's value the higher counts.
var reversePaths = []filters{
	{"all": "0"},
	{"all": "1"},
	{"all": "2"},
	{"all": "0", nettest.PrimaryLink: "1"},
	{"all": "0", nettest.SecondLink: "1"},
	{"all": "1", nettest.PrimaryLink: "2"}, // enp7s0 is strict
	{"all": "1", nettest.PrimaryLink: "2", nettest.SecondLink: "2"},
	{"all": "2", nettest.PrimaryLink: "1", nettest.SecondLink: "1"},
	{"all": "0", "PODLINK": "1"}, // as Calico does
}

// TestReversePath: inbound connections to an annotated pod, and its own, pass every
// setting of the reverse path filter, also where somebody else marks all packets.
func TestReversePath(t *testing.T) {
	t.Parallel()
	for _, filters := range reversePaths {
		t.Run(filters.String(), func(t *testing.T) {
			t.Parallel()
			// The pods' network is no cluster network: it is each pod's own throw that
			// leads the filter back to the pod.
			c, d := newServing(t, egressIP(object{"clusterCIDRs": []string{"10.96.0.0/12", "fd00:96::/112"}}))
			d.ServeWhoAmI(t, nettest.WhoAmIPort)
			filters.set(t, c, d)
			d.add(t, both)

			leaks := watchLeaks(t, c, d)
			answers := c.watchAnswers(t)
			c.load(t, foreign, "nft", "-f")
			for _, mark := range []uint32{0, 0x42} {
				c.mark(t, "", mark)
				d.requireSeen(t, egress4, egress6)
				for _, w := range c.waysIn() {
					answers.require(t, w)
				}
				d.requireSeen(t, egress4, egress6)
			}
			leaks.requireNoneFlushed(t, c)
		})
	}
}

// TestSrcValidMark: it is set for pods with an IPv4 egress address alone, whatever
// the filter, by the first ADD that finds it unset; and what egress-ip has set goes
// with the last pod.
func TestSrcValidMark(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		before, filter, annotated string
		during, after             string
	}{
		"strict":                  {"0", "1", egress4, "1", "0"},
		"strict, both families":   {"0", "1", egress4 + "," + egress6, "1", "0"},
		"strict, only IPv6":       {"0", "1", egress6, "0", "0"},
		"strict, set by somebody": {"1", "1", egress4, "1", "1"},
		"off":                     {"0", "0", egress4, "1", "0"},
		"off, set by somebody":    {"1", "0", egress4, "1", "1"},
		"loose":                   {"0", "2", egress4, "1", "0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
			first := c.newDirect(t, "first", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
			second := c.newDirect(t, "second", "10.244.1.6", "fd00:10:244::6", egressIP(nil))
			plain := c.newDirect(t, "plain", "10.244.1.7", "fd00:10:244::7", egressIP(nil))
			c.Node.Sysctl(t, "net.ipv4.conf.all.rp_filter", tt.filter)
			c.Node.Sysctl(t, "net.ipv4.conf.all.src_valid_mark", tt.before)

			plain.add(t, nil)
			require.Equal(t, tt.before, c.srcValidMark(t))
			first.add(t, address(tt.annotated))
			require.Equal(t, tt.during, c.srcValidMark(t))
			if tt.before == "0" { // somebody puts it back
				c.Node.Sysctl(t, "net.ipv4.conf.all.src_valid_mark", "0")
			}
			second.add(t, address(tt.annotated))
			require.Equal(t, tt.during, c.srcValidMark(t))

			leaks := watchLeaks(t, c, first, second)
			for _, d := range []*direct{first, second} {
				for server, egress := range map[string]string{nettest.ServerAskIPv4: egress4, nettest.ServerAskIPv6: egress6} {
					if strings.Contains(tt.annotated, egress) {
						require.Equal(t, egress, d.sees(t, server))
					}
				}
			}
			leaks.requireNone(t)

			first.del(t)
			first.del(t)
			require.Equal(t, tt.during, c.srcValidMark(t))
			second.del(t)
			require.Equal(t, tt.after, c.srcValidMark(t))
			c.requireNoAttachment(t)
		})
	}
}

package integration

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
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

// srcValidMark returns the links of the node on which src_valid_mark is 1; "all" counts
// for every link.
func (c *cluster) srcValidMark(t *testing.T) []string {
	t.Helper()
	var links []string
	for line := range strings.Lines(c.command(t, "sh", "-ec", "cd /proc/sys/net/ipv4/conf; grep -H . */src_valid_mark")) {
		link, value, _ := strings.Cut(strings.TrimSpace(line), "/src_valid_mark:")
		if value == "1" {
			links = append(links, link)
		}
	}
	return links
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

// TestSrcValidMark: it is set on the uplinks alone, for pods with an IPv4 egress address
// alone, whatever the filter, by the first ADD that finds it unset; and what egress-ip has
// set goes with the last pod.
func TestSrcValidMark(t *testing.T) {
	t.Parallel()
	uplinks := []string{nettest.SecondLink, nettest.PrimaryLink}
	for name, tt := range map[string]struct {
		filter, annotated string
		more              object
		before            []string // where somebody else has set it
		during            []string // beside before
	}{
		"strict":                  {filter: "1", annotated: egress4, during: uplinks},
		"strict, both families":   {filter: "1", annotated: egress4 + "," + egress6, during: uplinks},
		"strict, only IPv6":       {filter: "1", annotated: egress6},
		"strict, set by somebody": {filter: "1", annotated: egress4, before: []string{"all"}, during: uplinks},
		"off":                     {filter: "0", annotated: egress4, during: uplinks},
		"off, set by somebody":    {filter: "0", annotated: egress4, before: []string{nettest.PrimaryLink}, during: []string{nettest.SecondLink}},
		"loose":                   {filter: "2", annotated: egress4, during: uplinks},
		"no cluster networks":     {filter: "1", annotated: egress4, more: derived, during: uplinks},
		// From there connections to annotated pods may come.
		"a link without a default route": {filter: "1", annotated: egress4, during: []string{"other1", nettest.SecondLink, nettest.PrimaryLink}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
			first := c.newDirect(t, "first", "10.244.1.5", "fd00:10:244::5", egressIP(tt.more))
			second := c.newDirect(t, "second", "10.244.1.6", "fd00:10:244::6", egressIP(tt.more))
			plain := c.newDirect(t, "plain", "10.244.1.7", "fd00:10:244::7", egressIP(tt.more))
			if slices.Contains(tt.during, "other1") {
				c.command(t, "ip", "link", "add", "other1", "up", "type", "bridge")
				c.command(t, "ip", "address", "add", "172.30.0.1/24", "dev", "other1")
			}
			c.Node.Sysctl(t, "net.ipv4.conf.all.rp_filter", tt.filter)
			for _, link := range tt.before {
				c.Node.Sysctl(t, "net.ipv4.conf."+link+".src_valid_mark", "1")
			}
			during := slices.Concat(tt.before, tt.during)

			plain.add(t, nil)
			require.ElementsMatch(t, tt.before, c.srcValidMark(t))
			first.add(t, address(tt.annotated))
			require.ElementsMatch(t, during, c.srcValidMark(t))
			for _, link := range tt.during { // somebody puts it back
				c.Node.Sysctl(t, "net.ipv4.conf."+link+".src_valid_mark", "0")
			}
			second.add(t, address(tt.annotated))
			require.ElementsMatch(t, during, c.srcValidMark(t))

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
			require.ElementsMatch(t, during, c.srcValidMark(t))
			second.del(t)
			require.ElementsMatch(t, tt.before, c.srcValidMark(t))
			c.requireNoAttachment(t)
		})
	}
}

// TestSrcValidMarkOfLinks: it follows the links. One that comes later gets it from a resync;
// one that is renamed gets it back under its new name; one that is gone is no error.
func TestSrcValidMarkOfLinks(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	for _, link := range []string{"other1", "other2"} {
		c.command(t, "ip", "link", "add", link, "up", "type", "bridge")
	}
	c.command(t, "ip", "address", "add", "172.30.1.1/24", "dev", "other1")
	d.add(t, address(egress4))
	require.ElementsMatch(t, []string{"other1", nettest.PrimaryLink, nettest.SecondLink}, c.srcValidMark(t))

	c.command(t, "ip", "address", "add", "172.30.2.1/24", "dev", "other2")
	out, _ := c.status(t, 1)
	require.Contains(t, out, "net.ipv4.conf.other2.src_valid_mark=1")
	out, exit := c.egressIP(t, "resync")
	require.Zero(t, exit)
	require.Equal(t, "set net.ipv4.conf.other2.src_valid_mark to 1\n", out)
	c.status(t, 0)

	c.command(t, "ip", "link", "set", "other1", "name", "renamed1")
	require.ElementsMatch(t, []string{"renamed1", "other2", nettest.PrimaryLink, nettest.SecondLink}, c.srcValidMark(t))
	c.status(t, 0)
	c.command(t, "ip", "link", "del", "other2")
	c.status(t, 0)
	d.del(t)
	require.Empty(t, c.srcValidMark(t))
	c.requireNoAttachment(t)
}

// TestSrcValidMarkOfEarlierVersion: an earlier version set it for all links of the node,
// and recorded that; the next call that writes puts it back.
func TestSrcValidMarkOfEarlierVersion(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(t *testing.T, c *cluster, other, d *direct){
		"ADD":    func(t *testing.T, _ *cluster, other, _ *direct) { other.add(t, address(egress4)) },
		"DEL":    func(t *testing.T, _ *cluster, _, d *direct) { d.del(t) },
		"resync": func(t *testing.T, c *cluster, _, _ *direct) { c.egressIP(t, "resync") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
			d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
			other := c.newDirect(t, "other", "10.244.1.6", "fd00:10:244::6", egressIP(nil))
			d.add(t, address(egress4))
			// As it was written then.
			require.NoError(t, os.Remove(filepath.Join(c.recordDir(t), "marked.json")))
			for _, link := range c.srcValidMark(t) {
				c.Node.Sysctl(t, "net.ipv4.conf."+link+".src_valid_mark", "0")
			}
			c.Node.Sysctl(t, "net.ipv4.conf.all.src_valid_mark", "1")
			require.NoError(t, os.WriteFile(filepath.Join(c.recordDir(t), "src_valid_mark"), []byte(`"set by egress-ip; it was 0"`), 0o600))
			c.status(t, 1)

			call(t, c, other, d)
			require.NotContains(t, c.srcValidMark(t), "all")
			c.status(t, 0)
			other.del(t)
			d.del(t)
			require.Empty(t, c.srcValidMark(t))
			c.requireNoAttachment(t)
		})
	}
}

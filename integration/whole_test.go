package integration

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// whole is [cluster.state] with what the record's files say and the sysctl, without
// what a repair need not put back: the order in which objects of equal standing were
// made, the time of the first ADD, and what a link has only until it is made anew: its
// link-local address, and its ifindex, also in the number of its table, in whose place
// stands its name. So where two of them differ, something does.
func (c *cluster) whole(t *testing.T) string {
	t.Helper()
	const next = "\n====\n"
	parts := strings.Split(c.command(t, "sh", "-ec", strings.Join([]string{
		"ip -d -4 rule", "ip -d -6 rule", "ip -d -4 route show table all", "ip -d -6 route show table all",
		"ip -br address", "nft -s list ruleset", "cd /proc/sys/net/ipv4/conf; grep -sH . all/src_valid_mark e*/src_valid_mark || :",
	}, "; echo; echo ====; ")), next)
	require.Len(t, parts, 7)
	named := c.named(t)
	var b strings.Builder
	for i, in := range []func(string) string{
		inWalkingOrder, inWalkingOrder, ofRoutes, ofRoutes, ofAddresses, inNameOrder, sorted,
	} {
		fmt.Fprintf(&b, "# %d\n%s", i, in(named(parts[i])))
	}
	var files strings.Builder
	for _, path := range c.recorded(t) {
		fmt.Fprintln(&files, path, c.file(t, path))
	}
	return b.String() + "# record\n" + sorted(named(files.String()))
}

var (
	tableNumber = regexp.MustCompile(`(lookup |table |tables/|"table":)(\d+)\b`)
	linkNumber  = regexp.MustCompile(`((?:out|bridged|unchecked|back|mark|exit|cluster4|cluster6)_|"ifindex":)(\d+)\b`)
	// What the guard remembers of packets that it has dropped goes with time.
	remembered = regexp.MustCompile(`(?s)(set (?:dropped|forged)[46] {.*?timeout 5m)\n\t\telements = {.*?}\n`)
	linkLocal  = regexp.MustCompile(`fe80::[0-9a-f][0-9a-f:]*`)
)

// elements are those of one set or map; nft prints them in the order of their keys, of which
// an ifindex may be a part.
var elements = regexp.MustCompile(`elements = {[^}]*}`)

func inAnyOrder(all string) string {
	list := strings.TrimSuffix(strings.TrimPrefix(all, "elements = {"), "}")
	parts := strings.Split(strings.Join(strings.Fields(list), " "), ", ")
	slices.Sort(parts)
	return "elements = {" + strings.Join(parts, ", ") + "}"
}

// named returns a function that puts the names of links in the place of their numbers.
func (c *cluster) named(t *testing.T) func(string) string {
	t.Helper()
	links, err := c.Node.Netlink().LinkList()
	require.NoError(t, err)
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	name := func(pattern *regexp.Regexp, prefix string, bases ...int) func(string) string {
		return func(match string) string {
			parts := pattern.FindStringSubmatch(match)
			number, _ := strconv.Atoi(parts[2])
			for _, base := range bases {
				if name, ok := names[number-base]; ok {
					return parts[1] + prefix + name
				}
			}
			return match
		}
	}
	ofTable, ofLink := name(tableNumber, "OF-", 1000, 7000), name(linkNumber, "", 0)
	return func(text string) string {
		text = tableNumber.ReplaceAllStringFunc(text, ofTable)
		text = linkNumber.ReplaceAllStringFunc(text, ofLink)
		text = remembered.ReplaceAllString(text, "$1\n")
		text = elements.ReplaceAllStringFunc(text, inAnyOrder)
		return linkLocal.ReplaceAllString(text, "LINKLOCAL")
	}
}

// ofRoutes has a line for each route, the hops of a multipath included.
func ofRoutes(routes string) string {
	return sorted(strings.ReplaceAll(routes, "\n\tnexthop", "nexthop"))
}

// ofAddresses has a line for each address, and one for each link's state.
func ofAddresses(links string) string {
	var lines strings.Builder
	for line := range strings.Lines(links) {
		fields := strings.Fields(line)
		link, _, _ := strings.Cut(fields[0], "@")
		for _, a := range append(fields[2:], "is "+fields[1]) {
			fmt.Fprintln(&lines, link, a)
		}
	}
	return sorted(lines.String())
}

var since = regexp.MustCompile(`"since":"[^"]*"`)

// file is what a file of the record says; a folder, or a link, says nothing.
func (c *cluster) file(t *testing.T, path string) string {
	t.Helper()
	path = filepath.Join(c.recordDir(t), path)
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) { // a call has removed it meanwhile
		return ""
	}
	require.NoError(t, err)
	return since.ReplaceAllString(strings.TrimSpace(string(data)), `"since":""`)
}

func sorted(lines string) string {
	return strings.Join(slices.Sorted(strings.Lines(lines)), "")
}

// inWalkingOrder leaves the rules in the order in which the kernel walks them,
// except that those of one priority which match different packets are sorted.
func inWalkingOrder(rules string) string {
	match := func(line string) string {
		before, _, _ := strings.Cut(line, " lookup")
		return before
	}
	lines := slices.Collect(strings.Lines(rules))
	slices.SortStableFunc(lines, func(a, b string) int {
		var p, q int
		_, _ = fmt.Sscanf(a, "%d:", &p)
		_, _ = fmt.Sscanf(b, "%d:", &q)
		return cmp.Or(p-q, strings.Compare(match(a), match(b)))
	})
	return strings.Join(lines, "")
}

// inNameOrder sorts the tables of a ruleset, and what is in each of them.
func inNameOrder(ruleset string) string {
	tables := strings.SplitAfter(ruleset, "\n}\n")
	for i, table := range tables {
		head, body, _ := strings.Cut(strings.TrimSuffix(table, "}\n"), "\n")
		objects := strings.Split(strings.TrimSuffix(body, "\n"), "\n\n")
		slices.Sort(objects)
		tables[i] = head + "\n" + strings.Join(objects, "\n") + "\n"
	}
	// The watcher's is there while that runs.
	tables = slices.DeleteFunc(tables, func(table string) bool { return strings.HasPrefix(table, "table inet egress_ip_held ") })
	slices.Sort(tables)
	return strings.Join(tables, "")
}

// uplink is a link of the lab's node, as a network daemon of the node knows it.
type uplink struct {
	name, router       string // its ends
	ipv4, ipv6         string
	gateway4, gateway6 string
	metric4, metric6   int
}

var (
	second = uplink{nettest.SecondLink, nettest.RouterSecondLink, nettest.SecondIPv4, nettest.SecondIPv6,
		nettest.SecondGatewayIPv4, nettest.SecondGatewayIPv6, 200, 2048}
	third = uplink{nettest.ThirdLink, nettest.RouterThirdLink, nettest.ThirdIPv4, nettest.ThirdIPv6,
		nettest.ThirdGatewayIPv4, nettest.ThirdGatewayIPv6, 300, 2049}
	primary = uplink{nettest.PrimaryLink, nettest.RouterPrimaryLink, nettest.PrimaryIPv4, nettest.PrimaryIPv6,
		nettest.PrimaryGatewayIPv4, nettest.PrimaryGatewayIPv6, 100, 1024}
)

// down is the first half of a flap.
func (u uplink) down(t *testing.T, c *cluster) { c.Node.SetDown(t, u.name) }

// up is the second half, and what a network daemon does then.
func (u uplink) up(t *testing.T, c *cluster) {
	c.Node.SetUp(t, u.name)
	c.Node.WaitUsable(t, u.name)
	c.Node.AddAddress(t, u.name, u.ipv6+"/64")
	u.addDefaults(t, c)
}

// remake makes the link, which has gone, anew at both ends.
func (u uplink) remake(t *testing.T, c *cluster) {
	nettest.Connect(t, c.Node, u.name, c.Router, u.router)
	c.Router.AddAddress(t, u.router, u.gateway4+"/24")
	c.Router.AddAddress(t, u.router, u.gateway6+"/64")
	c.Node.AddAddress(t, u.name, u.ipv4+"/24")
	c.Node.AddAddress(t, u.name, u.ipv6+"/64")
	u.addDefaults(t, c)
}

func (u uplink) addDefaults(t *testing.T, c *cluster) {
	c.Node.AddRoute(t, nettest.Route{Dst: "0.0.0.0/0", Via: u.gateway4, Link: u.name, Metric: u.metric4})
	c.Node.AddRoute(t, nettest.Route{Dst: "::/0", Via: u.gateway6, Link: u.name, Metric: u.metric6})
}

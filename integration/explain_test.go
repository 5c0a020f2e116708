package integration

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

const explainedID = "0123456789abcdef"

// newExplained is a cluster with an annotated pod, one of whose connections has
// been seen to leave as it should.
func newExplained(t *testing.T, entry object) (*cluster, *direct) {
	t.Helper()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true}, "1.0.0")
	d := c.newDirect(t, explainedID, pod4, pod6, entry)
	d.add(t, both)
	d.requireSeen(t, egress4, egress6)
	return c, d
}

// explain runs the command on the node.
func (c *cluster) explain(t *testing.T, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "egress-ip"), append([]string{"explain"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = c.Node.Run(cmd)
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// requireExplained explains one way: it ends with this status and says these texts,
// and the pod's packet really goes where it says.
func (d *direct) requireExplained(t *testing.T, to string, exit int, says ...string) {
	t.Helper()
	out, errs, status := d.cluster.explain(t, "payments/pod", "--to", to)
	require.Empty(t, errs)
	require.Equal(t, exit, status, out)
	for _, s := range says {
		require.Contains(t, out, s)
	}
	require.Equal(t, d.sent(t, to), told(t, out), out)
}

var leaving = regexp.MustCompile(`the packet (?:leaves by (\S+) as ([0-9a-f.:]+[0-9a-f])|is (refused|delivered))`)

// told is where the verdict says that the packet goes.
func told(t *testing.T, out string) string {
	t.Helper()
	all := leaving.FindAllStringSubmatch(out, -1)
	require.Len(t, all, 1, out)
	if all[0][3] != "" || strings.Contains(out, "the guard drops it") {
		return "nowhere"
	}
	return all[0][1] + " as " + all[0][2]
}

// sent opens a connection to an address behind the router, and returns how it was
// seen there.
func (d *direct) sent(t *testing.T, to string) string {
	t.Helper()
	links := map[string]*nettest.Capture{}
	for node, router := range map[string]string{nettest.PrimaryLink: nettest.RouterPrimaryLink, nettest.SecondLink: nettest.RouterSecondLink} {
		if _, err := d.cluster.Router.Netlink().LinkByName(router); err == nil {
			links[node] = d.cluster.Router.Capture(t, router)
		}
	}
	_, _ = d.Ask("udp", asked(to)) // whether it is answered is not the question
	var seen []string
	for link, capture := range links {
		for _, p := range capture.Packets() {
			if !p.Outgoing && p.DstPort == nettest.WhoAmIPort && has(p, to) {
				seen = append(seen, fmt.Sprintf("%s as %s", link, p.Src))
			}
		}
		capture.Stop()
	}
	if len(seen) == 0 {
		return "nowhere"
	}
	require.Len(t, seen, 1)
	return seen[0]
}

// TestExplain is the page itself, both families and a cluster destination; and
// each command that it names says the same.
func TestExplain(t *testing.T) {
	t.Parallel()
	c, _ := newExplained(t, egressIP(nil))
	fill := func(page string) string {
		return strings.NewReplacer("TABLE", c.table(t), "INDEX", fmt.Sprint(c.Node.Index(t, nettest.SecondLink))).Replace(page)
	}
	out, errs, exit := c.explain(t, "payments/pod")
	require.Empty(t, errs)
	require.Zero(t, exit)
	require.Equal(t, fill(`payments/pod 10.244.1.5 fd00:10:244::5 (container 0123456789abcdef)
10.244.1.5 to 8.8.8.8
1. in  veth1  # ip route get 10.244.1.5
2. mark  0x1000000, by chain out_INDEX  # nft list table inet egress_ip
3. rule  5998: from all fwmark 0x1000000/0xf000000 lookup TABLE  # ip rule
4. table  TABLE: default via 192.168.124.1 dev enp7s0 metric 200  # ip route show table TABLE
5. route  8.8.8.8 via 192.168.124.1 dev enp7s0 table TABLE  # ip route get 8.8.8.8 from 10.244.1.5 iif veth1 mark 0x1000000
6. source  192.168.124.99, by 10.244.1.5 . "enp7s0"  # nft list map inet egress_ip snat4
As the annotation says: the packet leaves by enp7s0 as 192.168.124.99.

payments/pod 10.244.1.5 fd00:10:244::5 (container 0123456789abcdef)
fd00:10:244::5 to 2001:4860:4860::8888
1. in  veth1  # ip -6 route get fd00:10:244::5
2. mark  0x1000000, by chain out_INDEX  # nft list table inet egress_ip
3. rule  5998: from all fwmark 0x1000000/0xf000000 lookup TABLE  # ip -6 rule
4. table  TABLE: default via fd00:124::1 dev enp7s0 metric 2048  # ip -6 route show table TABLE
5. route  2001:4860:4860::8888 via fd00:124::1 dev enp7s0 metric 2048 table TABLE  # ip -6 route get 2001:4860:4860::8888 from fd00:10:244::5 iif veth1 mark 0x1000000
6. source  fd00:124::99, by fd00:10:244::5 . "enp7s0"  # nft list map inet egress_ip snat6
As the annotation says: the packet leaves by enp7s0 as fd00:124::99.
`), narrow(out))
	c.requireSame(t, out)

	out, errs, exit = c.explain(t, "payments/pod", "--to", "10.244.2.5")
	require.Empty(t, errs)
	require.Zero(t, exit)
	require.Equal(t, fill(`payments/pod 10.244.1.5 fd00:10:244::5 (container 0123456789abcdef)
10.244.1.5 to 10.244.2.5
1. in  veth1  # ip route get 10.244.1.5
2. mark  0xf000000, by chain others: the set cluster4 has the destination  # nft list table inet egress_ip
3. rule  5999: not from all fwmark 0/0xf000000 goto 6001  # ip rule
4. rule  32766: from all lookup main  # ip rule
5. table  main: default via 192.0.2.1 dev eth0 metric 100  # ip route show table main
6. route  10.244.2.5 via 192.0.2.1 dev eth0 table main  # ip route get 10.244.2.5 from 10.244.1.5 iif veth1 mark 0xf000000
7. source  10.244.1.5: not translated by egress-ip  # nft list map inet egress_ip snat4
As the annotation says, which leaves cluster destinations alone (10.244.2.5 is in the set cluster4): the packet leaves by eth0 as 10.244.1.5, unless somebody else masquerades.
`), narrow(out))
	c.requireSame(t, out)
}

// narrow takes the alignment out.
func narrow(page string) string { return regexp.MustCompile(`  +`).ReplaceAllString(page, "  ") }

// requireSame runs the commands of a page, whose output must have all the words
// that the page has for it.
func (c *cluster) requireSame(t *testing.T, page string) {
	t.Helper()
	lines := regexp.MustCompile(`(?m)^\d+\. (\w+) +(.*?) +# (.*)$`).FindAllStringSubmatch(page, -1)
	require.NotEmpty(t, lines)
	for _, l := range lines {
		command := strings.Fields(l[3])
		output := strings.Fields(c.command(t, command[0], command[1:]...))
		says, _, _ := strings.Cut(l[2], ": the set ")
		says, _, _ = strings.Cut(says, ": not translated")
		for _, word := range strings.Fields(says) {
			switch word = strings.TrimSuffix(word, ","); word {
			case "by", "main:", c.table(t) + ":": // prose, and what the command is asked for
			case "table", "main": // ip leaves main's name out
			case "0x1000000", "0xf000000":
				if l[1] == "mark" {
					word = "0x0" + strings.TrimPrefix(word, "0x") // as nft prints it
				}
				require.Contains(t, output, word, l[0])
			default:
				require.Contains(t, output, word, l[0])
			}
		}
	}
}

// TestExplainNames: each way to name the pod, and what does not name one.
func TestExplainNames(t *testing.T) {
	t.Parallel()
	c, _ := newExplained(t, egressIP(nil))
	alike := c.newDirect(t, "0123456799", "10.244.1.7", "fd00:10:244::7", egressIP(nil))
	alike.add(t, address("192.168.124.98"))
	want, _, _ := c.explain(t, explainedID)
	for _, name := range []string{"10.244.1.5", "fd00:10:244::5", "fd00:10:244:0:0::5", "012345678", explainedID} {
		out, errs, exit := c.explain(t, name)
		require.Empty(t, errs)
		require.Zero(t, exit)
		require.Equal(t, want, out)
	}
	for name, tt := range map[string]struct {
		exit int
		args []string
		says []string
	}{
		"no such pod":         {3, []string{"payments/nobody"}, []string{`"payments/nobody"`, "payments/pod 10.244.1.5 fd00:10:244::5 (container 0123456789abcdef)", "payments/pod 10.244.1.7 (container 0123456799)"}},
		"no such address":     {3, []string{"10.244.1.9"}, []string{`"10.244.1.9"`, "10.244.1.7"}},
		"too short":           {3, []string{"0123456"}, []string{`"0123456"`, "there are"}},
		"two pods by ID":      {3, []string{"01234567"}, []string{`"01234567" may mean each of these`, explainedID, "0123456799"}},
		"two pods by name":    {3, []string{"payments/pod"}, []string{`"payments/pod" may mean each of these`, explainedID, "0123456799"}},
		"no pod":              {2, nil, []string{"which POD?", "-h"}},
		"two arguments":       {2, []string{"payments/pod", "8.8.8.8"}, []string{"unexpected argument \"8.8.8.8\""}},
		"unknown flag":        {2, []string{explainedID, "--from", "8.8.8.8"}, []string{"--from"}},
		"to nothing":          {2, []string{explainedID, "--to"}, []string{"--to"}},
		"to a name":           {2, []string{explainedID, "--to", "example.org"}, []string{`--to "example.org" is not an IP address`}},
		"to an empty address": {2, []string{explainedID, "--to", ""}, []string{`--to ""`}},
		"to multicast":        {2, []string{explainedID, "--to", "224.0.0.1"}, []string{"224.0.0.1", "unicast"}},
		"to itself":           {2, []string{explainedID, "--to", "::1"}, []string{"::1", "unicast"}},
		"to a link-local":     {2, []string{explainedID, "--to", "fe80::1%eth0"}, []string{"fe80::1%eth0", "unicast"}},
		"to nowhere":          {2, []string{explainedID, "--to", "::"}, []string{"::", "unicast"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, errs, exit := c.explain(t, tt.args...)
			require.Empty(t, out)
			require.Equal(t, tt.exit, exit)
			for _, s := range tt.says {
				require.Contains(t, errs, s)
			}
		})
	}
	for _, help := range []string{"-h", "--help"} {
		out, errs, exit := c.explain(t, help)
		require.Empty(t, errs)
		require.Zero(t, exit)
		require.Contains(t, out, "usage: egress-ip explain POD [--to ADDRESS]")
	}
	// Flags may stand anywhere, and be joined to their value.
	first, _, _ := c.explain(t, "--to=203.0.113.80", explainedID)
	last, _, _ := c.explain(t, explainedID, "--to", "::ffff:203.0.113.80")
	require.NotEmpty(t, first)
	require.Equal(t, first, last)

	alike.del(t)
	c.plugin(call{command: "DEL", containerID: explainedID})
	_, errs, exit := c.explain(t, "payments/pod")
	require.Equal(t, 3, exit)
	require.Contains(t, errs, `no pod on this node has egress, so there is no "payments/pod"`)
}

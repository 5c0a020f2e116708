package integration

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// awsNode is what aws-node makes on a node whose VPC is 192.168.0.0/16, in nftables:
// packets to outside the VPC, and answers to what came in by the primary link, have
// 0x80, by way of the connection's mark; and the former get the node's address. The
// last chain is a NodePort of the annotated pod.
const awsNode = `
table ip aws-cni {
	chain nat-prerouting {
		type nat hook prerouting priority dstnat + 10
		fib daddr type local return
		iifname "veth*" jump snat-mark
		ct mark and 0x80 == 0x80 meta mark set meta mark or 0x80
	}
	chain snat-mark {
		ip daddr 192.168.0.0/16 return
		ct mark set ct mark or 0x80
	}
	chain postrouting {
		type nat hook postrouting priority srcnat
		ip daddr 192.168.0.0/16 return
		fib daddr type != local snat to 192.0.2.10
	}
}
table ip aws-primary {
	chain prerouting {
		type filter hook prerouting priority mangle
		iifname "eth0" fib daddr . iif type local ct mark set ct mark or 0x80
		iifname "veth*" ct mark and 0x80 == 0x80 meta mark set meta mark or 0x80
	}
}
table ip node-ports {
	chain prerouting {
		type nat hook prerouting priority dstnat
		fib daddr type local tcp dport 30080 dnat to 192.168.125.51:8080
	}
}
`

// awsTable is that of the second ENI, which is enp8s0.
const awsTable = 2

// newAWS is a node as the AWS VPC CNI makes it. The router, which is the VPC, leads
// to the pods of the second ENI.
func newAWS(t *testing.T) *cluster {
	t.Helper()
	c := newCluster(t, nettest.LabOptions{ThirdLink: true}, "1.0.0")
	c.load(t, awsNode, "nft", "-f")
	c.rule(t, "add pref 1024 fwmark 0x80/0x80 lookup main")
	for _, route := range []string{"192.168.125.1 scope link", "default via 192.168.125.1"} {
		c.command(t, "ip", strings.Fields(fmt.Sprintf("route add %s dev enp8s0 table %d", route, awsTable))...)
	}
	c.Router.ServeWhoAmI(t, nettest.WhoAmIPort)
	return c
}

func (c *cluster) rule(t *testing.T, args string) {
	t.Helper()
	c.command(t, "ip", append([]string{"rule"}, strings.Fields(args)...)...)
}

// newAWSPod makes a pod of the second ENI, with the result of aws-cni: the node's end
// of the veth, the pod's with the route table in the place of a MAC, and a link that
// does not exist, for aws-cni's own DEL.
func (c *cluster) newAWSPod(t *testing.T, id, ipv4 string, entry object) *direct {
	t.Helper()
	d := c.newRouted(t, id, ipv4, merge(entry, object{
		"cniVersion": "0.4.0", "name": "aws-cni",
		"prevResult": object{
			"cniVersion": "0.4.0",
			"interfaces": []object{{"name": "eni0123456789a"}, {"name": "eth0", "sandbox": "/run/netns/pod", "mac": "2"},
				{"name": "dummy0123456789", "mac": "0", "sandbox": "1"}},
			"ips": []object{{"version": "4", "address": ipv4 + "/32", "interface": 1}},
		},
	}))
	c.rule(t, "add pref 512 to "+ipv4+" lookup main")
	c.rule(t, fmt.Sprintf("add pref 1536 from %s lookup %d", ipv4, awsTable))
	c.Router.AddRoute(t, nettest.Route{Dst: ipv4 + "/32", Via: nettest.ThirdIPv4, Link: nettest.RouterThirdLink})
	return d
}

// restartAWSNode does to a pod what aws-node does to each when it starts: it deletes
// the rules that have the pod for their source, whoever made them, and adds one of
// its own, to the table of the last that it found.
func (c *cluster) restartAWSNode(t *testing.T, ipv4 string) {
	t.Helper()
	table := ""
	for line := range strings.Lines(c.command(t, "ip", "rule", "show", "from", ipv4)) {
		priority, _, _ := strings.Cut(line, ":")
		fields := strings.Fields(line)
		table = fields[len(fields)-1]
		c.rule(t, "del pref "+priority+" from "+ipv4)
	}
	c.rule(t, "add pref 1536 from "+ipv4+" lookup "+table)
}

// TestAWSRules: with the rulePriority of the entry, behind AWS's 512 and before its
// 1024 and 1536, an annotated pod leaves by the egress link; what is for the VPC, and
// answers to what came in by the primary link, go as AWS has it.
func TestAWSRules(t *testing.T) {
	t.Parallel()
	entry := readObject(t, filepath.Join(projectsDir, "aws-vpc-cni", "entry.json"))
	c := newAWS(t)
	plain := c.newAWSPod(t, "plain", "192.168.125.50", entry)
	pod := c.newAWSPod(t, "annotated", "192.168.125.51", entry)
	pod.ServeWhoAmI(t, nettest.WhoAmIPort)
	plain.add(t, nil)
	pod.add(t, address(egress4))

	holds := func() {
		t.Helper()
		require.Equal(t, egress4, pod.sees(t, nettest.ServerAskIPv4))
		require.Equal(t, nettest.PrimaryIPv4, plain.sees(t, nettest.ServerAskIPv4))
		for _, d := range []*direct{plain, pod} { // the VPC sees pods' own addresses
			require.Equal(t, d.addresses[0], d.sees(t, "192.168.125.1:8080"))
		}
		require.Equal(t, "192.168.125.50", plain.sees(t, "192.168.125.51:8080")) // on the node
		saw, err := c.Server.Ask("tcp", nettest.PrimaryIPv4+":30080")
		require.NoError(t, err)
		require.Equal(t, nettest.ServerIPv4, saw.String())
	}
	holds()

	own := fmt.Sprintf("600:\tfrom 192.168.125.51 lookup %d", 1000+c.Node.Index(t, nettest.SecondLink))
	require.Contains(t, c.command(t, "ip", "rule"), own)
	c.restartAWSNode(t, "192.168.125.51")
	require.NotContains(t, c.command(t, "ip", "rule"), own)
	require.Contains(t, c.command(t, "ip", "rule"), "1536:\tfrom 192.168.125.51 lookup 2\n")
	holds()
	c.command(t, filepath.Join(bin, "egress-ip"), "resync")
	require.Contains(t, c.command(t, "ip", "rule"), own)
	holds()

	// AWS_VPC_K8S_CNI_EXTERNALSNAT=true: no mark, no translation; the second ENI leads out.
	c.command(t, "nft", "flush table ip aws-cni")
	require.Equal(t, egress4, pod.sees(t, nettest.ServerAskIPv4))
	require.Equal(t, "192.168.125.50", plain.sees(t, nettest.ServerAskIPv4))
}

// TestAWSRulesComeFirst: with the default rulePriority AWS's rules win, which is why
// the entry has one: ADD refuses, and says by which rule.
func TestAWSRulesComeFirst(t *testing.T) {
	t.Parallel()
	entry := readObject(t, filepath.Join(projectsDir, "aws-vpc-cni", "entry.json"))
	delete(entry, "rulePriority")
	c := newAWS(t)
	pod := c.newAWSPod(t, "annotated", "192.168.125.51", entry)
	_, err := pod.call(t, "ADD", address(egress4))
	require.ErrorContains(t, err, "the rule `1536: from 192.168.125.51 lookup 2` is before egress-ip's")
	c.requireNoAttachment(t)
}

// TestAWSCopiesRules: aws-node, when it starts, takes the table of our rule for that of the
// pod's ENI. DEL takes the rule that it makes of it: no other pod with the address is to
// inherit that.
func TestAWSCopiesRules(t *testing.T) {
	t.Parallel()
	c := newAWS(t)
	pod := c.newAWSPod(t, "annotated", "192.168.125.51", readObject(t, filepath.Join(projectsDir, "aws-vpc-cni", "entry.json")))
	pod.add(t, address(egress4))
	table := fmt.Sprint(1000 + c.Node.Index(t, nettest.SecondLink))
	c.command(t, "ip", "rule", "add", "pref", "1537", "from", "192.168.125.51", "lookup", table)
	pod.del(t)
	require.NotContains(t, c.command(t, "ip", "rule"), "1537:")
}

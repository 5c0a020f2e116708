package integration

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// readmeBlocks returns the first code block of each language behind a heading of the
// README, each behind the one before.
func readmeBlocks(t *testing.T, heading string, languages ...string) (blocks []string) {
	t.Helper()
	readme, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(readme), "\n## "+heading+"\n")
	require.True(t, found, heading)
	for _, language := range languages {
		_, rest, found = strings.Cut(rest, "```"+language+"\n")
		require.True(t, found, language)
		var block string
		block, rest, found = strings.Cut(rest, "```")
		require.True(t, found, language)
		blocks = append(blocks, block)
	}
	return blocks
}

// TestReadmeByHand runs the section "Trying it by hand" of the README as it
// stands, where its names and files are nobody else's.
func TestReadmeByHand(t *testing.T) {
	t.Parallel()
	script := readmeBlocks(t, "Trying it by hand", "sh")[0]
	script = strings.Replace(script, "make build tools\n", "", 1) // TestMain has, and others run the files

	const private = `
		set -e
		mount --make-rprivate /
		mount -t tmpfs none /run
		mkdir -p /var/lib/cni
		mount -t tmpfs none /var/lib/cni
		cd ..
		exec bash -c "$SCRIPT"`
	cmd := exec.Command("unshare", "--mount", "--net", "bash", "-c", private)
	cmd.Env = append(os.Environ(), "SCRIPT="+script, "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	for _, want := range []string{
		"6000:\tfrom 10.244.1.2 lookup 1002",
		"default via 192.168.124.1 dev enp7s0 proto kernel",
		"throw 10.96.0.0/12 proto kernel",
		"unreachable default proto kernel metric 4278198272",
		"snat ip to ip saddr . oif map @snat4 fully-random",
		"IP 192.168.124.99 > 203.0.113.80: ICMP echo request",
		"1 received, 0% packet loss",
		`annotation egress-ip.cni/address: "192.168.124.1": egress-ip's configuration does not allow`,
	} {
		require.Contains(t, string(out), want)
	}
	for _, unwanted := range []string{"Cannot", "not found", "No such"} {
		require.NotContains(t, string(out), unwanted)
	}
}

// TestReadmeOnANode runs the installation of the README's "On a real node" as it
// stands, where the folders are nobody else's; what it puts into the conflist is the
// entry that the README shows below.
func TestReadmeOnANode(t *testing.T) {
	t.Parallel()
	blocks := readmeBlocks(t, "On a real node", "sh", "json")
	script, entry := blocks[0], blocks[1]

	const private = `
		set -e
		mount --make-rprivate /
		mount -t tmpfs none /opt
		mount -t tmpfs none /etc
		mkdir -p /etc/cni/net.d
		printf '%s' "$LIST" >/etc/cni/net.d/10-net.conflist
		cd "$BIN"
		eval "$SCRIPT"
		test -x /opt/cni/bin/egress-ip
		cat /etc/cni/net.d/10-net.conflist`
	cmd := exec.Command("unshare", "--mount", "--net", "bash", "-c", private)
	cmd.Env = append(os.Environ(), "SCRIPT="+script, "LIST="+bridgeList, "BIN="+bin)
	out, err := cmd.Output()
	require.NoError(t, err)
	lines := strings.Split(string(out), "\n")
	require.JSONEq(t, withEntry(entry), lines[len(lines)-1])
}

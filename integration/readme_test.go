package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Documents, from the directory of these tests.
const (
	readme    = "../README.md"
	reference = "../plugins/egress-ip/README.md"
)

// codeBlock returns the first code block of a language behind a heading of a document.
func codeBlock(t *testing.T, document, heading, language string) string {
	t.Helper()
	text, err := os.ReadFile(document)
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "\n## "+heading+"\n")
	require.True(t, found, heading)
	_, rest, found = strings.Cut(rest, "```"+language+"\n")
	require.True(t, found, language)
	block, _, found := strings.Cut(rest, "```")
	require.True(t, found, language)
	return block
}

// TestReadmeByHand runs the reference's section "Trying it by hand", where its names and files
// are used by nothing else.
func TestReadmeByHand(t *testing.T) {
	t.Parallel()
	script := codeBlock(t, reference, "Trying it by hand", "sh")
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

// TestReadmeOnANode runs the installation of the README's section "On a real node", with
// directories that nothing else uses, a systemctl and a kubectl that do nothing; the entry in
// the conflist is then the one that the reference shows.
func TestReadmeOnANode(t *testing.T) {
	t.Parallel()
	script, entry := codeBlock(t, readme, "On a real node", "sh"), codeBlock(t, reference, "The entry", "json")

	unit, err := filepath.Abs(unitFile)
	require.NoError(t, err)
	const private = `
		set -e
		mount --make-rprivate /
		mount -t tmpfs none /opt
		mount -t tmpfs none /etc
		mkdir -p /etc/cni/net.d /etc/systemd/system
		printf '%s' "$LIST" >/etc/cni/net.d/10-net.conflist
		mkdir /opt/here
		cp "$BIN/egress-ip" "$UNIT" /opt/here
		cd /opt/here
		systemctl() { test "$*" = "enable --now egress-ip.service"; }
		kubectl() { :; }
		eval "$SCRIPT" >&2
		test -x /opt/cni/bin/egress-ip
		test -f /etc/systemd/system/egress-ip.service
		cat /etc/cni/net.d/10-net.conflist`
	cmd := exec.Command("unshare", "--mount", "--net", "bash", "-c", private)
	cmd.Env = append(os.Environ(), "SCRIPT="+script, "LIST="+bridgeList, "BIN="+bin, "UNIT="+unit)
	out, err := cmd.Output()
	require.NoError(t, err)
	lines := strings.Split(string(out), "\n")
	require.JSONEq(t, withEntry(entry), lines[len(lines)-1])
}

package integration

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// settings are all below /proc/sys/net, as the node has them.
func (c *cluster) settings(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	c.Node.Do(t, func() {
		require.NoError(t, filepath.WalkDir("/proc/sys/net", func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			value, err := os.ReadFile(path)
			if err != nil { // some can only be written, or name nothing
				value = []byte(err.Error())
			}
			all[strings.TrimPrefix(path, "/proc/sys/")] = string(value)
			return nil
		}))
	})
	require.Greater(t, len(all), 500)
	delete(all, "net/netfilter/nf_conntrack_count")
	return all
}

// changed lists the settings that differ, and how.
func changed(before, after map[string]string) []string {
	var all []string
	for path, value := range after {
		if was, ok := before[path]; !ok || was != value {
			all = append(all, fmt.Sprintf("%s: %q", path, strings.TrimSpace(value)))
		}
	}
	for path := range before {
		if _, ok := after[path]; !ok {
			all = append(all, path+": gone")
		}
	}
	slices.Sort(all)
	return all
}

// TestInvariant7NoGlobalSetting: no setting of the node changes, but src_valid_mark of the uplinks, and those are
// as before once the last pod has gone, or after a cleanup: whatever the verb, and whatever others have set.
func TestInvariant7NoGlobalSetting(t *testing.T) {
	t.Parallel()
	for _, set := range []string{"0", "1"} {
		for _, filter := range []string{"0", "1", "2"} {
			t.Run("src_valid_mark "+set+", rp_filter "+filter, func(t *testing.T) {
				t.Parallel()
				c := newNode(t)
				c.Node.Sysctl(t, "net.ipv4.conf.enp7s0.src_valid_mark", set)
				for _, link := range []string{"all", "default", "eth0", "enp7s0"} {
					c.Node.Sysctl(t, "net.ipv4.conf."+link+".rp_filter", filter)
				}
				pods := []*direct{
					c.newDirect(t, "first", "10.244.1.5", "fd00:10:244::5", egressIP(nil)),
					c.newDirect(t, "second", "10.244.1.6", "fd00:10:244::6", egressIP(nil)),
				}
				before := c.settings(t)
				requireAllowed := func() {
					t.Helper()
					for _, line := range changed(before, c.settings(t)) {
						require.Contains(t, []string{
							`net/ipv4/conf/eth0/src_valid_mark: "1"`, `net/ipv4/conf/enp7s0/src_valid_mark: "1"`,
						}, line)
					}
				}
				for _, d := range pods {
					d.add(t, both)
					requireAllowed()
				}
				pods[0].requireSeen(t, egress4, egress6)
				c.egressIP(t, "resync")
				requireAllowed()
				w := startWatcher(t, c.Node)
				c.command(t, "nft", "delete", "table", "inet", "egress_ip")
				require.Eventually(t, func() bool { _, exit := c.quietly(t, "status"); return exit == 0 }, waitFor, tick)
				w.end(t, unix.SIGTERM)
				requireAllowed()
				for _, d := range pods {
					d.del(t)
					requireAllowed()
				}
				require.Empty(t, changed(before, c.settings(t)))
				pods[0].add(t, both)
				requireAllowed()
				_, exit := c.quietly(t, "cleanup", "--force")
				require.Zero(t, exit)
				require.Empty(t, changed(before, c.settings(t)))
			})
		}
	}
}

// TestInvariant7LinksComeAndGo: also a link that comes later, or takes another's name, keeps or gets back what it had.
func TestInvariant7LinksComeAndGo(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nettest.LabOptions{SecondDefault: true, ThirdLink: true}, "1.0.0")
	d := c.newDirect(t, "pod", "10.244.1.5", "fd00:10:244::5", egressIP(nil))
	before := c.settings(t)
	d.add(t, both)
	c.command(t, "sh", "-ec", "ip link set enp8s0 name wan0")
	c.egressIP(t, "resync")
	c.command(t, "sh", "-ec", "ip link set wan0 name enp8s0")
	c.egressIP(t, "resync")
	d.requireSeen(t, egress4, egress6)
	d.del(t)
	require.Empty(t, changed(before, c.settings(t)))
}

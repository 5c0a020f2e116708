package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// recordDisasters are those of the record, as calls that were killed leave it.
func recordDisasters() []disaster {
	none := func(paths ...string) func(*testing.T, *cluster) {
		return func(t *testing.T, c *cluster) {
			for _, path := range paths {
				require.NoError(t, os.RemoveAll(filepath.Join(c.recordDir(t), path)))
			}
		}
	}
	const stranger = "../attachments/stranger:eth0.json"
	index := func(t *testing.T, c *cluster) {
		dir := c.recordDir(t)
		shared, err := os.ReadDir(filepath.Join(dir, "shared"))
		require.NoError(t, err)
		for _, object := range shared {
			require.NoError(t, os.Symlink("../"+stranger, filepath.Join(dir, "shared", object.Name(), "stranger:eth0.json")))
		}
		require.NoError(t, os.Mkdir(filepath.Join(dir, "shared", "counted-77"), 0o700))
		require.NoError(t, os.Symlink("../"+stranger, filepath.Join(dir, "shared", "counted-77", "stranger:eth0.json")))
		require.NoError(t, os.Mkdir(filepath.Join(dir, "shared", "link-77"), 0o700)) // killed in between
		require.NoError(t, os.Symlink(stranger, filepath.Join(dir, "pods", "10.244.1.77")))
	}
	taken := func(t *testing.T, c *cluster) {
		path := filepath.Join(c.recordDir(t), "pods", "10.244.1.5")
		require.NoError(t, os.Remove(path))
		require.NoError(t, os.Symlink(stranger, path))
	}
	unfinished := func(paths ...string) func(*testing.T, *cluster) {
		return func(t *testing.T, c *cluster) {
			for _, path := range paths {
				path = strings.Replace(path, "TABLE", c.table(t), 1)
				require.NoError(t, os.WriteFile(filepath.Join(c.recordDir(t), path+".unfinished"), []byte(`{"contain`), 0o600))
			}
		}
	}
	allUnfinished := unfinished("attachments/stranger:eth0.json", "attachments/first:eth0.json", "tables/TABLE-4.json", "tables/9999-6.json",
		"cluster.json", "probe.json", "marked.json", "src_valid_mark")
	return []disaster{
		{name: "record without pods", silent: true, do: none("pods")},
		{name: "record without shared", silent: true, do: none("shared")},
		{name: "record without an index", silent: true, do: none("shared", "pods")},
		{name: "record without tables", silent: true, do: none("tables")},
		{name: "record without tables, no cluster networks configured", silent: true, do: none("tables"), config: derived},
		{name: "record without cluster", silent: true, do: none("cluster.json")},
		{name: "index of what is not recorded", silent: true, do: index},
		{name: "unfinished attachment", silent: true, do: unfinished("attachments/stranger:eth0.json")},
		{name: "unfinished table", silent: true, do: unfinished("tables/TABLE-4.json")},
		{name: "unfinished probe", silent: true, do: unfinished("probe.json")},
		{name: "record damaged in all ways", silent: true, do: inOrderOf(index, taken, allUnfinished, none("tables"))},
		{name: "nothing but the record", do: everythingOfOurs, daemon: masquerade, prepare: strict, leaks: true, wide: true},
		{name: "nothing but attachments", do: inOrderOf(everythingOfOurs, none("shared", "pods", "tables")), daemon: masquerade, prepare: strict, leaks: true, wide: true},
		{
			name: "everything", prepare: strict, leaks: true, wide: true, anew: true,
			do: inOrderOf(everythingOfOurs, index, taken, allUnfinished, second.down, third.down), daemon: inOrderOf(masquerade, second.up, third.up),
		},
		{
			name: "everything, links made anew", prepare: strict, leaks: true, wide: true, anew: true,
			do: inOrderOf(everythingOfOurs, index, taken, allUnfinished, run("ip link del enp7s0", "ip link del enp8s0")), daemon: inOrderOf(masquerade, second.remake, third.remake),
		},
		{
			// An ADD that was killed when it had written its attachment alone, and
			// a DEL that was with only that left.
			name: "all of one pod but its attachment", do: func(t *testing.T, c *cluster) {
				run("ip rule del from 10.244.1.7", "ip route del throw 10.244.1.7 table TABLE", "ip address del "+other4+"/32 dev enp7s0",
					"nft delete element inet egress_ip out4 { 10.244.1.7 }; delete element inet egress_ip back4 { 10.244.1.7 }; delete element inet egress_ip snat4 { 10.244.1.7 . enp7s0 }")(t, c)
				for _, path := range c.recorded(t) {
					if slices.Contains([]string{"four:eth0.json", "10.244.1.7"}, filepath.Base(path)) && filepath.Dir(path) != "/attachments" {
						require.NoError(t, os.Remove(filepath.Join(c.recordDir(t), path)))
						_ = os.Remove(filepath.Join(c.recordDir(t), filepath.Dir(path))) // where it was the last
					}
				}
			},
			leaks: true,
		},
	}
}

// everythingOfOurs deletes all that is in the kernel; only the record stays.
func everythingOfOurs(t *testing.T, c *cluster) {
	deleteRules(5998, 6001)(t, c)
	clearMark(t, c)
	run("ip -FAMILY route flush table TABLE", "nft flush ruleset",
		"ip address flush dev enp7s0 to "+egress4+"/28", "ip -6 address flush dev enp7s0 to "+egress6+"/124")(t, c)
}

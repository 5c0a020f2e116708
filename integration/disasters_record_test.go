package integration

import (
	"os"
	"path/filepath"
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
	// As 04f183a and before kept it, with what is not so.
	index := func(t *testing.T, c *cluster) {
		const stranger = "../attachments/stranger:eth0.json"
		dir := c.recordDir(t)
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "shared", "link-77"), 0o700))
		require.NoError(t, os.Symlink("../"+stranger, filepath.Join(dir, "shared", "link-77", "stranger:eth0.json")))
		require.NoError(t, os.Mkdir(filepath.Join(dir, "pods"), 0o700))
		require.NoError(t, os.Symlink(stranger, filepath.Join(dir, "pods", "10.244.1.5")))
	}
	unreadable := func(t *testing.T, c *cluster) {
		for _, path := range []string{"tables/" + c.table(t) + "-4.json", "tables/" + c.table(t) + "-6.json", "tables/9999-6.json", "cluster.json"} {
			require.NoError(t, os.WriteFile(filepath.Join(c.recordDir(t), path), []byte(`{"table": `), 0o600))
		}
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
		{name: "record without tables", silent: true, do: none("tables")},
		{name: "record without tables, no cluster networks configured", silent: true, do: none("tables"), config: derived},
		{name: "record without cluster", silent: true, do: none("cluster.json")},
		{name: "record with an index of before", silent: true, do: index},
		{name: "tables and networks that cannot be read", silent: true, do: unreadable},
		{name: "tables that cannot be read, no cluster networks configured", silent: true, do: unreadable, config: derived},
		{name: "unfinished attachment", silent: true, do: unfinished("attachments/stranger:eth0.json")},
		{name: "unfinished table", silent: true, do: unfinished("tables/TABLE-4.json")},
		{name: "unfinished probe", silent: true, do: unfinished("probe.json")},
		{name: "record damaged in all ways", silent: true, do: inOrderOf(index, allUnfinished, unreadable)},
		{name: "nothing but the record", do: everythingOfOurs, daemon: masquerade, prepare: strict, leaks: true, wide: true},
		{name: "nothing but attachments", do: inOrderOf(everythingOfOurs, none("copies", "tables")), daemon: masquerade, prepare: strict, leaks: true, wide: true},
		{
			name: "everything", prepare: strict, leaks: true, wide: true, anew: true,
			do: inOrderOf(everythingOfOurs, index, unreadable, allUnfinished, second.down, third.down), daemon: inOrderOf(masquerade, second.up, third.up),
		},
		{
			name: "everything, links made anew", prepare: strict, leaks: true, wide: true, anew: true,
			do: inOrderOf(everythingOfOurs, index, unreadable, allUnfinished, run("ip link del enp7s0", "ip link del enp8s0")), daemon: inOrderOf(masquerade, second.remake, third.remake),
		},
		{
			// An ADD that was killed when it had written its attachment alone, and
			// a DEL that was with only that left.
			name: "all of one pod but its attachment",
			do: run("ip rule del from 10.244.1.7", "ip route del throw 10.244.1.7 table TABLE", "ip address del "+other4+"/32 dev enp7s0",
				"nft delete element inet egress_ip out4 { 10.244.1.7 }; delete element inet egress_ip back4 { 10.244.1.7 }; delete element inet egress_ip snat4 { 10.244.1.7 . enp7s0 }"),
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

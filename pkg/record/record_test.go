package record

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/stretchr/testify/require"
)

func newStore(t testing.TB) Store {
	t.Helper()
	return Store{filepath.Join(t.TempDir(), "4711")}
}

// attachment returns that of one of many pods; a number is a pod.
func attachment(number int) egress.Attachment {
	return egress.Attachment{
		Owner:        egress.Owner{ContainerID: fmt.Sprintf("8f1d2c3b4a5968778695a4b3c2d1e0f00112233445566778899aabbcc-%06d", number), IfName: "eth0"},
		Network:      "net",
		PodNamespace: "payments",
		PodName:      fmt.Sprintf("pod-%d", number),
		Since:        time.Date(2026, 3, 14, 15, 9, 26, 0, time.UTC),
		RulePriority: 6000,
		MarkMask:     0x0f000000,
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/56")},
		Flows: []egress.Flow{{
			Pod: netip.AddrFrom4([4]byte{10, 244, byte(number >> 8), byte(number)}), Address: netip.MustParseAddr("192.168.124.99"),
			Link: "enp7s0", Index: 134, Table: 1134, Mark: 0x01000000, OwnsAddress: true,
		}},
	}
}

// requireRecords compares what is read at once with what is read file by file.
func requireRecords(t *testing.T, s Store, want ...egress.Attachment) *Records {
	t.Helper()
	r, err := s.Records()
	require.NoError(t, err)
	have := make([]egress.Attachment, 0, len(r.files))
	for i := range r.files {
		have = append(have, *r.files[i].attachment())
	}
	slices.SortFunc(have, func(a, b egress.Attachment) int { return a.Owner.Compare(b.Owner) })
	require.Equal(t, want, have)
	for _, a := range want {
		for _, f := range a.Flows {
			require.Contains(t, r.Concerning([]netip.Addr{f.Pod}), a)
		}
	}
	all, unknown, err := s.List()
	require.NoError(t, err)
	require.Equal(t, append([]egress.Attachment{}, want...), all)
	require.Len(t, r.Damaged, unknown.Len())
	return r
}

// TestCopiesDecideNothing: whatever becomes of the copies, attachments are as their files say.
func TestCopiesDecideNothing(t *testing.T) {
	t.Parallel()
	one, two, three := attachment(1), attachment(2), attachment(3)
	for name, tt := range map[string]struct {
		do   func(t *testing.T, s Store)
		want []egress.Attachment
	}{
		"nothing": {func(*testing.T, Store) {}, []egress.Attachment{one, two}},
		"lost": {func(t *testing.T, s Store) {
			require.NoError(t, os.Remove(filepath.Join(s.dir, copies)))
		}, []egress.Attachment{one, two}},
		"empty": {func(t *testing.T, s Store) {
			require.NoError(t, os.Truncate(filepath.Join(s.dir, copies), 0))
		}, []egress.Attachment{one, two}},
		"a half": {func(t *testing.T, s Store) {
			require.NoError(t, os.Truncate(filepath.Join(s.dir, copies), 300))
		}, []egress.Attachment{one, two}},
		"garbage, and then another": {func(t *testing.T, s Store) {
			require.NoError(t, os.WriteFile(filepath.Join(s.dir, copies), []byte("1 2 3 {"), 0o600))
			require.NoError(t, s.Put(three))
		}, []egress.Attachment{one, two, three}},
		"another address in a copy": {func(t *testing.T, s Store) {
			path := filepath.Join(s.dir, copies)
			data, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(string(data), "10.244.0.1", "10.244.0.7")), 0o600))
		}, []egress.Attachment{one, two}},
		"a file removed": {func(t *testing.T, s Store) {
			require.NoError(t, os.Remove(s.path(attachments, fileName(one.Owner))))
		}, []egress.Attachment{two}},
		"one from elsewhere": {func(t *testing.T, s Store) {
			from := newStore(t)
			require.NoError(t, from.Put(three))
			require.NoError(t, os.Rename(from.path(attachments, fileName(three.Owner)), s.path(attachments, fileName(three.Owner))))
		}, []egress.Attachment{one, two, three}},
		"one that has changed": {func(t *testing.T, s Store) {
			changed := two
			changed.Flows = []egress.Flow{two.Flows[0]}
			changed.Flows[0].Address = netip.MustParseAddr("192.168.124.98")
			for range 3 { // inodes are used again
				require.NoError(t, s.Put(changed))
				require.NoError(t, s.Put(two))
			}
		}, []egress.Attachment{one, two}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			require.NoError(t, s.Put(one))
			require.NoError(t, s.Put(two))
			tt.do(t, s)
			r := requireRecords(t, s, tt.want...)
			s.Copy(r)
			r = requireRecords(t, s, tt.want...)
			require.False(t, r.stale)
		})
	}
}

// TestEnding: an attachment whose DEL has begun is recorded until it is removed, and is said to be ending, whichever
// way it is read; an ADD in its place ends that, and a kill of that ADD leaves one of the two.
func TestEnding(t *testing.T) {
	t.Parallel()
	s, one, two := newStore(t), attachment(1), attachment(2)
	require.NoError(t, s.Put(one))
	require.NoError(t, s.Put(two))
	requireOne := func(want egress.Attachment) {
		t.Helper()
		a, ok, err := s.Find(one.Owner)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, want, a)
		s.Copy(requireRecords(t, s, want, two))
	}
	ended := one
	ended.Ending = true
	require.NoError(t, s.End(one.Owner))
	requireOne(ended)
	require.NoError(t, s.End(one.Owner), "DEL comes twice")
	requireOne(ended)

	one.PodName = "another"
	require.NoError(t, s.prepare(filepath.Join(attachments, fileName(one.Owner)), []byte("an ADD that is killed here")))
	requireOne(ended)
	require.NoError(t, s.Put(one))
	requireOne(one)

	require.NoError(t, s.End(one.Owner))
	path := s.path(attachments, fileName(one.Owner)+ending)
	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	_, _, err := s.Find(one.Owner)
	damaged := (*DamagedError)(nil)
	require.ErrorAs(t, err, &damaged)
	require.NoError(t, s.SetAside(damaged))
	_, unknown, err := s.List()
	require.NoError(t, err)
	require.Equal(t, []egress.Owner{one.Owner}, unknown.Owners())
	require.NoError(t, s.Remove(one))
	requireRecords(t, s, two)
	require.NoError(t, s.End(two.Owner))
	require.NoError(t, s.Remove(two))
	require.NoDirExists(t, s.dir)
}

// TestCopiesStaySmall: they do not grow with all that has ever been recorded.
func TestCopiesStaySmall(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for i := range 500 {
		a := attachment(i % 10)
		require.NoError(t, s.Put(a))
		r, err := s.Records()
		require.NoError(t, err)
		s.Copy(r)
		if i%3 == 0 {
			require.NoError(t, s.Remove(a))
		}
	}
	info, err := os.Stat(filepath.Join(s.dir, copies))
	require.NoError(t, err)
	require.Less(t, info.Size(), int64(100<<10))
}

// damage is how a file can be: none of them has an attachment.
var damage = map[string]func(t *testing.T, path string){
	"empty":     func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 0)) },
	"truncated": func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 100)) },
	"garbage": func(t *testing.T, path string) {
		require.NoError(t, os.WriteFile(path, []byte("\x00\x01 garbage"), 0o600))
	},
	"null": func(t *testing.T, path string) { require.NoError(t, os.WriteFile(path, []byte("null\n"), 0o600)) },
	"another type": func(t *testing.T, path string) {
		require.NoError(t, os.WriteFile(path, []byte(`{"containerID":7,"flows":"none"}`), 0o600))
	},
	"no addresses": func(t *testing.T, path string) {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(string(data), `"pod":`, `"pot":`)), 0o600))
	},
	"another's": func(t *testing.T, path string) {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, []byte(strings.Replace(string(data), "8f1d", "9f1d", 1)), 0o600))
	},
	"directory": func(t *testing.T, path string) {
		require.NoError(t, os.Remove(path))
		require.NoError(t, os.MkdirAll(filepath.Join(path, "inside"), 0o700))
	},
}

// TestDamaged: a damaged file is named, set aside, and does not affect others; its
// owner's next record takes its place, and its removal leaves nothing.
func TestDamaged(t *testing.T) {
	t.Parallel()
	for name, do := range damage {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, sound, broken := newStore(t), attachment(1), attachment(2)
			require.NoError(t, s.Put(sound))
			require.NoError(t, s.Put(broken))
			require.NoError(t, os.Remove(filepath.Join(s.dir, copies)))
			do(t, s.path(attachments, fileName(broken.Owner)))
			for range 2 {
				_, _, err := s.Find(broken.Owner)
				var damaged *DamagedError
				require.ErrorAs(t, err, &damaged)
				require.Equal(t, broken.Owner, damaged.Owner())
				require.ErrorContains(t, err, broken.ContainerID)
				r := requireRecords(t, s, sound)
				require.Len(t, r.Damaged, 1)
				require.Equal(t, broken.Owner, r.Damaged[0].Owner())
				require.NoError(t, s.SetAside(damaged))
			}
			left, err := s.Leftovers()
			require.NoError(t, err)
			require.Empty(t, left)

			require.NoError(t, s.Put(broken))
			r := requireRecords(t, s, sound, broken)
			require.Empty(t, r.Damaged)
			do(t, s.path(attachments, fileName(broken.Owner)))
			for _, a := range []egress.Attachment{sound, broken} {
				require.NoError(t, s.Remove(a))
			}
			require.NoDirExists(t, s.dir)
		})
	}
}

// TestUnread: a file that could not be read is neither damaged nor absent. It stays, and the
// next call reads it.
func TestUnread(t *testing.T) {
	t.Parallel()
	for name, target := range map[string]func(path string) string{
		"opening fails": filepath.Base, // a symbolic link to itself
		"reading fails": func(string) string { return "/proc/self/mem" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, sound, hidden := newStore(t), attachment(1), attachment(2)
			table := egress.Table{Table: 1134, Link: "enp7s0", Index: 134, Family: egress.IPv4}
			links := []MarkedLink{{Index: 134, Name: "enp7s0"}}
			probe := Probe{Probe: egress.Probe{Links: []string{"eth0"}}, Follow: true}
			for _, err := range []error{
				s.Put(sound), s.Put(hidden), s.PutTable(table), s.PutCluster(sound.ClusterCIDRs), s.PutProbe(probe),
				s.PutMarkedLinks(links), os.Remove(filepath.Join(s.dir, copies)),
			} {
				require.NoError(t, err)
			}
			paths := []string{"attachments/" + fileName(hidden.Owner), "tables/1134-4.json", clusterFile, probeFile, markedFile}
			for _, path := range paths {
				path = filepath.Join(s.dir, path)
				require.NoError(t, os.Rename(path, path+".kept"))
				require.NoError(t, os.Symlink(target(path), path))
			}

			_, ok, err := s.Find(hidden.Owner)
			var unread *UnreadError
			require.ErrorAs(t, err, &unread)
			require.False(t, ok)
			require.Equal(t, hidden.Owner, unread.Owner())
			_, ok, err = s.Find(attachment(3).Owner)
			require.NoError(t, err)
			require.False(t, ok)
			all, unknown, err := s.List()
			require.NoError(t, err)
			require.Equal(t, []egress.Attachment{sound}, all)
			require.Empty(t, unknown.Damaged)
			require.Equal(t, []egress.Owner{hidden.Owner}, unknown.Owners())
			_, err = s.Records()
			require.ErrorAs(t, err, &unread)
			damaged, err := s.Damaged()
			require.NoError(t, err)
			require.Empty(t, damaged)
			_, _, tableErr := s.Table(1134, egress.IPv4)
			_, tablesErr := s.Tables()
			_, _, clusterErr := s.Cluster()
			_, _, probeErr := s.Probe()
			_, linksErr := s.MarkedLinks()
			for i, err := range []error{tableErr, tablesErr, clusterErr, probeErr, linksErr} {
				require.Error(t, err, i)
				require.NotErrorIs(t, err, ErrDamaged)
				require.NotErrorIs(t, err, os.ErrNotExist)
			}

			for _, path := range paths {
				path = filepath.Join(s.dir, path)
				require.NoError(t, os.Rename(path+".kept", path))
			}
			requireRecords(t, s, sound, hidden)
			have, err := s.MarkedLinks()
			require.NoError(t, err)
			require.Equal(t, links, have)
		})
	}
}

// TestReleased: what released versions wrote is read, and what only they needed is cleared
// away.
func TestReleased(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"04f183a"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			require.NoError(t, os.Mkdir(s.dir, 0o700))
			out, err := exec.Command("tar", "-xzf", "testdata/"+version+".tar.gz", "-C", s.dir).CombinedOutput()
			require.NoError(t, err, "%s", out)
			all, unknown, err := s.List()
			require.NoError(t, err)
			require.Zero(t, unknown.Len())
			require.Len(t, all, 3)
			r := requireRecords(t, s, all...)
			owners := egress.Owners(all)
			for pod, id := range map[string]string{
				"10.244.1.5": "first", "fd00:10:244::5": "first", "10.244.1.6": "sharing", "fd00:10:244::6": "sharing", "10.244.1.9": "far",
			} {
				require.Equal(t, egress.Owner{ContainerID: id, IfName: "eth0"}, owners[netip.MustParseAddr(pod)], pod)
			}
			tables, err := s.Tables()
			require.NoError(t, err)
			require.Len(t, tables, 3)
			networks, ok, err := s.Cluster()
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, all[0].ClusterCIDRs, networks)
			_, ok, err = s.Probe()
			require.NoError(t, err)
			require.True(t, ok)
			damaged, err := s.Damaged()
			require.NoError(t, err)
			require.Empty(t, damaged)

			s.Copy(r)
			for _, dir := range index {
				require.NoDirExists(t, filepath.Join(s.dir, dir))
			}
			for _, a := range all {
				require.NoError(t, s.Put(a))
			}
			requireRecords(t, s, all...)
		})
	}
}

// TestNextVersion: what the next version adds is left out, and what it keeps is read.
func TestNextVersion(t *testing.T) {
	t.Parallel()
	s, a := newStore(t), attachment(1)
	require.NoError(t, s.Put(a))
	table := egress.Table{Table: 1134, Link: "enp7s0", Index: 134, Family: egress.IPv4}
	require.NoError(t, s.PutTable(table))
	require.NoError(t, s.PutCluster(a.ClusterCIDRs))
	probe := Probe{Probe: egress.Probe{Links: []string{"eth0"}}, Follow: true}
	require.NoError(t, s.PutProbe(probe))
	for _, path := range []string{"attachments/" + fileName(a.Owner), "tables/1134-4.json", clusterFile, probeFile} {
		path = filepath.Join(s.dir, path)
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		next := strings.Replace(string(data), `"version":1`, `"version":2,"since4711":{"more":[1,2]}`, 1)
		require.NotEqual(t, string(data), next)
		require.NoError(t, os.WriteFile(path+".next", []byte(next), 0o600))
		require.NoError(t, os.Rename(path+".next", path))
	}
	requireRecords(t, s, a)
	have, ok, err := s.Table(1134, egress.IPv4)
	require.NoError(t, err)
	require.True(t, ok)
	require.True(t, table.Equal(have))
	networks, ok, err := s.Cluster()
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, a.ClusterCIDRs, networks)
	p, ok, err := s.Probe()
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, probe, p)
}

// BenchmarkRecords is what ADD and DEL read.
func BenchmarkRecords(b *testing.B) {
	for _, pods := range []int{1, 1000} {
		s := newStore(b)
		for i := range pods {
			require.NoError(b, s.Put(attachment(i)))
		}
		b.Run(fmt.Sprint(pods), func(b *testing.B) {
			for b.Loop() {
				r, err := s.Records()
				require.NoError(b, err)
				require.Len(b, r.Concerning([]netip.Addr{netip.MustParseAddr("10.244.200.200")}), 1) // one speaks for all
			}
		})
	}
}

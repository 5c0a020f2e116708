package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/egress"
	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/google/nftables"
	"github.com/stretchr/testify/require"
)

// inNamespace runs f with the sockets of a namespace of its own.
func inNamespace(t *testing.T, f func(k *Kernel)) {
	t.Helper()
	nettest.New(t, "node").Do(t, func() {
		k := Open()
		defer k.Close()
		f(k)
	})
}

// TestInvariant8BatchIsWhole: what was queued before a read failed is never written, neither by
// that transaction nor by the next.
func TestInvariant8BatchIsWhole(t *testing.T) {
	t.Parallel()
	inNamespace(t, func(k *Kernel) {
		failed := errors.New("no buffer space")
		err := k.transaction(func(tx *nftables.Conn) error {
			tx.AddTable(egressTable)
			return failed
		})
		require.ErrorIs(t, err, failed)
		require.NoError(t, k.transaction(func(tx *nftables.Conn) error {
			tx.AddTable(probeTable)
			return nil
		}))
		exists, err := k.hasTable(egressTable)
		require.NoError(t, err)
		require.False(t, exists)
		exists, err = k.hasTable(probeTable)
		require.NoError(t, err)
		require.True(t, exists)
	})
}

// desired is what many pods on one link need.
func desired(pods int) egress.State {
	var attachments []egress.Attachment
	pod := netip.MustParseAddr("10.244.0.1")
	for range pods {
		attachments = append(attachments, egress.Attachment{
			Owner: egress.Owner{ContainerID: pod.String()}, RulePriority: 6000, MarkMask: 0x0f000000,
			Flows: []egress.Flow{{Pod: pod, Address: netip.MustParseAddr("192.168.124.99"), Link: "enp7s0", Index: 3, Table: 1003, Mark: 0x01000000, In: 7}},
		})
		pod = pod.Next()
	}
	return egress.Desired(attachments, egress.Facts{})
}

// TestReadsAreConsistent: while somebody else writes to nf_tables all the time, what is
// read is what there is. The kernel goes on with a dump of chains by their number, so
// those that go meanwhile, before ours, hide ours.
func TestReadsAreConsistent(t *testing.T) {
	t.Parallel()
	const kept, changing = 200, 1000
	node := nettest.New(t, "node")
	node.Do(t, func() {
		k := Open()
		defer k.Close()
		write := func(f func(tx *nftables.Conn, chain *nftables.Chain), from, to int) {
			require.NoError(t, k.transaction(func(tx *nftables.Conn) error {
				other := tx.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "other"})
				for i := from; i < to; i++ {
					f(tx, &nftables.Chain{Table: other, Name: fmt.Sprintf("chain%d", i)})
				}
				return nil
			}))
		}
		add := func(tx *nftables.Conn, chain *nftables.Chain) { tx.AddChain(chain) }
		write(add, 0, kept+changing)
		wanted := desired(10)
		require.NoError(t, k.rewriteTable(Change{Missing: wanted, Want: wanted}))

		var reads atomic.Int32
		read := func() {
			defer reads.Add(1)
			reader := Open() // each has a deadline for all that it reads
			defer reader.Close()
			have, err := reader.Classification(wanted.Chains)
			require.NoError(t, err)
			require.ElementsMatch(t, wanted.Elements, have.Elements)
			require.ElementsMatch(t, wanted.Chains, have.Chains)
		}
		began := time.Now()
		read()
		usual := 2 * time.Since(began) // for most attempts to read not to be disturbed
		stop := make(chan struct{})
		var writes atomic.Int32
		var writing sync.WaitGroup
		defer func() { close(stop); writing.Wait() }()
		writing.Go(func() {
			node.Do(t, func() {
				pause, seen := usual, int32(0)
				for present := true; ; present = !present {
					select {
					case <-stop:
						return
					case <-time.After(pause):
					}
					if now := reads.Load(); now != seen {
						pause, seen = usual, now
					} else {
						pause *= 2 // somebody else has the processors
					}
					if present {
						write((*nftables.Conn).DelChain, 0, changing)
					} else {
						write(add, 0, changing)
					}
					writes.Add(1)
				}
			})
		})
		for began := time.Now(); writes.Load() < 60 && time.Since(began) < 10*time.Second; {
			read()
		}
	})
}

func TestIntervals(t *testing.T) {
	key := func(s string) []byte { return netip.MustParseAddr(s).AsSlice() }
	for name, tt := range map[string]struct {
		prefixes []string
		want     []nftables.SetElement
	}{
		"none": {nil, nil},
		"one":  {[]string{"10.244.0.0/16"}, []nftables.SetElement{{Key: key("10.244.0.0")}, {Key: key("10.245.0.0"), IntervalEnd: true}}},
		"one inside another": {[]string{"10.244.1.0/24", "10.0.0.0/8", "10.244.0.0/16"}, []nftables.SetElement{
			{Key: key("10.0.0.0")}, {Key: key("11.0.0.0"), IntervalEnd: true},
		}},
		"side by side": {[]string{"10.1.0.0/16", "10.0.0.0/16"}, []nftables.SetElement{
			{Key: key("10.0.0.0")}, {Key: key("10.1.0.0"), IntervalEnd: true},
			{Key: key("10.1.0.0")}, {Key: key("10.2.0.0"), IntervalEnd: true},
		}},
		"up to the last address": {[]string{"224.0.0.0/3"}, []nftables.SetElement{{Key: key("224.0.0.0"), IntervalOpen: true}}},
		"IPv6":                   {[]string{"fd00:10::/32"}, []nftables.SetElement{{Key: key("fd00:10::")}, {Key: key("fd00:11::"), IntervalEnd: true}}},
	} {
		t.Run(name, func(t *testing.T) {
			var prefixes []netip.Prefix
			for _, p := range tt.prefixes {
				prefixes = append(prefixes, netip.MustParsePrefix(p))
			}
			elements := egress.ClusterElements(prefixes)
			require.Equal(t, tt.want, intervals(elements))
			if len(elements) > 0 {
				require.Equal(t, elements, fromCluster(elements[0].Set, slices.Clone(tt.want)))
			}
		})
	}
}

// What a set is said to hold is what it was made from.
func TestFromCluster(t *testing.T) {
	t.Parallel()
	var prefixes []netip.Prefix
	for _, p := range []string{"10.1.0.0/16", "10.0.0.0/16", "10.4.0.0/16", "224.0.0.0/3"} {
		prefixes = append(prefixes, netip.MustParsePrefix(p))
	}
	made := egress.ClusterElements(prefixes)
	backward := slices.Clone(intervals(made))
	slices.Reverse(backward)
	for _, in := range [][]nftables.SetElement{intervals(made), backward} {
		require.Equal(t, made, fromCluster("cluster4", in))
	}
	key := func(s string) []byte { return netip.MustParseAddr(s).AsSlice() }
	require.Empty(t, fromCluster("cluster4", nil))
	// nft itself begins with an end, and knows ranges that are no network.
	require.Empty(t, fromCluster("cluster4", []nftables.SetElement{{Key: key("0.0.0.0"), IntervalEnd: true}}))
	require.Equal(t, []egress.Element{{Set: "cluster4", Pod: netip.MustParseAddr("10.0.0.1")}},
		fromCluster("cluster4", []nftables.SetElement{{Key: key("10.0.0.1")}, {Key: key("10.0.0.9"), IntervalEnd: true}}))
}

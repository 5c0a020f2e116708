package main

import (
	"bytes"
	"encoding/json"
	"math"
	"net/netip"
	"regexp"
	"strconv"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/nettest"
	"github.com/stretchr/testify/require"
)

// TestBench makes every experiment, shortly: of each kind of packets each one
// reaches the sink from where it should, or the run fails.
func TestBench(t *testing.T) {
	t.Parallel()
	const pods = 5
	var out bytes.Buffer
	var r struct {
		Kernel  string
		Results []result
	}
	want := 0
	for _, e := range experiments {
		if e.calls != nil {
			continue // see TestCalls
		}
		out.Reset()
		require.NoError(t, run(&out, []string{"-only", e.name, "-o", "json", "-pods", strconv.Itoa(pods), "-rounds", "3", "-builds", "2"}))
		before := r.Results
		r.Results = nil
		require.NoError(t, json.Unmarshal(out.Bytes(), &r))
		require.NotEmpty(t, r.Kernel)
		r.Results = append(before, r.Results...)
		quantities := 2
		if e.streams {
			quantities = 4
		}
		want += len(e.systems) * len(e.packets) * len(e.families) * quantities
	}
	require.Len(t, r.Results, want)
	for _, result := range r.Results {
		require.Equal(t, pods, result.Pods)
		for _, s := range []spread{result.Value, result.Ratio} {
			require.Greater(t, s.Low, 0.0, "%+v", result)
			require.LessOrEqual(t, s.Low, s.Median, "%+v", result)
			require.LessOrEqual(t, s.Median, s.High, "%+v", result)
			require.False(t, math.IsInf(s.High, 0), "%+v", result)
		}
	}
	out.Reset()
	require.NoError(t, printTables(&out, r.Results))
	require.Regexp(t, `(?m)^peers: a plain pod's packet, IPv6, new connection; ns\nannotated pods +5\nno egress system +\d+ \(\+0\.0% ±0\.0\)\n`, out.String())
}

// TestCounters: each variant counts the annotated pods' packets, and nothing else.
func TestCounters(t *testing.T) {
	t.Parallel()
	const pods = 5
	require.NoError(t, within(t.Context(), func(s *scope) {
		for i, n := range (experiment{systems: countersSystems}).build(s, pods) {
			for _, f := range families {
				for _, p := range []packets{annotatedPackets, plainPackets} {
					expect := byPrimary(f)
					if p.ours {
						expect = byEgress(f)
					}
					// Two packets a pod, and an answer.
					newLane(s, n, traffic{family: f, pods: p.sources(f, pods)}, expect).establish(s)
				}
			}
			table := n.run(s, "", "nft", "list", "table", "inet", "egress_ip")
			counters := regexp.MustCompile(`\S+ \. "`+podsLink+`" counter packets 2 `).FindAllString(table, -1)
			if countersSystems[i].label != "counters: true" {
				require.Empty(t, counters)
				continue
			}
			require.Len(t, counters, pods*len(families), table)
		}
	}))
}

// TestEstablish: packets that leave by another link or with another source than
// they are to are found out.
func TestEstablish(t *testing.T) {
	t.Parallel()
	f := families[0]
	for want, expect := range map[string]arrival{
		"0 packets of IPv4 left by enp7s0 instead of 1": byEgress(f),
		"left by eth0 with the source 192.0.2.10:2000":  {nettest.PrimaryLink, f.egress},
	} {
		err := within(t.Context(), func(s *scope) {
			n := newNode(s, nettest.New(s, "wire"), 0, "node", 1, 0)
			newLane(s, n, traffic{family: f, pods: f.annotated(1)}, expect).establish(s)
		})
		require.ErrorContains(t, err, want)
	}
}

// TestStreamSource: a stream that the server sees come from elsewhere than it is to is found out.
func TestStreamSource(t *testing.T) {
	t.Parallel()
	f := families[0]
	pod := f.pod(1)
	err := within(t.Context(), func(s *scope) {
		n := experiment{systems: peers}.newStreamNode(s, 0, 1)
		n.newStream(s, f, pod, netip.MustParseAddr(f.primary))
		n.newStream(s, f, pod, netip.MustParseAddr(f.egress))
	})
	require.ErrorContains(t, err, "a stream of 10.244.0.1 has the source 192.0.2.10 instead of 192.168.124.99")
}

func TestBadFlags(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-only", "tea"}, "-only tea: there are peers, strict, flat, streams, price, guard, counters, calls, growth"},
		{[]string{"-o", "xml"}, "-o xml: there are text and json"},
		{[]string{"-rounds", "0"}, "-rounds 0, -builds 3: one at least of each"},
		{[]string{"-pods", "1,x"}, `-pods 1,x: "x" is no number from 1 to 20000`},
		{[]string{"-pods", "20001"}, `-pods 20001: "20001" is no number from 1 to 20000`},
		{[]string{"peers"}, `"peers": there are only flags; see -h`},
	} {
		require.EqualError(t, run(&bytes.Buffer{}, c.args), c.want)
	}
}

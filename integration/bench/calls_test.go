package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCalls makes calls of every plugin that is built here, and compares them.
func TestCalls(t *testing.T) {
	t.Parallel()
	var report callReport
	require.NoError(t, within(t.Context(), func(s *scope) {
		dir := buildPlugins(s)
		systems := callSystems(s, dir, false)
		report.Calls = callRounds(s, "calls", dir, systems, 2)
		compareCalls(report.Calls)
		peaks(s, dir, systems, report.Calls)
		report.Verdicts = callVerdicts(report.Calls)
	}))
	for _, r := range report.Calls {
		require.Len(t, r.cpu, 2, "%+v", r)
		require.Greater(t, r.CPU.Median, 0.5, "milliseconds: a Go program does not start faster: %+v", r)
		require.Greater(t, r.Wall.Median, 0.5, "%+v", r)
		require.Greater(t, r.Ratio.Median, 0.0, "%+v", r)
		// What a Go program has at least, and far less than this test has.
		require.Greater(t, r.PeakKiB, 1024.0, "%+v", r)
		require.Less(t, r.PeakKiB, 10*1024.0, "%+v", r)
	}
	require.GreaterOrEqual(t, find(report.Calls, egressLabel, addFirst).Wall.Median, 200.0, "the link is asked who has the address")
	require.InDelta(t, 1, find(report.Calls, noopLabel, addPlugin).Ratio.Median, 1e-9)
	var out bytes.Buffer
	require.NoError(t, printCalls(&out, report))
	require.Regexp(t, `(?m)^egress-ip +ADD, annotated +\d+\.\d\d +[^ ]+ +\d+\.\d\d +\d+\.\d +x\d+\.\d\d `, out.String())
	require.Regexp(t, `(?m)^STATUS: CPU, to the no-op plugin's +1\.50 +\d+\.\d\d  (met|missed)$`, out.String())
}

// TestGrowth: nodes have as much as they are to have, before calls and after.
func TestGrowth(t *testing.T) {
	t.Parallel()
	const pods, routes, connections = 300, 70_000, 300 // more than one byte of an address
	require.NoError(t, within(t.Context(), func(s *scope) {
		dir := buildPlugins(s)
		l := laden{"much", pods, routes, connections}
		system := l.build(s, dir)
		results := callRounds(s, growthName, dir, []callSystem{system}, 1)
		require.Len(t, results, len([]string{addAnnotated, checkAnnotated, delAnnotated, addPlain, delPlain}))
		n := node{Namespace: system.lab.Node, label: l.label}
		require.Equal(t, pods, strings.Count(n.run(s, "", "ip", "rule"), "6000:"))
		require.Equal(t, routes, strings.Count(n.run(s, "", "ip", "route"), ".0/24 via 192.0.2.1 "))
		require.Equal(t, connections, strings.Count(n.run(s, "", "conntrack", "-L"), "src=10.245."))
		require.Equal(t, pods, strings.Count(n.run(s, "", "nft", "list", "map", "inet", "egress_ip", "out4"), "comment"))
		for _, r := range rates(s, dir, 1) {
			require.Greater(t, r.PerSecond.Median, 1.0, "%+v", r)
		}
	}))
}

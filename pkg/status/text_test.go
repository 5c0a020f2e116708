package status_test

import (
	"strings"
	"testing"
	"time"

	"github.com/egress-ip/egress-ip/pkg/status"
	"github.com/stretchr/testify/require"
)

func TestText(t *testing.T) {
	t.Parallel()
	requireGolden(t, "whole.txt", text(t, whole()))
	requireGolden(t, "broken.txt", text(t, broken()))
	requireGolden(t, "closed.txt", text(t, closed()))
}

// headline is the first line of the text.
func headline(t *testing.T, s status.Status) string {
	t.Helper()
	line, _, _ := strings.Cut(string(text(t, status.New(s))), "\n")
	return line
}

func TestHeadline(t *testing.T) {
	t.Parallel()
	require.Equal(t, "healthy: nothing is recorded; no pod has egress here, and there is no probe table\n", string(text(t, status.New(status.Status{}))))
	require.Equal(t, "healthy: no pod is recorded", headline(t, status.Status{Probe: probe()}))
	require.Equal(t, "NOT healthy: no pod is recorded, 2 unrecorded; run `egress-ip resync`",
		headline(t, status.Status{Unrecorded: []string{"rule", "chain"}}))
	require.Equal(t, "NOT healthy: no pod is recorded, 1 not readable",
		headline(t, status.Status{Unread: []string{"table inet egress_ip: operation not permitted"}}))

	many := whole()
	second := enp7s0()
	second.Name = "enp8s0"
	many.Links = append(many.Links, second)
	many.Pods = append(many.Pods, jail())
	require.Equal(t, "healthy: 2 pods on 2 links", headline(t, many))
	many.Missing = []string{"sysctl"}
	require.Equal(t, "NOT healthy: 2 pods on 2 links, 1 missing; run `egress-ip resync`", headline(t, many))
}

// TestNames: what comes from outside breaks neither the table nor the terminal.
func TestNames(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"tab\tbed", "two\nlines", "\x1b[31mred", "not\xffUTF-8"} {
		pod := shop("10.244.1.5", "192.168.124.99")
		pod.Name = bad
		pod.Missing = []string{"rule of " + bad}
		link := enp7s0()
		link.Name = bad
		out := string(text(t, status.New(status.Status{Links: []status.Link{link}, Pods: []status.Pod{pod}, Missing: []string{bad}})))
		require.NotContains(t, out, bad)
		require.Len(t, strings.Split(out, "\n"), len([]string{
			"NOT healthy", "", "LINK", "link", "", "POD", "pod", "  missing: rule", "", "missing:", "  rule", "",
		}))
	}
	require.Contains(t, string(text(t, status.New(status.Status{Missing: []string{"Straße"}}))), "\n  Straße\n")
}

// TestTitle: what a pod is called where the runtime gives only a part of its name.
func TestTitle(t *testing.T) {
	t.Parallel()
	pod := shop("10.244.1.5", "192.168.124.99")
	pod.Namespace = ""
	require.Contains(t, string(text(t, status.New(status.Status{Pods: []status.Pod{pod}}))), "\nshop-7d9f8 ")
	pod.Name, pod.ContainerID = "", "short"
	require.Contains(t, string(text(t, status.New(status.Status{Pods: []status.Pod{pod}}))), "\nshort ")
}

func TestAge(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for age, want := range map[time.Duration]string{
		-time.Hour:                            "0s",
		0:                                     "0s",
		59*time.Second + 999*time.Millisecond: "59s",
		time.Minute:                           "1m",
		59*time.Minute + 59*time.Second:       "59m",
		time.Hour:                             "1h0m",
		day - time.Second:                     "23h59m",
		day:                                   "1d0h",
		400*day + 5*time.Hour:                 "400d5h",
	} {
		pod := shop("10.244.1.5", "192.168.124.99")
		pod.Since = now.Add(-age).In(time.FixedZone("elsewhere", 3600))
		out := string(text(t, status.New(status.Status{Pods: []status.Pod{pod}})))
		require.True(t, strings.HasSuffix(out, "  "+now.Add(-age).Format(time.RFC3339)+"  "+want+"\n"), "%s: %s", want, out)
	}
}

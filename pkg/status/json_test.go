package status_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/egress-ip/egress-ip/pkg/status"
	"github.com/stretchr/testify/require"
)

func TestJSON(t *testing.T) {
	t.Parallel()
	requireGolden(t, "broken.json", jsonOf(t, broken()))
	requireGolden(t, "nothing.json", jsonOf(t, status.New(status.Status{})))
}

// TestJSONReads: a program that is written in Go can read it back.
func TestJSONReads(t *testing.T) {
	t.Parallel()
	for _, s := range []status.Status{whole(), broken(), closed()} {
		var back status.Status
		require.NoError(t, json.Unmarshal(jsonOf(t, s), &back))
		require.Equal(t, s, back)
	}
}

// TestJSONLists: no list is null, of a value that did not pass through New either.
func TestJSONLists(t *testing.T) {
	t.Parallel()
	bare := status.Status{Links: []status.Link{{}}, Pods: []status.Pod{{Sent: &status.Counter{}}}, Probe: &status.Probe{}}
	require.NotContains(t, string(jsonOf(t, bare)), "null")
	require.Nil(t, bare.Links[0].Missing, "writing has changed the value")
	bare.Probe, bare.Pods[0].Sent = nil, nil
	require.Equal(t, 2, strings.Count(string(jsonOf(t, bare)), "null"))
}

// TestJSONNames: names arrive as they are.
func TestJSONNames(t *testing.T) {
	t.Parallel()
	pod := shop("10.244.1.5", "192.168.124.99")
	pod.Name = "a<b>&c\"\\\n"
	out := jsonOf(t, status.New(status.Status{Pods: []status.Pod{pod}}))
	require.Contains(t, string(out), `"name": "a<b>&c\"\\\n"`)
}

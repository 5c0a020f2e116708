package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestOutcomes: a target is judged by the ratios within rounds, of the
// experiment, the packets and the number of pods that it names, and by no others.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	measured := func(system string, pods int, what string, ns ...float64) result {
		return result{
			Experiment: "peers", System: system, Pods: pods, Packet: plainPackets.name, Family: "IPv4", What: what,
			values: [][]float64{ns},
		}
	}
	results := []result{
		measured(bare, 110, connection(false), 1000, 1000, 1000),
		measured(ours, 110, connection(false), 9000, 9000, 9000),
		measured(ours, 250, connection(true), 9000, 9000, 9000),
		measured(bare, 250, connection(false), 1000, 4000, 2000),
		measured(ours, 250, connection(false), 1100, 4400, 3000), // 1.1, 1.1, 1.5
	}
	all := outcomes(results)
	require.Len(t, all, 1)
	require.InDelta(t, 1.1, all[0].Ratio.Median, 1e-9)
	require.True(t, all[0].Met)
	results[4].values[0][0] = 1300
	all = outcomes(results)
	require.InDelta(t, 1.3, all[0].Ratio.Median, 1e-9)
	require.False(t, all[0].Met)
	var out bytes.Buffer
	require.NoError(t, printOutcomes(&out, all))
	require.Regexp(t, `a plain pod's, IPv4, established connection +250 +no egress system +1\.300 .* 1\.20 +MISSED`, out.String())
}

func TestValueText(t *testing.T) {
	t.Parallel()
	require.Equal(t, "1.04", valueText(1.0444))
	require.Equal(t, "0.12", valueText(0.123))
	require.Equal(t, "52.6", valueText(52.594))
	require.Equal(t, "43838", valueText(43838.4))
}

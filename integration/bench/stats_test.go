package main

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestQuantile(t *testing.T) {
	t.Parallel()
	values := []float64{30, 10, 20, 50, 40}
	require.Equal(t, 30.0, quantile(values, 0.5))
	require.Equal(t, 20.0, quantile(values, 0.25))
	require.Equal(t, 25.0, quantile([]float64{40, 10, 20, 30}, 0.5))
	require.Equal(t, 7.0, quantile([]float64{7}, 0.9))
	require.Equal(t, []float64{30, 10, 20, 50, 40}, values, "rounds stay in their order")
}

func TestSpreadOf(t *testing.T) {
	t.Parallel()
	require.Equal(t, spread{30, 20, 40}, spreadOf([][]float64{{10, 20, 30, 40, 50}}), "one build: quartiles of its rounds")
	require.Equal(t, spread{3, 2, 9}, spreadOf([][]float64{{1, 2, 100}, {3, 3, 3}, {8, 9, 10}}), "several: their medians")
}

// TestRatios: of a machine that turns slower, a ratio shows nothing.
func TestRatios(t *testing.T) {
	t.Parallel()
	base := mediansOf([][]float64{{10, 200, 40}, {10, 20, 40}, {1, 20, 400}})
	require.Equal(t, []float64{10, 20, 40}, base)
	require.Equal(t, []float64{1.5, 1.5, 1.5}, ratios([]float64{15, 30, 60}, base))
}

func TestEvenly(t *testing.T) {
	t.Parallel()
	for _, f := range families {
		all := f.annotated(5000)
		some := evenly(all)
		require.Len(t, some, mostSources)
		require.Equal(t, all[49], some[0])
		require.Equal(t, all[4999], some[mostSources-1])
		require.Equal(t, []netip.Addr{f.pod(1), f.pod(2)}, evenly(f.annotated(2)))
	}
}

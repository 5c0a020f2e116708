package main

import "slices"

// spread is a median and how far from it values are.
type spread struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
}

// quantile of values, of which there must be one: 0.5 is the median.
func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	below := int(at)
	above := min(below+1, len(sorted)-1)
	return sorted[below] + (at-float64(below))*(sorted[above]-sorted[below])
}

func median(values []float64) float64 { return quantile(values, 0.5) }

// spreadOf has the median of the builds' medians, and the lowest and the highest
// of them; with one build, the quartiles of its rounds. Each build has its rounds.
//
// Rounds of one build agree better than builds do: where a node's objects lie in
// memory, and in which bucket of a hash table, stays as it is for a build.
func spreadOf(builds [][]float64) spread {
	if len(builds) == 1 {
		return spread{median(builds[0]), quantile(builds[0], 0.25), quantile(builds[0], 0.75)}
	}
	medians := make([]float64, len(builds))
	for i, rounds := range builds {
		medians[i] = median(rounds)
	}
	return spread{median(medians), slices.Min(medians), slices.Max(medians)}
}

// ratios divides measurements by those of the same round.
func ratios(values, base []float64) []float64 {
	r := make([]float64, len(values))
	for i, v := range values {
		r[i] = v / base[i]
	}
	return r
}

// mediansOf returns the median of what several have measured in each round.
func mediansOf(several [][]float64) []float64 {
	medians := make([]float64, len(several[0]))
	for round := range medians {
		var values []float64
		for _, rounds := range several {
			values = append(values, rounds[round])
		}
		medians[round] = median(values)
	}
	return medians
}

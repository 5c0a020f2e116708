package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// printTables prints a table for each kind of packets: a row a system, a column
// a number of pods.
func printTables(w io.Writer, results []result) error {
	kind := func(r result) string {
		return fmt.Sprintf("%s: %s packet, %s, %s; %s", r.Experiment, r.Packet, r.Family, r.What, r.Unit)
	}
	kinds, systems, sizes := distinct(results, kind), distinct(results, func(r result) string { return r.System }), distinct(results, func(r result) int { return r.Pods })
	for _, k := range kinds {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintf(t, "\n%s\n", k)
		fmt.Fprint(t, "annotated pods")
		for _, pods := range sizes {
			fmt.Fprintf(t, "\t%d", pods)
		}
		fmt.Fprintln(t)
		for _, system := range systems {
			row := []string{system}
			for _, pods := range sizes {
				i := slices.IndexFunc(results, func(r result) bool { return kind(r) == k && r.System == system && r.Pods == pods })
				if i < 0 {
					row = append(row, "")
					continue
				}
				row = append(row, fmt.Sprintf("%s (%s)", valueText(results[i].Value.Median), ratioText(results[i].Ratio)))
			}
			if len(strings.Join(row[1:], "")) > 0 {
				fmt.Fprintln(t, strings.Join(row, "\t"))
			}
		}
		if err := t.Flush(); err != nil {
			return fmt.Errorf("print the tables: %w", err)
		}
	}
	return nil
}

// valueText has three digits at least.
func valueText(v float64) string {
	return strconv.FormatFloat(v, 'f', max(0, 2-int(math.Log10(max(v, 1)))), 64)
}

// ratioText is a ratio and how far it is from the low or the high one: in percent
// near 1, as a factor beyond.
func ratioText(r spread) string {
	off := max(r.High-r.Median, r.Median-r.Low)
	if r.Median > 2 {
		return fmt.Sprintf("x%.1f ±%.1f", r.Median, off)
	}
	return fmt.Sprintf("%+.1f%% ±%.1f", (r.Median-1)*100, off*100)
}

// distinct returns what f gives for the results, each value once, in their order.
func distinct[V comparable](results []result, f func(result) V) []V {
	var values []V
	for _, r := range results {
		if v := f(r); !slices.Contains(values, v) {
			values = append(values, v)
		}
	}
	return values
}

package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// verdict is one of the limits that egress-ip is to keep.
type verdict struct {
	What     string  `json:"what"`
	Limit    float64 `json:"limit"`
	Measured float64 `json:"measured"`
	Met      bool    `json:"met"`
}

func newVerdict(what string, limit, measured float64) verdict {
	return verdict{what, limit, measured, measured <= limit}
}

// callVerdicts compares with the no-op plugin, and with portmap.
func callVerdicts(results []callResult) []verdict {
	var verdicts []verdict
	for _, c := range []struct {
		call  string
		limit float64
	}{
		{addAnnotated, 1.8}, {delAnnotated, 1.8}, {addPlain, 1.2}, {delPlain, 1.2},
		{checkAnnotated, 1.5}, {checkPlain, 1.5}, {statusPlugin, 1.5},
	} {
		r := find(results, egressLabel, c.call)
		verdicts = append(verdicts, newVerdict(c.call+": CPU, to the no-op plugin's", c.limit, r.Ratio.Median))
	}
	for _, call := range []string{addAnnotated, delAnnotated} {
		r, base := find(results, egressLabel, call), find(results, portmapLabel, noopCall(call))
		verdicts = append(verdicts, newVerdict(call+": CPU, to portmap's", 0.25, median(ratios(r.cpu, base.cpu))))
	}
	return append(verdicts, newVerdict("peak memory of any call, to the no-op plugin's", 1.5, most(results, egressLabel)/most(results, noopLabel)))
}

func most(results []callResult, system string) float64 {
	kib := 0.0
	for _, r := range results {
		if r.System == system {
			kib = max(kib, r.PeakKiB)
		}
	}
	return kib
}

// printCalls prints a row a call, and the verdicts.
func printCalls(w io.Writer, r callReport) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nA call of a plugin: CPU of user and kernel, with the programs that it runs; medians of %d rounds.\n", len(r.Calls[0].cpu))
	for _, experiment := range distinctCalls(r.Calls, func(r callResult) string { return r.Experiment }) {
		base := "the no-op plugin's"
		if experiment == growthName {
			base = "that with " + baseNode
		}
		fmt.Fprintf(t, "\n%s\tcall\tCPU, ms\thalf is in\twall, ms\tpeak, MiB\tCPU, to %s\n", experiment, base)
		for _, c := range r.Calls {
			if c.Experiment != experiment {
				continue
			}
			fmt.Fprintf(t, "%s\t%s\t%.2f\t%.2f-%.2f\t%.2f\t%s\tx%.2f (%.2f-%.2f)\n", c.System, c.Call,
				c.CPU.Median, c.CPU.Low, c.CPU.High, c.Wall.Median, mebibytes(c.PeakKiB), c.Ratio.Median, c.Ratio.Low, c.Ratio.High)
		}
	}
	if len(r.Rates) > 0 {
		fmt.Fprintf(t, "\n%d at once\tcall\tcalls a second\n", atOnce)
		for _, rate := range r.Rates {
			fmt.Fprintf(t, "%s\t%s\t%.0f\n", rate.System, rate.Call, rate.PerSecond.Median)
		}
	}
	fmt.Fprint(t, "\nlimit\tat most\tmeasured\n")
	for _, v := range r.Verdicts {
		met := "met"
		if !v.Met {
			met = "missed"
		}
		fmt.Fprintf(t, "%s\t%.2f\t%.2f\t%s\n", v.What, v.Limit, v.Measured, met)
	}
	for _, why := range r.LeftOut {
		fmt.Fprintf(t, "\nleft out: %s\n", why)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print the calls: %w", err)
	}
	return nil
}

func mebibytes(kib float64) string {
	if kib == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f", kib/1024)
}

func distinctCalls(results []callResult, f func(callResult) string) []string {
	var values []string
	for _, r := range results {
		if v := f(r); !slices.Contains(values, v) {
			values = append(values, v)
		}
	}
	return values
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sys/unix"
)

// report is the output as JSON.
type report struct {
	Kernel string `json:"kernel"`
	options
	Results []result     `json:"results"`
	Targets []outcome    `json:"targets"`
	Calls   []callReport `json:"calls,omitempty"`
}

func writeJSON(ctx context.Context, w io.Writer, chosen []experiment, o options) error {
	kernel, err := kernelRelease()
	if err != nil {
		return err
	}
	r := report{Kernel: kernel, options: o}
	for _, e := range chosen {
		if e.calls != nil {
			calls, err := e.calls(ctx, o)
			if err != nil {
				return err
			}
			r.Calls = append(r.Calls, calls)
			continue
		}
		results, err := e.run(ctx, o)
		if err != nil {
			return err
		}
		r.Results = append(r.Results, results...)
	}
	r.Targets = outcomes(r.Results)
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

func writeText(ctx context.Context, w io.Writer, chosen []experiment, o options) error {
	kernel, err := kernelRelease()
	if err != nil {
		return err
	}
	of := "quartiles of the rounds"
	if o.Builds > 1 {
		of = "lowest and highest build"
	}
	if slices.ContainsFunc(chosen, func(e experiment) bool { return e.calls == nil }) {
		fmt.Fprintf(w, "Forwarding one small packet on one core, in ns, and against the first row. Linux %s;\n"+
			"median of %d builds of %d rounds each, ± up to the %s.\n", kernel, o.Builds, o.Rounds, of)
	}
	var all []result
	for _, e := range chosen {
		if e.calls != nil {
			calls, err := e.calls(ctx, o)
			if err != nil {
				return err
			}
			if err := printCalls(w, calls); err != nil {
				return err
			}
			continue
		}
		results, err := e.run(ctx, o)
		if err != nil {
			return err
		}
		if err := printTables(w, results); err != nil {
			return err
		}
		all = append(all, results...)
	}
	return printOutcomes(w, outcomes(all))
}

func kernelRelease() (string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", fmt.Errorf("kernel release: %w", err)
	}
	return unix.ByteSliceToString(name.Release[:]), nil
}

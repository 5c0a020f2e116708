package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// callResult is what one call costs on one node.
type callResult struct {
	Experiment string  `json:"experiment"`
	System     string  `json:"system"`
	Call       string  `json:"call"`
	CPU        spread  `json:"cpuMilliseconds"`
	Wall       spread  `json:"wallMilliseconds"`
	PeakKiB    float64 `json:"peakKiB,omitempty"` // of the plugin's own process
	Ratio      spread  `json:"ratio"`             // of CPU, to the base

	cpu, wall []float64 // round by round
}

// callReport is what an experiment about calls finds out.
type callReport struct {
	Calls    []callResult `json:"calls"`
	Rates    []rate       `json:"rates,omitempty"`
	Verdicts []verdict    `json:"verdicts"`
	LeftOut  []string     `json:"leftOut,omitempty"`
}

// memoryRounds is how often each call's memory is looked at.
const memoryRounds = 5

// calls compares the calls of plugins.
func calls(ctx context.Context, o options) (callReport, error) {
	var report callReport
	err := within(ctx, func(s *scope) {
		dir := buildPlugins(s)
		awsMissing := buildAWS(s, dir)
		if awsMissing != nil {
			report.LeftOut = append(report.LeftOut, "egress-cni of AWS: "+awsMissing.Error())
		}
		systems := callSystems(s, dir, awsMissing == nil)
		s.Logf("calls: %d rounds", o.Rounds)
		report.Calls = callRounds(s, "calls", dir, systems, o.Rounds)
		compareCalls(report.Calls)
		peaks(s, dir, systems, report.Calls)
		report.Verdicts = callVerdicts(report.Calls)
	})
	return report, err
}

// before each call another plugin is called, as a main plugin calls its IPAM, so
// that none finds the caches of the processor full of its own program; and the
// kernel gets time to finish what the last one has left to it.
var before = call{verb: "VERSION", stdin: `{"cniVersion":"1.1.0"}`}

// callRounds makes all calls of all systems in each round, and begins with
// another system each time.
func callRounds(s *scope, experiment, dir string, systems []callSystem, rounds int) []callResult {
	var results []callResult
	at := make([][]int, len(systems)) // the result of each call
	for i, system := range systems {
		for _, c := range system.calls {
			at[i] = append(at[i], len(results))
			if c.label != "" {
				results = append(results, callResult{Experiment: experiment, System: system.label, Call: c.label})
			}
		}
	}
	for round := range rounds + 1 {
		s.must(s.ctx.Err())
		for k := range systems {
			i := (round + k) % len(systems)
			for j, c := range systems[i].calls {
				_, err := before.measure(systems[i].lab.Node, dir, "host-local")
				s.must(err)
				time.Sleep(restTime)
				cost, err := c.measure(systems[i].lab.Node, dir, systems[i].plugin)
				s.must(err)
				if round == 0 || c.label == "" {
					continue // the first round brings files and tables up
				}
				r := &results[at[i][j]]
				r.cpu, r.wall = append(r.cpu, cost.cpu), append(r.wall, cost.wall)
			}
			systems[i].finish(s)
		}
	}
	for i := range results {
		r := &results[i]
		r.CPU, r.Wall = spreadOf([][]float64{r.cpu}), spreadOf([][]float64{r.wall})
	}
	return results
}

// peaks looks at how much memory each call takes.
func peaks(s *scope, dir string, systems []callSystem, results []callResult) {
	of := map[string][]float64{}
	for range memoryRounds {
		for _, system := range systems {
			for _, c := range system.calls {
				kib, seen, err := c.peak(s, system.lab.Node, dir, system.plugin)
				s.must(err)
				if seen {
					of[system.label+c.label] = append(of[system.label+c.label], kib)
				}
			}
			system.finish(s)
		}
	}
	for i, r := range results {
		if len(of[r.System+r.Call]) == 0 {
			s.must(fmt.Errorf("memory of %s of %s: never seen at its end, in %d tries", r.Call, r.System, memoryRounds))
		}
		results[i].PeakKiB = median(of[r.System+r.Call])
	}
}

func (c callSystem) finish(s *scope) {
	if c.after != nil {
		s.must(c.after())
	}
}

// noopCall is the verb of a label: what the no-op plugin's call is called.
func noopCall(label string) string {
	verb, _, _ := strings.Cut(label, ",")
	return verb
}

// compareCalls compares each call with that of the no-op plugin in the same round.
func compareCalls(results []callResult) {
	for i, r := range results {
		base := find(results, noopLabel, noopCall(r.Call))
		results[i].Ratio = spreadOf([][]float64{ratios(r.cpu, base.cpu)})
	}
}

// find returns the result of a call that is there.
func find(results []callResult, system, call string) callResult {
	for _, r := range results {
		if r.System == system && r.Call == call {
			return r
		}
	}
	panic(fmt.Sprintf("no %s of %s", call, system))
}

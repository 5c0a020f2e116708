package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/egress-ip/egress-ip/pkg/nettest"
)

const growthName = "growth"

// laden is a node that has much of something.
type laden struct {
	label                     string
	pods, routes, connections int
}

// ladens are what calls are compared on. The base has one annotated pod, so that
// no call is the first or the last on the link; without any, ADD puts up more.
var ladens = []laden{
	{label: baseNode, pods: 1},
	{label: "0 pods"},
	{label: "100 pods", pods: 100},
	{label: "1,000 pods", pods: 1000},
	{label: "5,000 pods", pods: 5000},
	{label: "10,000 routes", pods: 1, routes: 10_000},
	{label: "100,000 routes", pods: 1, routes: 100_000},
	{label: "250,000 connections", pods: 1, connections: 250_000},
}

const baseNode = "1 pod"

// growth compares egress-ip's calls on nodes that have much of something.
func growth(ctx context.Context, o options) (callReport, error) {
	var report callReport
	err := within(ctx, func(s *scope) {
		dir := buildPlugins(s)
		var systems []callSystem
		for _, l := range ladens {
			s.Logf("growth: %s", l.label)
			systems = append(systems, l.build(s, dir))
		}
		s.Logf("growth: %d rounds", o.Rounds)
		report.Calls = callRounds(s, growthName, dir, systems, o.Rounds)
		for i, r := range report.Calls {
			base := find(report.Calls, baseNode, r.Call)
			report.Calls[i].Ratio = spreadOf([][]float64{ratios(r.cpu, base.cpu)})
		}
		report.Verdicts = growthVerdicts(report.Calls)
		report.Rates = rates(s, dir, o.Rounds)
	})
	return report, err
}

func growthVerdicts(results []callResult) []verdict {
	var verdicts []verdict
	for _, label := range []string{"5,000 pods", "100,000 routes"} {
		for _, call := range []string{addAnnotated, delAnnotated, addPlain, delPlain} {
			r := find(results, label, call)
			verdicts = append(verdicts, newVerdict(fmt.Sprintf("%s, %s: CPU, to that with %s", call, label, baseNode), 1.3, r.Ratio.Median))
		}
	}
	return verdicts
}

// build makes the node, and the calls that are made on it.
func (l laden) build(s *scope, dir string) callSystem {
	lab, pod := newCallLab(s)
	if l.pods > 0 {
		fillPods(s, lab, dir, l.pods)
	}
	fillRoutes(s, lab, l.routes)
	fillConnections(s, lab, l.connections)
	var calls []labelledCall
	for _, c := range []struct {
		annotations     object
		add, check, del string
	}{{egressAddress("192.168.124.99"), addAnnotated, checkAnnotated, delAnnotated}, {object{}, addPlain, "", delPlain}} {
		in := stdin(s, egressConfig(c.annotations), pod, podIPv4+"/32")
		calls = append(calls, cycle(pod.Path(), podContainer, in, c.add, c.check, c.del)...)
	}
	return callSystem{l.label, "egress-ip", lab, calls, nil}
}

// atOnce is how many calls are made at once.
const atOnce = 16

// rate is how many calls a second a node gets done.
type rate struct {
	System    string `json:"system"`
	Call      string `json:"call"`
	PerSecond spread `json:"perSecond"`
}

// rates makes calls for several pods at once: all ADDs, then all DELs.
func rates(s *scope, dir string, rounds int) []rate {
	lab, pod := newCallLab(s)
	fillPods(s, lab, dir, 1)
	all := []struct {
		system, plugin, call string
		annotations          object
	}{
		{noopLabel, "noop", "", object{}},
		{egressLabel, "egress-ip", ", annotated", egressAddress("192.168.124.99")},
		{egressLabel, "egress-ip", ", not annotated", object{}},
	}
	measured := map[string][]float64{}
	for range rounds {
		for _, c := range all {
			for _, verb := range []string{"ADD", "DEL"} {
				s.must(s.ctx.Err())
				var calls []call
				for i := range atOnce {
					calls = append(calls, call{verb, fmt.Sprintf("at-once-%02d", i), pod.Path(),
						stdin(s, egressConfig(c.annotations), pod, fmt.Sprintf("10.244.200.%d/32", i+1))})
				}
				took, err := together(calls, lab.Node, dir, c.plugin)
				s.must(err)
				key := c.system + verb + c.call
				measured[key] = append(measured[key], atOnce/took.Seconds())
			}
		}
	}
	var rates []rate
	for _, c := range all {
		for _, verb := range []string{"ADD", "DEL"} {
			rates = append(rates, rate{c.system, verb + c.call, spreadOf([][]float64{measured[c.system+verb+c.call]})})
		}
	}
	return rates
}

// together makes calls at once, and returns how long all of them took.
func together(calls []call, n *nettest.Namespace, dir, plugin string) (time.Duration, error) {
	errs := make(chan error, len(calls))
	start := time.Now()
	var running sync.WaitGroup
	for _, c := range calls {
		running.Go(func() {
			_, err := c.measure(n, dir, plugin)
			errs <- err
		})
	}
	running.Wait()
	took := time.Since(start)
	for range calls {
		if err := <-errs; err != nil {
			return 0, err
		}
	}
	return took, nil
}

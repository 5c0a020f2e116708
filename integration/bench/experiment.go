package main

import (
	"context"
	"fmt"
	"net/netip"
)

// options of a run.
type options struct {
	Rounds int   `json:"rounds"`
	Builds int   `json:"builds"` // how often all nodes are built anew
	pods   []int // annotated ones, a set of nodes each; none: the experiment's own
}

// experiment compares systems.
type experiment struct {
	name     string
	systems  []system
	pods     []int // annotated ones, a set of nodes each
	packets  []packets
	families []family
	rpFilter int  // the nodes' net.ipv4.conf.all.rp_filter
	streams  bool // measures TCP streams, instead of single packets

	calls func(context.Context, options) (callReport, error) // instead, it is about calls
}

// packets are those of one kind of pods.
type packets struct {
	name    string
	sources func(f family, pods int) []netip.Addr
	ours    bool // the pods are annotated
}

// mostSources is how many pods send at a time.
const mostSources = 100

var (
	annotatedPackets = packets{"an annotated pod's", func(f family, pods int) []netip.Addr { return evenly(f.annotated(pods)) }, true}
	lastPackets      = packets{"the last annotated pod's", func(f family, pods int) []netip.Addr { return f.annotated(pods)[pods-1:] }, true}
	plainPackets     = packets{"a plain pod's", func(f family, _ int) []netip.Addr { return f.plain(mostSources) }, false}
)

// evenly returns no more than mostSources addresses out of a list, the last one
// of each part of it.
func evenly(all []netip.Addr) []netip.Addr {
	n := min(len(all), mostSources)
	some := make([]netip.Addr, n)
	for i := range some {
		some[i] = all[(i+1)*len(all)/n-1]
	}
	return some
}

// result is what one thing takes with one system.
type result struct {
	Experiment string `json:"experiment"`
	System     string `json:"system"`
	Pods       int    `json:"pods"`
	Packet     string `json:"packet"` // whose
	Family     string `json:"family"`
	What       string `json:"what"`
	Unit       string `json:"unit"`
	Value      spread `json:"value"`
	Ratio      spread `json:"ratio"` // to the experiment's base

	values, ratio [][]float64 // build by build
}

// run builds the nodes and measures all kinds of packets.
func (e experiment) run(ctx context.Context, o options) ([]result, error) {
	sizes := e.pods
	if len(o.pods) > 0 {
		sizes = o.pods
	}
	var all []result
	for _, pods := range sizes {
		var ofSize []result
		for b := range o.Builds {
			err := within(ctx, func(s *scope) {
				s.Logf("%s: %d annotated pods, build %d of %d", e.name, pods, b+1, o.Builds)
				var measured []result
				if e.streams {
					measured = e.measureStreams(s, pods, o.Rounds)
				} else {
					measured = e.measure(s, e.build(s, pods), pods, o.Rounds)
				}
				if b == 0 {
					ofSize = measured
					return
				}
				for i := range measured {
					ofSize[i].values = append(ofSize[i].values, measured[i].values...)
					ofSize[i].ratio = append(ofSize[i].ratio, measured[i].ratio...)
				}
			})
			if err != nil {
				return nil, fmt.Errorf("%s with %d pods: %w", e.name, pods, err)
			}
		}
		all = append(all, ofSize...)
	}
	for i := range all {
		all[i].Value, all[i].Ratio = spreadOf(all[i].values), spreadOf(all[i].ratio)
	}
	return all, nil
}

// measure measures all kinds of packets through the nodes of one build.
func (e experiment) measure(s *scope, nodes []*node, pods, rounds int) []result {
	var results []result
	for _, f := range e.families {
		for _, newFlow := range []bool{false, true} {
			for _, p := range e.packets {
				for i, rounds := range e.contest(s, nodes, p, traffic{family: f, newFlow: newFlow}, rounds) {
					results = append(results, result{
						Experiment: e.name, System: e.systems[i].label, Pods: pods,
						Packet: p.name, Family: f.name, What: connection(newFlow), Unit: "ns",
						values: [][]float64{rounds.values}, ratio: [][]float64{rounds.ratio},
					})
				}
			}
		}
	}
	return results
}

func connection(newFlow bool) string {
	if newFlow {
		return "new connection"
	}
	return "established connection"
}

// rounds of one system, as measured and as ratios to the base's.
type rounds struct{ values, ratio []float64 }

// compared adds the ratios to what systems have measured.
func (e experiment) compared(measured [][]float64) []rounds {
	var bases [][]float64
	for i, system := range e.systems {
		if system.base {
			bases = append(bases, measured[i])
		}
	}
	base := mediansOf(bases)
	all := make([]rounds, len(measured))
	for i := range all {
		all[i] = rounds{measured[i], ratios(measured[i], base)}
	}
	return all
}

// contest measures one kind of packets, in a scope of its own for its sockets.
func (e experiment) contest(outer *scope, nodes []*node, p packets, t traffic, n int) []rounds {
	var all []rounds
	outer.must(within(outer.ctx, func(s *scope) {
		lanes := make([]*lane, len(nodes))
		for i, node := range nodes {
			t.dropped, t.pods = e.systems[i].dropped, p.sources(t.family, node.pods)
			expect := byPrimary(t.family)
			if p.ours {
				expect = e.systems[i].arrive(t.family)
			}
			lanes[i] = newLane(s, node, t, expect)
			lanes[i].establish(s)
		}
		measured, err := contest(s.ctx, lanes, n)
		s.must(err)
		all = e.compared(measured)
	}))
	return all
}

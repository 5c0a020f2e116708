package main

import (
	"fmt"
	"net/netip"
	"time"
)

// streamSystems are the peers that forward.
var streamSystems = peers[:4]

const (
	// streamTime is how long one measurement of one system takes.
	streamTime = 10 * time.Millisecond
	// streamShare: it takes longer than a burst of packets, so there are fewer rounds.
	streamShare = 2
	// warmRounds come first: TCP is to find its windows.
	warmRounds = 5
)

// streamMeasure is what is measured of streams.
type streamMeasure struct {
	streams int
	take    func([]stream) ([]float64, error)
	gives   []quantity // of each value that take returns
}

type quantity struct{ name, unit string }

var streamMeasures = []streamMeasure{
	{1, gigabits, []quantity{{"one TCP stream", "Gbit/s"}}},
	{8, gigabits, []quantity{{"eight TCP streams", "Gbit/s"}}},
	{1, percentiles, []quantity{{"request and response, p50", "µs"}, {"request and response, p99", "µs"}}},
}

func gigabits(streams []stream) ([]float64, error) {
	bits, err := throughput(streams, streamTime)
	return []float64{bits / 1e9}, err
}

func percentiles(streams []stream) ([]float64, error) {
	all, err := latencies(streams[0], streamTime)
	if err != nil {
		return nil, err
	}
	return []float64{quantile(all, 0.5), quantile(all, 0.99)}, nil
}

// measureStreams builds nodes and measures all of their streams.
func (e experiment) measureStreams(s *scope, pods, packetRounds int) []result {
	nodes := make([]*streamNode, len(e.systems))
	for i := range e.systems {
		nodes[i] = e.newStreamNode(s, i, pods)
	}
	var results []result
	for _, f := range e.families {
		for _, m := range streamMeasures {
			for _, p := range e.packets {
				values := e.streamContest(s, nodes, f, m, p, max(packetRounds/streamShare, 1))
				for k, q := range m.gives {
					for i, rounds := range e.compared(values[k]) {
						results = append(results, result{
							Experiment: e.name, System: e.systems[i].label, Pods: pods, Packet: p.name, Family: f.name, What: q.name, Unit: q.unit,
							values: [][]float64{rounds.values}, ratio: [][]float64{rounds.ratio},
						})
					}
				}
			}
		}
	}
	return results
}

// streamContest measures systems in turn, like contest: each quantity, by system
// and round. The connections stand for all rounds.
func (e experiment) streamContest(outer *scope, nodes []*streamNode, f family, m streamMeasure, p packets, rounds int) [][][]float64 {
	values := make([][][]float64, len(m.gives))
	for k := range values {
		values[k] = make([][]float64, len(nodes))
	}
	outer.must(within(outer.ctx, func(s *scope) {
		streams := make([][]stream, len(nodes))
		for i, n := range nodes {
			pod, seen := e.streamEnds(f, p, i, n)
			for range m.streams {
				streams[i] = append(streams[i], n.newStream(s, f, pod, seen))
			}
		}
		s.must(onOneCore(func() error {
			for round := range warmRounds + rounds {
				for k := range nodes {
					i := (round + k) % len(nodes)
					taken, err := m.measure(s, streams[i])
					if err != nil {
						return fmt.Errorf("%s: %w", nodes[i].label, err)
					}
					for v, value := range taken {
						if round < warmRounds {
							continue
						}
						values[v][i] = append(values[v][i], value)
					}
				}
			}
			return nil
		}))
	}))
	return values
}

// streamEnds are a pod, and the source with which the server is to see its streams.
func (e experiment) streamEnds(f family, p packets, i int, n *streamNode) (pod, seen netip.Addr) {
	pod, expect := f.pod(firstPlain), byPrimary(f)
	if p.ours {
		pod, expect = f.pod(n.pods), e.systems[i].arrive(f)
	}
	if expect.source == "" {
		return pod, pod
	}
	return pod, netip.MustParseAddr(expect.source)
}

func (m streamMeasure) measure(s *scope, streams []stream) (values []float64, err error) {
	if err := s.ctx.Err(); err != nil {
		return nil, err
	}
	err = undisturbed(func() error {
		values, err = m.take(streams)
		return err
	})
	return values, err
}

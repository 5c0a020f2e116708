package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// target is how much a packet may cost with one system against another, on nodes
// of an experiment with so many annotated pods.
type target struct {
	experiment      string
	pods            int
	packets         packets
	newFlow         bool
	system, against string
	most            float64
}

// targets are egress-ip's, for either family: the cost is flat, far below that of
// OVN-Kubernetes' lists, and not far from that of a node that does nothing.
var targets = []target{
	{"flat", 5000, lastPackets, false, ours, onePod, 1.05},
	{"flat", 5000, plainPackets, false, ours, onePod, 1.05},
	{"flat", 5000, lastPackets, true, ours, onePod, 1.05},
	{"flat", 5000, plainPackets, true, ours, onePod, 1.05},
	{"peers", 250, annotatedPackets, false, ours, ovn, 1.0 / 2},
	{"peers", 250, annotatedPackets, true, ours, ovn, 1.0 / 3},
	{"peers", 250, annotatedPackets, false, ours, bare, 1.25},
	{"peers", 250, plainPackets, false, ours, bare, 1.20},
}

// outcome is what became of a target.
type outcome struct {
	Experiment string  `json:"experiment"`
	Pods       int     `json:"pods"`
	Packet     string  `json:"packet"`
	Family     string  `json:"family"`
	What       string  `json:"what"`
	System     string  `json:"system"`
	Against    string  `json:"against"`
	Ratio      spread  `json:"ratio"`
	Most       float64 `json:"most"`
	Met        bool    `json:"met"`
}

// outcomes judges the targets of which there are results. The ratios are those
// within a round, as everywhere.
func outcomes(results []result) []outcome {
	var all []outcome
	for _, t := range targets {
		for _, f := range families {
			system, against := t.find(results, f, t.system), t.find(results, f, t.against)
			if system == nil || against == nil {
				continue
			}
			builds := make([][]float64, len(system.values))
			for b := range builds {
				builds[b] = ratios(system.values[b], against.values[b])
			}
			ratio := spreadOf(builds)
			all = append(all, outcome{
				t.experiment, t.pods, t.packets.name, f.name, connection(t.newFlow),
				t.system, t.against, ratio, t.most, ratio.Median <= t.most,
			})
		}
	}
	return all
}

func (t target) find(results []result, f family, system string) *result {
	for i, r := range results {
		if r.Experiment == t.experiment && r.Pods == t.pods && r.Packet == t.packets.name && r.Family == f.name &&
			r.What == connection(t.newFlow) && r.System == system {
			return &results[i]
		}
	}
	return nil
}

func printOutcomes(w io.Writer, outcomes []outcome) error {
	if len(outcomes) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nTargets\npacket\tannotated pods\tagainst\tratio\tat most\t\n")
	for _, v := range outcomes {
		met := "met"
		if !v.Met {
			met = "MISSED"
		}
		fmt.Fprintf(t, "%s, %s, %s\t%d\t%s\t%.3f (%.3f to %.3f)\t%.2f\t%s\n",
			v.Packet, v.Family, v.What, v.Pods, v.Against, v.Ratio.Median, v.Ratio.Low, v.Ratio.High, v.Most, met)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print the targets: %w", err)
	}
	return nil
}

// Plot reads what bench -o json prints and writes a picture of what a packet of
// an established connection costs against the number of annotated pods: as SVG,
// with logarithmic axes, one panel a family.
//
// It is a module of its own, so that the plugin's does not need what it needs.
package main

import (
	"encoding/json"
	"fmt"
	"image/color"
	"io"
	"os"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Size of the picture.
const (
	width  = 26 * vg.Centimeter
	height = 10 * vg.Centimeter
	margin = vg.Centimeter / 4
)

// measured is what is read: a result of the benchmark.
type measured struct {
	Experiment, System, Packet, Family, What string
	Pods                                     float64
	Value                                    struct{ Median float64 }
}

// curve is how one system is drawn.
type curve struct {
	system, label string
	color         color.Color
	dashes        []vg.Length
	shape         draw.GlyphDrawer
}

var curves = []curve{
	{"OVN-Kubernetes' scheme", "OVN-Kubernetes' scheme", color.RGBA{0xd5, 0x5e, 0x00, 0xff}, nil, draw.SquareGlyph{}},
	{"egress-ip, nftables flushed", "egress-ip, its nftables flushed", color.RGBA{0x00, 0x72, 0xb2, 0xff}, []vg.Length{vg.Points(4), vg.Points(3)}, draw.RingGlyph{}},
	{"egress-ip", "egress-ip", color.RGBA{0x00, 0x72, 0xb2, 0xff}, nil, draw.CircleGlyph{}},
	{"no egress system", "no egress system", color.RGBA{0x55, 0x55, 0x55, 0xff}, []vg.Length{vg.Points(1), vg.Points(2)}, draw.CrossGlyph{}},
}

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "plot:", err)
		os.Exit(1)
	}
}

func run(r io.Reader, w io.Writer) error {
	var report struct{ Results []measured }
	if err := json.NewDecoder(r).Decode(&report); err != nil {
		return fmt.Errorf("read the benchmark's JSON: %w", err)
	}
	plot.DefaultFont.Variant = "Sans"
	canvas := vgsvg.New(width, height)
	all := draw.New(canvas)
	for i, family := range []string{"IPv4", "IPv6"} {
		p, err := panel(report.Results, family)
		if err != nil {
			return err
		}
		p.Draw(draw.Crop(all, width/2*vg.Length(i)+margin, -width/2*vg.Length(1-i)-margin, margin, -margin))
	}
	if _, err := canvas.WriteTo(w); err != nil {
		return fmt.Errorf("write the picture: %w", err)
	}
	return nil
}

func panel(results []measured, family string) (*plot.Plot, error) {
	p := plot.New()
	p.BackgroundColor = color.White // also where a page is dark
	p.Title.Text = family + ", a packet of an annotated pod"
	p.X.Label.Text, p.Y.Label.Text = "annotated pods on the node", "ns to forward a packet"
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.Add(plotter.NewGrid())
	var ticks plot.ConstantTicks
	for _, c := range curves {
		points := pointsOf(results, family, c.system)
		if len(points) == 0 {
			return nil, fmt.Errorf("no results of %s, %s, in experiment peers", c.system, family)
		}
		line, marks, err := plotter.NewLinePoints(points)
		if err != nil {
			return nil, fmt.Errorf("draw %s: %w", c.system, err)
		}
		line.Color, line.Width, line.Dashes = c.color, vg.Points(1.5), c.dashes
		marks.Color, marks.Radius, marks.Shape = c.color, vg.Points(3), c.shape
		p.Add(line, marks)
		p.Legend.Add(c.label, line, marks)
		ticks = ticksAt(points)
	}
	p.X.Tick.Marker = ticks
	p.Y.Tick.Marker = plot.ConstantTicks{{Value: 1000, Label: "1,000"}, {Value: 2000, Label: "2,000"}, {Value: 5000, Label: "5,000"},
		{Value: 10000, Label: "10,000"}, {Value: 20000, Label: "20,000"}, {Value: 50000, Label: "50,000"}, {Value: 100000, Label: "100,000"}}
	p.Y.Min, p.Y.Max = 800, 100000 // with room for the legend
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.TextStyle.Font.Size = vg.Points(9)
	p.Legend.XOffs, p.Legend.YOffs, p.Legend.Padding = vg.Points(4), -vg.Points(20), vg.Points(1)
	p.X.Tick.Label.Font.Size, p.Y.Tick.Label.Font.Size = vg.Points(8), vg.Points(8)
	return p, nil
}

func pointsOf(results []measured, family, system string) plotter.XYs {
	var points plotter.XYs
	for _, r := range results {
		if r.Experiment == "peers" && r.Packet == "an annotated pod's" && r.What == "established connection" && r.Family == family && r.System == system {
			points = append(points, plotter.XY{X: r.Pods, Y: r.Value.Median})
		}
	}
	slices.SortFunc(points, func(a, b plotter.XY) int { return int(a.X - b.X) })
	return points
}

// ticksAt are where there are measurements.
func ticksAt(points plotter.XYs) plot.ConstantTicks {
	var ticks plot.ConstantTicks
	for _, p := range points {
		ticks = append(ticks, plot.Tick{Value: p.X, Label: fmt.Sprint(p.X)})
	}
	return ticks
}

package report

import (
	"fmt"
	"slices"
	"time"

	"github.com/evenkeel/evenkeel/internal/svg"
)

// Programming is how long after a pod began to terminate the last node had forgotten its address.
type Programming struct {
	Name   string          // of the plot's file
	What   string          // made the pods go
	Mode   string          // of kube-proxy
	Delays []time.Duration // of each pod that went, in order
	// Written are those until its EndpointSlice said that it terminates, which the nodes go by.
	Written []time.Duration
	Every   time.Duration // how often nodes were looked at, and Took the longest look: how much too long a delay may be
	Took    time.Duration
	Left    int // pods whose address did not leave within a minute
}

func (p *Programming) quantile(q float64) time.Duration { return quantile(p.Delays, q) }

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// Sentence says the distribution.
func (p *Programming) Sentence() string {
	return fmt.Sprintf("%s, %d pods went: half of their addresses had left the %s rules of every node %.1f s after the "+
		"API server had said that the pod terminates, 90 %% after %.1f s, 99 %% after %.1f s, the last after %.1f s "+
		"(looked at every %.1f s, which took %.1f s at most; %d did not leave within a minute). "+
		"EndpointSlices said so after %.1f s, %.1f s, %.1f s and %.1f s.",
		p.What, len(p.Delays)+p.Left, p.Mode, p.quantile(0.5).Seconds(), p.quantile(0.9).Seconds(),
		p.quantile(0.99).Seconds(), p.quantile(1).Seconds(), p.Every.Seconds(), p.Took.Seconds(), p.Left,
		quantile(p.Written, 0.5).Seconds(), quantile(p.Written, 0.9).Seconds(), quantile(p.Written, 0.99).Seconds(),
		quantile(p.Written, 1).Seconds())
}

// plot draws the share of addresses that had left by a time.
func (p *Programming) plot() string {
	slices.Sort(p.Delays)
	const height, top, bottom = 260, 50, 210
	d := svg.New(plotWidth, height)
	d.Text(plotLeft, 22, "start", ` font-size="16" font-weight="bold"`, "Addresses of terminating pods that had left "+
		"the rules of every node")
	longest := max(11, p.quantile(1).Seconds()*1.05)
	x := func(s float64) float64 { return plotLeft + s/longest*(plotWidth-plotLeft-plotRight) }
	y := func(share float64) float64 { return bottom - share*(bottom-top) }
	for _, share := range []float64{0, 0.25, 0.5, 0.75, 1} {
		d.Line(plotLeft, y(share), plotWidth-plotRight, y(share), gridStyle)
		d.Text(plotLeft-6, y(share)+4, "end", "", fmt.Sprintf("%.0f %%", 100*share))
	}
	for s := 0.0; s <= longest; s += svg.Step(longest / 12) {
		d.Line(x(s), bottom, x(s), bottom+4, axisStyle)
		d.Text(x(s), bottom+18, "middle", "", fmt.Sprintf("%.0f s", s))
	}
	d.Line(plotLeft, bottom, plotWidth-plotRight, bottom, axisStyle)
	points := []svg.Point{{X: x(0), Y: y(0)}}
	total := float64(len(p.Delays) + p.Left)
	for i, delay := range p.Delays {
		at := x(delay.Seconds())
		points = append(points, svg.Point{X: at, Y: y(float64(i) / total)}, svg.Point{X: at, Y: y(float64(i+1) / total)})
	}
	d.Curve(points, `stroke="#1f4e79" stroke-width="2"`)
	d.Line(x(10), y(0), x(10), y(1), `stroke="#3a9d6e" stroke-width="1.5" stroke-dasharray="5 3"`)
	d.Text(x(10)-6, y(0.5), "end", ` fill="#3a9d6e"`, "SIGTERM after the default sleep")
	d.Text((plotLeft+plotWidth-plotRight)/2, bottom+38, "middle", "",
		"time since the API server said that the pod terminates")
	return d.String()
}

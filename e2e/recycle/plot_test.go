package recycle

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/evenkeel/evenkeel/internal/svg"
)

// panel is one diagram of a plot. Values are by second.
type panel struct {
	title string
	stack [][]float64 // shares in percent by series
	bars  []float64   // numbers
	side  []float64   // numbers by 2 % of a limit
}

// The colours: blues for the servers there were, oranges for those that were added.
var colours = [4]string{"#1f4e79", "#6fa8dc", "#e69138", "#f6c98b"}

const (
	grid = `stroke="#ddd"`
	axis = `stroke="#666"`
)

// writePlot writes a plot into the directory that RECYCLE_PLOTS names, if it does.
func writePlot(t *testing.T, name, content string) {
	t.Helper()
	directory := os.Getenv("RECYCLE_PLOTS")
	if directory == "" || t.Failed() {
		return
	}
	if err := os.WriteFile(filepath.Join(directory, name), []byte(content), 0o644); err != nil {
		t.Error(err)
	}
}

// scaleOutPlot draws each server's share of the requests over time, one panel below the other.
func scaleOutPlot(panels []panel, scaledAt int) string {
	const width, left, right, height, gap, top = 900, 60, 130, 150.0, 52, 58
	total := top + len(panels)*(int(height)+gap) + 14
	d := svg.New(width, float64(total))
	d.Text(left, 22, "start", ` font-size="16" font-weight="bold"`, "Share of requests that each server carries")
	d.Text(left, 40, "start", "", "64 clients with one persistent connection each, 20 requests/s per client; servers 3 "+
		"and 4 are added at the dashed line")
	for i, p := range panels {
		y0 := float64(top + i*(int(height)+gap))
		seconds := len(p.stack[0])
		x := func(second int) float64 { return left + float64(second)*(width-left-right)/float64(seconds-1) }
		y := func(share float64) float64 { return y0 + 20 + height*(1-share/100) }
		d.Text(left, y0+12, "start", ` font-weight="bold"`, p.title)
		base := make([]float64, seconds)
		for server, share := range p.stack {
			var area []svg.Point
			for second := range seconds {
				area = append(area, svg.Point{X: x(second), Y: y(base[second] + share[second])})
			}
			for second := seconds - 1; second >= 0; second-- {
				area = append(area, svg.Point{X: x(second), Y: y(base[second])})
			}
			d.Polygon(area, colours[server])
			last := share[seconds-1]
			if last > 5 {
				d.Text(x(seconds-1)+8, y(base[seconds-1]+last/2)+4, "start", "", fmt.Sprintf("server %d: %.0f %%", server+1, last))
			}
			for second := range seconds {
				base[second] += share[second]
			}
		}
		for _, share := range []float64{0, 25, 50, 75, 100} {
			d.Line(left, y(share), x(seconds-1), y(share), `stroke="#fff" stroke-opacity="0.7" stroke-dasharray="1 3"`)
			d.Text(left-6, y(share)+4, "end", "", fmt.Sprintf("%.0f %%", share))
		}
		d.Line(left, y(0), left, y(100), axis)
		d.Line(left, y(0), x(seconds-1), y(0), axis)
		d.Line(x(scaledAt), y(0), x(scaledAt), y(100)-5, `stroke="#000" stroke-width="1.5" stroke-dasharray="5 3"`)
		for second := 0; second < seconds; second += max(1, seconds/15/5*5) {
			d.Line(x(second), y(0), x(second), y(0)+4, axis)
			d.Text(x(second), y(0)+17, "middle", "", fmt.Sprintf("%d s", second-scaledAt))
		}
	}
	return d.String()
}

// jitterPlot draws when connections ended, and beside it how old they were.
func jitterPlot(panels []panel, connections int, age time.Duration) string {
	const width, left, right, sideWidth, height, gap, top = 900, 60, 20, 240, 130.0, 56, 58
	d := svg.New(width, float64(top+len(panels)*(int(height)+gap)+18))
	d.Text(left, 22, "start", ` font-size="16" font-weight="bold"`,
		fmt.Sprintf("%d connections opened together, age limit %v: how many end in each second", connections, age))
	d.Text(left, 40, "start", "", "each connection that ends is followed by a new one; right: how old they were when "+
		"they ended")
	most := 1.0 // one scale for all, so that they compare
	for _, p := range panels {
		most = max(most, slices.Max(p.bars))
	}
	for i, p := range panels {
		y0 := float64(top + i*(int(height)+gap))
		d.Text(left, y0+12, "start", ` font-weight="bold"`, p.title)
		bars := func(values []float64, most, x0, x1 float64, colour string) func(float64) float64 {
			y := func(v float64) float64 { return y0 + 24 + (height-4)*(1-v/most) }
			step := (x1 - x0) / float64(len(values))
			for _, share := range []float64{0, 0.5, 1} {
				d.Line(x0, y(most*share), x1, y(most*share), grid)
				d.Text(x0-6, y(most*share)+4, "end", "", fmt.Sprintf("%.0f", most*share))
			}
			for i, v := range values {
				if v > 0 {
					d.Box(x0+float64(i)*step+0.5, y(v), step-1, y(0)-y(v), colour)
				}
			}
			d.Line(x0, y(0), x1, y(0), axis)
			d.Line(x0, y(0), x0, y(most), axis)
			return func(i float64) float64 { return x0 + i*step }
		}
		bottom := y0 + 24 + height + 10
		x := bars(p.bars, most, left, width-right-sideWidth-60, colours[0])
		for second := 0; second <= len(p.bars); second += max(1, len(p.bars)/9) {
			d.Text(x(float64(second)), bottom, "middle", "", fmt.Sprintf("%d s", second))
		}
		x = bars(p.side, slices.Max(p.side), width-right-sideWidth, width-right, colours[2])
		for percent := 0; percent <= 100; percent += 25 {
			d.Text(x(float64(percent)/2), bottom, "middle", "", fmt.Sprintf("%d %%", percent))
		}
	}
	d.Text(width-right-sideWidth/2, float64(top+len(panels)*(int(height)+gap)+10), "middle", "",
		"lifetime, in % of the limit")
	d.Text((left+width-right-sideWidth-60)/2, float64(top+len(panels)*(int(height)+gap)+10), "middle", "",
		"time since the start, connections ended per second")
	return d.String()
}

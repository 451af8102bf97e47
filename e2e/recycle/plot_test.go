package recycle

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
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

// svg is a drawing that grows by elements.
type svg struct{ strings.Builder }

func newSVG(width, height int) *svg {
	s := new(svg)
	fmt.Fprintf(s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="12" fill="#333">`+"\n",
		width, height, width, height)
	fmt.Fprintf(s, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	return s
}

func (s *svg) text(x, y float64, anchor, more, text string) {
	fmt.Fprintf(s, `<text x="%.1f" y="%.1f" text-anchor="%s"%s>%s</text>`+"\n", x, y, anchor, more, strings.NewReplacer("&", "&amp;", "<", "&lt;").Replace(text))
}

func (s *svg) line(x1, y1, x2, y2 float64, style string) {
	fmt.Fprintf(s, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" %s/>`+"\n", x1, y1, x2, y2, style)
}

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
	s := newSVG(width, total)
	s.text(left, 22, "start", ` font-size="16" font-weight="bold"`, "Share of requests that each server carries")
	s.text(left, 40, "start", "", "64 clients with one persistent connection each, 20 requests/s per client; servers 3 and 4 are added at the dashed line")
	for i, p := range panels {
		y0 := float64(top + i*(int(height)+gap))
		seconds := len(p.stack[0])
		x := func(second int) float64 { return left + float64(second)*(width-left-right)/float64(seconds-1) }
		y := func(share float64) float64 { return y0 + 20 + height*(1-share/100) }
		s.text(left, y0+12, "start", ` font-weight="bold"`, p.title)
		base := make([]float64, seconds)
		for server, share := range p.stack {
			var up, down strings.Builder
			for second := range seconds {
				fmt.Fprintf(&up, "%.1f,%.1f ", x(second), y(base[second]+share[second]))
			}
			for second := seconds - 1; second >= 0; second-- {
				fmt.Fprintf(&down, "%.1f,%.1f ", x(second), y(base[second]))
			}
			fmt.Fprintf(s, `<polygon points="%s" fill="%s"/>`+"\n", up.String()+strings.TrimSpace(down.String()), colours[server])
			last := share[seconds-1]
			if last > 5 {
				s.text(x(seconds-1)+8, y(base[seconds-1]+last/2)+4, "start", "", fmt.Sprintf("server %d: %.0f %%", server+1, last))
			}
			for second := range seconds {
				base[second] += share[second]
			}
		}
		for _, share := range []float64{0, 25, 50, 75, 100} {
			s.line(left, y(share), x(seconds-1), y(share), `stroke="#fff" stroke-opacity="0.7" stroke-dasharray="1 3"`)
			s.text(left-6, y(share)+4, "end", "", fmt.Sprintf("%.0f %%", share))
		}
		s.line(left, y(0), left, y(100), axis)
		s.line(left, y(0), x(seconds-1), y(0), axis)
		s.line(x(scaledAt), y(0), x(scaledAt), y(100)-5, `stroke="#000" stroke-width="1.5" stroke-dasharray="5 3"`)
		for second := 0; second < seconds; second += max(1, seconds/15/5*5) {
			s.line(x(second), y(0), x(second), y(0)+4, axis)
			s.text(x(second), y(0)+17, "middle", "", fmt.Sprintf("%d s", second-scaledAt))
		}
	}
	s.WriteString("</svg>\n")
	return s.String()
}

// jitterPlot draws when connections ended, and beside it how old they were.
func jitterPlot(panels []panel, connections int, age time.Duration) string {
	const width, left, right, sideWidth, height, gap, top = 900, 60, 20, 240, 130.0, 56, 58
	s := newSVG(width, top+len(panels)*(int(height)+gap)+18)
	s.text(left, 22, "start", ` font-size="16" font-weight="bold"`,
		fmt.Sprintf("%d connections opened together, age limit %v: how many end in each second", connections, age))
	s.text(left, 40, "start", "", "each connection that ends is followed by a new one; right: how old they were when they ended")
	most := 1.0 // one scale for all, so that they compare
	for _, p := range panels {
		most = max(most, slices.Max(p.bars))
	}
	for i, p := range panels {
		y0 := float64(top + i*(int(height)+gap))
		s.text(left, y0+12, "start", ` font-weight="bold"`, p.title)
		bars := func(values []float64, most, x0, x1 float64, colour string) func(float64) float64 {
			y := func(v float64) float64 { return y0 + 24 + (height-4)*(1-v/most) }
			step := (x1 - x0) / float64(len(values))
			for _, share := range []float64{0, 0.5, 1} {
				s.line(x0, y(most*share), x1, y(most*share), grid)
				s.text(x0-6, y(most*share)+4, "end", "", fmt.Sprintf("%.0f", most*share))
			}
			for i, v := range values {
				if v > 0 {
					fmt.Fprintf(s, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`+"\n", x0+float64(i)*step+0.5, y(v), step-1, y(0)-y(v), colour)
				}
			}
			s.line(x0, y(0), x1, y(0), axis)
			s.line(x0, y(0), x0, y(most), axis)
			return func(i float64) float64 { return x0 + i*step }
		}
		bottom := y0 + 24 + height + 10
		x := bars(p.bars, most, left, width-right-sideWidth-60, colours[0])
		for second := 0; second <= len(p.bars); second += max(1, len(p.bars)/9) {
			s.text(x(float64(second)), bottom, "middle", "", fmt.Sprintf("%d s", second))
		}
		x = bars(p.side, slices.Max(p.side), width-right-sideWidth, width-right, colours[2])
		for percent := 0; percent <= 100; percent += 25 {
			s.text(x(float64(percent)/2), bottom, "middle", "", fmt.Sprintf("%d %%", percent))
		}
	}
	s.text(width-right-sideWidth/2, float64(top+len(panels)*(int(height)+gap)+10), "middle", "", "lifetime, in % of the limit")
	s.text((left+width-right-sideWidth-60)/2, float64(top+len(panels)*(int(height)+gap)+10), "middle", "", "time since the start, connections ended per second")
	s.WriteString("</svg>\n")
	return s.String()
}

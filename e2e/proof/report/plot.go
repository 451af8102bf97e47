package report

import (
	"fmt"
	"slices"
	"time"

	"github.com/evenkeel/evenkeel/internal/svg"
)

const (
	plotWidth  = 960
	plotLeft   = 92
	plotRight  = 20
	barHeight  = 110
	axisStyle  = `stroke="#777"`
	gridStyle  = `stroke="#e3e3e3"`
	fineColour = "#8fb4d9"
	newColour  = "#e6a157"
	failColour = "#d62728"
	failFill   = "url(#failed)" // hatched, for who doesn't see red

	goodColour  = "#2e7d4f" // nothing failed
	namedColour = "#b26a00" // nothing but what an exception names
)

// phaseColour is what a pod's bar looks like.
func phaseColour(p Phase) string {
	return map[Phase]string{Pending: "#dcdcdc", Starting: "#f2c14e", Ready: "#3a9d6e", Terminating: "#9a7bb8",
		Stopped: "#b9b9b9"}[p]
}

// timeline draws one run: for each side the requests per second with the failures hatched in red, and below
// them the phases of the pods.
func timeline(o *Outcome) string {
	lives := map[string][]PodLife{}
	for _, life := range o.Pods {
		lives[life.Side] = append(lives[life.Side], life)
	}
	most := max(len(lives[Without]), len(lives[With]))
	lane := min(6, max(2, 220/float64(max(1, most))))
	height := 64.0
	for _, side := range Sides() {
		height += 52 + barHeight + float64(len(lives[side]))*lane + groupGap*float64(len(groups(lives[side]))) + 34
	}
	d := svg.New(plotWidth, height)
	d.Hatch("failed", failColour)
	d.Text(plotLeft, 22, "start", ` font-size="16" font-weight="bold"`, o.Scenario.Title)
	legend(d, 42)

	perSecond := o.rates()
	scale := 1.0
	for _, rates := range perSecond {
		for i := range rates.sent {
			scale = max(scale, rates.sent[i]*1.05)
		}
	}
	y := 64.0
	for _, side := range Sides() {
		y = o.panel(d, side, y, lane, scale, perSecond[side], lives[side])
	}
	return d.String()
}

func legend(d *svg.Drawing, y float64) {
	x := float64(plotLeft)
	for _, entry := range []struct{ colour, text string }{
		{fineColour, "requests answered"}, {newColour, "by new pods"}, {failFill, "failed"},
		{phaseColour(Pending), "pod pending"}, {phaseColour(Starting), "running, not ready"},
		{phaseColour(Ready), "ready"}, {phaseColour(Terminating), "terminating"}, {phaseColour(Stopped), "stopped"},
	} {
		d.Box(x, y-9, 11, 11, entry.colour)
		d.Text(x+15, y+1, "start", "", entry.text)
		x += 34 + 6.1*float64(len(entry.text))
	}
}

// rates are requests per second, by second since the load began.
type rates struct {
	sent, failed []float64
	fresh        []float64 // answered by pods that were made during the operation
}

func (o *Outcome) rates() map[string]rates {
	seconds := int(o.Stopped.Sub(o.Began).Seconds()) // whole ones
	result := map[string]rates{}
	for _, side := range Sides() {
		result[side] = rates{make([]float64, seconds), make([]float64, seconds), make([]float64, seconds)}
	}
	fresh := map[string]bool{}
	for _, life := range o.Pods {
		fresh[life.Side+"/"+life.Name] = life.Changes[0].At.After(o.Started)
	}
	for _, r := range o.Records {
		second := int((r.Due - o.Began.UnixMicro()) / 1_000_000)
		if second < 0 || second >= seconds {
			continue
		}
		side, known := result[o.Targets[r.Target].Side]
		if !known {
			continue // the control
		}
		side.sent[second]++
		switch {
		case r.Cause != "":
			side.failed[second]++
		case fresh[o.Targets[r.Target].Side+"/"+r.Pod]:
			side.fresh[second]++
		}
	}
	return result
}

const groupGap = 5

// groups returns the servers of pods, which stand in their order.
func groups(lives []PodLife) []string {
	var servers []string
	for _, life := range lives {
		if !slices.Contains(servers, life.Server) {
			servers = append(servers, life.Server)
		}
	}
	return servers
}

// panel draws one side from y on and returns where it ends.
func (o *Outcome) panel(d *svg.Drawing, side string, y, lane, scale float64, r rates, lives []PodLife) float64 {
	seconds := o.Stopped.Sub(o.Began).Seconds()
	x := func(t time.Time) float64 {
		return plotLeft + min(max(t.Sub(o.Began).Seconds(), 0), seconds)/seconds*(plotWidth-plotLeft-plotRight)
	}
	s := o.Sides[side]
	d.Text(plotLeft, y+16, "start", ` font-size="14" font-weight="bold"`, side+" evenkeel")
	d.Text(plotLeft+150, y+16, "start", fmt.Sprintf(` font-weight="bold" fill="%s"`, s.colour()),
		fmt.Sprintf("%s of %s requests failed", number(s.Failed), number(s.Sent)))
	top := y + 40
	bottom := top + barHeight
	lanes := float64(len(lives))*lane + groupGap*float64(len(groups(lives)))
	// The time of the operation.
	d.Box(x(o.Started), top, x(o.Ended)-x(o.Started), barHeight+lanes, "#f5f3ee")
	step := svg.Step(scale / 3)
	for v := 0.0; v <= scale; v += step {
		at := bottom - v/scale*barHeight
		d.Line(plotLeft, at, plotWidth-plotRight, at, gridStyle)
		d.Text(plotLeft-6, at+4, "end", "", fmt.Sprintf("%.0f/s", v))
	}
	for i := range r.sent {
		from, to := x(o.Began.Add(time.Duration(i)*time.Second)), x(o.Began.Add(time.Duration(i+1)*time.Second))
		if to-from < 0.1 {
			continue
		}
		fine, failed := (r.sent[i]-r.failed[i])/scale*barHeight, r.failed[i]/scale*barHeight
		if failed > 0 {
			failed = max(failed, 1.5) // one failure is to be seen
		}
		fresh := r.fresh[i] / scale * barHeight
		d.Box(from, bottom-fine, max(to-from-0.6, 0.4), fine-fresh, fineColour)
		if fresh > 0 {
			d.Box(from, bottom-fresh, max(to-from-0.6, 0.4), fresh, newColour)
		}
		if failed > 0 {
			d.Box(from, bottom-fine-failed, max(to-from-0.6, 0.4), failed, failFill)
		}
	}
	d.Line(plotLeft, bottom, plotWidth-plotRight, bottom, axisStyle)

	at, server := bottom+2, ""
	for _, life := range lives {
		if life.Server != server {
			server = life.Server
			at += groupGap
			d.Text(plotLeft-6, at+9, "end", ` font-size="11"`, server)
		}
		for i, c := range life.Changes {
			end := o.Stopped
			if i+1 < len(life.Changes) {
				end = life.Changes[i+1].At
			}
			if c.Phase != Gone && end.After(o.Began) && c.At.Before(o.Stopped) && x(end) > x(c.At) {
				d.Box(x(c.At), at, x(end)-x(c.At), max(lane-0.8, 1), phaseColour(c.Phase))
			}
		}
		at += lane
	}
	d.Line(plotLeft, at+3, plotWidth-plotRight, at+3, axisStyle)
	marks := slices.Concat(o.Marks, []Mark{{o.Ended, "ends"}})
	if marks[0].At.Sub(o.Started) > time.Second { // else the operation begins with that
		marks = append(marks, Mark{o.Started, "begins"})
	}
	for _, m := range marks {
		d.Line(x(m.At), top-2, x(m.At), at+3, `stroke="#555" stroke-dasharray="3 3"`)
		d.Text(x(m.At), top-5, "middle", ` font-size="10" fill="#555"`, m.Text)
	}
	every := svg.Step(seconds / 10)
	for v := 0.0; v <= seconds; v += every {
		tx := x(o.Began.Add(time.Duration(v * float64(time.Second))))
		d.Line(tx, at+3, tx, at+7, axisStyle)
		d.Text(tx, at+19, "middle", "", fmt.Sprintf("%.0f s", v))
	}
	return at + 34
}

// number writes thousands with a comma.
func number(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

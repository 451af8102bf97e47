package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/evenkeel/evenkeel/internal/svg"
)

// report is what a run has measured, as Markdown with plots.
type report struct {
	command, machine string
	began            time.Time
	sections         strings.Builder
	plots            map[string]string // by file name
	aims             []aim
}

// aim is a ratio that is to be reached.
type aim struct {
	what          string
	most          float64 // the limit; negative is at least its absolute value
	ratios        []float64
	constantPatch []float64 // what a constant patch has in evenkeel's place, where that says something
}

func (a aim) row() string {
	got, reached := a.count(a.ratios)
	constantPatch, _ := a.count(a.constantPatch)
	verdict := fmt.Sprintf("%d of %d", reached, len(a.ratios))
	switch reached {
	case len(a.ratios):
		verdict = "yes"
	case 0:
		verdict = "**no**"
	}
	limit := fmt.Sprintf("≤ %.4g", a.most)
	if a.most < 0 {
		limit = fmt.Sprintf("≥ %.4g", -a.most)
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s |\n", a.what, limit, got, verdict, constantPatch)
}

// count writes ratios and says how many of them are within the limit.
func (a aim) count(ratios []float64) (text string, within int) {
	var written []string
	for _, ratio := range ratios {
		if math.IsInf(ratio, 0) || math.IsNaN(ratio) {
			written = append(written, "–")
			continue
		}
		written = append(written, fmt.Sprintf("%.2f", ratio))
		if a.most < 0 && ratio >= -a.most || a.most >= 0 && ratio <= a.most {
			within++
		}
	}
	return strings.Join(written, ", "), within
}

// share returns own as a share of other, or NaN where other is lost in the noise.
func share(own, other float64) float64 {
	if other <= 0 {
		return math.NaN()
	}
	return own / other
}

// text is the whole report.
func (r *report) text() string {
	var t strings.Builder
	fmt.Fprintf(&t, "# What an admission costs\n\nWritten by `%s` in %v on %s. All that is compared was measured in "+
		"one run, in turns. Ratios carry over to other machines, times don't.\n", r.command,
		time.Since(r.began).Round(time.Second), r.machine)
	if len(r.aims) > 0 {
		t.WriteString("\n## Aims\n\n| evenkeel's ratio | aim | measured | reached | with a constant patch instead " +
			"|\n|---|---|---|---|---|\n")
		for _, a := range r.aims {
			t.WriteString(a.row())
		}
	}
	t.WriteString(r.sections.String())
	return t.String()
}

// write writes speed.md and its plots into a directory.
func (r *report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, plot := range r.plots {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(plot), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "speed.md"), []byte(r.text()), 0o644)
}

// plot adds a chart below the text so far.
func (r *report) plot(name string, c chart) {
	c.caption = r.command + "; " + r.machine
	r.plots[name] = c.svg()
	fmt.Fprintf(&r.sections, "\n![%s](%s)\n", c.title, name)
}

// cost is what a side's creates took, all of its rounds together: latencies and CPU in milliseconds.
type cost struct {
	p50, p99, server, webhook float64
	allocated                 float64 // bytes
	memory                    int     // KiB
}

func (c cost) minus(o cost) cost {
	return cost{p50: c.p50 - o.p50, p99: c.p99 - o.p99, server: c.server - o.server, webhook: c.webhook - o.webhook,
		allocated: c.allocated - o.allocated, memory: c.memory}
}

// cost returns what the creates of a side took. all is what they used, and perByte what the API
// server's garbage collector takes.
func (s *side) cost(atOnce int, all []used, perByte float64) cost {
	var latencies []time.Duration
	for _, r := range s.creates[atOnce] {
		latencies = append(latencies, r.latencies...)
	}
	var p50, p99 []float64
	for hundred := range slices.Chunk(latencies, 100) {
		slices.Sort(hundred)
		at := func(q float64) float64 { return hundred[int(q*float64(len(hundred)-1))].Seconds() * 1e3 }
		p50, p99 = append(p50, at(.5)), append(p99, at(.99))
	}
	u := typical(all, perByte)
	return cost{p50: median(p50), p99: median(p99), server: u.server, webhook: u.webhook, allocated: u.allocated,
		memory: u.memory}
}

// rounds returns what the creates of a side used, round by round.
func (s *side) rounds(atOnce int) []used {
	var all []used
	for _, r := range s.creates[atOnce] {
		all = append(all, r.used)
	}
	return all
}

// evened returns what sides used round by round as if the machine had been as fast in all rounds. What others take from
// it slows all sides of a round down alike, by tens of percent.
func evened(sides map[*side][]used) map[*side][]used {
	totals := map[int]float64{} // by round
	for _, all := range sides {
		for i, u := range all {
			totals[i] += u.server + u.webhook
		}
	}
	mean := 0.0
	for _, total := range totals {
		mean += total / float64(len(totals))
	}
	evened := map[*side][]used{}
	for side, all := range sides {
		for i, u := range all {
			u.server, u.webhook = u.server*mean/totals[i], u.webhook*mean/totals[i]
			evened[side] = append(evened[side], u)
		}
	}
	return evened
}

// typical returns what a side uses, in rounds without a collection, and its share of the
// collections by the bytes that it allocates.
func typical(all []used, perByte float64) used {
	var server, webhook, allocated []float64
	u := used{}
	for _, one := range all {
		server, webhook, allocated = append(server, one.server), append(webhook, one.webhook),
			append(allocated, one.allocated)
		u.memory = max(u.memory, one.memory)
	}
	u.webhook, u.allocated = middle(webhook), middle(allocated)
	u.server = middle(server) + perByte*u.allocated
	return u
}

// creates reports the creates of pods.
func (r *report) creates(s *servers, rounds, pods int, atOnce []int) {
	fmt.Fprintf(&r.sections, `
## A Pod created in the API server

A real kube-apiserver, asked to create a Pod of %s by as many clients at once, about %d times each, %d or more in a
round. What a webhook or policy *adds* is the difference to the creation of the same Pod where nothing is asked, on
the first line of each group; CPU is that of kube-apiserver and of the webhook's process. Every Pod that was created
is compared with one in which the defaults were written by hand. Webhooks are called over HTTP/1.1, as behind any
Service. All sides take turns in each round; what they take in a round in which the machine was slow, with others on
it, counts for less. kube-apiserver collects its garbage between rounds, when there is no room for the next one, since
one collection takes as much CPU as a hundred creations and would decide over a round; its share of those is added to
its CPU by the bytes that it allocates, %.1f ms of CPU for 100 MB (%s). Of latencies, each hundred has its own
percentiles, and the median of those is stated: they hold no collections, of which there are the more, the more is
allocated. The webhook's CPU on the first line is evenkeel's: one of its replicas watches all Pods of the cluster, for
the budgets, and is told of each.

| at once | asked | added p50 | added p99 | API server CPU | webhook CPU | together `+
		`| to the constant patch | API server allocates | webhook memory |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|
`, size(len(s.pod)), rounds*pods, pods, 1e8*s.garbage.perByte(), s.garbage.nonetheless())
	c := chart{title: "What a webhook or policy adds to the creation of a Pod", panels: []panel{
		{title: "added latency", unit: "ms", series: []string{"median", "to the 99th percentile"}, both: true, byGroup: true},
		{title: "added CPU time", unit: "ms", series: []string{"API server", "webhook"}}}}
	ratios := map[[3]string][]float64{} // of whom, to whom, in what
	perByte := s.garbage.perByte()
	for _, n := range atOnce {
		rounds := map[*side][]used{}
		for _, side := range s.sides {
			if side.pods {
				rounds[side] = side.rounds(n)
			}
		}
		costs := map[string]cost{}
		for side, all := range evened(rounds) {
			costs[side.name] = side.cost(n, all, perByte)
		}
		bare := costs[nothing]
		watching := bare.webhook
		bare.webhook = 0
		if own, ok := costs[evenkeel]; ok {
			own.webhook -= watching
			costs[evenkeel] = own
		}
		for _, side := range s.sides {
			if !side.pods {
				continue
			}
			name, x := side.name, costs[side.name].minus(bare)
			if side.remark != "" {
				name += " (" + side.remark + ")"
			}
			if side.name == nothing {
				fmt.Fprintf(&r.sections, "| %d | nothing: the whole creation | %.1f ms | %.1f ms | %.2f ms | %.2f ms | %.2f ms "+
					"| | %.0f KB | |\n",
					n, bare.p50, bare.p99, bare.server, watching, bare.server+watching, bare.allocated/1e3)
				continue
			}
			together := x.server + x.webhook
			ratio := "–"
			if f, ok := costs[constantPatch]; ok {
				d := f.minus(bare)
				ratio = fmt.Sprintf("%.2f", together/(d.server+d.webhook))
			}
			cpu, memory := "–", "–"
			if side.pid != 0 {
				cpu, memory = fmt.Sprintf("%.2f ms", x.webhook), fmt.Sprintf("%.0f MiB", float64(x.memory)/1024)
			}
			fmt.Fprintf(&r.sections, "| %d | %s | %.1f ms | %.1f ms | %.2f ms | %s | %.2f ms | %s | %.0f KB | %s |\n",
				n, name, x.p50, x.p99, x.server, cpu, together, ratio, x.allocated/1e3, memory)
			c.rows = append(c.rows, bar{group: fmt.Sprintf("%d at once", n), label: side.name,
				values: [][]float64{{x.p50, x.p99 - x.p50}, {x.server, x.webhook}}})
			for _, of := range []string{evenkeel, constantPatch} {
				if y, ok := costs[of]; ok {
					y = y.minus(bare)
					for what, ratio := range map[string]float64{"p50": share(y.p50, x.p50), "p99": share(y.p99, x.p99),
						"CPU": share(y.server+y.webhook, together)} {
						key := [3]string{of, side.name, what}
						ratios[key] = append(ratios[key], ratio)
					}
				}
			}
		}
	}
	r.plot("speed-api-server.svg", c)
	for _, against := range []struct {
		name, text string
		most       float64
		of         []string
	}{
		{constantPatch, "a constant patch's", 1.1, []string{"p50", "p99", "CPU"}},
		{threePolicies, "three in-tree policies'", 0.5, []string{"p50", "p99", "CPU"}},
		{onePolicy, "one in-tree policy's", 1, []string{"p99", "CPU"}},
	} {
		for _, what := range against.of {
			if got := ratios[[3]string{evenkeel, against.name, what}]; got != nil {
				a := aim{what: fmt.Sprintf("Pod created, %s at once: added %s to %s", join(atOnce), what, against.text),
					most: against.most, ratios: got}
				if against.name != constantPatch {
					a.constantPatch = ratios[[3]string{constantPatch, against.name, what}]
				}
				r.aims = append(r.aims, a)
			}
		}
	}
}

func join(numbers []int) string {
	return strings.ReplaceAll(strings.Trim(fmt.Sprint(numbers), "[]"), " ", ", ")
}

// rollouts reports the creation of Deployments.
func (r *report) rollouts(s *servers, times, deployments int) {
	fmt.Fprintf(&r.sections, `
## A whole rollout

A Deployment of %d replicas is created, %d times in %d rounds, and kube-controller-manager makes its Pods. evenkeel is
asked once, for the Deployment: its own metrics are counted, and every Pod is looked at. Policies on Pods are asked
for each. With its budgets evenkeel also writes a PodDisruptionBudget and an Event, which the others have no
counterpart of. Rounds are evened, and collections shared out, as above (%s); the first line has evenkeel's for
watching Deployments and Pods.

| asked | reviews | until all Pods are there | added | API server CPU | added | webhook CPU | added together |
|---|--:|--:|--:|--:|--:|--:|--:|
`, replicas, times*deployments, times, s.garbage.nonetheless())
	type totals struct{ took, server, webhook, reviews float64 }
	rounds := map[*side][]used{}
	for _, side := range s.sides {
		for _, d := range side.deployments {
			rounds[side] = append(rounds[side], d.used)
		}
	}
	rounds = evened(rounds)
	perByte := s.garbage.perByte()
	of := func(side *side) totals {
		var took []float64
		for _, d := range side.deployments {
			took = append(took, d.took.Seconds()*1e3)
		}
		u := typical(rounds[side], perByte)
		return totals{median(took), u.server, u.webhook, side.deployments[0].reviews}
	}
	c := chart{title: fmt.Sprintf("What they add to the creation of a Deployment of %d replicas and its Pods", replicas),
		panels: []panel{{title: "added CPU time", unit: "ms", series: []string{"API server", "webhook"}}}}
	var bare totals
	added := map[string]float64{}
	for _, side := range s.sides {
		if !side.rollouts {
			continue
		}
		x := of(side)
		if side.name == nothing {
			bare = x
			fmt.Fprintf(&r.sections, "| nothing | 0 | %.0f ms | | %.0f ms | | %.1f ms | |\n", x.took, x.server, x.webhook)
			continue
		}
		x.server -= bare.server
		if side.ours {
			x.webhook -= bare.webhook
		}
		added[side.name] = x.server + x.webhook
		webhook := "–"
		if side.pid != 0 {
			webhook = fmt.Sprintf("%.1f ms", x.webhook)
		}
		fmt.Fprintf(&r.sections, "| %s | %.0f | %.0f ms | %.0f ms | %.0f ms | %.1f ms | %s | %.1f ms |\n",
			side.name, x.reviews, x.took, x.took-bare.took, x.server+bare.server, x.server, webhook, added[side.name])
		c.rows = append(c.rows, bar{label: side.name, values: [][]float64{{x.server, x.webhook}}})
	}
	r.plot("speed-rollout.svg", c)
	for _, against := range []string{threePolicies, onePolicy} {
		r.aims = append(r.aims, aim{what: "Rollout: added CPU to that of " + against + " on Pods", most: 0.33,
			ratios: []float64{share(added[evenkeel], added[against])}})
	}
}

// chart is a plot of horizontal bars, one panel beside the other.
type chart struct {
	title, caption string
	panels         []panel
	rows           []bar
}

// panel is one measure; the values of its series stand one after the other in a bar.
type panel struct {
	title, unit string
	series      []string
	both        bool // the first value is written beside the bar, too
	byGroup     bool // each group has a scale of its own
}

// bar is a row of a chart.
type bar struct {
	group, label string
	values       [][]float64 // by panel and series
}

const (
	chartWidth  = 960.0
	chartLeft   = 190.0
	rowHeight   = 18.0
	groupHeight = 24.0
)

// svg draws the chart.
func (c chart) svg() string {
	colours := []string{"#1f4e79", "#9cc3e6", "#e69138"}
	height, group := 84.0, ""
	for _, row := range c.rows {
		if row.group != group {
			height += groupHeight
			group = row.group
		}
		height += rowHeight
	}
	bottom := height - 26
	d := svg.New(chartWidth, height)
	d.Text(10, 20, "start", ` font-size="15" font-weight="bold"`, c.title)
	const room = 110 // for the values beside the bars
	width := (chartWidth-chartLeft)/float64(len(c.panels)) - room
	for p, panel := range c.panels {
		left := chartLeft + float64(p)*(width+room)
		d.Text(left, 42, "start", ` font-weight="bold"`, panel.title)
		x := left + 120
		for i, name := range panel.series {
			d.Box(x, 33, 10, 10, colours[i])
			d.Text(x+14, 42, "start", "", name)
			x += 30 + 6.4*float64(len(name))
		}
		most := map[string]float64{}
		for _, row := range c.rows {
			for _, group := range []string{"", row.group} {
				most[group] = max(most[group], sum(row.values[p]))
			}
		}
		y, group := 50.0, ""
		for _, row := range c.rows {
			if row.group != group {
				group = row.group
				if p == 0 {
					d.Text(10, y+groupHeight-6, "start", ` font-weight="bold"`, group)
				}
				y += groupHeight
			}
			if p == 0 {
				d.Text(chartLeft-8, y+12, "end", "", row.label)
			}
			scale := most[""]
			if panel.byGroup {
				scale = most[group]
			}
			at := left
			for i, value := range row.values[p] {
				length := max(value, 0) / scale * width
				d.Box(at, y+2, length, rowHeight-4, colours[i])
				at += length
			}
			value := short(sum(row.values[p]))
			if panel.both {
				value = short(row.values[p][0]) + " – " + value
			}
			d.Text(at+4, y+12, "start", ` font-size="11"`, value+" "+panel.unit)
			y += rowHeight
		}
		d.Line(left, 50, left, bottom, `stroke="#777"`)
	}
	d.Text(10, height-8, "start", ` font-size="10" fill="#666"`, c.caption)
	return d.String()
}

// middle returns the mean of values without the lowest and the highest tenth: a median would leave out the webhook's
// garbage collections of every second round, and a mean take in what others on the machine do.
func middle(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	off := (len(sorted) + 5) / 10
	if len(sorted) < 3 {
		off = 0
	}
	kept := sorted[off : len(sorted)-off]
	return sum(kept) / float64(len(kept))
}

// short writes two digits of small numbers and no fraction of large ones.
func short(v float64) string {
	if v < 10 {
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

func sum(values []float64) float64 {
	total := 0.0
	for _, value := range values {
		total += value
	}
	return total
}

package main

import (
	"cmp"
	"fmt"
	"html"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A report is what all runs gave.
type report struct {
	Date       time.Time
	Versions   string
	Command    string
	Took       time.Duration
	Installed  []string // sentences about how long it took
	Steady     *outcome
	Outcomes   []*outcome
	Voided     []*outcome   // runs that showed nothing, since the machine was too busy
	Programmed *programming // nil where it was not measured
}

// A row is one scenario over all its runs.
type row struct {
	scenario
	runs  int
	sides map[string]*summary // sums; outage, p99 and time are the worst of all runs
	took  map[string]time.Duration
	first *outcome // whose timeline is shown: the one with the most failures with evenkeel
	notes []string
}

// rows sums up the runs of each scenario.
func (r *report) rows() []*row {
	var rows []*row
	for _, o := range r.Outcomes {
		i := slices.IndexFunc(rows, func(have *row) bool { return have.ID == o.Scenario.ID })
		if i < 0 {
			i = len(rows)
			rows = append(rows, &row{scenario: o.Scenario, sides: map[string]*summary{}, took: map[string]time.Duration{}, first: o})
			for _, side := range sides() {
				rows[i].sides[side] = &summary{Causes: map[string]int{}}
			}
		}
		have := rows[i]
		have.runs++
		if o.Sides[with].Failed > have.first.Sides[with].Failed {
			have.first = o
		}
		for _, note := range o.Notes {
			have.notes = append(have.notes, fmt.Sprintf("run %d: %s", o.Repetition, note))
		}
		for _, side := range sides() {
			sum, one := have.sides[side], o.Sides[side]
			sum.Sent += one.Sent
			sum.Failed += one.Failed
			sum.Cut += one.Cut
			sum.Raced += one.Raced
			sum.Undone += one.Undone
			sum.P99 = max(sum.P99, one.P99)
			if one.Outage > sum.Outage {
				sum.Outage, sum.OutageOf = one.Outage, one.OutageOf
			}
			for cause, n := range one.Causes {
				sum.Causes[cause] += n
			}
			have.took[side] = max(have.took[side], o.Took[side])
		}
	}
	slices.SortStableFunc(rows, func(a, b *row) int { return cmp.Compare(a.ID, b.ID) })
	return rows
}

// markdown is the table of the README.
func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString("| scenario | failed without | failed with | of these cut | raced | GOAWAY | longest outage | took |\n|---|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, row := range r.rows() {
		a, z := row.sides[without], row.sides[with]
		fmt.Fprintf(&b, "| %s %s | %s of %s | **%s** of %s | %s | %s | %s | %s → %s | %s → %s |\n", row.ID, row.Title,
			number(a.Failed), number(a.Sent), number(z.Failed), number(z.Sent), number(z.Cut), number(z.Raced), number(z.Undone),
			seconds(a.Outage), seconds(z.Outage), seconds(row.took[without]), seconds(row.took[with]))
	}
	return b.String()
}

func seconds(d time.Duration) string {
	if d == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

// causes lists failures by cause, the most frequent first.
func causes(counts map[string]int) string {
	var parts []string
	for _, cause := range byCount(counts) {
		parts = append(parts, number(counts[cause])+" "+cause)
	}
	return strings.Join(parts, ", ")
}

// explain lists the failures of a side by server, client, cause, and what the pod did, as far as the client knew the pod.
func (o *outcome) explain(side string) []string {
	counts, details := map[string]int{}, map[string]string{}
	for _, r := range o.Records {
		t := o.Targets[r.Target]
		if r.Cause == "" || t.Side != side {
			continue
		}
		key := fmt.Sprintf("%s, %s: %s; %s", t.Server, o.Clients[r.Client], r.Cause, o.doing(side, t.Server, r))
		counts[key]++
		if details[key] == "" {
			details[key] = r.Detail
		}
	}
	var lines []string
	for _, key := range byCount(counts) {
		lines = append(lines, fmt.Sprintf("%d × %s (%s)", counts[key], key, details[key]))
	}
	return lines
}

// doing says what the pod of a failed request was doing; where the client never learned which pod it was, what pods of that server
// changed around that time.
func (o *outcome) doing(side, server string, r record) string {
	const around = 3 * time.Second
	end := time.UnixMicro(r.Due + r.Latency)
	var changed []string
	for i := range o.Pods {
		life := &o.Pods[i]
		if life.Side != side || life.Server != server {
			continue
		}
		if r.Pod != "" && life.Name == r.Pod {
			doing, since := life.at(end)
			text := fmt.Sprintf("its pod was %s for %.0f s", doing, end.Sub(since).Seconds())
			if next, at := life.at(end.Add(around)); next != doing {
				text += fmt.Sprintf(" and %s %.0f s later", next, at.Sub(end).Seconds())
			}
			return text
		}
		if r.Pod == "" {
			for _, c := range life.Changes {
				if d := c.At.Sub(end); -around < d && d < around {
					changed = append(changed, "pods became "+string(c.Phase))
				}
			}
		}
	}
	if r.Pod != "" {
		return "its pod was gone"
	}
	if len(changed) == 0 {
		return "no pod changed within 3 s"
	}
	slices.Sort(changed)
	return strings.Join(slices.Compact(changed), ", ")
}

// write writes the HTML page and the plots into a directory.
func (r *report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var page strings.Builder
	page.WriteString(`<!doctype html><html lang="en"><meta charset="utf-8"><title>evenkeel: the proof</title><style>
body{font:15px/1.45 sans-serif;color:#333;max-width:1020px;margin:2em auto;padding:0 1em}
table{border-collapse:collapse;font-size:13px}td,th{border-bottom:1px solid #ddd;padding:4px 8px;text-align:right;vertical-align:top}
td:nth-child(1),th:nth-child(1),td:nth-child(2),td.causes{text-align:left}.bad{color:#d62728;font-weight:bold}.good{color:#2e7d4f;font-weight:bold}
td:not(:first-child):not(.causes){white-space:nowrap}img{max-width:100%;height:auto}summary{cursor:pointer}li{font-size:13px}</style>
<h1>No request fails: the proof</h1>
`)
	fmt.Fprintf(&page, "<p>%s, in %s, by <code>%s</code>. %s.</p>\n", r.Date.Format(time.DateOnly), r.Took.Round(time.Second), html.EscapeString(r.Command), html.EscapeString(r.Versions))
	page.WriteString("<p>Five servers (one that starts slowly, one that stops at once, one that drains, one without a shell, one with a sidecar), none of them with a probe, a hook, an affinity or a budget of its own, " +
		"and four clients (a new connection per request, persistent HTTP/1.1, HTTP/2, gRPC) run side by side in two namespaces, which differ in the label <code>evenkeel.dev/inject: enabled</code>. " +
		"Requests start at fixed times, whether earlier ones are answered or not, have 5 s, and are never sent again.</p>\n")
	list(&page, "", r.Installed)
	if s := r.Steady; s != nil {
		fmt.Fprintf(&page, "<p>Steady state first: %s of %s requests failed in %s.</p>\n", number(s.failed()),
			number(s.Sides[without].Sent+s.Sides[with].Sent), s.Stopped.Sub(s.Began).Round(time.Second))
	}
	page.WriteString("<table><tr><th>scenario<th>evenkeel<th>runs<th>sent<th>failed<th>of these cut<th>raced<th>GOAWAY<th>longest outage<th>p99<th>took<th>failures by cause</tr>\n")
	for _, row := range r.rows() {
		for i, side := range sides() {
			title := ""
			if i == 0 {
				title = fmt.Sprintf(`<a href="#s%s">%s</a> %s`, row.ID, row.ID, html.EscapeString(row.Title))
			}
			s := row.sides[side]
			class := "good"
			if s.unexcepted() > 0 {
				class = "bad"
			}
			fmt.Fprintf(&page, "<tr><td>%s<td>%s<td>%d<td>%s<td class=%s>%s<td>%s<td>%s<td>%s<td>%s<td>%s<td>%s<td class=causes>%s</tr>\n", title, side, row.runs, number(s.Sent), class, number(s.Failed), number(s.Cut), number(s.Raced), number(s.Undone),
				seconds(s.Outage), milliseconds(s.P99), seconds(row.took[side]), html.EscapeString(causes(s.Causes)))
		}
	}
	page.WriteString("</table>\n<p>Three kinds of failures are counted like all others, and named: <em>cut</em> are requests on persistent connections to the server " +
		"that is gone with SIGTERM, which takes them with it however long it slept before; <em>raced</em> are requests that were on their way over HTTP/1.1 while a server's shutdown closed the connection as idle; <em>GOAWAY</em> are requests over HTTP/2 or gRPC that were on their way while a server said that it drains: " +
		"it has not processed them, and the protocol has clients send them again, which these don't. <a href=\"proof.md\">proof.md</a> says what to do about them.</p>\n")
	for _, row := range r.rows() {
		plot := timeline(row.first)
		if err := os.WriteFile(filepath.Join(dir, "proof-"+row.ID+".svg"), []byte(plot), 0o644); err != nil {
			return err
		}
		fmt.Fprintf(&page, "<h2 id=s%s>%s %s</h2>\n<img src=\"proof-%s.svg\" alt=\"timeline\">\n", row.ID, row.ID, html.EscapeString(row.Title), row.ID)
		list(&page, "", row.notes)
		for _, side := range sides() {
			lines := row.first.explain(side)
			if len(lines) > 40 {
				lines = append(lines[:40], fmt.Sprintf("and %d more kinds", len(lines)-40))
			}
			list(&page, "The failures "+side+" evenkeel of the run shown", lines)
		}
	}
	var voided []string
	for _, o := range r.Voided {
		voided = append(voided, fmt.Sprintf("%s, run %d: %s; without evenkeel %s; with evenkeel %s", o.Scenario.Title, o.Repetition, o.void(), o.Sides[without].line(), o.Sides[with].line()))
	}
	if len(voided) > 0 {
		page.WriteString("<h2>Void</h2>\n<p>A server that is no pod, and that nothing happens to, is asked the same way. Where a request to it fails or takes more than 2.5 s, the machine was too busy to show anything, and the run is repeated.</p>\n")
		list(&page, "", voided)
	}
	if r.Programmed != nil {
		plot := r.Programmed.plot()
		if err := os.WriteFile(filepath.Join(dir, "proof-endpoints.svg"), []byte(plot), 0o644); err != nil {
			return err
		}
		fmt.Fprintf(&page, "<h2>How long endpoints take to leave every node</h2>\n<img src=\"proof-endpoints.svg\" alt=\"distribution\"><p>%s</p>\n", html.EscapeString(r.Programmed.sentence()))
	}
	page.WriteString("</html>\n")
	return os.WriteFile(filepath.Join(dir, "proof.html"), []byte(page.String()), 0o644)
}

// list writes lines, folded below a title if there is one.
func list(page *strings.Builder, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	if title != "" {
		fmt.Fprintf(page, "<details><summary>%s</summary>", html.EscapeString(title))
	}
	page.WriteString("<ul>\n")
	for _, line := range lines {
		fmt.Fprintf(page, "<li>%s</li>\n", html.EscapeString(line))
	}
	page.WriteString("</ul>")
	if title != "" {
		page.WriteString("</details>")
	}
	page.WriteString("\n")
}

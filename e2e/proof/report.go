package main

import (
	"cmp"
	"fmt"
	"html"
	"maps"
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
	Installed  []installed
	Wanted     []string // scenarios that are to be there, each in as many runs
	Runs       int
	Steady     *outcome
	Outcomes   []*outcome
	Voided     []*outcome   // runs that showed nothing, since the machine was too busy
	Programmed *programming // nil where it was not measured
}

// installed is how long it took from the beginning of a command until a pod got its defaults.
type installed struct {
	Command string
	Took    time.Duration
}

func (i installed) sentence() string {
	return fmt.Sprintf("The first pod got its defaults %.1f s after the beginning of %s.", i.Took.Seconds(), i.Command)
}

// A row is one scenario over all its runs.
type row struct {
	scenario
	runs  []*outcome
	sides map[string]*summary      // sums; outage and p99 are the worst of all runs
	took  map[string]time.Duration // the longest
	shown *outcome                 // whose timeline is shown: the one with the most failures with evenkeel
	notes []string
}

// rows sums up the runs of each scenario.
func (r *report) rows() []*row {
	var rows []*row
	for _, o := range r.Outcomes {
		i := slices.IndexFunc(rows, func(have *row) bool { return have.ID == o.Scenario.ID })
		if i < 0 {
			i = len(rows)
			rows = append(rows, &row{scenario: o.Scenario, sides: map[string]*summary{}, took: map[string]time.Duration{}, shown: o})
			for _, side := range sides() {
				rows[i].sides[side] = newSummary()
			}
		}
		have := rows[i]
		have.runs = append(have.runs, o)
		if o.Sides[with].Failed > have.shown.Sides[with].Failed {
			have.shown = o
		}
		for _, note := range o.Notes {
			have.notes = append(have.notes, fmt.Sprintf("run %d: %s", o.Repetition, note))
		}
		for _, side := range sides() {
			sum, one := have.sides[side], o.Sides[side]
			for server, clients := range one.Where {
				for client, n := range clients {
					sum.count(server, client, n)
				}
			}
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

// markdown is the table of the README and what it says below.
func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString("| scenario | failed without | failed with | of these cut | raced | GOAWAY | longest outage | took at most |\n|---|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, row := range r.rows() {
		a, z := row.sides[without], row.sides[with]
		fmt.Fprintf(&b, "| %s %s | %s of %s | **%s** of %s | %s | %s | %s | %s → %s | %s → %s |\n", row.ID, row.Title,
			number(a.Failed), number(a.Sent), number(z.Failed), number(z.Sent), number(z.Cut), number(z.Raced), number(z.Undone),
			outage(a), outage(z), row.tookAtMost(without), row.tookAtMost(with))
	}
	fmt.Fprintf(&b, "\n%s\n", strings.Join(r.sentences(), " "))
	return b.String()
}

// sentences say what the table doesn't.
func (r *report) sentences() []string {
	var list []string
	for _, i := range r.Installed {
		list = append(list, i.sentence())
	}
	sides := map[string]*tally{without: {}, with: {}}
	for _, row := range r.rows() {
		for side, sum := range sides {
			if promised(row.ID) {
				sum.add(row.sides[side].Where[atOnce][newConnection])
			}
		}
	}
	if sides[with].Sent > 0 {
		list = append(list, fmt.Sprintf("New connections to the server that ends at once, which only the sleep protects, failed in 1 to 5 and 8 as follows: %s of %s without evenkeel, %s of %s with.",
			number(sides[without].Failed), number(sides[without].Sent), number(sides[with].Failed), number(sides[with].Sent)))
	}
	void := "No run was void"
	if n := len(r.Voided); n > 0 {
		void = fmt.Sprintf("%d of the runs were void and repeated, since the control failed too", n)
	}
	return append(list, void+".")
}

// outage is the longest outage in a table.
func outage(s *summary) string {
	switch {
	case s.Outage == 0:
		return "none"
	case s.Outage < 100*time.Millisecond:
		return "<0.1 s"
	}
	return seconds(s.Outage)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// tookAtMost is the longest time that the operation took for a side, and in how many runs it didn't end.
func (r *row) tookAtMost(side string) string {
	endless := 0
	for _, o := range r.runs {
		if o.Took[side] == never {
			endless++
		}
	}
	switch {
	case endless == len(r.runs):
		return "never ends"
	case endless > 0:
		return fmt.Sprintf("never ends in %d of %d runs", endless, len(r.runs))
	case r.took[side] == 0:
		return "–" // nobody looked
	}
	return seconds(r.took[side])
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
		key := fmt.Sprintf("%s, %s: %s; %s", t.Server, o.Clients[r.Client], r.Cause, o.doing(r))
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

// doing says what the pod of a failed request was doing; where the connection never led to one that answered, what pods of that server
// changed around that time.
func (o *outcome) doing(r record) string {
	const around = 3 * time.Second
	if o.onLostNode(r) {
		if r.end().After(o.Lost.Restored) {
			return "it has a pod on the lost node, which was back"
		}
		return "it has a pod on the lost node"
	}
	if life := o.pod(r); life != nil {
		doing, since := life.at(r.end())
		text := fmt.Sprintf("its pod was %s for %.0f s", doing, r.end().Sub(since).Seconds())
		if next, at := life.at(r.end().Add(around)); next != doing {
			text += fmt.Sprintf(" and %s %.0f s later", next, at.Sub(r.end()).Seconds())
		}
		return text
	}
	if r.Pod != "" {
		return "its pod was gone"
	}
	var changed []string
	for _, life := range o.servers(r) {
		for _, c := range life.Changes {
			if d := c.At.Sub(r.end()); -around < d && d < around {
				changed = append(changed, "pods became "+string(c.Phase))
			}
		}
	}
	if len(changed) == 0 {
		return "no pod changed within 3 s"
	}
	slices.Sort(changed)
	return strings.Join(slices.Compact(changed), ", ")
}

// servers returns the pods that a request may have been led to.
func (o *outcome) servers(r record) []podLife {
	t := o.Targets[r.Target]
	return slices.DeleteFunc(slices.Clone(o.Pods), func(life podLife) bool { return life.Side != t.Side || life.Server != t.Server })
}

// onLostNode says whether a failure from the loss of a node on is about a pod there: the one that the connection led to or, where that isn't
// known, any of its server.
func (o *outcome) onLostNode(r record) bool {
	if o.Lost == nil || r.end().Before(o.Lost.At) {
		return false
	}
	if life := o.pod(r); life != nil {
		return life.Node == o.Lost.Node
	}
	return slices.ContainsFunc(o.servers(r), func(life podLife) bool { return life.Node == o.Lost.Node })
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
td:nth-child(1),th:nth-child(1),td:nth-child(2),td.causes{text-align:left}
td:not(:first-child):not(.causes){white-space:nowrap}details{overflow-x:auto}img{max-width:100%;height:auto}summary{cursor:pointer}li{font-size:13px}</style>
<h1>No request fails: the proof</h1>
`)
	fmt.Fprintf(&page, "<p>%s, in %s, by <code>%s</code>. %s.</p>\n", r.Date.Format(time.DateOnly), r.Took.Round(time.Second), html.EscapeString(r.Command), html.EscapeString(r.Versions))
	page.WriteString("<p>Five servers (one that starts slowly, one that stops at once, one that drains, one without a shell, one with a sidecar), none of them with a probe, a hook, an affinity or a budget of its own, " +
		"and four clients (a new connection per request, persistent HTTP/1.1, HTTP/2, gRPC) run side by side in two namespaces, which differ in the label <code>evenkeel.dev/inject: enabled</code>. " +
		"Requests start at fixed times, whether earlier ones are answered or not, have 5 s, and are never sent again.</p>\n")
	list(&page, "", r.sentences())
	if s := r.Steady; s != nil {
		fmt.Fprintf(&page, "<p>Steady state first: %s of %s requests failed in %s.</p>\n", number(s.failed()),
			number(s.Sides[without].Sent+s.Sides[with].Sent), s.Stopped.Sub(s.Began).Round(time.Second))
	}
	page.WriteString("<table><tr><th>scenario<th>evenkeel<th>runs<th>sent<th>failed<th>of these cut<th>raced<th>GOAWAY<th>longest outage<th>p99<th>took at most<th>failures by cause</tr>\n")
	for _, row := range r.rows() {
		for i, side := range sides() {
			title := ""
			if i == 0 {
				title = fmt.Sprintf(`<a href="#s%s">%s</a> %s`, row.ID, row.ID, html.EscapeString(row.Title))
			}
			s := row.sides[side]
			fmt.Fprintf(&page, "<tr><td>%s<td>%s<td>%d<td>%s<td style=\"color:%s;font-weight:bold\">%s<td>%s<td>%s<td>%s<td>%s<td>%s<td>%s<td class=causes>%s</tr>\n", title, side, len(row.runs), number(s.Sent), s.colour(), number(s.Failed), number(s.Cut), number(s.Raced), number(s.Undone),
				html.EscapeString(outage(s)), milliseconds(s.P99), row.tookAtMost(side), html.EscapeString(causes(s.Causes)))
		}
	}
	page.WriteString("</table>\n<p>Outage, p99 and time are the worst of all runs. Three kinds of failures are counted like all others, and named, where connection and pod give the evidence: <em>cut</em> are requests on persistent connections to a server " +
		"that is gone with SIGTERM, which takes them with it however long it slept before; <em>raced</em> are requests that were on their way over HTTP/1.1 while a server's shutdown closed the connection as idle; <em>GOAWAY</em> are requests over HTTP/2 or gRPC that were on their way while a server said that it drains: " +
		"it has not processed them, and the protocol has clients send them again, which these don't. Numbers are green where nothing failed, amber where only these did, red otherwise. <a href=\"proof.md\">proof.md</a> says what counts as evidence, and what to do about them.</p>\n")
	for _, row := range r.rows() {
		plot := timeline(row.shown)
		if err := os.WriteFile(filepath.Join(dir, "proof-"+row.ID+".svg"), []byte(plot), 0o644); err != nil {
			return err
		}
		fmt.Fprintf(&page, "<h2 id=s%s>%s %s</h2>\n<img src=\"proof-%s.svg\" alt=\"timeline\">\n", row.ID, row.ID, html.EscapeString(row.Title), row.ID)
		list(&page, "", row.notes)
		row.writeWhere(&page)
		row.writeFailures(&page)
		list(&page, "The failures without evenkeel of all runs", row.summed(without))
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

// colour is what a number of failures is written in.
func (s *summary) colour() string {
	switch {
	case s.Failed == 0:
		return goodColour
	case s.unexcepted() == 0:
		return namedColour
	}
	return failColour
}

// writeWhere writes the table of failures by server and client.
func (r *row) writeWhere(page *strings.Builder) {
	page.WriteString("<table><tr><th>server<th>evenkeel")
	for _, client := range r.shown.Clients {
		fmt.Fprintf(page, "<th>%s", html.EscapeString(client))
	}
	page.WriteString("</tr>\n")
	for _, server := range slices.Sorted(maps.Keys(r.sides[with].Where)) {
		for i, side := range sides() {
			title := ""
			if i == 0 {
				title = server
			}
			fmt.Fprintf(page, "<tr><td>%s<td>%s", html.EscapeString(title), side)
			for _, client := range r.shown.Clients {
				n := r.sides[side].Where[server][client]
				fmt.Fprintf(page, "<td>%s of %s", number(n.Failed), number(n.Sent))
			}
			page.WriteString("</tr>\n")
		}
	}
	page.WriteString("</table>\n")
}

// mostListed is the number of failures of a run up to which each is listed. A lost node has a thousand of the same kind.
const mostListed = 200

// writeFailures lists the failures with evenkeel of all runs, one by one.
func (r *row) writeFailures(page *strings.Builder) {
	if r.sides[with].Failed == 0 {
		return
	}
	page.WriteString("<details open><summary>The failures with evenkeel of all runs</summary>\n<table><tr><th>run<th>at<th>server<th>client<th>cause<th>exception<th>connection's age<th>pod<th>node<th>terminating for<th>SIGTERM before<th>what happened</tr>\n")
	for _, o := range r.runs {
		if o.Sides[with].Failed > mostListed {
			fmt.Fprintf(page, "<tr><td>%d<td colspan=11 class=causes>%s</tr>\n", o.Repetition, strings.ReplaceAll(html.EscapeString(strings.Join(o.explain(with), "\n")), "\n", "<br>"))
			continue
		}
		for _, record := range o.Records {
			if record.Cause != "" && o.Targets[record.Target].Side == with {
				fmt.Fprintf(page, "<tr><td>%d", o.Repetition)
				for _, cell := range o.cells(record) {
					fmt.Fprintf(page, "<td class=causes>%s", html.EscapeString(cell))
				}
				page.WriteString("</tr>\n")
			}
		}
	}
	page.WriteString("</table></details>\n")
}

// cells are what there is to say about a failure: when, server, client, cause, exception, the connection's age, pod, node, for how long
// the pod was terminating, how long ago it got SIGTERM, and the rest.
func (o *outcome) cells(r record) []string {
	since := func(t time.Time) string {
		if t.IsZero() || t.After(r.end()) {
			return "–"
		}
		return fmt.Sprintf("%.1f s", r.end().Sub(t).Seconds())
	}
	age, pod, node, term, told := "no connection", "none answered", "–", "–", "–"
	if r.Opened > 0 {
		age = since(time.UnixMicro(r.Opened))
	}
	if life := o.pod(r); life != nil {
		pod, node, term, told = life.Name, life.Node, since(life.terminates()), since(life.Told)
	}
	return []string{fmt.Sprintf("%.1f s", r.end().Sub(o.Started).Seconds()), o.Targets[r.Target].Server, o.Clients[r.Client], r.Cause, cmp.Or(o.exception(r), "none"),
		age, pod, node, term, told, o.doing(r) + " (" + r.Detail + ")"}
}

// summed counts the failures of a side in all runs by server, client and cause, the most frequent first.
func (r *row) summed(side string) []string {
	counts := map[string]int{}
	for _, o := range r.runs {
		for _, record := range o.Records {
			if t := o.Targets[record.Target]; record.Cause != "" && t.Side == side {
				counts[t.Server+", "+o.Clients[record.Client]+": "+record.Cause]++
			}
		}
	}
	var lines []string
	for _, key := range byCount(counts) {
		lines = append(lines, number(counts[key])+" × "+key)
	}
	return lines
}

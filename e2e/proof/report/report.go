package report

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/evenkeel/evenkeel/e2e/proof/load"
)

// A Report is what all runs gave.
type Report struct {
	Date       time.Time
	Versions   string
	Proxy      string // mode of kube-proxy
	Families   string // ipFamilies of the Services, the one that clients use first
	Command    string
	Took       time.Duration
	Installed  []Installed
	Wanted     []string // scenarios that are to be there, each in as many runs
	Runs       int
	Control    bool // some of evenkeel is off, and the run counts for nothing else
	Steady     *Outcome
	Outcomes   []*Outcome
	Voided     []*Outcome // runs that showed nothing, since the machine was too busy
	Programmed []*Programming
}

// Installed is how long it took from the beginning of a command until a pod got its defaults.
type Installed struct {
	Command string
	Took    time.Duration
}

// Sentence says it.
func (i Installed) Sentence() string {
	return fmt.Sprintf("The first pod got its defaults %.1f s after the beginning of %s.", i.Took.Seconds(), i.Command)
}

// A row is one scenario over all its runs.
type row struct {
	Scenario
	runs  []*Outcome
	sides map[string]*Summary      // sums; outage and p99 are the worst of all runs
	took  map[string]time.Duration // the longest
	shown *Outcome                 // whose timeline is shown: the one with the most failures with evenkeel
	notes []string
}

// rows sums up the runs of each scenario.
func (r *Report) rows() []*row {
	var rows []*row
	for _, o := range r.Outcomes {
		i := slices.IndexFunc(rows, func(have *row) bool { return have.ID == o.Scenario.ID })
		if i < 0 {
			i = len(rows)
			rows = append(rows, &row{Scenario: o.Scenario, sides: map[string]*Summary{}, took: map[string]time.Duration{},
				shown: o})
			for _, side := range Sides() {
				rows[i].sides[side] = newSummary()
			}
		}
		have := rows[i]
		have.runs = append(have.runs, o)
		if o.Sides[With].Failed > have.shown.Sides[With].Failed {
			have.shown = o
		}
		for _, note := range o.Notes {
			have.notes = append(have.notes, fmt.Sprintf("run %d: %s", o.Repetition, note))
		}
		for _, side := range Sides() {
			sum, one := have.sides[side], o.Sides[side]
			for server, clients := range one.Where {
				for client, n := range clients {
					sum.place(server, client, n)
				}
			}
			sum.Counts.add(one.Counts)
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

// Markdown is the table of docs/proof/README.md and what it says below.
func (r *Report) Markdown() string {
	var b strings.Builder
	b.WriteString("| scenario | failed without | failed with | of these cut | raced | GOAWAY | longest outage | took " +
		"at most |\n|---|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, row := range r.rows() {
		a, z := row.sides[Without], row.sides[With]
		fmt.Fprintf(&b, "| %s %s | %s of %s | **%s** of %s | %s | %s | %s | %s → %s | %s → %s |\n", row.ID, row.Title,
			number(a.Failed), number(a.Sent), number(z.Failed), number(z.Sent), number(z.Cut), number(z.Raced), number(z.Undone),
			outage(a), outage(z), row.tookAtMost(Without), row.tookAtMost(With))
	}
	fmt.Fprintf(&b, "\n%s\n", strings.Join(r.sentences(), " "))
	return b.String()
}

// sentences say what the table doesn't.
func (r *Report) sentences() []string {
	var list []string
	for _, i := range r.Installed {
		list = append(list, i.Sentence())
	}
	sides := map[string]*Tally{Without: {}, With: {}}
	for _, row := range r.rows() {
		for side, sum := range sides {
			if promised(row.ID) {
				sum.add(row.sides[side].Where[AtOnce][load.NewConnection])
			}
		}
	}
	if sides[With].Sent > 0 {
		list = append(list, fmt.Sprintf("New connections to the server that ends at once, which only the sleep protects, "+
			"failed in 1 to 5 and 8 as follows: %s of %s without evenkeel, %s of %s with.",
			number(sides[Without].Failed), number(sides[Without].Sent), number(sides[With].Failed), number(sides[With].Sent)))
	}
	list = append(list, r.secondCount())
	void := "No run was void"
	if n := len(r.Voided); n > 0 {
		void = fmt.Sprintf("%d of the runs were void and repeated, since the control failed too", n)
	}
	return append(list, void+".")
}

// secondCount says what the servers' own logs add to the clients' count.
func (r *Report) secondCount() string {
	received, answered, unreceived, disputed := 0, 0, 0, 0
	for _, row := range r.rows() {
		for _, sum := range row.sides {
			received += sum.Sent - sum.Failed
			answered += sum.Answered
			unreceived += sum.Unreceived
			disputed += sum.Disputed
		}
	}
	agree := "request by request"
	if disputed > 0 {
		agree = fmt.Sprintf("but for %d requests", disputed)
	}
	return fmt.Sprintf("The servers' own logs agree with the clients, %s: %s answers were sent, %s received, and %s went "+
		"to clients that count a failure.", agree, number(answered), number(received), number(unreceived))
}

// outage is the longest outage in a table.
func outage(s *Summary) string {
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
		if o.Took[side] == Never {
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
	for _, cause := range ByCount(counts) {
		parts = append(parts, number(counts[cause])+" "+cause)
	}
	return strings.Join(parts, ", ")
}

// Explain lists the failures of a side by server, client, cause, and what the pod did, as far as
// the client knew the pod.
func (o *Outcome) Explain(side string) []string {
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
	for _, key := range ByCount(counts) {
		lines = append(lines, fmt.Sprintf("%d × %s (%s)", counts[key], key, details[key]))
	}
	return lines
}

// doing says what the pod of a failed request was doing; where the connection never led to one that
// answered, what pods of that server changed around that time.
func (o *Outcome) doing(r load.Record) string {
	const around = 3 * time.Second
	if o.onLostNode(r) {
		if r.End().After(o.Lost.Restored) {
			return "it has a pod on the lost node, which was back"
		}
		return "it has a pod on the lost node"
	}
	if life := o.pod(r); life != nil {
		doing, since := life.at(r.End())
		text := fmt.Sprintf("its pod was %s for %.0f s", doing, r.End().Sub(since).Seconds())
		if next, at := life.at(r.End().Add(around)); next != doing {
			text += fmt.Sprintf(" and %s %.0f s later", next, at.Sub(r.End()).Seconds())
		}
		return text
	}
	if r.Pod != "" {
		return "its pod was gone"
	}
	var changed []string
	for _, life := range o.servers(r) {
		for _, c := range life.Changes {
			if d := c.At.Sub(r.End()); -around < d && d < around {
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
func (o *Outcome) servers(r load.Record) []PodLife {
	t := o.Targets[r.Target]
	return slices.DeleteFunc(slices.Clone(o.Pods),
		func(life PodLife) bool { return life.Side != t.Side || life.Server != t.Server })
}

// onLostNode says whether a failure from the loss of a node on is about a pod there: the one that
// the connection led to or, where that isn't known, any of its server.
func (o *Outcome) onLostNode(r load.Record) bool {
	if o.Lost == nil || r.End().Before(o.Lost.At) {
		return false
	}
	if life := o.pod(r); life != nil {
		return life.Node == o.Lost.Node
	}
	return slices.ContainsFunc(o.servers(r), func(life PodLife) bool { return life.Node == o.Lost.Node })
}

// Write writes the page, report.md, the plots, and the run for Sum into a directory.
func (r *Report) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if !r.Control {
		if err := r.writeRun(filepath.Join(dir, "runs")); err != nil {
			return err
		}
	}
	var page strings.Builder
	page.WriteString("# What clients saw while pods came and went\n\n")
	fmt.Fprintf(&page, "%s, in %s, by `%s`. %s.\n\n", r.Date.Format(time.DateOnly), r.Took.Round(time.Second), r.Command,
		r.Versions)
	page.WriteString("Five servers run side by side in two namespaces, which differ in the label `evenkeel.dev/inject: " +
		"enabled`. One server starts slowly, " +
		"one stops at once, one drains, one has no shell, one has a sidecar. None has a probe, a hook, an affinity or a " +
		"budget of its own. " +
		"Four clients call them: a new connection per request, persistent HTTP/1.1, HTTP/2, gRPC. " +
		"Requests start at fixed times, whether earlier ones are answered or not. Each has 5 s and is never sent again.\n\n")
	list(&page, "", r.sentences())
	if s := r.Steady; s != nil {
		fmt.Fprintf(&page, "Steady state first: %s of %s requests failed in %s.\n\n", number(s.Failed()),
			number(s.Sides[Without].Sent+s.Sides[With].Sent), s.Stopped.Sub(s.Began).Round(time.Second))
	}
	head(&page, "scenario", "evenkeel", "runs", "sent", "failed", "of these cut", "raced", "GOAWAY", "longest outage",
		"p99", "took at most", "failures by cause")
	for _, row := range r.rows() {
		for i, side := range Sides() {
			title := ""
			if i == 0 {
				title = fmt.Sprintf("[%s](#s%s) %s", row.ID, row.ID, escaped(row.Title))
			}
			s := row.sides[side]
			line(&page, title, side, fmt.Sprint(len(row.runs)), number(s.Sent), "**"+number(s.Failed)+"**", number(s.Cut),
				number(s.Raced), number(s.Undone),
				escaped(outage(s)), milliseconds(s.P99), row.tookAtMost(side), escaped(causes(s.Causes)))
		}
	}
	page.WriteString("\nOutage, p99 and time are the worst of all runs. Three kinds of failures are counted like all " +
		"others, and named where connection and pod give the evidence:\n\n" +
		"- *cut*: the request was on a persistent connection to a server that ends at once with SIGTERM. The connection " +
		"ends with the server, however long the pod slept before.\n" +
		"- *raced*: the request was on its way over HTTP/1.1 while the server's shutdown closed the connection as idle.\n" +
		"- *GOAWAY*: the request was on its way over HTTP/2 or gRPC while the server said that it drains. The server has " +
		"not processed it, and the protocol has clients send it again, which these don't.\n\n" +
		"[How the proof is made](README.md) says what counts as evidence, and what to do about each kind.\n")
	for _, row := range r.rows() {
		plot := timeline(row.shown)
		if err := os.WriteFile(filepath.Join(dir, "proof-"+row.ID+".svg"), []byte(plot), 0o644); err != nil {
			return err
		}
		fmt.Fprintf(&page, "\n<a id=\"s%s\"></a>\n\n## %s %s\n\n![timeline](proof-%s.svg)\n\n", row.ID, row.ID,
			escaped(row.Title), row.ID)
		list(&page, "", row.notes)
		row.writeWhere(&page)
		row.writeFailures(&page)
		list(&page, "The failures without evenkeel of all runs", row.summed(Without))
	}
	var voided []string
	for _, o := range r.Voided {
		voided = append(voided, fmt.Sprintf("%s, run %d: %s; without evenkeel %s; with evenkeel %s", o.Scenario.Title,
			o.Repetition, o.Void(), o.Sides[Without].Line(), o.Sides[With].Line()))
	}
	if len(voided) > 0 {
		page.WriteString("\n## Void\n\nA server that is no pod, and that nothing happens to, is asked the same way. Where " +
			"a request to it fails or takes more than 2.5 s, " +
			"the machine was too busy to show anything, and the run is repeated.\n\n")
		list(&page, "", voided)
	}
	for i, p := range r.Programmed {
		if i == 0 {
			page.WriteString("\n## How long endpoints take to leave every node\n")
		}
		if err := os.WriteFile(filepath.Join(dir, "proof-"+p.Name+".svg"), []byte(p.plot()), 0o644); err != nil {
			return err
		}
		fmt.Fprintf(&page, "\n![distribution](proof-%s.svg)\n\n%s\n", p.Name, escaped(p.Sentence()))
	}
	text := strings.TrimRight(page.String(), "\n") + "\n"
	return os.WriteFile(filepath.Join(dir, "report.md"), []byte(text), 0o644)
}

// escaped returns text as Markdown shows it in a cell or a line.
func escaped(text string) string {
	return strings.NewReplacer("<", "&lt;", "|", `\|`, "\n", "<br>").Replace(text)
}

// head writes the first two lines of a table.
func head(page *strings.Builder, cells ...string) {
	line(page, cells...)
	page.WriteString(strings.Repeat("|---", len(cells)) + "|\n")
}

// line writes a row of a table.
func line(page *strings.Builder, cells ...string) {
	fmt.Fprintf(page, "| %s |\n", strings.Join(cells, " | "))
}

// list writes lines, folded below a title if there is one.
func list(page *strings.Builder, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	if title != "" {
		fmt.Fprintf(page, "<details><summary>%s</summary>\n\n", title)
	}
	for _, line := range lines {
		fmt.Fprintf(page, "- %s\n", escaped(line))
	}
	page.WriteString("\n")
	if title != "" {
		page.WriteString("</details>\n\n")
	}
}

// colour is what a number of failures is drawn in.
func (s *Summary) colour() string {
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
	head(page, append([]string{"server", "evenkeel"}, r.shown.Clients...)...)
	for _, server := range slices.Sorted(maps.Keys(r.sides[With].Where)) {
		for i, side := range Sides() {
			cells := []string{"", side}
			if i == 0 {
				cells[0] = server
			}
			for _, client := range r.shown.Clients {
				n := r.sides[side].Where[server][client]
				cells = append(cells, fmt.Sprintf("%s of %s", number(n.Failed), number(n.Sent)))
			}
			line(page, cells...)
		}
	}
	page.WriteString("\n")
}

// mostListed is the number of failures of a run up to which each is listed. A lost node has a
// thousand of the same kind.
const mostListed = 200

// writeFailures lists the failures with evenkeel of all runs, one by one.
func (r *row) writeFailures(page *strings.Builder) {
	if r.sides[With].Failed == 0 {
		return
	}
	page.WriteString("<details open><summary>The failures with evenkeel of all runs</summary>\n\n")
	head(page, "run", "at", "server", "client", "cause", "exception", "connection's age", "pod", "node", "terminating for",
		"SIGTERM before", "what happened")
	for _, o := range r.runs {
		if o.Sides[With].Failed > mostListed {
			cells := make([]string, 12)
			cells[0], cells[11] = fmt.Sprint(o.Repetition), escaped(strings.Join(o.Explain(With), "\n"))
			line(page, cells...)
			continue
		}
		for _, record := range o.Records {
			if record.Cause != "" && o.Targets[record.Target].Side == With {
				cells := []string{fmt.Sprint(o.Repetition)}
				for _, cell := range o.cells(record) {
					cells = append(cells, escaped(cell))
				}
				line(page, cells...)
			}
		}
	}
	page.WriteString("\n</details>\n\n")
}

// cells are what there is to say about a failure: when, server, client, cause, exception, the
// connection's age, pod, node, for how long the pod was terminating, how long ago it got SIGTERM,
// and the rest.
func (o *Outcome) cells(r load.Record) []string {
	since := func(t time.Time) string {
		if t.IsZero() || t.After(r.End()) {
			return "–"
		}
		return fmt.Sprintf("%.1f s", r.End().Sub(t).Seconds())
	}
	age, pod, node, term, told := "no connection", "none answered", "–", "–", "–"
	if r.Opened > 0 {
		age = since(time.UnixMicro(r.Opened))
	}
	if life := o.pod(r); life != nil {
		pod, node, term, told = life.Name, life.Node, since(life.terminates()), since(life.Told)
	}
	return []string{fmt.Sprintf("%.1f s", r.End().Sub(o.Started).Seconds()), o.Targets[r.Target].Server,
		o.Clients[r.Client], r.Cause, cmp.Or(o.exception(r), "none"),
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
	for _, key := range ByCount(counts) {
		lines = append(lines, number(counts[key])+" × "+key)
	}
	return lines
}

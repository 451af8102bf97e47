package audit

import (
	"crypto/sha256"
	_ "embed" // style sheet and script
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"

	"github.com/evenkeel/evenkeel/internal/words"
)

//go:embed page.css
var styleSheet string

//go:embed page.js
var script string

// markup returns the page as HTML. It is written in Go because html/template calls methods by their names at run time,
// so that the linker keeps every method of every type of the Kubernetes API: 20 MB of 52. The script alone may run:
// what a tenant wrote never does.
func (p *page) markup() g.Node {
	code := "\n" + script
	sum := sha256.Sum256([]byte(code))
	policy := "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-" +
		base64.StdEncoding.EncodeToString(sum[:]) + "'"
	return h.Doctype(h.HTML(h.Lang("en"),
		h.Head(
			h.Meta(h.Charset("utf-8")),
			h.Meta(h.Name("viewport"), h.Content("width=device-width, initial-scale=1")),
			h.Meta(g.Attr("http-equiv", "Content-Security-Policy"), h.Content(policy)),
			h.TitleEl(g.Text("Availability of "+p.Source)),
			h.StyleEl(g.Raw("\n"+styleSheet)),
		),
		h.Body(h.Main(
			p.summary(),
			g.If(!p.Offline, p.losses()),
			g.If(len(p.Drains)+len(p.BlockedOffline) > 0, p.drains()),
			g.If(len(p.Singles) > 0, g.Group{
				h.H2(g.Text("Single replicas")),
				soft("Every update, every drain and every lost node interrupts these, however they are configured. Two replicas " +
					"are the least that can be protected."),
				some(p.Singles),
			}),
			p.coverage(),
			p.workloads(),
			g.If(len(p.Legend) > 0, g.Group{
				h.H2(g.Text("What the words mean")),
				table([]column{{"Word", "name"}, {"Meaning", ""}}, each(p.Legend, func(t tag) []g.Node {
					return []g.Node{g.Text(t.Text), g.Text(t.Title)}
				})),
			}),
			h.Footer(g.Text("Made by "), h.Code(g.Text("evenkeel audit -o html")), g.Text(". It only reads.")),
		), h.Script(g.Raw(code))),
	))
}

// summary is what to remember and to do.
func (p *page) summary() g.Node {
	return g.Group{
		h.H1(g.Text(p.Headline)),
		soft(strings.Join(append([]string{p.Source}, nonEmpty(p.Time)...), ", ") + ". " + p.Scope + " " + p.OptedIn),
		h.Ul(h.Class("figures"), g.Map(p.Figures, func(f figure) g.Node {
			return h.Li(h.Class(f.Class), h.B(number(f.Number)), h.Span(g.Text(f.Text)))
		})),
		g.If(len(p.Steps) > 0, g.Group{h.H2(g.Text("What to do next")),
			h.Ol(g.Map(p.Steps, func(s step) g.Node {
				return h.Li(h.B(g.Text(s.Do)), soft(s.Why), g.If(len(s.For) > 0, h.P(g.Text(few(s.For)))))
			}))}),
		g.If(len(p.Warnings) > 0, g.Group{h.H2(g.Text("What could not be seen")),
			h.Ul(g.Map(p.Warnings, func(w string) g.Node { return h.Li(g.Text(w)) }))}),
	}
}

func (p *page) losses() g.Node {
	domains := func(what string, all []Domain) g.Node {
		return table([]column{{what, "name"}, {"Workloads", "number"}, {"Which", ""}}, each(all, func(d Domain) []g.Node {
			return []g.Node{g.Text(d.Name), number(len(d.Workloads)), some(d.Workloads)}
		}))
	}
	return g.Group{
		h.H2(g.Text("What the loss of one node takes down")),
		g.If(len(p.Nodes) == 0, h.P(g.Text("Nothing: every workload has ready replicas on at least two nodes."))),
		g.If(len(p.Nodes) > 0, g.Group{
			soft("All ready replicas of these workloads run on that one node now. A machine that fails, or is replaced, " +
				"interrupts them."),
			domains("Node", p.Nodes)}),
		g.If(len(p.Zones) > 0, g.Group{
			h.H2(g.Text("What the loss of one zone takes down")),
			soft("All ready replicas of these workloads run in that one zone now."),
			domains("Zone", p.Zones)}),
	}
}

func (p *page) drains() g.Node {
	rows := each(p.Drains, func(d Drain) []g.Node {
		return []g.Node{g.Text(d.Namespace + " " + strings.Join(d.Budgets, " and ")), some(d.Workloads), some(d.Nodes),
			why(d.Code)}
	})
	rows = append(rows, each(p.BlockedOffline, func(b blocked) []g.Node {
		return []g.Node{g.Text(b.Object), g.Text(b.Workload), g.Text("any"), why(b.Code)}
	})...)
	return g.Group{
		h.H2(g.Text("Drains that can’t finish now")),
		soft("Emptying a node, for an upgrade for example, stops at these workloads."),
		table([]column{{"Budget", "name"}, {"Workloads", ""}, {"Nodes", ""}, {"Why", ""}}, rows),
	}
}

func (p *page) coverage() g.Node {
	columns := []column{{"Protection", "name"}, {"Have it", "number"}, {"Would get it", "number"},
		{"Neither", "number"}, {}}
	return g.Group{
		h.H2(g.Text("What is missing")),
		soft("Of each protection: how many workloads have it, and how many would get it from evenkeel. The rest need " +
			"none, or would have to say more about themselves."),
		table(columns, each(p.Coverage, func(c coverage) []g.Node {
			return []g.Node{g.Text(c.Text), number(c.Present), number(c.Missing), number(c.Skipped),
				h.Div(h.Class("bar"), h.Title(fmt.Sprintf("%d %% of those that can have it", c.Percent)),
					h.I(h.Style(fmt.Sprintf("width:%d%%", c.Percent))))}
		})),
	}
}

// workloads lists them all, the most pressing first, in groups that fold.
func (p *page) workloads() g.Node {
	columns := []column{{"Workload", "name"}, {readyTitle(p.Report), "ready"}, {"Spread", ""}, {"Stop", ""}, {"Probe", ""},
		{"Budget", ""}, {"Findings", "findings"}}
	return g.Group{
		h.H2(g.Text("All workloads")),
		h.P(h.Class("find"), g.Attr("hidden"), h.Label(h.For("filter"), g.Text("Filter")),
			h.Input(h.ID("filter"), h.Type("search"), h.AutoComplete("off"), h.Data("most", strconv.Itoa(mostOpen)),
				h.Placeholder("shop deployment one-node")),
			h.Span(h.ID("found"), h.Role("status"))),
		g.Map(p.Groups, func(group group) g.Node {
			count := words.Count(len(group.Rows), "workload")
			return h.Details(h.Class("rows"), g.If(group.Open, g.Attr("open")),
				h.Summary(h.B(g.Text(group.Title)), g.Text(" "), h.Span(h.Data("all", count), g.Text(count))),
				table(columns, each(group.Rows, func(r pageRow) []g.Node {
					cells := []g.Node{g.Group{g.Text(r.Name),
						g.If(r.Source != "", g.Group{h.Br(), h.Span(h.Class("soft"), g.Text(r.Source))}),
						g.If(len(r.Adds) > 0, h.Details(h.Summary(g.Text("what evenkeel would add")),
							g.Map(r.Adds, func(text string) g.Node { return h.Div(h.Class("soft"), g.Text(text)) })))}, g.Text(r.Ready)}
					for _, state := range r.States {
						cells = append(cells, state.node())
					}
					return append(cells, g.Group{g.Map(r.Findings, tag.node), g.Map(r.Problems,
						func(text string) g.Node { return h.Div(h.Class("soft"), g.Text(text)) })})
				})))
		}),
	}
}

func nonEmpty(text string) []string {
	if text == "" {
		return nil
	}
	return []string{text}
}

func soft(text string) g.Node { return h.P(h.Class("soft"), g.Text(text)) }

func number(n int) g.Node { return g.Text(strconv.Itoa(n)) }

// column is one of a table; class is name, number, ready, findings or "".
type column struct{ title, class string }

// each returns the cells of a row for each value.
func each[T any](values []T, cells func(T) []g.Node) [][]g.Node {
	rows := make([][]g.Node, len(values))
	for i, value := range values {
		rows[i] = cells(value)
	}
	return rows
}

// table has a head, which each printed page repeats. Its cells know their titles, for screens that are too narrow for
// columns.
func table(columns []column, rows [][]g.Node) g.Node {
	class := func(c column) g.Node { return g.If(c.class != "", h.Class(c.class)) }
	return h.Table(
		h.THead(h.Tr(g.Map(columns, func(c column) g.Node { return h.Th(class(c), h.Scope("col"), g.Text(c.title)) }))),
		h.TBody(g.Map(rows, func(cells []g.Node) g.Node {
			var row g.Group
			for i, cell := range cells {
				row = append(row, h.Td(class(columns[i]), h.Data("title", columns[i].title), cell))
			}
			return h.Tr(row)
		})))
}

// node shows a tag.
func (t tag) node() g.Node {
	return h.Span(h.Class(strings.TrimSpace("tag "+t.Class)), g.If(t.Title != "", h.Title(t.Title)), g.Text(t.Text))
}

func why(c Code) g.Node {
	return g.Group{tag{Text: string(c), Class: "bad"}.node(), g.Text(" " + c.Explain().Text + " " + c.Explain().Advice)}
}

// some shows the first of many names, and the rest on demand.
func some(names []string) g.Node {
	show := func(text string) g.Node { return tag{Text: text}.node() }
	if len(names) <= 12 {
		return g.Map(names, show)
	}
	return g.Group{g.Map(names[:8], show), h.Details(h.Summary(g.Text(fmt.Sprintf("and %d more", len(names)-8))),
		g.Map(names[8:], show))}
}

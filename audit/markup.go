package audit

import (
	_ "embed" // the style sheet
	"fmt"
	"strconv"
	"strings"

	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"
)

//go:embed page.css
var styleSheet string

// markup returns the page as HTML. It is written in Go because html/template calls methods by their names at run time,
// so that the linker keeps every method of every type of the Kubernetes API: 20 MB of 52.
func (p *page) markup() g.Node {
	return h.Doctype(h.HTML(h.Lang("en"),
		h.Head(
			h.Meta(h.Charset("utf-8")),
			h.Meta(h.Name("viewport"), h.Content("width=device-width, initial-scale=1")),
			h.Meta(g.Attr("http-equiv", "Content-Security-Policy"), h.Content("default-src 'none'; style-src 'unsafe-inline'")),
			h.TitleEl(g.Text("Availability of "+p.Source)),
			h.StyleEl(g.Raw("\n"+styleSheet)),
		),
		h.Body(h.Main(
			h.H1(g.Text(p.Headline)),
			soft(strings.Join(append([]string{p.Source}, nonEmpty(p.Time)...), ", ")+". "+p.Scope),
			h.Ul(h.Class("figures"), g.Map(p.Figures, func(f figure) g.Node {
				return h.Li(h.Class(f.Class), h.B(number(f.Number)), h.Span(g.Text(f.Text)))
			})),
			g.If(len(p.Warnings) > 0, g.Group{h.H2(g.Text("What could not be seen")),
				h.Ul(g.Map(p.Warnings, func(w string) g.Node { return h.Li(g.Text(w)) }))}),
			g.If(!p.Offline, g.Group{
				h.H2(g.Text("What the loss of one node takes down")),
				g.If(len(p.Nodes) == 0, h.P(g.Text("Nothing: every workload has ready replicas on at least two nodes."))),
				g.If(len(p.Nodes) > 0, g.Group{
					soft("All ready replicas of these workloads run on that one node now. A machine that fails, or is replaced, " +
						"interrupts them."),
					losses("Node", p.Nodes)}),
				g.If(len(p.Zones) > 0, g.Group{
					h.H2(g.Text("What the loss of one zone takes down")),
					soft("All ready replicas of these workloads run in that one zone now."),
					losses("Zone", p.Zones)}),
			}),
			g.If(len(p.Drains)+len(p.BlockedOffline) > 0, g.Group{
				h.H2(g.Text("Drains that can’t finish now")),
				soft("Emptying a node, for an upgrade for example, stops at these workloads."),
				table(h.Tr(h.Th(g.Text("Budget")), h.Th(g.Text("Workloads")), h.Th(g.Text("Nodes")), h.Th(g.Text("Why"))),
					g.Map(p.Drains, func(d Drain) g.Node {
						return h.Tr(name(d.Namespace+" "+strings.Join(d.Budgets, " and ")), h.Td(some(d.Workloads)), h.Td(some(d.Nodes)),
							why(d.Code))
					}),
					g.Map(p.BlockedOffline, func(b blocked) g.Node {
						return h.Tr(name(b.Object), h.Td(g.Text(b.Workload)), h.Td(g.Text("any")), why(b.Code))
					})),
			}),
			g.If(len(p.Singles) > 0, g.Group{
				h.H2(g.Text("Single replicas")),
				soft("Every update, every drain and every lost node interrupts these, however they are configured. Two replicas " +
					"are the least that can be protected."),
				some(p.Singles),
			}),
			h.H2(g.Text("What is missing")),
			soft("Of each protection: how many workloads have it, and how many would get it from evenkeel. The rest need "+
				"none, or would have to say more about themselves."),
			table(h.Tr(h.Th(g.Text("Protection")), h.Th(h.Class("number"), g.Text("Have it")),
				h.Th(h.Class("number"), g.Text("Would get it")), h.Th(h.Class("number"), g.Text("Neither")), h.Th()),
				g.Map(p.Coverage, func(c coverage) g.Node {
					return h.Tr(name(c.Text), count(c.Present), count(c.Missing), count(c.Skipped),
						h.Td(h.Div(h.Class("bar"), h.Title(fmt.Sprintf("%d %% of those that can have it", c.Percent)),
							h.I(h.Style(fmt.Sprintf("width:%d%%", c.Percent))))))
				})),
			h.H2(g.Text("All workloads")),
			table(h.Tr(h.Th(g.Text("Workload")), h.Th(g.Text(readyTitle(p.Report))), h.Th(g.Text("Spread")),
				h.Th(g.Text("Stop")), h.Th(g.Text("Probe")), h.Th(g.Text("Budget")), h.Th(g.Text("Findings"))),
				g.Map(p.Rows, func(r pageRow) g.Node {
					return h.Tr(h.Td(h.Class("name"), g.Text(r.Name),
						g.If(r.Source != "", g.Group{h.Br(), h.Span(h.Class("soft"), g.Text(r.Source))})), h.Td(g.Text(r.Ready)),
						g.Map(r.States, func(t tag) g.Node { return h.Td(t.node()) }),
						h.Td(g.Map(r.Findings, tag.node), g.Map(r.Problems,
							func(text string) g.Node { return h.Div(h.Class("soft"), g.Text(text)) })))
				})),
			g.If(len(p.Legend) > 0, g.Group{
				h.H2(g.Text("What the words mean")),
				table(g.Map(p.Legend, func(t tag) g.Node { return h.Tr(name(t.Text), h.Td(g.Text(t.Title))) })),
			}),
			h.Footer(g.Text("Made by "), h.Code(g.Text("evenkeel audit -o html")), g.Text(". It only reads.")),
		)),
	))
}

func nonEmpty(text string) []string {
	if text == "" {
		return nil
	}
	return []string{text}
}

func soft(text string) g.Node { return h.P(h.Class("soft"), g.Text(text)) }

func number(n int) g.Node { return g.Text(strconv.Itoa(n)) }

func name(text string) g.Node { return h.Td(h.Class("name"), g.Text(text)) }

func count(n int) g.Node { return h.Td(h.Class("number"), number(n)) }

func table(rows ...g.Node) g.Node { return h.Div(h.Class("wide"), h.Table(rows...)) }

// node shows a tag.
func (t tag) node() g.Node {
	return h.Span(h.Class(strings.TrimSpace("tag "+t.Class)), g.If(t.Title != "", h.Title(t.Title)), g.Text(t.Text))
}

func why(c Code) g.Node {
	return h.Td(tag{Text: string(c), Class: "bad"}.node(), g.Text(" "+c.Explain().Text+" "+c.Explain().Advice))
}

func losses(what string, all []Domain) g.Node {
	return table(h.Tr(h.Th(g.Text(what)), h.Th(h.Class("number"), g.Text("Workloads")), h.Th(g.Text("Which"))),
		g.Map(all, func(l Domain) g.Node { return h.Tr(name(l.Name), count(len(l.Workloads)), h.Td(some(l.Workloads))) }))
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

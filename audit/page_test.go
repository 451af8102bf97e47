package audit

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestThePageNeedsNothingElse has hostile names in every place that a tenant can write to.
func TestThePageNeedsNothingElse(t *testing.T) {
	s := state()
	const hostile = `<script src="https://example.com/x.js">alert(1)</script>`
	deploy(t, &s, "out", "web", 2, hostile, hostile)
	s.Objects[0].Metadata.Name = "web"
	s.Warnings = []string{hostile}
	s.Source = hostile
	s.Nodes[hostile] = Node{Zone: hostile}
	html, err := Page(Run(s, rules(t)), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	text := string(html)
	if n := strings.Count(text, "<script"); n != 1 {
		t.Errorf("%d scripts, want the page's own alone", n)
	}
	if n := strings.Count(text, "&lt;script"); n < 3 {
		t.Errorf("%d hostile names shown as text, want at least 3", n)
	}
	if found := regexp.MustCompile(`(?i)(?:src=|href=|url\(|@import)`).FindString(
		strings.ReplaceAll(text, "&lt;script src=", "")); found != "" {
		t.Errorf("the page refers to something else: %s", found)
	}
	for _, want := range []string{"prefers-color-scheme: dark", "1 of 1 workload would not survive the loss of one " +
		"node or zone", "What the loss of one node takes down"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

// The steps are about different workloads, and the last one is to opt in. A namespace that is opted in, and a workload
// that needs nothing, have no part in it.
func TestThePageBeginsWithWhatToDo(t *testing.T) {
	s := state()
	deploy(t, &s, "out", "narrow", 3, "node-1", "node-1", "node-1")
	deploy(t, &s, "out", "single", 1, "node-2")
	deploy(t, &s, "out", "spread", 2, "node-1", "node-2")
	deploy(t, &s, "in", "down", 2)
	p := page{Report: Run(s, rules(t))}
	p.fill()
	p.next()
	var got []string
	for _, step := range p.Steps {
		got = append(got, step.Why+" "+few(step.For))
	}
	want := []string{
		"none-ready, 1 workload: " + NoneReady.Explain().Text + " in/Deployment/down",
		"one-node, 2 workloads: " + OneNode.Explain().Text + " out/Deployment/narrow, out/Deployment/single",
		"These namespaces have workloads that lack a default and don’t get any. out",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if want := "Opted in: 1 of 2 namespaces (in)."; p.OptedIn != want {
		t.Errorf("the page says %q, want %q", p.OptedIn, want)
	}
	if p.Groups[0].Rows[0].Name != "in/Deployment/down" {
		t.Errorf("the first of all workloads is %s, which isn't the most pressing", p.Groups[0].Rows[0].Name)
	}
}

// Of manifests nothing is ready: what they say is how many replicas are asked for.
func TestThePageOfManifestsSpeaksOfReplicas(t *testing.T) {
	for source, want := range map[string]string{SourceManifests: ">Replicas</th>", "context test": ">Ready</th>"} {
		s := state()
		deploy(t, &s, "out", "web", 2)
		s.Source, s.Offline = source, source == SourceManifests
		html, err := Page(Run(s, rules(t)), time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(html), want) {
			t.Errorf("the page of %s lacks %s", source, want)
		}
	}
}

// The contrast of every text with its ground, in both color schemes, is at least the 4.5 of WCAG 2, level AA.
func TestThePageCanBeReadInBothColorSchemes(t *testing.T) {
	scheme := regexp.MustCompile(`:root \{[^}]*\}`)
	color := regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]+);`)
	schemes := scheme.FindAllString(styleSheet, -1)
	if len(schemes) != 2 {
		t.Fatalf("%d color schemes, want 2", len(schemes))
	}
	for i, text := range schemes {
		luminance := map[string]float64{}
		for _, c := range color.FindAllStringSubmatch(text, -1) {
			luminance[c[1]] = relativeLuminance(t, c[2])
		}
		for _, pair := range [][2]string{{"ink", "ground"}, {"ink", "panel"}, {"soft", "ground"}, {"soft", "panel"},
			{"bad", "panel"}, {"warn", "panel"}, {"good", "panel"}, {"bad", "bad-ground"}, {"warn", "warn-ground"},
			{"good", "good-ground"}} {
			a, foreground := luminance[pair[0]]
			b, background := luminance[pair[1]]
			if !foreground || !background {
				t.Fatalf("scheme %d lacks one of the colors %v", i, pair)
			}
			if contrast := (max(a, b) + .05) / (min(a, b) + .05); contrast < 4.5 {
				t.Errorf("scheme %d: %s on %s has a contrast of %.2f, want 4.5", i, pair[0], pair[1], contrast)
			}
		}
	}
}

// relativeLuminance is that of WCAG 2 for a color such as #fff or #1c2430.
func relativeLuminance(t *testing.T, color string) float64 {
	t.Helper()
	digits := strings.TrimPrefix(color, "#")
	if len(digits) == 3 {
		digits = strings.Join([]string{digits[:1], digits[:1], digits[1:2], digits[1:2], digits[2:], digits[2:]}, "")
	}
	if len(digits) != 6 {
		t.Fatalf("%s is no color", color)
	}
	sum := 0.0
	for i, weight := range []float64{.2126, .7152, .0722} {
		value, err := strconv.ParseUint(digits[2*i:2*i+2], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		c := float64(value) / 255
		if c <= .04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+.055)/1.055, 2.4)
		}
		sum += weight * c
	}
	return sum
}

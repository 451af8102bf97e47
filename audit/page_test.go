package audit

import (
	"regexp"
	"strings"
	"testing"
	"time"
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
	if strings.Contains(text, "<script") {
		t.Error("a name became a script")
	}
	if n := strings.Count(text, "&lt;script"); n < 3 {
		t.Errorf("%d hostile names shown as text, want at least 3", n)
	}
	if found := regexp.MustCompile(`(?i)(?:src=|href=|url\(|@import)`).FindString(strings.ReplaceAll(text, "&lt;script src=", "")); found != "" {
		t.Errorf("the page refers to something else: %s", found)
	}
	for _, want := range []string{"prefers-color-scheme: dark", "1 of 1 workload would not survive the loss of one node or zone", "What the loss of one node takes down"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

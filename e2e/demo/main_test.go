package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestTheDemoShowsWhatItIsFor(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if err := run(t.Context(), &stdout, &stderr); err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	shown := stdout.String()
	for _, want := range []string{
		"did you mean evenkeel.dev/readiness-probe?", // the typo is seen by its author
		"+  affinity:", "+    readinessProbe:", "+      preStop:", // all three defaults are added
		"-  terminationGracePeriodSeconds: 30", // and the only value that is raised
		"nginx-evenkeel",                       // a budget of its own
		"with evenkeel       0 of 60 Deployments",
		"InjectionMissed", // the scan
		"What to do next:", "deployment.apps/late restarted",
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("the demo doesn't show %q", want)
		}
	}
	if strings.Contains(shown, "without evenkeel    0 of 60") {
		t.Error("without evenkeel the workloads are spread as well, so the demo shows nothing")
	}
	before, _, _ := strings.Cut(shown, "with evenkeel  ")
	if _, offline, found := strings.Cut(before, "This needs none:"); found { // where something had to be built
		_, before, _ = strings.Cut(offline, "1. What the loss")
	}
	if n := strings.Count(before, "\n"); n > 10 {
		t.Errorf("%d lines come before the effect, want at most 10", n)
	}
	if t.Failed() {
		t.Log(stdout.String())
	}
}

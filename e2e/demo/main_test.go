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
	for _, want := range []string{
		"did you mean evenkeel.dev/readiness-probe?", // the typo is seen by its author
		"+  affinity:", "+    readinessProbe:", "+      preStop:", // all three defaults are added
		"-  terminationGracePeriodSeconds: 30", // and the only value that is raised
		"nginx-evenkeel",                       // a budget of its own
		"opted-in   0 to the loss of one zone, 0 to the loss of one node", // spread over zones and nodes
	} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("the demo doesn't show %q", want)
		}
	}
	if strings.Contains(stdout.String(), "plain      0 to the loss of one zone") {
		t.Error("without evenkeel the workloads are spread as well, so the demo shows nothing")
	}
	if t.Failed() {
		t.Log(stdout.String())
	}
}

package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evenkeel/evenkeel/audit"
)

func TestEveryFindingCodeHasItsSentence(t *testing.T) {
	for _, e := range audit.Codes() {
		if !strings.HasSuffix(e.Text, ".") || !strings.HasSuffix(e.Advice, ".") {
			t.Errorf("%s: %q and %q are to be sentences", e.Code, e.Text, e.Advice)
		}
	}
}

func TestTheAuditInTheREADMEIsWhatAuditSays(t *testing.T) {
	lines := strings.SplitN(strings.TrimPrefix(readmeSection(t, "audit"), "```console\n"), "\n", 2)
	command, ok := strings.CutPrefix(lines[0], "$ ")
	if !ok {
		t.Fatalf("%q is no command", lines[0])
	}
	stdout, stderr, code := cli(t, "", strings.Fields(command)...)
	if code != exitDone {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if diff := cmp.Diff(stdout, strings.TrimSuffix(lines[1], "```\n")); diff != "" {
		t.Errorf("-audit +README:\n%s", diff)
	}
}

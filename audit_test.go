package main

import (
	"strings"
	"testing"

	"github.com/evenkeel/evenkeel/audit"
)

func TestEveryFindingCodeHasItsSentence(t *testing.T) {
	for _, e := range audit.Codes() {
		if !strings.HasSuffix(e.Text, ".") || !strings.HasSuffix(e.Advice, ".") {
			t.Errorf("%s: %q and %q are to be sentences", e.Code, e.Text, e.Advice)
		}
	}
}

package webhook

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestTheDocumentedLimitsHold compares the page over limits with the code. Those of one object are
// held by the cases of package patches.
func TestTheDocumentedLimitsHold(t *testing.T) {
	page, err := os.ReadFile("../docs/concepts/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	kibibytes := func(n int) string { return strconv.Itoa(n>>10) + " KiB" }
	mebibytes := func(n int) string { return strconv.Itoa(n>>20) + " MiB" }
	for _, row := range []string{
		"| time to decide, or as long as the API server waits | " + strconv.Itoa(int(maxDecide.Seconds())) + " s |",
		"| bytes of a body | " + mebibytes(maxBody) + " |",
		"for each " + kibibytes(freeBody) + " of its body, up to half of all | " + strconv.Itoa(maxReviews) + " |",
		"| bytes of bodies above " + kibibytes(freeBody) + " and of answers above " + kibibytes(freeAnswer) +
			", together | " + mebibytes(largeBytes) + " |",
		"| connections to the webhook | " + strconv.Itoa(maxConnections) + " |",
		"| connections to the port for probes and metrics | " + strconv.Itoa(maxMetricsConnections) + " |",
		"| time to write an answer | " + strconv.Itoa(int(writeTime.Seconds())) + " s |",
		"has found a place for " + strconv.Itoa(int(patience.Seconds())) + " s,",
	} {
		if !strings.Contains(string(page), row) {
			t.Errorf("the page lacks %q", row)
		}
	}
	if greed != 3 {
		t.Error("the page says three times of what is free")
	}
}

package inject

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evenkeel/evenkeel/manifest"
)

const budgetInput = `# kept as it is
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop,
  annotations: {evenkeel.dev/disruption-budget: quorum, evenkeel.dev/anti-affinity: "off"}}
spec:
  replicas: 5
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: db, image: db}]}
`

const budgetOutput = `---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: db-evenkeel
  namespace: shop
spec:
  maxUnavailable: 2
  selector:
    matchLabels:
      app: db
  unhealthyPodEvictionPolicy: AlwaysAllow
`

func TestInjectWithBudgets(t *testing.T) {
	with := config()
	with.WithBudgets = true
	inject := func(text string) *Result {
		t.Helper()
		f, err := manifest.Read("db.yaml", text)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Run(t.Context(), []*manifest.File{f}, with)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := inject(budgetInput)
	if diff := cmp.Diff(budgetInput+budgetOutput, encoded(t, r, "yaml")); diff != "" {
		t.Error(diff)
	}
	report := string(r.Report(Style{}))
	line := "StatefulSet shop/db  disruption-budget  added  PodDisruptionBudget db-evenkeel, maxUnavailable 2\n"
	if !strings.HasPrefix(report, line) || !strings.Contains(report, "1 workload in 1 file: all defaults are there; 1 "+
		"budget added\n") {
		t.Errorf("report: %s", report)
	}
	check := string(r.Report(Style{Check: true}))
	for _, want := range []string{"disruption-budget  missing  ", "all defaults are there; 1 budget missing"} {
		if !strings.Contains(check, want) || strings.Contains(check, "added") {
			t.Errorf("report of a check, want %q and nothing added:\n%s", want, check)
		}
	}
	if !r.Missing() {
		t.Error("a missing budget passes the check")
	}
	if inject(budgetInput + budgetOutput).Missing() {
		t.Error("a budget that stands is missing")
	}
	generated := encoded(t, inject(strings.Replace(budgetInput, "name: db, namespace", "generateName: db-, namespace", 1)),
		"yaml")
	if !strings.Contains(generated, "\n  name: db-evenkeel\n") {
		t.Errorf("the budget of a workload with generateName has no name of its own:\n%s", generated)
	}
}

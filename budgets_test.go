package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const budgetInput = `# kept as it is
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop, annotations: {evenkeel.dev/disruption-budget: quorum, evenkeel.dev/anti-affinity: "off"}}
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

// runInject runs inject over input in a file.
func runInject(t *testing.T, input string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "db.yaml")
	if err := os.WriteFile(file, []byte(input), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, report bytes.Buffer
	command := newInjectCommand("evenkeel")
	command.SetArgs(append(args, file))
	command.SetOut(&out)
	command.SetErr(&report)
	err = command.ExecuteContext(t.Context())
	return out.String(), report.String(), err
}

func TestInjectWithBudgets(t *testing.T) {
	stdout, stderr, err := runInject(t, budgetInput, "--with-budgets")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(budgetInput+budgetOutput, stdout); diff != "" {
		t.Error(diff)
	}
	if line := "StatefulSet shop/db  disruption-budget  added  PodDisruptionBudget db-evenkeel, maxUnavailable 2\n"; !strings.HasPrefix(stderr, line) {
		t.Errorf("report: %s", stderr)
	}
	if stdout, _, err = runInject(t, budgetInput+budgetOutput, "--with-budgets", "--check"); err != nil || stdout != "" {
		t.Errorf("a budget that stands is missing: %v, %s", err, stdout)
	}
	if _, _, err = runInject(t, budgetInput, "--with-budgets", "--check"); err == nil {
		t.Error("a missing budget passes the check")
	}
	if _, _, err = runInject(t, budgetInput, "--with-budgets", "-o", "diff"); err == nil {
		t.Error("a diff can't hold new objects")
	}
}

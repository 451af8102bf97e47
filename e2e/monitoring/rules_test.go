// Package monitoring tests what deploy/monitoring holds: the alerts with promtool, and the queries
// of alerts and dashboard with a real Prometheus that scraped a real run.
package monitoring

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/evenkeel/evenkeel/e2e/installation"
)

// rule is one alert of a rule file.
type rule struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// rules returns the rule file that deploy/monitoring/rules.yaml holds under spec, for a Prometheus
// without the operator, and its alerts.
func rules(t *testing.T) (file []byte, alerts []rule) {
	t.Helper()
	var object struct {
		Spec json.RawMessage `json:"spec"`
	}
	if err := yaml.Unmarshal(deployed(t, "rules.yaml"), &object); err != nil {
		t.Fatal(err)
	}
	var spec struct {
		Groups []struct {
			Rules []rule `json:"rules"`
		} `json:"groups"`
	}
	if err := json.Unmarshal(object.Spec, &spec); err != nil {
		t.Fatal(err)
	}
	file, err := yaml.JSONToYAML(object.Spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range spec.Groups {
		alerts = append(alerts, group.Rules...)
	}
	return file, alerts
}

// deployed returns a file of deploy/monitoring.
func deployed(t *testing.T, name string) []byte {
	t.Helper()
	root, err := installation.Root()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(root, "deploy", "monitoring", name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// promtool runs the program of that name and returns what it printed.
func promtool(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "promtool", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatalf("run promtool, which Debian has in the package prometheus: %v", err)
	}
	return string(out), err
}

func TestEveryAlertFiresForItsReasonAndOnlyForIt(t *testing.T) {
	dir := t.TempDir()
	file, alerts := rules(t)
	if len(alerts) == 0 {
		t.Fatal("deploy/monitoring/rules.yaml holds no alerts")
	}
	cases, err := os.ReadFile(filepath.Join("testdata", "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"rules.yaml": file, "alerts.yaml": cases} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := promtool(t, dir, "check", "rules", "--lint-fatal", "rules.yaml"); err != nil {
		t.Error(out)
	}
	if out, err := promtool(t, dir, "test", "rules", "alerts.yaml"); err != nil {
		t.Error(out)
	}
	for _, alert := range alerts {
		name := regexp.QuoteMeta(alert.Alert)
		if !regexp.MustCompile(`alertname: ` + name + `\n\s+exp_alerts: \[`).Match(cases) {
			t.Errorf("no case in testdata/alerts.yaml makes %s fire", alert.Alert)
		}
		if !regexp.MustCompile(`eval_time: 2h, alertname: ` + name + `\}`).Match(cases) {
			t.Errorf("no case in testdata/alerts.yaml shows that %s is silent where all is well", alert.Alert)
		}
		if severity := alert.Labels["severity"]; severity != "warning" && severity != "critical" {
			t.Errorf("%s has severity %q, want warning or critical", alert.Alert, severity)
		}
	}
}

func TestEveryAlertHasARowOfWhatToDo(t *testing.T) {
	root, err := installation.Root()
	if err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile(filepath.Join(root, "docs", "operations", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(document), "<!-- alerts -->")
	table, _, found := strings.Cut(table, "<!-- /alerts -->")
	if !found {
		t.Fatal("docs/operations/README.md has no table between <!-- alerts --> and <!-- /alerts -->")
	}
	var rows, want []string
	for _, row := range regexp.MustCompile("(?m)^\\| \\[`(\\w+)`\\]").FindAllStringSubmatch(table, -1) {
		rows = append(rows, row[1])
	}
	_, alerts := rules(t)
	for _, alert := range alerts {
		want = append(want, alert.Alert)
	}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Errorf("alerts in docs/operations/README.md (-deploy/monitoring/rules.yaml +document):\n%s", diff)
	}
	for _, alert := range alerts {
		page := filepath.Join("docs", "operations", "runbooks", alert.Alert+".md")
		if url := alert.Annotations["runbook_url"]; !strings.HasSuffix(url, "/"+filepath.ToSlash(page)) {
			t.Errorf("%s has the runbook_url %q, want one that ends with %s", alert.Alert, url, page)
		}
		if _, err := os.Stat(filepath.Join(root, page)); err != nil {
			t.Errorf("%s has no runbook: %v", alert.Alert, err)
		}
	}
}

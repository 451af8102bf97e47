package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/check"
)

// TestExplainSaysWhy asks about a workload in each of the states that people ask about.
func TestExplainSaysWhy(t *testing.T) {
	in, out := namespace(t, optedIn), namespace(t, nil)
	asks := func(d *appsv1.Deployment) {
		d.Annotations = map[string]string{"evenkeel.dev/pre-stop-sleep": "5s"}
		d.Spec.Template.Annotations = map[string]string{"evenkeel.dev/readiness-probe": "off"}
	}
	create(t, in, deployment("web", 2, asks))
	create(t, in,
		deployment("refuser", 2,
			func(d *appsv1.Deployment) { d.Labels = map[string]string{"evenkeel.dev/inject": "disabled"} }))
	create(t, out, deployment("web", 2))
	check.Eventually(t, "a budget that allows an eviction", func() error {
		b, err := shared.Client.PolicyV1().PodDisruptionBudgets(in).Get(t.Context(), "web-evenkeel", metav1.GetOptions{})
		if err == nil && (b.Status.ObservedGeneration != b.Generation || b.Status.CurrentHealthy != 2) {
			err = fmt.Errorf("it counts %d healthy pods, want 2", b.Status.CurrentHealthy)
		}
		return err
	})
	for name, c := range map[string]struct {
		args []string
		exit int
		want []string
	}{
		"a workload that was done": {[]string{"deploy/web", "-n", in}, 0, []string{
			in + "/Deployment/web: evenkeel added anti-affinity, pre-stop-sleep; it has disruption-budget; evenkeel leaves " +
				"out readiness-probe",
			"yes: the webhook looks after namespace " + in,
			"workloads.evenkeel.dev is called for deployments, failurePolicy Ignore",
			"off: The setting is off for this workload.", "annotation of the workload",
			"annotation of the pod template", "built-in", "web-evenkeel: maxUnavailable 10%",
			"Nothing: it has all that evenkeel would add."}},
		"one that opted out": {[]string{"deployment", "refuser", "-n", in}, 0,
			[]string{"no: the workload or its pod template carries the label",
				"not called: no webhook selects it", "It opted out by the label"}},
		"one in a namespace that is not opted in": {[]string{"deployments.apps/web", "-n", out}, 0,
			[]string{"it lacks anti-affinity, pre-stop-sleep, readiness-probe, disruption-budget",
				"no: namespace " + out + " has no label evenkeel.dev/inject",
				"kubectl label namespace " + out + " evenkeel.dev/inject=enabled", "would be added: sleep 10 s"}},
		"a name with a typo": {[]string{"deploy/wbe", "-n", in}, 2,
			[]string{`deployment "wbe" does not exist; did you mean "web"?`}},
		"a namespace with a typo": {[]string{"deploy/web", "-n", in + "x"}, 2,
			[]string{`does not exist; did you mean "` + in + `"?`}},
		"a context with a typo": {[]string{"deploy/web", "--context", "nowhere"}, 2,
			[]string{`context "nowhere" does not exist`}},
		"a cluster that is not there": {[]string{"deploy/web", "--server", "https://127.0.0.1:1"}, 2,
			[]string{"can't reach", "connection refused"}},
	} {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, code := evenkeel(t, append([]string{"explain"}, c.args...)...)
			if code != c.exit {
				t.Errorf("exit code %d, want %d", code, c.exit)
			}
			for _, want := range c.want {
				if !strings.Contains(stdout+stderr, want) {
					t.Errorf("lacks %q:\n%s%s", want, stdout, stderr)
				}
			}
			if name == "a workload that was done" {
				t.Log("\n" + stdout)
			}
		})
	}
}

// TestKubectlFindsThePlugin runs audit and explain as kubectl does.
func TestKubectlFindsThePlugin(t *testing.T) {
	ns := namespace(t, optedIn)
	create(t, ns, deployment("web", 1))
	dir := t.TempDir()
	check.Must(t, os.Symlink(shared.evenkeel.Program, filepath.Join(dir, "kubectl-evenkeel")))
	for _, args := range [][]string{{"evenkeel", "audit", "-n", ns}, {"evenkeel", "explain", "deploy/web", "-n", ns}} {
		cmd, err := shared.KubectlCommand(t.Context(), args...)
		check.Must(t, err)
		cmd.Env = append(cmd.Environ(), "PATH="+dir+string(os.PathListSeparator)+os.Getenv("PATH"),
			"KUBECONFIG="+shared.Kubeconfig)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "Deployment/web") {
			t.Errorf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

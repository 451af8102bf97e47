package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"

	"github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/pdb"
	"github.com/evenkeel/evenkeel/policy"
)

// corpusFiles returns the manifests of testdata, examples and deploy, and those below
// the directory $CORPUS, or ../shared/corpus beside the repository.
func corpusFiles(t *testing.T) []string {
	t.Helper()
	outside := os.Getenv("CORPUS")
	if outside == "" {
		outside = filepath.Join("..", "shared", "corpus")
	}
	var files []string
	for _, dir := range []string{filepath.Join("testdata", "manifests"), "examples", outside} {
		if _, err := os.Stat(dir); err != nil {
			t.Logf("NO MANIFESTS IN %s; CORPUS=DIRECTORY names some of your own", dir)
			continue
		}
		paths, err := manifestPaths(dir)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, paths...)
	}
	return files
}

// TestAuditSaysWhatInjectDoes compares, workload by workload and default by default, what
// audit says of manifests with what inject then adds, and with the budgets of
// --with-budgets.
func TestAuditSaysWhatInjectDoes(t *testing.T) {
	workloads, added, budgets := 0, 0, 0
	for _, file := range corpusFiles(t) {
		stdout, stderr, code := cli(t, "", "evenkeel", "audit", "-o", "json", "-f", file)
		i, err := (&injectOptions{output: "json", kubeVersion: defaultKubeVersion, policy: defaultFlags(t)}).injection()
		if err != nil {
			t.Fatal(err)
		}
		err = i.read(t.Context(), []string{file}, nil)
		if err == nil {
			err = i.review()
		}
		if err != nil || code != exitDone {
			if err == nil || code != exitFailed {
				t.Errorf("%s: inject ends with %v, audit with %d: %s", file, err, code, stderr)
			}
			continue
		}
		var report audit.Report
		if err := json.Unmarshal([]byte(stdout), &report); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		var got, want []string
		for _, w := range report.Workloads {
			for _, d := range w.Defaults {
				if d.Default == policy.SettingDisruptionBudget {
					continue
				}
				outcome := d.Code
				if d.State == audit.StateMissing {
					outcome = "added " + d.Detail
				}
				got = append(got, fmt.Sprintf("%s %s %s %s: %s", w.Source, w.Name, d.Default, d.Container, outcome))
			}
		}
		for _, w := range i.workloads {
			workloads++
			for _, d := range w.result.Decisions {
				outcome := string(d.Skip)
				if d.Skip == patches.SkipNone {
					outcome = "added " + d.Detail
					added++
				}
				want = append(want, fmt.Sprintf("%s:%d %s %s %s: %s", file, w.line(), w.name(), d.Default, d.Container, outcome))
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-inject +audit):\n%s", file, diff)
		}
		budgets += compareBudgets(t, file, &report)
	}
	t.Logf("%d workloads compared, %d defaults added, %d budgets", workloads, added, budgets)
	if added < 50 || budgets < 5 {
		t.Errorf("%d defaults and %d budgets are added, which shows little", added, budgets)
	}
}

// compareBudgets compares the decisions over budgets with those of --with-budgets,
// and returns how many budgets are added.
func compareBudgets(t *testing.T, file string, report *audit.Report) int {
	t.Helper()
	i, err := (&injectOptions{output: "json", kubeVersion: defaultKubeVersion, policy: defaultFlags(t)}).injection()
	if err == nil {
		err = i.read(t.Context(), []string{file}, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	var objects []runtime.Object
	for _, m := range i.manifests {
		for _, d := range m.documents {
			for _, o := range d.objects() {
				if object := budgetObject(o); object != nil && kjson.UnmarshalCaseSensitivePreserveInts(o.value, object) == nil {
					objects = append(objects, object)
				}
			}
		}
	}
	var got, want []string
	added := 0
	for _, d := range pdb.Manifests(objects, pdb.Rules{Base: policy.Default(), Bounds: policy.DefaultBounds()}) {
		if d.Budget != nil {
			added++
		}
		want = append(want, fmt.Sprintf("%s %s %s: %v %s", d.Namespace, d.Workload.Kind, d.Workload.Name, d.Budget != nil, d.Other))
	}
	for _, w := range report.Workloads {
		for _, d := range w.Defaults {
			if d.Default == policy.SettingDisruptionBudget {
				other := d.Detail
				if d.State == audit.StateMissing {
					other = ""
				}
				got = append(got, fmt.Sprintf("%s %s %s: %v %s", w.Namespace, w.Kind, w.Name, d.State == audit.StateMissing, other))
			}
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: budgets (-inject +audit):\n%s", file, diff)
	}
	return added
}

// defaultFlags returns the flags of the operator's configuration as they are when
// nobody gives any.
func defaultFlags(t *testing.T) policyFlags {
	t.Helper()
	var flags policyFlags
	flags.register(pflag.NewFlagSet("", pflag.ContinueOnError))
	return flags
}

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

package audit_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/inject"
	"github.com/evenkeel/evenkeel/internal/corpus"
	"github.com/evenkeel/evenkeel/manifest"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/pdb"
	"github.com/evenkeel/evenkeel/policy"
)

// corpusFiles returns the manifests of testdata, examples and the corpus.
func corpusFiles(t *testing.T) []string {
	t.Helper()
	files, err := corpus.Files()
	for _, dir := range []string{filepath.Join("..", "testdata", "manifests"), filepath.Join("..", "examples")} {
		if err != nil {
			break
		}
		var more []string
		more, err = corpus.Below(dir)
		files = append(files, more...)
	}
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestAuditSaysWhatInjectDoes compares, workload by workload and default by default, what audit says
// of manifests with what inject then adds, budgets included.
func TestAuditSaysWhatInjectDoes(t *testing.T) {
	config := patches.DefaultConfig()
	injector, err := patches.New(config)
	if err != nil {
		t.Fatal(err)
	}
	version := patches.Version{Major: 1, Minor: 33}
	cluster := patches.Cluster{APIServer: version, OldestKubelet: version}
	workloads, added, budgets := 0, 0, 0
	for _, path := range corpusFiles(t) {
		files, err := manifest.ReadPaths(t.Context(), []string{path}, nil)
		if err != nil {
			t.Fatal(err)
		}
		state, auditErr := audit.Manifests(t.Context(), files, audit.ManifestScope{Cluster: cluster, Injector: injector})
		result, injectErr := inject.Run(t.Context(), files,
			inject.Config{Patches: config, Cluster: cluster, WithBudgets: true})
		if auditErr != nil || injectErr != nil {
			if auditErr == nil || injectErr == nil {
				t.Errorf("%s: inject ends with %v, audit with %v", path, injectErr, auditErr)
			}
			continue
		}
		report := audit.Run(*state, audit.Rules{Injector: injector,
			Budgets: pdb.Rules{Base: config.Base, Bounds: config.Bounds}})
		var got, want, gotBudgets, wantBudgets []string
		for _, w := range report.Workloads {
			for _, d := range w.Defaults {
				outcome := d.Code
				if d.Default == policy.SettingDisruptionBudget {
					gotBudgets = append(gotBudgets, fmt.Sprintf("%s %s %s: %v", w.Namespace, w.Kind, w.Name,
						d.State == audit.StateMissing))
					continue
				}
				if d.State == audit.StateMissing {
					outcome = "added " + d.Detail
				}
				got = append(got, fmt.Sprintf("%s %s %s %s: %s", w.Source, w.Name, d.Default, d.Container, outcome))
			}
		}
		for _, w := range result.Workloads {
			workloads++
			for _, d := range w.Result.Decisions {
				outcome := string(d.Skip)
				if d.Skip == patches.SkipNone {
					outcome = "added " + d.Detail
					added++
				}
				want = append(want, fmt.Sprintf("%s %s %s %s: %s", w.Place(), w.FullName(), d.Default, d.Container, outcome))
			}
		}
		for _, d := range result.Budgets {
			if d.Manifest != nil {
				budgets++
			}
			wantBudgets = append(wantBudgets, fmt.Sprintf("%s %s %s: %v", d.Namespace, d.Workload.Kind, d.Workload.Name,
				d.Manifest != nil))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-inject +audit):\n%s", path, diff)
		}
		slices.Sort(gotBudgets)
		slices.Sort(wantBudgets)
		if diff := cmp.Diff(wantBudgets, gotBudgets); diff != "" {
			t.Errorf("%s: budgets (-inject +audit):\n%s", path, diff)
		}
	}
	t.Logf("%d workloads compared, %d defaults added, %d budgets", workloads, added, budgets)
	if added < 50 || budgets < 5 {
		t.Errorf("%d defaults and %d budgets are added, which shows little", added, budgets)
	}
}

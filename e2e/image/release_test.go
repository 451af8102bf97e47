package image

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/evenkeel/evenkeel/e2e/installation"
)

// workflow is as much of a workflow of GitHub as the test looks at.
type workflow struct {
	Permissions map[string]string
	Jobs        map[string]struct {
		Permissions map[string]string
		Uses        string
		Steps       []struct{ Uses, Run string }
	}
}

// What a workflow runs can't change under it, and can do no more than it needs.
func TestWorkflowsRunNothingThatCouldChange(t *testing.T) {
	root, err := installation.Root()
	if err != nil {
		t.Fatal(err)
	}
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root, ".github", "workflows", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no workflow is there: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			checkWorkflow(t, string(text), string(makefile))
		})
	}
}

func checkWorkflow(t *testing.T, text, makefile string) {
	t.Helper()
	var w workflow
	if err := yaml.Unmarshal([]byte(text), &w); err != nil {
		t.Fatal(err)
	}
	if w.Permissions == nil || len(w.Permissions) > 0 {
		t.Errorf("jobs without permissions of their own have %v, want none: permissions: {}", w.Permissions)
	}
	for name, job := range w.Jobs {
		if len(job.Permissions) == 0 {
			t.Errorf("job %s doesn't say what it may do", name)
		}
		for permission, level := range job.Permissions {
			if level == "write" && name != "release" {
				t.Errorf("job %s may write %s", name, permission)
			}
		}
		if job.Uses != "" && !strings.HasPrefix(job.Uses, "./") {
			t.Errorf("job %s uses %s, want a workflow of this repository", name, job.Uses)
		}
		mayWrite, runs := false, ""
		for _, level := range job.Permissions {
			mayWrite = mayWrite || level == "write"
		}
		for _, step := range job.Steps {
			runs += step.Run + step.Uses
			if step.Uses != "" &&
				!regexp.MustCompile(`(?m)`+regexp.QuoteMeta(step.Uses)+` # v\d+\.\d+\.\d+$`).MatchString(text) ||
				step.Uses != "" && !regexp.MustCompile(`@[0-9a-f]{40}$`).MatchString(step.Uses) {
				t.Errorf("job %s uses %s, want OWNER/NAME@COMMIT # vX.Y.Z", name, step.Uses)
			}
			for _, target := range regexp.MustCompile(`(?m)^\s*make ([a-z-]+)`).FindAllStringSubmatch(step.Run, -1) {
				if !strings.Contains(makefile, "\n"+target[1]+":") {
					t.Errorf("job %s runs make %s, which the Makefile doesn't have", name, target[1])
				}
			}
			if strings.Contains(step.Run, "${{") {
				t.Errorf("job %s puts an expression into a script, where its value is code:\n%s", name, step.Run)
			}
		}
		if mayWrite && (strings.Contains(runs, "make ") || !strings.Contains(runs, "attest-build-provenance")) {
			t.Errorf("job %s signs what it builds itself, or states no provenance", name)
		}
	}
	forChanges := strings.Contains(text, "\n  push:\n")
	if job, ok := w.Jobs["vulnerabilities"]; forChanges &&
		(!ok || !strings.Contains(job.Steps[len(job.Steps)-1].Run, "make vulnerabilities")) {
		t.Error("nothing looks for known vulnerabilities")
	}
	for _, tool := range regexp.MustCompile(`go (?:run|install) (\S+/\S+)`).FindAllStringSubmatch(text+makefile, -1) {
		if !strings.HasPrefix(tool[1], "./") && !regexp.MustCompile(`@v\d+\.\d+\.\d+$`).MatchString(tool[1]) {
			t.Errorf("%s has no version", tool[1])
		}
	}
}

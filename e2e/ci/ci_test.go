// Package ci tests what evenkeel offers to pipelines, on made-up repositories: the GitHub Action,
// the hooks of pre-commit, the post-renderer of Helm, and the formats of findings.
package ci

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif"
	"sigs.k8s.io/yaml"

	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

const bare = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
        - name: web # the server
          image: example.com/web:1
          ports: [{containerPort: 8080}]
`

// program returns a built evenkeel in a directory of its own.
func program(t *testing.T) string {
	t.Helper()
	path, err := installation.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// repository makes files in a directory.
func repository(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// run runs a command in a directory and returns what it wrote, and its exit code.
func run(t *testing.T, dir string, env []string, command ...string) (stdout, stderr string, code int) {
	t.Helper()
	// which looks for the command in the new PATH
	cmd := exec.CommandContext(t.Context(), "env", append(env, command...)...)
	cmd.Dir = dir
	var out, failures bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failures
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), failures.String(), cmd.ProcessState.ExitCode()
}

// file returns a file of the repository.
func file(t *testing.T, name string) []byte {
	t.Helper()
	root, err := installation.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// The steps are run as GitHub does: by bash, with what is written in ${{ }} put in before.
func TestTheActionChecksARepository(t *testing.T) {
	var action struct {
		Inputs map[string]struct{ Default string }
		Runs   struct {
			Using string
			Steps []struct {
				Uses, Shell, Run string
				Env              map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(file(t, "action.yml"), &action); err != nil {
		t.Fatal(err)
	}
	if action.Runs.Using != "composite" {
		t.Fatalf("the action runs using %q", action.Runs.Using)
	}
	root, err := installation.Root()
	if err != nil {
		t.Fatal(err)
	}
	temporary := t.TempDir()
	expression := regexp.MustCompile(`\$\{\{ *([a-z_.]+) *\}\}`)
	for name, c := range map[string]struct {
		files, inputs map[string]string
		code          int
		says          string
	}{
		"a workload without defaults": {map[string]string{"k8s/web.yaml": bare}, nil, 1,
			"::warning file=k8s/web.yaml,line=1,title=evenkeel"},
		"a workload that is ignored": {
			map[string]string{"vendor/web.yaml": bare, "a.yaml": "apiVersion: v1\nkind: ConfigMap\n"},
			map[string]string{"ignore": "vendor"}, 0, ""},
		"an input that would be a command": {map[string]string{"a.yaml": "apiVersion: v1\nkind: ConfigMap\n"},
			map[string]string{"files": "a.yaml; touch owned"}, 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := repository(t, c.files)
			value := func(of string) string {
				if of == "github.action_path" {
					return root
				}
				input := strings.TrimPrefix(of, "inputs.")
				if given, ok := c.inputs[input]; ok {
					return given
				}
				declared, ok := action.Inputs[input]
				if !ok {
					t.Errorf("the action reads %s, which it doesn't declare", of)
				}
				return declared.Default
			}
			code, out := 0, ""
			for _, step := range action.Runs.Steps {
				if step.Uses != "" {
					if !regexp.MustCompile(`@[0-9a-f]{40}$`).MatchString(step.Uses) {
						t.Errorf("%s is not pinned by a commit", step.Uses)
					}
					continue
				}
				if expression.MatchString(step.Run) {
					t.Errorf("a step puts an expression into a script: %s", step.Run)
				}
				env := []string{"RUNNER_TEMP=" + temporary}
				for key, text := range step.Env {
					env = append(env, key+"="+expression.ReplaceAllStringFunc(text, func(e string) string {
						return value(expression.FindStringSubmatch(e)[1])
					}))
				}
				var stderr string
				if out, stderr, code = run(t, dir, env, step.Shell, "--noprofile", "--norc", "-eo", "pipefail", "-c",
					step.Run); code != 0 {
					out += stderr
					break
				}
			}
			if code != c.code || !strings.Contains(out, c.says) {
				t.Errorf("exit code %d, want %d, with %q:\n%s", code, c.code, c.says, out)
			}
			if _, err := os.Stat(filepath.Join(dir, "owned")); err == nil {
				t.Error("an input was run as a command")
			}
		})
	}
}

// pre-commit calls the entry with the names of the files that a commit touches.
func TestTheHooksCheckAndWriteWhatIsCommitted(t *testing.T) {
	var hooks []struct{ ID, Entry, Language string }
	if err := yaml.Unmarshal(file(t, ".pre-commit-hooks.yaml"), &hooks); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Dir(program(t))
	env := []string{"PATH=" + bin + string(os.PathListSeparator) + os.Getenv("PATH")}
	dir := repository(t, map[string]string{"web.yaml": bare, "values.yaml": "replicas: 2\n"})
	entries := map[string][]string{}
	for _, hook := range hooks {
		if hook.Language != "golang" {
			t.Errorf("hook %s is of language %q", hook.ID, hook.Language)
		}
		entries[hook.ID] = append(strings.Fields(hook.Entry), "web.yaml", "values.yaml")
	}
	if _, stderr, code := run(t, dir, env, entries["evenkeel-check"]...); code != 1 ||
		!strings.Contains(stderr, "missing") {
		t.Errorf("the check of a bare workload: exit code %d\n%s", code, stderr)
	}
	if _, stderr, code := run(t, dir, env, entries["evenkeel-write"]...); code != 0 {
		t.Errorf("the writing hook: exit code %d\n%s", code, stderr)
	}
	text, err := os.ReadFile(filepath.Join(dir, "web.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "readinessProbe:") || !strings.Contains(string(text), "name: web # the server") {
		t.Errorf("the file lacks the probe, or its comment:\n%s", text)
	}
	if _, stderr, code := run(t, dir, env, entries["evenkeel-check"]...); code != 0 {
		t.Errorf("the check of what was written: exit code %d\n%s", code, stderr)
	}
	if _, stderr, code := run(t, dir, env,
		append(strings.Fields(strings.Join(entries["evenkeel-check"][:3], " ")), "values.yaml")...); code != 0 {
		t.Errorf("a commit without manifests: exit code %d\n%s", code, stderr)
	}
}

func TestTheLogForCodeScanningIsValid(t *testing.T) {
	evenkeel := program(t)
	dir := repository(t, map[string]string{"a b/web.yaml": bare})
	for _, command := range [][]string{
		{evenkeel, "inject", "--check", "-q", "-o", "sarif", "a b"}, {evenkeel, "audit", "-o", "sarif", "-f", "a b"},
	} {
		stdout, stderr, _ := run(t, dir, nil, command...)
		log, err := sarif.FromString(stdout)
		if err != nil {
			t.Fatalf("%v\n%s%s", err, stdout, stderr)
		}
		for _, run := range log.Runs { // what the library writes as empty where the log leaves it out: the schema's defaults
			run.Language, run.Tool.Driver.Language, run.NewlineSequences = "en-US", "en-US", []string{"\n"}
		}
		if err := log.Validate(); err != nil {
			t.Error(err)
		}
		if len(log.Runs) != 1 || len(log.Runs[0].Results) < 3 {
			t.Errorf("the log has too few results:\n%s", stdout)
		}
		for _, result := range log.Runs[0].Results {
			if uri := *result.Locations[0].PhysicalLocation.ArtifactLocation.URI; uri != "a%20b/web.yaml" {
				t.Errorf("the place of a result is %q", uri)
			}
		}
	}
	log, err := sarif.FromString(`{"version": "2.1.0", "runs": [{"results": []}]}`) // without a tool
	if err == nil {
		err = log.Validate()
	}
	if err == nil {
		t.Error("the schema finds nothing wrong with a run without a tool, so it shows nothing")
	}
}

func TestTheReportOfTestsIsValid(t *testing.T) {
	evenkeel := program(t)
	schema, err := filepath.Abs(filepath.Join("testdata", "junit.xsd"))
	if err != nil {
		t.Fatal(err)
	}
	odd := strings.Replace(bare, "name: web\n", "name: \"<a>&]]>\\u0007\"\n", 1) // which no API server takes
	dir := repository(t, map[string]string{"a b/web.yaml": bare, "a b/odd.yaml": odd,
		"a b/other.yaml": "apiVersion: v1\nkind: ConfigMap\n", "bad.xml": `<testsuites tests="1" failures="0" errors="0">` +
			`<testsuite name="a" tests="1" failures="0"><testcase name="b"/></testsuite></testsuites>`})
	for name, command := range map[string][]string{
		"inject":  {evenkeel, "inject", "--check", "-q", "-o", "junit", "a b"},
		"audit":   {evenkeel, "audit", "-o", "junit", "a b"},
		"nothing": {evenkeel, "audit", "-o", "junit", "a b/other.yaml"},
	} {
		stdout, stderr, _ := run(t, dir, nil, command...)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(stdout), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, invalid, code := run(t, dir, nil, "xmllint", "--noout", "--schema", schema, name); code != 0 {
			t.Errorf("%s: %s\n%s%s", name, invalid, stdout, stderr)
		}
		if failures := strings.Count(stdout, "<failure "); name != "nothing" && failures < 3 {
			t.Errorf("%s: the report has too few failures:\n%s", name, stdout)
		}
	}
	if _, _, code := run(t, dir, nil, "xmllint", "--noout", "--schema", schema, "bad.xml"); code == 0 {
		t.Error("the schema finds nothing wrong with a suite that counts no errors, so it shows nothing")
	}
}

func TestHelmAddsTheDefaultsToWhatAChartRenders(t *testing.T) {
	root, err := installation.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := repository(t,
		map[string]string{"web/Chart.yaml": "apiVersion: v2\nname: web\nversion: 0.1.0\n", "web/templates/web.yaml": bare})
	t.Setenv("PATH", filepath.Dir(program(t))+string(os.PathListSeparator)+os.Getenv("PATH"))
	if _, err := cluster.Run(cluster.HelmCommand(t.Context(), dir, "", "plugin", "install",
		filepath.Join(root, "deploy", "helm-plugin"))); err != nil {
		t.Fatal(err)
	}
	out, err := cluster.Run(cluster.HelmCommand(t.Context(), dir, "", "template", "web", filepath.Join(dir, "web"),
		"--post-renderer", "evenkeel"))
	if err != nil || !strings.Contains(out, "readinessProbe:") || !strings.Contains(out, "podAntiAffinity:") {
		t.Errorf("%v\n%s", err, out)
	}
}

// What docs/how-to/krm.md says, file by file, with a Deployment as the resource.
func TestEvenkeelIsAFunctionOfKustomize(t *testing.T) {
	bin, err := cluster.Build(t.Context(), os.Stderr, cluster.Kustomize)
	if err != nil {
		t.Fatal(err)
	}
	root, err := installation.Root()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "how-to", "krm.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```[a-z]+\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(blocks) != 4 {
		t.Fatalf("the page has %d blocks, want three files and a command", len(blocks))
	}
	dir := repository(t, map[string]string{"web.yaml": bare, "kustomization.yaml": blocks[0][1],
		"evenkeel.yaml": blocks[1][1], "evenkeel-function": blocks[2][1]})
	if err := os.Chmod(filepath.Join(dir, "evenkeel-function"), 0o755); err != nil {
		t.Fatal(err)
	}
	path := strings.Join([]string{filepath.Dir(program(t)), bin, os.Getenv("PATH")}, string(os.PathListSeparator))
	stdout, stderr, code := run(t, dir, []string{"PATH=" + path}, "sh", "-c", blocks[3][1])
	if code != 0 || !strings.Contains(stdout, "readinessProbe:") || !strings.Contains(stdout, "podAntiAffinity:") {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
}

// An overlay is the author's, and what it leaves out is added to what it renders.
func TestAnOverlayIsTheAuthorsOwn(t *testing.T) {
	bin, err := cluster.Build(t.Context(), os.Stderr, cluster.Kubectl)
	if err != nil {
		t.Fatal(err)
	}
	evenkeel := program(t)
	dir := repository(t, map[string]string{"base/web.yaml": bare, "base/kustomization.yaml": "resources: [web.yaml]\n",
		"overlay/kustomization.yaml": `resources: [../base]
nameSuffix: -eu
patches:
  - target: {kind: Deployment}
    patch: |
      apiVersion: apps/v1
      kind: Deployment
      metadata:
        name: any
        annotations: {evenkeel.dev/topology-keys: topology.kubernetes.io/zone}
      spec:
        template:
          spec:
            containers:
              - name: web
                lifecycle: {preStop: {sleep: {seconds: 3}}}
`})
	rendered, stderr, code := run(t, dir, nil, filepath.Join(bin, cluster.Kubectl), "kustomize", "overlay")
	if code != 0 {
		t.Fatalf("kubectl kustomize: exit code %d\n%s", code, stderr)
	}
	dir = repository(t, map[string]string{"web.yaml": rendered})
	injected, stderr, code := run(t, dir, nil, evenkeel, "inject", "-q", "web.yaml")
	for text, want := range map[string]int{"name: web-eu": 1, "seconds: 3": 1, "preStop": 1, "readinessProbe": 1,
		"topologyKey: topology.kubernetes.io/zone": 1, "topologyKey: kubernetes.io/hostname": 0} {
		if got := strings.Count(injected, text); code != 0 || got != want {
			t.Errorf("exit code %d, %s stands %d times, want %d:\n%s%s", code, text, got, want, injected, stderr)
		}
	}
}

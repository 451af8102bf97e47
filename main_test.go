package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
)

var update = flag.Bool("update", false, "rewrite the expectations in testdata/cli")

// cli runs a command line and returns what it wrote and its exit code.
func cli(t *testing.T, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(context.Background(), args, strings.NewReader(stdin), &out, &err)
	return out.String(), err.String(), code
}

// caseSeparator begins a part of a case file: a file to be there, stdin, or the
// expectations stdout, stderr and exit.
const caseSeparator = "==== "

// TestCommands runs the case files: a sentence, a command line behind "$ ", and
// sections.
func TestCommands(t *testing.T) {
	paths, err := filepath.Glob("testdata/cli/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			path, err := filepath.Abs(path)
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			parts := strings.Split("\n"+strings.TrimSuffix(string(text), "\n"), "\n"+caseSeparator)
			_, command, ok := strings.Cut(parts[0], "\n$ ")
			if !ok {
				t.Fatal(`no line begins with "$ "`)
			}
			dir := t.TempDir()
			stdin, rewritten := "", parts[0]
			want := map[string]string{"stdout": "", "stderr": "", "exit": "0"}
			for _, part := range parts[1:] {
				name, content, _ := strings.Cut(part, "\n")
				if _, expectation := want[name]; expectation {
					want[name] = content
					continue
				}
				rewritten += "\n" + caseSeparator + part
				if name == "stdin" {
					stdin = content + "\n"
					continue
				}
				if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o777); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content+"\n"), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			t.Chdir(dir)
			stdout, stderr, code := cli(t, stdin, strings.Fields(command)...)
			got := map[string]string{"stdout": strings.TrimSuffix(stdout, "\n"), "stderr": strings.TrimSuffix(stderr, "\n"),
				"exit": strconv.Itoa(code)}
			if *update {
				for _, name := range []string{"stdout", "stderr"} {
					if got[name] != "" {
						rewritten += "\n" + caseSeparator + name + "\n" + got[name]
					}
				}
				if code != 0 {
					rewritten += "\n" + caseSeparator + "exit\n" + got["exit"]
				}
				if err := os.WriteFile(path, []byte(strings.TrimPrefix(rewritten, "\n")+"\n"), 0o666); err != nil {
					t.Fatal(err)
				}
				return
			}
			want["stdout"], want["stderr"] = strings.TrimSuffix(want["stdout"], "\n"), strings.TrimSuffix(want["stderr"], "\n")
			want["exit"] = strings.TrimSpace(want["exit"])
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s(-want +got)\n%s", parts[0], d)
			}
		})
	}
}

// TestFlagsAreDescribedInOneStyle looks at every flag of every command: a sentence, as in kubectl's help.
func TestFlagsAreDescribedInOneStyle(t *testing.T) {
	for _, command := range newRootCommand("evenkeel").Commands() {
		command.Flags().VisitAll(func(f *pflag.Flag) {
			_, usage := pflag.UnquoteUsage(f)
			first := []rune(usage)[0]
			if !f.Hidden && (!unicode.IsUpper(first) || !strings.HasSuffix(usage, ".")) {
				t.Errorf("%s --%s: %q is no sentence", command.Name(), f.Name, usage)
			}
			if f.Name == "kubeconfig" && f.Usage != kubeconfigHelp {
				t.Errorf("%s --kubeconfig says something else than other commands: %q", command.Name(), usage)
			}
		})
	}
}

// TestTheClusterIsFoundInTheOrderThatHelpSays takes one source after the other away.
func TestTheClusterIsFoundInTheOrderThatHelpSays(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	write := func(path, host string) string {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		text := "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c}}]\n" +
			"clusters: [{name: c, cluster: {server: \"https://" + host + "\"}}]\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	flag, variable := write("flag", "flag"), write("variable", "variable")
	for _, c := range []struct{ flag, variable, want string }{
		{flag, variable, "https://flag"},
		{"", variable, "https://variable"},
		{flag, "", "https://flag"},
	} {
		t.Setenv("KUBECONFIG", c.variable)
		var cluster clusterFlags
		cluster.register(pflag.NewFlagSet("", pflag.ContinueOnError))
		cluster.Rules.ExplicitPath = c.flag
		loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(cluster.Rules, &cluster.Overrides)
		config, err := loader.ClientConfig()
		if err != nil || config.Host != c.want {
			t.Errorf("--kubeconfig=%q, KUBECONFIG=%q: %v, %v, want %s", c.flag, c.variable, config, err, c.want)
		}
		serve := serveOptions{kubeconfig: c.flag}
		if config, err := serve.restConfig(); err != nil || config.Host != c.want {
			t.Errorf("serve with --kubeconfig=%q, KUBECONFIG=%q: %v, %v, want %s", c.flag, c.variable, config, err, c.want)
		}
	}
}

func TestVersionNamesVersionCommitAndGo(t *testing.T) {
	stdout, _, code := cli(t, "", "evenkeel", "version")
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if code != 0 || len(lines) != 3 || !strings.HasPrefix(lines[0], "evenkeel ") ||
		!strings.HasPrefix(lines[1], "commit ") ||
		!strings.HasPrefix(lines[2], "go1.") {
		t.Errorf("exit %d, %q", code, stdout)
	}
}

func TestCompletionIsThereForEveryShell(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if stdout, _, code := cli(t, "", "evenkeel", "completion", shell); code != 0 ||
			!strings.Contains(stdout, "evenkeel") {
			t.Errorf("%s: exit %d, %d bytes", shell, code, len(stdout))
		}
	}
}

func TestEverySettingWithAFlagHasOne(t *testing.T) {
	var p policyFlags
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	p.register(fs)
	for _, s := range policy.Settings() {
		switch f := fs.Lookup(s.Name); {
		case s.Flag != (f != nil):
			t.Errorf("--%s is there: %v, want %v", s.Name, f != nil, s.Flag)
		case f != nil && f.DefValue != s.Default:
			t.Errorf("--%s has default %q, want %q", s.Name, f.DefValue, s.Default)
		}
	}
}

func TestPolicyFlags(t *testing.T) {
	for _, c := range []struct {
		name  string
		args  []string
		want  func(*patches.Config)
		wrong bool
	}{
		{name: "without flags it is the built-in configuration"},
		{name: "each flag sets its setting", args: []string{"--anti-affinity=required", "--pre-stop-sleep=20s",
			"--max-grace-period=5m"},
			want: func(c *patches.Config) {
				c.Base.AntiAffinity = policy.AntiAffinityRequired
				c.Base.PreStopSleep = 20 * time.Second
				c.MaxGracePeriod = 5 * time.Minute
			}},
		{name: "a bound below the built-in sleep lowers it", args: []string{"--max-pre-stop-sleep=4s"},
			want: func(c *patches.Config) {
				c.Base.PreStopSleep, c.Bounds.MaxPreStopSleep = 4*time.Second, 4*time.Second
			}},
		{name: "the order of a sleep and its bound does not matter",
			args: []string{"--pre-stop-sleep=90s", "--max-pre-stop-sleep=2m"},
			want: func(c *patches.Config) {
				c.Base.PreStopSleep, c.Bounds.MaxPreStopSleep = 90*time.Second, 2*time.Minute
			}},
		{name: "exec sleeps can be allowed", args: []string{"--allow-exec-sleep"},
			want: func(c *patches.Config) { c.AllowExecSleep = true }},
		{name: "a sleep above its bound is refused", args: []string{"--pre-stop-sleep=61s"}, wrong: true},
		{name: "a value that is not allowed is refused", args: []string{"--anti-affinity=on"}, wrong: true},
		{name: "an empty value is refused", args: []string{"--topology-keys="}, wrong: true},
		{name: "a bound of a fraction of a second is refused", args: []string{"--max-grace-period=1500ms"}, wrong: true},
		{name: "a bound of nothing is refused", args: []string{"--max-pre-stop-sleep=0s"}, wrong: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p policyFlags
			fs := pflag.NewFlagSet("", pflag.ContinueOnError)
			p.register(fs)
			err := fs.Parse(c.args)
			var got patches.Config
			if err == nil {
				got, err = p.config()
			}
			if (err != nil) != c.wrong {
				t.Fatalf("error %v, want one: %v", err, c.wrong)
			}
			if c.wrong {
				return
			}
			want := patches.DefaultConfig()
			if c.want != nil {
				c.want(&want)
			}
			if d := cmp.Diff(want, got, cmp.AllowUnexported(policy.Policy{})); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func TestAFlagIsSuggestedUpToThreeSlips(t *testing.T) {
	for name, suggested := range map[string]bool{
		"topology-key":          true,  // one letter short
		"topologi-kays":         true,  // two wrong
		"tapologi-kays":         true,  // three wrong
		"tapalogi-kays":         false, // four wrong
		"pre-stop-sleepp":       true,
		strings.Repeat("x", 65): false,
	} {
		_, stderr, code := cli(t, "", "evenkeel", "inject", "--"+name+"=x")
		if code != exitFailed || strings.Contains(stderr, "did you mean") != suggested {
			t.Errorf("--%s: exit %d, %q, want a suggestion: %v", name, code, stderr, suggested)
		}
	}
}

package patches

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/evenkeel/evenkeel/policy"
)

var update = flag.Bool("update", false, "rewrite what the test cases expect; review it with git diff")

// testCase is one file of testdata: a comment that says the behaviour, the
// object as YAML (or as raw bytes, where it starts with "{"), then sections that
// each start with "=== NAME":
//
//	=== with    settings of the operator, the cluster and the request; see setup
//	=== old     the object before the update, which makes the case an UPDATE
//	=== service a Service of the Namespace; there may be several
//	=== expect  operations, decisions and problems; rewritten by -update
type testCase struct {
	path string
	// sentence is the first comment of the file.
	sentence string
	// head is everything before "=== expect".
	head     string
	expect   string
	injector *Injector
	request  Request
}

// setup is the section "with" of a test case.
type setup struct {
	// APIServer and Kubelet are versions, "unknown", or "" for 1.36.
	APIServer string `json:"apiServer"`
	Kubelet   string `json:"kubelet"`
	// Flags are the settings' flags by name, Namespace the annotations of the
	// Namespace.
	Flags           map[string]string `json:"flags"`
	Namespace       map[string]string `json:"namespace"`
	MaxGracePeriod  string            `json:"maxGracePeriod"`
	MaxPreStopSleep string            `json:"maxPreStopSleep"`
	AllowExecSleep  bool              `json:"allowExecSleep"`
	Offline         bool              `json:"offline"`
	Operation       string            `json:"operation"`
	// NoZones is set where nodes have no zone.
	NoZones bool `json:"noZones"`
	// Ran is set where a revision of the workload has the pod template.
	Ran bool `json:"ran"`
	// Late is set where the time for the review is over.
	Late bool `json:"late"`
	// Noted is the code of a note about the workload, with these containers.
	Noted Skip `json:"noted"`
	// OptedOut are the workloads of the Namespace that carry the label that opts
	// them out, as KIND/NAME.
	OptedOut []string `json:"optedOut"`
}

const separator = "=== "

// readCase reads one file of testdata.
func readCase(path string) (*testCase, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c := &testCase{path: path}
	c.head, c.expect, _ = strings.Cut(string(text), separator+"expect\n")
	first, _, _ := strings.Cut(c.head, "\n")
	sentence, ok := strings.CutPrefix(first, "# ")
	if !ok {
		return nil, errors.New("does not start with a comment that says the behaviour")
	}
	c.sentence = sentence

	parts := strings.Split("\n"+c.head, "\n"+separator)
	if c.request.Object, err = readDocument(parts[0]); err != nil {
		return nil, fmt.Errorf("read object: %w", err)
	}
	var s setup
	c.request.Operation = Create
	for _, part := range parts[1:] {
		name, body, _ := strings.Cut(part, "\n")
		switch name {
		case "with":
			if err := yaml.UnmarshalStrict([]byte(body), &s); err != nil {
				return nil, fmt.Errorf("read setup: %w", err)
			}
		case "old":
			c.request.Operation = Update
			if c.request.Old, err = readDocument(body); err != nil {
				return nil, fmt.Errorf("read old object: %w", err)
			}
		case "service":
			var service corev1.Service
			if err := yaml.UnmarshalStrict([]byte(body), &service); err != nil {
				return nil, fmt.Errorf("read Service: %w", err)
			}
			if c.request.Services == nil {
				c.request.Services = NewServices()
			}
			c.request.Services.Put(&service)
		default:
			return nil, fmt.Errorf("has an unknown section %q", name)
		}
	}
	return c, c.configure(s)
}

// readDocument returns the JSON of a YAML document, and a document that is
// written as JSON as it is, without its comments.
func readDocument(text string) ([]byte, error) {
	plain := text
	for strings.HasPrefix(strings.TrimLeft(plain, "\n"), "#") {
		_, plain, _ = strings.Cut(strings.TrimLeft(plain, "\n"), "\n")
	}
	if plain = strings.TrimSpace(plain); strings.HasPrefix(plain, "{") || plain == "" {
		return []byte(plain), nil
	}
	return yaml.YAMLToJSONStrict([]byte(text))
}

func (c *testCase) configure(s setup) error {
	config := DefaultConfig()
	config.AllowExecSleep = s.AllowExecSleep
	for text, into := range map[*string]*time.Duration{
		&s.MaxGracePeriod: &config.MaxGracePeriod, &s.MaxPreStopSleep: &config.Bounds.MaxPreStopSleep,
	} {
		if *text == "" {
			continue
		}
		var err error
		if *into, err = time.ParseDuration(*text); err != nil {
			return err
		}
	}
	for name, value := range s.Flags {
		if err := config.Base.Set(name, value, config.Bounds); err != nil {
			return err
		}
	}
	for text, into := range map[*string]*Version{
		&s.APIServer: &c.request.Cluster.APIServer, &s.Kubelet: &c.request.Cluster.OldestKubelet,
	} {
		switch *text {
		case "":
			*into = Version{1, 36}
		case "unknown":
		default:
			var err error
			if *into, err = ParseVersion(*text); err != nil {
				return err
			}
		}
	}
	if s.Operation != "" {
		c.request.Operation = Operation(s.Operation)
	}
	c.request.Offline, c.request.Namespace = s.Offline, s.Namespace
	c.request.Cluster.NoZones = s.NoZones
	if s.Ran {
		c.request.Ran = func(string, uint64) bool { return true }
	}
	if s.Late {
		c.request.Late = func() bool { return true }
	}
	if s.Noted != "" {
		of := c.request.Old // which ran when it was noticed
		if len(of) == 0 {
			of = c.request.Object
		}
		guess, err := (&Injector{}).Guess(of, nil)
		if err != nil {
			return err
		}
		c.request.Noted = func(string, string) (Note, bool) { return Note{s.Noted, guess.Fingerprint}, true }
	}
	if len(s.OptedOut) > 0 {
		c.request.OptedOut = func(kind, name string) bool { return slices.Contains(s.OptedOut, kind+"/"+name) }
	}
	var err error
	c.injector, err = New(config)
	return err
}

// readCases reads all cases below testdata/directory, in order of their names.
func readCases(t testing.TB, directory string) []*testCase {
	t.Helper()
	var cases []*testCase
	err := filepath.WalkDir(filepath.Join("testdata", directory), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".case" {
			return err
		}
		c, err := readCase(path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		cases = append(cases, c)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(cases) == 0 {
		t.Fatalf("no cases in testdata/%s", directory)
	}
	return cases
}

// runCases runs the cases of one directory with generators alone, or with all of
// them, twice each: both runs must agree.
func runCases(t *testing.T, directory string, generators ...generator) {
	sentences := map[string]string{}
	for _, c := range readCases(t, directory) {
		if other, twice := sentences[c.sentence]; twice {
			t.Errorf("%s and %s say the same behaviour", c.path, other)
		}
		sentences[c.sentence] = c.path
		t.Run(c.sentence, func(t *testing.T) {
			injector := *c.injector
			if len(generators) > 0 {
				injector.generators = generators
			}
			got := describeResult(injector.Review(c.request))
			if again := describeResult(injector.Review(c.request)); again != got {
				t.Errorf("%s: a second run does something else (-first +second):\n%s", c.path, cmp.Diff(got, again))
			}
			if *update {
				if err := os.WriteFile(c.path, []byte(c.head+separator+"expect\n"+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(c.expect, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.path, diff)
			}
		})
	}
}

// describeResult writes a result for people: operations with their values as YAML, then
// decisions, then problems.
func describeResult(r Result) string {
	var b strings.Builder
	for _, op := range r.Operations {
		if op.Value == nil {
			fmt.Fprintf(&b, "%s %s\n", op.Operation, op.Path)
			continue
		}
		value, err := yaml.JSONToYAML(op.Value)
		if err != nil {
			panic(err)
		}
		lines := strings.Split(strings.TrimSpace(string(value)), "\n")
		fmt.Fprintf(&b, "%s %s", op.Operation, op.Path)
		if len(lines) == 1 {
			fmt.Fprintf(&b, " %s\n", lines[0])
			continue
		}
		fmt.Fprintf(&b, "\n    %s\n", strings.Join(lines, "\n    "))
	}
	if len(r.Operations) == 0 {
		fmt.Fprintf(&b, "%s\n", r.Patch)
	}
	for _, d := range r.Decisions {
		name := d.Default
		if d.Container != "" {
			name += " of " + d.Container
		}
		state := "added: " + d.Detail
		switch {
		case d.Skip != SkipNone && d.Changes:
			state = "taken back: " + string(d.Skip) + ": " + d.Standing
		case d.Skip != SkipNone:
			state = "skipped: " + string(d.Skip)
		case !d.Changes:
			state = "stands: " + d.Detail
		case d.Standing != "":
			state = "changed: " + d.Detail + ", from " + d.Standing
		}
		fmt.Fprintf(&b, "%s: %s\n", name, state)
	}
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "problem (%s): %s\n", p.Code, p)
	}
	if r.Err != nil {
		fmt.Fprintf(&b, "error: %v\n", r.Err)
	}
	return b.String()
}

// TestReview runs the whole funnel.
func TestReview(t *testing.T) { runCases(t, "review") }

// TestEverySkipCodeHasACase makes sure that no reason goes untested.
func TestEverySkipCodeHasACase(t *testing.T) {
	seen := map[Skip]bool{}
	for _, c := range readCases(t, "") {
		for _, d := range c.injector.Review(c.request).Decisions {
			seen[d.Skip] = true
		}
	}
	for _, r := range Reasons() {
		// TestReviewOutlivesABrokenGenerator and TestRecordStaysWithinTheAPIsLimit have these.
		if !seen[r.Code] && r.Code != SkipInternalError && r.Code != SkipNoRoom {
			t.Errorf("no case has the skip code %s", r.Code)
		}
	}
}

func TestReviewOutlivesABrokenGenerator(t *testing.T) {
	for name, broken := range map[string]generator{
		"a generator that panics":                       func(*input, *output) { panic("on purpose") },
		"a generator whose value can't be encoded":      func(_ *input, o *output) { o.add("/metadata/x", func() {}) },
		"an operation whose parent does not exist":      func(_ *input, o *output) { o.add("/no/such/parent", 1) },
		"an operation on an element that doesn't exist": func(_ *input, o *output) { o.replace("/spec/containers/7", 1) },
	} {
		t.Run(name+" ends in the empty patch", func(t *testing.T) {
			injector, err := New(DefaultConfig())
			if err != nil {
				t.Fatal(err)
			}
			injector.generators = append(slices.Clone(injector.generators), broken)
			r := injector.Review(Request{Operation: Create, Object: []byte(
				`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","labels":{"app":"web"}},` +
					`"spec":{"containers":[{"name":"web","ports":[{"containerPort":80}]}]}}`)})
			if !bytes.Equal(r.Patch, []byte("[]")) || len(r.Operations) != 0 {
				t.Errorf("patch is %s", r.Patch)
			}
			if r.Err == nil || r.Kind != "Pod" || r.Name != "web" {
				t.Errorf("result is %s %q with error %v", r.Kind, r.Name, r.Err)
			}
			for _, d := range r.Decisions {
				if d.Skip != SkipInternalError {
					t.Errorf("decision of %s is %q", d.Default, d.Skip)
				}
			}
		})
	}
}

func TestNewRejectsAnUnusableConfig(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no maximum grace period":                func(c *Config) { c.MaxGracePeriod = 0 },
		"a maximum grace period below a second":  func(c *Config) { c.MaxGracePeriod = time.Millisecond },
		"a maximum grace period with a fraction": func(c *Config) { c.MaxGracePeriod = 1500 * time.Millisecond },
		"no maximum sleep":                       func(c *Config) { c.Bounds.MaxPreStopSleep = 0 },
		"a maximum sleep with a fraction":        func(c *Config) { c.Bounds.MaxPreStopSleep = 1500 * time.Millisecond },
		"an empty base policy":                   func(c *Config) { c.Base = policy.Policy{} },
	} {
		config := DefaultConfig()
		change(&config)
		if _, err := New(config); err == nil {
			t.Errorf("takes %s", name)
		}
	}
}

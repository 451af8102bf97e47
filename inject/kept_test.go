package inject

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aymanbagabas/go-udiff"

	"github.com/evenkeel/evenkeel/manifest"
	"github.com/evenkeel/evenkeel/policy"
)

// oddForms returns manifests that lack defaults, in forms of YAML that few people write, by name.
func oddForms(t testing.TB) map[string]string {
	t.Helper()
	file, err := os.ReadFile(filepath.Join("testdata", "forms.txt"))
	if err != nil {
		t.Fatal(err)
	}
	forms := map[string]string{}
	for form := range strings.SplitSeq(strings.TrimPrefix(string(file), "=== "), "\n=== ") {
		name, text, _ := strings.Cut(form, "\n")
		forms[name] = strings.TrimSuffix(text, "\n") + "\n"
	}
	return forms
}

// TestUninjectGivesOddFormsBack injects into odd forms, in files of every form, and takes it back.
func TestUninjectGivesOddFormsBack(t *testing.T) {
	formatted := 0
	for name, text := range oddForms(t) {
		t.Run(name, func(t *testing.T) {
			texts := []string{text, strings.ReplaceAll(text, "\n", "\r\n"), strings.TrimRight(text, "\n"),
				"\ufeff" + text + "\n---\n# next\n", strings.ReplaceAll(text, ",", " , ") + "\n# the end"}
			if !strings.ContainsAny(text, "%") && !strings.Contains(text, "\n---") && !strings.Contains(text, "\n...") {
				texts = append(texts, strings.ReplaceAll(text, "\n", "\r"))
			}
			for _, text := range texts {
				r, err := run(t, text)
				if err != nil || !r.Missing() {
					t.Fatalf("%v, or nothing is missing: %q", err, text)
				}
				if anew(r) {
					formatted++
				}
				checkLaws(t, text)
			}
		})
	}
	if formatted < 80 {
		t.Errorf("%d texts are formatted anew, where this is about", formatted)
	}
}

// oddJSON returns JSON that lacks defaults, and that no reader of YAML 1.1 takes, by name.
func oddJSON() map[string]string {
	texts := map[string]string{}
	for name, member := range map[string]string{
		"half of a surrogate pair":  `"x":"\ud83d"`,
		"a surrogate pair":          `"x":"\ud83d\ude00"`,
		"a surrogate pair in a key": `"\ud83d\ude00":1`,
		"a control character":       "\"x\":\"\u007f\"",
		"what is no character":      "\"x\":\"\uffff\"",
		"a byte order mark":         "\"x\":\"\ufeff\"",
		"what ends a line":          "\"x\":\"\u2028\u0085\"",
		"a key of many characters":  `"` + strings.Repeat("x", 2000) + `":1`,
		"a slash behind another":    `"x":"<\/b>\\\""`,
		"a colon on another line":   "\"x\"\n\t:\r\n1",
		"numbers":                   `"x":[-0,1E40,0.10,1e+2,123456789012345678901234567890]`,
	} {
		for _, text := range []string{`{"apiVersion":"v1","kind":"Pod",M,"metadata":{"name":"a"},"spec":{"containers":` +
			`[{"name":"a","ports":[{"containerPort":80}],M}],M}}`, "{\n\t\"apiVersion\":\t\"v1\",\n\t\"kind\": \"Pod\",\n\tM," +
			"\n\t\"metadata\": {},\n\t\"spec\": {\n\t\tM,\n\t\t\"containers\": [\n\t\t\t{ M, " +
			"\"ports\": [{\"containerPort\": 80}],\n\t\t\t\t\"lifecycle\": { },\n\t\t\t\t\"name\": \"a\"\n\t\t\t}" +
			"\n\t\t]\n\t}\n}\n"} {
			texts[name+strconv.Itoa(len(text))] = strings.ReplaceAll(text, "M", member)
		}
	}
	return texts
}

// TestJSONIsNeverFormattedAnew injects into JSON that isn't YAML: JSON has no comments to keep its text.
func TestJSONIsNeverFormattedAnew(t *testing.T) {
	for name, text := range oddJSON() {
		t.Run(name, func(t *testing.T) {
			if r, err := run(t, text); err != nil || anew(r) || !r.Missing() {
				t.Errorf("%v, formatted anew, or nothing is missing:\n%s", err, text)
			}
			checkLaws(t, text)
		})
	}
}

// TestWhatIsKeptStaysTrue injects into a document that is formatted anew, edits it, and takes everything back.
func TestWhatIsKeptStaysTrue(t *testing.T) {
	const kept = "# evenkeel: uninject gives the document back as it was written:\n"
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\n"
	const text = pod + "spec: # here\n  containers: [ # and here\n    {name: web, ports: [{containerPort: 80}],\n" +
		"      lifecycle: &l {postStart: {sleep: {seconds: 1}}}}, {name: b, lifecycle: *l}]"
	output := injected(t, text)
	if strings.Count(output, kept) != 1 {
		t.Fatalf("the text is not kept: %s", output)
	}
	body, _, _ := strings.Cut(output, kept)
	lines := output[len(body):]
	replace := func(old, with string) string { return strings.Replace(output, old, with, 1) }
	plain := plainly(t, body)
	other, none := config(), config()
	other.Patches.Base.PreStopSleep = 20 * time.Second
	none.Patches.Base.PreStopSleep, none.Patches.Base.ReadinessProbe = 0, policy.Probe{Kind: policy.ProbeOff}
	for _, c := range []struct{ name, text, want, warning string }{
		{"as it is", output, text, ""},
		{"injected again", injected(t, output), text, ""},
		{"injected again with other settings", injectedWith(t, output, other), text, ""},
		{"injected again with nothing", injectedWith(t, output, none), text, ""},
		{"with another container, injected again with other settings",
			injectedWith(t, replace("[{name: web,", "[{name: c, ports: [{containerPort: 81}]}, {name: web,"), other), "",
			"keeps its present format"},
		{"with carriage returns", strings.ReplaceAll(output, "\n", "\r\n"), text, ""},
		{"with an end without a line feed", strings.TrimSuffix(output, "\n"), text, ""},
		{"with blank lines at the end", output + "\n \n", text, ""},
		{"with another form of the same", replace("spec: #", "spec:   #"), text, ""},
		{"behind another document", "a: 1\n---\n" + output, "a: 1\n---\n" + text, ""},
		{"before another document", output + "---\na: 1", text + "\n---\na: 1", ""},
		{"with carriage returns, before an end", strings.ReplaceAll(output+"...\n", "\n", "\r\n"), text + "\r\n...\r\n", ""},
		{"twice", output + "---\n" + output, text + "\n---\n" + text, ""},
		{"with another image", replace("[{name: web,", "[{image: a, name: web,"), "", "keeps its present format"},
		{"with another image, injected again", injected(t, replace("[{name: web,", "[{image: a, name: web,")), "",
			"keeps its present format"},
		{"with a line of another text", replace(`"kind: Pod`, `"kind: Pad`), plain, "keeps its present format"},
		{"with a line less", replace(`# evenkeel: "kind: Pod\n"`+"\n", ""), plain, "keeps its present format"},
		{"with a line that isn't UTF-8", replace(`"kind: Pod`, `"\xff`), plain, "keeps its present format"},
		{"with lines of two documents", replace(`"kind: Pod`, `"---\nkind: Pod`), plain, "keeps its present format"},
		{"without lines", body, plain, ""},
		{"with lines that can't be read", replace(`"kind: Pod`, `kind: Pod`),
			plain + strings.Replace(lines, `"kind`, `kind`, 1), ""},
		{"with a comment behind the lines", output + "# mine\n", plain + lines + "# mine\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			undone, err := Undo(t.Context(), mustRead(t, c.text).Files)
			if err != nil {
				t.Fatal(err)
			}
			got := encoded(t, undone, "yaml")
			if c.want == "" {
				c.want = plainly(t, strings.Split(c.text, kept)[0])
			}
			if got != c.want {
				t.Errorf("(-want +got)\n%s", udiff.Unified("want", "got", c.want, got))
			}
			if said := fmt.Sprint(undone.Warnings); c.warning == "" && said != "[]" || !strings.Contains(said, c.warning) {
				t.Errorf("uninject warns %s", said)
			}
		})
	}

	// Lines of that form which came with the text are a part of it, whatever they say.
	const inJSON = `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": ` +
		`{"containers": [{"name": "a", "ports": [{"containerPort": 80}]}]}}` + "\n"
	for _, text := range []string{plain + lines, text + "\n" + lines, plain + kept + "# evenkeel: \"a: 1\"", plain + kept,
		plain + lines + "# mine", plain + lines + lines, strings.ReplaceAll(plain+lines, "\n", "\r\n"),
		inJSON + lines, inJSON + kept + "# evenkeel: " + strconv.Quote(" "+inJSON),
		pod + "x: 'a\n" + kept + "# evenkeel: \"'# \"\nspec: {containers: [{name: web, ports: [{containerPort: 80}]}]}\n",
		pod + "spec: {containers: [{name: web, ports: [{containerPort: 80}]}]}\nx: 'a\n" + kept + "# evenkeel: \"' # \""} {
		if r, err := run(t, text); err != nil || !r.Missing() {
			t.Errorf("%v, or nothing is missing: %s", err, text)
		}
		checkLaws(t, text)
	}
}

// injected returns a text with everything of ours.
func injected(t *testing.T, text string) string { return injectedWith(t, text, config()) }

func injectedWith(t *testing.T, text string, c Config) string {
	t.Helper()
	r, err := Run(t.Context(), mustRead(t, text).Files, c)
	if err != nil {
		t.Fatalf("%v: %.1000s", err, text)
	}
	return encoded(t, r, "yaml")
}

// plainly returns a text from which everything of ours is taken back.
func plainly(t *testing.T, text string) string {
	t.Helper()
	undone, err := Undo(t.Context(), mustRead(t, text).Files)
	if err != nil {
		t.Fatal(err)
	}
	return encoded(t, undone, "yaml")
}

// TestWhatIsKeptDoesNotCountAsDocument keeps a document that is as long as one may be.
func TestWhatIsKeptDoesNotCountAsDocument(t *testing.T) {
	text := oddForms(t)["anchors that braces over lines hold"]
	line := "# " + strings.Repeat("\u00ad", 1000) + "\n" // three times as long in quotes
	text += strings.Repeat(line, (manifest.MaxDocument-1<<12-len(text))/len(line))
	r, err := run(t, text)
	if err != nil || !anew(r) {
		t.Fatalf("%v, or not formatted anew", err)
	}
	output := encoded(t, r, "yaml")
	if len(output) < 4*len(text)-1<<14 {
		t.Errorf("%d bytes became %d", len(text), len(output))
	}
	if second := injected(t, output); second != output {
		t.Error("a second run changes it")
	}
	if plainly(t, output) != text {
		t.Error("something else came back")
	}
}

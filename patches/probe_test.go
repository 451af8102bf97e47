package patches

import "testing"

func TestReadinessProbe(t *testing.T) { runCases(t, "readiness-probe", addReadinessProbe) }

// TestReports runs what went wrong with webhooks, probes and operators elsewhere.
func TestReports(t *testing.T) { runCases(t, "reports") }

// TestNotes runs what becomes of a workload of which something was noticed.
func TestNotes(t *testing.T) { runCases(t, "notes") }

// TestANoteHoldsForTheContainersThatItIsAbout has the same note for containers with and without
// what evenkeel adds, and for others.
func TestANoteHoldsForTheContainersThatItIsAbout(t *testing.T) {
	injector, err := New(DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	object := func(image, port string) []byte {
		return []byte(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{
			"selector":{"matchLabels":{"app":"web"}},"template":{
			"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"web","image":"` + image +
			`","ports":[{"containerPort":` + port + `}]}]}}}}`)
	}
	patched, err := apply(injector.Review(Request{Operation: Create, Object: object("web:1", "80")}).Patch,
		object("web:1", "80"))
	if err != nil {
		t.Fatal(err)
	}
	guess, err := injector.Guess(patched, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(guess.Containers) != 1 || guess.Containers[0] != "web" || guess.Asked {
		t.Errorf("guessed is %+v, want the probe of web", guess)
	}
	for name, c := range map[string]struct {
		object []byte
		holds  bool
	}{
		"the manifest":       {object("web:1", "80"), true},
		"with ours":          {patched, true},
		"with another image": {object("web:2", "80"), true},
		"with another port":  {object("web:1", "81"), false},
	} {
		result := injector.Review(Request{Operation: Create, Object: c.object,
			Noted: func(kind, name string) (Note, bool) {
				return Note{SkipProbeFailed, guess.Fingerprint}, kind == "Deployment" && name == "web"
			}})
		failed := false
		for _, d := range result.Decisions {
			failed = failed || d.Skip == SkipProbeFailed
		}
		if failed != c.holds {
			t.Errorf("%s: the note holds: %v, want %v", name, failed, c.holds)
		}
	}
	if guess, err = injector.Guess(patched, map[string]string{"evenkeel.dev/readiness-probe": "tcp:80"}); err != nil ||
		!guess.Asked || guess.Containers != nil {
		t.Errorf("what the Namespace asks for counts as guessed: %+v, %v", guess, err)
	}
}

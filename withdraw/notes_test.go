package withdraw

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/evenkeel/evenkeel/patches"
)

func TestNotesComeBackAsTheyWereWritten(t *testing.T) {
	notes := map[Key]Note{}
	for _, n := range []Note{
		{Key{"shop", "Deployment", "web"}, patches.SkipProbeFailed, 0xfedcba9876543210, noon},
		{Key{"shop", "StatefulSet", "web"}, patches.SkipResetAgain, 1, noon.Add(time.Hour)},
	} {
		notes[n.Key] = n
	}
	text := format(notes)
	got := ReadNotes(
		&corev1.ConfigMap{
			Data: map[string]string{dataKey: "no note\n" + text + "Deployment shop x unknown-code 01 2026-03-01T12:00:00Z\n\n"}})
	if d := cmp.Diff(notes, got); d != "" {
		t.Errorf("(-written +read)\n%s", d)
	}
	if again := format(got); again != text {
		t.Errorf("written again as\n%s\nrather than\n%s", again, text)
	}
}

// TestNotesFitIntoAConfigMap has more of the longest names than there may be.
func TestNotesFitIntoAConfigMap(t *testing.T) {
	notes := map[Key]Note{}
	for i := range maxNotes + 100 {
		n := Note{Key{strings.Repeat("n", 63), "StatefulSet", fmt.Sprintf("%0253d", i)}, patches.SkipProbeFailed, 1 << 63,
			noon.Add(time.Duration(i) * time.Second)}
		notes[n.Key] = n
	}
	text := format(notes)
	const most = 1 << 20 // MaxSecretSize in k8s.io/kubernetes/pkg/apis/core/validation holds for ConfigMaps too
	if len(text) > most || strings.Count(text, "\n") != maxNotes {
		t.Errorf("%d bytes and %d notes, want at most %d and %d", len(text), strings.Count(text, "\n"), most, maxNotes)
	}
	if !strings.Contains(text, fmt.Sprintf("%0253d", maxNotes+99)) || strings.Contains(text, fmt.Sprintf("%0253d ", 0)) {
		t.Error("not the newest ones stay")
	}
}

package corpus

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestOurOwnManifestsAreThereWhateverElseIs(t *testing.T) {
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "other.yaml"), []byte("a: 1\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CORPUS", other)
	files, err := Files()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(files); n < 26 || files[n-1] != filepath.Join(other, "other.yaml") {
		t.Errorf("%d files, want at least 25 of our own and then the other one: %q", n, files)
	}
}

func TestADirectoryWithoutManifestsIsAnError(t *testing.T) {
	for name, dir := range map[string]string{"empty": t.TempDir(), "missing": filepath.Join(t.TempDir(), "missing")} {
		t.Setenv("CORPUS", dir)
		if files, err := Files(); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %d files and the error %v, want an error that names the directory", name, len(files), err)
		}
	}
}

// TestTheCorpusHasWhatTestsLookFor holds that no kind of object and no style of writing gets lost.
func TestTheCorpusHasWhatTestsLookFor(t *testing.T) {
	files, err := Below(filepath.Join("..", "..", "testdata", "corpus"))
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(append(all, text...), "\n---\n"...)
	}
	for _, what := range []string{
		"kind: Deployment", "kind: StatefulSet", "kind: DaemonSet", "kind: Job", "kind: CronJob", "kind: ReplicaSet",
		"kind: ReplicationController", "kind: Service", "kind: PodDisruptionBudget", "kind: HorizontalPodAutoscaler",
		"kind: Pod", "kind: List", "kind: CustomResourceDefinition", "kind: Rollout", // with a pod template of its own
		"# Source: ", "helm.sh/hook", "\n---\n", "{apiVersion: ", `"apiVersion": `, " &labels", " *labels", "<<: ", ": |\n",
		": >-\n",
	} {
		if !bytes.Contains(all, []byte(what)) {
			t.Errorf("no manifest has %q", what)
		}
	}
	if !slices.ContainsFunc(files, func(file string) bool { return filepath.Ext(file) == ".yml" }) {
		t.Error("no manifest ends with .yml")
	}
}

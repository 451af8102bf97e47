package main

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestWithoutAClusterOnlyWhatTheCommandTakesIsAdvised(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	t.Setenv("KUBECONFIG", none)
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	const told = "; set KUBECONFIG or --kubeconfig"
	for command, want := range map[string]string{
		"audit":              " in " + none + told + ", or name files of manifests",
		"explain deploy/web": " in " + none + told,
		"serve":              "; set --kubeconfig, or install evenkeel in one with kubectl apply -k deploy/",
	} {
		want = "Error: no cluster is configured" + want + "\n"
		_, stderr, code := cli(t, "", append([]string{"evenkeel"}, strings.Fields(command)...)...)
		if stderr != want || code != exitFailed {
			t.Errorf("%s: exit code %d, %q, want %q", command, code, stderr, want)
		}
	}
}

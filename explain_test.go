package main

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestWithoutAClusterOnlyWhatTheCommandTakesIsAdvised(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for command, want := range map[string]string{
		"audit":              "Error: no cluster is configured; set KUBECONFIG or --kubeconfig, or name files of manifests\n",
		"explain deploy/web": "Error: no cluster is configured; set KUBECONFIG or --kubeconfig\n",
	} {
		_, stderr, code := cli(t, "", append([]string{"evenkeel"}, strings.Fields(command)...)...)
		if stderr != want || code != exitFailed {
			t.Errorf("%s: exit code %d, %q, want %q", command, code, stderr, want)
		}
	}
}

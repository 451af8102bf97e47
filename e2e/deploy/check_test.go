package deploy

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

// The states that an installation can be in, each made for real, and what evenkeel check says of
// them. The last line of each is that the rest is well: a check that fails for everything would
// show nothing.
func TestCheckSaysWhatIsWrongAndWhatToDo(t *testing.T) {
	ctx := t.Context()
	c, err := cluster.Start(ctx, cluster.Config{Log: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	if _, err := c.AddNodes(ctx, 6, cluster.NodeSpec{}); err != nil {
		t.Fatal(err)
	}
	program, err := installation.Build(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	// says runs evenkeel check and looks for lines, each a status, a name and parts of what follows.
	says := func(name string, code int, args string, lines ...[]string) {
		t.Helper()
		cmd := exec.CommandContext(ctx, program,
			append([]string{"check", "--kubeconfig=" + c.Kubeconfig}, strings.Fields(args)...)...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
			t.Fatal(err)
		}
		if got := cmd.ProcessState.ExitCode(); got != code {
			t.Errorf("%s: exit code %d, want %d", name, got, code)
		}
		for _, line := range lines {
			_, rest, found := strings.Cut(out.String(), fmt.Sprintf("%-8s %-13s ", line[0], line[1]))
			text, _, _ := strings.Cut(rest, "\n"+line[0])
			for _, part := range line[2:] {
				found = found && strings.Contains(text, part)
			}
			if !found {
				t.Errorf("%s: no line of %q", name, line)
			}
		}
		if t.Failed() {
			t.Fatalf("%s: evenkeel check %s says\n%s", name, args, out.String())
		}
	}

	says("nothing is installed", 1, "", []string{"ok", "versions"},
		[]string{"failed", "webhook", "kubectl apply -k deploy/"})
	says("before the installation", 0, "--pre", []string{"ok", "rights"}, []string{"ok", "webhook", "No evenkeel"})
	says("before the installation, by nobody", 1, "--pre --as=nobody", []string{"unknown", "webhook", "may not be read"},
		[]string{"failed", "rights", "may not create"})

	u := newUser(t, c)
	u.run(t, "kubectl create namespace shop && kubectl apply -k deploy/")
	u.run(t, commands(t, "opt in"))
	spreadOverZones(ctx, t, c)
	address := freeAddress(t)
	serve(ctx, t, c, address)
	trusted(ctx, t, c)
	route(ctx, t, c, address)
	reachable(ctx, t, c, address)
	well := [][]string{{"ok", "versions"}, {"ok", "webhook"}, {"ok", "rights"}, {"ok", "replicas", "3 of 3"},
		{"ok", "caBundle"},
		{"ok", "certificates"}, {"ok", "leader"}, {"ok", "budgets"}, {"ok", "trial", "shop"}}
	says("all is well", 0, "--wait=1m", well...)

	says("a user without rights", 2, "--as=nobody", []string{"unknown", "webhook", "may not be read", "as a user who may"})

	u.run(t, "kubectl get clusterrolebinding evenkeel -o json > binding.json && kubectl delete "+
		"clusterrolebinding evenkeel")
	says("an account without rights", 1, "", []string{"failed", "rights", "list namespaces", "rbac.yaml"})
	u.run(t, "kubectl create -f binding.json")

	u.run(t, "kubectl -n evenkeel-system scale deployment evenkeel --replicas=1")
	poll(ctx, t, "one replica is left",
		func(context.Context) (bool, error) { return own(ctx, t, c).Status.ReadyReplicas == 1, nil })
	says("one replica", 0, "", []string{"warning", "replicas", "one replica", "--replicas=3"}, []string{"ok", "trial"})
	u.run(t, "kubectl -n evenkeel-system scale deployment evenkeel --replicas=3")
	spreadOverZones(ctx, t, c)

	c.StopProgram("evenkeel", syscall.SIGTERM, time.Minute)
	says("the leader is away", 1, "", []string{"failed", "leader", "nobody leads", "get lease"},
		[]string{"failed", "trial", "without defaults"})

	other, err := installation.WriteCertificate(t.TempDir(), "somebody.else.svc", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.StdEncoding.EncodeToString(other)
	reset := fmt.Sprintf(`kubectl patch mutatingwebhookconfiguration evenkeel --field-manager=argocd --type=json -p '[
		{"op":"replace","path":"/webhooks/0/clientConfig/caBundle","value":"%[1]s"},
		{"op":"replace","path":"/webhooks/1/clientConfig/caBundle","value":"%[1]s"}]'`, text)
	u.run(t, reset)
	says("the caBundle of somebody else", 1, "",
		[]string{"failed", "caBundle", "is not that of evenkeel's", "rollout restart"})

	serve(ctx, t, c, address)
	says("all is well again", 0, "--wait=2m", well...)

	for range 3 {
		u.run(t, reset)
		poll(ctx, t, "evenkeel's bundle is back", func(ctx context.Context) (bool, error) {
			w, err := c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, "evenkeel",
				metav1.GetOptions{})
			return err == nil && !bytes.Equal(w.Webhooks[1].ClientConfig.CABundle, other), err
		})
	}
	says("a tool resets the caBundle", 1, "",
		[]string{"failed", "caBundle", "argocd takes out", "Let that tool pass over"}, []string{"ok", "trial"})
}

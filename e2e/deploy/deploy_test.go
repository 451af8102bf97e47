// Package deploy tests deploy/ and the commands of the README on a real control plane.
package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
	"github.com/evenkeel/evenkeel/e2e/manifests"
)

// root returns the directory of the repository.
func root(t *testing.T) string {
	t.Helper()
	dir, err := installation.Root()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// commands returns the shell commands between the markers of that name in README.md.
func commands(t *testing.T, name string) string {
	t.Helper()
	return commandsOf(t, "README.md", name)
}

// commandsOf returns those of another document.
func commandsOf(t *testing.T, document, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), document))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "<!-- run: "+name+" -->\n```sh\n")
	script, _, found := strings.Cut(rest, "```\n<!-- /run: "+name+" -->")
	if !found {
		t.Fatalf("%s has no commands between <!-- run: %s --> and <!-- /run: %s -->", document, name, name)
	}
	return script
}

// user runs commands as the reader of the README would, in a directory of their own that looks like the repository.
type user struct {
	cluster *cluster.Cluster
	dir     string
}

func newUser(t *testing.T, c *cluster.Cluster) *user {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "deploy"), os.DirFS(filepath.Join(root(t), "deploy"))); err != nil {
		t.Fatal(err)
	}
	return &user{cluster: c, dir: dir}
}

// newReader returns a user who has a fresh clone: all that git knows of, as it is now, and nothing else.
func newReader(t *testing.T, c *cluster.Cluster) *user {
	t.Helper()
	u := &user{cluster: c, dir: t.TempDir()}
	list := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = root(t)
	names, err := list.Output()
	if err != nil {
		t.Fatalf("list the files of the repository: %v", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		content, err := os.ReadFile(filepath.Join(root(t), name))
		if os.IsNotExist(err) { // deleted, and not yet committed
			continue
		}
		to := filepath.Join(u.dir, name)
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, content, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

func (u *user) run(t *testing.T, script string) string {
	t.Helper()
	out, err := u.try(t, script)
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, script, out)
	}
	return out
}

// try returns what the commands print, and an error where one of them fails.
func (u *user) try(t *testing.T, script string) (string, error) {
	t.Helper()
	kubectl, err1 := u.cluster.KubectlCommand(t.Context())
	helm, err2 := cluster.HelmCommand(t.Context(), u.cluster.Dir, u.cluster.Kubeconfig)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	shell := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script)
	shell.Dir = u.dir
	shell.Env = slices.Concat(kubectl.Env, helm.Env,
		[]string{"PATH=" + filepath.Dir(kubectl.Path) + string(os.PathListSeparator) + os.Getenv("PATH")})
	out, err := shell.CombinedOutput()
	return string(out), err
}

func TestTheREADMEsCommandsInstallUpgradeAndUninstall(t *testing.T) {
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
	u := newReader(t, c)
	u.run(t, "kubectl create namespace shop")

	// What needs no cluster, and what only reads one.
	if out := u.run(t, commands(t, "try")); !strings.Contains(out, "+          readinessProbe:") ||
		!strings.Contains(out, "FINDINGS") {
		t.Errorf("the first commands show neither a diff nor an audit:\n%s", out)
	}
	u.run(t, commandsOf(t, "docs/start/try-it.md", "try manifests"))
	u.run(t, commandsOf(t, "docs/how-to/ci.md", "ci"))
	if out := u.run(t, commands(t, "audit a cluster")); !strings.Contains(out, "workloads") {
		t.Errorf("the audit of a cluster says nothing of workloads:\n%s", out)
	}
	u.run(t, commandsOf(t, "docs/start/try-it.md", "try a cluster"))

	if out := u.run(t, commands(t, "install")); strings.Contains(out, "Warning") {
		t.Errorf("the installation warns:\n%s", out)
	}
	spreadOverZones(ctx, t, c)
	listenAt := freeAddress(t)
	serve(ctx, t, c, listenAt)
	certificate := trusted(ctx, t, c)

	// Applied again, as an upgrade is: the bundle stays, and evenkeel's own pods do.
	was := own(ctx, t, c).Generation
	u.run(t, "kubectl apply -k deploy/")
	if !bytes.Equal(trusted(ctx, t, c), certificate) {
		t.Error("applying the same again changed the bundle")
	}
	if is := own(ctx, t, c).Generation; is != was {
		t.Errorf("applying the same again changed evenkeel's own Deployment: generation %d, was %d", is, was)
	}
	route(ctx, t, c, listenAt)

	before := apply(ctx, t, c, "before")
	if defaulted(before) {
		t.Error("a Deployment got defaults before the namespace opted in")
	}
	u.run(t, commands(t, "opt in"))
	reachable(ctx, t, c, listenAt)
	after := apply(ctx, t, c, "after")
	if !defaulted(after) {
		t.Error("a Deployment of an opted-in namespace got no defaults")
	}

	// A setting is changed, and a default taken back: both with the next restart.
	if web := apply(ctx, t, c, "web"); sleepOf(web) != 10 || !probed(web) {
		t.Errorf("deploy/web sleeps %d s and has a probe: %t, want 10 and true", sleepOf(web), probed(web))
	}
	u.run(t, commands(t, "change"))
	if web := read(ctx, t, c, "web"); sleepOf(web) != 20 || !probed(web) {
		t.Errorf("after the change deploy/web sleeps %d s and has a probe: %t, want 20 and true", sleepOf(web), probed(web))
	}
	time.Sleep(time.Second + 100*time.Millisecond) // kubectl refuses a second restart within the same second
	u.run(t, commandsOf(t, "docs/how-to/take-back-a-default.md", "take back"))
	if web := read(ctx, t, c, "web"); sleepOf(web) != 20 || probed(web) {
		t.Errorf("after taking back deploy/web sleeps %d s and has a probe: %t, want 20 and false", sleepOf(web), probed(web))
	}

	if _, err := c.Client.AppsV1().Deployments("shop").Create(ctx, replicated("two"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	poll(ctx, t, "a Deployment of two replicas has a budget",
		func(ctx context.Context) (bool, error) { return budget(ctx, c, "two") })

	u.run(t, commandsOf(t, "docs/install/uninstall.md", "uninstall"))
	if there, err := budget(ctx, c, "two"); err != nil || !there {
		t.Errorf("uninstalling took the budget of a workload: %v", err)
	}
	if got := read(ctx, t, c, "after"); got.Generation != after.Generation || !defaulted(got) {
		t.Error("uninstalling changed a workload")
	}
	if defaulted(apply(ctx, t, c, "later")) {
		t.Error("a Deployment got defaults after evenkeel was uninstalled")
	}
	if out := u.run(t,
		"kubectl get clusterrole,clusterrolebinding,mutatingwebhookconfiguration -o name"); strings.Contains(out,
		"evenkeel") {
		t.Errorf("something is left after uninstalling:\n%s", out)
	}
	c.StopProgram("evenkeel", syscall.SIGTERM, time.Minute) // as its pods have been
	u.run(t, commandsOf(t, "docs/install/uninstall.md", "delete budgets"))
	if there, err := budget(ctx, c, "two"); err != nil || there {
		t.Errorf("the budget of a workload is still there: %v", err)
	}
	poll(ctx, t, "namespace evenkeel-system is gone", func(ctx context.Context) (bool, error) {
		_, err := c.Client.CoreV1().Namespaces().Get(ctx, installation.Namespace, metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
}

// sleepOf returns the seconds that the first container sleeps before it stops.
func sleepOf(d *appsv1.Deployment) int64 {
	if hook := d.Spec.Template.Spec.Containers[0].Lifecycle; hook != nil && hook.PreStop != nil &&
		hook.PreStop.Sleep != nil {
		return hook.PreStop.Sleep.Seconds
	}
	return 0
}

// probed says whether the first container has a readiness probe.
func probed(d *appsv1.Deployment) bool {
	return d.Spec.Template.Spec.Containers[0].ReadinessProbe != nil
}

// poll waits at most a minute until the condition holds.
func poll(ctx context.Context, t *testing.T, what string, condition wait.ConditionWithContextFunc) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, time.Minute, true, condition); err != nil {
		t.Fatalf("wait until %s: %v", what, err)
	}
}

// own returns evenkeel's own Deployment.
func own(ctx context.Context, t *testing.T, c *cluster.Cluster) *appsv1.Deployment {
	t.Helper()
	deployment, err := c.Client.AppsV1().Deployments(installation.Namespace).Get(ctx, "evenkeel", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return deployment
}

// spreadOverZones waits for evenkeel's own pods. That they are there at all shows that the namespace's pod security
// level and quota admit them.
func spreadOverZones(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	t.Helper()
	poll(ctx, t, "evenkeel's pods are ready", func(ctx context.Context) (bool, error) {
		return own(ctx, t, c).Status.ReadyReplicas == 3, nil
	})
	pods, err := c.Client.CoreV1().Pods(installation.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	zones := map[string]bool{}
	for _, pod := range pods.Items {
		node, err := c.Client.CoreV1().Nodes().Get(ctx, pod.Spec.NodeName, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		zones[node.Labels[corev1.LabelTopologyZone]] = true
	}
	if len(zones) != 3 {
		t.Errorf("evenkeel's own 3 pods are in the zones %v, want 3", zones)
	}
}

// serve runs evenkeel, with the rights that deploy/ gives it, in place of its pods, which fake nodes only claim to run.
func serve(ctx context.Context, t *testing.T, c *cluster.Cluster, address string) {
	t.Helper()
	serveAs(ctx, t, c, "evenkeel", address)
}

// serveAs does the same under another name of the process, and with flags.
func serveAs(ctx context.Context, t *testing.T, c *cluster.Cluster, name, address string, flags ...string) {
	t.Helper()
	dir := t.TempDir()
	program, err := installation.Build(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := installation.WriteKubeconfig(ctx, c, kubeconfig); err != nil {
		t.Fatal(err)
	}
	err = c.StartProgram(name,
		append([]string{program, "serve", "--listen=" + address, "--metrics-listen=127.0.0.1:0",
			"--kubeconfig=" + kubeconfig, "--drain-timeout=1s"}, flags...)...)
	if err != nil {
		t.Fatal(err)
	}
}

// route points the Service, and the webhooks, to the process that serve started.
func route(ctx context.Context, t *testing.T, c *cluster.Cluster, address string) {
	t.Helper()
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WebhookService(ctx, installation.Namespace, installation.Service, port); err != nil {
		t.Fatal(err)
	}
	aim(ctx, t, c, port)
}

// aim sets the port of the Service that the webhooks name: 443 is what deploy/ has.
func aim(ctx context.Context, t *testing.T, c *cluster.Cluster, port int) {
	t.Helper()
	body := fmt.Appendf(nil, `[{"op":"replace","path":"/webhooks/0/clientConfig/service/port","value":%[1]d},
		{"op":"replace","path":"/webhooks/1/clientConfig/service/port","value":%[1]d},
		{"op":"replace","path":"/webhooks/2/clientConfig/service/port","value":%[1]d}]`, port)
	if _, err := c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Patch(ctx, "evenkeel",
		types.JSONPatchType, body, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// unroute takes back what route did to objects of helm's, which helm would stumble over: it makes the Service anew.
func unroute(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	t.Helper()
	if err := c.Client.CoreV1().Services(installation.Namespace).Delete(ctx, installation.Service,
		metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	aim(ctx, t, c, 443)
}

// freeAddress returns a loopback address that nobody listens on now.
func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := installation.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// reachable waits until the API server calls evenkeel: it has to notice the Namespace's new label first.
func reachable(ctx context.Context, t *testing.T, c *cluster.Cluster, address string) {
	t.Helper()
	poll(ctx, t, "the API server calls "+address, func(ctx context.Context) (bool, error) {
		created, err := c.Client.AppsV1().Deployments("shop").Create(ctx, deployment("probe"),
			metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err == nil && defaulted(created), err
	})
}

// trusted waits until evenkeel has told the API server which certificate it serves with, for every webhook, and returns
// it.
func trusted(ctx context.Context, t *testing.T, c *cluster.Cluster) (certificate []byte) {
	t.Helper()
	poll(ctx, t, "every webhook has the same bundle", func(ctx context.Context) (bool, error) {
		configuration, err := c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, "evenkeel",
			metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		if len(configuration.Webhooks) != 3 {
			return false, fmt.Errorf("%d webhooks, want 3", len(configuration.Webhooks))
		}
		certificate = configuration.Webhooks[0].ClientConfig.CABundle
		return len(certificate) > 0 && bytes.Equal(certificate, configuration.Webhooks[2].ClientConfig.CABundle), nil
	})
	return certificate
}

// deployment returns a Deployment that lacks every default.
func deployment(name string) *appsv1.Deployment {
	set := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: set},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: set},
				Spec: corev1.PodSpec{Containers: []corev1.Container{
					{Name: "app", Image: "example.com/app:1", Ports: []corev1.ContainerPort{{ContainerPort: 8080}}},
				}},
			},
		},
	}
}

func apply(ctx context.Context, t *testing.T, c *cluster.Cluster, name string) *appsv1.Deployment {
	t.Helper()
	created, err := c.Client.AppsV1().Deployments("shop").Create(ctx, deployment(name), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return created
}

func read(ctx context.Context, t *testing.T, c *cluster.Cluster, name string) *appsv1.Deployment {
	t.Helper()
	got, err := c.Client.AppsV1().Deployments("shop").Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// defaulted reports whether a Deployment carries evenkeel's record.
func defaulted(d *appsv1.Deployment) bool {
	record := d.Spec.Template.Annotations["evenkeel.dev/injected"]
	return strings.Contains(record, "anti-affinity=") && strings.Contains(record, "/pre-stop-sleep=") &&
		strings.Contains(record, "/readiness-probe=")
}

// kustomized returns the documents of a kustomization.
func kustomized(t *testing.T, directory string) string {
	t.Helper()
	bin, err := cluster.Build(t.Context(), os.Stderr, cluster.Kubectl)
	if err != nil {
		t.Fatal(err)
	}
	out, err := cluster.Run(exec.CommandContext(t.Context(), filepath.Join(bin, cluster.Kubectl), "kustomize",
		filepath.Join(root(t), directory)), nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// objectsOf returns the objects of a stream of YAML, by kind and name.
func objectsOf(t *testing.T, stream string) map[string]*unstructured.Unstructured {
	t.Helper()
	all, err := manifests.Read([]byte(stream))
	if err != nil {
		t.Fatal(err)
	}
	objects := map[string]*unstructured.Unstructured{}
	for _, object := range all {
		objects[object.GetKind()+"/"+object.GetName()] = object
	}
	return objects
}

// typed returns an object of a kustomization, which has to be there, by kind and name.
func typed[T any](t *testing.T, directory, name string) *T {
	t.Helper()
	object := objectsOf(t, kustomized(t, directory))[name]
	if object == nil {
		t.Fatalf("no %s in %s", name, directory)
	}
	o, err := manifests.As[T](object)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// rendered returns the objects of a kustomization as YAML, by kind and name.
func rendered(t *testing.T, directory string) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for name, object := range objectsOf(t, kustomized(t, directory)) {
		text, err := manifests.Write(object)
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = text
	}
	return texts
}

// check returns the exit code of "evenkeel inject --check" for a manifest, 1 where something is missing.
func check(t *testing.T, program, manifest string) (code int, report string) {
	t.Helper()
	inject := exec.CommandContext(t.Context(), program, "inject", "--check", "--kube-version=1.33", "-")
	inject.Stdin = strings.NewReader(manifest)
	out, err := inject.CombinedOutput()
	if err != nil && inject.ProcessState == nil {
		t.Fatal(err)
	}
	return inject.ProcessState.ExitCode(), string(out)
}

func TestOurOwnDeploymentHasOurOwnDefaults(t *testing.T) {
	program, err := installation.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	manifest := rendered(t, "deploy")["Deployment/evenkeel"]
	if code, report := check(t, program, manifest); code != 0 {
		t.Errorf("evenkeel would add something to its own Deployment:\n%s", report)
	}
	for _, field := range []string{"podAntiAffinity", "readinessProbe", "preStop"} { // negative controls
		without := strings.Replace(manifest, field+":", "x-"+field+":", 1)
		if code, _ := check(t, program, without); code != 1 {
			t.Errorf("without %s the check exits with %d, want 1", field, code)
		}
	}
}

func TestTheWebhookConfigurationIsAsDesigned(t *testing.T) {
	last := typed[admissionregistrationv1.MutatingWebhookConfiguration](t, "deploy",
		"MutatingWebhookConfiguration/"+installation.Last).Webhooks
	for _, webhook := range append(configurationOf(t, "deploy").Webhooks, last...) {
		if *webhook.FailurePolicy != admissionregistrationv1.Ignore || *webhook.TimeoutSeconds != 2 ||
			*webhook.ReinvocationPolicy != admissionregistrationv1.IfNeededReinvocationPolicy ||
			*webhook.SideEffects != admissionregistrationv1.SideEffectClassNone ||
			*webhook.MatchPolicy != admissionregistrationv1.Equivalent {
			t.Errorf("webhook %s may block, be slow or be passed over: %+v", webhook.Name, webhook)
		}
		if (len(webhook.MatchConditions) > 0) != (webhook.Name == last[0].Name) {
			t.Errorf("webhook %s has %d matchConditions, which cost even where they skip", webhook.Name,
				len(webhook.MatchConditions))
		}
		selector, err := metav1.LabelSelectorAsSelector(webhook.NamespaceSelector)
		if err != nil {
			t.Fatal(err)
		}
		for name, called := range map[string]bool{"shop": true, "kube-system": false, installation.Namespace: false} {
			labelled := map[string]string{corev1.LabelMetadataName: name, "evenkeel.dev/inject": "enabled"}
			if got := selector.Matches(labels.Set(labelled)); got != called {
				t.Errorf("webhook %s is called for the labelled namespace %s: %v, want %v", webhook.Name, name, got, called)
			}
		}
		if selector.Matches(labels.Set{corev1.LabelMetadataName: "shop"}) {
			t.Errorf("webhook %s is called for a namespace without the label", webhook.Name)
		}
	}
}

func TestTheCertManagerOverlayFitsTheBase(t *testing.T) {
	documents := rendered(t, "deploy/cert-manager")
	for _, name := range []string{"evenkeel", installation.Last} {
		if !strings.Contains(documents["MutatingWebhookConfiguration/"+name],
			"cert-manager.io/inject-ca-from: evenkeel-system/evenkeel-tls\n") {
			t.Errorf("%s doesn't ask for the bundle of the certificate evenkeel-system/evenkeel-tls", name)
		}
	}
	certificate := documents["Certificate/evenkeel-tls"]
	if !strings.Contains(documents["Deployment/evenkeel"], "secretName: evenkeel-tls") ||
		!strings.Contains(documents["Deployment/evenkeel"], "- --tls-cert-file=/etc/evenkeel/tls/tls.crt\n") {
		t.Errorf("the Deployment does not serve with the certificate:\n%s", documents["Deployment/evenkeel"])
	}
	for name := range documents {
		if strings.HasSuffix(name, "/evenkeel-certificates") {
			t.Errorf("%s gives rights that only certificates of evenkeel's own need", name)
		}
	}
	if !strings.Contains(certificate, "secretName: evenkeel-tls\n") ||
		!strings.Contains(certificate, "- evenkeel.evenkeel-system.svc\n") {
		t.Errorf("the certificate is not for the Service, or not in the Secret that the Deployment mounts:\n%s", certificate)
	}
}

// The Dockerfile names the directories that the program is built from.
func TestTheDockerfileCopiesEveryPackage(t *testing.T) {
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{.ImportPath}}", ".")
	list.Dir = root(t)
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	dockerfile, err := os.ReadFile(filepath.Join(root(t), "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	ignore, err := os.ReadFile(filepath.Join(root(t), ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		name, ours := strings.CutPrefix(path, "github.com/evenkeel/evenkeel/")
		if !ours {
			continue
		}
		name, _, _ = strings.Cut(name, "/")
		if !strings.Contains(string(dockerfile), "\nCOPY "+name+" "+name+"\n") ||
			!strings.Contains(string(ignore), "\n!"+name+"\n") {
			t.Errorf("the program needs %s, which the Dockerfile or .dockerignore leaves out", name)
		}
	}
}

package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"

	checks "github.com/evenkeel/evenkeel/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
	"github.com/evenkeel/evenkeel/e2e/manifests"
	"github.com/evenkeel/evenkeel/policy"
)

var update = flag.Bool("update", false, "write the files of the chart that are copies or generated")

// helm returns what helm prints, or its error.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd, err := cluster.HelmCommand(t.Context(), t.TempDir(), "", args...)
	if err != nil {
		t.Fatal(err)
	}
	return cluster.Run(cmd, nil)
}

// template renders the chart for a namespace with arguments such as --set, or returns helm's error.
func template(t *testing.T, namespace string, args ...string) (string, error) {
	t.Helper()
	return helm(t,
		append([]string{"template", "evenkeel", filepath.Join(root(t), "deploy", "chart"), "--namespace", namespace,
			"--include-crds"}, args...)...)
}

// objects returns the objects of a stream of YAML by kind and name, without the labels that only helm's have.
func objects(t *testing.T, stream string) map[string]any {
	t.Helper()
	all := map[string]any{}
	for name, object := range objectsOf(t, stream) {
		for _, label := range []string{"app.kubernetes.io/managed-by", "app.kubernetes.io/instance", "helm.sh/chart"} {
			unstructured.RemoveNestedField(object.Object, "metadata", "labels", label)
			unstructured.RemoveNestedField(object.Object, "spec", "template", "metadata", "labels", label)
		}
		all[name] = object.Object
	}
	return all
}

func TestTheChartIsWhatTheKustomizationsAre(t *testing.T) {
	for _, c := range []struct {
		name    string
		args    []string
		base    string // directory of a kustomization, and of another beside it
		besides string
	}{
		{"with its defaults", nil, "deploy", ""},
		{"with cert-manager", []string{"--set=certificates.source=cert-manager"}, "deploy/cert-manager", ""},
		{"in opt-out mode", []string{"--set=namespaces.mode=opt-out"}, "deploy/opt-out", ""},
		{"with failurePolicy Fail", []string{"--set=failurePolicy=Fail"}, "deploy/fail", ""},
		{"with surge", []string{"--set=surge.enabled=true"}, "deploy/surge", ""},
		{"with scale-in", []string{"--set=scaleIn=keep-zones"}, "deploy/scale-in", ""},
		{"with monitoring", []string{"--set=monitoring.podMonitor.enabled=true,monitoring.rules.enabled=true"}, "deploy",
			"deploy/monitoring"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := template(t, installation.Namespace, append(c.args, "--skip-tests")...)
			if err != nil {
				t.Fatal(err)
			}
			want := objects(t, kustomized(t, c.base))
			if c.besides != "" {
				maps.Copy(want, objects(t, kustomized(t, c.besides)))
			}
			delete(want, "Namespace/"+installation.Namespace) // helm install --create-namespace makes it
			if diff := cmp.Diff(want, objects(t, out)); diff != "" {
				t.Errorf("objects (-%s +chart):\n%s", c.base, diff)
			}
		})
	}
}

func TestTheChartFollowsTheNamespaceOfItsRelease(t *testing.T) {
	out, err := template(t, "elsewhere",
		"--set=namespaces.mode=opt-out,certificates.source=cert-manager,monitoring.podMonitor.enabled=true")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out, installation.Namespace) {
		t.Errorf("%s is in the objects of a release in another namespace", installation.Namespace)
	}
	if !strings.Contains(out, "- --namespace=elsewhere\n") {
		t.Error("evenkeel isn't told the namespace that it runs in")
	}
}

func TestValuesReachWhereTheyBelong(t *testing.T) {
	for values, want := range map[string]string{
		"image.repository=r.example.com/e,image.tag=v1":  `image: "r.example.com/e:v1"`,
		"image.digest=sha256:" + strings.Repeat("a", 64): `image: "evenkeel/evenkeel@sha256:` + strings.Repeat("a", 64) + `"`,
		"image.pullPolicy=Always":                        "imagePullPolicy: Always",
		"imagePullSecrets[0].name=pull":                  "- name: pull",
		"replicas=5":                                     "replicas: 5",
		"timeoutSeconds=7":                               "timeoutSeconds: 7",
		"namespaces.exempt={longhorn-system}": `"--namespace-selector=evenkeel.dev/inject=enabled,` +
			`kubernetes.io/metadata.name notin (kube-system,evenkeel-system,longhorn-system)"`,
		"settings.pre-stop-sleep=15s":            `"--pre-stop-sleep=15s"`,
		"settings.allow-exec-sleep=true":         `"--allow-exec-sleep=true"`,
		"budgets=false":                          "- --budgets=false",
		"surge.enabled=true,surge.patience=5m":   "- --surge-patience=5m",
		"scaleIn=keep-zones":                     "- --scale-in=keep-zones",
		"scanInterval=1m":                        "- --scan-interval=1m",
		"extraArgs={--recycle-age=1m}":           `- "--recycle-age=1m"`,
		"extraEnv[0].name=A,extraEnv[0].value=b": "- name: A\n              value: b\n",
		"certificates.lifetime=1h":               "- --certificate-lifetime=1h",
		"certificates.authorityLifetime=720h":    "- --authority-lifetime=720h",
		"hostNetwork=true":                       "maxSurge: 0",
		"ports.webhook=9443":                     "containerPort: 9443",
		"ports.metrics=9080":                     "- --metrics-listen=:9080",
		"replicas=20":                            `pods: "42"`,
		"affinity.nodeAffinity.x=yes": "affinity:\n        nodeAffinity:\n          x: \"yes\"\n" +
			"      terminationGracePeriodSeconds:",
		"logLevel=debug": "- --log-level=debug",
		"scalableKinds[0].group=apps.kruise.io,scalableKinds[0].resource=clonesets":          "resources: [clonesets/scale]",
		"certificates.source=secret,certificates.caBundle=Y2E=":                              "caBundle: Y2E=",
		"certificates.source=secret,certificates.caBundle=Y2E=,certificates.secretName=mine": "secretName: mine",
		"clients.configMap=callers":                                "mountPath: /etc/evenkeel/clients",
		"clients.configMap=callers,clients.names={kube-apiserver}": `- "--client-name=kube-apiserver"`,
		"clients.configMap=callers,certificates.source=secret,certificates.caBundle=Y2E=," +
			"certificates.secretName=mine": "secretName: mine",
		"priorityClassName=high":            "priorityClassName: high",
		"nodeSelector.pool=system":          "pool: system",
		"tolerations[0].key=dedicated":      "- key: dedicated",
		"podLabels.team=shop":               "app.kubernetes.io/instance: evenkeel\n        team: shop\n",
		"podAnnotations.example=yes":        "example: \"yes\"",
		"resources.memoryLimitMiB=256":      "value: 230MiB",
		"monitoring.dashboard.enabled=true": "grafana_dashboard: \"1\"",
		"monitoring.rules.enabled=true,monitoring.rules.labels.release=prometheus": "release: prometheus",
	} {
		out, err := template(t, installation.Namespace, "--set="+values)
		if err != nil {
			t.Error(err)
		} else if !strings.Contains(out, want) {
			t.Errorf("with --set %s there is no %s", values, want)
		}
	}
}

// helm test runs evenkeel check as an account of its own, which may do exactly what a check does that tries nothing.
func TestHelmTestMayReadWhatItChecks(t *testing.T) {
	for source, secret := range map[string]string{"self-managed": "evenkeel-authority", "cert-manager": "evenkeel-tls"} {
		out, err := template(t, installation.Namespace, "--set=certificates.source="+source)
		if err != nil {
			t.Fatal(err)
		}
		var all []runtime.Object // what evenkeel check finds: the Deployment says where its certificates come from
		granted, used := map[string]bool{}, map[string]bool{}
		pods := 0
		for document := range strings.SplitSeq(out, "\n---\n") {
			var object metav1.PartialObjectMetadata
			var rules struct{ Rules []rbacv1.PolicyRule }
			var deployment appsv1.Deployment
			var pod corev1.Pod
			for _, into := range []any{&object, &rules} {
				if err := yaml.Unmarshal([]byte(document), into); err != nil {
					t.Fatal(err)
				}
			}
			switch {
			case object.Kind == "Deployment":
				if err := yaml.Unmarshal([]byte(document), &deployment); err != nil {
					t.Fatal(err)
				}
				all = append(all, &deployment)
			case object.Kind == "Pod":
				pods++
				if err := yaml.Unmarshal([]byte(document), &pod); err != nil {
					t.Fatal(err)
				}
				args := pod.Spec.Containers[0].Args
				if object.Annotations["helm.sh/hook"] != "test" || pod.Spec.ServiceAccountName != "evenkeel-check" ||
					!slices.Equal(args[:2], []string{"check", "--read-only"}) ||
					pod.Labels["app.kubernetes.io/name"] == "evenkeel" {
					t.Errorf("the pod of helm test is\n%s", document)
				}
			case object.Name == "evenkeel-check" && strings.HasSuffix(object.Kind, "Role"):
				for _, r := range rules.Rules {
					right := []string{object.Namespace, r.Verbs[0], r.Resources[0], strings.Join(r.ResourceNames, " ")}
					granted[strings.Join(right, " ")] = true
				}
			}
		}
		client := fake.NewClientset(all...)
		checks.Read(t.Context(), client, checks.Scope{ReadOnly: true, Now: time.Now()})
		for _, a := range client.Actions() {
			name := ""
			if get, ok := a.(interface{ GetName() string }); ok {
				name = get.GetName()
			}
			if resource := a.GetResource().Resource; resource != "version" { // which everybody may ask for
				used[strings.Join([]string{a.GetNamespace(), a.GetVerb(), resource, name}, " ")] = true
			}
		}
		if diff := cmp.Diff(used, granted); diff != "" || !granted[installation.Namespace+" get secrets "+secret] {
			t.Errorf("certificates.source=%s: rights (-used +granted):\n%s", source, diff)
		}
		if pods != 1 {
			t.Errorf("helm test has %d pods", pods)
		}
	}
}

func TestAValueThatCannotBeIsRefusedByItsName(t *testing.T) {
	for values, name := range map[string]string{
		"replica=3":                              "replica",
		"image.tagg=v1":                          "tagg",
		"replicas=0":                             "replicas",
		"replicas=three":                         "replicas",
		"failurePolicy=fail":                     "failurePolicy",
		"failurePolicy=Fail,replicas=1":          "replicas",
		"timeoutSeconds=31":                      "timeoutSeconds",
		"namespaces.mode=optout":                 "mode",
		"namespaces.exempt={Not A Name}":         "exempt",
		"settings.pre-stop-slep=5s":              "pre-stop-slep",
		"settings.anti-affinity=sometimes":       "anti-affinity",
		"settings.pre-stop-sleep=soon":           "pre-stop-sleep",
		"budgets=perhaps":                        "budgets",
		"logLevel=loud":                          "logLevel",
		"surge.patience=long":                    "patience",
		"scaleIn=yes":                            "scaleIn",
		"scanInterval=often":                     "scanInterval",
		"extraArgs={recycle-age}":                "extraArgs",
		"extraEnv[0].value=e":                    "extraEnv",
		"extraEnv[0].name=GOMEMLIMIT":            "extraEnv",
		"certificates.lifetime=1d":               "lifetime",
		"ports.webhook=443":                      "webhook",
		"certificates.source=vault":              "source",
		"certificates.source=secret":             "caBundle",
		"resources.memoryLimitMiB=128Mi":         "memoryLimitMiB",
		"resources.memoryLimitMiB=16":            "memoryLimitMiB",
		"monitoring.rules.enable=true":           "enable",
		"monitoring.podMonitor.labels.a.b=true":  "labels",
		"scalableKinds[0].group=apps":            "scalableKinds",
		"image.digest=sha256:abc":                "digest",
		`podLabels.app\.kubernetes\.io/name=web`: "at '/podLabels/app.kubernetes.io~1name'",
		"clients.names={kube-apiserver}":         "configMap",
		"clients.configMap=Not A Name":           "configMap",
	} {
		_, err := template(t, installation.Namespace, "--set="+values)
		if err == nil {
			t.Errorf("--set %s is accepted", values)
		} else if !strings.Contains(err.Error(), name) {
			t.Errorf("the error for --set %s doesn't name %s:\n%v", values, name, err)
		}
	}
}

func TestTheChartIsRefusedInKubeSystem(t *testing.T) {
	if _, err := template(t, "kube-system"); err == nil || !strings.Contains(err.Error(), "a namespace of its own") {
		t.Errorf("want an error that says where to install it: %v", err)
	}
}

// The webhook configuration decides which namespaces evenkeel is called for, and the flag for which
// it keeps budgets and scans. Where they differ, a budget is one too many, or a workload counts as
// missed for ever.
func TestTheProgramGoesByTheNamespacesOfItsWebhooks(t *testing.T) {
	for name, stream := range map[string]func() (string, error){
		"deploy":              func() (string, error) { return kustomized(t, "deploy"), nil },
		"deploy/cert-manager": func() (string, error) { return kustomized(t, "deploy/cert-manager"), nil },
		"deploy/opt-out":      func() (string, error) { return kustomized(t, "deploy/opt-out"), nil },
		"deploy/fail":         func() (string, error) { return kustomized(t, "deploy/fail"), nil },
		"chart":               func() (string, error) { return template(t, installation.Namespace) },
		"chart, Fail": func() (string, error) {
			return template(t, installation.Namespace, "--set=failurePolicy=Fail")
		},
		"chart, Fail and more": func() (string, error) {
			return template(t, installation.Namespace, "--set=failurePolicy=Fail,namespaces.exempt={storage}")
		},
		"chart, exempt": func() (string, error) {
			return template(t, installation.Namespace, "--set=namespaces.exempt={storage}")
		},
		"chart, opt-out": func() (string, error) {
			return template(t, installation.Namespace,
				"--set=failurePolicy=Fail,namespaces.mode=opt-out,namespaces.exempt={storage}")
		},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := stream()
			if err != nil {
				t.Fatal(err)
			}
			var webhooks []admissionregistrationv1.MutatingWebhook
			flag := "evenkeel.dev/inject=enabled" // the default
			for _, object := range objectsOf(t, out) {
				var own *appsv1.Deployment
				switch object.GetKind() {
				case "MutatingWebhookConfiguration":
					var c *admissionregistrationv1.MutatingWebhookConfiguration
					if c, err = manifests.As[admissionregistrationv1.MutatingWebhookConfiguration](object); err == nil {
						webhooks = append(webhooks, c.Webhooks...)
					}
				case "Deployment":
					if own, err = manifests.As[appsv1.Deployment](object); err != nil {
						break
					}
					for _, argument := range own.Spec.Template.Spec.Containers[0].Args {
						if value, ok := strings.CutPrefix(argument, "--namespace-selector="); ok {
							flag = value
						}
					}
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			program, err := labels.Parse(flag)
			if err != nil {
				t.Fatal(err)
			}
			if len(webhooks) != 4 {
				t.Fatalf("%d webhooks, want 4", len(webhooks))
			}
			for _, webhook := range webhooks {
				if webhook.Name == "refused-pods.evenkeel.dev" && *webhook.FailurePolicy != admissionregistrationv1.Ignore {
					t.Errorf("webhook %s has failurePolicy %s", webhook.Name, *webhook.FailurePolicy)
				}
				called, err := metav1.LabelSelectorAsSelector(webhook.NamespaceSelector)
				if err != nil {
					t.Fatal(err)
				}
				for _, namespace := range []string{"shop", "kube-system", installation.Namespace, "kube-public", "kube-node-lease",
					"cert-manager", "storage"} {
					for _, value := range []string{"", "enabled", "disabled"} {
						set := labels.Set{corev1.LabelMetadataName: namespace}
						if value != "" {
							set["evenkeel.dev/inject"] = value
						}
						never := namespace == "kube-system" || namespace == installation.Namespace // says server/server.go
						if program := program.Matches(set) && !never; program != called.Matches(set) {
							t.Errorf("%s with the label %q: the program goes by it: %v, and webhook %s is called for it: %v", namespace,
								value, program, webhook.Name, !program)
						}
					}
				}
			}
		})
	}
}

func TestHelmFindsNothingToComplainOf(t *testing.T) {
	out, err := helm(t, "lint", "--strict", filepath.Join(root(t), "deploy", "chart"))
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// schema is as much of a JSON schema as ours uses.
type schema struct {
	Ref         string `json:"$ref"`
	Properties  map[string]schema
	Definitions map[string]schema
}

// leaves returns the paths of the schema's properties that have none below them.
func (s schema) leaves(definitions map[string]schema, path string) []string {
	if name, ok := strings.CutPrefix(s.Ref, "#/definitions/"); ok {
		s = definitions[name]
	}
	if len(s.Properties) == 0 {
		return []string{path}
	}
	var all []string
	for name, property := range s.Properties {
		all = append(all, property.leaves(definitions, strings.TrimPrefix(path+"."+name, "."))...)
	}
	return all
}

func TestSchemaValuesAndReadmeOfTheChartAgree(t *testing.T) {
	chart := filepath.Join(root(t), "deploy", "chart")
	var s schema
	content, err := os.ReadFile(filepath.Join(chart, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &s); err != nil {
		t.Fatal(err)
	}

	// The settings are those of the program.
	var want []string
	for _, setting := range policy.Settings() {
		if setting.Flag {
			want = append(want, setting.Name)
		}
	}
	want = append(want, "max-pre-stop-sleep", "max-grace-period", "allow-exec-sleep")
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(s.Properties["settings"].Properties))); diff != "" {
		t.Errorf("settings (-flags of evenkeel +schema):\n%s", diff)
	}

	// The README lists every value of values.yaml with its comment, and the schema knows no other.
	values, err := os.ReadFile(filepath.Join(chart, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	rows, paths := documented(t, values)
	slices.Sort(paths)
	delete(s.Properties, "global")      // helm's own
	s.Properties["settings"] = schema{} // one value
	known := s.leaves(s.Definitions, "")
	slices.Sort(known)
	if diff := cmp.Diff(paths, known); diff != "" {
		t.Errorf("values (-values.yaml +values.schema.json):\n%s", diff)
	}
	file := filepath.Join(chart, "README.md")
	readme, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(readme), "<!-- values -->\n")
	_, after, closed := strings.Cut(rest, "<!-- /values -->")
	if !found || !closed {
		t.Fatal("deploy/chart/README.md has no section between <!-- values --> and <!-- /values -->")
	}
	generated := before + "<!-- values -->\n" + rows + "<!-- /values -->" + after
	if *update {
		if err := os.WriteFile(file, []byte(generated), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(generated, string(readme)); diff != "" {
		t.Errorf("deploy/chart/README.md (-values.yaml +README.md); go test ./deploy -run Chart -update writes it:\n%s", diff)
	}
}

// documented returns a table of the values that carry a "# --" comment, which each has to, and their paths.
func documented(t *testing.T, values []byte) (table string, paths []string) {
	t.Helper()
	var tree map[string]any
	if err := yaml.Unmarshal(values, &tree); err != nil {
		t.Fatal(err)
	}
	rows, comment, parents := "| value | default | |\n|---|---|---|\n", "", []string{}
	key := regexp.MustCompile(`^( *)([A-Za-z_-]+):`)
	deeper := -1 // indentation of a documented value; what is below belongs to it
	for line := range strings.Lines(string(values)) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "# -- "); ok {
			comment = text
			continue
		}
		match := key.FindStringSubmatch(line)
		if match == nil || deeper >= 0 && len(match[1]) > deeper {
			continue
		}
		deeper = -1
		parents = append(parents[:len(match[1])/2], match[2])
		var value any = tree
		for _, name := range parents {
			value = value.(map[string]any)[name]
		}
		if comment == "" {
			if _, ok := value.(map[string]any); !ok {
				t.Errorf("values.yaml: %s has no comment that begins with # --", strings.Join(parents, "."))
			}
			continue
		}
		written, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		rows += fmt.Sprintf("| `%s` | `%s` | %s |\n", strings.Join(parents, "."), written, comment)
		paths, comment, deeper = append(paths, strings.Join(parents, ".")), "", len(match[1])
	}
	return rows, paths
}

func TestTheChartHoldsTheMonitoringOfDeploy(t *testing.T) {
	for _, name := range []string{"rules.yaml", "dashboard.json"} {
		source, err := os.ReadFile(filepath.Join(root(t), "deploy", "monitoring", name))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(root(t), "deploy", "chart", "files", name)
		if *update {
			if err := os.WriteFile(file, source, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		held, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(held, source) {
			t.Errorf("deploy/chart/files/%s is not deploy/monitoring/%s; go test ./deploy -run Chart -update copies it", name,
				name)
		}
	}
}

func TestTheChartInstallsUpgradesAndUninstalls(t *testing.T) {
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
	u := newUser(t, c)
	u.run(t, "kubectl create namespace shop")
	u.run(t, commandsOf(t, "docs/install/helm.md", "install chart"))
	spreadOverZones(ctx, t, c)
	address := freeAddress(t)
	serve(ctx, t, c, address)
	certificate, generation := trusted(ctx, t, c), own(ctx, t, c).Generation

	// Neither the same again nor another policy touches the bundle that evenkeel wrote. The same again
	// doesn't restart it; of the namespaces that Fail exempts it is told by a flag.
	for restarts, command := range []string{
		"helm upgrade evenkeel deploy/chart --namespace evenkeel-system",
		"helm upgrade evenkeel deploy/chart --namespace evenkeel-system --reuse-values --set failurePolicy=Fail",
	} {
		u.run(t, command)
		if !bytes.Equal(trusted(ctx, t, c), certificate) {
			t.Errorf("%s changed the bundle", command)
		}
		if is := own(ctx, t, c).Generation; is != generation+int64(restarts) {
			t.Errorf("%s: evenkeel's own Deployment has generation %d, was %d, want %d more", command, is, generation, restarts)
		}
	}
	configuration, err := c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, "evenkeel",
		metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, webhook := range configuration.Webhooks {
		if *webhook.FailurePolicy != admissionregistrationv1.Fail || *webhook.TimeoutSeconds != 5 {
			t.Errorf("after the upgrade webhook %s has the policy %s and %d s", webhook.Name, *webhook.FailurePolicy,
				*webhook.TimeoutSeconds)
		}
	}
	route(ctx, t, c, address)
	u.run(t, commands(t, "opt in"))
	reachable(ctx, t, c, address)
	workload := replicated("after")
	if workload, err = c.Client.AppsV1().Deployments("shop").Create(ctx, workload, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	poll(ctx, t, "the Deployment has a budget", func(ctx context.Context) (bool, error) { return budget(ctx, c, "after") })

	// Uninstalled while evenkeel is dead and its webhooks, which fail, block everything.
	c.StopProgram("evenkeel", syscall.SIGKILL, time.Minute)
	if _, err := admitted(ctx, c, "shop", deployment("blocked")); !apierrors.IsInternalError(err) {
		t.Errorf("without evenkeel a Deployment is admitted under Fail, or refused otherwise: %v", err)
	}
	u.run(t, commandsOf(t, "docs/install/uninstall.md", "uninstall chart"))
	poll(ctx, t, "nothing is blocked any more", func(ctx context.Context) (bool, error) {
		_, err := admitted(ctx, c, "shop", deployment("free"))
		return err == nil, nil
	})
	if got := read(ctx, t, c, "after"); got.Generation != workload.Generation || !defaulted(got) {
		t.Error("uninstalling changed a workload")
	}
	if there, err := budget(ctx, c, "after"); err != nil || !there {
		t.Errorf("uninstalling took the budget of a workload: %v", err)
	}
	left := u.run(t,
		"kubectl get clusterrole,clusterrolebinding,mutatingwebhookconfiguration -o name; kubectl -n evenkeel-system get "+
			"deployment,pdb,role,rolebinding,serviceaccount,resourcequota -o name")
	for name := range strings.Lines(left) { // the Service is the test's own by now
		if strings.Contains(name, "evenkeel") {
			t.Errorf("left after uninstalling: %s", name)
		}
	}
}

// The way from evenkeel's own certificates to those of a Secret, and back, by the commands of docs/install/move.md. The
// process with its own goes on beside them for as long as its pods would during the rollout: it mustn't take the bundle
// back, and has to be trusted until it is gone.
func TestTheChartSwitchesToACertificateOfASecretAndBack(t *testing.T) {
	ctx := t.Context()
	c := start(t)
	u := newUser(t, c)
	u.run(t, "kubectl create namespace shop")
	u.run(t, commandsOf(t, "docs/install/helm.md", "install chart"))
	u.run(t, commands(t, "opt in"))
	first := freeAddress(t)
	serve(ctx, t, c, first)
	before := trusted(ctx, t, c)

	ca, err := installation.WriteCertificate(u.dir, installation.Host(installation.Service), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(u.dir, "ca.crt"), ca, 0o600); err != nil {
		t.Fatal(err)
	}

	// Without --force-conflicts helm refuses, and says what is in whose hands. What it has changed until then a rollback
	// takes back.
	there := commandsOf(t, "docs/install/move.md", "to a Secret")
	bare := strings.Replace(there, " --force-conflicts", "", 1)
	if bare == there {
		t.Fatal("the documented command has no --force-conflicts")
	}
	out, err := u.try(t, bare)
	if err == nil || !strings.Contains(out, "caBundle") || !strings.Contains(out, "evenkeel-certificates") {
		t.Errorf("without --force-conflicts helm doesn't refuse, or doesn't say why: %v\n%s", err, out)
	}
	if !bytes.Equal(trusted(ctx, t, c), before) {
		t.Error("an upgrade that was refused changed the bundle")
	}
	u.run(t, commandsOf(t, "docs/install/move.md", "roll back"))
	if arguments := own(ctx, t, c).Spec.Template.Spec.Containers[0].Args; slices.Contains(arguments,
		"--tls-cert-file=/etc/evenkeel/tls/tls.crt") {
		t.Errorf("after the rollback evenkeel still serves with files: %v", arguments)
	}
	u.run(t, "kubectl -n evenkeel-system delete secret evenkeel-tls") // the commands make it
	route(ctx, t, c, first)
	reachable(ctx, t, c, first)
	unroute(ctx, t, c)

	// With it, the bundle is the one given, and stays so although the process that wrote the other one still runs, and
	// tries. Both are in it: the API server goes on calling that process, until the one with the files is there.
	u.run(t, there)
	both := slices.Concat(before, ca)
	poll(ctx, t, "evenkeel has tried to take the bundle back", func(context.Context) (bool, error) {
		log, err := os.ReadFile(filepath.Join(c.LogDir, "evenkeel.log"))
		return bytes.Contains(log, []byte("certificate authorities not written")), err
	})
	if !bytes.Equal(trusted(ctx, t, c), both) {
		t.Fatalf("the bundle isn't the one given:\n%s", trusted(ctx, t, c))
	}
	if arguments := own(ctx, t, c).Spec.Template.Spec.Containers[0].Args; !slices.Contains(arguments,
		"--tls-cert-file=/etc/evenkeel/tls/tls.crt") {
		t.Errorf("evenkeel doesn't serve with the files: %v", arguments)
	}
	route(ctx, t, c, first)
	reachable(ctx, t, c, first)
	c.StopProgram("evenkeel", syscall.SIGTERM, time.Minute)
	second := freeAddress(t)
	serveAs(ctx, t, c, "evenkeel-files", second, "--tls-cert-file="+filepath.Join(u.dir, "tls.crt"),
		"--tls-key-file="+filepath.Join(u.dir, "tls.key"))
	route(ctx, t, c, second)
	reachable(ctx, t, c, second)

	// Then without the authority that nobody signs with any more, and without force: helm owns the bundle.
	unroute(ctx, t, c)
	u.run(t, commandsOf(t, "docs/install/move.md", "Secret alone"))
	if !bytes.Equal(trusted(ctx, t, c), ca) {
		t.Errorf("the bundle isn't the one given:\n%s", trusted(ctx, t, c))
	}
	left := u.run(t, "kubectl get clusterrolebinding,rolebinding -A -o name")
	if strings.Contains(left, "evenkeel-certificates") {
		t.Errorf("with a Secret's certificate evenkeel still has the rights to make its own:\n%s", left)
	}
	route(ctx, t, c, second)
	reachable(ctx, t, c, second)

	// And back.
	unroute(ctx, t, c)
	u.run(t, commandsOf(t, "docs/install/move.md", "to its own"))
	c.StopProgram("evenkeel-files", syscall.SIGTERM, time.Minute) // as its pods have been
	serve(ctx, t, c, first)
	if after := trusted(ctx, t, c); bytes.Equal(after, ca) || bytes.Equal(after, both) {
		t.Error("evenkeel didn't write its own bundle")
	}
	route(ctx, t, c, first)
	reachable(ctx, t, c, first)
}

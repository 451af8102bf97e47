package rights

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
	"github.com/evenkeel/evenkeel/e2e/manifests"
)

// policyText is deploy/base/policy.yaml.
func policyText(t *testing.T) []byte {
	t.Helper()
	root, err := installation.Root()
	check.Must(t, err)
	text, err := os.ReadFile(filepath.Join(root, "deploy", "base", "policy.yaml"))
	check.Must(t, err)
	return text
}

// TestThePolicyNamesEveryField compares the fields of a webhook with those that the policy
// compares: one that a later API adds would else be free to change.
func TestThePolicyNamesEveryField(t *testing.T) {
	text := string(policyText(t))
	for _, of := range []reflect.Type{reflect.TypeFor[admissionregistrationv1.MutatingWebhook](),
		reflect.TypeFor[admissionregistrationv1.WebhookClientConfig]()} {
		for i := range of.NumField() {
			name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
			if name == "caBundle" || name == "clientConfig" {
				continue
			}
			if !strings.Contains(text, "?"+name+" == ") && !strings.Contains(text, "new."+name+" == ") {
				t.Errorf("the policy doesn't compare %s of %s", name, of)
			}
		}
	}
}

// TestTheTokenMayChangeTheBundleAlone does with evenkeel's token what a thief would like to, against a real API server.
func TestTheTokenMayChangeTheBundleAlone(t *testing.T) {
	ctx := t.Context()
	if os.Getenv("KUBECONFIG") != "" {
		t.Skip("KUBECONFIG names an existing cluster, whose policies are not ours to change")
	}
	c, err := cluster.Start(ctx, cluster.Config{Log: os.Stderr, Components: []string{}})
	check.Must(t, err)
	t.Cleanup(func() { check.Must(t, c.Stop()) })
	evenkeel, err := installation.Prepare(ctx, c, installation.Options{})
	check.Must(t, err)
	t.Cleanup(evenkeel.Stop)
	check.Must(t, evenkeel.Register(ctx))
	file := filepath.Join(t.TempDir(), "kubeconfig")
	check.Must(t, installation.WriteKubeconfig(ctx, c, file))
	config, err := clientcmd.BuildConfigFromFlags("", file)
	check.Must(t, err)
	config.QPS = -1
	stolen, err := kubernetes.NewForConfig(config)
	check.Must(t, err)
	steal := func(kind types.PatchType, patch string) error {
		_, err := stolen.AdmissionregistrationV1().MutatingWebhookConfigurations().Patch(ctx, "evenkeel", kind, []byte(patch),
			metav1.PatchOptions{FieldManager: "thief", DryRun: []string{metav1.DryRunAll}})
		return err
	}
	const everything = `[{"op":"replace","path":"/webhooks/0/rules","value":[{"apiGroups":["*"],"apiVersions":["*"],` +
		`"operations":["*"],"resources":["*/*"]}]}]`
	check.Must(t, steal(types.JSONPatchType, everything)) // the control: without the policy RBAC lets it
	objects, err := manifests.Read(policyText(t))
	check.Must(t, err)
	for _, object := range objects {
		if object.GetKind() == "ValidatingAdmissionPolicy" {
			policy, err := manifests.As[admissionregistrationv1.ValidatingAdmissionPolicy](object)
			check.Must(t, err)
			_, err = c.Client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(ctx, policy,
				metav1.CreateOptions{})
			check.Must(t, err)
			continue
		}
		binding, err := manifests.As[admissionregistrationv1.ValidatingAdmissionPolicyBinding](object)
		check.Must(t, err)
		_, err = c.Client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Create(ctx, binding,
			metav1.CreateOptions{})
		check.Must(t, err)
	}
	check.Eventually(t, "the policy is in force", func() error {
		if err := steal(types.JSONPatchType, everything); !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) {
			return errors.New("webhooks for everything are let through")
		}
		return nil
	})
	one := func(path, value string) string { return `[{"op":"add","path":"` + path + `","value":` + value + `}]` }
	for name, patch := range map[string]string{
		"another address": `[{"op":"remove","path":"/webhooks/0/clientConfig/service"},{"op":"add",` +
			`"path":"/webhooks/0/clientConfig/url","value":"https://example.com/"}]`,
		"another service":      one("/webhooks/1/clientConfig/service/name", `"other"`),
		"another path":         one("/webhooks/1/clientConfig/service/path", `"/other"`),
		"another namespace":    one("/webhooks/1/clientConfig/service/namespace", `"default"`),
		"all namespaces":       one("/webhooks/1/namespaceSelector", `{}`),
		"all objects":          one("/webhooks/2/objectSelector", `{}`),
		"a policy that blocks": one("/webhooks/0/failurePolicy", `"Fail"`),
		"a longer timeout":     one("/webhooks/0/timeoutSeconds", `30`),
		"a webhook more": one("/webhooks/-",
			`{"name":"more.evenkeel.dev","clientConfig":{"url":"https://example.com/"},"sideEffects":"None",`+
				`"admissionReviewVersions":["v1"]}`),
		"a webhook less":            `[{"op":"remove","path":"/webhooks/0"}]`,
		"a webhook of another name": one("/webhooks/0/name", `"more.evenkeel.dev"`),
		"a condition":               one("/webhooks/0/matchConditions", `[{"name":"a","expression":"true"}]`),
		"another reinvocation":      one("/webhooks/0/reinvocationPolicy", `"Never"`),
		"a label":                   one("/metadata/labels/x", `"y"`),
		"an annotation":             one("/metadata/annotations/x", `"y"`),
		"a finalizer":               one("/metadata/finalizers", `["example.com/x"]`),
	} {
		if err := steal(types.JSONPatchType, patch); err == nil || !strings.Contains(err.Error(), "evenkeel changes no") {
			t.Errorf("%s: %v, want it refused by the policy", name, err)
		}
	}
	// evenkeel itself still writes its bundle, and so does an admin everything.
	check.Must(t, evenkeel.Start(ctx))
	check.Eventually(t, "evenkeel is ready with a bundle of its own", func() error {
		ca, err := evenkeel.CA(ctx)
		check.Must(t, err)
		if len(ca) == 0 {
			return errors.New("no bundle")
		}
		return nil
	})
	begin := time.Now()
	_, err = c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Patch(ctx, "evenkeel", types.JSONPatchType,
		[]byte(everything), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
	check.Must(t, err)
	t.Logf("an admin's patch took %v", time.Since(begin))
}

package admission

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/corpus"
)

// admitted are the kinds that the webhook is called for, with their resources.
var admitted = map[string]schema.GroupVersionResource{
	"Pod":         {Version: "v1", Resource: "pods"},
	"Deployment":  {Group: "apps", Version: "v1", Resource: "deployments"},
	"StatefulSet": {Group: "apps", Version: "v1", Resource: "statefulsets"},
}

// others are the further kinds that inject looks at.
var others = map[string]schema.GroupVersionResource{
	"DaemonSet":             {Group: "apps", Version: "v1", Resource: "daemonsets"},
	"ReplicaSet":            {Group: "apps", Version: "v1", Resource: "replicasets"},
	"ReplicationController": {Version: "v1", Resource: "replicationcontrollers"},
	"Job":                   {Group: "batch", Version: "v1", Resource: "jobs"},
	"CronJob":               {Group: "batch", Version: "v1", Resource: "cronjobs"},
}

// workloads returns the workloads of the corpus, and says what of it can't be read.
func workloads(t *testing.T, kinds ...map[string]schema.GroupVersionResource) []corpus.Object {
	t.Helper()
	objects, unread, err := corpus.Load()
	check.Must(t, err)
	for _, what := range unread {
		t.Logf("not read, as kubectl would not: %s", what)
	}
	var names []string
	for _, k := range kinds {
		for name := range k {
			names = append(names, name)
		}
	}
	found := corpus.Workloads(objects, names...)
	if len(found) < 10 {
		t.Fatalf("%d workloads in the corpus, want at least 10", len(found))
	}
	return found
}

// dryRun creates an object in a namespace without storing it.
func dryRun(t *testing.T, object *unstructured.Unstructured, namespace string) (*unstructured.Unstructured, error) {
	t.Helper()
	config := shared.RESTConfig()
	config.WarningHandler = rest.NoWarnings{} // the API server's own, on ports that two containers share
	client, err := dynamic.NewForConfig(config)
	check.Must(t, err)
	resource, ok := admitted[object.GetKind()]
	if !ok {
		resource = others[object.GetKind()]
	}
	object = object.DeepCopy()
	object.SetNamespace(namespace)
	if object.GetKind() == "Pod" { // whose service account may not be there
		unstructured.RemoveNestedField(object.Object, "spec", "serviceAccountName")
		unstructured.RemoveNestedField(object.Object, "spec", "serviceAccount")
	}
	return client.Resource(resource).Namespace(namespace).Create(t.Context(), object,
		metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
}

// TestEveryWorkloadOfTheCorpusIsAccepted has the API server validate each workload bare, as the webhook patches it, and
// as inject patches it for clusters with native and with exec sleep.
func TestEveryWorkloadOfTheCorpusIsAccepted(t *testing.T) {
	bare := plain(t)
	namespaces := map[string]string{
		"as the webhook patches it": optedIn(t, nil),
		"as the webhook patches it in a namespace with other defaults": optedIn(t, map[string]string{
			"evenkeel.dev/anti-affinity": "required", "evenkeel.dev/pre-stop-sleep": "45s",
			"evenkeel.dev/topology-keys": "topology.kubernetes.io/zone,example.com/rack,kubernetes.io/hostname"}),
	}
	flags := map[string][]string{
		"as inject patches it":                 {"--kube-version=1.36"},
		"as inject patches it with exec sleep": {"--kube-version=1.29", "--allow-exec-sleep"},
		"as inject patches it with all else": {"--anti-affinity=required", "--pre-stop-sleep=60s",
			"--max-grace-period=40s"},
	}
	patched := map[string]int{}
	for _, object := range workloads(t, admitted, others) {
		if _, err := dryRun(t, object.Unstructured, bare); err != nil {
			t.Logf("%s is not valid without us: %v", object, err)
			continue
		}
		for how, namespace := range namespaces {
			stored, err := dryRun(t, object.Unstructured, namespace)
			if err != nil {
				t.Errorf("%s, %s, is refused: %v", object, how, err)
			} else if strings.Contains(fmt.Sprint(stored.Object), "evenkeel.dev/injected") {
				patched[how]++
			}
		}
		for how, f := range flags {
			injected := inject(t, object, f...)
			if _, err := dryRun(t, injected, bare); err != nil {
				t.Errorf("%s, %s, is refused: %v", object, how, err)
			} else if strings.Contains(fmt.Sprint(injected.Object), "evenkeel.dev/injected") {
				patched[how]++
			}
		}
	}
	t.Logf("accepted with something added: %v", patched)
	for _, how := range slices.Concat(slices.Collect(maps.Keys(namespaces)), slices.Collect(maps.Keys(flags))) {
		if n := patched[how]; n < 10 {
			t.Errorf("%d workloads had something added %s, want at least 10", n, how)
		}
	}
}

// inject runs evenkeel inject over one object.
func inject(t *testing.T, object corpus.Object, flags ...string) *unstructured.Unstructured {
	t.Helper()
	out := runInject(t, object, append([]string{"-o", "json"}, flags...)...)
	injected := &unstructured.Unstructured{}
	if err := injected.UnmarshalJSON(out); err != nil {
		t.Fatalf("inject %s: %v in %s", object, err, out)
	}
	return injected
}

func runInject(t *testing.T, object corpus.Object, flags ...string) []byte {
	t.Helper()
	input, err := runtime.Encode(unstructured.UnstructuredJSONScheme, object.Unstructured)
	check.Must(t, err)
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), shared.program, append([]string{"inject", "-q", "-"}, flags...)...)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("inject %s: %v\n%s", object, err, &stderr)
	}
	return out
}

// TestTheWebhookAnswersAsInjectDoes posts each workload to the running webhook over HTTPS.
func TestTheWebhookAnswersAsInjectDoes(t *testing.T) {
	evenkeel := ours(t)
	namespace, compared, patched := optedIn(t, nil), 0, 0
	roots := x509.NewCertPool()
	ca, err := evenkeel.CA(t.Context())
	check.Must(t, err)
	roots.AppendCertsFromPEM(ca)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots,
		ServerName: evenkeel.Host}}}
	defer client.CloseIdleConnections()
	for _, object := range workloads(t, admitted) {
		// 30 is written in a manifest, and the API's default in a review
		for _, path := range [][]string{{"spec"}, {"spec", "template", "spec"}} {
			if grace, _, _ := unstructured.NestedInt64(object.Object,
				append(path, "terminationGracePeriodSeconds")...); grace == 30 {
				unstructured.RemoveNestedField(object.Object, append(path, "terminationGracePeriodSeconds")...)
			}
		}
		raw, err := runtime.Encode(unstructured.UnstructuredJSONScheme, object.Unstructured)
		check.Must(t, err)
		want := "[]"
		lines := bufio.NewScanner(bytes.NewReader(runInject(t, object, "-o", "patch", "--kube-version=1.36")))
		lines.Buffer(nil, 4<<20)
		for lines.Scan() {
			var line struct{ Patch json.RawMessage }
			check.Must(t, json.Unmarshal(lines.Bytes(), &line))
			want = string(line.Patch)
			patched++
		}
		review := admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1",
			Kind: "AdmissionReview"},
			Request: &admissionv1.AdmissionRequest{UID: "u", Operation: admissionv1.Create, Namespace: namespace,
				Object: runtime.RawExtension{Raw: raw}}}
		if got := string(postReview(t, client, review).Patch); got != want {
			t.Errorf("%s: webhook and inject differ (-inject +webhook):\n%s", object, cmp.Diff(want, got))
		}
		compared++
	}
	t.Logf("%d workloads compared, %d with a patch", compared, patched)
	if patched < 10 {
		t.Errorf("%d workloads had a patch, want at least 10", patched)
	}
}

func postReview(t *testing.T, client *http.Client, review admissionv1.AdmissionReview) *admissionv1.AdmissionResponse {
	t.Helper()
	body, err := json.Marshal(review)
	check.Must(t, err)
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPost,
		"https://"+ours(t).Address+"/mutate?timeout=2s", bytes.NewReader(body))
	check.Must(t, err)
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	check.Must(t, err)
	defer func() { check.Must(t, response.Body.Close()) }()
	answer, err := io.ReadAll(response.Body)
	check.Must(t, err)
	if err := json.Unmarshal(answer, &review); err != nil || review.Response == nil {
		t.Fatalf("answer %s: %v", answer, err)
	}
	return review.Response
}

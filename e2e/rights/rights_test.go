// Package rights tests that evenkeel's service account has the rights that it needs, and no others.
package rights

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

var each = flag.Bool("each", false, "take each right away in turn and see evenkeel fail; about six minutes")

const user = "system:serviceaccount:" + installation.Namespace + ":evenkeel"

// right is one verb on one resource.
type right struct{ group, resource, verb string }

func (r right) String() string { return r.verb + " " + r.resource + "." + r.group }

// start starts an API server without streamed lists, as before 1.34, so that both list and watch are used, which writes
// down what evenkeel asks for.
func start(t *testing.T) (c *cluster.Cluster, audit string) {
	t.Helper()
	if os.Getenv("KUBECONFIG") != "" {
		t.Skip("KUBECONFIG names an existing cluster, whose API server does not write down who asks for what")
	}
	dir := t.TempDir()
	policy, audit := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "audit.log")
	check.Must(t,
		os.WriteFile(policy,
			[]byte(`{"apiVersion":"audit.k8s.io/v1","kind":"Policy","rules":[{"level":"Metadata","users":["`+user+`"]}]}`),
			0o600))
	c, err := cluster.Start(t.Context(),
		cluster.Config{Log: os.Stderr, Components: []string{cluster.ControllerManager}, Flags: map[string][]string{
			cluster.APIServer: {"--feature-gates=WatchList=false", "--audit-policy-file=" + policy,
				"--audit-log-path=" + audit}}})
	check.Must(t, err)
	t.Cleanup(func() { check.Must(t, c.Stop()) })
	definition(t, c)
	return c, audit
}

// definition makes Argo's Rollout known, which deploy/ has a rule for.
func definition(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	client, err := dynamic.NewForConfig(c.RESTConfig())
	check.Must(t, err)
	anything := map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}
	_, err = client.Resource(schema.GroupVersionResource{
		Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}).Create(t.Context(),
		&unstructured.Unstructured{
			Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
				"metadata": map[string]any{"name": "rollouts.argoproj.io"},
				"spec": map[string]any{"group": "argoproj.io", "scope": "Namespaced",
					"names": map[string]any{"kind": "Rollout", "plural": "rollouts", "singular": "rollout"},
					"versions": []any{map[string]any{"name": "v1alpha1", "served": true, "storage": true,
						"schema": map[string]any{
							"openAPIV3Schema": map[string]any{"type": "object",
								"properties": map[string]any{"spec": map[string]any{"type": "object",
									"x-kubernetes-preserve-unknown-fields": true,
									"properties":                           map[string]any{"replicas": map[string]any{"type": "integer"}}},
									"status": anything}}},
						"subresources": map[string]any{"status": map[string]any{},
							"scale": map[string]any{"specReplicasPath": ".spec.replicas",
								"statusReplicasPath": ".status.HPAReplicas", "labelSelectorPath": ".status.selector"}}}}}}},
		metav1.CreateOptions{})
	check.Must(t, err)
}

// until tries for that long, and returns the last error.
func until(limit time.Duration, try func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := try()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond) // between two looks
	}
}

// exercise makes use of all that evenkeel does, and returns what did not come to pass in time.
func exercise(ctx context.Context, c *cluster.Cluster, limit time.Duration) error {
	client := c.Client
	ns, err := client.CoreV1().Namespaces().Create(ctx,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "shop-",
			Labels:      map[string]string{"evenkeel.dev/inject": "enabled"},
			Annotations: map[string]string{"evenkeel.dev/pre-stop-sleep": "7s"}}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	name := ns.Name
	defer func() {
		_ = client.CoreV1().Namespaces().Delete(context.WithoutCancel(ctx), name, metav1.DeleteOptions{})
	}()
	if err := until(limit, func() error {
		_, err := client.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err
	}); err != nil {
		return err
	}
	labels := map[string]string{"app": "web"}
	three := int32(3)
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "web", Image: "web", Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}}}
	if err := until(limit, func() error { // admission, with the Namespace's setting and the native sleep
		d, err := client.AppsV1().Deployments(name).Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"},
			Spec: appsv1.DeploymentSpec{Replicas: &three, Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: template}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return err
		}
		if h := d.Spec.Template.Spec.Containers[0].Lifecycle; h == nil || h.PreStop == nil || h.PreStop.Sleep == nil ||
			h.PreStop.Sleep.Seconds != 7 {
			return errors.New("no defaults, or not those of the Namespace")
		}
		return nil
	}); err != nil {
		return fmt.Errorf("admission: %w", err)
	}
	if _, err := client.AppsV1().Deployments(name).Create(ctx,
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"},
			Spec: appsv1.DeploymentSpec{Replicas: &three, Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: template}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	budget := func(workload, want string) func() error {
		return func() error {
			b, err := client.PolicyV1().PodDisruptionBudgets(name).Get(ctx, workload+"-evenkeel", metav1.GetOptions{})
			if want == "" && apierrors.IsNotFound(err) {
				return nil
			}
			if err != nil {
				return err
			}
			if got := b.Spec.MaxUnavailable.String(); got != want {
				return fmt.Errorf("maxUnavailable %s, want %s", got, want)
			}
			return nil
		}
	}
	if err := until(limit, budget("web", "10%")); err != nil {
		return fmt.Errorf("budget created: %w", err)
	}
	if _, err := client.AppsV1().Deployments(name).Patch(ctx, "web", types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"evenkeel.dev/disruption-budget":"maxUnavailable=2"}}}`),
		metav1.PatchOptions{}); err != nil {
		return err
	}
	if err := until(limit, budget("web", "2")); err != nil {
		return fmt.Errorf("budget changed: %w", err)
	}
	if err := until(limit, func() error {
		events, err := client.CoreV1().Events(name).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(events.Items, func(e corev1.Event) bool {
			return e.InvolvedObject.Name == "web" && strings.Contains(e.Source.Component+e.ReportingController, "evenkeel")
		}) {
			return errors.New("none of evenkeel's")
		}
		return nil
	}); err != nil {
		return fmt.Errorf("event: %w", err)
	}
	// An autoscaler that goes down to one takes the budget away.
	one := int32(1)
	if _, err := client.AutoscalingV2().HorizontalPodAutoscalers(name).Create(ctx,
		&autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "web"},
			Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MinReplicas: &one, MaxReplicas: 3,
				ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}}},
		metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := until(limit, budget("web", "")); err != nil {
		return fmt.Errorf("budget removed: %w", err)
	}
	if err := rollout(ctx, c, name, limit, budget("canary", "10%")); err != nil {
		return err
	}
	return neverReady(ctx, c, name, limit)
}

// neverReady says of a pod of the Deployment web what a kubelet says whose probe never succeeds,
// and waits for the note.
func neverReady(ctx context.Context, c *cluster.Cluster, name string, limit time.Duration) error {
	if err := until(limit, func() error {
		pods, err := c.Client.CoreV1().Pods(name).List(ctx, metav1.ListOptions{LabelSelector: "app=web"})
		if err != nil || len(pods.Items) == 0 {
			return errors.Join(err, errors.New("no pod"))
		}
		pod := &pods.Items[0]
		yes, then := true, metav1.NewTime(time.Now().Add(-time.Minute))
		pod.Status.Phase = corev1.PodRunning
		pod.Status.Conditions = []corev1.PodCondition{
			{Type: corev1.PodInitialized, Status: corev1.ConditionTrue, LastTransitionTime: then},
			{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: then}}
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", Image: "web", ImageID: "web", Started: &yes,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: then}}}}
		_, err = c.Client.CoreV1().Pods(name).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
		return err
	}); err != nil {
		return fmt.Errorf("status of a pod: %w", err)
	}
	if err := until(limit, func() error {
		notes, err := c.Client.CoreV1().ConfigMaps(installation.Namespace).Get(ctx, "evenkeel-notes", metav1.GetOptions{})
		if err == nil && !strings.Contains(notes.Data["notes"], "Deployment "+name+" web probe-never-succeeds") {
			err = fmt.Errorf("notes are %q", notes.Data["notes"])
		}
		return err
	}); err != nil {
		return fmt.Errorf("note of a probe that never succeeds: %w", err)
	}
	return nil
}

// rollout makes what Argo's controller would, and waits for the budget.
func rollout(ctx context.Context, c *cluster.Cluster, name string, limit time.Duration, budget func() error) error {
	client, err := dynamic.NewForConfig(c.RESTConfig())
	if err != nil {
		return err
	}
	resource := client.Resource(schema.GroupVersionResource{
		Group: "argoproj.io", Version: "v1alpha1", Resource: "rollouts"}).Namespace(name)
	var made *unstructured.Unstructured
	if err := until(limit, func() (err error) {
		made, err = resource.Create(ctx,
			&unstructured.Unstructured{
				Object: map[string]any{"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout",
					"metadata": map[string]any{"name": "canary"},
					"spec":     map[string]any{"replicas": int64(3)}}}, metav1.CreateOptions{})
		return err
	}); err != nil {
		return err
	}
	yes, three, labels := true, int32(3), map[string]string{"app": "canary", "rollouts-pod-template-hash": "5d4f"}
	if _, err := c.Client.AppsV1().ReplicaSets(name).Create(ctx,
		&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "canary-5d4f",
			OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "argoproj.io/v1alpha1", Kind: "Rollout", Name: "canary", UID: made.GetUID(), Controller: &yes}}},
			Spec: appsv1.ReplicaSetSpec{Replicas: &three, Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
					Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web"}}}}}},
		metav1.CreateOptions{}); err != nil {
		return err
	}
	made.Object["status"] = map[string]any{"selector": "app=canary", "HPAReplicas": int64(3)}
	if _, err := resource.UpdateStatus(ctx, made, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if err := until(limit, budget); err != nil {
		return fmt.Errorf("budget of a custom kind: %w", err)
	}
	return nil
}

// granted returns the rights that deploy/ gives, as stored.
func granted(ctx context.Context, c *cluster.Cluster) (map[right]bool, error) {
	all := map[right]bool{}
	add := func(rules []rbacv1.PolicyRule) {
		for _, rule := range rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						all[right{group, resource, verb}] = true
					}
				}
			}
		}
	}
	options := metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=evenkeel"}
	clusterRoles, err := c.Client.RbacV1().ClusterRoles().List(ctx, options)
	if err != nil {
		return nil, err
	}
	for _, role := range clusterRoles.Items {
		add(role.Rules)
	}
	roles, err := c.Client.RbacV1().Roles(installation.Namespace).List(ctx, options)
	if err != nil {
		return nil, err
	}
	for _, role := range roles.Items {
		add(role.Rules)
	}
	return all, nil
}

// used returns the rights that requests of evenkeel's made use of since the audit log had that many bytes, and which of
// them were refused.
func used(t *testing.T, audit string, since int64) (all map[right]bool, refused []right) {
	t.Helper()
	file, err := os.Open(audit)
	check.Must(t, err)
	defer func() { _ = file.Close() }()
	_, err = file.Seek(since, io.SeekStart)
	check.Must(t, err)
	all = map[right]bool{}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event struct {
			Verb      string
			ObjectRef struct{ APIGroup, Resource, Subresource, Name string }
			Status    metav1.Status `json:"responseStatus"`
		}
		check.Must(t, json.Unmarshal(lines.Bytes(), &event))
		r := right{event.ObjectRef.APIGroup, event.ObjectRef.Resource, event.Verb}
		if event.ObjectRef.Subresource != "" {
			r.resource += "/" + event.ObjectRef.Subresource
		}
		all[r] = true
		// An Event about what goes with its Namespace comes too late now and then, which has nothing to do with rights.
		late := apierrors.HasStatusCause(&apierrors.StatusError{ErrStatus: event.Status}, corev1.NamespaceTerminatingCause)
		if event.Status.Code == http.StatusForbidden && !late {
			refused = append(refused, r)
		}
		if r.verb == "patch" && event.Status.Code == 201 { // a server-side apply that created
			all[right{r.group, r.resource, "create"}] = true
		}
	}
	check.Must(t, lines.Err())
	return all, refused
}

// TestRights compares what evenkeel's service account may do with what it does, and with what it must not.
func TestRights(t *testing.T) {
	ctx := t.Context()
	c, audit := start(t)
	evenkeel, err := installation.Install(ctx, c, installation.Options{Flags: []string{"--probe-patience=1s"}})
	check.Must(t, err)
	t.Cleanup(evenkeel.Stop)
	t.Run("every right is needed", func(t *testing.T) { everyRight(t, c, evenkeel, audit) })
	t.Run("nothing else is allowed", func(t *testing.T) { nothingElse(t, c) })
}

func everyRight(t *testing.T, c *cluster.Cluster, evenkeel *installation.Installation, audit string) {
	ctx := t.Context()
	check.Must(t, exercise(ctx, c, 30*time.Second))
	all, err := granted(ctx, c)
	check.Must(t, err)
	if len(all) < 30 {
		t.Fatalf("%d rights, want more", len(all))
	}
	made, refused := used(t, audit, 0)
	if len(refused) > 0 {
		t.Errorf("evenkeel was refused %v", refused)
	}
	for r := range all {
		if !made[r] {
			t.Errorf("nothing made use of the right to %v", r)
		}
	}
	t.Logf("%d rights, all in use", len(all))
	if !*each {
		return
	}
	// anew starts evenkeel as in a cluster that has never seen it, and lets it work. Without the right to watch it gets
	// there too, by lists in steady state, and without the one to renew its Lease until that ends, so that a request that
	// is refused counts as a failure. The second result is one.
	anew := func(t *testing.T, wait time.Duration) (undone, denied error) {
		evenkeel.Stop()
		log, err := os.Stat(audit)
		check.Must(t, err)
		_ = c.Client.CoreV1().Secrets(installation.Namespace).Delete(ctx, "evenkeel-authority", metav1.DeleteOptions{})
		_ = c.Client.CoordinationV1().Leases(installation.Namespace).Delete(ctx, "evenkeel", metav1.DeleteOptions{})
		check.Must(t,
			installation.Register(ctx, c, configured(t, c),
				installation.Target{Service: installation.Service, Address: evenkeel.Address}))
		check.Must(t, evenkeel.StartUnready())
		if err := exercise(ctx, c, 10*time.Second); err != nil {
			return err, nil
		}
		_ = until(wait, func() error {
			if _, refused := used(t, audit, log.Size()); len(refused) > 0 {
				denied = fmt.Errorf("refused: %v", refused[0])
				return nil
			}
			return errors.New("nothing was refused")
		})
		return nil, denied
	}
	if !t.Run("with all of them", func(t *testing.T) {
		undone, denied := anew(t, 5*time.Second)
		check.Must(t, errors.Join(undone, denied))
	}) {
		return
	}
	begin, visible, red := time.Now(), 0, 0
	for _, r := range slices.SortedFunc(maps.Keys(all),
		func(a, b right) int { return strings.Compare(a.String(), b.String()) }) {
		t.Run("without "+r.String(), func(t *testing.T) {
			restore := without(t, c, r)
			defer restore()
			undone, denied := anew(t, 15*time.Second)
			switch {
			case undone != nil:
				visible++
				red++
				t.Log(undone)
			case denied != nil:
				red++
				t.Log(denied)
			default:
				t.Error("evenkeel does all its work without it, and is refused nothing")
			}
		})
	}
	t.Logf("SUMMARY rights: %d of %d rights missed when taken away, %d of them by work undone, in %v", red, len(all),
		visible, time.Since(begin).Round(time.Second))
}

func configured(t *testing.T, c *cluster.Cluster) *admissionregistrationv1.MutatingWebhookConfiguration {
	t.Helper()
	configuration, err := installation.Configuration(t.Context(), c)
	check.Must(t, err)
	return configuration
}

// without takes one right away, and returns what gives it back.
func without(t *testing.T, c *cluster.Cluster, r right) (restore func()) {
	t.Helper()
	ctx := context.Background()
	strip := func(rules []rbacv1.PolicyRule) (stripped []rbacv1.PolicyRule) {
		for _, rule := range rules {
			if !slices.Contains(rule.APIGroups, r.group) || !slices.Contains(rule.Resources, r.resource) ||
				!slices.Contains(rule.Verbs, r.verb) {
				stripped = append(stripped, rule)
				continue
			}
			others, same := *rule.DeepCopy(), *rule.DeepCopy()
			others.Resources = slices.DeleteFunc(others.Resources, func(s string) bool { return s == r.resource })
			same.Resources = []string{r.resource}
			same.Verbs = slices.DeleteFunc(same.Verbs, func(s string) bool { return s == r.verb })
			for _, part := range []rbacv1.PolicyRule{others, same} {
				if len(part.Resources) > 0 && len(part.Verbs) > 0 {
					stripped = append(stripped, part)
				}
			}
		}
		return stripped
	}
	var undo []func()
	options := metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=evenkeel"}
	clusterRoles, err := c.Client.RbacV1().ClusterRoles().List(ctx, options)
	check.Must(t, err)
	for _, role := range clusterRoles.Items {
		set := func(rules []rbacv1.PolicyRule) {
			role.ResourceVersion, role.Rules = "", rules
			_, err := c.Client.RbacV1().ClusterRoles().Update(ctx, &role, metav1.UpdateOptions{})
			check.Must(t, err)
		}
		rules := role.Rules
		set(strip(rules))
		undo = append(undo, func() { set(rules) })
	}
	roles, err := c.Client.RbacV1().Roles(installation.Namespace).List(ctx, options)
	check.Must(t, err)
	for _, role := range roles.Items {
		set := func(rules []rbacv1.PolicyRule) {
			role.ResourceVersion, role.Rules = "", rules
			_, err := c.Client.RbacV1().Roles(installation.Namespace).Update(ctx, &role, metav1.UpdateOptions{})
			check.Must(t, err)
		}
		rules := role.Rules
		set(strip(rules))
		undo = append(undo, func() { set(rules) })
	}
	return func() {
		for _, f := range undo {
			f()
		}
	}
}

// forbidden are calls that whoever steals the token would like to make: verb, resource[.group][/subresource], namespace
// and name.
const forbidden = `
get secrets default x
list secrets default -
list secrets - -
watch secrets - -
get secrets evenkeel-system other
list secrets evenkeel-system -
create secrets evenkeel-system other
create secrets default x
patch secrets evenkeel-system other
update secrets evenkeel-system evenkeel-authority
delete secrets evenkeel-system evenkeel-authority
deletecollection secrets evenkeel-system -
get configmaps kube-system x
create configmaps evenkeel-system x
create pods default x
create pods evenkeel-system x
get pods default x
delete pods default x
patch pods default x
create pods/exec default x
create pods/attach default x
create pods/portforward default x
create pods/eviction default x
create pods/ephemeralcontainers default x
get pods/log default x
create serviceaccounts/token evenkeel-system evenkeel
create serviceaccounts/token kube-system default
create deployments.apps default x
update deployments.apps default x
patch deployments.apps evenkeel-system evenkeel
delete deployments.apps default x
patch deployments.apps/scale default x
create daemonsets.apps default x
create jobs.batch default x
patch statefulsets.apps default x
patch nodes - x
delete nodes - x
update nodes/status - x
get nodes/proxy - x
create namespaces - x
patch namespaces - x
delete namespaces - x
get mutatingwebhookconfigurations.admissionregistration.k8s.io - other
list mutatingwebhookconfigurations.admissionregistration.k8s.io - -
create mutatingwebhookconfigurations.admissionregistration.k8s.io - evenkeel
update mutatingwebhookconfigurations.admissionregistration.k8s.io - evenkeel
delete mutatingwebhookconfigurations.admissionregistration.k8s.io - evenkeel
patch mutatingwebhookconfigurations.admissionregistration.k8s.io - other
patch validatingwebhookconfigurations.admissionregistration.k8s.io - evenkeel
create clusterrolebindings.rbac.authorization.k8s.io - x
bind clusterroles.rbac.authorization.k8s.io - cluster-admin
escalate roles.rbac.authorization.k8s.io evenkeel-system evenkeel
patch roles.rbac.authorization.k8s.io evenkeel-system evenkeel
impersonate users - admin
impersonate groups - system:masters
create certificatesigningrequests.certificates.k8s.io - x
patch leases.coordination.k8s.io kube-system kube-scheduler
update leases.coordination.k8s.io evenkeel-system other
get leases.coordination.k8s.io kube-node-lease node
delete leases.coordination.k8s.io evenkeel-system evenkeel
delete events default x
patch horizontalpodautoscalers.autoscaling default x
patch rollouts.argoproj.io/scale default x
create customresourcedefinitions.apiextensions.k8s.io - x
create networkpolicies.networking.k8s.io default x
create persistentvolumes - x
get endpoints default kubernetes
patch services evenkeel-system evenkeel
`

func nothingElse(t *testing.T, c *cluster.Cluster) {
	ctx := t.Context()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	check.Must(t, installation.WriteKubeconfig(ctx, c, file))
	config, err := clientcmd.BuildConfigFromFlags("", file)
	check.Must(t, err)
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	check.Must(t, err)
	asked := 0
	for line := range strings.Lines(strings.TrimSpace(forbidden)) {
		fields := strings.Fields(line)
		resource, sub, _ := strings.Cut(fields[1], "/")
		resource, group, _ := strings.Cut(resource, ".")
		attributes := &authorizationv1.ResourceAttributes{Verb: fields[0], Resource: resource, Group: group, Subresource: sub,
			Namespace: strings.TrimPrefix(fields[2], "-"), Name: strings.TrimPrefix(fields[3], "-")}
		review, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx,
			&authorizationv1.SelfSubjectAccessReview{
				Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: attributes}}, metav1.CreateOptions{})
		check.Must(t, err)
		if review.Status.Allowed {
			t.Errorf("allowed to %s", line)
		}
		asked++
	}
	if asked < 50 {
		t.Errorf("%d calls, want 50 at least", asked)
	}
	// And a few real ones.
	for name, call := range map[string]func() error{
		"list secrets": func() error {
			_, err := client.CoreV1().Secrets("").List(ctx, metav1.ListOptions{})
			return err
		},
		"read another secret": func() error {
			_, err := client.CoreV1().Secrets(installation.Namespace).Get(ctx, "other", metav1.GetOptions{})
			return err
		},
		"create another secret": func() error {
			_, err := client.CoreV1().Secrets(installation.Namespace).Create(ctx,
				&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, metav1.CreateOptions{})
			return err
		},
		"create a pod": func() error {
			_, err := client.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x"}},
				metav1.CreateOptions{})
			return err
		},
		"delete the webhook configuration": func() error {
			return client.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(ctx, "evenkeel",
				metav1.DeleteOptions{})
		},
		"delete a namespace": func() error {
			return client.CoreV1().Namespaces().Delete(ctx, "default", metav1.DeleteOptions{})
		},
	} {
		if err := call(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want it forbidden", name, err)
		}
	}
}

package deploy

import (
	"context"
	"os"
	"slices"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

// configurationOf returns the webhook configuration of an overlay.
func configurationOf(t *testing.T, directory string) *admissionregistrationv1.MutatingWebhookConfiguration {
	t.Helper()
	const name = "MutatingWebhookConfiguration/evenkeel"
	return typed[admissionregistrationv1.MutatingWebhookConfiguration](t, directory, name)
}

// addedArguments returns the arguments of evenkeel that an overlay has beyond those of deploy/.
func addedArguments(t *testing.T, directory string) []string {
	t.Helper()
	var added []string
	arguments := func(directory string) []string {
		deployment := typed[appsv1.Deployment](t, directory, "Deployment/evenkeel")
		return deployment.Spec.Template.Spec.Containers[0].Args
	}
	base := arguments("deploy")
	for _, argument := range arguments(directory) {
		if !slices.Contains(base, argument) {
			added = append(added, argument)
		}
	}
	return added
}

// start starts an API server without nodes or controllers.
func start(t *testing.T) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Start(t.Context(), cluster.Config{Log: os.Stderr, Components: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// namespace makes a Namespace, or labels the one that is there.
func namespace(ctx context.Context, t *testing.T, c *cluster.Cluster, name string, labels map[string]string) {
	t.Helper()
	_, err := c.Client.CoreV1().Namespaces().Create(ctx,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		there, err := c.Client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		there.Labels = labels
		if _, err := c.Client.CoreV1().Namespaces().Update(ctx, there, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
}

// admitted tries to create a Deployment without storing it.
func admitted(ctx context.Context, c *cluster.Cluster, namespace string,
	d *appsv1.Deployment) (*appsv1.Deployment, error) {
	return c.Client.AppsV1().Deployments(namespace).Create(ctx, d,
		metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
}

func TestTheOptOutOverlayCoversEveryNamespaceButThoseLabelled(t *testing.T) {
	ctx, c := t.Context(), start(t)
	namespace(ctx, t, c, "plain", nil)
	namespace(ctx, t, c, "opted-out", map[string]string{"evenkeel.dev/inject": "disabled"})
	evenkeel, err := installation.Install(ctx, c, installation.Options{
		Flags: addedArguments(t, "deploy/opt-out"),
		Configure: func(configuration *admissionregistrationv1.MutatingWebhookConfiguration) {
			configuration.Webhooks = configurationOf(t, "deploy/opt-out").Webhooks
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	poll(ctx, t, "a Deployment of a namespace without the label gets defaults", func(ctx context.Context) (bool, error) {
		got, err := admitted(ctx, c, "plain", deployment("web"))
		return err == nil && defaulted(got), err
	})
	for _, name := range []string{"opted-out", "kube-system", installation.Namespace} {
		got, err := admitted(ctx, c, name, deployment("web"))
		if err != nil || defaulted(got) {
			t.Errorf("a Deployment in the namespace %s got defaults, or %v", name, err)
		}
	}

	// Budgets go by the same namespaces.
	two := replicated("two")
	for _, name := range []string{"opted-out", "kube-system", "plain"} { // looked at in an order, and plain is last
		if _, err := c.Client.AppsV1().Deployments(name).Create(ctx, two, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	poll(ctx, t, "the Deployment of plain has a budget", func(ctx context.Context) (bool, error) {
		_, err := c.Client.PolicyV1().PodDisruptionBudgets("plain").Get(ctx, "two-evenkeel", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	})
	budgets, err := c.Client.PolicyV1().PodDisruptionBudgets("").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(budgets.Items) != 1 {
		t.Errorf("%d budgets, want the one of plain: %v; log:\n%s", len(budgets.Items), budgets.Items, evenkeel.Log())
	}
}

func TestTheFailOverlayRefusesWhatItMustAndNothingElse(t *testing.T) {
	ctx, c := t.Context(), start(t)
	optedIn := map[string]string{"evenkeel.dev/inject": "enabled"}
	for _, name := range []string{"shop", "kube-system", "kube-public", "cert-manager", installation.Namespace} {
		namespace(ctx, t, c, name, optedIn)
	}
	namespace(ctx, t, c, "plain", nil)
	configuration := configurationOf(t, "deploy/fail")
	for _, webhook := range configuration.Webhooks {
		if *webhook.FailurePolicy != admissionregistrationv1.Fail || *webhook.TimeoutSeconds != 5 {
			t.Errorf("webhook %s has the policy %s and %d s, want Fail and 5 s", webhook.Name, *webhook.FailurePolicy,
				*webhook.TimeoutSeconds)
		}
	}
	evenkeel, err := installation.Install(ctx, c, installation.Options{
		Flags: addedArguments(t, "deploy/fail"),
		Configure: func(stored *admissionregistrationv1.MutatingWebhookConfiguration) {
			stored.Webhooks = configuration.Webhooks
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	poll(ctx, t, "evenkeel is called", func(ctx context.Context) (bool, error) {
		got, err := admitted(ctx, c, "shop", deployment("web"))
		return err == nil && defaulted(got), nil
	})

	evenkeel.Stop()
	if _, err := admitted(ctx, c, "shop", deployment("web")); !apierrors.IsInternalError(err) {
		t.Errorf("without evenkeel a Deployment of an opted-in namespace is admitted, or refused otherwise: %v", err)
	}
	for _, name := range []string{"plain", "kube-system", "kube-public", "cert-manager", installation.Namespace} {
		if _, err := admitted(ctx, c, name, deployment("web")); err != nil {
			t.Errorf("without evenkeel the namespace %s is blocked: %v", name, err)
		}
	}
	optedOut := deployment("web")
	optedOut.Labels = map[string]string{"evenkeel.dev/inject": "disabled"}
	if _, err := admitted(ctx, c, "shop", optedOut); err != nil {
		t.Errorf("without evenkeel a Deployment that opted out is blocked: %v", err)
	}

	// The way out that docs/install/fail.md gives.
	if _, err := cluster.Run(c.KubectlCommand(ctx, "delete", "mutatingwebhookconfiguration", "--selector",
		"app.kubernetes.io/name=evenkeel")); err != nil {
		t.Fatal(err)
	}
	poll(ctx, t, "nothing is blocked without a webhook configuration", func(ctx context.Context) (bool, error) {
		_, err := admitted(ctx, c, "shop", deployment("web"))
		return err == nil, nil
	})
}

// replicated returns a Deployment of two replicas that lacks every default.
func replicated(name string) *appsv1.Deployment {
	d := deployment(name)
	d.Spec.Replicas = new(int32)
	*d.Spec.Replicas = 2
	return d
}

// budget reports whether the Deployment of the namespace shop has a budget of evenkeel's.
func budget(ctx context.Context, c *cluster.Cluster, name string) (bool, error) {
	_, err := c.Client.PolicyV1().PodDisruptionBudgets("shop").Get(ctx, name+"-evenkeel", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

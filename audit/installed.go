package audit

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"

	"github.com/evenkeel/evenkeel/policy"
)

// nameLabel marks what belongs to evenkeel's installation.
const nameLabel = "app.kubernetes.io/name=evenkeel"

// Installation is the evenkeel that runs in a cluster.
type Installation struct {
	// Webhooks are those that call it, none where it is not installed.
	Webhooks []Webhook
	// Namespace is where it runs, "" where that is not known.
	Namespace string
	// Arguments are its command line behind the program, nil where it is not known.
	Arguments []string
	// Hidden is set where it may be there, but its command line may not be read.
	Hidden bool
	// Ready is how many replicas of it are ready, -1 where that is not known.
	Ready int
	// Warnings say what could not be looked at.
	Warnings []string
}

// Webhook is one webhook of a MutatingWebhookConfiguration.
type Webhook struct {
	Configuration, Name string
	// FailurePolicy is Ignore or Fail.
	FailurePolicy string
	// Bundle is set where the API server has certificates to trust it by.
	Bundle bool

	resources           []string
	namespaces, objects labels.Selector
}

// Calls reports whether the API server calls the webhook for objects of a resource
// with these labels, in a namespace with those.
func (w *Webhook) Calls(resource string, object, namespace map[string]string) bool {
	return slices.Contains(w.resources, resource) && w.objects.Matches(labels.Set(object)) &&
		w.namespaces.Matches(labels.Set(namespace))
}

// Installed finds the evenkeel of a cluster by its webhooks and its Deployment. What
// may not be read becomes a warning.
func Installed(ctx context.Context, client kubernetes.Interface) (*Installation, error) {
	i := &Installation{Ready: -1}
	configurations, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx,
		metav1.ListOptions{LabelSelector: nameLabel})
	switch {
	case apierrors.IsForbidden(err):
		i.Warnings = append(i.Warnings,
			"webhook configurations may not be listed, so the opted-in namespaces are taken to be those with the label "+
				policy.InjectLabel+": "+policy.Enabled)
		i.Hidden = true
		return i, nil
	case err != nil:
		return nil, fmt.Errorf("list webhook configurations: %w", err)
	}
	for _, c := range configurations.Items {
		for k := range c.Webhooks {
			if err := i.add(c.Name, &c.Webhooks[k]); err != nil {
				return nil, err
			}
		}
	}
	if i.Namespace == "" { // not installed, or called by a URL
		i.Hidden = len(i.Webhooks) > 0
		return i, nil
	}
	deployments, err := client.AppsV1().Deployments(i.Namespace).List(ctx, metav1.ListOptions{LabelSelector: nameLabel})
	switch {
	case apierrors.IsForbidden(err):
		i.Hidden = true
		i.Warnings = append(i.Warnings,
			"Deployments of namespace "+i.Namespace+
				" may not be listed, so evenkeel's own flags are not known; built-in values are used")
	case err != nil:
		return nil, fmt.Errorf("list Deployments of evenkeel: %w", err)
	case len(deployments.Items) > 0:
		d := &deployments.Items[0]
		i.Ready = int(d.Status.ReadyReplicas)
		for _, c := range d.Spec.Template.Spec.Containers {
			if k := slices.Index(c.Args, "serve"); k >= 0 {
				i.Arguments = append([]string{}, c.Args[k+1:]...)
			}
		}
	}
	return i, nil
}

// add adds one webhook of ours.
func (i *Installation) add(configuration string, w *admissionregistrationv1.MutatingWebhook) error {
	if !strings.HasSuffix(w.Name, strings.TrimSuffix(policy.Prefix, "/")) {
		return nil
	}
	namespaces, err1 := metav1.LabelSelectorAsSelector(w.NamespaceSelector)
	objects, err2 := metav1.LabelSelectorAsSelector(w.ObjectSelector)
	if err1 != nil || err2 != nil {
		return fmt.Errorf("webhook configuration %s: webhook %s has a selector that can't be read", configuration, w.Name)
	}
	webhook := Webhook{Configuration: configuration, Name: w.Name, Bundle: len(w.ClientConfig.CABundle) > 0,
		namespaces: namespaces, objects: objects}
	if w.FailurePolicy != nil {
		webhook.FailurePolicy = string(*w.FailurePolicy)
	}
	for _, r := range w.Rules {
		webhook.resources = append(webhook.resources, r.Resources...)
	}
	i.Webhooks = append(i.Webhooks, webhook)
	if s := w.ClientConfig.Service; s != nil {
		i.Namespace = s.Namespace
	}
	return nil
}

// OptsIn reports whether evenkeel looks after a namespace with these labels: a
// webhook calls it for objects without labels there. Where no webhook is known it is
// by the label that the installation in deploy/ goes by.
func (i *Installation) OptsIn(namespace map[string]string) bool {
	if len(i.Webhooks) == 0 {
		return namespace[policy.InjectLabel] == policy.Enabled && namespace[corev1.LabelMetadataName] != "kube-system"
	}
	return slices.ContainsFunc(i.Webhooks, func(w Webhook) bool { return w.Calls("deployments", nil, namespace) })
}

// flag returns the value of a flag on the command line of evenkeel serve, "" without it.
func (i *Installation) flag(name string) string {
	for k, argument := range i.Arguments {
		if value, ok := strings.CutPrefix(argument, "--"+name+"="); ok {
			return value
		}
		if argument == "--"+name && k+1 < len(i.Arguments) {
			return i.Arguments[k+1]
		}
	}
	return ""
}

// KeepsBudgets reports whether evenkeel serve keeps disruption budgets in a Namespace, by its own
// flags rather than by the selector of the webhook, and why it doesn't.
func (i *Installation) KeepsBudgets(n *corev1.Namespace) (keeps bool, why string) {
	text := cmp.Or(i.flag("namespace-selector"), policy.InjectLabel+"="+policy.Enabled)
	selector, err := labels.Parse(text)
	switch {
	case i.flag("budgets") == "false":
		return false, "evenkeel serve runs with --budgets=false"
	case n.Name == metav1.NamespaceSystem || n.Name == i.Namespace:
		return false, "evenkeel never looks after this namespace"
	case err != nil:
		return false, "the --namespace-selector of evenkeel serve can't be read"
	case !selector.Matches(labels.Set(n.Labels)):
		return false, "the namespace does not match --namespace-selector=" + text + " of evenkeel serve"
	}
	return true, ""
}

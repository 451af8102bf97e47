// Package check says whether the evenkeel of a cluster works, part by part, and what to
// do where it doesn't. Read asks the cluster, Judge decides over what Read found.
package check

import (
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"

	"github.com/evenkeel/evenkeel/patches"
)

// Status is what became of a check.
type Status string

// The statuses of a check.
const (
	OK      Status = "ok"
	Warning Status = "warning" // it works, and would be better otherwise
	Failed  Status = "failed"
	Unknown Status = "unknown" // it could not be looked at
)

// Result is what one check found.
type Result struct {
	// Check is the name of the part: versions, rights, webhook and so on.
	Check  string
	Status Status
	// Text says what was found, Advice what to do about it; Advice is empty for OK.
	Text, Advice string
}

// Worst returns the status that counts for a whole list: a failure before what is
// unknown, that before a warning.
func Worst(results []Result) Status {
	worst := OK
	rank := map[Status]int{OK: 0, Warning: 1, Unknown: 2, Failed: 3}
	for _, r := range results {
		if rank[r.Status] > rank[worst] {
			worst = r.Status
		}
	}
	return worst
}

// Fact is what the cluster answered to one question: a value, or why there is none.
type Fact[T any] struct {
	Value T
	Err   error
}

// Right is one thing that an account may be allowed to do.
type Right struct {
	Group, Resource, Verb string
	// Namespace is "" for the whole cluster.
	Namespace string
}

// Trial is what came back of the creation of a Deployment that was not stored.
type Trial struct {
	// Namespace is where it was tried, "" where no namespace is opted in.
	Namespace string
	Created   *appsv1.Deployment
}

// State is what Read found of a cluster.
type State struct {
	Now time.Time
	// ReadOnly is that of the Scope.
	ReadOnly bool
	// APIServer and OldestKubelet are versions; that of no node at all is the zero Version.
	APIServer     Fact[patches.Version]
	OldestKubelet Fact[patches.Version]
	// Configurations are those with evenkeel's label.
	Configurations Fact[[]admissionregistrationv1.MutatingWebhookConfiguration]
	// Late are the names of others' that are called for new Pods after evenkeel's last one.
	Late []string
	// Namespace is where evenkeel runs.
	Namespace string
	// Deployment is evenkeel's own, nil where there is none.
	Deployment Fact[*appsv1.Deployment]
	// Pods are those of evenkeel.
	Pods Fact[[]corev1.Pod]
	// Denied are the rights that evenkeel's account lacks.
	Denied Fact[[]Right]
	// Signed are the certificates that its serving certificates come from, in PEM: those of
	// its own authorities, or the one of a Secret.
	Signed Fact[[]byte]
	// Resets are Events that somebody undoes what evenkeel has written to its webhooks or Secret.
	Resets Fact[[]corev1.Event]
	// Lease is the one that the leader holds, nil where there is none.
	Lease Fact[*coordinationv1.Lease]
	// Budgets are evenkeel's.
	Budgets Fact[[]policyv1.PodDisruptionBudget]
	Trial   Fact[Trial]
	// Missing are the rights that somebody who installs evenkeel needs, and that the user lacks. Read
	// asks for them before an installation only.
	Missing Fact[[]Right]
}

// needed are the rights that evenkeel can't work without. Those of its own namespace have
// that as Namespace.
func needed(namespace string) []Right {
	var rights []Right
	add := func(namespace, group, resource string, verbs ...string) {
		for _, verb := range verbs {
			rights = append(rights, Right{Group: group, Resource: resource, Verb: verb, Namespace: namespace})
		}
	}
	add("", "", "namespaces", "list", "watch")
	add("", "apps", "deployments", "list", "watch")
	add("", "apps", "statefulsets", "list", "watch")
	add("", "apps", "replicasets", "list", "watch")
	add("", "", "nodes", "list", "watch")
	add("", "", "pods", "list", "watch")
	add("", "autoscaling", "horizontalpodautoscalers", "list", "watch")
	add("", "policy", "poddisruptionbudgets", "list", "watch", "create", "patch", "delete")
	add("", "", "events", "create")
	add(namespace, "coordination.k8s.io", "leases", "create")
	return rights
}

// installing are the rights of somebody who installs evenkeel.
func installing(namespace string) []Right {
	var rights []Right
	for _, r := range []Right{
		{Group: "", Resource: "namespaces"},
		{Group: "admissionregistration.k8s.io", Resource: "mutatingwebhookconfigurations"},
		{Group: "rbac.authorization.k8s.io", Resource: "clusterroles"},
		{Group: "rbac.authorization.k8s.io", Resource: "clusterrolebindings"},
		{Group: "apps", Resource: "deployments", Namespace: namespace},
		{Group: "", Resource: "services", Namespace: namespace},
		{Group: "", Resource: "serviceaccounts", Namespace: namespace},
		{Group: "policy", Resource: "poddisruptionbudgets", Namespace: namespace},
	} {
		r.Verb = "create"
		rights = append(rights, r)
	}
	return rights
}

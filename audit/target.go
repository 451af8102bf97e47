package audit

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"

	"github.com/evenkeel/evenkeel/internal/words"
)

// Target is what somebody wants to know about: a workload, or what leads to some.
type Target struct{ Kind, Name string }

// targetKinds are the kinds of a Target, with what kubectl calls them.
var targetKinds = [...][]string{
	{"Deployment", "deployment", "deployments", "deploy"},
	{"StatefulSet", "statefulset", "statefulsets", "sts"},
	{"DaemonSet", "daemonset", "daemonsets", "ds"},
	{"ReplicaSet", "replicaset", "replicasets", "rs"},
	{"ReplicationController", "replicationcontroller", "replicationcontrollers", "rc"},
	{"Pod", "pod", "pods", "po"},
	{kindService, "service", "services", "svc"},
}

const kindService = "Service"

// ParseTarget reads "KIND/NAME", or KIND and NAME as two arguments, as kubectl does.
func ParseTarget(args []string) (Target, error) {
	kind, name, ok := strings.Cut(strings.Join(args, "/"), "/")
	if !ok || kind == "" || name == "" || strings.Contains(name, "/") {
		return Target{}, fmt.Errorf("%q is not a workload; name one as KIND/NAME, as in deploy/web", strings.Join(args, " "))
	}
	word, _, _ := strings.Cut(strings.ToLower(kind), ".") // deployments.apps
	var known []string
	for _, names := range targetKinds {
		if slices.Contains(names[1:], word) {
			return Target{names[0], name}, nil
		}
		known = append(known, names[1:]...)
	}
	hint := "allowed: deploy, sts, ds, rs, rc, po, svc, and their long names"
	switch word {
	case "job", "jobs", "cronjob", "cronjobs", "cj":
		return Target{}, fmt.Errorf("the pods of kind %q run to completion and serve nobody, so nothing is added to them; %s",
			kind, hint)
	}
	if near := words.Nearest(word, known, words.Slips); near != "" {
		hint = "did you mean " + near + "?"
	}
	return Target{}, fmt.Errorf("kind %q has no pods of its own, or does not exist; %s", kind, hint)
}

// Ask reads from the cluster what is to know about a target in the namespace of scope, and explains it. A Service is
// explained by the workloads whose pods it selects.
func Ask(ctx context.Context, client kubernetes.Interface, scope Scope, rules Rules, t Target) ([]byte, error) {
	state, err := Read(ctx, client, scope)
	if err != nil {
		return nil, err
	}
	q := Question{Target: t, State: state, Rules: rules, Installation: scope.Installation}
	if q.Namespace, err = client.CoreV1().Namespaces().Get(ctx, scope.Namespace, metav1.GetOptions{}); err != nil {
		q.Namespace = nil // may not be read, as the explanation says
	}
	if t.Kind == kindService {
		list, err := client.CoreV1().Services(scope.Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("read Services: %w", err)
		}
		q.Services = list.Items
	}
	text, err := Explain(q)
	if err != nil {
		return nil, fmt.Errorf("in namespace %s, %w", scope.Namespace, err)
	}
	return text, nil
}

// about returns the workloads that a question is about.
func (q *Question) about(report *Report) ([]*Workload, error) {
	if q.Kind != kindService {
		w, err := find(report, q.State, q.Kind, q.Name)
		return []*Workload{w}, err
	}
	i := slices.IndexFunc(q.Services, func(s corev1.Service) bool { return s.Name == q.Name })
	if i < 0 {
		names := make([]string, len(q.Services))
		for k := range q.Services {
			names[k] = q.Services[k].Name
		}
		return nil, words.NotFound("service", q.Name, names)
	}
	if len(q.Services[i].Spec.Selector) == 0 {
		return nil, fmt.Errorf("service %q has no selector, so somebody else says where it leads", q.Name)
	}
	selector := labels.SelectorFromSet(q.Services[i].Spec.Selector)
	selected := map[string]bool{}
	for i := range q.State.Pods {
		selected[q.State.Pods[i].Name] = selector.Matches(labels.Set(q.State.Pods[i].Labels))
	}
	behind := slices.DeleteFunc(slices.Clone(report.Workloads), func(w *Workload) bool {
		return !slices.ContainsFunc(report.PodNames[w.ID()], func(pod string) bool { return selected[pod] }) &&
			(w.object == nil || !selector.Matches(labels.Set(w.object.Spec.Template.labels)))
	})
	if len(behind) == 0 {
		return nil, fmt.Errorf("service %q selects the pods of no workload", q.Name)
	}
	return behind, nil
}

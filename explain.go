package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/internal/words"
)

const explainHelp = `Say why evenkeel did, or did not, add something to a workload of a cluster: whether
its namespace is opted in and a webhook selects it, what became of each default and
why, what of it stands, by whose hand, what is wanted now and when that arrives, where
each setting came from, how its budget stands, and what to do next.

Kinds: deployment (deploy), statefulset (sts), daemonset (ds), replicaset (rs),
replicationcontroller (rc), pod (po). A pod is explained by what it belongs to.`

// explainOptions are the flags of explain.
type explainOptions struct {
	cluster clusterFlags
	policy  policyFlags
}

func newExplainCommand(program string) *cobra.Command {
	o := &explainOptions{}
	command := &cobra.Command{
		Use:     "explain KIND/NAME",
		Short:   "Say why something was, or was not, added to a workload",
		Long:    explainHelp,
		Example: "  " + program + " explain deploy/web -n shop",
		RunE:    o.run,
	}
	fs := command.Flags()
	fs.SortFlags = false
	o.cluster.register(fs)
	o.policy.register(fs)
	return command
}

// explainKinds are the kinds to explain, with what kubectl calls them.
var explainKinds = [...][]string{
	{"Deployment", "deployment", "deployments", "deploy"},
	{"StatefulSet", "statefulset", "statefulsets", "sts"},
	{"DaemonSet", "daemonset", "daemonsets", "ds"},
	{"ReplicaSet", "replicaset", "replicasets", "rs"},
	{"ReplicationController", "replicationcontroller", "replicationcontrollers", "rc"},
	{"Pod", "pod", "pods", "po"},
}

// parseKindName reads "KIND/NAME", or KIND and NAME as two arguments, as kubectl does.
func parseKindName(args []string) (kind, name string, err error) {
	text := strings.Join(args, "/")
	kind, name, ok := strings.Cut(text, "/")
	if !ok || kind == "" || name == "" || strings.Contains(name, "/") {
		return "", "", usageError{fmt.Errorf("%q is no workload; name one as KIND/NAME, as in deploy/web", strings.Join(args, " "))}
	}
	word, _, _ := strings.Cut(strings.ToLower(kind), ".") // deployments.apps
	var known []string
	for _, names := range explainKinds {
		if slices.Contains(names[1:], word) {
			return names[0], name, nil
		}
		known = append(known, names[1:]...)
	}
	hint := "allowed: deploy, sts, ds, rs, rc, po, and their long names"
	switch word {
	case "job", "jobs", "cronjob", "cronjobs", "cj":
		return "", "", usageError{fmt.Errorf("the pods of kind %q run to completion and serve nobody, so nothing is added to them; %s", kind, hint)}
	}
	if near := words.Nearest(word, known, words.Slips); near != "" {
		hint = "did you mean " + near + "?"
	}
	return "", "", usageError{fmt.Errorf("kind %q has no pods of its own, or does not exist; %s", kind, hint)}
}

func (o *explainOptions) run(command *cobra.Command, args []string) error {
	if len(args) == 0 || len(args) > 2 {
		return usageError{errors.New("name one workload as KIND/NAME, as in deploy/web")}
	}
	kind, name, err := parseKindName(args)
	if err != nil {
		return err
	}
	ctx := command.Context()
	c, err := o.cluster.connect(ctx, &o.policy)
	if err != nil {
		return err
	}
	text, err := o.explain(ctx, c, kind, name)
	if err != nil {
		return err
	}
	_, err = command.OutOrStdout().Write(text)
	return err
}

// explain asks the cluster.
func (o *explainOptions) explain(ctx context.Context, c *connection, kind, name string) ([]byte, error) {
	state, err := audit.Read(ctx, c.client, audit.Scope{Source: c.source, Namespace: c.namespace, Installation: c.installation})
	if err != nil {
		return nil, c.explained(ctx, c.namespace, err)
	}
	q := audit.Question{Kind: kind, Name: name, State: state, Rules: c.rules, Installation: c.installation}
	if q.Namespace, err = c.client.CoreV1().Namespaces().Get(ctx, c.namespace, metav1.GetOptions{}); err != nil {
		q.Namespace = nil // may not be read, as the explanation says
	}
	text, err := audit.Explain(q)
	if err != nil {
		return nil, fmt.Errorf("in namespace %s, %w", c.namespace, err)
	}
	return text, nil
}

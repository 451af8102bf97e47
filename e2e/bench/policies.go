package main

import (
	"context"
	"fmt"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// The three defaults as an operator writes them for the API server itself, each a CEL expression
// that makes a JSON Patch. They know no setting, no opt-out and no warning, and leave no record:
// what they add to pods is the same otherwise. ApplyConfiguration, the other form of a mutation,
// can't write an atomic list or map, such as the terms and selectors of an affinity, and costs
// more.
const (
	celSpread = `has(object.spec.affinity) || has(object.spec.topologySpreadConstraints) ||
  !has(object.metadata.labels) ? [] : [JSONPatch{
  op: "add", path: "/spec/affinity", value: Object.spec.affinity{podAntiAffinity: Object.spec.affinity.podAntiAffinity{
    preferredDuringSchedulingIgnoredDuringExecution: [
      Object.spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution{weight: 100,
        podAffinityTerm: Object.spec.affinity.podAntiAffinity.
          preferredDuringSchedulingIgnoredDuringExecution.podAffinityTerm{
          topologyKey: "kubernetes.io/hostname",
          labelSelector: Object.spec.affinity.podAntiAffinity.
            preferredDuringSchedulingIgnoredDuringExecution.podAffinityTerm.labelSelector{
            matchLabels: object.metadata.labels}}},
      Object.spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution{weight: 50,
        podAffinityTerm: Object.spec.affinity.podAntiAffinity.
          preferredDuringSchedulingIgnoredDuringExecution.podAffinityTerm{
          topologyKey: "topology.kubernetes.io/zone",
          labelSelector: Object.spec.affinity.podAntiAffinity.
            preferredDuringSchedulingIgnoredDuringExecution.podAffinityTerm.labelSelector{
            matchLabels: object.metadata.labels}}}]}}}]`

	celSleep = `object.spec.containers.transformList(i, c, has(c.ports) && !has(c.lifecycle), JSONPatch{
  op: "add", path: "/spec/containers/" + string(i) + "/lifecycle", value: Object.spec.containers.lifecycle{
    preStop: Object.spec.containers.lifecycle.preStop{
      sleep: Object.spec.containers.lifecycle.preStop.sleep{seconds: 10}}}})`

	celProbe = `object.spec.containers.transformList(i, c, has(c.ports) && !has(c.readinessProbe), JSONPatch{
  op: "add", path: "/spec/containers/" + string(i) + "/readinessProbe",
  value: has(c.livenessProbe) && has(c.livenessProbe.httpGet) ?
    Object.spec.containers.readinessProbe{periodSeconds: 5, timeoutSeconds: 2, failureThreshold: 3,
      httpGet: c.livenessProbe.httpGet} :
    Object.spec.containers.readinessProbe{periodSeconds: 5, timeoutSeconds: 2, failureThreshold: 3,
      tcpSocket: Object.spec.containers.readinessProbe.tcpSocket{port: c.ports[0].containerPort}}})`
)

// The contestants that are in the tree of the API server.
const (
	threePolicies = "3 in-tree policies" // a policy per default
	onePolicy     = "1 in-tree policy"   // all three in one mutation
)

// expressions returns the mutations of an in-tree contestant, one per policy.
func expressions(contestant string) []string {
	three := []string{celSpread, celSleep, celProbe}
	if contestant == onePolicy {
		return []string{"(" + strings.Join(three, ") +\n(") + ")"}
	}
	return three
}

// applyPolicies stores a MutatingAdmissionPolicy and its binding per expression, for pods that are created in the
// namespaces with the labels.
func applyPolicies(ctx context.Context, client kubernetes.Interface, name string, namespaces map[string]string,
	expressions []string) error {
	for i, expression := range expressions {
		fail, equivalent := admissionregistrationv1.Fail, admissionregistrationv1.Equivalent
		meta := metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", name, i)}
		policy := &admissionregistrationv1.MutatingAdmissionPolicy{ObjectMeta: meta,
			Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{
				MatchConstraints: &admissionregistrationv1.MatchResources{MatchPolicy: &equivalent,
					NamespaceSelector: &metav1.LabelSelector{MatchLabels: namespaces},
					ResourceRules:     []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: podCreates()}}},
				FailurePolicy: &fail, ReinvocationPolicy: admissionregistrationv1.NeverReinvocationPolicy,
				Mutations: []admissionregistrationv1.Mutation{{PatchType: admissionregistrationv1.PatchTypeJSONPatch,
					JSONPatch: &admissionregistrationv1.JSONPatch{Expression: expression}}}}}
		binding := &admissionregistrationv1.MutatingAdmissionPolicyBinding{ObjectMeta: meta,
			Spec: admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{PolicyName: meta.Name}}
		if _, err := client.AdmissionregistrationV1().MutatingAdmissionPolicies().Create(ctx, policy,
			metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create policy: %w", err)
		}
		if _, err := client.AdmissionregistrationV1().MutatingAdmissionPolicyBindings().Create(ctx, binding,
			metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create policy binding: %w", err)
		}
	}
	return nil
}

// podCreates is the rule that matches the creation of pods.
func podCreates() admissionregistrationv1.RuleWithOperations {
	return admissionregistrationv1.RuleWithOperations{
		Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
		Rule: admissionregistrationv1.Rule{APIGroups: []string{corev1.GroupName}, APIVersions: []string{"v1"},
			Resources: []string{"pods"}}}
}

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"text/tabwriter"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"
	kyaml "sigs.k8s.io/yaml"

	"github.com/evenkeel/evenkeel/pdb"
)

// addBudgets adds a manifest with the disruption budgets that the workloads among the
// input lack, and returns a report about all of them and whether there are any to add.
// HorizontalPodAutoscalers and budgets among the input count.
func (i *injection) addBudgets() (report []byte, missing bool, err error) {
	var objects []runtime.Object
	for _, m := range i.manifests {
		for _, d := range m.documents {
			for _, o := range d.objects() {
				object := budgetObject(o)
				if object == nil {
					continue
				}
				if err := kjson.UnmarshalCaseSensitivePreserveInts(o.value, object); err != nil {
					return nil, false, fmt.Errorf("%s:%d: %s: %w", m.name, o.line(), title(o), err)
				}
				if named, ok := object.(interface {
					GetNamespace() string
					SetNamespace(namespace string)
				}); ok && o.Kind != "Namespace" {
					named.SetNamespace(cmp.Or(named.GetNamespace(), i.namespace))
				}
				objects = append(objects, object)
			}
		}
	}
	var documents, lines bytes.Buffer
	table := tabwriter.NewWriter(&lines, 0, 0, 2, ' ', 0)
	var codes []pdb.Code
	for _, d := range pdb.Manifests(objects, pdb.Rules{Base: i.config.Base, Bounds: i.config.Bounds}) {
		done, detail := "skipped", string(d.Code)
		if d.Other != "" {
			detail += " (" + d.Other + ")"
		}
		if d.Manifest != nil {
			fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(d.Manifest)
			if err != nil {
				return nil, false, fmt.Errorf("write budget: %w", err)
			}
			delete(fields, "status") // is the API server's to say
			text, err := kyaml.Marshal(fields)
			if err != nil {
				return nil, false, fmt.Errorf("write budget: %w", err)
			}
			documents.WriteString("---\n")
			documents.Write(text)
			missing, done = true, "added"
			if detail = d.Budget.String(); d.Code != pdb.Applied {
				detail += ", " + string(d.Code)
			}
		}
		if d.Code != pdb.Applied && !slices.Contains(codes, d.Code) {
			codes = append(codes, d.Code)
		}
		workload := d.Workload.Kind + " " + d.Workload.Name
		if d.Namespace != "" {
			workload = d.Workload.Kind + " " + d.Namespace + "/" + d.Workload.Name
		}
		_, _ = fmt.Fprintf(table, "%s\tdisruption-budget\t%s\t%s\n", printable(workload), done, printable(detail)) // a Buffer doesn't fail
	}
	_ = table.Flush()
	slices.Sort(codes)
	for _, c := range codes {
		_, _ = fmt.Fprintf(&lines, "  %s  %s\n", c, c.Reason().Text)
	}
	if lines.Len() > 0 {
		lines.WriteByte('\n')
	}
	if missing {
		err = i.add("budgets", documents.Bytes())
	}
	return lines.Bytes(), missing, err
}

// budgetObject returns an empty object of the kind of o, or nil for kinds that budgets
// don't depend on.
func budgetObject(o *object) runtime.Object {
	switch o.APIVersion + " " + o.Kind {
	case "v1 Namespace":
		return &corev1.Namespace{}
	case "apps/v1 Deployment":
		return &appsv1.Deployment{}
	case "apps/v1 StatefulSet":
		return &appsv1.StatefulSet{}
	case "autoscaling/v2 HorizontalPodAutoscaler", "autoscaling/v1 HorizontalPodAutoscaler":
		return &autoscalingv2.HorizontalPodAutoscaler{} // scaleTargetRef and minReplicas are the same in both
	case "policy/v1 PodDisruptionBudget":
		return &policyv1.PodDisruptionBudget{}
	}
	return nil
}

package inject

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"
	kyaml "sigs.k8s.io/yaml"

	"github.com/evenkeel/evenkeel/internal/words"
	"github.com/evenkeel/evenkeel/manifest"
	"github.com/evenkeel/evenkeel/pdb"
)

// addBudgets decides over the disruption budgets of the workloads among the input, and adds a file
// with those that are missing. HorizontalPodAutoscalers, ScaledObjects of KEDA and budgets among the input count.
func (i *injection) addBudgets(files [][]*manifest.Object) error {
	var objects []runtime.Object
	for _, o := range slices.Concat(files...) {
		object, err := budgetObject(o)
		if err != nil {
			return o.Remark(o.Line(), err)
		}
		if object == nil {
			continue
		}
		if named, ok := object.(interface {
			GetNamespace() string
			SetNamespace(namespace string)
		}); ok && o.Kind != "Namespace" {
			named.SetNamespace(cmp.Or(named.GetNamespace(), i.Namespace))
		}
		objects = append(objects, object)
	}
	i.Budgets = pdb.Manifests(objects, pdb.Rules{Base: i.Patches.Base, Bounds: i.Patches.Bounds})
	var documents bytes.Buffer
	for _, d := range i.Budgets {
		if d.Manifest == nil {
			continue
		}
		fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(d.Manifest)
		if err != nil {
			return fmt.Errorf("write budget: %w", err)
		}
		delete(fields, "status") // is the API server's to say
		text, err := kyaml.Marshal(fields)
		if err != nil {
			return fmt.Errorf("write budget: %w", err)
		}
		documents.WriteString("---\n")
		documents.Write(text)
	}
	if documents.Len() == 0 {
		return nil
	}
	f, err := manifest.Read("budgets", documents.String())
	if err != nil {
		return fmt.Errorf("write budgets: %w", err)
	}
	i.budgetFile = f
	return nil
}

// budgetTable writes what was decided over the budgets, and why.
func (r *Result) budgetTable(b *bytes.Buffer, s Style) {
	var rows, reasons [][]words.Cell
	for _, d := range r.Budgets {
		done, detail := "skipped", string(d.Code)
		if d.Other != "" {
			detail += " (" + d.Other + ")"
		}
		if d.Manifest != nil {
			done = "added"
			if s.Check {
				done = "missing"
			}
			if detail = d.Budget.String(); d.Code != pdb.Applied {
				detail += ", " + string(d.Code)
			}
		}
		reason := words.Cells("  "+string(d.Code), d.Code.Reason().Text)
		if d.Code != pdb.Applied && !slices.ContainsFunc(reasons, func(r []words.Cell) bool { return r[0] == reason[0] }) {
			reasons = append(reasons, reason)
		}
		workload := d.Workload.Name
		if d.Namespace != "" {
			workload = d.Namespace + "/" + workload
		}
		row := words.Cells(d.Workload.Kind+" "+workload, "disruption-budget", done, detail)
		row[2].Color = colorOf[done]
		rows = append(rows, row)
	}
	slices.SortFunc(reasons, func(a, b []words.Cell) int { return cmp.Compare(a[0].Text, b[0].Text) })
	words.Table(b, s.Color, rows)
	words.Table(b, false, reasons)
	if len(rows) > 0 {
		b.WriteByte('\n')
	}
}

// budgetObject returns o by its type, or nil for kinds that budgets don't depend on.
func budgetObject(o *manifest.Object) (object runtime.Object, err error) {
	switch o.APIVersion + " " + o.Kind {
	case "v1 Namespace":
		object = &corev1.Namespace{}
	case "apps/v1 Deployment":
		object = &appsv1.Deployment{}
	case "apps/v1 StatefulSet":
		object = &appsv1.StatefulSet{}
	case "autoscaling/v2 HorizontalPodAutoscaler", "autoscaling/v1 HorizontalPodAutoscaler":
		object = &autoscalingv2.HorizontalPodAutoscaler{} // scaleTargetRef and minReplicas are the same in both
	case "policy/v1 PodDisruptionBudget":
		object = &policyv1.PodDisruptionBudget{}
	case pdb.ScaledObject:
		return pdb.FromScaledObject(o.Value)
	default:
		return nil, nil
	}
	return object, kjson.UnmarshalCaseSensitivePreserveInts(o.Value, object)
}

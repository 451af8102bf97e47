// Package audit says how well workloads are protected now: what each has of
// evenkeel's defaults, what evenkeel would add and what it skips and why, which
// workloads the loss of one node or zone would take down, which drains are blocked
// and by which budget, and what has one replica only.
//
// Run is a pure function of a State, which comes from a cluster (Read) or from
// manifests. What would be added is asked of the very Injector and pdb.Desired that
// admission and the budget controller use. Scan is the same question asked of a
// cluster again and again by a running evenkeel, with little memory. Nothing here
// ever changes an object, except that Scan writes Events.
package audit

import (
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	kjson "sigs.k8s.io/json"

	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/pdb"
	"github.com/evenkeel/evenkeel/policy"
	"github.com/evenkeel/evenkeel/withdraw"
)

// Rules are what an audit goes by.
type Rules struct {
	Injector *patches.Injector
	Budgets  pdb.Rules
	Flags    Flags
	// Selector leaves workloads by other labels out of the report, nil none.
	Selector labels.Selector
}

// NewRules returns what an audit by a configuration goes by.
func NewRules(config patches.Config) (Rules, error) {
	injector, err := patches.New(config)
	return Rules{Injector: injector, Budgets: pdb.Rules{Base: config.Base, Bounds: config.Bounds}}, err
}

// SourceManifests is what State.Source and Report.Source are where Offline is set.
const SourceManifests = "manifests"

// State is what an audit looks at.
type State struct {
	// Source says where it comes from, for people: a kubeconfig's context, or
	// SourceManifests.
	Source string
	// Offline is set for manifests: then nothing is known of pods and nodes.
	Offline bool
	Cluster patches.Cluster
	// Namespaces are those that are known, by name.
	Namespaces map[string]Namespace
	// Objects are workloads, Pods without a controller among them where Offline is
	// set. ReplicaSets of Deployments count as the Deployment's.
	Objects []Object
	// Pods are all pods of the namespaces that Objects are from.
	Pods []Pod
	// Nodes are all nodes by name, nil where they are not known.
	Nodes map[string]Node
	// Volumes are the nodes that the volumes of claims can be used on, by
	// namespace/name of the claim; nil and missing mean any.
	Volumes     map[string]*corev1.NodeSelector
	Budgets     []policyv1.PodDisruptionBudget
	Autoscalers []autoscalingv2.HorizontalPodAutoscaler
	// Services are those of each Namespace.
	Services patches.ServicesByNamespace
	// Routers are what leads traffic to pods, Services among them.
	Routers []Router
	// Notes are what evenkeel has noticed of workloads.
	Notes map[withdraw.Key]withdraw.Note
	// Warnings say what could not be looked at.
	Warnings []string
	hidden   string // the one of them that is about Routers, or ""
}

// Namespace is what an audit needs to know of a Namespace.
type Namespace struct {
	// OptedIn is set where evenkeel looks after the namespace.
	OptedIn bool
	// Disabled is set where a manifest's Namespace opts out.
	Disabled    bool
	Annotations map[string]string
}

// Node is what an audit needs to know of a Node.
type Node struct {
	// Zone is the label topology.kubernetes.io/zone, "" without it.
	Zone string
	// Labels, Taints and Cordoned say who may be scheduled there.
	Labels   map[string]string
	Taints   []corev1.Taint
	Cordoned bool
}

// Object is a workload as the API server has it or a manifest says it.
type Object struct {
	// Namespace is that of the object, or the one that counts where it names none.
	Namespace string
	// Source is the place of a manifest, as FILE:LINE, or "".
	Source string
	// JSON is the whole object, with apiVersion and kind.
	JSON []byte

	head
}

// head is what is read of a workload beside what the Injector reads.
type head struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name            string                  `json:"name"`
		Namespace       string                  `json:"namespace"`
		GenerateName    string                  `json:"generateName"`
		UID             string                  `json:"uid"`
		Labels          map[string]string       `json:"labels"`
		OwnerReferences []metav1.OwnerReference `json:"ownerReferences"`
	} `json:"metadata"`
	Spec struct {
		Replicas *int32                `json:"replicas"`
		Selector json.RawMessage       `json:"selector"`
		Template templateHead          `json:"template"`
		selector *metav1.LabelSelector // for the kinds where it is one
	} `json:"spec"`
}

type templateHead struct {
	Metadata json.RawMessage `json:"metadata"`
	Spec     json.RawMessage `json:"spec"`
	labels   map[string]string
}

// Pod is what an audit needs to know of a Pod.
type Pod struct {
	Namespace, Name string
	Labels          map[string]string
	// Recorded is set where the pod has evenkeel's record.
	Recorded bool
	// Node is "" for a pod that is not scheduled.
	Node  string
	Phase string
	// Ready is the condition of that name.
	Ready, Terminating bool
	// Owner is the controller, of which only type and name are set; zero without one.
	Owner Owner
	// Gates are the conditions of readinessGates.
	Gates []string
	// JSON is the whole object, with apiVersion and kind.
	JSON []byte
}

// Owner names an object.
type Owner struct{ APIVersion, Kind, Name string }

// serves reports whether the pod counts as a running replica.
func (p *Pod) serves() bool { return p.Ready && !p.Terminating && p.Phase == "Running" }

// NewObject reads a workload of a namespace, or of that which it names where
// namespace is "". The error says what is of the wrong type.
func NewObject(namespace, source string, raw []byte) (Object, error) {
	o := Object{Namespace: namespace, Source: source, JSON: raw}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &o.head); err != nil {
		return o, fmt.Errorf("read workload: %w", err)
	}
	if o.Namespace == "" {
		o.Namespace = o.Metadata.Namespace
	}
	var meta struct {
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	}
	t := &o.Spec.Template
	if len(t.Metadata) > 0 && kjson.UnmarshalCaseSensitivePreserveInts(t.Metadata, &meta) == nil {
		t.labels = meta.Labels
	}
	o.Spec.selector = selector(o.Spec.Selector)
	return o, nil
}

// selector reads a label selector, or nil for the plain map that older kinds have.
func selector(raw json.RawMessage) *metav1.LabelSelector {
	var s metav1.LabelSelector
	if len(raw) == 0 || kjson.UnmarshalCaseSensitivePreserveInts(raw, &s) != nil ||
		len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		return nil
	}
	return &s
}

// NewPod reads a Pod.
func NewPod(raw []byte) (Pod, error) {
	var p struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
		Spec     struct {
			NodeName       string                    `json:"nodeName"`
			ReadinessGates []corev1.PodReadinessGate `json:"readinessGates"`
		} `json:"spec"`
		Status struct {
			Phase      string `json:"phase"`
			Conditions []struct {
				Type   string `json:"type"`
				Status string `json:"status"`
			} `json:"conditions"`
		} `json:"status"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &p); err != nil {
		return Pod{}, fmt.Errorf("read pod: %w", err)
	}
	_, recorded := p.Metadata.Annotations[policy.InjectedAnnotation]
	pod := Pod{Namespace: p.Metadata.Namespace, Name: p.Metadata.Name, Labels: p.Metadata.Labels, Recorded: recorded,
		Node: p.Spec.NodeName, Phase: p.Status.Phase, Terminating: p.Metadata.DeletionTimestamp != nil, JSON: raw}
	for _, c := range p.Status.Conditions {
		pod.Ready = pod.Ready || c.Type == "Ready" && c.Status == "True"
	}
	for _, g := range p.Spec.ReadinessGates {
		pod.Gates = append(pod.Gates, string(g.ConditionType))
	}
	if c := metav1.GetControllerOf(&p.Metadata); c != nil {
		pod.Owner = Owner{c.APIVersion, c.Kind, c.Name}
	}
	return pod, nil
}

// controller returns the controlling owner, or the zero value.
func (o *Object) controller() Owner {
	for _, r := range o.Metadata.OwnerReferences {
		if r.Controller != nil && *r.Controller {
			return Owner{r.APIVersion, r.Kind, r.Name}
		}
	}
	return Owner{}
}

// owner names the object.
func (o *Object) owner() Owner {
	name := o.Metadata.Name
	if name == "" && o.Metadata.GenerateName != "" {
		name = o.Metadata.GenerateName + "*"
	}
	return Owner{o.APIVersion, o.Kind, name}
}

// optedOut reports whether the label on the workload or its pod template opts it
// out.
func (o *Object) optedOut() bool {
	return o.Metadata.Labels[policy.InjectLabel] == policy.Disabled ||
		o.Spec.Template.labels[policy.InjectLabel] == policy.Disabled
}

// reviewed reports whether the webhook is called for the object itself, rather than
// for its pods.
func (o *Object) reviewed() bool {
	return o.APIVersion == "apps/v1" && (o.Kind == "Deployment" || o.Kind == "StatefulSet")
}

// budgeted returns the object as pdb reads it, false for kinds that pdb knows by
// their scale only.
func (o *Object) budgeted() (pdb.Workload, bool) {
	if !o.reviewed() {
		return pdb.Workload{}, false
	}
	var d struct { // the same fields in both kinds
		Metadata metav1.ObjectMeta `json:"metadata"`
		Spec     struct {
			Template struct {
				Metadata metav1.ObjectMeta `json:"metadata"`
			} `json:"template"`
		} `json:"spec"`
	}
	if kjson.UnmarshalCaseSensitivePreserveInts(o.JSON, &d) != nil {
		return pdb.Workload{}, false
	}
	if o.Kind == "Deployment" {
		typed := &appsv1.Deployment{ObjectMeta: d.Metadata}
		typed.Spec.Replicas, typed.Spec.Selector, typed.Spec.Template.ObjectMeta = o.Spec.Replicas, o.Spec.selector,
			d.Spec.Template.Metadata
		return pdb.FromDeployment(typed), true
	}
	typed := &appsv1.StatefulSet{ObjectMeta: d.Metadata}
	typed.Spec.Replicas, typed.Spec.Selector, typed.Spec.Template.ObjectMeta = o.Spec.Replicas, o.Spec.selector,
		d.Spec.Template.Metadata
	return pdb.FromStatefulSet(typed), true
}

// podOf returns the Pod that the controller of a pod template makes of it, as the
// webhook sees it.
func (o *Object) podOf() []byte {
	meta := map[string]json.RawMessage{}
	if len(o.Spec.Template.Metadata) > 0 {
		_ = kjson.UnmarshalCaseSensitivePreserveInts(o.Spec.Template.Metadata, &meta) // what is no object has no labels
	}
	controller := true
	put := func(key string, value any) { meta[key], _ = json.Marshal(value) } // of plain types
	put("generateName", o.Metadata.Name+"-")
	put("namespace", o.Namespace)
	put("ownerReferences",
		[]metav1.OwnerReference{{APIVersion: o.APIVersion, Kind: o.Kind, Name: o.Metadata.Name, Controller: &controller}})
	spec := o.Spec.Template.Spec
	if len(spec) == 0 {
		spec = json.RawMessage("null")
	}
	raw, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
	if err != nil {
		return o.JSON // decided as unreadable
	}
	return raw
}

package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	policyv1 "k8s.io/api/policy/v1"
	kjson "sigs.k8s.io/json"

	"github.com/evenkeel/evenkeel/manifest"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/pdb"
	"github.com/evenkeel/evenkeel/policy"
)

// ManifestScope says what manifests are for.
type ManifestScope struct {
	Cluster patches.Cluster
	// Namespace is that of objects that name none.
	Namespace string
	Injector  *patches.Injector
}

// Manifests returns what an audit looks at in manifests. The error joins a manifest.Remark for every
// object that can't be used. It returns early when ctx ends.
func Manifests(ctx context.Context, files []*manifest.File, scope ManifestScope) (*State, error) {
	s := &State{Source: SourceManifests, Offline: true, Cluster: scope.Cluster, Namespaces: map[string]Namespace{},
		Services: patches.ServicesByNamespace{}}
	var failures []error
	for _, f := range files {
		for _, o := range f.Objects() {
			if ctx.Err() != nil {
				return nil, fmt.Errorf("look at manifests: %w", ctx.Err())
			}
			for _, doubt := range o.Doubts() {
				s.Warnings = append(s.Warnings, doubt.Error())
			}
			if err := s.addManifest(o, scope); err != nil {
				failures = append(failures, err)
			}
		}
	}
	s.fold()
	return s, errors.Join(failures...)
}

// addManifest adds one object of a manifest.
func (s *State) addManifest(o *manifest.Object, scope ManifestScope) error {
	namespace := cmp.Or(o.Metadata.Namespace, scope.Namespace)
	read := func(into any) error {
		if err := kjson.UnmarshalCaseSensitivePreserveInts(o.Value, into); err != nil {
			return o.Remark(o.Line(), err)
		}
		return nil
	}
	switch o.APIVersion + " " + o.Kind {
	case "policy/v1 PodDisruptionBudget":
		var b policyv1.PodDisruptionBudget
		if err := read(&b); err != nil {
			return err
		}
		b.Namespace = namespace
		s.Budgets = append(s.Budgets, b)
		return nil
	case "autoscaling/v2 HorizontalPodAutoscaler", "autoscaling/v1 HorizontalPodAutoscaler":
		var h autoscalingv2.HorizontalPodAutoscaler // scaleTargetRef and minReplicas are the same in both
		if err := read(&h); err != nil {
			return err
		}
		h.Namespace = namespace
		s.Autoscalers = append(s.Autoscalers, h)
		return nil
	case pdb.ScaledObject:
		h, err := pdb.FromScaledObject(o.Value)
		if err != nil {
			return o.Remark(o.Line(), err)
		}
		h.Namespace = namespace
		s.Autoscalers = append(s.Autoscalers, *h)
		return nil
	case "v1 Service":
		_ = s.Services.Add(o.Value, scope.Namespace) // what can't be read is no evidence
		s.addRouter(o.Value, scope.Namespace)
	case "v1 Namespace":
		label := o.Labels()[policy.InjectLabel]
		s.Namespaces[o.Metadata.Name] = Namespace{OptedIn: label == policy.Enabled, Disabled: label == policy.Disabled,
			Annotations: o.Annotations()}
		s.doubt(o.Metadata.Name, o.Labels())
	default:
		if isRouter(o.APIVersion, o.Kind) {
			s.addRouter(o.Value, scope.Namespace)
		}
	}
	if !o.HasPods() {
		return nil
	}
	if err := o.Check(); err != nil {
		return err
	}
	result := scope.Injector.Review(
		patches.Request{Operation: patches.Create, Object: o.Value, Cluster: scope.Cluster, Offline: true})
	switch {
	case result.Err != nil:
		return o.Remark(o.Line(), result.Err)
	case result.Decisions[0].Skip == patches.SkipKind:
		return nil
	}
	workload, err := NewObject(namespace, o.Place(), o.Value)
	if err != nil {
		return o.Remark(o.Line(), err)
	}
	s.Objects = append(s.Objects, workload)
	return nil
}

// fold drops the Pods and ReplicaSets whose controller is among the objects, as in a dump of a
// namespace, and all but one of the Pods of any other controller: they have one template.
func (s *State) fold() {
	there := map[place]bool{}
	for i := range s.Objects {
		there[place{s.Objects[i].Namespace, s.Objects[i].owner()}] = true
	}
	s.Objects = slices.DeleteFunc(s.Objects, func(o Object) bool {
		above := o.controller()
		if above.Kind == "" || o.Kind != "Pod" && o.Kind != "ReplicaSet" {
			return false
		}
		for _, owner := range [...]Owner{above, deploymentOf(above, o.Metadata.Labels)} {
			at := place{o.Namespace, owner}
			if there[at] {
				return true
			}
		}
		there[place{o.Namespace, above}] = o.Kind == "Pod"
		return false
	})
}

// deploymentOf returns the Deployment of a ReplicaSet, which is named after it and the hash of the
// template, given the labels of one of its pods; the zero value for any other owner.
func deploymentOf(owner Owner, labels map[string]string) Owner {
	name, ok := strings.CutSuffix(owner.Name, "-"+labels["pod-template-hash"])
	if !ok || owner.Kind != "ReplicaSet" || labels["pod-template-hash"] == "" {
		return Owner{}
	}
	return Owner{owner.APIVersion, "Deployment", name}
}

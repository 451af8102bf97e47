package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	policyv1 "k8s.io/api/policy/v1"
	kjson "sigs.k8s.io/json"

	"github.com/evenkeel/evenkeel/manifest"
	"github.com/evenkeel/evenkeel/patches"
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
	s := &State{Source: SourceManifests, Offline: true, Cluster: scope.Cluster, Namespaces: map[string]Namespace{}}
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
	case "v1 Namespace":
		label := o.Labels()[policy.InjectLabel]
		s.Namespaces[o.Metadata.Name] = Namespace{OptedIn: label == policy.Enabled, Disabled: label == policy.Disabled,
			Annotations: o.Annotations()}
	}
	if !o.HasPods() {
		return nil
	}
	if err := o.Check(); err != nil {
		return err
	}
	result := scope.Injector.Review(patches.Request{Operation: patches.Create, Object: o.Value, Cluster: scope.Cluster, Offline: true})
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

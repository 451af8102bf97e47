package pdb

import (
	"cmp"
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"
)

// ScaledObject is the kind by which KEDA scales a workload, as APIVERSION KIND. In a cluster KEDA makes
// a HorizontalPodAutoscaler of it; among manifests it stands alone.
const ScaledObject = "keda.sh/v1alpha1 ScaledObject"

// FromScaledObject returns the HorizontalPodAutoscaler that says how low a raw ScaledObject scales:
// idleReplicaCount where it is set, else minReplicaCount, which is 0 by default
// (https://keda.sh/docs/latest/reference/scaledobject-spec/). The error says what can't be read.
func FromScaledObject(raw []byte) (*autoscalingv2.HorizontalPodAutoscaler, error) {
	var o struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
		Spec     struct {
			ScaleTargetRef   autoscalingv2.CrossVersionObjectReference `json:"scaleTargetRef"`
			MinReplicaCount  *int32                                    `json:"minReplicaCount"`
			IdleReplicaCount *int32                                    `json:"idleReplicaCount"`
		} `json:"spec"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &o); err != nil {
		return nil, fmt.Errorf("read ScaledObject: %w", err)
	}
	least := *cmp.Or(o.Spec.IdleReplicaCount, o.Spec.MinReplicaCount, new(int32))
	target := o.Spec.ScaleTargetRef
	target.APIVersion, target.Kind = cmp.Or(target.APIVersion, "apps/v1"), cmp.Or(target.Kind, "Deployment")
	return &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: o.Metadata,
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{ScaleTargetRef: target, MinReplicas: &least}}, nil
}

package pdb

import (
	"strings"
	"testing"
)

func TestFromScaledObject(t *testing.T) {
	const object = `{"metadata":{"name":"worker","namespace":"shop"},"spec":{"scaleTargetRef":{"name":"worker"}COUNTS}}`
	for counts, want := range map[string]int32{
		"": 0, `,"minReplicaCount":0`: 0, `,"minReplicaCount":3`: 3, `,"minReplicaCount":null`: 0,
		`,"minReplicaCount":3,"idleReplicaCount":0`: 0,
	} {
		h, err := FromScaledObject([]byte(strings.Replace(object, "COUNTS", counts, 1)))
		if err != nil {
			t.Fatal(err)
		}
		got, wanted := FromAutoscaler(h),
			Autoscaler{APIVersion: "apps/v1", Kind: "Deployment", Name: "worker", MinReplicas: want}
		if got != wanted || h.Namespace != "shop" {
			t.Errorf("%s: %+v in namespace %q, want %+v in shop", counts, got, h.Namespace, wanted)
		}
	}
	h, err := FromScaledObject(
		[]byte(`{"spec":{"scaleTargetRef":{"apiVersion":"apps/v1","kind":"StatefulSet","name":"db"},` +
			`"minReplicaCount":2}}`))
	if err != nil ||
		FromAutoscaler(h) != (Autoscaler{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db", MinReplicas: 2}) {
		t.Errorf("of a StatefulSet: %+v, %v", h, err)
	}
	if _, err := FromScaledObject([]byte(`{"spec":{"minReplicaCount":"two"}}`)); err == nil {
		t.Error("a count that is no number is read")
	}
}

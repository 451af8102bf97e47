package pdb

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPodsOfOneReplicaSetShareWhatIsStored(t *testing.T) {
	yes := true
	pod := func(name, app string) *metav1.PartialObjectMetadata {
		return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": app, "empty": "", "a/b": "c"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-1", UID: "1", Controller: &yes}}}}
	}
	first := trimPod(pod("a", "web"))
	if trimPod(pod("b", "web")) != first || trimPod(pod("b", "api")) == first {
		t.Error("not shared, or shared with others")
	}
	if diff := cmp.Diff(pod("a", "web").Labels, decode(first.Value().labels)); diff != "" {
		t.Error(diff)
	}
	if want := (reference{"apps/v1", "ReplicaSet", "web-1", "1"}); first.Value().controller != want {
		t.Errorf("controller %v", first.Value().controller)
	}
}

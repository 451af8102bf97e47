package check

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/evenkeel/evenkeel/patches"
)

// TestTheOldestKubeletIsOneThatRunsPods passes over a virtual kubelet, which says whatever version
// it likes, as the webhook does.
func TestTheOldestKubeletIsOneThatRunsPods(t *testing.T) {
	node := func(name, version string, labels map[string]string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
		n.Status.NodeInfo.KubeletVersion = version
		return n
	}
	client := fake.NewClientset(node("a", "v1.35.1", nil), node("b", "v1.33.4", nil), node("new", "", nil),
		node("elsewhere", "v1.19.0", map[string]string{"type": "virtual-kubelet"}))
	state := Read(t.Context(), client, Scope{Before: true, Now: time.Now()})
	want := patches.Version{Major: 1, Minor: 33}
	if state.OldestKubelet.Err != nil || state.OldestKubelet.Value != want {
		t.Errorf("the oldest kubelet is %v (%v), want %v", state.OldestKubelet.Value, state.OldestKubelet.Err, want)
	}
}

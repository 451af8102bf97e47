package check

import (
	"slices"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
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

// TestLateAreThoseThatSeeNewPodsAfterEvenkeel has configurations before and behind evenkeel's last one.
func TestLateAreThoseThatSeeNewPodsAfterEvenkeel(t *testing.T) {
	configuration := func(name, resource string, operation admissionregistrationv1.OperationType,
		labels map[string]string) *admissionregistrationv1.MutatingWebhookConfiguration {
		return &admissionregistrationv1.MutatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
			Webhooks: []admissionregistrationv1.MutatingWebhook{{Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{operation},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{"", "apps"}, Resources: []string{"x", resource}}}}}}}
	}
	client := fake.NewClientset(configuration("mesh", "pods", "CREATE", nil),
		configuration("zzzz", "pods", "CREATE", nil), configuration("zzzz-all", "*", "*", nil),
		configuration("zzzz-deployments", "deployments", "CREATE", nil), configuration("zzzz-updates", "pods", "UPDATE", nil),
		configuration("zzzz-ours", "pods", "*", map[string]string{"app.kubernetes.io/name": "evenkeel"}))
	state := Read(t.Context(), client, Scope{Before: true, Now: time.Now()})
	if want := []string{"zzzz", "zzzz-all"}; !slices.Equal(state.Late, want) || len(state.Configurations.Value) != 1 {
		t.Errorf("late are %q, want %q; %d are evenkeel's", state.Late, want, len(state.Configurations.Value))
	}
}

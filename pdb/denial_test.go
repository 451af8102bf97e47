package pdb

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func quota(hard, used string, scopes ...corev1.ResourceQuotaScope) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "quota-" + hard},
		Spec: corev1.ResourceQuotaSpec{
			Hard: corev1.ResourceList{quotaResource: resource.MustParse(hard)}, Scopes: scopes},
		Status: corev1.ResourceQuotaStatus{Used: corev1.ResourceList{quotaResource: resource.MustParse(used)}}}
}

func TestRoomIsWhatTheNarrowestQuotaLeaves(t *testing.T) {
	pods := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "pods"},
		Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")}}}
	cases := map[string]struct {
		quotas  []*corev1.ResourceQuota
		budgets int
		want    int // -1 for any number
	}{
		"no quota":                  {nil, 3, -1},
		"a quota of something else": {[]*corev1.ResourceQuota{pods}, 3, -1},
		"a quota with scopes counts no budget": {
			[]*corev1.ResourceQuota{quota("0", "0", corev1.ResourceQuotaScopeTerminating)}, 3, -1},
		"a quota of none":             {[]*corev1.ResourceQuota{quota("0", "0")}, 0, 0},
		"what the quota counts":       {[]*corev1.ResourceQuota{quota("5", "3")}, 1, 2},
		"what it has not counted yet": {[]*corev1.ResourceQuota{quota("5", "1")}, 3, 2},
		"more than it admits":         {[]*corev1.ResourceQuota{quota("2", "5")}, 5, 0},
		"the narrowest of two":        {[]*corev1.ResourceQuota{quota("9", "1"), quota("4", "1"), pods}, 1, 3},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			tm := unstarted(t)
			for _, q := range c.quotas {
				kept, err := trim[*corev1.ResourceQuota](trimQuota)(q)
				if err != nil {
					t.Fatal(err)
				}
				if err := tm.quotas.GetIndexer().Add(kept); err != nil {
					t.Fatal(err)
				}
			}
			got, err := tm.room("shop", c.budgets)
			if err != nil || (got == nil) != (c.want < 0) || got != nil && *got != c.want {
				t.Errorf("got %v (%v), want %d", got, err, c.want)
			}
		})
	}
}

// An API server that refuses every budget is asked again after 10 s, 20 s and so on, and the
// workload's decision says so meanwhile.
func TestWhatTheAPIServerRefusesIsLeftAloneForAWhile(t *testing.T) {
	tm := unstarted(t)
	client := fake.NewClientset()
	tm.client = client
	tried := 0
	client.PrependReactor("patch", "poddisruptionbudgets", func(clienttesting.Action) (bool, runtime.Object, error) {
		tried++
		return true, nil, apierrors.NewForbidden(schema.GroupResource{}, "web-evenkeel", nil)
	})
	now := noon
	tm.config.Now = func() time.Time { return now }
	optedInDeployment(t, tm, "web")
	for ; now.Before(noon.Add(10 * time.Minute)); now = now.Add(100 * time.Millisecond) {
		reconcile(t, tm)
	}
	if tried < 5 || tried > 7 { // after 10, 20, 40, 80, 160 and 320 s
		t.Errorf("%d writes in ten minutes", tried)
	}
	if got := tm.metrics.counts["shop"][SkipRefused]; got != 1 {
		t.Errorf("%v, want one workload whose budget is refused", tm.metrics.counts["shop"])
	}
	client.ReactionChain = client.ReactionChain[1:]
	now = now.Add(maxPause)
	reconcile(t, tm)
	if got := tm.metrics.counts["shop"][Applied]; got != 1 || len(tm.denied) > 0 {
		t.Errorf("%v and %v are left, want a budget and nothing else", tm.metrics.counts["shop"], tm.denied)
	}
}

// optedInDeployment puts a Deployment of two into the caches, in an opted-in namespace.
func optedInDeployment(t *testing.T, tm *term, name string) {
	t.Helper()
	two, labels := int32(2), map[string]string{"app": name}
	kept, err := pack(keepDeployment)(&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec: appsv1.DeploymentSpec{Replicas: &two, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := tm.namespaces.GetIndexer().Add(&stored[namespaceFacts]{name: "shop"}); err != nil {
		t.Fatal(err)
	}
	if err := tm.deployments.GetIndexer().Add(kept); err != nil {
		t.Fatal(err)
	}
}

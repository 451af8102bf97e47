package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	report "github.com/evenkeel/evenkeel/audit"
	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
)

// TestWhatIsLostIsWhatAuditSaid removes one node after another, and then a whole zone at once, with
// their pods. The workloads that then have no ready pod are those that audit said beforehand. All
// other nodes are cordoned meanwhile, so that nothing is put back before it is counted.
func TestWhatIsLostIsWhatAuditSaid(t *testing.T) {
	ns := namespace(t, nil)
	on := func(key, value string) func(*appsv1.Deployment) {
		return func(d *appsv1.Deployment) { d.Spec.Template.Spec.NodeSelector = map[string]string{key: value} }
	}
	packed := func(d *appsv1.Deployment) { // replicas attract one another, as a cluster with one fresh node does
		d.Spec.Template.Spec.Affinity = &corev1.Affinity{
			PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
				{TopologyKey: corev1.LabelHostname, LabelSelector: d.Spec.Selector}}}}
	}
	total := 0
	add := func(d *appsv1.Deployment) {
		total += int(*d.Spec.Replicas)
		create(t, ns, d)
	}
	for i := range 24 {
		add(deployment(fmt.Sprintf("any%d", i), int32(1+i%4)))
	}
	for i := range 12 {
		add(deployment(fmt.Sprintf("packed%d", i), int32(2+i%3), packed))
	}
	for i, zone := range []string{"zone-a", "zone-b", "zone-c"} {
		add(deployment(fmt.Sprintf("zoned%d", i), 3, on(corev1.LabelTopologyZone, zone)))
	}
	all := func() error {
		n := 0
		for _, r := range ready(t, ns) {
			n += r
		}
		if n != total {
			return fmt.Errorf("%d of %d pods are ready", n, total)
		}
		return nil
	}
	check.Eventually(t, "pods", all)

	nodes := nodesByZone(t)
	lost := 0
	for _, zone := range []string{"zone-a", "zone-b", "zone-c"} {
		node := nodes[zone][0]
		said := taken(audit(t, "-n", ns).Nodes, node)
		t.Logf("the loss of %s takes down %d of %d workloads", node, len(said), 39)
		if diff := cmp.Diff(said, down(t, ns, node)); diff != "" {
			t.Errorf("after the loss of %s (-said +down):\n%s", node, diff)
		}
		lost += len(said)
		again(t, zone, 1)
		check.Eventually(t, "pods after the loss of a node", all)
	}
	if lost < 3 {
		t.Errorf("three nodes took %d workloads down, which shows little", lost)
	}
	zone := "zone-b"
	said := taken(audit(t, "-n", ns).Zones, zone)
	t.Logf("the loss of %s takes down %d of %d workloads", zone, len(said), 39)
	if diff := cmp.Diff(said, down(t, ns, nodesByZone(t)[zone]...)); diff != "" {
		t.Errorf("after the loss of %s (-said +down):\n%s", zone, diff)
	}
	if len(said) < 5 {
		t.Errorf("a zone took %d workloads down, which shows little", len(said))
	}
	again(t, zone, 3)
	check.Eventually(t, "pods after the loss of a zone", all)
}

// again replaces lost nodes of a zone, and uncordons all.
func again(t *testing.T, zone string, n int) {
	t.Helper()
	_, err := shared.AddNodes(t.Context(), n, cluster.NodeSpec{Zones: []string{zone}})
	check.Must(t, err)
	cordon(t, false)
}

func nodesByZone(t *testing.T) map[string][]string {
	t.Helper()
	list, err := shared.Client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	check.Must(t, err)
	byZone := map[string][]string{}
	for _, n := range list.Items {
		byZone[n.Labels[corev1.LabelTopologyZone]] = append(byZone[n.Labels[corev1.LabelTopologyZone]], n.Name)
	}
	return byZone
}

func cordon(t *testing.T, on bool) {
	t.Helper()
	for _, nodes := range nodesByZone(t) {
		for _, name := range nodes {
			_, err := shared.Client.CoreV1().Nodes().Patch(t.Context(), name, types.MergePatchType,
				fmt.Appendf(nil, `{"spec":{"unschedulable":%v}}`, on), metav1.PatchOptions{})
			check.Must(t, err)
		}
	}
}

// taken returns the names of the workloads that the report says a node or zone takes down.
func taken(domains []report.Domain, name string) []string {
	names := []string{}
	for _, d := range domains {
		if d.Name == name {
			for _, w := range d.Workloads {
				names = append(names, w[strings.LastIndex(w, "/")+1:])
			}
		}
	}
	slices.Sort(names)
	return names
}

// down removes nodes with their pods, and returns the apps that have no ready pod any more.
func down(t *testing.T, ns string, nodes ...string) []string {
	t.Helper()
	before := ready(t, ns)
	cordon(t, true)
	var none int64
	for _, node := range nodes {
		check.Must(t, shared.Client.CoreV1().Nodes().Delete(t.Context(), node, metav1.DeleteOptions{}))
		pods, err := shared.Client.CoreV1().Pods(ns).List(t.Context(),
			metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
		check.Must(t, err)
		for _, p := range pods.Items { // as the garbage collector of pods does, 40 s later
			err := shared.Client.CoreV1().Pods(ns).Delete(t.Context(), p.Name, metav1.DeleteOptions{GracePeriodSeconds: &none})
			if !apierrors.IsNotFound(err) {
				check.Must(t, err)
			}
		}
	}
	after := ready(t, ns)
	gone := []string{}
	for app := range before {
		if after[app] == 0 {
			gone = append(gone, app)
		}
	}
	slices.Sort(gone)
	return gone
}

// TestEvictionsMeetWhatAuditSaid evicts every pod under every kind of budget, really, and compares
// the answers with what audit said beforehand.
func TestEvictionsMeetWhatAuditSaid(t *testing.T) {
	ns := namespace(t, nil)
	budget := func(name, app string, minAvailable, maxUnavailable string) {
		b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}}
		set := func(text string) *intstr.IntOrString {
			if text == "" {
				return nil
			}
			v := intstr.Parse(text)
			return &v
		}
		b.Spec.MinAvailable, b.Spec.MaxUnavailable = set(minAvailable), set(maxUnavailable)
		_, err := shared.Client.PolicyV1().PodDisruptionBudgets(ns).Create(t.Context(), b, metav1.CreateOptions{})
		check.Must(t, err)
	}
	apps := map[string]report.Code{"free": "", "room": "", "all": report.DrainBlocked, "whole": report.DrainBlocked,
		"none":  report.DrainBlocked,
		"twice": report.BudgetsOverlap, "ailing": report.DrainWaits}
	for app := range apps {
		create(t, ns, deployment(app, 3))
	}
	check.Eventually(t, "pods", func() error {
		counts := ready(t, ns)
		for app := range apps {
			if counts[app] != 3 {
				return fmt.Errorf("%v", counts)
			}
		}
		return nil
	})
	// Now that there are pods: of two budgets over one pod the disruption controller looks at either when the pod changes.
	budget("room", "room", "", "1")
	budget("all", "all", "100%", "")
	budget("whole", "whole", "3", "")
	budget("none", "none", "", "0")
	budget("twice-a", "twice", "", "1")
	budget("twice-b", "twice", "1", "")
	budget("ailing", "ailing", "2", "")
	pods, err := shared.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=ailing"})
	check.Must(t, err)
	_, err = shared.Client.CoreV1().Pods(ns).Patch(t.Context(), pods.Items[0].Name, types.StrategicMergePatchType,
		[]byte(`{"status":{"conditions":[{"type":"Ready","status":"False","reason":"CrashLoopBackOff"}]}}`),
		metav1.PatchOptions{}, "status")
	check.Must(t, err)
	check.Eventually(t, "budgets that have counted their pods", func() error {
		list, err := shared.Client.PolicyV1().PodDisruptionBudgets(ns).List(t.Context(), metav1.ListOptions{})
		check.Must(t, err)
		for _, b := range list.Items {
			want := int32(3)
			if b.Name == "ailing" {
				want = 2
			}
			if b.Status.CurrentHealthy != want || b.Status.ObservedGeneration != b.Generation {
				return fmt.Errorf("%s counts %d", b.Name, b.Status.CurrentHealthy)
			}
		}
		return nil
	})

	r := audit(t, "-n", ns)
	said := map[string]report.Code{}
	for _, d := range r.Drains {
		for _, p := range d.Pods {
			said[p] = d.Code
		}
	}
	for _, w := range r.Workloads {
		if code := apps[w.Name]; code != "" && !has(w, code) {
			t.Errorf("%s lacks the finding %s: %v", w.Name, code, w.Findings)
		}
	}
	pods, err = shared.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
	check.Must(t, err)
	met := map[report.Code]int{}
	evict := func(p *corev1.Pod, dryRun ...string) {
		e := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: p.Name}}
		if len(dryRun) > 0 {
			e.DeleteOptions = &metav1.DeleteOptions{DryRun: dryRun}
		}
		code := report.Code("")
		switch got := status(shared.Client.PolicyV1().Evictions(ns).Evict(context.Background(), e)); got {
		case 201:
		case 429:
			code = said[p.Name] // which of the two, only later evictions could tell
			if code != report.DrainBlocked && code != report.DrainWaits {
				t.Errorf("%s of %s: answered 429, audit said %q", p.Name, p.Labels["app"], code)
			}
		case 500:
			code = report.BudgetsOverlap
		default:
			t.Errorf("%s: answered %d", p.Name, got)
		}
		if code != said[p.Name] {
			t.Errorf("%s of %s: met %q, audit said %q", p.Name, p.Labels["app"], code, said[p.Name])
		}
		met[code]++
	}
	for i := range pods.Items { // what is refused changes nothing
		if said[pods.Items[i].Name] != "" {
			evict(&pods.Items[i])
		}
	}
	for i := range pods.Items {
		if said[pods.Items[i].Name] == "" {
			evict(&pods.Items[i], metav1.DryRunAll)
		}
	}
	for _, app := range []string{"free", "room"} {
		i := slices.IndexFunc(pods.Items, func(p corev1.Pod) bool { return p.Labels["app"] == app })
		evict(&pods.Items[i])
	}
	t.Logf("evictions by what they met: %v", met)
	if met[""] != 3+3+1+2 || met[report.BudgetsOverlap] != 3 || met[report.DrainBlocked] != 9 ||
		met[report.DrainWaits] != 2 {
		t.Errorf("evictions by what they met: %v", met)
	}
}

// status returns the HTTP status of an answer.
func status(err error) int {
	var s apierrors.APIStatus
	switch {
	case err == nil:
		return 201
	case errors.As(err, &s):
		return int(s.Status().Code)
	}
	return -1
}

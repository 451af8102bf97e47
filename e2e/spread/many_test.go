package spread

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

var many = flag.Int("workloads", 100, "how many workloads are marked and scaled in; 1000 take about nine minutes")

const (
	user = "system:serviceaccount:" + installation.Namespace + ":evenkeel"
	// perSecond is how many pods evenkeel may write in a second, as docs/how-to/scale-in.md says.
	perSecond = 20
	// from and to are the replicas of a workload before and after the scale-in. There are three zones.
	from, to = 4, 3
	// pause is longer than evenkeel waits with a change.
	pause = 10 * time.Second
)

// write is one request of evenkeel to change a pod, as the API server has written it down.
type write struct {
	At     metav1.MicroTime `json:"requestReceivedTimestamp"`
	Object struct {
		Namespace, Name string
	} `json:"objectRef"`
	Status struct{ Code int } `json:"responseStatus"`
}

// crowd is a cluster with many workloads, whose API server writes down each change of a pod by evenkeel.
type crowd struct {
	world
	audit string
	// foreign are the workloads of which one pod has a cost of somebody else, with that pod.
	foreign map[string]string
}

// TestManyWorkloadsKeepTheirZones turns the marks on in a cluster that is full of workloads, and
// then scales all of them in: one half by kubectl scale, the other by autoscalers.
func TestManyWorkloadsKeepTheirZones(t *testing.T) {
	if os.Getenv("KUBECONFIG") != "" {
		t.Skip("KUBECONFIG names an existing cluster, whose API server does not write down who asks for what")
	}
	c := startCrowd(t)
	marked := *many - len(c.foreign)
	want := marked * 3 // a pod of each zone

	begin := time.Now()
	evenkeel, err := installation.Install(t.Context(), c.Cluster,
		installation.Options{Deploy: "deploy/scale-in", Flags: []string{"--scale-in=keep-zones"}})
	check.Must(t, err)
	c.evenkeel = evenkeel
	t.Cleanup(evenkeel.Stop)
	c.within(time.Minute+time.Duration(want/perSecond*2)*time.Second, "a pod of each zone is marked", func() error {
		if n := len(c.writes()); n < want {
			return fmt.Errorf("%d of %d writes", n, want)
		}
		return nil
	})
	writes := c.writes()
	most := busiest(writes)
	first, last := writes[0].At.Time, writes[len(writes)-1].At.Time
	t.Logf("%d workloads: %d pods written in %.0f s, at most %d in a second, all %.0f s after the installation began",
		*many, len(writes), last.Sub(first).Seconds(), most, last.Sub(begin).Seconds())
	if most > perSecond*5/4 { // what leaves at equal distances arrives closer together on a busy machine
		t.Errorf("%d writes in one second, want %d at most", most, perSecond)
	}
	c.unchanged(want, "the pods are marked", func() { time.Sleep(pause) })
	c.unchanged(want, "a pod of each workload changed in something else", c.touch)
	c.unchanged(want, "another replica leads", func() {
		evenkeel.Stop()
		check.Must(t, evenkeel.Start(t.Context()))
		c.within(time.Minute, "it leads", func() error {
			if n, err := evenkeel.Metric(t.Context(), "evenkeel_budget_leader"); err != nil || n != 1 {
				return fmt.Errorf("evenkeel_budget_leader is %v: %w", n, err)
			}
			return nil
		})
		time.Sleep(pause)
	})
	begin = time.Now()
	c.unchanged(want, "all are scaled in", c.scaleIn)
	t.Logf("scaled in from %d to %d replicas in %.0f s", from, to, time.Since(begin).Seconds())
	c.verify()
}

// startCrowd makes the cluster and the workloads, before there is an evenkeel, and gives one pod of
// every twentieth workload a cost.
func startCrowd(t *testing.T) *crowd {
	t.Helper()
	dir := t.TempDir()
	policy := filepath.Join(dir, "policy.yaml")
	c := &crowd{world: world{T: t, namespace: "shop"}, audit: filepath.Join(dir, "audit.log"),
		foreign: map[string]string{}}
	check.Must(t, os.WriteFile(policy, []byte(`{"apiVersion":"audit.k8s.io/v1","kind":"Policy",`+
		`"omitStages":["RequestReceived"],"rules":[{"level":"Metadata","users":["`+user+`"],`+
		`"verbs":["create","update","patch","delete"],"resources":[{"group":"","resources":["pods"]}]}]}`), 0o600))
	var err error
	// The controller manager makes thousands of pods, which is not what is tested, and then has its defaults.
	c.Cluster, err = cluster.Start(t.Context(), cluster.Config{Log: os.Stderr, Flags: map[string][]string{
		cluster.ControllerManager: cluster.FastControllers(),
		cluster.APIServer:         {"--audit-policy-file=" + policy, "--audit-log-path=" + c.audit}}})
	check.Must(t, err)
	t.Cleanup(func() { check.Must(t, c.Stop()) })
	c.nodes, err = c.AddNodes(t.Context(), 6+*many*from/100, cluster.NodeSpec{})
	check.Must(t, err)
	c.makeNamespace(c.namespace, map[string]string{"evenkeel.dev/inject": "enabled"})
	for i := range *many {
		c.create(fmt.Sprintf("w-%d", i), from)
	}
	c.within(time.Minute+time.Duration(*many)*time.Second/2, "all pods are ready", func() error {
		return c.ready(*many * from)
	})
	for _, p := range c.pods() {
		app := p.Labels["app"]
		var n int
		if _, err := fmt.Sscanf(app, "w-%d", &n); err != nil || n%20 != 7 || c.foreign[app] != "" {
			continue
		}
		c.annotate(p.Name, costOf, "7")
		c.foreign[app] = p.Name
	}
	check.Must(t, c.RestartControllerManager())
	return c
}

// within waits for something, and looks once a second, since a look lists thousands of pods.
func (c *crowd) within(limit time.Duration, what string, try func() error) {
	c.Helper()
	for begin := time.Now(); ; time.Sleep(time.Second) {
		err := try()
		if err == nil {
			return
		}
		if time.Since(begin) > limit {
			c.Fatalf("not after %v: %s: %v", limit, what, err)
		}
	}
}

// pods returns the pods of all workloads.
func (c *crowd) pods() []corev1.Pod {
	c.Helper()
	list, err := c.Client.CoreV1().Pods(c.namespace).List(c.Context(), metav1.ListOptions{ResourceVersion: "0"})
	check.Must(c, err)
	return list.Items
}

// ready returns an error unless there are so many pods, and all are ready.
func (c *crowd) ready(want int) error {
	ready, pods := 0, c.pods()
	for i := range pods {
		if check.Ready(&pods[i]) {
			ready++
		}
	}
	if ready != want || len(pods) != want {
		return fmt.Errorf("%d of %d pods are ready, want %d", ready, len(pods), want)
	}
	return nil
}

func (c *crowd) annotate(pod, key, value string) {
	c.Helper()
	_, err := c.Client.CoreV1().Pods(c.namespace).Patch(c.Context(), pod, types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"`+key+`":"`+value+`"}}}`), metav1.PatchOptions{})
	check.Must(c, err)
}

// writes returns evenkeel's changes of pods, in their order.
func (c *crowd) writes() []write {
	c.Helper()
	content, err := os.ReadFile(c.audit)
	if err != nil && !os.IsNotExist(err) {
		c.Fatal(err)
	}
	var all []write
	for line := range strings.Lines(string(content)) {
		var w write
		if strings.HasSuffix(line, "\n") { // or it is being written
			check.Must(c, json.Unmarshal([]byte(line), &w))
			all = append(all, w)
		}
	}
	slices.SortFunc(all, func(a, b write) int { return a.At.Compare(b.At.Time) })
	return all
}

// busiest returns the most writes that any second has.
func busiest(writes []write) (most int) {
	first := 0
	for i := range writes {
		for writes[i].At.Sub(writes[first].At.Time) >= time.Second {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// unchanged does something that changes no set of marked pods, and expects no further write.
func (c *crowd) unchanged(want int, when string, do func()) {
	c.Helper()
	do()
	if n := len(c.writes()); n != want {
		c.Errorf("%d pods written when %s, want %d", n, when, want)
	}
}

// touch changes an annotation of a pod of each workload.
func (c *crowd) touch() {
	c.Helper()
	seen := map[string]bool{}
	for _, p := range c.pods() {
		if app := p.Labels["app"]; !seen[app] {
			seen[app] = true
			c.annotate(p.Name, "touched", "yes")
		}
	}
	time.Sleep(pause)
}

// byHand reports which half a workload is in.
func byHand(app string) bool { return strings.ContainsAny(app[len(app)-1:], "02468") }

// scaleIn scales the even workloads in by kubectl scale, and the odd ones by autoscalers.
func (c *crowd) scaleIn() {
	c.Helper()
	args := []string{"scale", "-n", c.namespace, fmt.Sprintf("--replicas=%d", to)}
	one := int32(1) // what is above the most comes down without a metric
	for i := range *many {
		app := fmt.Sprintf("w-%d", i)
		if byHand(app) {
			args = append(args, "deployment/"+app)
			continue
		}
		_, err := c.Client.AutoscalingV2().HorizontalPodAutoscalers(c.namespace).Create(c.Context(),
			&autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: app},
				Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MinReplicas: &one, MaxReplicas: to,
					ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{
						APIVersion: "apps/v1", Kind: "Deployment", Name: app}}}, metav1.CreateOptions{})
		check.Must(c, err)
	}
	_, err := cluster.Run(c.KubectlCommand(context.WithoutCancel(c.Context()), args...))
	check.Must(c, err)
	c.within(2*time.Minute+time.Duration(*many)*time.Second, "all are scaled in", func() error {
		return c.ready(*many * to)
	})
}

// verify looks at where the pods are that are left, and at the costs of somebody else.
func (c *crowd) verify() {
	c.Helper()
	nodes, err := c.Client.CoreV1().Nodes().List(c.Context(), metav1.ListOptions{})
	check.Must(c, err)
	zone := map[string]string{}
	for _, n := range nodes.Items {
		zone[n.Name] = n.Labels[corev1.LabelTopologyZone]
	}
	zones := map[string]map[string]bool{}
	for _, p := range c.pods() {
		app := p.Labels["app"]
		if zones[app] == nil {
			zones[app] = map[string]bool{}
		}
		zones[app][zone[p.Spec.NodeName]] = true
		if foreign := c.foreign[app]; foreign != "" {
			if cost, want := p.Annotations[costOf], map[bool]string{true: "7"}[p.Name == foreign]; cost != want {
				c.Errorf("pod %s of a workload with a cost of somebody else costs %q, want %q", p.Name, cost, want)
			}
		}
	}
	lost := map[bool]int{}
	for app, in := range zones {
		if c.foreign[app] == "" && len(in) != to {
			lost[byHand(app)]++
		}
	}
	if lost[true] > 0 || lost[false] > 0 {
		c.Errorf("a zone is lost by %d workloads that kubectl scale scaled in, and by %d that an autoscaler did",
			lost[true], lost[false])
	}
	for _, w := range c.writes() {
		for app := range c.foreign {
			if strings.HasPrefix(w.Object.Name, app+"-") {
				c.Errorf("evenkeel wrote to pod %s, of whose workload another pod has a cost of somebody else", w.Object.Name)
			}
		}
		if w.Status.Code != 200 {
			c.Errorf("a write to pod %s got %d", w.Object.Name, w.Status.Code)
		}
	}
}

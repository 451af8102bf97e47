package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sync/errgroup"
	applier "gopkg.in/evanphx/json-patch.v4"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/patches"
)

// The means of spreading that the scheduler's cost is measured with.
const (
	spreadNothing  = "nothing"
	spreadAffinity = "anti-affinity"
	spreadTopology = "topology-spread"
)

// schedule says which clusters to measure the scheduler in.
type schedule struct {
	nodes, podsPerNode  int
	rounds, replicaSets int // new ReplicaSets of three pods for each arm and round
}

// defaultSchedules are measured unless others are asked for. With 5000x30 the three arms take 22 GiB of memory.
const defaultSchedules = "100x10,100x30,1000x10,1000x30,5000x10"

func joined(all []schedule) string {
	var texts []string
	for _, s := range all {
		texts = append(texts, s.String())
	}
	return strings.Join(texts, ",")
}

func (s schedule) String() string { return fmt.Sprintf("%dx%d", s.nodes, s.podsPerNode) }

// parseSchedules reads NODESxPODS,….
func parseSchedules(text string) (all []schedule, err error) {
	for _, one := range strings.Split(text, ",") {
		nodes, pods, _ := strings.Cut(one, "x")
		s := schedule{rounds: 5, replicaSets: 100}
		if s.nodes, err = strconv.Atoi(nodes); err == nil {
			s.podsPerNode, err = strconv.Atoi(pods)
		}
		if err != nil || s.nodes < 3 || s.nodes > 5000 || s.podsPerNode < 1 || s.podsPerNode > 100 {
			return nil, fmt.Errorf("%q: allowed is NODESxPODS with 3 to 5000 nodes and 1 to 100 pods on each", one)
		}
		all = append(all, s)
	}
	return all, nil
}

// arm is a control plane all of whose pods were made alike.
type arm struct {
	name     string
	control  *cluster.Cluster
	pods     kubernetes.Interface
	metrics  string // address of the scheduler's
	template *corev1.PodTemplateSpec

	rate           []float64 // pods per second, by round
	cpu, mean, p99 []float64 // milliseconds for a pod, by round
}

// scheduled is what a scheduler has done so far.
type scheduled struct {
	cpu, sum float64             // seconds of CPU time, and of the algorithm
	buckets  map[float64]float64 // how often the algorithm took at most so many seconds
}

// measureScheduling measures the scheduler with nothing, with evenkeel's terms, and with evenkeel's constraints. Each
// arm is a control plane of its own, since the pods that run already cost as well, and arms take turns.
func measureScheduling(ctx context.Context, log io.Writer, s schedule) (_ []*arm, err error) {
	var arms []*arm
	defer func() {
		for _, a := range arms {
			err = errors.Join(err, a.control.Stop())
		}
	}()
	for _, name := range []string{spreadNothing, spreadAffinity, spreadTopology} {
		a, err := startArm(ctx, log, name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		arms = append(arms, a)
		if err := a.fill(ctx, s); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	for round := range s.rounds + 1 {
		for i := range arms {
			a := arms[(i+round)%len(arms)]
			if err := a.round(ctx, s, round); err != nil {
				return nil, fmt.Errorf("%s: %w", a.name, err)
			}
		}
	}
	for _, a := range arms { // the first round warms up
		a.rate, a.cpu, a.mean, a.p99 = a.rate[1:], a.cpu[1:], a.mean[1:], a.p99[1:]
	}
	return arms, nil
}

// startArm starts a control plane with a scheduler, whose metrics may be read.
func startArm(ctx context.Context, log io.Writer, name string) (*arm, error) {
	template, err := spreadTemplate(name)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := listener.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	if err := listener.Close(); err != nil {
		return nil, err
	}
	control, err := cluster.Start(ctx, cluster.Config{Log: log, Components: []string{cluster.Scheduler},
		Flags: map[string][]string{
			// Nobody takes the taint of a new node away.
			cluster.APIServer: {"--disable-admission-plugins=TaintNodesByCondition,ServiceAccount"},
			cluster.Scheduler: {"--secure-port=" + port, "--authorization-always-allow-paths=/metrics"}}})
	if err != nil {
		return nil, err
	}
	config := control.RESTConfig()
	config.QPS, config.ContentType = -1, "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, errors.Join(err, control.Stop())
	}
	return &arm{name: name, control: control, pods: client, metrics: "https://" + address + "/metrics",
		template: template}, nil
}

// spreadTemplate returns the template of a Deployment as evenkeel makes it with a means of spreading.
func spreadTemplate(name string) (*corev1.PodTemplateSpec, error) {
	var deployment appsv1.Deployment
	object := (workload{kind: "Deployment", bytes: 2000, containers: 1}).object("1.0")
	if name != spreadNothing {
		var err error
		if object, err = injected(object, map[string]string{"spread": name}); err != nil {
			return nil, err
		}
	}
	if err := json.Unmarshal(object, &deployment); err != nil {
		return nil, err
	}
	template := &deployment.Spec.Template
	for i := range template.Spec.Containers {
		template.Spec.Containers[i].Resources = corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m")}}
	}
	template.Spec.ServiceAccountName, template.Spec.DeprecatedServiceAccount = "", ""
	terms := template.Spec.Affinity != nil
	if constraints := len(template.Spec.TopologySpreadConstraints) > 0; terms != (name == spreadAffinity) ||
		constraints != (name == spreadTopology) {
		return nil, fmt.Errorf("the template has terms: %v, constraints: %v", terms, constraints)
	}
	return template, nil
}

// injected returns an object as evenkeel makes it with settings.
func injected(object []byte, settings map[string]string) ([]byte, error) {
	config := patches.DefaultConfig()
	for key, value := range settings {
		if err := config.Base.Set(key, value, config.Bounds); err != nil {
			return nil, err
		}
	}
	injector, err := patches.New(config)
	if err != nil {
		return nil, err
	}
	result := injector.Review(patches.Request{Operation: patches.Create, Object: object,
		Cluster: patches.Cluster{APIServer: patches.Version{Major: 1, Minor: 36}}})
	patch, err := applier.DecodePatch(result.Patch)
	if err != nil {
		return nil, err
	}
	return patch.Apply(object)
}

// each calls create for 0 to n-1, several at a time.
func each(ctx context.Context, n int, create func(context.Context, int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i := range n {
		group.Go(func() error { return create(ctx, i) })
	}
	return group.Wait()
}

// fill makes nodes in three zones and, bound to them, pods of ReplicaSets of three that are spread already.
func (a *arm) fill(ctx context.Context, s schedule) error {
	capacity := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("8"),
		corev1.ResourceMemory: resource.MustParse("32Gi"), corev1.ResourcePods: resource.MustParse("110")}
	err := each(ctx, s.nodes, func(ctx context.Context, i int) error {
		name := nodeName(i)
		_, err := a.pods.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name,
			Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprint("zone-", i%3)}},
			Status: corev1.NodeStatus{Capacity: capacity, Allocatable: capacity}}, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("create nodes: %w", err)
	}
	err = each(ctx, s.nodes*s.podsPerNode, func(ctx context.Context, i int) error {
		pod := a.pod(fmt.Sprint("old-", i/3), "", types.UID(fmt.Sprint("old-", i/3)))
		pod.Spec.NodeName = nodeName(i % s.nodes)
		return a.create(ctx, pod)
	})
	if err != nil {
		return fmt.Errorf("create pods: %w", err)
	}
	return nil
}

func nodeName(i int) string { return fmt.Sprint("node-", i) }

// roundLabel tells the new pods from those that fill the cluster.
const roundLabel = "round"

// pod returns a pod of a ReplicaSet of a Deployment.
func (a *arm) pod(app, round string, owner types.UID) *corev1.Pod {
	controller := true
	pod := &corev1.Pod{ObjectMeta: *a.template.ObjectMeta.DeepCopy(), Spec: *a.template.Spec.DeepCopy()}
	pod.GenerateName = app + "-7d4b9c-"
	pod.Labels = maps.Clone(pod.Labels)
	if round != "" {
		pod.Labels[roundLabel] = round
	}
	pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = "7d4b9c"
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: app + "-7d4b9c",
		UID: owner, Controller: &controller}}
	own(pod, app)
	return pod
}

// own has a pod's labels and selectors be those of its own workload.
func own(pod *corev1.Pod, app string) {
	labels := selected(app)
	maps.Copy(pod.Labels, labels)
	set := func(s *metav1.LabelSelector) { maps.Copy(s.MatchLabels, labels) }
	if pod.Spec.Affinity != nil {
		for _, term := range pod.Spec.Affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
			set(term.PodAffinityTerm.LabelSelector)
		}
	}
	for _, constraint := range pod.Spec.TopologySpreadConstraints {
		set(constraint.LabelSelector)
	}
}

// selected returns what a workload selects its pods by: as many labels as the Deployment of spreadTemplate does, each
// with a value that no other workload has.
func selected(app string) map[string]string {
	return map[string]string{"app.kubernetes.io/instance": app, "app.kubernetes.io/name": app}
}

func (a *arm) create(ctx context.Context, pod *corev1.Pod) error {
	_, err := a.pods.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, pod, metav1.CreateOptions{})
	return err
}

// round creates ReplicaSets and their pods, waits until all are scheduled, and deletes them.
func (a *arm) round(ctx context.Context, s schedule, round int) error {
	label := fmt.Sprint(round)
	sets := make([]types.UID, s.replicaSets)
	app := func(i int) string { return fmt.Sprintf("new-%d-%d", round, i) }
	err := each(ctx, s.replicaSets, func(ctx context.Context, i int) error {
		template := a.pod(app(i), label, "")
		labels := selected(app(i)) // as the Deployment controller makes it
		labels[appsv1.DefaultDeploymentUniqueLabelKey] = template.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
		set, err := a.pods.AppsV1().ReplicaSets(metav1.NamespaceDefault).Create(ctx, &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Name: app(i) + "-7d4b9c"},
			Spec: appsv1.ReplicaSetSpec{
				Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: template.Labels},
					Spec: template.Spec}}}, metav1.CreateOptions{})
		if err == nil {
			sets[i] = set.UID
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("create ReplicaSets: %w", err)
	}
	before, err := a.scheduled(ctx)
	if err != nil {
		return err
	}
	bound := make(chan error, 1)
	start := time.Now()
	go func() { bound <- a.waitBound(ctx, label, 3*s.replicaSets) }()
	err = each(ctx, 3*s.replicaSets, func(ctx context.Context, i int) error {
		return a.create(ctx, a.pod(app(i/3), label, sets[i/3]))
	})
	if err != nil {
		return fmt.Errorf("create pods: %w", err)
	}
	if err := <-bound; err != nil {
		return err
	}
	took := time.Since(start)
	after, err := a.scheduled(ctx)
	if err != nil {
		return err
	}
	mean, p99 := after.since(before)
	pods := float64(3 * s.replicaSets)
	a.rate, a.cpu = append(a.rate, pods/took.Seconds()), append(a.cpu, 1e3*(after.cpu-before.cpu)/pods)
	a.mean, a.p99 = append(a.mean, mean), append(a.p99, p99)
	now := int64(0)
	selector := metav1.ListOptions{LabelSelector: roundLabel + "=" + label}
	if err := a.pods.CoreV1().Pods(metav1.NamespaceDefault).DeleteCollection(ctx,
		metav1.DeleteOptions{GracePeriodSeconds: &now}, selector); err != nil {
		return fmt.Errorf("delete pods: %w", err)
	}
	return nil
}

// waitBound waits until n pods of a round have a node.
func (a *arm) waitBound(ctx context.Context, round string, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	bound := map[string]bool{}
	for len(bound) < n {
		watcher, err := a.pods.CoreV1().Pods(metav1.NamespaceDefault).Watch(ctx, // begins with those that are there
			metav1.ListOptions{LabelSelector: roundLabel + "=" + round})
		if err != nil {
			return fmt.Errorf("watch pods, of which %d of %d have a node: %w", len(bound), n, err)
		}
		for event := range watcher.ResultChan() { // until the API server, or ctx, ends it
			if pod, ok := event.Object.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
				bound[pod.Name] = true
			}
			if len(bound) == n {
				break
			}
		}
		watcher.Stop()
	}
	return nil
}

// since returns the mean and the 99th percentile of the algorithm since then, in milliseconds.
func (s scheduled) since(before scheduled) (mean, p99 float64) {
	limits := slices.Sorted(maps.Keys(s.buckets))
	n := s.buckets[math.Inf(1)] - before.buckets[math.Inf(1)]
	lower, below := 0.0, 0.0
	for _, limit := range limits {
		count := s.buckets[limit] - before.buckets[limit]
		if count >= .99*n {
			p99 = lower
			if !math.IsInf(limit, 1) && count > below { // as Prometheus does, evenly within the bucket
				p99 += (limit - lower) * (.99*n - below) / (count - below)
			}
			break
		}
		lower, below = limit, count
	}
	return 1e3 * (s.sum - before.sum) / n, 1e3 * p99
}

// scheduled reads the scheduler's metrics.
func (a *arm) scheduled(ctx context.Context) (s scheduled, err error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // its certificate is made up at its start
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.metrics, nil)
	if err != nil {
		return s, err
	}
	response, err := client.Do(request)
	if err != nil {
		return s, fmt.Errorf("read the scheduler's metrics: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return s, fmt.Errorf("read the scheduler's metrics: %s", response.Status)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		return s, fmt.Errorf("read the scheduler's metrics: %w", err)
	}
	s.buckets = map[float64]float64{math.Inf(1): 0}
	for _, m := range families["process_cpu_seconds_total"].GetMetric() {
		s.cpu = m.GetCounter().GetValue()
	}
	for _, m := range families["scheduler_scheduling_algorithm_duration_seconds"].GetMetric() {
		s.sum += m.GetHistogram().GetSampleSum()
		for _, b := range m.GetHistogram().GetBucket() {
			s.buckets[b.GetUpperBound()] += float64(b.GetCumulativeCount())
		}
		s.buckets[math.Inf(1)] = float64(m.GetHistogram().GetSampleCount())
	}
	return s, nil
}

// scheduling reports what the scheduler takes.
func (r *report) scheduling(sizes []schedule, all [][]*arm) {
	fmt.Fprintf(&r.sections, `
## The scheduler

The real scheduler in clusters whose nodes and running pods are plain objects: in each of the three arms a control
plane of its own, all of whose pods were made alike, in ReplicaSets of three. %d pods a round are created and scheduled,
in %d rounds in which the arms take turns, on a machine that the API server and etcd share. With few nodes the API
server is the limit of the pods per second. CPU is that of the scheduler's process; the algorithm is the time on the
clock that it takes to choose a node (scheduler_scheduling_algorithm_duration_seconds). Medians of the rounds.

| nodes | pods each | asked | pods a second | to nothing | CPU a pod | to nothing | algorithm, mean | p99 | to nothing |
|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|
`, 3*sizes[0].replicaSets, sizes[0].rounds)
	c := chart{title: "What spreading costs the scheduler", panels: []panel{
		{title: "CPU time of the scheduler", unit: "ms", byGroup: true}, {title: "pods per second", unit: "", byGroup: true}}}
	var rates []float64
	for i, s := range sizes {
		bare := all[i][0]
		for _, a := range all[i] {
			rate, cpu, mean := median(a.rate), median(a.cpu), median(a.mean)
			fmt.Fprintf(&r.sections, "| %d | %d | %s | %.0f | %.2f | %.1f ms | %.2f | %.1f ms | %.1f ms | %.2f |\n", s.nodes,
				s.podsPerNode, a.name, rate, rate/median(bare.rate), cpu, cpu/median(bare.cpu), mean, median(a.p99),
				mean/median(bare.mean))
			c.rows = append(c.rows, bar{group: fmt.Sprintf("%d nodes, %d pods each", s.nodes, s.podsPerNode),
				label: a.name, values: [][]float64{{cpu}, {rate}}})
			if a.name == spreadTopology {
				rates = append(rates, rate/median(bare.rate))
			}
		}
	}
	r.plot("speed-scheduling.svg", c)
	r.aims = append(r.aims, aim{what: "Pods scheduled per second with topology-spread, nodes and pods " +
		joined(sizes) + ": to nothing", most: -0.9, ratios: rates})
}

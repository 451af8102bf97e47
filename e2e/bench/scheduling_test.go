package main

import (
	"maps"
	"math"
	"os"
	"testing"
)

// mostSchedulerCPU is what a pod with evenkeel's topology spread constraints may take of the scheduler's CPU time, to
// one with nothing, in a small cluster on a machine that others use.
const mostSchedulerCPU = 1.3

// TestSpreadingByConstraintsCostsTheSchedulerLittle is the short form of the measurement.
func TestSpreadingByConstraintsCostsTheSchedulerLittle(t *testing.T) {
	s := schedule{nodes: 100, podsPerNode: 10, rounds: 5, replicaSets: 40}
	arms, err := measureScheduling(t.Context(), os.Stderr, s)
	if err != nil {
		t.Fatal(err)
	}
	cpu := map[string]float64{}
	for _, a := range arms {
		cpu[a.name] = median(a.cpu)
		t.Logf("%s: %.2f ms of the scheduler's CPU time for a pod, %.0f pods a second", a.name, cpu[a.name], median(a.rate))
	}
	constraints, terms := cpu[spreadTopology]/cpu[spreadNothing], cpu[spreadAffinity]/cpu[spreadNothing]
	t.Logf("to nothing: topology-spread %.2f, anti-affinity %.2f", constraints, terms)
	if constraints > mostSchedulerCPU || math.IsNaN(constraints) {
		t.Errorf("topology-spread takes %.2f times the CPU time of nothing, want %.2f at most", constraints, mostSchedulerCPU)
	}
}

// TestArmsCountTheSamePods shows that the scheduler compares as many labels for a constraint of evenkeel's as for the
// spread of its own, which goes by the ReplicaSet's selector: of two selectors with the same result, the one that most
// pods match by its first label costs far more.
func TestArmsCountTheSamePods(t *testing.T) {
	template, err := spreadTemplate(spreadTopology)
	if err != nil {
		t.Fatal(err)
	}
	pod := (&arm{template: template}).pod("shop", "1", "uid")
	if len(pod.Spec.TopologySpreadConstraints) == 0 {
		t.Fatal("the pod has no constraints")
	}
	for _, constraint := range pod.Spec.TopologySpreadConstraints {
		if got := constraint.LabelSelector.MatchLabels; !maps.Equal(got, selected("shop")) {
			t.Errorf("%s: the constraint goes by %v, the ReplicaSet by %v", constraint.TopologyKey, got, selected("shop"))
		}
	}
}

func TestSchedules(t *testing.T) {
	all, err := parseSchedules("100x10,5000x30")
	if err != nil || joined(all) != "100x10,5000x30" {
		t.Errorf("%v, %v", all, err)
	}
	for _, text := range []string{"", "100", "x10", "100x", "2x10", "5001x1", "100x101", "100x10,"} {
		if all, err := parseSchedules(text); err == nil {
			t.Errorf("%q is read as %v", text, all)
		}
	}
}

func TestThePercentileOfTheAlgorithm(t *testing.T) {
	before := scheduled{buckets: map[float64]float64{.001: 5, .002: 5, math.Inf(1): 5}, sum: 1}
	after := scheduled{buckets: map[float64]float64{.001: 95, .002: 105, math.Inf(1): 105}, sum: 1.1}
	mean, p99 := after.since(before)
	if math.Abs(mean-1) > 1e-9 || math.Abs(p99-1.9) > 1e-9 {
		t.Errorf("mean %v ms, 99th percentile %v ms; want 1 and 1.9", mean, p99)
	}
}

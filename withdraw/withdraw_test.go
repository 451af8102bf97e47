package withdraw

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// TestFailed is the truth table of Failed.
func TestFailed(t *testing.T) {
	const patience = 2 * time.Minute
	long, short := noon.Add(-patience), noon.Add(-patience+time.Second)
	for name, c := range map[string]struct {
		pods []Pod
		want bool
	}{
		"no pods say nothing": {nil, false},
		"a pod that was never ready, up for as long as patience":  {[]Pod{{Up: long, Unready: true}}, true},
		"a pod that is up for less than patience may get ready":   {[]Pod{{Up: short, Unready: true}}, false},
		"a pod that was ready once shows that the guess is right": {[]Pod{{Up: long, Unready: true, EverReady: true}}, false},
		"one of two that was ready shows it too": {
			[]Pod{{Up: long, Unready: true}, {Up: long, EverReady: true}}, false},
		"one that is up for less than patience holds the other up": {
			[]Pod{{Up: long, Unready: true}, {Up: short, Unready: true}}, false},
		"one whose containers wait or crash holds nothing up":      {[]Pod{{Up: long, Unready: true}, {Unready: true}}, true},
		"only such whose containers wait or crash say nothing":     {[]Pod{{Unready: true}, {}}, false},
		"an unready pod whose guessed probe succeeds says nothing": {[]Pod{{Up: long}}, false},
	} {
		if got := Failed(c.pods, patience, noon); got != c.want {
			t.Errorf("%s: failed is %v, want %v", name, got, c.want)
		}
	}
}

// TestPartly is the truth table of Partly.
func TestPartly(t *testing.T) {
	const patience = 2 * time.Minute
	long, short := noon.Add(-10*time.Minute), noon.Add(-10*time.Minute+time.Second)
	ready := Pod{Up: long, EverReady: true}
	for name, c := range map[string]struct {
		pods []Pod
		want bool
	}{
		"no pods say nothing":                           {nil, false},
		"a leader, and one never ready for ten minutes": {[]Pod{ready, {Up: long, Unready: true}}, true},
		"one that was never ready for less":             {[]Pod{ready, {Up: short, Unready: true}}, false},
		"one that was ready before":                     {[]Pod{ready, {Up: long, Unready: true, EverReady: true}}, false},
		"one whose containers wait or crash":            {[]Pod{ready, {Unready: true}}, false},
		"an unready pod whose guessed probe succeeds":   {[]Pod{ready, {Up: long}}, false},
		"none that was ever ready is for Failed to say": {[]Pod{{Up: long, Unready: true}}, false},
	} {
		if got := Partly(c.pods, patience, noon); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestAWorkloadIsLeftAloneWhenItIsMadeThreeTimesWithinAnHour(t *testing.T) {
	for name, c := range map[string]struct {
		minutes []int
		want    bool
	}{
		"twice is not enough":                 {[]int{0, 30}, false},
		"three times within an hour":          {[]int{0, 30, 60}, true},
		"three times within a longer time":    {[]int{0, 30, 61}, false},
		"the latest three times are the ones": {[]int{0, 100, 120, 140}, true},
	} {
		var m made
		got := false
		for _, minute := range c.minutes {
			got = m.again(noon.Add(time.Duration(minute) * time.Minute))
		}
		if got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestFromPod(t *testing.T) {
	yes, no := true, false
	began := metav1.NewTime(noon.Add(-10 * time.Minute))
	up := metav1.NewTime(noon.Add(-5 * time.Minute))
	later := metav1.NewTime(noon.Add(-time.Minute))
	container := func(name string, ready bool, started *bool, since metav1.Time) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: name, Ready: ready, Started: started,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: since}}}
	}
	waiting := corev1.ContainerStatus{Name: "side",
		State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}
	pod := func(ready corev1.ConditionStatus, since metav1.Time, statuses ...corev1.ContainerStatus) *corev1.Pod {
		p := &corev1.Pod{}
		p.Status.Conditions = []corev1.PodCondition{
			{Type: corev1.PodInitialized, Status: corev1.ConditionTrue, LastTransitionTime: up},
			{Type: corev1.PodReady, Status: ready, LastTransitionTime: since}}
		p.Status.ContainerStatuses = statuses
		p.Spec.Containers = make([]corev1.Container, max(1, len(statuses)))
		return p
	}
	uninitialized := pod(corev1.ConditionFalse, began, container("web", false, &yes, up))
	uninitialized.Status.Conditions[0].Status = corev1.ConditionFalse
	for name, c := range map[string]struct {
		pod  *corev1.Pod
		want Pod
	}{
		"unready since before its containers": {
			pod(corev1.ConditionFalse, began, container("web", false, &yes, up)), Pod{Up: up.Time, Unready: true}},
		"ready": {pod(corev1.ConditionTrue, later, container("web", true, &yes, up)), Pod{Up: up.Time, EverReady: true}},
		"unready again": {
			pod(corev1.ConditionFalse, later, container("web", false, &yes, up)),
			Pod{Up: up.Time, EverReady: true, Unready: true}},
		"not started yet, by its startup probe": {pod(corev1.ConditionFalse, began, container("web", false, &no, up)),
			Pod{Up: up.Time}},
		"up since the latest of its containers": {
			pod(corev1.ConditionFalse, began, container("web", false, &yes, up), container("side", true, &yes, later)),
			Pod{Up: later.Time, Unready: true}},
		"only another container unready": {
			pod(corev1.ConditionFalse, began, container("web", true, &yes, up), container("side", false, &yes, up)),
			Pod{Up: up.Time}},
		"another container crashing": {
			pod(corev1.ConditionFalse, began, container("web", false, &yes, up), waiting), Pod{Unready: true}},
		"init containers still running":                 {uninitialized, Pod{}},
		"no statuses of its containers yet":             {pod(corev1.ConditionFalse, began), Pod{}},
		"no conditions at all, as right after creation": {&corev1.Pod{}, Pod{}},
	} {
		if got := FromPod(c.pod, []string{"web"}); got != c.want {
			t.Errorf("a pod %s is %+v, want %+v", name, got, c.want)
		}
	}
}

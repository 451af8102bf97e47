package surge

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var update = flag.Bool("update", false, "rewrite the table of codes in docs/how-to/single-replicas.md")

// now is when everything is decided.
var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

const patience = 10 * time.Minute

// pod makes a ready pod, ready for an hour, on a node of its own.
func pod(name string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name),
			Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{NodeName: "node-" + name}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	readySince(p, time.Hour)
	return p
}

func readySince(p *corev1.Pod, ago time.Duration) {
	p.Status.Conditions = []corev1.PodCondition{
		{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-ago))}}
}

// deployment makes a Deployment of one replica that is done with its rollout.
func deployment() *appsv1.Deployment {
	one := int32(1)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "uid-web", ResourceVersion: "1", Generation: 2},
		Spec: appsv1.DeploymentSpec{Replicas: &one,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}}},
		Status: appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 1, UpdatedReplicas: 1, ReadyReplicas: 1,
			AvailableReplicas: 1}}
}

// note writes that a surge was begun so long ago, for a pod, on a node.
func note(ago time.Duration, pod, node string) func(*Facts) {
	return func(f *Facts) {
		f.Deployment.Annotations = map[string]string{
			Annotation: begun{began: now.Add(-ago), pod: types.UID("uid-" + pod), node: node}.write()}
	}
}

func rollingOut(f *Facts) { f.Deployment.Status.UpdatedReplicas = 0 }

func beside(change func(*corev1.Pod)) func(*Facts) {
	return func(f *Facts) {
		other := pod("b")
		change(other)
		f.Pods = append(f.Pods, *other)
	}
}

func strategy(kind appsv1.DeploymentStrategyType, surge, unavailable string) func(*Facts) {
	return func(f *Facts) {
		f.Deployment.Spec.Strategy = appsv1.DeploymentStrategy{Type: kind}
		if surge != "" {
			s, u := intstr.Parse(surge), intstr.Parse(unavailable)
			f.Deployment.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u}
		}
	}
}

func claim(modes ...corev1.PersistentVolumeAccessMode) func(*Facts) {
	return func(f *Facts) {
		f.Claims = append(f.Claims, corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{AccessModes: modes}})
	}
}

func volume(v corev1.VolumeSource) func(*Facts) {
	return func(f *Facts) { f.Pod.Spec.Volumes = append(f.Pod.Spec.Volumes, corev1.Volume{VolumeSource: v}) }
}

func TestDecide(t *testing.T) {
	disabledLabel := map[string]string{"evenkeel.dev/inject": "disabled"}
	for _, test := range []struct {
		name   string
		change []func(*Facts)
		want   Code
	}{
		{"replaces the only ready pod first", nil, Surging},
		{"passes over a pod of no Deployment", []func(*Facts){func(f *Facts) { f.Deployment = nil }}, Owner},
		{"passes over an opted-out pod", []func(*Facts){func(f *Facts) { f.Pod.Labels = disabledLabel }}, OptedOut},
		{"passes over an opted-out Deployment",
			[]func(*Facts){func(f *Facts) { f.Deployment.Labels = disabledLabel }}, OptedOut},
		{"passes over an opted-out pod template",
			[]func(*Facts){func(f *Facts) { f.Deployment.Spec.Template.Labels = disabledLabel }}, OptedOut},
		{"passes where nobody asked, even in the middle of a surge",
			[]func(*Facts){func(f *Facts) { f.Asked = false }, note(time.Minute, "a", "node-a")}, Off},
		{"lets a pod go that ends",
			[]func(*Facts){func(f *Facts) { f.Pod.DeletionTimestamp = &metav1.Time{Time: now} },
				note(time.Minute, "a", "node-a")}, Ending},
		{"lets a pod go that has ended", []func(*Facts){func(f *Facts) { f.Pod.Status.Phase = corev1.PodFailed }}, Ending},
		{"waits for the surge that was begun for the pod",
			[]func(*Facts){note(9*time.Minute, "a", "node-a"), rollingOut}, Waiting},
		{"waits although the pod is not ready any more",
			[]func(*Facts){note(time.Minute, "a", "node-a"), rollingOut, func(f *Facts) { f.Pod.Status.Conditions = nil }},
			Waiting},
		{"waits while the new pod is ready but not yet available",
			[]func(*Facts){note(time.Minute, "a", "node-a"), rollingOut, beside(func(*corev1.Pod) {})}, Waiting},
		{"waits where the clock of another replica is ahead",
			[]func(*Facts){note(-5*time.Second, "a", "node-a"), rollingOut}, Waiting},
		{"lets the pod go when the patience is over", []func(*Facts){note(patience, "a", "node-a"), rollingOut}, Deadline},
		{"never begins a second surge for the same pod", []func(*Facts){note(100*time.Hour, "a", "node-a")}, Deadline},
		{"takes a time far ahead for no reason to wait", []func(*Facts){note(-time.Hour, "a", "node-a")}, Deadline},
		{"lets a pod go that is not ready",
			[]func(*Facts){func(f *Facts) { f.Pod.Status.Conditions[0].Status = corev1.ConditionFalse }}, NotReady},
		{"lets a pod go that says nothing of its readiness",
			[]func(*Facts){func(f *Facts) { f.Pod.Status.Conditions = nil }}, NotReady},
		{"leaves three replicas to their budget",
			[]func(*Facts){func(f *Facts) { three := int32(3); f.Deployment.Spec.Replicas = &three }}, Several},
		{"leaves no replicas alone",
			[]func(*Facts){func(f *Facts) { none := int32(0); f.Deployment.Spec.Replicas = &none }}, Several},
		{"leaves an unset number of replicas alone",
			[]func(*Facts){func(f *Facts) { f.Deployment.Spec.Replicas = nil }}, Several},
		{"holds a new pod until the surge that it comes from is done",
			[]func(*Facts){note(time.Minute, "old", "node-old"), rollingOut, beside(func(*corev1.Pod) {}),
				func(f *Facts) { readySince(f.Pod, 30*time.Second) }}, Waiting},
		{"holds a new pod no longer than a minute for that",
			[]func(*Facts){note(2*time.Minute, "old", "node-old"), rollingOut, beside(func(*corev1.Pod) {}),
				func(f *Facts) { readySince(f.Pod, 61*time.Second) }}, NotLast},
		{"holds no new pod for a rollout of somebody else",
			[]func(*Facts){rollingOut, func(f *Facts) { readySince(f.Pod, 30*time.Second) }}, Rolling},
		{"lets a pod go beside another that is ready", []func(*Facts){beside(func(*corev1.Pod) {})}, NotLast},
		{"counts no other pod that ends",
			[]func(*Facts){beside(func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} })}, Surging},
		{"counts no other pod that is not ready",
			[]func(*Facts){beside(func(p *corev1.Pod) { p.Status.Conditions = nil })}, Surging},
		{"does not wait for a paused Deployment", []func(*Facts){func(f *Facts) { f.Deployment.Spec.Paused = true }}, Paused},
		{"does not join the rollout of somebody else", []func(*Facts){rollingOut}, Rolling},
		{"does not join a rollout that nobody has seen yet",
			[]func(*Facts){func(f *Facts) { f.Deployment.Generation++ }}, Rolling},
		{"does not join a rollout whose old pod is still there",
			[]func(*Facts){func(f *Facts) { f.Deployment.Status.Replicas = 2 }}, Rolling},
		{"does not join a rollout whose new pod is not available",
			[]func(*Facts){func(f *Facts) { f.Deployment.Status.AvailableReplicas = 0 }}, Rolling},
		{"surges by the strategy that the API sets by default",
			[]func(*Facts){strategy("RollingUpdate", "25%", "25%")}, Surging},
		{"surges by one more and none less", []func(*Facts){strategy("RollingUpdate", "1", "0")}, Surging},
		{"does not surge with Recreate", []func(*Facts){strategy("Recreate", "", "")}, NoSurge},
		{"does not surge by none", []func(*Facts){strategy("RollingUpdate", "0", "1")}, NoSurge},
		{"does not surge where the old pod may go first", []func(*Facts){strategy("RollingUpdate", "1", "1")}, NoSurge},
		{"does not surge where all pods may go first", []func(*Facts){strategy("RollingUpdate", "100%", "100%")}, NoSurge},
		{"does not surge by a strategy that can't be read", []func(*Facts){strategy("RollingUpdate", "many", "0")}, NoSurge},
		{"does not wait for a claim that one node can mount", []func(*Facts){claim(corev1.ReadWriteOnce)}, Volume},
		{"does not wait for a claim that one pod can mount", []func(*Facts){claim(corev1.ReadWriteOncePod)}, Volume},
		{"does not wait for a claim that says nothing", []func(*Facts){claim()}, Volume},
		{"does not wait where one of two claims is for one node",
			[]func(*Facts){claim(corev1.ReadWriteMany), claim(corev1.ReadWriteOnce)}, Volume},
		{"surges with a claim that many nodes can mount",
			[]func(*Facts){claim(corev1.ReadWriteMany), claim(corev1.ReadOnlyMany)}, Surging},
		{"does not wait for a disk",
			[]func(*Facts){volume(corev1.VolumeSource{AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{}})},
			Volume},
		{"surges with volumes that each pod has",
			[]func(*Facts){volume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}),
				volume(corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}})}, Surging},
		{"does not surge again where the new pod came up on the same node",
			[]func(*Facts){note(time.Minute, "old", "node-a")}, Again},
		{"surges again after the patience, on the same node", []func(*Facts){note(patience, "old", "node-a")}, Surging},
		{"surges again on another node", []func(*Facts){note(time.Minute, "old", "node-old")}, Surging},
		{"takes a note that can't be read for none",
			[]func(*Facts){func(f *Facts) { f.Deployment.Annotations = map[string]string{Annotation: "soon uid-a node-a"} }},
			Surging},
		{"takes an endless note for none", []func(*Facts){func(f *Facts) {
			f.Deployment.Annotations = map[string]string{Annotation: strings.Repeat("2", 1<<20) + " uid-a node-a"}
		}}, Surging},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := pod("a")
			f := Facts{Pod: p, Deployment: deployment(), Pods: []corev1.Pod{*p}, Asked: true, Patience: patience, Now: now}
			for _, change := range test.change {
				change(&f)
			}
			got, began := Decide(f)
			if got != test.want {
				t.Errorf("is %s, want %s", got, test.want)
			}
			if (got == Surging) == began.IsZero() {
				t.Errorf("%s counts from %v", got, began)
			}
		})
	}
}

// TestThePatienceCountsFromWhenAHoldMayHaveBegun: a pod that was held for the surge that it comes
// from isn't held for longer in all.
func TestThePatienceCountsFromWhenAHoldMayHaveBegun(t *testing.T) {
	for ago, want := range map[time.Duration]time.Duration{time.Hour: 0, 3 * time.Minute: 0,
		90 * time.Second: 90 * time.Second, time.Second: time.Second} {
		p := pod("a")
		readySince(p, ago)
		f := Facts{Pod: p, Deployment: deployment(), Pods: []corev1.Pod{*p}, Asked: true, Patience: patience, Now: now}
		if code, began := Decide(f); code != Surging || now.Sub(began) != want {
			t.Errorf("a pod that was ready for %v is %s, counted from %v ago, want %v", ago, code, now.Sub(began), want)
		}
	}
}

func TestNotesAreReadAsTheyAreWritten(t *testing.T) {
	b := begun{began: now, pod: "1f6b", node: "node-1"}
	if got := read(b.write()); got != b {
		t.Errorf("read %+v, wrote %+v", got, b)
	}
	for _, text := range []string{"", " ", "  ", "2026-01-01T12:00:00Z a", "2026-01-01T12:00:00Z a b c", "now a b",
		strings.Repeat(" ", 1<<20)} {
		if got := read(text); got != (begun{}) {
			t.Errorf("read %+v out of %.40q", got, text)
		}
	}
}

func TestEveryCodeHasARowAndACase(t *testing.T) {
	for _, r := range Reasons() {
		if r.Text == "" || !strings.HasSuffix(r.Text, ".") {
			t.Errorf("row of %s is not whole", r.Code)
		}
		if got := r.Code.Reason(); got != r {
			t.Errorf("row of %s is %+v", r.Code, got)
		}
	}
}

// TestTheDocumentationHasEveryCode compares the table of docs/how-to/single-replicas.md with the
// codes; -update writes it.
func TestTheDocumentationHasEveryCode(t *testing.T) {
	path := filepath.Join("..", "docs", "how-to", "single-replicas.md")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const opening, closing = "<!-- surge codes -->\n", "<!-- /surge codes -->"
	before, rest, ok1 := strings.Cut(string(raw), opening)
	_, after, ok2 := strings.Cut(rest, closing)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no region between %s and %s", path, opening, closing)
	}
	table := "| code | eviction | reason | Event |\n|---|---|---|---|\n"
	for _, r := range Reasons() {
		table += fmt.Sprintf("| `%s` | %s | %s | %s |\n", r.Code,
			map[bool]string{true: "refused", false: "passes"}[r.Refused], r.Text, map[bool]string{true: "yes"}[r.Event])
	}
	want := before + opening + table + closing + after
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != string(raw) {
		t.Errorf("%s has another table of codes; -update writes it", path)
	}
}

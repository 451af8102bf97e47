// Package surge lets a Deployment of one replica survive a drain.
//
// When its only ready pod is to be evicted, evenkeel refuses as a disruption budget does, and has
// the Deployment replace the pod by its own rolling update, as kubectl rollout restart does. The
// new pod comes up beside the old one, which goes when the new one is ready; the drain, which asks
// again and again, finds it gone. Whatever is in doubt lets the eviction pass, and so does the
// deadline.
//
// What was begun stands on the Deployment itself (Annotation), so any replica of evenkeel can go on
// with it, and nothing has to be put right after all of them died.
//
// Decide decides, and is pure. handler.go asks the API server and answers it.
package surge

import (
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/evenkeel/evenkeel/policy"
)

// Annotation notes on a Deployment the surge that evenkeel began last: the time, the UID of the pod
// that was to be evicted, and its node.
const Annotation = policy.SurgeAnnotation

// RestartedAt is what kubectl rollout restart writes to a pod template.
const RestartedAt = "kubectl.kubernetes.io/restartedAt"

// Code says what became of an eviction. Log, metric, Event and documentation use these codes.
type Code string

// The values of Code. Reasons explains each in one sentence.
const (
	Surging  Code = "surging"
	Waiting  Code = "waiting"
	Off      Code = "off"
	OptedOut Code = "opted-out"
	Owner    Code = "other-owner"
	Ending   Code = "ending"
	NotReady Code = "not-ready"
	Several  Code = "several-replicas"
	NotLast  Code = "not-last"
	Paused   Code = "paused"
	NoSurge  Code = "no-surge"
	Volume   Code = "one-node-volume"
	Rolling  Code = "rolling-out"
	Again    Code = "again"
	Deadline Code = "deadline"
	Unknown  Code = "unknown"
)

// Reason is one row of the table of codes.
type Reason struct {
	Code Code
	// Refused is set where the eviction is answered with 429.
	Refused bool
	// Text says the reason in one sentence.
	Text string
	// Event is set where the Deployment gets an Event, since its author asked for something else.
	Event bool
}

// reasons is the table of all codes. It never changes.
var reasons = [...]Reason{
	{Surging, true, "The Deployment brings up another pod before this one goes.", true},
	{Waiting, true, "The Deployment's other pod is not ready yet.", false},
	{Off, false, "Nobody asked for a surge.", false},
	{OptedOut, false, "The workload or its pod carries the label evenkeel.dev/inject: disabled.", false},
	{Owner, false, "The pod does not belong to a Deployment.", false},
	{Ending, false, "The pod is ending already.", false},
	{NotReady, false, "The pod is not ready, so nobody loses anything.", false},
	{Several, false, "The Deployment has another number of replicas than one; a budget protects more than one.", false},
	{NotLast, false, "Another pod of the Deployment is ready.", false},
	{Paused, false, "The Deployment is paused, so it would not replace the pod.", true},
	{NoSurge, false, "The Deployment's strategy takes the old pod before the new one is ready.", true},
	{Volume, false, "The pod uses a volume that only one node can mount.", true},
	{Rolling, false, "The Deployment is rolling out already.", true},
	{Again, false, "The new pod came up on the same node, where another surge would not help.", true},
	{Deadline, false, "The new pod was not ready within the time that a drain may be held.", true},
	{Unknown, false, "evenkeel could not look it up or restart the Deployment, and holds no drain for that.", true},
}

// Reasons returns a copy of the table of all codes.
func Reasons() []Reason { return append([]Reason(nil), reasons[:]...) }

// Reason returns the row of the table for code c.
func (c Code) Reason() Reason {
	for _, r := range reasons {
		if r.Code == c {
			return r
		}
	}
	return Reason{Code: c}
}

// Facts are what a decision needs to know.
type Facts struct {
	Pod *corev1.Pod
	// Deployment is nil where the pod belongs to none.
	Deployment *appsv1.Deployment
	// Pods are the pods that the Deployment selects.
	Pods []corev1.Pod
	// Claims are those of the pod's volumes that are claims of their own.
	Claims []corev1.PersistentVolumeClaim
	// Asked is set where the settings ask for a surge.
	Asked bool
	// Patience is how long a drain may be held.
	Patience time.Duration
	Now      time.Time
}

// brief is how long a pod that has just become ready is held while the Deployment is not done yet.
const brief = time.Minute

// Decide says what becomes of an eviction. It is pure, and the first row that fits counts.
//
//	fact                                                        | code
//	the pod belongs to no Deployment                            | other-owner
//	pod, pod template or Deployment opted out                   | opted-out
//	nobody asked for a surge                                    | off
//	the pod is ending, or has ended                             | ending
//	our surge for this pod, begun the patience ago or longer    | deadline
//	our surge for this pod, begun after that                    | waiting
//	the pod is not ready                                        | not-ready
//	spec.replicas is not 1                                      | several-replicas
//	our surge for another pod, not done, this one just ready    | waiting
//	another pod is ready                                        | not-last
//	the Deployment is paused                                    | paused
//	the Deployment is rolling out                               | rolling-out
//	the strategy takes the old pod first                        | no-surge
//	a volume that one node alone can mount                      | one-node-volume
//	our surge for another pod of this node, within the patience | again
//	otherwise                                                   | surging
//
// began is when the hold of the drain counts from, for surging.
func Decide(f Facts) (code Code, began time.Time) {
	d, pod := f.Deployment, f.Pod
	if d == nil {
		return Owner, time.Time{}
	}
	last := read(d.Annotations[Annotation])
	elapsed := f.Now.Sub(last.began)
	recent := elapsed < f.Patience && elapsed > -f.Patience // clocks of two replicas may differ
	ready, since := readiness(pod)
	justReady := f.Now.Sub(since) < brief
	switch {
	case disabled(pod.Labels), disabled(d.Labels), disabled(d.Spec.Template.Labels):
		code = OptedOut
	case !f.Asked:
		code = Off
	case !active(pod):
		code = Ending
	case last.pod == pod.UID && !recent:
		code = Deadline
	case last.pod == pod.UID:
		code = Waiting
	case !ready:
		code = NotReady
	case d.Spec.Replicas == nil || *d.Spec.Replicas != 1:
		code = Several
	case recent && rolling(d) && justReady:
		code = Waiting
	case othersReady(pod, f.Pods):
		code = NotLast
	case d.Spec.Paused:
		code = Paused
	case rolling(d):
		code = Rolling
	case !surges(d.Spec.Strategy):
		code = NoSurge
	case oneNode(pod, f.Claims):
		code = Volume
	case recent && last.node == pod.Spec.NodeName:
		code = Again
	default:
		// A pod that became ready a moment ago may have been held since, for the surge that it came
		// from.
		if began = f.Now; f.Now.Sub(since) < 2*brief {
			began = since
		}
		return Surging, began
	}
	return code, time.Time{}
}

// begun is what Annotation says. The zero value is nothing.
type begun struct {
	began time.Time
	pod   types.UID
	node  string
}

// maxNote bounds an annotation that is read, in bytes.
const maxNote = 512

// read reads Annotation; what can't be read is nothing.
func read(text string) begun {
	parts := strings.Split(text[:min(len(text), maxNote)], " ")
	if len(parts) != 3 {
		return begun{}
	}
	at, err := time.Parse(time.RFC3339, parts[0])
	if err != nil {
		return begun{}
	}
	return begun{began: at, pod: types.UID(parts[1]), node: parts[2]}
}

// write is the inverse of read.
func (b begun) write() string {
	return fmt.Sprintf("%s %s %s", b.began.UTC().Format(time.RFC3339), b.pod, b.node)
}

func disabled(labels map[string]string) bool { return labels[policy.InjectLabel] == policy.Disabled }

// active reports whether a pod neither ends nor has ended.
func active(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

// readiness reports whether a pod is ready, and since when.
func readiness(p *corev1.Pod) (ready bool, since time.Time) {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return true, c.LastTransitionTime.Time
		}
	}
	return false, time.Time{}
}

// othersReady reports whether a pod other than p is ready and neither ends nor has ended.
func othersReady(p *corev1.Pod, pods []corev1.Pod) bool {
	for i := range pods {
		ready, _ := readiness(&pods[i])
		if ready && active(&pods[i]) && pods[i].UID != p.UID {
			return true
		}
	}
	return false
}

// rolling reports whether a Deployment isn't done with its rollout, as kubectl rollout status has
// it.
func rolling(d *appsv1.Deployment) bool {
	replicas := int32(1)
	if d.Spec.Replicas != nil {
		replicas = *d.Spec.Replicas
	}
	s := &d.Status
	return s.ObservedGeneration < d.Generation || s.UpdatedReplicas < replicas || s.Replicas > s.UpdatedReplicas ||
		s.AvailableReplicas < s.UpdatedReplicas
}

// surges reports whether a rolling update of one replica makes the new pod first: maxSurge rounds
// up, and maxUnavailable rounds down (ResolveFenceposts in
// k8s.io/kubernetes/pkg/controller/deployment/util).
func surges(s appsv1.DeploymentStrategy) bool {
	if s.Type != "" && s.Type != appsv1.RollingUpdateDeploymentStrategyType {
		return false
	}
	surge, unavailable := intstr.FromString("25%"), intstr.FromString("25%")
	if r := s.RollingUpdate; r != nil && r.MaxSurge != nil {
		surge = *r.MaxSurge
	}
	if r := s.RollingUpdate; r != nil && r.MaxUnavailable != nil {
		unavailable = *r.MaxUnavailable
	}
	more, err1 := intstr.GetScaledValueFromIntOrPercent(&surge, 1, true)
	less, err2 := intstr.GetScaledValueFromIntOrPercent(&unavailable, 1, false)
	return err1 == nil && err2 == nil && more > 0 && less == 0
}

// oneNode reports whether a pod uses a volume that two nodes can't mount at once.
func oneNode(p *corev1.Pod, claims []corev1.PersistentVolumeClaim) bool {
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i].VolumeSource
		if v.GCEPersistentDisk != nil || v.AWSElasticBlockStore != nil || v.AzureDisk != nil || v.Cinder != nil ||
			v.VsphereVolume != nil || v.ISCSI != nil || v.FC != nil || v.RBD != nil || v.PhotonPersistentDisk != nil ||
			v.ScaleIO != nil || v.StorageOS != nil || v.PortworxVolume != nil || v.FlexVolume != nil {
			return true
		}
	}
	for i := range claims {
		shared := false
		for _, mode := range claims[i].Spec.AccessModes {
			shared = shared || mode == corev1.ReadWriteMany || mode == corev1.ReadOnlyMany
		}
		if !shared {
			return true
		}
	}
	return false
}

// claimNames returns the names of the claims that a pod uses and that the next pod would use too.
// Those of ephemeral volumes are made for each pod.
func claimNames(p *corev1.Pod) []string {
	var names []string
	for i := range p.Spec.Volumes {
		if c := p.Spec.Volumes[i].PersistentVolumeClaim; c != nil {
			names = append(names, c.ClaimName)
		}
	}
	return names
}

// message is what the client of a refused eviction reads.
func message(code Code, d *appsv1.Deployment, pod *corev1.Pod, patience time.Duration) string {
	const text = "evenkeel: Deployment %s has no other ready pod than %s. %s " +
		"Try again; after %s the eviction passes (%s: surge)."
	return fmt.Sprintf(text, d.Name, pod.Name, code.Reason().Text, patience, policy.Prefix+policy.SettingDrain)
}

// controllerOf returns the name of the controller of an object, "" where it is not of that kind.
func controllerOf(o metav1.Object, kind string) string {
	owner := metav1.GetControllerOfNoCopy(o)
	if owner == nil || owner.Kind != kind || owner.APIVersion != appsv1.SchemeGroupVersion.String() {
		return ""
	}
	return owner.Name
}

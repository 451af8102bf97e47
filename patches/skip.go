package patches

// Skip is the code of a reason why a default was not added. Log, metric,
// warning, report and documentation all use these codes.
type Skip string

// The values of Skip. Reasons explains each in one sentence.
const (
	// SkipNone marks a default that was added.
	SkipNone Skip = ""

	SkipOptedOut          Skip = "opted-out"
	SkipOff               Skip = "off"
	SkipUserSet           Skip = "user-set"
	SkipUnchangedTemplate Skip = "unchanged-template"
	SkipOperation         Skip = "other-operation"
	SkipKind              Skip = "other-kind"
	SkipOwned             Skip = "owned-template"
	SkipJob               Skip = "runs-to-completion"
	SkipSchedulingGroup   Skip = "scheduling-group"
	SkipMirrorPod         Skip = "mirror-pod"
	SkipDaemonSet         Skip = "daemonset"
	SkipNoLabels          Skip = "no-labels"
	SkipNoSelector        Skip = "no-selector"
	SkipTooLarge          Skip = "selector-too-large"
	SkipNotSelected       Skip = "not-selected"
	SkipNoPort            Skip = "no-port"
	SkipSidePort          Skip = "side-port"
	SkipAmbiguousPort     Skip = "ambiguous-port"
	SkipUnknownPort       Skip = "unknown-port"
	SkipServiceElsewhere  Skip = "service-elsewhere"
	SkipEndsFirst         Skip = "ends-first"
	SkipPeers             Skip = "peers-first"
	SkipUntouchedTemplate Skip = "untouched-template"
	SkipProbeFailed       Skip = "probe-never-succeeds"
	SkipResetAgain        Skip = "reset-again"
	SkipNoNativeSleep     Skip = "no-native-sleep"
	SkipShortGracePeriod  Skip = "short-grace-period"
	SkipOwnTolerations    Skip = "own-tolerations"
	SkipStatefulSet       Skip = "statefulset"
	SkipPodItself         Skip = "pod-itself"
	SkipKnownRevision     Skip = "known-revision"
	SkipTemplateDone      Skip = "template-done"
	SkipWrittenRecord     Skip = "written-record"
	SkipForeignRecord     Skip = "foreign-record"
	SkipContainerName     Skip = "container-name"
	SkipTooManyParts      Skip = "too-many-parts"
	SkipPatchTooLarge     Skip = "patch-too-large"
	SkipDeadline          Skip = "deadline"
	SkipNoRoom            Skip = "no-room"
	SkipUnreadable        Skip = "unreadable-object"
	SkipInternalError     Skip = "internal-error"
)

// Reason is one row of the table of skip codes.
type Reason struct {
	Code Skip
	// Text says the reason in one sentence.
	Text string
	// Warn is set where the author of the workload can and may want to do something
	// about it: it becomes an admission warning.
	Warn bool
}

// reasons is the table of all skip codes. It never changes.
var reasons = [...]Reason{
	{SkipOptedOut, "The workload or its pod template carries the label evenkeel.dev/inject: disabled.", false},
	{SkipOff, "The setting is off for this workload.", false},
	{SkipUserSet, "The workload says something about it itself, which always wins.", false},
	{SkipUnchangedTemplate,
		"The update does not change the pod template, so changing it would restart pods for nothing.", false},
	{SkipOperation, "Only creations, and updates of workloads, are looked at.", false},
	{SkipKind, "The object is of a kind that evenkeel does not change.", false},
	{SkipOwned, "Another object owns the template and would put it back; that one is the place to change.", false},
	{SkipSchedulingGroup, "The pods are scheduled as one group (spec.schedulingGroup), which places them itself.", false},
	{SkipJob, "The pods run to completion (Job, CronJob, or a restartPolicy other than Always) and serve nobody.", false},
	{SkipMirrorPod, "The pod is the mirror of a static pod, which only the kubelet's own file can change.", false},
	{SkipDaemonSet,
		"DaemonSet pods are spread by nature, and get hook and probe only where their own annotation asks.", false},
	{SkipNoLabels,
		"The pod has no label left to tell its replicas by, and an empty selector would mean every pod of the namespace.",
		false},
	{SkipNoSelector, "The workload has no selector to tell its pods by.", false},
	{SkipTooLarge, "The selector is longer than 16 KiB, and repeating it could make the object too large to store.", true},
	{SkipNotSelected, "The annotation evenkeel.dev/containers names other containers.", false},
	{SkipNoPort, "No TCP port, or no port at all, is declared, so nothing shows that the container serves.", false},
	{SkipSidePort,
		"Only ports are declared that are named for metrics, administration, debugging or health, which say nothing about " +
			"the main job.", false},
	{SkipAmbiguousPort,
		"Several ports are declared and none is the obvious one; the annotation evenkeel.dev/readiness-probe can choose.",
		true},
	{SkipUnknownPort, "No container, or more than one, declares the port that the setting readiness-probe names.", true},
	{SkipServiceElsewhere,
		"Services select the pods, and none of them leads to this container, so nothing shows that its port opens.", false},
	{SkipEndsFirst,
		"Updates end all old pods first, so a probe of a port that nobody opens would be an outage, and no Service shows " +
			"that this one is open.", false},
	{SkipPeers, "Pods of the StatefulSet may have to find each other before they are ready, but its governing Service " +
		"publishes only ready addresses or is not known; the annotation evenkeel.dev/readiness-probe can ask for a probe.",
		false},
	{SkipUntouchedTemplate,
		"The pod comes from a template without a probe of evenkeel's, so its siblings run without one.", false},
	{SkipProbeFailed,
		"Pods run and never got ready with the probe that evenkeel guessed, so it guesses none until a port or probe of " +
			"theirs changes; the annotation evenkeel.dev/readiness-probe can ask for the right one.", true},
	{SkipResetAgain,
		"The workload was made anew three times within an hour from a template without evenkeel's additions, so it is left " +
			"alone until a port or probe of it changes.", true},
	{SkipNoNativeSleep,
		"The API server or a kubelet does not know preStop.sleep (1.30 and later do), and the operator does not allow exec " +
			"sleeps, or the pod runs on Windows.", false},
	{SkipShortGracePeriod, "The termination grace period is too short for a sleep and must not be raised further.", true},
	{SkipOwnTolerations,
		"The workload lists tolerations of its own, and the API replaces that list whole; add those for not-ready and " +
			"unreachable to it.", true},
	{SkipStatefulSet,
		"The pods of a StatefulSet keep their time on a lost node, since two of one name must never run, unless its own " +
			"annotation asks.", false},
	{SkipPodItself,
		"Kubernetes gives a pod its tolerations before evenkeel sees it, so only pod templates get others.", false},
	{SkipKnownRevision,
		"The pod template is one that a revision of the workload has, so going back to it gives back what ran.", false},
	{SkipTemplateDone, "The pod comes from a template that evenkeel has looked at already.", false},
	{SkipWrittenRecord,
		"The manifest carries evenkeel's record: it was injected before it was applied, and stays as it is.", false},
	{SkipForeignRecord,
		"The annotation evenkeel.dev/injected is not a record that evenkeel understands; remove it.", true},
	{SkipContainerName, "A container has no name that the API allows, or the name of another one.", true},
	{SkipTooManyParts,
		"The workload has more than 200 containers (init and ephemeral ones included), 10,000 ports, 1,000 labels or 100 " +
			"annotations evenkeel.dev/…, and is left as it is.", true},
	{SkipPatchTooLarge, "What would be added takes more than 64 KiB, so nothing is added.", true},
	{SkipDeadline, "To decide took longer than a second, or than the API server waits, so nothing is added.", true},
	{SkipNoRoom, "The annotations are too large for a record of what would be added, so nothing is added.", true},
	{SkipUnreadable, "The object can't be read without doubt, and is left as it is.", true},
	{SkipInternalError, "evenkeel itself went wrong; the object is admitted as it is.", true},
}

// Reasons returns a copy of the table of all skip codes.
func Reasons() []Reason { return append([]Reason(nil), reasons[:]...) }

// Reason returns the row of the table for code s, an empty one for SkipNone.
func (s Skip) Reason() Reason {
	if s == SkipNone {
		return Reason{}
	}
	for _, r := range reasons {
		if r.Code == s {
			return r
		}
	}
	return Reason{Code: s}
}

package audit

import (
	"fmt"
	"slices"

	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/pdb"
	"github.com/evenkeel/evenkeel/policy"
)

// Code is the kind of a finding. Report, exit code and documentation use these
// codes.
type Code string

// The values of Code. Codes explains each in one sentence.
const (
	MissingAntiAffinity   Code = "missing-anti-affinity"
	MissingPreStopSleep   Code = "missing-pre-stop-sleep"
	MissingReadinessProbe Code = "missing-readiness-probe"
	MissingNodeLoss       Code = "missing-node-loss"
	MissingBudget         Code = "missing-disruption-budget"
	MissedInjection       Code = "missed-injection"
	ProbeNeverSucceeds    Code = "probe-never-succeeds"
	ResetAgain            Code = "reset-again"
	OneNode               Code = "one-node"
	OneZone               Code = "one-zone"
	SingleReplica         Code = "single-replica"
	BarePod               Code = "bare-pod"
	NoneReady             Code = "none-ready"
	DrainWaits            Code = "drain-waits"
	DrainBlocked          Code = "drain-blocked"
	BudgetsOverlap        Code = "budgets-overlap"
	BudgetNotInForce      Code = "budget-not-in-force"
	NowhereToGo           Code = "nowhere-to-go"
	SleepTooShort         Code = "sleep-too-short"
)

// Explanation is one row of the table of codes.
type Explanation struct {
	Code Code
	// Text says in one sentence what was found.
	Text string
	// Advice says in one sentence what to do about it.
	Advice string
}

// explanations is the table of all codes, the most pressing first. It never changes.
var explanations = [...]Explanation{
	{NoneReady, "Pods are wanted and none is ready: it is down already.", "Look at its pods with kubectl describe."},
	{ProbeNeverSucceeds,
		"Pods run and never got ready with the readiness probe that evenkeel guessed, so it guesses none any more.",
		"Take the probe out with kubectl rollout restart, or ask for the right one: kubectl annotate KIND/NAME " +
			"evenkeel.dev/readiness-probe=tcp:PORT."},
	{OneNode, "All of its ready pods are on one node, whose loss would take it down.",
		"Spread it: opt the namespace in, and restart the workload with kubectl rollout restart; where it is bound to the " +
			"node, evenkeel explain says by what."},
	{OneZone, "All of its ready pods are in one zone, whose loss would take it down.",
		"Spread it: opt the namespace in, and restart the workload with kubectl rollout restart."},
	{DrainBlocked,
		"Its budget leaves nothing to evict even when all pods are ready, so no drain of their nodes can ever finish.",
		"Lower minAvailable, raise maxUnavailable, or run more replicas."},
	{BudgetsOverlap,
		"Two budgets select the same pod, and the API server answers every eviction of it with an error (500), so no drain " +
			"of its node can finish.", "Delete one of the budgets, or narrow its selector."},
	{DrainWaits, "Its budget allows no eviction now, so a drain of their nodes waits until more of its pods are ready.",
		"Find out why pods are not ready."},
	{BudgetNotInForce, "The disruption controller has not counted the pods of its budget since that was last written, " +
		"so none can be evicted now.",
		"Wait some seconds; if it lasts, look at the log of kube-controller-manager."},
	{NowhereToGo, "A node selector, a node affinity or a volume binds a pod to its node, and no other node fits, " +
		"so the pod does not come back while its node is drained.",
		"Give it a second node that fits, or a volume that can be used on more than one."},
	{SingleReplica, "It may run as one replica, so every update, drain and lost node interrupts it.",
		"Run at least two replicas, or set minReplicas of its HorizontalPodAutoscaler to two. For a Deployment that can't, " +
			"evenkeel.dev/drain=surge at least lets a drain wait for the next pod."},
	{SleepTooShort, "Its preStop sleep is shorter than the time for which traffic is still led to pods that terminate.",
		"Ask for a longer sleep with the annotation evenkeel.dev/pre-stop-sleep; evenkeel explain says how long. " +
			"--max-pre-stop-sleep bounds it, and so does a grace period that somebody wrote."},
	{BarePod, "The pod has no controller, so nothing puts it back when it is gone.",
		"Make it a Deployment or a StatefulSet."},
	{ResetAgain,
		"It was made anew three times within an hour from a template without evenkeel's additions, so evenkeel leaves " +
			"it alone.",
		"Opt it out with the label evenkeel.dev/inject: disabled, or have its operator leave out affinity, hooks and " +
			"probes of its comparison."},
	{MissedInjection,
		"Its namespace is opted in, and yet it lacks what it would get today: it is older than that, or evenkeel was away.",
		"Restart it with kubectl rollout restart; delete a bare pod and create it again."},
	{MissingAntiAffinity, "Nothing keeps its replicas apart.",
		"evenkeel adds it on the next change of the pod template in an opted-in namespace."},
	{MissingPreStopSleep, "Containers that serve stop at once, while load balancers still send them requests.",
		"evenkeel adds it on the next change of the pod template in an opted-in namespace."},
	{MissingReadinessProbe, "Containers that serve get requests before they can answer.",
		"evenkeel adds it on the next change of the pod template in an opted-in namespace."},
	{MissingNodeLoss, "Its pods stay on a lost node longer than its settings ask for.",
		"evenkeel adds it on the next change of the pod template in an opted-in namespace."},
	{MissingBudget, "No budget keeps a drain from taking all of its pods at once.",
		"evenkeel makes one in an opted-in namespace."},
}

// Codes returns a copy of the table of all codes.
func Codes() []Explanation { return slices.Clone(explanations[:]) }

// Any stands for every code among Choices.
const Any = "any"

// Choices are what somebody can ask Found for.
func Choices() []string {
	codes := []string{Any}
	for _, e := range explanations {
		codes = append(codes, string(e.Code))
	}
	return codes
}

// Found says which of the asked codes were found, and how often.
func Found(asked []string, counts map[Code]int) []string {
	var found []string
	for _, e := range explanations {
		n := counts[e.Code]
		if n > 0 && (slices.Contains(asked, Any) || slices.Contains(asked, string(e.Code))) {
			found = append(found, fmt.Sprintf("%s (%d)", e.Code, n))
		}
	}
	return found
}

// position is how pressing a code is: its place in explanations.
func position(c Code) int {
	return slices.IndexFunc(explanations[:], func(e Explanation) bool { return e.Code == c })
}

// Explain returns the row of the table for code c.
func (c Code) Explain() Explanation {
	if i := position(c); i >= 0 {
		return explanations[i]
	}
	return Explanation{Code: c}
}

// missing returns the code for a default that is missing.
func missing(name string) Code {
	switch name {
	case patches.DefaultAntiAffinity:
		return MissingAntiAffinity
	case patches.DefaultPreStopSleep:
		return MissingPreStopSleep
	case patches.DefaultReadinessProbe:
		return MissingReadinessProbe
	case patches.DefaultNodeLoss:
		return MissingNodeLoss
	case policy.SettingDisruptionBudget:
		return MissingBudget
	}
	return Code("missing-" + name)
}

// skipCodes returns the codes of the reasons why a default is skipped, once each.
func skipCodes() []string {
	var codes []string
	add := func(code string) {
		if code != "" && !slices.Contains(codes, code) { // the two tables share some
			codes = append(codes, code)
		}
	}
	for _, r := range patches.Reasons() {
		add(string(r.Code))
	}
	for _, r := range pdb.Reasons() {
		add(string(r.Code))
	}
	return codes
}

// skipText returns the sentence of a code of skipCodes, "" for others.
func skipText(code string) string {
	if text := patches.Skip(code).Reason().Text; text != "" {
		return text
	}
	return pdb.Code(code).Reason().Text
}

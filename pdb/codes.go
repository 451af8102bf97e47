package pdb

// Code says what was decided about a workload, and why. Event, metric, log, report
// and documentation all use these codes.
type Code string

// The values of Code. Reasons explains each in one sentence.
const (
	// Applied marks a workload that gets the budget it asks for.
	Applied Code = "applied"

	AdjustedValue      Code = "unusable-value"
	AdjustedBlocks     Code = "would-block-drains"
	AdjustedTakesAll   Code = "would-take-all"
	AdjustedQuorum     Code = "quorum-of-two"
	AdjustedUnscalable Code = "unscalable-pods"
	SteppedAside       Code = "stepped-aside"

	SkipOptedOut   Code = "opted-out"
	SkipOff        Code = "off"
	SkipBelowTwo   Code = "below-two"
	SkipNoSelector Code = "no-selector"
	SkipForeign    Code = "other-budget"
	SkipOverlap    Code = "overlapping-selector"
	SkipNameTaken  Code = "name-taken"
	SkipNoAccess   Code = "no-access"
	SkipQuota      Code = "quota"
	SkipCrowded    Code = "crowded"
	SkipRefused    Code = "refused"
)

// Outcome groups codes.
type Outcome string

// The values of Outcome.
const (
	OutcomeApplied  Outcome = "applied"  // the budget that was asked for
	OutcomeAdjusted Outcome = "adjusted" // a budget, but another than was asked for
	OutcomeSkipped  Outcome = "skipped"  // no budget of ours
)

// Reason is one row of the table of codes.
type Reason struct {
	Code    Code
	Outcome Outcome
	// Text says the reason in one sentence.
	Text string
	// Warn is set where the author of the workload can and may want to do something
	// about it: its Event is a Warning.
	Warn bool
	// Quiet is set where the author has asked for exactly this: no Event.
	Quiet bool
}

// reasons is the table of all codes. It never changes.
var reasons = [...]Reason{
	{Code: Applied, Outcome: OutcomeApplied, Text: "The workload has a budget as its settings say."},
	{Code: AdjustedValue, Outcome: OutcomeAdjusted,
		Text: "The annotation evenkeel.dev/disruption-budget can't be used; the next lower setting is in force.", Warn: true},
	{Code: AdjustedBlocks, Outcome: OutcomeAdjusted,
		Text: "The budget asked for would leave nothing to evict at the lowest number of replicas, so that no drain could " +
			"finish; the default is in force.", Warn: true},
	{Code: AdjustedTakesAll, Outcome: OutcomeAdjusted,
		Text: "The budget asked for would let a drain take all pods at the lowest number of replicas; the default is in " +
			"force (off asks for no budget).", Warn: true},
	{Code: AdjustedQuorum, Outcome: OutcomeAdjusted,
		Text: "Two replicas have no majority that survives a disruption; the default is in force, since no drain could " +
			"finish otherwise.", Warn: true},
	{Code: AdjustedUnscalable, Outcome: OutcomeAdjusted,
		Text: "The selector also selects pods whose controller has no scale (a Job's or DaemonSet's, for example), with " +
			"which Kubernetes can't work out maxUnavailable or a percentage; the budget is a minAvailable for the lowest " +
			"number of replicas instead.", Warn: true},
	{Code: SteppedAside, Outcome: OutcomeAdjusted, Warn: true, Text: "The budget has let nothing be evicted " +
		"for longer than its patience and permits every eviction now; it returns when all replicas are ready."},
	{Code: SkipOptedOut, Outcome: OutcomeSkipped,
		Text: "The workload or its pod template carries the label evenkeel.dev/inject: disabled.", Quiet: true},
	{Code: SkipOff, Outcome: OutcomeSkipped, Text: "The setting is off for this workload.", Quiet: true},
	{Code: SkipBelowTwo, Outcome: OutcomeSkipped,
		Text: "The workload may have fewer than two replicas (spec.replicas, or minReplicas of its " +
			"HorizontalPodAutoscaler), and a budget would block drains or mean nothing."},
	{Code: SkipNoSelector, Outcome: OutcomeSkipped,
		Text: "The workload has no usable selector to tell its pods by.", Warn: true},
	{Code: SkipForeign, Outcome: OutcomeSkipped,
		Text: "Another PodDisruptionBudget selects pods of the workload; it always wins, since with two budgets on a pod " +
			"every eviction fails."},
	{Code: SkipOverlap, Outcome: OutcomeSkipped,
		Text: "The selectors of two workloads select the same pods, and the other workload has the budget, since with two " +
			"budgets on a pod every eviction fails.", Warn: true},
	{Code: SkipNameTaken, Outcome: OutcomeSkipped,
		Text: "A PodDisruptionBudget of somebody else has the name that ours would get.", Warn: true},
	{Code: SkipNoAccess, Outcome: OutcomeSkipped,
		Text: "evenkeel may not read the scale of this kind; its ClusterRole needs list and watch on the resource and get " +
			"on its scale.", Warn: true},
	{Code: SkipQuota, Outcome: OutcomeSkipped, Warn: true,
		Text: "A ResourceQuota of the namespace leaves room for one more " +
			"PodDisruptionBudget or none, and evenkeel does not take the last; raise the quota to get a budget."},
	{Code: SkipCrowded, Outcome: OutcomeSkipped, Warn: true,
		Text: "Too many selectors of the namespace may select the same pods, " +
			"so evenkeel does not compare them all; a selector with a label of the workload's own gets a budget."},
	{Code: SkipRefused, Outcome: OutcomeSkipped, Warn: true,
		Text: "The API server has refused the budget, because of an " +
			"admission policy, a quota or missing rights; evenkeel tries again from time to time."},
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
	return Reason{Code: c, Outcome: OutcomeSkipped}
}

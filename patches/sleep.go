package patches

import (
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	kjson "sigs.k8s.io/json"

	"github.com/evenkeel/evenkeel/policy"
)

// DefaultPreStopSleep is the name of the default that makes a terminating
// container go on serving for a while.
const DefaultPreStopSleep = policy.SettingPreStopSleep

// apiGracePeriod is the API's default of terminationGracePeriodSeconds, which
// stands in the object that admission sees and is missing in a manifest.
const apiGracePeriod = 30

// addPreStopSleep lets endpoints and load balancers let go of a container before
// it is told to stop. Where a container serves, because it declares a port, a Service
// leads to it, or the workload's own annotations name it or ask for it, all ordinary containers of
// the pod sleep as long: the server needs its database proxy until it stops. Init
// containers and native sidecars never do; the kubelet stops those last.
//
// The hook counts inside terminationGracePeriodSeconds
// (https://kubernetes.io/docs/concepts/containers/container-lifecycle-hooks/). One
// that nobody wrote grows by exactly the sleep, so that the application keeps its own
// time; a written one is never changed, unless the setting grace-period asks for it,
// and the sleep fits inside. That of a Pod can't be told from a written one, and a
// Pod's can't change later.
//
//	grace period                       | sleep                     | raised by
//	0 or less                          | none (short-grace-period) | 0
//	nobody's, grace + sleep ≤ max      | sleep                     | sleep
//	nobody's, grace < max              | max − grace               | max − grace
//	nobody's, grace ≥ max              | at most half of grace     | 0
//	written, or of a Pod               | at most half of grace     | 0
//	written, with grace-period: raise  | as nobody's               | as nobody's
//
// With pre-stop-sleep: auto, the sleep is as long as the Services that select the pod need (package
// path), and never shorter than it would be without, nor longer than the operator's bound.
//
// A container whose liveness or startup probe has a terminationGracePeriodSeconds of
// its own (KEP-2238) sleeps at most half of that: it is killed after that time when the
// probe fails, and the sleep counts inside it.
func addPreStopSleep(in *input, out *output) {
	pod := in.pod()
	sleep, raise, skip := in.sleep()
	native := in.cluster.nativeSleep()
	if skip != SkipNone {
		out.skip(DefaultPreStopSleep, "", skip, nil)
	}
	serves := false
	for i := range pod.containers {
		serves = serves || in.serves(i)
	}
	unknown := !serves && in.evidence.serves(-1) // some container does, and all of them sleep
	asked := in.policy.Asked(policy.SettingPreStopSleep)
	sleeps := false // whether one that serves does
	for i := range pod.containers {
		if skip == SkipNone && (unknown || in.hookSkip(i, serves, asked) == SkipNone) {
			sleeps = sleeps || pod.containers[i].fitted(sleep) > 0
		}
	}
	raised := int64(0)
	for i := range pod.containers {
		c := &pod.containers[i]
		at := pod.hookSlot(i)
		pod.giveWay(i, out, "/lifecycle/preStop", c.hookParts)
		why, seconds := skip, c.fitted(sleep)
		if why == SkipNone {
			why = in.hookSkip(i, serves, asked)
			if why == SkipNoPort && sleeps && native && len(in.policy.Containers) == 0 {
				why = SkipNone
			}
			if why == SkipNone && seconds == 0 {
				why = SkipShortGracePeriod
			}
		}
		if why != SkipNone {
			if skip == SkipNone || at.standing != nil {
				out.skip(DefaultPreStopSleep, c.name, why, at.standing)
			}
			out.takeBack(&at)
			continue
		}
		out.begin(&at)
		out.patch = appendHook(out.patch, native, seconds)
		out.fill(&at)
		form := "exec:"
		if native {
			form = "sleep:"
		}
		out.note(c.name, DefaultPreStopSleep, form, strconv.FormatInt(seconds, 10))
		detail := in.slept
		if seconds != int64(in.config.Base.PreStopSleep/time.Second) {
			detail = slept(seconds)
		}
		out.applied(DefaultPreStopSleep, c.name, detail, &at)
		raised = raise
	}
	base := pod.graceSeconds()
	// A hook of theirs that sleeps longer than the grace period would be is refused: what stands
	// stays then, as theirs where nothing of ours sleeps any more.
	needed := longest(pod.containers)
	stays := pod.ours.graceTo >= needed && base+raised < needed
	switch {
	case raised == 0 && stays:
		return
	case raised == 0:
		pod.setGrace(out, 0)
		return
	case stays:
		raised = pod.ours.graceTo - base
	}
	if pod.graceNull || in.ours.record.wasNull("", entryGrace) {
		out.null = appendPlace(out.null, "", entryGrace)
	}
	to := strconv.FormatInt(base+raised, 10)
	if pod.grace == nil || !in.object.graceWritten() {
		out.note("", entryGrace, to)
	} else {
		out.note("", entryGrace, strconv.FormatInt(base, 10), "/", to)
	}
	pod.setGrace(out, base+raised)
	at := slot{same: base+raised == pod.ours.graceTo}
	if pod.ours.graceTo > 0 {
		at.standing = strconv.AppendInt(nil, pod.ours.graceTo, 10)
	}
	out.applied(DefaultPreStopSleep, "", fmt.Sprintf("grace period raised from %d to %d s", base, base+raised), &at)
}

// sleep returns how long containers sleep and by how much that raises the grace period, both in
// seconds, or why none does.
func (in *input) sleep() (sleep, raise int64, skip Skip) {
	pod := in.pod()
	sleep = int64(in.policy.PreStopSleep / time.Second)
	if in.policy.AutoSleep {
		sleep = max(sleep, min(int64(in.evidence.sleep), int64(in.config.Bounds.MaxPreStopSleep/time.Second)))
	}
	switch {
	case in.daemonSet() && !in.policy.Asked(policy.SettingPreStopSleep):
		return 0, 0, SkipDaemonSet
	case sleep == 0:
		return 0, 0, SkipOff
	case !in.cluster.nativeSleep() && (!in.config.AllowExecSleep || pod.windows):
		return 0, 0, SkipNoNativeSleep
	}
	fixed := in.object.kind == "Pod" || !in.policy.RaiseGracePeriod && in.object.graceWritten()
	sleep, raise = fit(pod.graceSeconds(), sleep, int64(in.config.MaxGracePeriod/time.Second), fixed)
	return sleep, raise, SkipNone
}

// slept says a sleep for the report.
func slept(seconds int64) string { return fmt.Sprintf("sleep %d s", seconds) }

// serves reports whether the i-th container shows that it serves.
func (in *input) serves(i int) bool {
	return len(in.pod().containers[i].ports) > 0 || in.evidence.serves(i)
}

// hookSkip returns why the i-th container doesn't sleep on its own account, or SkipNone. serves says
// whether any container of the pod does.
func (in *input) hookSkip(i int, serves, asked bool) Skip {
	c := &in.pod().containers[i]
	switch {
	case c.preStop != nil:
		return SkipUserSet
	case !in.selects(c):
		return SkipNotSelected
	case !in.serves(i) && len(in.policy.Containers) == 0 && (serves || !asked):
		return SkipNoPort
	}
	return SkipNone
}

// fitted returns sleep, in seconds, or as much of it as a failed probe of c leaves time for.
func (c *container) fitted(sleep int64) int64 {
	if c.killGrace == nil {
		return sleep
	}
	return max(min(sleep, *c.killGrace/2), 0)
}

// appendHook appends a lifecycle handler that sleeps.
func appendHook(b []byte, native bool, seconds int64) []byte {
	before, after := `{"exec":{"command":["sleep","`, `"]}}`
	if native {
		before, after = `{"sleep":{"seconds":`, `}}`
	}
	return append(strconv.AppendInt(append(b, before...), seconds, 10), after...)
}

// graceSeconds returns the termination grace period without what is ours.
func (p *podTemplate) graceSeconds() int64 {
	if p.grace == nil {
		return apiGracePeriod
	}
	return *p.grace
}

// nativeSleepOf returns the seconds of a raw hook that the API compares with the grace period, or 0.
func nativeSleepOf(preStop []byte) int64 {
	if len(preStop) == 0 { // as nearly always
		return 0
	}
	var hook corev1.LifecycleHandler
	if kjson.UnmarshalCaseSensitivePreserveInts(preStop, &hook) != nil || hook.Sleep == nil {
		return 0
	}
	return hook.Sleep.Seconds
}

// longest returns the longest native sleep of hooks that aren't ours, in seconds.
func longest(containers []container) int64 {
	seconds := int64(0)
	for i := range containers {
		seconds = max(seconds, nativeSleepOf(containers[i].preStop))
	}
	return seconds
}

// fit returns how long to sleep within the grace period and by how much to raise
// it, all in seconds. A fixed one is not to be raised.
func fit(grace, sleep, maxGrace int64, fixed bool) (fitted, raise int64) {
	switch room := maxGrace - grace; {
	case grace <= 0:
		return 0, 0
	case room > 0 && !fixed:
		sleep = min(sleep, room)
		return sleep, sleep
	}
	return min(sleep, grace/2), 0
}

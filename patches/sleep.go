package patches

import (
	"fmt"
	"slices"
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
// it is told to stop. Containers that serve get it: those that declare a port, or
// that are named or asked for by the workload's own annotations. Init containers
// and native sidecars never do.
//
// The hook counts inside terminationGracePeriodSeconds
// (https://kubernetes.io/docs/concepts/containers/container-lifecycle-hooks/), so
// that is raised by exactly the sleep and the application keeps its own time:
//
//	grace period               | sleep                        | raised by
//	0 or less                  | none (short-grace-period)    | 0
//	grace + sleep ≤ max        | sleep                        | sleep
//	grace < max < grace+sleep  | max − grace                  | max − grace
//	grace ≥ max                | at most half of grace        | 0
//	raised in an earlier round | at most half of grace        | 0
//	of a Pod without owner     | at most half of grace        | 0
//
// A manifest that is applied again while nobody looks, since evenkeel is away or the
// workload has opted out, sets the grace period back to what is written in it. So a
// sleep that nobody asked for is at most as long as a grace period that somebody
// wrote, or the API would refuse that manifest from then on; and that of a Pod without
// owner stays as it is, since the API refuses any change of it.
func addPreStopSleep(in *input, out *output) {
	pod := in.pod()
	grace := pod.graceSeconds()
	base := grace
	if again := in.raisedAgain(grace); again > 0 {
		base = in.unmistakable(grace + again)
	}
	raise, added := addHooks(in, out, base)
	if added && raise == 0 && in.lacking(base) > 0 { // once recorded, it would be raised in a further review
		base = in.unmistakable(base)
	}
	if base > grace {
		out.applied(DefaultPreStopSleep, "", fmt.Sprintf("grace period raised by %d s again", base-grace))
	}
	if base+raise != grace {
		setGrace(pod, out, in.unmistakable(base+raise))
	}
}

// addHooks adds the hooks that fit into the grace period, and returns by how much
// they raise it, all in seconds, and whether there are any.
func addHooks(in *input, out *output, grace int64) (raise int64, added bool) {
	pod, seconds := in.pod(), int64(in.policy.PreStopSleep/time.Second)
	switch {
	case in.daemonSet() && !in.policy.Asked(policy.SettingPreStopSleep):
		out.skip(DefaultPreStopSleep, "", SkipDaemonSet)
		return 0, false
	case seconds == 0:
		out.skip(DefaultPreStopSleep, "", SkipOff)
		return 0, false
	}

	serves := slices.ContainsFunc(pod.containers, func(c container) bool { return len(c.ports) > 0 })
	var room [8]Skip
	skips := room[:0]
	if len(pod.containers) > len(room) {
		skips = make([]Skip, 0, len(pod.containers))
	}
	skips = skips[:len(pod.containers)]
	for i := range pod.containers {
		c := &pod.containers[i]
		switch {
		case c.preStop != nil:
			skips[i] = SkipUserSet
		case !in.selects(c):
			skips[i] = SkipNotSelected
		case len(c.ports) == 0 && len(in.policy.Containers) == 0 && (serves || !in.policy.Asked(policy.SettingPreStopSleep)):
			skips[i] = SkipNoPort
		}
	}

	native := in.cluster.nativeSleep()
	if grace != apiGracePeriod && !in.policy.Asked(policy.SettingPreStopSleep) {
		seconds = min(seconds, grace)
	}
	fixed := in.object.kind == "Pod" && in.object.meta.controller == "" ||
		recorded(pod, DefaultPreStopSleep) && !in.unchangedManifest(grace)
	sleep, raise := fit(grace, seconds, int64(in.config.MaxGracePeriod/time.Second), fixed)
	if raise == 0 && in.unchangedManifest(grace) && *in.old.pod.grace-grace == sleep {
		// Another hook than the one that grace lacks to be the earlier grace period, or a further review would raise it.
		if sleep--; sleep == 0 {
			sleep = 2
		}
	}
	switch {
	case !slices.Contains(skips, SkipNone):
		raise = 0
	case !native && (!in.config.AllowExecSleep || pod.windows):
		out.skip(DefaultPreStopSleep, "", SkipNoNativeSleep)
		return 0, false
	case sleep == 0:
		out.skip(DefaultPreStopSleep, "", SkipShortGracePeriod)
		return 0, false
	}

	detail := "sleep " + strconv.FormatInt(sleep, 10) + " s"
	for i, skip := range skips {
		if skip != SkipNone {
			out.skip(DefaultPreStopSleep, pod.containers[i].name, skip)
			continue
		}
		if pod.containers[i].lifecycle {
			out.open("add", pod.path, "/spec/containers/", strconv.Itoa(i), "/lifecycle/preStop")
			out.hook(native, sleep)
		} else {
			out.open("add", pod.path, "/spec/containers/", strconv.Itoa(i), "/lifecycle")
			out.write(`{"preStop":`)
			out.hook(native, sleep)
			out.write(`}`)
		}
		out.close()
		added = true
		out.applied(DefaultPreStopSleep, pod.containers[i].name, detail)
	}
	return raise, added
}

// hook writes a lifecycle handler that sleeps.
func (o *output) hook(native bool, seconds int64) {
	if native {
		o.write(`{"sleep":{"seconds":`)
		o.integer(seconds)
		o.write(`}}`)
		return
	}
	o.write(`{"exec":{"command":["sleep","`)
	o.integer(seconds)
	o.write(`"]}}`)
}

// graceSeconds returns the termination grace period.
func (p *podTemplate) graceSeconds() int64 {
	if p.grace == nil {
		return apiGracePeriod
	}
	return *p.grace
}

func setGrace(pod *podTemplate, out *output, seconds int64) {
	operation := "add"
	if pod.grace != nil {
		operation = "replace"
	}
	out.open(operation, pod.path, "/spec/terminationGracePeriodSeconds")
	out.integer(seconds)
	out.close()
}

// raisedAgain returns by how many seconds to raise a grace period that an update
// wrote over the one we raised, under a hook that stands, so that we neither
// restart pods nor make an object invalid. That holds whatever the settings say by
// now. Other grace periods are left as the update has them: it can't be seen
// whether they are raised already, by a review a moment ago or in a revision that
// is rolled back to.
//
//	the update's grace period        | is raised to
//	the earlier one minus a sleep    | the earlier one: kubectl apply wrote the
//	                                 | manifest's value, which has not changed
//	shorter than a native sleep      | itself and the sleep, at most the maximum,
//	                                 | but to the sleep at least: the API rejects less
//	any other                        | not raised
func (in *input) raisedAgain(grace int64) int64 {
	pod := in.pod()
	if in.old == nil || !recorded(pod, DefaultPreStopSleep) || !recorded(&in.old.pod, DefaultPreStopSleep) ||
		in.old.pod.grace == nil || *in.old.pod.grace == grace {
		return 0
	}
	if sleep := in.lacking(grace); sleep > 0 {
		return sleep
	}
	longest := int64(0)
	for i := range pod.containers {
		if isNative(pod.containers[i].preStop) {
			longest = max(longest, in.stood(&pod.containers[i]))
		}
	}
	if grace < 0 || grace >= longest {
		return 0
	}
	return max(min(longest, int64(in.config.MaxGracePeriod/time.Second)-grace), longest-grace)
}

// lacking returns the sleep of a hook that stands and by which grace is shorter than
// the earlier grace period, or 0, all in seconds.
func (in *input) lacking(grace int64) int64 {
	if in.old == nil || grace < 0 || in.old.pod.grace == nil || !recorded(&in.old.pod, DefaultPreStopSleep) {
		return 0
	}
	pod := in.pod()
	for i := range pod.containers {
		if sleep := in.stood(&pod.containers[i]); sleep > 0 && grace+sleep == *in.old.pod.grace {
			return sleep
		}
	}
	return 0
}

// stood returns the seconds of a container's hook that does nothing but sleep, and
// did before, or 0.
func (in *input) stood(c *container) int64 {
	sleep := sleepOf(c.preStop)
	if sleep <= 0 || !slices.ContainsFunc(in.old.pod.containers, func(o container) bool { return o.name == c.name && sleepOf(o.preStop) == sleep }) {
		return 0
	}
	return sleep
}

// unmistakable returns a grace period that we are about to write, or one a second
// longer where a further review of the same update would take it for the value of
// an unchanged manifest.
func (in *input) unmistakable(grace int64) int64 {
	for in.unchangedManifest(grace) {
		grace++
	}
	return grace
}

// unchangedManifest reports whether grace, in seconds, is what the manifest of an
// update had to say before, too: the earlier grace period without a sleep of ours.
func (in *input) unchangedManifest(grace int64) bool {
	return in.old != nil && in.old.pod.grace != nil && recorded(&in.old.pod, DefaultPreStopSleep) &&
		raised(&in.old.pod, grace)
}

// sleepOf returns the seconds of a hook that does nothing but sleep, or 0.
func sleepOf(preStop []byte) int64 {
	var hook corev1.LifecycleHandler
	if len(preStop) == 0 || kjson.UnmarshalCaseSensitivePreserveInts(preStop, &hook) != nil {
		return 0
	}
	switch {
	case hook.Sleep != nil:
		return hook.Sleep.Seconds
	case hook.Exec != nil && len(hook.Exec.Command) == 2 && hook.Exec.Command[0] == "sleep":
		seconds, err := strconv.ParseInt(hook.Exec.Command[1], 10, 64)
		if err == nil {
			return seconds
		}
	}
	return 0
}

// isNative reports whether a hook that sleeps is one that the API compares with the
// grace period, rather than a command.
func isNative(preStop []byte) bool {
	var hook corev1.LifecycleHandler
	return kjson.UnmarshalCaseSensitivePreserveInts(preStop, &hook) == nil && hook.Sleep != nil
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

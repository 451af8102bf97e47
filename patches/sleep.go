package patches

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

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
func addPreStopSleep(in *input, out *output) {
	pod, seconds := in.pod(), int64(in.policy.PreStopSleep/time.Second)
	switch {
	case in.daemonSet() && !in.policy.Asked(policy.SettingPreStopSleep):
		out.skip(DefaultPreStopSleep, "", SkipDaemonSet)
		return
	case seconds == 0:
		out.skip(DefaultPreStopSleep, "", SkipOff)
		return
	}

	serves := slices.ContainsFunc(pod.containers, func(c container) bool { return len(c.ports) > 0 })
	var chosen []int
	for i := range pod.containers {
		c := &pod.containers[i]
		switch {
		case c.preStop != nil:
			out.skip(DefaultPreStopSleep, c.name, SkipUserSet)
		case !in.selects(c):
			out.skip(DefaultPreStopSleep, c.name, SkipNotSelected)
		case len(c.ports) == 0 && len(in.policy.Containers) == 0 && (serves || !in.policy.Asked(policy.SettingPreStopSleep)):
			out.skip(DefaultPreStopSleep, c.name, SkipNoPort)
		default:
			chosen = append(chosen, i)
		}
	}
	if len(chosen) == 0 {
		raiseAgain(in, out)
		return
	}

	native := in.cluster.nativeSleep()
	if !native && (!in.config.AllowExecSleep || pod.windows) {
		out.skip(DefaultPreStopSleep, "", SkipNoNativeSleep)
		return
	}
	grace := int64(apiGracePeriod)
	if pod.grace != nil {
		grace = *pod.grace
	}
	sleep, raise := fit(grace, seconds, int64(in.config.MaxGracePeriod/time.Second), recorded(pod, DefaultPreStopSleep))
	if sleep == 0 {
		out.skip(DefaultPreStopSleep, "", SkipShortGracePeriod)
		return
	}

	hook := corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: sleep}}
	if !native {
		hook = corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sleep", strconv.FormatInt(sleep, 10)}}}
	}
	for _, i := range chosen {
		path := fmt.Sprintf("%s/spec/containers/%d/lifecycle", pod.path, i)
		if pod.containers[i].lifecycle {
			out.add(path+"/preStop", hook)
		} else {
			out.add(path, corev1.Lifecycle{PreStop: &hook})
		}
		out.applied(DefaultPreStopSleep, pod.containers[i].name, fmt.Sprintf("sleep %d s", sleep))
	}
	if raise > 0 {
		setGrace(pod, out, grace+raise)
	}
}

func setGrace(pod *podTemplate, out *output, seconds int64) {
	path := pod.path + "/spec/terminationGracePeriodSeconds"
	if pod.grace == nil {
		out.add(path, seconds)
	} else {
		out.replace(path, seconds)
	}
}

// raiseAgain keeps the application's shutdown time when an update writes a grace
// period of its own into a template that carries our hook: the update's author
// means the time without the sleep, and one shorter than the sleep would make the
// object invalid.
func raiseAgain(in *input, out *output) {
	pod := in.pod()
	if in.old == nil || !recorded(&in.old.pod, DefaultPreStopSleep) || pod.grace == nil || in.old.pod.grace == nil ||
		*pod.grace == *in.old.pod.grace {
		return
	}
	sleep := int64(0)
	for i := range pod.containers {
		if seconds := sleepOf(pod.containers[i].preStop); seconds > 0 && (sleep == 0 || seconds < sleep) {
			sleep = seconds
		}
	}
	grace := max(*pod.grace, 0)
	raise := max(min(sleep, int64(in.config.MaxGracePeriod/time.Second)-grace), sleep-grace)
	if sleep > 0 && raise > 0 {
		setGrace(pod, out, grace+raise)
		out.applied(DefaultPreStopSleep, "", fmt.Sprintf("grace period raised by %d s", raise))
	}
}

// sleepOf returns the seconds of a hook that does nothing but sleep, or 0.
func sleepOf(preStop []byte) int64 {
	var hook corev1.LifecycleHandler
	if len(preStop) == 0 || json.Unmarshal(preStop, &hook) != nil {
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

// fit returns how long to sleep within the grace period and by how much to raise
// it, all in seconds.
func fit(grace, sleep, maxGrace int64, raised bool) (fitted, raise int64) {
	switch room := maxGrace - grace; {
	case grace <= 0:
		return 0, 0
	case room > 0 && !raised:
		sleep = min(sleep, room)
		return sleep, sleep
	}
	return min(sleep, grace/2), 0
}

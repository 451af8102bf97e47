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
	pod := in.pod()
	grace := pod.graceSeconds()
	again := in.raisedAgain(grace)
	raise := addHooks(in, out, grace+again)
	if again > 0 {
		out.applied(DefaultPreStopSleep, "", fmt.Sprintf("grace period raised by %d s again", again))
	}
	if again+raise > 0 {
		setGrace(pod, out, grace+again+raise)
	}
}

// addHooks adds the hooks that fit into the grace period, and returns by how much
// they raise it, all in seconds.
func addHooks(in *input, out *output, grace int64) (raise int64) {
	pod, seconds := in.pod(), int64(in.policy.PreStopSleep/time.Second)
	switch {
	case in.daemonSet() && !in.policy.Asked(policy.SettingPreStopSleep):
		out.skip(DefaultPreStopSleep, "", SkipDaemonSet)
		return 0
	case seconds == 0:
		out.skip(DefaultPreStopSleep, "", SkipOff)
		return 0
	}

	serves := slices.ContainsFunc(pod.containers, func(c container) bool { return len(c.ports) > 0 })
	skips := make([]Skip, len(pod.containers))
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
	sleep, raise := fit(grace, seconds, int64(in.config.MaxGracePeriod/time.Second), recorded(pod, DefaultPreStopSleep))
	switch {
	case !slices.Contains(skips, SkipNone):
		raise = 0
	case !native && (!in.config.AllowExecSleep || pod.windows):
		out.skip(DefaultPreStopSleep, "", SkipNoNativeSleep)
		return 0
	case sleep == 0:
		out.skip(DefaultPreStopSleep, "", SkipShortGracePeriod)
		return 0
	}

	hook := corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: sleep}}
	if !native {
		hook = corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sleep", strconv.FormatInt(sleep, 10)}}}
	}
	for i, skip := range skips {
		if skip != SkipNone {
			out.skip(DefaultPreStopSleep, pod.containers[i].name, skip)
			continue
		}
		path := fmt.Sprintf("%s/spec/containers/%d/lifecycle", pod.path, i)
		if pod.containers[i].lifecycle {
			out.add(path+"/preStop", hook)
		} else {
			out.add(path, corev1.Lifecycle{PreStop: &hook})
		}
		out.applied(DefaultPreStopSleep, pod.containers[i].name, fmt.Sprintf("sleep %d s", sleep))
	}
	return raise
}

// graceSeconds returns the termination grace period.
func (p *podTemplate) graceSeconds() int64 {
	if p.grace == nil {
		return apiGracePeriod
	}
	return *p.grace
}

func setGrace(pod *podTemplate, out *output, seconds int64) {
	path := pod.path + "/spec/terminationGracePeriodSeconds"
	if pod.grace == nil {
		out.add(path, seconds)
	} else {
		out.replace(path, seconds)
	}
}

// raisedAgain returns by how many seconds to raise a grace period that an update
// wrote over the one we raised, under a hook of ours that stands: the update's
// author means the time without the sleep (kubectl apply of an unchanged manifest
// does this each time), and one shorter than the sleep would make the object
// invalid. That holds whatever the settings say by now.
//
// A template that brings a hook of its own along, as a rollback to an earlier
// revision does, brings the grace period that fits it.
func (in *input) raisedAgain(grace int64) int64 {
	pod := in.pod()
	if in.old == nil || !recorded(pod, DefaultPreStopSleep) || !recorded(&in.old.pod, DefaultPreStopSleep) ||
		in.old.pod.grace == nil || *in.old.pod.grace == grace {
		return 0
	}
	sleep := int64(0) // the shortest, unless one explains the difference
	for i := range pod.containers {
		seconds := sleepOf(pod.containers[i].preStop)
		stood := slices.ContainsFunc(in.old.pod.containers, func(c container) bool {
			return c.name == pod.containers[i].name && sleepOf(c.preStop) == seconds
		})
		if seconds <= 0 || !stood {
			continue
		}
		if grace+seconds == *in.old.pod.grace {
			return seconds
		}
		if sleep == 0 || seconds < sleep {
			sleep = seconds
		}
	}
	if sleep == 0 {
		return 0
	}
	return max(min(sleep, int64(in.config.MaxGracePeriod/time.Second)-grace), sleep-grace, 0)
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

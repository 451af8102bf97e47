package patches

import "strconv"

// refused reports whether the API server would refuse a Pod for what stands of ours, after split: a
// sleep that isn't below the grace period, or a handler of ours beside another one. Another webhook
// has changed the Pod since its template was looked at. A sleep as long as the grace period is taken,
// but leaves the application no time.
func (p *podTemplate) refused() bool {
	grace := max(p.graceNow(), 1)
	for i := range p.containers {
		c := &p.containers[i]
		if c.hookParts != nil || c.probeParts != nil || nativeSleepOf(c.ourPreStop) >= grace {
			return true
		}
	}
	return false
}

// graceNow returns the termination grace period that stands, ours or theirs, in seconds.
func (p *podTemplate) graceNow() int64 {
	if p.ours.graceTo > 0 {
		return p.ours.graceTo
	}
	return p.graceSeconds()
}

// mend makes a Pod of a template that was looked at already one that the API server takes: our sleep
// fits into the grace period, and our handlers give way to others. Nothing else is decided anew, since
// what the workload says isn't known here.
func mend(in *input, out *output) {
	pod := in.pod()
	grace := max(pod.graceNow(), 1)
	changed := map[string]string{} // places whose entry in the record changes, with what it becomes
	out.skip(DefaultAntiAffinity, "", SkipTemplateDone, nil)
	for i := range pod.containers {
		c := &pod.containers[i]
		at := pod.hookSlot(i)
		sleep := nativeSleepOf(c.ourPreStop)
		fitted := min(sleep, grace/2)
		switch {
		case c.hookParts != nil:
			pod.giveWay(i, out, "/lifecycle/preStop", c.hookParts)
			changed[c.name+"/"+DefaultPreStopSleep] = ""
			out.skip(DefaultPreStopSleep, c.name, SkipUserSet, []byte(c.hookParts[0]))
		case sleep < grace:
			out.skip(DefaultPreStopSleep, c.name, SkipTemplateDone, nil)
		case fitted == 0:
			changed[c.name+"/"+DefaultPreStopSleep] = ""
			out.skip(DefaultPreStopSleep, c.name, SkipShortGracePeriod, at.standing)
			out.takeBack(&at)
		default:
			length := strconv.FormatInt(fitted, 10)
			changed[c.name+"/"+DefaultPreStopSleep] = "sleep:" + length
			out.begin(&at)
			out.patch = appendHook(out.patch, true, fitted)
			out.fill(&at)
			out.applied(DefaultPreStopSleep, c.name, "sleep "+length+" s", &at)
		}
	}
	for i := range pod.containers {
		c := &pod.containers[i]
		if c.probeParts == nil {
			out.skip(DefaultReadinessProbe, c.name, SkipTemplateDone, nil)
			continue
		}
		pod.giveWay(i, out, "/readinessProbe", c.probeParts)
		changed[c.name+"/"+DefaultReadinessProbe] = ""
		out.skip(DefaultReadinessProbe, c.name, SkipUserSet, []byte(c.probeParts[0]))
	}
	if pod.ours.graceTo == 0 {
		changed["/"+entryGrace] = ""
	}
	for _, e := range pod.ours.record {
		value, found := changed[e.container+"/"+e.name]
		if !found {
			value = e.value
		}
		if value != "" {
			out.note(e.container, e.name, value)
		}
	}
	out.setRecord(in, out.record, true)
}

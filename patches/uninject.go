package patches

import (
	"errors"
	"fmt"

	"github.com/evenkeel/evenkeel/policy"
)

// Uninject returns what takes back from a workload or a Pod all that its record says, and nothing
// else: what somebody has changed since is theirs. What inject has added to a manifest is gone then,
// and the manifest is what it was.
//
// Every kind with a pod template is looked at, also where it is opted out or belongs to another
// object. A record that can't be read is SkipForeignRecord, and nothing is taken back.
func Uninject(raw []byte) (result Result) {
	o, err := parse(raw)
	result.Kind, result.Name = o.kind, o.meta.name
	switch {
	case err != nil:
		return nothing(result, SkipUnreadable, fmt.Errorf("read object: object %w", err))
	case !o.templated():
		return nothing(result, SkipKind, nil)
	case !o.pod.spec:
		return nothing(result, SkipUnreadable, errors.New("read object: object has no pod spec"))
	case o.tooMany():
		return nothing(result, SkipTooManyParts, nil)
	case !o.pod.named():
		return nothing(result, SkipContainerName, nil)
	}
	text, noted := o.pod.meta.annotations[policy.InjectedAnnotation]
	r, ok := readRecord(text)
	if noted && !ok {
		return nothing(result, SkipForeignRecord, nil)
	}
	config := DefaultConfig()
	off := config.Base
	off.AntiAffinity, off.PreStopSleep, off.NodeLoss = policy.AntiAffinityOff, 0, 0
	off.ReadinessProbe = policy.Probe{Kind: policy.ProbeOff}
	o.offline = true
	o.split(&Request{}, r, nil) // without a deadline
	in := &input{object: o, ours: &o.pod.ours, policy: off, config: &config, offline: true}
	var out output
	out.reset()
	addSpread(in, &out)
	addPreStopSleep(in, &out)
	addReadinessProbe(in, &out)
	addNodeLoss(in, &out)
	addRecord(in, &out)
	result.Patch, result.Decisions = []byte("[]"), out.decisions
	if out.failed != SkipNone {
		return nothing(result, out.failed, nil)
	}
	if len(out.spans) == 0 {
		return result
	}
	patch, changes := out.changes()
	if err := (&proof{}).applies(patch, changes, raw, o); err != nil {
		return nothing(result, SkipInternalError, err)
	}
	result.Operations, result.Patch = changes, patch
	return result
}

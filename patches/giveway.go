package patches

import (
	"encoding/json"
	"reflect"
	"strconv"
)

// giveWay takes back a handler of ours where the workload has one of its own by now.
// Whoever applies a manifest, on either side, merges it into what stands: a readinessProbe or
// preStop hook that is new in it stands beside ours then, and the API refuses both at
// once ("may not specify more than 1 handler type", k8s.io/kubernetes/pkg/apis/core/validation).
//
// It is the only thing that is ever removed, and no value that somebody else wrote: of
// two handlers it is the one that stood there alone before, under our record and as we write it.
func giveWay(in *input, out *output) {
	if in.old == nil {
		return
	}
	pod := in.pod()
	for _, place := range [...]struct {
		name, path string
		of         func(c *container) *[]byte
		ours       func(raw []byte) bool
	}{
		{DefaultPreStopSleep, "/lifecycle/preStop", func(c *container) *[]byte { return &c.preStop }, func(raw []byte) bool { return sleepOf(raw) > 0 }},
		{DefaultReadinessProbe, "/readinessProbe", func(c *container) *[]byte { return &c.readinessProbe }, isOurProbe},
	} {
		if !recorded(pod, place.name) || !recorded(&in.old.pod, place.name) {
			continue
		}
		gone, left := false, false
		for i := range pod.containers {
			c := &pod.containers[i]
			before := in.old.pod.container(c.name)
			if before == nil || !place.ours(*place.of(before)) {
				continue
			}
			now := place.of(c)
			kind, rest := superseded(*place.of(before), *now)
			if kind == "" {
				left = left || place.ours(*now)
				continue
			}
			out.remove(pod.path, "/spec/containers/", strconv.Itoa(i), place.path, "/", kind)
			*now, gone = rest, true
		}
		if gone && !left {
			in.gone = append(in.gone, place.name)
		}
	}
}

// container returns the container with a name, or nil.
func (p *podTemplate) container(name string) *container {
	for i := range p.containers {
		if p.containers[i].name == name {
			return &p.containers[i]
		}
	}
	return nil
}

// superseded returns the kind of the one handler of before that stands in after beside
// another one, and after without it, or "".
func superseded(before, after []byte) (kind string, rest []byte) {
	old, err1 := decode(before)
	updated, err2 := decode(after)
	if err1 != nil || err2 != nil {
		return "", nil
	}
	was, is := handlersOf(old), handlersOf(updated)
	if len(was) != 1 || len(is) != 2 || !reflect.DeepEqual(old[was[0]], updated[was[0]]) {
		return "", nil
	}
	delete(updated, was[0])
	rest, err := json.Marshal(updated)
	if err != nil {
		return "", nil
	}
	return was[0], rest
}

// handlersOf returns the kinds of the handlers of a decoded probe or hook.
func handlersOf(value map[string]any) []string {
	var kinds []string
	for _, kind := range [...]string{"exec", "grpc", "httpGet", "sleep", "tcpSocket"} {
		if value[kind] != nil {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

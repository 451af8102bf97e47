package patches

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/evenkeel/evenkeel/policy"
)

// keep returns operations that turn the new pod template into the old one, if
// the two differ in nothing but what we added to the old one earlier. That is what
// an update looks like which sends the whole manifest again (kubectl replace, an
// operator): it strips our additions, and other ones in their place, as changed
// flags or a new release would give, would restart the pods for nothing.
//
// It reports false when the templates
// differ in anything else, and then the update restarts the pods anyway.
func keep(before, after *object) (*keeper, bool) {
	old, err1 := decode(before.template)
	updated, err2 := decode(after.template)
	if err1 != nil || err2 != nil || old == nil || updated == nil {
		return nil, false
	}
	k := &keeper{}
	pod := &before.pod
	path := after.pod.path
	if recorded(pod, DefaultAntiAffinity) {
		k.carry(old, updated, path, "spec", "affinity", "podAntiAffinity")
	}
	oldContainers, newContainers := elements(old), elements(updated)
	if len(oldContainers) != len(newContainers) {
		return nil, false
	}
	for i := range oldContainers {
		at := fmt.Sprintf("%s/spec/containers/%d", path, i)
		if recorded(pod, DefaultPreStopSleep) && sleepOf(pod.containers[i].preStop) > 0 {
			k.carry(oldContainers[i], newContainers[i], at, "lifecycle", "preStop")
		}
		if probe, _ := oldContainers[i]["readinessProbe"].(map[string]any); recorded(pod, DefaultReadinessProbe) && ourProbe(probe) {
			k.carry(oldContainers[i], newContainers[i], at, "readinessProbe")
		}
	}
	if recorded(pod, DefaultPreStopSleep) && pod.grace != nil && raised(pod, after.pod.graceSeconds()) {
		k.carryGrace(old, updated, path)
	}
	k.carry(old, updated, path, "metadata", "annotations", policy.InjectedAnnotation)
	k.carry(old, updated, path, "metadata", "labels", policy.DefaultedLabel)
	return k, reflect.DeepEqual(old, updated)
}

// raised reports whether the grace period of pod is grace raised by a sleep of pod,
// in seconds. Any other difference is a new grace period that the user wrote.
func raised(pod *podTemplate, grace int64) bool {
	return slices.ContainsFunc(pod.containers, func(c container) bool {
		sleep := sleepOf(c.preStop)
		return sleep > 0 && grace >= 0 && *pod.grace == grace+sleep
	})
}

// decode reads a JSON object with its numbers as written.
func decode(raw []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var value map[string]any
	err := d.Decode(&value)
	return value, err
}

// elements returns the containers of a decoded pod template.
func elements(template map[string]any) []map[string]any {
	spec, _ := template["spec"].(map[string]any)
	list, _ := spec["containers"].([]any)
	containers := make([]map[string]any, len(list))
	for i := range list {
		containers[i], _ = list[i].(map[string]any)
	}
	return containers
}

// isOurProbe reports whether a raw readiness probe can be ours.
func isOurProbe(raw []byte) bool {
	probe, err := decode(raw)
	return err == nil && ourProbe(probe)
}

// ourProbe reports whether a readiness probe has our timings, and so can be ours.
func ourProbe(probe map[string]any) bool {
	number := func(key string) int64 {
		text, _ := probe[key].(json.Number)
		n, err := text.Int64()
		if err != nil {
			return -1
		}
		return n
	}
	timeout := number("timeoutSeconds")
	return timeout >= probeTimeout && number("periodSeconds") == max(timeout, probePeriod) &&
		number("failureThreshold") == probeFailureThreshold && probe["initialDelaySeconds"] == nil
}

// keeper writes values of the old template into the new one, and notes the
// operations that do the same.
type keeper struct{ notes []note }

// note is an operation whose value may still grow.
type note struct {
	operation, path string
	value           any
}

// write appends what was noted to out.
func (k *keeper) write(out *output) {
	for _, n := range k.notes {
		if n.operation == "replace" {
			out.replace(n.path, n.value)
		} else {
			out.add(n.path, n.value)
		}
	}
}

// carry sets the member at keys below updated to that of old, if only old has it.
func (k *keeper) carry(old, updated map[string]any, path string, keys ...string) {
	value := any(old)
	for _, key := range keys {
		member, _ := value.(map[string]any)
		value = member[key]
	}
	if value == nil {
		return
	}
	for i, key := range keys {
		path += "/" + escape(key)
		switch member := updated[key].(type) {
		case nil: // with the parents that are missing, and nothing else of theirs
			for _, inner := range slices.Backward(keys[i+1:]) {
				value = map[string]any{inner: value}
			}
			updated[key] = value
			if !slices.ContainsFunc(k.notes, func(n note) bool { return strings.HasPrefix(path, n.path+"/") }) {
				k.notes = append(k.notes, note{"add", path, value})
			}
			return
		case map[string]any:
			updated = member
		default:
			return
		}
	}
}

func (k *keeper) carryGrace(old, updated map[string]any, path string) {
	const key = "terminationGracePeriodSeconds"
	before, _ := old["spec"].(map[string]any)
	after, _ := updated["spec"].(map[string]any)
	if before == nil || after == nil || before[key] == nil || reflect.DeepEqual(before[key], after[key]) {
		return
	}
	n := note{"replace", path + "/spec/" + key, before[key]}
	if after[key] == nil {
		n.operation = "add"
	}
	k.notes = append(k.notes, n)
	after[key] = before[key]
}

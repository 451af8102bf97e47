package patches

import (
	"slices"
	"strconv"

	"github.com/evenkeel/evenkeel/policy"
)

// round says what a review does with what is ours.
type round int

const (
	// roundDecide decides everything of ours anew, by the settings in force.
	roundDecide round = iota
	// roundKeep turns the pod template into the old one.
	roundKeep
	// roundTakenAway is an update that takes part of ours away and nothing else.
	roundTakenAway
	// roundMend lets what is ours in a Pod fit to what another webhook has changed.
	roundMend
)

// against splits o, and old where there is one, into ours and theirs, and says what to do. Where the
// incoming object has lost the record, that of the old one counts; where it has another one, both.
//
//	theirs    | incoming record    | what of ours stands      | round
//	no old    | any                | any                      | decide
//	changed   | any                | any                      | decide
//	same      | none               | nothing                  | keep: the manifest was sent again
//	same      | none, but label    | nothing                  | decide: that was decided in an
//	          |                    |                          | earlier round of this request
//	same      | none, or as in old | all                      | keep
//	same      | none               | some                     | taken away: a merge took the
//	          |                    |                          | annotations too
//	same      | as in old          | not all                  | taken away
//	same      | other than in old  | any                      | decide: as with an earlier round
//
// A Pod of a template that was done is left as it is, or mended.
//
// Where a guessed probe that stands is known to have failed, everything is decided: it goes, whatever
// the update is.
//
// A template that a revision of the workload has is left as it is, so that going back gives back
// what ran; but for a whole object that was sent again without any of ours, while theirs is the same.
func (o *object) against(old *object, req *Request) (round, Skip) {
	text, noted := o.pod.meta.annotations[policy.InjectedAnnotation]
	r, ok := readRecord(text)
	switch {
	case noted && !ok:
		return 0, SkipForeignRecord
	case noted && o.kind == "Pod" && o.meta.controller != "":
		switch {
		case !o.split(req, r, nil):
			return 0, SkipDeadline
		case !o.pod.refused():
			return 0, SkipTemplateDone
		}
		return roundMend, SkipNone
	case noted && !o.offline && o.wroteRecord():
		return 0, SkipWrittenRecord
	}
	if old == nil {
		if !o.split(req, r, nil) {
			return 0, SkipDeadline
		}
		o.note = o.noticed(req)
		return roundDecide, SkipNone
	}
	was := old.pod.meta.annotations[policy.InjectedAnnotation]
	before, recorded := readRecord(was)
	var other record
	switch {
	case !noted:
		r = before
	case text != was:
		other = before
	}
	if !old.split(req, before, nil) || !o.split(req, r, other) {
		return 0, SkipDeadline
	}
	o.note = o.noticed(req)
	x, err1 := o.theirs()
	y, err2 := old.theirs()
	unchanged := err1 == nil && err2 == nil && x == y
	failed := o.note == SkipProbeFailed
	if !(failed && o.pod.probed()) && req.Ran != nil && o.meta.uid != "" && !(unchanged && !noted && req.Whole) {
		if print, err := FingerprintTemplate(o.template); err == nil && req.Ran(o.meta.uid, print) {
			return 0, SkipKnownRevision
		}
	}
	_, labelled := o.pod.meta.label(policy.DefaultedLabel)
	switch {
	case failed && (o.pod.probed() || old.pod.probed()), !recorded || !unchanged, noted && text != was,
		!noted && labelled && !o.pod.standing():
		return roundDecide, SkipNone
	case !noted && !o.pod.standing(), slices.Equal(o.pod.places(), old.pod.places()):
		return roundKeep, SkipNone
	}
	return roundTakenAway, SkipNone
}

// places returns the names of defaults of which something of ours stands, each with the index of its
// container. The grace period is none: Helm 3 writes it back with each upgrade.
func (p *podTemplate) places() []string {
	var places []string
	if p.ours.antiAffinity != nil {
		places = append(places, DefaultAntiAffinity)
	}
	if p.ours.tolerations != nil {
		places = append(places, DefaultNodeLoss)
	}
	if p.ours.constraints != nil {
		places = append(places, entryTopology)
	}
	for i := range p.containers {
		if p.containers[i].ourPreStop != nil {
			places = append(places, DefaultPreStopSleep+" "+strconv.Itoa(i))
		}
		if p.containers[i].ourProbe != nil {
			places = append(places, DefaultReadinessProbe+" "+strconv.Itoa(i))
		}
	}
	return places
}

// restored returns the defaults that stood in old, stand in after no more, and are wanted all the
// same according to out.
func (o *object) restored(after *object, out *output) []string {
	record, _ := readRecord(string(out.record))
	var names []string
	note := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if o.pod.ours.antiAffinity != nil && after.pod.ours.antiAffinity == nil && record.has(DefaultAntiAffinity) ||
		o.pod.ours.constraints != nil && after.pod.ours.constraints == nil && record.has(entryTopology) {
		note(DefaultAntiAffinity)
	}
	if o.pod.ours.tolerations != nil && after.pod.ours.tolerations == nil && record.has(DefaultNodeLoss) {
		note(DefaultNodeLoss)
	}
	for i := range o.pod.containers {
		was, is := &o.pod.containers[i], &after.pod.containers[i] // theirs is the same
		if was.ourPreStop != nil && is.ourPreStop == nil && record.get(is.name, DefaultPreStopSleep) != "" {
			note(DefaultPreStopSleep)
		}
		if was.ourProbe != nil && is.ourProbe == nil && record.get(is.name, DefaultReadinessProbe) != "" {
			note(DefaultReadinessProbe)
		}
	}
	return names
}

// keep turns the pod template into that of old, in which theirs is the same.
func keep(in *input, old *object, out *output) {
	pod, was := in.pod(), &old.pod
	put := func(at slot, value []byte) {
		if value == nil {
			return
		}
		out.begin(&at)
		out.raw(value)
		out.fill(&at)
	}
	put(pod.affinitySlot(), was.ours.antiAffinity)
	put(pod.tolerationsSlot(), was.ours.tolerations)
	put(pod.constraintSlot(), was.ours.constraints)
	for i := range pod.containers {
		put(pod.hookSlot(i), was.containers[i].ourPreStop)
		put(pod.probeSlot(i), was.containers[i].ourProbe)
	}
	if was.ours.graceTo > 0 {
		pod.setGrace(out, was.ours.graceTo)
	}
	text := was.meta.annotations[policy.InjectedAnnotation]
	_, labelled := was.meta.label(policy.DefaultedLabel)
	out.setRecord(in, []byte(text), labelled)
	r := was.ours.record
	for _, name := range defaults {
		if r.has(name) || name == DefaultAntiAffinity && r.has(entryTopology) {
			out.applied(name, "", "kept as it was", &slot{same: true})
		} else {
			out.skip(name, "", SkipUnchangedTemplate, nil)
		}
	}
	if r.has(DefaultNodeLoss) {
		out.applied(DefaultNodeLoss, "", "kept as it was", &slot{same: true})
	} else if in.policy.NodeLoss > 0 {
		out.skip(DefaultNodeLoss, "", SkipUnchangedTemplate, nil)
	}
}

func (p *podTemplate) affinitySlot() slot {
	at := slot{name: DefaultAntiAffinity, parentName: "affinity", base: p.path, parent: "/spec/affinity",
		leaf:        "/podAntiAffinity",
		parentThere: p.affinity, others: p.affinityOthers, standing: p.ours.antiAffinity, was: p.null}
	at.remember(p.ours.record)
	return at
}

func (p *podTemplate) tolerationsSlot() slot {
	at := slot{name: DefaultNodeLoss, parentName: "tolerations", base: p.path, leaf: "/spec/tolerations",
		parentThere: isEmptyList(p.tolerations), standing: p.ours.tolerations, was: nulls{leaf: p.tolerationsNull}}
	at.remember(p.ours.record)
	return at
}

func (p *podTemplate) constraintSlot() slot {
	at := slot{name: entryTopology, base: p.path, leaf: "/spec/topologySpreadConstraints", standing: p.ours.constraints,
		was: nulls{leaf: p.constraintsNull}}
	at.remember(p.ours.record)
	at.empty = p.constraintList != nil && len(p.constraints) == 0 || p.ours.record.wasEmpty("", entryTopology)
	return at
}

func (p *podTemplate) hookSlot(i int) slot {
	c := &p.containers[i]
	at := slot{container: c.name, name: DefaultPreStopSleep, parentName: "lifecycle", base: p.path,
		list:  "/spec/containers/",
		index: strconv.Itoa(i), parent: "/lifecycle", leaf: "/preStop", parentThere: c.lifecycle, others: c.lifecycleOthers,
		standing: c.ourPreStop, was: c.null}
	at.remember(p.ours.record)
	return at
}

func (p *podTemplate) probeSlot(i int) slot {
	c := &p.containers[i]
	at := slot{container: c.name, name: DefaultReadinessProbe, base: p.path, list: "/spec/containers/",
		index: strconv.Itoa(i), leaf: "/readinessProbe", standing: c.ourProbe, was: nulls{leaf: c.probeNull}}
	at.remember(p.ours.record)
	return at
}

// setGrace makes the grace period what is ours, in seconds, or takes ours back for 0.
func (p *podTemplate) setGrace(out *output, seconds int64) {
	const place = "/spec/terminationGracePeriodSeconds"
	switch {
	case seconds == p.ours.graceTo:
	case seconds == 0 && p.ours.record.wasNull("", entryGrace):
		out.nullify(p.path, place)
	case seconds == 0 && p.ours.graceFrom < 0:
		out.remove(p.path, place)
	default:
		operation := "replace"
		if p.grace == nil && p.ours.graceTo == 0 {
			operation = "add"
		}
		out.open(operation, p.path, place)
		if seconds == 0 {
			seconds = p.ours.graceFrom
		}
		out.integer(seconds)
		out.close()
	}
}

// giveWay removes the members of ours that stand in a hook or a probe of somebody else: the API takes
// one handler only ("may not specify more than 1 handler type", k8s.io/kubernetes/pkg/apis/core/validation).
func (p *podTemplate) giveWay(i int, out *output, place string, parts []string) {
	for _, part := range parts {
		out.remove(p.path, "/spec/containers/", strconv.Itoa(i), place, "/", part)
	}
}

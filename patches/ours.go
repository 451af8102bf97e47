package patches

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"github.com/evenkeel/evenkeel/internal/scan"
	"github.com/evenkeel/evenkeel/policy"
)

// ours is what stands in a pod template and is provably evenkeel's: the record names it, and its
// value is the one that was recorded. What is left of the template is theirs.
type ours struct {
	record record // nil without one
	// antiAffinity is the raw podAntiAffinity, nil where it doesn't consist of ours; affinityParts
	// are the members of ours that stand in one of somebody else.
	antiAffinity  []byte
	affinityParts []string
	// tolerations is the raw list of tolerations, nil where it isn't ours.
	tolerations []byte
	// constraints is the raw list of topology spread constraints, nil where it doesn't
	// consist of ours; constraintParts are the indexes of ours among those of somebody else.
	constraints     []byte
	constraintParts []int
	// graceTo is the grace period that we raised and that stands, in seconds; 0 for none.
	graceTo int64
	// graceFrom is what somebody had written, in seconds; -1 where nobody had.
	graceFrom int64
}

// split takes what is provably ours out of o, according to its record and to that of the old object
// where it is another one: the generators then see what people wrote, and o.pod.ours and the
// containers say what stands beside it.
//
// A grace period of ours is theirs from then on where somebody writes it (see wrote). It returns
// false when the time for the review is over: to look for who wrote what takes as long as the object
// is large, for each container.
func (o *object) split(req *Request, r, before record) (inTime bool) {
	o.pod.ours = ours{record: r, graceFrom: -1}
	return o.splitBy(r, req) && o.splitBy(before, req)
}

// splitBy takes out what one record names, unless an earlier one did.
func (o *object) splitBy(r record, req *Request) (inTime bool) {
	p := &o.pod
	for _, e := range r {
		if req.late() {
			return false
		}
		c := p.container(e.container)
		switch {
		case e.container != "" && c == nil:
		case e.name == DefaultAntiAffinity:
			p.splitAffinity(e.value)
		case e.name == DefaultNodeLoss:
			o.splitTolerations(e.value)
		case e.name == entryTopology:
			p.splitConstraints(e.value)
		case e.name == DefaultPreStopSleep:
			o.splitHook(c, e.value)
		case e.name == DefaultReadinessProbe:
			o.splitProbe(c, e.value)
		}
	}
	if grace := r.get("", entryGrace); grace != "" && p.grace != nil && p.ours.graceTo == 0 {
		o.splitGrace(grace)
	}
	return true
}

// splitAffinity looks for our terms: alone they are ours, beside those of somebody else they give way.
func (p *podTemplate) splitAffinity(entry string) {
	if p.podAntiAffinity == nil || p.ours.affinityParts != nil {
		return
	}
	var own []string
	others := 0
	err := memberPrints(p.podAntiAffinity, func(name []byte, print uint64) {
		var room [16]byte
		if strings.Contains(entry, string(appendPrint(room[:0], print))) {
			own = append(own, string(name))
		} else {
			others++
		}
	})
	switch {
	case err != nil || len(own) == 0:
	case others == 0:
		p.ours.antiAffinity, p.podAntiAffinity = p.podAntiAffinity, nil
	default:
		p.ours.affinityParts = own
	}
}

// splitConstraints looks for our topology spread constraints: alone they are ours, beside those of
// somebody else they give way.
func (p *podTemplate) splitConstraints(entry string) {
	if p.ours.constraints != nil || p.ours.constraintParts != nil {
		return
	}
	var own []int
	for i, raw := range p.constraints {
		for print := range strings.SplitSeq(entry, ":") {
			if hasFingerprint(raw, print) {
				own = append(own, i)
				break
			}
		}
	}
	switch {
	case len(own) == 0:
	case len(own) == len(p.constraints) && len(own) < maxConstraints:
		p.ours.constraints, p.topologySpread = p.constraintList, false
	default:
		p.ours.constraintParts = own
	}
}

func (o *object) splitGrace(entry string) {
	p := &o.pod
	from, to, written := strings.Cut(entry, "/")
	before, _ := strconv.ParseInt(from, 10, 64)
	after := before
	if written {
		after, _ = strconv.ParseInt(to, 10, 64)
	}
	if after != *p.grace || after == 0 {
		return
	}
	switch {
	case o.lastAppliedSays(after):
		return
	case !written && o.applied(append(o.specPath(), "terminationGracePeriodSeconds")):
		return
	case written:
		p.ours.graceFrom, p.graceRoom = before, before
	default:
		p.grace = nil
	}
	p.ours.graceTo = after
}

// splitHook looks for our sleep in the hook of c: alone it is ours, beside a handler of somebody
// else it gives way. A hook without a handler, which the API takes from nobody, is what a client leaves
// of ours that doesn't know a sleep (https://github.com/hashicorp/terraform-provider-kubernetes/issues/2837).
func (o *object) splitHook(c *container, entry string) {
	form, seconds, _ := strings.Cut(entry, ":")
	n, _ := strconv.ParseInt(seconds, 10, 64)
	var room [64]byte
	own := appendHook(room[:0], form == "sleep", n)
	if c.preStop == nil || c.hookParts != nil {
		return
	}
	if same(c.preStop, own) || onlyNulls(c.preStop) {
		c.ourPreStop, c.preStop = c.preStop, nil
		return
	}
	s, err := scan.New(own)
	if err != nil {
		return
	}
	var handler []byte
	_ = s.Each(func([]byte) (err error) { handler, err = s.Skip(); return err }) // our own JSON
	kinds, print := handlers(c.preStop, form)
	if kinds > 1 && print != nil && same(print, handler) {
		c.hookParts = append(c.hookParts, form)
	}
}

// splitProbe looks for our probe in that of c. Beside a handler of somebody else ours gives way,
// with those of our timings that nobody wrote: the API takes one handler only. Our handler alone
// with other timings is theirs, since they took it over.
func (o *object) splitProbe(c *container, entry string) {
	if c.readinessProbe == nil || c.probeParts != nil {
		return
	}
	parts := strings.Split(entry, ":")
	kinds, handler := handlers(c.readinessProbe, parts[0])
	if handler == nil || !hasFingerprint(handler, parts[1]) {
		return
	}
	var ourTimings []string
	others := 0
	s, err := scan.New(c.readinessProbe)
	if err != nil {
		return
	}
	err = s.Each(func(key []byte) error {
		name := string(key)
		raw, err := s.Skip()
		if err != nil || string(raw) == "null" || isHandler(name) {
			return err
		}
		for i, timing := range [...]string{"timeoutSeconds", "periodSeconds", "failureThreshold"} {
			if name == timing && string(raw) == parts[2+i] {
				ourTimings = append(ourTimings, name)
				return nil
			}
		}
		if name != "successThreshold" || string(raw) != "1" { // which the API adds
			others++
		}
		return nil
	})
	switch {
	case err != nil:
	case kinds == 1 && others == 0 && len(ourTimings) == 3:
		c.ourProbe, c.readinessProbe = c.readinessProbe, nil
	case kinds > 1:
		c.probeParts = append(c.probeParts, parts[0])
		for _, name := range ourTimings {
			if !o.wrote("containers", c.name, "readinessProbe", name) {
				c.probeParts = append(c.probeParts, name)
			}
		}
	}
}

// onlyNulls reports whether raw is an object whose members, if it has any, are null.
func onlyNulls(raw []byte) bool {
	s, err := scan.New(raw)
	if err != nil || s.Next() != '{' {
		return false
	}
	empty := true
	err = s.Each(func([]byte) error {
		value, err := s.Skip()
		empty = empty && string(value) == "null"
		return err
	})
	return err == nil && empty
}

// handlers returns how many handlers a raw probe or hook has, and the raw one of a kind, or nil.
func handlers(raw []byte, kind string) (kinds int, handler []byte) {
	s, err := scan.New(raw)
	if err != nil {
		return 0, nil
	}
	if s.Each(func(key []byte) error {
		name := string(key)
		value, err := s.Skip()
		if isHandler(name) && string(value) != "null" {
			kinds++
			if name == kind {
				handler = value
			}
		}
		return err
	}) != nil {
		return 0, nil
	}
	return kinds, handler
}

// handlerKinds are the members of a probe or a hook that say what to do.
var handlerKinds = [...]string{"exec", "grpc", "httpGet", "sleep", "tcpSocket"}

func isHandler(name string) bool {
	for _, kind := range handlerKinds {
		if name == kind {
			return true
		}
	}
	return false
}

// hasFingerprint reports whether raw has a fingerprint as a record writes it.
func hasFingerprint(raw []byte, want string) bool {
	print, err := Fingerprint(raw)
	wanted, err2 := strconv.ParseUint(want, 16, 64)
	return err == nil && err2 == nil && print == wanted
}

// same reports whether two documents are the same value.
func same(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, err1 := Fingerprint(a)
	y, err2 := Fingerprint(b)
	return err1 == nil && err2 == nil && x == y
}

// container returns the container with a name, or nil.
func (p *podTemplate) container(name string) *container {
	for i := range p.containers {
		if p.containers[i].name == name && name != "" {
			return &p.containers[i]
		}
	}
	return nil
}

// standing reports whether anything of ours stands.
func (p *podTemplate) standing() bool {
	if p.ours.antiAffinity != nil || p.ours.constraints != nil || p.ours.tolerations != nil || p.ours.graceTo > 0 {
		return true
	}
	for i := range p.containers {
		if p.containers[i].ourPreStop != nil || p.containers[i].ourProbe != nil {
			return true
		}
	}
	return false
}

// containers returns the fingerprint of the containers of pod, which are next, without what is ours:
// of these members of each, or of all where none is given.
func (p printer) containers(pod *podTemplate, members ...string) (uint64, error) {
	print := mix(printArray)
	index := -1
	inContainer := func(key []byte) (uint64, bool, error) {
		c := &pod.containers[index]
		if members != nil && !slices.Contains(members, string(key)) {
			return p.nothing()
		}
		switch string(key) {
		case "lifecycle":
			return p.parent(func(key []byte) (uint64, bool, error) {
				switch {
				case string(key) != "preStop":
				case c.ourPreStop != nil:
					return p.nothing()
				case c.hookParts != nil:
					return p.parent(p.without(c.hookParts...))
				}
				return p.member(key)
			})
		case "readinessProbe":
			switch {
			case c.ourProbe != nil:
				return p.nothing()
			case c.probeParts != nil:
				return p.parent(p.without(c.probeParts...))
			}
		}
		return p.member(key)
	}
	err := p.Elements(func(i int) error {
		if index = i; p.Next() != '{' {
			element, err := p.value()
			print = mix(print ^ element)
			return err
		}
		element, _, err := p.object(inContainer)
		print = mix(print ^ element)
		return err
	})
	return print, err
}

// theirs returns the fingerprint of a pod template, after split, without what is ours. A grace
// period that nobody wrote is one thing, whether the API has defaulted it or not; one that somebody
// wrote is another, also where it is as long.
func (o *object) theirs() (uint64, error) {
	s, err := scan.New(o.template)
	if err != nil {
		return 0, err
	}
	p, pod := printer{&s}, &o.pod
	inSpec := func(key []byte) (uint64, bool, error) {
		switch {
		case string(key) == "terminationGracePeriodSeconds":
			return p.nothing()
		case string(key) == "affinity" && pod.ours.antiAffinity != nil:
			return p.parent(p.without("podAntiAffinity"))
		case string(key) == "tolerations" && (pod.ours.tolerations != nil || isEmptyList(pod.tolerations)):
			return p.nothing()
		case string(key) == "affinity":
			return p.parent(func(key []byte) (uint64, bool, error) {
				if string(key) == "podAntiAffinity" && pod.ours.affinityParts != nil {
					return p.parent(p.without(pod.ours.affinityParts...))
				}
				return p.member(key)
			})
		case string(key) == "topologySpreadConstraints" && pod.ours.constraints != nil:
			return p.nothing()
		case string(key) == "topologySpreadConstraints" && pod.ours.constraintParts != nil:
			return p.list(pod.ours.constraintParts)
		case string(key) == "containers" && p.Next() == '[':
			print, err := p.containers(pod)
			return print, true, err
		}
		return p.member(key)
	}
	print, _, err := p.object(func(key []byte) (uint64, bool, error) {
		switch string(key) {
		case "metadata":
			return p.parent(func(key []byte) (uint64, bool, error) {
				switch string(key) {
				case "annotations":
					return p.parent(p.without(policy.InjectedAnnotation))
				case "labels":
					return p.parent(p.without(policy.DefaultedLabel))
				}
				return p.member(key)
			})
		case "spec":
			return p.parent(inSpec)
		}
		return p.member(key)
	})
	if grace := pod.grace; grace != nil && o.graceWritten() {
		print = mix(print ^ uint64(*grace))
	}
	return print, err
}

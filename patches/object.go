package patches

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/evenkeel/evenkeel/internal/scan"
	"github.com/evenkeel/evenkeel/policy"
)

// object is what the generators read of a workload. It aliases the raw bytes.
type object struct {
	apiVersion, kind string
	meta             metadata
	// selector is the raw spec.selector, nil where the kind has none or it is not
	// set.
	selector []byte
	// serviceName is the name of the governing Service of a StatefulSet.
	serviceName string
	// endsFirst is set where an update of a Deployment ends all old pods before new ones are ready.
	endsFirst bool
	// template is the raw pod template, nil for a Pod.
	template []byte
	// pod is the Pod itself or the pod template.
	pod podTemplate
	// note is what was noticed of the workload, SkipNone for nothing; see notice.
	note Skip
	// depth is how deeply the document is nested.
	depth int
	// offline is set for a manifest, in which the API has defaulted nothing.
	offline bool

	// Room for what most workloads have, so that reading one allocates once.
	labelRoom     [2][8]label
	containerRoom [2]container
	portRoom      [4]port
}

// metadata is what is read of an ObjectMeta.
type metadata struct {
	present bool
	name    string
	// labels are nil where they are not set; keys are those of many labels.
	labels []label
	keys   map[string]bool
	// annotated is set where there are annotations, annotations those with our prefix,
	// or nil.
	annotated   bool
	annotations map[string]string
	// null says what is null.
	null struct{ itself, annotations, labels bool }
	// annotationCount is how many annotations there are, annotationBytes at least their
	// size, as the API counts it.
	annotationCount, annotationBytes int
	// lastApplied is the raw value of kubectl's last-applied-configuration, managedFields
	// the raw list of who wrote which field; nil where there is none.
	lastApplied, managedFields []byte
	uid                        string
	// tooMany is set where there are more labels, or annotations with our prefix, than are read.
	tooMany bool
	// controller and controllerName are kind and name of the controlling owner, ""
	// without one.
	controller, controllerName string
	mirror                     bool
}

type label struct{ key, value []byte }

// label returns the value of a label, and whether there is one.
func (m *metadata) label(key string) (string, bool) {
	for _, l := range m.labels {
		if string(l.key) == key {
			return string(l.value), true
		}
	}
	return "", false
}

// disabled reports whether the label is there that opts the workload out.
func (m *metadata) disabled() bool {
	value, _ := m.label(policy.InjectLabel)
	return value == policy.Disabled
}

// ours returns the labels with our prefix, nil without any.
func (m *metadata) ours() map[string]string {
	var ours map[string]string
	for _, l := range m.labels {
		if bytes.HasPrefix(l.key, []byte(policy.Prefix)) {
			if ours == nil {
				ours = map[string]string{}
			}
			ours[string(l.key)] = string(l.value)
		}
	}
	return ours
}

// addLabel adds a label, or returns an error when there is one of the key already.
func (m *metadata) addLabel(key, value []byte) error {
	if len(m.labels) == maxLabels {
		m.tooMany = true
		return nil
	}
	if len(m.labels) < manyLabels {
		for _, l := range m.labels {
			if bytes.Equal(l.key, key) {
				return errTwice
			}
		}
		m.labels = append(m.labels, label{key, value})
		return nil
	}
	if m.keys == nil {
		m.keys = map[string]bool{}
		for _, l := range m.labels {
			m.keys[string(l.key)] = true
		}
	}
	if m.keys[string(key)] {
		return errTwice
	}
	m.keys[string(key)] = true
	m.labels = append(m.labels, label{key, value})
	return nil
}

// manyLabels is how many labels are compared one by one; nobody has checked yet
// how many there are.
const manyLabels = 32

// These bound what one object may cost. What is more is read over, nothing is built of it, and the
// object is left as it is (SkipTooManyParts). No node runs a pod of two hundred containers, init and
// ephemeral ones included: 1,900 with a port each took 33 MB for a review of 64 KiB.
const (
	maxContainers  = 200
	maxPorts       = 10_000 // of all containers: media servers declare thousands
	maxLabels      = 1000
	maxAnnotations = 100 // with our prefix
	// maxConstraints is how many topology spread constraints are looked at for ours, which
	// are 8 at most.
	maxConstraints = 16
)

var errTwice = errors.New("has a label or an annotation twice")

// podTemplate is what is read of a Pod or a pod template.
type podTemplate struct {
	// path is the JSON pointer to it, "" for a Pod.
	path string
	meta metadata
	// spec is set where there is a pod spec.
	spec            bool
	affinity        bool   // set, with whatever in it
	affinityOthers  bool   // set, with something beside podAntiAffinity in it
	podAntiAffinity []byte // raw, nil where it is not set
	topologySpread  bool   // set, with a constraint in it that isn't ours
	// constraints are the first of the raw topology spread constraints, constraintList the
	// raw list, nil where it is not set.
	constraints     [][]byte
	constraintList  []byte
	constraintsNull bool
	null            nulls  // of podAntiAffinity and affinity
	tolerations     []byte // raw, nil where they are not set
	tolerationsNull bool
	// grace is terminationGracePeriodSeconds, nil where it is not set; graceRoom holds
	// it.
	grace         *int64
	graceRoom     int64
	graceNull     bool
	restartPolicy string
	windows       bool
	grouped       bool // with a schedulingGroup
	// parts counts containers of all sorts. tooMany is set where there are more, or more ports, than
	// are read.
	parts      int
	tooMany    bool
	containers []container
	ports      []port // of all containers
	// ours is what split has taken out.
	ours ours
}

// container is what is read of a container; init containers are never looked at.
type container struct {
	present         bool // not null
	name            string
	ports           []port
	lifecycle       bool
	lifecycleOthers bool   // set, with something beside preStop in it
	preStop         []byte // the raw hook, nil where it is not set
	null            nulls  // of preStop and lifecycle
	readinessProbe  []byte // the raw probe, nil where it is not set
	probeNull       bool
	// livenessHandler and startupHandler are the handlers of these probes.
	livenessHandler, startupHandler handler
	// killGrace is the shortest terminationGracePeriodSeconds of these probes, nil
	// without one.
	killGrace *int64
	// ourPreStop and ourProbe are raw values of ours that split has taken out of preStop
	// and readinessProbe; hookParts and probeParts the members of ours that stand in a
	// hook and a probe of somebody else.
	ourPreStop, ourProbe  []byte
	hookParts, probeParts []string
}

// handler is the member of a probe that says how to probe. The zero value is none.
type handler struct {
	kind string // httpGet, tcpSocket, grpc or exec
	raw  []byte
	// timeout, period and failures are timeoutSeconds, periodSeconds and failureThreshold
	// of its probe, 0 where they are not set.
	timeout, period, failures int64
}

type port struct {
	name   []byte
	number int64
	tcp    bool
}

// named reports whether each container has a name of its own that the API allows, a DNS label: the
// record tells containers by their names.
func (p *podTemplate) named() bool {
	for i := range p.containers {
		name := p.containers[i].name
		if !policy.IsDNSLabel(name) ||
			slices.ContainsFunc(p.containers[:i], func(c container) bool { return c.name == name }) {
			return false
		}
	}
	return true
}

// mirrorAnnotation marks the API server's copy of a static pod, which the kubelet
// owns (https://kubernetes.io/docs/reference/labels-annotations-taints/).
const mirrorAnnotation = "kubernetes.io/config.mirror"

// The members that are read, by the object that they are members of.
var (
	objectMembers   = []string{"apiVersion", "kind", "metadata", "spec"}
	specMembers     = []string{"selector", "serviceName", "strategy", "template"}
	strategyMembers = []string{"type", "rollingUpdate"}
	rollingMembers  = []string{"maxUnavailable"}
	templateMembers = []string{"metadata", "spec"}
	metadataMembers = []string{"name", "uid", "labels", "annotations", "ownerReferences", "managedFields"}
	ownerMembers    = []string{"kind", "name", "controller"}
	podMembers      = []string{"affinity", "topologySpreadConstraints", "tolerations", "terminationGracePeriodSeconds",
		"restartPolicy", "os", "nodeSelector", "schedulingGroup", "containers", "initContainers", "ephemeralContainers"}
	containerMembers = []string{"name", "ports", "lifecycle", "readinessProbe", "livenessProbe", "startupProbe"}
	portMembers      = []string{"name", "containerPort", "protocol"}
)

// Reading is an object that was read out of a larger document, a review for
// example. It aliases the document, and is good for one review.
type Reading struct {
	raw    []byte
	err    error
	review review
}

// Read reads the object that s is at and leaves s behind it. It returns an error
// only when the document is not JSON; whatever else is wrong with the object is for
// Review to say. It returns nil for null.
func Read(s *scan.Scanner) (*Reading, error) {
	if s.Null() { // as oldObject mostly is
		return nil, nil
	}
	start := s.Position()
	at := s.At(start)
	r, ok := readings.Get().(*Reading)
	if !ok {
		r = &Reading{}
	}
	if r.err = r.review.object.read(s); r.err == nil {
		r.raw = s.From(start)
		return r, nil
	}
	*s = at
	var err error
	r.raw, err = s.Skip()
	return r, err
}

// readings are used again and again: the room for a review is half of what it takes.
var readings sync.Pool

// Release gives r back to be read into again. Nothing may refer any more to r, nor to
// the Result of its review.
func (r *Reading) Release() {
	if r != nil {
		*r = Reading{}
		readings.Put(r)
	}
}

// Raw returns the bytes of the object, nil where there is none.
func (r *Reading) Raw() []byte {
	if r == nil {
		return nil
	}
	return r.raw
}

// parse reads a workload. It returns an error when the document is not JSON that
// the API server and its patch applier would read in the same way, and an object
// with kind alone when that kind has no pod template.
func parse(raw []byte) (*object, error) {
	o := &object{}
	return o, o.parse(raw)
}

func (o *object) parse(raw []byte) error {
	s, err := scan.New(raw)
	if err != nil {
		return err
	}
	if err := o.read(&s); err != nil {
		return err
	}
	return s.End()
}

func (o *object) read(s *scan.Scanner) error {
	if s.Next() != '{' {
		return errors.New("is not a JSON object")
	}
	r := reader{s}
	specAt := -1
	err := r.Members(objectMembers, func(name string) error {
		switch name {
		case "apiVersion":
			return r.text(&o.apiVersion)
		case "kind":
			return r.text(&o.kind)
		case "metadata":
			return r.metadata(&o.meta, o.labelRoom[0][:0])
		}
		if o.kind == "" || o.apiVersion == "" { // read it when the kind is known
			r.Next()
			specAt = r.Position()
			_, err := r.Skip()
			return err
		}
		return r.spec(o)
	})
	if err == nil && specAt >= 0 {
		at := s.At(specAt)
		err = reader{&at}.spec(o)
	}
	if o.kind == "Pod" {
		o.pod.meta = o.meta
	}
	o.depth = s.Deepest()
	return err
}

// tooMany reports whether the object has more parts than are read.
func (o *object) tooMany() bool { return o.meta.tooMany || o.pod.meta.tooMany || o.pod.tooMany }

// templated reports whether the object is of a kind with a pod template, or a Pod.
func (o *object) templated() bool {
	switch o.apiVersion {
	case "v1":
		return o.kind == "Pod" || o.kind == "ReplicationController"
	case "apps/v1":
		return o.kind == "Deployment" || o.kind == "StatefulSet" || o.kind == "DaemonSet" || o.kind == "ReplicaSet"
	case "batch/v1":
		return o.kind == "Job" || o.kind == "CronJob"
	}
	return false
}

// reader reads the parts of a workload.
type reader struct{ *scan.Scanner }

// text reads a string, "" for null.
func (r reader) text(into *string) error {
	raw, err := r.Text()
	for _, known := range [...]string{"Pod", "v1", "Deployment", "StatefulSet", "apps/v1", "Always", "ReplicaSet"} {
		if string(raw) == known {
			*into = known
			return err
		}
	}
	*into = string(raw)
	return err
}

func (r reader) spec(o *object) error {
	switch {
	case !o.templated() || o.kind == "CronJob":
		_, err := r.Skip()
		return err
	case o.kind == "Pod":
		return r.podSpec(o)
	}
	o.pod.path = "/spec/template"
	return r.Members(specMembers, func(name string) error {
		switch {
		case name == "selector":
			return r.set(&o.selector)
		case name == "serviceName" && o.kind == "StatefulSet":
			return r.text(&o.serviceName)
		case name == "strategy" && o.kind == "Deployment":
			return r.strategy(o)
		case name != "template":
			_, err := r.Skip()
			return err
		}
		r.Next()
		start := r.Position()
		err := r.Members(templateMembers, func(name string) error {
			if name == "metadata" {
				return r.metadata(&o.pod.meta, o.labelRoom[1][:0])
			}
			return r.podSpec(o)
		})
		o.template = r.From(start)
		return err
	})
}

// strategy reads how a Deployment is updated.
func (r reader) strategy(o *object) error {
	return r.Members(strategyMembers, func(name string) error {
		if name == "rollingUpdate" {
			return r.Members(rollingMembers, func(string) error {
				raw, err := r.Skip()
				o.endsFirst = o.endsFirst || string(raw) == `"100%"`
				return err
			})
		}
		text, err := r.Text()
		o.endsFirst = o.endsFirst || string(text) == "Recreate"
		return err
	})
}

// metadata reads an ObjectMeta, with its labels appended to room.
func (r reader) metadata(m *metadata, room []label) error {
	m.present, m.null.itself = r.Next() == '{', r.Next() == 'n'
	return r.Members(metadataMembers, func(name string) error {
		switch name {
		case "name":
			return r.text(&m.name)
		case "uid":
			return r.text(&m.uid)
		case "managedFields":
			return r.set(&m.managedFields)
		case "labels":
			if m.null.labels = r.Next() == 'n'; r.Next() == '{' {
				m.labels = room
			}
			return r.Each(func(key []byte) error {
				value, err := r.Text()
				if err != nil {
					return err
				}
				return m.addLabel(key, value)
			})
		case "annotations":
			m.annotated, m.null.annotations = r.Next() == '{', r.Next() == 'n'
			return r.Each(func(key []byte) error { return r.annotation(m, key) })
		}
		return r.Elements(func(int) error { return r.owner(m) })
	})
}

func (r reader) annotation(m *metadata, key []byte) error {
	m.annotationCount++
	if !bytes.HasPrefix(key, []byte(policy.Prefix)) {
		m.mirror = m.mirror || string(key) == mirrorAnnotation
		raw, err := r.Skip()
		m.annotationBytes += len(key) + len(raw)
		if string(key) == corev1.LastAppliedConfigAnnotation {
			m.lastApplied = raw
		}
		return err
	}
	if _, twice := m.annotations[string(key)]; twice {
		return errTwice
	}
	value, err := r.Text()
	m.annotationBytes += len(key) + len(value)
	if m.tooMany = m.tooMany || len(m.annotations) == maxAnnotations; m.tooMany {
		return err
	}
	value = value[:min(len(value), maxRecord+1)] // the longest that means anything, and one
	if m.annotations == nil {
		m.annotations = map[string]string{}
	}
	m.annotations[string(key)] = string(value)
	return err
}

func (r reader) owner(m *metadata) error {
	var kind, name string
	var controls bool
	err := r.Members(ownerMembers, func(member string) (err error) {
		switch member {
		case "kind":
			return r.text(&kind)
		case "name":
			return r.text(&name)
		}
		controls, err = r.Boolean()
		return err
	})
	if controls {
		m.controller, m.controllerName = kind, name
	}
	return err
}

func (r reader) podSpec(o *object) error {
	p := &o.pod
	p.spec = r.Next() == '{'
	return r.Members(podMembers, func(name string) error {
		switch name {
		case "affinity":
			p.affinity, p.null.parent = r.Next() == '{', r.Next() == 'n'
			return r.parent("podAntiAffinity", &p.podAntiAffinity, &p.affinityOthers, &p.null.leaf)
		case "topologySpreadConstraints":
			p.constraintsNull = r.Next() == 'n'
			isList, start := r.Next() == '[', r.Position()
			err := r.Elements(func(i int) error {
				p.topologySpread = true
				raw, err := r.Skip()
				if i < maxConstraints {
					p.constraints = append(p.constraints, raw)
				}
				return err
			})
			if isList {
				p.constraintList = r.From(start)
			}
			return err
		case "tolerations":
			p.tolerationsNull = r.Next() == 'n'
			return r.set(&p.tolerations)
		case "terminationGracePeriodSeconds":
			var ok bool
			var err error
			p.graceNull = r.Next() == 'n'
			if p.graceRoom, ok, err = r.Integer(); ok {
				p.grace = &p.graceRoom
			}
			return err
		case "restartPolicy":
			return r.text(&p.restartPolicy)
		case "schedulingGroup":
			p.grouped = r.Next() != 'n'
			_, err := r.Skip()
			return err
		case "os":
			return r.system(p, "name")
		case "nodeSelector":
			return r.system(p, "kubernetes.io/os")
		case "containers":
			return r.containers(o)
		}
		return r.Elements(func(int) error {
			p.count()
			_, err := r.Skip()
			return err
		})
	})
}

// system reads the operating system that a member of an object names.
func (r reader) system(p *podTemplate, member string) error {
	return r.Members([]string{member}, func(string) error {
		name, err := r.Text()
		p.windows = p.windows || string(name) == "windows"
		return err
	})
}

// count counts a container.
func (p *podTemplate) count() {
	p.parts++
	p.tooMany = p.tooMany || p.parts > maxContainers
}

func (r reader) containers(o *object) error {
	p := &o.pod
	p.containers, p.ports = o.containerRoom[:0], o.portRoom[:0]
	return r.Elements(func(int) error {
		if p.count(); p.tooMany {
			_, err := r.Skip()
			return err
		}
		p.containers = append(p.containers, container{})
		first := len(p.ports)
		err := r.container(p, &p.containers[len(p.containers)-1])
		p.containers[len(p.containers)-1].ports = p.ports[first:len(p.ports):len(p.ports)]
		return err
	})
}

// set reads a raw value, nil for null.
func (r reader) set(raw *[]byte) (err error) {
	if !r.Null() {
		*raw, err = r.Skip()
	}
	return err
}

// parent reads the raw value of one member of an object, and whether any other is set.
func (r reader) parent(member string, raw *[]byte, others, null *bool) error {
	seen := false
	return r.Each(func(key []byte) error {
		if string(key) != member {
			*others = *others || r.Next() != 'n'
			_, err := r.Skip()
			return err
		}
		if seen {
			return fmt.Errorf("has %q twice", member)
		}
		seen = true
		*null = r.Next() == 'n'
		return r.set(raw)
	})
}

func (r reader) container(p *podTemplate, c *container) error {
	c.present = r.Next() == '{'
	return r.Members(containerMembers, func(name string) (err error) {
		switch name {
		case "name":
			return r.text(&c.name)
		case "ports":
			return r.Elements(func(int) error {
				if p.tooMany = p.tooMany || len(p.ports) == maxPorts; p.tooMany {
					_, err := r.Skip()
					return err
				}
				port, err := r.port()
				p.ports = append(p.ports, port)
				return err
			})
		case "lifecycle":
			c.lifecycle, c.null.parent = r.Next() == '{', r.Next() == 'n'
			return r.parent("preStop", &c.preStop, &c.lifecycleOthers, &c.null.leaf)
		case "readinessProbe":
			c.probeNull = r.Next() == 'n'
			return r.set(&c.readinessProbe)
		case "livenessProbe":
			c.livenessHandler, err = r.handler(c)
		default:
			c.startupHandler, err = r.handler(c)
		}
		return err
	})
}

// handler returns the handler of a probe, or the zero value when it has none,
// several, or one that is not known.
//
// A grace period of the probe goes to c.
func (r reader) handler(c *container) (handler, error) {
	var found, timings handler
	handlers := 0
	err := r.Each(func(key []byte) (err error) {
		switch string(key) {
		case "timeoutSeconds":
			timings.timeout, _, err = r.Integer()
			return err
		case "periodSeconds":
			timings.period, _, err = r.Integer()
			return err
		case "failureThreshold":
			timings.failures, _, err = r.Integer()
			return err
		case "terminationGracePeriodSeconds":
			grace, set, err := r.Integer()
			if set && (c.killGrace == nil || grace < *c.killGrace) {
				c.killGrace = &grace
			}
			return err
		}
		raw, err := r.Skip()
		for _, kind := range [...]string{"httpGet", "tcpSocket", "grpc", "exec"} {
			if string(key) == kind && string(raw) != "null" {
				found = handler{kind: kind, raw: raw}
				handlers++
			}
		}
		return err
	})
	if handlers != 1 {
		return handler{}, err
	}
	timings.kind, timings.raw = found.kind, found.raw
	return timings, err
}

func (r reader) port() (port, error) {
	p := port{tcp: true}
	err := r.Members(portMembers, func(name string) (err error) {
		switch name {
		case "name":
			p.name, err = r.Text()
		case "containerPort":
			p.number, _, err = r.Integer()
		default:
			var protocol []byte
			protocol, err = r.Text()
			p.tcp = len(protocol) == 0 || string(protocol) == "TCP"
		}
		return err
	})
	return p, err
}

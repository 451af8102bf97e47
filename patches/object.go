package patches

import (
	"errors"
	"fmt"
	"strings"

	"github.com/evenkeel/evenkeel/policy"
)

// object is what the generators read of a workload. It aliases the raw bytes.
type object struct {
	apiVersion, kind string
	meta             metadata
	// selector is the raw spec.selector, nil where the kind has none or it is not
	// set.
	selector []byte
	// template is the raw pod template, nil for a Pod.
	template []byte
	// pod is the Pod itself or the pod template.
	pod podTemplate
}

// metadata is what is read of an ObjectMeta.
type metadata struct {
	present bool
	name    string
	// labels and annotations are nil where they are not set; of the annotations only
	// those with our prefix are kept.
	labels, annotations map[string]string
	// annotationBytes is at least the size of all annotations, as the API counts it.
	annotationBytes int
	// controller and controllerName are kind and name of the controlling owner, ""
	// without one.
	controller, controllerName string
	mirror                     bool
}

// podTemplate is what is read of a Pod or a pod template.
type podTemplate struct {
	// path is the JSON pointer to it, "" for a Pod.
	path string
	meta metadata
	// spec is set where there is a pod spec.
	spec            bool
	affinity        bool // set, with whatever in it
	podAntiAffinity bool
	topologySpread  bool
	// grace is terminationGracePeriodSeconds, nil where it is not set.
	grace         *int64
	restartPolicy string
	windows       bool
	containers    []container
}

// container is what is read of a container; init containers are never looked at.
type container struct {
	name           string
	ports          []port
	lifecycle      bool
	preStop        []byte // the raw hook, nil where it is not set
	readinessProbe bool
	// livenessHandler and startupHandler are the raw handlers of these probes, nil
	// without the probe.
	livenessHandler, startupHandler *handler
}

// handler is the member of a probe that says how to probe.
type handler struct {
	kind string // httpGet, tcpSocket, grpc or exec
	raw  []byte
}

type port struct {
	name   string
	number int64
	tcp    bool
}

// mirrorAnnotation marks the API server's copy of a static pod, which the kubelet
// owns (https://kubernetes.io/docs/reference/labels-annotations-taints/).
const mirrorAnnotation = "kubernetes.io/config.mirror"

// parse reads a workload. It returns an error when the document is not JSON that
// the API server and its patch applier would read in the same way, and an object
// with kind alone when that kind has no pod template.
func parse(raw []byte) (*object, error) {
	s, err := newScanner(raw)
	if err != nil {
		return nil, err
	}
	if s.next() != '{' {
		return nil, errors.New("is not a JSON object")
	}
	var o object
	specAt := -1
	var once seen
	err = s.object(func(key []byte) error {
		switch string(key) {
		case "apiVersion":
			return once.string(s, 0, &o.apiVersion)
		case "kind":
			return once.string(s, 1, &o.kind)
		case "metadata":
			if err := once.check(2, "metadata"); err != nil {
				return err
			}
			return o.meta.read(s)
		case "spec":
			if err := once.check(3, "spec"); err != nil {
				return err
			}
			if o.kind == "" || o.apiVersion == "" { // read it when the kind is known
				specAt = s.pos
				break
			}
			return o.readSpec(s)
		}
		_, err := s.skip()
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := s.end(); err != nil {
		return nil, err
	}
	if specAt >= 0 {
		s.pos = specAt
		if err := o.readSpec(s); err != nil {
			return nil, err
		}
	}
	if o.kind == "Pod" {
		o.pod.meta = o.meta
	}
	return &o, nil
}

// seen notices members that occur twice.
type seen uint32

func (n *seen) check(bit int, key string) error {
	if *n&(1<<bit) != 0 {
		return fmt.Errorf("has %q twice", key)
	}
	*n |= 1 << bit
	return nil
}

func (n *seen) string(s *scanner, bit int, into *string) error {
	if err := n.check(bit, "a member"); err != nil {
		return err
	}
	var err error
	*into, err = s.string()
	return err
}

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

func (o *object) readSpec(s *scanner) error {
	switch {
	case !o.templated() || o.kind == "CronJob":
		_, err := s.skip()
		return err
	case o.kind == "Pod":
		return o.pod.readSpec(s)
	}
	o.pod.path = "/spec/template"
	var once seen
	return s.object(func(key []byte) error {
		switch string(key) {
		case "selector":
			if err := once.check(0, "selector"); err != nil {
				return err
			}
			if s.null() {
				return nil
			}
			var err error
			o.selector, err = s.skip()
			return err
		case "template":
			if err := once.check(1, "template"); err != nil {
				return err
			}
			s.next()
			start := s.pos
			err := o.pod.read(s)
			o.template = s.data[start:s.pos]
			return err
		}
		_, err := s.skip()
		return err
	})
}

func (p *podTemplate) read(s *scanner) error {
	var once seen
	return s.object(func(key []byte) error {
		switch string(key) {
		case "metadata":
			if err := once.check(0, "metadata"); err != nil {
				return err
			}
			return p.meta.read(s)
		case "spec":
			if err := once.check(1, "spec"); err != nil {
				return err
			}
			return p.readSpec(s)
		}
		_, err := s.skip()
		return err
	})
}

func (m *metadata) read(s *scanner) error {
	m.present = s.next() == '{'
	var once seen
	return s.object(func(key []byte) error {
		switch string(key) {
		case "name":
			return once.string(s, 0, &m.name)
		case "labels":
			if err := once.check(1, "labels"); err != nil {
				return err
			}
			if s.next() == '{' {
				m.labels = map[string]string{}
			}
			return s.object(func(key []byte) error {
				if _, twice := m.labels[string(key)]; twice {
					return fmt.Errorf("has a label twice")
				}
				value, err := s.string()
				m.labels[string(key)] = value
				return err
			})
		case "annotations":
			if err := once.check(2, "annotations"); err != nil {
				return err
			}
			if s.next() == '{' {
				m.annotations = map[string]string{}
			}
			return s.object(func(key []byte) error {
				if !strings.HasPrefix(string(key), policy.Prefix) {
					m.mirror = m.mirror || string(key) == mirrorAnnotation
					raw, err := s.skip()
					m.annotationBytes += len(key) + len(raw)
					return err
				}
				if _, twice := m.annotations[string(key)]; twice {
					return fmt.Errorf("has an annotation twice")
				}
				value, err := s.string()
				m.annotationBytes += len(key) + len(value)
				m.annotations[string(key)] = value
				return err
			})
		case "ownerReferences":
			if err := once.check(3, "ownerReferences"); err != nil {
				return err
			}
			return s.array(func(int) error { return m.readOwner(s) })
		}
		_, err := s.skip()
		return err
	})
}

func (m *metadata) readOwner(s *scanner) error {
	var kind, name string
	var controls bool
	var once seen
	err := s.object(func(key []byte) error {
		switch string(key) {
		case "kind":
			return once.string(s, 0, &kind)
		case "name":
			return once.string(s, 2, &name)
		case "controller":
			if err := once.check(1, "controller"); err != nil {
				return err
			}
			var err error
			controls, err = s.boolean()
			return err
		}
		_, err := s.skip()
		return err
	})
	if controls {
		m.controller, m.controllerName = kind, name
	}
	return err
}

func (p *podTemplate) readSpec(s *scanner) error {
	p.spec = s.next() == '{'
	var once seen
	return s.object(func(key []byte) error {
		switch string(key) {
		case "affinity":
			if err := once.check(0, "affinity"); err != nil {
				return err
			}
			p.affinity = s.next() == '{'
			var once seen
			return s.object(func(key []byte) error {
				if string(key) == "podAntiAffinity" {
					if err := once.check(0, "podAntiAffinity"); err != nil {
						return err
					}
					p.podAntiAffinity = s.next() != 'n'
				}
				_, err := s.skip()
				return err
			})
		case "topologySpreadConstraints":
			if err := once.check(1, "topologySpreadConstraints"); err != nil {
				return err
			}
			return s.array(func(int) error {
				p.topologySpread = true
				_, err := s.skip()
				return err
			})
		case "terminationGracePeriodSeconds":
			if err := once.check(2, "terminationGracePeriodSeconds"); err != nil {
				return err
			}
			grace, ok, err := s.integer()
			if ok {
				p.grace = &grace
			}
			return err
		case "restartPolicy":
			return once.string(s, 3, &p.restartPolicy)
		case "os":
			if err := once.check(4, "os"); err != nil {
				return err
			}
			return p.readSystem(s, "name")
		case "nodeSelector":
			if err := once.check(6, "nodeSelector"); err != nil {
				return err
			}
			return p.readSystem(s, "kubernetes.io/os")
		case "containers":
			if err := once.check(5, "containers"); err != nil {
				return err
			}
			return s.array(func(int) error {
				p.containers = append(p.containers, container{})
				return p.containers[len(p.containers)-1].read(s)
			})
		}
		_, err := s.skip()
		return err
	})
}

// readSystem reads the operating system that a member of an object names.
func (p *podTemplate) readSystem(s *scanner, member string) error {
	var once seen
	return s.object(func(key []byte) error {
		if string(key) != member {
			_, err := s.skip()
			return err
		}
		var name string
		err := once.string(s, 0, &name)
		p.windows = p.windows || name == "windows"
		return err
	})
}

func (c *container) read(s *scanner) error {
	var once seen
	return s.object(func(key []byte) error {
		switch string(key) {
		case "name":
			return once.string(s, 0, &c.name)
		case "ports":
			if err := once.check(1, "ports"); err != nil {
				return err
			}
			return s.array(func(int) error {
				p, err := readPort(s)
				c.ports = append(c.ports, p)
				return err
			})
		case "lifecycle":
			if err := once.check(2, "lifecycle"); err != nil {
				return err
			}
			c.lifecycle = s.next() == '{'
			var once seen
			return s.object(func(key []byte) error {
				if string(key) == "preStop" {
					if err := once.check(0, "preStop"); err != nil {
						return err
					}
					if s.null() {
						return nil
					}
					var err error
					c.preStop, err = s.skip()
					return err
				}
				_, err := s.skip()
				return err
			})
		case "readinessProbe":
			if err := once.check(3, "readinessProbe"); err != nil {
				return err
			}
			c.readinessProbe = s.next() != 'n'
		case "livenessProbe":
			if err := once.check(4, "livenessProbe"); err != nil {
				return err
			}
			var err error
			c.livenessHandler, err = readHandler(s)
			return err
		case "startupProbe":
			if err := once.check(5, "startupProbe"); err != nil {
				return err
			}
			var err error
			c.startupHandler, err = readHandler(s)
			return err
		}
		_, err := s.skip()
		return err
	})
}

// readHandler returns the handler of a probe, or nil when it has none, several,
// or one that is not known.
func readHandler(s *scanner) (*handler, error) {
	var found []handler
	err := s.object(func(key []byte) error {
		kind := ""
		switch string(key) {
		case "httpGet", "tcpSocket", "grpc", "exec":
			kind = string(key)
		}
		raw, err := s.skip()
		if kind != "" && string(raw) != "null" {
			found = append(found, handler{kind, raw})
		}
		return err
	})
	if len(found) != 1 {
		return nil, err
	}
	return &found[0], err
}

func readPort(s *scanner) (port, error) {
	p := port{tcp: true}
	var once seen
	err := s.object(func(key []byte) error {
		switch string(key) {
		case "name":
			return once.string(s, 0, &p.name)
		case "containerPort":
			if err := once.check(1, "containerPort"); err != nil {
				return err
			}
			var err error
			p.number, _, err = s.integer()
			return err
		case "protocol":
			var protocol string
			err := once.string(s, 2, &protocol)
			p.tcp = protocol == "" || protocol == "TCP"
			return err
		}
		_, err := s.skip()
		return err
	})
	return p, err
}

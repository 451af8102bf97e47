package patches

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/evenkeel/evenkeel/internal/path"
)

// Services are the Services of one Namespace: what shows which port of a pod serves, and whether the
// pods of a StatefulSet find each other before they are ready. They are safe for concurrent use.
type Services struct {
	mu     sync.RWMutex
	byName map[string]*service
	// byPair has each Service below one pair of its selector: it selects no pod without that.
	byPair map[pair][]*service
}

// service is what is known of a Service.
type service struct {
	name     string
	selector []pair // ordered; of a Service without any, somebody else keeps the endpoints
	targets  []target
	// unready is publishNotReadyAddresses: readiness of the pods means nothing to the Service.
	unready bool
	// sleep is how long, in seconds, traffic may still be led to a pod that terminates.
	sleep int32
}

type pair struct{ key, value string }

// target is where a TCP port of a Service leads.
type target struct {
	name   string // of a container port, or ""
	number int32
	port   string // name of the Service's port
}

// The bounds on what is kept of one Service. The API knows none on its selector. A Service beyond
// them counts as not known.
const (
	maxPairs   = 64
	maxTargets = 100
)

// NewServices returns no Services.
func NewServices() *Services {
	return &Services{byName: map[string]*service{}, byPair: map[pair][]*service{}}
}

// Put adds a Service, or replaces the one of its name.
func (s *Services) Put(from *corev1.Service) {
	kept, ok := reduce(from)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delete(from.Name)
	if !ok {
		return
	}
	s.byName[kept.name] = kept
	if len(kept.selector) > 0 {
		s.byPair[kept.selector[0]] = append(s.byPair[kept.selector[0]], kept)
	}
}

// Delete forgets a Service.
func (s *Services) Delete(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delete(name)
}

// Len returns how many Services are known.
func (s *Services) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.byName)
}

// Has reports whether a Service is known.
func (s *Services) Has(name string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.byName[name] != nil
}

func (s *Services) delete(name string) {
	old := s.byName[name]
	if old == nil {
		return
	}
	delete(s.byName, name)
	if len(old.selector) == 0 {
		return
	}
	first := old.selector[0]
	left := slices.DeleteFunc(slices.Clone(s.byPair[first]), func(x *service) bool { return x == old })
	if s.byPair[first] = left; len(left) == 0 {
		delete(s.byPair, first)
	}
}

// reduce returns what is kept of a Service, or false where it leads to no pods or is too large.
func reduce(from *corev1.Service) (*service, bool) {
	spec := &from.Spec
	if spec.Type == corev1.ServiceTypeExternalName || len(spec.Selector) > maxPairs || len(spec.Ports) > maxTargets {
		return nil, false
	}
	_, means := path.OfService(string(spec.Type), spec.ClusterIP, string(spec.ExternalTrafficPolicy), from.Annotations)
	s := &service{name: from.Name, unready: spec.PublishNotReadyAddresses, sleep: int32(means.Seconds)}
	s.selector = make([]pair, 0, len(spec.Selector))
	for key, value := range spec.Selector {
		s.selector = append(s.selector, pair{key, value})
	}
	slices.SortFunc(s.selector, func(a, b pair) int { return cmp.Compare(a.key, b.key) })
	s.targets = make([]target, 0, len(spec.Ports))
	for _, p := range spec.Ports {
		if p.Protocol != "" && p.Protocol != corev1.ProtocolTCP {
			continue
		}
		t := target{number: p.Port, port: p.Name} // what the API makes of no targetPort
		switch {
		case p.TargetPort.Type == intstr.String && p.TargetPort.StrVal != "":
			t.name, t.number = p.TargetPort.StrVal, 0
		case p.TargetPort.IntVal != 0:
			t.number = p.TargetPort.IntVal
		}
		s.targets = append(s.targets, t)
	}
	return s, true
}

// ServicesByNamespace are the Services of several Namespaces.
type ServicesByNamespace map[string]*Services

// Add adds a Service (v1), which is JSON. namespace is its Namespace where it names none.
func (m ServicesByNamespace) Add(raw []byte, namespace string) error {
	var service corev1.Service
	if err := json.Unmarshal(raw, &service); err != nil {
		return fmt.Errorf("read Service: %w", err)
	}
	m.Of(cmp.Or(service.Namespace, namespace)).Put(&service)
	return nil
}

// Of returns the Services of a Namespace, to add to them.
func (m ServicesByNamespace) Of(namespace string) *Services {
	of := m[namespace]
	if of == nil {
		of = NewServices()
		m[namespace] = of
	}
	return of
}

// publishesUnready reports whether a Service is known and publishes addresses that aren't ready.
func (s *Services) publishesUnready(name string) bool {
	if s == nil || name == "" {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	found := s.byName[name]
	return found != nil && found.unready
}

// lead is a TCP port of a pod that a Service leads to.
type lead struct {
	container int // index, -1 where it can't be told
	number    int64
	name      []byte // of the declared port, nil without one
	port      string // name of the Service's port
	evident   bool   // whether the Service waits until pods are ready
}

// evidence is what Services say of a pod.
type evidence struct {
	// selected is set where a Service selects the pod that waits until it is ready.
	selected bool
	// sleep is the longest that any Service needs which selects the pod, in seconds.
	sleep int32
	leads []lead
	room  [4]lead
}

// serves reports whether a Service leads to container i.
func (e *evidence) serves(i int) bool {
	return slices.ContainsFunc(e.leads, func(l lead) bool { return l.container == i })
}

// evidence finds what the Services of the Namespace say of the pods of in.
func (in *input) findEvidence(s *Services) {
	e := &in.evidence
	e.selected, e.sleep, e.leads = false, 0, e.room[:0]
	if s == nil {
		return
	}
	labels := in.pod().meta.labels
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, l := range labels {
		for _, found := range s.byPair[pair{string(l.key), string(l.value)}] {
			if !found.selects(labels) {
				continue
			}
			e.selected = e.selected || !found.unready
			e.sleep = max(e.sleep, found.sleep)
			for _, t := range found.targets {
				if l, ok := in.follow(t); ok {
					l.evident = !found.unready
					e.leads = append(e.leads, l)
				}
			}
		}
	}
	// Services may come in any order.
	slices.SortFunc(e.leads, func(a, b lead) int {
		return cmp.Or(cmp.Compare(a.container, b.container), cmp.Compare(a.number, b.number), cmp.Compare(a.port, b.port))
	})
}

// selects reports whether all pairs of the selector are among labels.
func (s *service) selects(labels []label) bool {
	for _, p := range s.selector {
		if !slices.ContainsFunc(labels, func(l label) bool { return string(l.key) == p.key && string(l.value) == p.value }) {
			return false
		}
	}
	return true
}

// follow finds the container that a target leads to, as endpoints are made: a name stands for the
// first container that declares it (FindPort in k8s.io/kubernetes/pkg/api/v1/service). Nothing but
// the declarations tells containers by a number: one that nobody declares belongs to the only
// container that there is, or that the settings choose.
func (in *input) follow(t target) (lead, bool) {
	containers := in.pod().containers
	found := lead{container: -1, number: int64(t.number), port: t.port}
	declared, chosen, choices := 0, -1, 0
	for i := range containers {
		c := &containers[i]
		if in.selects(c) {
			chosen = i
			choices++
		}
		for _, p := range c.ports {
			switch {
			case !p.tcp:
			case t.name != "" && string(p.name) == t.name:
				return lead{container: i, number: p.number, name: p.name, port: t.port}, true
			case t.name == "" && p.number == int64(t.number) && found.container != i:
				found.container, found.name = i, p.name
				declared++
			}
		}
	}
	switch {
	case t.name != "":
		return lead{}, false
	case declared > 1:
		found.container, found.name = -1, nil
	case declared == 0 && choices == 1:
		found.container = chosen
	}
	return found, true
}

package audit

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
	kjson "sigs.k8s.io/json"

	"github.com/evenkeel/evenkeel/internal/path"
	"github.com/evenkeel/evenkeel/patches"
)

// Path is one way that traffic takes to the pods of a workload.
type Path struct {
	// Through are the objects, as in "Service web, Ingress shop (class alb)".
	Through string `json:"through"`
	// By is the Name of the Means at its end, and Seconds how long the sleep has to be for it.
	By      string `json:"by"`
	Seconds int    `json:"seconds"`
}

// Router is an object that leads traffic to pods, or that says who does: a Service, an Ingress, a
// route of the Gateway API, a TargetGroupBinding, and Gateways and classes. It has the fields of all
// of them, whose names mean the same wherever they occur.
type Router struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name        string            `json:"name"`
		Namespace   string            `json:"namespace"`
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		// Of a Service.
		Type                  string            `json:"type"`
		ClusterIP             string            `json:"clusterIP"`
		ExternalTrafficPolicy string            `json:"externalTrafficPolicy"`
		Selector              map[string]string `json:"selector"`
		// Of an Ingress.
		IngressClassName string         `json:"ingressClassName"`
		DefaultBackend   ingressBackend `json:"defaultBackend"`
		// Of an Ingress and of a route.
		Rules []struct {
			HTTP struct {
				Paths []struct {
					Backend ingressBackend `json:"backend"`
				} `json:"paths"`
			} `json:"http"`
			BackendRefs []reference `json:"backendRefs"`
		} `json:"rules"`
		// Of a route.
		ParentRefs []reference `json:"parentRefs"`
		// Of a TargetGroupBinding.
		TargetType string    `json:"targetType"`
		ServiceRef reference `json:"serviceRef"`
		// Of a Gateway and of the classes.
		GatewayClassName string `json:"gatewayClassName"`
		Controller       string `json:"controller"`
		ControllerName   string `json:"controllerName"`
	} `json:"spec"`
}

type ingressBackend struct {
	Service reference `json:"service"`
}

// reference names another object. Where a kind is missing, it is the one that the API takes.
type reference struct {
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

// routerKinds are what may lead traffic beside Services, in the versions that have what is read, the
// newest first. Gateways are often in a namespace of their own; classes are in none.
var routerKinds = [...]struct {
	group, kind, plural string
	versions            []string
	everywhere          bool
}{
	{"networking.k8s.io", "IngressClass", "ingressclasses", []string{"v1"}, true},
	{"networking.k8s.io", "Ingress", "ingresses", []string{"v1"}, false},
	{gatewayAPI, "GatewayClass", "gatewayclasses", []string{"v1", "v1beta1"}, true},
	{gatewayAPI, "Gateway", "gateways", []string{"v1", "v1beta1"}, true},
	{gatewayAPI, "HTTPRoute", "httproutes", []string{"v1", "v1beta1"}, false},
	{gatewayAPI, "GRPCRoute", "grpcroutes", []string{"v1", "v1alpha2"}, false},
	{gatewayAPI, "TLSRoute", "tlsroutes", []string{"v1", "v1alpha3", "v1alpha2"}, false},
	{gatewayAPI, "TCPRoute", "tcproutes", []string{"v1", "v1alpha2"}, false},
	{gatewayAPI, "UDPRoute", "udproutes", []string{"v1", "v1alpha2"}, false},
	{"elbv2.k8s.aws", "TargetGroupBinding", "targetgroupbindings", []string{"v1beta1"}, false},
}

const gatewayAPI = "gateway.networking.k8s.io"

// isRouter reports whether a kind is one of routerKinds.
func isRouter(apiVersion, kind string) bool {
	group, _, _ := strings.Cut(apiVersion, "/")
	for i := range routerKinds {
		if routerKinds[i].group == group && routerKinds[i].kind == kind {
			return true
		}
	}
	return false
}

// addRouter adds an object that leads traffic. namespace is that of objects that name none. One that
// can't be read leads nowhere.
func (s *State) addRouter(raw []byte, namespace string) {
	var r Router
	if kjson.UnmarshalCaseSensitivePreserveInts(raw, &r) == nil {
		r.Metadata.Namespace = cmp.Or(r.Metadata.Namespace, namespace)
		s.Routers = append(s.Routers, r)
	}
}

// leadsTo reports whether the object leads to a Service.
func (r *Router) leadsTo(s *Router) bool {
	to := func(ref reference) bool {
		return ref.Name == s.Metadata.Name && (ref.Kind == "" || ref.Kind == kindService) &&
			cmp.Or(ref.Namespace, r.Metadata.Namespace) == s.Metadata.Namespace
	}
	found := to(r.Spec.DefaultBackend.Service) || to(r.Spec.ServiceRef)
	for _, rule := range r.Spec.Rules {
		found = found || slices.ContainsFunc(rule.BackendRefs, to)
		for _, p := range rule.HTTP.Paths {
			found = found || to(p.Backend.Service)
		}
	}
	return found
}

// routers are objects that lead traffic, by what is asked of them.
type routers struct {
	services map[string][]*Router // by namespace
	leaders  []*Router            // Ingresses, routes and TargetGroupBindings
	gateways map[string]string    // class by namespace/name
	// controllers are those of the classes, by kind/name.
	controllers map[string]string
}

func sortRouters(all []Router) *routers {
	r := &routers{services: map[string][]*Router{}, gateways: map[string]string{}, controllers: map[string]string{}}
	for i := range all {
		o := &all[i]
		switch o.Kind {
		case kindService:
			r.services[o.Metadata.Namespace] = append(r.services[o.Metadata.Namespace], o)
		case "IngressClass", "GatewayClass":
			r.controllers[o.Kind+"/"+o.Metadata.Name] = o.Spec.Controller + o.Spec.ControllerName
		case "Gateway":
			r.gateways[o.Metadata.Namespace+"/"+o.Metadata.Name] = o.Spec.GatewayClassName
		default:
			r.leaders = append(r.leaders, o)
		}
	}
	return r
}

// selecting returns the Services of a namespace that select pods with these labels.
func (r *routers) selecting(namespace string, pod map[string]string) []*Router {
	var services []*Router
	for _, s := range r.services[namespace] {
		if len(s.Spec.Selector) > 0 && labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(pod)) {
			services = append(services, s)
		}
	}
	return services
}

// paths returns the ways to pods of these Services with these readiness gates, the one that needs the
// longest sleep first. A readiness gate of a cloud's controller shows that a load balancer has the
// pods as its targets, whatever leads to them.
func (r *routers) paths(services []*Router, gates []string) []Path {
	var paths []Path
	add := func(through string, m path.Means) { paths = append(paths, Path{through, m.Name, m.Seconds}) }
	for _, s := range services {
		note, means := path.OfService(s.Spec.Type, s.Spec.ClusterIP, s.Spec.ExternalTrafficPolicy, s.Metadata.Annotations)
		service := fmt.Sprintf("Service %s (%s)", s.Metadata.Name, note)
		add(service, means)
		for _, l := range r.leaders {
			if l.leadsTo(s) {
				through, means := r.leader(l, s)
				add(service+", "+through, means)
			}
		}
	}
	for _, g := range gates {
		switch {
		case strings.HasPrefix(g, "target-health.elbv2.k8s.aws/"), strings.HasPrefix(g, "target-health.alb.ingress.k8s.aws/"):
			add("readiness gate "+g, path.ByALB)
		case g == "cloud.google.com/load-balancer-neg-ready":
			add("readiness gate "+g, path.ByNEG)
		}
	}
	slices.SortStableFunc(paths, func(a, b Path) int {
		return cmp.Or(-cmp.Compare(a.Seconds, b.Seconds), cmp.Compare(a.Through, b.Through))
	})
	return slices.Compact(paths)
}

// crowded raises what the ways to pods need where so many Services have pods on the same node that a
// drain keeps the EndpointSlice controller busy for longer.
func (r *run) crowded() {
	for at, w := range r.found {
		node, most := "", 0
		for _, p := range r.pods[at] {
			if n := len(r.served[p.Node]); n > most || n == most && p.Node < node {
				node, most = p.Node, n
			}
		}
		for i := range w.Paths {
			if p := &w.Paths[i]; p.Seconds < path.Drained(most) {
				p.Seconds = path.Drained(most)
				p.Through += fmt.Sprintf(", one of %d Services with pods on node %s", most, node)
			}
		}
		slices.SortStableFunc(w.Paths, func(a, b Path) int { return -cmp.Compare(a.Seconds, b.Seconds) })
	}
}

// leader names an Ingress, a route or a TargetGroupBinding, and says how it leads to the pods of a
// Service. What is not known leads to them as something that watches endpoints does.
func (r *routers) leader(l, s *Router) (string, path.Means) {
	name := l.Kind + " " + l.Metadata.Name
	switch l.Kind {
	case "TargetGroupBinding":
		switch made := strings.Join(slices.Sorted(maps.Keys(l.Metadata.Labels)), " "); {
		case l.Spec.TargetType != "ip":
			return name, path.ByNode
		case strings.Contains(made, "service.k8s.aws/"), strings.Contains(made, "gateway.k8s.aws.nlb/"):
			return name, path.ByNLB
		}
		return name, path.ByALB
	case "Ingress":
		class := cmp.Or(l.Spec.IngressClassName, l.Metadata.Annotations["kubernetes.io/ingress.class"])
		if class != "" {
			name += " (class " + class + ")"
		}
		const target = "alb.ingress.kubernetes.io/target-type"
		switch controller := cmp.Or(r.controllers["IngressClass/"+class], class); controller {
		case "ingress.k8s.aws/alb", "eks.amazonaws.com/alb", "alb":
			if cmp.Or(s.Metadata.Annotations[target], l.Metadata.Annotations[target]) == "ip" {
				return name, path.ByALB
			}
			return name, path.ByNode // the controller's default is to have nodes as targets
		case "azure/application-gateway", "azure-application-gateway":
			return name, path.ByAGIC
		case "gce", "gce-internal":
			return name, path.ByNEG
		}
		return name, path.ByWatch
	}
	for _, p := range l.Spec.ParentRefs {
		class := r.gateways[cmp.Or(p.Namespace, l.Metadata.Namespace)+"/"+p.Name]
		if p.Kind != "" && p.Kind != "Gateway" || class == "" {
			continue
		}
		name += fmt.Sprintf(" (Gateway %s, class %s)", p.Name, class)
		if strings.HasPrefix(class, "gke-") || r.controllers["GatewayClass/"+class] == "networking.gke.io/gateway" {
			return name, path.ByNEG
		}
	}
	return name, path.ByWatch
}

// sleeps returns the longest sleep of the containers, in seconds: the one that is wanted or, where
// none is or somebody else wrote the hook, the one that stands. It is false for no sleep, and for a
// hook that does something else, of which nothing can be said.
func (w *Workload) sleeps() (int, bool) {
	longest, found := 0, false
	for _, d := range w.Defaults {
		if d.Default != patches.DefaultPreStopSleep || d.Container == "" {
			continue
		}
		seconds, ok := sleepIn(cmp.Or(d.Wanted, d.Standing))
		if found = found || ok; ok {
			longest = max(longest, seconds)
		}
	}
	return longest, found
}

// sleepIn reads a sleep of evenkeel's, as in "sleep 10 s", or a hook's JSON.
func sleepIn(text string) (int, bool) {
	var hook struct {
		Sleep struct {
			Seconds int `json:"seconds"`
		} `json:"sleep"`
		Exec struct {
			Command []string `json:"command"`
		} `json:"exec"`
	}
	if rest, ok := strings.CutPrefix(text, "sleep "); ok {
		seconds, err := strconv.Atoi(strings.TrimSuffix(rest, " s"))
		return seconds, err == nil
	}
	if kjson.UnmarshalCaseSensitivePreserveInts([]byte(text), &hook) != nil {
		return 0, false
	}
	if hook.Sleep.Seconds > 0 {
		return hook.Sleep.Seconds, true
	}
	command := strings.Fields(strings.Join(hook.Exec.Command, " "))
	if i := slices.Index(command, "sleep"); i >= 0 && i+1 < len(command) {
		seconds, err := strconv.Atoi(strings.TrimRight(command[i+1], "s;"))
		return seconds, err == nil
	}
	return 0, false
}

package audit

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"

	"github.com/evenkeel/evenkeel/internal/path"
	"github.com/evenkeel/evenkeel/manifest"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
)

// leader returns an object as JSON would have it.
func leader(kind, name string, spec string, annotations ...string) map[string]any {
	var fields map[string]any
	if err := json.Unmarshal([]byte(spec), &fields); err != nil {
		panic(err) // of this file
	}
	notes := map[string]string{}
	for i := 0; i < len(annotations); i += 2 {
		notes[annotations[i]] = annotations[i+1]
	}
	return map[string]any{"kind": kind, "spec": fields,
		"metadata": map[string]any{"name": name, "namespace": "shop", "annotations": notes}}
}

const (
	toPods  = `{"selector": {"app": "web"}}`
	toLocal = `{"selector": {"app": "web"}, "type": "LoadBalancer", "externalTrafficPolicy": "Local"}`
	byRules = `{"rules": [{"http": {"paths": [{"backend": {"service": {"name": "web"}}}]}}], "ingressClassName": %q}`
	byRefs  = `{"rules": [{"backendRefs": [{"name": "web"}]}], "parentRefs": [{"name": "edge"}]}`
)

func waysToWeb(s State, gates []string) []Path {
	r := sortRouters(s.Routers)
	return r.paths(r.selecting("shop", map[string]string{"app": "web"}), gates)
}

func TestEachWayOfTheTrafficNeedsItsSleep(t *testing.T) {
	web := leader("Service", "web", toPods)
	for _, c := range []struct {
		name    string
		objects []map[string]any
		gates   []string
		want    []string // seconds and objects
	}{
		{"a Service in the cluster", []map[string]any{web}, nil, []string{"10 Service web (ClusterIP)"}},
		{"a Service of other pods", []map[string]any{leader("Service", "db", `{"selector": {"app": "db"}}`)}, nil, nil},
		{"a Service without selector", []map[string]any{leader("Service", "web", `{}`)}, nil, nil},
		{"a headless Service",
			[]map[string]any{leader("Service", "web", `{"selector": {"app": "web"}, "clusterIP": "None"}`)}, nil,
			[]string{"10 Service web (headless)"}},
		{"a load balancer of nodes", []map[string]any{
			leader("Service", "web", `{"selector": {"app": "web"}, "type": "LoadBalancer"}`)}, nil,
			[]string{"10 Service web (LoadBalancer)"}},
		{"a load balancer that asks the nodes", []map[string]any{leader("Service", "web", toLocal)}, nil,
			[]string{"30 Service web (LoadBalancer, externalTrafficPolicy Local)"}},
		{"a Network Load Balancer of pods", []map[string]any{
			leader("Service", "web", toLocal, "service.beta.kubernetes.io/aws-load-balancer-type", "external",
				"service.beta.kubernetes.io/aws-load-balancer-nlb-target-type", "ip")}, nil,
			[]string{"120 Service web (LoadBalancer, NLB with target type ip)"}},
		{"a network endpoint group", []map[string]any{
			leader("Service", "web", toPods, "cloud.google.com/neg", `{"exposed_ports": {"80":{}}}`)}, nil,
			[]string{"40 Service web (ClusterIP, cloud.google.com/neg)"}},
		{"no network endpoint group, in words", []map[string]any{
			leader("Service", "web", toPods, "cloud.google.com/neg", `{"ingress": false}`)}, nil,
			[]string{"10 Service web (ClusterIP)"}},
		{"an Ingress of a controller in the cluster",
			[]map[string]any{web, leader("Ingress", "shop", fmt.Sprintf(byRules, "nginx"))}, nil,
			[]string{"10 Service web (ClusterIP)", "10 Service web (ClusterIP), Ingress shop (class nginx)"}},
		{"an Ingress by its default backend",
			[]map[string]any{web, leader("Ingress", "shop", `{"defaultBackend": {"service": {"name": "web"}}}`,
				"kubernetes.io/ingress.class", "azure/application-gateway")}, nil,
			[]string{"90 Service web (ClusterIP), Ingress shop (class azure/application-gateway)",
				"10 Service web (ClusterIP)"}},
		{"an Ingress with pods as targets, by the controller of its class",
			[]map[string]any{web, leader("IngressClass", "public", `{"controller": "ingress.k8s.aws/alb"}`),
				leader("Ingress", "shop", fmt.Sprintf(byRules, "public"), "alb.ingress.kubernetes.io/target-type", "ip")}, nil,
			[]string{"30 Service web (ClusterIP), Ingress shop (class public)", "10 Service web (ClusterIP)"}},
		{"an Ingress with nodes as targets",
			[]map[string]any{web, leader("Ingress", "shop", fmt.Sprintf(byRules, "alb"))}, nil,
			[]string{"10 Service web (ClusterIP)", "10 Service web (ClusterIP), Ingress shop (class alb)"}},
		{"an Ingress to another Service", []map[string]any{web,
			leader("Ingress", "shop", `{"defaultBackend": {"service": {"name": "db"}}}`)}, nil,
			[]string{"10 Service web (ClusterIP)"}},
		{"a route whose Gateway can't be read", []map[string]any{web, leader("GRPCRoute", "api", byRefs)}, nil,
			[]string{"10 Service web (ClusterIP)", "10 Service web (ClusterIP), GRPCRoute api"}},
		{"a route of a Gateway of Google Cloud", []map[string]any{web, leader("HTTPRoute", "api", byRefs),
			leader("Gateway", "edge", `{"gatewayClassName": "gke-l7-rilb"}`)}, nil,
			[]string{"40 Service web (ClusterIP), HTTPRoute api (Gateway edge, class gke-l7-rilb)",
				"10 Service web (ClusterIP)"}},
		{"a route to another kind", []map[string]any{web,
			leader("TCPRoute", "api", `{"rules": [{"backendRefs": [{"name": "web", "kind": "ServiceImport"}]}]}`)}, nil,
			[]string{"10 Service web (ClusterIP)"}},
		{"a route to another namespace", []map[string]any{web,
			leader("TCPRoute", "api", `{"rules": [{"backendRefs": [{"name": "web", "namespace": "x"}]}]}`)}, nil,
			[]string{"10 Service web (ClusterIP)"}},
		{"a target group of pods", []map[string]any{web,
			leader("TargetGroupBinding", "k8s-1", `{"targetType": "ip", "serviceRef": {"name": "web"}}`)}, nil,
			[]string{"30 Service web (ClusterIP), TargetGroupBinding k8s-1", "10 Service web (ClusterIP)"}},
		{"readiness gates of the clouds", nil,
			[]string{"target-health.elbv2.k8s.aws/k8s-1", "cloud.google.com/load-balancer-neg-ready", "example.com/own"},
			[]string{"40 readiness gate cloud.google.com/load-balancer-neg-ready",
				"30 readiness gate target-health.elbv2.k8s.aws/k8s-1"}},
	} {
		var s State
		for _, o := range c.objects {
			s.addRouter(raw(t, o), "")
		}
		var got []string
		for _, p := range waysToWeb(s, c.gates) {
			got = append(got, fmt.Sprintf("%d %s", p.Seconds, p.Through))
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	// What made the TargetGroupBinding shows in its labels.
	made := leader("TargetGroupBinding", "k8s-1", `{"targetType": "ip", "serviceRef": {"name": "web"}}`)
	made["metadata"].(map[string]any)["labels"] = map[string]string{"service.k8s.aws/stack-name": "web"}
	s := State{}
	s.addRouter(raw(t, web), "")
	s.addRouter(raw(t, made), "")
	paths := waysToWeb(s, nil)
	if paths[0].By != path.ByNLB.Name {
		t.Errorf("a TargetGroupBinding that a Service made is %v, want %s", paths[0], path.ByNLB.Name)
	}
}

func TestASleepIsReadFromAHook(t *testing.T) {
	for text, want := range map[string]int{
		"sleep 10 s":                         10,
		`{"sleep":{"seconds":15}}`:           15,
		`{"exec":{"command":["sleep","5"]}}`: 5,
		`{"exec":{"command":["sh","-c","sleep 20; nginx -s quit"]}}`: 20,
		`{"exec":{"command":["/wait-shutdown"]}}`:                    -1,
		`{"exec":{"command":["sh","-c","sleep $DELAY"]}}`:            -1,
		`{"httpGet":{"port":80}}`:                                    -1,
		"":                                                           -1,
	} {
		got, ok := sleepIn(text)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q sleeps %d s, want %d", text, got, want)
		}
	}
}

// TestASleepBelowItsPathIsFound holds the finding against each way in which a sleep comes to be.
func TestASleepBelowItsPathIsFound(t *testing.T) {
	cloud := stub{"services", leader("Service", "web", toLocal)}
	inside := stub{"services", leader("Service", "web", toPods)}
	annotated := func(value string) func(*appsv1.Deployment) {
		return func(d *appsv1.Deployment) { d.Annotations = map[string]string{policy.Prefix + "pre-stop-sleep": value} }
	}
	for _, c := range []struct {
		name       string
		service    stub
		deployment *appsv1.Deployment
		finds      string // "" for nothing
	}{
		{"the default within the cluster", inside, injected(t, serving("shop", "web")), ""},
		{"the default behind a load balancer that asks the nodes", cloud, injected(t, serving("shop", "web")), "10 s of 30"},
		{"before anything was added", cloud, serving("shop", "web"), "10 s of 30"},
		{"a longer sleep that is asked for", cloud, injected(t, serving("shop", "web"), annotated("30s")), ""},
		{"a shorter sleep that is asked for", inside, injected(t, serving("shop", "web"), annotated("5s")), "5 s of 10"},
		{"what auto makes of it", cloud, serving("shop", "web", annotated("auto")), ""},
		{"no sleep, which is a choice", cloud, serving("shop", "web", annotated("off")), ""},
		{"nothing that leads traffic", stub{"services", leader("Service", "db", `{"selector": {"app": "db"}}`)},
			injected(t, serving("shop", "web"), annotated("1s")), ""},
	} {
		objects := append(installed(enabled), kept("shop", enabled), stub{"deployments", c.deployment}, c.service)
		text := explainIn(t, &api{objects: objects}, nil, "shop", "Deployment", "web")
		found := holds(text, "sleep-too-short")
		if found != (c.finds != "") || found && !holds(text, "sleep-too-short ("+c.finds+")") {
			t.Errorf("%s: want the finding %q, it says\n%s", c.name, c.finds, text)
		}
	}
}

func TestANodeWithPodsOfManyServicesNeedsALongerSleep(t *testing.T) {
	for _, c := range []struct {
		services, pods int    // of each on the node
		want           string // finding of the workloads with pods on the node, "" for none
	}{
		{120, 1, ""}, {121, 1, "10 s of 16"}, {250, 1, "10 s of 32"}, {10, 25, ""},
	} {
		s := state()
		s.Namespaces["shop"] = Namespace{OptedIn: true}
		for i := range c.services {
			on := append(slices.Repeat([]string{"node-0"}, c.pods), fmt.Sprint("node-", 1+i%5))
			deploy(t, &s, "shop", fmt.Sprint("web-", i), int32(len(on)), on...)
			s.addRouter(raw(t, leader("Service", fmt.Sprint("web-", i), fmt.Sprintf(`{"selector": {"app": "web-%d"}}`, i))), "")
		}
		deploy(t, &s, "shop", "elsewhere", 2, "node-4", "node-5")
		s.addRouter(raw(t, leader("Service", "elsewhere", `{"selector": {"app": "elsewhere"}}`)), "")
		for _, w := range Run(s, rules(t)).Workloads {
			want := c.want
			if w.Name == "elsewhere" {
				want = ""
			}
			i := slices.IndexFunc(w.Findings, func(f Finding) bool { return f.Code == SleepTooShort })
			if (i >= 0) != (want != "") || i >= 0 && w.Findings[i].Object != want {
				t.Errorf("%d Services with %d pods each, %s: %v, want %q", c.services, c.pods, w.Name, w.Findings, want)
			}
			of := fmt.Sprintf("Service %s (ClusterIP), one of %d Services with pods on node node-0", w.Name, c.services)
			if want != "" && w.Paths[0].Through != of {
				t.Errorf("the traffic goes through %s, want %s", w.Paths[0].Through, of)
			}
		}
	}
}

func TestExplainNamesWhatLeadsTraffic(t *testing.T) {
	objects := append(installed(enabled), kept("shop", enabled), stub{"deployments", injected(t, serving("shop", "web"))},
		stub{"services", leader("Service", "web", toPods)},
		stub{"ingresses", leader("Ingress", "shop", fmt.Sprintf(byRules, "azure-application-gateway"))})
	text := explainIn(t, &api{objects: objects}, nil, "shop", "Deployment", "web")
	for _, line := range []string{
		"Service web (ClusterIP), Ingress shop (class azure-application-gateway) needs 90 s the sleep is 10 s " +
			path.ByAGIC.Name,
		"Service web (ClusterIP) needs 10 s the sleep is 10 s",
		"kubectl -n shop annotate deployment/web evenkeel.dev/pre-stop-sleep=90s",
	} {
		if !holds(text, line) {
			t.Errorf("%q is missing in\n%s", line, text)
		}
	}
	hidden := &api{objects: objects, forbidden: []string{"ingresses", "gateways"}}
	text = explainIn(t, hidden, nil, "shop", "Deployment", "web")
	if holds(text, "Ingress shop") || holds(text, "sleep-too-short") ||
		!holds(text, "warning: ingresses, gateways may not be read") {
		t.Errorf("an Ingress that may not be read shows, or nothing is said of it, in\n%s", text)
	}
	client := hidden.start(t)
	installation, err := Installed(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	state, err := Read(t.Context(), client, Scope{Namespace: "shop", Installation: installation})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(state.Warnings, func(w string) bool {
		return strings.HasPrefix(w, "ingresses, gateways may not be read")
	}) {
		t.Errorf("nothing is said of what may not be read: %q", state.Warnings)
	}
}

func TestManifestsNameWhatLeadsTraffic(t *testing.T) {
	const input = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, annotations: {service.beta.kubernetes.io/aws-load-balancer-nlb-target-type: ip}}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec: {rules: [{backendRefs: [{name: web, port: 80}]}]}
`
	files, err := manifest.ReadPaths(t.Context(), []string{"-"}, strings.NewReader(input))
	if err != nil {
		t.Fatal(err)
	}
	version := patches.Version{Major: 1, Minor: 36}
	state, err := Manifests(t.Context(), files, ManifestScope{Injector: rules(t).Injector, Namespace: "shop",
		Cluster: patches.Cluster{APIServer: version, OldestKubelet: version}})
	if err != nil {
		t.Fatal(err)
	}
	w := Run(*state, rules(t)).Workloads[0]
	want := []Path{{"Service web (LoadBalancer, NLB with target type ip)", path.ByNLB.Name, 120},
		{"Service web (LoadBalancer, NLB with target type ip), HTTPRoute web", path.ByWatch.Name, 10}}
	if diff := cmp.Diff(want, w.Paths); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
	if !slices.Contains(w.Findings, Finding{SleepTooShort, "10 s of 120"}) {
		t.Errorf("found %v, want %s", w.Findings, SleepTooShort)
	}
}

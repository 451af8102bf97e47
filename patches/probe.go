package patches

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/evenkeel/evenkeel/policy"
)

// DefaultReadinessProbe is the name of the default that keeps traffic away from a
// container until it answers.
const DefaultReadinessProbe = policy.SettingReadinessProbe

// The timings of the probe, in seconds and times: short enough not to slow a
// rollout, long enough not to load a node. A handler that has more time in a probe of
// its own container needs it here too, and is then asked no more often.
const (
	probePeriod           = 5
	probeTimeout          = 2
	probeFailureThreshold = 3

	// apiProbePeriod is what the API makes of a period that is not set
	// (SetDefaults_Probe in k8s.io/kubernetes/pkg/apis/core/v1/defaults.go).
	apiProbePeriod = 10
)

// addReadinessProbe adds a readiness probe to the containers that have none: the
// handler of the container's own liveness or startup probe, which is proven to
// work, or a TCP probe on the port that a Service leads to, else on its only, or
// obvious, TCP port. A probe that would be a guess is not added, and never a liveness
// probe: it kills.
//
// An explicit probe of the settings goes to the container that it names. Else:
//
//	Services that select the pod      | liveness, startup | declared TCP ports   | probe
//	any                               | either            | any                  | its handler
//	lead to one main port of it       | none              | any                  | that port
//	lead to several                   | none              | any                  | the obvious one, or
//	                                  |                   |                      | ambiguous-port
//	lead to ports beside the main job | none              | any                  | side-port
//	lead elsewhere                    | none              | some                 | service-elsewhere
//	none that waits for readiness     | none              | one main, or obvious | that port, or where updates
//	                                  |                   |                      | end old pods first,
//	                                  |                   |                      | ends-first
//	none that waits for readiness     | none              | several              | ambiguous-port
//	any                               | none              | none, no lead either | no-port
//
// A workload of which no pod ever got ready with such a probe gets none any more (notes.go).
// Two kinds of pods get none of these, unless their own annotations ask: a pod whose
// template evenkeel left as it was, since its siblings run without one; and a
// StatefulSet whose governing Service doesn't publish the names of pods that aren't
// ready, or isn't known: a peer that waits for the others would never get ready
// (vllm-project/aibrix#1441, nats-io/k8s#441).
func addReadinessProbe(in *input, out *output) {
	pod := in.pod()
	target, skip := in.probeTarget(out)
	if skip != SkipNone {
		out.skip(DefaultReadinessProbe, "", skip, nil)
	}
	for i := range pod.containers {
		c := &pod.containers[i]
		at := pod.probeSlot(i)
		pod.giveWay(i, out, "/readinessProbe", c.probeParts)
		var h handler
		why := skip
		if why == SkipNone {
			h, why = in.probeOf(c, target, i)
		}
		if why != SkipNone {
			if skip == SkipNone || at.standing != nil {
				out.skip(DefaultReadinessProbe, c.name, why, at.standing)
			}
			out.takeBack(&at)
			continue
		}
		timeout, period, failures := h.timings()
		out.begin(&at)
		out.probe(h)
		out.fill(&at)
		out.noteFingerprint(c.name, DefaultReadinessProbe, h.kind+":", h.raw, ":", strconv.FormatInt(timeout, 10),
			":", strconv.FormatInt(period, 10), ":", strconv.FormatInt(failures, 10))
		out.applied(DefaultReadinessProbe, c.name, describe(h), &at)
	}
}

// probeTarget returns the index of the only container that an explicit probe is for, -1 for all, or
// why nothing gets a probe.
func (in *input) probeTarget(out *output) (int, Skip) {
	switch {
	case in.daemonSet() && !in.policy.Asked(policy.SettingReadinessProbe):
		return -1, SkipDaemonSet
	case in.policy.ReadinessProbe.Kind == policy.ProbeOff:
		return -1, SkipOff
	case in.object.kind == "Pod" && in.object.meta.controller != "" && !in.policy.Asked(policy.SettingReadinessProbe):
		return -1, SkipUntouchedTemplate
	case in.policy.ReadinessProbe.Kind == policy.ProbeAuto:
		return -1, SkipNone
	}
	target := in.probed()
	if target >= 0 {
		return target, SkipNone
	}
	if in.policy.Asked(policy.SettingReadinessProbe) { // who asked for all can't be told of each
		out.problem(in.policy.From(policy.SettingReadinessProbe), policy.SettingReadinessProbe,
			"names a port that no container, or more than one, declares",
			"a declared port, or evenkeel.dev/containers to choose")
	}
	return -1, SkipUnknownPort
}

// probeOf returns the handler for container c, the i-th, or why it gets none.
func (in *input) probeOf(c *container, target, i int) (handler, Skip) {
	switch {
	case target >= 0 && i != target:
		return handler{}, SkipNotSelected
	case c.readinessProbe != nil:
		return handler{}, SkipUserSet
	case !in.selects(c):
		return handler{}, SkipNotSelected
	case target >= 0:
		return asked(in.policy.ReadinessProbe, c), SkipNone
	}
	h, skip := in.obvious(i)
	if skip == SkipNone && in.object.note == SkipProbeFailed {
		return handler{}, SkipProbeFailed
	}
	if skip == SkipNone && in.object.kind == "StatefulSet" && !in.policy.Asked(policy.SettingReadinessProbe) &&
		!in.services.publishesUnready(in.object.serviceName) {
		return handler{}, SkipPeers
	}
	return h, skip
}

// timings returns timeout, period and failures of the readiness probe with handler h, in seconds and
// times. A command of the author's is run no more often than the author runs it, and may fail for at
// least a third of the time that the author bears.
func (h handler) timings() (timeout, period, failures int64) {
	timeout = max(h.timeout, probeTimeout)
	period, failures = max(timeout, probePeriod), probeFailureThreshold
	if h.kind == "exec" {
		authors := h.period
		if authors == 0 {
			authors = apiProbePeriod
		}
		period, failures = max(period, authors), max(failures, (h.failures+2)/3)
	}
	return timeout, period, failures
}

// probe writes a readiness probe, its members in the order of their names.
func (o *output) probe(h handler) {
	timeout, period, failures := h.timings()
	between := `{`
	for _, member := range [...]struct {
		name   string
		number int64 // 0 for handlers
	}{
		{"exec", 0}, {"failureThreshold", failures}, {"grpc", 0}, {"httpGet", 0},
		{"periodSeconds", period}, {"tcpSocket", 0}, {"timeoutSeconds", timeout},
	} {
		if member.number == 0 && member.name != h.kind {
			continue
		}
		o.write(between, `"`, member.name, `":`)
		between = `,`
		if member.number > 0 {
			o.integer(member.number)
		} else {
			o.raw(h.raw)
		}
	}
	o.write(`}`)
}

// describe says a handler in a few words for the report.
func describe(h handler) string {
	if len(h.raw) > 80 {
		return h.kind
	}
	return h.kind + " " + string(h.raw)
}

// probed returns the index of the container that an explicit probe is for, or -1:
// the only one that declares the port, else, for a port number, the only container
// that is selected.
func (in *input) probed() int {
	probe := &in.policy.ReadinessProbe
	declaring, selected := []int{}, []int{}
	for i := range in.pod().containers {
		c := &in.pod().containers[i]
		if !in.selects(c) {
			continue
		}
		selected = append(selected, i)
		if slices.ContainsFunc(c.ports, func(p port) bool {
			return p.tcp &&
				(probe.PortName == "" && p.number == int64(probe.PortNumber) ||
					probe.PortName != "" && string(p.name) == probe.PortName)
		}) {
			declaring = append(declaring, i)
		}
	}
	switch {
	case len(declaring) == 1:
		return declaring[0]
	case len(declaring) == 0 && len(selected) == 1 && probe.PortNumber != 0:
		return selected[0]
	}
	return -1
}

// asked returns the handler of an explicit probe of container c.
func asked(probe policy.Probe, c *container) handler {
	port := intstr.FromInt32(int32(probe.PortNumber))
	if probe.PortName != "" {
		port = intstr.FromString(probe.PortName)
	}
	switch probe.Kind {
	case policy.ProbeTCP:
		return handler{kind: "tcpSocket", raw: marshal(corev1.TCPSocketAction{Port: port})}
	case policy.ProbeHTTP:
		return handler{kind: "httpGet", raw: marshal(corev1.HTTPGetAction{Path: probe.Path, Port: port})}
	case policy.ProbeHTTPS:
		return handler{kind: "httpGet",
			raw: marshal(corev1.HTTPGetAction{Path: probe.Path, Port: port, Scheme: corev1.URISchemeHTTPS})}
	}
	number := int64(probe.PortNumber)
	for _, p := range c.ports { // a gRPC probe takes no port name
		if probe.PortName != "" && string(p.name) == probe.PortName && p.tcp {
			number = p.number
		}
	}
	return handler{kind: "grpc", raw: marshal(corev1.GRPCAction{Port: int32(number), Service: &probe.Service})}
}

// obvious returns the handler that the i-th container's own probes, the Services or its ports
// suggest. The startup handler counts only where it goes on as the liveness handler: another one asks
// whether the start is over.
func (in *input) obvious(i int) (handler, Skip) {
	c := &in.pod().containers[i]
	for _, own := range [...]handler{c.livenessHandler, c.startupHandler} {
		if own.kind != "" {
			return own, SkipNone
		}
	}
	number, skip := in.mainPort(i)
	if skip != SkipNone {
		return handler{}, skip
	}
	raw := append(in.handlerRoom[:0], `{"port":`...)
	return handler{kind: "tcpSocket", raw: append(strconv.AppendInt(raw, number, 10), '}')}, SkipNone
}

// candidate is a port that may stand for a container.
type candidate struct {
	number  int64
	name    []byte // of the port of the container
	service string // name of the port of a Service
}

// mainPort returns the number of the TCP port that stands for the i-th container: of those that
// Services lead to, or that are declared where no Service selects the pod.
func (in *input) mainPort(i int) (int64, Skip) {
	c := &in.pod().containers[i]
	var room [8]candidate
	led := room[:0]
	for _, l := range in.evidence.leads {
		if l.container == i && l.evident {
			led = append(led, candidate{l.number, l.name, l.port})
		}
	}
	if len(led) > 0 {
		return choose(led, c.name)
	}
	for _, p := range c.ports {
		if p.tcp {
			led = append(led, candidate{number: p.number, name: p.name})
		}
	}
	number, skip := choose(led, c.name)
	switch {
	case skip != SkipNone && skip != SkipAmbiguousPort:
		return 0, skip
	case in.evidence.selected:
		return 0, SkipServiceElsewhere
	case in.object.endsFirst && skip == SkipNone:
		return 0, SkipEndsFirst
	}
	return number, skip
}

// choose returns the number of the only port that is not named for something beside the main job,
// else of the one named http, web, grpc, app, main or after the container. A port beside the main job
// is never it: a debugger takes the first connection for its client, and a metrics port that is off
// by default never opens. Nor is https beside another one: nothing shows that it is on.
func choose(ports []candidate, container string) (int64, Skip) {
	var room [8]candidate
	main := room[:0]
	some := false
	for _, p := range ports {
		if p.number < 1 || p.number > 65535 {
			continue
		}
		some = true
		if !beside(p.name) && !beside(p.service) {
			main = append(main, p)
		}
	}
	switch {
	case !some:
		return 0, SkipNoPort
	case len(main) == 0:
		return 0, SkipSidePort
	case !slices.ContainsFunc(main, func(p candidate) bool { return p.number != main[0].number }):
		return main[0].number, SkipNone
	}
	for _, name := range [...]string{"http", "web", "grpc", "app", "main", container} {
		for _, p := range main {
			if name != "" && (string(p.name) == name || p.service == name) {
				return p.number, SkipNone
			}
		}
	}
	return 0, SkipAmbiguousPort
}

// beside reports whether a port name stands for metrics, administration, debugging,
// profiling or health rather than the container's main job.
func beside[text []byte | string](name text) bool {
	for word := range strings.SplitSeq(string(name), "-") {
		switch word {
		case "monitoring", "monitor", "telemetry", "stats", "statsd", "exporter", "zpages",
			"management", "mgmt", "actuator", "jolokia", "jdwp", "jmx", "delve", "dlv", "inspect", "inspector",
			"profiling", "profiler", "profile", "probe", "probes", "liveness", "readiness", "livez", "readyz", "status":
			return true
		}
		for _, part := range [...]string{"metric", "prom", "admin", "debug", "pprof", "health"} {
			if strings.HasPrefix(word, part) || strings.HasSuffix(word, part) || strings.HasSuffix(word, part+"s") {
				return true
			}
		}
	}
	return false
}

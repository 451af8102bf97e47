package patches

import (
	"bytes"
	"slices"
	"strconv"

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
// handler of the container's own startup or liveness probe, which is proven to
// work, or a TCP probe on its only, or obvious, TCP port. A probe that would be a
// guess is not added, and never a liveness probe: it kills.
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
	case in.policy.ReadinessProbe.Kind == policy.ProbeAuto:
		return -1, SkipNone
	}
	target := in.probed()
	if target >= 0 {
		return target, SkipNone
	}
	if in.policy.Asked(policy.SettingReadinessProbe) { // who asked for all can't be told of each
		out.problem(in.policy.From(policy.SettingReadinessProbe), policy.SettingReadinessProbe,
			"names a port that no container, or more than one, declares", "a declared port, or evenkeel.dev/containers to choose")
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
	return obvious(c)
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
			return p.tcp && (probe.PortName == "" && p.number == int64(probe.PortNumber) || probe.PortName != "" && string(p.name) == probe.PortName)
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
		return handler{kind: "httpGet", raw: marshal(corev1.HTTPGetAction{Path: probe.Path, Port: port, Scheme: corev1.URISchemeHTTPS})}
	}
	number := int64(probe.PortNumber)
	for _, p := range c.ports { // a gRPC probe takes no port name
		if probe.PortName != "" && string(p.name) == probe.PortName && p.tcp {
			number = p.number
		}
	}
	return handler{kind: "grpc", raw: marshal(corev1.GRPCAction{Port: int32(number), Service: &probe.Service})}
}

// obvious returns the handler that the container's own probes or ports suggest.
func obvious(c *container) (handler, Skip) {
	for _, own := range [...]handler{c.startupHandler, c.livenessHandler} {
		if own.kind != "" {
			return own, SkipNone
		}
	}
	number, skip := mainPort(c)
	if skip != SkipNone {
		return handler{}, skip
	}
	raw := append(make([]byte, 0, len(`{"port":65535}`)), `{"port":`...)
	return handler{kind: "tcpSocket", raw: append(strconv.AppendInt(raw, number, 10), '}')}, SkipNone
}

// mainPort returns the number of the TCP port that stands for the container: the only
// one that is not named for something beside the main job, else the one named http, web,
// grpc, app, main or after the container. A port beside the main job is never it: a
// debugger takes the first connection for its client, and a metrics port that is off by
// default never opens. Nor is https beside another one: nothing shows that it is on.
func mainPort(c *container) (int64, Skip) {
	var allRoom, mainRoom [8]port
	all, main := allRoom[:0], mainRoom[:0]
	for _, p := range c.ports {
		if !p.tcp || p.number < 1 || p.number > 65535 || declares(all, p.number) {
			continue
		}
		all = append(all, p)
		if !beside(p.name) {
			main = append(main, p)
		}
	}
	switch {
	case len(all) == 0:
		return 0, SkipNoPort
	case len(main) == 0:
		return 0, SkipSidePort
	case len(main) == 1:
		return main[0].number, SkipNone
	}
	for _, name := range []string{"http", "web", "grpc", "app", "main", c.name} {
		for _, p := range main {
			if string(p.name) == name && name != "" {
				return p.number, SkipNone
			}
		}
	}
	return 0, SkipAmbiguousPort
}

func declares(ports []port, number int64) bool {
	for i := range ports {
		if ports[i].number == number {
			return true
		}
	}
	return false
}

// beside reports whether a port name stands for metrics, administration,
// debugging, profiling or health rather than the container's main job.
func beside(name []byte) bool {
	for word := range bytes.SplitSeq(name, []byte("-")) {
		switch string(word) {
		case "metrics", "metric", "prometheus", "prom", "monitoring", "telemetry",
			"admin", "management", "mgmt", "debug", "debugger", "jdwp", "jmx",
			"pprof", "profiling", "profiler", "profile",
			"health", "healthz", "healthcheck", "probe", "probes", "liveness", "readiness", "livez", "readyz", "status":
			return true
		}
	}
	return false
}

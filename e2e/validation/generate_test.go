package validation

import (
	"fmt"
	"math"
	"math/rand/v2"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// generator makes random workloads that the API server accepts.
type generator struct {
	*rand.Rand
	// port is the last port number that was given out: host ports are used once.
	port int32
}

// chance is true in one of n cases.
func (g *generator) chance(n int) bool { return g.IntN(n) == 0 }

func pick[T any](g *generator, values ...T) T { return values[g.IntN(len(values))] }

func ptr[T any](value T) *T { return &value }

// metadata makes labels and annotations, ours among them, with values that mean
// something and values that try to do harm.
func (g *generator) metadata(name string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Name: name, Namespace: "default"}
	if !g.chance(8) {
		m.Labels = map[string]string{"app": name}
		for range g.IntN(3) {
			m.Labels[pick(g, "tier", "app.kubernetes.io/name", "pod-template-hash", "controller-revision-hash", "job-name",
				"batch.kubernetes.io/job-name", "evenkeel.dev/defaulted", "version", "evenkeel.dev/other")] =
				pick(g, "a", "b-1", "6d4b", "true", "")
		}
		if g.chance(40) {
			m.Labels["evenkeel.dev/inject"] = pick(g, "disabled", "enabled", "x")
		}
	}
	if g.chance(2) {
		m.Annotations = map[string]string{"team": "a"}
		for range g.IntN(4) {
			key, value := g.annotation()
			m.Annotations[key] = value
		}
	}
	return m
}

func (g *generator) annotation() (key, value string) {
	switch g.IntN(9) {
	case 0:
		return "evenkeel.dev/anti-affinity", pick(g, "preferred", "required", "off", "Required", "\x00\n")
	case 1:
		return "evenkeel.dev/topology-keys", pick(g, "rack", "kubernetes.io/hostname", "a,b,c,d,e,f,g,h", "a/b/c", "", "a,a",
			"example.com/x,zone")
	case 2, 3:
		return "evenkeel.dev/pre-stop-sleep", pick(g, "1s", "5s", "30s", "60s", "24h", "off", "0s", "1.5s", "-1s", "∞", "1m")
	case 4, 5:
		return "evenkeel.dev/readiness-probe", pick(g, "auto", "off", "tcp:80", "tcp:http", "http:80/ready", "http:http",
			"https:http/x?y=z",
			"grpc:http", "grpc:9000/a.B", "tcp:0", "http:80/\x1b[31m", "grpc:port-1", "https:8443", "tcp:port-2")
	case 6:
		return "evenkeel.dev/containers", pick(g, "c0", "c0,c1", "c1", "init0", "nobody", "c0,c0", "")
	case 7:
		return "evenkeel.dev/injected", pick(g, "grace-period=40", "c0/pre-stop-sleep=sleep:10,grace-period=40",
			"c0/readiness-probe=tcpSocket:d647fa14a5594d46:2:5:3", "yes", "")
	}
	return pick(g, "evenkeel.dev/inject", "evenkeel.dev/pre-stop", "evenkeel.dev/Anti_Affinity",
		"evenkeel.dev/disruption-budget"), "\u202e\n\"}]"
}

// podSpec makes a pod spec. A template's pods always restart.
func (g *generator) podSpec(template bool) corev1.PodSpec {
	grace := pick(g, -1, 0, 1, 2, 3, 5, 9, 10, 11, 29, 30, 30, 30, 31, 59, 60, 90, 589, 590, 591, 599, 600, 601, 3600,
		math.MaxInt32, math.MaxInt64)
	spec := corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyAlways,
		HostNetwork:   g.chance(8),
	}
	limit := int64(30)
	if grace >= 0 {
		spec.TerminationGracePeriodSeconds, limit = ptr(int64(grace)), int64(grace)
	}
	if !template && g.chance(8) {
		spec.RestartPolicy = pick(g, corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure)
	}
	switch g.IntN(8) {
	case 0:
		spec.OS = &corev1.PodOS{Name: corev1.Windows}
	case 1:
		spec.OS = &corev1.PodOS{Name: corev1.Linux}
		spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: ptr(true), RunAsUser: ptr(int64(1000))}
	case 2:
		spec.NodeSelector = map[string]string{"kubernetes.io/os": "windows"}
	case 3:
		spec.ShareProcessNamespace = ptr(true)
	}
	if g.chance(8) && (spec.OS == nil || spec.OS.Name != corev1.Windows) { // which has none
		enough := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100"),
			corev1.ResourceMemory: resource.MustParse("100Gi")}
		spec.Resources = &corev1.ResourceRequirements{Requests: enough, Limits: enough}
	}
	if g.chance(4) {
		spec.Volumes = []corev1.Volume{
			{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	}
	for i := range g.IntN(3) {
		spec.InitContainers = append(spec.InitContainers, g.container(fmt.Sprintf("init%d", i), &spec, limit, true))
	}
	for i := range 1 + g.IntN(3) {
		spec.Containers = append(spec.Containers, g.container(fmt.Sprintf("c%d", i), &spec, limit, false))
	}
	if g.chance(4) {
		spec.Affinity = g.affinity()
	}
	if g.chance(8) {
		spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: "topology.kubernetes.io/zone",
			WhenUnsatisfiable: pick(g, corev1.ScheduleAnyway, corev1.DoNotSchedule),
			LabelSelector:     &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}},
		}}
	}
	if g.chance(8) {
		spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	}
	return spec
}

func (g *generator) container(name string, spec *corev1.PodSpec, grace int64, init bool) corev1.Container {
	c := corev1.Container{Name: name, Image: "registry.test/" + name, ImagePullPolicy: corev1.PullIfNotPresent}
	sidecar := init && g.chance(2)
	if sidecar {
		c.RestartPolicy = ptr(corev1.ContainerRestartPolicyAlways)
	}
	for i := range g.IntN(4) {
		g.port++
		p := corev1.ContainerPort{ContainerPort: g.port,
			Protocol: pick(g, corev1.ProtocolTCP, corev1.ProtocolTCP, corev1.ProtocolTCP, corev1.ProtocolUDP,
				corev1.ProtocolSCTP, "")}
		if i == 0 && g.chance(3) && !spec.HostNetwork {
			p.ContainerPort = pick(g, int32(80), 8080, 9000, 65535)
		}
		if g.chance(2) {
			p.Name = fmt.Sprintf("port-%d", i)
			if i == 0 {
				p.Name = pick(g, "http", "grpc", "metrics", "admin", "web", name)
			}
		}
		if g.chance(8) && p.ContainerPort == g.port {
			p.HostPort = g.port
		}
		c.Ports = append(c.Ports, p)
	}
	if len(spec.Volumes) > 0 && g.chance(2) {
		c.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	}
	if g.chance(2) {
		c.Env = []corev1.EnvVar{{Name: "A", Value: "$(B)\u2028<&>"}}
		c.Resources = corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("0.5"),
				corev1.ResourceMemory: resource.MustParse("1e3")},
			Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")},
		}
	}
	if init && !sidecar {
		return c
	}
	if g.chance(3) {
		c.Lifecycle = &corev1.Lifecycle{}
		if g.chance(2) {
			c.Lifecycle.PostStart = g.hook(&c, grace)
		}
		if c.Lifecycle.PostStart == nil || g.chance(2) {
			c.Lifecycle.PreStop = g.hook(&c, grace)
		}
	}
	if spec.OS != nil && g.chance(3) { // without an OS it is invalid
		if c.Lifecycle == nil {
			c.Lifecycle = &corev1.Lifecycle{}
		}
		c.Lifecycle.StopSignal = ptr(corev1.SIGTERM)
	}
	if g.chance(3) {
		c.LivenessProbe = g.probe(&c, 1)
		if g.chance(4) {
			c.LivenessProbe.TerminationGracePeriodSeconds = ptr(int64(1 + g.IntN(60)))
		}
	}
	if g.chance(5) {
		c.StartupProbe = g.probe(&c, 1)
	}
	if g.chance(4) {
		c.ReadinessProbe = g.probe(&c, 1+g.Int32N(3))
	}
	return c
}

func (g *generator) hook(c *corev1.Container, grace int64) *corev1.LifecycleHandler {
	if g.chance(2) {
		return &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: g.Int64N(min(grace, 100) + 1)}}
	}
	h := g.handler(c)
	h.GRPC = nil // hooks have none
	if h == (corev1.ProbeHandler{}) {
		h.Exec = &corev1.ExecAction{Command: []string{"sleep", pick(g, "1", "10", "x")}}
	}
	return &corev1.LifecycleHandler{Exec: h.Exec, HTTPGet: h.HTTPGet, TCPSocket: h.TCPSocket}
}

func (g *generator) handler(c *corev1.Container) corev1.ProbeHandler {
	port := intstr.FromInt32(1 + g.Int32N(65535))
	for _, p := range c.Ports {
		if p.Name != "" && g.chance(2) {
			port = intstr.FromString(p.Name)
		}
	}
	switch g.IntN(4) {
	case 0:
		return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: pick(g, "", "/", "/healthz?a=b"), Port: port,
			Scheme: pick(g, "", corev1.URISchemeHTTPS), HTTPHeaders: []corev1.HTTPHeader{{Name: "X-A", Value: "<&>"}}}}
	case 1:
		return corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: port}}
	case 2:
		return corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: 1 + g.Int32N(65535), Service: pick(g, nil, ptr("a.B"))}}
	}
	return corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "-f", "/a b"}}}
}

func (g *generator) probe(c *corev1.Container, success int32) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: g.handler(c), InitialDelaySeconds: g.Int32N(10), TimeoutSeconds: g.Int32N(10),
		PeriodSeconds: g.Int32N(10), FailureThreshold: g.Int32N(10), SuccessThreshold: success}
}

func (g *generator) affinity() *corev1.Affinity {
	a := &corev1.Affinity{}
	term := corev1.PodAffinityTerm{TopologyKey: "kubernetes.io/hostname",
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "cache"}}}
	if g.chance(2) {
		a.NodeAffinity = &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
				{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "gpu", Operator: corev1.NodeSelectorOpExists}}}}}}
	}
	if g.chance(2) {
		a.PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term}}
	}
	if g.chance(4) {
		a.PodAntiAffinity = &corev1.PodAntiAffinity{}
	}
	return a
}

func (g *generator) pod() *corev1.Pod {
	pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: g.metadata("web"),
		Spec: g.podSpec(false)}
	if g.chance(4) {
		owner := metav1.OwnerReference{Name: "owner", UID: types.UID("0a"), APIVersion: "apps/v1",
			Kind: pick(g, "ReplicaSet", "ReplicaSet", "StatefulSet", "DaemonSet", "Job"), Controller: ptr(!g.chance(4))}
		pod.OwnerReferences = []metav1.OwnerReference{owner}
	}
	if g.chance(6) {
		pod.Name, pod.GenerateName = "", "web-"
	}
	return pod
}

// selected makes a pod template and a selector that selects its pods.
func (g *generator) selected() (*metav1.LabelSelector, corev1.PodTemplateSpec) {
	template := corev1.PodTemplateSpec{ObjectMeta: g.metadata("web"), Spec: g.podSpec(true)}
	template.Name, template.Namespace = "", ""
	if template.Labels == nil {
		template.Labels = map[string]string{}
	}
	template.Labels["app"] = "web"
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	if g.chance(3) {
		selector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpIn,
			Values: []string{"web", "other"}}}
	}
	if hash, ok := template.Labels["pod-template-hash"]; ok && g.chance(2) {
		selector.MatchLabels["pod-template-hash"] = hash
	}
	return selector, template
}

func (g *generator) deployment() *appsv1.Deployment {
	selector, template := g.selected()
	return &appsv1.Deployment{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: g.metadata("web"),
		Spec:       appsv1.DeploymentSpec{Replicas: ptr(g.Int32N(5)), Selector: selector, Template: template}}
}

func (g *generator) statefulSet() *appsv1.StatefulSet {
	selector, template := g.selected()
	return &appsv1.StatefulSet{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "StatefulSet"},
		ObjectMeta: g.metadata("web"),
		Spec:       appsv1.StatefulSetSpec{ServiceName: "web", Selector: selector, Template: template}}
}

// manifest makes a workload of a kind that inject alone looks at.
func (g *generator) manifest() runtime.Object {
	selector, template := g.selected()
	switch meta := g.metadata("web"); g.IntN(3) {
	case 0:
		return &appsv1.DaemonSet{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "DaemonSet"}, ObjectMeta: meta,
			Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}}
	case 1:
		return &appsv1.ReplicaSet{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "ReplicaSet"}, ObjectMeta: meta,
			Spec: appsv1.ReplicaSetSpec{Replicas: ptr(g.Int32N(5)), Selector: selector, Template: template}}
	default:
		return &corev1.ReplicationController{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ReplicationController"},
			ObjectMeta: meta,
			Spec: corev1.ReplicationControllerSpec{Replicas: ptr(g.Int32N(5)), Selector: selector.MatchLabels,
				Template: &template}}
	}
}

// Package path is the table of what leads traffic to pods, and of how long each goes on with it after
// a pod began to terminate.
package path

import (
	"cmp"
	"strings"
)

// Means is a row of the table of what leads traffic to pods: how long a pod has to serve on after it
// began to terminate, until no new connection is led to it any more.
type Means struct {
	// Name says what it is, and Sign how it is told from the others.
	Name, Sign string
	// Seconds is how long the sleep has to be.
	Seconds int
	// Why says where the time goes, Source who says so.
	Why, Source string
}

// The rows that the objects of a cluster tell apart.
var (
	ByNode = Means{"kube-proxy, or a CNI that replaces it; a load balancer whose targets are nodes",
		"any Service, unless one of the others holds", 10,
		"all nodes let go of 100 addresses at once within 8 s",
		"[measured](../proof/README.md#the-sleep)"}
	ByWatch = Means{"an ingress controller, gateway or mesh in the cluster",
		"an Ingress or a Gateway API route, unless one of the others holds", 10,
		"it learns of an ending pod at the same time as kube-proxy", "[measured](../proof/README.md#the-sleep)"}
	ByName = Means{"clients that keep the addresses of a headless Service", "`clusterIP: None`", 10,
		"as long as they keep them: the TTL of the cluster's DNS is 5 to 30 s, some clients never ask again",
		"[CoreDNS](https://coredns.io/plugins/kubernetes/)"}
	ByNodeCheck = Means{"a load balancer that asks nodes whether they have a pod",
		"type `LoadBalancer` with `externalTrafficPolicy: Local`", 30,
		"a node is left after three failed checks, 8 s apart on GKE and 10 s on EKS",
		"[GKE](https://github.com/kubernetes/ingress-gce/blob/master/pkg/healthchecksl4/healthchecksl4.go), " +
			"[EKS](https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/guide/service/annotations/)"}
	ByALB = Means{"an AWS target group of pods",
		"Ingress class `alb` with `alb.ingress.kubernetes.io/target-type: ip`; a TargetGroupBinding with `targetType: ip`; " +
			"a readiness gate `target-health.elbv2.k8s.aws/`", 30,
		"the controller and the load balancer take turns to learn of it; 5 s were not enough and 25 s were",
		"[issue 1064](https://github.com/kubernetes-sigs/aws-load-balancer-controller/issues/1064)"}
	ByNLB = Means{"an AWS Network Load Balancer with pods as targets",
		"annotation `service.beta.kubernetes.io/aws-load-balancer-nlb-target-type: ip`, type `nlb-ip`, or a " +
			"TargetGroupBinding that such a Service or Gateway made", 120,
		"new connections come for two minutes after the deregistration, whatever its delay",
		"[issue 2366](https://github.com/kubernetes-sigs/aws-load-balancer-controller/issues/2366), " +
			"[issue 470](https://github.com/aws/containers-roadmap/issues/470)"}
	ByNEG = Means{"a Google Cloud load balancer with network endpoint groups",
		"annotation `cloud.google.com/neg`, Ingress class `gce`, a GatewayClass `gke-`, or a readiness gate " +
			"`cloud.google.com/load-balancer-neg-ready`", 40,
		"the endpoint is detached from its group first",
		"[Google Cloud](https://cloud.google.com/knowledge/kb/502-503-errors-on-external-http-s-load-balancer-000006416)"}
	ByAGIC = Means{"an Azure Application Gateway",
		"Ingress class `azure-application-gateway` or `azure/application-gateway`", 90,
		"its backend pool is rewritten, which takes from a second to a few minutes",
		"[Azure](https://azure.github.io/application-gateway-kubernetes-ingress/how-tos/" +
			"minimize-downtime-during-deployments/)"}
)

// All returns the table.
func All() []Means {
	return []Means{ByNode, ByWatch, ByName, ByNodeCheck, ByALB, ByNEG, ByAGIC, ByNLB}
}

// Drained returns how long the sleep has to be, in seconds, on a node with pods of so many Services, all
// of which a drain may evict at once; 0 where that asks for no more than the table does. By default the
// EndpointSlice controller writes thirty EndpointSlices at once and twenty a second from then on, and
// what follows them is later: the last of 100 addresses was gone after 7.9 s, the last of 250 after
// 28.5 s. See docs/proof/README.md.
func Drained(services int) int {
	if services <= 120 {
		return 0
	}
	return (services + 7) / 8
}

const awsLoadBalancer = "service.beta.kubernetes.io/aws-load-balancer-"

// OfService says how a Service leads traffic to pods, and what of its spec and annotations shows it.
//
//	type         | annotations or policy        | means
//	any          | cloud.google.com/neg         | ByNEG
//	LoadBalancer | NLB with target type ip      | ByNLB
//	LoadBalancer | externalTrafficPolicy: Local | ByNodeCheck
//	LoadBalancer |                              | ByNode
//	any other    | clusterIP: None              | ByName
//	any other    |                              | ByNode
func OfService(kind, clusterIP, externalTrafficPolicy string, annotations map[string]string) (string, Means) {
	kind = cmp.Or(kind, "ClusterIP")
	neg := annotations["cloud.google.com/neg"]
	switch {
	case strings.Contains(neg, "true"), strings.Contains(neg, "exposed_ports"):
		return kind + ", cloud.google.com/neg", ByNEG
	case kind != "LoadBalancer" && clusterIP == "None":
		return "headless", ByName
	case kind != "LoadBalancer":
	case annotations[awsLoadBalancer+"nlb-target-type"] == "ip", annotations[awsLoadBalancer+"type"] == "nlb-ip":
		return kind + ", NLB with target type ip", ByNLB
	case externalTrafficPolicy == "Local":
		return kind + ", externalTrafficPolicy Local", ByNodeCheck
	}
	return kind, ByNode
}

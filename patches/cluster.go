package patches

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Version is a Kubernetes minor version, 1.33 for example. The zero value means
// that it is not known.
type Version struct{ Major, Minor int }

// ParseVersion reads "1.33", "v1.33.2" or "v1.33.2-gke.100". An error says what is
// allowed.
func ParseVersion(text string) (Version, error) {
	parts := strings.SplitN(strings.TrimPrefix(text, "v"), ".", 3)
	if len(parts) >= 2 {
		major, err1 := strconv.ParseUint(parts[0], 10, 8)
		minor, err2 := strconv.ParseUint(strings.TrimRight(parts[1], "+"), 10, 8) // EKS says "33+"
		if err1 == nil && err2 == nil && major >= 1 {
			return Version{int(major), int(minor)}, nil
		}
	}
	return Version{}, fmt.Errorf("%.40q is not a Kubernetes version; allowed: MAJOR.MINOR, as in 1.33", text)
}

// String returns "1.33", or "unknown" for the zero value.
func (v Version) String() string {
	if v == (Version{}) {
		return "unknown"
	}
	return fmt.Sprintf("%d.%d", v.Major, v.Minor)
}

// AtLeast reports whether v is known and not older than 1.minor.
func (v Version) AtLeast(minor int) bool {
	return !v.Before(Version{Major: 1, Minor: minor})
}

// Before reports whether v is older than other.
func (v Version) Before(other Version) bool {
	return v.Major < other.Major || v.Major == other.Major && v.Minor < other.Minor
}

// Cluster is what the generators need to know of the cluster.
type Cluster struct {
	// APIServer is the oldest API server.
	APIServer Version
	// OldestKubelet is the oldest kubelet of the nodes that run ordinary pods, zero where it is
	// not known.
	OldestKubelet Version
	// NoZones is set where a node that ordinary pods run on has no label
	// topology.kubernetes.io/zone: the scheduler scores such a node 0 for all soft topology spread
	// constraints of a pod as soon as one of them names the zone
	// (k8s.io/kubernetes/pkg/scheduler/framework/plugins/podtopologyspread/scoring.go).
	NoZones bool
	// OldestNode is the name of a node with that kubelet.
	OldestNode string
}

// With returns the cluster with a node more. A node that has not reported a version yet doesn't
// count, and neither does a virtual one.
func (c Cluster) With(node *corev1.Node) Cluster {
	v, err := ParseVersion(node.Status.NodeInfo.KubeletVersion)
	if err != nil || Virtual(node) {
		return c
	}
	known := c.OldestKubelet != Version{}
	if !known || v.Before(c.OldestKubelet) || v == c.OldestKubelet && node.Name < c.OldestNode {
		c.OldestKubelet, c.OldestNode = v, node.Name
	}
	c.NoZones = c.NoZones || !Zoned(node)
	return c
}

// Zoned reports whether a node has a zone, or ordinary pods don't run on it: nodes of the control
// plane, and those that the cloud provider has yet to label
// (https://kubernetes.io/docs/reference/labels-annotations-taints/).
func Zoned(node *corev1.Node) bool {
	return node.Labels[corev1.LabelTopologyZone] != "" || slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool {
		return t.Key == "node-role.kubernetes.io/control-plane" || t.Key == "node.cloudprovider.kubernetes.io/uninitialized"
	})
}

// Virtual reports whether a node is none that ordinary pods run on: a virtual kubelet, which runs
// pods elsewhere, and says whatever version it likes
// (https://github.com/virtual-kubelet/virtual-kubelet).
func Virtual(node *corev1.Node) bool {
	return node.Labels["type"] == "virtual-kubelet" || slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool {
		return t.Key == "virtual-kubelet.io/provider"
	})
}

// Warning says what an old node does to the whole cluster, "" for nothing.
func (c Cluster) Warning() string {
	if c.nativeSleep() || !c.APIServer.AtLeast(30) || c.OldestKubelet == (Version{}) {
		return ""
	}
	return fmt.Sprintf("the kubelet of node %s is of version %s, which doesn't know preStop.sleep (1.30 does), "+
		"so no container of the cluster gets a sleep", c.OldestNode, c.OldestKubelet)
}

// nativeSleep reports whether preStop.sleep (KEP-3960) works everywhere: an old
// API server rejects the field and an old kubelet ignores it silently. It is on
// by default from 1.30; kubelets may lag three minor versions, so an API server
// of 1.33 settles it where the kubelets are not known
// (https://kubernetes.io/releases/version-skew-policy/#kubelet).
//
//	API server | oldest kubelet | native sleep
//	< 1.30     | any            | no
//	≥ 1.30     | ≥ 1.30         | yes
//	≥ 1.30     | < 1.30         | no
//	1.30–1.32  | unknown        | no
//	≥ 1.33     | unknown        | yes
func (c Cluster) nativeSleep() bool {
	if c.OldestKubelet == (Version{}) {
		return c.APIServer.AtLeast(33)
	}
	return c.APIServer.AtLeast(30) && c.OldestKubelet.AtLeast(30)
}

// matchLabelKeys reports whether podAffinityTerm.matchLabelKeys (KEP-3633) is
// generally available.
func (c Cluster) matchLabelKeys() bool { return c.APIServer.AtLeast(33) }

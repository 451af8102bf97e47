package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	nodefast "sigs.k8s.io/kwok/kustomize/stage/node/fast"
	podfast "sigs.k8s.io/kwok/kustomize/stage/pod/fast"
)

// NodeSpec describes fake nodes. Its zero value is three zones of nodes with 8 CPUs and 32 GiB for 110 pods.
type NodeSpec struct {
	Zones          []string            // the nodes take turns in them; default zone-a, zone-b, zone-c
	KubeletVersion string              // of status.nodeInfo, for example v1.28.5; default Version
	Capacity       corev1.ResourceList // values that differ from the default, allocatable is the same
	Labels         map[string]string   // beside the well-known ones for host name, zone, region, os and arch
	Taints         []corev1.Taint
	NamePrefix     string // default node; a number is appended that counts all nodes of the cluster
}

// AddNodes adds n fake nodes, which kwok makes Ready and on which it runs Pods (they are Ready at
// once, and gone at once when deleted), and waits until the scheduler may use them. It returns
// their names.
func (c *Cluster) AddNodes(ctx context.Context, n int, spec NodeSpec) ([]string, error) {
	if !c.Embedded {
		return nil, fmt.Errorf("add nodes: %w", ErrEmbeddedOnly)
	}
	if c.process(Kwok) == nil || c.process(ControllerManager) == nil {
		return nil, fmt.Errorf("add nodes: the components %s and %s must run", Kwok, ControllerManager)
	}
	if len(spec.Zones) == 0 {
		spec.Zones = []string{"zone-a", "zone-b", "zone-c"}
	}
	if spec.KubeletVersion == "" {
		spec.KubeletVersion = Version
	}
	if spec.NamePrefix == "" {
		spec.NamePrefix = "node"
	}
	capacity := corev1.ResourceList{
		corev1.ResourceCPU:              resource.MustParse("8"),
		corev1.ResourceMemory:           resource.MustParse("32Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("100Gi"),
		corev1.ResourcePods:             resource.MustParse("110"),
	}
	maps.Copy(capacity, spec.Capacity)

	names := make([]string, 0, n)
	for i := range n {
		c.mu.Lock()
		number := c.nodes
		c.nodes++
		c.mu.Unlock()
		node := &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", spec.NamePrefix, number)},
			Spec:       corev1.NodeSpec{Taints: spec.Taints},
			Status: corev1.NodeStatus{
				Capacity:    capacity,
				Allocatable: capacity,
				NodeInfo: corev1.NodeSystemInfo{KubeletVersion: spec.KubeletVersion, OperatingSystem: "linux",
					Architecture: "amd64"},
			},
		}
		node.Labels = map[string]string{
			corev1.LabelHostname:       node.Name,
			corev1.LabelTopologyZone:   spec.Zones[i%len(spec.Zones)],
			corev1.LabelTopologyRegion: "region",
			corev1.LabelOSStable:       "linux",
			corev1.LabelArchStable:     "amd64",
		}
		maps.Copy(node.Labels, spec.Labels)
		if _, err := c.Client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
			return names, fmt.Errorf("add node %s: %w", node.Name, err)
		}
		names = append(names, node.Name)
	}
	for _, name := range names {
		err := c.poll(ctx, func(ctx context.Context) error {
			node, err := c.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			return schedulable(node)
		})
		if err != nil {
			return names, fmt.Errorf("wait for node %s: %w", name, err)
		}
	}
	return names, nil
}

// schedulable returns nil if the node is Ready and the node controller has seen that.
func schedulable(node *corev1.Node) error {
	for _, taint := range node.Spec.Taints {
		if taint.Key == corev1.TaintNodeNotReady {
			return errors.New("it is still tainted " + taint.Key)
		}
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return errors.New("it isn't Ready")
}

// stages returns kwok's own documents on how a node becomes Ready, and how a Pod becomes Ready, completes and goes.
func stages() string {
	return strings.Join([]string{
		nodefast.DefaultNodeInit, podfast.DefaultPodReady, podfast.DefaultPodComplete, podfast.DefaultPodDelete,
	}, "\n---\n")
}

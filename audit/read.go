package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/evenkeel/evenkeel/internal/list"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
	"github.com/evenkeel/evenkeel/withdraw"
)

// workloadResources are the kinds whose pods serve.
func workloadResources() []list.Resource {
	return []list.Resource{
		list.Deployments,
		list.StatefulSets,
		list.DaemonSets,
		list.ReplicationControllers,
	}
}

// Scope says what to read of a cluster.
type Scope struct {
	// Source names the cluster for people.
	Source string
	// Namespace is the only one, or "" for all.
	Namespace string
	// Installation says which namespaces are opted in.
	Installation *Installation
}

// Read lists what an audit looks at. An error for which apierrors.IsNotFound holds
// says that there is no such Namespace. Workloads and pods have to be readable; what
// else may not be read becomes a warning. It is some ten kilobytes of memory per pod.
func Read(ctx context.Context, client kubernetes.Interface, scope Scope) (*State, error) {
	s := &State{Source: scope.Source, Namespaces: map[string]Namespace{},
		Warnings: append([]string{}, scope.Installation.Warnings...)}
	if err := s.readCluster(ctx, client, scope); err != nil {
		return nil, err
	}
	for _, r := range workloadResources() {
		_, err := list.Listing{Resource: r, Namespace: scope.Namespace}.Each(ctx, client, s.addObject)
		if err != nil {
			return nil, err
		}
	}
	if err := s.readReplicaSets(ctx, client, scope.Namespace); err != nil {
		return nil, err
	}
	_, err := list.Listing{Resource: list.Pods, Namespace: scope.Namespace}.Each(ctx, client, func(raw []byte) error {
		p, err := NewPod(raw)
		if err != nil {
			return err
		}
		s.Pods = append(s.Pods, p)
		return nil
	})
	return s, err
}

func (s *State) addObject(raw []byte) error {
	o, err := NewObject("", "", raw)
	if err != nil {
		return err
	}
	s.Objects = append(s.Objects, o)
	return nil
}

// readCluster reads Namespaces, nodes, budgets, autoscalers and versions.
func (s *State) readCluster(ctx context.Context, client kubernetes.Interface, scope Scope) error {
	optional := func(what, consequence string, err error) error {
		if apierrors.IsForbidden(err) {
			s.Warnings = append(s.Warnings, what+" may not be read, so "+consequence)
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", what, err)
		}
		return nil
	}
	version, err := client.Discovery().ServerVersion()
	if err != nil {
		return fmt.Errorf("ask for the API server's version: %w", err)
	}
	if s.Cluster.APIServer, err = patches.ParseVersion(version.GitVersion); err != nil {
		return fmt.Errorf("read the API server's version: %w", err)
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err == nil {
		s.Nodes = map[string]Node{}
		for i := range nodes.Items {
			n := &nodes.Items[i]
			s.Nodes[n.Name] = Node{Zone: n.Labels["topology.kubernetes.io/zone"], Labels: n.Labels,
				Taints: n.Spec.Taints, Cordoned: n.Spec.Unschedulable}
			s.Cluster = s.Cluster.With(n)
		}
	}
	if text := s.Cluster.Warning(); text != "" {
		s.Warnings = append(s.Warnings, text)
	}
	budgets, err2 := client.PolicyV1().PodDisruptionBudgets(scope.Namespace).List(ctx, metav1.ListOptions{})
	if err2 == nil {
		s.Budgets = budgets.Items
	}
	autoscalers, err3 := client.AutoscalingV2().HorizontalPodAutoscalers(scope.Namespace).List(ctx, metav1.ListOptions{})
	if err3 == nil {
		s.Autoscalers = autoscalers.Items
	}
	volumes, err4 := client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err4 == nil {
		s.Volumes = map[string]*corev1.NodeSelector{}
		for i := range volumes.Items {
			if v := &volumes.Items[i].Spec; v.ClaimRef != nil && v.NodeAffinity != nil {
				s.Volumes[v.ClaimRef.Namespace+"/"+v.ClaimRef.Name] = v.NodeAffinity.Required
			}
		}
	}
	return errors.Join(s.readNamespaces(ctx, client, scope, optional),
		optional("notes of evenkeel", "what it has noticed is not known",
			s.readNotes(ctx, client, scope.Installation.Namespace)),
		optional("Services", "none is evidence for a probe", s.readServices(ctx, client, scope.Namespace)),
		s.readRouters(ctx, client, scope.Namespace),
		optional("nodes", "zones are not known", err),
		optional("PodDisruptionBudgets", "blocked drains are not known, and every budget is taken to be missing", err2),
		optional("HorizontalPodAutoscalers", "how low they go is not known", err3),
		optional("PersistentVolumes", "pods that their volumes bind to a node are not known", err4))
}

// readNotes reads what evenkeel, which runs in that namespace, has noticed of workloads.
func (s *State) readNotes(ctx context.Context, client kubernetes.Interface, namespace string) error {
	if namespace == "" {
		return nil
	}
	c, err := client.CoreV1().ConfigMaps(namespace).Get(ctx, withdraw.ConfigMap, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil {
		s.Notes = withdraw.ReadNotes(c)
	}
	return err
}

// readServices reads the Services of a Namespace, of all for "".
func (s *State) readServices(ctx context.Context, client kubernetes.Interface, namespace string) error {
	s.Services = patches.ServicesByNamespace{}
	_, err := list.Listing{Resource: list.Services, Namespace: namespace}.Each(ctx, client,
		func(raw []byte) error {
			s.addRouter(raw, "")
			return s.Services.Add(raw, "")
		})
	return err
}

// readRouters reads what else leads traffic, where its kind exists. What may not be read becomes one
// warning.
func (s *State) readRouters(ctx context.Context, client kubernetes.Interface, namespace string) error {
	var hidden []string
	served := false // whether the API server knows the group
	for i := range routerKinds {
		k := &routerKinds[i]
		if i == 0 || k.group != routerKinds[i-1].group {
			err := client.Discovery().RESTClient().Get().AbsPath("apis", k.group).Do(ctx).Error()
			if err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("ask for %s: %w", k.group, err)
			}
			served = err == nil
		}
		if !served {
			continue
		}
		for _, version := range k.versions {
			l := list.Listing{Resource: list.Resource{APIVersion: k.group + "/" + version, Kind: k.kind, Plural: k.plural}}
			if !k.everywhere {
				l.Namespace = namespace
			}
			_, err := l.Each(ctx, client, func(raw []byte) error {
				s.addRouter(raw, "")
				return nil
			})
			switch {
			case apierrors.IsNotFound(err):
				continue // there is no such kind in this version
			case apierrors.IsForbidden(err):
				hidden = append(hidden, k.plural)
			case err != nil:
				return err
			}
			break
		}
	}
	if len(hidden) > 0 {
		s.hidden = strings.Join(hidden, ", ") + " may not be read, so not all that leads traffic to pods is known"
		s.Warnings = append(s.Warnings, s.hidden)
	}
	return nil
}

// doubt warns of labels of a Namespace that opt nobody in or out.
func (s *State) doubt(name string, labels map[string]string) {
	for _, problem := range policy.CheckNamespace(labels) {
		s.Warnings = append(s.Warnings, "Namespace "+name+": "+problem.String())
	}
}

func (s *State) readNamespaces(
	ctx context.Context, client kubernetes.Interface, scope Scope,
	optional func(what, consequence string, err error) error,
) error {
	add := func(n *metav1.ObjectMeta) {
		s.Namespaces[n.Name] = Namespace{OptedIn: scope.Installation.OptsIn(n.Labels), Annotations: n.Annotations}
		s.doubt(n.Name, n.Labels)
	}
	const what, consequence = "Namespaces", "none is taken to be opted in"
	if scope.Namespace != "" {
		n, err := client.CoreV1().Namespaces().Get(ctx, scope.Namespace, metav1.GetOptions{})
		if err == nil {
			add(&n.ObjectMeta)
		}
		return optional(what, consequence, err)
	}
	list, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err == nil {
		for i := range list.Items {
			add(&list.Items[i].ObjectMeta)
		}
	}
	return optional(what, consequence, err)
}

// readReplicaSets adds what Deployments own by its metadata, and the others whole.
func (s *State) readReplicaSets(ctx context.Context, client kubernetes.Interface, namespace string) error {
	r := list.ReplicaSets
	_, err := list.Listing{Resource: r, Namespace: namespace, Metadata: true}.Each(ctx, client, func(raw []byte) error {
		var partial metav1.PartialObjectMetadata
		if err := json.Unmarshal(raw, &partial); err != nil {
			return fmt.Errorf("read ReplicaSet: %w", err)
		}
		if metav1.GetControllerOf(&partial) == nil {
			whole, err := list.Apps(client).Get().Namespace(partial.Namespace).Resource("replicasets").Name(partial.Name).
				SetHeader("Accept", "application/json").DoRaw(ctx)
			if apierrors.IsNotFound(err) {
				return nil // gone meanwhile
			}
			if err != nil {
				return fmt.Errorf("read ReplicaSet: %w", err)
			}
			return s.addObject(whole)
		}
		o := Object{Namespace: partial.Namespace}
		o.APIVersion, o.Kind = r.APIVersion, r.Kind
		o.Metadata.Name, o.Metadata.OwnerReferences, o.Metadata.Labels = partial.Name, partial.OwnerReferences, partial.Labels
		s.Objects = append(s.Objects, o)
		return nil
	})
	return err
}

// Package list reads lists of the API server page by page and object by object, as JSON, so that no
// more than one object is held, however large the cluster and its objects.
package list

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Resource is a kind of objects to list.
type Resource struct {
	APIVersion, Kind, Plural string
	// Client returns the client of its group; nil means the client of any group.
	Client func(kubernetes.Interface) rest.Interface
}

// Namespaces, Pods and the rest are what is listed most.
var (
	Namespaces             = Resource{APIVersion: "v1", Kind: "Namespace", Plural: "namespaces", Client: Core}
	Pods                   = Resource{APIVersion: "v1", Kind: "Pod", Plural: "pods", Client: Core}
	Services               = Resource{APIVersion: "v1", Kind: "Service", Plural: "services", Client: Core}
	ReplicationControllers = Resource{APIVersion: "v1", Kind: "ReplicationController",
		Plural: "replicationcontrollers", Client: Core}
	Deployments         = Resource{APIVersion: "apps/v1", Kind: "Deployment", Plural: "deployments", Client: Apps}
	StatefulSets        = Resource{APIVersion: "apps/v1", Kind: "StatefulSet", Plural: "statefulsets", Client: Apps}
	DaemonSets          = Resource{APIVersion: "apps/v1", Kind: "DaemonSet", Plural: "daemonsets", Client: Apps}
	ReplicaSets         = Resource{APIVersion: "apps/v1", Kind: "ReplicaSet", Plural: "replicasets", Client: Apps}
	ControllerRevisions = Resource{APIVersion: "apps/v1", Kind: "ControllerRevision",
		Plural: "controllerrevisions", Client: Apps}
	Nodes       = Resource{APIVersion: "v1", Kind: "Node", Plural: "nodes", Client: Core}
	Autoscalers = Resource{APIVersion: "autoscaling/v2", Kind: "HorizontalPodAutoscaler",
		Plural: "horizontalpodautoscalers"}
	Budgets = Resource{APIVersion: "policy/v1", Kind: "PodDisruptionBudget", Plural: "poddisruptionbudgets"}
)

// Core returns the client of the core group.
func Core(c kubernetes.Interface) rest.Interface { return c.CoreV1().RESTClient() }

// Apps returns the client of the group apps.
func Apps(c kubernetes.Interface) rest.Interface { return c.AppsV1().RESTClient() }

// Listing is a request for objects.
type Listing struct {
	Resource
	Namespace string // "" for all
	Selector  string // of labels
	// Metadata is set to get no spec and no status.
	Metadata bool
	// Most is how many objects Watched keeps of a list, 0 for all.
	Most int
}

// pageSize is how many objects the API server is asked for at once. They are read
// one by one, so that it is its memory more than ours that this bounds.
const pageSize = 250

// Each lists objects page by page and hands them to visit one by one, as JSON with
// apiVersion and kind, so that no more than one of them is held. A list that takes so
// long that the API server forgets its beginning goes on from there (410,
// https://kubernetes.io/docs/reference/using-api/api-concepts/#retrieving-large-results-sets-in-chunks).
// It returns the resourceVersion of the list, for a watch.
func (l Listing) Each(
	ctx context.Context, client kubernetes.Interface, visit func(raw []byte) error,
) (resourceVersion string, err error) {
	next := ""
	for {
		request := l.get(client).NamespaceIfScoped(l.Namespace, l.Namespace != "").Resource(l.Plural).
			SetHeader("Accept", "application/json").Param("limit", strconv.Itoa(pageSize))
		if l.Metadata {
			request = request.SetHeader("Accept",
				"application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json")
		}
		if l.Selector != "" {
			request = request.Param("labelSelector", l.Selector)
		}
		if next != "" {
			request = request.Param("continue", next)
		}
		body, err := request.Stream(ctx)
		if err != nil {
			var status apierrors.APIStatus
			if apierrors.IsResourceExpired(err) && errors.As(err, &status) && status.Status().Continue != "" {
				next = status.Status().Continue
				continue
			}
			return "", fmt.Errorf("list %s: %w", l.Plural, err)
		}
		next, resourceVersion, err = l.items(body, visit)
		_ = body.Close() // was read
		if err != nil {
			return "", fmt.Errorf("list %s: %w", l.Plural, err)
		}
		if next == "" {
			return resourceVersion, nil
		}
	}
}

// get begins a request.
func (l Listing) get(client kubernetes.Interface) *rest.Request {
	if l.Client != nil {
		return l.Client(client).Get()
	}
	return client.Discovery().RESTClient().Get().AbsPath("apis", l.APIVersion)
}

// items reads one page and returns where the next one begins, "" behind the last.
func (l Listing) items(body io.Reader, visit func(raw []byte) error) (next, resourceVersion string, err error) {
	d := json.NewDecoder(body)
	if err := expect(d, json.Delim('{')); err != nil {
		return "", "", err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return "", "", fmt.Errorf("read list: %w", err)
		}
		switch key {
		case "metadata":
			var meta struct {
				Continue        string `json:"continue"`
				ResourceVersion string `json:"resourceVersion"`
			}
			if err := d.Decode(&meta); err != nil {
				return "", "", fmt.Errorf("read list: %w", err)
			}
			next, resourceVersion = meta.Continue, meta.ResourceVersion
		case "items":
			if err := l.elements(d, visit); err != nil {
				return "", "", err
			}
		default:
			var other json.RawMessage
			if err := d.Decode(&other); err != nil {
				return "", "", fmt.Errorf("read list: %w", err)
			}
		}
	}
	return next, resourceVersion, expect(d, json.Delim('}'))
}

func (l Listing) elements(d *json.Decoder, visit func(raw []byte) error) error {
	start, err := d.Token()
	if err != nil || start == nil { // null for none
		return err
	}
	for d.More() {
		var item json.RawMessage
		if err := d.Decode(&item); err != nil {
			return fmt.Errorf("read list: %w", err)
		}
		if err := visit(l.whole(item)); err != nil {
			return err
		}
	}
	return expect(d, json.Delim(']'))
}

// whole puts apiVersion and kind in front of the members of an item, which the lists
// of the API server leave out.
func (l Listing) whole(item []byte) []byte {
	if l.Metadata || len(item) == 0 || item[0] != '{' || bytes.HasPrefix(item, []byte(`{"kind":`)) ||
		bytes.HasPrefix(item, []byte(`{"apiVersion":`)) {
		return item
	}
	raw := make([]byte, 0, len(item)+64)
	raw = append(raw, `{"apiVersion":"`+l.APIVersion+`","kind":"`+l.Kind+`",`...)
	return append(raw, item[1:]...)
}

// expect reads one token.
func expect(d *json.Decoder, want json.Delim) error {
	got, err := d.Token()
	if err != nil {
		return fmt.Errorf("read list: %w", err)
	}
	if got != want {
		return fmt.Errorf("read list: found %v, want %v", got, want)
	}
	return nil
}

package audit

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

// resource is a kind of objects to list.
type resource struct {
	apiVersion, kind, plural string
	client                   func(kubernetes.Interface) rest.Interface
}

func coreClient(c kubernetes.Interface) rest.Interface { return c.CoreV1().RESTClient() }
func appsClient(c kubernetes.Interface) rest.Interface { return c.AppsV1().RESTClient() }

// listing is a request for objects.
type listing struct {
	resource
	namespace string // "" for all
	selector  string // of labels
	// metadata is set to get no spec and no status.
	metadata bool
}

// pageSize is how many objects the API server is asked for at once. They are read
// one by one, so that it is its memory more than ours that this bounds.
const pageSize = 250

// each lists objects page by page and hands them to visit one by one, as JSON with
// apiVersion and kind, so that no more than one of them is held. A list that takes so
// long that the API server forgets its beginning goes on from there
// (410, https://kubernetes.io/docs/reference/using-api/api-concepts/#retrieving-large-results-sets-in-chunks).
func (l listing) each(ctx context.Context, client kubernetes.Interface, visit func(raw []byte) error) error {
	next := ""
	for {
		request := l.client(client).Get().NamespaceIfScoped(l.namespace, l.namespace != "").Resource(l.plural).
			SetHeader("Accept", "application/json").Param("limit", strconv.Itoa(pageSize))
		if l.metadata {
			request = request.SetHeader("Accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json")
		}
		if l.selector != "" {
			request = request.Param("labelSelector", l.selector)
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
			return fmt.Errorf("list %s: %w", l.plural, err)
		}
		next, err = l.items(body, visit)
		_ = body.Close() // was read
		if err != nil {
			return fmt.Errorf("list %s: %w", l.plural, err)
		}
		if next == "" {
			return nil
		}
	}
}

// items reads one page and returns where the next one begins, "" behind the last.
func (l listing) items(body io.Reader, visit func(raw []byte) error) (next string, err error) {
	d := json.NewDecoder(body)
	if err := expect(d, json.Delim('{')); err != nil {
		return "", err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return "", fmt.Errorf("read list: %w", err)
		}
		switch key {
		case "metadata":
			var meta struct {
				Continue string `json:"continue"`
			}
			if err := d.Decode(&meta); err != nil {
				return "", fmt.Errorf("read list: %w", err)
			}
			next = meta.Continue
		case "items":
			if err := l.elements(d, visit); err != nil {
				return "", err
			}
		default:
			var other json.RawMessage
			if err := d.Decode(&other); err != nil {
				return "", fmt.Errorf("read list: %w", err)
			}
		}
	}
	return next, expect(d, json.Delim('}'))
}

func (l listing) elements(d *json.Decoder, visit func(raw []byte) error) error {
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
func (l listing) whole(item []byte) []byte {
	if l.metadata || len(item) == 0 || item[0] != '{' || bytes.HasPrefix(item, []byte(`{"kind":`)) || bytes.HasPrefix(item, []byte(`{"apiVersion":`)) {
		return item
	}
	raw := make([]byte, 0, len(item)+64)
	raw = append(raw, `{"apiVersion":"`+l.apiVersion+`","kind":"`+l.kind+`",`...)
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

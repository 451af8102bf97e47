package list

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"

	"github.com/evenkeel/evenkeel/policy"
)

// OptedIn returns the annotations of ours on the Namespaces that selector takes, by name. Those in
// except, and those that end, are passed over.
func OptedIn(
	ctx context.Context, client kubernetes.Interface, selector labels.Selector, except []string,
) (map[string]map[string]string, error) {
	annotations := map[string]map[string]string{}
	_, err := Listing{Resource: Namespaces, Selector: selector.String(), Metadata: true}.
		Each(ctx, client, func(raw []byte) error {
			var n metav1.PartialObjectMetadata
			if err := json.Unmarshal(raw, &n); err != nil {
				return fmt.Errorf("read Namespace: %w", err)
			}
			if !slices.Contains(except, n.Name) && n.DeletionTimestamp == nil {
				maps.DeleteFunc(n.Annotations, func(key, _ string) bool { return !strings.HasPrefix(key, policy.Prefix) })
				annotations[n.Name] = n.Annotations
			}
			return nil
		})
	return annotations, err
}

package patches

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/validation"
)

func TestRecord(t *testing.T) { runCases(t, "record") }

// TestRecordStaysWithinTheAPIsLimit shows that a record never makes annotations
// larger than the API allows.
func TestRecordStaysWithinTheAPIsLimit(t *testing.T) {
	const key = "example.com/large"
	refused, recorded := 0, 0
	defer func() {
		if refused == 0 || recorded == 0 {
			t.Errorf("%d sizes have no room for a record, %d have", refused, recorded)
		}
	}()
	for size := validation.TotalAnnotationSizeLimitB - 2048; size <= validation.TotalAnnotationSizeLimitB-len(
		key); size++ {
		if size%256 != 0 && size < validation.TotalAnnotationSizeLimitB-len(key)-3 {
			continue
		}
		object := fmt.Appendf(nil,
			`{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"app":"web"},"annotations":{%q:%q}},`+
				`"spec":{"containers":[{"name":"web","ports":[{"containerPort":80}]}]}}`,
			key, strings.Repeat("x", size))
		injector, err := New(DefaultConfig())
		if err != nil {
			t.Fatal(err)
		}
		result := injector.Review(Request{Operation: Create, Object: object, Cluster: clusters[0]})
		if result.Decisions[0].Skip == SkipNoRoom {
			refused++
			if len(result.Operations) > 0 {
				t.Fatalf("without room for a record %s is added", result.Patch)
			}
			continue
		}
		recorded++
		patched, err := apply(result.Patch, object)
		if err != nil {
			t.Fatal(err)
		}
		view, _, err := decodeTyped(patched)
		if err != nil {
			t.Fatal(err)
		}
		total := len(key) + size
		for key, value := range view.Annotations {
			total += len(key) + len(value)
		}
		if total > validation.TotalAnnotationSizeLimitB || len(result.Operations) == 0 ||
			view.Labels["evenkeel.dev/defaulted"] != "true" {
			t.Fatalf("annotations of %d bytes grow to %d by %d operations", len(key)+size, total, len(result.Operations))
		}
	}
}

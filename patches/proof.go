package patches

import (
	"crypto/sha256"
	"fmt"
	"strconv"
	"sync"

	applier "gopkg.in/evanphx/json-patch.v4"

	"github.com/evenkeel/evenkeel/internal/scan"
	"github.com/evenkeel/evenkeel/policy"
)

// proof shows that the API server will be able to apply a patch, because one that
// does not apply fails the request even under failurePolicy: Ignore
// (k8s.io/apiserver/pkg/admission/plugin/webhook/mutating/dispatcher.go). It uses
// the API server's own applier, once for each shape.
//
// Whether that applier succeeds depends on little: the document and the patch are
// JSON, nested no deeper than it reads, and the operations and their paths fit the
// objects and arrays along those paths. It looks at nothing else, no value is read
// and no other member. The last part is the shape. So a patch is applied in full
// where its shape is new, and where the same shape has been applied before, it is
// enough to check the JSON: of the document while parse reads it, of the patch here.
// FuzzReview applies every patch in full all the same.
type proof struct {
	mu     sync.RWMutex
	shapes map[[sha256.Size]byte]bool // by their hash, so that none takes much
}

const (
	// maxShapes is how many shapes are remembered: a tenant can make up any number.
	maxShapes = 1024
	// shallow is the nesting up to which a shape says enough. The applier reads and
	// writes inner values on their own, each nested 10,000 deep at most.
	shallow = 1000
)

// applies returns an error when the patch with these changes can't be applied to
// raw, which was parsed as o.
func (p *proof) applies(patch []byte, changes []Change, raw []byte, o *object) error {
	depth, err := scan.Valid(patch)
	if err != nil {
		return fmt.Errorf("own patch %w", err)
	}
	var room [1024]byte
	shape := sha256.Sum256(appendShape(room[:0], changes, o))
	enough := max(depth, o.depth) <= shallow
	if enough {
		p.mu.RLock()
		known := p.shapes[shape]
		p.mu.RUnlock()
		if known {
			return nil
		}
	}
	decoded, err := applier.DecodePatch(patch)
	if err != nil {
		return fmt.Errorf("read own patch: %w", err)
	}
	if _, err := decoded.Apply(raw); err != nil {
		return fmt.Errorf("apply own patch: %w", err)
	}
	if !enough {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.shapes) >= maxShapes || p.shapes == nil {
		p.shapes = make(map[[sha256.Size]byte]bool)
	}
	p.shapes[shape] = true
	return nil
}

// appendShape appends the operations and their paths, the objects and arrays of o
// that paths can lead through, and the places at which paths of ours can end: what is
// written as a member here is an object, or is there, and what is missing is anything
// else, or isn't.
func appendShape(b []byte, changes []Change, o *object) []byte {
	for _, c := range changes {
		b = append(append(append(append(b, c.Operation...), ' '), c.Path...), '\n')
	}
	pod := &o.pod
	_, noted := pod.meta.annotations[policy.InjectedAnnotation]
	_, labelled := pod.meta.label(policy.DefaultedLabel)
	for _, place := range [...]struct {
		name string
		set  bool
	}{
		{"metadata", pod.meta.present}, {"annotations", pod.meta.annotated}, {"labels", pod.meta.labels != nil},
		{"record", noted}, {"defaulted", labelled},
		{"anti-affinity", pod.podAntiAffinity != nil || pod.ours.antiAffinity != nil},
		{"spec", pod.spec}, {"affinity", pod.affinity}, {"constraints", pod.constraintList != nil},
		{"grace", pod.grace != nil || pod.ours.graceTo > 0}, {"containers", len(pod.containers) > 0},
	} {
		if place.set {
			b = append(append(b, place.name...), ' ')
		}
	}
	for _, part := range pod.ours.affinityParts {
		b = append(append(append(b, "terms/"...), part...), ' ')
	}
	b = append(append(b, pod.path...), ' ')
	b = strconv.AppendInt(append(strconv.AppendInt(b, int64(len(pod.constraints)), 10), ' '),
		int64(len(pod.containers)), 10)
	for i := range pod.containers {
		b = append(b, '\n')
		c := &pod.containers[i]
		if c.present {
			b = append(b, "container "...)
		}
		if c.lifecycle {
			b = append(b, "lifecycle "...)
		}
		if c.preStop != nil || c.ourPreStop != nil {
			b = append(b, "hook "...)
		}
		if c.readinessProbe != nil || c.ourProbe != nil {
			b = append(b, "probe "...)
		}
		for _, part := range c.hookParts {
			b = append(append(append(b, "hook/"...), part...), ' ')
		}
		for _, part := range c.probeParts {
			b = append(append(append(b, "probe/"...), part...), ' ')
		}
	}
	return b
}

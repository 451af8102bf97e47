package withdraw

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/evenkeel/evenkeel/patches"
)

// ConfigMap is the name of the ConfigMap that holds the notes, and dataKey the key in it.
const (
	ConfigMap = "evenkeel-notes"
	dataKey   = "notes"
)

// maxNotes bounds the notes: the longest is some 650 bytes, and a ConfigMap holds 1 MiB. The oldest
// go first.
const maxNotes = 1500

// Key names a workload.
type Key struct{ Namespace, Kind, Name string }

// Note is what was noticed of a workload.
type Note struct {
	Key
	// Code is patches.SkipProbeFailed or patches.SkipResetAgain.
	Code patches.Skip
	// Containers is the fingerprint of the containers that it was noticed of.
	Containers uint64
	Since      time.Time
}

// String returns the line that stands for a note: kind, namespace, name, code, fingerprint, and time.
func (n Note) String() string {
	return fmt.Sprintf("%s %s %s %s %016x %s",
		n.Kind, n.Namespace, n.Name, n.Code, n.Containers, n.Since.UTC().Format(time.RFC3339))
}

// parseNote reads a line. It reports false for any other.
func parseNote(line string) (Note, bool) {
	parts := strings.Split(line, " ")
	if len(parts) != 6 {
		return Note{}, false
	}
	n := Note{Key: Key{Kind: parts[0], Namespace: parts[1], Name: parts[2]}, Code: patches.Skip(parts[3])}
	var err1, err2 error
	n.Containers, err1 = strconv.ParseUint(parts[4], 16, 64)
	n.Since, err2 = time.Parse(time.RFC3339, parts[5])
	known := n.Code == patches.SkipProbeFailed || n.Code == patches.SkipResetAgain
	return n, err1 == nil && err2 == nil && known
}

// ReadNotes reads the notes out of a ConfigMap. What is no note is passed over.
func ReadNotes(c *corev1.ConfigMap) map[Key]Note {
	notes := map[Key]Note{}
	for line := range strings.SplitSeq(c.Data[dataKey], "\n") {
		if n, ok := parseNote(line); ok && len(notes) < maxNotes {
			notes[n.Key] = n
		}
	}
	return notes
}

// format writes notes for a ConfigMap, the newest ones of too many.
func format(notes map[Key]Note) string {
	var all []Note
	for _, n := range notes {
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b Note) int {
		return cmp.Or(b.Since.Compare(a.Since), cmp.Compare(a.String(), b.String()))
	})
	var b strings.Builder
	for _, n := range all[:min(len(all), maxNotes)] {
		b.WriteString(n.String())
		b.WriteByte('\n')
	}
	return b.String()
}

// Notes are the notes as a replica knows them. They are safe for concurrent use.
type Notes struct {
	client    kubernetes.Interface
	namespace string
	informer  cache.SharedIndexInformer

	mu    sync.RWMutex
	known map[Key]Note
}

// NewNotes returns the notes that stand in a namespace.
func NewNotes(client kubernetes.Interface, namespace string) (*Notes, error) {
	n := &Notes{client: client, namespace: namespace, known: map[Key]Note{}}
	n.informer = informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, ConfigMap).String()
		})).Core().V1().ConfigMaps().Informer()
	take := func(object any) {
		if c, ok := object.(*corev1.ConfigMap); ok && c.Name == ConfigMap {
			n.set(ReadNotes(c))
		}
	}
	_, err := n.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: take, UpdateFunc: func(_, after any) { take(after) },
		DeleteFunc: func(any) { n.set(map[Key]Note{}) },
	})
	if err != nil {
		return nil, fmt.Errorf("watch notes: %w", err)
	}
	return n, nil
}

func (n *Notes) set(known map[Key]Note) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known = known
}

// Run keeps the notes up to date until ctx ends.
func (n *Notes) Run(ctx context.Context) { n.informer.RunWithContext(ctx) }

// Ready returns an error as long as the notes were not read.
func (n *Notes) Ready() error {
	if !n.informer.HasSynced() {
		return errors.New("notes are not read yet")
	}
	return nil
}

// Of returns the note of a workload. It asks nobody.
func (n *Notes) Of(namespace, kind, name string) (patches.Note, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if len(n.known) == 0 {
		return patches.Note{}, false
	}
	found, ok := n.known[Key{Namespace: namespace, Kind: kind, Name: name}]
	return patches.Note{Code: found.Code, Containers: found.Containers}, ok
}

// all returns a copy of the notes.
func (n *Notes) all() map[Key]Note {
	n.mu.RLock()
	defer n.mu.RUnlock()
	notes := make(map[Key]Note, len(n.known))
	for key, note := range n.known {
		notes[key] = note
	}
	return notes
}

// write makes notes the ones that stand, in the cluster and here. A server-side apply that creates
// names what it creates, so that the right to it can be limited to that name.
func (n *Notes) write(ctx context.Context, notes map[Key]Note) error {
	c := corev1apply.ConfigMap(ConfigMap, n.namespace).
		WithLabels(map[string]string{"app.kubernetes.io/name": "evenkeel"}).
		WithData(map[string]string{dataKey: format(notes)})
	options := metav1.ApplyOptions{FieldManager: "evenkeel", Force: true}
	_, err := n.client.CoreV1().ConfigMaps(n.namespace).Apply(ctx, c, options)
	if err != nil {
		return fmt.Errorf("write notes: %w", err)
	}
	n.set(notes)
	return nil
}

// Package corpus reads the manifests that tests run over as objects.
package corpus

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/evenkeel/evenkeel/e2e/installation"
	"github.com/evenkeel/evenkeel/e2e/manifests"
	"github.com/evenkeel/evenkeel/internal/corpus"
)

// Object is one object of a manifest.
type Object struct {
	*unstructured.Unstructured
	File string // base name of its file
}

// Load returns all objects of testdata/manifests and of the corpus. unread says which files or rests of files
// client-go's decoder can't read, as kubectl's can't.
func Load() (objects []Object, unread []string, err error) {
	root, err := installation.Root()
	if err != nil {
		return nil, nil, err
	}
	files, err := corpus.Below(filepath.Join(root, "testdata", "manifests"))
	if err != nil {
		return nil, nil, err
	}
	wild, err := corpus.Files()
	if err != nil {
		return nil, nil, err
	}
	for _, path := range append(files, wild...) {
		found, err := read(path)
		objects = append(objects, found...)
		if err != nil {
			unread = append(unread, err.Error())
		}
	}
	return objects, unread, nil
}

func read(path string) ([]Object, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	found, err := manifests.Read(content)
	objects := make([]Object, len(found))
	for i, object := range found {
		objects[i] = Object{object, filepath.Base(path)}
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return objects, err
}

// Workloads returns the objects of the kinds, such as "Deployment".
func Workloads(objects []Object, kinds ...string) []Object {
	return slices.DeleteFunc(slices.Clone(objects), func(o Object) bool { return !slices.Contains(kinds, o.GetKind()) })
}

// String names the object for a test.
func (o Object) String() string {
	return strings.Join([]string{o.File, o.GetKind(), o.GetName()}, "/")
}

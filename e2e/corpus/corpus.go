// Package corpus reads manifests to test against: the project's own, and public projects' from a directory outside the
// repository.
package corpus

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"

	"github.com/evenkeel/evenkeel/e2e/installation"
)

// Object is one object of a manifest.
type Object struct {
	*unstructured.Unstructured
	File string // base name of its file
}

// Load returns all objects of the project's own manifests (testdata/manifests) and of the directory CORPUS, or else
// ../shared/corpus beside the repository. missing says which of the two is not there, and which files or rests of files
// client-go's decoder can't read, as kubectl's can't.
func Load() (objects []Object, missing []string, err error) {
	root, err := installation.Root()
	if err != nil {
		return nil, nil, err
	}
	outside := os.Getenv("CORPUS")
	if outside == "" {
		outside = filepath.Join(root, "..", "shared", "corpus")
	}
	for _, dir := range []string{filepath.Join(root, "testdata", "manifests"), outside} {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, "no directory "+dir)
			continue
		}
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)) {
				return err
			}
			found, err := read(path)
			objects = append(objects, found...)
			if err != nil {
				missing = append(missing, err.Error())
			}
			return nil
		})
		if err != nil {
			return nil, nil, fmt.Errorf("read corpus: %w", err)
		}
	}
	return objects, missing, nil
}

func read(path string) ([]Object, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var objects []Object
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	for {
		var raw json.RawMessage
		if err := decoder.Decode(&raw); errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		object := &unstructured.Unstructured{}
		if len(raw) == 0 || string(raw) == "null" || object.UnmarshalJSON(raw) != nil {
			continue // an empty document, or one that is no object
		}
		if object.IsList() {
			err := object.EachListItem(func(item runtime.Object) error {
				objects = append(objects, Object{item.(*unstructured.Unstructured), filepath.Base(path)})
				return nil
			})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			continue
		}
		objects = append(objects, Object{object, filepath.Base(path)})
	}
}

// Workloads returns the objects of the kinds, such as "Deployment".
func Workloads(objects []Object, kinds ...string) []Object {
	return slices.DeleteFunc(slices.Clone(objects), func(o Object) bool { return !slices.Contains(kinds, o.GetKind()) })
}

// String names the object for a test.
func (o Object) String() string {
	return strings.Join([]string{o.File, o.GetKind(), o.GetName()}, "/")
}

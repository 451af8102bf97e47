// Package manifests reads and writes streams of objects.
package manifests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Read returns the objects of a stream of YAML or JSON, as kubectl's decoder reads it: those of lists
// one by one, and not what is no object. With an error it returns those before it.
func Read(stream []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(stream), 4096)
	for {
		var raw json.RawMessage
		if err := decoder.Decode(&raw); errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return objects, fmt.Errorf("read manifests: %w", err)
		}
		object := &unstructured.Unstructured{}
		switch {
		case len(raw) == 0 || string(raw) == "null" || object.UnmarshalJSON(raw) != nil:
			continue // an empty document, or one that is no object
		case !object.IsList():
			objects = append(objects, object)
			continue
		}
		err := object.EachListItem(func(item runtime.Object) error {
			objects = append(objects, item.(*unstructured.Unstructured))
			return nil
		})
		if err != nil {
			return objects, fmt.Errorf("read list: %w", err)
		}
	}
}

// As returns an object as a typed one, which has to know all of its fields.
func As[T any](object *unstructured.Unstructured) (*T, error) {
	typed := new(T)
	err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, typed, true)
	if err != nil {
		return nil, fmt.Errorf("read %s %s: %w", object.GetKind(), object.GetName(), err)
	}
	return typed, nil
}

// Write returns the objects as a stream of YAML.
func Write(objects ...*unstructured.Unstructured) (string, error) {
	var b bytes.Buffer
	for _, object := range objects {
		text, err := yaml.Marshal(object.Object)
		if err != nil {
			return "", fmt.Errorf("write %s %s: %w", object.GetKind(), object.GetName(), err)
		}
		b.WriteString("---\n")
		b.Write(text)
	}
	return b.String(), nil
}

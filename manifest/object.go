package manifest

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	kjson "sigs.k8s.io/json"

	"github.com/evenkeel/evenkeel/internal/scan"
	"github.com/evenkeel/evenkeel/internal/words"
)

// Object is an API object: a document, or an item of a list.
type Object struct {
	// File is the name of the file.
	File string
	// Value is the object as JSON, as it was read.
	Value []byte
	Identity

	document *Document
	// path is the JSON pointer from the document to the object, "" for the whole.
	path string
	line int
}

// Identity is what tells one object from another.
type Identity struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name         string         `json:"name"`
		GenerateName string         `json:"generateName"`
		Namespace    string         `json:"namespace"`
		Labels       map[string]any `json:"labels"`
		Annotations  map[string]any `json:"annotations"`
	} `json:"metadata"`
}

// FullName returns the name of the object, or its generateName with a star.
func (o *Object) FullName() string {
	if o.Metadata.Name == "" && o.Metadata.GenerateName != "" {
		return o.Metadata.GenerateName + "*"
	}
	return o.Metadata.Name
}

// Line returns the number of the line in its manifest where the object begins.
func (o *Object) Line() int { return o.line }

// Title names the object for people.
func (o *Object) Title() string {
	name := o.FullName()
	if o.Metadata.Namespace != "" {
		name = o.Metadata.Namespace + "/" + name
	}
	return strings.TrimSuffix(o.Kind+" "+name, " ")
}

// Place returns FILE:LINE, where the object begins.
func (o *Object) Place() string { return words.Printable(o.File) + ":" + strconv.Itoa(o.Line()) }

// LineOf returns the number of the line where the value at a JSON pointer from the object begins, and
// false without one: then the line is that of the nearest value around it.
func (o *Object) LineOf(pointer string) (int, bool) {
	defer o.document.plant()()
	return o.document.lineOf(o.path + pointer)
}

// Remark returns what is wrong with the object at a line.
func (o *Object) Remark(line int, err error) Remark { return Remark{o.File, line, o.Title(), err} }

// Labels returns the labels that are text; the API server refuses others.
func (o *Object) Labels() map[string]string { return texts(o.Metadata.Labels) }

// Annotations returns the annotations that are text; the API server refuses others.
func (o *Object) Annotations() map[string]string { return texts(o.Metadata.Annotations) }

// texts returns the members that are strings.
func texts(values map[string]any) map[string]string {
	texts := map[string]string{}
	for key, value := range values {
		if text, ok := value.(string); ok {
			texts[key] = text
		}
	}
	return texts
}

// Objects returns the API objects of the file, those in lists one by one. A document that is none,
// values of a chart for example, has none.
func (f *File) Objects() []*Object { return f.objects }

// Foreign returns how many documents are no API objects: values of a chart, or the configuration of
// another program.
func (f *File) Foreign() (n int) {
	for _, d := range f.Documents {
		if d.foreign() {
			n++
		}
	}
	return n
}

// foreign reports whether a document is no API object: values of a chart, or the
// configuration of another program.
func (d *Document) foreign() bool {
	if d.Value == nil {
		return false
	}
	apiVersion, kind := typeOf(d.Value)
	return kind == "" || apiVersion == "" && knownKind(kind) == ""
}

// typeOf returns the apiVersion and the kind of a JSON value, "" where they are no
// text.
func typeOf(value []byte) (apiVersion, kind string) {
	var o struct {
		APIVersion any `json:"apiVersion"`
		Kind       any `json:"kind"`
	}
	_ = kjson.UnmarshalCaseSensitivePreserveInts(value, &o) // what is no object has neither
	apiVersion, _ = o.APIVersion.(string)
	kind, _ = o.Kind.(string)
	return apiVersion, kind
}

// collect appends the objects of value to all. A typed list such as a
// DeploymentList leaves apiVersion and kind out of its items: they follow from
// those of the list.
func (d *Document) collect(all []*Object, file, path string, value []byte, fallback Identity) []*Object {
	if !bytes.HasPrefix(value, []byte("{")) {
		return all
	}
	o := &Object{File: file, document: d, path: path, Value: value}
	o.line, _ = d.lineOf(path)
	if err := kjson.UnmarshalCaseSensitivePreserveInts(value, &o.Identity); err != nil {
		// A part of the wrong type is found and named when the object is reviewed.
		o.APIVersion, o.Kind = typeOf(value)
	}
	if o.Kind == "" && o.APIVersion == "" && fallback.Kind != "" {
		o.Kind, o.APIVersion = fallback.Kind, fallback.APIVersion
		head, _ := json.Marshal(map[string]string{"apiVersion": o.APIVersion, "kind": o.Kind})
		if rest := value[1:]; bytes.HasPrefix(bytes.TrimLeft(rest, " \t\r\n"), []byte("}")) {
			o.Value = head
		} else {
			o.Value = append(append(head[:len(head)-1], ','), rest...)
		}
	}
	if o.Kind == "" || o.APIVersion == "" && knownKind(o.Kind) == "" { // else its author is told
		return all
	}
	kind, isList := strings.CutSuffix(o.Kind, "List")
	if !isList {
		return append(all, o)
	}
	var list struct {
		Items []json.RawMessage `json:"items"`
	}
	if kjson.UnmarshalCaseSensitivePreserveInts(value, &list) != nil {
		return append(all, o)
	}
	item := Identity{APIVersion: o.APIVersion, Kind: kind}
	for i := range list.Items {
		all = d.collect(all, file, path+"/items/"+strconv.Itoa(i), list.Items[i], item)
	}
	return all
}

// lineOf returns the number of the line in its manifest where the value at a JSON
// pointer begins, and false without one: then the line is that of the nearest value
// around it.
func (d *Document) lineOf(pointer string) (int, bool) {
	if d.root == nil {
		return d.Line, false
	}
	line, node := d.Line+d.root.Line-1, d.root
	for _, key := range pointerKeys(pointer) {
		name, value := child(node, key)
		if value == nil {
			return line, false
		}
		line, node = d.Line+name.Line-1, value
	}
	return line, true
}

// child returns the node of a member and of its key, or of an element twice; nil
// without one.
func child(node *yaml.Node, key string) (name, value *yaml.Node) {
	switch node.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			if k := node.Content[i]; k.Kind == yaml.ScalarNode && k.Value == key {
				return k, node.Content[i+1]
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(key); err == nil && i >= 0 && i < len(node.Content) {
			return node.Content[i], node.Content[i]
		}
	}
	return nil, nil
}

// PointerTo returns the JSON pointer (RFC 6901) from an object to its member.
func PointerTo(key string) string {
	return "/" + scan.EscapePointer(key)
}

// pointerKeys splits a JSON pointer (RFC 6901) into its keys.
func pointerKeys(pointer string) []string {
	if pointer == "" {
		return nil
	}
	keys := strings.Split(pointer[1:], "/")
	for i, key := range keys {
		keys[i] = strings.ReplaceAll(strings.ReplaceAll(key, "~1", "/"), "~0", "~")
	}
	return keys
}

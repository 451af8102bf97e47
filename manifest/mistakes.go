package manifest

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	kjson "sigs.k8s.io/json"

	"github.com/evenkeel/evenkeel/internal/words"
)

// apiType returns the API's own type of a kind that inject looks at, and the only
// apiVersion that clusters serve it in; nil for every other kind.
func apiType(kind string) (apiVersion string, t reflect.Type) {
	switch kind {
	case "List":
		return "v1", reflect.TypeFor[corev1.List]()
	case "Namespace":
		return "v1", reflect.TypeFor[corev1.Namespace]()
	case "Pod":
		return "v1", reflect.TypeFor[corev1.Pod]()
	case "ReplicationController":
		return "v1", reflect.TypeFor[corev1.ReplicationController]()
	case "Deployment":
		return "apps/v1", reflect.TypeFor[appsv1.Deployment]()
	case "StatefulSet":
		return "apps/v1", reflect.TypeFor[appsv1.StatefulSet]()
	case "DaemonSet":
		return "apps/v1", reflect.TypeFor[appsv1.DaemonSet]()
	case "ReplicaSet":
		return "apps/v1", reflect.TypeFor[appsv1.ReplicaSet]()
	case "Job":
		return "batch/v1", reflect.TypeFor[batchv1.Job]()
	case "CronJob":
		return "batch/v1", reflect.TypeFor[batchv1.CronJob]()
	}
	return "", nil
}

// HasPods reports whether the object is of a kind with a pod template, a Pod, or a Namespace or List,
// in the version that clusters serve: Check knows its type.
func (o *Object) HasPods() bool {
	apiVersion, t := apiType(o.Kind)
	return t != nil && apiVersion == o.APIVersion
}

// knownKind returns the kind that apiType knows and that kind is, but for case and a
// plural; "" without one.
func knownKind(kind string) string {
	for _, known := range []string{"List", "Namespace", "Pod", "ReplicationController", "Deployment", "StatefulSet",
		"DaemonSet",
		"ReplicaSet", "Job", "CronJob"} {
		if strings.EqualFold(kind, known) || strings.EqualFold(kind, known+"s") {
			return known
		}
	}
	return ""
}

// misnamed returns what is wrong with the apiVersion or kind of an object that looks
// like one of a kind that apiType knows, "" where nothing is. Another group's kind of
// the same name is that group's business.
func misnamed(o *Object) string {
	kind := knownKind(o.Kind)
	group, _, _ := strings.Cut(o.APIVersion, "/")
	if kind == "" && o.Kind != "ControllerRevision" { // the one kind of these groups that apiType doesn't know
		switch group {
		case "apps":
			kind = words.Nearest(o.Kind, []string{"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"}, words.Slips)
		case "batch":
			kind = words.Nearest(o.Kind, []string{"Job", "CronJob"}, words.Slips)
		}
	}
	apiVersion, _ := apiType(kind)
	if kind == "" || kind == o.Kind && apiVersion == o.APIVersion ||
		!slices.Contains([]string{"", "v1", "v1beta1", "core", "apps", "batch", "extensions"}, group) {
		return ""
	}
	where := "without an apiVersion"
	if o.APIVersion != "" {
		where = fmt.Sprintf("in apiVersion %q", words.Shorten(o.APIVersion, quoted))
	}
	return fmt.Sprintf("nothing is added, since clusters know no kind %q %s; allowed: kind %s in %s",
		words.Shorten(o.Kind, quoted), where, kind, apiVersion)
}

// Doubts returns what an object says that its author can hardly mean, with the lines:
// what misnamed finds, and fields that its type doesn't have. They are no errors, since
// a newer API may know them.
func (o *Object) Doubts() []Remark {
	if wrong := misnamed(o); wrong != "" {
		return []Remark{o.Remark(o.Line(), errors.New(wrong))}
	}
	apiVersion, t := apiType(o.Kind)
	if apiVersion != o.APIVersion {
		t = map[string]reflect.Type{
			"policy/v1 PodDisruptionBudget":          reflect.TypeFor[policyv1.PodDisruptionBudget](),
			"autoscaling/v1 HorizontalPodAutoscaler": reflect.TypeFor[autoscalingv1.HorizontalPodAutoscaler](),
			"autoscaling/v2 HorizontalPodAutoscaler": reflect.TypeFor[autoscalingv2.HorizontalPodAutoscaler](),
		}[o.APIVersion+" "+o.Kind]
	}
	if t == nil {
		return nil
	}
	var all []Remark
	mistakes, _ := kjson.UnmarshalStrict(o.Value, reflect.New(t).Interface()) // the error is told by Check
	for _, m := range mistakes {
		var field kjson.FieldError
		if !errors.As(m, &field) {
			continue
		}
		pointer, instead := misspelt(t,
			strings.FieldsFunc(field.FieldPath(), func(r rune) bool { return strings.ContainsRune(".[]", r) }))
		text := pathOf(pointer) + " is not a known field, so kubectl apply refuses it"
		if instead != "" {
			text += "; did you mean " + instead + "?"
		}
		line, _ := o.LineOf(pointer)
		all = append(all, o.Remark(line, errors.New(text)))
	}
	return all
}

// misspelt returns the JSON pointer to the field that a path leads to and that the type doesn't have,
// and the field that it resembles, if any. What follows the last known field is one name, dots
// included.
func misspelt(t reflect.Type, path []string) (pointer, instead string) {
	for i, key := range path {
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		switch t.Kind() {
		case reflect.Struct:
			fields := fieldsOf(t)
			field, known := fields[key]
			if !known {
				name := strings.Join(path[i:], ".")
				return pointer + PointerTo(name), words.Nearest(name, slices.Sorted(maps.Keys(fields)), words.Slips)
			}
			t = field
		case reflect.Map, reflect.Slice:
			t = t.Elem()
		}
		pointer += PointerTo(key)
	}
	return pointer, ""
}

// fieldsOf returns the types of the fields of a struct, by the names that they have in
// JSON, those of embedded structs too.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if field.Anonymous && name == "" {
			maps.Copy(fields, fieldsOf(field.Type))
			continue
		}
		fields[name] = field.Type
	}
	return fields
}

// Check returns the first value of an object that the API server would refuse
// because of its type, or that no pod can do without, as a Remark, or nil.
func (o *Object) Check() error {
	_, t := apiType(o.Kind)
	if t == nil {
		return nil
	}
	value, err := decodeJSON(o.Value)
	if err != nil {
		return o.Remark(o.Line(), err)
	}
	pointer, problem := mistake(value, t, "")
	if problem == "" {
		if pointer = podless(value, t); pointer == "" {
			return nil
		}
		problem = "is missing, so there are no pods; "
		if found := o.Doubts(); len(found) > 0 {
			problem += found[0].Err.Error()
		} else {
			problem += "a patch for kustomize has to be rendered first, as in: kubectl kustomize DIR | evenkeel inject -"
		}
	}
	line, _ := o.LineOf(pointer)
	return o.Remark(line, errors.New(pathOf(pointer)+" "+problem))
}

// podless returns the JSON pointer to what a workload of type t lacks on the way to its
// containers, or "".
func podless(value any, t reflect.Type) string {
	path := []string{"spec", "template", "spec", "containers"}
	switch t {
	case reflect.TypeFor[corev1.Namespace](), reflect.TypeFor[corev1.List]():
		path = nil
	case reflect.TypeFor[corev1.Pod]():
		path = path[2:]
	case reflect.TypeFor[batchv1.CronJob]():
		path = append([]string{"spec", "jobTemplate"}, path...)
	}
	pointer := ""
	for _, key := range path {
		members, _ := value.(map[string]any)
		pointer, value = pointer+"/"+key, members[key]
		if value == nil {
			return pointer
		}
	}
	return ""
}

// pathOf writes a JSON pointer as kubectl explain and error messages of the API do.
func pathOf(pointer string) string {
	var b strings.Builder
	for _, key := range pointerKeys(pointer) {
		switch _, err := strconv.Atoi(key); {
		case err == nil, strings.ContainsAny(key, "./"):
			b.WriteString("[" + key + "]")
		case b.Len() > 0:
			b.WriteString("." + key)
		default:
			b.WriteString(key)
		}
	}
	return b.String()
}

// mistake compares a decoded value with the type that the API decodes it into, and
// returns the JSON pointer to what does not fit, and why. Like the API it takes null
// for anything, and names by their case.
func mistake(value any, t reflect.Type, pointer string) (at, problem string) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case value == nil:
		return "", ""
	case t == reflect.TypeFor[intstr.IntOrString]():
		if _, ok := value.(string); ok {
			return "", ""
		}
		t = reflect.TypeFor[int32]()
	case reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()),
		reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		raw, err := json.Marshal(value)
		if err == nil {
			err = json.Unmarshal(raw, reflect.New(t).Interface())
		}
		if err != nil {
			return pointer, fmt.Sprintf("is %s, which can't be read as a %s: %v", described(value), t.Name(), err)
		}
		return "", ""
	}
	wrong := func(want string) (string, string) {
		return pointer, fmt.Sprintf("is %s; allowed: %s", described(value), want)
	}
	switch t.Kind() {
	case reflect.Struct:
		members, ok := value.(map[string]any)
		if !ok {
			return wrong("a mapping (key: value)")
		}
		fields := fieldsOf(t)
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			if at, problem := mistake(members[name], fields[name], pointer+"/"+name); problem != "" {
				return at, problem
			}
		}
	case reflect.Map:
		members, ok := value.(map[string]any)
		if !ok {
			return wrong("a mapping (key: value)")
		}
		for _, key := range slices.Sorted(maps.Keys(members)) {
			if at, problem := mistake(members[key], t.Elem(), pointer+PointerTo(key)); problem != "" {
				return at, problem
			}
		}
	case reflect.Slice:
		elements, ok := value.([]any)
		if !ok {
			return wrong(`a list (each element behind "- ")`)
		}
		for i := range elements {
			if at, problem := mistake(elements[i], t.Elem(), pointer+"/"+strconv.Itoa(i)); problem != "" {
				return at, problem
			}
		}
	case reflect.String:
		switch value.(type) {
		case string:
		case json.Number, bool:
			return wrong("text, so put it in quotes")
		default:
			return wrong("text")
		}
	case reflect.Bool:
		if _, ok := value.(bool); !ok {
			return wrong("true or false, without quotes")
		}
	case reflect.Int32, reflect.Int64:
		number, ok := value.(json.Number)
		if _, err := strconv.ParseInt(string(number), 10, t.Bits()); !ok || err != nil {
			return wrong(fmt.Sprintf("a whole number up to %d, without quotes", int64(1)<<(t.Bits()-1)-1))
		}
	}
	return "", ""
}

// described says what a decoded value is.
func described(value any) string {
	switch value := value.(type) {
	case map[string]any:
		return "a mapping"
	case []any:
		return "a list"
	case string:
		return fmt.Sprintf("the text %q", words.Shorten(value, quoted))
	case json.Number:
		return "the number " + words.Shorten(string(value), quoted)
	}
	return fmt.Sprint(value)
}

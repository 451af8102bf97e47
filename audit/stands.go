package audit

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	kjson "sigs.k8s.io/json"

	"github.com/evenkeel/evenkeel/internal/words"
	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
)

// Flags are the settings of the evenkeel that runs in a cluster.
type Flags struct {
	// Given are those that were given by flag, with their values, by name.
	Given map[string]string
	// Of is the program that they were given to, "" for this one.
	Of string
	// Hidden is set where they may not be read, so that built-in values are taken.
	Hidden bool
}

// ByEvenkeel is Default.By for what evenkeel has added.
const ByEvenkeel = "evenkeel"

// annotated is what is read of an object to resolve its settings, and to say who wrote a field.
type annotated struct {
	Metadata struct {
		Annotations   map[string]string `json:"annotations"`
		ManagedFields []struct {
			Manager  string         `json:"manager"`
			FieldsV1 map[string]any `json:"fieldsV1"`
		} `json:"managedFields"`
	} `json:"metadata"`
	Spec map[string]any `json:"spec"`
}

// stored is an object and where its settings come from.
type stored struct {
	annotated
	sources []policy.Annotations
	policy  policy.Policy
	pod     map[string]any // the pod spec
	path    []string       // that leads to it
}

// readStored reads an object. What can't be read is left empty: the review says so.
func readStored(raw []byte, kind string, n Namespace, rules Rules) *stored {
	s := &stored{path: []string{"spec"}}
	_ = kjson.UnmarshalCaseSensitivePreserveInts(raw, &s.annotated)
	s.pod = s.Spec
	own := policy.SourcePodTemplate // a pod's annotations are those of its template
	if kind != "Pod" {
		s.path = []string{"spec", "template", "spec"}
		template, _ := s.Spec["template"].(map[string]any)
		s.pod, _ = template["spec"].(map[string]any)
		metadata, _ := template["metadata"].(map[string]any)
		annotations, _ := metadata["annotations"].(map[string]any)
		values := map[string]string{}
		for key, value := range annotations {
			if text, ok := value.(string); ok {
				values[key] = text
			}
		}
		s.sources = append(s.sources, policy.Annotations{Source: policy.SourcePodTemplate, Values: values})
		own = policy.SourceWorkload
	}
	s.sources = append(s.sources, policy.Annotations{Source: own, Values: s.Metadata.Annotations},
		policy.Annotations{Source: policy.SourceNamespace, Values: n.Annotations})
	s.policy, _ = policy.Resolve(rules.Budgets.Base, rules.Budgets.Bounds, s.sources...)
	return s
}

// setting returns the value of a setting as it was written, and where.
func (s *stored) setting(row *policy.Setting, flags Flags) (value, source string) {
	if from := s.policy.From(row.Name); from != policy.SourceFlag {
		for _, a := range s.sources {
			if value, ok := a.Values[row.Annotation()]; ok && a.Source == from {
				return value, "annotation of the " + string(from)
			}
		}
	}
	if given, ok := flags.Given[row.Name]; ok {
		return given, strings.TrimSuffix("flag of "+flags.Of, " of ")
	}
	value = row.Default
	if value == "" {
		value = "-"
	}
	if flags.Hidden && row.Flag {
		return value, "built-in, unless a flag of evenkeel serve says otherwise: its flags may not be read"
	}
	return value, "built-in"
}

// source says where the setting of a default comes from.
func (s *stored) source(name string, flags Flags) string {
	settings := policy.Settings()
	i := slices.IndexFunc(settings, func(row policy.Setting) bool { return row.Name == name })
	if i < 0 {
		return ""
	}
	value, source := s.setting(&settings[i], flags)
	return fmt.Sprintf("%s=%s, %s", name, words.Shorten(value, 80), source)
}

// fields are where a default stands, below the pod spec or below a container.
var fields = map[string][][]string{
	patches.DefaultAntiAffinity:   {{"affinity", "podAntiAffinity"}, {"topologySpreadConstraints"}},
	patches.DefaultPreStopSleep:   {{"lifecycle", "preStop"}},
	patches.DefaultReadinessProbe: {{"readinessProbe"}},
}

// written returns what somebody else wrote in the place of a default, shortened, and by which field
// manager; both "" for nothing.
func (s *stored) written(name, container string) (value, manager string) {
	at, path := s.pod, s.path
	if container != "" {
		at = element(s.pod["containers"], container)
		path = append(slices.Clip(path), "containers", container)
	}
	for _, place := range fields[name] {
		var found any = at
		for _, key := range place {
			members, _ := found.(map[string]any)
			found = members[key]
		}
		if found == nil {
			continue
		}
		raw, err := json.Marshal(found)
		if err != nil {
			continue // was read from JSON
		}
		return words.Shorten(string(raw), 80), s.manager(append(slices.Clip(path), place...))
	}
	return "", ""
}

// element returns the element of a list with that name.
func element(list any, name string) map[string]any {
	elements, _ := list.([]any)
	for _, e := range elements {
		if members, ok := e.(map[string]any); ok && members["name"] == name {
			return members
		}
	}
	return nil
}

// manager returns the manager that owns a field, by metadata.managedFields
// (https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management), "" for none.
func (s *stored) manager(path []string) string {
	for _, m := range s.Metadata.ManagedFields {
		at, ok := m.FieldsV1, true
		for i, key := range path {
			field := "f:" + key
			if i > 0 && path[i-1] == "containers" {
				name, _ := json.Marshal(key) // text can be encoded
				field = `k:{"name":` + string(name) + `}`
			}
			if at, ok = at[field].(map[string]any); !ok {
				break
			}
		}
		if ok {
			return m.Manager
		}
	}
	return ""
}

// compare fills in what stands of each default, by whose hand, what the settings ask for, where they
// come from, and when that arrives. raw is the object that was reviewed.
func (r *run) compare(w *Workload, raw []byte, kind string, decisions []patches.Decision) {
	n := r.Namespaces[w.Namespace]
	s := readStored(raw, kind, n, r.rules)
	for i := range w.Defaults {
		e := &w.Defaults[i]
		var d patches.Decision
		if i < len(decisions) {
			d = decisions[i]
		}
		e.Source = s.source(e.Default, r.rules.Flags)
		if d.Skip == patches.SkipNone {
			e.Wanted = d.Detail
		}
		switch {
		case d.Skip == patches.SkipNone && !d.Changes:
			e.Standing, e.By = d.Detail, ByEvenkeel
		case d.Standing != "" && e.Default == patches.DefaultPreStopSleep && e.Container == "":
			e.Standing, e.By = "grace period "+d.Standing+" s", ByEvenkeel
		case d.Standing != "":
			e.Standing, e.By = d.Standing, ByEvenkeel
		default:
			e.Standing, e.By = s.written(e.Default, e.Container)
			switch {
			case e.Standing == "" || e.By != "":
			case r.Offline:
				e.By = "the manifest"
			default:
				e.By = "somebody else"
			}
		}
		if d.Changes && !r.Offline {
			e.Arrives = w.arrives(kind)
		}
	}
}

// arrives says when a workload gets what it lacks, and loses what is no longer wanted.
func (w *Workload) arrives(kind string) string {
	switch {
	case w.optedOut:
		return "never, as long as the label " + policy.InjectLabel + ": " + policy.Disabled + " stands"
	case !w.OptedIn:
		return "never, as long as the namespace is not opted in"
	case w.Kind == "Pod":
		return "when the pod is created again"
	case kind == "Pod":
		return "with the pods that are created from now on"
	}
	return "with the next change of the pod template, such as kubectl rollout restart"
}

// optedOutDecisions returns what stands of evenkeel in an object that opted out, and what the
// settings would give it: the decisions over the object without the label.
func (r *run) optedOutDecisions(raw []byte, request patches.Request) []patches.Decision {
	var object map[string]any
	if kjson.UnmarshalCaseSensitivePreserveInts(raw, &object) != nil {
		return nil
	}
	template := object
	for _, key := range []string{"", "spec", "template"} {
		if key != "" {
			template, _ = template[key].(map[string]any)
		}
		metadata, _ := template["metadata"].(map[string]any)
		labels, _ := metadata["labels"].(map[string]any)
		delete(labels, policy.InjectLabel)
	}
	without, err := json.Marshal(object)
	if err != nil {
		return nil
	}
	request.Object, request.OptedOut = without, nil
	decisions := r.rules.Injector.Review(request).Decisions
	if len(decisions) > 0 && decisions[0].Skip == patches.SkipWrittenRecord {
		decisions = patches.Uninject(without).Decisions
	}
	return decisions
}

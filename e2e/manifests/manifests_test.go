package manifests

import (
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
)

func TestReadFindsTheObjectsOfAStream(t *testing.T) {
	for name, c := range map[string]struct {
		stream string
		want   []string
		fails  bool
	}{
		"documents, of which some are empty": {"# nothing\n---\nkind: A\n---\n\n---\nkind: B\n", []string{"A", "B"}, false},
		"what is no object":                  {"- a\n---\nkind: A\n---\nb: c\n", []string{"A"}, false},
		"a list": {"kind: List\nitems:\n- kind: A\n- kind: B\n---\nkind: C\n",
			[]string{"A", "B", "C"}, false},
		"JSON":            {`{"kind":"A"} {"kind":"B"}`, []string{"A", "B"}, false},
		"what can't be":   {"kind: A\n---\nkind: 'B\n", []string{"A"}, true},
		"nothing at all":  {"", nil, false},
		"words of a text": {"kind: A\ndata:\n  a: |\n    b\n    --- c\n", []string{"A"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			objects, err := Read([]byte(c.stream))
			var kinds []string
			for _, o := range objects {
				kinds = append(kinds, o.GetKind())
			}
			if !slices.Equal(kinds, c.want) || (err != nil) != c.fails {
				t.Errorf("objects %q, error %v", kinds, err)
			}
		})
	}
}

func TestWhatIsReadCanBeTypedAndWritten(t *testing.T) {
	const text = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  replicas: 2\n"
	objects, err := Read([]byte(text))
	if err != nil || len(objects) != 1 {
		t.Fatalf("%d objects, error %v", len(objects), err)
	}
	if d, err := As[appsv1.Deployment](objects[0]); err != nil || d.Name != "web" || *d.Spec.Replicas != 2 {
		t.Errorf("%+v, error %v", d, err)
	}
	if written, err := Write(objects...); err != nil || written != text {
		t.Errorf("written %q, error %v", written, err)
	}
	objects[0].Object["spec"].(map[string]any)["unknown"] = true
	if _, err := As[appsv1.Deployment](objects[0]); err == nil {
		t.Error("an unknown field is passed over")
	}
}

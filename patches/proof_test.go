package patches

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
)

// asks makes a pod of the containers ask for hooks wherever they can go.
func asks(containers string) string {
	return `{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"app":"web"},` +
		`"annotations":{"evenkeel.dev/pre-stop-sleep":"5s"}},"spec":{"containers":` + containers + `}}`
}

// TestAShapeStandsForItsKindOnly reviews objects after others that are nearly of the same shape: what was proven for
// those must not be taken for proven here. Each answer is applied in full.
func TestAShapeStandsForItsKindOnly(t *testing.T) {
	deep := func(n int) string {
		return asks(`[{"name":"a","env":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}]`)
	}
	same := []string{
		asks(`[{"name":"a"},{"name":"b"}]`), asks(`[{"name":"a"},null]`), asks(`[null,null]`),
		asks(`[{"name":"a"}]`), asks(`[null]`),
		asks(`[{"name":"a","lifecycle":{}}]`), asks(`[{"name":"a","lifecycle":null}]`),
		strings.Replace(asks(`[{"name":"a"}]`), `"spec":{`, `"spec":{"affinity":{},`, 1),
		strings.Replace(asks(`[{"name":"a"}]`), `"spec":{`, `"spec":{"affinity":null,`, 1),
		strings.Replace(asks(`[{"name":"a"}]`), `"spec":{`, `"spec":{"terminationGracePeriodSeconds":30,`, 1),
		`{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"a",` +
			`"ports":[{"containerPort":80}]}]}}`,
		`{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"app":"web"},"annotations":null},` +
			`"spec":{"containers":[{"name":"a","ports":[{"containerPort":80}]}]}}`,
		`{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"app":"web"},"annotations":{}},` +
			`"spec":{"containers":[{"name":"a","ports":[{"containerPort":80}]}]}}`,
		`{"apiVersion":"v1","kind":"Pod","metadata":null,"spec":{"containers":[{"name":"a",` +
			`"ports":[{"containerPort":80}]}]}}`,
		deep(10), deep(2000), deep(9990), deep(9996),
	}
	injector, err := New(DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		for i := range same {
			object := same[i]
			if round == 1 { // in the opposite order
				object = same[len(same)-1-i]
			}
			fresh, err := New(DefaultConfig())
			if err != nil {
				t.Fatal(err)
			}
			req := Request{Operation: Create, Object: []byte(object), Cluster: clusters[0]}
			result := injector.Review(req)
			if got, want := describeResult(result), describeResult(fresh.Review(req)); got != want {
				t.Errorf("%.300s: after the others\n%s\nbut alone\n%s", object, got, want)
			}
			if len(result.Operations) > 0 {
				if _, err := apply(result.Patch, req.Object); err != nil {
					t.Errorf("%.300s: %v", object, err)
				}
			}
		}
	}
}

// TestShapesAreForgotten bounds the memory that made-up shapes can take.
func TestShapesAreForgotten(t *testing.T) {
	injector, err := New(DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	review := func(containers int) {
		var list strings.Builder
		for i := range containers {
			fmt.Fprintf(&list, `{"name":"a%d"},`, i)
		}
		object := asks(`[` + list.String() + `{"name":"a"}]`)
		if r := injector.Review(Request{Operation: Create, Object: []byte(object), Cluster: clusters[0]}); r.Err != nil ||
			len(r.Operations) == 0 {
			t.Fatalf("%d containers: %d operations, %v", containers, len(r.Operations), r.Err)
		}
	}
	review(maxContainers - 1)
	if n := len(injector.proof.shapes); n != 1 {
		t.Errorf("%d shapes are remembered, want one, however long", n)
	}
	for i := len(injector.proof.shapes); i < maxShapes; i++ {
		injector.proof.shapes[sha256.Sum256([]byte(fmt.Sprint(i)))] = true
	}
	for i := range 20 {
		review(i)
		if n := len(injector.proof.shapes); n > maxShapes {
			t.Fatalf("%d shapes are remembered", n)
		}
	}
}

// TestWhatIsDeepIsAppliedInFull holds that a shape is enough for shallow objects alone.
func TestWhatIsDeepIsAppliedInFull(t *testing.T) {
	injector, err := New(DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	for _, depth := range []int{shallow - 100, shallow + 100} {
		object := asks(`[{"name":"a","env":` + strings.Repeat("[", depth) + strings.Repeat("]", depth) + `}]`)
		injector.proof.shapes = nil
		r := injector.Review(Request{Operation: Create, Object: []byte(object), Cluster: clusters[0]})
		if len(r.Operations) == 0 {
			t.Fatalf("nesting of %d: nothing is added: %v", depth, r.Err)
		}
		if remembered := len(injector.proof.shapes) == 1; remembered != (depth < 1000) {
			t.Errorf("nesting of %d: the shape is remembered: %v", depth, remembered)
		}
	}
}

// TestAShapeSaysWhetherWhatIsTakenBackIsThere takes back what is ours of objects that lost some of
// it: a removal proven for one must not be taken for proven for another.
func TestAShapeSaysWhetherWhatIsTakenBackIsThere(t *testing.T) {
	on, err := New(DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	plain := toJSON(t, fromYAML(t, plainDeployment))
	whole, err := apply(on.Review(Request{Operation: Create, Object: plain, Cluster: clusters[0]}).Patch, plain)
	if err != nil {
		t.Fatal(err)
	}
	const container = "/spec/template/spec/containers/0"
	objects := [][]byte{whole}
	for _, lost := range []string{
		`{"op":"remove","path":"` + container + `/lifecycle"}`,
		`{"op":"remove","path":"` + container + `/lifecycle/preStop"}`,
		`{"op":"remove","path":"` + container + `/readinessProbe"}`,
		`{"op":"add","path":"` + container + `/readinessProbe/httpGet","value":{"port":1}}`,
		`{"op":"add","path":"` + container + `/lifecycle/preStop/exec","value":{"command":["true"]}}`,
		`{"op":"remove","path":"/spec/template/spec/affinity"}`,
		`{"op":"remove","path":"/spec/template/spec/affinity/podAntiAffinity"}`,
		`{"op":"add","path":"/spec/template/spec/affinity/nodeAffinity","value":{}}`,
		`{"op":"remove","path":"/spec/template/spec/terminationGracePeriodSeconds"}`,
		`{"op":"remove","path":"/spec/template/metadata/labels/evenkeel.dev~1defaulted"}`,
	} {
		object, err := apply([]byte("["+lost+"]"), whole)
		if err != nil {
			t.Fatal(err)
		}
		objects = append(objects, object)
	}
	off, err := newOff()
	if err != nil {
		t.Fatal(err)
	}
	for i := range objects {
		for j := range objects {
			for _, object := range [][]byte{objects[i], objects[j]} {
				r := off.Review(Request{Operation: Create, Object: object, Cluster: clusters[0]})
				if _, err := apply(r.Patch, object); err != nil || len(r.Operations) == 0 {
					t.Errorf("%d after %d: %d operations, %v", j, i, len(r.Operations), err)
				}
			}
		}
	}
	if n := len(off.proof.shapes); n < 8 {
		t.Errorf("%d shapes are told apart, want at least 8", n)
	}
}

package patches

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gomodules.xyz/jsonpatch/v2"
	applier "gopkg.in/evanphx/json-patch.v4"
	"sigs.k8s.io/yaml"

	"github.com/evenkeel/evenkeel/internal/scan"
	"github.com/evenkeel/evenkeel/policy"
)

// checkLaws reviews one request and returns every law that the answer breaks.
func checkLaws(injector *Injector, req Request) error {
	before := sha256.Sum256(slices.Concat(req.Object, []byte{0}, req.Old))
	result := injector.Review(req)
	if after := sha256.Sum256(slices.Concat(req.Object, []byte{0}, req.Old)); after != before {
		return errors.New("the input was changed")
	}
	if again := injector.Review(req); !reflect.DeepEqual(again, result) {
		return fmt.Errorf("a second review of the same object answers\n%s\nrather than\n%s", describeResult(again), describeResult(result))
	}
	if read := reviewRead(injector, req); read != nil && !reflect.DeepEqual(*read, result) {
		return fmt.Errorf("read out of a larger document it gets\n%s\nrather than\n%s", describeResult(*read), describeResult(result))
	}
	if err := checkAnswer(result); err != nil {
		return err
	}
	if len(result.Operations) == 0 {
		return nil
	}
	patched, err := apply(result.Patch, req.Object)
	if err != nil {
		return err
	}
	kept, err := withoutRemoved(req, result.Operations)
	if err != nil {
		return fmt.Errorf("%w; the patch is %s", err, result.Patch)
	}
	if err := onlyAdds(kept, patched); err != nil {
		return fmt.Errorf("%w; the patch is %s", err, result.Patch)
	}
	if err := checkGrace(result, req.Object, patched); err != nil {
		return fmt.Errorf("%w; the patch is %s", err, result.Patch)
	}
	second := req
	second.Object = patched
	if r := injector.Review(second); string(r.Patch) != "[]" {
		return fmt.Errorf("reinvocation adds %s after %s", r.Patch, result.Patch)
	}
	return nil
}

// reviewRead reviews a request as the webhook does, which reads the objects while it reads the review, or returns nil
// where they are not JSON: then there is no review.
func reviewRead(injector *Injector, req Request) *Result {
	read := func(raw []byte) (*Reading, bool) {
		s, err := scan.New(raw)
		if err != nil || len(raw) == 0 {
			return nil, len(raw) == 0
		}
		r, err := Read(&s)
		return r, err == nil && s.End() == nil
	}
	object, ok1 := read(req.Object)
	old, ok2 := read(req.Old)
	if !ok1 || !ok2 {
		return nil
	}
	req.Object, req.Old, req.ObjectRead, req.OldRead = nil, nil, object, old
	result := injector.Review(req)
	return &result
}

// checkAnswer checks what holds for a result whatever it was for.
func checkAnswer(r Result) error {
	if r.Err != nil {
		for _, d := range r.Decisions {
			if d.Skip == SkipInternalError {
				return fmt.Errorf("internal error: %w", r.Err)
			}
		}
	}
	known := map[string]bool{}
	for _, d := range r.Decisions {
		known[d.Default] = true
		if d.Skip != SkipNone && d.Skip.Reason().Text == "" {
			return fmt.Errorf("skip code %q is in no table", d.Skip)
		}
	}
	for _, name := range defaults {
		if !known[name] && !(name != DefaultAntiAffinity && len(r.Decisions) > 0) { // a pod without containers has none of theirs
			return fmt.Errorf("no decision says what became of %s", name)
		}
	}
	for _, p := range r.Problems {
		if text := p.String(); len(text) > 256 || strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			return fmt.Errorf("problem is %d bytes long or holds control characters: %q", len(text), text)
		}
	}
	if len(r.Operations) == 0 {
		if string(r.Patch) != "[]" {
			return fmt.Errorf("patch is %q where nothing is to be done", r.Patch)
		}
		return nil
	}
	var written []map[string]json.RawMessage
	if err := json.Unmarshal(r.Patch, &written); err != nil || len(written) != len(r.Operations) {
		return fmt.Errorf("patch %q is not its %d operations: %w", r.Patch, len(r.Operations), err)
	}
	replaced := 0
	for i, op := range r.Operations {
		switch {
		case op.Operation == "add", op.Operation == "remove" && op.Value == nil: // withoutRemoved
		case op.Operation == "replace" && strings.HasSuffix(op.Path, "/spec/terminationGracePeriodSeconds"):
			replaced++
		default:
			return fmt.Errorf("operation %s %s does more than add", op.Operation, op.Path)
		}
		if string(written[i]["op"]) != strconv.Quote(op.Operation) || string(written[i]["path"]) != strconv.Quote(op.Path) {
			return fmt.Errorf("operation %d is written as %s %s", i, written[i]["op"], written[i]["path"])
		}
		for j, other := range r.Operations {
			if i != j && (op.Path == other.Path || strings.HasPrefix(other.Path, op.Path+"/")) {
				return fmt.Errorf("operation path %s is a prefix of %s", op.Path, other.Path)
			}
		}
	}
	if replaced > 1 {
		return fmt.Errorf("%d values are replaced", replaced)
	}
	return nil
}

// apply applies a patch as the API server does.
func apply(patch, object []byte) ([]byte, error) {
	decoded, err := applier.DecodePatch(patch)
	if err != nil {
		return nil, fmt.Errorf("read patch: %w", err)
	}
	patched, err := decoded.Apply(object)
	if err != nil {
		return nil, fmt.Errorf("apply patch %s: %w", patch, err)
	}
	return patched, nil
}

// onlyAdds returns an error when something of before is not the same in after,
// but for the termination grace period and our own record.
func onlyAdds(before, after []byte) error {
	var x, y any
	for raw, into := range map[*[]byte]*any{&before: &x, &after: &y} {
		d := json.NewDecoder(bytes.NewReader(*raw))
		d.UseNumber()
		if err := d.Decode(into); err != nil {
			return err
		}
	}
	return subset(x, y, "")
}

// withoutRemoved returns the object without what is removed from it, which is nothing but a handler that stood in the same
// place before the update, alone and under our record, and stands beside another one now.
func withoutRemoved(req Request, operations []Change) ([]byte, error) {
	kept := req.Object
	for _, op := range operations {
		if op.Operation != "remove" {
			continue
		}
		var all [2]map[string]any // the probe or hook, after and before
		for i, raw := range [...][]byte{req.Object, req.Old} {
			o, err := parse(raw)
			if err != nil {
				return nil, err
			}
			place, ok := strings.CutPrefix(op.Path, o.pod.path+"/spec/containers/")
			number, place, _ := strings.Cut(place, "/")
			index, err := strconv.Atoi(number)
			if !ok || err != nil || index >= len(o.pod.containers) {
				return nil, fmt.Errorf("%s is removed, which is in no container", op.Path)
			}
			if i == 1 {
				after, err := parse(req.Object)
				if err != nil {
					return nil, err
				}
				index = slices.IndexFunc(o.pod.containers, func(c container) bool { return c.name == after.pod.containers[index].name })
			}
			if index < 0 {
				return nil, fmt.Errorf("%s is removed from a container that is new", op.Path)
			}
			c, name := &o.pod.containers[index], DefaultReadinessProbe
			value := c.readinessProbe
			if strings.HasPrefix(place, "lifecycle/preStop/") {
				value, name = c.preStop, DefaultPreStopSleep
			} else if !strings.HasPrefix(place, "readinessProbe/") {
				return nil, fmt.Errorf("%s is removed, which is no handler", op.Path)
			}
			if !recorded(&o.pod, name) {
				return nil, fmt.Errorf("%s is removed, which no record says is ours", op.Path)
			}
			if all[i], err = decode(value); err != nil {
				return nil, err
			}
		}
		kind := op.Path[strings.LastIndex(op.Path, "/")+1:]
		if len(handlersOf(all[0])) != 2 || len(handlersOf(all[1])) != 1 || all[0][kind] == nil || !reflect.DeepEqual(all[0][kind], all[1][kind]) {
			return nil, fmt.Errorf("%s is removed from %v, where %v stood", op.Path, all[0], all[1])
		}
		raw, err := json.Marshal([]Change{op})
		if err != nil {
			return nil, err
		}
		if kept, err = apply(raw, kept); err != nil {
			return nil, err
		}
	}
	return kept, nil
}

// subset returns an error when x is not contained in y: members with null may be
// replaced, since the API takes them for absent.
func subset(x, y any, path string) error {
	switch x := x.(type) {
	case map[string]any:
		y, ok := y.(map[string]any)
		if !ok {
			return fmt.Errorf("%s is no object any more", path)
		}
		for key, value := range x {
			at := path + "/" + escape(key)
			other, ok := y[key]
			switch {
			case value == nil && ok,
				strings.HasSuffix(at, "/spec/terminationGracePeriodSeconds"): // checkGrace
				continue
			case !ok:
				return fmt.Errorf("%s is gone", at)
			case key == policy.InjectedAnnotation:
				if text, _ := value.(string); !reflect.DeepEqual(value, other) {
					if _, ours := readRecord(text); !ours {
						return fmt.Errorf("%s is changed from %q to %q, though it is no record of ours", at, value, other)
					}
				}
				continue
			}
			if err := subset(value, other, at); err != nil {
				return err
			}
		}
		return nil
	case []any:
		y, ok := y.([]any)
		if !ok || len(x) != len(y) {
			return fmt.Errorf("%s is no array of %d elements any more", path, len(x))
		}
		for i := range x {
			if err := subset(x[i], y[i], fmt.Sprintf("%s/%d", path, i)); err != nil {
				return err
			}
		}
		return nil
	}
	if !reflect.DeepEqual(x, y) {
		return fmt.Errorf("%s is changed from %v to %v", path, x, y)
	}
	return nil
}

// checkGrace checks that the grace period is raised by exactly a sleep that is in
// the patched object, or not at all, and that no native sleep of ours is longer
// than it.
func checkGrace(r Result, before, after []byte) error {
	x, err1 := parse(before)
	y, err2 := parse(after)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	old, raised := x.pod.graceSeconds(), y.pod.graceSeconds()
	slept := map[int64]bool{}
	for i := range y.pod.containers {
		sleep := sleepOf(y.pod.containers[i].preStop)
		slept[sleep] = true
		if ours := x.pod.containers[i].preStop == nil; ours && sleep > 0 && sleep > raised {
			return fmt.Errorf("a sleep of %d s is longer than the grace period of %d s", sleep, raised)
		}
	}
	switch difference := raised - old; {
	case difference == 0:
	case difference < 0:
		return fmt.Errorf("grace period is lowered from %d to %d s", old, raised)
	case !slept[difference] && !slept[difference-1] && !slept[raised]: // a second more: unmistakable
		return fmt.Errorf("grace period is raised from %d to %d s, which is no sleep", old, raised)
	}
	return nil
}

// worlds are the clusters and settings that every law is checked in.
func worlds(t testing.TB) map[string]*Injector {
	t.Helper()
	injectors := map[string]*Injector{}
	for name, flags := range map[string]map[string]string{
		"built in":       {},
		"required":       {policy.SettingAntiAffinity: "required", policy.SettingPreStopSleep: "60s"},
		"explicit probe": {policy.SettingReadinessProbe: "http:http/ready", policy.SettingTopologyKeys: "rack"},
		"all off":        {policy.SettingAntiAffinity: "off", policy.SettingPreStopSleep: "off", policy.SettingReadinessProbe: "off"},
	} {
		config := DefaultConfig()
		config.AllowExecSleep = name != "built in"
		for flag, value := range flags {
			if err := config.Base.Set(flag, value, config.Bounds); err != nil {
				t.Fatal(err)
			}
		}
		injector, err := New(config)
		if err != nil {
			t.Fatal(err)
		}
		injectors[name] = injector
	}
	return injectors
}

// clusters are the kinds of clusters that make a difference.
var clusters = [...]Cluster{
	{APIServer: Version{1, 36}, OldestKubelet: Version{1, 36}},
	{APIServer: Version{1, 33}},
	{APIServer: Version{1, 29}, OldestKubelet: Version{1, 28}},
	{},
}

// variants are objects that mean the same as req, or the same with more in it,
// with a name each. Those that mean the same get the same answer.
func variants(req Request) map[string]Request {
	all := map[string]Request{}
	for name, change := range map[string]func(map[string]any){
		"planted":   func(o map[string]any) { plant(o) },
		"defaulted": addAPIDefaults,
	} {
		changed := req
		var err1, err2 error
		changed.Object, err1 = rewrite(req.Object, change)
		if len(req.Old) > 0 {
			changed.Old, err2 = rewrite(req.Old, change)
		}
		if err1 == nil && err2 == nil {
			all[name] = changed
		}
	}
	last := req
	var err1, err2 error
	last.Object, err1 = kindLast(req.Object)
	if len(req.Old) > 0 {
		last.Old, err2 = kindLast(req.Old)
	}
	if err1 == nil && err2 == nil {
		all["kind last"] = last
	}
	return all
}

// rewrite changes a document.
func rewrite(raw []byte, change func(map[string]any)) ([]byte, error) {
	if _, err := parse(raw); err != nil { // decoding it would repair it
		return nil, err
	}
	value, err := decode(raw)
	if err != nil {
		return nil, err
	}
	change(value)
	return json.Marshal(value)
}

// kindLast writes the members of a document in the order opposite to the usual.
func kindLast(raw []byte) ([]byte, error) {
	if _, err := parse(raw); err != nil {
		return nil, err
	}
	members := map[string]json.RawMessage{}
	if err := json.Unmarshal(raw, &members); err != nil {
		return nil, err
	}
	out := []byte{'{'}
	for i, key := range slices.Backward(slices.Sorted(maps.Keys(members))) {
		name, err := json.Marshal(key)
		if err != nil {
			return nil, err
		}
		out = append(append(append(out, name...), ':'), members[key]...)
		if i > 0 {
			out = append(out, ',')
		}
	}
	return append(out, '}'), nil
}

// plant adds a member that no type knows to every object at any depth, but not to
// maps of strings.
func plant(value any) {
	switch value := value.(type) {
	case []any:
		for _, element := range value {
			plant(element)
		}
	case map[string]any:
		for key, member := range value {
			switch key {
			case "labels", "annotations", "matchLabels", "nodeSelector":
			case "selector": // an empty one must stay empty
				inner, _ := member.(map[string]any)
				labels, _ := inner["matchLabels"].(map[string]any)
				if len(labels) > 0 {
					plant(member)
				}
			default:
				plant(member)
			}
		}
		value["plantedByTest"] = map[string]any{"deep": []any{json.Number("1.50"), "~/", nil, map[string]any{"": true}}}
	}
}

// addAPIDefaults writes out what the API server defaults before admission
// (k8s.io/kubernetes/pkg/apis/core/v1/defaults.go), as far as we look near it.
func addAPIDefaults(object map[string]any) {
	setDefault := func(o map[string]any, key string, value any) {
		if o[key] == nil {
			o[key] = value
		}
	}
	object["status"] = map[string]any{}
	template := object
	if object["kind"] != "Pod" {
		spec, _ := object["spec"].(map[string]any)
		template, _ = spec["template"].(map[string]any)
	}
	pod, ok := template["spec"].(map[string]any)
	if !ok {
		return
	}
	setDefault(pod, "terminationGracePeriodSeconds", json.Number("30"))
	setDefault(pod, "restartPolicy", "Always")
	setDefault(pod, "dnsPolicy", "ClusterFirst")
	setDefault(pod, "schedulerName", "default-scheduler")
	setDefault(pod, "securityContext", map[string]any{})
	containers, _ := pod["containers"].([]any)
	for _, element := range containers {
		c, ok := element.(map[string]any)
		if !ok {
			continue
		}
		setDefault(c, "imagePullPolicy", "IfNotPresent")
		setDefault(c, "resources", map[string]any{})
		setDefault(c, "terminationMessagePath", "/dev/termination-log")
		ports, _ := c["ports"].([]any)
		for _, element := range ports {
			if p, ok := element.(map[string]any); ok {
				setDefault(p, "protocol", "TCP")
			}
		}
		for _, name := range []string{"livenessProbe", "readinessProbe", "startupProbe"} {
			if probe, ok := c[name].(map[string]any); ok {
				for key, value := range map[string]json.Number{"timeoutSeconds": "1", "periodSeconds": "10", "successThreshold": "1", "failureThreshold": "3"} {
					setDefault(probe, key, value)
				}
			}
		}
	}
}

// checkAllLaws checks the laws of a request in every world, and of its variants.
func checkAllLaws(t *testing.T, injectors map[string]*Injector, req Request) {
	t.Helper()
	same := variants(req)
	for world, injector := range injectors {
		for _, cluster := range clusters {
			req.Cluster = cluster
			if err := checkLaws(injector, req); err != nil {
				t.Fatalf("%s, %+v: %v", world, cluster, err)
			}
			want := outline(injector.Review(req))
			for name, variant := range same {
				if !cluster.OldestKubelet.AtLeast(28) {
					continue // those without a known kubelet differ in nothing that matters here
				}
				variant.Cluster = cluster
				if err := checkLaws(injector, variant); err != nil {
					t.Fatalf("%s, %s, %+v: %v", name, world, cluster, err)
				}
				if name == "planted" && len(req.Old) > 0 {
					continue // what is planted beside our additions is missing in what replaces them
				}
				if got := outline(injector.Review(variant)); got != want {
					t.Fatalf("%s, %s, %+v: got\n%s\nwant\n%s", name, world, cluster, got, want)
				}
			}
		}
	}
}

// outline is what must not differ between objects that mean the same.
func outline(r Result) string {
	var b strings.Builder
	for _, op := range r.Operations {
		fmt.Fprintln(&b, op.Path)
	}
	for _, d := range r.Decisions {
		fmt.Fprintln(&b, d.Default, d.Container, d.Skip)
	}
	fmt.Fprintln(&b, r.Problems)
	return b.String()
}

func TestLawsHoldForEveryCase(t *testing.T) {
	for _, c := range readCases(t, "") {
		t.Run(c.sentence, func(t *testing.T) {
			if err := checkLaws(c.injector, c.request); err != nil {
				t.Error(err)
			}
			checkAllLaws(t, worlds(t), c.request)
			other := c.request
			other.Offline = !other.Offline
			if !reflect.DeepEqual(c.injector.Review(other), c.injector.Review(c.request)) {
				checkAllLaws(t, worlds(t), other)
			}
		})
	}
}

// TestADiffFindsOnlyAdditions has another library work out what a patch has done, the one that other webhooks make their patches
// with: additions, the raised grace period, and what was null or our own record.
func TestADiffFindsOnlyAdditions(t *testing.T) {
	for _, c := range readCases(t, "") {
		t.Run(c.sentence, func(t *testing.T) {
			r := c.injector.Review(c.request)
			if len(r.Operations) == 0 {
				return
			}
			patched, err := apply(r.Patch, c.request.Object)
			if err != nil {
				t.Fatal(err)
			}
			found, err := jsonpatch.CreatePatch(c.request.Object, patched)
			if err != nil {
				t.Fatal(err)
			}
			if len(found) == 0 {
				t.Errorf("no difference, after %s", r.Patch)
			}
			for _, op := range found {
				replaceable := strings.HasSuffix(op.Path, "/terminationGracePeriodSeconds") || strings.HasSuffix(op.Path, "/"+escape(policy.InjectedAnnotation)) ||
					wasNull(t, c.request.Object, op.Path)
				if op.Operation == "remove" && slices.ContainsFunc(r.Operations, func(o Change) bool { return o.Operation == "remove" && o.Path == op.Path }) {
					continue
				}
				if op.Operation != "add" && (op.Operation != "replace" || !replaceable) {
					t.Errorf("the patch does %s %s: %s", op.Operation, op.Path, r.Patch)
				}
			}
		})
	}
}

// wasNull reports whether null stands at a path.
func wasNull(t *testing.T, object []byte, path string) bool {
	t.Helper()
	test, err := json.Marshal([]map[string]any{{"op": "test", "path": path, "value": nil}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = apply(test, object)
	return err == nil
}

func TestLawsHoldForEveryWorkloadOfTheCorpus(t *testing.T) {
	documents := corpus(t)
	counts := map[string]int{}
	for name, raw := range documents {
		var head struct{ Kind string }
		if err := json.Unmarshal(raw, &head); err != nil {
			t.Fatal(err)
		}
		counts[head.Kind]++
		t.Run(name, func(t *testing.T) {
			checkAllLaws(t, worlds(t), Request{Operation: Create, Object: raw, Offline: true})
		})
	}
	t.Logf("documents of the corpus: %v", counts)
}

// corpus reads the manifests below the directory $CORPUS, or ../shared/corpus
// beside the repository, as JSON documents by file, kind and name.
func corpus(t *testing.T) map[string][]byte {
	directory := os.Getenv("CORPUS")
	if directory == "" {
		directory = filepath.Join("..", "..", "shared", "corpus")
		if _, err := os.Stat(directory); errors.Is(err, fs.ErrNotExist) {
			t.Logf("NO CORPUS: the laws are checked on the cases of testdata alone; CORPUS=DIRECTORY names manifests of your own")
			return nil
		}
	}
	documents := map[string][]byte{}
	err := filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)) {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for i, part := range strings.Split("\n"+string(text), "\n---") {
			raw, err := yaml.YAMLToJSON([]byte(part))
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			o, err := parse(raw)
			if err != nil {
				continue // comments alone
			}
			documents[fmt.Sprintf("%s %d %s %s", entry.Name(), i, o.kind, o.meta.name)] = raw
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(documents) == 0 {
		t.Fatalf("no manifests in %s", directory)
	}
	return documents
}

// TestTheLawsHaveTeeth breaks each law with a generator that does what it forbids.
func TestTheLawsHaveTeeth(t *testing.T) {
	object := []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","labels":{"app":"web"}},"spec":{"terminationGracePeriodSeconds":30,"newer":{"a":[1]},"containers":[{"name":"web","image":"nginx"}]}}`)
	runs := 0
	for name, broken := range map[string]generator{
		"changes a value":            func(_ *input, o *output) { o.add("/spec/containers/0/image", "other") },
		"changes what no type knows": func(_ *input, o *output) { o.add("/spec/newer", map[string]any{"a": []int{2}}) },
		"drops what no type knows":   func(_ *input, o *output) { o.add("/spec/newer", map[string]any{}) },
		"removes":                    func(_ *input, o *output) { o.remove("/spec/containers/0/image") },
		"removes a hook":             func(_ *input, o *output) { o.remove("/spec/containers/0/lifecycle/preStop/sleep") },
		"replaces":                   func(_ *input, o *output) { o.replace("/spec/containers/0/image", "nginx") },
		"inserts an element":         func(_ *input, o *output) { o.add("/spec/containers/0", map[string]any{"name": "x"}) },
		"appends an element":         func(_ *input, o *output) { o.add("/spec/containers/-", map[string]any{"name": "x"}) },
		"adds a parent and a child": func(_ *input, o *output) {
			o.add("/spec/x", map[string]any{})
			o.add("/spec/x/y", 1)
		},
		"adds twice":                       func(_ *input, o *output) { o.add("/spec/x", 1); o.add("/spec/x", 1) },
		"adds where nothing is":            func(_ *input, o *output) { o.add("/spec/x/y", 1) },
		"raises by something else":         func(in *input, o *output) { setGrace(in.pod(), o, in.pod().graceSeconds()+1) },
		"lowers the grace period":          func(in *input, o *output) { setGrace(in.pod(), o, 29) },
		"adds again on every run":          func(_ *input, o *output) { o.add("/spec/x", 1) },
		"answers each time in another way": func(_ *input, o *output) { runs++; o.add("/spec/x", runs) },
		"writes into the input": func(in *input, _ *output) {
			if i := bytes.Index(object, []byte("nginx")); i >= 0 {
				copy(object[i:], "xinng")
			}
		},
		"skips for no reason": func(_ *input, o *output) { o.skip(DefaultAntiAffinity, "", "because") },
		"panics":              func(*input, *output) { panic("on purpose") },
	} {
		t.Run(name, func(t *testing.T) {
			injector, err := New(DefaultConfig())
			if err != nil {
				t.Fatal(err)
			}
			injector.generators = []generator{broken}
			if err := checkLaws(injector, Request{Operation: Create, Object: object}); err == nil {
				t.Error("no law is broken")
			}
		})
	}
}

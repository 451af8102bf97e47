package patches

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// list returns n elements, each made of its index.
func list(n int, element func(i int) string) string {
	all := make([]string, n)
	for i := range all {
		all[i] = element(i)
	}
	return strings.Join(all, ",")
}

// TestHostileObjectsAreBoundedBeforeAnythingIsBuilt reviews objects that took tens of megabytes or
// seconds, and counts the bytes that a review allocates: what was built of 1,900 containers took 33
// MB.
func TestHostileObjectsAreBoundedBeforeAnythingIsBuilt(t *testing.T) {
	const pod = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"app":"web"}},` +
		`"spec":{"containers":[%s]}}`
	const deployment = `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a","uid":"u"},` +
		`"spec":{"selector":{"matchLabels":{"app":"web"}},` +
		`"template":{"metadata":{"labels":{"app":"web"}%s},"spec":{"containers":[%s]}}}}`
	sleeps := func(n, shift int) string {
		return list(n, func(i int) string {
			return fmt.Sprintf(`{"name":"a","lifecycle":{"preStop":{"sleep":{"seconds":%d}}}}`, i+shift)
		})
	}
	record := `,"annotations":{"evenkeel.dev/injected":"` +
		list(2000, func(i int) string { return fmt.Sprintf("c%d/pre-stop-sleep=sleep:%d", i, i) }) + `"}`
	one := `{"name":"a","ports":[{"containerPort":80}]}`
	for _, c := range []struct {
		name        string
		object, old string
		skip        Skip
		most        uint64 // bytes
	}{
		{"1,900 containers with a port each",
			fmt.Sprintf(pod,
				list(1900, func(i int) string { return fmt.Sprintf(`{"name":"c%d","ports":[{"containerPort":%d}]}`, i, i+1) })), "",
			SkipTooManyParts, 512 << 10},
		{"two containers more than may be",
			fmt.Sprintf(pod, list(202, func(i int) string { return fmt.Sprintf(`{"name":"c%d"}`, i) })), "",
			SkipTooManyParts, 512 << 10},
		{"an update of 2,000 containers of one name, each with another sleep",
			fmt.Sprintf(deployment, record, sleeps(2000, 1)), fmt.Sprintf(deployment, record, sleeps(2000, 2)),
			SkipTooManyParts, 512 << 10},
		{"an update from 2,000 containers of one name to one", fmt.Sprintf(deployment, "", one),
			fmt.Sprintf(deployment, record, sleeps(2000, 2)), SkipNone, 1 << 20},
		{"335,000 labels",
			fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{%s}},"spec":{"containers":[%s]}}`,
				list(335_000, func(i int) string { return fmt.Sprintf(`"evenkeel.dev/%d":""`, i) }), one), "",
			SkipTooManyParts, 512 << 10},
		{"335,000 annotations",
			fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"annotations":{%s}},"spec":{"containers":[%s]}}`,
				list(335_000, func(i int) string { return fmt.Sprintf(`"evenkeel.dev/%d":""`, i) }), one), "",
			SkipTooManyParts, 512 << 10},
		{"200 containers whose probes take 10 KiB each", fmt.Sprintf(pod, list(200, func(i int) string {
			return fmt.Sprintf(`{"name":"c%d","livenessProbe":{"exec":{"command":["%s"]}}}`, i, strings.Repeat("a", 10<<10))
		})), "", SkipPatchTooLarge, 1 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			injector, err := New(DefaultConfig())
			if err != nil {
				t.Fatal(err)
			}
			request := Request{Operation: Create, Object: []byte(c.object), Cluster: clusters[0]}
			if c.old != "" {
				request.Operation, request.Old = Update, []byte(c.old)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			result := injector.Review(request)
			runtime.ReadMemStats(&after)
			if took := after.TotalAlloc - before.TotalAlloc; took > c.most {
				t.Errorf("%d KiB are allocated for %d KiB, want %d at most", took>>10, (len(c.object)+len(c.old))>>10, c.most>>10)
			}
			if skip := result.Decisions[0].Skip; skip != c.skip || len(result.Patch) > maxPatch {
				t.Errorf("skip code %q and a patch of %d bytes, want %q", skip, len(result.Patch), c.skip)
			}
		})
	}
}

// TestAPodOfAHundredContainersGetsAllDefaults holds the bounds to leave room for what is legitimate.
func TestAPodOfAHundredContainersGetsAllDefaults(t *testing.T) {
	injector, err := New(DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int]Skip{100: SkipNone, 150: SkipNone, maxContainers: SkipPatchTooLarge,
		maxContainers + 1: SkipTooManyParts} {
		object := `{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"app":"web"}},"spec":{"containers":[` +
			list(n, func(i int) string {
				return fmt.Sprintf(`{"name":"container-%d","ports":[{"containerPort":%d}]}`, i, 8000+i)
			}) + `]}}`
		result := injector.Review(Request{Operation: Create, Object: []byte(object), Cluster: clusters[0]})
		for _, d := range result.Decisions {
			if d.Skip != want {
				t.Errorf("%d containers: %s of %q has the code %q, want %q", n, d.Default, d.Container, d.Skip, want)
			}
		}
		t.Logf("%d containers: a patch of %d bytes", n, len(result.Patch))
	}
}

// TestAReviewEndsWhenItsTimeIsOver lets the time be over at each look at the clock in turn: nothing
// is added then, and nothing of a half.
func TestAReviewEndsWhenItsTimeIsOver(t *testing.T) {
	for _, c := range readCases(t, "record") {
		for last := 0; ; last++ {
			looks := 0
			c.request.Late = func() bool { looks++; return looks > last }
			result := c.injector.Review(c.request)
			if looks <= last {
				break
			}
			if result.Decisions[0].Skip != SkipDeadline && result.Decisions[0].Skip != SkipUnchangedTemplate &&
				len(result.Operations) == 0 {
				t.Errorf("%s: after %d looks: code %q, want %q", c.path, last, result.Decisions[0].Skip, SkipDeadline)
			}
			if len(result.Operations) > 0 && !strings.HasPrefix(result.Decisions[0].Detail, "kept") {
				t.Errorf("%s: after %d looks a patch: %s", c.path, last, result.Patch)
			}
		}
	}
}

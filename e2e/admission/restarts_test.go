package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
)

// TestNeverRestarts follows 200 Deployments and 50 StatefulSets that were there before evenkeel,
// half of them with a grace period of their own, through everything that may happen to evenkeel,
// and to them but for their template.
func TestNeverRestarts(t *testing.T) {
	ctx := t.Context()
	evenkeel := ours(t)
	// It waits for the controllers some twenty times, and what they do doesn't depend on how fast they are.
	check.Must(t, shared.RestartControllerManager(cluster.FastControllers()...))
	t.Cleanup(func() { check.Must(t, shared.RestartControllerManager()) })
	check.Must(t, evenkeel.Uninstall(ctx))
	t.Cleanup(func() { // whatever happened, the other tests find evenkeel as it was
		evenkeel.Stop()
		check.Must(t, evenkeel.Start(context.Background()))
		check.Must(t, evenkeel.Register(context.Background()))
	})

	const old, since = 250, 20
	namespace := optedIn(t, nil)
	each := func(prefix string, n int, do func(name string) error) {
		t.Helper()
		var group sync.WaitGroup
		errs := make(chan error, n)
		for worker := range 8 {
			group.Go(func() {
				for i := worker; i < n; i += 8 {
					if err := do(fmt.Sprintf("%s-%d", prefix, i)); err != nil {
						errs <- err
					}
				}
			})
		}
		group.Wait()
		close(errs)
		for err := range errs {
			t.Fatal(err)
		}
	}
	deployments, sets := shared.Client.AppsV1().Deployments(namespace), shared.Client.AppsV1().StatefulSets(namespace)
	// manifest returns what the author of a workload has: one of five is a StatefulSet, and every other one says
	// its grace period.
	manifest := func(name string, replicas int32) metav1.Object {
		number, err := strconv.Atoi(name[strings.LastIndex(name, "-")+1:])
		check.Must(t, err)
		kind := "Deployment"
		if number%10 < 2 { // with an even and an odd number
			kind = "StatefulSet"
		}
		object, template := workload(kind, name, replicas)
		if number%2 == 0 {
			template.Spec.TerminationGracePeriodSeconds = ptr[int64](60)
		}
		return object
	}
	create := func(name string) error {
		var err error
		switch o := manifest(name, 1).(type) {
		case *appsv1.Deployment:
			_, err = deployments.Create(ctx, o, metav1.CreateOptions{})
		case *appsv1.StatefulSet:
			_, err = sets.Create(ctx, o, metav1.CreateOptions{})
		}
		return err
	}
	send := func(name string, how types.PatchType, body []byte, options metav1.PatchOptions) error {
		var err error
		switch manifest(name, 1).(type) {
		case *appsv1.Deployment:
			_, err = deployments.Patch(ctx, name, how, body, options)
		case *appsv1.StatefulSet:
			_, err = sets.Patch(ctx, name, how, body, options)
		}
		return err
	}
	patch := func(body string) func(string) error {
		return func(name string) error { return send(name, types.MergePatchType, []byte(body), metav1.PatchOptions{}) }
	}
	// An operator, or kubectl replace, sends the whole manifest again, without what was injected.
	replace := func(name string) error {
		var err error
		switch o := manifest(name, 2).(type) {
		case *appsv1.Deployment:
			_, err = deployments.Update(ctx, o, metav1.UpdateOptions{})
		case *appsv1.StatefulSet:
			_, err = sets.Update(ctx, o, metav1.UpdateOptions{})
		}
		return err
	}
	// apply does the same as a server-side apply does it, which merges it into what stands.
	apply := func(name string) error {
		body, err := json.Marshal(manifest(name, 2))
		if err != nil {
			return err
		}
		return send(name, types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: "author", Force: ptr(true)})
	}
	// kubectlApply does it as kubectl does, for some of the workloads: it reads and patches one after another.
	kubectlApply := func() {
		var some []metav1.Object
		for n := range since {
			some = append(some, manifest(fmt.Sprintf("old-%d", n), 2), manifest(fmt.Sprintf("new-%d", n), 2))
		}
		kubectl(t, list(some...), "apply", "-n", namespace, "-f", "-")
	}
	// revisions maps the UID of each ReplicaSet and ControllerRevision to its template's hash; one that a template change
	// made would add to it.
	revisions := func(want int) map[string]string {
		t.Helper()
		found := map[string]string{}
		check.Eventually(t, "the controllers have seen every Deployment", func() error {
			all, err := deployments.List(ctx, metav1.ListOptions{})
			check.Must(t, err)
			for _, d := range all.Items {
				if d.Status.ObservedGeneration < d.Generation {
					return fmt.Errorf("deployment %s has generation %d, observed %d", d.Name, d.Generation,
						d.Status.ObservedGeneration)
				}
			}
			allSets, err := sets.List(ctx, metav1.ListOptions{})
			check.Must(t, err)
			for _, s := range allSets.Items {
				if s.Status.ObservedGeneration < s.Generation {
					return fmt.Errorf("stateful set %s has generation %d, observed %d", s.Name, s.Generation,
						s.Status.ObservedGeneration)
				}
			}
			replicaSets, err := shared.Client.AppsV1().ReplicaSets(namespace).List(ctx, metav1.ListOptions{})
			check.Must(t, err)
			controllerRevisions, err := shared.Client.AppsV1().ControllerRevisions(namespace).List(ctx, metav1.ListOptions{})
			check.Must(t, err)
			found = map[string]string{}
			for _, s := range replicaSets.Items {
				found[string(s.UID)] = s.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
			}
			for _, r := range controllerRevisions.Items {
				found[string(r.UID)] = r.Labels[appsv1.ControllerRevisionHashLabelKey]
			}
			if len(found) < want {
				return fmt.Errorf("%d revisions, want %d", len(found), want)
			}
			return nil
		})
		return found
	}

	each("old", old, create)
	before := revisions(old)
	unmoved := func(after string) {
		t.Helper()
		now := revisions(len(before))
		if !maps.Equal(before, now) {
			t.Fatalf("after %s there are other revisions than before:\n%s", after, cmp.Diff(before, now))
		}
	}

	check.Must(t, evenkeel.Start(ctx))
	check.Must(t, evenkeel.Register(ctx))
	unmoved("installing evenkeel")
	each("new", since, create) // these are injected
	before = revisions(old + since)
	everyone := func(do func(string) error) { each("old", old, do); each("new", since, do) }
	everyone(patch(`{"spec":{"replicas":2}}`))
	unmoved("scaling")
	everyone(patch(`{"metadata":{"annotations":{"evenkeel.dev/pre-stop-sleep":"3s","example.com/a":"b"}}}`))
	unmoved("annotating")
	everyone(patch(`{"metadata":{"labels":{"example.com/a":"b"}}}`))
	unmoved("labelling")
	everyone(patch(`{"metadata":{"annotations":{"evenkeel.dev/pre-stop-sleep":null}}}`))

	for _, settings := range []struct{ flags, workload, namespace []string }{
		{[]string{"--pre-stop-sleep=20s", "--topology-keys=topology.kubernetes.io/zone", "--readiness-probe=off"}, nil,
			[]string{"evenkeel.dev/pre-stop-sleep=3s", "evenkeel.dev/grace-period=raise"}},
		{[]string{"--anti-affinity=off"},
			[]string{"evenkeel.dev/anti-affinity=required", "evenkeel.dev/grace-period=raise"}, nil},
		{[]string{"--grace-period=raise"}, []string{"evenkeel.dev/readiness-probe=off"},
			[]string{"evenkeel.dev/pre-stop-sleep=off"}},
	} {
		evenkeel.Stop()
		check.Must(t, evenkeel.Start(ctx, settings.flags...))
		unmoved("changing flags")
		if settings.namespace != nil {
			kubectl(t, nil, append([]string{"annotate", "--overwrite", "namespace", namespace}, settings.namespace...)...)
			unmoved("changing settings of the Namespace")
		}
		if settings.workload != nil {
			kubectl(t, nil, append([]string{"annotate", "--overwrite", "deployments,statefulsets", "--all", "-n", namespace},
				settings.workload...)...)
			unmoved("changing settings of the workloads")
		}
		everyone(patch(`{"spec":{"replicas":1}}`))
		everyone(patch(`{"spec":{"replicas":2}}`))
		unmoved("scaling under changed flags")
		everyone(replace)
		unmoved("sending the whole manifest again under changed flags")
		everyone(apply)
		unmoved("applying the manifest again under changed flags")
		kubectlApply()
		unmoved("kubectl apply under changed flags")
	}
	check.Must(t, evenkeel.Uninstall(ctx))
	everyone(patch(`{"spec":{"replicas":1}}`))
	unmoved("uninstalling")

	// The control: a change of the template is seen, and it is the moment at which an old Deployment gets its defaults.
	kubectl(t, nil, "annotate", "namespace", namespace, "evenkeel.dev/pre-stop-sleep-")
	check.Must(t, evenkeel.Start(ctx))
	check.Must(t, evenkeel.Register(ctx))
	for kind, name := range map[string]string{"Deployment": "old-2", "StatefulSet": "old-0"} {
		before := revisions(1)
		check.Must(t, patch(`{"spec":{"template":{"metadata":{"annotations":{"restarted":"now"}}}}}`)(name))
		now := revisions(len(before) + 1)
		if added := len(now) - len(before); added != 1 {
			t.Errorf("%d new revisions after one template change of a %s, want 1", added, kind)
		}
		_, template := stored(t, namespace, kind, name)
		if template.Labels["evenkeel.dev/defaulted"] != "true" || template.Spec.Containers[0].Lifecycle == nil {
			t.Errorf("after its template changed the old %s still lacks its defaults", kind)
		}
	}
}

package admission

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/evenkeel/evenkeel/e2e/check"
)

// TestNeverRestarts follows 200 Deployments that were there before evenkeel through everything that may happen to
// evenkeel, and to them but for their template.
func TestNeverRestarts(t *testing.T) {
	ctx := t.Context()
	evenkeel := ours(t)
	check.Must(t, evenkeel.Uninstall(ctx))
	t.Cleanup(func() { // whatever happened, the other tests find evenkeel as it was
		evenkeel.Stop()
		check.Must(t, evenkeel.Start(context.Background()))
		check.Must(t, evenkeel.Register(context.Background()))
	})

	const old, since = 200, 20
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
	deployments := shared.Client.AppsV1().Deployments(namespace)
	create := func(name string) error {
		_, err := deployments.Create(ctx, deployment(name, 1), metav1.CreateOptions{})
		return err
	}
	patch := func(body string) func(string) error {
		return func(name string) error {
			_, err := deployments.Patch(ctx, name, types.MergePatchType, []byte(body), metav1.PatchOptions{})
			return err
		}
	}
	// revisions maps each ReplicaSet's UID to its template's hash; one that a template change made would add to it.
	revisions := func(want int) map[string]string {
		t.Helper()
		found := map[string]string{}
		check.Eventually(t, "the controllers have seen every Deployment", func() error {
			list, err := deployments.List(ctx, metav1.ListOptions{})
			check.Must(t, err)
			for _, d := range list.Items {
				if d.Status.ObservedGeneration < d.Generation {
					return fmt.Errorf("deployment %s has generation %d, observed %d", d.Name, d.Generation, d.Status.ObservedGeneration)
				}
			}
			sets, err := shared.Client.AppsV1().ReplicaSets(namespace).List(ctx, metav1.ListOptions{})
			check.Must(t, err)
			found = map[string]string{}
			for _, s := range sets.Items {
				found[string(s.UID)] = s.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
			}
			if len(found) < want {
				return fmt.Errorf("%d ReplicaSets, want %d", len(found), want)
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
			t.Fatalf("after %s there are other ReplicaSets than before:\n%s", after, cmp.Diff(before, now))
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

	for _, flags := range [][]string{
		{"--pre-stop-sleep=20s", "--topology-keys=topology.kubernetes.io/zone", "--readiness-probe=off"},
		{"--anti-affinity=off"},
	} {
		evenkeel.Stop()
		check.Must(t, evenkeel.Start(ctx, flags...))
		unmoved("changing flags")
		everyone(patch(`{"spec":{"replicas":1}}`))
		everyone(patch(`{"spec":{"replicas":2}}`))
		unmoved("scaling under changed flags")
		// An operator, or kubectl replace, sends the whole manifest again, without what was injected.
		everyone(func(name string) error {
			_, err := deployments.Update(ctx, deployment(name, 2), metav1.UpdateOptions{})
			return err
		})
		unmoved("sending the whole manifest again under changed flags")
	}
	check.Must(t, evenkeel.Uninstall(ctx))
	everyone(patch(`{"spec":{"replicas":1}}`))
	unmoved("uninstalling")

	// The control: a change of the template is seen, and it is the moment at which an old Deployment gets its defaults.
	check.Must(t, evenkeel.Start(ctx))
	check.Must(t, evenkeel.Register(ctx))
	check.Must(t, patch(`{"spec":{"template":{"metadata":{"annotations":{"restarted":"now"}}}}}`)("old-0"))
	now := revisions(len(before) + 1)
	if added := len(now) - len(before); added != 1 {
		t.Errorf("%d new ReplicaSets after one template change, want 1", added)
	}
	d, err := deployments.Get(ctx, "old-0", metav1.GetOptions{})
	check.Must(t, err)
	if lacks := missing(d.Spec.Template.ObjectMeta, d.Spec.Template.Spec); lacks != "" {
		t.Errorf("after its template changed the old Deployment lacks %q", lacks)
	}
}

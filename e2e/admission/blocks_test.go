package admission

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

// createBoth creates a Deployment and a Pod at the same time, since the API server may wait for each as long as for a
// webhook, and returns what it stores of them, or the error of each.
func createBoth(t *testing.T, namespace string) (d *appsv1.Deployment, p *corev1.Pod, errs [2]error) {
	t.Helper()
	var group sync.WaitGroup
	group.Go(func() {
		d, errs[0] = shared.Client.AppsV1().Deployments(namespace).Create(t.Context(), deployment("web", 0),
			metav1.CreateOptions{})
	})
	group.Go(func() {
		spec, labels := bare()
		p, errs[1] = shared.Client.CoreV1().Pods(namespace).Create(t.Context(),
			&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "alone", Labels: labels}, Spec: spec}, metav1.CreateOptions{})
	})
	group.Wait()
	return d, p, errs
}

// failures are webhooks that fail in every way there is, with the lifetimes of their certificates.
func failures() map[string]func(*testing.T) *fake {
	failures := map[string]func(*testing.T) *fake{
		"when its certificate has expired": func(t *testing.T) *fake {
			return startHandler(t, -time.Hour, http.NotFoundHandler())
		},
		"when its certificate is of another CA": func(t *testing.T) *fake {
			f := startHandler(t, 24*time.Hour, http.NotFoundHandler())
			var err error
			f.ca, err = ours(t).CA(t.Context())
			check.Must(t, err)
			return f
		},
	}
	for name, handler := range map[string]http.HandlerFunc{
		"when its answer is garbage": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "\x00garbage{")
		},
		"when its answer is empty": func(http.ResponseWriter, *http.Request) {},
		"when its answer is 500": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
		},
		"when its connection breaks": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"when its answer comes slowly": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // or the server would not notice that the caller has gone
			<-r.Context().Done()
		},
		"when its answer is redirected": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		},
	} {
		failures[name] = func(t *testing.T) *fake { return startHandler(t, 24*time.Hour, handler) }
	}
	return failures
}

// TestNeverBlocks has evenkeel, or something beside it, fail in every way there is: objects are
// created all the same, and the API server says that it did call, and went on without.
func TestNeverBlocks(t *testing.T) {
	evenkeel := ours(t)
	restore := func() {
		evenkeel.Stop()
		check.Must(t, evenkeel.Start(context.Background()))
	}
	// created wants both objects without lacks, after the webhooks whose names begin so have failed for each.
	created := func(t *testing.T, webhooks, lacks string) {
		t.Helper()
		failed := func(webhook string) float64 {
			return samples(t, "apiserver_admission_webhook_fail_open_count", `name="`+webhooks+webhook+`.evenkeel.dev"`)
		}
		namespace := optedIn(t, nil)
		workloads, pods := failed("workloads"), failed("pods")
		d, p, errs := createBoth(t, namespace)
		for _, err := range errs {
			if err != nil {
				t.Fatalf("not created: %v", err)
			}
		}
		if w, p := failed("workloads")-workloads, failed("pods")-pods; w < 1 || p < 1 {
			t.Errorf("the API server went on without %v answers for the Deployment and %v for the Pod, want at least 1 each", w,
				p)
		}
		if got := missing(d.Spec.Template.ObjectMeta, d.Spec.Template.Spec); got != lacks {
			t.Errorf("the Deployment lacks %q, want %q", got, lacks)
		}
		if got := missing(p.ObjectMeta, p.Spec); got != lacks {
			t.Errorf("the Pod lacks %q, want %q", got, lacks)
		}
	}
	t.Run("when it is down", func(t *testing.T) {
		evenkeel.Stop()
		t.Cleanup(restore)
		created(t, "", everything)
	})
	t.Run("when it hangs", func(t *testing.T) {
		check.Must(t, evenkeel.Signal(syscall.SIGSTOP))
		t.Cleanup(func() { check.Must(t, evenkeel.Signal(syscall.SIGCONT)) })
		created(t, "", everything)
	})
	for name, start := range failures() {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			f.register(t, "beside-evenkeel", func(*admissionregistrationv1.MutatingWebhookConfiguration) {})
			created(t, f.service+".", "")
		})
	}
}

// TestOnlyAReplacementTakesTheDefaultsAwayWhileAway sends the manifest of a workload again while
// evenkeel is down: what applies it keeps everything, a grace period that the manifest says itself
// included; what replaces it as a whole doesn't keep the defaults.
func TestOnlyAReplacementTakesTheDefaultsAwayWhileAway(t *testing.T) {
	evenkeel := ours(t)
	ways := map[string][]string{
		"apply":             {"apply", "-f", "-"},
		"server-side apply": {"apply", "--server-side", "-f", "-"},
		"replace":           {"replace", "-f", "-"},
	}
	type sent struct{ way, kind, namespace string }
	var all []sent
	const written = 60 // seconds, the grace period in the manifest named "own"
	manifest := func(kind, name string) metav1.Object {
		object, template := workload(kind, name, 1)
		if name == "own" {
			template.Spec.TerminationGracePeriodSeconds = ptr[int64](written)
		}
		return object
	}
	for way, args := range ways {
		for _, kind := range []string{"Deployment", "StatefulSet"} {
			if way == "replace" {
				args = ways["apply"]
			}
			s := sent{way, kind, optedIn(t, nil)}
			for _, name := range []string{"web", "own"} {
				kubectl(t, manifest(kind, name), append(args, "-n", s.namespace)...)
			}
			all = append(all, s)
		}
	}
	evenkeel.Stop()
	t.Cleanup(func() { check.Must(t, evenkeel.Start(context.Background())) })
	for _, s := range all {
		t.Run(s.way+" of a "+s.kind, func(t *testing.T) {
			for _, name := range []string{"web", "own"} {
				before, had := stored(t, s.namespace, s.kind, name)
				kubectl(t, manifest(s.kind, name), append(ways[s.way], "-n", s.namespace)...)
				after, has := stored(t, s.namespace, s.kind, name)
				want := ""
				switch {
				case s.way == "replace":
					want = everything
				case name == "own":
					for when, spec := range map[string]corev1.PodSpec{"with": had.Spec, "without": has.Spec} {
						if grace := *spec.TerminationGracePeriodSeconds; grace != written {
							t.Errorf("%s evenkeel the grace period is %d s, want the %d that are written", when, grace, written)
						}
					}
					*has.Spec.TerminationGracePeriodSeconds = 40 // nothing else is missing
				}
				if got := missing(has.ObjectMeta, has.Spec); got != want {
					t.Errorf("%s lacks %q, want %q", name, got, want)
				}
				if rolls := before.Generation != after.Generation; rolls != (s.way == "replace") {
					t.Errorf("%s has generation %d after %d", name, after.Generation, before.Generation)
				}
			}
		})
	}
}

// TestAFailureIsAFailureWithoutIgnore is the control of TestNeverBlocks: each of the failures there is a real one.
func TestAFailureIsAFailureWithoutIgnore(t *testing.T) {
	ours(t) // the API server of another cluster can't reach us
	fail := admissionregistrationv1.Fail
	for name, start := range failures() {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			f.register(t, "beside-evenkeel", func(c *admissionregistrationv1.MutatingWebhookConfiguration) {
				for i := range c.Webhooks {
					c.Webhooks[i].FailurePolicy = &fail
				}
			})
			_, _, errs := createBoth(t, optedIn(t, nil))
			for i, webhook := range []string{"workloads", "pods"} {
				if want := `failed calling webhook "` + f.service + "." + webhook; errs[i] == nil ||
					!strings.Contains(errs[i].Error(), want) {
					t.Errorf("created, or refused for another reason than %s: %v", want, errs[i])
				}
			}
		})
	}
}

// TestABrokenPatchNeverLeaves builds evenkeel with a generator that breaks every patch. The control is a build that has
// the same generator and lacks the safeguard: there the API server refuses the request, even under Ignore.
func TestABrokenPatchNeverLeaves(t *testing.T) {
	ctx := t.Context()
	evenkeel := ours(t)
	evenkeel.Stop()
	t.Cleanup(func() {
		check.Must(t, evenkeel.Start(context.Background()))
		check.Must(t, evenkeel.Register(context.Background()))
	})
	for _, c := range []struct {
		name    string
		tags    []string
		created bool
	}{
		{"broken", []string{"evenkeel_broken_patch"}, true},
		{"broken-unguarded", []string{"evenkeel_broken_patch", "evenkeel_unguarded"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			i, err := installation.Install(ctx, shared.Cluster, installation.Options{Name: c.name, Tags: c.tags})
			check.Must(t, err)
			t.Cleanup(func() { check.Must(t, i.Uninstall(context.Background())) })
			namespace := optedIn(t, nil)
			client := newWarned(t)
			_, err = client.AppsV1().Deployments(namespace).Create(ctx, deployment("web", 0), metav1.CreateOptions{})
			if created := err == nil; created != c.created {
				t.Fatalf("created: %v (%v), want %v", created, err, c.created)
			}
			if !c.created && !strings.Contains(err.Error(), "add operation does not apply") {
				t.Errorf("refused because of %v, want the broken patch to be the reason", err)
			}
			if text := strings.Join(client.warnings(), "\n"); c.created && !strings.Contains(text, "internal-error") {
				t.Errorf("warnings %q don't say internal-error", text)
			}
			if failed, err := i.Metric(ctx, "evenkeel_admission_reviews_total", `outcome="failed"`); err != nil ||
				c.created && failed == 0 {
				t.Errorf("%v failed reviews counted, want some (%v)", failed, err)
			}
		})
	}
}

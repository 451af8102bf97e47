package admission

import (
	"context"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

// createBoth creates a Deployment and a Pod, and returns the first error.
func createBoth(t *testing.T, namespace string) error {
	t.Helper()
	if _, err := shared.Client.AppsV1().Deployments(namespace).Create(t.Context(), deployment("web", 0), metav1.CreateOptions{}); err != nil {
		return err
	}
	spec, labels := bare()
	_, err := shared.Client.CoreV1().Pods(namespace).Create(t.Context(),
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "alone", Labels: labels}, Spec: spec}, metav1.CreateOptions{})
	return err
}

// TestNeverBlocks has evenkeel, or something in its place, fail in every way there is: objects are created all the same.
func TestNeverBlocks(t *testing.T) {
	evenkeel := ours(t)
	restore := func() {
		evenkeel.Stop()
		check.Must(t, evenkeel.Start(context.Background()))
	}
	created := func(t *testing.T) {
		t.Helper()
		if err := createBoth(t, optedIn(t, nil)); err != nil {
			t.Errorf("not created: %v", err)
		}
	}
	t.Run("when it is down", func(t *testing.T) {
		evenkeel.Stop()
		t.Cleanup(restore)
		created(t)
	})
	t.Run("when it hangs", func(t *testing.T) {
		check.Must(t, evenkeel.Signal(syscall.SIGSTOP))
		t.Cleanup(func() { check.Must(t, evenkeel.Signal(syscall.SIGCONT)) })
		created(t)
	})
	for name, handler := range map[string]http.HandlerFunc{
		"when its answer is garbage": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "\x00garbage{") },
		"when its answer is empty":   func(http.ResponseWriter, *http.Request) {},
		"when its answer is 500":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"when its connection breaks": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"when its answer comes slowly": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // or the server would not notice that the caller has gone
			<-r.Context().Done()
		},
		"when its answer is redirected": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
	} {
		t.Run(name, func(t *testing.T) {
			startHandler(t, 24*time.Hour, handler).register(t, "evenkeel-in-its-place", func(*admissionregistrationv1.MutatingWebhookConfiguration) {})
			created(t)
		})
	}
	t.Run("when its certificate has expired", func(t *testing.T) {
		startHandler(t, -time.Hour, http.NotFoundHandler()).register(t, "evenkeel-in-its-place", func(*admissionregistrationv1.MutatingWebhookConfiguration) {})
		created(t)
	})
	t.Run("when its certificate is of another CA", func(t *testing.T) {
		f := startHandler(t, 24*time.Hour, http.NotFoundHandler())
		var err error
		f.ca, err = evenkeel.CA(t.Context())
		check.Must(t, err)
		f.register(t, "evenkeel-in-its-place", func(*admissionregistrationv1.MutatingWebhookConfiguration) {})
		created(t)
	})
}

// TestOnlyAReplacementTakesTheDefaultsAwayWhileAway sends the manifest of a workload again while evenkeel is down: what applies it keeps
// the defaults, what replaces it as a whole doesn't, as the README's known limits say.
func TestOnlyAReplacementTakesTheDefaultsAwayWhileAway(t *testing.T) {
	evenkeel := ours(t)
	for name, c := range map[string]struct {
		how  []string
		want string // what is missing afterwards
	}{
		"apply":             {[]string{"apply", "-f", "-"}, ""},
		"server-side apply": {[]string{"apply", "--server-side", "-f", "-"}, ""},
		"replace":           {[]string{"replace", "-f", "-"}, everything},
	} {
		t.Run(name, func(t *testing.T) {
			namespace := optedIn(t, nil)
			manifest := deployment("web", 1)
			first := c.how
			if first[0] == "replace" {
				first = []string{"apply", "-f", "-"}
			}
			kubectl(t, manifest, append(first, "-n", namespace)...)
			evenkeel.Stop()
			t.Cleanup(func() { check.Must(t, evenkeel.Start(context.Background())) })
			manifest.Labels = map[string]string{"changed": "yes"}
			kubectl(t, manifest, append(c.how, "-n", namespace)...)
			d, err := shared.Client.AppsV1().Deployments(namespace).Get(t.Context(), "web", metav1.GetOptions{})
			check.Must(t, err)
			if got := missing(d.Spec.Template.ObjectMeta, d.Spec.Template.Spec); got != c.want {
				t.Errorf("it lacks %q, want %q", got, c.want)
			}
		})
	}
}

// TestAFailureIsAFailureWithoutIgnore is the control of TestNeverBlocks: the failures there are real ones.
func TestAFailureIsAFailureWithoutIgnore(t *testing.T) {
	ours(t) // the API server of another cluster can't reach us
	fail := admissionregistrationv1.Fail
	startHandler(t, 24*time.Hour, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })).
		register(t, "evenkeel-in-its-place", func(c *admissionregistrationv1.MutatingWebhookConfiguration) {
			for i := range c.Webhooks {
				c.Webhooks[i].FailurePolicy = &fail
			}
		})
	namespace := optedIn(t, nil)
	check.Eventually(t, "the configuration is in force", func() error {
		if err := createBoth(t, namespace); err == nil {
			check.Must(t, shared.Client.AppsV1().Deployments(namespace).Delete(t.Context(), "web", metav1.DeleteOptions{}))
			check.Must(t, shared.Client.CoreV1().Pods(namespace).Delete(t.Context(), "alone", metav1.DeleteOptions{}))
			return io.EOF
		} else if !strings.Contains(err.Error(), "webhook") {
			t.Fatal(err)
		}
		return nil
	})
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
			if text := strings.Join(client.warnings(), "\n"); c.created && !strings.Contains(text, "internal-error") {
				t.Errorf("warnings %q don't say internal-error", text)
			}
			if failed, err := i.Metric(ctx, "evenkeel_admission_reviews_total", `outcome="failed"`); err != nil || c.created && failed == 0 {
				t.Errorf("%v failed reviews counted, want some (%v)", failed, err)
			}
		})
	}
}

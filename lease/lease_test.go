package lease

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
)

func silentLog() *logrus.Entry {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	return logrus.NewEntry(logger)
}

// candidate is a replica that stands for election.
type candidate struct {
	name    string
	leading chan struct{} // closed when it leads
	finish  chan struct{} // its work ends no sooner than this is closed
	stop    context.CancelFunc
	over    chan error
}

func stand(t *testing.T, client kubernetes.Interface, name string) *candidate {
	t.Helper()
	election, err := New(Config{Client: client, Namespace: "n", Name: "l", Identity: name, Duration: time.Second,
		Log: silentLog()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c := &candidate{name, make(chan struct{}), make(chan struct{}), cancel, make(chan error, 1)}
	go func() {
		c.over <- election.Run(ctx, func(ctx context.Context) {
			close(c.leading)
			<-ctx.Done()
			<-c.finish
		})
	}()
	return c
}

// wait waits until something happens, far longer than it takes.
func wait[T any](t *testing.T, what string, happens <-chan T) T {
	t.Helper()
	select {
	case v := <-happens:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: not after 20 s", what)
		panic("unreachable")
	}
}

func holder(t *testing.T, client kubernetes.Interface) string {
	t.Helper()
	l, err := client.CoordinationV1().Leases("n").Get(t.Context(), "l", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if l.Spec.HolderIdentity == nil {
		return ""
	}
	return *l.Spec.HolderIdentity
}

func TestOneLeadsAndTheNextTakesOverAfterItsWorkIsDone(t *testing.T) {
	client := fake.NewClientset()
	a := stand(t, client, "a")
	wait(t, "a leads", a.leading)
	b := stand(t, client, "b")
	a.stop()
	// For longer than the Lease lasts without renewal: a renews it until its work is done.
	select {
	case <-b.leading:
		t.Fatal("b leads while a is at work")
	case err := <-a.over:
		t.Fatalf("a ended before its work was done: %v", err)
	case <-time.After(3 * time.Second):
	}
	if h := holder(t, client); h != "a" {
		t.Errorf("the Lease is held by %q, want a", h)
	}
	close(a.finish)
	if err := wait(t, "a ends", a.over); err != nil {
		t.Error(err)
	}
	wait(t, "b leads", b.leading)
	close(b.finish)
	b.stop()
	if err := wait(t, "b ends", b.over); err != nil {
		t.Error(err)
	}
	if h := holder(t, client); h != "" {
		t.Errorf("the Lease is held by %q after the last has ended, want nobody", h)
	}
}

func TestWhoNeverLedEndsAtOnce(t *testing.T) {
	client := fake.NewClientset()
	a := stand(t, client, "a")
	wait(t, "a leads", a.leading)
	b := stand(t, client, "b")
	b.stop()
	if err := wait(t, "b ends", b.over); err != nil {
		t.Error(err)
	}
	if h := holder(t, client); h != "a" {
		t.Errorf("the Lease is held by %q, want a", h)
	}
	close(a.finish)
	a.stop()
	wait(t, "a ends", a.over)
}

func TestAConfigurationThatLacksSomethingIsRefused(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no client":                     func(c *Config) { c.Client = nil },
		"no log":                        func(c *Config) { c.Log = nil },
		"no identity":                   func(c *Config) { c.Identity = "" },
		"no namespace":                  func(c *Config) { c.Namespace = "" },
		"no name":                       func(c *Config) { c.Name = "" },
		"a Lease of less than a second": func(c *Config) { c.Duration = 999 * time.Millisecond },
	} {
		t.Run(name, func(t *testing.T) {
			c := Config{Client: fake.NewClientset(), Namespace: "n", Name: "l", Identity: "a", Log: silentLog()}
			if _, err := New(c); err != nil {
				t.Fatalf("whole: %v", err)
			}
			change(&c)
			if _, err := New(c); err == nil {
				t.Error("accepted")
			}
		})
	}
}

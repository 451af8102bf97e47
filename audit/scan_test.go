package audit

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/policy"
)

// kept returns a Namespace with labels.
func kept(name string, labels map[string]string) stub {
	return stub{"namespaces", &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}}
}

var enabled = map[string]string{policy.InjectLabel: policy.Enabled}

// serving returns a Deployment of two replicas that serves, with changes.
func serving(namespace, name string, change ...func(*appsv1.Deployment)) *appsv1.Deployment {
	app, two := map[string]string{"app": name}, int32(2)
	d := &appsv1.Deployment{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: "uid"},
		Spec: appsv1.DeploymentSpec{Replicas: &two, Selector: &metav1.LabelSelector{MatchLabels: app},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}, Spec: corev1.PodSpec{
				Containers: []corev1.Container{{Name: "web", Image: "web", Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}}}}}
	for _, f := range change {
		f(d)
	}
	return d
}

// gathered returns the values of gauges and counters that are not 0, by name and label values.
func gathered(t *testing.T, c ScanConfig) map[string]float64 {
	t.Helper()
	families, err := c.Registerer.(*prometheus.Registry).Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			key := strings.TrimPrefix(f.GetName(), "evenkeel_missed_injections")
			for _, l := range m.GetLabel() {
				key += " " + l.GetValue()
			}
			if v := m.GetGauge().GetValue() + m.GetCounter().GetValue(); v != 0 {
				values[strings.TrimSpace(key)] = v
			}
		}
	}
	return values
}

func scanConfig(t *testing.T, a *api) ScanConfig {
	t.Helper()
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	version := patches.Version{Major: 1, Minor: 36}
	return ScanConfig{Client: a.start(t), Injector: rules(t).Injector, Ready: func() error { return nil },
		Cluster:           func() patches.Cluster { return patches.Cluster{APIServer: version, OldestKubelet: version} },
		OptedOut:          func(string, string, string) bool { return false },
		Services:          func(string) *patches.Services { return nil },
		NamespaceSelector: labels.SelectorFromSet(enabled), Except: []string{"kube-system"},
		Interval: time.Second, Log: logrus.NewEntry(logger), Registerer: prometheus.NewRegistry()}
}

func TestAScanNeedsAWholeConfiguration(t *testing.T) {
	for name, change := range map[string]func(*ScanConfig){
		"no client":          func(c *ScanConfig) { c.Client = nil },
		"no injector":        func(c *ScanConfig) { c.Injector = nil },
		"no selector":        func(c *ScanConfig) { c.NamespaceSelector = nil },
		"too short a pause":  func(c *ScanConfig) { c.Interval = time.Second - 1 },
		"metrics that exist": func(c *ScanConfig) { _, _ = newScanMetrics(c.Registerer) },
	} {
		c := scanConfig(t, &api{})
		change(&c)
		if _, err := NewScan(c); err == nil {
			t.Errorf("%s: made without an error", name)
		}
	}
}

// scanned returns what one scan of Lead finds, as the gauge has it at the pause after it, and the
// messages of Events, of several scans.
func scanned(t *testing.T, a *api, scans int) (gauge map[string]float64, events []string) {
	t.Helper()
	s, err := NewScan(scanConfig(t, a))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.pause = func(context.Context, time.Duration) {
		if scans--; scans > 0 {
			return
		}
		gauge = gathered(t, s.config)
		delete(gauge, "_last_scan_timestamp_seconds")
		delete(gauge, "_scans_total ok")
		cancel()
	}
	if err := s.Lead(ctx); err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.events {
		e := &a.events[i]
		events = append(events, e.InvolvedObject.Kind+" "+e.Namespace+"/"+e.InvolvedObject.Name+": "+e.Message)
	}
	return gauge, events
}

func TestAScanFindsWhatWasMissed(t *testing.T) {
	bare := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "in", Name: "bare", UID: "p",
			Labels: map[string]string{"app": "bare"}}, Spec: serving("in", "bare").Spec.Template.Spec}
	deployments := map[string]*appsv1.Deployment{
		"one of an opted-in namespace": serving("in", "web"),
		"one of another namespace":     serving("out", "web"),
		"one of kube-system":           serving("kube-system", "dns"),
		"one that opted out": serving("in", "refuser",
			func(d *appsv1.Deployment) { d.Labels = map[string]string{policy.InjectLabel: policy.Disabled} }),
		"one that is being deleted": serving("in", "going",
			func(d *appsv1.Deployment) { d.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }),
		"one whose record is of another day": serving("in", "web", record),
	}
	all := map[string]float64{"anti-affinity Deployment no-record": 1, "pre-stop-sleep Deployment no-record": 1,
		"readiness-probe Deployment no-record": 1}
	const lacks = "the pod template lacks anti-affinity, pre-stop-sleep, readiness-probe; kubectl rollout restart " +
		"deployment/web adds it"
	for name, c := range map[string]struct {
		gauge  map[string]float64
		events []string
	}{
		"one of an opted-in namespace": {all, []string{"Deployment in/web: " + lacks}},
		"one of another namespace":     {map[string]float64{}, nil},
		"one of kube-system":           {map[string]float64{}, nil},
		"one that opted out":           {map[string]float64{}, nil},
		"one that is being deleted":    {map[string]float64{}, nil},
		"one whose record is of another day": {
			map[string]float64{"anti-affinity Deployment older-record": 1, "pre-stop-sleep Deployment older-record": 1,
				"readiness-probe Deployment older-record": 1}, []string{"Deployment in/web: " + lacks}},
	} {
		t.Run(name, func(t *testing.T) {
			a := &api{objects: []stub{kept("in", enabled), kept("out", nil), kept("kube-system", enabled),
				{"deployments", deployments[name]}}}
			gauge, events := scanned(t, a, 3)
			if diff := cmp.Diff(c.gauge, gauge); diff != "" {
				t.Errorf("gauge (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.events, events); diff != "" {
				t.Errorf("events of three scans (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("a pod without owner", func(t *testing.T) {
		a := &api{objects: []stub{kept("in", enabled), {"pods", bare}}}
		_, events := scanned(t, a, 1)
		if len(events) != 1 || !strings.HasPrefix(events[0], "Pod in/bare: the pod lacks ") {
			t.Errorf("events %q", events)
		}
	})
}

// record puts the record of something that stands no more on a template.
func record(d *appsv1.Deployment) {
	d.Spec.Template.Annotations = map[string]string{policy.InjectedAnnotation: "web/pre-stop-sleep=sleep:3"}
}

func TestAScanThatFailsIsCountedAndTriedAgain(t *testing.T) {
	a := &api{broken: true}
	s, err := NewScan(scanConfig(t, a))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	pauses := 0
	s.pause = func(context.Context, time.Duration) {
		if pauses++; pauses == 2 {
			cancel()
		}
	}
	if err := s.Lead(ctx); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(map[string]float64{"_scans_total error": 2}, gathered(t, s.config)); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

func TestAScanWaitsUntilTheFactsAreKnown(t *testing.T) {
	config := scanConfig(t, &api{})
	asked := 0
	config.Ready = func() error {
		if asked++; asked < 3 {
			return errors.New("not yet")
		}
		return nil
	}
	s, err := NewScan(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s.pause = func(_ context.Context, d time.Duration) {
		if d >= time.Second { // behind the first scan
			cancel()
		}
	}
	if err := s.Lead(ctx); err != nil || asked != 3 {
		t.Errorf("asked %d times, %v", asked, err)
	}
}

// TestThePodsOfADeploymentAreItsOwn names the workload that an Event is about.
func TestThePodsOfADeploymentAreItsOwn(t *testing.T) {
	yes := true
	owner := func(kind, name string) []metav1.OwnerReference {
		return []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: name, UID: "owner", Controller: &yes}}
	}
	for name, c := range map[string]struct {
		meta scannedMeta
		want string
	}{
		"of a Deployment's ReplicaSet": {
			scannedMeta{Namespace: "in", Labels: map[string]string{"pod-template-hash": "5d"},
				OwnerReferences: owner("ReplicaSet", "web-5d")}, "Deployment web"},
		"of a ReplicaSet of its own": {scannedMeta{Namespace: "in", OwnerReferences: owner("ReplicaSet", "web-5d")},
			"ReplicaSet web-5d"},
		"of a StatefulSet": {scannedMeta{Namespace: "in", OwnerReferences: owner("StatefulSet", "db")}, "StatefulSet db"},
		"of nobody":        {scannedMeta{Namespace: "in", Name: "bare"}, "Pod bare"},
	} {
		uids := map[types.NamespacedName]types.UID{{Namespace: "in", Name: "web"}: "uid"}
		w, _ := workloadOf("Pod", &c.meta, uids)
		if got := w.kind + " " + w.name; got != c.want {
			t.Errorf("a pod %s belongs to %s, want %s", name, got, c.want)
		}
	}
}

// raw returns an object as JSON.
func raw(t *testing.T, object any) []byte {
	t.Helper()
	text, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

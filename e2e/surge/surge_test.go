// Package surge tests drains of Deployments of one replica: with the real eviction API, kubectl
// drain and clients like those of autoscalers, and with evenkeel killed on the way.
package surge

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

// world is a cluster of six nodes with evenkeel as deploy/surge runs it.
type world struct {
	*cluster.Cluster
	nodes    []string
	evenkeel *installation.Installation
}

func start(t *testing.T) *world {
	t.Helper()
	if os.Getenv("KUBECONFIG") != "" {
		t.Skip("KUBECONFIG names an existing cluster, whose nodes are not for us to drain")
	}
	ctx := t.Context()
	c, err := cluster.Start(ctx, cluster.Config{Log: os.Stderr})
	check.Must(t, err)
	t.Cleanup(func() { check.Must(t, c.Stop()) })
	w := &world{Cluster: c}
	w.nodes, err = c.AddNodes(ctx, 6, cluster.NodeSpec{})
	check.Must(t, err)
	w.evenkeel, err = installation.Install(ctx, c,
		installation.Options{Deploy: "deploy/surge", Flags: []string{"--surge"}})
	check.Must(t, err)
	t.Cleanup(w.evenkeel.Stop)
	return w
}

// restart runs evenkeel with another patience.
func (w *world) restart(t *testing.T, patience string) {
	t.Helper()
	w.evenkeel.Stop()
	check.Must(t, w.evenkeel.Start(t.Context(), "--surge-patience="+patience))
}

// namespace makes an opted-in namespace that asks for surges, or doesn't.
func (w *world) namespace(t *testing.T, asks bool) string {
	t.Helper()
	annotations := map[string]string{}
	if asks {
		annotations["evenkeel.dev/drain"] = "surge"
	}
	n, err := w.Client.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "shop-",
			Labels: map[string]string{"evenkeel.dev/inject": "enabled"}, Annotations: annotations}}, metav1.CreateOptions{})
	check.Must(t, err)
	t.Cleanup(func() {
		check.Must(t, w.Client.CoreV1().Namespaces().Delete(context.Background(), n.Name, metav1.DeleteOptions{}))
	})
	check.Eventually(t, "the namespace's service account", func() error {
		_, err := w.Client.CoreV1().ServiceAccounts(n.Name).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return n.Name
}

// create makes a Deployment of one replica and returns it when its pod is ready.
func (w *world) create(t *testing.T, namespace, name string, change ...func(*appsv1.Deployment)) *appsv1.Deployment {
	t.Helper()
	one, labels := int32(1), map[string]string{"app": name}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{Replicas: &one,
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec: corev1.PodSpec{
				Containers: []corev1.Container{{Name: "web", Image: "web", Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}}}}}
	for _, f := range change {
		f(d)
	}
	_, err := w.Client.AppsV1().Deployments(namespace).Create(t.Context(), d, metav1.CreateOptions{})
	check.Must(t, err)
	return w.settled(t, namespace, name)
}

// settled returns a Deployment when it is done with its rollout.
func (w *world) settled(t *testing.T, namespace, name string) (d *appsv1.Deployment) {
	t.Helper()
	check.Eventually(t, "Deployment "+name+" is rolled out", func() (err error) {
		d, err = w.Client.AppsV1().Deployments(namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if s := d.Status; s.ObservedGeneration < d.Generation || s.UpdatedReplicas != *d.Spec.Replicas ||
			s.Replicas != *d.Spec.Replicas || s.AvailableReplicas != *d.Spec.Replicas {
			return fmt.Errorf("its status is %+v", s)
		}
		return nil
	})
	return d
}

// pods returns the pods of a Deployment.
func (w *world) pods(t *testing.T, namespace, app string) []corev1.Pod {
	t.Helper()
	list, err := w.Client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
	check.Must(t, err)
	return list.Items
}

// evict asks once to evict a pod, and returns the status of the answer.
func (w *world) evict(t *testing.T, pod *corev1.Pod, dryRun ...string) (code int, text string) {
	t.Helper()
	err := w.Client.PolicyV1().Evictions(pod.Namespace).Evict(t.Context(),
		&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace},
			DeleteOptions: &metav1.DeleteOptions{DryRun: dryRun}})
	var status apierrors.APIStatus
	switch {
	case err == nil:
		return http.StatusCreated, ""
	case errors.As(err, &status):
		return int(status.Status().Code), status.Status().Message
	}
	t.Fatal(err)
	return 0, ""
}

// cordon makes nodes unschedulable, until the end of the test.
func (w *world) cordon(t *testing.T, nodes ...string) {
	t.Helper()
	set := func(ctx context.Context, node, value string) {
		_, err := w.Client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType,
			[]byte(`{"spec":{"unschedulable":`+value+`}}`), metav1.PatchOptions{})
		check.Must(t, err)
	}
	for _, node := range nodes {
		set(t.Context(), node, "true")
		t.Cleanup(func() { set(context.Background(), node, "false") })
	}
}

// others returns all nodes but one.
func (w *world) others(node string) []string {
	var names []string
	for _, n := range w.nodes {
		if n != node {
			names = append(names, n)
		}
	}
	return names
}

// kubectl runs kubectl and returns what it says.
func (w *world) kubectl(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd, err := w.KubectlCommand(t.Context(), args...)
	check.Must(t, err)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// least watches how many pods of each app are ready, from when it is called, and returns a function
// that says the least of each.
func (w *world) least(t *testing.T, namespace string) func() map[string]int {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	list, err := w.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	check.Must(t, err)
	ready, fewest := map[string]map[string]bool{}, map[string]int{}
	take := func(p *corev1.Pod, gone bool) {
		app := p.Labels["app"]
		if ready[app] == nil {
			ready[app] = map[string]bool{}
		}
		delete(ready[app], p.Name)
		if !gone && check.Ready(p) {
			ready[app][p.Name] = true
		}
	}
	for i := range list.Items {
		take(&list.Items[i], false)
	}
	for app := range ready {
		fewest[app] = len(ready[app])
	}
	watcher, err := w.Client.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	check.Must(t, err)
	var over sync.WaitGroup
	over.Go(func() {
		for event := range watcher.ResultChan() {
			if p, ok := event.Object.(*corev1.Pod); ok {
				take(p, event.Type == "DELETED")
				app := p.Labels["app"]
				fewest[app] = min(fewest[app], len(ready[app]))
			}
		}
	})
	return func() map[string]int {
		time.Sleep(time.Second) // what has happened arrives
		cancel()
		watcher.Stop()
		over.Wait()
		return fewest
	}
}

// asBefore fails where more of a Deployment has changed than the annotations of a restart.
func asBefore(t *testing.T, before, after *appsv1.Deployment) {
	t.Helper()
	plain := func(d *appsv1.Deployment) *appsv1.Deployment {
		d = d.DeepCopy()
		delete(d.Spec.Template.Annotations, "kubectl.kubernetes.io/restartedAt")
		return d
	}
	if diff := cmp.Diff(plain(before).Spec, plain(after).Spec, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("Deployment %s has changed (-before +after):\n%s", before.Name, diff)
	}
}

// counted returns how many evictions got a code.
func (w *world) counted(t *testing.T, code string) float64 {
	t.Helper()
	n, err := w.evenkeel.Metric(t.Context(), "evenkeel_surge_evictions_total", `code="`+code+`"`)
	check.Must(t, err)
	return n
}

func TestSurge(t *testing.T) {
	w := start(t)
	t.Run("kubectl drain", func(t *testing.T) { drains(t, w) })
	t.Run("every row", func(t *testing.T) { rows(t, w) })
	t.Run("every row by every client", func(t *testing.T) { clients(t, w) })
	t.Run("a dry run", func(t *testing.T) { dryRuns(t, w) })
	t.Run("a client that backs off", func(t *testing.T) { backsOff(t, w) })
	t.Run("a client that evicts all at once", func(t *testing.T) { allAtOnce(t, w) })
	t.Run("a pod that can't be scheduled", func(t *testing.T) { deadline(t, w) })
	t.Run("evenkeel dies", func(t *testing.T) { deaths(t, w) })
}

// drains drains every node in turn. With surge each Deployment has a ready pod at any time; the
// control has none now and then.
func drains(t *testing.T, w *world) {
	for _, asks := range []bool{true, false} {
		t.Run(fmt.Sprintf("asked for: %t", asks), func(t *testing.T) {
			namespace := w.namespace(t, asks)
			before := map[string]*appsv1.Deployment{}
			for i := range 5 {
				name := fmt.Sprintf("web-%d", i)
				before[name] = w.create(t, namespace, name)
			}
			least := w.least(t, namespace)
			for _, node := range w.nodes {
				if out, err := w.kubectl(t, "drain", node, "--timeout=2m", "--ignore-daemonsets",
					"--pod-selector=app"); err != nil {
					t.Errorf("drain of %s: %v\n%s", node, err, out)
				}
				_, err := w.kubectl(t, "uncordon", node)
				check.Must(t, err)
			}
			fewest := least()
			interrupted := 0
			for name := range before {
				if fewest[name] == 0 {
					interrupted++
				}
				asBefore(t, before[name], w.settled(t, namespace, name))
			}
			t.Logf("asked for: %t; %d of %d Deployments had no ready pod for a while", asks, interrupted, len(before))
			if asks && interrupted > 0 || !asks && interrupted < len(before) {
				t.Errorf("%d Deployments had no ready pod for a while; fewest ready pods %v", interrupted, fewest)
			}
		})
	}
}

// other waits for a pod of the Deployment web that is not this one.
func (w *world) other(t *testing.T, namespace string, than *corev1.Pod) (other *corev1.Pod) {
	t.Helper()
	check.Eventually(t, "a second pod", func() error {
		for _, p := range w.pods(t, namespace, "web") {
			if p.Name != than.Name {
				other = &p
				return nil
			}
		}
		return errors.New("there is none")
	})
	return other
}

// claim makes a claim, and a volume for it that one node can mount.
func (w *world) claim(t *testing.T, namespace string) {
	t.Helper()
	ctx, none := t.Context(), ""
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	_, err := w.Client.CoreV1().PersistentVolumes().Create(ctx,
		&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: namespace}, Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: modes, ClaimRef: &corev1.ObjectReference{Namespace: namespace, Name: "data"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}}}},
		metav1.CreateOptions{})
	check.Must(t, err)
	t.Cleanup(func() {
		check.Must(t, w.Client.CoreV1().PersistentVolumes().Delete(context.Background(), namespace, metav1.DeleteOptions{}))
	})
	_, err = w.Client.CoreV1().PersistentVolumeClaims(namespace).Create(ctx,
		&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"},
			Spec: corev1.PersistentVolumeClaimSpec{AccessModes: modes, StorageClassName: &none, VolumeName: namespace,
				Resources: corev1.VolumeResourceRequirements{Requests: size}}}, metav1.CreateOptions{})
	check.Must(t, err)
}

func dryRuns(t *testing.T, w *world) {
	namespace := w.namespace(t, true)
	before := w.create(t, namespace, "web")
	pod := &w.pods(t, namespace, "web")[0]
	if code, text := w.evict(t, pod, metav1.DryRunAll); code != http.StatusTooManyRequests {
		t.Errorf("the answer is %d %s", code, text)
	}
	out, err := w.kubectl(t, "drain", pod.Spec.NodeName, "--dry-run=server", "--timeout=3s", "--ignore-daemonsets",
		"--pod-selector=app", "--force") // bare pods of tests before this one may not be gone yet
	if err == nil || !strings.Contains(out, "Deployment web has no other ready pod") {
		t.Errorf("kubectl drain --dry-run=server: %v\n%s", err, out)
	}
	after := w.settled(t, namespace, "web")
	if after.Generation != before.Generation || after.Annotations["evenkeel.dev/surged"] != "" {
		t.Errorf("a dry run changed generation %d to %d", before.Generation, after.Generation)
	}
}

// backOff evicts a pod as Karpenter does: again after a refusal, each time after twice as long, until it is gone.
func (w *world) backOff(t *testing.T, pod *corev1.Pod) (refusals int) {
	t.Helper()
	wait := 100 * time.Millisecond
	for begin := time.Now(); time.Since(begin) < check.Limit; {
		switch code, text := w.evict(t, pod); code {
		case http.StatusTooManyRequests:
			refusals++
		case http.StatusNotFound:
			return refusals
		case http.StatusCreated:
		default:
			t.Errorf("the answer is %d %s", code, text)
		}
		time.Sleep(wait) // which is what the client does
		wait = min(2*wait, 10*time.Second)
	}
	t.Errorf("pod %s is not gone after %v", pod.Name, check.Limit)
	return refusals
}

func backsOff(t *testing.T, w *world) {
	namespace := w.namespace(t, true)
	before := w.create(t, namespace, "web")
	least := w.least(t, namespace)
	pod := &w.pods(t, namespace, "web")[0]
	w.cordon(t, pod.Spec.NodeName)
	if n := w.backOff(t, pod); n == 0 {
		t.Error("the client was never refused")
	}
	if fewest := least(); fewest["web"] == 0 {
		t.Error("there was no ready pod for a while")
	}
	asBefore(t, before, w.settled(t, namespace, "web"))
}

// allAtOnce cordons half of the nodes and evicts all of their pods at once.
func allAtOnce(t *testing.T, w *world) {
	namespace := w.namespace(t, true)
	before := map[string]*appsv1.Deployment{}
	for i := range 8 {
		name := fmt.Sprintf("web-%d", i)
		before[name] = w.create(t, namespace, name)
	}
	least := w.least(t, namespace)
	half := w.nodes[:3]
	w.cordon(t, half...)
	pods, err := w.Client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
	check.Must(t, err)
	var all sync.WaitGroup
	evicted := 0
	for i := range pods.Items {
		for _, node := range half {
			if pods.Items[i].Spec.NodeName == node {
				evicted++
				all.Go(func() { w.backOff(t, &pods.Items[i]) })
			}
		}
	}
	all.Wait()
	if evicted == 0 {
		t.Fatal("no pod was on those nodes")
	}
	for name, n := range least() {
		if n == 0 {
			t.Errorf("%s had no ready pod for a while", name)
		}
	}
	for name := range before {
		asBefore(t, before[name], w.settled(t, namespace, name))
	}
	t.Logf("%d of %d pods evicted at once", evicted, len(before))
}

// deadline has nowhere to put the new pod. The eviction passes when the patience is over, not
// before, and with an Event.
func deadline(t *testing.T, w *world) {
	w.restart(t, "6s")
	defer w.restart(t, "10m")
	namespace := w.namespace(t, true)
	w.create(t, namespace, "web")
	pod := &w.pods(t, namespace, "web")[0]
	w.cordon(t, w.nodes...)
	begin := time.Now()
	out, err := w.kubectl(t, "drain", pod.Spec.NodeName, "--timeout=2m", "--ignore-daemonsets", "--pod-selector=app")
	took := time.Since(begin)
	if err != nil || !strings.Contains(out, "will retry after 5s") {
		t.Errorf("drain: %v\n%s", err, out)
	}
	// kubectl asks every five seconds.
	if took < 5*time.Second || took > 30*time.Second {
		t.Errorf("the drain took %v with a patience of 6s", took)
	}
	check.Eventually(t, "an Event says why the eviction passed", func() error {
		events, err := w.Client.CoreV1().Events(namespace).List(t.Context(),
			metav1.ListOptions{FieldSelector: "reason=DrainPasses"})
		if err == nil && len(events.Items) != 1 {
			err = fmt.Errorf("%d Events", len(events.Items))
		}
		return err
	})
}

// deaths kills evenkeel at each step. Every drain ends, and each Deployment is rolled out afterwards.
func deaths(t *testing.T, w *world) {
	revive := func(t *testing.T) {
		t.Helper()
		w.evenkeel.Stop() // forgets the process
		check.Must(t, w.evenkeel.Start(t.Context(), "--surge-patience=10m"))
	}
	kill := func(t *testing.T) {
		t.Helper()
		check.Must(t, w.evenkeel.Signal(syscall.SIGKILL))
		check.Eventually(t, "evenkeel is dead", func() error {
			if _, err := w.evenkeel.Metric(t.Context(), "evenkeel_ready"); err == nil {
				return errors.New("it answers")
			}
			return nil
		})
	}
	for _, test := range []struct {
		name string
		do   func(t *testing.T, namespace string, pod *corev1.Pod)
	}{
		{"before it is asked", func(t *testing.T, _ string, pod *corev1.Pod) {
			kill(t)
			if code, text := w.evict(t, pod); code != http.StatusCreated {
				t.Errorf("the answer is %d %s", code, text)
			}
			revive(t)
		}},
		{"before it answers", func(t *testing.T, _ string, pod *corev1.Pod) {
			check.Must(t, w.evenkeel.Signal(syscall.SIGSTOP)) // the API server waits for its answer
			answered := make(chan int)
			go func() {
				code, _ := w.evict(t, pod)
				answered <- code
			}()
			time.Sleep(time.Second) // it is on its way
			kill(t)
			if code := <-answered; code != http.StatusCreated {
				t.Errorf("the answer is %d", code)
			}
			revive(t)
		}},
		{"before the restart is written", func(t *testing.T, namespace string, pod *corev1.Pod) {
			w.onRestart(t, namespace, syscall.SIGKILL)
			w.backOff(t, pod)
			if w.evenkeel.Signal(0) == nil {
				t.Error("evenkeel has outlived it")
			}
			revive(t)
		}},
		{"after the restart is written and before it answers", func(t *testing.T, namespace string, pod *corev1.Pod) {
			w.onRestart(t, namespace, syscall.SIGSTOP) // what it asked for is done, and it never gets to know
			answered := make(chan int)
			go func() {
				code, _ := w.evict(t, pod)
				answered <- code
			}()
			check.Eventually(t, "the restart is written", func() error {
				d, err := w.Client.AppsV1().Deployments(namespace).Get(t.Context(), "web", metav1.GetOptions{})
				if err == nil && d.Annotations["evenkeel.dev/surged"] == "" {
					err = errors.New("it is not")
				}
				return err
			})
			kill(t)
			if code := <-answered; code != http.StatusCreated {
				t.Errorf("the answer is %d", code)
			}
			w.backOff(t, pod)
			revive(t)
		}},
		{"after it has answered", func(t *testing.T, _ string, pod *corev1.Pod) {
			if code, _ := w.evict(t, pod); code != http.StatusTooManyRequests {
				t.Errorf("the answer is %d", code)
			}
			kill(t)
			w.backOff(t, pod)
			revive(t)
		}},
		{"in the middle of the rollout, and another replica goes on", func(t *testing.T, namespace string, pod *corev1.Pod) {
			w.cordon(t, w.nodes...)
			if code, _ := w.evict(t, pod); code != http.StatusTooManyRequests {
				t.Errorf("the answer is %d", code)
			}
			w.other(t, namespace, pod) // pending
			d, err := w.Client.AppsV1().Deployments(namespace).Get(t.Context(), "web", metav1.GetOptions{})
			check.Must(t, err)
			kill(t)
			revive(t)
			if code, _ := w.evict(t, pod); code != http.StatusTooManyRequests {
				t.Errorf("the next replica's answer is %d", code)
			}
			after, err := w.Client.AppsV1().Deployments(namespace).Get(t.Context(), "web", metav1.GetOptions{})
			check.Must(t, err)
			if after.Generation != d.Generation ||
				after.Annotations["evenkeel.dev/surged"] != d.Annotations["evenkeel.dev/surged"] {
				t.Error("the next replica began again")
			}
			for _, node := range w.others(pod.Spec.NodeName) {
				_, err := w.kubectl(t, "uncordon", node)
				check.Must(t, err)
			}
			w.backOff(t, pod)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			namespace := w.namespace(t, true)
			before := w.create(t, namespace, "web")
			pod := &w.pods(t, namespace, "web")[0]
			w.cordon(t, pod.Spec.NodeName)
			test.do(t, namespace, pod)
			asBefore(t, before, w.settled(t, namespace, "web"))
		})
	}
}

// onRestart sends evenkeel a signal while the API server is asked to restart a Deployment of the
// namespace, and then lets that pass.
func (w *world) onRestart(t *testing.T, namespace string, signal syscall.Signal) {
	t.Helper()
	ctx, dir, calls := t.Context(), t.TempDir(), make(chan struct{}, 1)
	const service = "restarts"
	ca, err := installation.WriteCertificate(dir, installation.Host(service), time.Hour)
	check.Must(t, err)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	check.Must(t, err)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Request == nil {
			http.Error(rw, "no review", http.StatusBadRequest)
			return
		}
		select {
		case calls <- struct{}{}:
		default:
		}
		if strings.HasSuffix(review.Request.UserInfo.Username, ":evenkeel") {
			_ = w.evenkeel.Signal(signal) // the test sees whether it worked
		}
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		_ = json.NewEncoder(rw).Encode(review) // the API server would see it
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server.StartTLS()
	t.Cleanup(server.Close)
	port := int32(server.Listener.Addr().(*net.TCPAddr).Port)
	check.Must(t, w.WebhookService(ctx, installation.Namespace, service, int(port)))
	none, configurations := admissionregistrationv1.SideEffectClassNone,
		w.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	_, err = configurations.Create(ctx, &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: service},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{Name: "restarts.example.com",
			ClientConfig: admissionregistrationv1.WebhookClientConfig{CABundle: ca,
				Service: &admissionregistrationv1.ServiceReference{
					Namespace: installation.Namespace, Name: service, Port: &port}},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Update},
				Rule: admissionregistrationv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"},
					Resources: []string{"deployments"}}}},
			NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}},
			SideEffects:             &none,
			AdmissionReviewVersions: []string{"v1"}}}}, metav1.CreateOptions{})
	check.Must(t, err)
	t.Cleanup(func() { check.Must(t, configurations.Delete(context.Background(), service, metav1.DeleteOptions{})) })
	check.Eventually(t, "the API server asks about changes of Deployments", func() error {
		_, err := w.Client.AppsV1().Deployments(namespace).Patch(ctx, "web", types.MergePatchType, []byte(`{}`),
			metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
		select {
		case <-calls:
			return nil
		default:
			return errors.Join(err, errors.New("it does not"))
		}
	})
}

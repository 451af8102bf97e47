package cluster_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
)

// childEnv makes the test binary start a cluster, say what it consists of, and end in the way that the value says.
const childEnv = "EVENKEEL_TEST_CLUSTER_CHILD"

func TestMain(m *testing.M) {
	if end := os.Getenv(childEnv); end != "" {
		os.Exit(child(end))
	}
	os.Exit(m.Run())
}

// A report is what a child says about its cluster, as one line of JSON.
type report struct {
	Dir  string
	PIDs map[string]int
}

func child(end string) int {
	c, err := cluster.Start(context.Background(), cluster.Config{Components: []string{cluster.Scheduler}, Log: os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := json.NewEncoder(os.Stdout).Encode(report{Dir: c.Dir, PIDs: c.PIDs()}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	switch end {
	case "panic":
		panic("on purpose")
	case "exit":
		return 0
	case "stop":
		if err := c.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until it is killed
	return 0
}

func TestNothingIsLeftHoweverTheProcessEnds(t *testing.T) {
	for _, end := range []string{"stop", "exit", "panic", "SIGTERM", "SIGKILL"} {
		t.Run(end, func(t *testing.T) {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), childEnv+"="+end)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer stdin.Close()
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var r report
			if err := json.NewDecoder(bufio.NewReader(stdout)).Decode(&r); err != nil {
				t.Errorf("read report of child: %v", err)
			}
			switch end {
			case "SIGTERM":
				err = cmd.Process.Signal(syscall.SIGTERM)
			case "SIGKILL":
				err = cmd.Process.Kill()
			}
			if err != nil {
				t.Error(err)
			}
			_ = cmd.Wait() // most ends are no success

			if len(r.PIDs) != 3 || r.Dir == "" {
				t.Fatalf("child reported %+v, want three processes and a directory; it wrote:\n%s", r, stderr.String())
			}
			for name, pid := range r.PIDs {
				check.Eventually(t, "every process ends", func() error {
					if running(pid) {
						return fmt.Errorf("%s (process %d) is still running", name, pid)
					}
					return nil
				})
			}
			check.Eventually(t, "the directory is removed", func() error {
				if _, err := os.Stat(r.Dir); !os.IsNotExist(err) {
					return fmt.Errorf("directory %s is still there", r.Dir)
				}
				return nil
			})
		})
	}
}

func TestControlPlane(t *testing.T) {
	t.Setenv("KUBECONFIG", "")
	ctx := t.Context()
	var log syncBuffer
	c, err := cluster.Open(ctx, cluster.Config{Log: io.MultiWriter(&log, os.Stderr)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})

	t.Run("calls itself by its version", func(t *testing.T) {
		version, err := c.Client.Discovery().ServerVersion()
		if err != nil {
			t.Fatal(err)
		}
		if version.GitVersion != cluster.Version || version.Major != "1" || version.Minor != "36" {
			t.Errorf("version is %+v, want %s", version, cluster.Version)
		}
	})

	t.Run("runs a Deployment on fake nodes in three zones", func(t *testing.T) {
		names, err := c.AddNodes(ctx, 6, cluster.NodeSpec{})
		if err != nil {
			t.Fatal(err)
		}
		if len(names) != 6 {
			t.Errorf("got nodes %v, want 6", names)
		}
		if _, err := c.Client.AppsV1().Deployments("default").Create(ctx, deployment("spread", 3),
			metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		var pods []corev1.Pod
		check.Eventually(t, "the replicas are ready", func() error {
			d, err := c.Client.AppsV1().Deployments("default").Get(ctx, "spread", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if d.Status.ReadyReplicas != 3 {
				return fmt.Errorf("%d of 3 replicas are ready", d.Status.ReadyReplicas)
			}
			list, err := c.Client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=spread"})
			if err != nil {
				return err
			}
			pods = list.Items
			return nil
		})
		zones := map[string]bool{}
		for _, pod := range pods {
			node, err := c.Client.CoreV1().Nodes().Get(ctx, pod.Spec.NodeName, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			zones[node.Labels[corev1.LabelTopologyZone]] = true
		}
		if len(pods) != 3 || len(zones) != 3 { // the scheduler's own spreading, on nodes that are empty and even
			t.Errorf("%d pods are in the zones %v, want 3 in 3", len(pods), zones)
		}
		if err := c.Client.AppsV1().Deployments("default").Delete(ctx, "spread", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		check.Eventually(t, "the deleted pods are gone", func() error {
			list, err := c.Client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=spread"})
			if err != nil {
				return err
			}
			if len(list.Items) > 0 {
				return fmt.Errorf("%d deleted pods are still there", len(list.Items))
			}
			return nil
		})
	})

	t.Run("has nodes with an older kubelet and other zones where asked", func(t *testing.T) {
		names, err := c.AddNodes(ctx, 2, cluster.NodeSpec{
			Zones: []string{"zone-x"}, KubeletVersion: "v1.28.5", NamePrefix: "old", Labels: map[string]string{"pool": "spot"},
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			node, err := c.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if node.Status.NodeInfo.KubeletVersion != "v1.28.5" || node.Labels[corev1.LabelTopologyZone] != "zone-x" ||
				node.Labels["pool"] != "spot" {
				t.Errorf("node %s has labels %v and %+v", name, node.Labels, node.Status.NodeInfo)
			}
		}
	})

	t.Run("obeys kubectl", func(t *testing.T) {
		out, err := cluster.Run(c.KubectlCommand(ctx, "get", "nodes", "--output=name"))
		if err != nil || !strings.Contains(out, "node/node-0\n") {
			t.Errorf("kubectl: %v\n%s", err, out)
		}
	})

	t.Run("calls a webhook through a Service", func(t *testing.T) { testWebhookService(t, c) })

	t.Run("keeps its state over a restart of the API server", func(t *testing.T) {
		if _, err := c.Client.CoreV1().ConfigMaps("default").Create(ctx,
			&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		before := c.PIDs()[cluster.APIServer]
		if err := c.StartAPIServer(ctx); err == nil {
			t.Error("a second API server was started beside the first")
		}
		if err := c.StopAPIServer(ctx); err != nil {
			t.Fatal(err)
		}
		if running(before) {
			t.Errorf("API server (process %d) runs after it was stopped", before)
		}
		if _, err := c.Client.CoreV1().ConfigMaps("default").Get(ctx, "kept", metav1.GetOptions{}); err == nil {
			t.Error("somebody answers in place of the stopped API server")
		}
		if err := c.StartAPIServer(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Client.CoreV1().ConfigMaps("default").Get(ctx, "kept", metav1.GetOptions{}); err != nil {
			t.Errorf("the object from before the restart: %v", err)
		}
		// The other components come back to it.
		if _, err := c.Client.AppsV1().Deployments("default").Create(ctx, deployment("after", 2),
			metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		check.Eventually(t, "the replicas are ready", func() error {
			d, err := c.Client.AppsV1().Deployments("default").Get(ctx, "after", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if d.Status.ReadyReplicas != 2 {
				return fmt.Errorf("%d of 2 replicas are ready", d.Status.ReadyReplicas)
			}
			return nil
		})
		if len(c.PIDs()) != 5 {
			t.Errorf("running are %v, want five components", c.PIDs())
		}
	})

	t.Run("runs beside another one", func(t *testing.T) {
		other, err := cluster.Start(ctx, cluster.Config{Components: []string{}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := other.Stop(); err != nil {
				t.Error(err)
			}
		}()
		if other.RESTConfig().Host == c.RESTConfig().Host {
			t.Errorf("both are at %s", other.RESTConfig().Host)
		}
		if _, err := other.Client.CoreV1().ConfigMaps("default").Get(ctx, "kept", metav1.GetOptions{}); err == nil {
			t.Error("an object of the first cluster is in the second")
		}
		if _, err := other.AddNodes(ctx, 1, cluster.NodeSpec{}); err == nil {
			t.Error("nodes were added without anything that makes them Ready")
		}
	})

	t.Run("is used, and left alone, when KUBECONFIG names it", func(t *testing.T) {
		t.Setenv("KUBECONFIG", c.Kubeconfig)
		handle, err := cluster.Open(ctx, cluster.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if handle.Embedded {
			t.Error("a cluster was started although KUBECONFIG is set")
		}
		if _, err := handle.Client.CoreV1().ConfigMaps("default").Get(ctx, "kept", metav1.GetOptions{}); err != nil {
			t.Errorf("read an object of the existing cluster: %v", err)
		}
		for name, err := range map[string]error{
			"StopAPIServer":  handle.StopAPIServer(ctx),
			"StartAPIServer": handle.StartAPIServer(ctx),
			"WebhookService": handle.WebhookService(ctx, "default", "webhook", 443),
			"StartProgram":   handle.StartProgram("true", "true"),
		} {
			if !errors.Is(err, cluster.ErrEmbeddedOnly) {
				t.Errorf("%s: %v, want ErrEmbeddedOnly", name, err)
			}
		}
		if _, err := handle.AddNodes(ctx, 1, cluster.NodeSpec{}); !errors.Is(err, cluster.ErrEmbeddedOnly) {
			t.Errorf("AddNodes: %v, want ErrEmbeddedOnly", err)
		}
		if _, err := cluster.Run(handle.KubectlCommand(ctx, "get", "configmap", "kept")); err != nil {
			t.Error(err)
		}
		if err := handle.Stop(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(handle.Dir); !os.IsNotExist(err) {
			t.Errorf("directory %s is still there: %v", handle.Dir, err)
		}
		if len(c.PIDs()) != 5 {
			t.Errorf("running are %v, want five components", c.PIDs())
		}
	})

	t.Run("says when a component ends by itself", func(t *testing.T) {
		if err := syscall.Kill(c.PIDs()[cluster.Scheduler], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		check.Eventually(t, "the log tells that it ended", func() error {
			if !strings.Contains(log.String(), "kube-scheduler ended: signal: killed") {
				return fmt.Errorf("nothing about it in the log: %s", log.String())
			}
			return nil
		})
	})

	t.Run("leaves nothing when it is stopped", func(t *testing.T) {
		pids := c.PIDs()
		if len(pids) != 4 {
			t.Errorf("running are %v, want four components", pids)
		}
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
		for name, pid := range pids {
			if running(pid) {
				t.Errorf("%s (process %d) is still running", name, pid)
			}
		}
		if _, err := os.Stat(c.Dir); !os.IsNotExist(err) {
			t.Errorf("directory %s is still there: %v", c.Dir, err)
		}
		if err := c.StartAPIServer(ctx); err == nil {
			t.Error("the API server of a stopped cluster was started")
		}
		if err := c.Stop(); err != nil {
			t.Errorf("second stop: %v", err)
		}
	})
}

func TestStartRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		config cluster.Config
		says   string // a part that a user needs, no whole message
	}{
		"a component that doesn't exist": {cluster.Config{Components: []string{"kube-schedular"}}, cluster.Scheduler},
		"flags for what doesn't run": {cluster.Config{Components: []string{},
			Flags: map[string][]string{cluster.Kwok: {"-v"}}}, cluster.Kwok},
		"a flag that the API server doesn't know, with its own words": {
			cluster.Config{Components: []string{}, Flags: map[string][]string{cluster.APIServer: {"--no-such-flag"}}},
			"unknown flag: --no-such-flag"},
		"a scheduler configuration that isn't YAML": {
			cluster.Config{Components: []string{cluster.Scheduler}, SchedulerConfig: "profiles: ["}, "SchedulerConfig"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := cluster.Start(t.Context(), tt.config)
			if err == nil {
				t.Fatal(errors.Join(errors.New("it started"), c.Stop()))
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error doesn't say %q: %v", tt.says, err)
			}
		})
	}
}

func TestBuildNamesTheToolsThereAre(t *testing.T) {
	_, err := cluster.Build(t.Context(), nil, "kube-schedular")
	if err == nil || !strings.Contains(err.Error(), cluster.Scheduler) {
		t.Errorf("error is %v, want one that names the allowed tools", err)
	}
}

func deployment(name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "app"}}},
			},
		},
	}
}

// running says whether the process exists and is no zombie that an init process may never wait for.
func running(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		_, noProc := os.Stat("/proc/self")
		return noProc != nil // where there is no /proc, the signal has said it all
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z")
}

// A syncBuffer is a buffer that several goroutines may use.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// port returns the port of a listener.
func port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

package rights

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
	"github.com/evenkeel/evenkeel/e2e/manifests"
)

// overlays are those that bring rights, with the rights that they bring.
var overlays = []struct {
	dir, flag string
	rights    []string
	// works returns an error where evenkeel doesn't do what the overlay is for.
	works func(ctx context.Context, c *cluster.Cluster, namespace string) error
}{
	{"deploy/scale-in", "--scale-in=keep-zones", []string{"patch pods."}, marks},
	{"deploy/surge", "--surge",
		[]string{"get deployments.apps", "get persistentvolumeclaims.", "get pods.", "patch deployments.apps"}, surges},
}

// ruled returns the rights in the rules of a directory of the repository.
func ruled(t *testing.T, dir string) []string {
	t.Helper()
	root, err := installation.Root()
	check.Must(t, err)
	bin, err := cluster.Build(t.Context(), os.Stderr, cluster.Kubectl)
	check.Must(t, err)
	out, err := command(t, filepath.Join(bin, cluster.Kubectl), "kustomize", filepath.Join(root, dir))
	check.Must(t, err)
	objects, err := manifests.Read([]byte(out))
	check.Must(t, err)
	var all []string
	for _, object := range objects {
		if object.GetKind() != "ClusterRole" && object.GetKind() != "Role" {
			continue
		}
		role, err := manifests.As[rbacv1.ClusterRole](object)
		check.Must(t, err)
		for _, rule := range role.Rules {
			for _, group := range rule.APIGroups {
				for _, name := range rule.Resources {
					for _, verb := range rule.Verbs {
						all = append(all, right{group, name, verb}.String())
					}
				}
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// TestAPlainInstallationHasTheRightsOfBefore compares the rights of deploy/ with
// testdata/plain.txt: whoever adds one has to write it there. Each overlay adds what it says, and
// nothing else.
func TestAPlainInstallationHasTheRightsOfBefore(t *testing.T) {
	written, err := os.ReadFile(filepath.Join("testdata", "plain.txt"))
	check.Must(t, err)
	plain := ruled(t, "deploy")
	if diff := cmp.Diff(strings.Fields(strings.ReplaceAll(string(written), " ", "_")),
		strings.Fields(strings.ReplaceAll(strings.Join(plain, "\n"), " ", "_"))); diff != "" {
		t.Errorf("rights of deploy/ (-testdata/plain.txt +deploy):\n%s", diff)
	}
	for _, o := range overlays {
		added := slices.DeleteFunc(ruled(t, o.dir), func(r string) bool { return slices.Contains(plain, r) })
		if diff := cmp.Diff(o.rights, added); diff != "" {
			t.Errorf("rights of %s (-want +got):\n%s", o.dir, diff)
		}
	}
}

// TestTheRightsOfOverlaysAreNeeded takes each right of an overlay away, and sees that evenkeel doesn't do its work.
func TestTheRightsOfOverlaysAreNeeded(t *testing.T) {
	if os.Getenv("KUBECONFIG") != "" {
		t.Skip("KUBECONFIG names an existing cluster, whose rights are not ours to take away")
	}
	ctx := t.Context()
	c, err := cluster.Start(ctx, cluster.Config{Log: os.Stderr})
	check.Must(t, err)
	t.Cleanup(func() { check.Must(t, c.Stop()) })
	_, err = c.AddNodes(ctx, 3, cluster.NodeSpec{})
	check.Must(t, err)
	for _, o := range overlays {
		t.Run(o.dir, func(t *testing.T) {
			evenkeel, err := installation.Install(ctx, c,
				installation.Options{Name: filepath.Base(o.dir), Deploy: o.dir, Flags: []string{o.flag}})
			check.Must(t, err)
			defer func() { check.Must(t, evenkeel.Uninstall(context.Background())) }()
			try := func(limit time.Duration) error {
				ns, err := c.Client.CoreV1().Namespaces().Create(ctx,
					&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "shop-",
						Labels:      map[string]string{"evenkeel.dev/inject": "enabled"},
						Annotations: map[string]string{"evenkeel.dev/drain": "surge"}}}, metav1.CreateOptions{})
				if err != nil {
					return err
				}
				defer func() {
					_ = c.Client.CoreV1().Namespaces().Delete(context.WithoutCancel(ctx), ns.Name, metav1.DeleteOptions{})
				}()
				limited, cancel := context.WithTimeout(ctx, limit)
				defer cancel()
				return o.works(limited, c, ns.Name)
			}
			check.Must(t, try(time.Minute))
			for _, text := range o.rights {
				verb, rest, _ := strings.Cut(text, " ")
				name, group, _ := strings.Cut(rest, ".")
				restore := without(t, c, right{group, name, verb})
				if err := try(15 * time.Second); err == nil {
					t.Errorf("%s: evenkeel does its work without the right to %s", o.dir, text)
				} else {
					t.Logf("without the right to %s: %v", text, err)
				}
				restore()
			}
			check.Must(t, try(time.Minute))
		})
	}
}

// run makes a Deployment and returns its pods when they are ready.
func run(
	ctx context.Context, c *cluster.Cluster, namespace string, replicas int32, spec corev1.PodSpec,
) ([]corev1.Pod, error) {
	labels := map[string]string{"app": "web"}
	err := tried(ctx, func() error {
		_, err := c.Client.AppsV1().Deployments(namespace).Create(ctx,
			&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{Replicas: &replicas,
				Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec}}},
			metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return nil, err
	}
	var pods []corev1.Pod
	err = tried(ctx, func() error {
		d, err := c.Client.AppsV1().Deployments(namespace).Get(ctx, "web", metav1.GetOptions{})
		if err == nil && d.Status.AvailableReplicas != replicas {
			err = fmt.Errorf("%d of %d pods are available", d.Status.AvailableReplicas, replicas)
		}
		if err != nil {
			return err
		}
		list, err := c.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=web"})
		if err == nil {
			pods = list.Items
		}
		return err
	})
	return pods, err
}

// tried tries until ctx ends, and returns the last error.
func tried(ctx context.Context, try func() error) error {
	end, _ := ctx.Deadline()
	return until(time.Until(end), try)
}

var container = corev1.Container{Name: "web", Image: "web", Ports: []corev1.ContainerPort{{ContainerPort: 80}}}

// marks waits until a pod of each zone goes last.
func marks(ctx context.Context, c *cluster.Cluster, namespace string) error {
	if _, err := run(ctx, c, namespace, 6, corev1.PodSpec{Containers: []corev1.Container{container}}); err != nil {
		return err
	}
	return tried(ctx, func() error {
		pods, err := c.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		marked := 0
		for _, p := range pods.Items {
			if p.Annotations["controller.kubernetes.io/pod-deletion-cost"] != "" {
				marked++
			}
		}
		if marked != 3 {
			return fmt.Errorf("%d pods are marked", marked)
		}
		return nil
	})
}

// surges evicts the only pod of a Deployment, which has a claim that many nodes can mount, and expects to be refused.
func surges(ctx context.Context, c *cluster.Cluster, namespace string) error {
	none, size := "", corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
	if _, err := c.Client.CoreV1().PersistentVolumes().Create(ctx,
		&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: namespace}, Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: modes, ClaimRef: &corev1.ObjectReference{Namespace: namespace, Name: "data"},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				HostPath: &corev1.HostPathVolumeSource{Path: "/data"}}}},
		metav1.CreateOptions{}); err != nil {
		return err
	}
	defer func() {
		_ = c.Client.CoreV1().PersistentVolumes().Delete(context.WithoutCancel(ctx), namespace, metav1.DeleteOptions{})
	}()
	if _, err := c.Client.CoreV1().PersistentVolumeClaims(namespace).Create(ctx,
		&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"},
			Spec: corev1.PersistentVolumeClaimSpec{AccessModes: modes, StorageClassName: &none, VolumeName: namespace,
				Resources: corev1.VolumeResourceRequirements{Requests: size}}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	pods, err := run(ctx, c, namespace, 1,
		corev1.PodSpec{Containers: []corev1.Container{container}, Volumes: []corev1.Volume{{Name: "data",
			VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}})
	if err != nil {
		return err
	}
	err = c.Client.PolicyV1().Evictions(namespace).Evict(ctx,
		&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pods[0].Name, Namespace: namespace}})
	switch {
	case err == nil:
		return errors.New("the eviction passed")
	case apierrors.IsTooManyRequests(err):
		return nil
	}
	return err
}

// command runs a program and returns what it says.
func command(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).Output()
	return string(out), err
}

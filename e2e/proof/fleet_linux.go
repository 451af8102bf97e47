package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/util/retry"

	"github.com/evenkeel/evenkeel/e2e/proof/load"
	"github.com/evenkeel/evenkeel/e2e/proof/report"
	"github.com/evenkeel/evenkeel/policy"
)

// serverImage is the image of all servers. None holds more than the program; the one that is about
// that has a name of its own.
const (
	serverImage     = "evenkeel.test/server"
	distrolessImage = "evenkeel.test/distroless"
)

// appContainer is the container of a pod that clients speak to.
const appContainer = "app"

func serverKinds() []string {
	return []string{report.Slow, report.AtOnce, report.Drains, report.Distroless, report.Sidecar}
}

// deployment returns a server without a probe, hook, affinity or budget of its own.
func deployment(kind string, replicas int32) *appsv1.Deployment {
	args := map[string][]string{
		report.Slow:       {"-start=3s", "-stop=" + load.StopShutdown},
		report.AtOnce:     {"-stop=" + load.StopAtOnce},
		report.Drains:     {"-stop=" + load.StopDrain},
		report.Distroless: {"-stop=" + load.StopShutdown},
		report.Sidecar:    {"-stop=" + load.StopShutdown},
	}[kind]
	app := container(appContainer, append(args, "-grpc=:9090")...)
	app.Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}, {Name: "grpc", ContainerPort: 9090}}
	pod := corev1.PodSpec{Containers: []corev1.Container{app}}
	switch kind {
	case report.Distroless:
		yes, no := true, false
		pod.Containers[0].Image = distrolessImage + ":v1"
		pod.Containers[0].SecurityContext = &corev1.SecurityContext{RunAsNonRoot: &yes, ReadOnlyRootFilesystem: &yes,
			AllowPrivilegeEscalation: &no,
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
	case report.Sidecar:
		metrics := container("metrics", "-http=:9100")
		metrics.Ports = []corev1.ContainerPort{{Name: "metrics", ContainerPort: 9100}}
		pod.Containers = append(pod.Containers, metrics)
		always := corev1.ContainerRestartPolicyAlways
		proxy := container("proxy", "-http=:15000")
		proxy.RestartPolicy = &always
		pod.InitContainers = []corev1.Container{proxy}
	}
	labels := map[string]string{"app": kind}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: kind},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod},
		},
	}
}

func container(name string, args ...string) corev1.Container {
	return corev1.Container{
		Name: name, Image: serverImage + ":v1", Args: args, ImagePullPolicy: corev1.PullNever,
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("5m"), corev1.ResourceMemory: resource.MustParse("16Mi")}},
	}
}

// makeNamespaces makes the namespaces of both sides, which differ in one label, and for a control in annotations.
func (e *env) makeNamespaces(ctx context.Context, annotations map[string]string) error {
	for _, side := range report.Sides() {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: side}}
		if side == report.With {
			namespace.Labels, namespace.Annotations = map[string]string{policy.InjectLabel: policy.Enabled}, annotations
		}
		if _, err := e.Client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("make namespace: %w", err)
		}
		for {
			_, err := e.Client.CoreV1().ServiceAccounts(side).Get(ctx, "default", metav1.GetOptions{})
			if err == nil {
				break
			}
			if err := pause(ctx, 50*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return nil
}

// deploy creates the servers on both sides, with a Service each, and returns the Services.
func (e *env) deploy(ctx context.Context, kinds []string, replicas int32) ([]load.Target, error) {
	var targets []load.Target
	for _, side := range report.Sides() {
		for _, kind := range kinds {
			t, err := e.create(ctx, side, deployment(kind, replicas))
			if err != nil {
				return nil, err
			}
			targets = append(targets, t)
		}
	}
	return targets, e.waitComplete(ctx, nil, kinds...)
}

// create creates a server with its Service.
func (e *env) create(ctx context.Context, side string, d *appsv1.Deployment) (load.Target, error) {
	e.keepLog(&d.Spec.Template.Spec)
	if _, err := e.Client.AppsV1().Deployments(side).Create(ctx, d, metav1.CreateOptions{}); err != nil {
		return load.Target{}, fmt.Errorf("create server: %w", err)
	}
	familyPolicy := corev1.IPFamilyPolicySingleStack
	if len(e.families) > 1 {
		familyPolicy = corev1.IPFamilyPolicyRequireDualStack
	}
	service, err := e.Client.CoreV1().Services(side).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: d.Name},
		Spec: corev1.ServiceSpec{Selector: d.Spec.Selector.MatchLabels, Ports: []corev1.ServicePort{
			{Name: "http", Port: 80, TargetPort: intstr.FromString("http")},
			{Name: "grpc", Port: 9090, TargetPort: intstr.FromString("grpc")},
		}, IPFamilies: e.families, IPFamilyPolicy: &familyPolicy},
	}, metav1.CreateOptions{})
	if err != nil {
		return load.Target{}, fmt.Errorf("create service: %w", err)
	}
	t := load.Target{Side: side, Server: d.Name, IP: service.Spec.ClusterIP}
	for _, arg := range d.Spec.Template.Spec.Containers[0].Args {
		if stops, ok := strings.CutPrefix(arg, "-stop="); ok {
			t.Stops = stops
		}
		if age, ok := strings.CutPrefix(arg, maxAgeFlag); ok {
			if t.Recycles, err = time.ParseDuration(age); err != nil {
				return load.Target{}, err
			}
		}
	}
	return t, nil
}

// keepLog has the server of a pod write which requests it answers to a directory of its node, which outlives it.
func (e *env) keepLog(pod *corev1.PodSpec) {
	pod.Volumes = append(pod.Volumes, corev1.Volume{Name: "answers",
		VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: e.answers}}})
	app := &pod.Containers[0]
	app.Args = append(app.Args, "-answers=/answers")
	app.VolumeMounts = append(app.VolumeMounts, corev1.VolumeMount{Name: "answers", MountPath: "/answers"})
}

// maxAgeFlag is the flag of a server that is followed by the age at which it ends connections.
const maxAgeFlag = "-max-age="

// recycling returns d with servers that end connections at an age.
func recycling(d *appsv1.Deployment, age time.Duration) *appsv1.Deployment {
	app := &d.Spec.Template.Spec.Containers[0]
	app.Args = append(app.Args, maxAgeFlag+age.String())
	return d
}

// remove deletes the servers and their Services, and waits until their pods are gone.
func (e *env) remove(ctx context.Context, kinds ...string) error {
	now := int64(0) // seconds of grace: nobody is served any more
	for _, side := range report.Sides() {
		for _, kind := range kinds {
			if err := e.Client.AppsV1().Deployments(side).Delete(ctx, kind, metav1.DeleteOptions{}); err != nil &&
				!apierrors.IsNotFound(err) {
				return err
			}
			if err := e.Client.CoreV1().Services(side).Delete(ctx, kind, metav1.DeleteOptions{}); err != nil &&
				!apierrors.IsNotFound(err) {
				return err
			}
		}
	}
	return e.wait(ctx, "the servers to be gone", func() error {
		left := 0
		for _, side := range report.Sides() {
			for _, kind := range kinds {
				selector := metav1.ListOptions{LabelSelector: "app=" + kind}
				if err := e.Client.CoreV1().Pods(side).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now},
					selector); err != nil {
					return err
				}
				pods, err := e.Client.CoreV1().Pods(side).List(ctx, selector)
				if err != nil {
					return err
				}
				left += len(pods.Items)
			}
		}
		if left > 0 {
			return fmt.Errorf("%d pods are left", left)
		}
		return nil
	})
}

// update changes the servers on the sides that have them.
func (e *env) update(ctx context.Context, kinds []string, change func(*appsv1.Deployment)) error {
	for _, kind := range kinds {
		for _, side := range report.Sides() {
			err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
				d, err := e.Client.AppsV1().Deployments(side).Get(ctx, kind, metav1.GetOptions{})
				if apierrors.IsNotFound(err) {
					return nil
				}
				if err != nil {
					return err
				}
				change(d)
				_, err = e.Client.AppsV1().Deployments(side).Update(ctx, d, metav1.UpdateOptions{})
				return err
			})
			if err != nil {
				return fmt.Errorf("update %s %s: %w", side, kind, err)
			}
		}
	}
	return nil
}

// otherImage is a change to the servers' images: from v1 to v2 and back.
func otherImage(d *appsv1.Deployment) {
	swap := func(containers []corev1.Container) {
		for i := range containers {
			name, tag, _ := strings.Cut(containers[i].Image, ":")
			containers[i].Image = name + ":" + map[string]string{"v1": "v2", "v2": "v1"}[tag]
		}
	}
	swap(d.Spec.Template.Spec.Containers)
	swap(d.Spec.Template.Spec.InitContainers)
}

// waitComplete waits until all servers run as they are to, and no pod of earlier ones is left. The
// time that each side took since the operation began goes into the outcome, if there is one.
func (e *env) waitComplete(ctx context.Context, o *report.Outcome, kinds ...string) error {
	return e.wait(ctx, "the servers to be complete", func() error {
		var incomplete error
		for _, side := range report.Sides() {
			err := e.complete(ctx, side, kinds...)
			if err == nil && o != nil && o.Took[side] == 0 {
				o.Took[side] = time.Since(o.Started)
			}
			incomplete = errors.Join(incomplete, err)
		}
		return incomplete
	})
}

// waitAvailable waits until all servers have their replicas.
func (e *env) waitAvailable(ctx context.Context, kinds ...string) error {
	return e.wait(ctx, "the servers to be available", func() error {
		for _, side := range report.Sides() {
			for _, kind := range kinds {
				d, err := e.Client.AppsV1().Deployments(side).Get(ctx, kind, metav1.GetOptions{})
				if err != nil {
					return err
				}
				if err := available(d); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// complete returns nil if the servers of a side run as they are to, those that it has.
func (e *env) complete(ctx context.Context, side string, kinds ...string) error {
	for _, kind := range kinds {
		d, err := e.Client.AppsV1().Deployments(side).Get(ctx, kind, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		if want := *d.Spec.Replicas; d.Status.ObservedGeneration < d.Generation || d.Status.UpdatedReplicas != want ||
			d.Status.AvailableReplicas != want || d.Status.Replicas != want {
			return fmt.Errorf("%s %s has %d of %d replicas", side, kind, d.Status.AvailableReplicas, want)
		}
		pods, err := e.Client.CoreV1().Pods(side).List(ctx, metav1.ListOptions{LabelSelector: "app=" + kind})
		if err != nil {
			return err
		}
		if len(pods.Items) != int(*d.Spec.Replicas) {
			return fmt.Errorf("%s %s has %d pods", side, kind, len(pods.Items))
		}
	}
	return nil
}

// wait polls for eight minutes at most.
func (e *env) wait(ctx context.Context, what string, try func() error) error {
	deadline := time.Now().Add(8 * time.Minute)
	for {
		err := try()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		if err := pause(ctx, 250*time.Millisecond); err != nil {
			return err
		}
	}
}

// pause waits, and returns an error if the context ends first.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// named returns d under another name, so that several of one kind can stand side by side.
func named(d *appsv1.Deployment, name string) *appsv1.Deployment {
	d.Name = name
	labels := map[string]string{"app": name}
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	d.Spec.Template.Labels = maps.Clone(labels)
	return d
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/image"
	"github.com/evenkeel/evenkeel/e2e/installation"
	"github.com/evenkeel/evenkeel/e2e/proof/report"
	"github.com/evenkeel/evenkeel/policy"
)

// evenkeelImage is evenkeel's own image, which has the tags v1 and v2 for its upgrade.
const evenkeelImage = "evenkeel.test/evenkeel"

// images builds the images into dir and returns their files.
func images(ctx context.Context, dir string) ([]string, error) {
	root, err := installation.Root()
	if err != nil {
		return nil, err
	}
	e2e := filepath.Join(root, "e2e")
	var files []string
	for name, options := range map[string]image.Options{
		"evenkeel.tar": {Module: root, Package: ".", Name: evenkeelImage + ":v1", Program: "evenkeel",
			LinkerFlags: "-X main.version=v1"},
		"server.tar": {Module: e2e, Package: "./proof/server", Name: serverImage + ":v1", Program: "server"},
	} {
		file := filepath.Join(dir, name)
		if err := image.Write(ctx, file, options); err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

// tagImages gives all images a second version, so that there is something to update to.
func (e *env) tagImages() error {
	if err := e.Tag(serverImage+":v1", distrolessImage+":v1"); err != nil {
		return err
	}
	for _, name := range []string{evenkeelImage, serverImage, distrolessImage} {
		if err := e.Tag(name+":v1", name+":v2"); err != nil {
			return err
		}
	}
	return nil
}

// install installs evenkeel with kubectl apply -k, and before that, if the chart is to be tried as
// well, with helm, whose release it removes again. It returns how long each took.
func (e *env) install(ctx context.Context, chart bool) ([]report.Installed, error) {
	var times []report.Installed
	if chart {
		helm, err := e.timed(ctx, "helm install", e.helmInstall)
		if err != nil {
			return nil, err
		}
		times = append(times, helm)
		if err := e.helmTest(ctx); err != nil {
			return nil, err
		}
		if err := e.helm(ctx, "uninstall", "evenkeel", "--namespace="+installation.Namespace); err != nil {
			return nil, err
		}
		now := int64(0) // seconds of grace: its pods would sleep
		if err := e.Client.CoreV1().Pods(installation.Namespace).DeleteCollection(ctx,
			metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{}); err != nil {
			return nil, err
		}
		if err := e.kubectl(ctx, "delete", "namespace", installation.Namespace, "--timeout=4m"); err != nil {
			return nil, err
		}
	}
	apply, err := e.timed(ctx, "kubectl apply -k", e.applyKustomization)
	if err != nil {
		return nil, err
	}
	return append(times, apply), e.kubectl(ctx, "--namespace="+installation.Namespace, "rollout", "status",
		"deployment/evenkeel", "--timeout=4m")
}

// timed installs evenkeel and measures how long it took until a pod got its defaults.
func (e *env) timed(ctx context.Context, command string,
	install func(context.Context) error) (report.Installed, error) {
	began := time.Now()
	if err := install(ctx); err != nil {
		return report.Installed{}, err
	}
	err := e.wait(ctx, "the first pod with defaults", func() error {
		d := deployment(report.Drains, 1)
		pod, err := e.Client.CoreV1().Pods(report.With).Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "probe", Labels: map[string]string{"app": "probe"}}, Spec: d.Spec.Template.Spec,
		}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return err
		}
		if pod.Annotations[policy.InjectedAnnotation] == "" {
			return errors.New("a pod got no defaults")
		}
		return nil
	})
	i := report.Installed{Command: command, Took: time.Since(began)}
	fmt.Fprintln(e.log, i.Sentence())
	return i, err
}

// applyKustomization applies deploy/surge, which is deploy/ with what a drain that surges needs, with our image, as a
// user's own kustomization does.
func (e *env) applyKustomization(ctx context.Context) error {
	root, err := installation.Root()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "evenkeel-proof-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	base, err := filepath.Rel(dir, filepath.Join(root, "deploy", "surge"))
	if err != nil {
		return err
	}
	kustomization := fmt.Sprintf("resources: [%q]\nimages: [{name: evenkeel/evenkeel, newName: %s, newTag: v1}]\n", base,
		evenkeelImage)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(kustomization), 0o600); err != nil {
		return err
	}
	return e.kubectl(ctx, "apply", "-k", dir)
}

// helmInstall installs the chart with our image.
func (e *env) helmInstall(ctx context.Context) error {
	root, err := installation.Root()
	if err != nil {
		return err
	}
	return e.helm(ctx, "install", "evenkeel", filepath.Join(root, "deploy", "chart"),
		"--namespace="+installation.Namespace, "--create-namespace",
		"--set=image.repository="+evenkeelImage, "--set=image.tag=v1")
}

// helmTest runs helm test, which has to pass, and to fail once no replica is left.
func (e *env) helmTest(ctx context.Context) error {
	namespace := "--namespace=" + installation.Namespace
	if err := e.kubectl(ctx, namespace, "rollout", "status", "deployment/evenkeel", "--timeout=4m"); err != nil {
		return err
	}
	if err := e.helm(ctx, "test", "evenkeel", namespace, "--timeout=4m"); err != nil {
		return err
	}
	if err := e.kubectl(ctx, namespace, "scale", "deployment/evenkeel", "--replicas=0"); err != nil {
		return err
	}
	if err := e.helm(ctx, "test", "evenkeel", namespace, "--timeout=4m"); err == nil {
		return errors.New("helm test passes without a replica")
	}
	if e.kubectl(ctx, "get", "clusterrole", "evenkeel-check") == nil {
		return errors.New("a helm test that failed leaves its ClusterRole")
	}
	fmt.Fprintln(e.log, "helm test passed with its replicas, and failed without")
	return nil
}

// helm runs helm.
func (e *env) helm(ctx context.Context, args ...string) error {
	_, err := cluster.Run(cluster.HelmCommand(ctx, e.Dir, e.Kubeconfig, args...))
	return err
}

// kubectl runs kubectl.
func (e *env) kubectl(ctx context.Context, args ...string) error {
	_, err := cluster.Run(e.KubectlCommand(ctx, args...))
	return err
}

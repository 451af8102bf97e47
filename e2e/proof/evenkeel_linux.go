package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/image"
	"github.com/evenkeel/evenkeel/e2e/installation"
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
		"evenkeel.tar": {Module: root, Package: ".", Name: evenkeelImage + ":v1", Program: "evenkeel", LinkerFlags: "-X main.version=v1"},
		"server.tar":   {Module: e2e, Package: "./proof/server", Name: serverImage + ":v1", Program: "server"},
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

// install installs evenkeel from deploy/ as the README says, with our image, and waits until a pod gets its defaults.
func (e *env) install(ctx context.Context) error {
	root, err := installation.Root()
	if err != nil {
		return err
	}
	render, err := e.KubectlCommand(ctx, "kustomize", filepath.Join(root, "deploy"))
	if err != nil {
		return err
	}
	render.Stderr = os.Stderr
	manifests, err := render.Output()
	if err != nil {
		return fmt.Errorf("render deploy/: %w", err)
	}
	imageLine := regexp.MustCompile(`(?m)^(\s*(?:- )?)image: .*evenkeel.*$`)
	if !imageLine.Match(manifests) {
		return errors.New("render deploy/: no image of evenkeel in it")
	}
	manifests = imageLine.ReplaceAll(manifests, []byte("${1}image: "+evenkeelImage+":v1"))
	apply, err := e.KubectlCommand(ctx, "apply", "-f", "-")
	if err != nil {
		return err
	}
	apply.Stdin = bytes.NewReader(manifests)
	if out, err := apply.CombinedOutput(); err != nil {
		return fmt.Errorf("apply deploy/: %w\n%s", err, out)
	}
	if bytes.Contains(manifests, []byte("secretName: evenkeel-tls")) {
		if err := e.certificate(ctx); err != nil {
			return err
		}
	}
	// A pod that hasn't been handed its Secret yet looks again only after a minute or so.
	if err := e.kubectl(ctx, "--namespace="+installation.Namespace, "rollout", "status", "deployment/evenkeel", "--timeout=4m"); err != nil {
		return fmt.Errorf("wait for evenkeel: %w", err)
	}
	return e.wait(ctx, "the first pod with defaults", func() error {
		d := deployment(drains, 1)
		pod, err := e.Client.CoreV1().Pods(with).Create(ctx, &corev1.Pod{
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
}

// certificate makes evenkeel's certificate and tells the API server of its authority.
func (e *env) certificate(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "evenkeel-proof-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ca, err := installation.WriteCertificate(dir, installation.Host(installation.Service), 24*time.Hour)
	if err != nil {
		return err
	}
	err = e.kubectl(ctx, "--namespace="+installation.Namespace, "create", "secret", "tls", "evenkeel-tls",
		"--cert="+filepath.Join(dir, "tls.crt"), "--key="+filepath.Join(dir, "tls.key"))
	if err != nil {
		return fmt.Errorf("store certificate: %w", err)
	}
	bundle := base64.StdEncoding.EncodeToString(ca)
	patch := fmt.Sprintf(`[{"op":"add","path":"/webhooks/0/clientConfig/caBundle","value":%q},{"op":"add","path":"/webhooks/1/clientConfig/caBundle","value":%q}]`, bundle, bundle)
	if err := e.kubectl(ctx, "patch", "mutatingwebhookconfiguration", "evenkeel", "--type=json", "-p", patch); err != nil {
		return fmt.Errorf("store authority: %w", err)
	}
	return nil
}

// kubectl runs kubectl.
func (e *env) kubectl(ctx context.Context, args ...string) error {
	cmd, err := e.KubectlCommand(ctx, args...)
	if err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %s: %w\n%s", args[0], err, out)
	}
	return nil
}

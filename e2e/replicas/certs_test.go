package replicas

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

var (
	rotating = flag.Duration("rotating", 30*time.Second, "how long TestRotationUnderLoad goes on; 10m is the long form")
	lifetime = flag.Duration("authority-lifetime", 22500*time.Millisecond,
		"of the authorities in TestRotationUnderLoad; 45s, which means a rotation every 30 s, is the long form")
	creates = flag.Int("creates-per-second", 100, "how many Deployments a second the load creates; 500 is the long form")
)

// configuration returns the webhook configuration as it is.
func configuration(t *testing.T) *admissionregistrationv1.MutatingWebhookConfiguration {
	t.Helper()
	c, err := shared.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(t.Context(), "evenkeel",
		metav1.GetOptions{})
	check.Must(t, err)
	return c
}

func secret(t *testing.T) *corev1.Secret {
	t.Helper()
	s, err := shared.Client.CoreV1().Secrets(installation.Namespace).Get(t.Context(), "evenkeel-authority",
		metav1.GetOptions{})
	check.Must(t, err)
	return s
}

// TestRotationUnderLoad replaces leaves every second and authorities much more often than anybody would, with each
// review on a TLS connection of its own, while replicas are killed at whatever they do.
func TestRotationUnderLoad(t *testing.T) {
	s := start(t, "rotation", newConnections("--certificate-lifetime=1500ms", "--settle-time=1500ms",
		"--authority-lifetime="+lifetime.String())...)
	load := startLoad(t, *creates, false)
	bundles := map[string]bool{}
	begin := time.Now()
	kills := 0
	for time.Since(begin) < *rotating {
		bundles[string(configuration(t).Webhooks[0].ClientConfig.CABundle)] = true
		if rand.IntN(30) == 0 { //nolint:gosec // a choice
			s.kill(t, rand.IntN(3)) //nolint:gosec // a choice
			kills++
		}
		time.Sleep(100 * time.Millisecond) // between two looks
	}
	r := load.stop(t)
	t.Logf("SUMMARY rotation: in %v %v; %d bundles, %d kills", time.Since(begin).Round(time.Second), r,
		len(bundles), kills)
	if r.harmed() {
		t.Errorf("want none failed, bare or distrusted; first: %v %.300q", errors.Join(r.failed[:min(len(r.failed), 3)]...),
			r.calls[:min(len(r.calls), 3)])
	}
	if r.sent < int64(rotating.Seconds())*10 {
		t.Errorf("%d created, want more", r.sent)
	}
	if len(bundles) < 3 {
		t.Errorf("%d bundles, want three at least: old, both, new", len(bundles))
	}
}

// TestReplacingTheAuthorityInPlaceFails is the control of TestRotationUnderLoad: a certificate and the bundle replaced
// one after the other, as without a rotation, and then the same load.
func TestReplacingTheAuthorityInPlaceFails(t *testing.T) {
	dir := t.TempDir()
	write := func() []byte {
		ca, err := installation.WriteCertificate(dir, installation.Host(installation.Service), 24*time.Hour)
		check.Must(t, err)
		return ca
	}
	ca := write()
	publish := func() {
		patch := fmt.Appendf(nil,
			`[{"op":"add","path":"/webhooks/0/clientConfig/caBundle","value":%[1]s},{"op":"add",`+
				`"path":"/webhooks/1/clientConfig/caBundle","value":%[1]s}]`, quoted(t, ca))
		_, err := shared.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Patch(t.Context(), "evenkeel",
			types.JSONPatchType, patch, metav1.PatchOptions{})
		check.Must(t, err)
	}
	start(t, "in-place", newConnections("--tls-cert-file="+filepath.Join(dir, "tls.crt"),
		"--tls-key-file="+filepath.Join(dir, "tls.key"))...)
	publish()
	load := startLoad(t, *creates, false)
	ca = write()
	publish()
	check.Eventually(t, "the replicas have read the new certificate", func() error {
		_, injected, err := load.create(t.Context())
		if err != nil || !injected {
			return fmt.Errorf("not yet: %w", errors.Join(err))
		}
		return nil
	})
	r := load.stop(t)
	t.Log(r)
	if len(r.bare) == 0 || r.distrust == 0 {
		t.Error("want Deployments without defaults, and distrust in the API server's log")
	}
}

func quoted(t *testing.T, b []byte) []byte {
	t.Helper()
	out, err := json.Marshal(b)
	check.Must(t, err)
	return out
}

// TestTheSecretHealsUnderLoad spoils the Secret in every way, while replicas serve.
func TestTheSecretHealsUnderLoad(t *testing.T) {
	secrets := shared.Client.CoreV1().Secrets(installation.Namespace)
	// What another test left in it would be rotated out in the meantime, and the Secret not hold again what it held.
	if err := secrets.Delete(t.Context(), "evenkeel-authority", metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
		check.Must(t, err)
	}
	start(t, "secret", newConnections("--settle-time=1s")...)
	load := startLoad(t, *creates, false)
	patch := func(body string) error {
		_, err := secrets.Patch(t.Context(), "evenkeel-authority", types.MergePatchType, []byte(body), metav1.PatchOptions{})
		return err
	}
	for name, spoil := range map[string]func() error{
		"deleted":   func() error { return secrets.Delete(t.Context(), "evenkeel-authority", metav1.DeleteOptions{}) },
		"emptied":   func() error { return patch(`{"data":null}`) },
		"corrupted": func() error { return patch(`{"data":{"authorities.pem":"Z2FyYmFnZQ=="}}`) },
		"replaced by somebody else's": func() error {
			dir := t.TempDir()
			if _, err := installation.WriteCertificate(dir, "example.com", time.Hour); err != nil {
				return err
			}
			content, err := os.ReadFile(filepath.Join(dir, "tls.crt"))
			if err != nil {
				return err
			}
			return patch(`{"data":{"authorities.pem":` + string(quoted(t, content)) + `,"tls.crt":"eA=="}}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := secret(t).Data["authorities.pem"]
			check.Must(t, spoil())
			check.Eventually(t, "the Secret holds what it held", func() error {
				s, err := secrets.Get(t.Context(), "evenkeel-authority", metav1.GetOptions{})
				if apierrors.IsNotFound(err) || err == nil && !bytes.Equal(s.Data["authorities.pem"], before) {
					return errors.New("not yet")
				}
				return err
			})
		})
	}
	check.Eventually(t, "some more are created", func() error {
		if n := load.sent.Load(); n < 300 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	if r := load.stop(t); r.harmed() {
		t.Errorf("%v; want no failure; first: %.400q", r, r.calls[:min(len(r.calls), 3)])
	} else {
		t.Log(r)
	}
}

// TestTheBundleHealsAndNothingElseIsOwned changes the bundle as another writer would.
func TestTheBundleHealsAndNothingElseIsOwned(t *testing.T) {
	start(t, "bundle", "--settle-time=1s")
	want := configuration(t)
	client := shared.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	ca, err := installation.WriteCertificate(t.TempDir(), "example.com", time.Hour)
	check.Must(t, err)
	for name, spoil := range map[string]string{
		"replaced by a good one of somebody else's": string(
			fmt.Appendf(nil,
				`[{"op":"replace","path":"/webhooks/0/clientConfig/caBundle","value":%[1]s},{"op":"replace",`+
					`"path":"/webhooks/1/clientConfig/caBundle","value":%[1]s}]`, quoted(t, ca))),
		"removed from one webhook": `[{"op":"remove","path":"/webhooks/1/clientConfig/caBundle"}]`,
		"emptied":                  `[{"op":"replace","path":"/webhooks/0/clientConfig/caBundle","value":""}]`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := client.Patch(t.Context(), "evenkeel", types.JSONPatchType, []byte(spoil), metav1.PatchOptions{})
			check.Must(t, err)
			begin := time.Now()
			check.Eventually(t, "the bundle is as it was", func() error {
				for _, w := range configuration(t).Webhooks {
					if !bytes.Equal(w.ClientConfig.CABundle, want.Webhooks[0].ClientConfig.CABundle) {
						return errors.New("not yet")
					}
				}
				return nil
			})
			t.Logf("after %v", time.Since(begin).Round(time.Millisecond))
		})
	}
	// A user changes something else with each tool, and it stays.
	_, err = client.Patch(t.Context(), "evenkeel", types.JSONPatchType,
		[]byte(`[{"op":"replace","path":"/webhooks/0/timeoutSeconds","value":3}]`), metav1.PatchOptions{})
	check.Must(t, err)
	got := configuration(t)
	for i := range got.Webhooks {
		got.Webhooks[i].TimeoutSeconds = want.Webhooks[i].TimeoutSeconds
	}
	if diff := cmp.Diff(want.Webhooks, got.Webhooks); diff != "" {
		t.Errorf("something else changed (-before +after):\n%s", diff)
	}
	for _, entry := range got.ManagedFields {
		if entry.Manager != "evenkeel-certificates" {
			continue
		}
		var fields map[string]map[string]map[string]map[string]map[string]any
		check.Must(t, json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields))
		for webhook, owned := range fields["f:webhooks"] {
			delete(owned, ".")
			delete(owned, "f:name")
			if diff := cmp.Diff(map[string]map[string]map[string]any{"f:clientConfig": {"f:caBundle": {}}}, owned); diff != "" {
				t.Errorf("%s: evenkeel owns other fields (-want +owned):\n%s", webhook, diff)
			}
		}
		if len(fields) != 1 || len(fields["f:webhooks"]) != len(want.Webhooks) {
			t.Errorf("evenkeel owns %s", entry.FieldsV1.GetRawString())
		}
	}
}

// TestAColdStartNeedsNobody kills everything, loses the Secret, and starts again. What was created meanwhile is found.
func TestAColdStartNeedsNobody(t *testing.T) {
	s := start(t, "cold")
	load := startLoad(t, 1, true)
	if r := load.stop(t); r.harmed() {
		t.Errorf("%v; want no failure; first: %.400q", r, r.calls[:min(len(r.calls), 3)])
	}
	for i := range s.replicas {
		s.route(t, i, false)
		check.Must(t, s.replicas[i].Signal(syscall.SIGKILL))
		s.replicas[i].Stop()
	}
	check.Must(t, shared.Client.CoreV1().Secrets(installation.Namespace).Delete(t.Context(), "evenkeel-authority",
		metav1.DeleteOptions{}))
	var bare []string
	for range 5 {
		name, injected, err := load.create(t.Context())
		if err != nil || injected {
			t.Fatalf("created: %v, injected: %v without any replica", err, injected)
		}
		bare = append(bare, name)
	}
	begin := time.Now()
	for i := range s.replicas {
		check.Must(t, s.replicas[i].StartUnready()) // none waits for another
		s.route(t, i, true)
	}
	check.Eventually(t, "evenkeel adds defaults again", func() error {
		name, injected, err := load.create(t.Context())
		if err == nil && !injected {
			bare = append(bare, name)
			return errors.New("not yet")
		}
		return err
	})
	took := time.Since(begin)
	t.Logf("SUMMARY cold start: three replicas add defaults %v after their start, and find the %d Deployments created "+
		"meanwhile %v later", took.Round(time.Millisecond),
		len(bare), found(t, s, load.namespace, bare).Round(time.Millisecond))
}

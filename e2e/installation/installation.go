// Package installation runs evenkeel against a control plane of package cluster: the program as a process on this
// machine, reached through a Service as in a cluster, with the webhook configuration and the rights that deploy/ holds.
package installation

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/manifests"
	"github.com/evenkeel/evenkeel/internal/keypair"
)

// The Service that the API server calls the webhook through, as in deploy/.
const (
	Namespace = "evenkeel-system"
	Service   = "evenkeel"
)

// Root returns the directory of the repository.
func Root() (string, error) {
	e2e, err := cluster.ModuleDir()
	return filepath.Dir(e2e), err
}

// Build builds evenkeel into dir with the build tags and returns the path of the program.
func Build(ctx context.Context, dir string, tags ...string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, strings.Join(append([]string{"evenkeel"}, tags...), "-"))
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, "-tags", strings.Join(tags, ","), ".")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build evenkeel: %w\n%s", err, out)
	}
	return program, nil
}

// Options say how to run evenkeel. The zero value is as deploy/ runs it.
type Options struct {
	Name  string   // of the process, among others of the cluster; "" means evenkeel
	Tags  []string // build tags
	Flags []string // of evenkeel serve, added to those that it needs here
	// Deploy is the directory of the repository whose rights and webhooks it gets; "" means deploy.
	Deploy string
	// Program is the path of a built evenkeel; "" means to build it with the Tags.
	Program string
	// Wrapper is a command that the process is run by, such as one that limits its memory.
	Wrapper []string
	// Configure changes the webhook configuration before it is stored.
	Configure func(*admissionregistrationv1.MutatingWebhookConfiguration)
}

// Installation is a running evenkeel.
type Installation struct {
	// Address is where it answers reviews, MetricsAddress where /livez, /readyz and /metrics are.
	Address, MetricsAddress string
	// Host is the name of the certificate at Address.
	Host    string
	Program string

	cluster *cluster.Cluster
	options Options
	dir     string
}

// Install starts evenkeel, registers it with the API server, and waits until it is ready.
func Install(ctx context.Context, c *cluster.Cluster, options Options) (*Installation, error) {
	i, err := Prepare(ctx, c, options)
	if err != nil {
		return nil, err
	}
	if err := i.Start(ctx); err != nil {
		return nil, err
	}
	return i, i.Register(ctx)
}

// Prepare builds evenkeel and grants it its rights. It is not started.
func Prepare(ctx context.Context, c *cluster.Cluster, options Options) (*Installation, error) {
	if options.Name == "" {
		options.Name = "evenkeel"
	}
	i := &Installation{Host: Host(Service), cluster: c, options: options, dir: filepath.Join(c.Dir, options.Name)}
	if err := os.MkdirAll(i.dir, 0o700); err != nil {
		return nil, fmt.Errorf("install evenkeel: %w", err)
	}
	var err error
	if i.Program = options.Program; i.Program == "" {
		if i.Program, err = Build(ctx, i.dir, options.Tags...); err != nil {
			return nil, err
		}
	}
	for _, address := range []*string{&i.Address, &i.MetricsAddress} {
		if *address, err = FreeAddress(); err != nil {
			return nil, err
		}
	}
	return i, i.grant(ctx)
}

// Start starts the process, after Stop for example, with flags beside those of the Options, and waits until it is ready
// or, where it isn't registered and so can't be, until it answers.
func (i *Installation) Start(ctx context.Context, flags ...string) error {
	if err := i.StartUnready(flags...); err != nil {
		return err
	}
	path := "/readyz"
	all, err := i.configurations(ctx)
	if err != nil {
		return err
	}
	_, err = i.cluster.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, all[0].Name,
		metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		path = "/livez"
	} else if err != nil {
		return err
	}
	return i.wait(ctx, path)
}

// wait waits until a path of the operations port answers 200.
func (i *Installation) wait(ctx context.Context, path string) error {
	deadline := time.Now().Add(time.Minute)
	for {
		_, err := i.fetch(ctx, path)
		if _, runs := i.cluster.PIDs()[i.options.Name]; !runs {
			return fmt.Errorf("evenkeel has ended; its log:\n%s", i.Log())
		}
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("evenkeel did not get ready: %w; its log:\n%s", err, i.Log())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// StartUnready starts the process and does not wait.
func (i *Installation) StartUnready(flags ...string) error {
	return i.cluster.StartProgram(i.options.Name, slices.Concat(i.options.Wrapper, []string{i.Program, "serve",
		"--listen=" + i.Address, "--metrics-listen=" + i.MetricsAddress, "--kubeconfig=" + filepath.Join(i.dir, "kubeconfig"),
		"--drain-timeout=1s"}, i.options.Flags, flags)...)
}

// Stop ends the process with SIGTERM, and kills it only when it drains for longer than any
// --drain-timeout of the tests.
func (i *Installation) Stop() { i.cluster.StopProgram(i.options.Name, syscall.SIGTERM, time.Minute) }

// Signal sends a signal to the process, SIGSTOP for example.
func (i *Installation) Signal(signal syscall.Signal) error {
	pid, ok := i.cluster.PIDs()[i.options.Name]
	if !ok {
		return errors.New("evenkeel does not run")
	}
	return syscall.Kill(pid, signal)
}

// Uninstall removes the webhook configuration and ends the process.
func (i *Installation) Uninstall(ctx context.Context) error {
	all, err := i.configurations(ctx)
	for _, configuration := range all {
		if err == nil {
			err = i.cluster.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(ctx, configuration.Name,
				metav1.DeleteOptions{})
		}
		if apierrors.IsNotFound(err) {
			err = nil
		}
	}
	i.Stop()
	return err
}

// Log returns what the process has logged.
func (i *Installation) Log() string {
	content, err := os.ReadFile(filepath.Join(i.cluster.LogDir, i.options.Name+".log"))
	if err != nil {
		return err.Error()
	}
	return string(content)
}

// Metric returns the sum of the samples of a metric that have all of the labels, such as `kind="Pod"`.
func (i *Installation) Metric(ctx context.Context, name string, labels ...string) (float64, error) {
	text, err := i.fetch(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	return Sum(text, name, labels...)
}

// Sum returns the sum of the samples of a metric, in a page of metrics, that have all of the
// labels, written as in the page; a value without its last quotation mark is the beginning of one.
// It returns 0 where there are none.
func Sum(text, name string, labels ...string) (float64, error) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		return 0, fmt.Errorf("read metrics: %w", err)
	}
	samples, err := expfmt.ExtractSamples(&expfmt.DecodeOptions{}, slices.Collect(maps.Values(families))...)
	if err != nil {
		return 0, fmt.Errorf("read metrics: %w", err)
	}
	sum := 0.0
	for _, s := range samples {
		has := func(label string) bool {
			key, value, _ := strings.Cut(label, "=")
			return strings.HasPrefix(strconv.Quote(string(s.Metric[model.LabelName(key)])), value)
		}
		if string(s.Metric[model.MetricNameLabel]) == name &&
			!slices.ContainsFunc(labels, func(l string) bool { return !has(l) }) {
			sum += float64(s.Value)
		}
	}
	return sum, nil
}

// fetch returns the body of an answer of 200 from the operations port.
func (i *Installation) fetch(ctx context.Context, path string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+i.MetricsAddress+path, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, response.Status, bytes.TrimSpace(body))
	}
	return string(body), err
}

// Register stores the webhook configurations of deploy/, which then call this process through a
// Service, and waits until the process, if it runs, has said which certificate it has and is ready.
func (i *Installation) Register(ctx context.Context) error {
	all, err := i.configurations(ctx)
	if err != nil {
		return err
	}
	for _, configuration := range all {
		if err := Register(ctx, i.cluster, configuration, Target{Service: Service, Address: i.Address}); err != nil {
			return err
		}
	}
	if _, runs := i.cluster.PIDs()[i.options.Name]; !runs {
		return nil
	}
	deadline := time.Now().Add(time.Minute)
	for {
		ca, err := i.CA(ctx)
		if err != nil {
			return err
		}
		if len(ca) > 0 {
			return i.wait(ctx, "/readyz")
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("evenkeel wrote no caBundle; its log:\n%s", i.Log())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// CA returns the certificates that verify Address under the name Host, as the API server has them; none where they
// aren't in every webhook of the configurations.
func (i *Installation) CA(ctx context.Context) ([]byte, error) {
	all, err := i.configurations(ctx)
	if err != nil {
		return nil, err
	}
	var ca []byte
	for _, configuration := range all {
		configuration, err := i.cluster.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx,
			configuration.Name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("read webhook configuration: %w", err)
		}
		for n := range configuration.Webhooks {
			if ca = configuration.Webhooks[n].ClientConfig.CABundle; len(ca) == 0 {
				return nil, nil
			}
		}
	}
	return ca, nil
}

// Target is where a webhook listens: at a loopback address, with a certificate of CA for
// Host(Service). Without a CA the webhook is to write its own.
type Target struct {
	Service, Address string
	CA               []byte
}

// Host returns the name under which the API server verifies the certificate of a Service's webhook.
func Host(service string) string { return service + "." + Namespace + ".svc" }

// Register stores a webhook configuration whose webhooks are then called at a target through its Service.
func Register(
	ctx context.Context, c *cluster.Cluster,
	configuration *admissionregistrationv1.MutatingWebhookConfiguration, target Target,
) error {
	_, port, err := net.SplitHostPort(target.Address)
	if err != nil {
		return fmt.Errorf("register webhook: %w", err)
	}
	number, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		return fmt.Errorf("register webhook: %w", err)
	}
	if err := c.WebhookService(ctx, Namespace, target.Service, int(number)); err != nil {
		return err
	}
	for w := range configuration.Webhooks {
		port := int32(number)
		service := admissionregistrationv1.ServiceReference{Namespace: Namespace, Name: target.Service, Port: &port}
		if configured := configuration.Webhooks[w].ClientConfig.Service; configured != nil {
			service.Path = configured.Path
		}
		configuration.Webhooks[w].ClientConfig = admissionregistrationv1.WebhookClientConfig{Service: &service,
			CABundle: target.CA}
	}
	client := c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	if err := client.Delete(ctx, configuration.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("register webhook: %w", err)
	}
	if _, err := client.Create(ctx, configuration, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("register webhook: %w", err)
	}
	return nil
}

// configurations returns the webhook configurations of the installation, of which Configure changes the first.
func (i *Installation) configurations(
	ctx context.Context,
) ([]*admissionregistrationv1.MutatingWebhookConfiguration, error) {
	all, err := configurationsOf(ctx, i.cluster, i.options.Deploy)
	if err == nil && i.options.Configure != nil {
		i.options.Configure(all[0])
	}
	return all, err
}

// Configuration returns the webhook configuration that deploy/ holds, but for the one that comes last (see Last).
func Configuration(
	ctx context.Context, c *cluster.Cluster,
) (*admissionregistrationv1.MutatingWebhookConfiguration, error) {
	all, err := configurationsOf(ctx, c, "")
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// Last is the name of the webhook configuration of deploy/ that is called after those of others.
const Last = "zzz-evenkeel"

func configurationsOf(
	ctx context.Context, c *cluster.Cluster, dir string,
) ([]*admissionregistrationv1.MutatingWebhookConfiguration, error) {
	objects, err := deployed(ctx, c, dir, "MutatingWebhookConfiguration")
	if err != nil {
		return nil, err
	}
	var all []*admissionregistrationv1.MutatingWebhookConfiguration
	for _, object := range objects {
		configuration, err := manifests.As[admissionregistrationv1.MutatingWebhookConfiguration](object)
		if err != nil {
			return nil, err
		}
		all = append(all, configuration)
	}
	if len(all) != 2 || all[1].Name != Last {
		return nil, fmt.Errorf("read deploy/: %d MutatingWebhookConfigurations in it, want 2 and %s last", len(all), Last)
	}
	return all, nil
}

// deployed returns the objects of a directory, deploy/ if "", of the kinds.
func deployed(
	ctx context.Context, c *cluster.Cluster, dir string, kinds ...string,
) ([]*unstructured.Unstructured, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	out, err := cluster.Run(c.KubectlCommand(ctx, "kustomize", filepath.Join(root, cmp.Or(dir, "deploy"))))
	if err != nil {
		return nil, fmt.Errorf("read deploy/: %w", err)
	}
	objects, err := manifests.Read([]byte(out))
	return slices.DeleteFunc(objects, func(o *unstructured.Unstructured) bool {
		return !slices.Contains(kinds, o.GetKind())
	}), err
}

// grant makes the service account of deploy/ with its rights and no others, and a kubeconfig file for it.
func (i *Installation) grant(ctx context.Context) error {
	objects, err := deployed(ctx, i.cluster, i.options.Deploy, "Namespace", "ServiceAccount", "ClusterRole",
		"ClusterRoleBinding", "Role", "RoleBinding")
	if err != nil {
		return err
	}
	rights, err := manifests.Write(objects...)
	if err != nil {
		return err
	}
	if err := i.cluster.Apply(ctx, rights); err != nil {
		return fmt.Errorf("apply rights of deploy/: %w", err)
	}
	return WriteKubeconfig(ctx, i.cluster, filepath.Join(i.dir, "kubeconfig"))
}

// WriteKubeconfig writes a kubeconfig file for evenkeel's service account, which has to exist.
func WriteKubeconfig(ctx context.Context, c *cluster.Cluster, file string) error {
	seconds := int64(24 * 60 * 60)
	token, err := c.Client.CoreV1().ServiceAccounts(Namespace).CreateToken(ctx, Service,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}},
		metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make token of evenkeel's service account: %w", err)
	}
	config, err := clientcmd.LoadFromFile(c.Kubeconfig)
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	for _, user := range config.AuthInfos {
		*user = clientcmdapi.AuthInfo{Token: token.Status.Token}
	}
	return clientcmd.WriteToFile(*config, file)
}

// given are the addresses that FreeAddress has returned.
var given sync.Map

// FreeAddress returns a loopback address that nobody listens on now, below the ports that systems pick for outgoing
// connections. It returns none twice, since whoever got it may not listen yet.
func FreeAddress() (string, error) {
	for range 200 {
		offset, err := rand.Int(rand.Reader, big.NewInt(1999))
		if err != nil {
			return "", err
		}
		listener, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", 30800+offset.Int64()))
		if err != nil {
			continue
		}
		address := listener.Addr().String()
		if err := listener.Close(); err != nil {
			return "", err
		}
		if _, twice := given.LoadOrStore(address, nil); !twice {
			return address, nil
		}
	}
	return "", errors.New("find a free loopback port: none in 200 attempts")
}

// WriteCertificate writes tls.crt and tls.key, a certificate for a server or client named host that
// ends after lifetime, into dir, and returns the CA that signed it.
func WriteCertificate(dir, host string, lifetime time.Duration) (ca []byte, err error) {
	now := time.Now()
	authority, err := keypair.New(&x509.Certificate{Subject: pkix.Name{CommonName: "evenkeel test CA"},
		NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	if err != nil {
		return nil, err
	}
	pair, err := keypair.New(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host},
		DNSNames: []string{host}, NotBefore: now.Add(-47 * time.Hour), NotAfter: now.Add(lifetime),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, authority)
	if err != nil {
		return nil, err
	}
	key, err := pair.KeyPEM()
	if err != nil {
		return nil, err
	}
	for name, content := range map[string][]byte{"tls.crt": pair.CertificatePEM(), "tls.key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return nil, fmt.Errorf("write certificate: %w", err)
		}
	}
	return authority.CertificatePEM(), nil
}

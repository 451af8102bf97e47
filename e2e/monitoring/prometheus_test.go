package monitoring

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

// What the documents may name of metrics that neither evenkeel nor the API server makes up itself.
var metricName = regexp.MustCompile(`\b(?:evenkeel|apiserver|process|go)_\w+`)

// query is one query of the dashboard.
type query struct{ panel, expr string }

// queries returns the queries of the dashboard, with its variables filled in as Grafana would for a cluster, ".*" being
// all. Whatever a query names is of that cluster.
func queries(t *testing.T, chosen string) []query {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			ID      int
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(deployed(t, "dashboard.json"), &dashboard); err != nil {
		t.Fatal(err)
	}
	ids := map[int]bool{}
	var all []query
	for _, panel := range dashboard.Panels {
		if ids[panel.ID] {
			t.Errorf("two panels of the dashboard have the id %d", panel.ID)
		}
		ids[panel.ID] = true
		for _, target := range panel.Targets {
			const matcher = `{cluster=~"$cluster"`
			if names := metricName.FindAllString(target.Expr, -1); len(names) != strings.Count(target.Expr, matcher) {
				t.Errorf("panel %q is not of the chosen cluster alone: %s", panel.Title, target.Expr)
			}
			// Grafana: at least four scrapes
			values := strings.NewReplacer("$__rate_interval", "5s", "$cluster", chosen)
			all = append(all, query{panel.Title, values.Replace(target.Expr)})
		}
	}
	return all
}

func TestEveryQueryHasDataAfterARealRun(t *testing.T) {
	ctx := t.Context()
	all := queries(t, ".*")
	c, err := cluster.Start(ctx, cluster.Config{Log: os.Stderr, Components: []string{}})
	check.Must(t, err)
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	evenkeel, err := installation.Install(ctx, c, installation.Options{Flags: []string{"--recycle-requests=5"}})
	check.Must(t, err)
	_, err = c.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: "shop", Labels: map[string]string{"evenkeel.dev/inject": "enabled"}}}, metav1.CreateOptions{})
	check.Must(t, err)

	outage(t, c, evenkeel)
	browse(t, evenkeel)
	for _, d := range []*appsv1.Deployment{deployment("web", nil),
		deployment("odd", map[string]string{"evenkeel.dev/pre-stop-slep": "5s"})} {
		_, err := c.Client.AppsV1().Deployments("shop").Create(ctx, d, metav1.CreateOptions{})
		check.Must(t, err)
	}
	prometheus := startPrometheus(t, c, evenkeel)
	deploySteadily(t, c)

	// Every query of the dashboard returns a sample that is a number.
	for _, q := range all {
		check.Eventually(t, "panel "+q.panel+" returns data of "+q.expr, func() error {
			return prometheus.returnsData(ctx, q.expr)
		})
	}
	if prometheus.returnsData(ctx, "evenkeel_no_such_metric") == nil {
		t.Error("a metric that doesn't exist returns data")
	}

	for _, q := range queries(t, "another") {
		if err := prometheus.returnsData(ctx, q.expr); err == nil {
			t.Errorf("panel %q shows data of a cluster that isn't chosen: %s", q.panel, q.expr)
		}
	}

	// Every metric that an alert or the dashboard names is one that was scraped.
	var names struct{ Data []string }
	check.Must(t, prometheus.get(ctx, "label/__name__/values", nil, &names))
	_, alerts := rules(t)
	for _, alert := range alerts {
		all = append(all, query{alert.Alert, alert.Expr})
	}
	for _, q := range all {
		for _, name := range metricName.FindAllString(q.expr, -1) {
			if !slices.Contains(names.Data, name) {
				t.Errorf("%s names the metric %s, which neither evenkeel nor the API server exports", q.panel, name)
			}
		}
	}

	// Whatever evenkeel exports stands in a panel; of a histogram the buckets do.
	var panels strings.Builder
	for _, q := range queries(t, ".*") {
		panels.WriteString(q.expr + "\n")
	}
	for _, name := range names.Data {
		family := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		if strings.HasPrefix(name, "evenkeel_") && !regexp.MustCompile(`\b`+family+`(_bucket)?\b`).MatchString(
			panels.String()) {
			t.Errorf("no panel of the dashboard shows %s", name)
		}
	}

	// The rules load and can be worked out; of the two that the outage is a reason for, the one that waits for nothing
	// fires, and no other does.
	var loaded struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, State, LastError string }
			}
		}
	}
	check.Eventually(t, "the rules are loaded, and EvenkeelRejects fires alone", func() error {
		check.Must(t, prometheus.get(ctx, "rules", nil, &loaded))
		firing, unhealthy, n := []string{}, []string{}, 0
		for _, group := range loaded.Data.Groups {
			for _, r := range group.Rules {
				n++
				if r.State == "firing" {
					firing = append(firing, r.Name)
				}
				if r.Health != "ok" {
					unhealthy = append(unhealthy, r.Name+": "+r.Health+" "+r.LastError)
				}
			}
		}
		firing = slices.DeleteFunc(firing, func(name string) bool { return name == "EvenkeelCallsFailOpen" })
		if n != len(alerts) || len(unhealthy) > 0 || !slices.Equal(firing, []string{"EvenkeelRejects"}) {
			return fmt.Errorf("%d rules, want %d; firing %v; not ok: %v", n, len(alerts), firing, unhealthy)
		}
		return nil
	})
}

// outage lets the API server call evenkeel while it is away, under the policy Ignore and then under Fail.
func outage(t *testing.T, c *cluster.Cluster, evenkeel *installation.Installation) {
	t.Helper()
	ctx := t.Context()
	evenkeel.Stop()
	if err := create(ctx, c, deployment("missed", nil)); err != nil {
		t.Errorf("under Ignore: %v", err)
	}
	configurations := c.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	policy := func(policy admissionregistrationv1.FailurePolicyType) {
		configuration, err := configurations.Get(ctx, "evenkeel", metav1.GetOptions{})
		check.Must(t, err)
		for w := range configuration.Webhooks {
			configuration.Webhooks[w].FailurePolicy = &policy
		}
		_, err = configurations.Update(ctx, configuration, metav1.UpdateOptions{})
		check.Must(t, err)
	}
	policy(admissionregistrationv1.Fail)
	check.Eventually(t, "the API server notices the policy Fail", func() error {
		if create(ctx, c, deployment("refused", nil)) == nil {
			return errors.New("a Deployment is admitted")
		}
		return nil
	})
	policy(admissionregistrationv1.Ignore)
	check.Must(t, evenkeel.Start(ctx))
	check.Eventually(t, "the API server notices the policy Ignore", func() error {
		return create(ctx, c, deployment("allowed", nil))
	})
}

// browse sends a request that is no review.
func browse(t *testing.T, evenkeel *installation.Installation) {
	t.Helper()
	ca, err := evenkeel.CA(t.Context())
	check.Must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: evenkeel.Host}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+evenkeel.Address+"/mutate", nil)
	check.Must(t, err)
	response, err := transport.RoundTrip(request)
	check.Must(t, err)
	check.Must(t, response.Body.Close())
}

// deploySteadily creates Deployments until the test ends, nine of ten as dry runs.
func deploySteadily(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	wait.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			annotations := map[string]string{}
			if i%3 == 0 {
				annotations["evenkeel.dev/pre-stop-sleep"] = "off"
			}
			if i%3 == 1 {
				annotations["evenkeel.dev/readiness-probe"] = "telepathy"
			}
			options := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
			if i%10 == 0 {
				options.DryRun = nil // something for the budget controller
			}
			_, err := c.Client.AppsV1().Deployments("shop").Create(ctx, deployment(fmt.Sprint("web-", i), annotations), options)
			if err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	t.Cleanup(func() {
		stop()
		wait.Wait()
	})
}

func create(ctx context.Context, c *cluster.Cluster, d *appsv1.Deployment) error {
	_, err := c.Client.AppsV1().Deployments("shop").Create(ctx, d,
		metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}

// deployment returns a Deployment of three replicas that lacks every default.
func deployment(name string, annotations map[string]string) *appsv1.Deployment {
	set, replicas := map[string]string{"app": name}, int32(3)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: set},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: set},
				Spec: corev1.PodSpec{Containers: []corev1.Container{
					{Name: "app", Image: "example.com/app:1", Ports: []corev1.ContainerPort{{ContainerPort: 8080}}},
				}},
			},
		},
	}
}

// prometheus is a running Prometheus server.
type prometheus struct{ address string }

// startPrometheus runs Debian's Prometheus with the rules of deploy/monitoring. It scrapes evenkeel and the API server
// every second.
func startPrometheus(t *testing.T, c *cluster.Cluster, evenkeel *installation.Installation) *prometheus {
	t.Helper()
	program, err := exec.LookPath("prometheus")
	if err != nil {
		t.Fatalf("Debian has it in the package prometheus: %v", err)
	}
	dir := filepath.Join(c.Dir, "prometheus")
	check.Must(t, os.MkdirAll(dir, 0o700))
	file, _ := rules(t)
	api, err := url.Parse(c.RESTConfig().Host)
	check.Must(t, err)
	type object = map[string]any
	config, err := yaml.Marshal(object{
		"global":     object{"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
		"rule_files": []string{"rules.yaml"},
		"scrape_configs": []object{
			{"job_name": "evenkeel", "static_configs": []object{{"targets": []string{evenkeel.MetricsAddress}}}},
			{"job_name": "apiserver", "scheme": "https", "static_configs": []object{{"targets": []string{api.Host}}},
				"tls_config": object{"ca_file": c.CAFile}, "authorization": object{"credentials_file": "token"},
				"scrape_interval": "2s", "scrape_timeout": "2s",
				"metric_relabel_configs": []object{{"source_labels": []string{"__name__"},
					"regex": "apiserver_admission_webhook_.*", "action": "keep"}}},
		},
	})
	check.Must(t, err)
	for name, content := range map[string][]byte{"rules.yaml": file, "prometheus.yaml": config,
		"token": []byte(c.RESTConfig().BearerToken)} {
		check.Must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	check.Must(t, err)
	p := &prometheus{listener.Addr().String()}
	check.Must(t, listener.Close())
	check.Must(t, c.StartProgram("prometheus", program, "--config.file="+filepath.Join(dir, "prometheus.yaml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+p.address, "--log.level=warn"))
	deadline := time.Now().Add(time.Minute)
	for {
		err := p.returnsData(t.Context(), "up == 1")
		if err == nil {
			return p
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(c.LogDir, "prometheus.log"))
			t.Fatalf("Prometheus scrapes nothing: %v\n%s", err, log)
		}
		time.Sleep(100 * time.Millisecond) // between two looks
	}
}

// get decodes the answer of Prometheus's API.
func (p *prometheus) get(ctx context.Context, path string, values url.Values, answer any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet,
		"http://"+p.address+"/api/v1/"+path+"?"+values.Encode(), nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", response.Status, body.Bytes())
	}
	return json.Unmarshal(body.Bytes(), answer)
}

// returnsData returns an error unless the query returns a number.
func (p *prometheus) returnsData(ctx context.Context, expr string) error {
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Value  []any
			}
		}
	}
	if err := p.get(ctx, "query", url.Values{"query": {expr}}, &answer); err != nil {
		return err
	}
	if len(answer.Data.Result) == 0 {
		return errors.New("no data")
	}
	for _, sample := range answer.Data.Result {
		if value := fmt.Sprint(sample.Value[1]); value != "NaN" {
			return nil
		}
	}
	return fmt.Errorf("no number: %v", slices.Collect(maps.Keys(answer.Data.Result[0].Metric)))
}

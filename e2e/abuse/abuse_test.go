// Package abuse attacks evenkeel, in a control group of 128 MiB, as any pod of a cluster could, while a real API server
// goes on to ask it.
package abuse

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/cgroup"
	"github.com/evenkeel/evenkeel/e2e/check"
	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

var (
	length = flag.Duration("length", 4*time.Second, "how long each attack goes on; 60s is the long form")
	idle   = flag.Int("idle", 1000, "idle connections; 10000 is the long form")
	slow   = flag.Int("slow", 500, "slow requests at once; 2000 is the long form")
	bound  = flag.Duration("p99", 5*time.Second, "in which 99 of 100 Deployments have to be created meanwhile")
	large  = flag.Int("large", 50, "reviews of 8 MiB at once")
)

const memoryLimit = 128 << 20

// attack is something that goes on until ctx ends. It returns how often it was tried.
type attack func(ctx context.Context, address string) int64

// sources is how many addresses the attackers of each come from.
const sources = 3

// each does something n times at once, again and again.
func each(n int, do func(ctx context.Context, client *http.Client, dialer *tls.Dialer, address string)) attack {
	return eachFrom(sources, n, do)
}

// eachFrom is each from so many addresses.
func eachFrom(
	addresses, n int, do func(ctx context.Context, client *http.Client, dialer *tls.Dialer, address string),
) attack {
	return func(ctx context.Context, address string) int64 {
		var group sync.WaitGroup
		var count atomic.Int64
		for i := range n {
			group.Go(func() {
				// Another source address than the API server's.
				dialer := &tls.Dialer{
					NetDialer: &net.Dialer{Timeout: 5 * time.Second,
						LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte((2+i%addresses)>>8), byte(2+i%addresses))}},
					Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // an attacker
				client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DialTLSContext: dialer.DialContext}}
				defer client.CloseIdleConnections()
				for ctx.Err() == nil {
					count.Add(1)
					do(ctx, client, dialer, address)
					select {
					case <-ctx.Done():
					case <-time.After(20 * time.Millisecond): // so that the attacker leaves some of two cores to the others
					}
				}
			})
		}
		group.Wait()
		return count.Load()
	}
}

func hold(ctx context.Context, connection net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = connection.Close() })
	defer stop()
	_, _ = io.Copy(io.Discard, connection)
	_ = connection.Close()
}

// send sends one request, whatever becomes of it.
func send(ctx context.Context, client *http.Client, method, url string, body io.Reader, header ...string) {
	request, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
}

// bombs are objects of almost 8 MiB.
func bombs() []string {
	const size = 8<<20 - 4096
	fill := func(unit string) string { return strings.Repeat(unit, size/len(unit)) }
	pod := func(spec string) string {
		return `{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"a":"b"}},"spec":` + spec + `}`
	}
	return []string{
		pod(`{"containers":[` + fill(`{},`) + `{}]}`),
		pod(`{"containers":[` + fill(`{"name":"a","ports":[{"containerPort":1}]},`) + `{}]}`),
		pod(`{"containers":[{"name":"a","ports":[` + fill(`{"containerPort":1},`) + `{}]}]}`),
		pod(`{"x":[` + fill(`{},`) + `{}],"containers":[{"name":"a","ports":[{"containerPort":1}]}]}`),
		pod(`{"x":"` + fill(`x`) + `","containers":[{"name":"a","ports":[{"containerPort":1}]}]}`),
		pod(`{"x":` + fill(`[`) + `}`),
		pod(`{"x":"` + fill(`\u0041`) + `"}`),
		`{"apiVersion":"v1","kind":"Pod","metadata":{"annotations":{` +
			strings.TrimSuffix(fill(`"evenkeel.dev/a":"b",`), ",") + `}}}`,
	}
}

// deaf posts reviews and reads none of the answers, for two seconds.
func deaf(bodies ...string) func(ctx context.Context, _ *http.Client, dialer *tls.Dialer, address string) {
	var next atomic.Int64
	return func(ctx context.Context, _ *http.Client, dialer *tls.Dialer, address string) {
		connection, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			return
		}
		defer connection.Close()
		if tcp, ok := connection.(*tls.Conn).NetConn().(*net.TCPConn); ok {
			_ = tcp.SetReadBuffer(1)
		}
		_ = connection.SetDeadline(time.Now().Add(2 * time.Second))
		for ctx.Err() == nil {
			body := bodies[int(next.Add(1))%len(bodies)]
			if _, err := fmt.Fprintf(connection,
				"POST /mutate HTTP/1.1\r\nHost: evenkeel\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
				len(body), body); err != nil {
				break
			}
		}
	}
}

// containers returns a Pod, or a Deployment where that is wanted, of n containers, each as format
// makes it of two numbers.
func containers(kind string, n int, format string) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(format, i, i+1)
	}
	pod := `"metadata":{"labels":{"a":"b"}},"spec":{"containers":[` + strings.Join(all, ",") + `]}`
	if kind == "Pod" {
		return `{"apiVersion":"v1","kind":"Pod",` + pod + `}`
	}
	return `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a","uid":"u"},` +
		`"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{` + pod + `}}}`
}

func update(object, old string) string {
	return strings.Replace(strings.TrimSuffix(review(object), "}}")+`,"oldObject":`+old+"}}", "CREATE", "UPDATE", 1)
}

func review(object string) string {
	return `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","operation":"CREATE",` +
		`"namespace":"nowhere","object":` + object + `}}`
}

// attacks returns the attacks on the webhook, and on the port of /metrics at that address.
func attacks(metrics string) map[string]attack {
	var reviews []string
	for _, object := range bombs() {
		reviews = append(reviews, review(object))
	}
	var next atomic.Int64
	small := review(`{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"a",` +
		`"ports":[{"containerPort":1}]}]}}`)
	many := review(containers("Pod", 1900, `{"name":"c%d","ports":[{"containerPort":%d}]}`))
	hundred := review(containers("Pod", 100, `{"name":"c%d","ports":[{"containerPort":%d}]}`))
	const sleep = `{"name":"a","lifecycle":{"preStop":{"sleep":{"seconds":%[2]d}}}}`
	updated := update(containers("Deployment", 2000, sleep), containers("Deployment", 2001, sleep))
	var labels strings.Builder
	for i := range 335_000 {
		fmt.Fprintf(&labels, `"evenkeel.dev/%d":"",`, i)
	}
	labelled := review(`{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{` + labels.String() +
		`"a":"b"}},"spec":{"containers":[{"name":"a"}]}}`)
	return map[string]attack{
		"idle connections": each(*idle, func(ctx context.Context, _ *http.Client, dialer *tls.Dialer, address string) {
			if connection, err := dialer.DialContext(ctx, "tcp", address); err == nil {
				hold(ctx, connection)
			}
		}),
		"connections that never say hello": each(*idle,
			func(ctx context.Context, _ *http.Client, dialer *tls.Dialer, address string) {
				if connection, err := dialer.NetDialer.DialContext(ctx, "tcp", address); err == nil {
					hold(ctx, connection)
				}
			}),
		"idle connections to the metrics port": each(*idle,
			func(ctx context.Context, _ *http.Client, dialer *tls.Dialer, _ string) {
				if connection, err := dialer.NetDialer.DialContext(ctx, "tcp", metrics); err == nil {
					hold(ctx, connection)
				}
			}),
		"scrapes that nobody reads": each(*slow, func(ctx context.Context, _ *http.Client, dialer *tls.Dialer, _ string) {
			connection, err := dialer.NetDialer.DialContext(ctx, "tcp", metrics)
			if err != nil {
				return
			}
			_ = connection.(*net.TCPConn).SetReadBuffer(1)
			_, _ = io.WriteString(connection, strings.Repeat("GET /metrics HTTP/1.1\r\nHost: evenkeel\r\n\r\n", 100))
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Second): // of not reading
			}
			_ = connection.Close()
		}),
		"slow requests": each(*slow, func(ctx context.Context, client *http.Client, _ *tls.Dialer, address string) {
			body, write := io.Pipe()
			go func() {
				for ctx.Err() == nil {
					if _, err := write.Write([]byte(" ")); err != nil {
						return
					}
					time.Sleep(200 * time.Millisecond) // what makes it slow
				}
				_ = write.CloseWithError(ctx.Err())
			}()
			send(ctx, client, http.MethodPost, "https://"+address+"/mutate", body, "Content-Type", "application/json")
			_ = body.Close()
		}),
		"reviews of 8 MiB built to be worst": each(*large,
			func(ctx context.Context, client *http.Client, _ *tls.Dialer, address string) {
				body := reviews[int(next.Add(1))%len(reviews)]
				send(ctx, client, http.MethodPost, "https://"+address+"/mutate?timeout=30s",
					strings.NewReader(body), "Content-Type", "application/json")
			}),
		"Pods of 1,900 containers": each(64, func(ctx context.Context, client *http.Client, _ *tls.Dialer, address string) {
			send(ctx, client, http.MethodPost, "https://"+address+"/mutate", strings.NewReader(many), "Content-Type",
				"application/json")
		}),
		"Pods of 1,900 containers, and nobody reads the answers": each(48, deaf(many)),
		"Pods of 100 containers, and nobody reads the answers":   eachFrom(48, 48, deaf(hundred)),
		"small Pods, and nobody reads the answers":               eachFrom(48, 48, deaf(small)),
		"updates of 2,000 containers of one name": each(32,
			func(ctx context.Context, client *http.Client, _ *tls.Dialer, address string) {
				send(ctx, client, http.MethodPost, "https://"+address+"/mutate", strings.NewReader(updated), "Content-Type",
					"application/json")
			}),
		"a connection from each of 600 addresses": eachFrom(600, 600,
			func(ctx context.Context, _ *http.Client, dialer *tls.Dialer, address string) {
				if connection, err := dialer.DialContext(ctx, "tcp", address); err == nil {
					hold(ctx, connection)
				}
			}),
		"335,000 labels": each(8, func(ctx context.Context, client *http.Client, _ *tls.Dialer, address string) {
			send(ctx, client, http.MethodPost, "https://"+address+"/mutate", strings.NewReader(labelled), "Content-Type",
				"application/json")
		}),
		"reviews of a namespace that does not exist": each(100,
			func(ctx context.Context, client *http.Client, _ *tls.Dialer, address string) {
				send(ctx, client, http.MethodPost, "https://"+address+"/mutate", strings.NewReader(small), "Content-Type",
					"application/json")
			}),
		"wrong methods, kinds and paths": each(20,
			func(ctx context.Context, client *http.Client, _ *tls.Dialer, address string) {
				for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodConnect, http.MethodTrace, "BREW"} {
					send(ctx, client, method, "https://"+address+"/mutate", nil)
				}
				for _, path := range []string{"/", "/mutate/..", "/metrics", "/debug/pprof/"} {
					send(ctx, client, http.MethodPost, "https://"+address+path, strings.NewReader(small), "Content-Type",
						"application/json")
				}
				for _, body := range []string{"", "null", "{}", "[]",
					`{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview"}`, "\x00", review("null"),
					review(`"x"`), review("[]")} {
					send(ctx, client, http.MethodPost, "https://"+address+"/mutate", strings.NewReader(body), "Content-Type",
						"application/json")
				}
				send(ctx, client, http.MethodPost, "https://"+address+"/mutate", bytes.NewReader(make([]byte, 1<<20)),
					"Content-Type", "application/json", "X", strings.Repeat("x", 1<<20))
			}),
	}
}

// TestAbuseHarmsNobody runs each attack in turn.
func TestAbuseHarmsNobody(t *testing.T) {
	ctx := t.Context()
	if os.Getenv("KUBECONFIG") != "" {
		t.Skip("KUBECONFIG names an existing cluster, and nobody attacks that")
	}
	c, err := cluster.Start(ctx, cluster.Config{Log: os.Stderr, Components: []string{}})
	check.Must(t, err)
	t.Cleanup(func() { check.Must(t, c.Stop()) })
	var wrapper []string
	group, err := cgroup.New(memoryLimit)
	if err != nil {
		t.Logf("NOT LIMITED: the memory of evenkeel, for which it takes Linux and root: %v", err)
	} else {
		wrapper = group.Wrapper()
		t.Cleanup(func() { check.Must(t, group.Remove()) })
	}
	evenkeel, err := installation.Install(ctx, c, installation.Options{Wrapper: wrapper})
	check.Must(t, err)
	t.Cleanup(evenkeel.Stop)
	pid := c.PIDs()["evenkeel"]
	namespace, err := c.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		GenerateName: "shop-", Labels: map[string]string{"evenkeel.dev/inject": "enabled"}}}, metav1.CreateOptions{})
	check.Must(t, err)
	for begin := time.Now(); ; {
		injected, err := create(ctx, c, namespace.Name)
		check.Must(t, err)
		if injected {
			break
		}
		if time.Since(begin) > time.Minute {
			t.Fatal("evenkeel adds no defaults")
		}
		time.Sleep(50 * time.Millisecond) // between two looks
	}
	for name, attack := range attacks(evenkeel.MetricsAddress) {
		t.Run(name, func(t *testing.T) {
			attacking, stop := context.WithTimeout(ctx, *length)
			defer stop()
			var tried atomic.Int64
			var done sync.WaitGroup
			log := len(evenkeel.Log())
			done.Go(func() { tried.Store(attack(attacking, evenkeel.Address)) })
			var took []time.Duration
			bare, failed := 0, 0 // the latter: probes of the kubelet's, in a row
			for attacking.Err() == nil {
				begin := time.Now()
				injected, err := create(ctx, c, namespace.Name)
				check.Must(t, err)
				took = append(took, time.Since(begin))
				if !injected {
					bare++
				}
				if err := probe(attacking, evenkeel.MetricsAddress); err == nil || attacking.Err() != nil {
					failed = 0
				} else if failed++; failed == 3 { // which would end the container, or leave it without traffic
					t.Errorf("three probes in a row failed: %v", err)
				}
				time.Sleep(20 * time.Millisecond) // a modest cluster
			}
			done.Wait()
			slices.Sort(took)
			logged := len(evenkeel.Log()) - log
			t.Logf("%d tries; %d Deployments created in %v (median) and %v (p99), %d of them without defaults; %d KiB of log "+
				"in %v; memory at most %s", tried.Load(), len(took),
				took[len(took)/2].Round(time.Millisecond), took[len(took)*99/100].Round(time.Millisecond), bare, logged>>10,
				*length, peak(group))
			for _, reason := range []string{"overload", "unreadable-body"} {
				if n, err := evenkeel.Metric(ctx, "evenkeel_admission_rejected_requests_total", `reason="`+reason+`"`); err == nil {
					t.Logf("%.0f requests were turned away so far: %s", n, reason)
				}
			}
			if now := c.PIDs()["evenkeel"]; now != pid {
				t.Fatalf("evenkeel ended: process %d is %d now; the end of its log:\n%.2000s", pid, now,
					evenkeel.Log()[max(0, len(evenkeel.Log())-2000):])
			}
			// 1 MiB a minute, and in a shorter time its share behind the burst that is let through at once.
			const burst = 64 << 10
			if allowed := burst + length.Minutes()*(1<<20-burst); float64(logged) > allowed {
				t.Errorf("%d KiB of log in %v, want at most %d", logged>>10, *length, int(allowed)>>10)
			}
			if p99 := took[len(took)*99/100]; p99 > *bound {
				t.Errorf("one Deployment in a hundred took longer than %v, want %v at most", p99, *bound)
			}
			if bare*20 > len(took) {
				t.Errorf("%d of %d without defaults, want 5 %% at most", bare, len(took))
			}
		})
	}
}

// peak returns the most memory that a control group ever held.
func peak(group *cgroup.Group) string {
	if group == nil {
		return "unknown"
	}
	n, err := group.Peak()
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

// probe asks as the kubelet does: over a connection of its own, for as long as deploy/ lets it.
func probe(ctx context.Context, address string) error {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/livez", nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

func create(ctx context.Context, c *cluster.Cluster, namespace string) (injected bool, err error) {
	labels := map[string]string{"app": "web"}
	d, err := c.Client.AppsV1().Deployments(namespace).Create(ctx,
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"},
			Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
					Spec: corev1.PodSpec{
						Containers: []corev1.Container{
							{Name: "web", Image: "web", Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}}}}},
		metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return false, errors.Join(err)
	}
	return d.Spec.Template.Annotations["evenkeel.dev/injected"] != "", nil
}

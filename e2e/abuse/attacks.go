// Package abuse attacks evenkeel, in a control group of 128 MiB, as any pod of a cluster could, while a real API server
// goes on to ask it.
package abuse

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/evenkeel/evenkeel/e2e/installation"
)

// MemoryLimit is that of deploy/.
const MemoryLimit = 128 << 20

// Attack goes on until ctx ends, against all of the replicas alike. It returns how often it was tried.
type Attack func(ctx context.Context, replicas ...*installation.Installation) int64

// Sizes say how much of some attacks comes at once.
type Sizes struct {
	Idle  int // connections without a request
	Slow  int // requests whose body never ends
	Large int // reviews of 8 MiB
}

// attacker is one of those that do the same at once, each to one of the replicas.
type attacker struct {
	client *http.Client
	dialer *tls.Dialer
	at     *installation.Installation
}

// sources is how many addresses the attackers of each come from.
const sources = 3

// each does something n times at once, again and again.
func each(n int, do func(ctx context.Context, a attacker)) Attack {
	return eachFrom(sources, n, do)
}

// eachFrom is each from so many addresses.
func eachFrom(addresses, n int, do func(ctx context.Context, a attacker)) Attack {
	return func(ctx context.Context, replicas ...*installation.Installation) int64 {
		var group sync.WaitGroup
		var count atomic.Int64
		for i := range n {
			group.Go(func() {
				// Another source address than the API server's.
				a := attacker{at: replicas[i%len(replicas)], dialer: &tls.Dialer{
					NetDialer: &net.Dialer{Timeout: 5 * time.Second,
						LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte((2+i%addresses)>>8), byte(2+i%addresses))}},
					Config: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // an attacker
				a.client = &http.Client{Timeout: 30 * time.Second,
					Transport: &http.Transport{DialTLSContext: a.dialer.DialContext}}
				defer a.client.CloseIdleConnections()
				for ctx.Err() == nil {
					count.Add(1)
					do(ctx, a)
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
func (a attacker) send(ctx context.Context, method, path string, body io.Reader, header ...string) {
	request, err := http.NewRequestWithContext(ctx, method, "https://"+a.at.Address+path, body)
	if err != nil {
		return
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := a.client.Do(request)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
}

// review posts a review.
func (a attacker) review(ctx context.Context, body string) {
	a.send(ctx, http.MethodPost, "/mutate?timeout=30s", strings.NewReader(body), "Content-Type", "application/json")
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
func deaf(bodies ...string) func(ctx context.Context, a attacker) {
	var next atomic.Int64
	return func(ctx context.Context, a attacker) {
		connection, err := a.dialer.DialContext(ctx, "tcp", a.at.Address)
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

// Attacks returns the attacks on the webhook, and on the port of /metrics.
func Attacks(s Sizes) map[string]Attack {
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
	return map[string]Attack{
		"idle connections": each(s.Idle, func(ctx context.Context, a attacker) {
			if connection, err := a.dialer.DialContext(ctx, "tcp", a.at.Address); err == nil {
				hold(ctx, connection)
			}
		}),
		"connections that never say hello": each(s.Idle,
			func(ctx context.Context, a attacker) {
				if connection, err := a.dialer.NetDialer.DialContext(ctx, "tcp", a.at.Address); err == nil {
					hold(ctx, connection)
				}
			}),
		"idle connections to the metrics port": each(s.Idle,
			func(ctx context.Context, a attacker) {
				if connection, err := a.dialer.NetDialer.DialContext(ctx, "tcp", a.at.MetricsAddress); err == nil {
					hold(ctx, connection)
				}
			}),
		"scrapes that nobody reads": each(s.Slow, func(ctx context.Context, a attacker) {
			connection, err := a.dialer.NetDialer.DialContext(ctx, "tcp", a.at.MetricsAddress)
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
		"slow requests": each(s.Slow, func(ctx context.Context, a attacker) {
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
			a.send(ctx, http.MethodPost, "/mutate", body, "Content-Type", "application/json")
			_ = body.Close()
		}),
		"reviews of 8 MiB built to be worst": each(s.Large,
			func(ctx context.Context, a attacker) {
				body := reviews[int(next.Add(1))%len(reviews)]
				a.review(ctx, body)
			}),
		"Pods of 1,900 containers": each(64, func(ctx context.Context, a attacker) {
			a.review(ctx, many)
		}),
		"Pods of 1,900 containers, and nobody reads the answers": each(48, deaf(many)),
		"Pods of 100 containers, and nobody reads the answers":   eachFrom(48, 48, deaf(hundred)),
		"small Pods, and nobody reads the answers":               eachFrom(48, 48, deaf(small)),
		"updates of 2,000 containers of one name": each(32,
			func(ctx context.Context, a attacker) {
				a.review(ctx, updated)
			}),
		"a connection from each of 600 addresses": eachFrom(600, 600,
			func(ctx context.Context, a attacker) {
				if connection, err := a.dialer.DialContext(ctx, "tcp", a.at.Address); err == nil {
					hold(ctx, connection)
				}
			}),
		"335,000 labels": each(8, func(ctx context.Context, a attacker) {
			a.review(ctx, labelled)
		}),
		"reviews of a namespace that does not exist": each(100,
			func(ctx context.Context, a attacker) {
				a.review(ctx, small)
			}),
		"wrong methods, kinds and paths": each(20,
			func(ctx context.Context, a attacker) {
				for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodConnect, http.MethodTrace, "BREW"} {
					a.send(ctx, method, "/mutate", nil)
				}
				for _, path := range []string{"/", "/mutate/..", "/metrics", "/debug/pprof/"} {
					a.send(ctx, http.MethodPost, path, strings.NewReader(small), "Content-Type",
						"application/json")
				}
				for _, body := range []string{"", "null", "{}", "[]",
					`{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview"}`, "\x00", review("null"),
					review(`"x"`), review("[]")} {
					a.review(ctx, body)
				}
				a.send(ctx, http.MethodPost, "/mutate", bytes.NewReader(make([]byte, 1<<20)),
					"Content-Type", "application/json", "X", strings.Repeat("x", 1<<20))
			}),
	}
}

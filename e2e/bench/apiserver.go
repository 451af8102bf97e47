package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
)

const (
	nothing     = "nothing"                    // no webhook, no policy
	withBudgets = "evenkeel, with its budgets" // of Deployments, which no other contestant makes

	namespaceLabel = "bench" // of a namespace; its value is the namespace's name
)

// servers is a control plane and what its API server asks, each for a namespace of its own, so that nothing else is
// called for what is created there.
type servers struct {
	*cluster.Cluster
	evenkeel *installation.Installation
	sides    []*side
	pod      []byte // that is created

	rolledOut int // Deployments so far
	garbage   garbage
}

// side is a namespace and what is asked when a pod is created in it.
type side struct {
	name, namespace string
	remark          string // for the table
	url             string // of the webhook, where it isn't the cluster's own
	ours            bool   // the evenkeel of the cluster answers
	foreign         bool   // what it adds is its own affair
	// of the process that answers, evenkeel's where nothing is asked; 0 where there is none or it isn't known
	pid            int
	pods, rollouts bool // it is measured over creates of pods, of Deployments
	want           any  // what every pod has to be
	creates        map[int][]round
	deployments    []rollout
}

// round is what was measured of a side in one round of creates, and what each of them used.
type round struct {
	latencies []time.Duration
	used      used
}

// used is what one creation, or one rollout, used.
type used struct {
	server    float64 // ms of the API server's CPU
	allocated float64 // bytes, by the API server
	webhook   float64 // ms of the webhook's CPU
	memory    int     // KiB at most, of the webhook
}

// startServers starts a control plane without a scheduler, so that no pod is ever run, with evenkeel as deploy/ runs it
// and the policies, and registers webhooks that run already.
func startServers(ctx context.Context, log io.Writer, webhooks []*contestant) (_ *servers, err error) {
	control, err := cluster.Start(ctx, cluster.Config{Log: log, Components: []string{cluster.ControllerManager},
		Flags: map[string][]string{
			cluster.ControllerManager: {"--controllers=serviceaccount-controller,root-ca-certificate-publisher-controller," +
				"deployment-controller,replicaset-controller"},
			cluster.APIServer: {"--delete-collection-workers=4"}}})
	if err != nil {
		return nil, err
	}
	s := &servers{Cluster: control}
	defer func() {
		if err != nil {
			err = errors.Join(err, control.Stop())
		}
	}()
	quiet := control.RESTConfig()
	quiet.WarningHandler = rest.NoWarnings{} // two containers name their ports alike
	if control.Client, err = kubernetes.NewForConfig(quiet); err != nil {
		return nil, err
	}
	if s.evenkeel, err = installation.Install(ctx, control, installation.Options{}); err != nil {
		return nil, err
	}
	s.sides = []*side{{name: nothing, pods: true, rollouts: true},
		{name: evenkeel, ours: true, pods: true, rollouts: true}, {name: withBudgets, ours: true, rollouts: true}}
	for _, webhook := range webhooks {
		s.sides = append(s.sides, &side{name: webhook.name, pid: webhook.pid, url: webhook.url, foreign: webhook.foreign,
			pods: true})
	}
	s.sides = append(s.sides, &side{name: threePolicies, pods: true, rollouts: true},
		&side{name: onePolicy, pods: true, rollouts: true})
	for i, side := range s.sides {
		side.namespace, side.creates = fmt.Sprintf("bench-%d", i), map[int][]round{}
		if side.ours || side.name == nothing { // where evenkeel sees the Pods all the same
			side.pid = control.PIDs()["evenkeel"]
		}
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: side.namespace,
			Labels: map[string]string{namespaceLabel: side.namespace}}}
		if side.ours {
			namespace.Labels["evenkeel.dev/inject"] = "enabled"
		}
		if side.name == evenkeel { // admission alone
			namespace.Annotations = map[string]string{"evenkeel.dev/disruption-budget": "off"}
		}
		if _, err := s.Client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
			return nil, fmt.Errorf("create namespace: %w", err)
		}
		switch {
		case side.url != "":
			err = s.register(ctx, side)
		case side.name == threePolicies || side.name == onePolicy:
			err = applyPolicies(ctx, s.Client, side.namespace, namespace.Labels, expressions(side.name))
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", side.name, err)
		}
	}
	return s, s.agree(ctx)
}

// register makes the API server call the webhook of a side: through a Service for which its certificate is, and so over
// HTTP/1.1, or else by its URL, which for a loopback address means HTTP/2.
func (s *servers) register(ctx context.Context, side *side) error {
	at, err := url.Parse(side.url)
	if err != nil {
		return err
	}
	at.RawQuery = "" // the API server adds its own, and allows no other
	host, port, err := net.SplitHostPort(at.Host)
	if err != nil {
		return err
	}
	number, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		return fmt.Errorf("port of %s: %w", at, err)
	}
	connection, err := tls.Dial("tcp", at.Host, &tls.Config{InsecureSkipVerify: true}) // to learn its certificate
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	chain := connection.ConnectionState().PeerCertificates
	var bundle bytes.Buffer
	for _, certificate := range chain {
		if err := pem.Encode(&bundle, &pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}); err != nil {
			return err
		}
	}
	address := at.String()
	config := admissionregistrationv1.WebhookClientConfig{URL: &address, CABundle: bundle.Bytes()}
	side.remark = "by its URL"
	for _, name := range chain[0].DNSNames {
		service := strings.Split(name, ".")
		if len(service) != 3 || service[2] != "svc" || host != "localhost" && !net.ParseIP(host).IsLoopback() {
			continue
		}
		_, err := s.Client.CoreV1().Services(service[1]).Get(ctx, service[0], metav1.GetOptions{})
		if err == nil {
			continue // another contestant has it
		}
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("look for service %s: %w", name, err)
		}
		if err := s.WebhookService(ctx, service[1], service[0], int(number)); err != nil {
			return err
		}
		servicePort := int32(number)
		config.URL, config.Service = nil, &admissionregistrationv1.ServiceReference{Namespace: service[1], Name: service[0],
			Path: &at.Path, Port: &servicePort}
		side.remark = ""
		break
	}
	fail, equivalent, none, seconds := admissionregistrationv1.Fail, admissionregistrationv1.Equivalent,
		admissionregistrationv1.SideEffectClassNone, int32(10)
	_, err = s.Client.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(ctx,
		&admissionregistrationv1.MutatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: side.namespace},
			Webhooks: []admissionregistrationv1.MutatingWebhook{{Name: side.namespace + ".bench.evenkeel.dev",
				ClientConfig: config,
				Rules:        []admissionregistrationv1.RuleWithOperations{podCreates()}, AdmissionReviewVersions: []string{"v1"},
				SideEffects:   &none,
				FailurePolicy: &fail, MatchPolicy: &equivalent, TimeoutSeconds: &seconds,
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{namespaceLabel: side.namespace}}}}},
		metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("register webhook: %w", err)
	}
	return nil
}

// agree waits until every side answers with what it is to answer: nothing with the pod as it is,
// and the others with the pod that has the defaults written in it. Foreign ones may add what they
// want, but something.
func (s *servers) agree(ctx context.Context) error {
	pod, ok := reference.typed("1.0", reference.variables()).(*corev1.Pod)
	if !ok {
		return errors.New("the reference workload is no Pod")
	}
	automount := false // else each pod has a volume with a name of its own
	pod.Spec.AutomountServiceAccountToken = &automount
	pod.Name, pod.GenerateName, pod.Namespace, pod.ManagedFields = "", "checkout-", "", nil
	s.pod = encoded(pod)
	if err := addDefaults(pod); err != nil {
		return err
	}
	dryRun := func(side *side, pod []byte) (any, error) {
		answer, err := s.create(ctx, side.namespace, pod, true)
		if err != nil {
			return nil, err
		}
		return content(answer)
	}
	var bare, defaulted any
	for i, side := range s.sides {
		deadline := time.Now().Add(time.Minute)
		for {
			got, err := dryRun(side, s.pod)
			switch {
			case err != nil:
			case i == 0:
				bare = got
				if defaulted, err = dryRun(side, encoded(pod)); err == nil && reflect.DeepEqual(bare, defaulted) {
					err = errors.New("the defaults make no difference")
				}
				side.want = bare
			case side.foreign:
				side.want = got
				if reflect.DeepEqual(got, bare) {
					err = errors.New("the pod comes back as it was")
				} else if !reflect.DeepEqual(got, defaulted) {
					side.remark = strings.TrimPrefix(side.remark+", adds something else", ", ")
				}
			default:
				side.want = defaulted
				err = matches(got, defaulted)
			}
			if err == nil {
				break
			}
			if time.Now().After(deadline) || ctx.Err() != nil {
				return fmt.Errorf("%s: %w", side.name, err)
			}
			time.Sleep(50 * time.Millisecond) // the API server learns of webhooks and policies by and by
		}
	}
	return nil
}

// matches returns an error that says what a pod lacks or has too much.
func matches(got, want any) error {
	if reflect.DeepEqual(got, want) {
		return nil
	}
	return fmt.Errorf("a pod has something else than it is to have (-want +got):\n%s", gocmp.Diff(want, got))
}

// content returns what a pod, as the API server answers, is: without what the API server gives each and without the
// record of what was added, which policies don't leave.
func content(answer []byte) (any, error) {
	var pod corev1.Pod
	if err := json.Unmarshal(answer, &pod); err != nil {
		return nil, fmt.Errorf("read the API server's answer: %w", err)
	}
	pod.ObjectMeta = metav1.ObjectMeta{Labels: pod.Labels, Annotations: pod.Annotations}
	delete(pod.Labels, "evenkeel.dev/defaulted")
	delete(pod.Annotations, "evenkeel.dev/injected")
	pod.Status = corev1.PodStatus{}
	var value any
	return value, json.Unmarshal(encoded(pod), &value)
}

// create creates a pod and returns the API server's answer.
func (s *servers) create(ctx context.Context, namespace string, pod []byte, dryRun bool) ([]byte, error) {
	request := s.Client.CoreV1().RESTClient().Post().Namespace(namespace).Resource("pods").
		SetHeader("Content-Type", "application/json").SetHeader("Accept", "application/json").Body(pod)
	if dryRun {
		request.Param("dryRun", metav1.DryRunAll)
	}
	return request.Do(ctx).Raw()
}

// heap is what the API server says of its own, in bytes.
type heap struct {
	allocated   float64 // so far
	collections float64 // so far
	inUse, next float64 // now, and when garbage is collected
}

func (s *servers) heap(ctx context.Context) (h heap, err error) {
	text, err := s.Client.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return h, err
	}
	for name, value := range map[string]*float64{"go_memstats_alloc_bytes_total": &h.allocated,
		"go_gc_duration_seconds_count": &h.collections,
		"go_memstats_heap_alloc_bytes": &h.inUse, "go_memstats_next_gc_bytes": &h.next} {
		if *value, err = installation.Sum(string(text), name); err != nil {
			return h, err
		}
		if *value == 0 {
			return h, fmt.Errorf("the API server has no metric %s", name)
		}
	}
	return h, nil
}

// profile makes the API server write a profile of its heap, and collect garbage before it does if it is to. It returns
// the CPU time that took.
func (s *servers) profile(ctx context.Context, collect string) (time.Duration, error) {
	before, _, err1 := usage(s.PIDs()[cluster.APIServer])
	_, err2 := s.Client.CoreV1().RESTClient().Get().AbsPath("/debug/pprof/heap").Param("gc", collect).DoRaw(ctx)
	after, _, err3 := usage(s.PIDs()[cluster.APIServer])
	return after - before, errors.Join(err1, err2, err3)
}

// garbage is what the API server's garbage collector takes.
type garbage struct {
	took          time.Duration     // of CPU, for some collections
	bytes         float64           // allocated from one to the next, of all of them
	rounds, again int               // rounds, and those in which it collected nonetheless
	most          map[*side]float64 // bytes that one creation or rollout has allocated, at most
}

// perByte returns the CPU time of collecting in ms for a byte that is allocated.
func (g garbage) perByte() float64 { return g.took.Seconds() * 1e3 / g.bytes }

// nonetheless says in how many rounds garbage was collected all the same.
func (g garbage) nonetheless() string {
	return fmt.Sprintf("in %d of %d rounds it collected nonetheless", g.again, g.rounds)
}

// collect makes the API server collect its garbage.
func (s *servers) collect(ctx context.Context) (heap, error) {
	both, err1 := s.profile(ctx, "1")
	profile, err2 := s.profile(ctx, "0")
	h, err3 := s.heap(ctx)
	s.garbage.took += both - profile
	s.garbage.bytes += h.next - h.inUse
	return h, errors.Join(err1, err2, err3)
}

// measure does some creations or rollouts in a side and returns what each used. Where the API
// server has no room for what they allocate, it collects its garbage before them rather than in the
// meantime: a collection takes as much as a hundred creations, and most rounds would have one or
// none.
func (s *servers) measure(ctx context.Context, side *side, times int, do func() error) (used, error) {
	before, err := s.heap(ctx)
	// A collection begins long before its goal is reached, after seven tenths of the way at the earliest
	// (https://go.googlesource.com/proposal/+/master/design/44167-gc-pacer-redesign.md), which starts at half of the goal.
	if need := s.garbage.most[side] * float64(times) * 1.2; err == nil &&
		(need == 0 || before.inUse+need > .8*before.next) {
		before, err = s.collect(ctx)
	}
	server, _, err1 := usage(s.PIDs()[cluster.APIServer])
	webhook, _, err2 := usage(side.pid)
	if err := errors.Join(err, err1, err2); err != nil {
		return used{}, err
	}
	if err := do(); err != nil {
		return used{}, err
	}
	serverAfter, _, err1 := usage(s.PIDs()[cluster.APIServer])
	webhookAfter, memory, err2 := usage(side.pid)
	after, err3 := s.heap(ctx)
	if err := errors.Join(err1, err2, err3); err != nil {
		return used{}, err
	}
	s.garbage.rounds++
	if after.collections > before.collections {
		s.garbage.again++
	}
	allocated := (after.allocated - before.allocated) / float64(times)
	s.garbage.most[side] = max(s.garbage.most[side], allocated)
	each := func(d time.Duration) float64 { return d.Seconds() * 1e3 / float64(times) }
	return used{server: each(serverAfter - server), allocated: allocated,
		webhook: each(webhookAfter - webhook), memory: memory}, nil
}

// round creates a number of pods in a side, so many at once, checks them all and deletes them.
func (s *servers) round(ctx context.Context, side *side, pods, atOnce int) (round, error) {
	answers, latencies := make([][]byte, pods), make([]time.Duration, pods)
	used, err := s.measure(ctx, side, pods, func() error {
		var next atomic.Int64
		group, groupContext := errgroup.WithContext(ctx)
		for range atOnce {
			group.Go(func() error {
				for n := next.Add(1) - 1; n < int64(pods); n = next.Add(1) - 1 {
					sent := time.Now()
					answer, err := s.create(groupContext, side.namespace, s.pod, false)
					if err != nil {
						return fmt.Errorf("create pod: %w", err)
					}
					answers[n], latencies[n] = answer, time.Since(sent)
				}
				return nil
			})
		}
		return group.Wait()
	})
	if err != nil {
		return round{}, err
	}
	for _, answer := range answers {
		got, err := content(answer)
		if err == nil {
			err = matches(got, side.want)
		}
		if err != nil {
			return round{}, err
		}
	}
	return round{latencies: latencies, used: used}, s.deletePods(ctx, side.namespace)
}

// deletePods deletes all pods of a namespace, which no kubelet has to let go, and waits until they are gone.
func (s *servers) deletePods(ctx context.Context, namespace string) error {
	now := int64(0)
	pods := s.Client.CoreV1().Pods(namespace)
	for deadline := time.Now().Add(time.Minute); ; {
		if err := pods.DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now},
			metav1.ListOptions{}); err != nil {
			return fmt.Errorf("delete pods: %w", err)
		}
		left, err := pods.List(ctx, metav1.ListOptions{Limit: 1})
		if err != nil {
			return fmt.Errorf("list pods: %w", err)
		}
		if len(left.Items) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New("delete pods: some are still there after a minute")
		}
	}
}

// measureCreates goes through rounds of creates, in which the sides take turns, each round in
// another order. There are about as many creations however many are made at once, but fewer and
// longer rounds where a short one would be over before it has begun. A first round is not counted.
func (s *servers) measureCreates(ctx context.Context, rounds, pods int, atOnce []int) error {
	s.garbage = garbage{most: map[*side]float64{}}
	var sides []*side
	for _, side := range s.sides {
		if side.pods {
			sides = append(sides, side)
		}
	}
	for n := range rounds + 1 {
		for _, workers := range atOnce {
			each := max(pods, 3*workers)
			if n > rounds*pods/each && n > 1 {
				continue
			}
			for _, i := range rand.Perm(len(sides)) {
				side := sides[i]
				measured, err := s.round(ctx, side, each, workers)
				if err != nil {
					return fmt.Errorf("%s: %w", side.name, err)
				}
				if n > 0 {
					side.creates[workers] = append(side.creates[workers], measured)
				}
			}
		}
	}
	return nil
}

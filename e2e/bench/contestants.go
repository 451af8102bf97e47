package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	kwhttp "github.com/slok/kubewebhook/v2/pkg/http"
	"github.com/slok/kubewebhook/v2/pkg/model"
	"github.com/slok/kubewebhook/v2/pkg/webhook/mutating"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/evenkeel/evenkeel/patches"
	"github.com/evenkeel/evenkeel/webhook"
)

// The contestants. All but the constant patch add the same.
const (
	constantPatch     = "constant patch"     // net/http and an answer that is always the same
	evenkeel          = "evenkeel"           // the handler of evenkeel serve
	stockKubewebhook  = "kubewebhook"        // kubewebhook's typed mutator, as its documentation shows it
	controllerRuntime = "controller-runtime" // controller-runtime's typed defaulter, alike
)

var contestants = []string{constantPatch, evenkeel, stockKubewebhook, controllerRuntime}

// handlerOf returns the handler of a contestant for reviews of a kind.
func handlerOf(contestant, kind string) (http.Handler, error) {
	switch contestant {
	case constantPatch:
		return newConstantPatch()
	case evenkeel:
		services := patches.NewServices() // pods of a StatefulSet find each other before they are ready
		services.Put(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "checkout"},
			Spec: corev1.ServiceSpec{PublishNotReadyAddresses: true}})
		return evenkeelHandler(services)
	case stockKubewebhook:
		return kubewebhookHandler(kind)
	case controllerRuntime:
		return controllerRuntimeHandler(kind)
	}
	return nil, fmt.Errorf("contestant %q is not known; allowed: %s", contestant, strings.Join(contestants, ", "))
}

// evenkeelHandler returns what evenkeel serve answers reviews with, metrics included, in a cluster without annotations
// on its Namespaces, and with the same Services in each of them.
func evenkeelHandler(services *patches.Services) (http.Handler, error) {
	injector, err := patches.New(patches.DefaultConfig())
	if err != nil {
		return nil, err
	}
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	return webhook.Handler(webhook.Config{
		Injector:   injector,
		Namespace:  func(context.Context, string) map[string]string { return nil },
		OptedOut:   func(string, string, string) bool { return false },
		Services:   func(string) *patches.Services { return services },
		Cluster:    func() patches.Cluster { return patches.Cluster{APIServer: patches.Version{Major: 1, Minor: 36}} },
		Log:        logrus.NewEntry(logger),
		Registerer: prometheus.NewRegistry(),
	})
}

// constant answers every review with the same patch, as fast as net/http can.
type constant struct {
	head, tail []byte // of the answer, before and after the uid
	buffers    sync.Pool
}

// newConstantPatch returns that handler: its patch is the one that evenkeel answers the reference workload with.
func newConstantPatch() (http.Handler, error) {
	patch, err := referencePatch()
	if err != nil {
		return nil, err
	}
	return newConstant(patch), nil
}

// referencePatch returns evenkeel's patch of the reference workload.
func referencePatch() ([]byte, error) {
	injector, err := patches.New(patches.DefaultConfig())
	if err != nil {
		return nil, err
	}
	_, object := reference.review()
	result := injector.Review(
		patches.Request{Operation: patches.Create, Object: object,
			Cluster: patches.Cluster{APIServer: patches.Version{Major: 1, Minor: 36}}})
	return result.Patch, result.Err
}

// newConstant returns a handler that answers with a patch.
func newConstant(patch []byte) *constant {
	answer := encoded(map[string]any{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
		"response": map[string]any{"allowed": true, "patch": patch, "patchType": "JSONPatch", "uid": "UID"}})
	head, tail, _ := bytes.Cut(answer, []byte("UID"))
	return &constant{head: head, tail: tail, buffers: sync.Pool{New: func() any { return &bytes.Buffer{} }}}
}

func (c *constant) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, ok := c.buffers.Get().(*bytes.Buffer)
	if !ok {
		return
	}
	defer c.buffers.Put(body)
	body.Reset()
	if _, err := body.ReadFrom(r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, rest, _ := bytes.Cut(body.Bytes(), []byte(`"uid":"`)) // kube-apiserver writes it first
	uid, _, ok := bytes.Cut(rest, []byte(`"`))
	if !ok {
		http.Error(w, "no uid", http.StatusBadRequest)
		return
	}
	answer := make([]byte, 0, 2048)
	answer = append(append(append(answer, c.head...), uid...), c.tail...)
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer)
}

// kubewebhookHandler returns kubewebhook's stock handler: its typed mutator, behind its HTTP handler.
func kubewebhookHandler(kind string) (http.Handler, error) {
	object, err := newObject(kind)
	if err != nil {
		return nil, err
	}
	w, err := mutating.NewWebhook(mutating.WebhookConfig{ID: "stock", Obj: object,
		Mutator: mutating.MutatorFunc(
			func(_ context.Context, _ *model.AdmissionReview, object metav1.Object) (*mutating.MutatorResult, error) {
				return &mutating.MutatorResult{MutatedObject: object}, addDefaults(object)
			})})
	if err != nil {
		return nil, err
	}
	return kwhttp.HandlerFor(kwhttp.HandlerConfig{Webhook: w})
}

// controllerRuntimeHandler returns controller-runtime's stock handler of a typed defaulter.
func controllerRuntimeHandler(kind string) (http.Handler, error) {
	log.SetLogger(logr.Discard()) // else it complains that there is none
	switch kind {
	case "Pod":
		return admission.WithDefaulter[*corev1.Pod](clientgoscheme.Scheme, defaulter[*corev1.Pod]{}), nil
	case "Deployment":
		return admission.WithDefaulter[*appsv1.Deployment](clientgoscheme.Scheme, defaulter[*appsv1.Deployment]{}), nil
	case "StatefulSet":
		return admission.WithDefaulter[*appsv1.StatefulSet](clientgoscheme.Scheme, defaulter[*appsv1.StatefulSet]{}), nil
	}
	return nil, fmt.Errorf("kind %q: allowed are Pod, Deployment and StatefulSet", kind)
}

// defaulter implements admission.Defaulter.
type defaulter[T interface {
	runtime.Object
	metav1.Object
}] struct{}

// Default adds the defaults.
func (defaulter[T]) Default(_ context.Context, object T) error { return addDefaults(object) }

func newObject(kind string) (metav1.Object, error) {
	switch kind {
	case "Pod":
		return &corev1.Pod{}, nil
	case "Deployment":
		return &appsv1.Deployment{}, nil
	case "StatefulSet":
		return &appsv1.StatefulSet{}, nil
	}
	return nil, fmt.Errorf("kind %q: allowed are Pod, Deployment and StatefulSet", kind)
}

// addDefaults adds to a typed object what evenkeel adds to the workloads of this comparison.
func addDefaults(object metav1.Object) error {
	switch o := object.(type) {
	case *corev1.Pod:
		selector := map[string]string{}
		for key, value := range o.Labels {
			selector[key] = value
		}
		addToPod(&o.ObjectMeta, &o.Spec, &metav1.LabelSelector{MatchLabels: selector}, nil)
	case *appsv1.Deployment:
		addToPod(&o.Spec.Template.ObjectMeta, &o.Spec.Template.Spec, o.Spec.Selector, []string{"pod-template-hash"})
		*o.Spec.Template.Spec.TerminationGracePeriodSeconds += 10 // which is the API's, and a Pod's stays
	case *appsv1.StatefulSet:
		addToPod(&o.Spec.Template.ObjectMeta, &o.Spec.Template.Spec, o.Spec.Selector, nil)
		*o.Spec.Template.Spec.TerminationGracePeriodSeconds += 10
	default:
		return errors.New("kind is not known")
	}
	return nil
}

func addToPod(meta *metav1.ObjectMeta, spec *corev1.PodSpec, selector *metav1.LabelSelector, matchLabelKeys []string) {
	var added []string
	if spec.Affinity == nil {
		spec.Affinity = &corev1.Affinity{}
	}
	if spec.Affinity.PodAntiAffinity == nil {
		term := func(weight int32, key string) corev1.WeightedPodAffinityTerm {
			return corev1.WeightedPodAffinityTerm{Weight: weight, PodAffinityTerm: corev1.PodAffinityTerm{
				LabelSelector: selector, TopologyKey: key, MatchLabelKeys: matchLabelKeys}}
		}
		spec.Affinity.PodAntiAffinity = &corev1.PodAntiAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
				term(100, corev1.LabelHostname), term(50, corev1.LabelTopologyZone)}}
		added = append(added, "anti-affinity")
	}
	slept, probed := false, false
	for i := range spec.Containers {
		c := &spec.Containers[i]
		if len(c.Ports) == 0 {
			continue
		}
		if c.Lifecycle == nil {
			c.Lifecycle = &corev1.Lifecycle{}
		}
		if c.Lifecycle.PreStop == nil {
			c.Lifecycle.PreStop = &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 10}}
			slept = true
		}
		if c.ReadinessProbe == nil {
			c.ReadinessProbe = &corev1.Probe{PeriodSeconds: 5, TimeoutSeconds: 2, FailureThreshold: 3,
				ProbeHandler: corev1.ProbeHandler{
					TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(c.Ports[0].ContainerPort)}}}
			if c.LivenessProbe != nil {
				c.ReadinessProbe.ProbeHandler = c.LivenessProbe.ProbeHandler
			}
			probed = true
		}
	}
	if slept {
		added = append(added, "pre-stop-sleep")
	}
	if probed {
		added = append(added, "readiness-probe")
	}
	metav1.SetMetaDataAnnotation(meta, "evenkeel.dev/injected", strings.Join(added, ","))
	metav1.SetMetaDataLabel(meta, "evenkeel.dev/defaulted", "true")
}

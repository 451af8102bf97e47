package surge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	admissionv1 "k8s.io/api/admission/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/evenkeel/evenkeel/internal/collectors"
	"github.com/evenkeel/evenkeel/internal/event"
	"github.com/evenkeel/evenkeel/policy"
)

// Config says how a Handler works.
type Config struct {
	Client kubernetes.Interface
	// Namespace returns the annotations of a Namespace, nil where it is not known. It must not ask
	// the API server.
	Namespace func(ctx context.Context, name string) map[string]string
	// Base and Bounds are the operator's settings.
	Base   policy.Policy
	Bounds policy.Bounds
	// Patience is how long a drain may be held; at least 1 s.
	Patience   time.Duration
	Log        *logrus.Entry
	Registerer prometheus.Registerer
}

// Handler answers admission reviews of evictions.
type Handler struct {
	config    Config
	evictions *prometheus.CounterVec
	places    chan struct{}
	now       func() time.Time
	timeout   time.Duration
}

// What one review may cost. The API server waits for timeoutSeconds of the webhook configuration.
const (
	maxBody     = 1 << 20
	maxReviews  = 32              // at once; more pass
	answerLimit = 3 * time.Second // for all that is asked; then the eviction passes
	eventLimit  = time.Second     // for an Event, which is a courtesy
	maxPods     = 50              // that a Deployment of one replica selects
	maxClaims   = 16              // of one pod
	maxPatience = 24 * time.Hour  // that an operator may ask for
	retries     = 3               // where somebody has changed the Deployment meanwhile
)

// New returns a Handler, or an error that says what is missing in config.
func New(config Config) (*Handler, error) {
	switch {
	case config.Client == nil || config.Namespace == nil || config.Log == nil || config.Registerer == nil:
		return nil, errors.New("surge: the configuration is incomplete")
	case config.Patience < time.Second || config.Patience > maxPatience:
		return nil, fmt.Errorf("surge: a patience of %s is not possible; allowed: 1s to 24h", config.Patience)
	}
	h := &Handler{config: config, places: make(chan struct{}, maxReviews), now: time.Now, timeout: answerLimit,
		evictions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "evenkeel_surge_evictions_total",
			Help: "Evictions that were looked at, by what became of them; surging and waiting were refused with 429.",
		}, []string{"code"})}
	return h, collectors.Register(config.Registerer, h.evictions)
}

// ServeHTTP answers one review. What is no review gets a status of 4xx, which the API server takes
// for no answer: the eviction passes.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "a review is posted", http.StatusMethodNotAllowed)
		return
	}
	select {
	case h.places <- struct{}{}:
		defer func() { <-h.places }()
	default:
		http.Error(w, "too much at once", http.StatusTooManyRequests)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var review admissionv1.AdmissionReview
	if err != nil || json.Unmarshal(body, &review) != nil || review.Request == nil || review.Request.UID == "" {
		http.Error(w, "the body is not an admission review", http.StatusBadRequest)
		return
	}
	response := h.review(r.Context(), review.Request)
	response.UID = review.Request.UID
	review.Request, review.Response = nil, response
	review.TypeMeta = metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "AdmissionReview"}
	answer, err := json.Marshal(review)
	if err != nil {
		http.Error(w, "no answer", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer) // who went away passes
}

// review answers one request. A panic lets the eviction pass.
func (h *Handler) review(
	ctx context.Context, request *admissionv1.AdmissionRequest,
) (response *admissionv1.AdmissionResponse) {
	response = &admissionv1.AdmissionResponse{Allowed: true}
	defer func() {
		if failure := recover(); failure != nil {
			h.config.Log.WithFields(logrus.Fields{"cause": fmt.Sprint(failure), "stack": string(debug.Stack())}).
				Error("panic in review of eviction")
			response = &admissionv1.AdmissionResponse{Allowed: true}
		}
	}()
	var eviction policyv1.Eviction
	if request.SubResource != "eviction" || request.Resource.Resource != "pods" ||
		json.Unmarshal(request.Object.Raw, &eviction) != nil {
		return response
	}
	dryRun := request.DryRun != nil && *request.DryRun
	var preconditions *metav1.Preconditions
	if o := eviction.DeleteOptions; o != nil {
		dryRun, preconditions = dryRun || len(o.DryRun) > 0, o.Preconditions
	}
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	name := request.Name
	if name == "" {
		name = eviction.Name
	}
	facts, code, err := h.decide(ctx, request.Namespace, name, preconditions, dryRun)
	h.evictions.WithLabelValues(string(code)).Inc()
	entry := h.config.Log.WithFields(logrus.Fields{"namespace": clip(request.Namespace), "name": clip(name),
		"code": string(code), "dryRun": dryRun})
	if err != nil {
		entry.WithError(err).Warn("eviction passes, since evenkeel could not look it up or restart the Deployment")
	} else {
		entry.Debug("eviction decided")
	}
	if reason := code.Reason(); reason.Refused {
		response.Allowed = false
		response.Result = &metav1.Status{Status: metav1.StatusFailure, Code: http.StatusTooManyRequests,
			Reason: metav1.StatusReasonTooManyRequests,
			// Without RetryAfterSeconds, as with a budget: client-go would ask again by itself, and
			// say nothing.
			Message: message(code, facts.Deployment, facts.Pod, h.config.Patience)}
	}
	if code.Reason().Event && facts.Asked && !dryRun {
		h.tell(context.WithoutCancel(ctx), facts, code)
	}
	return response
}

// decide finds out about a pod, and begins a surge where Decide says so. It asks again where
// somebody has changed the Deployment meanwhile. With an error the code is Unknown.
func (h *Handler) decide(
	ctx context.Context, namespace, name string, preconditions *metav1.Preconditions, dryRun bool,
) (Facts, Code, error) {
	var facts Facts
	var failure error
	for range retries {
		var err error
		facts, err = h.facts(ctx, namespace, name)
		switch {
		case apierrors.IsNotFound(err) && facts.Pod == nil: // the API server says so itself
			return facts, Ending, nil
		case err != nil:
			return facts, Unknown, err
		}
		if p := preconditions; p != nil && (p.UID != nil && *p.UID != facts.Pod.UID ||
			p.ResourceVersion != nil && *p.ResourceVersion != facts.Pod.ResourceVersion) {
			return facts, Ending, nil // the API server refuses by itself
		}
		code, began := Decide(facts)
		if code != Surging || dryRun {
			return facts, code, nil
		}
		if failure = h.restart(ctx, facts, began); !apierrors.IsConflict(failure) {
			if failure != nil {
				return facts, Unknown, failure
			}
			return facts, code, nil
		}
	}
	return facts, Unknown, failure
}

// facts asks the API server about a pod, as far as a decision needs it.
func (h *Handler) facts(ctx context.Context, namespace, name string) (Facts, error) {
	f := Facts{Patience: h.config.Patience, Now: h.now()}
	pod, err := h.config.Client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return f, fmt.Errorf("read pod: %w", err)
	}
	f.Pod = pod
	annotations := h.config.Namespace(ctx, namespace)
	set := controllerOf(f.Pod, "ReplicaSet")
	if set == "" {
		return f, nil
	}
	replicaSet, err := h.config.Client.AppsV1().ReplicaSets(namespace).Get(ctx, set, metav1.GetOptions{})
	if err != nil {
		return f, fmt.Errorf("read ReplicaSet: %w", err)
	}
	deployment := controllerOf(replicaSet, "Deployment")
	if deployment == "" {
		return f, nil
	}
	f.Deployment, err = h.config.Client.AppsV1().Deployments(namespace).Get(ctx, deployment, metav1.GetOptions{})
	if err != nil {
		return f, fmt.Errorf("read Deployment: %w", err)
	}
	p, _ := policy.Resolve(h.config.Base, h.config.Bounds,
		policy.Annotations{Source: policy.SourcePodTemplate, Values: f.Deployment.Spec.Template.Annotations},
		policy.Annotations{Source: policy.SourceWorkload, Values: f.Deployment.Annotations},
		policy.Annotations{Source: policy.SourceNamespace, Values: annotations})
	if f.Asked = p.DrainSurge; !f.Asked {
		return f, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(f.Deployment.Spec.Selector)
	if err != nil {
		return f, fmt.Errorf("read selector: %w", err)
	}
	pods, err := h.config.Client.CoreV1().Pods(namespace).List(ctx,
		metav1.ListOptions{LabelSelector: selector.String(), Limit: maxPods})
	switch {
	case err != nil:
		return f, fmt.Errorf("list pods: %w", err)
	case pods.Continue != "":
		return f, fmt.Errorf("list pods: more than %d are selected", maxPods)
	}
	f.Pods = pods.Items
	claims := claimNames(f.Pod)
	if len(claims) > maxClaims {
		return f, fmt.Errorf("read claims: the pod has %d", len(claims))
	}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(claims))) {
		claim, err := h.config.Client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return f, fmt.Errorf("read claim: %w", err)
		}
		f.Claims = append(f.Claims, *claim)
	}
	return f, nil
}

// restart does what kubectl rollout restart does, and notes for which pod, unless somebody has
// changed the Deployment meanwhile.
func (h *Handler) restart(ctx context.Context, f Facts, began time.Time) error {
	note := begun{began: began, pod: f.Pod.UID, node: f.Pod.Spec.NodeName}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": f.Deployment.UID, "resourceVersion": f.Deployment.ResourceVersion,
			"annotations": map[string]string{Annotation: note.write()}},
		"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{
			"annotations": map[string]string{RestartedAt: f.Now.UTC().Format(time.RFC3339)}}}},
	})
	if err != nil {
		return fmt.Errorf("encode patch: %w", err)
	}
	_, err = h.config.Client.AppsV1().Deployments(f.Deployment.Namespace).Patch(ctx, f.Deployment.Name,
		types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "evenkeel-surge"})
	if err != nil {
		return fmt.Errorf("restart Deployment: %w", err)
	}
	return nil
}

// clip bounds what a client wrote, for the log.
func clip(s string) string { return s[:min(len(s), 253)] }

// tell writes an Event about a Deployment: one for each pod and code, since its name is made of
// them.
func (h *Handler) tell(ctx context.Context, f Facts, code Code) {
	ctx, cancel := context.WithTimeout(ctx, eventLimit)
	defer cancel()
	d := f.Deployment
	reason, kind := "DrainPasses", corev1.EventTypeWarning
	if code.Reason().Refused {
		reason, kind = "DrainSurges", corev1.EventTypeNormal
	}
	e := event.Event{Controller: "surge", Type: kind, Reason: reason,
		Message: fmt.Sprintf("eviction of pod %s: %s: %s", f.Pod.Name, code, code.Reason().Text),
		About: corev1.ObjectReference{APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "Deployment",
			Namespace: d.Namespace, Name: d.Name, UID: d.UID},
		Key: string(d.UID) + string(f.Pod.UID) + string(code), At: f.Now}
	if err := e.Send(ctx, h.config.Client); err != nil {
		h.config.Log.WithError(err).Debug("event not written")
	}
}

package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/wait"
	admissionregistrationv1apply "k8s.io/client-go/applyconfigurations/admissionregistration/v1"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/evenkeel/evenkeel/internal/collectors"
)

// secretKey is the key in the Secret under which the authorities are.
const secretKey = "authorities.pem"

// manager is the field manager of what is written. It owns the Secret's content and
// the caBundle of each webhook, and nothing else.
const manager = "evenkeel-certificates"

// lookAgain is how long at most the state is not judged anew. A suspended machine
// notices at the latest that long after it woke up.
const lookAgain = 10 * time.Second

// SelfManagedConfig says which objects hold what.
type SelfManagedConfig struct {
	Client kubernetes.Interface
	// Namespace and Secret are the place of the authorities.
	Namespace, Secret string
	// WebhookConfiguration is the name of the MutatingWebhookConfiguration whose webhooks
	// get the bundle.
	WebhookConfiguration string
	// Host is the name under which the API server verifies the certificate:
	// SERVICE.NAMESPACE.svc.
	Host      string
	Lifetimes Lifetimes
	Log       *logrus.Entry
	// Registerer takes the metrics; nil means none.
	Registerer prometheus.Registerer
}

// SelfManaged serves with certificates of its own making, which the package
// documentation describes.
type SelfManaged struct {
	config        SelfManagedConfig
	client        kubernetes.Interface
	secret        cache.SharedIndexInformer
	configuration cache.SharedIndexInformer
	writes        *prometheus.CounterVec
	resets        *prometheus.CounterVec
	limit         flowcontrol.RateLimiter // of writes, should somebody else keep undoing them
	changed       chan struct{}           // something was observed, for Lead
	now           func() time.Time
	start         time.Time

	secretContest, bundleContest contest // of the leader

	mu        sync.Mutex
	replica   replica
	found     bool   // the webhook configuration exists
	lastError string // of what was observed, logged when it changes
}

// NewSelfManaged returns a SelfManaged, or an error that says what is missing in
// config.
func NewSelfManaged(config SelfManagedConfig) (*SelfManaged, error) {
	config.Lifetimes = config.Lifetimes.withDefaults()
	l := config.Lifetimes
	switch {
	case config.Client == nil || config.Log == nil:
		return nil, errors.New("self-managed certificates: a client and a log are needed")
	case config.Namespace == "" || config.Secret == "" || config.WebhookConfiguration == "" || config.Host == "":
		return nil, errors.New(
			"self-managed certificates: the names of namespace, Secret, webhook configuration and host are needed")
	case l.Settle <= 0 || l.Leaf <= 0 || l.Authority/3 <= l.Leaf || l.Authority/3 <= 4*l.Settle:
		return nil, fmt.Errorf("self-managed certificates: lifetimes of %v for the authority and %v for the certificate, "+
			"with %v to settle, leave no time to rotate; "+
			"allowed: positive ones, with a third of the authority's longer than the certificate's and than four times the "+
			"time to settle", l.Authority, l.Leaf, l.Settle)
	}
	s := &SelfManaged{config: config, client: config.Client, now: func() time.Time { return time.Now().Round(0) },
		start: time.Now(), changed: make(chan struct{}, 1), limit: flowcontrol.NewTokenBucketRateLimiter(0.5, 20),
		replica: replica{host: config.Host, lifetimes: l}}
	named := func(name string) informers.SharedInformerOption {
		return informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
		})
	}
	s.secret = informers.NewSharedInformerFactoryWithOptions(config.Client, 0, informers.WithNamespace(config.Namespace),
		named(config.Secret)).Core().V1().Secrets().Informer()
	s.configuration = informers.NewSharedInformerFactoryWithOptions(config.Client, 0, named(config.WebhookConfiguration)).
		Admissionregistration().V1().MutatingWebhookConfigurations().Informer()
	observe := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { s.observe() }, UpdateFunc: func(_, _ any) { s.observe() }, DeleteFunc: func(any) { s.observe() }}
	for _, informer := range []cache.SharedIndexInformer{s.secret, s.configuration} {
		if _, err := informer.AddEventHandler(observe); err != nil {
			return nil, fmt.Errorf("set up informers: %w", err)
		}
	}
	return s, s.register()
}

func (s *SelfManaged) register() error {
	s.writes = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "evenkeel_certificate_writes_total",
		Help: "Writes of certificate authorities, by object (secret, bundle) and result (ok, conflict, error); what can't " +
			"even be read counts as an error."}, []string{"object", "result"})
	for _, object := range []string{"secret", "bundle"} {
		for _, result := range []string{"ok", "conflict", "error"} {
			s.writes.WithLabelValues(object, result)
		}
	}
	s.resets = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "evenkeel_certificate_resets_total",
		Help: "Times that somebody took out what evenkeel had written, by object (secret, bundle)."}, []string{"object"})
	for _, object := range []string{"secret", "bundle"} {
		s.resets.WithLabelValues(object)
	}
	if s.config.Registerer == nil {
		return nil
	}
	if err := collectors.Register(s.config.Registerer, s.writes, s.resets); err != nil {
		return err
	}
	locked := func(of func(*replica) *x509.Certificate) func() *x509.Certificate {
		return func() *x509.Certificate {
			s.mu.Lock()
			defer s.mu.Unlock()
			return of(&s.replica)
		}
	}
	return errors.Join(
		registerExpiry(s.config.Registerer, "evenkeel_certificate", "the serving certificate", backdate,
			locked(func(r *replica) *x509.Certificate {
				if r.leaf == nil {
					return nil
				}
				return r.leaf.Leaf
			})),
		registerExpiry(s.config.Registerer, "evenkeel_certificate_authority", "the authority that has signed it", backdate,
			locked(func(r *replica) *x509.Certificate {
				i := slices.IndexFunc(r.memory, func(a authority) bool { return a.id() == r.signer })
				if i < 0 {
					return nil
				}
				return r.memory[i].cert
			})),
	)
}

// elapsed is the monotonic clock, which stands still while the machine does.
func (s *SelfManaged) elapsed() time.Duration { return time.Since(s.start) }

// Run watches the Secret and the bundle until ctx ends. Every replica does.
func (s *SelfManaged) Run(ctx context.Context) {
	var group wait.Group
	group.StartWithContext(ctx, s.secret.RunWithContext)
	group.StartWithContext(ctx, s.configuration.RunWithContext)
	group.StartWithContext(ctx, func(ctx context.Context) {
		// so that nothing expires unused; Ready says why not
		wait.UntilWithContext(ctx, func(context.Context) { _, _ = s.Certificate(nil) }, lookAgain)
	})
	group.Wait()
}

// observe tells the replica what the caches show.
func (s *SelfManaged) observe() {
	var content []byte
	var bundles [][]byte
	found := false
	for _, object := range s.secret.GetStore().List() {
		if secret, ok := object.(*corev1.Secret); ok {
			content = secret.Data[secretKey]
		}
	}
	for _, object := range s.configuration.GetStore().List() {
		if configuration, ok := object.(*admissionregistrationv1.MutatingWebhookConfiguration); ok {
			found, bundles = true, bundlesOf(configuration)
		}
	}
	s.mu.Lock()
	s.found = found
	err := s.replica.observe(s.elapsed(), content, bundles)
	text := ""
	if err != nil {
		text = err.Error()
	}
	news := text != s.lastError && text != ""
	s.lastError = text
	s.mu.Unlock()
	if news {
		s.config.Log.WithError(err).Warn("certificate authorities of somebody else")
	}
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func bundlesOf(configuration *admissionregistrationv1.MutatingWebhookConfiguration) [][]byte {
	var bundles [][]byte
	for i := range configuration.Webhooks {
		bundles = append(bundles, configuration.Webhooks[i].ClientConfig.CABundle)
	}
	return bundles
}

// Certificate is a tls.Config.GetCertificate.
func (s *SelfManaged) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.replica.signer
	certificate, err := s.replica.certificate(s.now(), s.elapsed())
	if err == nil && s.replica.signer != before {
		s.config.Log.WithFields(logrus.Fields{"authority": short(s.replica.signer), "notAfter": certificate.Leaf.NotAfter}).
			Info("serving with another authority")
	}
	return certificate, err
}

// short is enough of a fingerprint for people.
func short(id fingerprint) string { return fmt.Sprintf("%x", id[:6]) }

// Ready returns an error that says why there is no certificate to serve with that
// the API server accepts.
func (s *SelfManaged) Ready() error {
	if !s.secret.HasSynced() || !s.configuration.HasSynced() {
		return errors.New("certificate authorities not read yet")
	}
	if _, err := s.Certificate(nil); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.found:
		return fmt.Errorf("MutatingWebhookConfiguration %s not found, so nobody calls", s.config.WebhookConfiguration)
	case !s.replica.accepted:
		return errors.New("certificate not accepted by the API server yet: its authority is missing in the caBundle")
	case !s.replica.fresh(s.now()):
		return fmt.Errorf("certificate expired at %s", s.replica.leaf.Leaf.NotAfter.Format(time.RFC3339))
	}
	return nil
}

// Lead keeps the Secret and the bundle until ctx ends. Only the leader should, but
// two at once do no harm: who writes last was refused, as what he read is old.
func (s *SelfManaged) Lead(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), s.secret.HasSynced, s.configuration.HasSynced) {
		return ctx.Err()
	}
	lastError := ""
	for ctx.Err() == nil {
		wake, err := s.step(ctx)
		switch {
		case err == nil:
			lastError = ""
		case apierrors.IsConflict(err):
			wake = 100 * time.Millisecond // somebody else was faster
		case ctx.Err() == nil:
			wake = time.Second
			if text := err.Error(); text != lastError {
				lastError = text
				s.config.Log.WithError(err).Error("certificate authorities not written; trying again")
			}
		}
		timer := time.NewTimer(min(wake, lookAgain))
		select {
		case <-ctx.Done():
		case <-s.changed:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// step reads what there is, from the API server itself, writes what should be, and
// returns when to look again.
func (s *SelfManaged) step(ctx context.Context) (wake time.Duration, err error) {
	// The configuration first: what is written to it may not be older than the Secret
	// that it was derived from, and the API server sees to it that it has not changed.
	configuration, err := s.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx,
		s.config.WebhookConfiguration, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		configuration, err = &admissionregistrationv1.MutatingWebhookConfiguration{}, nil
	}
	if err != nil {
		s.count("bundle", err)
		return 0, fmt.Errorf("read webhook configuration: %w", err)
	}
	secret, err := s.client.CoreV1().Secrets(s.config.Namespace).Get(ctx, s.config.Secret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		secret, err = &corev1.Secret{}, nil
	}
	if err != nil {
		s.count("secret", err)
		return 0, fmt.Errorf("read Secret: %w", err)
	}
	bundles := bundlesOf(configuration)
	s.mu.Lock()
	content, certificates, wake, err := s.replica.plan(s.now(), s.elapsed(), secret.Data[secretKey], bundles)
	s.mu.Unlock()
	if err != nil {
		return 0, err
	}
	undone, loud := s.secretContest.wanted(secret.Data[secretKey], content, s.now())
	s.contested(ctx, "secret", undone, loud, corev1.ObjectReference{APIVersion: "v1", Kind: "Secret",
		Namespace: s.config.Namespace, Name: s.config.Secret, UID: secret.UID}, secret.ManagedFields)
	if !bytes.Equal(content, secret.Data[secretKey]) {
		if err := s.limit.Wait(ctx); err != nil {
			return 0, err
		}
		if err := s.writeSecret(ctx, secret, content); err != nil {
			return 0, err
		}
		s.secretContest.written = content
	}
	for _, b := range bundles {
		if !bytes.Equal(b, certificates) {
			undone, loud := s.bundleContest.wanted(b, certificates, s.now())
			s.contested(ctx, "bundle", undone, loud, corev1.ObjectReference{APIVersion: "admissionregistration.k8s.io/v1",
				Kind: "MutatingWebhookConfiguration", Name: configuration.Name, UID: configuration.UID},
				configuration.ManagedFields)
			if err := s.limit.Wait(ctx); err != nil {
				return 0, err
			}
			if err := s.writeBundle(ctx, configuration, certificates); err != nil {
				return 0, err
			}
			s.bundleContest.written = certificates
			return wake, nil
		}
	}
	return wake, nil
}

func (s *SelfManaged) writeSecret(ctx context.Context, read *corev1.Secret, content []byte) error {
	apply := corev1apply.Secret(s.config.Secret, s.config.Namespace).
		WithLabels(map[string]string{"app.kubernetes.io/name": "evenkeel"}).
		WithData(map[string][]byte{secretKey: content})
	if read.UID == "" {
		apply = apply.WithResourceVersion("0") // refused where it exists by now
	} else {
		apply = apply.WithUID(read.UID).WithResourceVersion(read.ResourceVersion)
	}
	_, err := s.client.CoreV1().Secrets(s.config.Namespace).Apply(ctx, apply,
		metav1.ApplyOptions{FieldManager: manager, Force: true})
	s.count("secret", err)
	if err != nil {
		return fmt.Errorf("write Secret: %w", err)
	}
	s.log("Secret written", content)
	return nil
}

func (s *SelfManaged) writeBundle(
	ctx context.Context, read *admissionregistrationv1.MutatingWebhookConfiguration, certificates []byte,
) error {
	apply := admissionregistrationv1apply.MutatingWebhookConfiguration(read.Name).WithUID(read.UID).
		WithResourceVersion(read.ResourceVersion)
	for i := range read.Webhooks {
		apply = apply.WithWebhooks(admissionregistrationv1apply.MutatingWebhook().WithName(read.Webhooks[i].Name).
			WithClientConfig(admissionregistrationv1apply.WebhookClientConfig().WithCABundle(certificates...)))
	}
	_, err := s.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Apply(ctx, apply,
		metav1.ApplyOptions{FieldManager: manager, Force: true})
	s.count("bundle", err)
	if err != nil {
		return fmt.Errorf("write caBundle: %w", err)
	}
	s.log("caBundle written", certificates)
	return nil
}

// log says which authorities were written, newest first.
func (s *SelfManaged) log(message string, content []byte) {
	authorities, _ := decode(content, s.config.Host)
	var ids []string
	for _, a := range authorities {
		ids = append(ids, short(a.id()))
	}
	s.config.Log.WithField("authorities", ids).Info(message)
}

func (s *SelfManaged) count(object string, err error) {
	result := "ok"
	switch {
	case apierrors.IsConflict(err):
		result = "conflict"
	case err != nil:
		result = "error"
	}
	s.writes.WithLabelValues(object, result).Inc()
}

// registerExpiry registers metrics of when a certificate was made and when it ends:
// what is left of its lifetime says whether its renewal is late, whoever renews it.
// One of our own begins before it was made, by backdated.
func registerExpiry(
	registerer prometheus.Registerer, name, what string, backdated time.Duration, certificate func() *x509.Certificate,
) error {
	gauge := func(name, help string, of func(*x509.Certificate) time.Time) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			if c := certificate(); c != nil {
				return float64(of(c).Unix())
			}
			return 0
		})
	}
	return collectors.Register(registerer,
		gauge(name+"_start_timestamp_seconds", "When "+what+" was made, in seconds since 1970; 0 without one.",
			func(c *x509.Certificate) time.Time { return c.NotBefore.Add(backdated) }),
		gauge(name+"_expiry_timestamp_seconds", "When "+what+" ends, in seconds since 1970; 0 without one.",
			func(c *x509.Certificate) time.Time { return c.NotAfter }),
	)
}

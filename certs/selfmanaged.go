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
	// WebhookConfigurations are the names of the MutatingWebhookConfigurations whose webhooks
	// get the bundle. The first one has to be there.
	WebhookConfigurations []string
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
	config         SelfManagedConfig
	client         kubernetes.Interface
	secret         cache.SharedIndexInformer
	configurations []cache.SharedIndexInformer // in the order of config's
	writes         *prometheus.CounterVec
	resets         *prometheus.CounterVec
	limit          flowcontrol.RateLimiter // of writes, should somebody else keep undoing them
	changed        chan struct{}           // something was observed, for Lead
	now            func() time.Time
	start          time.Time

	secretContest  contest   // of the leader
	bundleContests []contest // in the order of config's configurations

	mu        sync.Mutex
	replica   replica
	found     bool   // the first webhook configuration exists
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
	case config.Namespace == "" || config.Secret == "" || len(config.WebhookConfigurations) == 0 || config.Host == "":
		return nil, errors.New(
			"self-managed certificates: the names of namespace, Secret, webhook configurations and host are needed")
	case l.Settle <= 0 || l.Leaf <= 0 || l.Authority/3 <= l.Leaf || l.Authority/3 <= 4*l.Settle:
		return nil, fmt.Errorf("self-managed certificates: lifetimes of %v for the authority and %v for the certificate, "+
			"with %v to settle, leave no time to rotate; "+
			"allowed: positive ones, with a third of the authority's longer than the certificate's and than four times the "+
			"time to settle", l.Authority, l.Leaf, l.Settle)
	}
	s := &SelfManaged{config: config, client: config.Client, now: func() time.Time { return time.Now().Round(0) },
		start: time.Now(), changed: make(chan struct{}, 1), limit: flowcontrol.NewTokenBucketRateLimiter(0.5, 20),
		replica: replica{host: config.Host, lifetimes: l}, bundleContests: make([]contest, len(config.WebhookConfigurations))}
	named := func(name string) informers.SharedInformerOption {
		return informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
		})
	}
	s.secret = informers.NewSharedInformerFactoryWithOptions(config.Client, 0, informers.WithNamespace(config.Namespace),
		named(config.Secret)).Core().V1().Secrets().Informer()
	for _, name := range config.WebhookConfigurations { // a list of several names isn't allowed by name
		factory := informers.NewSharedInformerFactoryWithOptions(config.Client, 0, named(name))
		s.configurations = append(s.configurations,
			factory.Admissionregistration().V1().MutatingWebhookConfigurations().Informer())
	}
	observe := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { s.observe() }, UpdateFunc: func(_, _ any) { s.observe() }, DeleteFunc: func(any) { s.observe() }}
	for _, informer := range append(slices.Clone(s.configurations), s.secret) {
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
	for _, informer := range s.configurations {
		group.StartWithContext(ctx, informer.RunWithContext)
	}
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
	for i, informer := range s.configurations {
		for _, object := range informer.GetStore().List() {
			if configuration, ok := object.(*admissionregistrationv1.MutatingWebhookConfiguration); ok {
				found, bundles = found || i == 0, appendBundles(bundles, i, configuration)
			}
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

// appendBundles appends the bundles that a certificate has to be accepted by: all of the first
// configuration, and of another one those that are written. An upgrade brings a configuration that the
// leader, of the version before, writes nothing to: a new replica that waited for it would hold up the
// upgrade.
func appendBundles(
	bundles [][]byte, index int, configuration *admissionregistrationv1.MutatingWebhookConfiguration,
) [][]byte {
	for _, b := range bundlesOf(configuration) {
		if index == 0 || len(b) > 0 {
			bundles = append(bundles, b)
		}
	}
	return bundles
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

// synced reports whether everything was read once.
func (s *SelfManaged) synced() bool {
	for _, informer := range s.configurations {
		if !informer.HasSynced() {
			return false
		}
	}
	return s.secret.HasSynced()
}

// Ready returns an error that says why there is no certificate to serve with that
// the API server accepts.
func (s *SelfManaged) Ready() error {
	if !s.synced() {
		return errors.New("certificate authorities not read yet")
	}
	if _, err := s.Certificate(nil); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.found:
		return fmt.Errorf("MutatingWebhookConfiguration %s not found, so nobody calls", s.config.WebhookConfigurations[0])
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
	if !cache.WaitForCacheSync(ctx.Done(), s.synced) {
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
	// The configurations first: what is written to them may not be older than the Secret
	// that it was derived from, and the API server sees to it that they have not changed.
	configurations := make([]*admissionregistrationv1.MutatingWebhookConfiguration, len(s.config.WebhookConfigurations))
	var bundles [][]byte
	for i, name := range s.config.WebhookConfigurations {
		configuration, err := s.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, name,
			metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			configuration, err = &admissionregistrationv1.MutatingWebhookConfiguration{}, nil
		}
		if err != nil {
			s.count("bundle", err)
			return 0, fmt.Errorf("read webhook configuration: %w", err)
		}
		configurations[i], bundles = configuration, appendBundles(bundles, i, configuration)
	}
	secret, err := s.client.CoreV1().Secrets(s.config.Namespace).Get(ctx, s.config.Secret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		secret, err = &corev1.Secret{}, nil
	}
	if err != nil {
		s.count("secret", err)
		return 0, fmt.Errorf("read Secret: %w", err)
	}
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
	for i, configuration := range configurations {
		if err := s.keepBundle(ctx, &s.bundleContests[i], configuration, certificates); err != nil {
			return 0, err
		}
	}
	return wake, nil
}

// keepBundle writes certificates to the webhooks of a configuration, where one of them has others.
func (s *SelfManaged) keepBundle(
	ctx context.Context, contest *contest, read *admissionregistrationv1.MutatingWebhookConfiguration, certificates []byte,
) error {
	for _, b := range bundlesOf(read) {
		if bytes.Equal(b, certificates) {
			continue
		}
		undone, loud := contest.wanted(b, certificates, s.now())
		s.contested(ctx, "bundle", undone, loud, corev1.ObjectReference{APIVersion: "admissionregistration.k8s.io/v1",
			Kind: "MutatingWebhookConfiguration", Name: read.Name, UID: read.UID}, read.ManagedFields)
		if err := s.limit.Wait(ctx); err != nil {
			return err
		}
		if err := s.writeBundle(ctx, read, certificates); err != nil {
			return err
		}
		contest.written = certificates
		return nil
	}
	return nil
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

package admission

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/check"
)

// TestAutoSleepsAsLongAsTheServicesNeed creates workloads behind Services whose traffic goes on for longer or shorter
// after a pod began to terminate.
func TestAutoSleepsAsLongAsTheServicesNeed(t *testing.T) {
	namespace := optedIn(t, nil)
	nlb := map[string]string{"service.beta.kubernetes.io/aws-load-balancer-nlb-target-type": "ip"} // needs 120 s
	// evenkeel learns of Services in the order in which they were made, and knows them all when it
	// knows the last: what needs no more than the default comes first.
	cases := []struct {
		name, setting string
		service       *corev1.Service // nil for none
		ingress       map[string]string
		want          int64
	}{
		{"no-service", "auto", nil, nil, 10},
		{"cluster-ip", "auto", service(corev1.ServiceTypeClusterIP, nil), nil, 10},
		{"nlb-without-auto", "", service(corev1.ServiceTypeLoadBalancer, nlb), nil, 10},
		// It needs 30 s, but a review knows Services alone, as docs/concepts/stop.md says.
		{"ingress-alb", "auto", service(corev1.ServiceTypeClusterIP, nil),
			map[string]string{"alb.ingress.kubernetes.io/target-type": "ip"}, 10},
		{"local", "auto", service(corev1.ServiceTypeLoadBalancer, nil, func(s *corev1.ServiceSpec) {
			s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}), nil, 30},
		{"neg", "auto", service(corev1.ServiceTypeClusterIP, map[string]string{
			"cloud.google.com/neg": `{"ingress": true}`}), nil, 40},
		{"nlb", "auto", service(corev1.ServiceTypeLoadBalancer, nlb), nil, 60}, // the operator's bound
	}
	create := func(name, setting string, options metav1.CreateOptions) (sleep, grace int64) {
		d, err := shared.Client.AppsV1().Deployments(namespace).Create(t.Context(),
			deployment(name, 1, func(d *appsv1.Deployment) {
				if setting != "" {
					d.Annotations = map[string]string{"evenkeel.dev/pre-stop-sleep": setting}
				}
			}), options)
		check.Must(t, err)
		pod := d.Spec.Template.Spec
		if hook := pod.Containers[0].Lifecycle; hook != nil && hook.PreStop != nil && hook.PreStop.Sleep != nil {
			sleep = hook.PreStop.Sleep.Seconds
		}
		return sleep, *pod.TerminationGracePeriodSeconds
	}
	for _, c := range cases {
		if c.service == nil {
			continue
		}
		c.service.Name, c.service.Spec.Selector = c.name, map[string]string{"app": c.name}
		_, err := shared.Client.CoreV1().Services(namespace).Create(t.Context(), c.service, metav1.CreateOptions{})
		check.Must(t, err)
		if c.ingress == nil {
			continue
		}
		_, err = shared.Client.NetworkingV1().Ingresses(namespace).Create(t.Context(), &networkingv1.Ingress{
			ObjectMeta: metav1.ObjectMeta{Name: c.name, Annotations: c.ingress},
			Spec: networkingv1.IngressSpec{IngressClassName: ptr("alb"), DefaultBackend: &networkingv1.IngressBackend{
				Service: &networkingv1.IngressServiceBackend{Name: c.name,
					Port: networkingv1.ServiceBackendPort{Number: 80}}}},
		}, metav1.CreateOptions{})
		check.Must(t, err)
	}
	last := cases[len(cases)-1]
	check.Eventually(t, "evenkeel knows the Services", func() error {
		sleep, _ := create(last.name, last.setting, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if sleep <= 10 {
			return fmt.Errorf("%s sleeps %d s", last.name, sleep)
		}
		return nil
	})
	for _, c := range cases {
		if sleep, grace := create(c.name, c.setting, metav1.CreateOptions{}); sleep != c.want || grace != 30+c.want {
			t.Errorf("%s: sleep %d s, grace period %d s, want %d and %d", c.name, sleep, grace, c.want, 30+c.want)
		}
	}
}

// service returns a Service for the port of bare.
func service(kind corev1.ServiceType, annotations map[string]string,
	change ...func(*corev1.ServiceSpec)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Annotations: annotations},
		Spec: corev1.ServiceSpec{Type: kind, Ports: []corev1.ServicePort{{Port: 80}}}}
	for _, f := range change {
		f(&s.Spec)
	}
	return s
}

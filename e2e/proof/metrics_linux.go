package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/evenkeel/evenkeel/e2e/installation"
	"github.com/evenkeel/evenkeel/e2e/proof/report"
)

// metricsAPI registers an external metrics API that stands outside of the cluster.
const metricsAPI = `
apiVersion: v1
kind: Service
metadata: {name: load-metric, namespace: kube-system}
spec: {ports: [{port: 443}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: load-metric, namespace: kube-system, labels: {kubernetes.io/service-name: load-metric}}
addressType: IPv4
endpoints: [{addresses: [%[1]q], conditions: {ready: true}}]
ports: [{name: "", port: %[2]d}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.external.metrics.k8s.io}
spec: {group: external.metrics.k8s.io, version: v1beta1, groupPriorityMinimum: 100, versionPriority: 100,
  insecureSkipTLSVerify: true,
  service: {name: load-metric, namespace: kube-system}}
`

// serveMetric serves the metric "load" at the control plane's address until the context ends, and registers it.
func (e *env) serveMetric(ctx context.Context, address string) (*atomic.Int64, error) {
	dir, err := os.MkdirTemp("", "evenkeel-proof-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if _, err := installation.WriteCertificate(dir, "load-metric.kube-system.svc", 24*time.Hour); err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp4", net.JoinHostPort(address, "0"))
	if err != nil {
		return nil, err
	}
	load := new(atomic.Int64)
	answer := func(w http.ResponseWriter, object any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(object) // the caller sees a cut answer
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/apis/external.metrics.k8s.io/v1beta1", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, metav1.APIResourceList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "APIResourceList"},
			GroupVersion: "external.metrics.k8s.io/v1beta1",
			APIResources: []metav1.APIResource{{Name: "load", Namespaced: true, Kind: "ExternalMetricValueList",
				Verbs: metav1.Verbs{"get"}}}})
	})
	mux.HandleFunc("/apis/external.metrics.k8s.io/v1beta1/namespaces/", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"kind": "ExternalMetricValueList", "apiVersion": "external.metrics.k8s.io/v1beta1",
			"metadata": map[string]any{},
			"items": []any{map[string]any{"metricName": "load", "metricLabels": map[string]string{}, "timestamp": metav1.Now(),
				"value": fmt.Sprint(load.Load())}}})
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}}
	go func() { _ = server.ServeTLS(listener, "", "") }() // ends with the context
	context.AfterFunc(ctx, func() { _ = server.Close() })

	port, ok := listener.Addr().(*net.TCPAddr)
	if !ok {
		return nil, errors.New("serve metric: no TCP port")
	}
	if err := e.Apply(ctx, fmt.Sprintf(metricsAPI, address, port.Port)); err != nil {
		return nil, fmt.Errorf("register metric: %w", err)
	}
	return load, nil
}

// scaleByMetric lets an autoscaler follow a metric up and down.
func (r *run) scaleByMetric(ctx context.Context, s report.Scenario) (err error) {
	if err := r.settle(ctx, 2); err != nil {
		return err
	}
	r.load.Store(20) // 10 per replica
	two, none, ten := int32(2), int32(0), resource.MustParse("10")
	for _, side := range report.Sides() {
		for _, kind := range serverKinds() {
			_, err := r.Client.AutoscalingV2().HorizontalPodAutoscalers(side).Create(ctx, &autoscalingv2.HorizontalPodAutoscaler{
				ObjectMeta: metav1.ObjectMeta{Name: kind},
				Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
					ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: kind},
					MinReplicas:    &two, MaxReplicas: 5,
					Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ExternalMetricSourceType,
						External: &autoscalingv2.ExternalMetricSource{
							Metric: autoscalingv2.MetricIdentifier{Name: "load"},
							Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: &ten}}}},
					Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{
						ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &none}},
				},
			}, metav1.CreateOptions{})
			if err != nil {
				return fmt.Errorf("create autoscaler: %w", err)
			}
			defer func() {
				err = errors.Join(err, r.Client.AutoscalingV2().HorizontalPodAutoscalers(side).Delete(ctx, kind,
					metav1.DeleteOptions{}))
			}()
		}
	}
	return r.observe(ctx, s, func(ctx context.Context, o *report.Outcome) error {
		r.load.Store(50)
		if err := r.waitReplicas(ctx, 5); err != nil {
			return err
		}
		r.load.Store(20)
		if err := r.waitReplicas(ctx, 2); err != nil {
			return err
		}
		return r.waitComplete(ctx, o, serverKinds()...)
	})
}

// waitReplicas waits until the autoscalers want and have this many replicas.
func (r *run) waitReplicas(ctx context.Context, replicas int32) error {
	err := r.wait(ctx, "the autoscalers", func() error {
		for _, side := range report.Sides() {
			for _, kind := range serverKinds() {
				d, err := r.Client.AppsV1().Deployments(side).Get(ctx, kind, metav1.GetOptions{})
				if err != nil {
					return err
				}
				if *d.Spec.Replicas != replicas {
					return fmt.Errorf("%s %s has %d replicas", side, kind, *d.Spec.Replicas)
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.waitAvailable(ctx, serverKinds()...)
}

// available returns nil if a Deployment's replicas are there, whatever else still terminates.
func available(d *appsv1.Deployment) error {
	if want := *d.Spec.Replicas; d.Status.ObservedGeneration < d.Generation || d.Status.AvailableReplicas < want ||
		d.Status.UpdatedReplicas < want {
		return fmt.Errorf("%s %s has %d of %d replicas", d.Namespace, d.Name, d.Status.AvailableReplicas, want)
	}
	return nil
}

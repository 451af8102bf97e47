package main

import (
	"encoding/json"
	"fmt"
	"sort"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// workload says which review to make.
type workload struct {
	kind string // Pod, Deployment or StatefulSet
	// bytes is how large the object is to be, at least; environment variables fill it.
	bytes      int
	containers int
	// update makes it an update with oldObject, which changes an image.
	update bool
}

// name is the name of the workload in tables, without spaces.
func (w workload) name() string {
	name := fmt.Sprintf("%s-%s-%d", w.kind, size(w.bytes), w.containers)
	if w.update {
		name += "-update"
	}
	return name
}

func size(n int) string {
	if n >= 1_000_000 {
		return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(n)/1e6), ".0") + "MB"
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(n)/1e3), ".0") + "KB"
}

// reference is the workload that the requirements name: a Pod of 9.4 KB.
var reference = workload{kind: "Pod", bytes: 9400, containers: 2}

// sizes are the workloads over which cost must be linear.
var sizes = []workload{
	{kind: "Pod", bytes: 2000, containers: 1},
	{kind: "Pod", bytes: 4700, containers: 1},
	{kind: "Pod", bytes: 20_000, containers: 1},
	{kind: "Pod", bytes: 50_000, containers: 1},
	{kind: "Pod", bytes: 100_000, containers: 1},
	{kind: "Pod", bytes: 300_000, containers: 1},
	{kind: "Pod", bytes: 1_000_000, containers: 1},
}

// shapes are the other workloads.
var shapes = []workload{
	reference,
	{kind: "Pod", bytes: 9400, containers: 1},
	{kind: "Pod", bytes: 9400, containers: 5},
	{kind: "Pod", bytes: 20_000, containers: 20},
	{kind: "Deployment", bytes: 4700, containers: 1},
	{kind: "StatefulSet", bytes: 4700, containers: 1},
	{kind: "Deployment", bytes: 4700, containers: 1, update: true},
}

// review returns the review as kube-apiserver writes it, and the object in it.
func (w workload) review() (review, object []byte) {
	object = w.object("1.0")
	return w.reviewOf(object, w.object("0.9")), object
}

// reviewOf returns the review of an object and, for an update, what it was before.
func (w workload) reviewOf(object, old []byte) []byte {
	request := &admissionv1.AdmissionRequest{
		UID:       types.UID("705ab4f5-6393-11e8-b7cc-42010a800002"),
		Operation: admissionv1.Create,
		Name:      "checkout", Namespace: "shop",
		Object: runtime.RawExtension{Raw: object},
		UserInfo: authenticationv1.UserInfo{Username: "system:serviceaccount:ci:deployer",
			UID:    "0c5f5f5d-2b0b-4b57-9ad6-5d4f37d6ac36",
			Groups: []string{"system:serviceaccounts", "system:serviceaccounts:ci", "system:authenticated"},
			Extra: map[string]authenticationv1.ExtraValue{
				"authentication.kubernetes.io/pod-name":      {"runner-7d4f8b6c9-x2x7k"},
				"authentication.kubernetes.io/pod-uid":       {"1f2b6f3a-40d0-4d0a-9a52-7f6d2d7e3a10"},
				"authentication.kubernetes.io/credential-id": {"JTI=4f2b8a3c-9d1e-4c5f-8a7b-6e5d4c3b2a10"},
			}},
		DryRun: new(bool),
		Options: runtime.RawExtension{
			Raw: []byte(`{"kind":"CreateOptions","apiVersion":"meta.k8s.io/v1","fieldManager":"kubectl-client-side-apply",` +
				`"fieldValidation":"Strict"}`)},
	}
	switch w.kind {
	case "Pod":
		request.Kind, request.Resource = metav1.GroupVersionKind{Version: "v1", Kind: "Pod"},
			metav1.GroupVersionResource{Version: "v1", Resource: "pods"}
	default:
		request.Kind = metav1.GroupVersionKind{Group: "apps", Version: "v1", Kind: w.kind}
		request.Resource = metav1.GroupVersionResource{Group: "apps", Version: "v1", Resource: strings.ToLower(w.kind) + "s"}
	}
	request.RequestKind, request.RequestResource = &request.Kind, &request.Resource
	if w.update {
		request.Operation, request.OldObject = admissionv1.Update, runtime.RawExtension{Raw: old}
	}
	return encoded(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: request})
}

// object returns the workload with its images of a version, as the API server encodes it after defaulting.
func (w workload) object(version string) []byte {
	return encoded(w.typed(version, w.variables()))
}

// variables returns how many environment variables make the object as large as it is to be.
func (w workload) variables() int {
	return sort.Search(w.bytes/50, func(n int) bool { return len(encoded(w.typed("1.0", n))) >= w.bytes })
}

// typed returns the workload with environment variables over all its containers.
func (w workload) typed(version string, variables int) any {
	labels := map[string]string{"app.kubernetes.io/name": "checkout", "app.kubernetes.io/instance": "checkout-eu",
		"team": "payments"}
	spec := corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst,
		SchedulerName:                 corev1.DefaultSchedulerName,
		TerminationGracePeriodSeconds: ptr(int64(30)), SecurityContext: &corev1.PodSecurityContext{},
		EnableServiceLinks: ptr(true),
	}
	for i := range w.containers {
		c := corev1.Container{
			Name: fmt.Sprintf("app-%d", i), Image: fmt.Sprintf("registry.example/shop/app-%d:%s", i, version),
			ImagePullPolicy: corev1.PullIfNotPresent,
			Ports: []corev1.ContainerPort{
				{Name: "http", ContainerPort: int32(8080 + i), Protocol: corev1.ProtocolTCP}},
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")}},
			TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
		}
		if i == 0 {
			c.LivenessProbe = &corev1.Probe{
				ProbeHandler: corev1.ProbeHandler{
					HTTPGet: &corev1.HTTPGetAction{Path: "/livez", Port: intstr.FromString("http"), Scheme: corev1.URISchemeHTTP}},
				TimeoutSeconds: 1, PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 3}
		}
		spec.Containers = append(spec.Containers, c)
	}
	for i := range variables {
		c := &spec.Containers[i%w.containers]
		c.Env = append(c.Env,
			corev1.EnvVar{Name: fmt.Sprintf("FEATURE_%04d_ENDPOINT", i),
				Value: fmt.Sprintf("https://feature-%d.shop.svc:8443/v1?mode=on", i)})
	}
	meta := metav1.ObjectMeta{Name: "checkout", Namespace: "shop", Labels: labels,
		Annotations: map[string]string{"shop.example/owner": "payments"}}
	template := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{"shop.example/owner": "payments"}},
		Spec:       spec}
	selector := &metav1.LabelSelector{
		MatchLabels: map[string]string{"app.kubernetes.io/name": "checkout", "app.kubernetes.io/instance": "checkout-eu"}}
	managed := metav1.ManagedFieldsEntry{Manager: "kubectl-client-side-apply",
		Operation: metav1.ManagedFieldsOperationUpdate, FieldsType: "FieldsV1",
		FieldsV1: metav1.NewFieldsV1(
			`{"f:metadata":{"f:labels":{".":{},"f:team":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"app-0\"}":{".":{},` +
				`"f:image":{},"f:name":{},"f:ports":{".":{},"k:{\"containerPort\":8080,\"protocol\":\"TCP\"}":{".":{},` +
				`"f:containerPort":{}}}}}}}`)}
	meta.ManagedFields = []metav1.ManagedFieldsEntry{managed}
	switch w.kind {
	case "Deployment":
		return &appsv1.Deployment{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, ObjectMeta: meta,
			Spec: appsv1.DeploymentSpec{Replicas: ptr(int32(10)), Selector: selector, Template: template,
				Strategy:             appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType},
				RevisionHistoryLimit: ptr(int32(10)), ProgressDeadlineSeconds: ptr(int32(600))}}
	case "StatefulSet":
		return &appsv1.StatefulSet{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "StatefulSet"}, ObjectMeta: meta,
			Spec: appsv1.StatefulSetSpec{Replicas: ptr(int32(10)), Selector: selector, Template: template,
				ServiceName:         "checkout",
				PodManagementPolicy: appsv1.OrderedReadyPodManagement, RevisionHistoryLimit: ptr(int32(10))}}
	}
	meta.Name = "checkout-x2x4z" // which is none of its labels
	return &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: meta, Spec: spec}
}

func ptr[T any](v T) *T { return &v }

// encoded returns the JSON of a value that can't fail to be encoded.
func encoded(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}

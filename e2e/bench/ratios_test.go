package main

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"syscall"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/evenkeel/evenkeel/patches"
)

// cpu returns the CPU time of this process so far, collecting garbage included. Unlike time on the
// clock it stays nearly the same when others use the machine.
func cpu(t testing.TB) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// costs returns the CPU time per review of handlers, in rounds that take turns: the median of the rounds.
func costs(t testing.TB, handlers []http.Handler, reviews [][]byte, rounds int) []time.Duration {
	t.Helper()
	const round = 60 * time.Millisecond
	all := make([][]time.Duration, len(handlers))
	calls := make([]int, len(handlers))
	c := newCall()
	for i, h := range handlers { // how many calls a round takes
		for start := cpu(t); cpu(t)-start < round; calls[i]++ {
			c.post(h, reviews[i])
			if c.status != http.StatusOK {
				t.Fatalf("answer %d %s", c.status, c.answer)
			}
		}
	}
	for range rounds {
		for i, h := range handlers {
			start := cpu(t)
			for range calls[i] {
				c.post(h, reviews[i])
			}
			all[i] = append(all[i], (cpu(t)-start)/time.Duration(calls[i]))
		}
	}
	medians := make([]time.Duration, len(handlers))
	for i := range all {
		slices.Sort(all[i])
		medians[i] = all[i][len(all[i])/2]
	}
	return medians
}

// Limits are what a change must not go beyond, with room for a machine that others use, on which what is small costs
// relatively more. The README says what is reached and what is aimed at.
const (
	leastToStock = 25.0  // times less CPU than kubewebhook's stock mutator, on the Pod of 9.4 KB
	mostAllocs   = 50.0  // on that Pod, and on a Deployment that is created; 48 is aimed at
	mostUpdate   = 510.0 // allocations of an update whose template changed, and where something of ours stands
	mostServices = 1.10  // of the CPU time without Services; 1.05 is aimed at
	mostExponent = 1.05  // of the cost over the size, from 2 KB to 1 MB
)

func TestCostStaysARatio(t *testing.T) {
	review, object := reference.review()
	var handlers []http.Handler
	for _, contestant := range contestants {
		handler, err := handlerOf(contestant, reference.kind)
		if err != nil {
			t.Fatal(err)
		}
		c := newCall()
		c.post(handler, review)
		patched(t, c.status, c.answer, object)
		handlers = append(handlers, handler)
	}
	took := costs(t, handlers, [][]byte{review, review, review, review}, 15)
	for i, contestant := range contestants {
		c := newCall()
		t.Logf("%-20s %8.1f µs CPU, %5.0f allocations", contestant, float64(took[i])/1e3,
			testing.AllocsPerRun(50, func() { c.post(handlers[i], review) }))
	}
	ratio := float64(took[2]) / float64(took[1])
	t.Logf("evenkeel takes 1/%.0f of kubewebhook's stock mutator and %.1f µs more than the constant patch", ratio,
		float64(took[1]-took[0])/1e3)
	if ratio < leastToStock {
		t.Errorf("%.1f times less CPU than the stock mutator, want %.0f times", ratio, leastToStock)
	}
	c := newCall()
	if allocs := testing.AllocsPerRun(200, func() { c.post(handlers[1], review) }); allocs > mostAllocs {
		t.Errorf("%.0f allocations, want %.0f at most", allocs, mostAllocs)
	}
	deployment := workload{kind: "Deployment", bytes: 4700, containers: 1}
	handler, err := handlerOf(evenkeel, deployment.kind)
	if err != nil {
		t.Fatal(err)
	}
	review, _ = deployment.review()
	allocs := testing.AllocsPerRun(200, func() { c.post(handler, review) })
	t.Logf("a Deployment that is created takes %.0f allocations", allocs)
	if allocs > mostAllocs {
		t.Errorf("a Deployment takes %.0f allocations, want %.0f at most", allocs, mostAllocs)
	}
}

// TestServicesCostLittle reviews in a Namespace of 1,000 Services, one of which leads to the pod.
func TestServicesCostLittle(t *testing.T) {
	review, object := reference.review()
	var pod corev1.Pod
	if err := json.Unmarshal(object, &pod); err != nil {
		t.Fatal(err)
	}
	services := patches.NewServices()
	for i := range 1000 {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("other-", i)}, Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": fmt.Sprint("other-", i)}, Ports: []corev1.ServicePort{{Port: 80}}}}
		if i == 0 {
			s.Name, s.Spec.Selector = "ours", pod.Labels
			s.Spec.Ports = []corev1.ServicePort{{Port: 80,
				TargetPort: intstr.FromInt32(pod.Spec.Containers[0].Ports[0].ContainerPort)}}
		}
		services.Put(s)
	}
	without, err := evenkeelHandler(nil)
	if err != nil {
		t.Fatal(err)
	}
	with, err := evenkeelHandler(services)
	if err != nil {
		t.Fatal(err)
	}
	c := newCall()
	c.post(with, review)
	patched(t, c.status, c.answer, object)
	took := costs(t, []http.Handler{without, with}, [][]byte{review, review}, 31)
	ratio := float64(took[1]) / float64(took[0])
	t.Logf("with 1,000 Services a review takes %.3f times the CPU time of one without (%.1f and %.1f µs)", ratio,
		float64(took[1])/1e3, float64(took[0])/1e3)
	if ratio > mostServices {
		t.Errorf("that is more than %.2f times", mostServices)
	}
}

// TestAnUpdateBesideOursAllocatesLittle has the image of a Deployment change in which our additions
// stand, and in which the settings want others since: what is ours is told from what is theirs, and
// decided anew.
func TestAnUpdateBesideOursAllocatesLittle(t *testing.T) {
	handler, err := handlerOf(evenkeel, "Deployment")
	if err != nil {
		t.Fatal(err)
	}
	for name, sleep := range map[string]string{"the settings are the same": "10s", "the settings are others": "20s"} {
		settings := map[string]string{"pre-stop-sleep": sleep}
		w := workload{kind: "Deployment", bytes: 4700, containers: 1, update: true}
		before, err := injected(w.object("0.9"), settings)
		if err != nil {
			t.Fatal(err)
		}
		after, err := injected(w.object("1.0"), settings)
		if err != nil {
			t.Fatal(err)
		}
		review := w.reviewOf(after, before)
		c := newCall()
		allocs := testing.AllocsPerRun(200, func() { c.post(handler, review) })
		var answer admissionv1.AdmissionReview
		if err := json.Unmarshal(c.answer, &answer); err != nil || answer.Response == nil {
			t.Fatalf("answer %s: %v", c.answer, err)
		}
		t.Logf("%s: %.0f allocations, patch %s", name, allocs, answer.Response.Patch)
		if changed := len(answer.Response.Patch) > len("[]"); changed != (sleep == "20s") {
			t.Errorf("%s: the patch is %s", name, answer.Response.Patch)
		}
		if allocs > mostUpdate {
			t.Errorf("%s: %.0f allocations, want %.0f at most", name, allocs, mostUpdate)
		}
	}
}

// TestCostIsLinear fits the cost over the size of a Pod as a power. A constant part makes the
// exponent smaller, so it is the slope between the large ones that tells, too.
func TestCostIsLinear(t *testing.T) {
	handler, err := handlerOf(evenkeel, "Pod")
	if err != nil {
		t.Fatal(err)
	}
	var handlers []http.Handler
	var reviews [][]byte
	for _, w := range sizes {
		review, _ := w.review()
		handlers, reviews = append(handlers, handler), append(reviews, review)
	}
	took := costs(t, handlers, reviews, 9)
	slope := func(from int) float64 { // least squares over logarithms
		var n, sx, sy, sxx, sxy float64
		for i := from; i < len(reviews); i++ {
			x, y := math.Log(float64(len(reviews[i]))), math.Log(float64(took[i]))
			n, sx, sy, sxx, sxy = n+1, sx+x, sy+y, sxx+x*x, sxy+x*y
		}
		return (n*sxy - sx*sy) / (n*sxx - sx*sx)
	}
	for i := range reviews {
		t.Logf("%8d bytes: %8.1f µs CPU, %.2f ns per byte", len(reviews[i]), float64(took[i])/1e3,
			float64(took[i])/float64(len(reviews[i])))
	}
	t.Logf("exponent %.3f over all, %.3f from 20 KB on", slope(0), slope(2))
	if slope(0) > mostExponent {
		t.Errorf("cost grows with the size to the power of %.3f, want %.2f at most", slope(0), mostExponent)
	}
}

package patches

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func aService(name string, selector map[string]string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{Selector: selector, Ports: ports}}
}

// decisions says what becomes of the probe of a Deployment with Services.
func decisions(t *testing.T, services *Services) string {
	t.Helper()
	injector, err := New(DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	result := injector.Review(
		Request{Operation: Create, Services: services,
			Object: []byte(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},
		"spec":{"selector":{"matchLabels":{"app":"web"}},"template":{"metadata":{"labels":{"app":"web","tier":"front"}},
		"spec":{"containers":[{"name":"web","ports":[{"name":"a","containerPort":1},{"name":"b","containerPort":2}]}]}}}}`)})
	for _, d := range result.Decisions {
		if d.Default == DefaultReadinessProbe {
			return string(d.Skip) + d.Detail
		}
	}
	return ""
}

func TestServicesFollowChanges(t *testing.T) {
	web, front := map[string]string{"app": "web"}, map[string]string{"tier": "front"}
	services := NewServices()
	for _, step := range []struct {
		does string
		do   func()
		want string
	}{
		{"nothing", func() {}, "ambiguous-port"},
		{"adds a Service", func() { services.Put(aService("x", web, corev1.ServicePort{Port: 1})) }, `tcpSocket {"port":1}`},
		{"adds another", func() { services.Put(aService("y", web, corev1.ServicePort{Port: 2})) }, "ambiguous-port"},
		{"changes its selector",
			func() { services.Put(aService("y", map[string]string{"app": "other"}, corev1.ServicePort{Port: 2})) },
			`tcpSocket {"port":1}`},
		{"changes the port of the first", func() {
			services.Put(aService("x", front, corev1.ServicePort{Port: 80, TargetPort: intstr.FromString("b")}))
		}, `tcpSocket {"port":2}`},
		{"deletes one that is not there", func() { services.Delete("z") }, `tcpSocket {"port":2}`},
		{"deletes the first", func() { services.Delete("x") }, "ambiguous-port"},
		{"makes a Service too large to count", func() {
			services.Put(aService("y", web, slices.Repeat([]corev1.ServicePort{{Port: 1}}, maxTargets+1)...))
		}, "ambiguous-port"},
	} {
		step.do()
		if got := decisions(t, services); got != step.want {
			t.Errorf("after it %s: %s, want %s", step.does, got, step.want)
		}
	}
	if len(services.byName) != 0 || len(services.byPair) != 0 || services.Len() != 0 {
		t.Errorf("%v and %v are left", services.byName, services.byPair)
	}
}

// TestTenThousandServicesTakeFewMebibytes states what they take, a namespace with all of them being the worst.
func TestTenThousandServicesTakeFewMebibytes(t *testing.T) {
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	services := NewServices()
	for i := range 10_000 {
		name := fmt.Sprintf("service-%d", i)
		services.Put(
			aService(name,
				map[string]string{strings.Clone("app.kubernetes.io/name"): name, strings.Clone("app.kubernetes.io/instance"): name},
				corev1.ServicePort{Name: strings.Clone("http"), Port: 80, TargetPort: intstr.FromString(strings.Clone("http"))},
				corev1.ServicePort{Name: strings.Clone("metrics"), Port: 9090}))
	}
	taken := heap() - before
	runtime.KeepAlive(services)
	const most = 8 << 20
	if taken > most {
		t.Errorf("10,000 Services take %d KiB, want at most %d", taken>>10, most>>10)
	}
	t.Logf("10,000 Services take %d KiB", taken>>10)
}

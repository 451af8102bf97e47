package event

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes/fake"
)

func TestTheSameIsSaidOnce(t *testing.T) {
	client := fake.NewClientset()
	e := Event{About: corev1.ObjectReference{Namespace: "shop", Name: "web"}, Reason: "A", Key: "a", At: time.Now()}
	other := e
	other.Key = "b"
	for _, e := range []Event{e, e, other} {
		if err := e.Send(t.Context(), client); err != nil {
			t.Fatal(err)
		}
	}
	list, err := client.CoreV1().Events("shop").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 {
		t.Errorf("%d Events (%v), want 2", len(list.Items), err)
	}
}

// TestTheAPITakesWhatIsLong has a name whose cut is at a dot, a message without end, and an object
// without a namespace.
func TestTheAPITakesWhatIsLong(t *testing.T) {
	name := strings.Repeat("a", 235) + "." + strings.Repeat("b", 17)
	o := Event{About: corev1.ObjectReference{Name: name}, Message: strings.Repeat("x", 2000)}.object()
	if problems := validation.IsDNS1123Subdomain(o.Name); len(problems) > 0 {
		t.Errorf("name %s: %v", o.Name, problems)
	}
	if len(o.Message) != 1024 || !strings.HasSuffix(o.Message, "x...") {
		t.Errorf("a message of %d bytes, want 1024", len(o.Message))
	}
	if o.Namespace != "default" {
		t.Errorf("namespace %q, want default", o.Namespace)
	}
}

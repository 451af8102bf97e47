// Package event writes Events about objects. They are a courtesy: nothing waits for one, and one that
// the API server doesn't take is lost.
package event

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Event is what is said about an object. One of the API takes three times as much memory.
type Event struct {
	About                             corev1.ObjectReference
	Controller, Type, Reason, Message string
	// Key tells the Event from others about the object. The name is made of it, so that nobody says the
	// same again, after a restart or as another leader, while the API server keeps it (an hour).
	Key string
	At  time.Time
}

// CertificatesReset is the reason of Events that somebody takes out what evenkeel has written of its
// certificates. While that goes on, one comes every CertificatesResetAgain.
const (
	CertificatesReset      = "CertificatesReset"
	CertificatesResetAgain = 10 * time.Minute
)

const (
	maxName    = 253  // of an object of the API
	maxMessage = 1024 // of an Event of the API
)

// Send writes the Event. One that is there already is no error.
func (e Event) Send(ctx context.Context, client kubernetes.Interface) error {
	object := e.object()
	_, err := client.CoreV1().Events(object.Namespace).Create(ctx, object, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func (e Event) object() *corev1.Event {
	sum := sha256.Sum256([]byte(e.Key))
	end := "." + hex.EncodeToString(sum[:8])
	name := strings.TrimRight(e.About.Name[:min(len(e.About.Name), maxName-len(end))], "-.") + end
	namespace, at := e.About.Namespace, metav1.NewTime(e.At)
	if namespace == "" { // the API wants Events about objects without a namespace there
		namespace = metav1.NamespaceDefault
	}
	message := e.Message
	if len(message) > maxMessage {
		message = message[:maxMessage-3] + "..."
	}
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: name},
		InvolvedObject: e.About,
		Reason:         e.Reason, Message: message, Type: e.Type, Source: corev1.EventSource{Component: "evenkeel"},
		ReportingController: "evenkeel.dev/" + e.Controller, FirstTimestamp: at, LastTimestamp: at, Count: 1,
	}
}

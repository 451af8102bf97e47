package main

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/evenkeel/evenkeel/e2e/proof/report"
)

// A podWatch follows all pods of both sides.
type podWatch struct {
	mu   sync.Mutex
	pods map[string]*report.PodLife // by UID

	family corev1.IPFamily // of the address that counts
}

// watchPods follows the pods until the context ends.
func (e *env) watchPods(ctx context.Context) *podWatch {
	w := &podWatch{pods: map[string]*report.PodLife{}, family: e.families[0]}
	for _, side := range report.Sides() {
		factory := informers.NewSharedInformerFactoryWithOptions(e.Client, 0, informers.WithNamespace(side))
		informer := factory.Core().V1().Pods().Informer()
		_, _ = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{ // fails only for a stopped informer
			AddFunc:    w.see,
			UpdateFunc: func(_, now any) { w.see(now) },
			DeleteFunc: func(last any) {
				if tombstone, ok := last.(cache.DeletedFinalStateUnknown); ok {
					last = tombstone.Obj
				}
				if pod, ok := last.(*corev1.Pod); ok {
					w.note(pod, report.Gone)
				}
			},
		})
		factory.Start(ctx.Done())
		factory.WaitForCacheSync(ctx.Done())
	}
	return w
}

func (w *podWatch) see(object any) {
	if pod, ok := object.(*corev1.Pod); ok {
		w.note(pod, phaseOf(pod))
	}
}

// addressOf returns the address of a pod in a family, or none.
func addressOf(pod *corev1.Pod, family corev1.IPFamily) string {
	for _, address := range pod.Status.PodIPs {
		if strings.Contains(address.IP, ":") == (family == corev1.IPv6Protocol) {
			return address.IP
		}
	}
	return ""
}

// phaseOf returns the phase that a pod's status says.
func phaseOf(pod *corev1.Pod) report.Phase {
	running, isReady := false, false
	for _, status := range pod.Status.ContainerStatuses {
		running = running || status.State.Running != nil
	}
	for _, condition := range pod.Status.Conditions {
		isReady = isReady || condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue
	}
	switch {
	case pod.DeletionTimestamp != nil && !running:
		return report.Stopped
	case pod.DeletionTimestamp != nil:
		return report.Terminating
	case isReady:
		return report.Ready
	case running:
		return report.Starting
	}
	return report.Pending
}

func (w *podWatch) note(pod *corev1.Pod, now report.Phase) {
	w.mu.Lock()
	defer w.mu.Unlock()
	life := w.pods[string(pod.UID)]
	if life == nil {
		life = &report.PodLife{Side: pod.Namespace, Server: pod.Labels["app"], Name: pod.Name}
		w.pods[string(pod.UID)] = life
	}
	life.Node, life.IP = pod.Spec.NodeName, addressOf(pod, w.family)
	for _, status := range pod.Status.ContainerStatuses {
		if ended := status.State.Terminated; status.Name == appContainer && ended != nil {
			if told, err := strconv.ParseInt(ended.Message, 10, 64); err == nil { // it may have left none
				life.Told = time.UnixMicro(told)
			}
		}
	}
	if n := len(life.Changes); n == 0 || life.Changes[n-1].Phase != now {
		life.Changes = append(life.Changes, report.Change{At: time.Now(), Phase: now})
	}
}

// between returns copies of the lives of the pods that were there between two times, in the order in which they began.
func (w *podWatch) between(from, to time.Time) []report.PodLife {
	w.mu.Lock()
	defer w.mu.Unlock()
	var lives []report.PodLife
	for _, life := range w.pods {
		last := life.Changes[len(life.Changes)-1]
		if last.Phase == report.Gone && last.At.Before(from) || life.Changes[0].At.After(to) {
			continue
		}
		kept := *life
		kept.Changes = append([]report.Change(nil), life.Changes...)
		lives = append(lives, kept)
	}
	report.SortLives(lives)
	return lives
}

// ready returns the addresses of the pods that are ready.
func (w *podWatch) ready() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var addresses []string
	for _, life := range w.pods {
		if life.Changes[len(life.Changes)-1].Phase == report.Ready {
			addresses = append(addresses, life.IP)
		}
	}
	return addresses
}

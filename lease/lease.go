// Package lease lets one replica of several work, by a Lease of the API server.
package lease

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Config says which Lease replicas elect a leader by.
type Config struct {
	Client kubernetes.Interface
	// Namespace and Name are the place of the Lease.
	Namespace, Name string
	// Identity tells replicas apart: the name of the pod.
	Identity string
	// Duration is how long the Lease of a leader that died holds the others up; 0 means
	// 15 s. At least 1 s, since the API keeps whole seconds.
	Duration time.Duration
	Log      *logrus.Entry
}

// Election is the part of one replica in the choice of a leader.
type Election struct {
	log        *logrus.Entry
	newElector func(leaderelection.LeaderCallbacks) (*leaderelection.LeaderElector, error)
}

// New returns an Election, or an error that says what the configuration lacks.
func New(config Config) (*Election, error) {
	switch {
	case config.Client == nil || config.Log == nil:
		return nil, errors.New("leader election: a client and a log are needed")
	case config.Identity == "" || config.Namespace == "" || config.Name == "":
		return nil, errors.New("leader election: an identity, and namespace and name of the Lease are needed")
	case config.Duration != 0 && config.Duration < time.Second:
		return nil, fmt.Errorf("leader election: a lease of %s is too short; allowed: 1s or more", config.Duration)
	}
	if config.Duration == 0 {
		config.Duration = 15 * time.Second
	}
	lock := &resourcelock.LeaseLock{LeaseMeta: metav1.ObjectMeta{Namespace: config.Namespace, Name: config.Name},
		Client: config.Client.CoordinationV1(), LockConfig: resourcelock.ResourceLockConfig{Identity: config.Identity}}
	e := &Election{log: config.Log}
	e.newElector = func(callbacks leaderelection.LeaderCallbacks) (*leaderelection.LeaderElector, error) {
		// The proportions of kube-controller-manager: 15 s, 10 s, 2 s.
		return leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{Lock: lock, Name: config.Name,
			ReleaseOnCancel: true,
			LeaseDuration:   config.Duration, RenewDeadline: config.Duration * 2 / 3, RetryPeriod: config.Duration * 2 / 15,
			Callbacks: callbacks})
	}
	if _, err := e.newElector(leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) {},
		OnStoppedLeading: func() {}}); err != nil {
		return nil, fmt.Errorf("set up leader election: %w", err)
	}
	return e, nil
}

// Run stands for election, calls lead while this replica leads, with a context that
// ends when it does no longer, and stands again, until ctx ends. The Lease is
// released after lead has returned, which it does no sooner than its context ends.
func (e *Election) Run(ctx context.Context, lead func(context.Context)) error {
	for ctx.Err() == nil {
		if err := e.stand(ctx, lead); err != nil {
			return err
		}
	}
	return nil
}

// stand takes part in one election, and the term after it.
func (e *Election) stand(ctx context.Context, lead func(context.Context)) error {
	var led atomic.Bool
	over := make(chan struct{})
	elector, err := e.newElector(leaderelection.LeaderCallbacks{
		OnStartedLeading: func(term context.Context) {
			defer close(over)
			led.Store(true)
			work, cancel := context.WithCancel(term)
			defer cancel()
			defer context.AfterFunc(ctx, cancel)()
			e.log.Info("leading")
			lead(work)
			<-work.Done()
			e.log.Info("no longer leading")
		},
		OnStoppedLeading: func() {},
	})
	if err != nil {
		return fmt.Errorf("set up leader election: %w", err)
	}
	// The Lease is released at the end of election, so that has to outlast the work.
	election, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	defer context.AfterFunc(ctx, func() {
		if led.Load() {
			<-over
		}
		release()
	})()
	elector.Run(election)
	if led.Load() {
		<-over
	}
	return nil
}

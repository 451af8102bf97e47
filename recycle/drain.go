package recycle

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// drainFinish is the time that requests which are being answered get when Drain's context has ended.
const drainFinish = 5 * time.Second

// drainPoll is how often Drain looks whether connections are left.
const drainPoll = 10 * time.Millisecond

// Draining reports whether [Recycler.Drain] has begun. A readiness endpoint answers "not ready" from then on.
func (r *Recycler) Draining() bool { return r.draining.Load() }

// Drain stops the server without losing a request. Call it on SIGTERM, instead of [http.Server.Shutdown]:
//
//  1. [Recycler.Draining] reports true, for the readiness endpoint.
//  2. The server goes on accepting and answering. Every HTTP/1.x answer carries
//     "Connection: close", and every HTTP/2 connection gets GOAWAY with its next answer, or after a
//     second.
//  3. When there has been no connection for [Options.DrainQuiet], or when ctx ends, the server is
//     shut down. Connections that idle until then are closed. Requests that are being answered get
//     up to five seconds more.
//
// Shutdown alone loses requests: it stops listening while load balancers still send connections,
// and closes idle connections, and those with an answer that didn't say so, while requests on them
// are on their way.
//
// ctx should leave enough time for the load balancers to notice and for clients to use their idle
// connections once more or drop them: kube-apiserver keeps unused ones for 90 seconds. Whatever is
// left at its end is idle, and a request that is sent in that very moment is lost.
//
// Connections that a handler has taken over are neither told nor waited for, as with Shutdown.
//
// The error is that of closing the listener, or says that requests had to be cut. Drain is to be called once.
func (r *Recycler) Drain(ctx context.Context) error {
	r.mu.Lock()
	r.lastSeen = r.now() // load balancers learn of the drain only now, however quiet it was before
	r.mu.Unlock()
	r.draining.Store(true)
	r.tellAll(Drain)
	r.waitQuiet(ctx)

	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainFinish)
	defer cancel()
	err := r.server.Shutdown(finish)
	if finish.Err() != nil {
		_ = r.server.Close()
		return fmt.Errorf("drain: requests were cut after %v: %w", drainFinish, err)
	}
	if err != nil {
		return fmt.Errorf("drain: %w", err)
	}
	return nil
}

// waitQuiet returns when there has been no connection for a while, or when ctx ends.
func (r *Recycler) waitQuiet(ctx context.Context) {
	ticker := time.NewTicker(drainPoll)
	defer ticker.Stop()
	for !r.quiet() {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// quiet reports whether there has been no connection for a while.
func (r *Recycler) quiet() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.conns) == 0 && r.now().Sub(r.lastSeen) >= r.options.DrainQuiet
}

// tellAll tells every connection there is to go, and returns them.
func (r *Recycler) tellAll(reason Reason) []*conn {
	r.mu.Lock()
	conns := slices.Collect(maps.Values(r.conns))
	r.mu.Unlock()
	for _, c := range conns {
		c.tell(reason)
	}
	return conns
}

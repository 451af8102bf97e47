package certs

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"time"
)

// replica is what one process knows and serves with. It does no I/O and reads no
// clock: now is always the wall clock, elapsed the monotonic one.
type replica struct {
	host      string
	lifetimes Lifetimes

	secret []authority                   // as last read, newest first
	memory []authority                   // with keys: those of the Secret, and those that still stand in the bundle
	bundle []authority                   // of ours in every webhook's bundle
	since  map[fingerprint]time.Duration // when, by the monotonic clock, each of those came into the bundle
	gone   map[fingerprint]time.Duration // when each of those that aren't in the Secret was first seen to be so

	leaf     *tls.Certificate
	signer   fingerprint
	leafMade time.Time
	accepted bool // the bundle has the signer
}

// observe takes note of the Secret's content and the bundles of all webhooks. The
// error says what in them is not ours; the rest is taken all the same.
func (r *replica) observe(elapsed time.Duration, secret []byte, bundles [][]byte) error {
	var problems []error
	var err error
	if r.secret, err = decode(secret, r.host); err != nil {
		problems = append(problems, fmt.Errorf("read Secret: %w", err))
	}
	if r.bundle, err = common(bundles, r.host); err != nil {
		problems = append(problems, fmt.Errorf("read caBundle: %w", err))
	}
	since, gone := map[fingerprint]time.Duration{}, map[fingerprint]time.Duration{}
	for _, a := range r.bundle {
		id := a.id()
		since[id] = elapsed
		if before, ok := r.since[id]; ok {
			since[id] = before
		}
		if contains(r.secret, id) {
			continue
		}
		gone[id] = elapsed
		if before, ok := r.gone[id]; ok {
			gone[id] = before
		}
	}
	r.since, r.gone = since, gone
	memory := merge(nil, r.secret, func(a authority) bool { return a.key != nil })
	r.memory = merge(memory, r.memory, func(a authority) bool { _, published := since[a.id()]; return published })
	return errors.Join(problems...)
}

func contains(authorities []authority, id fingerprint) bool {
	return slices.ContainsFunc(authorities, func(a authority) bool { return a.id() == id })
}

// common returns the authorities that are in every bundle.
func common(bundles [][]byte, host string) (authorities []authority, err error) {
	var problems []error
	for i, content := range bundles {
		these, err := decode(content, host)
		if err != nil {
			problems = append(problems, err)
		}
		if i == 0 {
			authorities = these
			continue
		}
		authorities = slices.DeleteFunc(authorities, func(a authority) bool {
			return !contains(these, a.id())
		})
	}
	return authorities, errors.Join(problems...)
}

// held returns how long each authority has stood in the bundle.
func (r *replica) held(elapsed time.Duration) map[fingerprint]time.Duration {
	held := make(map[fingerprint]time.Duration, len(r.since))
	for id, since := range r.since {
		held[id] = elapsed - since
	}
	return held
}

// certificate returns what to serve with now, signed anew where that is due: two
// thirds of the lifetime are over, the clock was set back, or another authority
// should sign.
func (r *replica) certificate(now time.Time, elapsed time.Duration) (*tls.Certificate, error) {
	chosen, accepted, ok := r.lifetimes.choose(now, r.memory, r.secret, r.held(elapsed))
	if !ok {
		r.accepted = false
		if r.leaf != nil && r.fresh(now) {
			return r.leaf, nil // better than none: an API server may still trust it
		}
		return nil, errors.New("no certificate authority that can sign yet")
	}
	if r.leaf == nil || r.signer != chosen.id() || now.Before(r.leafMade) || !now.Before(r.renewal()) {
		leaf, err := chosen.sign(r.host, now, r.lifetimes.Leaf)
		if err != nil {
			return nil, err
		}
		r.leaf, r.signer, r.leafMade = leaf, chosen.id(), now
	}
	r.accepted = accepted
	return r.leaf, nil
}

func (r *replica) fresh(now time.Time) bool {
	return !now.Before(r.leaf.Leaf.NotBefore) && now.Before(r.leaf.Leaf.NotAfter)
}

func (r *replica) renewal() time.Time {
	return r.leafMade.Add(r.leaf.Leaf.NotAfter.Sub(r.leafMade) * 2 / 3)
}

// plan returns what the Secret and the bundles should hold, given what they hold
// now. It is the leader that does this.
func (r *replica) plan(now time.Time, elapsed time.Duration, secret []byte,
	bundles [][]byte) (content, certificates []byte, wake time.Duration, err error) {
	s := situation{now: now, memory: r.memory, held: map[fingerprint]time.Duration{}}
	s.secret, _ = decode(secret, r.host) // the rest is written over
	s.bundle, _ = common(bundles, r.host)
	held := r.held(elapsed)
	for _, a := range s.bundle { // which observe may not have seen yet, or not seen go
		s.held[a.id()] = held[a.id()]
	}
	c := r.lifetimes.plan(s)
	if c.create {
		made, err := newAuthority(r.host, now, r.lifetimes.Authority)
		if err != nil {
			return nil, nil, 0, err
		}
		c.secret = merge(c.secret, []authority{made}, func(authority) bool { return true })
		c.wake = min(c.wake, r.lifetimes.Settle)
	}
	if content, err = encode(c.secret); err != nil {
		return nil, nil, 0, err
	}
	// What has just gone from the Secret is still trusted for a while: somebody may not
	// have seen it go.
	trusted := merge(slices.Clone(c.secret), s.bundle, func(a authority) bool {
		since, ok := r.gone[a.id()]
		return a.valid(now) && (!ok || elapsed-since < r.lifetimes.Settle)
	})
	if len(trusted) > len(c.secret) {
		c.wake = min(c.wake, r.lifetimes.Settle)
	}
	return content, bundle(trusted[:min(len(trusted), 2*maxAuthorities)]), c.wake, nil
}

package certs

import (
	"slices"
	"time"
)

// Lifetimes are how long things last. The zero value means the defaults.
type Lifetimes struct {
	// Authority is the lifetime of a certificate authority; the default is a year. It
	// is replaced when two thirds are over.
	Authority time.Duration
	// Leaf is the lifetime of a serving certificate; the default is a day. It is
	// replaced when two thirds are over.
	Leaf time.Duration
	// Settle is how long an authority stands in the caBundle before a replica signs
	// with it: time for every API server to see it. The default is a minute.
	Settle time.Duration
}

func (l Lifetimes) withDefaults() Lifetimes {
	if l.Authority == 0 {
		l.Authority = 365 * 24 * time.Hour
	}
	if l.Leaf == 0 {
		l.Leaf = 24 * time.Hour
	}
	if l.Settle == 0 {
		l.Settle = time.Minute
	}
	return l
}

// situation is all that plan looks at.
type situation struct {
	now    time.Time   // by the wall clock
	secret []authority // of ours in the Secret, newest first
	bundle []authority // of ours in the bundle of every webhook, without keys, newest first
	memory []authority // that this process has known with their keys
	// held is how long an authority has stood in the bundle as this process saw it, by
	// the monotonic clock. What is not in it does not stand there.
	held map[fingerprint]time.Duration
}

// course is what plan finds to be right.
type course struct {
	// secret is what the Secret should hold, and the bundle its certificates.
	secret []authority
	// wake is how long to wait at most before planning again.
	wake time.Duration
	// create asks for a new authority to be put first.
	create bool
}

// plan says what the Secret and the bundle should hold. It is a pure function: an
// authority that has to be made is only asked for.
func (l Lifetimes) plan(s situation) course {
	authorities := slices.Clone(s.secret)
	if !slices.ContainsFunc(authorities,
		func(a authority) bool { _, published := s.held[a.id()]; return published && a.usable(s.now) }) {
		// Nobody who knows only the Secret could serve: it is new, or lost or replaced.
		// What replicas serve with meanwhile is trusted until they have something else.
		authorities = merge(authorities, s.memory,
			func(a authority) bool { _, published := s.held[a.id()]; return published && a.usable(s.now) })
		authorities = merge(authorities, s.bundle, func(a authority) bool { return a.valid(s.now) })
	}
	authorities = slices.DeleteFunc(authorities, func(a authority) bool { return !s.now.Before(a.cert.NotAfter) })

	// What stands before a settled one is its successor, what comes after it is over.
	settled := slices.IndexFunc(authorities, func(a authority) bool {
		held, published := s.held[a.id()]
		return a.usable(s.now) && published && held >= 3*l.Settle && s.now.Sub(a.made()) >= l.Leaf
	})
	if settled >= 0 {
		kept := authorities[:settled+1]
		authorities = slices.DeleteFunc(kept, func(a authority) bool { return !a.usable(s.now) })
	}
	authorities = capped(authorities, s.now)

	c := course{secret: authorities, wake: 30 * 24 * time.Hour}
	newest := slices.IndexFunc(authorities, func(a authority) bool { return a.usable(s.now) })
	c.create = newest < 0 || !s.now.Before(l.renewal(authorities[newest]))
	sooner := func(d time.Duration) { c.wake = min(c.wake, max(d, 0)) }
	for i, a := range authorities {
		sooner(a.cert.NotAfter.Sub(s.now))
		if i == newest {
			sooner(l.renewal(a).Sub(s.now))
			if i < len(authorities)-1 {
				sooner(max(3*l.Settle-s.held[a.id()], l.Leaf-s.now.Sub(a.made())))
			}
		}
	}
	return c
}

// renewal returns when to replace an authority: when two thirds of its lifetime are
// over, or of the one it would be given now, where that is shorter.
func (l Lifetimes) renewal(a authority) time.Time {
	return a.made().Add(min(a.cert.NotAfter.Sub(a.made()), l.Authority) * 2 / 3)
}

// capped leaves out the oldest of too many, but never the newest that can sign.
func capped(authorities []authority, now time.Time) []authority {
	for len(authorities) > maxAuthorities-1 { // one more may be made
		newest := slices.IndexFunc(authorities, func(a authority) bool { return a.usable(now) })
		last := len(authorities) - 1
		if last == newest {
			last = 0 // those before it are not valid yet
		}
		authorities = slices.Delete(authorities, last, last+1)
	}
	return authorities
}

// merge adds those of others that are wanted and not there yet; a key that is there
// already stays.
func merge(authorities, others []authority, wanted func(authority) bool) []authority {
	have := map[fingerprint]int{}
	for i, a := range authorities {
		have[a.id()] = i
	}
	for _, a := range others {
		if !wanted(a) {
			continue
		}
		i, ok := have[a.id()]
		switch {
		case !ok:
			have[a.id()] = len(authorities)
			authorities = append(authorities, a)
		case authorities[i].key == nil:
			authorities[i].key = a.key
		}
	}
	newestFirst(authorities)
	return authorities
}

// choose returns the authority that a replica signs with, and whether the API
// server accepts what it signs: of those known, newest first, the newest that has
// stood in the bundle for the settle time; or else the oldest that stands there, one
// that is in the Secret before one that isn't any more, since that one will be
// dropped; or else the newest. Without any that can sign, ok is false.
func (l Lifetimes) choose(
	now time.Time, known, secret []authority, held map[fingerprint]time.Duration,
) (chosen authority, accepted, ok bool) {
	inSecret := false
	for _, a := range known {
		if !a.usable(now) {
			continue
		}
		stood, published := held[a.id()]
		switch {
		case published && stood >= l.Settle:
			return a, true, true
		case published:
			if here := contains(secret, a.id()); here || !inSecret {
				chosen, accepted, ok, inSecret = a, true, true, here
			}
		case !ok:
			chosen, ok = a, true
		}
	}
	return chosen, accepted, ok
}

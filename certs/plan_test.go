package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

const host = "evenkeel.evenkeel-system.svc"

// world is a cluster in simulated time: what the API server holds, and replicas
// with clocks of their own. Replica 0 leads unless it is asleep.
type world struct {
	t        *testing.T
	now      time.Time     // the API server's clock
	elapsed  time.Duration // monotonic, but for suspends
	secret   []byte
	bundles  [][]byte
	replicas []*member
	failed   int // handshakes that the API server refused
	shaken   int
	rotated  int
}

type member struct {
	replica
	skew   time.Duration
	asleep bool
	fresh  bool // has served something that was accepted
}

func newWorld(t *testing.T, l Lifetimes, replicas int) *world {
	w := &world{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), bundles: [][]byte{nil, nil}}
	for range replicas {
		w.replicas = append(w.replicas, &member{replica: replica{host: host, lifetimes: l.withDefaults()}})
	}
	return w
}

// restart makes a replica forget everything, as a new process has.
func (w *world) restart(i int) {
	w.replicas[i].replica = replica{host: host, lifetimes: w.replicas[i].lifetimes}
	w.replicas[i].fresh = false
}

func (w *world) clock(m *member) time.Time { return w.now.Add(m.skew) }

// look lets every replica that is awake see what there is.
func (w *world) look() {
	for _, m := range w.replicas {
		if !m.asleep {
			_ = m.observe(w.elapsed, w.secret, w.bundles) // what is not ours is part of the tests
		}
	}
}

// write lets a replica do the first n of the leader's two writes, and returns when
// it wants to look again.
func (w *world) write(leader *member, n int) time.Duration {
	content, certificates, wake, err := leader.plan(w.clock(leader), w.elapsed, w.secret, w.bundles)
	if err != nil {
		w.t.Fatal(err)
	}
	if n > 0 && !bytes.Equal(content, w.secret) {
		w.rotated++
		w.secret = content
	}
	if n > 1 {
		for i := range w.bundles {
			w.bundles[i] = certificates
		}
	}
	return wake
}

// lead lets the first replica that is awake do its work until nothing changes.
func (w *world) lead() time.Duration {
	for _, m := range w.replicas {
		if m.asleep {
			continue
		}
		for range 5 {
			secret, bundles := w.secret, slices.Clone(w.bundles)
			w.look()
			wake := w.write(m, 2)
			if bytes.Equal(secret, w.secret) && slices.EqualFunc(bundles, w.bundles, bytes.Equal) {
				w.look()
				return wake
			}
		}
		w.t.Fatal("what the leader writes does not settle")
	}
	return lookAgain
}

// handshakes verifies what each replica serves as the API server would, at every
// webhook.
func (w *world) handshakes(when string) {
	w.t.Helper()
	for i, m := range w.replicas {
		if m.asleep {
			continue
		}
		certificate, err := m.certificate(w.clock(m), w.elapsed)
		if err != nil {
			if m.fresh {
				w.fail("%s: replica %d: %v", when, i, err)
			}
			continue
		}
		w.shaken++
		for n, b := range w.bundles {
			if n > 0 && bytes.Equal(b, w.bundles[0]) {
				continue
			}
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(b)
			_, err := certificate.Leaf.Verify(
				x509.VerifyOptions{DNSName: host, Roots: roots, CurrentTime: w.now,
					KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
			switch {
			case err == nil:
				m.fresh = true
			case m.fresh:
				w.fail("%s at %s: replica %d: %v", when, w.now, i, err)
			}
			if accepted := err == nil; m.accepted && !accepted {
				w.fail("%s at %s: replica %d says it is ready, but: %v", when, w.now, i, err)
			}
		}
	}
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	w.failed++
	if w.failed < 5 {
		w.t.Errorf(format, args...)
	}
}

func (w *world) pass(d time.Duration) { w.now, w.elapsed = w.now.Add(d), w.elapsed+d }

// suspend lets wall time pass that no monotonic clock counts.
func (w *world) suspend(d time.Duration) { w.now = w.now.Add(d) }

// forget starts the search for gaps anew, after something that has to make one.
func (w *world) forget() {
	for _, m := range w.replicas {
		m.fresh = false
	}
}

func (w *world) authorities() []authority {
	w.t.Helper()
	authorities, err := decode(w.secret, host)
	if err != nil {
		w.t.Fatal(err)
	}
	return authorities
}

// serve fails the test unless every replica is accepted.
func (w *world) serve(when string) {
	w.t.Helper()
	w.handshakes(when)
	for i, m := range w.replicas {
		if !m.asleep && (!m.accepted || !m.fresh) {
			w.t.Errorf("%s: replica %d is not accepted", when, i)
		}
	}
}

func TestTenYearsPassWithoutAGap(t *testing.T) {
	for _, c := range []struct {
		name  string
		skews []time.Duration
		event func(w *world, n int)
	}{
		{"with three replicas", []time.Duration{0, 0, 0}, nil},
		{"with clocks an hour wrong in both directions", []time.Duration{time.Hour, -time.Hour, 0}, nil},
		{"with a leader whose clock is an hour behind", []time.Duration{-time.Hour, time.Hour, 0}, nil},
		{"with a leader whose clock is five hours ahead", []time.Duration{5 * time.Hour, 0, -5 * time.Hour}, nil},
		{"with a leader whose clock is a day behind, and a replica's ten days ahead",
			[]time.Duration{-23 * time.Hour, 0, 240 * time.Hour}, nil},
		{"with clocks set by ten days now and then", []time.Duration{0, 0, 0}, func(w *world, n int) {
			w.replicas[n%3].skew = []time.Duration{240 * time.Hour, 0, 72 * time.Hour}[n/3%3]
		}},
		{"with a machine suspended for forty days now and then", []time.Duration{0, 0, 0}, func(w *world, n int) {
			if n%97 == 50 {
				w.suspend(40 * 24 * time.Hour)
			}
		}},
		{"with a replica cut off for an hour now and then", []time.Duration{0, 0, 0}, func(w *world, n int) {
			w.replicas[n%3].asleep = n%7 == 0
			w.replicas[(n+1)%3].asleep, w.replicas[(n+2)%3].asleep = false, false
		}},
		{"with restarts all the time", []time.Duration{0, 0, 0}, func(w *world, n int) { w.restart(n % 3) }},
		{"with clocks set by an hour now and then", []time.Duration{0, 0, 0}, func(w *world, n int) {
			w.replicas[n%3].skew = []time.Duration{time.Hour, -time.Hour, 0}[n/3%3]
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Lifetimes{}, len(c.skews))
			for i, skew := range c.skews {
				w.replicas[i].skew = skew
			}
			w.lead()
			w.serve("at first")
			end := w.now.AddDate(10, 0, 0)
			for n := 0; w.now.Before(end); n++ {
				if c.event != nil {
					c.event(w, n)
				}
				wake := w.lead()
				w.serve("after a step")
				w.pass(min(max(wake, time.Second), 20*24*time.Hour))
				w.handshakes("before a step")
				if n := len(w.authorities()); n > 3 {
					t.Fatalf("%d authorities in the Secret", n)
				}
			}
			if w.rotated < 20 || w.rotated > 80 { // an authority is made and another one retired every eight months
				t.Errorf("the Secret was written %d times in ten years, want about 30", w.rotated)
			}
			t.Logf("%d handshakes, %d writes of the Secret", w.shaken, w.rotated)
		})
	}
}

// TestKillsAtEveryStepLeaveNoGap kills the leader between its two writes, before or
// after them, while an authority lives for 45 seconds.
func TestKillsAtEveryStepLeaveNoGap(t *testing.T) {
	l := Lifetimes{Authority: 45 * time.Second, Leaf: 2 * time.Second, Settle: time.Second}
	seeds := uint64(4)
	if testing.Short() { // with the race detector
		seeds = 1
	}
	for seed := range seeds {
		random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a repeatable choice
		w := newWorld(t, l, 3)
		w.lead()
		for range 500 {
			leader := random.IntN(3)
			w.look()
			w.write(w.replicas[leader], random.IntN(3))
			if random.IntN(3) == 0 {
				w.restart(leader)
			}
			w.handshakes("before the caches show it")
			w.look()
			w.handshakes("after the caches show it")
			w.pass(time.Duration(random.IntN(900)) * time.Millisecond)
		}
		if w.rotated < 5 {
			t.Errorf("seed %d: the Secret was written %d times only", seed, w.rotated)
		}
	}
}

// An API server of several may see a bundle later than the replicas do.
func TestALateAPIServerSeesNoGap(t *testing.T) {
	l := Lifetimes{Authority: 60 * time.Second, Leaf: 2 * time.Second, Settle: 3 * time.Second}
	w := newWorld(t, l, 3)
	w.lead()
	w.pass(time.Second)
	var history [][][]byte
	const lag = 12 // steps of 200 ms
	for range 500 {
		w.lead()
		history = append(history, slices.Clone(w.bundles))
		if len(history) > lag {
			current := w.bundles
			w.bundles = history[len(history)-1-lag]
			w.handshakes("at an API server 2.4 seconds late")
			w.bundles = current
		}
		w.pass(200 * time.Millisecond)
	}
}

// TestReplacingTheAuthorityInPlaceFails is the control of the tests above: what
// others do makes a gap that they see.
func TestReplacingTheAuthorityInPlaceFails(t *testing.T) {
	w := newWorld(t, Lifetimes{}, 3)
	w.lead()
	w.serve("at first")
	made, err := newAuthority(host, w.now, 3620*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	content, err := encode([]authority{made})
	if err != nil {
		t.Fatal(err)
	}
	w.secret, w.bundles[0], w.bundles[1] = content, bundle([]authority{made}), bundle([]authority{made})
	failed := 0
	for _, m := range w.replicas { // which have not looked since
		certificate, err := m.certificate(w.now, w.elapsed)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(w.bundles[0])
		if _, err := certificate.Leaf.Verify(
			x509.VerifyOptions{DNSName: host, Roots: roots, CurrentTime: w.now}); err != nil {
			failed++
		}
	}
	if failed != 3 {
		t.Errorf("%d of 3 handshakes failed", failed)
	}
	w.look()
	w.serve("when they have looked") // and even this heals
}

func TestTheSecretHealsWithoutAGap(t *testing.T) {
	foreign := func(t *testing.T, host string, now time.Time) []byte {
		t.Helper()
		a, err := newAuthority(host, now, 24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		content, err := encode([]authority{a})
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	for name, spoil := range map[string]func(w *world) []byte{
		"deleted or emptied":           func(*world) []byte { return nil },
		"no PEM":                       func(*world) []byte { return []byte("hello") },
		"cut in half":                  func(w *world) []byte { return w.secret[:len(w.secret)/2] },
		"without its key":              func(w *world) []byte { return bundle(w.authorities()) },
		"an authority of another host": func(w *world) []byte { return foreign(w.t, "example.com", w.now) },
		"another authority of this host, which is newer": func(w *world) []byte { return foreign(w.t, host, w.now) },
		"another authority of this host, which is older": func(w *world) []byte {
			return foreign(w.t, host, w.now.Add(-5*time.Hour))
		},
		"a key of another certificate": func(w *world) []byte {
			_, key := pem.Decode(foreign(w.t, host, w.now))
			return append(bundle(w.authorities()), key...)
		},
		"a thousand certificates": func(w *world) []byte { return bytes.Repeat(foreign(w.t, host, w.now), 1000) },
	} {
		for _, memory := range []string{"the leader knew it before", "the leader has just started",
			"all but the leader have just started"} {
			t.Run(name+", and "+memory, func(t *testing.T) {
				w := newWorld(t, Lifetimes{}, 3)
				w.lead()
				w.pass(48 * time.Hour)
				w.lead()
				w.serve("at first")
				w.secret = spoil(w)
				switch memory {
				case "the leader has just started":
					w.restart(0)
				case "all but the leader have just started":
					w.restart(1)
					w.restart(2)
				}
				w.look()
				w.handshakes("spoilt")
				w.write(w.replicas[0], 1)
				w.handshakes("Secret written, and nobody has seen it")
				w.look()
				w.handshakes("Secret written")
				w.write(w.replicas[0], 2)
				w.handshakes("bundle written, and nobody has seen it")
				w.look()
				w.handshakes("bundle written")
				for range 20 {
					w.pass(min(max(w.lead(), time.Second), 24*time.Hour))
					w.handshakes("later")
				}
				w.serve("in the end")
				if n := len(w.authorities()); n != 1 {
					t.Errorf("%d authorities in the end, want 1", n)
				}
			})
		}
	}
}

func TestTheBundleHeals(t *testing.T) {
	for name, spoil := range map[string]func(w *world){
		"emptied":             func(w *world) { w.bundles = [][]byte{nil, nil} },
		"emptied in one":      func(w *world) { w.bundles = [][]byte{nil, w.bundles[1]} },
		"replaced by another": func(w *world) { w.bundles = [][]byte{[]byte("-----BEGIN"), []byte("x")} },
		"with all memory and the Secret lost as well": func(w *world) {
			w.bundles, w.secret = [][]byte{nil, nil}, nil
			for i := range w.replicas {
				w.restart(i)
			}
		},
		"expired while everything was off": func(w *world) { w.suspend(3 * 365 * 24 * time.Hour) },
		"after the clock went wrong by a year and back": func(w *world) {
			w.suspend(366 * 24 * time.Hour)
			w.lead()
			w.forget()
			w.suspend(-366 * 24 * time.Hour)
		},
		"after the clock went back by a year": func(w *world) { w.suspend(-366 * 24 * time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Lifetimes{}, 3)
			w.lead()
			w.serve("at first")
			spoil(w)
			w.forget() // nobody can serve now
			w.lead()   // at the next look
			w.serve("healed")
		})
	}
}

func TestReadinessMeansThatTheAPIServerAccepts(t *testing.T) {
	w := newWorld(t, Lifetimes{}, 1)
	m := w.replicas[0]
	if _, err := m.certificate(w.now, w.elapsed); err == nil {
		t.Error("a certificate without an authority")
	}
	w.write(m, 1)
	w.look()
	if _, err := m.certificate(w.now, w.elapsed); err != nil || m.accepted {
		t.Errorf("accepted: %v (%v) before the bundle is written", m.accepted, err)
	}
	w.bundles[0] = bundle(w.authorities())
	w.look()
	if _, err := m.certificate(w.now, w.elapsed); err != nil || m.accepted {
		t.Errorf("accepted: %v (%v) though one webhook of two has no bundle", m.accepted, err)
	}
	w.write(m, 2)
	w.look()
	if _, err := m.certificate(w.now, w.elapsed); err != nil || !m.accepted {
		t.Errorf("accepted: %v (%v), want it", m.accepted, err)
	}
}

func TestAnAuthoritySignsForItsHostOnly(t *testing.T) {
	now := time.Now()
	a, err := newAuthority(host, now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	for name, ok := range map[string]bool{host: true, "kubernetes.default.svc": false, "example.com": false} {
		leaf, err := a.sign(name, now, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		_, err = leaf.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots})
		if (err == nil) != ok {
			t.Errorf("a certificate for %s verifies: %v, want %v", name, err == nil, ok)
		}
	}
}

func FuzzDecode(f *testing.F) {
	a, err := newAuthority(host, time.Now(), time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	content, err := encode([]authority{a})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(content)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Add(append(bundle([]authority{a}), content...))
	f.Fuzz(func(t *testing.T, content []byte) {
		authorities, _ := decode(content, host)
		for _, a := range authorities {
			if a.key != nil && !a.key.PublicKey.Equal(a.cert.PublicKey) {
				t.Error("a key that does not fit")
			}
		}
		again, err := encode(authorities)
		if err != nil {
			t.Fatal(err)
		}
		if same, err := decode(again, host); err != nil || len(same) != len(authorities) {
			t.Errorf("%d authorities came back as %d: %v", len(authorities), len(same), err)
		}
	})
}

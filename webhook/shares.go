package webhook

import (
	"net"
	"net/http"
	"sync"
)

// shares divides something among the addresses that ask for it. Whoever comes first can't take all:
// what an address has is at most three times of what it leaves, so that one alone leaves a quarter to
// the next, two leave a fourteenth, and one that has nothing yet gets something as long as there is any.
// (Dynamic thresholds, as in switches whose ports share a buffer.) golang.org/x/sync/semaphore counts
// for all together.
type shares struct {
	capacity int64
	// spare is what those who ask for more than 1 at a time leave to the others.
	spare int64

	mu    sync.Mutex
	used  int64
	taken map[string]int64 // by address
}

const greed = 3

func newShares(capacity, spare int64) shares {
	return shares{capacity: capacity, spare: spare, taken: map[string]int64{}}
}

// take takes n for an address, or nothing when that would be more than its share.
func (s *shares) take(address string, n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	left, has := s.capacity-s.used-n, s.taken[address]
	if n > 1 {
		left -= s.spare
	}
	if left < 0 || has > 0 && has+n > greed*left {
		return false
	}
	s.used += n
	s.taken[address] += n
	return true
}

// give gives n back.
func (s *shares) give(address string, n int64) {
	if n == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= n
	if s.taken[address] -= n; s.taken[address] <= 0 {
		delete(s.taken, address)
	}
}

// source returns the address that a request comes from.
func source(r *http.Request) string {
	if c := connectionOf(r); c != nil {
		return c.host
	}
	ip, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	return network(net.ParseIP(ip))
}

// network returns an address as text, of IPv6 the first 64 bits: who has one has all of those.
func network(ip net.IP) string {
	if ip.To4() == nil {
		ip = ip.Mask(net.CIDRMask(64, 128))
	}
	return ip.String()
}

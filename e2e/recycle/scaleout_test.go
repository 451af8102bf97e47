package recycle

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"
)

var anyPort = regexp.MustCompile(`:\d{4,5}\b`)

// TestScaleOut has 64 clients with one persistent connection each ask two servers at a fixed rate,
// and adds two more behind the same balancer.
func TestScaleOut(t *testing.T) {
	const clients, rate, servers = 64, 20, 4
	before, after := pick(2*time.Second, 15*time.Second), pick(6*time.Second, 60*time.Second)
	limit := pick(40, 200) // at 20 requests per second: 2 and 10 seconds
	settle := time.Duration(limit) * time.Second / rate * 2

	variants := []struct {
		name   string
		title  string
		random bool
		args   []string
	}{
		{"without", "without recycling", false, []string{"-plain", "-stop=shutdown"}},
		{"with", fmt.Sprintf("with recycling, limit %d requests; balancer in turn (as IPVS)", limit), false,
			[]string{"-max-requests=" + strconv.Itoa(limit)}},
		{"random", fmt.Sprintf("with recycling, limit %d requests; balancer at random (as iptables)", limit), true,
			[]string{"-max-requests=" + strconv.Itoa(limit)}},
	}
	shares := make([][][]float64, len(variants)) // by variant, server, second
	t.Run("run", func(t *testing.T) {
		for v, variant := range variants {
			t.Run(variant.name, func(t *testing.T) {
				t.Parallel()
				var all []string
				for i := range servers {
					all = append(all, startFast(t, append([]string{"-name=" + strconv.Itoa(i)}, variant.args...)...).address)
				}
				b := balance(t, variant.random, all[:2]...)
				seconds := int((before + after) / time.Second)
				var mu sync.Mutex
				answers := make([][]float64, servers)
				for i := range answers {
					answers[i] = make([]float64, seconds)
				}
				begin := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), before+after)
				defer cancel()
				var wg sync.WaitGroup
				for i := range clients {
					wg.Go(func() {
						client := newClient(http1)
						defer client.CloseIdleConnections()
						time.Sleep(time.Duration(i) * time.Second / rate / clients) // not all at the same moment
						ticker := time.NewTicker(time.Second / rate)
						defer ticker.Stop()
						for ctx.Err() == nil {
							body, err := fetch(t.Context(), client, http.MethodGet, "http://"+b.Address+"/", nil)
							server, notNumber := strconv.Atoi(string(body))
							if err != nil || notNumber != nil {
								t.Errorf("answer %q, %v", body, err)
								return
							}
							if second := int(time.Since(begin) / time.Second); second < seconds {
								mu.Lock()
								answers[server][second]++
								mu.Unlock()
							}
							select {
							case <-ctx.Done():
							case <-ticker.C:
							}
						}
					})
				}
				time.Sleep(before)
				b.Set(all...)
				wg.Wait()
				shares[v] = toShares(answers)
			})
		}
	})

	for v, variant := range variants {
		if shares[v] == nil {
			t.Fatal("no figures")
		}
		from := int((before + settle) / time.Second)
		var text string
		for server, share := range shares[v] {
			mean := 0.0
			for _, s := range share[from:] {
				mean += s / float64(len(share)-from)
			}
			text += fmt.Sprintf(" %.1f%%", mean)
			switch {
			// 64 dice: each server's share at any moment is 25 % with a standard deviation of 5.4, and a
			// short run sees few throws.
			case variant.random && (mean < 5 || mean > 50):
				t.Errorf("%s: server %d carries %.1f %% from %v after the scale-out on", variant.title, server, mean, settle)
			case variant.name == "without" && server >= 2 && mean > 0:
				t.Errorf("server %d got %.1f %% without recycling: the control is no control", server, mean)
			case variant.name == "with" && (mean < 20 || mean > 30):
				t.Errorf("%s: server %d carries %.1f %% from %v after the scale-out on", variant.title, server, mean, settle)
			}
		}
		t.Logf("%s: shares from %v after the scale-out to the end:%s", variant.title, settle, text)
		if variant.name == "with" {
			t.Logf("each within 20 to 30 %% for good from %d s after the scale-out on",
				firstEven(shares[v])-int(before/time.Second))
		}
	}

	var plots []panel
	for v, variant := range variants {
		plots = append(plots, panel{title: variant.title, stack: shares[v]})
	}
	writePlot(t, "recycling-scale-out.svg", scaleOutPlot(plots, int(before/time.Second)))
}

// toShares turns counts by server and second into percent of each second.
func toShares(answers [][]float64) [][]float64 {
	for second := range answers[0] {
		sum := 0.0
		for server := range answers {
			sum += answers[server][second]
		}
		for server := range answers {
			if sum > 0 {
				answers[server][second] *= 100 / sum
			}
		}
	}
	return answers
}

// firstEven returns the first second from which on each server has 20 to 30 %.
func firstEven(shares [][]float64) int {
	first := len(shares[0])
	for second := len(shares[0]) - 1; second >= 0; second-- {
		for _, share := range shares {
			if share[second] < 20 || share[second] > 30 {
				return first
			}
		}
		first = second
	}
	return first
}

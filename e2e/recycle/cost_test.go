package recycle

import (
	"regexp"
	"slices"
	"strconv"
	"testing"
)

// TestCost compares a plain server with one that recycles at 1000 requests, in alternating rounds. Only ratios count, and only in the long form.
func TestCost(t *testing.T) {
	if !long() {
		t.Log("the long form measures: RECYCLE_PROOF=long")
		return
	}
	wrk, h2load := tool(t, "wrk", "wrk"), tool(t, "h2load", "nghttp2-client")
	const rounds = 15
	http1Rate := func(p *process) float64 {
		return number(t, run(t, wrk, "-t1", "-c32", "-d3s", "http://"+p.address+"/"), `Requests/sec:\s+([\d.]+)`)
	}
	// h2load doesn't connect again: so many connections that none reaches the limit
	http2Rate := func(p *process) float64 {
		return number(t, run(t, h2load, "-n30000", "-c40", "-m10", "http://"+p.address+"/"), `finished in [^,]+, ([\d.]+) req/s`)
	}
	for name, rate := range map[string]func(*process) float64{"HTTP/1.1, wrk, 32 connections": http1Rate, "HTTP/2, h2load, 40 connections x 10 streams": http2Rate} {
		plain := startFast(t, "-plain", "-stop=shutdown", "-name=hello")
		recycled := startFast(t, "-max-requests=1000", "-max-age=5m", "-name=hello")
		servers := []*process{plain, recycled}
		rates := make([][]float64, 2)
		allocations := make([]float64, 2)
		for i, p := range servers {
			rate(p) // warm
			s := p.stats(t, "http")
			allocations[i] = -float64(s.Mallocs)
			rates[i] = []float64{-float64(s.Requests)} // kept apart below
		}
		begin := []float64{rates[0][0], rates[1][0]}
		var ratios []float64
		for round := range rounds {
			var r [2]float64
			for _, i := range [][]int{{0, 1}, {1, 0}}[round%2] {
				r[i] = rate(servers[i])
			}
			ratios = append(ratios, r[1]/r[0])
		}
		for i, p := range servers {
			s := p.stats(t, "http")
			allocations[i] = (allocations[i] + float64(s.Mallocs)) / (begin[i] + float64(s.Requests))
		}
		slices.Sort(ratios)
		median := ratios[len(ratios)/2]
		t.Logf("%s: %.3f of the plain server's requests/s (median of %d interleaved rounds, %.3f to %.3f); allocations per request %.3f against %.3f",
			name, median, rounds, ratios[0], ratios[len(ratios)-1], allocations[1], allocations[0])
		if median < 0.97 {
			t.Errorf("%s: less than 0.97", name)
		}
	}
}

// number returns what the expression's group matches in a tool's output.
func number(t *testing.T, out, expression string) float64 {
	t.Helper()
	m := regexp.MustCompile(expression).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no %q in\n%s", expression, out)
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

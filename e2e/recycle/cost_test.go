package recycle

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestCost compares a plain server with one that recycles at 1000 requests, in alternating rounds.
// Only ratios count, and only in the long form. A second plain server is measured like the others:
// how far its ratio is from 1 is what the machine can't tell apart.
func TestCost(t *testing.T) {
	if !long() {
		t.Log("the long form measures: RECYCLE_PROOF=long")
		return
	}
	wrk, h2load := tool(t, "wrk", "wrk"), tool(t, "h2load", "nghttp2-client")
	const rounds = 31
	http1Rate := func(scheme string) func(*process) float64 {
		return func(p *process) float64 {
			return number(t, run(t, wrk, "-t1", "-c32", "-d1s", scheme+"://"+p.address+"/"), `Requests/sec:\s+([\d.]+)`)
		}
	}
	// h2load doesn't connect again: so many connections that none reaches the limit.
	http2Rate := func(p *process) float64 {
		return number(t, run(t, h2load, "-n16000", "-c40", "-m10", "http://"+p.address+"/"),
			`finished in [^,]+, ([\d.]+) req/s`)
	}
	for _, c := range []struct {
		name, scheme string
		rate         func(*process) float64
		args         []string
		limits       []int // over TCP, the first is the one that is promised; over TLS it is the handshake that costs
	}{
		{"HTTP/1.1, wrk, 32 connections", "http", http1Rate("http"), nil, []int{1000, 100, 10}},
		{"HTTP/1.1 over TLS, wrk, 32 connections", "https", http1Rate("https"), []string{"-tls"}, []int{1000, 100, 10}},
		{"HTTP/2, h2load, 40 connections x 10 streams", "http", http2Rate, nil, []int{1000}},
	} {
		plain := slices.Concat(c.args, []string{"-plain", "-stop=shutdown", "-name=hello"})
		servers, names := []*process{startFast(t, plain...), startFast(t, plain...)}, []string{"plain", "plain again"}
		for _, limit := range c.limits {
			servers = append(servers, startFast(t, append(c.args, "-max-requests="+strconv.Itoa(limit), "-max-age=5m",
				"-name=hello")...))
			names = append(names, fmt.Sprintf("limit %d", limit))
		}
		before, cpuBefore := make([]stats, len(servers)), make([]float64, len(servers))
		for i, p := range servers {
			c.rate(p) // warm
			before[i], cpuBefore[i] = p.stats(t, c.scheme), p.cpuSeconds(t)
		}
		ratios := make([][]float64, len(servers))
		for round := range rounds {
			rates := make([]float64, len(servers))
			for i := range servers { // each round begins with another server
				i = (i + round) % len(servers)
				rates[i] = c.rate(servers[i])
			}
			for i, rate := range rates {
				ratios[i] = append(ratios[i], rate/rates[0])
			}
		}
		var plainCPU float64
		for i, p := range servers {
			after := p.stats(t, c.scheme)
			requests := float64(after.Requests - before[i].Requests)
			allocations := float64(after.Mallocs-before[i].Mallocs) / requests
			cpu := (p.cpuSeconds(t) - cpuBefore[i]) / requests
			if i == 0 {
				plainCPU = cpu
			}
			slices.Sort(ratios[i])
			median := ratios[i][rounds/2]
			t.Logf("%s, %s: %.3f of the plain server's requests/s (median of %d interleaved rounds, the middle half %.3f to "+
				"%.3f), %.3f of its CPU time per request, %.2f allocations per request",
				c.name, names[i], median, rounds, ratios[i][rounds/4], ratios[i][rounds*3/4], cpu/plainCPU, allocations)
			if i == 2 && c.scheme == "http" && median < 0.97 {
				t.Errorf("%s, %s: less than 0.97 of the plain server's requests/s", c.name, names[i])
			}
		}
	}
}

// cpuSeconds returns the CPU time that the process has used, which other load on the machine
// changes little. Linux counts it in hundredths of a second.
func (p *process) cpuSeconds(t *testing.T) float64 {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // the name before may contain anything
	fields := strings.Fields(rest)
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return float64(user+system) / 100
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

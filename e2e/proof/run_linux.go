package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/evenkeel/evenkeel/e2e/nodes"
	"github.com/evenkeel/evenkeel/e2e/proof/load"
	"github.com/evenkeel/evenkeel/e2e/proof/report"
)

// An env is a running cluster with evenkeel.
type env struct {
	*nodes.Cluster
	log     io.Writer
	pods    *podWatch
	control []load.Target // a server that is no pod
	rate    float64       // requests per second of each client on each server
	load    *atomic.Int64 // the metric that autoscalers look at
	answers string        // directory of the servers' logs
	lane    int           // of the scenarios that run at the same time
	// families are the ipFamilies of the servers' Services; clients use the first.
	families []corev1.IPFamily
}

// beside returns the same cluster for a scenario that runs at the same time as others, each in a lane of its own.
func (e *env) beside(lane int) *env {
	other := *e
	other.lane = lane
	return &other
}

// A generator is a running load process.
type generator struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	targets []load.Target
	clients []string
	records []load.Record
	err     error
	done    chan struct{}
}

// generate starts the load of these clients on these targets.
func (e *env) generate(ctx context.Context, s report.Scenario, targets []load.Target,
	clients []string) (*generator, error) {
	g := &generator{targets: targets, clients: clients, done: make(chan struct{})}
	var err error
	if g.cmd, err = e.Command(ctx, nodes.Clients, "/proc/self/exe", "load"); err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	g.cmd.Args[len(g.cmd.Args)-2] = program
	g.cmd.Stderr = e.log
	if g.stdin, err = g.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := g.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := g.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start load: %w", err)
	}
	if err := e.Prefer(g.cmd.Process.Pid); err != nil {
		return nil, errors.Join(err, g.cmd.Process.Kill(), g.cmd.Wait())
	}
	config := load.Config{Targets: targets, Clients: clients, Rate: cmp.Or(s.Rate, e.rate),
		Connections: cmp.Or(s.Connections, 2), Addresses: nodes.ClientAddresses(e.families[0]), Lane: e.lane}
	if err := json.NewEncoder(g.stdin).Encode(config); err != nil {
		return nil, errors.Join(fmt.Errorf("start load: %w", err), g.cmd.Process.Kill(), g.cmd.Wait())
	}
	go func() {
		defer close(g.done)
		decoder := json.NewDecoder(bufio.NewReaderSize(stdout, 1<<16))
		for {
			var r load.Record
			err := decoder.Decode(&r)
			if errors.Is(err, io.EOF) {
				g.err = g.cmd.Wait()
				return
			}
			if err != nil {
				g.err = errors.Join(err, g.cmd.Process.Kill(), g.cmd.Wait())
				return
			}
			g.records = append(g.records, r)
		}
	}()
	return g, nil
}

// stop ends the load, after the answers to the last requests, and returns all requests.
func (g *generator) stop() ([]load.Record, error) {
	_ = g.stdin.Close() // it may have ended
	<-g.done
	if g.err != nil {
		return nil, fmt.Errorf("load: %w", g.err)
	}
	return g.records, nil
}

// The load before and after each operation.
const (
	lead = 2 * time.Second
	tail = 3 * time.Second // to see it whole again; answers are waited for besides
)

// observe runs an operation under load and returns what clients saw.
func (e *env) observe(ctx context.Context, s report.Scenario, repetition int, targets []load.Target,
	operate func(context.Context, *report.Outcome) error) (*report.Outcome, error) {
	fmt.Fprintf(e.log, "%s  %s %s, run %d …\n", time.Now().Format(time.TimeOnly), s.ID, s.Title, repetition)
	if err := e.waitProgrammed(ctx); err != nil {
		return nil, err
	}
	targets = slices.Concat(targets, e.control)
	clients := s.Clients
	if clients == nil {
		clients = load.ClientKinds()
	}
	g, err := e.generate(ctx, s, targets, clients)
	if err != nil {
		return nil, err
	}
	o := &report.Outcome{Scenario: s, Repetition: repetition, Targets: targets, Clients: clients,
		Took: map[string]time.Duration{}, Began: time.Now()}
	err = pause(ctx, lead)
	o.Started = time.Now()
	if err == nil {
		err = operate(ctx, o)
	}
	o.Ended = time.Now()
	if err == nil {
		err = pause(ctx, tail)
	}
	o.Stopped = time.Now()
	records, stopErr := g.stop()
	if err := errors.Join(err, stopErr); err != nil {
		return nil, fmt.Errorf("%s: %w", s.Title, err)
	}
	o.Pods = slices.DeleteFunc(e.pods.between(o.Began, o.Stopped), func(p report.PodLife) bool {
		return !slices.ContainsFunc(targets, func(t load.Target) bool { return t.Side == p.Side && t.Server == p.Server })
	})
	o.Count(records)
	answers, err := report.ReadAnswers(e.answers)
	if err != nil {
		return nil, fmt.Errorf("%s: read the servers' logs: %w", s.Title, err)
	}
	o.CountAgain(answers)
	for _, side := range append(report.Sides(), report.Control) {
		fmt.Fprintf(e.log, "%-10s%-8s %s\n", s.ID, side, o.Sides[side].Line())
	}
	return o, nil
}

// steady is the time without any operation; a failure in it makes everything void.
func (e *env) steady(ctx context.Context, d time.Duration, targets []load.Target) (*report.Outcome, error) {
	return e.observe(ctx, report.Scenario{ID: "0", Title: "Steady state"}, 1, targets,
		func(ctx context.Context, _ *report.Outcome) error { return pause(ctx, d) })
}

// startControl starts a server beside the control plane, which ends with the cluster.
func (e *env) startControl(program string) error {
	address, bits := "172.30.0.2", "/16"
	if e.families[0] == corev1.IPv6Protocol {
		address, bits = "fd00:30::2", "/64"
	}
	if out, err := exec.Command("ip", "addr", "add", address+bits, "dev", "br0", "nodad").CombinedOutput(); err != nil {
		return fmt.Errorf("start control: %w: %s", err, out)
	}
	if err := e.StartProgram("control", program, "-http="+net.JoinHostPort(address, "80"),
		"-grpc="+net.JoinHostPort(address, "9090"), "-answers="+e.answers); err != nil {
		return err
	}
	if err := e.Prefer(e.PIDs()["control"]); err != nil {
		return err
	}
	e.control = []load.Target{{Side: report.Control, Server: report.Control, IP: address}}
	return nil
}

// waitProgrammed waits until the clients' node leads to every pod that is ready. A new Service
// refuses connections until then, whoever it belongs to.
func (e *env) waitProgrammed(ctx context.Context) error {
	return e.wait(ctx, "the clients' node to know the pods", func() error {
		known, err := e.led(ctx, nodes.Clients)
		if err != nil {
			return err
		}
		for _, address := range e.pods.ready() {
			if known[address] == 0 {
				return fmt.Errorf("it doesn't know %s", address)
			}
		}
		return nil
	})
}

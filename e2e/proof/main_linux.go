// Command proof runs real traffic through every situation in which replicas come and go, on three
// real nodes, without and with evenkeel, and reports what clients saw.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/evenkeel/evenkeel/e2e/cluster"
	"github.com/evenkeel/evenkeel/e2e/installation"
	"github.com/evenkeel/evenkeel/e2e/nodes"
	"github.com/evenkeel/evenkeel/e2e/proof/load"
	"github.com/evenkeel/evenkeel/e2e/proof/report"
	"github.com/evenkeel/evenkeel/policy"
)

type options struct {
	logs          string
	steady        time.Duration
	rate          float64
	only, out     string
	drained       string
	proxyMode     string
	ipFamilies    string
	off           string
	runs, rolling int
	short         bool
	within        time.Duration
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "load" { // the process that makes the requests
		if err := load.Run(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "load:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.StringVar(&o.logs, "log-dir", "", "directory for the programs' logs, kept afterwards; default is a temporary one")
	flag.DurationVar(&o.steady, "steady", 5*time.Minute, "time without any operation, in which no request may fail")
	flag.Float64Var(&o.rate, "rate", 6, "requests per second of each client on each server")
	flag.StringVar(&o.only, "only", "", "comma-separated scenarios, such as 1b,5a; default is all")
	flag.StringVar(&o.out, "o", "", "directory for the report: report.md and the plots")
	flag.IntVar(&o.runs, "runs", 3, "repetitions of each scenario")
	flag.IntVar(&o.rolling, "rolling", 50, "Deployments that roll at once while it is measured how long endpoints take "+
		"to leave the nodes; 0 means not to")
	flag.StringVar(&o.drained, "drained", "", "comma-separated numbers of pods, such as 100,250, with a Service each, "+
		"that are evicted from a node at once while it is measured how long endpoints take to leave the nodes")
	flag.StringVar(&o.proxyMode, "proxy-mode", nodes.IPTables, "mode of kube-proxy, iptables or nftables")
	flag.StringVar(&o.ipFamilies, "ip-families", string(corev1.IPv4Protocol), "spec.ipFamilies of the servers' "+
		"Services, IPv4, IPv6, or both with a comma between them; clients go to the address of the first. All but IPv4 "+
		"make the cluster dual stack")
	flag.StringVar(&o.off, "off", "", "comma-separated settings, such as pre-stop-sleep, that are off on the side with "+
		"evenkeel: a control, in which the scenarios have to fail that show what the setting does")
	flag.BoolVar(&o.short, "short", false, "only the scenarios 1b and 5a, once, after 20 s of steady state, and "+
		"without those measurements")
	flag.DurationVar(&o.within, "within", 75*time.Minute, "start no scenario after that time")
	flag.Parse()
	if o.short {
		o.runs, o.rolling, o.drained, o.steady = 1, 0, "", min(o.steady, 20*time.Second)
	}
	err := nodes.Main(func(ctx context.Context) error { return prepare(ctx, o) },
		func(ctx context.Context) error { return prove(ctx, o) })
	if err != nil && !errors.Is(err, nodes.ErrInside) {
		fmt.Fprintln(os.Stderr, "proof:", err)
	}
	if err != nil {
		os.Exit(1)
	}
}

// drains returns the numbers of pods that the flag -drained asks for.
func (o options) drains() ([]int, error) {
	var numbers []int
	for text := range strings.FieldsFuncSeq(o.drained, func(c rune) bool { return c == ',' }) {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("the flag -drained: %q is not a number of pods", text)
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

// settingsOff returns the annotations that the flag -off asks for.
func (o options) settingsOff() (map[string]string, error) {
	annotations := map[string]string{}
	for name := range strings.FieldsFuncSeq(o.off, func(c rune) bool { return c == ',' }) {
		defaults := policy.Default()
		if err := defaults.Set(name, "off", policy.DefaultBounds()); err != nil {
			return nil, fmt.Errorf("the flag -off: %w", err)
		}
		annotations[policy.Prefix+name] = "off"
	}
	return annotations, nil
}

// families returns what the flag -ip-families asks for.
func (o options) families() ([]corev1.IPFamily, error) {
	var families []corev1.IPFamily
	for text := range strings.SplitSeq(o.ipFamilies, ",") {
		family := corev1.IPFamily(text)
		if family != corev1.IPv4Protocol && family != corev1.IPv6Protocol || slices.Contains(families, family) {
			return nil, fmt.Errorf("the flag -ip-families: %q is not IPv4, IPv6, or both with a comma between them",
				o.ipFamilies)
		}
		families = append(families, family)
	}
	return families, nil
}

// programmed measures how long endpoints take to leave the nodes in all situations that the options name.
func (o options) programmed(ctx context.Context, r *run) ([]*report.Programming, error) {
	drains, err := o.drains()
	if err != nil {
		return nil, err
	}
	var list []*report.Programming
	measure := func(one func(context.Context, int) (*report.Programming, error), n int) {
		if err != nil || n == 0 {
			return
		}
		var p *report.Programming
		if p, err = one(ctx, n); err == nil {
			list = append(list, p)
			fmt.Fprintln(r.log, p.Sentence())
		}
	}
	measure(r.rolled, o.rolling)
	for _, n := range drains {
		measure(r.drained, n)
	}
	return list, err
}

// imageDir is where images are.
func imageDir() (string, error) {
	root, err := installation.Root()
	return filepath.Join(root, "e2e", "bin", "proof-images"), err
}

func prepare(ctx context.Context, o options) error {
	if o.out == "" {
		return errors.New("the flag -o is missing: the directory for the report")
	}
	if _, err := o.drains(); err != nil {
		return err
	}
	if _, err := o.settingsOff(); err != nil {
		return err
	}
	if _, err := o.families(); err != nil {
		return err
	}
	if err := nodes.Prepare(ctx, os.Stderr); err != nil {
		return err
	}
	dir, err := imageDir()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if _, err := images(ctx, dir); err != nil {
		return err
	}
	if !o.short {
		if _, err := cluster.Build(ctx, os.Stderr, cluster.Helm); err != nil {
			return err
		}
	}
	e2e := filepath.Dir(filepath.Dir(dir))
	for program, module := range map[string]string{"github.com/evenkeel/evenkeel/e2e/proof/server": e2e,
		"github.com/evenkeel/evenkeel": filepath.Dir(e2e)} {
		build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, filepath.Base(program)), program)
		build.Dir = module
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", program, err, out)
		}
	}
	return nil
}

func prove(ctx context.Context, o options) (err error) {
	dir, err := imageDir()
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil {
		return err
	}
	families, err := o.families()
	if err != nil {
		return err
	}
	began := time.Now()
	c, err := nodes.Start(ctx, nodes.Config{Images: files, ProxyMode: o.proxyMode,
		Flags: map[string][]string{cluster.ControllerManager: {"--horizontal-pod-autoscaler-sync-period=3s"}}, LogDir: o.logs,
		DualStack: o.ipFamilies != string(corev1.IPv4Protocol), Log: os.Stderr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	fmt.Fprintf(os.Stderr, "three nodes are ready after %.0f s\n", time.Since(began).Seconds())
	e := &env{Cluster: c, log: os.Stderr, rate: o.rate, families: families}
	if e.answers, err = answersDir(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(e.answers)) }()
	if err := e.tagImages(); err != nil {
		return err
	}
	off, err := o.settingsOff()
	if err != nil {
		return err
	}
	if err := e.makeNamespaces(ctx, off); err != nil {
		return err
	}
	installed, err := e.install(ctx, !o.short)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "evenkeel is installed after %.0f s\n", time.Since(began).Seconds())
	if e.load, err = e.serveMetric(ctx, nodes.ControlAddress); err != nil {
		return err
	}
	e.pods = e.watchPods(ctx)
	if err := e.startControl(filepath.Join(dir, "server")); err != nil {
		return err
	}
	targets, err := e.deploy(ctx, serverKinds(), 2)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "servers are ready after %.0f s\n", time.Since(began).Seconds())
	if o.off != "" { // without a probe a pod is ready before its server listens
		if err := pause(ctx, 10*time.Second); err != nil {
			return err
		}
	}
	result := &report.Report{Date: began,
		Versions: versions(ctx, filepath.Dir(filepath.Dir(filepath.Dir(dir))), c.ProxyMode, o.ipFamilies),
		Proxy:    c.ProxyMode, Families: o.ipFamilies, Command: o.command(), Installed: installed, Wanted: o.wanted(),
		Runs: o.runs, Control: o.off != ""}
	if result.Steady, err = e.steady(ctx, o.steady, targets); err != nil {
		return err
	}
	if failed := result.Steady.Failed(); failed > 0 {
		printFailures(result.Steady)
		return fmt.Errorf("%d requests failed while nothing happened: everything that follows would be void", failed)
	}
	if len(result.Steady.Disputed) > 0 {
		printFailures(result.Steady)
		return errors.New("the servers' logs don't agree with the clients while nothing happened")
	}
	if result.Programmed, err = o.programmed(ctx, &run{env: e, targets: targets}); err != nil {
		return err
	}
	var broken error
	for repetition := 1; repetition <= o.runs; repetition++ {
		for _, together := range o.steps() {
			if time.Since(began) > o.within {
				for _, step := range together {
					fmt.Fprintf(os.Stderr, "no time left for %s, run %d\n", step.Title, repetition)
				}
				continue
			}
			runs := make([]*run, len(together))
			failed := make([]error, len(together))
			var group sync.WaitGroup
			for i, step := range together {
				runs[i] = &run{env: e.beside(i), repetition: repetition, targets: targets}
				group.Go(func() { failed[i] = runs[i].valid(ctx, step) })
			}
			group.Wait()
			if ctx.Err() != nil {
				fmt.Print(result.Markdown()) // of what there is
				return errors.Join(failed...)
			}
			for i, step := range together {
				r, err := runs[i], failed[i]
				if err != nil {
					fmt.Fprintf(os.Stderr, "%s, run %d: %v\n", step.Title, repetition, err)
					broken = errors.Join(broken, fmt.Errorf("%s, run %d: %w", step.Title, repetition, err))
					if err := r.uncordon(ctx, c.Names...); err != nil { // the next scenario begins with all nodes
						return errors.Join(broken, err)
					}
				}
				for _, outcome := range r.outcomes {
					printFailures(outcome)
				}
				result.Outcomes = append(result.Outcomes, r.outcomes...)
				result.Voided = append(result.Voided, r.voided...)
			}
			result.Took = time.Since(began)
			if err := result.Write(o.out); err != nil { // after each, so that a crash leaves what there is
				return err
			}
		}
	}
	result.Took = time.Since(began)
	if err := result.Write(o.out); err != nil {
		return err
	}
	fmt.Print(result.Markdown())
	return errors.Join(broken, result.Verdict())
}

// answersDir makes the directory of the servers' logs, which all nodes share and each of their users may write to.
func answersDir() (string, error) {
	dir, err := os.MkdirTemp("", "answers")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o1777)
}

// valid runs a scenario, and up to two more times where the control says that the machine was too busy for it.
func (r *run) valid(ctx context.Context, s step) error {
	for try := 1; ; try++ {
		err := s.do(r, ctx, s.Scenario)
		void := ""
		for _, o := range r.outcomes {
			void = cmp.Or(void, o.Void())
		}
		if err != nil || void == "" {
			return err
		}
		for _, o := range r.outcomes {
			for _, line := range o.Explain(report.Control) {
				fmt.Fprintf(r.log, "%-10scontrol: %s\n", s.ID, line)
			}
		}
		r.voided = append(r.voided, r.outcomes...)
		r.outcomes = nil
		if try == 3 {
			return fmt.Errorf("void three times: %s", void)
		}
		fmt.Fprintf(r.log, "%-10svoid, and once more: %s\n", s.ID, void)
	}
}

// steps returns the steps that the options select, in the order in which they run, and those in one
// slice at the same time.
func (o options) steps() [][]step {
	var all [][]step
	for _, s := range steps() {
		switch {
		case o.only != "" && !slices.Contains(strings.Split(o.only, ","), s.ID) || o.short && !s.short:
		case s.beside && len(all) > 0 && all[len(all)-1][0].beside:
			all[len(all)-1] = append(all[len(all)-1], s)
		default:
			all = append(all, []step{s})
		}
	}
	return all
}

// wanted returns the scenarios that the options select.
func (o options) wanted() []string {
	var ids []string
	for _, together := range o.steps() {
		for _, s := range together {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

// command is what repeats a run.
func (o options) command() string {
	if o.short && o.off == "" && o.proxyMode == nodes.IPTables && o.ipFamilies == string(corev1.IPv4Protocol) {
		return "make proof-short"
	}
	other := ""
	flag.Visit(func(f *flag.Flag) {
		if !slices.Contains([]string{"runs", "o", "log-dir"}, f.Name) {
			other += fmt.Sprintf(" -%s=%s", f.Name, f.Value)
		}
	})
	if other != "" {
		return fmt.Sprintf("cd e2e && go run ./proof -runs %d%s -o DIR", o.runs, other)
	}
	return fmt.Sprintf("make proof RUNS=%d", o.runs)
}

// versions says what took part. The repository is at root.
func versions(ctx context.Context, root, proxyMode, ipFamilies string) string {
	var uname syscall.Utsname
	kernel := ""
	if syscall.Uname(&uname) == nil {
		for _, c := range uname.Release {
			if c == 0 {
				break
			}
			kernel += string(rune(c))
		}
		kernel, _, _ = strings.Cut(kernel, "-")
	}
	containerd, _ := exec.Command("containerd", "--version").Output() // a report without it is still one
	fields := append(strings.Fields(string(containerd)), "", "", "")
	return fmt.Sprintf("evenkeel %s, Kubernetes %s, containerd %s, kube-proxy in %s mode, Services of %s, Linux %s, %s, "+
		"%d CPUs", commit(ctx, root), cluster.Version, fields[2], proxyMode, ipFamilies, kernel, runtime.Version(),
		runtime.NumCPU())
}

// commit names the commit that evenkeel was built from, and says where it was built from more than that.
func commit(ctx context.Context, root string) string {
	git := func(args ...string) string {
		// a report without it is still one
		out, _ := exec.CommandContext(ctx, "git", append([]string{"-C", root}, args...)...).Output()
		return strings.TrimSpace(string(out))
	}
	name := cmp.Or(git("rev-parse", "--short=12", "HEAD"), "of an unknown commit")
	if git("status", "--porcelain", "--", ".", ":!e2e", ":!docs") != "" {
		name += " with changes"
	}
	return name
}

// printFailures says what failed with evenkeel, and why.
func printFailures(o *report.Outcome) {
	for _, line := range o.Explain(report.With) {
		fmt.Fprintln(os.Stderr, "          with evenkeel:", line)
	}
	for _, note := range append(o.Notes, o.Disputed...) {
		fmt.Fprintln(os.Stderr, "         ", note)
	}
}

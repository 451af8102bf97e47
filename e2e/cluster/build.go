package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Version is the Kubernetes version of everything that Build makes.
const Version = "v1.36.3"

// The names that Build and Config.Components know.
const (
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
	Kwok              = "kwok"
	Kubectl           = "kubectl"
	Kubelet           = "kubelet"
	KubeProxy         = "kube-proxy"
	Helm              = "helm"
	Kustomize         = "kustomize"
)

// A tool is a program that is built from Go modules.
type tool struct {
	module  string // directory below e2e/ that holds its go.mod
	pkg     string
	ldflags string
	cold    time.Duration // what its first build took on two cores, in the order of the table
	update  bool          // the build completes its go.mod and go.sum; ldflags name the version
}

// versionFlags are the linker's flags that tell a program of Kubernetes its version; without them
// it calls itself v0.0.0.
func versionFlags(version string) string {
	flags := []string{"-s", "-w"}
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		major, minor, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
		minor, _, _ = strings.Cut(minor, ".")
		flags = append(flags,
			"-X "+pkg+".gitVersion="+version, "-X "+pkg+".gitMajor="+major, "-X "+pkg+".gitMinor="+minor,
			"-X "+pkg+".gitTreeState=clean")
	}
	return strings.Join(flags, " ")
}

func toolTable() map[string]tool {
	kubernetes := func(name string, cold time.Duration) tool {
		return tool{module: "kubernetes", pkg: "k8s.io/kubernetes/cmd/" + name, ldflags: versionFlags(Version), cold: cold}
	}
	return map[string]tool{
		Etcd:              {module: "kubernetes", pkg: "go.etcd.io/etcd/server/v3", ldflags: "-s -w", cold: 20 * time.Second},
		APIServer:         kubernetes(APIServer, 5*time.Minute),
		ControllerManager: kubernetes(ControllerManager, 80*time.Second),
		Scheduler:         kubernetes(Scheduler, 15*time.Second),
		Kubectl:           kubernetes(Kubectl, 40*time.Second),
		Kubelet:           kubernetes(Kubelet, time.Minute),
		KubeProxy:         kubernetes(KubeProxy, 20*time.Second),
		Kwok:              {module: "kwok", pkg: "sigs.k8s.io/kwok/cmd/kwok", ldflags: "-s -w", cold: 50 * time.Second},
		Helm:              {module: "helm", pkg: "helm.sh/helm/v4/cmd/helm", ldflags: "-s -w", cold: 100 * time.Second},
		Kustomize: {module: "kustomize", pkg: "sigs.k8s.io/kustomize/kustomize/v5", ldflags: "-s -w",
			cold: 30 * time.Second},
	}
}

// asset returns the path of a program in a directory of such, or "" where it isn't there.
func asset(directory, name string) string {
	if directory == "" {
		return ""
	}
	path := filepath.Join(directory, name)
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return ""
	}
	return path
}

// Unbuilt returns those of the tools that the directory of assets, if there is one, doesn't hold.
func Unbuilt(assets string, tools ...string) []string {
	return slices.DeleteFunc(slices.Clone(tools), func(name string) bool { return asset(assets, name) != "" })
}

// Stale returns those of the tools that Build would build now.
func Stale(tools ...string) ([]string, error) {
	e2e, err := ModuleDir()
	if err != nil {
		return nil, err
	}
	var stale []string
	for _, name := range tools {
		have, err := toolTable()[name].built(e2e, name)
		if err != nil {
			return nil, err
		}
		if !have {
			stale = append(stale, name)
		}
	}
	return stale, nil
}

// left says how far the first builds of the tools are, and how long those from number i on take.
func left(tools []string, i int) string {
	var rest time.Duration
	for _, name := range tools[i:] {
		rest += toolTable()[name].cold
	}
	long := fmt.Sprintf("%d minutes", (rest+30*time.Second)/time.Minute)
	if rest < 90*time.Second {
		long = "a minute"
	}
	return fmt.Sprintf("%d of %d, about %s left", i+1, len(tools), long)
}

// Build makes the named tools (Etcd, APIServer, … ) from Go modules into e2e/bin and returns that
// directory. A tool whose module versions, flags and Go version are the ones of the last build
// isn't built again. Progress goes to log. Two processes don't build at once: the second waits, and
// then finds the work done. The first build of everything takes minutes; the error of a build that
// fails holds the compiler's last lines.
func Build(ctx context.Context, log io.Writer, tools ...string) (string, error) {
	if log == nil {
		log = io.Discard
	}
	table := toolTable()
	for _, name := range tools {
		if _, known := table[name]; !known {
			names := make([]string, 0, len(table))
			for name := range table {
				names = append(names, name)
			}
			slices.Sort(names)
			return "", fmt.Errorf("build %q: no such tool, allowed are %s", name, strings.Join(names, ", "))
		}
	}
	e2e, err := ModuleDir()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(e2e, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", fmt.Errorf("make directory for built tools: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(bin, ".lock"), log)
	if err != nil {
		return "", err
	}
	defer unlock()
	stale, err := Stale(tools...)
	if err != nil {
		return "", err
	}
	for i, name := range stale {
		if err := buildTool(ctx, log, e2e, name, left(stale, i), table[name]); err != nil {
			return "", fmt.Errorf("build %s: %w", name, err)
		}
	}
	return bin, nil
}

// arguments are those of go, but for where the program goes.
func (t tool) arguments() []string {
	args := []string{"build", "-ldflags", t.ldflags}
	if t.update {
		args = append(args, "-mod=mod")
	}
	return args
}

// stamp returns the file that says what a tool was built from, and what it says if nothing has
// changed. All sources come from the module cache, so the stamp needs no more than go.mod, the
// flags and the Go version.
func (t tool) stamp(e2e, name string) (file, want string, err error) {
	hash := sha256.New()
	fmt.Fprintln(hash, runtime.Version(), runtime.GOOS, runtime.GOARCH, t.pkg, t.arguments())
	if !t.update { // or else pkg and ldflags say all
		versions, err := os.ReadFile(filepath.Join(e2e, t.module, "go.mod"))
		if err != nil {
			return "", "", err
		}
		hash.Write(versions)
	}
	return filepath.Join(e2e, "bin", "."+name+".stamp"), hex.EncodeToString(hash.Sum(nil)), nil
}

// built reports whether a tool is there, and nothing that it is made from has changed.
func (t tool) built(e2e, name string) (bool, error) {
	file, want, err := t.stamp(e2e, name)
	if err != nil {
		return false, err
	}
	have, err := os.ReadFile(file)
	if err != nil || string(have) != want {
		return false, nil //nolint:nilerr // a stamp that can't be read is none
	}
	_, err = os.Stat(filepath.Join(e2e, "bin", name))
	return err == nil, nil // nor is there a tool
}

// buildTool builds one tool, and says where in the list it is.
func buildTool(ctx context.Context, log io.Writer, e2e, name, where string, t tool) error {
	stamp, want, err := t.stamp(e2e, name)
	if err != nil {
		return err
	}
	module, args, binary := filepath.Join(e2e, t.module), t.arguments(), filepath.Join(e2e, "bin", name)
	started := time.Now()
	fmt.Fprintf(log, "building %s: %s …\n", name, where)
	var output tail
	fresh := binary + ".new" // renamed over the old one, which may be running
	cmd := exec.CommandContext(ctx, "go", append(args, "-o", fresh, t.pkg)...)
	cmd.Dir = module
	// with cgo as plain go test has it, so that both share what is compiled
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // go removes its work directory
	cmd.WaitDelay = 5 * time.Second
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(30 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				fmt.Fprintf(log, "  still building %s, %s so far\n", name, time.Since(started).Round(time.Second))
			}
		}
	}()
	err = cmd.Run()
	close(done)
	<-stopped
	if err != nil {
		_ = os.Remove(fresh) // may not exist
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("go build %s in %s: %w\n%s", t.pkg, module, err, output.String())
	}
	if err := os.Rename(fresh, binary); err != nil {
		return err
	}
	if err := os.WriteFile(stamp, []byte(want), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(log, "built %s in %s\n", name, time.Since(started).Round(100*time.Millisecond))
	return nil
}

// buildAPIServer makes the API server of another version into e2e/bin and returns its path. Its
// module is written there as well: what a version is built with says its own go.mod, but for the
// staging modules, which that replaces by directories and which are published as v0.MINOR.PATCH.
func buildAPIServer(ctx context.Context, log io.Writer, version string) (string, error) {
	staging, ok := strings.CutPrefix(version, "v1.")
	if !ok {
		return "", fmt.Errorf("version %q of the API server: allowed are versions such as %s", version, Version)
	}
	e2e, err := ModuleDir()
	if err != nil {
		return "", err
	}
	module := filepath.Join(e2e, "bin", "kubernetes-"+version)
	if err := os.MkdirAll(module, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, filepath.Join(e2e, "bin", ".lock"), log)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(filepath.Join(module, "go.mod")); errors.Is(err, os.ErrNotExist) {
		var download struct{ GoMod string }
		if err := goJSON(ctx, &download, "mod", "download", "-json", "k8s.io/kubernetes@"+version); err != nil {
			return "", err
		}
		var own struct {
			Go      string
			Replace []struct{ Old, New struct{ Path string } }
		}
		if err := goJSON(ctx, &own, "mod", "edit", "-json", download.GoMod); err != nil {
			return "", err
		}
		var text strings.Builder
		fmt.Fprintf(&text, "module kubernetes\n\ngo %s\n\nrequire k8s.io/kubernetes %s\n\n", own.Go, version)
		for _, r := range own.Replace {
			if strings.HasPrefix(r.New.Path, "./staging/") {
				fmt.Fprintf(&text, "replace %s => %s v0.%s\n", r.Old.Path, r.Old.Path, staging)
			}
		}
		if err := os.WriteFile(filepath.Join(module, "go.mod"), []byte(text.String()), 0o644); err != nil {
			return "", err
		}
	}
	name := APIServer + "-" + version
	t := tool{module: filepath.Join("bin", "kubernetes-"+version), pkg: "k8s.io/kubernetes/cmd/" + APIServer,
		ldflags: versionFlags(version), cold: 6 * time.Minute, update: true}
	if have, err := t.built(e2e, name); err != nil || have {
		return filepath.Join(e2e, "bin", name), err
	}
	if err := buildTool(ctx, log, e2e, name, "about 6 minutes the first time", t); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	return filepath.Join(e2e, "bin", name), nil
}

// goJSON decodes what a go command prints.
func goJSON(ctx context.Context, into any, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	var stderr tail
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, into)
	}
	if err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return nil
}

// lock takes an exclusive lock on a file, which the kernel gives up when this process ends, however it ends.
func lock(ctx context.Context, path string, log io.Writer) (func(), error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open build lock: %w", err)
	}
	for waiting := false; ; waiting = true {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = file.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !waiting {
			fmt.Fprintln(log, "waiting for another process that builds the tools …")
		}
		select {
		case <-ctx.Done():
			_ = file.Close()
			return nil, fmt.Errorf("wait for another process that builds the tools: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// ModuleDir returns the directory e2e/: beside this source file, or above the working directory if
// the test was built with -trimpath.
func ModuleDir() (string, error) {
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		dir := filepath.Dir(filepath.Dir(file))
		if _, err := os.Stat(filepath.Join(dir, "kubernetes", "go.mod")); err == nil {
			return dir, nil
		}
	}
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		for _, candidate := range []string{dir, filepath.Join(dir, "e2e")} {
			if _, err := os.Stat(filepath.Join(candidate, "kubernetes", "go.mod")); err == nil {
				return candidate, nil
			}
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find the e2e module: neither beside the sources nor above %s", start)
		}
	}
}

// A tail keeps the last few kilobytes that were written to it.
type tail struct{ kept []byte }

const tailSize = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if len(t.kept) > tailSize {
		t.kept = slices.Clone(t.kept[len(t.kept)-tailSize:])
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.kept) }

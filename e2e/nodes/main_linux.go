package nodes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// roleVariable tells the copies of a program that Main starts what they are.
const roleVariable = "EVENKEEL_NODES_ROLE"

const (
	roleInside = "inside" // runs the program, in namespaces of its own
	roleNode   = "node"   // is the first process of a node
)

// The only things of a cluster that the machine sees: they are removed at the end of Main and, after a crash, at the
// beginning of the next one.
const (
	stateDir   = "/var/tmp/evenkeel-nodes"
	lockName   = "@evenkeel-nodes" // an abstract Unix socket: it leaves no file, and ends with its process
	cgroupName = "evenkeel-nodes"
)

// PIDFile holds the process id of the program within Main, for nsenter(1).
const PIDFile = stateDir + "/pid"

// ErrCannotRun is what Main returns, wrapped with the reason, on a machine where real nodes can't run.
var ErrCannotRun = errors.New("real nodes can't run here")

// ErrInside is what Main returns, wrapped, where the copy of the program ended with an error, which
// it has said itself.
var ErrInside = errors.New("the program ended within its namespaces")

// dependencies are what nodes are made of, by their Debian package.
func dependencies() map[string]string {
	return map[string]string{"containerd": "containerd", "ctr": "containerd", "runc": "runc", "iptables": "iptables",
		"nft": "nftables", "conntrack": "conntrack", "ip": "iproute2", "ethtool": "ethtool", "nsenter": "util-linux",
		"mount": "mount", cniDir + "/bridge": "containernetworking-plugins"}
}

// Main is to be the first thing that a program calls which starts real nodes. It calls prepare,
// where the program builds what it needs, on the machine itself; then it runs a copy of the
// program, and in that copy run, inside new process, mount and network namespaces. Whatever run
// starts and mounts, and every interface, route and rule it makes, ends with them: the kernel sees
// to it, however the program ends. Main waits, passes on SIGINT and SIGTERM as the end of run's
// context, and removes the control groups and files that are left. Only one such program runs at a
// time; others wait.
func Main(prepare, run func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// For a child under /usr/sbin in nobody's PATH.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil {
		return err
	}
	switch os.Getenv(roleVariable) {
	case roleNode:
		return nodeMain()
	case roleInside:
		if err := os.Unsetenv(roleVariable); err != nil {
			return err
		}
		if err := enter(); err != nil {
			return err
		}
		return run(ctx)
	}
	if err := CanRun(); err != nil {
		return err
	}
	if err := prepare(ctx); err != nil {
		return err
	}
	unlock, err := lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := clean(); err != nil {
		return fmt.Errorf("clean up after an earlier run: %w", err)
	}
	return errors.Join(runInside(ctx), clean())
}

// CanRun returns nil if real nodes can run here, or an ErrCannotRun that says what is missing.
func CanRun() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: they need root", ErrCannotRun)
	}
	var missing []string
	for program, debian := range dependencies() {
		if _, err := exec.LookPath(program); err != nil && !slices.Contains(missing, debian) {
			missing = append(missing, debian)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return fmt.Errorf("%w: missing are the Debian packages %s", ErrCannotRun, strings.Join(missing, " "))
	}
	return nil
}

// lock waits until no other program has nodes.
func lock(ctx context.Context) (func(), error) {
	for waiting := false; ; waiting = true {
		socket, err := net.Listen("unix", lockName)
		if err == nil {
			return func() { _ = socket.Close() }, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("lock: %w", err)
		}
		if !waiting {
			fmt.Fprintln(os.Stderr, "waiting for another program that has real nodes …")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// runInside runs the copy and waits for it.
func runInside(ctx context.Context) error {
	runtime.LockOSThread() // the kernel kills the copy when the thread that started it ends
	defer runtime.UnlockOSThread()
	if err := os.MkdirAll(filepath.Join(stateDir, "tmp"), 0o755); err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), roleVariable+"="+roleInside, "TMPDIR="+filepath.Join(stateDir, "tmp"))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true, // Ctrl-C reaches us, and we tell it
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start in new namespaces: %w", err)
	}
	ended := make(chan struct{})
	defer close(ended)
	if err := os.WriteFile(PIDFile, []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	go func() {
		select {
		case <-ctx.Done():
			_ = cmd.Process.Signal(syscall.SIGTERM)
		case <-ended:
			return
		}
		select {
		case <-time.After(time.Minute): // it had its time to end in order; nothing is lost if it doesn't
			_ = cmd.Process.Kill()
		case <-ended:
		}
	}()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %w", ErrInside, err)
	}
	return nil
}

// bridgeAddress is the bridge's own. Without one it has its ports' lowest, which changes with the
// nodes that come and go, and everybody goes on sending to the old one until they ask again.
const bridgeAddress = "02:00:ac:1e:00:01"

// enter makes the namespaces that this process was started in usable.
func enter() error {
	if err := privateMounts(); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("forward packets: %w", err)
	}
	return ip(
		"link set lo up",
		"link add br0 address "+bridgeAddress+" type bridge",
		"addr add "+onLink(ControlAddress)+" dev br0",
		"link set br0 up",
	)
}

// privateMounts keeps mounts to this mount namespace and shows the processes of this process namespace.
func privateMounts() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC,
		""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

// ip runs ip(8) for each line.
func ip(lines ...string) error {
	for _, line := range lines {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", line, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// clean removes what an ended run leaves: control groups without processes and files. Processes are
// gone with their namespace, but the kernel may take a moment; so this tries for ten seconds.
func clean() error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := errors.Join(removeCgroups(), os.RemoveAll(stateDir))
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// cgroups returns the directory of our control group in each hierarchy: one with version 2, one per
// controller with version 1.
func cgroups() ([]string, error) {
	const root = "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		return []string{filepath.Join(root, cgroupName)}, nil
	}
	hierarchies, err := filepath.Glob(filepath.Join(root, "*", "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	if len(hierarchies) == 0 {
		return nil, fmt.Errorf("%w: no control groups below %s", ErrCannotRun, root)
	}
	for i, procs := range hierarchies {
		hierarchies[i] = filepath.Join(filepath.Dir(procs), cgroupName)
	}
	return hierarchies, nil
}

// Control groups of ours: the control plane, the clients, and a node's containers, below which the
// kubelet makes its own. Processes are in a group of their own below it, as version 2 demands.
const (
	controlPlane = "control-plane"
	programs     = "programs"
)

// shares is what a control group gets where the CPU is short, as cpu.shares (version 1) and
// cpu.weight (version 2); by default a group gets as much as one process. All of ours together get
// ten times as much as another process of this machine, of which the nodes' own programs are some.
// The control plane and the clients have machines of their own elsewhere: a control plane that gets
// too little falls behind just when many containers start, and removes the endpoints of pods that
// are gone too late.
func shares(name string) map[string]string {
	switch name {
	case "":
		return map[string]string{"cpu.shares": "10240", "cpu.weight": "1000"}
	case controlPlane, Clients:
		return map[string]string{"cpu.shares": "4096", "cpu.weight": "400"}
	}
	return map[string]string{"cpu.shares": "2048", "cpu.weight": "200"}
}

// makeCgroups makes a control group NAME of ours in each hierarchy, with the controllers that a kubelet wants.
func makeCgroups(name string) error {
	groups, err := cgroups()
	if err != nil {
		return err
	}
	for _, group := range groups {
		if err := os.MkdirAll(filepath.Join(group, name, programs), 0o755); err != nil {
			return fmt.Errorf("make control group: %w", err)
		}
		controllers, err := os.ReadFile(filepath.Join(group, "cgroup.controllers"))
		if err == nil { // version 2; in 1 a directory has its controller
			enable := ""
			for controller := range strings.FieldsSeq(string(controllers)) {
				enable += " +" + controller
			}
			if err := os.WriteFile(filepath.Join(group, "cgroup.subtree_control"), []byte(enable), 0); err != nil {
				return fmt.Errorf("enable controllers: %w", err)
			}
		}
		for _, machine := range []string{"", name} {
			for file, value := range shares(machine) {
				if err := os.WriteFile(filepath.Join(group, machine, file), []byte(value), 0); err != nil &&
					!errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
					return fmt.Errorf("share the CPU: %w", err)
				}
			}
		}
	}
	return nil
}

// place puts a process, and what it starts, on a machine, as far as the CPU goes.
func place(machine string, pid int) error {
	groups, err := cgroups()
	if err != nil {
		return err
	}
	for _, group := range groups {
		dir := filepath.Join(group, machine, programs)
		for file := range shares(machine) {
			if _, err := os.Stat(filepath.Join(group, machine, file)); err != nil {
				continue // another version, or another controller
			}
			if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
				return fmt.Errorf("place process %d on %s: %w", pid, machine, err)
			}
		}
	}
	return nil
}

// Prefer puts a process on the clients' machine, where it gets its share of the CPU.
func (c *Cluster) Prefer(pid int) error { return place(Clients, pid) }

// removeCgroups removes our control groups, the innermost first.
func removeCgroups() error {
	groups, err := cgroups()
	if err != nil {
		return err
	}
	var failed error
	for _, group := range groups {
		var dirs []string
		_ = filepath.WalkDir(group, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return nil // what is gone already needs no removal
		})
		slices.Reverse(dirs)
		for _, dir := range dirs {
			if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				failed = errors.Join(failed, err)
			}
		}
	}
	return failed
}

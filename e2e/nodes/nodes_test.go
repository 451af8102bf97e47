//go:build linux

package nodes_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/evenkeel/evenkeel/e2e/nodes"
)

// TestLeavesTheMachineAsItWas runs the command, in both modes of kube-proxy and with one and two IP
// families, ends it in three ways, and compares what the machine's network, control groups, mounts,
// kernel settings and files were before with what they are afterwards.
func TestLeavesTheMachineAsItWas(t *testing.T) {
	if err := nodes.CanRun(); err != nil {
		t.Skipf("NOT TESTED: %v", err) // "make test" says it aloud too
	}
	command := filepath.Join(t.TempDir(), "run")
	if out, err := exec.Command("go", "build", "-o", command, "./run").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	before := machine(t)
	if strings.Contains(strings.Join(before, "\n"), "evenkeel-nodes") {
		t.Log("an earlier run was killed; what it left is cleaned up first")
		end(t, start(t, command))
		before = machine(t)
	}

	first := start(t, command)
	if diff := cmp.Diff(before, machine(t)); !strings.Contains(diff, "evenkeel-nodes") {
		t.Errorf("nodes run and nothing is to be seen of them; this test would see nothing that is left either: %s", diff)
	}
	end(t, first)
	if diff := cmp.Diff(before, machine(t)); diff != "" {
		t.Errorf("after an orderly end:\n%s", diff)
	}

	second := start(t, command, "-proxy-mode=nftables", "-dual-stack")
	if err := second.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = second.Wait()         // it was killed
	end(t, start(t, command)) // cleans up what the killed one left, and can use the same names
	if diff := cmp.Diff(before, machine(t)); diff != "" {
		t.Errorf("after a crash and an orderly end:\n%s", diff)
	}
}

// start starts the command and waits until its nodes are Ready.
func start(t *testing.T, command string, flags ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(command, append(flags, "-nodes=2")...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill() // the test failed
			_ = cmd.Wait()
		}
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("nodes did not get ready: %q, %v", line, err)
	}
	return cmd
}

// end ends the command as Ctrl-C does.
func end(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended by SIGTERM: %v", err)
	}
}

// machine describes what nodes could change: everything that another program doesn't change meanwhile.
func machine(t *testing.T) []string {
	t.Helper()
	var lines []string
	for _, command := range []string{
		"ip -brief link", "ip -brief address", "ip route show table all", "ip rule", "ip netns", "iptables-save -t nat",
		"iptables-save -t filter", "ip6tables-save", "nft -s list ruleset",
		"ls -A /run/netns /var/lib/kubelet /var/log/pods /var/log/containers /run/containerd /etc/cni/net.d " +
			"/usr/libexec/kubernetes /var/tmp",
		"sysctl net.ipv4.ip_forward net.ipv4.conf.all.route_localnet net.ipv6.conf.all.forwarding vm.overcommit_memory " +
			"kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys",
	} {
		fields := strings.Fields(command)
		cmd := exec.Command(fields[0], fields[1:]...)
		cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
		out, err := cmd.CombinedOutput() // ls tells of directories that don't exist, and is to do so afterwards
		if errors.Is(err, exec.ErrNotFound) {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(out)) {
			if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ":") { // iptables' times and counters
				lines = append(lines, fields[0]+" "+fields[len(fields)-1]+": "+strings.TrimSpace(line))
			}
		}
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*/evenkeel-nodes*")
	if err != nil {
		t.Fatal(err)
	}
	unified, err := filepath.Glob("/sys/fs/cgroup/evenkeel-nodes*")
	if err != nil {
		t.Fatal(err)
	}
	lines = slices.Concat(lines, groups, unified)
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		lines = append(lines, "mount: "+strings.TrimSpace(line))
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		processes := ours(t)
		if len(processes) == 0 || time.Now().After(deadline) {
			return append(lines, processes...)
		}
		time.Sleep(100 * time.Millisecond) // the kernel ends a process namespace in a moment
	}
}

// ours returns the processes that belong to nodes.
func ours(t *testing.T) []string {
	t.Helper()
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range commands {
		content, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(content), "/var/tmp/evenkeel-nodes") {
			found = append(found, fmt.Sprintf("process: %s", strings.ReplaceAll(string(content), "\x00", " ")))
		}
	}
	return found
}

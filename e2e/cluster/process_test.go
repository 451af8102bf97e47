package cluster

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// On Linux the kernel ends the components of a killed test as well, so the test of the whole can't see a reaper that
// does nothing.
func TestReaperEndsWhatItWasToldOfAndRemovesTheDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cluster")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r, err := startReaper(dir)
	if err != nil {
		t.Fatal(err)
	}
	sleeping := map[string]*process{}
	for _, name := range []string{"first", "second", "forgotten", "last"} {
		// The shell's child is in the same process group.
		p, err := startProcess(name, filepath.Join(t.TempDir(), "log"), "/bin/sh", "-c", "sleep 60; true")
		if err != nil {
			t.Fatal(err)
		}
		defer p.stop(syscall.SIGKILL, 0)
		if err := r.watch(p.pid); err != nil {
			t.Fatal(err)
		}
		sleeping[name] = p
	}
	r.forget(sleeping["forgotten"].pid)
	if err := r.finish(); err != nil {
		t.Errorf("reaper: %v", err)
	}
	for _, name := range []string{"first", "second", "last"} {
		select {
		case <-sleeping[name].done:
		case <-time.After(10 * time.Second):
			t.Errorf("the %s process is still running", name)
		}
	}
	if sleeping["forgotten"].exited() {
		t.Error("the process that the reaper was told to forget has ended")
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
}

func TestPortsOfTwoClustersDiffer(t *testing.T) {
	seen := map[string]bool{}
	for range 20 {
		ports, err := reservePorts()
		if err != nil {
			t.Fatal(err)
		}
		defer ports.guard.Close()
		for range blockSize - 1 {
			port := ports.take()
			if seen[port] {
				t.Errorf("port %s was handed out twice", port)
			}
			seen[port] = true
		}
	}
}

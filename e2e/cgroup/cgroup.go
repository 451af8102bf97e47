// Package cgroup limits and measures the memory of a process and of all that it starts, as the kubelet does: by a Linux
// control group, of version 1 or 2. That takes root.
package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// root is where control groups are mounted.
const root = "/sys/fs/cgroup"

// A Group is a control group with a memory limit.
type Group struct {
	dir   string
	limit int
	peak  string // file with the most memory that was ever in use
}

// New makes a control group whose processes together get so many bytes of memory. What it costs
// them is counted where they touch it first: of a program that another process has just read or
// written the kernel's copy is not.
func New(limit int) (*Group, error) {
	g := &Group{dir: filepath.Join(root, "memory"), limit: limit, peak: "memory.max_usage_in_bytes"}
	file := "memory.limit_in_bytes"
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil { // version 2
		g.dir, g.peak, file = root, "memory.peak", "memory.max"
		if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+memory"), 0); err != nil {
			return nil, fmt.Errorf("enable memory controller: %w", err)
		}
	}
	dir, err := os.MkdirTemp(g.dir, "evenkeel-")
	if err != nil {
		return nil, fmt.Errorf("make control group: %w", err)
	}
	g.dir = dir
	if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.Itoa(limit)), 0); err != nil {
		return nil, fmt.Errorf("limit memory: %w", err)
	}
	return g, nil
}

// Wrapper returns a command that runs what follows it in the group, with the GOMEMLIMIT that deploy/ would give it.
func (g *Group) Wrapper() []string {
	return []string{"sh", "-c", fmt.Sprintf(`echo $$ >"$0/cgroup.procs"; exec env GOMEMLIMIT=%dMiB "$@"`,
		g.limit>>20*9/10), g.dir}
}

// Peak returns the most bytes that were in use at once so far.
func (g *Group) Peak() (int, error) {
	text, err := os.ReadFile(filepath.Join(g.dir, g.peak))
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// Remove removes the group; its processes must have ended.
func (g *Group) Remove() error { return os.Remove(g.dir) }

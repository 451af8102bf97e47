//go:build !linux

package cluster

import "syscall"

// componentAttributes puts a component into a process group of its own; only Linux has a signal for a parent's death,
// elsewhere the reaper alone ends what a killed test leaves behind.
func componentAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

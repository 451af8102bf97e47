package cluster

import "syscall"

// componentAttributes puts a component into a process group of its own and lets the kernel kill it with its parent.
func componentAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
